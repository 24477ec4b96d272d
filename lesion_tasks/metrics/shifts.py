"""What is known and was seen of new images and of the champion's test set -> which of it has shifted, test by test.

Every test asks about one image of each group. All images are compared attribute by attribute; those of each
institution that sends many, with the test images of the same one, by everything of a kind at once. Whether any differs
is judged with all p-values of a watch together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Literal

import numpy as np
import pandas as pd

from lesion_tasks.catalog.printed_numbers import percent
from lesion_tasks.catalog.watch_bounds import WATCH_BOUNDS, WatchBounds
from lesion_tasks.metrics.two_samples import ToldApart, adjust_by_holm, compare_values, tell_apart
from lesion_tasks.metrics.watch_document import ShiftedValue, ShiftTest

Kind = Literal["metadata", "pictures", "scores", "labels"]

# With fewer groups on one side only the coarsest shift could be found.
MIN_GROUPS = 50
MAX_INSTITUTIONS = 8
N_VALUES_SHOWN = 8
TOLD_APART = "told_apart"
MISSING = "missing"
NUMBERS = ("age_years", "size_mm")
CATEGORIES = ("sex", "anatom_site", "fitzpatrick_skin_type", "image_type", "attribution")
# They arrive together and late: only images that have them are compared.
OF_LABELS = ("label", "diagnosis_confirm_type")
N_FIFTHS = 5


def find_shifts(
    reference: pd.DataFrame,
    new: pd.DataFrame,
    facts: Sequence[str] = (),
    bounds: WatchBounds = WATCH_BOUNDS,
) -> list[ShiftTest]:
    """Test every attribute, the most surely shifted first.

    Both sides have one row for each group, with the metadata of a manifest (`attribution`: None where it names nobody),
    `label` (None: none so far), `called` (the class), `score`, `answered` (a class or why there is none; None: not
    measured), `strangeness`, and `facts` and `features`, which are lists. `facts`: the names of the facts, none for a
    model that sees no pictures.
    """
    tests = [*_of_all(reference, new, facts, bounds), *_by_institution(reference, new, facts, bounds)]
    made = [index for index, one in enumerate(tests) if one.p_value is not None]
    adjusted = adjust_by_holm([tests[index].p_value or 0.0 for index in made])
    for index, p_value in zip(made, adjusted, strict=True):
        tests[index] = _judged(tests[index], p_value, bounds)
    return sorted(tests, key=_order)


def _order(one: ShiftTest) -> tuple[bool, bool, float, str, float, str]:
    p_value = 2.0 if one.p_value is None else one.p_value
    size = -(one.effect or 0.0) / one.bound
    return not one.is_beyond, not one.is_found, p_value, one.institution or "", size, one.name


def _judged(one: ShiftTest, p_value: float, bounds: WatchBounds) -> ShiftTest:
    is_found = p_value <= bounds.error_rate
    judged = one.model_copy(
        update={
            "p_adjusted": p_value,
            "is_found": is_found,
            "is_beyond": is_found and (one.effect or 0.0) >= one.bound,
        }
    )
    return judged.model_copy(update={"words": _words(judged)})


def _words(one: ShiftTest) -> str:
    if not one.is_found:
        return "no more than chance may do"
    size = "at or beyond the bound" if one.is_beyond else "within the bound"
    if one.name == TOLD_APART:
        return f"told apart with an AUC of {one.effect:.{one.n_digits}f}, {size} of {one.bound:g}"
    most = one.values[0]
    return (
        f"{most.value}: {percent(most.reference)} before, {percent(most.new)} now; {one.effect:.{one.n_digits}f} "
        f"standard deviations, {size} of {one.bound:g}"
    )


def _of_all(
    reference: pd.DataFrame, new: pd.DataFrame, facts: Sequence[str], bounds: WatchBounds
) -> Iterator[ShiftTest]:
    for kind, name, sides in _attributes(reference, new, facts):
        yield _test_of_values(kind, name, *sides, bounds)
    if facts:
        yield _test_of_all("pictures", reference, new, None, bounds)


def _attributes(
    reference: pd.DataFrame, new: pd.DataFrame, facts: Sequence[str] = ()
) -> Iterator[tuple[Kind, str, tuple[list[str], list[str]]]]:
    """Each attribute with its values on both sides, a value that is missing as one of its own."""
    sides = reference, new
    for name in NUMBERS:
        yield "metadata", name, _fifths(reference[name], new[name])
    for name in CATEGORIES:
        yield "metadata", name, _both([_filled(side[name]) for side in sides])
    labelled = [side[side["label"].notna()] for side in sides]
    for name in OF_LABELS:
        yield "labels", name, _both([_filled(side[name]) for side in labelled])
    yield "scores", "called", _both([side["called"].tolist() for side in sides])
    yield "scores", "score", _fifths(reference["score"], new["score"])
    if reference["answered"].notna().all() and new["answered"].notna().all():
        yield "scores", "answered", _both([side["answered"].tolist() for side in sides])
    if reference["strangeness"].notna().any() and new["strangeness"].notna().any():
        yield "scores", "strangeness", _fifths(reference["strangeness"], new["strangeness"])
    measured = [_stacked(side["facts"]) for side in sides] if facts else []
    for index, name in enumerate(facts):
        yield "pictures", f"picture_{name}", _fifths(*(pd.Series(one[:, index]) for one in measured))


def _both(sides: Sequence[list[str]]) -> tuple[list[str], list[str]]:
    return sides[0], sides[1]


def _filled(column: pd.Series) -> list[str]:
    return [MISSING if value is None or value != value else str(value) for value in column.tolist()]


def _fifths(reference: pd.Series, new: pd.Series) -> tuple[list[str], list[str]]:
    """Numbers as the fifth that they fall in, of both sides together: cuts that knew the sides would not be exact."""
    together = np.concatenate([side.to_numpy(dtype=np.float64) for side in (reference, new)])
    known = together[np.isfinite(together)]
    cuts = np.unique(np.quantile(known, np.linspace(0, 1, N_FIFTHS + 1)[1:-1])) if len(known) else np.zeros(1)
    # Scores near 1 need more digits than three to be told apart.
    said = next(said for n in range(3, 18) if len({*(said := [f"{cut:.{n}g}" for cut in cuts])}) == len(cuts))
    names = [f"at most {said[0]}", *(f"{a} to {b}" for a, b in pairwise(said)), f"above {said[-1]}"]
    places = np.searchsorted(cuts, np.nan_to_num(together), side="left")
    told = [
        names[place] if is_known else MISSING
        for place, is_known in zip(places, np.isfinite(together), strict=True)
    ]
    return told[: len(reference)], told[len(reference) :]


def _test_of_values(
    kind: Kind, name: str, reference: Sequence[str], new: Sequence[str], bounds: WatchBounds
) -> ShiftTest:
    test = _begun(kind, name, None, len(reference), len(new), bounds.difference)
    if test.reason is not None:
        return test
    found = compare_values(reference, new)
    if found is None:
        return test.model_copy(update={"reason": "every group has the same value"})
    shown = [
        ShiftedValue(value=one.value, reference=one.reference, new=one.new)
        for one in found.values[:N_VALUES_SHOWN]
    ]
    return test.model_copy(update={"p_value": found.p_value, "effect": found.effect, "values": shown})


def _begun(
    kind: Kind, name: str, institution: str | None, n_reference: int, n_new: int, bound: float
) -> ShiftTest:
    """A test without its outcome; with a reason if it cannot be made."""
    return ShiftTest(
        kind=kind,
        name=name,
        institution=institution,
        n_reference=n_reference,
        n_new=n_new,
        bound=bound,
        reason=too_few(n_reference, n_new),
    )


def too_few(n_reference: int, n_new: int) -> str | None:
    """Why two samples cannot be compared; None if they can."""
    fewest, side = min((n_new, "new groups"), (n_reference, "groups to compare with"))
    return f"{fewest} {side}, floor {MIN_GROUPS}" if fewest < MIN_GROUPS else None


def _by_institution(
    reference: pd.DataFrame, new: pd.DataFrame, facts: Sequence[str], bounds: WatchBounds
) -> Iterator[ShiftTest]:
    """Each institution that sent enough before and now, with itself: what shifts within it, not its share of all."""
    before, now = (pd.Series(_filled(side["attribution"])) for side in (reference, new))
    counts = now[now != MISSING].value_counts()
    several = [str(name) for name, n in counts.items() if n >= MIN_GROUPS][:MAX_INSTITUTIONS]
    if len(before.unique()) == 1 and len(now.unique()) == 1:
        return  # the same images once more
    for name in several:
        sides = reference[(before == name).to_numpy()], new[(now == name).to_numpy()]
        kinds: tuple[Kind, ...] = ("metadata", "scores", "pictures")
        for kind in kinds if facts else kinds[:2]:
            yield _test_of_all(kind, *sides, name, bounds)


def _test_of_all(
    kind: Kind, reference: pd.DataFrame, new: pd.DataFrame, institution: str | None, bounds: WatchBounds
) -> ShiftTest:
    test = _begun(kind, TOLD_APART, institution, len(reference), len(new), bounds.told_apart)
    if test.reason is not None:
        return test
    found: ToldApart | None
    if kind == "pictures":
        found = tell_apart(*_pictures(reference, new))
    else:
        numbers = _numbers(kind, reference, new)
        found = tell_apart(*numbers, plain=numbers[0].shape[1])
    if found is None:
        return test.model_copy(update={"reason": "every group has the same values"})
    return test.model_copy(update={"p_value": found.p_value, "effect": found.auc})


def _stacked(lists: pd.Series) -> np.ndarray:
    return np.stack([np.asarray(one, dtype=np.float32) for one in lists])


def _pictures(reference: pd.DataFrame, new: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, int]:
    """(n, facts and features) of both, and how many of the columns are facts."""
    facts, features = ([_stacked(side[name]) for side in (reference, new)] for name in ("facts", "features"))
    return (
        np.column_stack([facts[0], features[0]]),
        np.column_stack([facts[1], features[1]]),
        facts[0].shape[1],
    )


def _numbers(kind: Kind, reference: pd.DataFrame, new: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Everything of a kind as numbers: a column for each value of an attribute, numbers by fifths."""
    columns: tuple[list[np.ndarray], list[np.ndarray]] = [], []
    for of, name, sides in _attributes(reference, new):
        if of == kind and name != "attribution":
            for value in sorted({*sides[0], *sides[1]})[1:]:
                for column, side in zip(columns, sides, strict=True):
                    column.append(np.array([one == value for one in side], dtype=np.float64))
    return tuple(
        np.column_stack(column) if column else np.empty((len(side), 0))
        for column, side in zip(columns, (reference, new), strict=True)
    )  # type: ignore[return-value]
