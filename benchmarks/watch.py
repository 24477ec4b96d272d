"""A real training's test set, halved at random -> how often a watch finds a shift, and what of planted ones.

Test images are looked at by the model as a watch does it. Random divisions of their groups tell how often a shift is
found where there is none. Then some of the new half's pictures, or what is known of them, are altered. Writes the
altered pictures to the bucket: run it on a copy of a home, as
`LESION_HOME=... .venv/bin/python benchmarks/watch.py TRAINING [n_divisions]`. The last line is JSON.
"""

from __future__ import annotations

import hashlib
import io
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import pandas as pd
from PIL import Image, ImageFilter

from lesion_tasks.bucket import Bucket, get_verified
from lesion_tasks.evaluation.subject import find_subject
from lesion_tasks.metrics.shifts import find_shifts
from lesion_tasks.pixels.picture_facts import FACTS
from lesion_tasks.serving.served_model import find_model
from lesion_tasks.watching.looks import look_at, parts_of, seen_images
from lesion_tasks.watching.watched_images import one_of_each_group
from lesion_tasks.workspace import open_workspace

SEED = 18
SHARE_NEW = 1 / 3


def redder(picture: Image.Image) -> Image.Image:
    """As another camera's white balance would have it."""
    pixels = np.asarray(picture.convert("RGB"), dtype=np.float32) * np.array(
        [1.08, 1.0, 0.92], dtype=np.float32
    )
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def blurred(picture: Image.Image) -> Image.Image:
    """Slightly out of focus."""
    return picture.convert("RGB").filter(ImageFilter.GaussianBlur(1.0))


def altered(
    bucket: Bucket, rows: pd.DataFrame, name: str, change: Callable[[Image.Image], Image.Image]
) -> pd.DataFrame:
    """The same rows with changed pictures."""
    places = []
    for key, sha256 in zip(rows["object_key"], rows["sha256"], strict=True):
        buffer = io.BytesIO()
        change(Image.open(io.BytesIO(get_verified(bucket, key, sha256, kind="picture")))).save(buffer, "PNG")
        data = buffer.getvalue()
        places.append(
            (f"altered/{name}/{hashlib.sha256(data).hexdigest()}.png", hashlib.sha256(data).hexdigest())
        )
        bucket.put(places[-1][0], data)
    return rows.assign(object_key=[one for one, _ in places], sha256=[two for _, two in places])


def divisions(seen: pd.DataFrame, n: int) -> Iterator[tuple[np.ndarray, np.random.Generator]]:
    """Whether each image is new, at random by group."""
    names, number = np.unique(seen["group_id"], return_inverse=True)
    for i in range(n):
        rng = np.random.default_rng([SEED, i])
        yield (rng.permutation(len(names)) < SHARE_NEW * len(names))[number], rng


def main(training_id: str, n_divisions: int) -> None:
    """Print how often a shift is found, and what is found of planted ones."""
    workspace = open_workspace()
    bucket = workspace.bucket
    subject = find_subject(workspace.engine, bucket, training_id)
    file = find_model(workspace, subject.task.name, training_id)
    rows = subject.subset("test").reset_index(drop=True)

    def see(rows: pd.DataFrame) -> pd.DataFrame:
        parts = parts_of(file, rows)
        look_at(bucket, file, parts)
        return seen_images(bucket, parts, subject.task, subject.cut)

    plain = see(rows)
    print(f"{len(plain)} images of {plain['group_id'].nunique()} groups", flush=True)
    n_found = 0
    for is_new, _ in divisions(plain, n_divisions):
        tests = find_shifts(*(one_of_each_group(plain[side]) for side in (~is_new, is_new)), FACTS)
        n_found += any(one.is_found for one in tests)
    print(f"no shift: found in {n_found} of {n_divisions}", flush=True)
    changed = {
        "colour": see(altered(bucket, rows, "colour", redder)),
        "blur": see(altered(bucket, rows, "blur", blurred)),
        "missing age": plain.assign(
            age_years=np.where(np.arange(len(plain)) % 4 == 0, np.nan, plain["age_years"])
        ),
        "a new institution": plain.assign(
            attribution=np.where(np.arange(len(plain)) % 12 == 0, "A new clinic", plain["attribution"])
        ),
    }
    told: dict[str, dict[str, float]] = {}
    for is_new, rng in divisions(plain, 1):
        before = one_of_each_group(plain[~is_new])
        for name, seen in changed.items():
            told[name] = told_of(before, one_of_each_group(seen[is_new]))
        # Half of the benign images of the new side are gone.
        is_kept = (plain["label"] == subject.task.positive) | (rng.random(len(plain)) < 0.5)
        told["prevalence"] = told_of(before, one_of_each_group(plain[is_new & is_kept]))
    for name, found in told.items():
        print(f"{name}: {found}", flush=True)
    print(json.dumps({"n_divisions": n_divisions, "n_found": n_found, "told": told}))


def told_of(before: pd.DataFrame, now: pd.DataFrame) -> dict[str, float]:
    """What people would be told of, with its effect, the surest first."""
    tests = find_shifts(before, now, FACTS)
    return {f"{one.name}": round(one.effect or 0.0, 2) for one in tests if one.is_beyond}


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 200)
