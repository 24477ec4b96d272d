"""What there is to decide -> questions to a person; their answers -> input for each task's decision."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection

from lesion_tasks.catalog.approvals import AS_SET, PAGES, RULE, UNNAMED, Answer
from lesion_tasks.catalog.lookup import find_task
from lesion_tasks.evaluation.candidacy import waiting_ids
from lesion_tasks.evaluation.decisions import champion_of
from lesion_tasks.evaluation.evaluation_record import find_evaluation, findings_digest
from lesion_tasks.promotion.candidates import best_of, find_best, find_candidate
from lesion_tasks.promotion.overrides import Override, obstacle_to, tasks_to_decide
from lesion_tasks.promotion.proposal import body_of, propose, subject_of
from lesion_tasks.training.run_record import find_finished
from lesion_tasks.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a question is about, and what it was asked by."""

    task_name: str
    asked_about: str  # the candidate's training
    asked_against: str | None = None  # the champion's, if there is one
    findings_sha256: str | None = None  # what the candidate's evaluation found that it shows
    is_override: bool = False  # whether it is about a training that the gates refused


@dataclass(frozen=True, kw_only=True)
class Question(Asked):
    """What a person is asked about one task."""

    subject: str
    body: str  # Markdown
    assigned_users: list[dict[str, str]]  # who may answer; empty: anybody


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
    override: Override | None = None,
) -> list[Question]:
    """A question for each task that has a candidate; empty if nobody is asked.

    `approval`: one of APPROVALS. `is_forced`: an approval promotes despite the gates, and the question says so. With an
    `override` there is one question, about the training whose refusal it is to override, unless something else was
    decided about that meanwhile.
    """
    rules = workspace.settings.approval_rules
    if not rules.is_asking(approval):
        return []
    questions = []
    with workspace.engine.connect() as connection:
        for task in tasks_to_decide(workspace, tasks, override):
            if override is not None and obstacle_to(connection, task, override.training_id) is not None:
                continue
            proposal, _ = propose(connection, workspace.bucket, task, override)
            if proposal is not None:
                questions.append(
                    Question(
                        task_name=task,
                        asked_about=proposal.candidate.training_id,
                        asked_against=proposal.previous,
                        subject=subject_of(proposal, is_forced=is_forced),
                        body=body_of(proposal, report_base=PAGES, is_forced=is_forced, override=override),
                        assigned_users=rules.assigned_users,
                        findings_sha256=proposal.candidate.findings_sha256,
                        is_override=override is not None,
                    )
                )
    return questions


def is_open(connection: Connection, asked: Asked) -> bool:
    """Whether a question is still one, by the database alone: what it shows holds, and there is no newer one."""
    task, training_id = asked.task_name, asked.asked_about
    champion = champion_of(connection, task)
    if asked.asked_against != (champion.training.training_id if champion else None):
        return False
    if asked.is_override:
        is_undecided = obstacle_to(connection, task, training_id) is None
    else:
        is_undecided = training_id in waiting_ids(connection, task)
    if not is_undecided or asked.findings_sha256 is None:
        return is_undecided
    return asked.findings_sha256 == _found_now(connection, training_id)


def _found_now(connection: Connection, training_id: str) -> str | None:
    """A digest of what the evaluation of a training on its own manifest finds; None if it is gone."""
    digest = find_finished(connection, training_id).manifest_digest
    evaluation = find_evaluation(connection, training_id, digest)
    return None if evaluation is None else findings_digest(connection, evaluation.evaluation_id)


def is_superseded(workspace: Workspace, asked: Asked) -> bool:
    """Whether a question is obsolete: not open any more, its candidate not promotable, or another one better."""
    with workspace.engine.connect() as connection:
        find_task(asked.task_name)
        if not is_open(connection, asked):
            return True
        if asked.is_override:
            training = find_finished(connection, asked.asked_about)
            best = best_of([find_candidate(connection, workspace.bucket, training)])
        else:
            best = find_best(connection, workspace.bucket, asked.task_name)
    return best is None or best.training_id != asked.asked_about


def gather_answers(
    workspace: Workspace,
    *,
    tasks: Sequence[str],
    answers: Sequence[Mapping[str, Any]],
    approval: str = AS_SET,
    is_forced: bool,
    triggered_by: str | None,
    override: Override | None = None,
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
        for task in tasks_to_decide(workspace, tasks, override)
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
