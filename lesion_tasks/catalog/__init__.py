"""Everything an experimenter edits: tasks, splits, cohorts, variants. Data only.

Standard library only, because DAG files read it at every parse. Each entry checks itself when it is built,
and a repeated name is an error, never an override. Entries of a catalogue folder stand beside those of the package.
"""

from lesion_tasks.catalog.backbones import BACKBONES
from lesion_tasks.catalog.cohorts import COHORTS, Cohort, cohorts_of
from lesion_tasks.catalog.entries import by_name, fingerprint
from lesion_tasks.catalog.input_size import ASPECTS, InputSize
from lesion_tasks.catalog.learning import SCHEDULES, Learning
from lesion_tasks.catalog.recipe import (
    ARCHITECTURES,
    FUSIONS,
    LOSSES,
    SAMPLINGS,
    FineTuning,
    SearchRange,
    SearchSpace,
    Variant,
)
from lesion_tasks.catalog.split_recipes import IMPUTATIONS, SPLITS, Split
from lesion_tasks.catalog.tasks import DIAGNOSIS_LEVELS, TASKS, LabelRule, Task
from lesion_tasks.catalog.variants import (
    DEFAULT_VARIANTS,
    DEFAULT_WITH_WEIGHTS,
    DEFAULT_WITHOUT_WEIGHTS,
    PAPER_METADATA,
    RETRAIN_SHARE,
    VARIANTS,
    input_sizes_of,
)

# After everything that its entries are added to.
from lesion_tasks.catalog import own_entries  # isort: skip

own_entries.refresh()

__all__ = [
    "ARCHITECTURES",
    "ASPECTS",
    "BACKBONES",
    "COHORTS",
    "DEFAULT_VARIANTS",
    "DEFAULT_WITHOUT_WEIGHTS",
    "DEFAULT_WITH_WEIGHTS",
    "DIAGNOSIS_LEVELS",
    "FUSIONS",
    "IMPUTATIONS",
    "LOSSES",
    "PAPER_METADATA",
    "RETRAIN_SHARE",
    "SAMPLINGS",
    "SCHEDULES",
    "SPLITS",
    "TASKS",
    "VARIANTS",
    "Cohort",
    "FineTuning",
    "InputSize",
    "LabelRule",
    "Learning",
    "SearchRange",
    "SearchSpace",
    "Split",
    "Task",
    "Variant",
    "by_name",
    "cohorts_of",
    "fingerprint",
    "input_sizes_of",
]
