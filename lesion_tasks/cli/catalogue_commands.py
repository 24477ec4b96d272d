"""Entries of one's own in the catalogue folder: a beginning for each, and what is there."""

import click

from lesion_tasks.catalog import COHORTS, own_entries
from lesion_tasks.catalog.new_entry import WRITERS, write_entry
from lesion_tasks.cli.command_line import Choice, lesion, print_table, show


@lesion.command()
@click.argument("kind", type=Choice(list(WRITERS)))
@click.argument("name")
@click.option(
    "--task", help="Of a new split or cohort. Default: your own task if there is one alone, else malignancy."
)
@click.option(
    "--split", help="Of a new variant. Default: your own if there is one alone, else malignancy_natural."
)
def new(kind: str, name: str, task: str | None, split: str | None) -> None:
    """Write a commented entry into the catalogue folder, to be edited; for gates, NAME is that of their task."""
    show({"written": str(write_entry(kind, name, task=task, split=split))})


@lesion.command()
def catalog() -> None:
    """List the entries of the catalogue folder, and the gates of its tasks; name every mistake in its files."""
    from lesion_tasks.splits.cohort_images import query_of

    own_entries.refuse_broken()
    for cohort in COHORTS.values():
        query_of(cohort)
    rows = own_entries.listing()
    if not rows:
        click.echo(f"no entry of your own{own_entries.read_from()}")
    print_table(rows)
