"""Groups and subsets as pure functions: promises that hold for any set of images."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lesion_tasks.curation.grouping import groups_of
from lesion_tasks.splits.subset_or_quarantine import QUARANTINE, SUBSETS, group_subsets, subset_of

DRAW = {"salt": "s", "val_share": 0.2, "test_share": 0.2}


def group(images: list[tuple[str, str | None, str, int]]) -> list[str]:
    """Groups of images given as atom, lesion, bytes and picture; images of one picture are copies."""
    pictures = [image[3] for image in images]
    copies = [(i, j) for j in range(len(images)) for i in range(j) if pictures[i] == pictures[j]]
    return groups_of(
        atoms=[image[0] for image in images],
        lesions=[image[1] for image in images],
        sha256s=[image[2] for image in images],
        copies=np.array(copies, dtype=np.int64).reshape(-1, 2),
    )


IMAGES = st.lists(
    st.tuples(
        st.sampled_from(["IP_1", "IP_2", "IL_3", "ISIC_4", "ISIC_5", "ISIC_6"]),
        st.sampled_from([None, "IL_1", "IL_2", "IL_3"]),
        st.sampled_from(["aa", "bb", "cc", "dd", "ee"]),
        st.integers(0, 9),
    ),
    min_size=1,
    max_size=12,
)


@given(IMAGES, st.randoms(use_true_random=False))
def test_groups_do_not_depend_on_the_order_of_arrival(images: list, random: object) -> None:
    order = list(range(len(images)))
    random.shuffle(order)
    groups = group(images)
    assert group([images[i] for i in order]) == [groups[i] for i in order]


@given(IMAGES, IMAGES)
def test_growth_only_joins_groups(before: list, new: list) -> None:
    old, grown = group(before), group(before + new)[: len(before)]
    for i in range(len(before)):
        for j in range(i):
            assert old[i] != old[j] or grown[i] == grown[j]


@given(IMAGES)
def test_whatever_links_two_images_puts_them_into_one_group(images: list) -> None:
    groups = group(images)
    for i, one in enumerate(images):
        for j, other in enumerate(images[:i]):
            is_linked = any(a == b and a is not None for a, b in zip(one, other, strict=True))
            assert not is_linked or groups[i] == groups[j]


def subsets(images: list, placed: list[str | None] | None = None) -> list[str]:
    placed = placed or [None] * len(images)
    return group_subsets(group(images), [image[0] for image in images], placed, **DRAW)


@given(IMAGES)
def test_no_group_stands_in_two_subsets(images: list) -> None:
    subset_by_group: dict[str, str] = {}
    for name, subset in zip(group(images), subsets(images), strict=True):
        assert subset_by_group.setdefault(name, subset) == subset


@given(IMAGES, IMAGES)
def test_growth_moves_nobody_but_into_quarantine(before: list, new: list) -> None:
    for old, grown in zip(subsets(before), subsets(before + new), strict=False):
        assert grown in {old, QUARANTINE}


@given(IMAGES, st.lists(st.sampled_from([None, *SUBSETS]), min_size=12, max_size=12))
def test_whoever_stood_in_a_subset_stays_there_or_is_quarantined(images: list, placed: list) -> None:
    placed = placed[: len(images)]
    for place, subset in zip(placed, subsets(images, placed), strict=True):
        assert place is None or subset in {place, QUARANTINE}


@given(IMAGES, st.randoms(use_true_random=False))
def test_remembering_where_images_stood_changes_nothing_while_identities_stay(images: list, random) -> None:
    first = subsets(images)
    placed = [None if s == QUARANTINE or random.random() < 0.5 else s for s in first]
    assert subsets(images, placed) == first


def test_shares_are_kept_on_many_groups() -> None:
    drawn = [subset_of(f"IP_{i:07d}", salt="s", val_share=0.15, test_share=0.15) for i in range(20_000)]
    shares = {subset: drawn.count(subset) / len(drawn) for subset in SUBSETS}
    # Three standard errors of a share of 0.15 among 20,000.
    assert shares["val"] == pytest.approx(0.15, abs=0.0076)
    assert shares["test"] == pytest.approx(0.15, abs=0.0076)


def test_another_salt_draws_another_assignment() -> None:
    ids = [f"IP_{i:07d}" for i in range(200)]
    one, other = (
        [subset_of(i, salt=salt, val_share=0.2, test_share=0.2) for i in ids] for salt in ("2026", "2027")
    )
    assert one != other
