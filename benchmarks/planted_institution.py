"""Drawn pictures of four institutions -> whether leaving each out finds the one whose pictures say something else.

In three of them a malignant lesion is darker than a benign one. In the planted one both are equally dark, and malignant
pictures have a colour cast, as those of another camera may: what is learned elsewhere tells nothing there. In the other
world the fourth institution is like the rest. Both are run as anybody would: ingested, curated, split, a small network
trained three times without each institution, evaluated on it, one report: 24 trainings, minutes each on a busy machine.
The last line is JSON.

    .venv/bin/python benchmarks/planted_institution.py
    .venv/bin/python benchmarks/planted_institution.py --home FOLDER --minutes 8

The second form works in pieces, for whoever cannot have the machine for long: call it again until it exits with 0 or 1.
With a folder, each call goes on where the last one stopped, also after a kill. With `--minutes`, no training begins
later than that; a call that leaves some to the next exits with 75.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

INSTITUTIONS = ("Clinic one", "Clinic two", "Clinic three", "Clinic four")
PLANTED = INSTITUTIONS[-1]
WORLDS = ("planted", "plain")
N_LESIONS = 120  # of each, with two pictures; one third is malignant


UNFINISHED = 75  # the exit status of a call that leaves trainings to the next


def measure(*, has_effect: bool, until: float) -> dict[str, object] | None:
    """Everything from the pictures to the report, in the home of this process; returns what the report says.

    None if it is later than `until`, in seconds since the epoch, before the last training has begun.
    """
    from database_of_pictures import DrawnImage, add_pictures, as_jpeg, skin_with_spot
    from sqlalchemy import text

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

    with workspace.engine.connect() as connection:
        is_filled = connection.execute(text("SELECT EXISTS (SELECT FROM record)")).scalar_one()
    if not is_filled:  # all at once, or nothing
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
    ids = []
    for fold in chosen:
        if time.time() > until:
            print(f"{len(ids)} of {len(chosen)} trainings", file=sys.stderr, flush=True)
            return None
        ids.append(train_fold(workspace, "small", fold))
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


def in_own_home(world: str, home: Path, until: float) -> dict[str, object] | None:
    """The measurement in a process and a home folder of its own; None if it did not come to its end."""
    home.mkdir(parents=True, exist_ok=True)
    home.chmod(0o755)  # as root, the database server runs as another user
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LESION_")}
    environment["LESION_HOME"] = str(home)
    from lesion_tasks.database.embedded import postgres

    try:
        done = subprocess.run(
            [sys.executable, __file__, "--world", world, "--until", str(until)],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    finally:
        postgres.stop(home)
    found: dict[str, object] | None = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> int:
    """See the module; returns 0 if the effect is found where it is, and nothing where it is not."""
    options = argparse.ArgumentParser()
    options.add_argument("--home", type=Path, help="Kept, and gone on with. Default: a new one.")
    options.add_argument("--minutes", type=float, default=float("inf"), help="No training begins later.")
    options.add_argument("--world", choices=WORLDS, help=argparse.SUPPRESS)  # in a process of its own
    options.add_argument("--until", type=float, help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.world:
        print(json.dumps(measure(has_effect=given.world == "planted", until=given.until)))
        return 0
    began, until = time.monotonic(), time.time() + 60 * given.minutes
    found = {}
    with ExitStack() as stack:
        folder = given.home or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="planted-")))
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o755)
        for world in WORLDS:
            said = in_own_home(world, folder.resolve() / world, until)
            if said is None:
                return UNFINISHED
            found[world] = said
            print(world, said["words"], flush=True)
    passed = found["planted"]["differ"] is True and found["plain"]["differ"] is False
    print(json.dumps({**found, "seconds": round(time.monotonic() - began), "passed": passed}))
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
