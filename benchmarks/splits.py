"""A database of 10,000, 100,000 and 1,000,000 made-up records: curate, group and split, then a day's 500 images.

Each size is a fresh embedded Postgres under a temporary folder and a process of its own, so that peak memory is
its own. The near-duplicate search is checked against comparing all pairs of 20,000 hashes, whose time is scaled up
to a million. Made-up records have made-up landmarks and no pictures: a pair that looks alike is taken for a copy
without opening it. The last line is a JSON object. `--sizes 10000,100000` runs fewer.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

from lesion_tasks.settings import read_settings
from lesion_tasks.workspace import open_workspace

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np

from lesion_tasks.curation import picture_similarity as look_alikes
from lesion_tasks.curation.landmarks import MAX_LANDMARKS
from lesion_tasks.curation.shared_landmarks import FreshKeys, pairs_in_common

SIZES = (10_000, 100_000, 1_000_000)
DAY = 500
SPLIT = "malignancy_natural"
MAX_MEMORY_GB, MAX_TIMES_FOR_TENFOLD, MAX_DAY_SHARE, MIN_SEARCH_RATIO = 2.0, 15.0, 0.04, 100.0
N_BRUTE = 20_000
BATCH = 100_000


def measure_database(n: int, home: str) -> dict[str, float]:
    """Fill a database with n records, then time everything, and a day's images on top."""
    os.environ["LESION_HOME"] = home
    for name in ("LESION_DATABASE_URL", "LESION_BUCKET_URL"):
        os.environ.pop(name, None)
    from database_of_records import add_made_up_records
    from sqlalchemy import text

    from lesion_tasks.curation.curate import curate_images
    from lesion_tasks.database.connection import database_url, engine_for, migrate
    from lesion_tasks.database.embedded import postgres
    from lesion_tasks.splits.split import build_split

    def run() -> dict[str, float]:
        start = time.perf_counter()
        curate_images(open_workspace())
        curated = time.perf_counter()
        build_split(open_workspace(), SPLIT)
        return {"curate_s": curated - start, "split_s": time.perf_counter() - curated}

    try:
        migrate(database_url(read_settings()))
        engine = engine_for(database_url(read_settings()))
        for first in range(1, n + 1, BATCH):
            with engine.begin() as connection:
                add_made_up_records(connection, first, min(first + BATCH - 1, n), seen="2026-01-01")
        housekeep = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        housekeep.execute(text("VACUUM ANALYZE"))
        whole = run()
        peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # Linux reports kilobytes
        with engine.begin() as connection:
            add_made_up_records(connection, n + 1, n + DAY, seen="2026-01-02")
        housekeep.execute(text("VACUUM ANALYZE"))  # as autovacuum does overnight
        day = run()
        counts = housekeep.execute(
            text("SELECT (SELECT count(*) FROM image), (SELECT max(n_images) FROM manifest), "
                 "(SELECT count(*) FROM picture_pair), "
                 "(SELECT count(*) FROM (SELECT FROM image GROUP BY group_id) g)")
        ).one()  # fmt: skip
        housekeep.close()
        engine.dispose()
    finally:
        postgres.stop(Path(home))
    return {
        "n": n,
        **whole,
        "full_s": sum(whole.values()),
        "day_curate_s": day["curate_s"],
        "day_split_s": day["split_s"],
        "day_s": sum(day.values()),
        "peak_gb": peak_gb,
        "n_images": counts[0],
        "n_members": counts[1],
        "n_pairs": counts[2],
        "n_groups": counts[3],
    }


def measure_search(n: int) -> dict[str, float]:
    """The near-duplicate search on n hashes of which a fiftieth are near another, against all pairs of 20,000."""
    rng = np.random.default_rng(5)

    def hashes(size: int) -> np.ndarray:
        values = rng.integers(-(2**63), 2**63 - 1, size)
        near = size // 50
        for _ in range(3):
            values[:near] = values[near : 2 * near] ^ (1 << rng.integers(0, 62, near))
        return values

    some = hashes(N_BRUTE)
    start = time.perf_counter()
    rows = np.arange(N_BRUTE)
    expected = np.concatenate(list(look_alikes._near_each(some.view(np.uint64), rows, look_alikes.MAX_BITS)))
    brute_s = time.perf_counter() - start
    found = look_alikes.near_pairs(some)
    assert set(map(tuple, found.tolist())) == set(map(tuple, np.sort(expected, axis=1).tolist()))
    many = hashes(n)
    start = time.perf_counter()
    n_found = len(look_alikes.near_pairs(many))
    ours_s = time.perf_counter() - start
    return {
        "n": n,
        "ours_s": ours_s,
        "n_found": n_found,
        "brute_s": brute_s * (n / N_BRUTE) ** 2,
        "ratio": brute_s * (n / N_BRUTE) ** 2 / ours_s,
    }


def measure_landmarks(n: int) -> dict[str, float]:
    """The search for shared landmarks among n pictures of which a fiftieth are copies, then for a day's alone."""
    rng = np.random.default_rng(5)
    marks = rng.integers(0, 2**64 - 1, n * MAX_LANDMARKS, dtype=np.uint64, endpoint=True)
    near = n // 50 * MAX_LANDMARKS
    marks[:near] = marks[near : 2 * near] ^ (np.uint64(1) << rng.integers(16, 64, near, dtype=np.uint64))
    pictures = np.repeat(np.arange(n, dtype=np.int32), MAX_LANDMARKS)
    start = time.perf_counter()
    n_found = len(pairs_in_common(marks, pictures))
    all_s = time.perf_counter() - start
    assert n_found >= n // 50
    peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # Linux reports kilobytes
    start = time.perf_counter()
    keys = FreshKeys(marks[: DAY * MAX_LANDMARKS], n_pictures=n)
    is_met = np.concatenate([keys.are_met(some) for some in np.array_split(marks, -(-n // 4_096))])
    pairs_in_common(marks[is_met], pictures[is_met], fresh=np.arange(n) < DAY, n_pictures=n)
    day_s = time.perf_counter() - start
    return {"n": n, "all_s": all_s, "day_s": day_s, "peak_gb": peak_gb, "n_found": n_found}


def in_own_process(argument: str) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="splits-") as home:
        done = subprocess.run(
            [sys.executable, __file__, argument, home], stdout=subprocess.PIPE, text=True, check=True
        )
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measured


def main() -> None:
    sizes = SIZES
    if "--sizes" in sys.argv:
        sizes = tuple(int(word) for word in sys.argv[sys.argv.index("--sizes") + 1].split(","))
    search = measure_search(max(sizes))
    print(
        f"near-duplicates among {search['n']:,} hashes: {search['ours_s']:.1f} s, all pairs {search['brute_s']:,.0f} s "
        f"(scaled from {N_BRUTE:,}, same pairs): {search['ratio']:,.0f} times",
        flush=True,
    )
    marks = in_own_process(f"--landmarks={max(sizes)}")
    print(
        f"shared landmarks among {marks['n']:,} pictures: {marks['all_s']:.1f} s, "
        f"for a day's {DAY} {marks['day_s']:.1f} s; peak {marks['peak_gb']:.2f} GB",
        flush=True,
    )
    results = []
    for n in sizes:
        results.append(in_own_process(f"--database={n}"))
        r = results[-1]
        print(
            f"{n:>9,} records: curate and group {r['curate_s']:.1f} s, split {r['split_s']:.1f} s; "
            f"a day of {DAY}: {r['day_curate_s']:.1f} + {r['day_split_s']:.1f} s "
            f"({r['day_s'] / r['full_s']:.1%} of all); peak {r['peak_gb']:.2f} GB; "
            f"{r['n_groups']:,} groups, {r['n_pairs']:,} pairs, {r['n_members']:,} members",
            flush=True,
        )
    growth = [
        (b["full_s"] / a["full_s"]) ** (np.log(10) / np.log(b["n"] / a["n"])) for a, b in pairwise(results)
    ]
    largest = results[-1]
    day_share = largest["day_s"] / largest["full_s"]
    passed = (
        search["ratio"] >= MIN_SEARCH_RATIO
        and all(g <= MAX_TIMES_FOR_TENFOLD for g in growth)
        and largest["peak_gb"] < MAX_MEMORY_GB
        and day_share <= MAX_DAY_SHARE
    )
    print(
        json.dumps(
            {
                "name": f"splits: near-duplicates among {search['n']:,} hashes, and {largest['n']:,} records",
                "ours": round(search["ours_s"], 1),
                "peer": round(search["brute_s"], 1),
                "unit": "s",
                "ratio": round(search["ratio"], 1),
                "target": MIN_SEARCH_RATIO,
                "landmarks": marks,
                "full_s": round(largest["full_s"], 1),
                "times_for_tenfold": [round(float(g), 1) for g in growth],
                "day_share": round(day_share, 4),
                "peak_gb": round(largest["peak_gb"], 2),
                "sizes": results,
                "passed": bool(passed),
            }
        )
    )
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    if sys.argv[1:] and sys.argv[1].startswith("--database="):
        print(json.dumps(measure_database(int(sys.argv[1].split("=")[1]), sys.argv[2])))
    elif sys.argv[1:] and sys.argv[1].startswith("--landmarks="):
        print(json.dumps(measure_landmarks(int(sys.argv[1].split("=")[1]))))
    else:
        main()
