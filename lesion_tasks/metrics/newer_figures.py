"""A champion's predictions of labelled images -> its figures on test and on newer images, month by month of arrival.

Months in which too few groups of a class arrived count together with those after them. Whether a figure fell is asked
of the newest point that can be measured, so that a watch asks once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from lesion_tasks.catalog import Task
from lesion_tasks.catalog.watch_bounds import WATCH_BOUNDS, WatchBounds
from lesion_tasks.metrics.binary import MIN_GROUPS_OF_RATES, ranking_figures, threshold_figures
from lesion_tasks.metrics.cohort_document import Fall
from lesion_tasks.metrics.conformal import share_of_groups
from lesion_tasks.metrics.fall import measure_fall, threshold_falls
from lesion_tasks.metrics.multiclass import hit_figures, macro_figures
from lesion_tasks.metrics.resample import Resampling
from lesion_tasks.metrics.scored import Scored, join
from lesion_tasks.metrics.watch_document import WatchedFall, WatchedPoint

_SHOWN = ("auc", "sensitivity", "specificity", "balanced_accuracy", "macro_auc", "accuracy")
N_FALLS = 3  # the leading figure, sensitivity and specificity


@dataclass(frozen=True, kw_only=True, eq=False)
class NewerFigures:
    """The points, the test set first, and the falls of the newest one; `reason`: why none of them can be determined.

    `left_out`: classes of which one side has too few groups for its fall.
    """

    points: list[WatchedPoint]
    falls: list[WatchedFall]
    reason: str | None = None
    left_out: Sequence[str] = ()


def measure_newer(
    reference: pd.DataFrame,
    by_month: Mapping[str, pd.DataFrame],
    task: Task,
    threshold: float | None,
) -> NewerFigures:
    """Measure every point.

    Rows are images with isic_id, group_id, label (None: left out), `p_` and each class, and answered (a class, or why
    there is none; None: not measured). Of months, in their order.
    """
    test = _labelled(reference)
    points, newest = [_point(test, (), task, threshold)], None
    for months, rows in _together(by_month, task):
        point = _point(rows, months, task, threshold)
        points.append(point)
        newest = rows if point.reason is None else newest
    if points[0].reason is not None:
        return NewerFigures(points=points, falls=[], reason=f"the test set has {points[0].reason}")
    if newest is None:
        which = "each class" if task.positive is not None else "two classes"
        reason = f"no {MIN_GROUPS_OF_RATES} groups of {which} have arrived with a label"
        return NewerFigures(points=points, falls=[], reason=reason)
    # One side of each interval counts: a figure that rises is not an alarm.
    level = 1 - 2 * WATCH_BOUNDS.error_rate / N_FALLS
    resampling = replace(Resampling(), level=level)
    # A class of few groups would leave all of them without an interval, and move the mean over classes by chance.
    enough = [
        name
        for name in task.classes
        if min(_groups_of(side, task)[name] for side in (test, newest)) >= MIN_GROUPS_OF_RATES
    ]
    left_out = tuple(name for name in task.classes if name not in enough)
    if len(enough) < 2:
        reason = (
            f"no two classes have {MIN_GROUPS_OF_RATES} groups both in the test set and among newer images"
        )
        return NewerFigures(points=points, falls=[], reason=reason, left_out=left_out)
    test, newest = (side[side["label"].isin(enough)] for side in (test, newest))
    sides = _scored(test, task), _scored(newest, task)
    falls = [
        measure_fall(*sides, resampling, name="the newer images"),
        *threshold_falls(*sides, threshold, resampling),
    ]
    found = [
        WatchedFall(fall=fall, bound=WATCH_BOUNDS.fall, level=level, is_beyond=_is_beyond(fall, WATCH_BOUNDS))
        for fall in falls
        if fall is not None
    ]
    why_none = {one.fall.interval_reason: None for one in found} or {
        "no figure is defined on both sides": None
    }
    is_told = any(one.fall.high is not None for one in found)
    return NewerFigures(
        points=points,
        falls=found,
        reason=None if is_told else "; ".join(str(one) for one in why_none),
        left_out=left_out,
    )


def _is_beyond(fall: Fall, bounds: WatchBounds) -> bool:
    return fall.high is not None and fall.high < 0 and fall.value <= -bounds.fall


def _labelled(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[rows["label"].notna()]


def _together(
    by_month: Mapping[str, pd.DataFrame], task: Task
) -> Iterator[tuple[tuple[str, ...], pd.DataFrame]]:
    """Months and their labelled images, those of too few groups with the months after; what is left at the end."""
    waiting: list[tuple[str, pd.DataFrame]] = []
    for month, rows in by_month.items():
        waiting.append((month, _labelled(rows)))
        together = pd.concat([rows for _, rows in waiting], ignore_index=True)
        if _too_few(together, task) is None:
            yield tuple(month for month, _ in waiting), together
            waiting = []
    if waiting:
        yield (
            tuple(month for month, _ in waiting),
            pd.concat([rows for _, rows in waiting], ignore_index=True),
        )


def _groups_of(rows: pd.DataFrame, task: Task) -> dict[str, int]:
    return {name: int(rows["group_id"][rows["label"] == name].nunique()) for name in task.classes}


def _too_few(rows: pd.DataFrame, task: Task) -> str | None:
    """Why images cannot be measured; None if they can: of two classes both, of more at least two need enough groups."""
    n_groups = _groups_of(rows, task)
    enough = [name for name, n in n_groups.items() if n >= MIN_GROUPS_OF_RATES]
    if len(enough) >= 2:
        return None
    said = ", ".join(f"{n} of {name}" for name, n in n_groups.items())
    return f"too few groups ({said}), floor {MIN_GROUPS_OF_RATES}"


def _point(rows: pd.DataFrame, months: Sequence[str], task: Task, threshold: float | None) -> WatchedPoint:
    point = WatchedPoint(
        first_month=months[0] if months else None,
        last_month=months[-1] if months else None,
        n_images=len(rows),
        n_groups=int(rows["group_id"].nunique()),
        class_counts={name: int((rows["label"] == name).sum()) for name in task.classes},
        reason=_too_few(rows, task),
    )
    if point.reason is not None:
        return point
    scored, resampling = _scored(rows, task), Resampling()
    if scored.is_binary:
        found = ranking_figures(scored, ("auc",), resampling) | threshold_figures(
            scored, threshold, resampling
        )
    else:
        found = macro_figures(scored, resampling) | hit_figures(scored, resampling)
    answered = wrong = None
    if rows["answered"].notna().all():
        is_answered = rows["answered"].isin(task.classes).to_numpy()
        is_wrong = (rows["answered"] != rows["label"]).to_numpy()[is_answered]
        groups = rows["group_id"].to_numpy(dtype=str)
        answered = share_of_groups(is_answered, groups).published()
        wrong = share_of_groups(is_wrong, groups[is_answered], why_none="no image is answered").published()
    return point.model_copy(
        update={
            "figures": {name: found[name].published() for name in _SHOWN if name in found},
            "answered": answered,
            "wrong_of_answered": wrong,
        }
    )


def _scored(rows: pd.DataFrame, task: Task) -> Scored:
    predictions = rows.set_index("isic_id")[[f"p_{name}" for name in task.classes]]
    return join(
        predictions.set_axis(list(task.classes), axis=1).astype(np.float64),
        rows,
        class_names=task.classes,
        positive_class=task.positive,
    )
