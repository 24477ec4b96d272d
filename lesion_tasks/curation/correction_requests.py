"""What a run is asked to correct -> a question, where people are asked; the answer -> a correction, or why none."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any
from urllib.parse import urlencode

from sqlalchemy import Connection, text

from lesion_tasks import UnusableInputError
from lesion_tasks.catalog import TASKS
from lesion_tasks.catalog.approvals import (
    AS_SET,
    LABEL_DECISIONS,
    MAX_REASON,
    MIN_REASON,
    PAGES,
    RULE,
    WITHDRAWN,
)
from lesion_tasks.catalog.canonical_json import canonical_json
from lesion_tasks.curation.apply_correction import (
    apply_correction,
    apply_withdrawal,
    check_groups,
    check_images,
    read_asked,
)
from lesion_tasks.curation.corrections import (
    Asked,
    find_correction,
    find_ever_made,
    find_in_force,
    find_request,
    insert_request,
    list_rejected,
)
from lesion_tasks.database.locks import Lock, lock_until_commit
from lesion_tasks.database.schema import CorrectionRequest
from lesion_tasks.metrics.counted import plural
from lesion_tasks.reports.markdown import escape
from lesion_tasks.workspace import Workspace

N_REJECTED_SHOWN = 5
# What a request and the row of how it ended have in common; of what was applied, the row has the correction's number.
_CONTENT = ("decision", "isic_id", "other_isic_id", "task", "reason")
# Decision -> what is asked, of a task's title and the images.
_SUBJECTS = {
    "label_set_aside": "{title}: may the label of {images} be set aside?",
    "label_kept": "{title}: may the label of {images} stand, and no longer be a suspect?",
    "lesions_joined": "May the groups of {images} be joined as one lesion?",
    "lesions_apart": "May {images} stay two lesions, and no longer be suspects?",
}


@dataclass(frozen=True, kw_only=True)
class Request:
    """What somebody asks a run for: a decision about a label or a pair, or the withdrawal of one."""

    request_id: str
    decision: str  # of LABEL_DECISIONS or PAIR_DECISIONS, or WITHDRAWN
    isic_id: str
    other_isic_id: str | None
    task: str | None
    correction_id: int | None  # the decision to be withdrawn
    reason: str
    asked_by: str
    # Of what its question says would change, and of answers to the same; None: nobody is asked.
    shown_sha256: str | None = None

    @property
    def isic_ids(self) -> list[str]:
        """One image, or two."""
        return [name for name in (self.isic_id, self.other_isic_id) if name is not None]

    def as_asked(self, decided_by: str) -> Asked:
        """The decision under the name of who makes it."""
        return Asked(
            decision=self.decision,
            isic_id=self.isic_id,
            other_isic_id=self.other_isic_id,
            task=self.task,
            reason=self.reason,
            decided_by=decided_by,
            request_id=self.request_id,
        )


@dataclass(frozen=True, kw_only=True)
class CorrectionQuestion:
    """What a person is asked about one request."""

    request: dict[str, Any]  # a Request
    subject: str
    body: str  # Markdown
    assigned_users: list[dict[str, str]]  # who may answer; empty: anybody


def read_request(
    workspace: Workspace,
    *,
    decision: str,
    isic_id: str | None,
    other_isic_id: str | None,
    task: str | None,
    correction: int | None,
    reason: str,
    asked_by: str,
    request_id: str,
) -> Request:
    """What a form asks for; raises `UnusableInputError` for what makes no sense, save for unknown images.

    `correction`: the number of the decision to be withdrawn; images that are named too must be those that it is about.
    """
    if decision == WITHDRAWN and correction is None:
        raise UnusableInputError(
            "a withdrawal needs the number of the correction: the page Suspects lists it under Decisions in force"
        )
    if decision != WITHDRAWN and correction is not None:
        raise UnusableInputError(
            f"{decision}: correction {correction} is named, expected no number except to withdraw one"
        )
    words = " ".join(reason.split())
    if not MIN_REASON <= len(words) <= MAX_REASON:
        raise UnusableInputError(
            f"{decision}: the reason has {plural(len(words), 'character')}, expected {MIN_REASON} to "
            f"{MAX_REASON}"
        )
    if correction is not None:
        with workspace.engine.connect() as connection:
            found = find_ever_made(connection, correction)
        about = found.isic_id, found.other_isic_id, found.task
        named = {*filter(None, (isic_id, other_isic_id))}
        if named and named != {*filter(None, about[:2])}:
            raise UnusableInputError(
                f"correction {correction}: it is about {' and '.join(filter(None, about[:2]))}, found "
                f"{' and '.join(sorted(named))}"
            )
    else:
        if not isic_id:
            raise UnusableInputError(f"{decision}: expected the id of an image")
        asked = read_asked(
            decision,
            isic_id=isic_id,
            other=other_isic_id,
            task=task,
            reason=words,
            decided_by=asked_by,
            request_id=request_id,
        )
        about = asked.isic_id, asked.other_isic_id, asked.task
    return Request(
        request_id=request_id,
        decision=decision,
        isic_id=about[0],
        other_isic_id=about[1],
        task=about[2],
        correction_id=correction,
        reason=words,
        asked_by=asked_by,
    )


def write_questions(
    workspace: Workspace, request: Request, *, approval: str = AS_SET
) -> list[CorrectionQuestion]:
    """The question about a request; none if nobody is asked, if it has ended, or if it would change nothing.

    Raises `UnusableInputError` for what cannot be done, such as a decision that contradicts one in force.
    """
    rules = workspace.settings.approval_rules
    with workspace.engine.connect() as connection:
        if _find_ended(connection, request) is not None:
            return []
        correction = None
        if request.decision == WITHDRAWN:
            correction = find_correction(connection, request.correction_id or 0)
        else:
            check_images(connection, *request.isic_ids)
            if (found := _in_force(connection, request)) is not None:
                if found.decision == request.decision:
                    return []
                raise UnusableInputError(f"{_contradicted(found)}: withdraw it first")
            check_groups(connection, request.decision, request.isic_id, request.other_isic_id)
        if not rules.is_asking(approval):
            return []
        images = " and ".join(request.isic_ids)
        if correction is not None:
            name = correction.decision.replace("_", " ")
            subject = f"May correction {correction.correction_id} ({name}) of {images} be withdrawn?"
        else:
            title = TASKS[request.task].title if request.task else ""
            subject = _SUBJECTS[request.decision].format(title=title, images=images)
        effects = _effects(connection, request)
        request = replace(request, shown_sha256=_shown_digest(connection, request, effects))
        body = [
            f"**{escape(request.asked_by)} asks**: {escape(request.reason)}",
            "",
            f"**{'Pictures' if request.other_isic_id else 'Picture'}** "
            f"{' and '.join(f'`{name}`' for name in request.isic_ids)}: "
            f"[{'side by side' if request.other_isic_id else 'look at it'}]({PAGES}{page_of(request)})",
            "",
            *([] if correction is None else [_made_by(correction), ""]),
            "What changes if it is approved:",
            "",
            *(f"- {words}" for words in effects),
        ]
        about = request.isic_id, request.other_isic_id, request.task
        if rejected := list_rejected(connection, *about, n=N_REJECTED_SHOWN):
            body += ["", "Rejected before:", ""]
            body += [
                f"- {one.decision.replace('_', ' ')}, on {one.ended_at:%Y-%m-%d} by {escape(one.answered_by)}: "
                f"{escape(one.answer_reason or 'without a reason')}"
                for one in rejected
            ]
    return [
        CorrectionQuestion(
            request=asdict(request),
            subject=subject,
            body="\n".join(body),
            assigned_users=rules.assigned_users,
        )
    ]


def page_of(request: Request | CorrectionRequest) -> str:
    """The page that shows the pictures of a request side by side, from the root of the pages."""
    ids = [name for name in (request.isic_id, request.other_isic_id) if name]
    return f"suspects/{request.task or next(iter(TASKS))}?{urlencode([('image', name) for name in ids])}"


def is_open(connection: Connection, request: Request) -> bool:
    """Whether a request can still be decided on: it has not ended, and what its question says still holds."""
    return overtaken_by(connection, request) is None


def overtaken_by(connection: Connection, request: Request) -> str | None:
    """Why there is nothing left to decide about a request; None if there is."""
    if (ended := find_request(connection, request.request_id)) is not None:
        return how_ended(ended)
    return _overtaken_by(connection, request)


def how_ended(request: CorrectionRequest) -> str:
    """How a request ended, in words."""
    return f"it was {request.outcome} on {request.ended_at.date()}"


def settle(
    workspace: Workspace, request: Request, answer: Mapping[str, Any] | None, *, approval: str = AS_SET
) -> CorrectionRequest:
    """Do what was asked for, or as the person said; returns how it ended, which a repeat finds.

    `answer`: of who was asked; None: nobody was. Where approvers are named, one of them approves what people are asked
    about, or does unasked what the setting LESION_APPROVAL would ask about. Raises `UnusableInputError` for what cannot
    be done where nobody was asked.
    """
    with workspace.engine.begin() as connection:
        lock_until_commit(connection, Lock.CURATION)
        found = _find_ended(connection, request)
        if found is not None:
            return found
        outcome, person, words = _outcome(connection, workspace, request, answer, approval)
        number = request.correction_id
        if outcome == "applied":
            by = person or request.asked_by
            if request.decision == WITHDRAWN:
                apply_withdrawal(connection, workspace.bucket, request.correction_id or 0, withdrawn_by=by)
            else:
                number = apply_correction(connection, workspace.bucket, request.as_asked(by))
        return insert_request(
            connection,
            request.request_id,
            decision=request.decision,
            isic_id=request.isic_id,
            other_isic_id=request.other_isic_id,
            task=request.task,
            correction_id=number,
            reason=request.reason,
            asked_by=request.asked_by,
            outcome=outcome,
            answered_by=person,
            answer_reason=words,
        )


def _outcome(
    connection: Connection,
    workspace: Workspace,
    request: Request,
    answer: Mapping[str, Any] | None,
    approval: str,
) -> tuple[str, str | None, str]:
    """How a request ends: the outcome, who answered if anybody was asked, and why."""
    rules = workspace.settings.approval_rules
    if answer is None:
        same = None if request.decision == WITHDRAWN else _in_force(connection, request)
        if same is not None and same.decision == request.decision:
            return "applied", None, ""  # it is in force already: there was nothing to ask
        if rules.is_asking(approval):
            return "expired", None, "people are asked by now, and nobody was"
        # Whoever chooses to ask nobody where people are asked needs the right to answer.
        void = rules.why_void("a correction", by=request.asked_by) if rules.is_set else None
        return ("applied", None, "") if void is None else ("expired", None, void)
    person, words = answer["person"], answer["reason"].strip()
    if answer["answer"] == "rejected":
        return "rejected", person, words
    if (overtaken := _overtaken_by(connection, request)) is not None:
        return "superseded", RULE, overtaken
    if answer["answer"] == "expired":
        return "expired", person, words or "no answer in time"
    void = rules.why_void("a correction", by=person)
    return ("applied", person, words) if void is None else ("expired", person, void)


def _find_ended(connection: Connection, request: Request) -> CorrectionRequest | None:
    """How a request ended; None: it has not. Raises `UnusableInputError` if another one had its id."""
    found = find_request(connection, request.request_id)
    if found is None:
        return None
    asked = [(name, getattr(request, name), getattr(found, name)) for name in _CONTENT]
    other = [f"{name} {now}, then {before}" for name, now, before in asked if now != before]
    if other:
        raise UnusableInputError(
            f"run {request.request_id}: a run of this name asked for something else before ({'; '.join(other)}), "
            "expected a name of its own"
        )
    return found


def _in_force(connection: Connection, request: Request) -> Any:
    return find_in_force(connection, request.isic_id, request.other_isic_id, request.task)


def _contradicted(found: Any) -> str:
    return (
        f"{found.isic_id}: correction {found.correction_id} ({found.decision}, by {found.decided_by}) is in force, "
        "expected none"
    )


def _overtaken_by(connection: Connection, request: Request) -> str | None:
    """Why there is nothing left to decide; None if there is."""
    if request.task is not None and request.task not in TASKS:
        return f"the catalogue has no task {request.task!r} any more"
    try:
        if request.decision == WITHDRAWN:
            find_correction(connection, request.correction_id or 0)
            return _changed_since(connection, request)
        check_images(connection, *request.isic_ids)
        if (found := _in_force(connection, request)) is not None:
            return _contradicted(found)
        check_groups(connection, request.decision, request.isic_id, request.other_isic_id)
    except UnusableInputError as error:
        return str(error)
    return _changed_since(connection, request)


def _changed_since(connection: Connection, request: Request) -> str | None:
    """Why a question is not what it was when it was asked; None: it is."""
    if request.shown_sha256 in (None, _shown_digest(connection, request, _effects(connection, request))):
        return None
    return "what it would change is another thing by now, or somebody rejected the same meanwhile"


def _shown_digest(connection: Connection, request: Request, effects: Sequence[str]) -> str:
    about = request.isic_id, request.other_isic_id, request.task
    rejected = [one.request_id for one in list_rejected(connection, *about, n=1)]
    return hashlib.sha256(canonical_json([*effects, *rejected])).hexdigest()


def _made_by(correction: Any) -> str:
    return (
        f"**Correction {correction.correction_id}** {correction.decision.replace('_', ' ')}, on "
        f"{correction.decided_at:%Y-%m-%d} by {escape(correction.decided_by)}: {escape(correction.reason)}"
    )


def _effects(connection: Connection, request: Request) -> list[str]:
    """What a decision, made or withdrawn, changes, by the splits as they were last built."""
    is_withdrawn = request.decision == WITHDRAWN
    decision = request.decision
    if request.correction_id is not None:
        decision = find_correction(connection, request.correction_id).decision
    if decision == "label_kept":
        return [
            f"No split. The label {'may be a suspect again' if is_withdrawn else 'is no longer a suspect'}."
        ]
    if decision == "lesions_apart":
        return [f"No split. The pair {'may be suspect again' if is_withdrawn else 'is no longer a suspect'}."]
    if decision in LABEL_DECISIONS:
        return _effects_of_label(connection, request, is_withdrawn=is_withdrawn)
    return _effects_of_pair(connection, request, is_withdrawn=is_withdrawn)


def _effects_of_label(connection: Connection, request: Request, *, is_withdrawn: bool) -> list[str]:
    rows = connection.execute(
        text("""
            SELECT m.split, m.subset, m.label, m.reason, g.subset AS of_group
            FROM split_member m JOIN split_state s USING (split) JOIN image i USING (isic_id)
            LEFT JOIN group_subset g ON g.split = m.split AND g.group_id = i.group_id
            WHERE s.task = :task AND m.isic_id = :isic_id ORDER BY m.split
        """),
        {"task": request.task, "isic_id": request.isic_id},
    ).all()
    found = []
    for row in rows:
        if is_withdrawn:
            where = row.of_group if row.of_group not in (None, "quarantine") else "none of its subsets"
            found.append(f"`{row.split}`: 1 image is judged again; its group stands in {where}.")
        elif row.reason is None:
            found.append(f"`{row.split}`: 1 image, labelled {escape(row.label)}, leaves {row.subset}.")
        else:
            found.append(
                f"`{row.split}`: nothing; the image is left out already ({row.reason.replace('_', ' ')})."
            )
    return found or ["No split that was built so far has this image."]


def _effects_of_pair(connection: Connection, request: Request, *, is_withdrawn: bool) -> list[str]:
    sizes = connection.execute(
        text("""
            SELECT i.group_id, count(*) AS n FROM image i
            WHERE i.group_id IN (SELECT group_id FROM image WHERE isic_id IN (:one, :other))
            GROUP BY i.group_id ORDER BY i.group_id
        """),
        {"one": request.isic_id, "other": request.other_isic_id},
    ).all()
    if is_withdrawn:
        n = sum(row.n for row in sizes)
        found = [f"The group of {plural(n, 'image')} is computed anew without what joined it."]
    else:
        found = [f"Groups of {' and of '.join(plural(row.n, 'image') for row in sizes)} become one."]
    rows = connection.execute(
        text("""
            SELECT g.split, g.subset, count(m.isic_id) AS n
            FROM group_subset g JOIN image i USING (group_id)
            LEFT JOIN split_member m ON m.split = g.split AND m.isic_id = i.isic_id AND m.reason IS NULL
            WHERE g.group_id = ANY(:groups) GROUP BY g.split, g.subset ORDER BY g.split, g.subset
        """),
        {"groups": [row.group_id for row in sizes]},
    ).all()
    by_split: dict[str, list[Any]] = {}
    for row in rows:
        by_split.setdefault(row.split, []).append(row)
    told = [
        f"`{split}`: {_counted(parts)}.{_follows(parts, is_withdrawn=is_withdrawn)}"
        for split, parts in by_split.items()
        if any(part.n for part in parts)
    ]
    return [*found, *(told or ["No split that was built so far has an image of them."])]


def _counted(parts: Sequence[Any]) -> str:
    return ", ".join(f"{plural(part.n, 'image')} in {part.subset}" for part in parts)


def _follows(parts: Sequence[Any], *, is_withdrawn: bool) -> str:
    if is_withdrawn or len(parts) == 1:
        return ""
    return " Joined, they stand on two sides: all of them are quarantined, and leave it."
