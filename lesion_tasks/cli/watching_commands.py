"""The champion and what arrived since its training data -> what has shifted, and how its figures hold."""

from datetime import datetime

import click

from lesion_tasks.cli.command_line import lesion, open_workspace, show


@lesion.command()
@click.option("--task", default="malignancy", show_default=True, help="Any with a champion.")
@click.option(
    "--until",
    type=click.DateTime(["%Y-%m-%d"]),
    help="Look at what arrived before this day (UTC). Default: at everything.",
)
def watch(task: str, until: datetime | None) -> None:
    """New images of the archive and the champion -> shifts, figures over time, and a report."""
    from lesion_tasks.watching.watch import watch_champion

    found = watch_champion(open_workspace(), task, until and until.date())
    show(
        {
            "watch": found.watch_id,
            "is_alarming": found.is_alarming,
            "verdict": found.verdict,
            "alarms": found.document["alarms"],
            "report": found.report_key,
        }
    )
