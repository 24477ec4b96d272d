"""A name -> the catalogue entry, or an error that lists the known names and guesses what was meant."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from lesion_tasks import UnusableInputError
from lesion_tasks.catalog import COHORTS, SPLITS, TASKS, VARIANTS, Cohort, Split, Task, Variant, own_entries
from lesion_tasks.catalog.cohorts import NONE_OF_THEM
from lesion_tasks.catalog.entries import did_you_mean as did_you_mean
from lesion_tasks.catalog.entries import unknown

Found = TypeVar("Found")

log = logging.getLogger(__name__)


class ChangedQuestionError(UnusableInputError):
    """A training answers a question that the catalogue no longer has, or asks in another way."""


def find_variant(name: str) -> Variant:
    """A variant by its name; raises `UnusableInputError` for an unknown one, as the other functions here do."""
    return _find("variant", name, VARIANTS)


def find_task(name: str) -> Task:
    """A task by its name."""
    return _find("task", name, TASKS)


def find_split(name: str) -> Split:
    """A split by its name."""
    return _find("split", name, SPLITS)


def _find(kind: str, name: str, entries: Mapping[str, Found]) -> Found:
    if name not in entries:
        own_entries.refuse_broken()
        raise UnusableInputError(f"{unknown(kind, name, sorted(entries))}{own_entries.read_from()}")
    return entries[name]


def tasks_left(names: Iterable[str]) -> list[str]:
    """Those of some tasks that are still in the catalogue; a line of the log names each that is not.

    For names that were chosen earlier, as in the form of a run that has waited.
    """
    return _left("task", names, TASKS)


def cohorts_left(names: Iterable[str]) -> list[str]:
    """The same of cohorts."""
    return _left("cohort", names, COHORTS)


def _left(kind: str, names: Iterable[str], entries: Mapping[str, object]) -> list[str]:
    found = []
    for name in names:
        if name in entries:
            found.append(name)
        else:
            log.warning("%s %r is not in the catalogue%s: left aside", kind, name, own_entries.read_from())
    return found


def cohorts_chosen(names: Sequence[str] | None) -> list[str] | None:
    """The cohorts that an evaluation is to look at: None, all of its task, where nobody chose; NONE_OF_THEM is none.

    Raises `UnusableInputError` for that together with a name.
    """
    if not names:
        return None
    named = [name for name in names if name != NONE_OF_THEM]
    if named and len(named) < len(names):
        raise UnusableInputError(
            f"cohorts {', '.join(names)}: {NONE_OF_THEM!r} stands for no cohort at all, expected it alone, or names"
        )
    return named


def refuse_misspelt_cohorts(names: Iterable[str]) -> None:
    """Raise `UnusableInputError` for a name that is not in the catalogue and resembles one that is.

    Any other unknown name may be of a cohort that has left: `cohorts_left` leaves it aside.
    """
    for name in names:
        if name not in COHORTS and did_you_mean(name, COHORTS):
            find_cohort(name)


def question_of(training_id: str, task: str, classes: Sequence[str]) -> Task:
    """The task that a training answers; raises `ChangedQuestionError` if it is gone or asks something else by now."""
    own_entries.refuse_broken()
    if task not in TASKS:
        raise ChangedQuestionError(
            f"training {training_id} is of task {task!r}, which is not in the catalogue{own_entries.read_from()}"
        )
    found = TASKS[task]
    if tuple(classes) != found.classes:
        raise ChangedQuestionError(
            f"training {training_id} tells {', '.join(classes)} apart, and task {task!r} is about "
            f"{', '.join(found.classes)} by now"
        )
    return found


def find_cohort(name: str, task: str | None = None) -> Cohort:
    """A cohort by its name; raises `UnusableInputError` also if it does not judge `task`."""
    cohort = _find("cohort", name, COHORTS)
    if task is not None and task not in cohort.tasks:
        raise UnusableInputError(
            f"cohort {name!r}: it judges {', '.join(cohort.tasks)}, expected one that judges {task!r}"
        )
    return cohort
