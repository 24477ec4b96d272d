"""`lesion`: each step of the path as a command, without Airflow."""

# Each registers its commands, in the order of the path.
from lesion_tasks.cli import (  # isort: skip
    data_commands as data_commands,
    catalogue_commands as catalogue_commands,
    training_commands as training_commands,
    evaluation_commands as evaluation_commands,
    suspect_commands as suspect_commands,
    promotion_commands as promotion_commands,
    serving_commands as serving_commands,
    watching_commands as watching_commands,
    verification_commands as verification_commands,
    document_commands as document_commands,
)
