"""What there is to decide -> questions to a person; their answers -> input for each task's decision."""

from collections.abc import Mapping, Sequence
from typing import Any

from lesion_tasks import UnusableInputError
from lesion_tasks.promotion.candidates import find_best
from lesion_tasks.promotion.promote import RULE, known_task
from lesion_tasks.promotion.proposal import body_of, propose, subject_of
from lesion_tasks.workspace import Workspace

UNNAMED = "unnamed person"


def write_questions(
    workspace: Workspace, *, tasks: Sequence[str], is_asked: bool | None
) -> list[dict[str, Any]]:
    """A question for each task that has a candidate: task_name, asked_about, subject, body, assigned_users.

    `is_asked` None: as the setting LESION_APPROVAL says. Empty if nobody is asked.
    """
    if not (workspace.settings.is_approval_asked if is_asked is None else is_asked):
        return []
    questions = []
    with workspace.engine.connect() as connection:
        for task in tasks:
            proposal, _ = propose(connection, workspace.bucket, known_task(task))
            if proposal is not None:
                questions.append(
                    {
                        "task_name": task,
                        "asked_about": proposal.candidate.training_id,
                        "subject": subject_of(proposal),
                        "body": body_of(proposal, report_base=f"{workspace.bucket.url}/"),
                        "assigned_users": [
                            {"id": name, "name": name} for name in workspace.settings.approvers
                        ],
                    }
                )
    return questions


def is_superseded(workspace: Workspace, *, task: str, asked_about: str) -> bool:
    """Whether a question is obsolete: its candidate was decided on, or there is a better one."""
    with workspace.engine.connect() as connection:
        best = find_best(connection, workspace.bucket, known_task(task))
    return best is None or best.training_id != asked_about


def require_approver(workspace: Workspace, person: str) -> None:
    """Raise `UnusableInputError` unless a person may promote despite a gate: anybody where no approvers are named."""
    approvers = workspace.settings.approvers
    if approvers and person not in approvers:
        raise UnusableInputError(
            f"{person} may not promote despite the gates, expected one of {', '.join(approvers)} (LESION_APPROVERS)"
        )


def gather_answers(
    workspace: Workspace,
    *,
    tasks: Sequence[str],
    answers: Sequence[Mapping[str, Any]],
    is_forced: bool,
    triggered_by: str | None,
) -> list[dict[str, Any]]:
    """For each task: task_name, decided_by, asked_about, answer, answer_reason, as `promote_model` takes them.

    Without a question the rule answers or, for a forced promotion, the person who triggered it. If approvers are named,
    nobody forces a promotion alone: the person who triggered it cannot approve it, and a forced promotion that nobody
    was asked about counts as rejected unless an approver triggered it.
    """
    by_task = {answer["task_name"]: answer for answer in answers}
    person = triggered_by or UNNAMED
    return [_told(workspace, task, by_task.get(task), is_forced=is_forced, person=person) for task in tasks]


def _told(
    workspace: Workspace, task: str, answer: Mapping[str, Any] | None, *, is_forced: bool, person: str
) -> dict[str, Any]:
    approvers = workspace.settings.approvers
    told: dict[str, Any] = {
        "task_name": task,
        "decided_by": person if is_forced else RULE,
        "asked_about": None,
        "answer": None,
        "answer_reason": "",
    }
    if answer is not None:
        told |= {
            "decided_by": answer["person"],
            "asked_about": answer["asked_about"],
            "answer": answer["answer"],
            "answer_reason": answer["reason"],
        }
    if not (is_forced and approvers):
        return told
    if answer is None and person not in approvers:
        return told | {
            "answer": "rejected",
            "answer_reason": f"a promotion despite the gates needs one of {', '.join(approvers)}",
        }
    if answer is not None and answer["answer"] == "approved" and answer["person"] == person:
        return told | {
            "answer": "rejected",
            "answer_reason": "the person who triggers a promotion despite the gates cannot approve it alone",
        }
    return told
