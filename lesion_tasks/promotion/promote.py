"""Evaluations and what the gates object -> a decision, perhaps a new champion: a row with its reason and its numbers.

The candidate is chosen on val. Candidate and champion are then compared on the candidate's own test set, image
by image; the champion must have been evaluated there (`plan_promotion` says if it still has to be). Two simultaneous
decisions cannot both win: they take turns on a lock, and the decision's sequence number is a key.
"""

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection

from lesion_tasks import UnusableInputError
from lesion_tasks.bucket import Bucket
from lesion_tasks.catalog import cohorts_of
from lesion_tasks.catalog.approvals import HOW_TO_OVERRIDE, RULE, Answer
from lesion_tasks.catalog.lookup import find_task
from lesion_tasks.database.locks import Lock, lock_until_commit
from lesion_tasks.database.pruned import find_archival
from lesion_tasks.database.schema import Promotion
from lesion_tasks.evaluation.comparison import missing_on_cohorts, missing_scores
from lesion_tasks.evaluation.decisions import (
    BARRED,
    ENTHRONING,
    NOT_COMPARED,
    PASSED_OVER,
    DecisionFigures,
    champion_of,
    decided_trainings,
    earlier_champions,
    find_request,
    record_decision,
    was_champion,
)
from lesion_tasks.evaluation.evaluation_record import list_unevaluated, why_unsound
from lesion_tasks.evaluation.open_questions import (
    Asked,
    asked_by,
    close_questions_of,
    find_question,
    run_of,
)
from lesion_tasks.evaluation.publish import publish
from lesion_tasks.metrics.counted import plural
from lesion_tasks.promotion.candidates import Candidate, altered_model, best_of, find_candidate
from lesion_tasks.promotion.overrides import Force, Override, list_overridable, override_in
from lesion_tasks.promotion.proposal import Proposal, find_round, propose, reason_of, why_not_best
from lesion_tasks.promotion.questions import overtaken_by
from lesion_tasks.reports.words import quoted, sentences
from lesion_tasks.training.run_record import find_finished
from lesion_tasks.workspace import Workspace

N_NAMED = 5  # trainings that a message names


@dataclass(frozen=True, kw_only=True)
class Decision:
    """The outcome of a request."""

    task: str
    action: str  # one of the table's actions, "none" if there was nothing to decide, or "already champion"
    training_id: str | None
    reason: str
    is_override: bool = False  # whether it is about a refusal that is overridden, or was to be
    runs: tuple[str, ...] = ()  # of Airflow, that the reason names

    @property
    def is_promoted(self) -> bool:
        """Whether there is a new champion now."""
        return self.action in ENTHRONING

    def as_dict(self) -> dict[str, Any]:
        """A dictionary fit for JSON, as tasks pass it on and commands show it."""
        return {**asdict(self), "is_promoted": self.is_promoted}


@dataclass(frozen=True, kw_only=True)
class _Request:
    """What `promote_model` is asked for."""

    task: str
    is_forced: bool
    decided_by: str
    needs_answer: bool
    asked_about: str | None
    asked_against: str | None
    findings_sha256: str | None
    answer: Answer | None
    answer_reason: str
    force: Force | None
    only: Collection[str] | None
    request_id: str | None

    @property
    def override(self) -> Override | None:
        return override_in(self.force)

    @property
    def said(self) -> str:
        """What a person said with the answer, after a sentence about it."""
        return f" ({self.decided_by} said: {quoted(self.answer_reason)})" if self.answer_reason else ""

    def with_answer(self, why: str) -> str:
        """Why an answer is not carried out, and that it was given."""
        if self.answer not in ("approved", "rejected"):
            return why
        return (
            f"{why.rstrip('.')}. {self.decided_by} {self.answer} {self.asked_about} all the same{self.said}"
        )

    def none(self, training_id: str, reason: str, runs: tuple[str, ...] = ()) -> Decision:
        """The outcome if nothing is decided about a training."""
        return Decision(
            task=self.task,
            action="none",
            training_id=training_id,
            reason=reason,
            runs=runs,
        )


def plan_promotion(
    workspace: Workspace, *, task: str, force: Force | None = None, only: Collection[str] | None = None
) -> dict[str, Any]:
    """Say what a decision would be about, and which trainings must first be evaluated on which manifest.

    Returns candidate and champion (None if there is none) and `rescore`, a list of entries with training_id and
    manifest_digest, as `evaluate_training` takes them.
    """
    find_task(task)
    with workspace.engine.connect() as connection:
        found = find_round(connection, workspace.bucket, task, force, only)
        if found.obstacle is not None:
            raise UnusableInputError(found.obstacle)
        best = best_of(found.candidates)
        champion = champion_of(connection, task)
        # A champion whose model cannot be read cannot be scored either: the decision says so.
        old = champion.training if champion else None
        if old is not None and altered_model(workspace.bucket, old) is not None:
            old = None
        rescore = []
        if best and old:
            rescore = missing_scores(connection, best.training, old)
        if best:
            needed = missing_on_cohorts(connection, best.training, old)
            rescore += [one for one in needed if one not in rescore]
    return {
        "task": task,
        "candidate": best.training_id if best else None,
        "champion": champion.training.training_id if champion else None,
        "rescore": rescore,
    }


def promote_model(
    workspace: Workspace,
    *,
    task: str,
    is_forced: bool = False,
    decided_by: str = RULE,
    needs_answer: bool = False,
    asked_about: str | None = None,
    asked_against: str | None = None,
    findings_sha256: str | None = None,
    answer: Answer | None = None,
    answer_reason: str = "",
    force: Force | None = None,
    only: Collection[str] | None = None,
    request_id: str | None = None,
) -> Decision:
    """Decide about every candidate of a task: at most one is promoted, the others are refused with a reason.

    `is_forced` promotes the best candidate even if it misses a gate or was not judged on a cohort, but never one that
    failed an integrity check.
    `asked_about`, `asked_against` and `answer`: the candidate that a person was asked about, the champion that the
    question named (None: no champion), and the outcome. If another candidate is best by now, the old question ends as
    superseded and nothing else is decided: the newer one gets its own question. An approval against another champion
    expires, and so does any answer if the evaluation no longer finds `findings_sha256`, what the question showed (None:
    not known): the candidate is asked about again.
    `needs_answer`: people are asked, so a candidate that nobody was asked about stays one; it gets its own question.
    `force`: who asks for that and why; only with `is_forced`. An override is about a training that the gates refused,
    and about no other: nothing is decided if that refusal is not in force, or if something else than its figures stands
    in the way. `only`: of these trainings alone; the others that wait keep waiting.
    `request_id` names the requester; a repeat returns the same decision and makes no second one.
    """
    find_task(task)
    if force is not None and not is_forced:
        raise AssertionError("it is a promotion despite the gates")
    request = _Request(
        task=task,
        is_forced=is_forced,
        decided_by=decided_by,
        needs_answer=needs_answer,
        asked_about=asked_about,
        asked_against=asked_against,
        findings_sha256=findings_sha256,
        answer=answer,
        answer_reason=answer_reason.strip(),
        force=force,
        only=only,
        request_id=request_id,
    )
    with workspace.engine.begin() as connection:
        lock_until_commit(connection, Lock.PROMOTION, task)
        decision = _repeated(connection, task, request_id)
        if decision is None:
            decision = _decide(connection, workspace, request)
        decision = replace(decision, is_override=request.override is not None)
        if request_id is not None:
            close_questions_of(connection, request_id)
    # After the commit: a kill in between leaves old copies, which the next run or `lesion publish` rewrites.
    publish(workspace)
    return decision


def _repeated(connection: Connection, task: str, request_id: str | None) -> Decision | None:
    if request_id is None:
        return None
    rows = find_request(connection, task, request_id)
    # The last decision is the one that the request was about; the refusals of its round come before it.
    if not rows:
        return None
    return Decision(task=task, action=rows[0].action, training_id=rows[0].training_id, reason=rows[0].reason)


def _decide(connection: Connection, workspace: Workspace, request: _Request) -> Decision:
    task, override = request.task, request.override
    found = find_round(connection, workspace.bucket, task, request.force, request.only)
    proposal, candidates = propose(connection, workspace.bucket, task, found.candidates)
    if override is not None and proposal is None:
        obstacles = (why_not_best(candidate, None) for candidate in candidates)
        # Something else may have been decided while a person was asked.
        why = found.obstacle or next(obstacles, "this run has decided about it")
        return request.none(override.training_id, request.with_answer(why))
    champion = champion_of(connection, task)
    common: dict[str, Any] = {
        "previous": champion.training.training_id if champion else None,
        "decided_by": request.decided_by,
        "request_id": request.request_id,
    }
    best = proposal.candidate if proposal else None
    asked_about = request.asked_about
    if asked_about is not None and (best is None or best.training_id != asked_about):
        return _supersede(connection, request, asked_about, best, common)
    if proposal is not None:
        if asked_about is None and (left := _why_left(connection, request, proposal)) is not None:
            return request.none(proposal.candidate.training_id, *left)
        answer, answer_reason = _valid_answer(request, proposal)
        if answer in ("rejected", "expired"):
            return _not_approved(connection, proposal, request, answer, answer_reason, common)
        unmade = (proposal.missing, None if request.is_forced else proposal.missing_on_cohorts)
        if words := "; ".join(filter(None, unmade)):
            raise UnusableInputError(words)
    _refuse_others(connection, request, candidates, best, common)
    if proposal is None:
        return _nothing_to_promote(connection, request, candidates)
    return _judge(connection, proposal, found.refusal, request, common)


def _why_left(
    connection: Connection, request: _Request, proposal: Proposal
) -> tuple[str, tuple[str, ...]] | None:
    """Why a run that asked nothing leaves a candidate to another run or question, and which; None: it decides."""
    name = proposal.candidate.training_id
    question = find_question(connection, request.task, name)
    if question is not None and question.request_id == request.request_id:
        question = None
        unanswered = f"the question about {name} ended without an answer: it stays a candidate"
    else:
        unanswered = f"{name} came after the questions of this run: it gets one of its own"
    is_open = (
        question is not None
        and question.ends_at > datetime.now(UTC)
        and overtaken_by(connection, asked_by(question)) is None
    )
    if question is not None and is_open and question.approved_by and not request.is_forced:
        run_id = run_of(question)
        return f"run {run_id} asked about {name}, and decides: {question.approved_by} approved it", (run_id,)
    if not request.needs_answer:
        return None
    if question is not None and is_open:
        run_id = run_of(question)
        return f"run {run_id} asks about {name} already: the answer there counts", (run_id,)
    return unanswered, ()


def _valid_answer(request: _Request, proposal: Proposal) -> tuple[Answer | None, str]:
    """The answer and its reason; it expires if what it was about is not what there is to decide today."""
    shown, found = request.findings_sha256, proposal.candidate.findings_sha256
    if request.answer in ("approved", "rejected") and shown not in (None, found):
        return "expired", (
            f"{request.decided_by} {request.answer} an evaluation that was made again since, and finds other things"
            f"{request.said}"
        )
    if request.answer == "approved" and request.asked_against != proposal.previous:
        return "expired", (
            f"the approval was for a comparison with {request.asked_against or 'no champion'}, and the champion is "
            f"{proposal.previous or 'none'} by now{request.said}"
        )
    return request.answer, request.answer_reason


def _judge(
    connection: Connection,
    proposal: Proposal,
    refusal: Promotion | None,
    request: _Request,
    common: dict[str, Any],
) -> Decision:
    """Promote or refuse the candidate by the gates, or despite them, and record why: what people said comes first."""
    task, training = proposal.task, proposal.candidate.training
    is_promoted = not proposal.objections or request.is_forced
    action = "promoted" if is_promoted else "refused"
    reason = reason_of(proposal, is_forced=request.is_forced)
    if refusal is not None:
        reason = sentences(_refused_then(task, refusal), reason)
    if request.answer == "approved":
        said = f": {quoted(request.answer_reason)}" if request.answer_reason else ""
        if is_promoted:
            reason = sentences(f"Approved by {request.decided_by}{said}", reason)
        else:
            # Who approved it did not refuse it.
            reason = (
                f"Approved by {request.decided_by}{said}, and refused by the gates all the same: {reason}"
            )
            common["decided_by"] = RULE
    if (force := request.force) is not None:
        what = f"Overrides the refusal of {refusal.decided_at.date()}" if refusal else "Despite the gates"
        is_needed = refusal is not None or proposal.objections
        begins = f"{what}, as {force.asked_by} asked" if is_needed else f"{force.asked_by} asked for it"
        reason = sentences(f"{begins}: {quoted(force.reason)}", reason)
    reason = record_decision(
        connection,
        task,
        action,
        training_id=training.training_id,
        manifest_digest=training.manifest_digest,
        reason=reason,
        figures=proposal.figures.model_copy(
            update={
                "is_forced": request.is_forced and bool(refusal or proposal.objections),
                "overrides": refusal and refusal.sequence,
                "is_obstacle": not is_promoted and proposal.refused_for == NOT_COMPARED,
                "refused_for": None if is_promoted else proposal.refused_for,
            }
        ),
        **common,
    )
    return Decision(task=task, action=action, training_id=training.training_id, reason=reason)


def _refused_then(task: str, refusal: Promotion) -> str:
    """What an overridden refusal was about, and which of the cohorts that it rested on judge nothing any more."""
    figures = refusal.figures or {}
    told = "; ".join(figures.get("objections") or [refusal.reason.rstrip(".")])
    known = {cohort.name for cohort in cohorts_of(task)}
    gone = [one["name"] for one in figures.get("cohorts") or () if one["name"] not in known]
    left = f"; cohort {', '.join(gone)} has left the catalogue since, and has no say any more" if gone else ""
    return f"The refusal was: {told}{left}"


def _supersede(
    connection: Connection,
    request: _Request,
    asked_about: str,
    best: Candidate | None,
    common: dict[str, Any],
) -> Decision:
    """End a question about a candidate that is no longer the best; what was answered all the same is told."""
    task = request.task
    if asked_about in decided_trainings(connection, task):
        return request.none(asked_about, request.with_answer("it was already decided"))
    if best is not None:
        newer = f"{best.training_id} is the candidate now"
    else:
        # Of a run about some trainings: others may wait.
        asked = Asked(task_name=task, asked_about=asked_about, asked_against=request.asked_against)
        newer = overtaken_by(connection, asked) or "No candidate may be promoted now"
    reason = sentences(request.with_answer(newer))
    about = common | {"decided_by": RULE}
    reason = record_decision(connection, task, "superseded", training_id=asked_about, reason=reason, **about)
    return Decision(task=task, action="superseded", training_id=asked_about, reason=reason)


def _not_approved(
    connection: Connection,
    proposal: Proposal,
    request: _Request,
    answer: Answer,
    answer_reason: str,
    common: dict[str, Any],
) -> Decision:
    then = "it stays a candidate" if request.override is None else "the refusal by the gates stands"
    missing = "No valid answer in time" if request.asked_about else "Nobody was asked"
    if answer == "rejected":
        said = f": {quoted(answer_reason)}" if answer_reason else ""
        reason = sentences(f"Rejected by {request.decided_by}{said}")
    else:
        reason = f"{missing}; {then}{': ' if answer_reason else '.'}{answer_reason}"
    reason = record_decision(
        connection,
        proposal.task,
        answer,
        training_id=proposal.candidate.training_id,
        manifest_digest=proposal.candidate.training.manifest_digest,
        reason=reason,
        figures=proposal.figures,
        **common,
    )
    return Decision(
        task=proposal.task, action=answer, training_id=proposal.candidate.training_id, reason=reason
    )


def _refuse_others(
    connection: Connection,
    request: _Request,
    candidates: Sequence[Candidate],
    best: Candidate | None,
    common: dict[str, Any],
) -> None:
    for candidate in candidates:
        if best is None or candidate.training_id != best.training_id:
            is_barred = candidate.obstacle is not None
            unasked = f"{_UNASKED}: " if is_barred and request.needs_answer else ""
            record_decision(
                connection,
                request.task,
                "refused",
                training_id=candidate.training_id,
                manifest_digest=candidate.training.manifest_digest,
                reason=unasked + why_not_best(candidate, best),
                # Whatever stood in its way may be mended: with a newer evaluation it is a candidate again.
                figures=DecisionFigures(
                    val=candidate.val,
                    is_obstacle=is_barred,
                    refused_for=BARRED if is_barred else PASSED_OVER,
                ),
                # Who answered was not asked about these.
                **common | {"decided_by": RULE},
            )


_UNASKED = "Nobody was asked, since no approval could promote it"


def _nothing_to_promote(
    connection: Connection, request: _Request, candidates: Sequence[Candidate]
) -> Decision:
    task = request.task
    if not candidates:
        reason = "no training is waiting for a decision"
        if request.only is not None:
            reason = "none of the trainings that started this run is waiting for a decision"
        if n := sum(one[1] == task for one in list_unevaluated(connection)):
            are = "is" if n == 1 else "are"
            reason += f"; {plural(n, 'finished training')} {are} not evaluated: run `lesion evaluate` first"
        if request.needs_answer:
            reason += ", so nobody was asked"
        if (champion := champion_of(connection, task)) is not None:
            training = champion.training
            unsound = why_unsound(connection, training.training_id, training.manifest_digest)
            if unsound is not None:
                reason += f"; the evaluation of the champion {training.training_id} is not sound: {unsound}"
        is_wanted = request.is_forced or request.needs_answer
        refused = list_overridable(connection, task, N_NAMED) if is_wanted else []
        if refused:
            reason += f"; the gates refused {', '.join(refused)}. {HOW_TO_OVERRIDE.rstrip('.')}"
        return Decision(task=task, action="none", training_id=None, reason=reason)
    found = "; ".join(f"{candidate.training_id}: {candidate.obstacle}" for candidate in candidates)
    unasked = ", so nobody was asked" if request.needs_answer else ""
    return Decision(
        task=task,
        action="refused",
        training_id=None,
        reason=f"no candidate may be promoted{unasked}: {found}",
    )


def rollback_target(workspace: Workspace, *, task: str, training_id: str | None = None) -> str:
    """The training that a rollback restores: the named one, or the latest earlier champion not rolled back from.

    Call it when a rollback is requested, so that a retry means the same model.
    """
    find_task(task)
    with workspace.engine.connect() as connection:
        champion = champion_of(connection, task)
        if champion is None:
            raise UnusableInputError(f"task {task!r} has no champion to roll back")
        earlier = earlier_champions(connection, task)
        target = training_id or (earlier[0] if earlier else None)
        if target is None:
            raise UnusableInputError(
                f"rollback: somebody rolled back from every earlier champion of {task!r}, or there is none; name the "
                "training to restore"
            )
        if not was_champion(connection, task, target):
            find_finished(connection, target)
            known = f"expected one of {', '.join(earlier)}" if earlier else "and no other training was"
            raise UnusableInputError(
                f"rollback to {target!r}: it was never champion of {task!r} before the current one, {known}"
            )
    return target


def rollback_champion(
    workspace: Workspace,
    *,
    training_id: str | None = None,
    reason: str,
    task: str = "malignancy",
    decided_by: str = "person",
    request_id: str | None = None,
) -> Decision:
    """Restore an earlier champion: the given training, or the one that `rollback_target` names.

    If it is already champion, for example by an earlier attempt at the same request, this only publishes.
    """
    if not reason.strip():
        raise UnusableInputError("rollback: the reason is empty, expected one in words")
    find_task(task)
    with workspace.engine.begin() as connection:
        lock_until_commit(connection, Lock.PROMOTION, task)
        decision = _repeated(connection, task, request_id)
        if decision is None:
            target = rollback_target(workspace, task=task, training_id=training_id)
            decision = _put_back(
                connection,
                bucket=workspace.bucket,
                task=task,
                target=target,
                reason=reason.strip(),
                decided_by=decided_by,
                request_id=request_id,
            )
    publish(workspace)
    return decision


def _put_back(
    connection: Connection,
    *,
    bucket: Bucket,
    task: str,
    target: str,
    reason: str,
    decided_by: str,
    request_id: str | None,
) -> Decision:
    champion = champion_of(connection, task)
    if champion is not None and champion.training.training_id == target:
        return Decision(task=task, action="already champion", training_id=target, reason=reason)
    if (archival := find_archival(connection, target)) is not None:
        raise UnusableInputError(
            f"rollback to {target!r}: {archival}; take it back first: lesion archive-training {target} --return"
        )
    if (
        obstacle := find_candidate(connection, bucket, find_finished(connection, target)).obstacle
    ) is not None:
        raise UnusableInputError(f"rollback to {target!r}: {obstacle}")
    record_decision(
        connection,
        task,
        "rolled_back",
        training_id=target,
        previous=champion.training.training_id if champion else None,
        reason=reason,
        decided_by=decided_by,
        request_id=request_id,
    )
    return Decision(task=task, action="rolled_back", training_id=target, reason=reason)
