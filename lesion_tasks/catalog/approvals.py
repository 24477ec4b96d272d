"""Whether a person is asked before something is decided, who may answer, whose approval counts, what can be overridden.

Champions and corrections of the data are decided by one set of rules.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from lesion_tasks import UnusableInputError

UNNAMED = "unnamed person"
RULE = "rule"  # who decides where no person does
# Characters of a reason that people type: for a rollback, a correction, a rejection, a promotion despite the gates.
MIN_REASON, MAX_REASON = 3, 500
WHY = f"Why, in at least {MIN_REASON} characters"  # with which the forms ask for one
APPROVE, REJECT = "Approve", "Reject"
LOOK_MINUTES = 2  # how often an open question looks whether something has overtaken it
PAGES = "lesions/"  # where Airflow has the product's pages, from the root of its UI: links of a question lead there
ASKING = {"promote_model": "compare", "correct_data": "propose"}  # DAG -> the task that returns its questions
Answer = Literal["approved", "rejected", "expired"]
AS_SET = "as_set"
CHOICES = ("always", "never")
APPROVALS = (AS_SET, *CHOICES)  # whether a run asks a person
# Decision about a label or a pair -> what it does, in words.
LABEL_DECISIONS = {
    "label_set_aside": "the image is in no subset of the task's splits",
    "label_kept": "the label stands, and is no longer a suspect",
}
PAIR_DECISIONS = {
    "lesions_joined": "both images are in one group",
    "lesions_apart": "the images stay as they are, and are no longer suspects",
}
WITHDRAWN = "withdrawn"  # what is asked for where a decision is to be taken back
# How what the gates refuse is promoted all the same: on pages, in questions and in what a run found.
HOW_TO_OVERRIDE = (
    'To override the gates: the form of promote_model, section "Despite the gates", with a reason; without an id the '
    "best candidate is promoted, and what was refused before needs its id."
)
# When nobody is asked however the form is filled in, and what to do about it: on forms and pages.
ASKS_NOBODY = (
    "Nobody is asked where nothing can be promoted: a candidate barred by something other than its figures is refused "
    "when its round is decided, with that reason, and what the gates refused before is not asked about again by "
    f"itself. {HOW_TO_OVERRIDE}"
)


def answers_in_order(*, is_effective: bool) -> list[str]:
    """What a question offers: first what it is asked for, unless an approval would not bring that about."""
    return [APPROVE, REJECT] if is_effective else [REJECT, APPROVE]


def kept_answer(place: int) -> str:
    """Under which name the task of ASKING is given the answer to a question, by its place among those it returned."""
    return f"answer {place}"


def most_careful(approvals: Iterable[object]) -> str:
    """Of several choices the one by which most people are asked; anything that is none of APPROVALS is AS_SET."""
    known = {one if one in APPROVALS else AS_SET for one in approvals}
    return next((one for one in ("always", AS_SET, "never") if one in known), AS_SET)


@dataclass(frozen=True, kw_only=True)
class ApprovalRules:
    """What the settings LESION_APPROVAL and LESION_APPROVERS say."""

    is_set: bool  # whether people are asked where a run does not say
    approvers: tuple[str, ...]  # who may answer; empty: anybody

    def is_asking(self, approval: str) -> bool:
        """Whether people are asked by a run with one of APPROVALS."""
        return approval == "always" or (approval == AS_SET and self.is_set)

    @property
    def assigned_users(self) -> list[dict[str, str]]:
        """Who may answer, as Airflow is told."""
        return [{"id": name, "name": name} for name in self.approvers]

    def why_void(self, what: str, *, by: str) -> str | None:
        """Why what a person decides does not count: approvers are named, and it is none of them. None: it counts."""
        if not self.approvers or by in self.approvers:
            return None
        return f"{what} needs one of {', '.join(self.approvers)}"

    def why_void_despite_gates(self, what: str, *, asked_by: str, approved_by: str | None) -> str | None:
        """The same of what takes two where people are asked: another approver than who asks for it approves it.

        `approved_by` None: nobody was asked, and whoever asks for it decides.
        """
        void = self.why_void(what, by=asked_by if approved_by is None else approved_by)
        if void is None and self.approvers and approved_by == asked_by:
            return f"the person who triggers {what} cannot approve it alone"
        return void

    def require_approver(self, doing: str, *, person: str) -> None:
        """Raise `UnusableInputError` unless a person may do it unasked: anybody where no approvers are named."""
        if self.approvers and person not in self.approvers:
            raise UnusableInputError(
                f"{person} may not {doing}, expected one of {', '.join(self.approvers)} (LESION_APPROVERS)"
            )

    def require_corrector(self, *, person: str) -> None:
        """The same of a correction of the data that nobody is asked about: anybody where people are never asked."""
        if self.is_set:
            self.require_approver("correct the data unasked", person=person)


# What stood in the way of a training -> whether "Despite the gates" promotes it all the same.
OVERRIDABLE = (
    "a gate that it missed: a floor, the gain, a loss (overall, on a guarded slice, against the best champion so far, "
    "on a cohort), the calibration",
    "a comparison with the champion that could not be made: while it waits, or once it was evaluated anew after that",
)
NEVER_OVERRIDABLE = (
    "something stored that was changed since: its model, predictions, evaluation or row",
    "an evaluation that failed a blocking check, had too few images for one, or lacks one that is made today",
    "images, lesions, patients or copies that by now are known to stand on two sides",
    "classes or labels that are not those of its task any more, and a leading measure that is undefined on val",
    "a rehearsal, a training with fields of its own or without an institution, and one whose recipe or split repeats a "
    "published mistake",
    "a person's rejection: it is asked about again once its own evaluation finds something else",
    "a better candidate of the same round",
)


def overrides_in_words() -> str:
    """Both lists as Markdown."""
    lists = {"Can be overridden": OVERRIDABLE, "Never": NEVER_OVERRIDABLE}
    return "\n".join(
        f"{title}:\n\n" + "".join(f"- {one}\n" for one in words) for title, words in lists.items()
    )
