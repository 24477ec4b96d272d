"""Which images a task leaves out, and why: every rule that an image passes through, in order, in one place.

Curation rejects records before this (no usable picture, withdrawn: `curation/cleaning.py`; a lesion of two patients:
`curation/lesion_patients.py`); the rules here depend on the task. Each has a reason word that appears in the database,
in the funnel and in the report.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lesion_tasks.catalog import Task
from lesion_tasks.splits.subset_or_quarantine import QUARANTINE

REASONS = {
    # of curation
    "no_file": "No picture has been fetched.",
    "file_refused": "The file is not a usable picture.",
    "withdrawn": "The archive no longer publishes it.",
    "lesion_of_two_patients": "Records name two patients for its lesion.",
    # of the task, in the order they are applied
    "image_type": "Not the kind of picture that the task is about.",
    "image_manipulation": "Altered or synthetic.",
    "no_diagnosis": "Its record gives no diagnosis.",
    "indeterminate": "The diagnosis is indeterminate: neither benign nor malignant.",
    "diagnosis_not_in_task": "Diagnosed, but as none of the task's classes.",
    "no_sex": "The task requires a known sex, as the paper does, and it is unknown.",
    # of the split
    "set_aside": "Belongs to a cohort that judges the task's models: such images never teach them.",
    "label_set_aside": "A person found its label to be wrong or doubtful, and set it aside.",
    "quarantined": "Linked to images of another subset: on either side it would leak.",
    "beyond_balance": "In train, but its class has more images than the balanced set takes.",
    # of a split from which something is held out
    "tied_to_held_out": "In one group with an image of what is held out: it would leak.",
    "unknown_origin": "Nothing says whether it belongs to what is held out, so it teaches nothing.",
    "kept_closed": "In the split's own test set, which no training sees.",
}


@dataclass(frozen=True, kw_only=True)
class Facts:
    """The facts that the rules use."""

    image_type: str | None
    image_manipulation: str | None
    diagnosis: tuple[str, ...]
    sex: str | None


def _without_label(task: Task, facts: Facts) -> bool:
    return task.label_of(facts.diagnosis) is None


RULES: Sequence[tuple[str, Callable[[Task, Facts], bool]]] = (
    ("image_type", lambda task, facts: facts.image_type not in task.image_types),
    ("image_manipulation", lambda task, facts: facts.image_manipulation in task.excluded_manipulations),
    ("no_diagnosis", lambda task, facts: _without_label(task, facts) and not facts.diagnosis),
    (
        "indeterminate",
        lambda task, facts: _without_label(task, facts) and facts.diagnosis[0] == "Indeterminate",
    ),
    ("diagnosis_not_in_task", _without_label),
    ("no_sex", lambda task, facts: task.requires_sex and facts.sex not in {"female", "male"}),
)


def reason_to_leave_out(task: Task, facts: Facts) -> str | None:
    """The first rule that an image fails, or None."""
    return next((reason for reason, fails in RULES if fails(task, facts)), None)


def reason_of_subset(subset: str) -> str | None:
    """Why an image that passes every rule is nevertheless left out."""
    return "quarantined" if subset == QUARANTINE else None
