"""What a person waits for at a terminal: whole commands, from their start to their end, against plain scripts.

    make bench-commands

`lesion --help` against a command of Click that does nothing, `lesion leaderboard` against a script that asks the same
database for one number by SQLAlchemy's ORM, and `lesion predict` of one picture and of 300 against a script that loads
the same file with Keras, reads the pictures with Pillow and calls `predict`. The champion has random weights and tells
where it does not know, which the plain script does not. In turns, by the clock and by the processor's time, each the
fastest of several; the ratio is of processor time, which other programs of a busy machine do not share. The last line
is a JSON object.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.predict import SIZE_PX, draw, store_champion, store_doubt
from lesion_tasks.bucket import DirectoryBucket
from lesion_tasks.catalog import VARIANTS
from lesion_tasks.settings import read_settings
from lesion_tasks.training.quiet_start import import_tensorflow

VARIANT = VARIANTS["mobilenet_v2_unfrozen_augmented"]
N_PICTURES = 300
N_ROUNDS = 3
# Of all four together. Doubt, digests and checks of the database are more than the scripts do.
MIN_RATIO = 0.7

_NOTHING = """
import click
@click.group()
def main():
    pass
main(["--help"])
"""
_ONE_NUMBER = """
import sys
from sqlalchemy import create_engine, select, String
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
class Base(DeclarativeBase):
    pass
class Evaluation(Base):
    __tablename__ = "evaluation"
    training_id: Mapped[str] = mapped_column(String, primary_key=True)
    document: Mapped[dict] = mapped_column(JSONB)
with Session(create_engine(sys.argv[1])) as session:
    print(len(session.scalars(select(Evaluation)).all()))
"""
_PLAIN_KERAS = """
import os, sys
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import keras
import numpy as np
from PIL import Image
model = keras.saving.load_model(sys.argv[1], compile=False)
side = model.input["pixels"].shape[1] if isinstance(model.input, dict) else model.input.shape[1]
pixels = np.stack([np.asarray(Image.open(path).convert("RGB").resize((side, side))) for path in sys.argv[2:]])
print(model.predict({"pixels": pixels}, verbose=0))
"""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A command of ours and the plain script that it is held against."""

    name: str
    ours: Sequence[str]
    peer: Sequence[str]


def seconds(command: Sequence[str], environment: dict[str, str]) -> tuple[float, float]:
    """By the clock, and of the processor, with everything that the command starts and waits for."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, env=environment, check=True, capture_output=True)
    waited, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return waited, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def database_of(home: Path) -> str:
    """The address of an embedded Postgres with our tables, started in this home."""
    from lesion_tasks.database.connection import database_url, migrate

    migrate(database_url(read_settings()))
    return database_url(read_settings())


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="commands-") as name:
        root = Path(name)
        for setting in [setting for setting in os.environ if setting.startswith("LESION_")]:
            del os.environ[setting]
        os.environ |= {"LESION_HOME": str(root / "home"), "LESION_BUCKET_URL": str(root / "bucket")}
        import_tensorflow()
        training_id = store_champion(root / "bucket", replace(VARIANT, is_pretrained=False))
        store_doubt(DirectoryBucket(root / "bucket"), VARIANT.task.name)
        draw(root / "pictures", N_PICTURES, SIZE_PX)
        pictures = sorted(str(path) for path in (root / "pictures").iterdir())
        url = database_of(root / "home")
        lesion, plain = [sys.executable, "-m", "lesion_tasks"], [sys.executable, "-c"]
        keras = [*plain, _PLAIN_KERAS, str(root / "bucket" / "models" / training_id / "model.keras")]
        cases = [
            Case(name="--help", ours=[*lesion, "--help"], peer=[*plain, _NOTHING]),
            Case(name="leaderboard", ours=[*lesion, "leaderboard"], peer=[*plain, _ONE_NUMBER, url]),
            Case(name="predict, one", ours=[*lesion, "predict", pictures[0]], peer=[*keras, pictures[0]]),
            Case(name="predict, 300", ours=[*lesion, "predict", *pictures], peer=[*keras, *pictures]),
        ]
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        totals = {"ours": 0.0, "peer": 0.0}
        try:
            for case in cases:
                times: dict[str, list[tuple[float, float]]] = {"ours": [], "peer": []}
                for _ in range(N_ROUNDS):
                    times["ours"].append(seconds(case.ours, environment))
                    times["peer"].append(seconds(case.peer, environment))
                said = {
                    side: [min(column) for column in zip(*some, strict=True)] for side, some in times.items()
                }
                for side in totals:
                    totals[side] += said[side][1]
                print(
                    f"{case.name}: ours {said['ours'][0]:.2f} s by the clock, {said['ours'][1]:.2f} s of the "
                    f"processor; plain {said['peer'][0]:.2f} s and {said['peer'][1]:.2f} s",
                    flush=True,
                )
        finally:
            subprocess.run([*lesion, "stop"], env=environment, check=False, capture_output=True)
    ratio = totals["peer"] / totals["ours"]
    print(
        json.dumps(
            {
                "name": "commands: help, leaderboard, one picture and 300, processor time",
                "ours": round(totals["ours"], 2),
                "peer": round(totals["peer"], 2),
                "unit": "s",
                "ratio": round(ratio, 2),
                "target": MIN_RATIO,
                "passed": ratio >= MIN_RATIO,
            }
        )
    )
    sys.exit(0 if ratio >= MIN_RATIO else 1)


if __name__ == "__main__":
    main()
