"""Each DAG file read by Airflow, against one with an empty task and without plugins: our own share of the parse time.

Every reading is a process of its own, as the DAG processor reads a file; a round reads all files in turn, so that a
busy machine slows all of them. The last line is a JSON object.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

DAGS = Path(__file__).resolve().parents[1] / "dags"
PLUGINS = DAGS.with_name("plugins")
N_ROUNDS = 5
MAX_OWN_S = 0.1
EMPTY = """
from airflow.sdk import dag, task

@dag(schedule=None)
def empty():
    @task
    def nothing():
        pass
    nothing()

empty()
"""
READ = """
import sys
from airflow.dag_processing.dagbag import DagBag
bag = DagBag(sys.argv[1])
assert not bag.import_errors and len(bag.dags) == 1, bag.import_errors
"""


def seconds(file: Path, home: str) -> float:
    """Processor seconds of a process that reads one DAG file; one of ours with our plugins, as they are loaded in life.

    Of the processor, because they are a tenth as noisy as those by the clock, and the process waits for nothing.
    """
    is_ours = file.parent == DAGS
    environment = {
        **os.environ,
        "AIRFLOW_HOME": home,
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(PLUGINS) if is_ours else f"{home}/plugins",
        "PYTHONPATH": f"{DAGS.parent}:{PLUGINS}" if is_ours else "",
    }
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", READ, str(file)], env=environment, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def main() -> None:
    with tempfile.TemporaryDirectory() as home:
        empty = Path(home) / "empty.py"
        empty.write_text(EMPTY)
        files = [empty, *sorted(DAGS.glob("*.py"))]
        taken: dict[str, list[float]] = {file.stem: [] for file in files}
        for _ in range(N_ROUNDS + 1):
            for file in files:
                taken[file.stem].append(seconds(file, home))
    # The least of all rounds: what else runs on the machine only adds. The first round fills the disk's cache.
    typical = {name: min(found[1:]) for name, found in taken.items()}
    peer = typical.pop("empty")
    own = {name: found - peer for name, found in typical.items()}
    for name, found in own.items():
        print(f"{name}: {typical[name]:.2f} s, {found:+.3f} s of its own")
    worst = max(own, key=lambda name: own[name])
    passed = own[worst] <= MAX_OWN_S
    print(
        json.dumps(
            {
                "name": f"parse: the slowest DAG file ({worst}) against an empty one",
                "ours": round(typical[worst], 3),
                "peer": round(peer, 3),
                "unit": "s",
                "ratio": round(typical[worst] / peer, 3),
                "target": f"at most {MAX_OWN_S} s more",
                "own_s": {name: round(found, 3) for name, found in own.items()},
                "passed": passed,
            }
        )
    )
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main()
