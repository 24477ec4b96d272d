"""A task's champion: why it is, its figures, every decision before it, and what could be restored."""

from dataclasses import dataclass

from lesion_tasks.catalog.lookup import find_task
from lesion_tasks.database.schema import Watch
from lesion_tasks.evaluation.candidacy import candidate_ids, champion_state, read_task
from lesion_tasks.evaluation.decisions import Champion, decisions_of, earlier_champions
from lesion_tasks.evaluation.evaluation_record import newest_since_promotion
from lesion_tasks.evaluation.leaderboard import LeaderboardFilter, list_manifests, read_leaderboard_rows
from lesion_tasks.evaluation.open_questions import run_of
from lesion_tasks.pages.activity import Run, asking_run
from lesion_tasks.promotion.overrides import list_overridable
from lesion_tasks.reports.bundle import SincePromotion
from lesion_tasks.reports.index import DecisionLine, LeaderboardRow, PromotionState
from lesion_tasks.watching.watch import recent_watches
from lesion_tasks.workspace import Workspace

N_WATCHES = 12
N_NAMED = 8
N_DECISIONS = 100


@dataclass(frozen=True, kw_only=True)
class ChampionState:
    """What the page about a champion shows."""

    task: str
    title: str
    champion: Champion | None
    standing: PromotionState | None  # by which decision it is champion
    row: LeaderboardRow | None  # its own evaluation
    since_promotion: SincePromotion | None
    earlier: list[str]  # trainings that a rollback may restore, the default one first
    decisions: list[DecisionLine]  # the last ones, newest first
    watches: list[Watch]  # of this champion and those before it, newest first
    candidates: list[str]  # evaluated trainings about which nothing was decided yet: the newest of them
    n_candidates: int
    overridable: list[str]  # whose refusal by the gates could be overridden, the newest refusal first
    has_trainings: bool  # that were evaluated
    asked: dict[str, Run]  # candidates about which a person is asked, and the run that asks
    approved_by: dict[str, str]  # of these, those that somebody approved: the decision follows

    @staticmethod
    def found_by(watch: Watch) -> str:
        """What a watch found, in few words: what it could not tell is no good news."""
        if watch.is_alarming:
            return "beyond a bound"
        unknown = [name for name in ("reason", "falls_reason") if watch.document.get(name)]
        return ("within bounds", "within bounds, as far as it can be told", "cannot be determined")[
            len(unknown)
        ]

    @property
    def is_empty(self) -> bool:
        """Whether there is neither a champion nor anything that could become one."""
        return self.champion is None and not self.has_trainings and not self.decisions


def read_champion(workspace: Workspace, task: str) -> ChampionState:
    """The state of a task's champion by the database; raises `UnusableInputError` for an unknown task."""
    title = find_task(task).title
    with workspace.engine.connect() as connection:
        now = read_task(connection, task)
        champion = now.champion
        decisions = decisions_of(connection, task, N_DECISIONS)
        row, fresh, standing = None, None, None
        if champion is not None:
            training_id = champion.training.training_id
            rows, _ = read_leaderboard_rows(
                connection, task, wanted=LeaderboardFilter(training_ids=[training_id]), now=now
            )
            row = rows[0] if rows else None
            standing = champion_state(connection, task, training_id)
            fresh = newest_since_promotion(connection, training_id)
        default = earlier_champions(connection, task)
        watches = recent_watches(connection, task, N_WATCHES)
        candidates = candidate_ids(connection, now.waiting)[::-1]
        overridable = list_overridable(connection, task, N_NAMED)
        has_trainings = bool(list_manifests(connection, task))
    present = champion.training.training_id if champion else None
    ever = [one.training_id for one in decisions if one.action in ("promoted", "rolled_back")]
    earlier = [name for name in dict.fromkeys([*default, *ever]) if name != present]
    return ChampionState(
        task=task,
        title=title,
        champion=champion,
        standing=standing,
        row=row,
        since_promotion=None if fresh is None else SincePromotion.model_validate(fresh),
        earlier=earlier,
        decisions=decisions,
        watches=watches,
        candidates=candidates[:N_NAMED],
        n_candidates=len(candidates),
        overridable=overridable,
        has_trainings=has_trainings,
        asked={name: asking_run(run_of(question)) for name, question in now.questions.items()},
        approved_by={
            name: question.approved_by for name, question in now.questions.items() if question.approved_by
        },
    )
