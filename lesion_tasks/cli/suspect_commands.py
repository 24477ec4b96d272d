"""Predictions and look-alikes -> labels and pairs that a person should look at, and what the person decides."""

from dataclasses import asdict

import click

from lesion_tasks.cli.command_line import (
    lesion,
    number,
    open_workspace,
    person,
    print_table,
    show,
    task_option,
)
from lesion_tasks.metrics.counted import plural


@lesion.command()
@click.argument("training_id", required=False)
@task_option
@click.option("--pairs", "is_pairs", is_flag=True, help="Pairs that may show one lesion, instead of labels.")
@click.option("--n", default=20, show_default=True, type=click.IntRange(min=1), help="How many.")
def suspects(training_id: str | None, task: str, is_pairs: bool, n: int) -> None:
    """List labels that a training disagrees with, by its held-out predictions (default: the champion's)."""
    from lesion_tasks.evaluation.find_suspects import suspect_labels_of, suspect_pairs

    workspace = open_workspace()
    if is_pairs:
        with workspace.engine.connect() as connection:
            rows = [asdict(one) for one in suspect_pairs(connection, n)]
    else:
        found = suspect_labels_of(workspace, task, training_id)
        click.echo(f"{plural(len(found.labels), 'label')} that it disagrees with. {found.looked_at}")
        rows = [asdict(one) | {"subset": found.subset_by_id[one.isic_id]} for one in found.labels[:n]]
    print_table(
        [
            {name: number(value, ".3f") if isinstance(value, float) else value for name, value in row.items()}
            for row in rows
        ]
    )


@lesion.command()
@click.argument("decision", required=False)
@click.argument("isic_id", required=False)
@click.argument("other_isic_id", required=False)
@task_option
@click.option("--reason", help="Why, in words.")
@click.option("--withdraw", type=int, help="Take the correction of this number back instead.")
def correct(
    decision: str | None,
    isic_id: str | None,
    other_isic_id: str | None,
    task: str,
    reason: str | None,
    withdraw: int | None,
) -> None:
    """Decide: label_set_aside or label_kept IMAGE, lesions_joined or lesions_apart IMAGE OTHER. Alone: list."""
    from lesion_tasks.curation.apply_correction import correct as decide
    from lesion_tasks.curation.apply_correction import withdraw_correction
    from lesion_tasks.curation.corrections import list_corrections

    workspace = open_workspace()
    if withdraw is not None or decision is not None:
        workspace.settings.approval_rules.require_corrector(person=person())
    if withdraw is not None:
        withdraw_correction(workspace, withdraw, withdrawn_by=person())
        show({"withdrawn": withdraw})
        return
    if decision is None:
        with workspace.engine.connect() as connection:
            found = list_corrections(connection, has_withdrawn=True)
        names = (
            "correction_id", "decision", "isic_id", "other_isic_id", "task", "reason", "decided_by", "withdrawn_by",
        )  # fmt: skip
        print_table([{name: getattr(one, name) for name in names} for one in found])
        return
    if isic_id is None:
        raise click.UsageError("expected the id of an image after the decision")
    number = decide(
        workspace,
        decision,
        isic_id,
        other_isic_id=other_isic_id,
        task=task,
        reason=reason or "",
        decided_by=person(),
    )
    show({"correction": number})
