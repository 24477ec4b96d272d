"""Trainings -> reports and tables that compare them."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from lesion_tasks import UnusableInputError
from lesion_tasks.catalog.lookup import cohorts_chosen, find_cohort
from lesion_tasks.catalog.split_recipes import HELD_OUT_BY, N_TRAININGS
from lesion_tasks.cli.command_line import (
    Choice,
    TaskName,
    interval,
    lesion,
    number,
    open_workspace,
    print_table,
    shortening,
    show,
    shown_whatever_happens,
)


@lesion.command()
@click.argument("training_ids", nargs=-1, metavar="[TRAINING]...")
@click.option("--manifest", help="Digest of another manifest of the same task to score and evaluate on.")
@click.option(
    "--cohort",
    "cohorts",
    multiple=True,
    help="Judge on this cohort of other data alone; repeatable; `none`: on none. Default: every cohort of the task.",
)
def evaluate(training_ids: Sequence[str], manifest: str | None, cohorts: Sequence[str]) -> None:
    """Training -> a report bundle and a verdict (default: every finished training without one, or without --cohort)."""
    from lesion_tasks.evaluation.evaluate import choose_trainings, evaluate_training
    from lesion_tasks.evaluation.evaluation_record import list_not_judged
    from lesion_tasks.training.run_record import list_finished

    if manifest and cohorts:
        raise UnusableInputError(
            "--manifest with --cohort: a cohort is judged with a training's own manifest; expected one of them"
        )
    wanted = cohorts_chosen(cohorts)
    for name in wanted or ():
        find_cohort(name)  # before anything that takes time
    workspace = open_workspace()
    with shown_whatever_happens() as done:
        for training_id in training_ids or choose_trainings(workspace, wanted):
            done[training_id] = evaluate_training(
                workspace, training_id, manifest_digest=manifest, cohorts=wanted
            )
        if not done:
            with workspace.engine.connect() as connection:
                is_any = bool(list_finished(connection))
                for name in wanted or ():
                    for training_id, reason, key in list_not_judged(connection, name):
                        why = f"{training_id}: not judged on cohort {name}, because {reason.rstrip('.')}"
                        click.echo(f"{why}; report: {workspace.bucket.url}/{key}", err=True)
            why = "every finished training has its evaluation" if is_any else "no training is finished"
            click.echo(f"{why}: nothing to do", err=True)


@lesion.command("leave-out")
@click.argument("variant")
@click.option(
    "--by",
    default="attribution",
    show_default=True,
    type=Choice(list(HELD_OUT_BY)),
    help="What is held out, one value after the other: an institution, a collection, or a site.",
)
@click.option(
    "--seeds",
    "n_seeds",
    type=click.IntRange(min=1),
    help=f"Trainings of each, with other seeds; default: {N_TRAININGS}, or 1 where another seed gives the same model.",
)
@shortening
def leave_out(variant: str, by: str, n_seeds: int | None, is_smoke_run: bool, max_epochs: int | None) -> None:
    """Variant -> trained without each institution, tested on it, and one report: what a new one may expect."""
    from lesion_tasks.evaluation.held_out_report import choose_folds, report_held_out, train_fold

    workspace = open_workspace()
    with shown_whatever_happens() as done:
        chosen = choose_folds(workspace, variant, by, n_seeds=n_seeds, is_smoke_run=is_smoke_run)
        for fold in chosen:
            done[fold.words] = train_fold(
                workspace, variant, fold, is_smoke_run=is_smoke_run, max_epochs=max_epochs
            )
        key = report_held_out(workspace, chosen[0].held_out.manifest_digest, by, list(done.values()))
        done["report"] = f"{workspace.bucket.url}/{key}"


@lesion.command()
@click.argument("training_id")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Copy the whole bundle there.")
def report(training_id: str, out: Path | None) -> None:
    """Say where a training's report is and what it says in brief, or copy it out of the bucket."""
    from lesion_tasks.pages.report_now import read_now
    from lesion_tasks.pages.stored_files import say_if_pruned
    from lesion_tasks.reports.bundle import read_bundle
    from lesion_tasks.reports.in_brief import in_brief

    workspace = open_workspace()
    bucket = workspace.bucket
    folder = f"reports/{training_id}/"
    keys = list(bucket.list_keys(folder))
    if f"{folder}report.html" not in keys:
        say_if_pruned(workspace, f"{training_id}/report.html")
        raise UnusableInputError(
            f"training {training_id!r} has no report in {bucket.url}, expected {folder}report.html"
        )
    said = in_brief(read_bundle(json.loads(bucket.get(f"{folder}metrics.json"))))
    if (now := read_now(workspace, f"{training_id}/report.html")) is not None:
        said["now"] = ": ".join(filter(None, (now.state.name.replace("_", " "), now.state.words)))
    if out is None:
        show({"report": f"{bucket.url}/{folder}report.html", "files": len(keys), **said})
        return
    for key in keys:
        path = out / key.removeprefix(folder)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bucket.get(key))
    show({"report": str(out / "report.html"), "files": len(keys), **said})


@lesion.command()
@click.argument("training_id")
@click.option(
    "--subset",
    default="test",
    show_default=True,
    type=Choice(["train", "val", "test"]),
    help="Train: of a variant with folds alone, by models that did not see the image.",
)
@click.option("--manifest", help="Digest of another manifest that it was evaluated on.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Default: standard output.")
def predictions(training_id: str, subset: str, manifest: str | None, out: Path | None) -> None:
    """Write a training's predictions as CSV: image, label, and the probability of each class."""
    from lesion_tasks.evaluation.export_predictions import labelled_predictions

    table = labelled_predictions(open_workspace(), training_id, subset, manifest_digest=manifest)
    table.to_csv(sys.stdout if out is None else out, index=False)


@lesion.command()
@click.argument("candidate")
@click.argument("champion")
def compare(candidate: str, champion: str) -> None:
    """Compare two trainings on the same test images, pair by pair."""
    from lesion_tasks.evaluation.comparison import compare_trainings

    found = compare_trainings(open_workspace(), candidate, champion)
    rows = [
        {
            "measure": name,
            candidate: number(d.candidate),
            champion: number(d.champion),
            "difference": number(d.value, "+.4f"),
            "95 % interval": interval(d.low, d.high),
            "p": number(d.p_value),
        }
        for name, d in found.differences.items()
    ]
    print_table(rows)
    parts = [
        {
            "slice": f"{part.attribute}: {part.value}",
            "images": part.n_images,
            "difference": number(part.difference.value, "+.4f"),
            "interval": interval(part.difference.low, part.difference.high),
        }
        for part in found.slices
        if part.difference is not None
    ]
    if parts:
        click.echo("By slice, intervals widened to hold together:")
        print_table(parts)
    if found.two_by_two is not None:
        click.echo("Old and new model on old and new data:")
        print_table([{"": name, "value": number(value)} for name, value in found.two_by_two])


@lesion.command()
@click.option("--task", type=TaskName(), help="Default: every task.")
@click.option("--archived", "has_archived", is_flag=True, help="Archived ones too.")
def leaderboard(task: str | None, has_archived: bool) -> None:
    """Show every evaluated training, best first, and the champions."""
    from lesion_tasks.evaluation.leaderboard import gone_tasks
    from lesion_tasks.evaluation.publish import leaderboard_lines

    workspace = open_workspace()
    found = leaderboard_lines(workspace, has_archived=has_archived)
    rows = [line.cells for line in found if task in {None, line.task}]
    with workspace.engine.connect() as connection:
        for name, n in gone_tasks(connection).items():
            click.echo(
                f"not shown: trainings of task {name!r}, which is not in the catalogue ({n:,})", err=True
            )
    if not rows:
        click.echo("nothing has been evaluated yet")
    print_table(rows)


@lesion.command()
@click.option(
    "--train",
    "is_training",
    is_flag=True,
    help="Train and evaluate what is missing on the manifests in force first; this takes hours.",
)
@click.option(
    "--max-epochs", type=click.IntRange(min=1), help="With --train: at most this many in each stage."
)
@click.option(
    "--base",
    "bases",
    multiple=True,
    metavar="TRAINING",
    help="Also list what one change at a time brought to this training, on val; may be repeated.",
)
@click.option(
    "--note", default="", help="What the database does not know, such as which weights are approximations."
)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Default: standard output.")
def paper(
    is_training: bool, max_epochs: int | None, bases: Sequence[str], note: str, out: Path | None
) -> None:
    """Evaluations -> the tables of the published systems that variants reproduce, in Markdown."""
    from lesion_tasks.evaluation.paper import train_paper, write_paper

    if max_epochs is not None and not is_training:
        raise UnusableInputError("--max-epochs without --train: nothing is trained; expected both or neither")
    if out is not None and not out.parent.is_dir():
        raise UnusableInputError(f"--out {out}: there is no folder {out.parent}; expected one that exists")
    workspace = open_workspace()
    refusals = {}
    if is_training:
        for one in train_paper(workspace, max_epochs=max_epochs):
            click.echo(f"{one.variant}: {one.training_id or f'not trained: {one.refusal}'}", err=True)
            if one.refusal is not None:
                refusals[one.variant] = one.refusal
    page = write_paper(workspace, bases, note, refusals)
    if out is None:
        click.echo(page, nl=False)
    else:
        out.write_text(page, encoding="utf-8")
