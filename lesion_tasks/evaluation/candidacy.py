"""Evaluated trainings and the decisions about them -> which wait for a decision, and where each stands. No bucket."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, text

from lesion_tasks.catalog.split_recipes import LEAKING_IMPUTATIONS
from lesion_tasks.database.pruned import HOLDS_OUT, TRAINING_IS_ARCHIVED, TRAINING_IS_PRUNED
from lesion_tasks.database.schema import OpenQuestion
from lesion_tasks.evaluation.decisions import (
    ENTHRONING,
    Champion,
    champion_of,
    decided_trainings,
    decisions_about,
)
from lesion_tasks.evaluation.evaluation_record import FINDINGS_DIGEST
from lesion_tasks.evaluation.open_questions import find_questions, run_of
from lesion_tasks.reports.index import DecisionLine, PromotionState
from lesion_tasks.reports.words import outcome_title, quoted, sentences, unquoted
from lesion_tasks.training.run_record import kind_of

# Whether a row `t` of training, with its row `m` of manifest, may ever become champion; `:leaking` are imputations.
MAY_BE_PROMOTED = """(coalesce((t.recipe ->> 'is_promotable')::boolean, true)
    AND NOT coalesce(m.recipe #>> '{split,imputation}' = ANY(:leaking), false))"""
LEAKING = {"leaking": sorted(LEAKING_IMPUTATIONS)}
# Evaluated trainings, the oldest first, each with the fields of its recipe by which `kind_of` tells kinds apart.
_EVALUATED = text(f"""
    SELECT t.training_id, t.variant, jsonb_strip_nulls(jsonb_build_object(
               'is_promotable', t.recipe -> 'is_promotable', 'adjusted', t.recipe -> 'adjusted')) AS recipe
    FROM training t JOIN evaluation e USING (training_id, manifest_digest)
    WHERE t.task = :task AND t.status = 'finished'
        AND NOT {TRAINING_IS_PRUNED} AND NOT {TRAINING_IS_ARCHIVED} AND NOT {HOLDS_OUT}
    ORDER BY t.finished_at, t.started_at, t.training_id
""")  # noqa: S608 - our own text


def never_promotable(recipe: Mapping[str, Any], imputation: str | None) -> str | None:
    """Why a training can never become champion, by its recipe and how its split fills in missing values."""
    if imputation in LEAKING_IMPUTATIONS:
        return _REPEATS_A_MISTAKE
    if recipe.get("is_promotable", True):
        return None
    adjusted = recipe.get("adjusted") or ()
    return _answers_a_question(recipe, adjusted) if "is_promotable" in adjusted else _REPEATS_A_MISTAKE


_REPEATS_A_MISTAKE = "Its recipe or split deliberately repeats a published mistake: it is barred for good."


def _answers_a_question(recipe: Mapping[str, Any], adjusted: Sequence[str]) -> str:
    names = [name for name in adjusted if name != "is_promotable"]
    values = {name: recipe.get(name) for name in names}
    # A part, such as `learning`, has more fields than were changed: the title has them.
    said = [name if isinstance(value, dict | list) else f"{name} = {value}" for name, value in values.items()]
    what = f"Changed for this training alone: {', '.join(said)}" if said else "Something was held out from it"
    return f"{what}. It answers a question, and is barred for good."


def waiting_ids(connection: Connection, task: str) -> list[str]:
    """The candidates of a task by the database alone: evaluated, the newest of their kind, undecided; oldest first."""
    decided = decided_trainings(connection, task)
    newest: dict[Any, str] = {}
    for row in connection.execute(_EVALUATED, {"task": task}):
        # A shortened training or a rehearsal does not take the place of the variant's own.
        kind = kind_of(row.variant, row.recipe)
        newest.pop(kind, None)  # of each kind the last one stands, in its own place
        newest[kind] = row.training_id
    return [training_id for training_id in newest.values() if training_id not in decided]


@dataclass(frozen=True, kw_only=True)
class TaskNow:
    """What the states of all trainings of a task rest on, read once for everything that a page shows."""

    champion: Champion | None
    waiting: list[str]  # as `waiting_ids` has them
    questions: dict[str, OpenQuestion]  # that people are asked and that still hold, by candidate

    @property
    def champion_id(self) -> str | None:
        return self.champion.training.training_id if self.champion else None


def read_task(connection: Connection, task: str) -> TaskNow:
    """Who is champion of a task, what waits for a decision, and what people are asked."""
    champion, waiting = champion_of(connection, task), waiting_ids(connection, task)
    champion_id = champion.training.training_id if champion else None
    noted, now = find_questions(connection, task), datetime.now(UTC)
    found = findings_of(connection, [name for name, one in noted.items() if one.findings_sha256 is not None])
    questions = {
        name: one
        for name, one in noted.items()
        if one.ends_at > now
        and one.previous_training_id == champion_id
        and (one.is_override or name in waiting)
        and one.findings_sha256 in (None, found.get(name))
    }
    return TaskNow(champion=champion, waiting=waiting, questions=questions)


def findings_of(connection: Connection, training_ids: Collection[str]) -> dict[str, str]:
    """A digest of what the evaluation of each of some trainings on its own manifest finds."""
    if not training_ids:
        return {}
    rows = connection.execute(
        text(f"""
            SELECT training_id, {FINDINGS_DIGEST.format("e.document")} AS digest
            FROM evaluation e JOIN training t USING (training_id, manifest_digest)
            WHERE training_id = ANY(:ids)
        """),  # noqa: S608 - our own text
        {"ids": list(training_ids)},
    )
    return {row.training_id: row.digest for row in rows}


def better_since(
    connection: Connection, training_ids: Collection[str], since: datetime, *, than: str, measure: str
) -> list[str]:
    """Of some trainings those evaluated after a moment whose measure on val is above that of another, as stored."""
    rows = connection.execute(
        text("""
            SELECT training_id, coalesce((val_figures -> :measure ->> 'value')::float8, 0) AS val
            FROM evaluation JOIN training USING (training_id, manifest_digest)
            WHERE training_id = :than OR training_id = ANY(:ids) AND evaluated_at > :since
        """),
        {"ids": list(training_ids), "than": than, "measure": measure, "since": since},
    )
    val = {row.training_id: (row.val, row.training_id) for row in rows}
    return [name for name in training_ids if name in val and than in val and val[name] > val[than]]


def candidate_ids(connection: Connection, waiting: Sequence[str]) -> list[str]:
    """Of those that wait, the ones that can become champion: sound, and promotable at all; in the same order."""
    rows = connection.execute(
        text(f"""
            SELECT t.training_id FROM training t JOIN evaluation e USING (training_id, manifest_digest)
                JOIN manifest m ON m.digest = t.manifest_digest
            WHERE t.training_id = ANY(:ids) AND e.is_sound AND {MAY_BE_PROMOTED}
        """),  # noqa: S608 - our own text
        {"ids": list(waiting), **LEAKING},
    )
    found = set(rows.scalars())
    return [training_id for training_id in waiting if training_id in found]


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What an evaluation says about a training that its state depends on."""

    training_id: str
    is_sound: bool
    verdict: str
    never: str | None  # as `never_promotable` says it


def states_of(
    connection: Connection, task: str, judged: Sequence[Judged], now: TaskNow | None = None
) -> dict[str, PromotionState]:
    """Where each of some evaluated trainings of a task stands now, with the decision that it rests on.

    `now`: as `read_task` reads it, if that was done.
    """
    now = now or read_task(connection, task)
    decisions = decisions_about(connection, task, [one.training_id for one in judged])
    waiting = set(now.waiting)
    gone = _gone(connection, [one.training_id for one in judged])
    return {
        one.training_id: _state(one, decisions, now, waiting, gone.get(one.training_id)) for one in judged
    }


def _gone(connection: Connection, training_ids: Sequence[str]) -> dict[str, str]:
    """Of trainings that were put aside or pruned, and are no candidates for that, why."""
    rows = connection.execute(
        text(f"""
            SELECT t.training_id, {TRAINING_IS_PRUNED} AS is_pruned FROM training t
            WHERE t.training_id = ANY(:ids) AND ({TRAINING_IS_PRUNED} OR {TRAINING_IS_ARCHIVED})
        """),  # noqa: S608 - our own text
        {"ids": list(training_ids)},
    )
    return {
        row.training_id: "Its model was pruned before anything was decided about it."
        if row.is_pruned
        else "It was put aside before anything was decided about it."
        for row in rows
    }


def champion_state(connection: Connection, task: str, training_id: str) -> PromotionState:
    """Where the champion of a task stands: by which decision, and if that restored it, why it was promoted before."""
    decisions = decisions_about(connection, task, [training_id])
    return _champion_state(
        [one for one in decisions if one.training_id == training_id and one.action in ENTHRONING]
    )


def _champion_state(crowned: Sequence[DecisionLine]) -> PromotionState:
    """The state by the decisions that made a training champion, newest first."""
    now = crowned[0]
    instead = f" instead of {now.previous_training_id}" if now.action == "rolled_back" else ""
    state = _by("champion", now, f"{_installed(now)}{instead}")
    promoted = next((one for one in crowned if one.action == "promoted"), now)
    state = state.model_copy(update={"is_forced": promoted.is_forced})
    if promoted is now:
        return state
    first = _by("champion", promoted, _installed(promoted))
    return state.model_copy(update={"first": first.words})


def _state(
    judged: Judged,
    decisions: Sequence[DecisionLine],
    now: TaskNow,
    waiting: Collection[str],
    gone: str | None,
) -> PromotionState:
    training_id = judged.training_id
    own = [one for one in decisions if one.training_id == training_id]
    crowned = [one for one in own if one.action in ENTHRONING]
    ended = next((one for one in own if one.action in ("refused", "rejected", "superseded")), None)
    if training_id == now.champion_id:
        return _champion_state(crowned)
    if judged.never is not None:
        return PromotionState(name="never_promotable", reason=judged.never)
    if crowned:
        end = next(
            one for one in decisions if one.previous_training_id == training_id and one.action in ENTHRONING
        )
        state = _by("earlier_champion", end, f"until {end.training_id} was {_installed(end)}")
        return state.model_copy(update={"is_forced": any(one.is_forced for one in crowned[:1])})
    if ended is not None and training_id not in waiting:
        return _by(ended.outcome, ended)
    if not judged.is_sound:
        return PromotionState(name="not_sound", reason=judged.verdict)
    if training_id in waiting:
        return _candidate_state(own[0] if own else None, now.questions.get(training_id))
    return PromotionState(
        name="undecided",
        reason=gone or "Nothing was decided about it before a newer training of its variant was evaluated.",
    )


def _candidate_state(last: DecisionLine | None, question: OpenQuestion | None) -> PromotionState:
    """The state of what waits: what was decided before, and whether a person is asked about it."""
    asked = None if question is None else f"A person is asked about it, by run {run_of(question)}."
    runs = [] if question is None else [run_of(question)]
    if last is None:
        return PromotionState(name="candidate", reason=asked, runs=runs)
    state = _by("candidate", last, f"before, {outcome_title(last.outcome)}")
    if asked is None:
        return state
    return state.model_copy(update={"reason": sentences(state.reason, asked), "runs": [*state.runs, *runs]})


_TYPED = ("rejected", "rolled_back")  # the actions whose reason is what a person typed


def _installed(decision: DecisionLine) -> str:
    return outcome_title(decision.outcome)


def _by(name: str, decision: DecisionLine, did: str = "") -> PromotionState:
    return PromotionState(
        name=name,
        did=did,
        decided_at=decision.decided_at,
        decided_by=decision.decided_by,
        runs=decision.runs,
        reason=quoted(unquoted(decision.reason))
        if decision.action in _TYPED and decision.reason
        else decision.reason,
    )
