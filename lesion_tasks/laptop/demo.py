"""One command -> a champion, from nothing, through a real Airflow on this machine.

    python -m lesion_tasks.laptop.demo            start what is needed, run the path, follow it
    python -m lesion_tasks.laptop.demo --stop     stop everything this started, and nothing else
    python -m lesion_tasks.laptop.demo --clean    stop, and remove everything that this made

Run again, it continues where it stopped, and ingests only what is new.
"""

import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError

import click
from rich.console import Console

from lesion_tasks import UnavailableError, UnusableInputError
from lesion_tasks.laptop import airflow, chain, stack
from lesion_tasks.laptop.airflow_api import AirflowApi, AirflowUnreachableError
from lesion_tasks.laptop.display import leaderboard_table, show_progress, timing_table
from lesion_tasks.settings import Settings, read_settings
from lesion_tasks.workspace import open_workspace

if TYPE_CHECKING:
    from lesion_tasks.evaluation.publish import LeaderboardLine

PARSE_TIMEOUT_S = 60.0
LOG_LINES = 15
LINE_WIDTH = 140  # if there is no terminal


@click.command(help=__doc__)
@click.option("--archive", envvar="LESION_DEMO_ARCHIVE", help='A download folder, an address, or "isic".')
@click.option("--images", envvar="LESION_DEMO_IMAGES", type=int, help="Size of the synthetic archive.")
@click.option("--variants", envvar="LESION_DEMO_VARIANTS", help="Names, separated by commas.")
@click.option("--weights", envvar="LESION_DEMO_WEIGHTS", help="Folder or file of pretrained weights.")
@click.option("--port", envvar="LESION_DEMO_PORT", type=int, help="Port of the UI; default: any free one.")
@click.option("--stop", "is_stop", is_flag=True, help="Stop everything this started.")
@click.option("--clean", "is_clean", is_flag=True, help="Stop, and remove everything that this made.")
def main(
    archive: str | None,
    images: int | None,
    variants: str | None,
    weights: str | None,
    port: int | None,
    is_stop: bool,
    is_clean: bool,
) -> None:
    """See the module."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=LINE_WIDTH)
    try:
        settings = read_settings()
        if is_stop or is_clean:
            _stop(console, settings, is_clean)
            return
        wishes = _wishes(stack.remembered(settings.home), archive, images, variants, weights)
        sys.exit(_run(console, settings, wishes, port))
    except (UnusableInputError, UnavailableError, RuntimeError, AirflowUnreachableError) as error:
        console.print(f"Error: {error}", style="red", markup=False, soft_wrap=True)
        sys.exit(1)
    except KeyboardInterrupt:
        console.print("\nIt continues in the background. `make demo` follows it again, `make stop` stops it.")
        sys.exit(130)


def _wishes(
    before: stack.Wishes, archive: str | None, images: int | None, variants: str | None, weights: str | None
) -> stack.Wishes:
    """Return the requested options; those not given stay as they were the last time."""
    changed: dict[str, Any] = {"variants": variants, "weights": weights, "archive": archive, "images": images}
    if archive is not None and archive != before.archive:
        changed["images"] = images
        before = replace(before, archive=stack.SYNTHETIC, images=None)
    given = {name: value for name, value in changed.items() if value is not None}
    for name in ("archive", "weights"):
        if name in given and Path(given[name]).exists():
            given[name] = str(Path(given[name]).resolve())
    if "variants" in given:
        given["variants"] = ",".join(filter(None, (name.strip() for name in given["variants"].split(","))))
    return replace(before, **given)


def _run(console: Console, settings: Settings, wishes: stack.Wishes, port: int | None) -> int:
    """Start everything, run the chain, and report the outcome; return the exit status."""
    begun = time.monotonic()
    console.print(
        f"on {wishes.described}; everything is kept in {settings.home}", markup=False, soft_wrap=True
    )

    def say(line: str) -> None:
        console.print(f"{time.monotonic() - begun:6.1f} s  {line}", markup=False, soft_wrap=True)

    api = stack.bring_up(settings, wishes, port=port, say=say)
    _unpause(api)
    started_s = time.monotonic() - begun
    say(f"Airflow is ready at {api.url} (user {api.username}, password {api.password})")
    stages = show_progress(console, chain.follow(api, chain.begin(api, {})))
    has_failed = _report_failures(console, api, stages)
    console.print(timing_table(started_s, chain.timings(stages), time.monotonic() - begun))
    _report_champion(console, settings, api)
    if any(stage.state == chain.ASKS for stage in stages):
        console.print(f"a person is asked: {_pages(api)}/lesions/champion/malignancy", soft_wrap=True)
    return 1 if has_failed else 0


def _unpause(api: AirflowApi) -> None:
    """Wait until every DAG file was read, then unpause the DAGs."""
    expected = {path.stem for path in (airflow.CHECKOUT / "dags").glob("*.py")}
    deadline = time.monotonic() + PARSE_TIMEOUT_S
    while missing := expected - api.dag_ids():
        if errors := api.import_errors():
            file, trace = next(iter(errors.items()))
            raise RuntimeError(f"DAG file {file} cannot be read:\n{trace}")
        if time.monotonic() > deadline:
            raise RuntimeError(
                f"DAGs {', '.join(sorted(missing))} were not read within {PARSE_TIMEOUT_S:.0f} s"
            )
        time.sleep(0.3)
    for dag_id in sorted(expected):
        api.patch(f"dags/{dag_id}", {"is_paused": False})


def _report_failures(console: Console, api: AirflowApi, stages: list[chain.Stage]) -> bool:
    """Name each failed task and show the end of its log; return whether there was one."""
    for stage in stages:
        for task in stage.failed:
            index = f"[{task['rendered_map_index']}]" if task["map_index"] >= 0 else ""
            console.print(
                f"failed: {stage.dag_id}.{task['task_id']}{index}, the end of its log:",
                style="red",
                markup=False,
            )
            try:
                lines = api.log(task, LOG_LINES)
            except HTTPError as error:
                lines = [f"(its log cannot be read: {error})"]
            console.print("\n".join(f"    {line}" for line in lines), markup=False, soft_wrap=True)
    return any(stage.failed or stage.state in ("failed", "not reached") for stage in stages)


def _report_champion(console: Console, settings: Settings, api: AirflowApi) -> None:
    """Show the leaderboard, the champion, and where to look next."""
    rows = _leaderboard()
    if rows:
        console.print(leaderboard_table([row.cells for row in rows]))
    champions = [row for row in rows if row.state == "champion"]
    for row in champions:
        console.print(f"champion for {row.task}: {row.training_id}", markup=False)
    if not champions:
        console.print("no champion: no candidate passed every gate; the report says why")
    console.print(f"report:   {_report_path(settings)}", markup=False, soft_wrap=True)
    console.print(f"pages:    {_pages(api)}", markup=False, soft_wrap=True)
    console.print(f"Airflow:  {api.url}  user {api.username}  password {api.password}", markup=False)
    console.print(
        "It keeps running on its schedule. `make stop` stops it, `make demo IMAGES=<more>` adds images.",
        soft_wrap=True,
    )


def _pages(api: AirflowApi) -> str:
    """Where Airflow's UI shows the product's pages."""
    return f"{api.url}/plugin/lesions"


def _leaderboard() -> "list[LeaderboardLine]":
    """Return the lines; the settings lead to the embedded Postgres, as in any step."""
    from lesion_tasks.evaluation.publish import leaderboard_lines

    return leaderboard_lines(open_workspace())


def _report_path(settings: Settings) -> str:
    bucket = settings.bucket_url
    where = bucket if "://" in bucket else str(Path(bucket).absolute())
    return f"{where.rstrip('/')}/reports/index.html"


def _stop(console: Console, settings: Settings, is_clean: bool) -> None:
    stopped = stack.take_down(settings.home)
    console.print(f"stopped {', '.join(stopped)}" if stopped else "nothing was running", soft_wrap=True)
    if is_clean and settings.home.exists():
        ours = ("airflow", "postgres", "run", "cache", "archive-size", "archive-state.json", "demo.json")
        _forget(console, settings, ours)


def _forget(console: Console, settings: Settings, ours: tuple[str, ...]) -> None:
    """Remove what the demo made, by name: a home folder may hold other things."""
    bucket = Path(settings.bucket_url)
    folders = [settings.home / name for name in ours]
    if bucket == settings.home / "bucket":
        folders.append(bucket)
    for path in (*folders, settings.home / "archive-folder-state.json"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    if not any(settings.home.iterdir()):
        settings.home.rmdir()
    console.print(f"removed what the demo had made in {settings.home}", markup=False, soft_wrap=True)


if __name__ == "__main__":
    main()
