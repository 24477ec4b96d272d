"""Variants -> trained models, and searches for their parameters."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import click

from lesion_tasks.catalog import VARIANTS, own_entries
from lesion_tasks.catalog.lookup import find_variant
from lesion_tasks.catalog.recipe import MAX_TRIALS
from lesion_tasks.cli.command_line import (
    lesion,
    open_workspace,
    shortening,
    show,
    shown_whatever_happens,
)


@lesion.command()
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="One JSON array instead of a table.")
def variants(name: str | None, as_json: bool) -> None:
    """List the variants, and the system that each reproduces; with a NAME, say in words what it does."""
    own_entries.refuse_broken()
    if name is not None:
        _describe(name)
        return
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


def _describe(name: str) -> None:
    from lesion_tasks.reports.recipe_words import in_words

    variant = find_variant(name)
    click.echo(f"{variant.name}: {variant.title}")
    for about, words in in_words(variant.as_recipe).items():
        click.echo(f"  {about + ':':<10}{'; '.join(words)}")


@lesion.command()
@click.argument("variants", nargs=-1, metavar="[VARIANT]...")
@click.option("--again", is_flag=True, help="Train again even if the same training is finished.")
@shortening
@click.option(
    "--trials",
    "n_trials",
    type=click.IntRange(min=0, max=MAX_TRIALS),
    default=0,
    help="Run this many search trials before the training, see `lesion tune`.",
)
@click.option(
    "--set",
    "changes",
    multiple=True,
    callback=lambda context, parameter, value: _changes(value),
    metavar="FIELD=VALUE",
    help="Another value of one field for this training, which is never promoted: seed=2, learning.ema_momentum=0 ...; "
    "may be repeated.",
)
def train(
    variants: Sequence[str],
    again: bool,
    is_smoke_run: bool,
    max_epochs: int | None,
    n_trials: int,
    changes: Mapping[str, Any],
) -> None:
    """Variant and manifest -> a stored model and keyed predictions."""
    from lesion_tasks.training.prepare import prepare_and_train
    from lesion_tasks.training.train import choose_variants

    workspace = open_workspace()
    with shown_whatever_happens() as done:
        for name in choose_variants(
            workspace,
            variants=variants,
            policy="always",
            n_trials=n_trials,
            is_smoke_run=is_smoke_run,
            changes=changes,
        ):
            done[name] = prepare_and_train(
                workspace,
                name,
                again=again,
                is_smoke_run=is_smoke_run,
                max_epochs=max_epochs,
                n_trials=n_trials,
                changes=changes,
            )


def _changes(said: Sequence[str]) -> dict[str, Any]:
    """FIELD=VALUE, each a field once; a value is JSON, or text as it stands."""
    found: dict[str, Any] = {}
    for one in said:
        name, sign, value = one.partition("=")
        if not sign or not name or name in found:
            raise click.BadParameter(f"{one!r}: expected FIELD=VALUE, each field once, such as seed=2")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


@lesion.command()
@click.argument("variant")
@click.option(
    "--trials", "n_trials", type=click.IntRange(min=1, max=MAX_TRIALS), default=20, show_default=True
)
@shortening
def tune(variant: str, n_trials: int, is_smoke_run: bool, max_epochs: int | None) -> None:
    """Search for a variant's best parameters on val; trials made before count, test stays closed."""
    from lesion_tasks.catalog.lookup import find_variant
    from lesion_tasks.training.prepare import prepare_training
    from lesion_tasks.training.search import space_of, tune_variant

    workspace = open_workspace()
    space_of(find_variant(variant))  # before anything that takes time
    prepare_training(workspace, variant, is_smoke_run=is_smoke_run)
    show(
        tune_variant(workspace, variant, n_trials=n_trials, is_smoke_run=is_smoke_run, max_epochs=max_epochs)
    )


@lesion.command()
@click.argument("folder")
def masks(folder: str) -> None:
    """A folder of lesion masks -> the bucket, for the variants that look at the lesion alone (optional)."""
    from lesion_tasks.training.masks import import_masks

    show(import_masks(open_workspace(), folder))
