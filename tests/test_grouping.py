"""Groups and subsets as pure functions: promises that hold for any set of images."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lesion_tasks.grouping import SUBSETS, group_ids, is_copy, near_duplicate_pairs, subset_of

HASHES = st.lists(st.integers(-(2**63), 2**63 - 1), max_size=60)


def brute_force_components(hashes: np.ndarray, max_bits: int) -> set[frozenset[int]]:
    """Connected components by comparing all pairs."""
    component = {i: {i} for i in range(len(hashes))}
    for i in range(len(hashes)):
        for j in range(i):
            if int(hashes[i] ^ hashes[j]).bit_count() <= max_bits:
                joined = component[i] | component[j]
                for k in joined:
                    component[k] = joined
    return {frozenset(members) for members in component.values()}


def components(pairs: np.ndarray, n: int) -> set[frozenset[int]]:
    component = {i: {i} for i in range(n)}
    for i, j in pairs.tolist():
        joined = component[i] | component[j]
        for k in joined:
            component[k] = joined
    return {frozenset(members) for members in component.values()}


@given(HASHES, st.lists(st.tuples(st.integers(0, 59), st.sets(st.integers(0, 63), max_size=4)), max_size=40))
def test_near_duplicates_are_those_of_brute_force(
    values: list[int], flips: list[tuple[int, set[int]]]
) -> None:
    hashes = [value & (2**64 - 1) for value in values]
    for base, bits in flips:
        if hashes:
            hashes.append(hashes[base % len(hashes)] ^ sum(1 << bit for bit in bits))
    array = np.array(hashes, dtype=np.uint64)
    for max_bits in (0, 1, 3):
        found = components(near_duplicate_pairs(array, max_bits), len(array))
        assert found == brute_force_components(array, max_bits)


def test_a_copy_is_found_among_look_alikes_of_one_hash() -> None:
    prints = np.array([PRINTS[0], PRINTS[1], PRINTS[0] // 2 + 40]).astype(np.uint8)
    groups = group_ids(
        atoms=["a", "b", "c"],
        lesions=[None] * 3,
        sha256s=["1", "2", "3"],
        perceptual_hashes=np.full(3, 5),
        thumbprints=prints,
        has_hash=np.ones(3, dtype=bool),
    )
    assert groups == ["a", "b", "a"]


def test_look_alikes_of_one_hash_are_no_copies() -> None:
    one, other = PRINTS[:1], PRINTS[1:]
    assert is_copy(one, (one // 2 + 40).astype(np.uint8)).all()  # darker, less contrast
    assert not is_copy(one, other).any()
    flat = np.full((1, 256), 7, dtype=np.uint8)
    assert not is_copy(flat, flat).any()


def test_more_bits_than_the_bands_can_promise_are_refused() -> None:
    with pytest.raises(ValueError, match="max_bits is 4, expected 0 to 3"):
        near_duplicate_pairs(np.zeros(2, dtype=np.int64), 4)


PRINTS = np.random.default_rng(0).integers(0, 256, (2, 256)).astype(np.uint8)


def group(images: list[tuple[str, str | None, str, int]]) -> list[str]:
    return group_ids(
        atoms=[image[0] for image in images],
        lesions=[image[1] for image in images],
        sha256s=[image[2] for image in images],
        perceptual_hashes=np.array([image[3] for image in images], dtype=np.int64),
        thumbprints=np.array([PRINTS[image[3] % 2] for image in images]),
        has_hash=np.ones(len(images), dtype=bool),
    )


IMAGES = st.lists(
    st.tuples(
        st.sampled_from(["IP_1", "IP_2", "IL_3", "ISIC_4", "ISIC_5", "ISIC_6"]),
        st.sampled_from([None, "IL_1", "IL_2", "IL_3"]),
        st.sampled_from(["aa", "bb", "cc", "dd", "ee"]),
        st.sampled_from([0, 1, 2**40, 2**41 - 1, -1]),
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
