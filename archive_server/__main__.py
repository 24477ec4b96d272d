"""Serve a local archive: `python -m archive_server --source synthetic:1000`."""

import asyncio
import signal
import sys
import threading
from pathlib import Path

import click
from aiohttp import web

from archive_server.faults import parse_faults
from archive_server.holdings import Holdings
from archive_server.hosting import HOST, start
from archive_server.published_snapshot import write_snapshot
from archive_server.server import API, build_app
from archive_server.sources import FolderSource, SyntheticSource, source_from_text
from archive_server.state import load_state
from lesion_tasks import UnusableInputError


@click.command()
@click.option("--port", default=0, show_default=True, help="Port; 0 picks a free one.")
@click.option("--host", default=HOST, show_default=True, help="Address to listen on; 0.0.0.0 in a container.")
@click.option(
    "--name", "names", multiple=True, help="Host name that it answers to, besides loopback names and --host."
)
@click.option("--source", required=True, help="synthetic:IMAGES[:SEED], or a download folder.")
@click.option("--state", "state_path", type=click.Path(path_type=Path), help="File that keeps changes.")
@click.option(
    "--latency-ms",
    default=0.0,
    show_default=True,
    help="Round trip: added to every answer and to every new connection.",
)
@click.option("--faults", "faults_text", default="", help="KIND=PROBABILITY,... and seed=N; see faults.py.")
@click.option("--ties", default=1, show_default=True, help="Synthetic images that share one `created`.")
@click.option("--unstable-ties", is_flag=True, help="Reorder equal `created` for each page.")
@click.option(
    "--snapshot",
    "snapshot_path",
    type=click.Path(path_type=Path),
    help="Write a snapshot to this folder before serving.",
)
@click.option("--keep-files", default=512, show_default=True, help="Drawn files kept in memory.")
@click.option(
    "--draw-ahead",
    "is_drawing_ahead",
    is_flag=True,
    help="Draw the files of a new archive before anybody asks for them, as many as are kept.",
)
def main(
    port: int,
    host: str,
    names: tuple[str, ...],
    source: str,
    state_path: Path | None,
    latency_ms: float,
    faults_text: str,
    ties: int,
    unstable_ties: bool,
    snapshot_path: Path | None,
    keep_files: int,
    is_drawing_ahead: bool,
) -> None:
    """Speak the ISIC Archive API over a synthetic archive or a download folder."""
    try:
        plan = parse_faults(faults_text)
        opened = source_from_text(source, tie_length=max(1, ties), n_kept_files=keep_files)
        state = load_state(state_path, opened.name)
        is_new = state_path is None or not state_path.exists()
        holdings = Holdings(opened, state)
        if is_new:
            state.save()
        if isinstance(opened, FolderSource):
            for reason in opened.skipped[:5]:
                click.echo(f"not listed: {reason}", err=True)
            if len(opened.skipped) > 5:
                click.echo(f"not listed: {len(opened.skipped) - 5} more rows", err=True)
        if snapshot_path is not None:
            write_snapshot(holdings, snapshot_path)
        app = build_app(
            holdings,
            fault_plan=plan,
            latency_ms=latency_ms,
            has_unstable_ties=unstable_ties,
            names=frozenset({host, *names}),
        )
        if is_drawing_ahead and is_new and isinstance(opened, SyntheticSource):
            threading.Thread(target=opened.draw_ahead, daemon=True).start()
        asyncio.run(_serve(app, holdings, (host, port)))
    except UnusableInputError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(1)


async def _serve(app: web.Application, holdings: Holdings, address: tuple[str, int]) -> None:
    asked_to_stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, asked_to_stop.set)
    runner, origin = await start(app, address[1], address[0])
    try:
        # click.echo flushes: the process that started this waits for the line.
        click.echo(f"serving {len(holdings.visible):,} images at {origin}{API}")
        await asked_to_stop.wait()
    finally:
        await runner.cleanup()


if __name__ == "__main__":
    main()
