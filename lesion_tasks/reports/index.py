"""The leaderboard -> `reports/index.html`: one page that needs no server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup
from pydantic import Field

from lesion_tasks.metrics.document_schema import Figures, Published, PublishedFigure
from lesion_tasks.reports.bundle import BestOfLooks, SincePromotion
from lesion_tasks.reports.environment import environment
from lesion_tasks.reports.plot import share_scale, whisker
from lesion_tasks.reports.words import OUTCOMES, decider, moment, sentences

# Name -> how it is called on pages, its style class, and what it means; what the last decision did is called as there.
STATES = OUTCOMES | {
    "champion": ("★ champion", "good", "The training whose model is in use."),
    "earlier_champion": (
        "earlier champion",
        "quiet",
        "It was champion until another was promoted or restored.",
    ),
    "candidate": ("candidate", "quiet", "It waits for a decision."),
    "undecided": ("undecided", "quiet", "It ceased to be a candidate before anything was decided about it."),
    "never_promotable": (
        "barred for good",
        "bad",
        "Its recipe, its split or changed fields rule it out for good.",
    ),
    "not_sound": ("✗ not sound", "bad", "Its evaluation failed a check, so its figures cannot be trusted."),
}


class PromotionState(Published):
    """Where an evaluated training stands: what was decided about it, or that nothing was yet, or never can be."""

    name: str  # a key of STATES
    did: str = ""  # what the decision did to it, where its title does not say that already
    decided_at: str | None = None
    decided_by: str | None = None
    reason: str | None = None
    runs: list[str] = Field(default_factory=list, description="Runs of Airflow that the reason names.")
    is_forced: bool = Field(default=False, description="Whether it became champion despite the gates.")
    first: str | None = None  # of a champion that was restored: when, by whom and why it was promoted

    @property
    def title(self) -> str:
        return STATES[self.name][0]

    @property
    def css(self) -> str:
        return STATES[self.name][1]

    @property
    def meaning(self) -> str:
        """What its title means, in a sentence."""
        return STATES[self.name][2]

    @property
    def is_rankable(self) -> bool:
        """Whether a person or the rule could still make it champion, or did."""
        return self.name not in ("never_promotable", "not_sound")

    @property
    def when(self) -> str:
        """What was done to it, when and by whom; empty without a decision."""
        if self.decided_by is None:
            return ""
        return f"{self.did} {moment(self.decided_at)} by {decider(self.decided_by)}".lstrip()

    @property
    def latest(self) -> str:
        """The decision that it rests on, or why there can be none, in one line."""
        found = ": ".join(filter(None, (self.when, self.reason)))
        return found[:1].upper() + found[1:]

    @property
    def words(self) -> str:
        """The same, and of a champion that was restored why it was promoted before."""
        return sentences(self.latest, self.first) if self.first else self.latest


class LeaderboardRow(Published):
    """One evaluated training. The figures are empty if its predictions could not be joined."""

    training_id: str
    variant: str
    title: str
    reproduces: str | None
    evaluated_at: str
    is_sound: bool
    failed_checks: list[str]
    verdict: str
    figures: Figures
    balanced: Figures
    val: Figures
    on_cohorts: Figures = Field(
        default_factory=dict, description="The leading figure on each cohort, by its name."
    )
    n_cohorts: int = 0  # that judge its task
    report_path: str | None  # None: it was pruned
    state: PromotionState
    manifest_digest: str
    n_test_openings: int
    best_of_looks: BestOfLooks | None = None
    archived: str | None = None  # when, by whom and why
    pruned: str | None = None

    @property
    def is_champion(self) -> bool:
        return self.state.name == "champion"

    @property
    def worst_cohort(self) -> str | None:
        """The name of the cohort with the lowest leading figure; None if there is none."""
        known = [(figure.value, name) for name, figure in self.on_cohorts.items() if figure.value is not None]
        return min(known)[1] if known else None

    @property
    def of_cohorts(self) -> str:
        """Of how many that is the worst: `of 2 judged of 4`; empty where the only cohort is judged."""
        n_judged = sum(figure.value is not None for figure in self.on_cohorts.values())
        n_all = max(self.n_cohorts, n_judged)
        return "" if n_all < 2 else f"of {n_judged}" + (f" judged of {n_all}" if n_judged < n_all else "")


class ChampionLine(Published):
    training_id: str
    variant: str
    state: PromotionState
    report_path: str | None
    since_promotion: SincePromotion | None = None
    unsound: str | None = None  # why its evaluation cannot be trusted


class DecisionLine(Published):
    """One decision about a champion. Its figures are whatever was compared."""

    decided_at: str
    action: str
    outcome: str  # a key of OUTCOMES: the action, and of a refusal what for
    training_id: str
    previous_training_id: str | None
    reason: str
    decided_by: str
    runs: list[str] = Field(default_factory=list, description="Runs of Airflow that the reason names.")
    is_forced: bool = Field(default=False, description="Whether it promoted despite the gates.")


class TaskLeaderboard(Published):
    name: str
    title: str
    classes: list[str]
    leading_measure: str
    champion: ChampionLine | None
    rows: list[LeaderboardRow]
    decisions: list[DecisionLine]


class HeldOutLine(Published):
    """One report on a recipe that was tested where it never learned."""

    held_out_id: str
    evaluated_at: str
    title: str
    task_title: str
    one: str  # what was held out each time, in words
    words: str

    @property
    def report_path(self) -> str:
        """Where it is, seen from the index."""
        return f"held-out/{self.held_out_id}/report.html"


class Leaderboard(Published):
    """Champion, evaluated trainings and decisions of every task that has a training."""

    generated_at: str | None
    tasks: list[TaskLeaderboard]
    # Tasks that the catalogue no longer has, and the number of their trainings.
    gone: dict[str, int] = Field(default_factory=dict)
    has_synthetic: bool = False  # whether a program drew all pictures


@dataclass(frozen=True, kw_only=True)
class _RankedRow:
    """A row with its rank, or None, and the leading figure."""

    row: LeaderboardRow
    rank: int | None
    leading: PublishedFigure | None
    whisker: Markup | None


def subset_figures(document: Mapping[str, Any], subset: str) -> Figures:
    """The figures of a subset in a stored document of any schema version; empty if it has none."""
    return figures_of(document.get("subsets", {}).get(subset, {}).get("figures"))


def figures_of(stored: Mapping[str, Any] | None) -> Figures:
    """Stored figures, checked; empty if there are none."""
    return {name: PublishedFigure.model_validate(figure) for name, figure in (stored or {}).items()}


def render_index(leaderboard: Leaderboard, held_out: Sequence[HeldOutLine] = ()) -> bytes:
    """Render the page. What can never be promoted is not ranked, and listed below what can; not sound ones last."""
    template = environment().get_template("index.html.j2")
    tasks = [_shown(task) for task in leaderboard.tasks]
    return template.render(
        generated_at=leaderboard.generated_at,
        tasks=tasks,
        gone=leaderboard.gone,
        held_out=held_out,
        has_synthetic=leaderboard.has_synthetic,
    ).encode()


def _shown(task: TaskLeaderboard) -> dict[str, Any]:
    measure = task.leading_measure
    scale = share_scale(row.figures.get(measure) for row in task.rows)
    rows = sorted(task.rows, key=lambda row: _order(row, measure))
    never = [row for row in rows if row.is_sound and not row.state.is_rankable]
    unsound = [row for row in rows if not row.is_sound]
    ranked = [row for row in rows if row.is_sound and row.state.is_rankable]
    groups: list[dict[str, Any]] = [{"title": None, "rows": _ranked(ranked, measure, scale)}]
    for title, some in (
        ("Never promotable: shown, not ranked", never),
        ("Not sound: shown, never ranked, never promoted", unsound),
    ):
        if some:
            groups.append({"title": title, "rows": _ranked(some, measure, scale)})
    return {
        "leaderboard": task,
        "columns": ("sensitivity_at_90_specificity",) if len(task.classes) == 2 else ("balanced_accuracy",),
        "scale": scale,
        "groups": groups,
        "has_cohorts": any(row.on_cohorts for row in rows),
        "n_manifests": len({row.manifest_digest for row in rows}),
    }


def _order(row: LeaderboardRow, measure: str) -> tuple[bool, float, str]:
    """Undefined ones last; ties by name, so that the page does not change by itself."""
    figure = row.figures.get(measure)
    value = None if figure is None else figure.value
    return value is None, -(value or 0.0), row.training_id


def _ranked(rows: Sequence[LeaderboardRow], measure: str, scale: tuple[float, float]) -> list[_RankedRow]:
    ranked = []
    for place, row in enumerate(rows, start=1):
        figure = row.figures.get(measure)
        value = None if figure is None else figure.value
        ranked.append(
            _RankedRow(
                row=row,
                rank=place if row.is_sound and row.state.is_rankable and value is not None else None,
                leading=figure,
                whisker=None
                if figure is None or value is None
                else whisker(value, figure.low, figure.high, scale=scale, reference=0.5),
            )
        )
    return ranked
