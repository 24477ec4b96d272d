"""The best candidate of a round and the champion -> what there is to decide, for a person and for the rule."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection

from lesion_tasks import UnusableInputError
from lesion_tasks.bucket import Bucket
from lesion_tasks.catalog import TASKS
from lesion_tasks.catalog.approvals import HOW_TO_OVERRIDE
from lesion_tasks.catalog.gates import (
    SLICE_GUARD,
    Gate,
    cautions,
    cautions_by,
    gates_of,
    interval_words,
    lacking_gain,
    leading_measure,
    objections,
    objections_by,
)
from lesion_tasks.catalog.printed_numbers import number, signed
from lesion_tasks.catalog.titles import label, label_inside
from lesion_tasks.database.schema import Promotion
from lesion_tasks.evaluation.comparison import (
    NoComparisonError,
    NotEvaluatedError,
    compare_models,
    missing_on_cohorts,
)
from lesion_tasks.evaluation.decisions import (
    MISSED_GATES,
    NO_BETTER,
    NOT_COMPARED,
    Champion,
    DecisionFigures,
    champion_of,
    rejection_of,
)
from lesion_tasks.evaluation.evaluation_record import (
    AlteredEvaluationError,
    cautions_of_checks,
    count_openings,
    find_evaluation,
)
from lesion_tasks.evaluation.find_suspects import cautions_about_test
from lesion_tasks.evaluation.run_checks import find_changed_labels, find_leaks
from lesion_tasks.evaluation.subject import EvaluationSubject, find_subject, identities_of
from lesion_tasks.metrics.comparison_document import Comparison, PublishedDifference
from lesion_tasks.promotion.candidates import (
    Candidate,
    altered_model,
    best_of,
    find_candidate,
    find_candidates,
)
from lesion_tasks.promotion.drift import beyond_margin, declines, objections_to
from lesion_tasks.promotion.overrides import Force, find_overridable, is_done, override_in
from lesion_tasks.reports.markdown import escape
from lesion_tasks.reports.words import cautions_in_words, opened, quoted, sentences
from lesion_tasks.training.predictions import AlteredPredictionsError
from lesion_tasks.training.run_record import find_finished

N_SLICES_SHOWN = 12
N_OTHERS_SHOWN = 8


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """Everything that a decision about one candidate rests on."""

    task: str
    candidate: Candidate
    others: Sequence[Candidate]  # of the same round
    champion: Champion | None
    comparison: Comparison | None  # None for a first champion, or if something stands in its way
    objections: Sequence[str]
    declined: Sequence[str]  # measures in which it would be too far below the best champion so far
    gate_cautions: Sequence[str]  # what the gates could not judge, and what they do not refuse
    further_cautions: Sequence[str]
    n_openings: int
    report_keys: Sequence[str]  # of the candidate and, if there is one, of the champion on the same images
    missing: str | None  # which evaluation is needed before anything can be decided
    missing_on_cohorts: str | None  # and before the gates on other people's data can be

    @property
    def previous(self) -> str | None:
        """The training that would be replaced."""
        return self.champion.training.training_id if self.champion else None

    @property
    def refused_for(self) -> str:
        """What a refusal by these objections is for, as `decisions.outcome_of` has it."""
        if self.comparison is None and self.champion is not None:
            return NOT_COMPARED  # whatever stood in the way of the comparison may be mended
        gain = set(lacking_gain(self.compared, gates_of(self.task)))
        return NO_BETTER if gain and gain.issuperset(self.objections) else MISSED_GATES

    @property
    def cautions(self) -> list[str]:
        """What to consider in the decision; refuses nothing."""
        return [*self.gate_cautions, *self.further_cautions]

    @property
    def compared(self) -> dict[str, Any] | None:
        """The comparison as a document, which is what gates read."""
        return None if self.comparison is None else self.comparison.model_dump()

    @property
    def figures(self) -> DecisionFigures:
        """What is stored with the decision."""
        return DecisionFigures(
            val=self.candidate.val,
            findings_sha256=self.candidate.findings_sha256,
            comparison=self.comparison,
            cohorts=self.candidate.judged_by,
            objections=list(self.objections),
            cautions=self.cautions,
        )


@dataclass(frozen=True, kw_only=True)
class Round:
    """The candidates among which one is chosen; of an override the training alone, with the refusal in force."""

    candidates: list[Candidate]
    refusal: Promotion | None = None
    obstacle: str | None = None  # why there is no refusal to override, or none any more


def find_round(
    connection: Connection,
    bucket: Bucket,
    task: str,
    force: Force | None = None,
    only: Collection[str] | None = None,
) -> Round:
    """The candidates that wait, of `only` some trainings if these are named, or the one whose refusal is overridden."""
    override = override_in(force)
    if override is None:
        return Round(candidates=find_candidates(connection, bucket, task, only))
    if is_done(connection, override):
        return Round(candidates=[])
    try:
        refusal = find_overridable(connection, task, override.training_id)
    except UnusableInputError as error:
        return Round(candidates=[], obstacle=str(error))
    candidate = find_candidate(connection, bucket, find_finished(connection, override.training_id))
    return Round(candidates=[candidate], refusal=refusal)


def propose(
    connection: Connection, bucket: Bucket, task: str, candidates: list[Candidate]
) -> tuple[Proposal | None, list[Candidate]]:
    """What there is to decide for a task, and every candidate of the round as found. None: none may be promoted."""
    best = best_of(candidates)
    while best is not None and (leak := _leak(connection, bucket, best)) is not None:
        candidates = [
            replace(candidate, leak=leak) if candidate is best else candidate for candidate in candidates
        ]
        best = best_of(candidates)
    if best is None:
        return None, candidates
    champion = champion_of(connection, task)
    gates = gates_of(task)
    comparison, obstacle, missing = None, None, None
    if champion is not None:
        try:
            if (altered := altered_model(bucket, champion.training)) is not None:
                raise NoComparisonError(f"the champion's {altered}")
            comparison = compare_models(connection, bucket, best.training, champion.training)
        except NotEvaluatedError as error:
            missing = str(error)
        except (NoComparisonError, AlteredEvaluationError, AlteredPredictionsError) as error:
            obstacle = f"it cannot be compared with the champion: {error}"
    # A champion with which there is no comparison need not be judged again for one.
    unjudged = _missing_on_cohorts(connection, best, None if obstacle else champion)
    compared = None if comparison is None else comparison.model_dump()
    lost = declines(connection, task, compared, gates)
    missed = [words for words in (obstacle, missing) if words] or [
        *objections(best.test, compared, gates, best.on_cohorts),
        *objections_to(lost, gates),
    ]
    if unjudged is not None:
        missed.append(unjudged)
    digest = best.training.manifest_digest
    subject = find_subject(connection.engine, bucket, best.training_id)
    shown = [best.training_id, *([champion.training.training_id] if champion else [])]
    found = [find_evaluation(connection, training_id, digest) for training_id in shown]
    return (
        Proposal(
            task=task,
            candidate=best,
            others=[candidate for candidate in candidates if candidate is not best],
            champion=champion,
            comparison=comparison,
            objections=missed,
            declined=[one.measure for one in beyond_margin(lost, gates)],
            gate_cautions=cautions(compared, gates, best.test, best.on_cohorts),
            further_cautions=[
                *cautions_of_checks(best.document["integrity"]),
                *_changed_labels(connection, subject),
                *cautions_about_test(connection, subject.manifest),
                *_unknown_identities(subject),
                *_rejection(connection, best),
            ],
            n_openings=count_openings(connection, [digest])[digest],
            report_keys=[one.report_key for one in found if one is not None],
            missing=missing,
            missing_on_cohorts=unjudged,
        ),
        candidates,
    )


def _missing_on_cohorts(connection: Connection, best: Candidate, champion: Champion | None) -> str | None:
    """Which evaluations are needed before anything can be said of other people's data; None if there are all."""
    needed = missing_on_cohorts(connection, best.training, champion.training if champion else None)
    if not needed:
        return None
    names = " ".join(one["training_id"] for one in needed)
    return f"a cohort of the task has not been judged as it is by now: run `lesion evaluate {names}` first"


def _leak(connection: Connection, bucket: Bucket, candidate: Candidate) -> str | None:
    """Images on two sides by what is known today: an archive may have merged patients since the evaluation."""
    verdict = find_leaks(connection.engine, find_subject(connection.engine, bucket, candidate.training_id))
    return verdict.sentence if verdict.is_failure else None


def _unknown_identities(subject: EvaluationSubject) -> list[str]:
    """The caution that nobody knows whether test patients are among those the candidate learned from."""
    unknown = identities_of(subject).unknown
    return [] if unknown is None else [unknown.caution]


def _changed_labels(connection: Connection, subject: EvaluationSubject) -> list[str]:
    """The caution that labels of the test set are different today: an archive corrects them after an evaluation."""
    verdict = find_changed_labels(connection.engine, subject)
    return [] if verdict.status == "passed" else [verdict.sentence.rstrip(".")]


def _rejection(connection: Connection, candidate: Candidate) -> list[str]:
    """The caution that a person rejected it before its evaluation found something else."""
    row = rejection_of(connection, candidate.training.task, candidate.training_id)
    if row is None:
        return []
    evaluated_at = candidate.document["evaluated_at"]
    return [
        f"{row.reason.rstrip('.')} on {row.decided_at.date()}; its evaluation of {evaluated_at} finds other things"
    ]


def reason_of(proposal: Proposal, *, is_forced: bool) -> str:
    """Why the candidate is promoted or refused, in one paragraph."""
    caution = cautions_in_words(proposal.cautions)
    if proposal.objections:
        against = "; ".join(proposal.objections)
        # With objections a promotion can only have been forced, and the reason says so.
        if is_forced:
            return f"Promoted by force despite: {against}.{caution}"
        return f"{against[:1].upper()}{against[1:]}."
    measure = leading_measure(proposal.task)
    clears = "clears every gate that could be judged" if proposal.gate_cautions else "clears every gate"
    if proposal.comparison is None:
        return (
            f"First champion of the task: best of its round on val, {clears}; {label_inside(measure)} "
            f"{proposal.candidate.test[measure]['value']:.4f} on test.{caution}"
        )
    gained = interval_words(proposal.comparison.differences[measure].model_dump())
    left_out = proposal.comparison.n_left_out
    on = "the same test images" + (
        f" (without {left_out:,} that one of the two has learned from)" if left_out else ""
    )
    low = proposal.comparison.differences[measure].low
    if low is not None and low > 0:
        return (
            f"Better than {proposal.previous} on {on}: {label_inside(measure)}, {gained}; {clears}.{caution}"
        )
    return (
        f"Not shown to be better or worse than {proposal.previous} on {on}: {label_inside(measure)}, {gained}. "
        f"Promoted because the rule asks for a gain as measured, and it {clears}.{caution}"
    )


def why_not_best(candidate: Candidate, best: Candidate | None) -> str:
    """Why a different candidate of the round is decided on, or why none is."""
    if candidate.obstacle is not None:
        return candidate.obstacle
    if best is None:
        raise AssertionError("a candidate without an obstacle is the best or has a better one beside it")
    measure = leading_measure(candidate.training.task)
    return (
        f"{best.training_id} of the same round is better on val: {label_inside(measure)} {best.val:.4f} against "
        f"{candidate.val:.4f}. Only the one chosen on val goes before the gates; "
        "figures of others on test decide nothing."
    )


def subject_of(proposal: Proposal, *, is_forced: bool = False) -> str:
    """The question, in one line; it says so if an approval overrides gates, or cannot promote."""
    asked = f"{TASKS[proposal.task].title}: may {proposal.candidate.training_id} " + (
        f"replace {proposal.previous}" if proposal.champion else "become the first champion"
    )
    if not proposal.objections:
        return f"{asked}?"
    return f"{asked} despite the gates?" if is_forced else f"{asked}? Gates refuse it"


def _effect(proposal: Proposal, *, is_forced: bool, force: Force | None) -> list[str]:
    """What an approval does, where it is not what one expects."""
    asks = f", as {escape(force.asked_by)} asks: {escape(quoted(force.reason))}" if force is not None else ""
    if override_in(force) is not None:
        return [sentences(f"**Approving overrides the refusal by the gates**{asks}"), ""]
    if is_forced:
        words = sentences(
            f"**Approving overrides the gates**, whichever are not met when it is decided{asks}"
        )
    elif not proposal.objections:
        return []
    else:
        words = (
            "**Approving does not promote it**: gates are not met, and the decision will be a refusal. "
            f"{HOW_TO_OVERRIDE}"
        )
    return [words, ""]


def body_of(
    proposal: Proposal, *, report_base: str, is_forced: bool = False, force: Force | None = None
) -> str:
    """What a person needs to answer the question, in Markdown. `report_base` is the base address of report keys."""
    measure = leading_measure(proposal.task)
    figure = proposal.candidate.test[measure]
    interval = (
        "" if figure.get("low") is None else f" (95 % interval {figure['low']:.3f} to {figure['high']:.3f})"
    )
    names = ("candidate", "champion on the same images")
    reports = [
        f"[report of the {name}]({report_base}{key})"
        for name, key in zip(names, proposal.report_keys, strict=False)
    ]
    lines = [
        *_effect(proposal, is_forced=is_forced, force=force),
        f"**Candidate** `{proposal.candidate.training_id}`, {label(measure)} {figure['value']:.3f}{interval} on "
        f"{figure['n_images']:,} test images; {'on' if override_in(force) else 'the best of its round on'} val "
        f"{proposal.candidate.val:.4f}.",
        "",
        f"**Champion** `{proposal.previous}`, since {proposal.champion.decision.decided_at:%d %B %Y}."
        if proposal.champion
        else "**No champion yet**: only the floors apply.",
        "",
        f"This test set has been {opened(proposal.n_openings)}. {' · '.join(reports)}",
        "",
        *_others(proposal),
        *_outcome(proposal),
        *_differences(proposal.comparison),
        *_slices(proposal.comparison),
    ]
    return "\n".join(lines)


def _others(proposal: Proposal) -> list[str]:
    """What else an approval decides."""
    others = [f"`{one.training_id}`" for one in proposal.others]
    if not others:
        return []
    more = f" and {len(others) - N_OTHERS_SHOWN} more" if len(others) > N_OTHERS_SHOWN else ""
    shown = f"{', '.join(others[:N_OTHERS_SHOWN])}{more}"
    return [
        f"An approval also ends its round: refused are {shown}, and what people are asked about them ends.",
        "",
    ]


def _outcome(proposal: Proposal) -> list[str]:
    gates = [
        f"| {label(gate.measure)} | {gate.floor:.2f} | {'must gain' if gate.is_leading else f'{gate.margin:.2f}'} | "
        f"{_gate_outcome(gate, proposal)} |"
        for gate in gates_of(proposal.task)
    ]
    told = [f"- **Against it:** {escape(words)}." for words in proposal.objections]
    told += [f"- Caution: {escape(words)}." for words in proposal.cautions]
    return ["| Gate | Floor | Loss allowed | Outcome |", "| --- | --- | --- | --- |", *gates, "", *told, ""]


def _gate_outcome(gate: Gate, proposal: Proposal) -> str:
    if proposal.champion is not None and proposal.comparison is None:
        return "not judged: there is no comparison"
    if gate.measure in proposal.declined or objections_by(gate, proposal.candidate.test, proposal.compared):
        return "not met"
    doubted = cautions_by(gate, proposal.candidate.test, proposal.compared)
    return "met, with a caution" if doubted else "met"


def _differences(comparison: Comparison | None) -> list[str]:
    if comparison is None:
        return []
    rows = [
        f"| {label(name)} | {number(one.candidate, 4)} | {number(one.champion, 4)} | {_short(one)} |"
        for name, one in comparison.differences.items()
        if one.candidate is not None and one.champion is not None
    ]
    head = ["| Measure | Candidate | Champion | Difference (95 % interval) |", "| --- | --- | --- | --- |"]
    if comparison.has_same_predictions:
        return [f"**The same predictions as the champion** on all {comparison.n_images:,} test images.", ""]
    return [f"On the same {comparison.n_images:,} test images:", "", *head, *rows, ""]


def _slices(comparison: Comparison | None) -> list[str]:
    losses = [
        (part.difference, part)
        for part in (comparison.slices if comparison else ())
        if part.attribute in SLICE_GUARD.attributes and part.difference and part.difference.value < 0
    ]
    if not losses:
        return []
    worst = sorted(losses, key=lambda loss: loss[0].value)[:N_SLICES_SHOWN]
    rows = [
        f"| {label(part.attribute)} | {escape(part.value)} | {part.n_images:,} | {_short(difference)} |"
        for difference, part in worst
    ]
    head = ["| Slice | Value | Images | Difference (95 % interval) |", "| --- | --- | --- | --- |"]
    return ["The guarded slices with the largest losses:", "", *head, *rows, ""]


def _short(difference: PublishedDifference) -> str:
    """A difference and its interval in a table whose heading names both."""
    if difference.low is None or difference.high is None:
        return signed(difference.value, 4)
    return f"{signed(difference.value, 4)} ({signed(difference.low, 4)} to {signed(difference.high, 4)})"
