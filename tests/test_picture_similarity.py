"""Which pictures show the same thing: exact search, and the three looks on drawn skin."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lesion_tasks.archive.picture import Picture, read_picture
from lesion_tasks.curation import picture_similarity
from lesion_tasks.curation.picture_similarity import (
    MIN_DETAIL_CORRELATION,
    MIN_PRINT_CORRELATION,
    detail_correlation,
    near_pairs,
    print_correlation,
    read_detail,
)


def brute_force(hashes: np.ndarray, max_bits: int) -> set[tuple[int, int]]:
    return {
        (i, j)
        for j in range(len(hashes))
        for i in range(j)
        if int(hashes[i] ^ hashes[j]).bit_count() <= max_bits
    }


@given(
    st.lists(st.integers(0, 2**64 - 1), max_size=60),
    st.lists(st.tuples(st.integers(0, 59), st.sets(st.integers(0, 63), max_size=9)), max_size=40),
    st.booleans(),
)
def test_near_pairs_are_those_of_brute_force(
    values: list[int], flips: list[tuple[int, set[int]]], is_sorted: bool
) -> None:
    hashes = list(values)
    for base, bits in flips:
        if hashes:
            hashes.append(hashes[base % len(hashes)] ^ sum(1 << bit for bit in bits))
    array = np.array(hashes, dtype=np.uint64)
    with pytest.MonkeyPatch.context() as patch:
        if is_sorted:
            patch.setattr(
                picture_similarity, "_BRUTE_PAIRS", 0
            )  # as for a catalogue too large to compare all pairs
        for max_bits in (0, 1, 3, 6, 8):
            found = near_pairs(array, max_bits)
            expected = brute_force(array, max_bits)
            assert set(map(tuple, found.tolist())) == expected
            assert len(found) == len(expected)
            fresh = np.arange(0, len(array), 3)
            found = near_pairs(array, max_bits, fresh=fresh)
            assert set(map(tuple, found.tolist())) == {p for p in expected if set(p) & set(fresh.tolist())}


def skin(seed: int) -> Image.Image:
    """A dark spot on mottled skin under round optics; mottling and the spot's rim differ between seeds."""
    generator = np.random.default_rng(seed)
    coarse = generator.normal(0, 14, (75, 100))
    y, x = np.mgrid[:300, :400]
    distance, angle = np.hypot(x - 200, y - 150), np.arctan2(y - 150, x - 200)
    radius = 40 + sum(generator.normal(0, 3) * np.cos(k * angle + generator.uniform(0, 6)) for k in (2, 3, 5))
    grey = 190 + np.kron(coarse, np.ones((4, 4))) + generator.normal(0, 4, (300, 400))
    grey = grey - 110 * (distance < radius) - 180 * (distance > 190)
    grey = np.clip(grey, 0, 255)
    return Image.fromarray(np.stack([grey, grey * 0.8, grey * 0.7], axis=-1).astype(np.uint8))


def as_jpeg(picture: Image.Image, quality: int = 90) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def correlations(one: bytes, other: bytes) -> tuple[float, float]:
    """Of thumbprints, and of detail."""
    pictures = [read_picture(data) for data in (one, other)]
    assert all(isinstance(picture, Picture) for picture in pictures)
    prints = [np.frombuffer(picture.thumbprint, dtype=np.uint8)[None] for picture in pictures]
    return float(print_correlation(*prints)[0]), detail_correlation(read_detail(one), read_detail(other))


@pytest.mark.parametrize(
    "altered",
    [
        as_jpeg(skin(1), quality=60),
        as_jpeg(skin(1).resize((200, 150))),
        as_jpeg(skin(1).point(lambda value: value * 0.7 + 20)),
        as_jpeg(skin(1).crop((4, 3, 396, 297))),
    ],
    ids=["compressed", "smaller", "darker", "cropped by a hundredth"],
)
def test_an_altered_copy_is_a_copy(altered: bytes) -> None:
    prints, detail = correlations(as_jpeg(skin(1)), altered)
    assert prints >= MIN_PRINT_CORRELATION
    assert detail >= MIN_DETAIL_CORRELATION


def test_two_lesions_that_look_alike_from_afar_differ_in_detail() -> None:
    prints, detail = correlations(as_jpeg(skin(1)), as_jpeg(skin(2)))
    assert prints >= MIN_PRINT_CORRELATION
    assert detail < MIN_DETAIL_CORRELATION - 0.1


def test_a_flat_picture_is_a_copy_of_nothing() -> None:
    prints, detail = correlations(*[as_jpeg(Image.new("RGB", (64, 48), "white"))] * 2)
    assert prints == 0
    assert detail == pytest.approx(0, abs=1e-6)
