"""Run every command of the documents that no test follows, in a home of its own: `make docs-check`.

Each command is given in the order of its page, on drawn pictures, with an embedded Postgres; what cannot be run here is
named with its reason. The exit status is 1 if a command fails.
"""

import logging
import os
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
from archives import write_picture
from click.testing import CliRunner
from documented import Documented, documented_commands, fenced
from sqlalchemy import text
from test_own_question import write_download

from lesion_tasks import UnavailableError, UnusableInputError
from lesion_tasks.cli.command_line import lesion
from lesion_tasks.database.embedded import postgres
from lesion_tasks.workspace import open_workspace

# A page comes after those whose trainings and champion it needs.
ORDER = ("README.md", "docs/cohorts.md", "docs/predictions.md", "docs/operations.md")
# What would take too long, or names what only another installation has; everything else is run as it stands.
INSTEAD = {
    "tune unet_mobilenet_v3_eca --trials 20": "tune unet_mobilenet_v3_eca --trials 1 --rehearsal",
    "train unet_mobilenet_v3_eca --trials 20": "train unet_mobilenet_v3_eca --trials 1 --max-epochs 1",
    "--max-epochs 5": "--max-epochs 1",
    "--set seed=2": "--set seed=2 --max-epochs 1",
    "lesion vocabulary": "lesion vocabulary --source /data/ham10000",
    "predict FOLDER": "predict /data/clinic",
    "predict SOURCE": "predict /data/clinic",
}
# Ids that a page stands for by a word or an example.
FOUND = {
    r"(?<=archive-training )TRAINING": "SELECT training_id FROM training WHERE finished_at IS NOT NULL AND training_id "
    "NOT IN (SELECT training_id FROM promotion WHERE training_id IS NOT NULL) LIMIT 1",
    r"\b(TRAINING|CHAMPION)\b": "SELECT training_id FROM evaluation LIMIT 1",
    r"scheduled__\S+": "SELECT ingestion_id FROM ingestion LIMIT 1",
    r"ISIC_0000001": "SELECT min(isic_id) FROM image WHERE diagnosis[1] = 'Benign'",
    r"ISIC_0000002": "SELECT min(isic_id) FROM image WHERE diagnosis[1] = 'Malignant'",
    r"ISIC_0000003": "SELECT max(isic_id) FROM image WHERE diagnosis[1] = 'Benign'",
    r"ISIC_0000004": "SELECT max(isic_id) FROM image WHERE diagnosis[1] = 'Malignant'",
}
# What a page takes for granted before one of its commands.
BEFORE = {
    ("README.md", "lesion curate"): "lesion ingest --source /data/clinic_b",
    ("README.md", "lesion promote"): "lesion promote --task malignancy --despite-gates --reason 'the first'",
}


def prepare(home: Path) -> None:
    """Write the folders and files that the documents name."""
    write_download(
        home / "data/ham10000", attributions=("Clinic A", "Hospital C"), sites=("Trunk", "Head and neck")
    )
    write_download(home / "data/snapshot", first=400_000)
    write_download(home / "data/clinic_b", first=300_000, attributions=("Clinic B",))
    page = "docs/your-own-pictures.md"
    (home / "data/clinic").mkdir()
    (home / "data/clinic/cases.csv").write_text(next(fenced(page, "csv")))
    for number in range(1, 7):
        write_picture(home / f"data/clinic/IMG_{number}.jpg", np.random.default_rng(number), width_px=40)
    for number, name in enumerate(("picture.jpg", "a.jpg", "b.png")):
        write_picture(home / name, np.random.default_rng(number), width_px=60)
    (home / "patients.csv").write_text("image,age_years,sex\nIMG_1,61,male\n")
    (home / "catalog").mkdir()
    (home / "catalog/clinic_b.toml").write_text(next(fenced("docs/cohorts.md", "toml")))
    (home / "catalog/clinic.toml").write_text([*fenced(page, "toml")][-1])


def adapted(line: str, home: Path) -> str:
    """A documented command with names of this home in place of those that stand for somebody's own."""
    for shown, instead in INSTEAD.items():
        line = line.replace(shown, instead)
    for shown, query in FOUND.items():
        if re.search(shown, line):
            with open_workspace().engine.connect() as connection:
                line = re.sub(shown, connection.execute(text(query)).scalar_one(), line)
    return line.replace("/data/", f"{home}/data/").replace("--cohort NAME", "--cohort clinic_b")


def run(command: Documented, home: Path) -> str | None:
    """Run one command; returns what is wrong, None if nothing is."""
    try:
        words = Documented(command.page, adapted(command.line, home)).words
        done = CliRunner().invoke(lesion, words, catch_exceptions=False)
    except (UnusableInputError, UnavailableError, click.ClickException) as error:
        return str(error)
    return None if done.exit_code == 0 else done.output


def commands_to_run() -> Iterator[Documented]:
    """Yield the commands that are run, page after page."""
    runnable = [command for command in documented_commands() if command.reason_not_run is None]
    for page in sorted({command.page for command in runnable}, key=lambda page: (page not in ORDER, page)):
        for command in runnable:
            if command.page != page:
                continue
            if line := BEFORE.get((page, command.line.removeprefix(".venv/bin/"))):
                yield Documented(page, line)
            yield command


def main() -> int:
    """Run them all; returns the exit status."""
    logging.disable(logging.WARNING)
    left = Counter((c.page, c.reason_not_run) for c in documented_commands() if not c.is_inline)
    for (page, reason), n in sorted(left.items(), key=str):
        if reason is not None:
            click.echo(f"not run: {n} of {page}: {reason}")
    failed = 0
    with tempfile.TemporaryDirectory(prefix="lesion-docs-") as folder:
        home = Path(folder)
        home.chmod(0o755)
        prepare(home)
        os.chdir(home)
        for name in [name for name in os.environ if name.startswith("LESION_")]:
            del os.environ[name]
        os.environ["LESION_WEIGHTS"] = "none"  # there is no network
        try:
            for command in commands_to_run():
                started = time.monotonic()
                wrong = run(command, home)
                failed += wrong is not None
                word = "ok    " if wrong is None else "FAILED"
                click.echo(f"{word} {time.monotonic() - started:5.1f} s  {command.page}: {command.line}")
                if wrong is not None:
                    click.echo(f"       {wrong}")
        finally:
            postgres.stop(home / "var")
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
