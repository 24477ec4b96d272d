"""What is measured of a picture's rim, and that the lesion in the middle is not."""

import numpy as np
import pytest

from lesion_tasks.pixels.picture_facts import FACTS, picture_facts


def skin(n: int, side: int = 64, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(-8, 9, (n, side, side, 3))
    return (np.array([200, 150, 130]) + noise).astype(np.uint8)


def fact(pixels: np.ndarray, name: str) -> np.ndarray:
    return picture_facts(pixels)[:, FACTS.index(name)]


def test_a_lesion_in_the_middle_changes_no_fact() -> None:
    pixels = skin(3)
    changed = pixels.copy()
    changed[:, 12:52, 12:52] = 20
    assert np.array_equal(picture_facts(pixels), picture_facts(changed))


@pytest.mark.parametrize("edge", range(4))
def test_a_ruler_at_any_edge_shows(edge: int) -> None:
    pixels = skin(2)
    turned = np.rot90(pixels[1:], edge, axes=(1, 2))
    turned[:, :4] = 250
    assert np.array_equal(fact(pixels, "white_share") > 0.1, [False, True])
    assert np.array_equal(fact(pixels, "brightest_edge") > 200, [False, True])


def test_a_vignette_darkens_the_corners() -> None:
    pixels = skin(2)
    y, x = np.mgrid[:64, :64] / 63 - 0.5
    shade = np.maximum(np.hypot(x, y) - 0.4, 0) * 300
    pixels[1] = np.clip(pixels[1] - shade[..., None], 0, 255)
    plain, dark = fact(pixels, "corner_darkness")
    assert abs(plain) < 3 < 20 < dark


def test_jpeg_shows_in_sharpness_and_blocks() -> None:
    import io

    from PIL import Image as Pillow

    pixels = skin(8)
    coarse = np.empty_like(pixels)
    for index, picture in enumerate(pixels):
        buffer = io.BytesIO()
        Pillow.fromarray(picture).save(buffer, "JPEG", quality=20)
        coarse[index] = np.asarray(Pillow.open(buffer))
    assert fact(coarse, "fine_noise").max() < fact(pixels, "fine_noise").min() / 2
    assert fact(coarse, "blockiness").mean() > fact(pixels, "blockiness").mean()


@pytest.mark.parametrize("side", [16, 32, 33, 128])
def test_every_size_of_picture_gives_finite_facts(side: int) -> None:
    found = picture_facts(skin(3, side))
    assert found.shape == (3, len(FACTS))
    assert np.isfinite(found).all()
