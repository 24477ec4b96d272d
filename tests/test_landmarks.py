"""Altered copies of drawn lesions: found by their landmarks, laid upon each other, and joined; others are not."""

import io
from collections.abc import Callable

import numpy as np
import pytest
from catalogue import NEVUS, add_records, archive_record, rows_of
from PIL import Image, ImageEnhance, ImageOps

from archive_server.drawing import Scene, draw
from lesion_tasks.curation.curate import curate_images
from lesion_tasks.curation.landmarks import landmarks_of, places_of, read_grey
from lesion_tasks.curation.registration import MIN_REGISTERED_CORRELATION, registered_correlation
from lesion_tasks.curation.shared_landmarks import FreshKeys, pairs_in_common
from lesion_tasks.settings import Settings
from lesion_tasks.workspace import Workspace

SIZE_PX = (256, 192)


def drawn(seed: int) -> Image.Image:
    return draw(
        Scene(
            look=("pigmented", "pink", "keratotic")[seed % 3],
            latent=float(seed % 5) - 1,
            lesion_seed=seed,
            photo_seed=1_000 + seed,
            width_px=SIZE_PX[0],
            height_px=SIZE_PX[1],
            skin=seed % 4,
            kind="dermoscopic",
        )
    )


def as_jpeg(picture: Image.Image, quality: int = 90) -> bytes:
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def cropped(picture: Image.Image, share: float, left: float = 0.5, top: float = 0.5) -> Image.Image:
    """Without `share` of the width and of the height; `left` and `top` say which part of that goes there."""
    width, height = picture.size
    x, y = left * share * width, top * share * height
    return picture.crop((round(x), round(y), round(x + (1 - share) * width), round(y + (1 - share) * height)))


def shrunk(picture: Image.Image, factor: float) -> Image.Image:
    return picture.resize((round(factor * picture.width), round(factor * picture.height)))


ALTERED: dict[str, Callable[[Image.Image], bytes]] = {
    "mirrored": lambda p: as_jpeg(ImageOps.mirror(p)),
    "upside down": lambda p: as_jpeg(ImageOps.flip(p)),
    "turned by 90": lambda p: as_jpeg(p.transpose(Image.Transpose.ROTATE_90)),
    "turned by 180": lambda p: as_jpeg(p.transpose(Image.Transpose.ROTATE_180)),
    "turned by 270": lambda p: as_jpeg(p.transpose(Image.Transpose.ROTATE_270)),
    "cropped by 8 %": lambda p: as_jpeg(cropped(p, 0.08)),
    "cropped by 15 %": lambda p: as_jpeg(cropped(p, 0.15)),
    "cropped by 15 % at a corner": lambda p: as_jpeg(cropped(p, 0.15, 1.0, 0.0)),
    "dark rim": lambda p: as_jpeg(ImageOps.expand(p, 20, (6, 5, 5))),
    "grey and paler": lambda p: as_jpeg(ImageEnhance.Contrast(p.convert("L")).enhance(0.6)),
    "darker": lambda p: as_jpeg(ImageEnhance.Brightness(p).enhance(0.6)),
    "inverted": lambda p: as_jpeg(ImageOps.invert(p)),
    "turned by 5": lambda p: as_jpeg(p.rotate(5, Image.Resampling.BICUBIC)),
    "mirrored, cropped, smaller, compressed": lambda p: as_jpeg(
        shrunk(cropped(ImageOps.mirror(p), 0.1, 0.2, 0.7), 0.7), quality=40
    ),
}
N_LESIONS = 8


@pytest.fixture
def grouped(settings: Settings) -> dict[tuple[int, str], str]:
    """Group of each drawn lesion, and of each altered copy of it under another lesion id, after one curation."""
    name_by_number: dict[int, tuple[int, str]] = {}
    pictures = {}
    for seed in range(N_LESIONS):
        picture = drawn(seed)
        for kind, data in {
            "": as_jpeg(picture),
            **{k: alter(picture) for k, alter in ALTERED.items()},
        }.items():
            number = len(name_by_number) + 1
            name_by_number[number] = (seed, kind)
            pictures[f"ISIC_{number:07d}"] = data
    records = [archive_record(i, lesion_id=f"IL_{i[5:]}", **NEVUS) for i in pictures]
    add_records(settings, records, picture_by_id=pictures, hashed=True)
    curate_images(Workspace(settings))
    rows = rows_of(settings, "SELECT isic_id, group_id FROM image")
    return {name_by_number[int(isic_id[5:])]: group for isic_id, group in rows}


def test_altered_copies_join_their_original_and_other_lesions_do_not(
    grouped: dict[tuple[int, str], str],
) -> None:
    originals = {seed: group for (seed, kind), group in grouped.items() if kind == ""}
    assert len(set(originals.values())) == N_LESIONS
    apart = [(seed, kind) for (seed, kind), group in grouped.items() if group != originals[seed]]
    assert len(apart) <= 0.03 * N_LESIONS * len(ALTERED), apart


def marked(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    grey = read_grey(data)
    return grey, landmarks_of(grey)


@pytest.mark.parametrize("kind", ALTERED)
def test_an_altered_copy_agrees_once_laid_upon_its_original(kind: str) -> None:
    found = []
    for seed in range(20, 30):
        (one, here), (other, there) = marked(as_jpeg(drawn(seed))), marked(ALTERED[kind](drawn(seed)))
        found.append(registered_correlation(one, other, here, there))
    assert np.sort(found)[1] >= MIN_REGISTERED_CORRELATION


def test_pictures_of_two_lesions_never_agree_however_they_are_laid() -> None:
    looks = [marked(as_jpeg(drawn(seed))) for seed in range(40, 64)]
    highest = max(
        registered_correlation(looks[i][0], looks[j][0], looks[i][1], looks[j][1])
        for j in range(len(looks))
        for i in range(j)
    )
    assert highest < MIN_REGISTERED_CORRELATION


def test_a_plain_rim_is_cut_off_before_landmarks_are_sought() -> None:
    picture = drawn(5)
    plain, rimmed = (
        read_grey(as_jpeg(p, quality=95)) for p in (picture, ImageOps.expand(picture, 24, "black"))
    )
    assert rimmed.shape == pytest.approx(plain.shape, abs=2)
    assert np.abs(rimmed.mean() - plain.mean()) < 4


def test_a_flat_picture_has_no_landmarks() -> None:
    assert len(landmarks_of(read_grey(as_jpeg(Image.new("RGB", (80, 60), "pink"))))) == 0


def test_places_are_kept_to_two_pixels() -> None:
    grey = np.full((96, 128), 200, dtype=np.float32)
    y, x = np.mgrid[:96, :128]
    grey -= 120 * np.exp(-((x - 81) ** 2 + (y - 40) ** 2) / (2 * 3.0**2)).astype(np.float32)
    places = places_of(landmarks_of(grey))
    assert np.hypot(*(places - (81, 40)).T).min() <= 2


@pytest.mark.parametrize("n_parts", [1, 5])
def test_pairs_with_a_fresh_picture_are_those_of_all_pairs_that_have_one(
    n_parts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = np.random.default_rng(1)
    n, each = 400, 10
    landmarks = generator.integers(0, 2**63, n * each, dtype=np.uint64)
    for copy in range(0, n, 8):  # every eighth picture has the landmarks of the next one
        landmarks[copy * each : (copy + 1) * each] = landmarks[(copy + 1) * each : (copy + 2) * each]
    pictures = np.repeat(np.arange(n, dtype=np.int32), each)
    whole = set(map(tuple, pairs_in_common(landmarks, pictures).tolist()))
    assert whole == {(copy, copy + 1) for copy in range(0, n, 8)}
    monkeypatch.setattr("lesion_tasks.curation.shared_landmarks._PART_ROWS", n * each // n_parts)
    assert set(map(tuple, pairs_in_common(landmarks, pictures).tolist())) == whole
    fresh = np.zeros(n, dtype=bool)
    fresh[:50] = True
    some = set(map(tuple, pairs_in_common(landmarks, pictures, fresh=fresh).tolist()))
    assert some == {pair for pair in whole if pair[0] < 50}


@pytest.mark.parametrize("n_pictures", [400, 400_000])
def test_landmarks_that_meet_no_fresh_one_can_be_left_out(n_pictures: int) -> None:
    generator = np.random.default_rng(2)
    n, each = 400, 10
    landmarks = generator.integers(0, 2**63, n * each, dtype=np.uint64)
    for copy in range(0, n, 8):  # nearly those of the next one: one bit of each code differs
        bits = np.uint64(1) << generator.integers(16, 64, each, dtype=np.uint64)
        landmarks[copy * each : (copy + 1) * each] = landmarks[(copy + 1) * each : (copy + 2) * each] ^ bits
    pictures = np.repeat(np.arange(n, dtype=np.int32), each)
    fresh = np.arange(n) < 50
    is_met = FreshKeys(landmarks[: 50 * each], n_pictures=n_pictures).are_met(landmarks)
    assert is_met[: 50 * each].all()
    assert is_met.mean() < 0.2
    of_all = pairs_in_common(landmarks, pictures, fresh=fresh, n_pictures=n_pictures)
    of_some = pairs_in_common(landmarks[is_met], pictures[is_met], fresh=fresh, n_pictures=n_pictures)
    assert len(of_all) == 7
    assert of_some.tolist() == of_all.tolist()


def test_a_product_of_matrices_stays_in_its_thread(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from threadpoolctl import threadpool_info

    seen = []

    def look(grey: np.ndarray) -> np.ndarray:
        seen.extend(pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas")
        return landmarks_of(grey)

    monkeypatch.setattr("lesion_tasks.curation.store_landmarks.landmarks_of", look)
    picture = as_jpeg(drawn(0))
    add_records(
        settings,
        [archive_record("ISIC_0000001", lesion_id="IL_0000001", **NEVUS)],
        picture_by_id={"ISIC_0000001": picture},
        hashed=True,
    )
    curate_images(Workspace(settings))
    assert set(seen) == {1}
