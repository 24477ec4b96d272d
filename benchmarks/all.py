"""Every benchmark that is held to a target, one after the other, several times -> docs/performance.md.

    make bench-all                                     five runs of each: hours, on a machine with nothing else to do
    python benchmarks/all.py --rounds 1 --only parse   fewer runs, and fewer benchmarks

A benchmark is a file beside this one whose last line is a JSON object with `passed`, and that exits with 1 where it
falls short. What each run printed is kept in build/bench, so that a run that was cut off goes on where it stopped;
`--page` writes the page from what is there. One that needs something that is not here (another program, an archive) is
named with what it says. A run counts only for the code that it measured: the page takes those of the present commit.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import click

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
RUNS = ROOT / "build" / "bench"
PAGE = ROOT / "docs" / "performance.md"
PLOT = ROOT / "docs" / "pictures" / "performance.svg"
N_ROUNDS = 5
HELD_TO_A_TARGET = ('"ratio":', '"passed":')  # in what it prints


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of one benchmark."""

    name: str
    commit: str
    ended_at: str
    found: dict[str, Any] | None  # its last line
    said: str  # its last line but JSON, if it could not run


def benchmarks() -> list[str]:
    return sorted(
        path.stem
        for path in HERE.glob("*.py")
        if path != Path(__file__).resolve() and all(key in path.read_text() for key in HELD_TO_A_TARGET)
    )


def commit() -> str:
    """The commit, marked where the code was changed since."""
    return subprocess.run(
        ["git", "describe", "--always", "--dirty", "--exclude=*"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()


def runs(name: str) -> list[Run]:
    """Those of this commit, oldest first."""
    kept = RUNS / f"{name}.jsonl"
    lines = kept.read_text().splitlines() if kept.exists() else []
    return [run for run in (Run(**json.loads(line)) for line in lines) if run.commit == commit()]


def measure(name: str) -> Run:
    """Run a benchmark, and keep what it found."""
    done = subprocess.run(
        [sys.executable, str(HERE / f"{name}.py")], cwd=ROOT, capture_output=True, text=True, check=False
    )
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    try:
        found = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        found = None
    run = Run(
        name=name,
        commit=commit(),
        ended_at=datetime.now(UTC).isoformat(timespec="seconds"),
        found=found if isinstance(found, dict) and "passed" in found else None,
        said="" if found else (lines[-1] if lines else f"it ended with {done.returncode}"),
    )
    RUNS.mkdir(parents=True, exist_ok=True)
    with (RUNS / f"{name}.jsonl").open("a") as kept:
        kept.write(json.dumps(vars(run)) + "\n")
    return run


def machine() -> str:
    cpu = next(
        (line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.processor(),
    )
    memory_gb = next((int(line.split()[1]) / 1e6 for line in _lines("/proc/meminfo")), 0)
    return (
        f"{os.cpu_count()} cores of {cpu or platform.machine()}, {memory_gb:.0f} GB, {platform.system()}, "
        f"Python {platform.python_version()}"
    )


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def spread(values: list[float]) -> str:
    """The middle, and from where to where; of one run the figure alone."""
    if len(values) == 1:
        return f"{values[0]:,.4g}"
    return f"{median(values):,.4g} ({min(values):,.4g} to {max(values):,.4g})"


def row(name: str, found: list[dict[str, Any]]) -> str:
    last = found[-1]
    n_met = sum(bool(one["passed"]) for one in found)
    cells = [
        f"`make bench-{name}`",
        str(last["name"]).partition(": ")[2] or last["name"],
        *(spread([float(one[side]) for one in found]) for side in ("ours", "peer")),
        last["unit"],
        spread([float(one["ratio"]) for one in found]),
        str(last["target"]),
        "yes" if n_met == len(found) else f"{n_met} of {len(found)}",
    ]
    return "| " + " | ".join(cells) + " |"


def write_page() -> None:
    """docs/performance.md, and the plot of cost against size."""
    done = {name: runs(name) for name in benchmarks()}
    found = {name: [run.found for run in some if run.found] for name, some in done.items()}
    failed = {name: some[-1].said for name, some in done.items() if some and not some[-1].found}
    n_runs = [len(some) for some in found.values() if some]
    if not n_runs:
        raise click.ClickException(f"nothing was measured at {commit()} yet")
    dates = sorted(run.ended_at[:10] for some in done.values() for run in some)
    lines = [
        "# Performance",
        "",
        "Each claim about speed, measured against a peer that does the same work in the same run: the middle of",
        "all runs, with the lowest and the highest in brackets. What is measured is said at the top of each",
        "benchmark; what was tried is in [results.md](results.md).",
        "",
        f"**Date:** {dates[0]}"
        + (f" to {dates[-1]}" if dates[-1] != dates[0] else "")
        + f". **Code:** `{commit()}`.",
        f"**Machine:** {machine()}.",
        f"**Runs of each:** {min(n_runs)}"
        + (f" to {max(n_runs)}" if max(n_runs) != min(n_runs) else "")
        + ".",
        "",
        "```sh",
        "make bench-all",
        "```",
        "",
        "| Benchmark | Work | Ours | Peer | Unit | Ratio | Target | Met |",
        "|---|---|---|---|---|---|---|---|",
        *(row(name, some) for name, some in found.items() if some),
        "",
    ]
    if failed:
        lines += ["Not measured:", "", *(f"- `{name}`: {said}" for name, said in failed.items()), ""]
    sizes = found.get("splits") or []
    if sizes:
        _plot(sizes[-1]["sizes"])
        lines += [
            "## What grows with the archive",
            "",
            "![Seconds and memory against the number of records, on logarithmic axes](pictures/performance.svg)",
            "",
            "Records curated, grouped and split, then a day of images more. The grey line is proportional.",
            "",
        ]
    PAGE.write_text("\n".join(lines))


def _plot(sizes: list[dict[str, float]]) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "performance"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 3.5), layout="constrained")
    n = [one["n"] for one in sizes]
    for key, label in (("full_s", "all records"), ("day_s", "a day's more")):
        axes.plot(n, [one[key] for one in sizes], marker="o", label=f"{label}, s")
    axes.plot(n, [one["peak_gb"] for one in sizes], marker="s", linestyle="--", label="memory, GB")
    axes.plot(n, [sizes[0]["full_s"] * one / n[0] for one in n], color="0.7", linewidth=1)
    axes.set(xscale="log", yscale="log", xlabel="records")
    axes.legend(frameon=False)
    figure.savefig(PLOT, metadata={"Date": None})


@click.command(help=__doc__)
@click.option("--rounds", type=click.IntRange(1), default=N_ROUNDS, show_default=True, help="Runs of each.")
@click.option("--only", help="Names, separated by commas.")
@click.option("--page", "is_page_only", is_flag=True, help="Measure nothing: write the page.")
def main(rounds: int, only: str | None, is_page_only: bool) -> None:
    names = benchmarks()
    wanted = only.split(",") if only else names
    if unknown := sorted(set(wanted) - set(names)):
        raise click.BadParameter(f"{', '.join(unknown)}: there are {', '.join(names)}", param_hint="--only")
    if not is_page_only:
        for _ in range(rounds):  # in turns, so that a busy hour does not fall on one alone
            for name in wanted:
                past = runs(name)
                if len(past) >= rounds or (past and not past[-1].found):
                    continue
                run = measure(name)
                result = ("passed" if run.found["passed"] else "short") if run.found else run.said
                click.echo(f"{run.ended_at} {name}: {result}")
    write_page()
    click.echo(f"{PAGE.relative_to(ROOT)} is written")


if __name__ == "__main__":
    main()
