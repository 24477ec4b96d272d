"""Whether a person is asked before something is decided, who may answer, and whose approval counts: one set of rules.

Champions and corrections of the data are decided by them alike.
"""

from dataclasses import dataclass
from typing import Literal

from lesion_tasks import UnusableInputError

UNNAMED = "unnamed person"
RULE = "rule"  # who decides where no person does
MAX_REASON = 500  # characters of a reason that stands in a question
PAGES = "lesions/"  # where Airflow has the product's pages, from the root of its UI: links of a question lead there
Answer = Literal["approved", "rejected", "expired"]
AS_SET = "as_set"
APPROVALS = (AS_SET, "always", "never")  # whether a run asks a person


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

    def why_void(self, what: str, *, asked_by: str, approved_by: str | None) -> str | None:
        """Why it takes somebody else to do what a person asks for; None: it may be done.

        `approved_by`: who approved it; None: nobody was asked. Where approvers are named nobody does it alone: an
        approver has to ask for it if nobody is asked, and another one than who asks for it has to approve it.
        """
        if not self.approvers:
            return None
        if approved_by is None:
            return None if asked_by in self.approvers else f"{what} needs one of {', '.join(self.approvers)}"
        return f"the person who triggers {what} cannot approve it alone" if approved_by == asked_by else None

    def require_approver(self, doing: str, *, person: str) -> None:
        """Raise `UnusableInputError` unless a person may do it unasked: anybody where no approvers are named."""
        if self.approvers and person not in self.approvers:
            raise UnusableInputError(
                f"{person} may not {doing}, expected one of {', '.join(self.approvers)} (LESION_APPROVERS)"
            )
