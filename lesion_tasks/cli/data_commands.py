"""The archive -> pixels: what comes before any training."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from lesion_tasks import UnusableInputError
from lesion_tasks.archive.terms import PATHS, TERMS
from lesion_tasks.catalog import COHORTS, own_entries
from lesion_tasks.catalog.ingest_passes import INGEST_PASSES
from lesion_tasks.catalog.lookup import find_cohort
from lesion_tasks.cli.command_line import (
    Choice,
    lesion,
    open_workspace,
    print_table,
    show,
    shown_whatever_happens,
)


@lesion.command()
def setup() -> None:
    """Create the database's tables, or bring them to the newest version."""
    from lesion_tasks.database.connection import database_url, migrate
    from lesion_tasks.database.migration_state import shown_url

    workspace = open_workspace()
    done = migrate(database_url(workspace.settings)).upgrade
    show({"database": f"{shown_url(workspace.engine)}: {done}", "bucket": workspace.bucket.url})


@lesion.command()
def stop() -> None:
    """Stop the embedded Postgres; the next command that needs it starts it again."""
    from lesion_tasks.database.embedded import postgres
    from lesion_tasks.metrics.counted import plural
    from lesion_tasks.settings import read_settings

    home = read_settings().home
    use = postgres.read_use(home)
    if use is not None and use.n_open:
        raise UnusableInputError(
            f"Postgres in {home}: {plural(use.n_open, 'session')} open, of another command or of a demo "
            "(`make stop` ends that); expected none"
        )
    show({"postgres": "stopped" if postgres.stop(home) else "was not running"})


@lesion.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--overwrite", is_flag=True, help="Propose a mapping anew, and write it over the one that is there."
)
def inspect(folder: Path, overwrite: bool) -> None:
    """Look at a folder of your own pictures: what `ingest` would make of it, and a mapping to be edited."""
    from lesion_tasks.archive.folder_inspection import inspect_folder, write_mapping

    found = inspect_folder(folder, anew=overwrite)
    click.echo(f"{folder}: {found.understood_as}")
    print_table([dict(zip(("field", "column", "values"), row, strict=True)) for row in found.fields])
    if found.unused_columns:
        click.echo(f"Columns that are not read: {', '.join(found.unused_columns)}.")
    for finding in found.findings:
        click.echo(f"- {finding}")
    for line in found.to_fill_in:
        click.echo(line)
    if found.proposal is not None:
        click.echo(
            f"Wrote {write_mapping(folder, found.proposal, overwrite=overwrite)}: read it, then ingest."
        )


@lesion.command()
@click.argument("field", type=Choice([*PATHS, *TERMS]), metavar="FIELD")
@click.argument("words", nargs=-1)
def terms(field: str, words: tuple[str, ...]) -> None:
    """List the values that a FIELD of a mapping may have, or those with these WORDS in their name."""
    from lesion_tasks.archive.terms import find_values, values_of

    wanted = " ".join(words)
    found = find_values(field, wanted) if wanted else values_of(field)
    if not found:
        raise UnusableInputError(
            f"no {field} of the archive has {wanted[:80]!r} in its name, expected another word"
        )
    for value in found:
        click.echo(value)


@lesion.command()
@click.option(
    "--source", help="API base URL, a download folder, or one of your own. Default: LESION_ARCHIVE_URL."
)
@click.option("--query", help="Search DSL that limits the scope. Default: LESION_QUERY.")
@click.option("--collections", default="", help="Collection ids, comma-separated.")
@click.option(
    "--pass",
    "passes",
    multiple=True,
    type=Choice(list(INGEST_PASSES)),
    help="Only these passes, in path order. Default: all but check_files and vocabulary.",
)
def ingest(source: str | None, query: str | None, collections: str, passes: Sequence[str]) -> None:
    """Archive -> records and verified files."""
    from lesion_tasks.ingest.passes import ingest as run
    from lesion_tasks.ingest.runs import begin_ingestion, end_ingestion

    scope: dict[str, Any] = {"source": source, "query": query, "collections": collections}
    workspace = open_workspace()
    ingestion_id = begin_ingestion(workspace, **scope)
    counts = run(workspace, **scope, passes=tuple(passes)) if passes else run(workspace, **scope)
    end_ingestion(workspace, ingestion_id, counts)
    show({"ingestion": ingestion_id, **counts})


@lesion.command()
@click.option("--source", help="As for ingest.")
@click.option("--query", help="As for ingest.")
@click.option("--collections", default="", help="As for ingest.")
def vocabulary(source: str | None, query: str | None, collections: str) -> None:
    """Count what the records of a scope hold that the archive's published vocabulary does not know."""
    from lesion_tasks.ingest.vocabulary_check import check_vocabulary

    show(check_vocabulary(open_workspace(), source=source, query=query, collections=collections))


@lesion.command()
@click.option(
    "--since",
    required=True,
    help="A time in UTC, such as 2026-01-31T06:00:00, or a run: Airflow's id of it, or what `ingest` printed.",
)
def changes(since: str) -> None:
    """List what ingestion saw change: new, edited, relabelled, relicensed, withdrawn, returned."""
    from lesion_tasks.ingest.changes import list_changes
    from lesion_tasks.ingest.runs import moment_of

    workspace = open_workspace()
    rows = [
        {
            "seen_at": c.seen_at.isoformat(timespec="seconds"),
            "isic_id": c.isic_id,
            "kind": c.kind,
            "fields": ", ".join(c.fields),
        }
        for c in list_changes(workspace, moment_of(workspace, since))
    ]
    if not rows:
        click.echo("nothing changed")
    print_table(rows)


@lesion.command()
def curate() -> None:
    """Records and files -> images, or rejects with a reason."""
    from lesion_tasks.curation.curate import curate_images

    show(curate_images(open_workspace()))


@lesion.command()
@click.argument("names", nargs=-1, metavar="[SPLIT]...")
def split(names: Sequence[str]) -> None:
    """Images -> one immutable manifest for each split (default: of the default variants, and of your own catalogue)."""
    from lesion_tasks.splits.plan import plan_splits
    from lesion_tasks.splits.split import build_split

    workspace = open_workspace()
    # What one split lacks is not a reason to withhold another: pictures of one's own seldom make all of them.
    refused = {}
    told = set[str]()
    with shown_whatever_happens() as done:
        for planned in plan_splits(workspace, names):
            try:
                done[planned.name] = build_split(workspace, planned.name, told=told)
            except UnusableInputError as error:
                refused[planned.name] = error
    # One message is cut where it gets long: each has one of its own.
    if len(refused) == 1:
        raise next(iter(refused.values()))
    for why in refused.values():
        click.echo(str(why), err=True)
    if refused:
        raise UnusableInputError(f"not built: {', '.join(refused)}")


@lesion.command()
@click.argument("names", nargs=-1, metavar="[COHORT]...")
def cohorts(names: Sequence[str]) -> None:
    """Images -> the manifest of each cohort and task: what judges the models, and what of it cannot (default: all)."""
    from lesion_tasks.splits.cohort_manifest import NoImageToJudgeError, build_cohort

    own_entries.refuse_broken()
    chosen = [find_cohort(name) for name in names or COHORTS]
    if not chosen:
        click.echo("no cohort is declared", err=True)
    workspace = open_workspace()
    # One that is empty is not a reason to withhold another.
    refused = {}
    with shown_whatever_happens() as done:
        for one in chosen:
            for task in one.tasks:
                try:
                    done[f"{one.name} of {task}"] = build_cohort(workspace, one.name, task)
                except NoImageToJudgeError as error:
                    refused[f"{one.name} of {task}"] = error
    if len(refused) == 1:
        raise next(iter(refused.values()))
    for words in dict.fromkeys(map(str, refused.values())):  # the same for several tasks is said once
        click.echo(words, err=True)
    if refused:
        raise UnusableInputError(f"not built: {', '.join(refused)}")


@lesion.command()
@click.argument("names", nargs=-1, metavar="[SPLIT]...")
def materialize(names: Sequence[str]) -> None:
    """Manifest -> shards of decoded pixels, at the sizes and shapes the variants of the split ask for.

    Without names only for the default variants: `train` decodes what it lacks.
    """
    from lesion_tasks.pixels.materialize import materialize_manifest
    from lesion_tasks.splits.manifest import manifest_in_force
    from lesion_tasks.splits.plan import plan_splits

    workspace = open_workspace()
    done = {}
    for planned in plan_splits(workspace, names):
        if not planned.sizes:
            continue
        digest, _ = manifest_in_force(workspace.engine, planned.name)
        done[planned.name] = [materialize_manifest(workspace, digest, size) for size in planned.sizes]
    show(done)


@lesion.command()
@click.argument("name", metavar="SPLIT")
@click.option("--manifest", "digest", help="Digest of another manifest than the one in force.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write it there, with the manifest beside it.",
)
def croissant(name: str, digest: str | None, out: Path | None) -> None:
    """A split's manifest -> its description as Croissant JSON-LD."""
    from lesion_tasks.splits.croissant import manifest_as_croissant
    from lesion_tasks.splits.manifest import find_manifest, manifest_in_force

    workspace = open_workspace()
    digest = digest or manifest_in_force(workspace.engine, name)[0]
    with workspace.engine.connect() as connection:
        described = manifest_as_croissant(connection, workspace.bucket, digest)
        key = find_manifest(connection, digest).object_key
    if out is None:
        show(described)
        return
    out.mkdir(parents=True, exist_ok=True)
    (out / key.rpartition("/")[2]).write_bytes(workspace.bucket.get(key))
    (out / "croissant.json").write_text(json.dumps(described, indent=2))
    show({"croissant": str(out / "croissant.json"), "manifest": digest})
