"""The bucket held against the database, what lies in both, and questions to the database."""

import click

from lesion_tasks import UnusableInputError
from lesion_tasks.cli.command_line import lesion, print_table, show
from lesion_tasks.workspace import open_workspace


@lesion.command()
@click.option("--part", default=1, show_default=True, help="Which part of the objects, from 1.")
@click.option("--parts", "n_parts", default=1, show_default=True, help="In how many parts; 1 is everything.")
@click.option("--many", is_flag=True, help="Repair even if more than a twentieth of a kind is affected.")
@click.option("--dry-run", is_flag=True, help="Only say what is wrong: repair nothing.")
def verify(part: int, n_parts: int, many: bool, dry_run: bool) -> None:
    """Hold the bucket against the digests in the database, and repair what can be made again.

    Ends with 1 where something is lost that nothing here can make again.
    """
    from lesion_tasks.upkeep.verify_bucket import verify_bucket

    found = verify_bucket(
        open_workspace(), part=part, n_parts=n_parts, is_repairing=not dry_run, is_repairing_many=many
    )
    show(found.as_dict())
    if found.n_lost:
        raise UnusableInputError(found.sentence)


@lesion.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON array instead of a table.")
def disk(as_json: bool) -> None:
    """Say how much lies in the bucket and the database, by kind, the largest first."""
    from lesion_tasks.upkeep.disk_use import disk_use

    use = disk_use(open_workspace())
    if as_json:
        show([one.as_dict() for one in use])
        return
    print_table(
        [
            {"where": one.where, "what": one.what, "n": f"{one.n:,}", "MB": f"{one.size_bytes / 1e6:,.1f}"}
            for one in use
        ]
    )
    click.echo(f"{sum(one.size_bytes for one in use) / 1e6:,.1f} MB altogether")


@lesion.command()
@click.argument("question", metavar="SELECT")
@click.option("--json", "as_json", is_flag=True, help="One JSON array instead of a table.")
def sql(question: str, as_json: bool) -> None:
    """Ask the database a question in SQL; nothing can be changed."""
    from lesion_tasks.database.read_only_query import ask

    rows = ask(open_workspace().engine, question)
    if as_json:
        show(rows)
        return
    print_table(rows)
    click.echo(f"{len(rows)} row{'' if len(rows) == 1 else 's'}")
