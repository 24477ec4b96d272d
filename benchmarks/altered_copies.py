"""Pictures of a folder, and altered copies of some -> the share of each kind that curation finds, and false pairs.

    python benchmarks/altered_copies.py FOLDER [--copies 120]

FOLDER holds `metadata.csv` with `isic_id` and `lesion_id`, and `images/`. Before: the rule of hash, thumbprint and
detail as it lies. Now: that or landmarks and detail laid upon each other. Pairs of two lesions that are taken for
copies are listed, to be looked at. The last line is a JSON object.
"""

from __future__ import annotations

import io
import json
import sys
import time
from collections.abc import Callable
from multiprocessing import Pool
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageOps

from benchmarks.picture_pairs import alike_by_hash, details_of, lesion_by_id, read_known, sharing_landmarks
from lesion_tasks.curation.landmarks import landmarks_of, read_grey
from lesion_tasks.curation.picture_similarity import MIN_DETAIL_CORRELATION
from lesion_tasks.curation.registration import MIN_REGISTERED_CORRELATION, registered_correlation

Turn = Image.Transpose
SMOOTH = Image.Resampling.BICUBIC


def jpeg(picture: Image.Image, quality: int = 90) -> bytes:
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def crop(picture: Image.Image, share: float, at: tuple[float, float] = (0.5, 0.5)) -> Image.Image:
    """Without `share` of the width and of the height, of which `at` goes at the left and the top."""
    width, height = round((1 - share) * picture.width), round((1 - share) * picture.height)
    x, y = int(at[0] * (picture.width - width)), int(at[1] * (picture.height - height))
    return picture.crop((x, y, x + width, y + height))


def scaled(picture: Image.Image, factor: float) -> Image.Image:
    return picture.resize((round(factor * picture.width), round(factor * picture.height)), SMOOTH)


def rim(picture: Image.Image, share: float, level: int) -> Image.Image:
    return ImageOps.expand(picture, round(share * picture.width), (level,) * 3)


def round_rim(picture: Image.Image) -> Image.Image:
    width, height = picture.size
    mask = Image.new("L", picture.size, 0)
    ImageDraw.Draw(mask).ellipse((0, -0.08 * height, width, 1.08 * height), fill=255)
    return Image.composite(picture, Image.new("RGB", picture.size), mask)


def cast(picture: Image.Image) -> Image.Image:
    factors = (1.15, 0.9, 0.75)
    bands = [
        band.point(lambda v, f=f: min(255, f * v)) for band, f in zip(picture.split(), factors, strict=True)
    ]
    return Image.merge("RGB", bands)


def brightness(picture: Image.Image, factor: float) -> Image.Image:
    return ImageEnhance.Brightness(picture).enhance(factor)


def contrast(picture: Image.Image, factor: float) -> Image.Image:
    return ImageEnhance.Contrast(picture).enhance(factor)


# (picture, two numbers in [0, 1)) -> bytes
KINDS: dict[str, Callable[[Image.Image, tuple[float, float]], bytes]] = {
    "mirrored": lambda p, _: jpeg(p.transpose(Turn.FLIP_LEFT_RIGHT)),
    "upside down": lambda p, _: jpeg(p.transpose(Turn.FLIP_TOP_BOTTOM)),
    "turned by 90 degrees": lambda p, _: jpeg(p.transpose(Turn.ROTATE_90)),
    "turned by 180 degrees": lambda p, _: jpeg(p.transpose(Turn.ROTATE_180)),
    "turned by 270 degrees": lambda p, _: jpeg(p.transpose(Turn.ROTATE_270)),
    "cropped by 8 %, centred": lambda p, _: jpeg(crop(p, 0.08)),
    "cropped by 15 %, centred": lambda p, _: jpeg(crop(p, 0.15)),
    "cropped by 15 %, anywhere": lambda p, at: jpeg(crop(p, 0.15, at)),
    "cropped by 15 %, at a corner": lambda p, at: jpeg(crop(p, 0.15, (round(at[0]), round(at[1])))),
    "cropped by 15 % on each side": lambda p, _: jpeg(crop(p, 0.3)),
    "dark rim of 5 %": lambda p, _: jpeg(rim(p, 0.05, 7)),
    "black rim of 12 %": lambda p, _: jpeg(rim(p, 0.12, 0)),
    "white rim of 8 %": lambda p, _: jpeg(rim(p, 0.08, 255)),
    "round black rim": lambda p, _: jpeg(round_rim(p)),
    "brightness 0.6": lambda p, _: jpeg(brightness(p, 0.6)),
    "brightness 1.25": lambda p, _: jpeg(brightness(p, 1.25)),
    "contrast 0.5": lambda p, _: jpeg(contrast(p, 0.5)),
    "contrast 1.5": lambda p, _: jpeg(contrast(p, 1.5)),
    "colour cast": lambda p, _: jpeg(cast(p)),
    "grey": lambda p, _: jpeg(p.convert("L")),
    "inverted": lambda p, _: jpeg(ImageOps.invert(p)),
    "quality 20": lambda p, _: jpeg(p, 20),
    "half the size, quality 40": lambda p, _: jpeg(scaled(p, 0.5), 40),
    "mirrored, cropped by 10 %, 0.7 of the size, quality 40": lambda p, at: jpeg(
        scaled(crop(p, 0.1, at).transpose(Turn.FLIP_LEFT_RIGHT), 0.7), 40
    ),
    "turned by 90, cropped by 10 %, darker, 0.7 of the size, quality 40": lambda p, at: jpeg(
        scaled(brightness(crop(p, 0.1, at).transpose(Turn.ROTATE_90), 0.75), 0.7), 40
    ),
    "upside down, black rim of 8 %, quality 30": lambda p, _: jpeg(
        rim(p.transpose(Turn.FLIP_TOP_BOTTOM), 0.08, 0), 30
    ),
    "turned by 2 degrees": lambda p, _: jpeg(p.rotate(2, SMOOTH)),
    "turned by 5 degrees": lambda p, _: jpeg(p.rotate(5, SMOOTH)),
    "turned by 5 degrees, black corners cut off": lambda p, _: jpeg(crop(p.rotate(5, SMOOTH), 0.13)),
}


def landmarks(path: Path) -> np.ndarray:
    return landmarks_of(read_grey(path.read_bytes()))


def altered(job: tuple[str, Path, int]) -> tuple[np.ndarray, bool, float]:
    """Of an altered copy: its landmarks, whether the old rule found it, and its detail now."""
    kind, path, seed = job
    at = tuple(np.random.default_rng(seed).random(2).tolist())
    with Image.open(path) as picture:
        other = KINDS[kind](picture.convert("RGB"), at)
    known = [read_known(data) for data in (path.read_bytes(), other)]
    detail, registered = details_of(*known)
    return known[1].marks, bool(alike_by_hash(known)) and detail >= MIN_DETAIL_CORRELATION, registered


def opened(pair: tuple[Path, Path]) -> float:
    greys = [read_grey(path.read_bytes()) for path in pair]
    return registered_correlation(*greys, *[landmarks_of(grey) for grey in greys])


def main() -> None:
    folder = Path(sys.argv[1])
    n_copies = int(sys.argv[sys.argv.index("--copies") + 1]) if "--copies" in sys.argv else 120
    paths = sorted((folder / "images").glob("*.jpg"))
    lesions = lesion_by_id(folder)
    lesion = [lesions[path.stem] for path in paths]
    pick = np.random.default_rng(1).choice(len(paths), n_copies, replace=False).tolist()
    jobs = [(kind, paths[i], i) for kind in KINDS for i in pick]
    with Pool() as pool:
        start = time.perf_counter()
        base = pool.map(landmarks, paths, chunksize=50)
        per_picture_ms = 1e3 * (time.perf_counter() - start) * pool._processes / len(paths)
        copies = pool.map(altered, jobs, chunksize=20)
        n = len(paths)
        across = [(i, j) for i, j in sharing_landmarks(base) if lesion[i] != lesion[j]]
        details = pool.map(opened, [(paths[i], paths[j]) for i, j in across], chunksize=20)
    table = {}
    for kind_number, kind in enumerate(KINDS):
        rows = range(kind_number * n_copies, (kind_number + 1) * n_copies)
        before = [copies[row][1] for row in rows]
        # As when the copies of one kind come to a database that holds all the pictures.
        came = [copies[row][0] for row in rows]
        found = set(sharing_landmarks([*base, *came], n_fresh=n_copies))
        is_candidate = [(i, n + number) in found for number, i in enumerate(pick)]
        is_same = [copies[row][2] >= MIN_REGISTERED_CORRELATION for row in rows]
        now = [b or (c and s) for b, c, s in zip(before, is_candidate, is_same, strict=True)]
        table[kind] = (np.mean(before), np.mean(now))
        print(f"{kind:67s} before {np.mean(before):6.1%} now {np.mean(now):6.1%}"
              f" (candidate {np.mean(is_candidate):6.1%}, detail {np.mean(is_same):6.1%})", flush=True)  # fmt: skip
    listed = sorted(zip(details, across, strict=True), reverse=True)
    for detail, (i, j) in listed:
        if detail >= MIN_REGISTERED_CORRELATION - 0.1:
            print(f"{detail:.3f} {paths[i].stem} {paths[j].stem}")
    n_joined = sum(detail >= MIN_REGISTERED_CORRELATION for detail in details)
    print(
        json.dumps(
            {
                "name": f"altered copies among {n} pictures",
                "ours": round(float(np.mean([now for _, now in table.values()])), 4),
                "peer": round(float(np.mean([before for before, _ in table.values()])), 4),
                "unit": "share found, mean over kinds",
                "landmarks_ms": round(per_picture_ms, 1),
                "n_opened_across_lesions": len(across),
                "n_joined_across_lesions": n_joined,
            }
        )
    )


if __name__ == "__main__":
    main()
