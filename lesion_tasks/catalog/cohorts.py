"""Cohorts: images that judge the models of a task and never teach them."""

import json
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Annotated, Any

from lesion_tasks.catalog.entries import NAME, NAME_RULE, OneOf, by_name, refuse, unknown, unknown_values
from lesion_tasks.catalog.tasks import TASKS, Task

SKIN_TYPES = ("I", "II", "III", "IV", "V", "VI")
NONE_OF_THEM = "none"  # in place of names: an evaluation looks at no cohort


@dataclass(frozen=True, kw_only=True)
class Cohort:
    """Named images on which every model of its tasks is judged. No train, val or test of these tasks holds any of them.

    An image belongs to it if it satisfies every condition that is given; a condition with several values holds for any
    of them. Membership follows this definition whenever a split or the cohort is built.
    """

    name: str
    title: str
    tasks: tuple[Annotated[str, OneOf("task", TASKS)], ...]  # which it judges
    query: str = ""  # the archive's search language
    source: str = ""  # base URL of an archive, or the absolute path of a folder, as it was ingested
    collections: str = ""  # as it was ingested: collection ids, comma-separated
    attribution: tuple[str, ...] = ()  # institutions
    copyright_license: tuple[str, ...] = ()
    anatom_site: tuple[str, ...] = ()
    fitzpatrick_skin_type: tuple[str, ...] = ()
    seen_from: str = ""  # ISO 8601: images whose record was first read at this time (UTC) or later
    seen_before: str = ""  # and before this one
    # Rules of a task that make no sense for other people's data.
    requires_sex: bool = False  # a model that sees pixels alone does not ask for it
    image_types: tuple[str, ...] | None = None  # None: those of the task

    def __post_init__(self) -> None:
        problems = unknown_values(self)
        if not NAME.fullmatch(self.name):
            problems.append(f"name: expected {NAME_RULE}")
        if self.name == NONE_OF_THEM:
            problems.append("name: forms and commands mean no cohort at all by it, expected another one")
        if not self.tasks:
            problems.append(f"tasks: is empty, expected some of {', '.join(TASKS)}")
        if not any(getattr(self, name) for name in CONDITIONS):
            problems.append(f"has no condition, expected some of {', '.join(CONDITIONS)}")
        problems += [
            unknown("skin type", one, SKIN_TYPES)
            for one in self.fitzpatrick_skin_type
            if one not in SKIN_TYPES
        ]
        for name in ("seen_from", "seen_before"):
            problems += self._wrong_time(name)
        refuse(f"cohort {self.name!r}", problems)

    def _wrong_time(self, name: str) -> list[str]:
        told = getattr(self, name)
        try:
            if told:
                datetime.fromisoformat(told)
        except ValueError:
            return [f"{name}: is {told!r}, expected a time such as 2026-01-31T06:00:00"]
        return []

    def task_for(self, task: Task) -> Task:
        """The task with the rules of this cohort: which of its images can be judged, and their labels."""
        image_types = task.image_types if self.image_types is None else self.image_types
        return replace(task, requires_sex=self.requires_sex, image_types=image_types)

    def split_name(self, task: str) -> str:
        """The name under which its members and manifests for a task are kept, unlike any split's."""
        return f"cohort-{self.name}-{task}"

    @property
    def conditions(self) -> dict[str, Any]:
        """What decides which images belong to it, as JSON has it."""
        return _as_json({name: getattr(self, name) for name in CONDITIONS})

    @property
    def definition(self) -> dict[str, Any]:
        """What decides the rows of its manifest for a task, as JSON has it."""
        return _as_json(
            {name: value for name, value in asdict(self).items() if name not in ("title", "tasks")}
        )


def _as_json(values: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(values))
    return found


# Columns of an image of which a cohort may name values.
BY_VALUE = ("attribution", "copyright_license", "anatom_site", "fitzpatrick_skin_type")
CONDITIONS = ("query", "source", "collections", *BY_VALUE, "seen_from", "seen_before")

# None is declared here: a cohort takes its images out of training, and which data judge is for each team to say.
COHORTS: dict[str, Cohort] = by_name([])


def cohorts_of(task: str) -> list[Cohort]:
    """The cohorts that judge a task, in the order of the catalogue."""
    return [cohort for cohort in COHORTS.values() if task in cohort.tasks]


def conditions_of(task: str) -> dict[str, dict[str, Any]]:
    """What decides which images judge a task and are set aside from its splits: cohort -> its conditions."""
    return {cohort.name: cohort.conditions for cohort in cohorts_of(task)}
