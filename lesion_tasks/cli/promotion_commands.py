"""Evaluations -> decisions about champions."""

from collections.abc import Sequence
from dataclasses import asdict

import click

from lesion_tasks.catalog import TASKS
from lesion_tasks.cli.command_line import (
    TaskName,
    lesion,
    open_workspace,
    person,
    print_table,
    show,
    shown_whatever_happens,
    task_option,
)


@lesion.command()
@click.option("--task", "tasks", multiple=True, type=TaskName(), help="Default: every task.")
@click.option("--despite-gates", is_flag=True, help="Promote the best candidate even if it misses a gate.")
@click.option(
    "--training", help="Despite the gates: a training that they refused, to be promoted all the same."
)
@click.option("--reason", help="Why the gates are passed over, in words: kept with the decision.")
def promote(tasks: Sequence[str], despite_gates: bool, training: str | None, reason: str | None) -> None:
    """Evaluations -> a decision with its reason, and perhaps a new champion."""
    from lesion_tasks.promotion.overrides import read_force
    from lesion_tasks.promotion.promote import plan_promotion, promote_model
    from lesion_tasks.promotion.questions import gather_answers

    workspace = open_workspace()
    if despite_gates:
        workspace.settings.approval_rules.require_approver("promote despite the gates", person=person())
    force = read_force(training, reason, is_forced=despite_gates, asked_by=person())
    with shown_whatever_happens() as done:
        for instruction in gather_answers(
            workspace,
            tasks=list(tasks or TASKS),
            answers=(),
            approval="never",
            is_forced=despite_gates,
            triggered_by=person(),
            force=force,
        ):
            for missing in plan_promotion(workspace, task=instruction.task, force=force)["rescore"]:
                from lesion_tasks.evaluation.evaluate import evaluate_training

                evaluate_training(workspace, **missing)
            decision = promote_model(workspace, **asdict(instruction), is_forced=despite_gates, force=force)
            done[instruction.task] = decision.as_dict()


@lesion.command()
@click.option("--to", "training_id", help="An earlier champion. Default: the one before the present.")
@task_option
@click.option("--reason", required=True, help="Why, in words.")
def rollback(training_id: str | None, task: str, reason: str) -> None:
    """Restore an earlier champion."""
    from lesion_tasks.promotion.promote import rollback_champion

    decision = rollback_champion(
        open_workspace(), training_id=training_id, reason=reason, task=task, decided_by=person()
    )
    show(decision.as_dict())


@lesion.command()
@task_option
def champion(task: str) -> None:
    """Show the present champion of a task and why it is."""
    from lesion_tasks.evaluation.decisions import champion_of
    from lesion_tasks.evaluation.write_champion_json import champion_entry

    with open_workspace().engine.connect() as connection:
        found = champion_of(connection, task)
        entry = champion_entry(connection, found).model_dump() if found else {"champion": None}
    show(entry)


@lesion.command()
@task_option
def history(task: str) -> None:
    """List every decision about a task's champion, the newest first."""
    from lesion_tasks.evaluation.decisions import decisions_of

    with open_workspace().engine.connect() as connection:
        rows = [one.model_dump() for one in decisions_of(connection, task)]
    if not rows:
        click.echo("no decision yet")
    print_table(rows)


@lesion.command()
@click.argument("training_id")
@click.option("--reason", help="Why, in words.")
@click.option("--return", "is_returned", is_flag=True, help="Take it back instead.")
def archive_training(training_id: str, reason: str | None, is_returned: bool) -> None:
    """Put a training aside: no longer a candidate, and not on the leaderboard. Deletes nothing."""
    from lesion_tasks.promotion.archive_training import archive_training as archive
    from lesion_tasks.promotion.archive_training import return_training

    if is_returned:
        return_training(open_workspace(), training_id, returned_by=person())
        show({"training": training_id, "archived": None})
        return
    if reason is None:
        raise click.UsageError("expected --reason, why it is archived, or --return")
    words = archive(open_workspace(), training_id, reason=reason, archived_by=person())
    show({"training": training_id, "archived": words})


@lesion.command()
def overdue() -> None:
    """List what has not happened for too long: a complete ingestion, a new champion."""
    from lesion_tasks.upkeep.notices import overdue as find

    show([notice.as_dict() for notice in find(open_workspace(), "lesion overdue")])


@lesion.command()
def publish() -> None:
    """Rewrite champion.json, champions/ and reports/index.html from the database."""
    from lesion_tasks.evaluation.publish import publish as write

    write(open_workspace())
    show({"published": ["reports/index.html", "champions/", "champion.json"]})
