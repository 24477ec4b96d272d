"""Pictures -> how many pairs of two lesions the page of suspects would show, and how many of one lesion it would find.

    python benchmarks/look_alikes.py FOLDER|synthetic:N [--pictures 1262] [--same 200]

FOLDER holds `metadata.csv` with `isic_id` and `lesion_id`, and `images/`. Pairs are proposed as curation proposes them,
and are not copies by its rules. For each bound on the agreement of their detail: how many pairs of two lesions reach
it, and how many of some pairs of one lesion. The last line is a JSON object.
"""

from __future__ import annotations

import itertools
import json
import sys
from multiprocessing import Pool
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from archive_server.sources import SyntheticSource, source_from_text
from benchmarks.picture_pairs import (
    alike_by_hash,
    details_of,
    lesion_by_id,
    read_known,
    sharing_landmarks,
)
from lesion_tasks.curation.copies import are_copies
from lesion_tasks.evaluation.find_suspects import MIN_DETAIL

BOUNDS = (0.3, MIN_DETAIL, 0.5, 0.6)


def option(name: str, default: int) -> int:
    return int(sys.argv[sys.argv.index(name) + 1]) if name in sys.argv else default


def read(source: str, n: int) -> tuple[list[bytes], list[str]]:
    """Pictures, and the lesion of each: of a folder as many as wanted, drawn ones all."""
    if source.startswith("synthetic:"):
        drawn = source_from_text(source)
        assert isinstance(drawn, SyntheticSource)
        drawn.load(drawn.n_initial())
        numbers = range(drawn.n_initial())
        data = [drawn.file(number, "thumbnail_256", 0).content for number in numbers]
        return data, [str(drawn.population.lesion[number]) for number in numbers]
    lesion = lesion_by_id(Path(source))
    paths = sorted((Path(source) / "images").glob("*.jpg"))
    if n < len(paths):
        pick = np.random.default_rng(0).choice(len(paths), n, replace=False)
        paths = [paths[place] for place in sorted(pick.tolist())]
    return [path.read_bytes() for path in paths], [lesion[path.stem] for path in paths]


def main() -> None:
    data, lesion = read(sys.argv[1], option("--pictures", 1_262))
    with Pool() as pool:
        known = pool.map(read_known, data, chunksize=20)
    proposed = {*alike_by_hash(known), *sharing_landmarks([one.marks for one in known])}

    def agreement(i: int, j: int) -> float | None:
        """How far the detail of two pictures agrees; None for copies."""
        agree = details_of(known[i], known[j])
        return None if are_copies(*agree) else max(agree)

    of_lesion: dict[str, list[int]] = {}
    for place, name in enumerate(lesion):
        of_lesion.setdefault(name, []).append(place)
    one_lesion = [pair for some in of_lesion.values() for pair in itertools.combinations(some, 2)]
    n_same = min(option("--same", 200), len(one_lesion))
    chosen = np.random.default_rng(0).choice(len(one_lesion), n_same, replace=False).tolist()
    same = [one_lesion[place] for place in chosen if one_lesion[place] in proposed]
    found = {
        "two lesions": [agreement(i, j) for i, j in sorted(proposed) if lesion[i] != lesion[j]],
        "one lesion": [agreement(i, j) for i, j in same],
    }
    table = {
        name: {f"{bound:.2f}": sum(one is not None and one >= bound for one in some) for bound in BOUNDS}
        for name, some in found.items()
    }
    for name, counts in table.items():
        n_left = sum(one is not None for one in found[name])
        print(f"{name}: {len(found[name])} proposed, {n_left} no copies; by bound {counts}")
    print(json.dumps({"name": f"look-alikes among {len(data)} pictures", "unit": "pairs", "ours": table}))


if __name__ == "__main__":
    main()
