"""`lesion`: every step without Airflow, in the order the data takes. Also `python -m lesion_tasks`."""

import logging
import os
import sys

import click

from lesion_tasks import UnavailableError, UnusableInputError

# Each registers its commands, in the order of the path.
from lesion_tasks.cli import (  # isort: skip
    data_commands as data_commands,
    training_commands as training_commands,
    evaluation_commands as evaluation_commands,
    promotion_commands as promotion_commands,
    document_commands as document_commands,
)
from lesion_tasks.cli.command_line import lesion


def main() -> None:
    """Run the command line; bad input, and what cannot be reached, end with one line and exit status 1."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")  # TensorFlow's notes on its start, not its warnings
    try:
        lesion(prog_name="lesion")
    except (UnusableInputError, UnavailableError) as error:
        click.echo(f"lesion: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
