"""The bucket held against the database."""

import click

from lesion_tasks import UnusableInputError
from lesion_tasks.cli.command_line import lesion, show
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
