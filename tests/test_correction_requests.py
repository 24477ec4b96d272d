"""Who may correct the data, by the rules that promotions have: what is asked, what an answer does, what is kept."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import pytest
from catalogue import add_records, labelled_records, rows_of
from test_pages import client

from lesion_tasks import UnusableInputError
from lesion_tasks.curation.apply_correction import correct
from lesion_tasks.curation.correction_requests import Request, is_open, read_request, settle, write_questions
from lesion_tasks.curation.curate import curate_images
from lesion_tasks.settings import Settings
from lesion_tasks.splits.split import build_split
from lesion_tasks.upkeep.notices import of_correction
from lesion_tasks.workspace import open_workspace

KEPT = """
    SELECT decision, isic_id, outcome, asked_by, answered_by, answer_reason FROM correction_request ORDER BY ended_at
"""
LABEL = {"decision": "label_set_aside", "isic_id": "ISIC_0000005", "task": "malignancy"}


@pytest.fixture
def curated(settings: Settings) -> Settings:
    add_records(settings, labelled_records(60))
    curate_images(open_workspace())
    return settings


def request(run_id: str, asked_by: str = "Ada", **asked: Any) -> Request:
    empty = {"isic_id": None, "other_isic_id": None, "task": "malignancy", "correction": None}
    told = {"reason": "a scar, *not* a mole", **empty, **asked}
    return read_request(open_workspace(), **told, asked_by=asked_by, request_id=run_id)


def answer(given: str, person: str, reason: str = "") -> Mapping[str, Any]:
    return {"answer": given, "person": person, "reason": reason}


@pytest.mark.parametrize(
    ("asked", "given", "outcome", "words"),
    [
        (("as_set", "Ada"), ("approved", "Grace"), "applied", ""),
        (("as_set", "Ada"), ("approved", "Ada"), "applied", ""),
        (("as_set", "Ada"), ("approved", "Mallory"), "expired", "a correction needs one of Ada, Grace"),
        (("as_set", "Ada"), ("rejected", "Ada"), "rejected", "no"),
        (("as_set", "Ada"), ("expired", "nobody"), "expired", "no answer in time"),
        (("never", "Ada"), None, "applied", ""),  # an approver's own
        (("never", "Mallory"), None, "expired", "a correction needs one of Ada, Grace"),
        (("always", "Ada"), None, "expired", "nobody was"),  # asked only since the run began
    ],
)
def test_where_approvers_are_named_one_of_them_decides_what_people_are_asked_about(
    curated: Settings,
    monkeypatch: pytest.MonkeyPatch,
    asked: tuple[str, str],
    given: tuple[str, str] | None,
    outcome: str,
    words: str,
) -> None:
    monkeypatch.setenv("LESION_APPROVAL", "always")
    monkeypatch.setenv("LESION_APPROVERS", "Ada, Grace")
    approval, asker = asked
    reason = "no" if given == ("rejected", "Ada") else ""
    said = None if given is None else answer(*given, reason)
    wanted = request("run 1", asker, **LABEL)

    ended = settle(open_workspace(), wanted, said, approval=approval)

    assert ended.outcome == outcome and words in ended.answer_reason
    assert (ended.correction_id is None) == (outcome != "applied")
    assert (of_correction(ended) is None) == (outcome == "applied")
    by = [(given[1] if given else "Ada",)] if outcome == "applied" else []
    assert rows_of(curated, "SELECT decided_by FROM correction") == by
    # As a task that is run again: whatever it is told by then.
    again = settle(open_workspace(), wanted, answer("approved", "Grace"), approval=approval)
    assert again.outcome == outcome and len(rows_of(curated, KEPT)) == 1
    assert write_questions(open_workspace(), wanted, approval="always") == []


def test_where_nobody_is_asked_whoever_clicks_decides_and_withdraws_once(
    curated: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LESION_APPROVERS", "Ada, Grace")
    workspace = open_workspace()
    wanted = request("run 1", "Mallory", **LABEL)
    assert write_questions(workspace, wanted) == []
    number = settle(workspace, wanted, None).correction_id
    withdrawal = request("run 2", "Bob", decision="withdrawn", correction=number)
    assert (withdrawal.isic_id, withdrawal.task) == ("ISIC_0000005", "malignancy")
    for _ in range(2):  # killed after its end, and run again
        assert settle(workspace, withdrawal, None).outcome == "applied"
        withdrawal = request("run 2", "Bob", decision="withdrawn", correction=number)
        assert write_questions(workspace, withdrawal) == []
    assert rows_of(curated, "SELECT decided_by, withdrawn_by FROM correction") == [("Mallory", "Bob")]
    with pytest.raises(UnusableInputError, match="it is about ISIC_0000005, found ISIC_0000006"):
        request("run 3", decision="withdrawn", correction=number, isic_id="ISIC_0000006")
    with pytest.raises(UnusableInputError, match=r"withdrawn .* by Bob"):
        settle(workspace, request("run 3", decision="withdrawn", correction=number), None)
    assert len(rows_of(curated, KEPT)) == 2


def test_a_question_shows_what_would_change_and_ends_when_something_else_is_decided(
    curated: Settings,
) -> None:
    workspace = open_workspace()
    add_records(curated, labelled_records(180, first=61))
    curate_images(workspace)
    build_split(workspace, "malignancy_natural")
    ((one, group),) = rows_of(
        curated, "SELECT isic_id, group_id FROM split_member WHERE subset = 'train' LIMIT 1"
    )
    ((other,),) = rows_of(
        curated, f"SELECT isic_id FROM split_member WHERE subset = 'test' AND group_id <> '{group}' LIMIT 1"
    )
    label = request("run 1", decision="label_set_aside", isic_id=one)
    (of_label,) = write_questions(workspace, label, approval="always")
    assert f"label of {one} be set aside?" in of_label.subject
    for words in ("1 image, labelled ", "leaves train", "**Ada asks**: a scar, \\*not\\* a mole"):
        assert words in of_label.body, of_label.body
    pair = request("run 2", decision="lesions_joined", isic_id=one, other_isic_id=other)
    (of_pair,) = write_questions(workspace, pair, approval="always")
    for words in ("become one", " in test, ", " in train. Joined, they stand on two sides"):
        assert words in of_pair.body, of_pair.body
    asked = client(returned=[asdict(of_label)], startable=("correct_data",))

    def shown() -> dict[str, Any]:
        found: dict[str, Any] = asked.get("/question?dag=correct_data&run=r&map_index=0").json()
        return found

    assert shown()["is_open"] and shown()["asked_about"] == one
    assert f'href="/suspects/malignancy?image={one}"' in shown()["body"]
    beside = asked.get(f"/suspects/malignancy?image={one}&image={other}").text
    assert beside.count('<img src="/image/') == 2 and 'data-may="correct_data"' in beside
    assert asked.get("/question?dag=prune&run=r&map_index=0").status_code == 404

    # A second question about the same: with the rejection of the first one it ends, as that has with its own.
    (twin,) = write_questions(
        workspace, request("run 6", decision="label_set_aside", isic_id=one), approval="always"
    )
    settle(
        workspace,
        Request(**of_label.request),
        answer("rejected", "Grace", "<b>histology</b>"),
        approval="always",
    )
    with workspace.engine.connect() as connection:
        assert not is_open(connection, Request(**twin.request))
        assert not is_open(connection, Request(**of_label.request))
    ended = settle(workspace, Request(**twin.request), answer("approved", "Bea"), approval="always")
    assert (ended.outcome, rows_of(curated, "SELECT FROM correction")) == ("superseded", [])
    # It can be asked again, and the question quotes the answer.
    label = request("run 3", decision="label_set_aside", isic_id=one)
    (of_label,) = write_questions(workspace, label, approval="always")
    with pytest.raises(UnusableInputError, match="run 1: a run of this name asked for something else"):
        settle(workspace, request("run 1", decision="label_kept", isic_id=one), None)
    assert "by Grace: &lt;b&gt;histology" in of_label.body
    assert "&lt;b&gt;histology" in asked.get("/suspects/malignancy?kind=answered").text
    # Somebody decides meanwhile.
    number = correct(workspace, "label_kept", one, task="malignancy", reason="sure", decided_by="Bea")
    with workspace.engine.connect() as connection:
        assert not is_open(connection, label) and is_open(connection, pair)
    assert not shown()["is_open"]
    ended = settle(workspace, label, answer("approved", "Grace"), approval="always")
    assert (ended.outcome, ended.answered_by) == ("superseded", "rule")
    assert f"correction {number} (label_kept, by Bea) is in force" in ended.answer_reason
    with pytest.raises(UnusableInputError, match="withdraw it first"):
        write_questions(
            workspace, request("run 4", decision="label_set_aside", isic_id=one), approval="always"
        )
    assert settle(workspace, pair, answer("approved", "Grace"), approval="always").outcome == "applied"

    # What is in one group already is refused at the door and by the command, whatever brought it there.
    same = (
        "SELECT a.isic_id, b.isic_id FROM image a JOIN image b USING (group_id) WHERE a.isic_id < b.isic_id"
    )
    mates = next(row for row in rows_of(curated, same) if {*row} != {one, other})
    joined = {"decision": "lesions_joined", "isic_id": mates[0], "other_isic_id": mates[1]}
    with pytest.raises(UnusableInputError, match="are in one group already"):
        write_questions(workspace, request("run 7", **joined), approval="never")
    with pytest.raises(UnusableInputError, match="are in one group already"):
        correct(workspace, **joined, reason="a scar", decided_by="Bea")
    withdrawal = request("run 5", decision="withdrawn", correction=number + 1)
    (question,) = write_questions(workspace, withdrawal, approval="always")
    assert f"May correction {number + 1} (lesions joined) of" in question.subject
    assert "by Grace: a scar" in question.body and "computed anew" in question.body
    assert settle(workspace, withdrawal, answer("approved", "Ada"), approval="always").outcome == "applied"
    assert rows_of(curated, "SELECT withdrawn_by FROM correction ORDER BY correction_id") == [
        (None,),
        ("Ada",),
    ]
    assert [row[2] for row in rows_of(curated, KEPT)] == [
        "rejected",
        "superseded",
        "superseded",
        "applied",
        "applied",
    ]


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"decision": "withdrawn"}, "a withdrawal needs the number of the correction"),
        ({"decision": "withdrawn", "correction": 7}, "there is none of this number"),
        (
            {"decision": "withdrawn", "correction": 7, "reason": " a "},
            "the reason has 1 character, expected 3",
        ),
        ({**LABEL, "correction": 7}, "correction 7 is named, expected no number"),
        ({**LABEL, "isic_id": None}, "expected the id of an image"),
        ({**LABEL, "reason": "x" * 501}, "the reason has 501 characters"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused(
    settings: Settings, asked: dict[str, Any], words: str
) -> None:
    with pytest.raises(UnusableInputError, match=words):
        request("run 1", **asked)
