"""What there is to decide -> questions to a person; their answers -> input for each task's decision."""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection

from lesion_tasks.catalog.approvals import AS_SET, LOOK_MINUTES, PAGES, RULE, UNNAMED, Answer
from lesion_tasks.catalog.gates import leading_measure
from lesion_tasks.catalog.lookup import find_task
from lesion_tasks.database.locks import Lock, lock_until_commit
from lesion_tasks.evaluation.candidacy import (
    TaskNow,
    better_since,
    candidate_ids,
    findings_of,
    read_task,
    waiting_ids,
)
from lesion_tasks.evaluation.decisions import (
    DECIDING,
    DecisionFigures,
    decisions_about,
    find_request,
    record_answer,
    supersede_question,
)
from lesion_tasks.evaluation.open_questions import (
    Asked,
    asked_by,
    find_question,
    note_approval,
    open_question,
    questions_of_run,
    request_of,
    run_of,
)
from lesion_tasks.evaluation.publish import publish
from lesion_tasks.promotion.candidates import best_of, find_candidate, find_candidates
from lesion_tasks.promotion.overrides import Force, obstacle_to, override_in, tasks_to_decide
from lesion_tasks.promotion.proposal import body_of, find_round, propose, subject_of
from lesion_tasks.reports.words import decider, outcome_title, quoted, sentences
from lesion_tasks.training.run_record import find_finished
from lesion_tasks.workspace import Workspace

log = logging.getLogger(__name__)

ENDED_UNANSWERED = "Its run was ended before it decided."


@dataclass(frozen=True, kw_only=True)
class Question(Asked):
    """What a person is asked about one task."""

    subject: str
    body: str  # Markdown
    can_promote: bool = True  # whether an approval would; if not, the decision is a refusal all the same
    assigned_users: list[dict[str, str]]  # who may answer; empty: anybody


@dataclass(frozen=True, kw_only=True)
class Asker:
    """The run of Airflow that asks."""

    run_id: str
    wait: timedelta  # for an answer
    is_asking: Callable[[str], bool]  # whether the questions of a run can still be answered


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
            can_promote=is_forced or not proposal.objections,
            body=body_of(proposal, report_base=PAGES, is_forced=is_forced, force=force),
            assigned_users=rules.assigned_users,
        )
        if asker is None or _is_noted(workspace, question, asker):
            questions.append(question)
    return questions


def _is_noted(workspace: Workspace, question: Question, asker: Asker) -> bool:
    """Whether a run may ask, which is noted; not if it has decided, or if another run asks about the same candidate."""
    task, now = question.task_name, datetime.now(UTC)
    with workspace.engine.begin() as connection:
        lock_until_commit(connection, Lock.PROMOTION, task)
        if question.request_id is not None and find_request(connection, task, question.request_id):
            log.info("%s: this run has decided, and was cleared: it asks nobody", task)
            return False
        other = find_question(connection, task, question.asked_about)
        if other is not None and other.request_id != question.request_id:
            is_weaker = question.is_forced and not other.is_forced and other.approved_by is None
            if not is_weaker and other.ends_at > now and asker.is_asking(run_of(other)):
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
            supersede_question(connection, other, reason=reason, runs=[asker.run_id])
        return open_question(connection, question, ends_at=now + asker.wait)


def overtaken_by(connection: Connection, asked: Asked, now: TaskNow | None = None) -> str | None:
    """What has overtaken a question, by the database alone; None: what it shows holds, and there is no newer one.

    `now`: the state of its task as `read_task` reads it, if that was done.
    """
    training_id = asked.asked_about
    now = now or read_task(connection, asked.task_name)
    question = now.questions.get(training_id)
    is_own = question is not None and question.request_id == asked.request_id
    if is_own and not asked.is_override:
        return None  # `read_task` has compared the rest
    if asked.asked_against != now.champion_id:
        return f"the champion is {now.champion_id or 'none'} by now"
    if (why := _why_no_candidate(connection, asked, now.waiting)) is not None:
        return why
    if asked.request_id is None or is_own:
        return None
    if question is not None:
        return f"run {run_of(question)} asks about {training_id} by now"
    return "its run has decided, or something else ended the question"


def _why_no_candidate(connection: Connection, asked: Asked, waiting: Collection[str]) -> str | None:
    """Why what was asked about is none that can be decided on any more, whoever is champion; None if it is."""
    training_id = asked.asked_about
    if asked.is_override:
        if (why := obstacle_to(connection, asked.task_name, training_id)) is not None:
            return why
    elif training_id not in waiting:
        return _why_not_waiting(connection, asked.task_name, training_id)
    if asked.findings_sha256 not in (None, findings_of(connection, [training_id]).get(training_id)):
        return f"{training_id} was evaluated again since, which finds other things"
    return None


def _why_not_waiting(connection: Connection, task: str, training_id: str) -> str:
    past = decisions_about(connection, task, [training_id])
    own = [one for one in past if one.training_id == training_id and one.action in DECIDING]
    if own:
        what, day = outcome_title(own[0].outcome), own[0].decided_at.partition("T")[0]
        return f"{training_id} was decided on, on {day} ({what}, by {decider(own[0].decided_by)})"
    return f"{training_id} is no longer a candidate: a newer training of its variant was evaluated, or it was put aside"


def is_superseded(workspace: Workspace, asked: Asked) -> bool:
    """Whether a question is obsolete: overtaken, its candidate not promotable, or another one better.

    Every waiting model and its predictions are read and compared with their digests.
    """
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


def looks_superseded(workspace: Workspace, asked: Asked) -> bool:
    """The same by the database alone, unless a better candidate was evaluated since the last look."""
    since = datetime.now(UTC) - 3 * timedelta(minutes=LOOK_MINUTES)  # a look may come late
    with workspace.engine.connect() as connection:
        find_task(asked.task_name)
        if overtaken_by(connection, asked) is not None:
            return True
        if asked.is_override:
            return False
        waiting = candidate_ids(connection, waiting_ids(connection, asked.task_name))
        among = [name for name in waiting if asked.only is None or name in asked.only]
        measure = leading_measure(asked.task_name)
        is_newer = bool(better_since(connection, among, since, than=asked.asked_about, measure=measure))
    return is_newer and is_superseded(workspace, asked)


def note_answer(workspace: Workspace, asked: Asked, *, answer: Answer, person: str, reason: str) -> None:
    """Keep an answer at once: its run decides only when all of its questions have one, which may take days.

    A rejection holds from now on, whatever is decided meanwhile; also about what is no longer a candidate. An
    approval is for its run to carry out; if that has a decision already, the answer is written beside it, so that it is
    not lost. An answer is noted once, however often it is found.
    """
    if asked.request_id is None:
        return
    task, training_id = asked.task_name, asked.asked_about
    did = sentences(f"{answer.capitalize()} by {person}" + (f": {quoted(reason)}" if reason.strip() else ""))
    about: dict[str, Any] = {
        "training_id": training_id,
        "previous": asked.asked_against,
        "decided_by": person,
        "request_id": asked.request_id,
    }
    with workspace.engine.begin() as connection:
        lock_until_commit(connection, Lock.PROMOTION, task)
        past = find_request(connection, task, asked.request_id)
        if any(row.decided_by == person for row in past):
            return
        why = _why_no_candidate(connection, asked, waiting_ids(connection, task))
        question = find_question(connection, task, training_id)
        if answer == "rejected" and why is None:
            found = asked.findings_sha256 or findings_of(connection, [training_id]).get(training_id)
            figures = DecisionFigures(findings_sha256=found)
            record_answer(connection, task, "rejected", reason=did, figures=figures, **about)
        elif answer == "rejected" or past:
            came = f"It came after the question had ended{f': {why}' if why else ''}."
            record_answer(connection, task, "superseded", reason=sentences(did, came), figures=None, **about)
        elif question is not None and question.request_id == asked.request_id:
            note_approval(connection, question, person)
    publish(workspace)


def end_questions_of_run(workspace: Workspace, run_id: str) -> None:
    """End what a run that has ended still asks, with a row for each question: nobody's answer would be heeded."""
    with workspace.engine.connect() as connection:
        left = questions_of_run(connection, run_id)
    for task in sorted({one.task for one in left}):
        with workspace.engine.begin() as connection:
            lock_until_commit(connection, Lock.PROMOTION, task)
            for question in questions_of_run(connection, run_id):
                if question.task == task:
                    supersede_question(connection, question, reason=ENDED_UNANSWERED)
    if left:
        publish(workspace)


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
