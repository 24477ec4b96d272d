"""Several trainings of a task -> recipes that differ, figures, curves, and pictures that one alone calls right."""

from dataclasses import dataclass
from itertools import combinations
from typing import Any
from urllib.parse import urlencode

import numpy as np
from markupsafe import Markup

from lesion_tasks import UnusableInputError
from lesion_tasks.catalog.lookup import question_of
from lesion_tasks.database.schema import Training
from lesion_tasks.evaluation.leaderboard import LeaderboardFilter, read_leaderboard_rows
from lesion_tasks.evaluation.subject import find_subject
from lesion_tasks.reports.bundle import Epoch
from lesion_tasks.reports.charts import training_charts
from lesion_tasks.reports.index import LeaderboardRow
from lesion_tasks.reports.recipe_words import as_lines
from lesion_tasks.reports.views import in_order
from lesion_tasks.training.predictions import join_to_manifest, read_sealed_predictions
from lesion_tasks.training.run_record import find_finished, list_epochs
from lesion_tasks.workspace import Workspace

MAX_TRAININGS, N_PICTURES = 8, 24


@dataclass(frozen=True, kw_only=True)
class Differing:
    """A picture of test that the first two trainings call differently."""

    isic_id: str
    label: str
    called: tuple[str, str]
    probability: tuple[float, float]  # of the class that is right, or of the positive class if there is one


@dataclass(frozen=True, kw_only=True)
class SideBySide:
    """What the page shows, every list in the order in which the trainings were named."""

    trainings: list[Training]
    rows: list[LeaderboardRow | None]
    recipe: list[tuple[str, list[str]]]  # fields whose values differ
    measures: list[str]
    charts: list[list[tuple[str, Markup]]]
    asked: str  # the class whose probability is given: the positive one, or "the right class"
    other_pairs: list[tuple[str, str, str]]  # two trainings, and the address that puts the two first
    n_shared: int  # test images that the first two were both asked about
    differing: list[Differing]


def read_side_by_side(workspace: Workspace, training_ids: list[str]) -> SideBySide:
    """Raises `UnusableInputError` unless the trainings are finished and of one task, and at most MAX_TRAININGS."""
    names = list(dict.fromkeys(training_ids))
    if not 1 <= len(names) <= MAX_TRAININGS:
        raise UnusableInputError(f"{len(names)} trainings to compare, expected 1 to {MAX_TRAININGS}")
    with workspace.engine.connect() as connection:
        trainings = [find_finished(connection, name) for name in names]
        tasks = {training.task for training in trainings}
        if len(tasks) > 1:
            raise UnusableInputError(f"trainings of the tasks {', '.join(sorted(tasks))}, expected one task")
        task = question_of(names[0], trainings[0].task, trainings[0].classes)
        found, _ = read_leaderboard_rows(
            connection, task.name, wanted=LeaderboardFilter(training_ids=names, has_archived=True)
        )
        row_by_id = {row.training_id: row for row in found}
        epochs = [[Epoch.model_validate(row) for row in list_epochs(connection, name)] for name in names]
    n_shared, differing = (0, []) if len(names) < 2 else _differing(workspace, names[:2])
    rows = [row_by_id.get(name) for name in names]
    return SideBySide(
        trainings=trainings,
        rows=rows,
        recipe=_differing_fields([training.recipe for training in trainings]),
        measures=in_order({name for row in rows if row for name in row.figures}),
        charts=[
            training_charts(some, training.recipe) if len(some) > 1 else []  # one step has no curve
            for some, training in zip(epochs, trainings, strict=True)
        ],
        asked=task.positive or "the right class",
        other_pairs=_other_pairs(trainings),
        n_shared=n_shared,
        differing=differing,
    )


def _other_pairs(trainings: list[Training]) -> list[tuple[str, str, str]]:
    """Every pair but the first two."""
    found = []
    for pair in list(combinations(trainings, 2))[1:]:
        others = [one for one in trainings if one not in pair]
        address = urlencode([("training", one.training_id) for one in (*pair, *others)])
        first, second = (one.training_id for one in pair)
        found.append((first, second, address))
    return found


def _differing_fields(recipes: list[dict[str, Any]]) -> list[tuple[str, list[str]]]:
    flat = [dict(as_lines(recipe)) for recipe in recipes]
    names = list(dict.fromkeys(name for one in flat for name in one))
    values = [(name, [one.get(name, "none") for one in flat]) for name in names]
    return [(name, each) for name, each in values if len(set(each)) > 1 or len(recipes) == 1]


def _differing(workspace: Workspace, names: list[str]) -> tuple[int, list[Differing]]:
    """How many test images two trainings were both asked about, and those that one alone calls right.

    Each was asked on its own manifest; splits of one task share their test images.
    """
    subjects = [find_subject(workspace.engine, workspace.bucket, name) for name in names]
    scored = []
    with workspace.engine.connect() as connection:
        for subject in subjects:
            predictions = read_sealed_predictions(
                connection,
                subject.training.training_id,
                subject.manifest.digest,
                "test",
                subject.task.classes,
            )
            scored.append(join_to_manifest(predictions, subject.subset("test"), subject.task))
    shared = set(scored[0].isic_ids) & set(scored[1].isic_ids)
    # Manifests are sorted by image.
    scored = [each.where(np.isin(each.isic_ids, list(shared))) for each in scored]
    one, other = scored
    if not np.array_equal(one.isic_ids, other.isic_ids):
        raise AssertionError("the rows of two trainings are not of the same images")
    called = [
        each.predicted(subject.training.threshold) for each, subject in zip(scored, subjects, strict=True)
    ]
    is_apart = np.flatnonzero((called[0] == one.labels) != (called[1] == other.labels))
    right = [each.probabilities[is_apart, each.labels[is_apart]] for each in scored]
    widest = np.argsort(-np.abs(right[0] - right[1]), kind="stable")[:N_PICTURES]
    classes = one.class_names
    positive = subjects[0].task.positive
    if positive is not None:
        right = [each.probabilities[is_apart, classes.index(positive)] for each in scored]
    return one.n_images, [
        Differing(
            isic_id=str(one.isic_ids[row]),
            label=classes[one.labels[row]],
            called=(classes[called[0][row]], classes[called[1][row]]),
            probability=(float(right[0][place]), float(right[1][place])),
        )
        for place, row in zip(widest.tolist(), is_apart[widest].tolist(), strict=True)
    ]
