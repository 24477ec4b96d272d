"""Drawn pictures of four institutions -> whether leaving each out finds the one whose pictures say something else.

In three of them a malignant lesion is darker than a benign one. In the planted one both are equally dark, and malignant
pictures have a colour cast, as those of another camera may: what is learned elsewhere tells nothing there. In the other
world the fourth institution is like the rest. Both are run as anybody would: ingested, curated, split, a small network
trained three times without each institution, evaluated on it, one report. Minutes on two cores; the last line is JSON.

    .venv/bin/python benchmarks/planted_institution.py
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

INSTITUTIONS = ("Clinic one", "Clinic two", "Clinic three", "Clinic four")
PLANTED = INSTITUTIONS[-1]
N_LESIONS = 120  # of each, with two pictures; one third is malignant


def measure(*, has_effect: bool) -> dict[str, object]:
    """Everything from the pictures to the report, in the home of this process; returns what the report says."""
    from database_of_pictures import DrawnImage, add_pictures, as_jpeg, skin_with_spot

    from lesion_tasks.catalog import VARIANTS
    from lesion_tasks.curation.curate import curate_images
    from lesion_tasks.database.connection import database_url, migrate
    from lesion_tasks.evaluation.held_out_report import choose_folds, report_held_out, train_fold
    from lesion_tasks.settings import read_settings
    from lesion_tasks.workspace import open_workspace

    migrate(database_url(read_settings()))
    workspace, rng = open_workspace(), np.random.default_rng(3)

    def images() -> Iterator[DrawnImage]:
        for i in range(2 * N_LESIONS * len(INSTITUTIONS)):
            institution, is_malignant = INSTITUTIONS[i // 2 % len(INSTITUTIONS)], i // 8 % 3 == 0
            is_told_by_cast = has_effect and institution == PLANTED
            darkness = rng.normal(2.8 if is_malignant and not is_told_by_cast else 2.0, 0.35)
            pixels = skin_with_spot(rng, darkness=max(1.0, darkness)).astype(float)
            if is_told_by_cast and is_malignant:
                pixels *= (0.8, 0.9, 1.15)
            picture = as_jpeg(np.clip(pixels, 0, 255).astype(np.uint8))
            yield DrawnImage(number=i, picture=picture, is_malignant=is_malignant, attribution=institution)

    add_pictures(workspace, images(), rng)
    curate_images(workspace)
    VARIANTS["small"] = replace(
        VARIANTS["smoke"],
        name="small",
        split="malignancy_natural",
        max_epochs=40,
        patience=15,
        batch_size=16,
    )
    chosen = choose_folds(workspace, "small", "attribution")
    ids = [train_fold(workspace, "small", fold) for fold in chosen]
    key = report_held_out(workspace, chosen[0].held_out.manifest_digest, "attribution", ids)
    document = json.loads(workspace.bucket.get(key.replace("report.html", "metrics.json")))
    together = document["together"] or {}
    return {
        "aucs": {
            site["value"]: [round(site["figure"][part], 3) for part in ("value", "low", "high")]
            for site in document["sites"]
        },
        "trainings": {
            site["value"]: [round(one["figures"]["auc"]["value"], 3) for one in site["trainings"]]
            for site in document["sites"]
        },
        "n_images": {site["value"]: site["n_images"] for site in document["sites"]},
        "unsound": [
            one["training_id"]
            for site in document["sites"]
            for one in site["trainings"]
            if not one["is_sound"]
        ],
        **{name: together.get(name) for name in ("differ", "p_value", "training_sd", "tau")},
        "words": document["words"],
    }


def in_own_home(world: str) -> dict[str, object]:
    """The measurement in a process and a home folder of its own."""
    with tempfile.TemporaryDirectory(prefix="planted-") as home:
        Path(home).chmod(0o755)  # as root, the database server runs as another user
        environment = {name: value for name, value in os.environ.items() if not name.startswith("LESION_")}
        environment["LESION_HOME"] = home
        from lesion_tasks.database.embedded import postgres

        try:
            done = subprocess.run(
                [sys.executable, __file__, world],
                env=environment,
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
        finally:
            postgres.stop(Path(home))
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> int:
    """See the module; returns 0 if the effect is found where it is, and nothing where it is not."""
    if len(sys.argv) > 1:
        print(json.dumps(measure(has_effect=sys.argv[1] == "planted")))
        return 0
    began = time.monotonic()
    found = {world: in_own_home(world) for world in ("planted", "plain")}
    for world, said in found.items():
        print(world, said["words"], flush=True)
    passed = found["planted"]["differ"] is True and found["plain"]["differ"] is False
    print(json.dumps({**found, "seconds": round(time.monotonic() - began), "passed": passed}))
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
