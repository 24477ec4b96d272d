"""The bucket held against the database, what lies in both, what of it could go, where it could go, and questions."""

from collections.abc import Sequence
from dataclasses import asdict

import click

from lesion_tasks import UnusableInputError
from lesion_tasks.cli.command_line import lesion, open_workspace, person, print_table, show
from lesion_tasks.metrics.counted import plural

MAX_SHOWN = 100  # things in a table; each is in the JSON


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
    """Say how much lies in the bucket and the database, by kind, and how much of it `lesion prune` would remove."""
    from lesion_tasks.upkeep.disk_use import disk_use

    use = disk_use(open_workspace())
    if as_json:
        show([one.as_dict() for one in use])
        return
    print_table(
        [
            {
                "where": one.where,
                "what": one.what,
                "n": f"{one.n:,}",
                "MB": f"{one.size_bytes / 1e6:,.1f}",
                "could go": f"{one.n_prunable:,}" if one.n_prunable else "",
                "MB that could go": f"{one.prunable_bytes / 1e6:,.1f}" if one.n_prunable else "",
            }
            for one in use
        ]
    )
    altogether, prunable = (
        sum(sizes) / 1e6 for sizes in zip(*((one.size_bytes, one.prunable_bytes) for one in use), strict=True)
    )
    click.echo(f"{altogether:,.1f} MB altogether, of which {prunable:,.1f} MB could go")


@lesion.command()
@click.option("--delete", "is_deleting", is_flag=True, help="Remove it. Default: only say what could go.")
@click.option(
    "--json", "as_json", is_flag=True, help="One JSON object, with every thing, instead of a table."
)
def prune(is_deleting: bool, as_json: bool) -> None:
    """Say what nothing needs any more by the policy in catalog/retention.py, or remove it.

    Never a champion or an earlier one, what a decision names, the newest of a variant, or what runs.
    """
    from lesion_tasks.upkeep.prune import prune as run

    result = run(open_workspace(), is_deleting=is_deleting, pruned_by=person())
    if as_json:
        show(result.as_dict())
        return
    print_table(
        [
            {
                "kind": one.kind,
                "name": one.name,
                "objects": f"{one.n_objects:,}",
                "MB": f"{one.size_bytes / 1e6:,.1f}",
                "why": one.reason,
            }
            for one in result.things[:MAX_SHOWN]
        ]
    )
    if len(result.things) > MAX_SHOWN:
        click.echo(f"and {len(result.things) - MAX_SHOWN:,} more, see --json")
    what = (
        f"{plural(len(result.things), 'thing')} with {plural(result.n_objects, 'object')}, "
        f"{result.size_bytes / 1e6:,.1f} MB, and {result.n_deliveries:,} notes of what people were told"
    )
    click.echo(f"{what}: {'gone' if is_deleting else 'could go, see --delete'}")


@lesion.command()
@click.argument("n_images", nargs=-1, type=click.IntRange(min=1), metavar="[IMAGES]...")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of a table.")
def estimate_size(n_images: Sequence[int], as_json: bool) -> None:
    """Say what other numbers of images would take, measured here: disk, objects, requests, memory, hours.

    Default: 10,000, 100,000 and 600,000 images.
    """
    from lesion_tasks.upkeep.estimate_size import DEFAULT_N_IMAGES
    from lesion_tasks.upkeep.estimate_size import estimate_size as estimate

    found = estimate(open_workspace(), n_images or DEFAULT_N_IMAGES)
    if as_json:
        show(asdict(found))
        return
    columns = [plural(n, "image") for n in found.n_images]
    print_table(
        [
            {
                "what": line.what,
                f"measured: {plural(found.n_measured, 'image')}": _quantity(line.here, line.unit),
            }
            | {
                column: _quantity(value, line.unit)
                for column, value in zip(columns, line.values, strict=True)
            }
            for line in found.lines
        ]
    )


def _quantity(value: float | None, unit: str) -> str:
    if value is None:
        return "not measured"
    return f"{value:,.0f}" if not unit else f"{value:.3g} {unit}" if value < 100 else f"{value:,.0f} {unit}"


@lesion.command()
@click.option(
    "--database",
    required=True,
    envvar="TARGET_DATABASE_URL",
    help="An empty database. Also from TARGET_DATABASE_URL, so that no list of processes shows its password.",
)
@click.option("--bucket", required=True, help="s3://bucket/prefix with boto3's AWS_* variables, or a folder.")
def copy_to(database: str, bucket: str) -> None:
    """Copy all rows and objects into another database and another bucket, which go on from there."""
    from lesion_tasks.upkeep.copy_installation import copy_installation

    show(copy_installation(open_workspace(), database_url=database, bucket_url=bucket))


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
