"""`lesion`: every step without Airflow, in the order the data takes. Also `python -m lesion_tasks`."""

import json
import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from getpass import getuser
from pathlib import Path
from typing import Any

import click

from lesion_tasks import UnavailableError, UnusableInputError, __version__
from lesion_tasks.catalog import SPLITS, TASKS, VARIANTS, InputSize

INGEST_PASSES = ("append", "reconcile", "sweep", "check_files", "fetch")


class _Path(click.Group):
    """A group that lists its commands in the order they were added: the order of the path."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(cls=_Path, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__)
def lesion() -> None:
    """Retrain skin-lesion classifiers from the ISIC Archive, with numbers that can be trusted.

    Each command is one step of the path and can be run again or killed at any moment. Settings are LESION_*
    environment variables; without any, an embedded Postgres and a directory under ./var are used.
    """


@lesion.command()
def setup() -> None:
    """Create the database's tables, or bring them to the newest version."""
    from lesion_tasks.database.connection import migrate

    migrate()
    _show({"database": "up to date"})


@lesion.command()
@click.option("--source", help="API base URL or a download folder. Default: LESION_ARCHIVE_URL.")
@click.option("--query", help="Search DSL that limits the scope. Default: LESION_QUERY.")
@click.option("--collections", default="", help="Collection ids, comma-separated.")
@click.option(
    "--pass",
    "passes",
    multiple=True,
    type=click.Choice(INGEST_PASSES),
    help="Only these layers, in path order. Default: all but check_files.",
)
def ingest(source: str | None, query: str | None, collections: str, passes: Sequence[str]) -> None:
    """Archive -> records and verified files."""
    from lesion_tasks.ingest.passes import ingest as run
    from lesion_tasks.ingest.runs import begin_ingestion, end_ingestion

    scope: dict[str, Any] = {"source": source, "query": query, "collections": collections}
    ingestion_id = begin_ingestion(**scope)
    counts = run(**scope, passes=tuple(passes)) if passes else run(**scope)
    end_ingestion(ingestion_id, counts)
    _show({"ingestion": ingestion_id, **counts})


@lesion.command()
@click.option("--source", help="As for ingest.")
@click.option("--query", help="As for ingest.")
@click.option("--collections", default="", help="As for ingest.")
def vocabulary(source: str | None, query: str | None, collections: str) -> None:
    """Count what the records of a scope hold that the archive's published vocabulary does not know."""
    from lesion_tasks.ingest.vocabulary_check import check_vocabulary

    _show(check_vocabulary(source=source, query=query, collections=collections))


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

    rows = [
        {
            "seen_at": c.seen_at.isoformat(timespec="seconds"),
            "isic_id": c.isic_id,
            "kind": c.kind,
            "fields": ", ".join(c.fields),
        }
        for c in list_changes(moment_of(since))
    ]
    if not rows:
        click.echo("nothing changed")
    _print_table(rows)


@lesion.command()
def curate() -> None:
    """Records and files -> images, or rejects with a reason."""
    from lesion_tasks.curation.curate import curate_images

    _show(curate_images())


@lesion.command()
@click.argument("names", nargs=-1, metavar="[SPLIT]...")
def split(names: Sequence[str]) -> None:
    """Images -> one immutable manifest for each split (default: those of the default variants)."""
    from lesion_tasks.splits.split import build_split

    _show({name: build_split(name) for name in names or _default_splits()})


@lesion.command()
@click.argument("names", nargs=-1, metavar="[SPLIT]...")
def materialize(names: Sequence[str]) -> None:
    """Manifest -> shards of decoded pixels, at the sizes and shapes the variants of the split ask for."""
    from lesion_tasks.catalog import input_sizes_of
    from lesion_tasks.database.connection import database_url, engine_for
    from lesion_tasks.pixels.materialize import materialize_manifest
    from lesion_tasks.splits.manifest import manifest_in_force
    from lesion_tasks.training.train import choose_variants

    engine = engine_for(database_url())
    # A split that is named is wanted whole; else only what the chosen variants look at.
    chosen = None if names else choose_variants(policy="always")
    done = {}
    for name in names or _default_splits():
        digest, _ = manifest_in_force(engine, name)
        done[name] = [materialize_manifest(digest, size) for size in input_sizes_of(name, chosen)]
    _show(done)


def _shortening(command: Any) -> Any:
    """The options that shorten a training or a search."""
    for option in (
        click.option(
            "--max-epochs", type=click.IntRange(min=1), help="At most this many epochs in each stage."
        ),
        click.option(
            "--smoke",
            "is_smoke_run",
            is_flag=True,
            help="One epoch on tiny pictures, never promoted: does it run?",
        ),
    ):
        command = option(command)
    return command


@lesion.command()
@click.argument("variants", nargs=-1, metavar="[VARIANT]...")
@click.option("--again", is_flag=True, help="Run a training anew although the same one is finished.")
@_shortening
@click.option(
    "--trials",
    "n_trials",
    type=click.IntRange(min=0),
    default=0,
    help="Before it, so many trials of a search for the best parameters, see `lesion tune`.",
)
def train(
    variants: Sequence[str], again: bool, is_smoke_run: bool, max_epochs: int | None, n_trials: int
) -> None:
    """Variant and manifest -> a stored model and keyed predictions."""
    from lesion_tasks.training.prepare import prepare_training
    from lesion_tasks.training.train import choose_variants, train_variant

    with _shown_whatever_happens() as done:
        for name in choose_variants(variants=variants, policy="always"):
            prepare_training(name, is_smoke_run=is_smoke_run)
            done[name] = train_variant(
                name, again=again, is_smoke_run=is_smoke_run, max_epochs=max_epochs, n_trials=n_trials
            )


@lesion.command()
@click.argument("variant")
@click.option("--trials", "n_trials", type=click.IntRange(min=1), default=20, show_default=True)
@_shortening
def tune(variant: str, n_trials: int, is_smoke_run: bool, max_epochs: int | None) -> None:
    """Search for a variant's best parameters on val; trials made before count, test stays closed."""
    from lesion_tasks.catalog.lookup import find_variant
    from lesion_tasks.training.prepare import prepare_training
    from lesion_tasks.training.search import space_of, tune_variant

    space_of(find_variant(variant))  # before anything that takes time
    prepare_training(variant, is_smoke_run=is_smoke_run)
    _show(tune_variant(variant, n_trials=n_trials, is_smoke_run=is_smoke_run, max_epochs=max_epochs))


@lesion.command()
@click.argument("training_ids", nargs=-1, metavar="[TRAINING]...")
@click.option("--manifest", help="Digest of another manifest of the same task to score and evaluate on.")
def evaluate(training_ids: Sequence[str], manifest: str | None) -> None:
    """Training -> a report bundle and a verdict (default: every finished training without one)."""
    from lesion_tasks.evaluation.evaluate import evaluate_training, list_unevaluated

    with _shown_whatever_happens() as done:
        for training_id in training_ids or list_unevaluated():
            done[training_id] = evaluate_training(training_id, manifest_digest=manifest)
        if not done:
            click.echo("every finished training has its evaluation: nothing to do", err=True)


@lesion.command()
@click.option("--task", "tasks", multiple=True, type=click.Choice(sorted(TASKS)), help="Default: every task.")
@click.option("--despite-gates", is_flag=True, help="Promote the best candidate although it misses a gate.")
def promote(tasks: Sequence[str], despite_gates: bool) -> None:
    """Evaluations -> a decision with its reason, and perhaps a new champion."""
    from lesion_tasks.promotion.promote import RULE, plan_promotion, promote_model

    with _shown_whatever_happens() as done:
        for task in tasks or TASKS:
            plan = plan_promotion(task=task)
            for missing in plan["rescore"]:
                from lesion_tasks.evaluation.evaluate import evaluate_training
                from lesion_tasks.pixels.materialize import materialize_manifest

                if missing["input_size"] is not None:
                    materialize_manifest(missing["manifest_digest"], InputSize.parse(missing["input_size"]))
                evaluate_training(missing["training_id"], manifest_digest=missing["manifest_digest"])
            done[task] = promote_model(
                task=task, is_forced=despite_gates, decided_by=_person() if despite_gates else RULE
            )


@lesion.command()
@click.option("--to", "training_id", help="An earlier champion. Default: the one before the present.")
@click.option("--task", default="malignancy", type=click.Choice(sorted(TASKS)), show_default=True)
@click.option("--reason", required=True, help="Why, in words.")
def rollback(training_id: str | None, task: str, reason: str) -> None:
    """Put an earlier champion back."""
    from lesion_tasks.promotion.promote import rollback_champion

    _show(rollback_champion(training_id=training_id, reason=reason, task=task, decided_by=_person()))


@lesion.command()
@click.option("--task", type=click.Choice(sorted(TASKS)), help="Default: every task.")
def leaderboard(task: str | None) -> None:
    """Show every evaluated training, best first, and the champions."""
    from lesion_tasks.promotion.promote import leaderboard as read

    rows = [row for row in read() if task in {None, row["task"]}]
    if not rows:
        click.echo("nothing has been evaluated yet")
    _print_table(rows)


@lesion.command()
@click.argument("training_id")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Copy the whole bundle there.")
def report(training_id: str, out: Path | None) -> None:
    """Say where a training's report is, or copy it out of the bucket."""
    from lesion_tasks.bucket import open_bucket

    bucket = open_bucket()
    folder = f"reports/{training_id}/"
    keys = list(bucket.list_keys(folder))
    if f"{folder}report.html" not in keys:
        raise UnusableInputError(
            f"training {training_id!r} has no report in {bucket.url}, expected {folder}report.html"
        )
    if out is None:
        _show({"report": f"{bucket.url}/{folder}report.html", "files": len(keys)})
        return
    for key in keys:
        path = out / key.removeprefix(folder)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bucket.get(key))
    _show({"report": str(out / "report.html"), "files": len(keys)})


@lesion.command()
@click.argument("candidate")
@click.argument("champion")
def compare(candidate: str, champion: str) -> None:
    """Compare two trainings on the same test images, pair by pair."""
    from lesion_tasks.evaluation.comparison import compare_trainings

    found = compare_trainings(candidate, champion)
    rows = [
        {
            "measure": name,
            candidate: _number(d["candidate"]),
            champion: _number(d["champion"]),
            "difference": _number(d["value"], "+.4f"),
            "95 % interval": f"{_number(d['low'], '+.4f')} to {_number(d['high'], '+.4f')}",
            "p": _number(d["p_value"]),
        }
        for name, d in found["differences"].items()
    ]
    _print_table(rows)
    parts = [part for part in found["slices"] if part["difference"]]
    if parts:
        click.echo("By slice, intervals widened to hold together:")
        _print_table([_slice_row(part) for part in parts])
    if found["two_by_two"]:
        click.echo("Old and new model on old and new data:")
        _print_table([{"": name, "value": _number(value)} for name, value in found["two_by_two"].items()])


def _slice_row(part: Mapping[str, Any]) -> dict[str, Any]:
    d = part["difference"]
    return {
        "slice": f"{part['attribute']}: {part['value']}",
        "images": part["n_images"],
        "difference": _number(d["value"], "+.4f"),
        "interval": f"{_number(d['low'], '+.4f')} to {_number(d['high'], '+.4f')}",
    }


@lesion.command()
@click.option("--task", default="malignancy", type=click.Choice(sorted(TASKS)), show_default=True)
def champion(task: str) -> None:
    """Show the present champion of a task and why it is."""
    from lesion_tasks.database.connection import database_url, engine_for
    from lesion_tasks.evaluation.leaderboard import champion_of

    with engine_for(database_url()).connect() as connection:
        row = champion_of(connection, task)
    _show(dict(row._mapping) if row else {"champion": None})


@lesion.command()
@click.option("--task", default="malignancy", type=click.Choice(sorted(TASKS)), show_default=True)
def history(task: str) -> None:
    """List every decision about a task's champion, the newest first."""
    from lesion_tasks.database.connection import database_url, engine_for
    from lesion_tasks.evaluation.leaderboard import decisions_of

    with engine_for(database_url()).connect() as connection:
        rows = decisions_of(connection, task)
    if not rows:
        click.echo("no decision yet")
    _print_table(rows)


@lesion.command()
def publish() -> None:
    """Write champion.json and reports/index.html anew from the database."""
    from lesion_tasks.bucket import open_bucket
    from lesion_tasks.database.connection import database_url, engine_for
    from lesion_tasks.evaluation.leaderboard import publish as write

    with engine_for(database_url()).connect() as connection:
        write(open_bucket(), connection)
    _show({"published": ["reports/index.html", "champion.json"]})


@lesion.command()
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@click.option("--task", default="malignancy", type=click.Choice(sorted(TASKS)), show_default=True)
@click.option("--age", "age_years", type=float, help="Age in years, where the model asks for it.")
@click.option("--sex", type=click.Choice(["female", "male"]), help="Sex, where the model asks for it.")
@click.option("--size", "size_mm", type=float, help="Longest diameter in mm, where the model asks for it.")
def predict(
    images: Sequence[str], task: str, age_years: float | None, sex: str | None, size_mm: float | None
) -> None:
    """Pictures -> the champion's probabilities, from the bucket alone. For research, not for diagnosis."""
    from lesion_tasks.promotion.serve import predict_images

    is_male = None if sex is None else float(sex == "male")
    given = {"age_years": age_years, "is_male": is_male, "size_mm": size_mm}
    known = {name: value for name, value in given.items() if value is not None}
    _show(predict_images(images, task=task, metadata=known))


@lesion.command()
@click.argument("folder")
def masks(folder: str) -> None:
    """A folder of lesion masks -> the bucket, for the variants that look at the lesion alone (optional)."""
    from lesion_tasks.training.masks import import_masks

    _show(import_masks(folder))


@lesion.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON array instead of a table.")
def variants(as_json: bool) -> None:
    """List the variants, and the system that each reproduces."""
    rows = [
        {
            "name": v.name,
            "reproduces": v.reproduces or "",
            "split": v.split,
            "title": v.title,
        }
        for v in VARIANTS.values()
    ]
    if as_json:
        flags = [
            {"is_promotable": v.is_promotable, "is_searchable": v.search is not None}
            for v in VARIANTS.values()
        ]
        click.echo(json.dumps([row | more for row, more in zip(rows, flags, strict=True)], indent=2))
        return
    width = {key: max(len(row[key]) for row in rows) for key in rows[0]}
    for row in rows:
        click.echo("  ".join(value.ljust(width[key]) for key, value in row.items()).rstrip())


@lesion.command(hidden=True)
def docs() -> None:
    """Write the generated parts of the documents anew."""
    from lesion_tasks.cli.documents import write_documents

    _show({"changed": write_documents()})


def _default_splits() -> list[str]:
    from lesion_tasks.training.train import choose_variants

    chosen = {VARIANTS[name].split for name in choose_variants(policy="always")}
    return [name for name in SPLITS if name in chosen]


def _number(value: float | None, form: str = ".4f") -> str:
    return "" if value is None else format(value, form)


def _print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    if not rows:
        return
    columns = list(dict.fromkeys(name for row in rows for name in row))
    table = Table(*columns)
    for row in rows:
        table.add_row(*(str(row.get(name) or "") for name in columns))
    # Where there is no terminal to ask, wide enough for ids and reasons.
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def _person() -> str:
    """Who gives this command; an account without a name (a container's user id, say) is a person all the same."""
    try:
        return getuser()
    except (KeyError, OSError):
        return "unnamed person"


@contextmanager
def _shown_whatever_happens() -> Iterator[dict[str, Any]]:
    """Results gathered one after the other and printed as one JSON object, also when a later one fails."""
    done: dict[str, Any] = {}
    try:
        yield done
    finally:
        if done:
            _show(done)


def _show(result: Any) -> None:
    click.echo(json.dumps(result, indent=2, default=str))


def main() -> None:
    """Run the command line; bad input, and what cannot be reached, end with one line and exit status 1."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")  # TensorFlow's notes on its start, not its warnings
    try:
        lesion(prog_name="lesion")
    except (UnusableInputError, UnavailableError) as error:
        click.echo(f"lesion: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
