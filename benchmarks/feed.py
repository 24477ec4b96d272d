"""Shuffled epochs of materialized pictures at 128 px, against keras.utils.image_dataset_from_directory.

Both sides read the same pictures, in turns, in one run. Ours are decoded once beforehand; that time is shown, and the
first epoch is compared with and without it. A folder of pictures can be given; without one, 4,000 JPEGs of 200 x 150 px
are drawn. The last line is a JSON object.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import keras
import numpy as np
from PIL import Image

from lesion_tasks.catalog import InputSize
from lesion_tasks.pixels.decode import decode_picture
from lesion_tasks.pixels.materialize import SHARD_IMAGES
from lesion_tasks.pixels.shards import PixelSource
from lesion_tasks.training.examples import Batches, Examples

N_DRAWN, SIDE_PX, BATCH, N_EPOCHS = 4_000, 128, 32, 4
MIN_RATIO, MIN_FIRST_RATIO = 10.0, 1.0


def draw_pictures(folder: Path, n: int) -> None:
    """JPEGs of mottled skin with a spot, 200 x 150 px."""
    rng = np.random.default_rng(1)
    folder.mkdir()
    y, x = np.mgrid[:150, :200]
    for i in range(n):
        coarse = rng.integers(120, 220, (19, 25, 3)).astype(np.uint8)
        pixels = np.asarray(Image.fromarray(coarse).resize((200, 150), Image.Resampling.BICUBIC)).copy()
        pixels[np.hypot(x - rng.normal(100, 10), y - rng.normal(75, 10)) < rng.uniform(15, 50)] //= 2
        Image.fromarray(pixels).save(folder / f"{i:06d}.jpg", quality=90)


def sort_into_classes(source: Path, folder: Path) -> list[Path]:
    """Links to the pictures in two class folders, as the peer wants them."""
    paths = sorted(path for path in source.rglob("*.jpg") if path.is_file())
    linked = []
    for i, path in enumerate(paths):
        target = folder / ("odd" if i % 2 else "even") / f"{i:06d}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(path.resolve())
        linked.append(target)
    return linked


def materialize(paths: list[Path], folder: Path) -> list[Path]:
    """Shards as `materialize_manifest` writes them, without the database around them."""
    folder.mkdir()
    shards = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(paths), SHARD_IMAGES):
            some = paths[start : start + SHARD_IMAGES]
            pixels = np.stack(
                list(pool.map(lambda path: decode_picture(path.read_bytes(), InputSize(SIDE_PX)), some))
            )
            shards.append(folder / f"{start}.npy")
            np.save(shards[-1], pixels)
    return shards


def open_shards(shards: list[Path], n: int) -> Examples:
    rows = np.arange(n)
    return Examples(
        isic_ids=rows.astype(str),
        labels=rows % 2,
        pixels=PixelSource(
            shards=tuple(np.load(path, mmap_mode="r") for path in shards),
            shard_of_row=rows // SHARD_IMAGES,
            row_in_shard=rows % SHARD_IMAGES,
        ),
        metadata=None,
    )


def our_epoch(shards: list[Path], n: int, epoch: int) -> float:
    """Images per second of one epoch, opening the shards included."""
    start = time.perf_counter()
    batches = Batches(open_shards(shards, n), BATCH, n_classes=2, seed=1, epoch=epoch)
    seen = 0
    for index in range(len(batches)):
        inputs, _ = batches[index]
        seen += len(inputs["pixels"])
    assert seen == n
    return n / (time.perf_counter() - start)


def peer_epoch(dataset: object, n: int) -> float:
    start = time.perf_counter()
    seen = sum(len(pixels) for pixels, _ in dataset)  # type: ignore[attr-defined]
    assert seen == n
    return n / (time.perf_counter() - start)


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="feed-") as name:
        home = Path(name)
        if len(sys.argv) > 1:
            source = Path(sys.argv[1])
        else:
            source = home / "pictures"
            draw_pictures(source, N_DRAWN)
        paths = sort_into_classes(source, home / "classes")
        n = len(paths)
        start = time.perf_counter()
        shards = materialize(paths, home / "shards")
        materialize_s = time.perf_counter() - start
        # One batch of each, so that neither first epoch pays for loading TensorFlow's kernels.
        dataset = keras.utils.image_dataset_from_directory(
            home / "classes",
            image_size=(SIDE_PX, SIDE_PX),
            batch_size=BATCH,
            shuffle=True,
            seed=1,
            verbose=False,
        ).prefetch(2)
        next(iter(dataset))
        ours, peer = [], []
        for epoch in range(N_EPOCHS):  # in turns, so that a busy machine slows both
            peer.append(peer_epoch(dataset, n))
            ours.append(our_epoch(shards, n, epoch))
            print(f"epoch {epoch + 1}: ours {ours[-1]:,.0f}, peer {peer[-1]:,.0f} images/s", flush=True)
    ratio = median(ours[1:]) / median(peer[1:])
    first = ours[0] / peer[0]
    with_decoding = (n / (n / ours[0] + materialize_s)) / peer[0]
    passed = ratio >= MIN_RATIO and first >= MIN_FIRST_RATIO
    print(
        f"{n:,} pictures at {SIDE_PX} px: {ratio:.1f} times after the first epoch, {first:.1f} times in it, "
        f"{with_decoding:.2f} times with decoding them all first ({materialize_s:.1f} s, once for all trainings)"
    )
    print(
        json.dumps(
            {
                "name": f"feed: shuffled epochs of {n:,} pictures at {SIDE_PX} px",
                "ours": round(median(ours[1:])),
                "peer": round(median(peer[1:])),
                "unit": "images/s",
                "ratio": round(ratio, 1),
                "first_epoch_ratio": round(first, 1),
                "first_epoch_with_decoding_ratio": round(with_decoding, 2),
                "target": MIN_RATIO,
                "passed": passed,
            }
        )
    )
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main()
