"""What there is to decide -> questions to a person; their answers -> input for each task's decision."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection

from lesion_tasks.catalog.approvals import AS_SET, PAGES, RULE, UNNAMED, Answer
from lesion_tasks.catalog.lookup import find_task
from lesion_tasks.database.locks import Lock, lock_until_commit
from lesion_tasks.evaluation.candidacy import TaskNow, read_task
from lesion_tasks.evaluation.decisions import DECIDING, decisions_about, supersede_question
from lesion_tasks.evaluation.evaluation_record import find_evaluation, findings_digest
from lesion_tasks.evaluation.open_questions import (
    Asked,
    asked_by,
    find_question,
    open_question,
    request_of,
    run_of,
)
from lesion_tasks.promotion.candidates import best_of, find_candidate, find_candidates
from lesion_tasks.promotion.overrides import Force, obstacle_to, override_in, tasks_to_decide
from lesion_tasks.promotion.proposal import body_of, find_round, propose, subject_of
from lesion_tasks.reports.words import decider, outcome_title
from lesion_tasks.training.run_record import find_finished
from lesion_tasks.workspace import Workspace

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Question(Asked):
    """What a person is asked about one task."""

    subject: str
    body: str  # Markdown
    assigned_users: list[dict[str, str]]  # who may answer; empty: anybody


@dataclass(frozen=True, kw_only=True)
class Asker:
    """The run of Airflow that asks."""

    run_id: str
    wait: timedelta  # for an answer
    goes_on: Callable[[str], bool]  # whether a run, such as one that asked before, has not ended


@dataclass(frozen=True, kw_only=True)
class Instruction:
    """What to decide about one task, as `promote_model` takes it."""

    task: str
    decided_by: str
    needs_answer: bool
    asked_about: str | None = None
    asked_against: str | None = None
    findings_sha256: str | None = None
    answer: Answer | None = None
    answer_reason: str = ""


def write_questions(
    workspace: Workspace,
    *,
    tasks: Sequence[str],
    approval: str = AS_SET,
    is_forced: bool = False,
    force: Force | None = None,
    only: Sequence[str] | None = None,
    asker: Asker | None = None,
) -> list[Question]:
    """A question for each task that has a candidate; empty if nobody is asked.

    `approval`: one of APPROVALS. `is_forced`: an approval promotes despite the gates, and the question says so, with
    who asks for that and why (`force`). With an override there is one question, about the training whose refusal it is
    to override, unless something else was decided about that meanwhile. `only`: about one of these trainings.

    `asker` notes its questions: there is one about each candidate, so what another run asks already is not asked again,
    unless that question has been overtaken, or this one is asked despite the gates and that one is not: then it ends as
    superseded.
    """
    rules = workspace.settings.approval_rules
    if not rules.is_asking(approval):
        return []
    questions = []
    for task in tasks_to_decide(workspace, tasks, force):
        with workspace.engine.connect() as connection:
            found = find_round(connection, workspace.bucket, task, force, only)
            proposal, _ = propose(connection, workspace.bucket, task, found.candidates)
        if proposal is None:
            log.info("%s: nobody is asked, since nothing can be promoted", task)
            continue
        question = Question(
            task_name=task,
            asked_about=proposal.candidate.training_id,
            asked_against=proposal.previous,
            findings_sha256=proposal.candidate.findings_sha256,
            is_override=override_in(force) is not None,
            is_forced=is_forced,
            only=only,
            request_id=None if asker is None else request_of(asker.run_id, task),
            subject=subject_of(proposal, is_forced=is_forced),
            body=body_of(proposal, report_base=PAGES, is_forced=is_forced, force=force),
            assigned_users=rules.assigned_users,
        )
        if asker is None or _is_noted(workspace, question, asker):
            questions.append(question)
    return questions


def _is_noted(workspace: Workspace, question: Question, asker: Asker) -> bool:
    """Whether a run may ask, which is noted; not if another run asks about the same candidate already."""
    task, now = question.task_name, datetime.now(UTC)
    with workspace.engine.begin() as connection:
        lock_until_commit(connection, Lock.PROMOTION, task)
        other = find_question(connection, task, question.asked_about)
        if other is not None and other.request_id != question.request_id:
            is_weaker = question.is_forced and not other.is_forced
            if not is_weaker and other.ends_at > now and asker.goes_on(run_of(other)):
                why = overtaken_by(connection, asked_by(other))
                if why is None:
                    log.info(
                        "run %s asks about %s already, so this run does not",
                        run_of(other),
                        question.asked_about,
                    )
                    return False
            anew = "despite the gates" if is_weaker else "anew"
            reason = f"Run {asker.run_id} asks about {question.asked_about} {anew}."
            supersede_question(connection, other, reason=reason, decided_by=RULE)
        return open_question(connection, question, question.request_id or "", now + asker.wait)


def overtaken_by(connection: Connection, asked: Asked, now: TaskNow | None = None) -> str | None:
    """What has overtaken a question, by the database alone; None: what it shows holds, and there is no newer one.

    `now`: the state of its task as `read_task` reads it, if that was done.
    """
    task, training_id = asked.task_name, asked.asked_about
    now = now or read_task(connection, task)
    if asked.asked_against != now.champion_id:
        return f"the champion is {now.champion_id or 'none'} by now"
    if asked.is_override:
        if (why := obstacle_to(connection, task, training_id)) is not None:
            return why
    elif training_id not in now.waiting:
        return _why_not_waiting(connection, task, training_id)
    if asked.findings_sha256 not in (None, _found_now(connection, training_id)):
        return f"{training_id} was evaluated again since, which finds other things"
    question = now.questions.get(training_id)
    if asked.request_id is not None and question is not None and question.request_id != asked.request_id:
        return f"run {run_of(question)} asks about {training_id} by now"
    return None


def _why_not_waiting(connection: Connection, task: str, training_id: str) -> str:
    own = [one for one in decisions_about(connection, task, [training_id]) if one.training_id == training_id]
    if own and own[0].action in DECIDING:
        what = outcome_title(own[0].outcome)
        return f"{training_id}: {what}, decided on {own[0].decided_at.date()} by {decider(own[0].decided_by)}"
    return f"{training_id} is no candidate any more: a newer training of its variant was evaluated, or it was put aside"


def _found_now(connection: Connection, training_id: str) -> str | None:
    """A digest of what the evaluation of a training on its own manifest finds; None if it is gone."""
    digest = find_finished(connection, training_id).manifest_digest
    evaluation = find_evaluation(connection, training_id, digest)
    return None if evaluation is None else findings_digest(connection, evaluation.evaluation_id)


def is_superseded(workspace: Workspace, asked: Asked) -> bool:
    """Whether a question is obsolete: overtaken, its candidate not promotable, or another one better."""
    with workspace.engine.connect() as connection:
        find_task(asked.task_name)
        if overtaken_by(connection, asked) is not None:
            return True
        if asked.is_override:
            training = find_finished(connection, asked.asked_about)
            best = best_of([find_candidate(connection, workspace.bucket, training)])
        else:
            best = best_of(find_candidates(connection, workspace.bucket, asked.task_name, asked.only))
    return best is None or best.training_id != asked.asked_about


def gather_answers(
    workspace: Workspace,
    *,
    tasks: Sequence[str],
    answers: Sequence[Mapping[str, Any]],
    approval: str = AS_SET,
    is_forced: bool,
    triggered_by: str | None,
    force: Force | None = None,
) -> list[Instruction]:
    """What to decide about each task, with the answers of those who were asked.

    Where nobody is asked, by `approval`, the rule answers or, for a forced promotion, the person who triggered it.
    Where people are, what came after the question is not promoted without one of its own. If approvers are named,
    nobody forces a promotion alone where people are asked: the approval of the person who triggered it does not count.
    Where nobody is asked, an approver has to trigger it. What does not count expires, and ends no candidacy.
    """
    by_task = {answer["task_name"]: answer for answer in answers}
    person = triggered_by or UNNAMED
    is_asking = workspace.settings.approval_rules.is_asking(approval)
    return [
        _instruction(
            workspace,
            task,
            by_task.get(task),
            is_forced=is_forced,
            person=person,
            needs_answer=is_asking,
        )
        for task in tasks_to_decide(workspace, tasks, force)
    ]


def _instruction(
    workspace: Workspace,
    task: str,
    answer: Mapping[str, Any] | None,
    *,
    is_forced: bool,
    person: str,
    needs_answer: bool,
) -> Instruction:
    told = Instruction(task=task, decided_by=person if is_forced else RULE, needs_answer=needs_answer)
    if answer is not None:
        told = replace(
            told,
            decided_by=answer["person"],
            asked_about=answer["asked_about"],
            asked_against=answer["asked_against"],
            findings_sha256=answer.get("findings_sha256"),  # a question of before it was noted has none
            answer=answer["answer"],
            answer_reason=answer["reason"],
        )
    if not is_forced or told.answer not in (None, "approved"):
        return told
    void = workspace.settings.approval_rules.why_void_despite_gates(
        "a promotion despite the gates",
        asked_by=person,
        approved_by=None if answer is None else told.decided_by,
    )
    return told if void is None else replace(told, answer="expired", answer_reason=void)
