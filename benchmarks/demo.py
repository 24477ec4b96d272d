"""`make demo` as a person waits for it: from nothing to a champion, and again when nothing is new.

    make bench-demo

The environment is installed; its start counts. Then everything is stopped, and the same command runs again: services
start anew, and every stage finds its work done. The peer is the first path without Airflow: the same functions in one
process on another empty database and bucket, from the same archive server, which is started for neither. What the
command's own table accounts for stands beside the clock. The last line is a JSON object.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.orchestration import N_IMAGES, archive_of, in_one_process
from lesion_tasks.database.embedded import postgres
from lesion_tasks.laptop import airflow

MAX_FIRST_S = 45.0
MAX_AGAIN_S = 30.0
_TOTAL = re.compile(r"altogether\W+([\d.]+)")


def demo(home: Path, *arguments: str) -> tuple[float, str]:
    """Seconds by the clock, and what it printed."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("LESION_", "AIRFLOW"))}
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "lesion_tasks.laptop.demo", *arguments],
        env={**inherited, "LESION_HOME": str(home)},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return time.perf_counter() - started, done.stdout


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        home, own = Path(folder) / "airflow", Path(folder) / "process"
        own.mkdir()
        try:
            first_s, said = demo(home, "--images", str(N_IMAGES))
            demo(home, "--stop")
            again_s, said_again = demo(home)
            airflow.stop_all(home)  # the archive server stays, for the process
            steps = in_one_process(own, archive_of(home))
        finally:
            demo(home, "--stop")
            postgres.stop(own)
    print(said, said_again, sep="\n")
    process_s = sum(steps.values())
    for name, seconds in steps.items():
        print(f"in one process, {name}: {seconds:.1f} s")
    passed = first_s <= MAX_FIRST_S and again_s <= MAX_AGAIN_S
    print(
        json.dumps(
            {
                "name": f"demo: {N_IMAGES:,} drawn images, from nothing to a champion",
                "ours": round(first_s, 1),
                "peer": round(process_s, 1),
                "unit": "s",
                "ratio": round(first_s / process_s, 2),
                "target": f"{MAX_FIRST_S:.0f} s, and {MAX_AGAIN_S:.0f} s where nothing is new",
                "again_s": round(again_s, 1),
                "accounted_s": [float(total) for total in _TOTAL.findall(said + said_again)],
                "passed": passed,
            }
        )
    )
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main()
