"""Decisions: what a candidate is measured against, what an answer does, and that nothing at rest is believed."""

import json
import re
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import timedelta
from importlib import import_module
from types import SimpleNamespace
from typing import Any, cast

import jsonschema
import pytest
from catalogue import add_records, filled_once, labelled_records, rows_of
from click.testing import CliRunner
from sqlalchemy import text
from test_path import prepare

from lesion_tasks import UnusableInputError
from lesion_tasks.bucket import open_bucket
from lesion_tasks.catalog import COHORTS, TASKS, Cohort
from lesion_tasks.catalog.approvals import HOW_TO_OVERRIDE, ApprovalRules
from lesion_tasks.catalog.gates import gates_of
from lesion_tasks.cli.command_line import lesion
from lesion_tasks.curation.curate import curate_images
from lesion_tasks.database.connection import engine_for
from lesion_tasks.evaluation.decisions import outcome_of
from lesion_tasks.evaluation.evaluate import evaluate_training, list_unevaluated
from lesion_tasks.evaluation.evaluation_record import count_openings
from lesion_tasks.evaluation.open_questions import Asked, request_of
from lesion_tasks.evaluation.publish import leaderboard_lines
from lesion_tasks.evaluation.write_champion_json import champion_key
from lesion_tasks.metrics.compare import Difference
from lesion_tasks.metrics.comparison_document import Comparison, PublishedSliceDifference
from lesion_tasks.metrics.figure import Interval
from lesion_tasks.pages.rendering import markdown_as_html
from lesion_tasks.promotion.archive_training import archive_training
from lesion_tasks.promotion.candidates import find_candidates
from lesion_tasks.promotion.overrides import Force, Override, read_force, tasks_to_decide
from lesion_tasks.promotion.promote import Decision, plan_promotion, promote_model, rollback_champion
from lesion_tasks.promotion.proposal import Proposal, propose, reason_of
from lesion_tasks.promotion.questions import (
    Asker,
    end_questions_of_run,
    gather_answers,
    is_superseded,
    looks_superseded,
    note_answer,
    overtaken_by,
    write_questions,
)
from lesion_tasks.reports.words import points
from lesion_tasks.settings import Settings
from lesion_tasks.splits.manifest import read_manifest
from lesion_tasks.splits.split import build_split
from lesion_tasks.training.predictions import read_predictions, store_predictions
from lesion_tasks.training.train import train_variant
from lesion_tasks.upkeep.notices import of_decision
from lesion_tasks.workspace import Workspace, open_workspace

pytestmark = pytest.mark.minutes

TASK = "malignancy"
SEAL = "document_sha256 = encode(sha256(convert_to(CAST(({}) AS jsonb)::text, 'UTF8')), 'hex')"


def candidate(variant: str = "metadata_logistic") -> str:
    """Train a variant anew and evaluate it."""
    training_id = train_variant(open_workspace(), variant, again=True)
    evaluate_training(open_workspace(), training_id)
    return training_id


def first_candidate(settings: Settings) -> str:
    """A catalogue that is prepared, and the first training of it, evaluated; returns its id."""

    def fill() -> str:
        prepare(settings)
        return candidate()

    training_id: str = filled_once(settings, "a first candidate", fill)
    return training_id


def candidate_on_more_images(settings: Settings) -> str:
    """The same after 120 images have come."""
    add_records(settings, labelled_records(120, first=401))
    curate_images(open_workspace())
    build_split(open_workspace(), "malignancy_natural")
    return candidate()


def promote(**how: object) -> Decision:
    return promote_model(open_workspace(), task=TASK, **how)  # type: ignore[arg-type]


def execute(settings: Settings, statement: str, **values: object) -> None:
    with engine_for(settings.database_url or "").begin() as connection:
        connection.execute(text(statement), values)


def fail_a_check(settings: Settings, training_id: str, name: str, digest: str = "%") -> None:
    """Write an evaluation as it is where a check failed, under a digest of its own."""
    found = f"""(SELECT jsonb_agg(CASE WHEN one ->> 'name' = '{name}' THEN CAST('{json.dumps(verdict(name))}' AS jsonb)
                                ELSE one END) FROM jsonb_array_elements(document -> 'integrity') one)"""
    document = f"jsonb_set(document, '{{integrity}}', {found})"
    execute(
        settings,
        f"UPDATE evaluation SET document = {document}, {SEAL.format(document)} "
        "WHERE training_id = :id AND manifest_digest LIKE :digest",
        id=training_id,
        digest=digest,
    )


# What an evaluation is that a later release made again: words alone are others, or a figure is.
WORDED_ANEW = (
    "jsonb_set(jsonb_set(document, '{verdict}', '\"In other words.\"'), '{integrity,0,sentence}', "
    "'\"In other words.\"')"
)
OTHER_FIGURE = "jsonb_set(document, '{subsets,val,figures,brier_score,value}', '0.123')"


def write_anew(settings: Settings, document: str) -> None:
    """Write every evaluation as if it had been made again now, under a digest of its own."""
    execute(
        settings,
        f"UPDATE evaluation SET document = {document}, evaluated_at = now(), {SEAL.format(document)}",
    )


def verdict(name: str) -> dict[str, object]:
    return {"name": name, "status": "failed", "is_blocking": True, "sentence": "It does not.", "numbers": {}}


def test_a_champion_whose_evaluation_is_not_sound_is_no_yardstick(settings: Settings) -> None:
    first = first_candidate(settings)
    assert promote(is_forced=True).training_id == first
    fail_a_check(settings, first, "independent_of_labels")
    assert f"the evaluation of the champion {first} is not sound: It does not." in promote().reason
    bucket = open_bucket(settings)
    assert json.loads(bucket.get("champion.json"))[TASK]["unsound"] == "It does not."
    index = bucket.get("reports/index.html").decode()
    assert "The champion's evaluation is not sound</span> It does not." in index
    train_variant(open_workspace(), "metadata_logistic", again=True)
    assert "decision; 1 finished training is not evaluated: run `lesion evaluate` first" in promote().reason
    candidate_id = list_unevaluated(open_workspace())[0]
    evaluate_training(open_workspace(), candidate_id)

    decision = promote()

    assert decision.action == "refused"
    assert f"the evaluation of {first} on manifest" in decision.reason
    assert "is not sound, so nothing can be measured against it: It does not" in decision.reason


def test_images_that_the_champion_has_learned_from_are_left_out_of_the_comparison(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = first_candidate(settings)
    promote(is_forced=True)
    # Another draw of the subsets, as after a new salt: train images of the champion become test images.
    before = TASKS[TASK]
    own = dict(
        rows_of(settings, "SELECT isic_id, subset FROM split_member WHERE split = 'malignancy_natural'")
    )
    TASKS[TASK] = replace(before, salt="another draw")
    try:
        build_split(open_workspace(), "malignancy_natural")
        second = candidate()
        now = dict(
            rows_of(settings, "SELECT isic_id, subset FROM split_member WHERE split = 'malignancy_natural'")
        )
        evaluate_training(open_workspace(), first, manifest_digest=manifest_of(settings, second))
        evaluate_training(open_workspace(), second, manifest_digest=manifest_of(settings, first))
        with engine_for(settings.database_url or "").connect() as connection:
            bucket = open_bucket(settings)
            proposal, _ = propose(connection, bucket, TASK, find_candidates(connection, bucket, TASK))
        # So few images are left here that nothing can be said; what is left is looked at all the same.
        assert proposal is not None
        assert "test images were left out because one of the two models has learned" in proposal.objections[0]
        monkeypatch.setattr("lesion_tasks.metrics.integrity.MIN_GROUPS_OF_A_CLASS", 1)
        promote(is_forced=True)
    finally:
        TASKS[TASK] = before

    ((figures,),) = rows_of(settings, "SELECT figures FROM promotion ORDER BY sequence DESC LIMIT 1")
    learned = [
        isic_id for isic_id, subset in now.items() if subset == "test" and own[isic_id] in ("train", "val")
    ]
    comparison = figures["comparison"]
    assert len(learned) > 20
    assert comparison["n_left_out"] == len(learned)
    # A decision stores a reason only where there is no interval, as decisions of every release did.
    assert {
        "interval_reason" in one for one in comparison["differences"].values() if one["low"] is not None
    } == {False}
    assert comparison["n_images"] == list(now.values()).count("test") - len(learned)
    # The champion's own evaluation there says by name what it knows.
    ((failed,),) = rows_of(
        settings,
        f"SELECT failed_checks FROM evaluation WHERE training_id = '{first}' AND manifest_digest <> "
        f"(SELECT manifest_digest FROM training WHERE training_id = '{first}')",
    )
    assert "leaks" in failed


def manifest_of(settings: Settings, training_id: str) -> str:
    ((digest,),) = rows_of(
        settings, f"SELECT manifest_digest FROM training WHERE training_id = '{training_id}'"
    )
    return str(digest)


ALTERED: dict[str, tuple[Callable[[Settings, str], None], str]] = {
    "the document": (
        lambda settings, training_id: execute(
            settings,
            "UPDATE evaluation SET document = jsonb_set(document, '{verdict}', '\"fine\"') WHERE training_id = :id",
            id=training_id,
        ),
        "changed after it was written",
    ),
    "a prediction": (
        lambda settings, training_id: execute(
            settings,
            "UPDATE prediction SET probabilities = '{0.5,0.5}' WHERE training_id = :id AND isic_id = "
            "(SELECT min(isic_id) FROM prediction WHERE training_id = :id AND subset = 'val')",
            id=training_id,
        ),
        "rows were changed after they were stored",
    ),
    "the model": (
        lambda settings, training_id: open_bucket(settings).put(f"models/{training_id}/model.keras", b"other"),
        "SHA-256 is",
    ),
    "the column alone": (
        lambda settings, training_id: (
            fail_a_check(settings, training_id, "leaks"),
            execute(settings, "UPDATE evaluation SET is_sound = true, failed_checks = '{}'"),
        )[1],
        "failed 1 check. It does not.",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", ALTERED)
def test_what_was_altered_at_rest_is_not_promoted_even_by_force(settings: Settings, what: str) -> None:
    training_id = first_candidate(settings)
    alter, words = ALTERED[what]
    alter(settings, training_id)

    decision = promote(is_forced=True)

    assert decision.action == "refused"
    assert words in decision.reason
    assert json.loads(open_bucket(settings).get("champion.json")) == {}


def test_a_rollback_that_is_tried_again_puts_back_the_same_model(settings: Settings) -> None:
    first = first_candidate(settings)
    promote(is_forced=True)
    second = candidate()
    promote(is_forced=True)

    def roll_back(**more: object) -> Decision:
        return rollback_champion(open_workspace(), reason="worse in clinic", **more)  # type: ignore[arg-type]

    assert roll_back(request_id="run 1").training_id == first
    assert roll_back(request_id="run 1").training_id == first, "a retry after a failed publication"
    assert roll_back(training_id=first).action == "already champion"
    with pytest.raises(UnusableInputError, match="name the training to restore"):
        roll_back()  # the one before was rolled back from
    assert rows_of(settings, "SELECT count(*) FROM promotion WHERE action = 'rolled_back'") == [(1,)]
    assert json.loads(open_bucket(settings).get("champion.json"))[TASK]["training_id"] == first
    assert roll_back(training_id=second).training_id == second, "by name it can be put back all the same"


def test_a_reader_of_the_bucket_can_tell_a_stale_champion(settings: Settings) -> None:
    first_candidate(settings)
    promote(is_forced=True)
    bucket = open_bucket(settings)
    old = bucket.get("champion.json")
    candidate()
    promote(is_forced=True)
    bucket.put("champion.json", old)  # as a publisher that was overtaken would leave it

    said = json.loads(bucket.get("champion.json"))[TASK]["sequence"]
    newest = max(bucket.list_keys(f"champions/{TASK}/"))

    assert newest != champion_key(TASK, said)
    assert json.loads(bucket.get(newest))["sequence"] > said


def test_a_question_tells_what_is_decided(settings: Settings) -> None:
    first = first_candidate(settings)
    promoted = promote(
        asked_about=first, answer="approved", answer_reason="seen by two", decided_by="Ada", is_forced=True
    )
    assert promoted.reason.startswith("Approved by Ada: \u201cseen by two\u201d. ")
    second = candidate()
    with engine_for(settings.database_url or "").connect() as connection:
        digests = [row[0] for row in connection.execute(text("SELECT digest FROM manifest"))]
        # The test images of a balanced split are the same, though nobody looked at them there.
        assert len(digests) == 2
        assert count_openings(connection, digests) == dict.fromkeys(digests, 2)

    (question,) = write_questions(open_workspace(), tasks=list(TASKS), approval="always")

    assert (question.task_name, question.asked_about) == (TASK, second)
    # The same model again gains nothing, so a gate is not met.
    assert question.subject == f"Benign or malignant: may {second} replace {first}? Gates refuse it"
    assert "Approving does not promote it" in question.body
    (forced,) = write_questions(open_workspace(), tasks=[TASK], approval="always", is_forced=True)
    assert forced.subject == f"Benign or malignant: may {second} replace {first} despite the gates?"
    assert "Approving overrides the gates" in forced.body
    for words in (
        second,
        first,
        "| AUC |",
        "must gain",
        "test set has been opened 2 times",
        "report.html",
        "The same predictions as the champion",
        "it makes the same predictions as the champion, so it gains nothing",
    ):
        assert words in question.body, words
    assert (question.can_promote, forced.can_promote) == (False, True)
    assert write_questions(open_workspace(), tasks=list(TASKS), approval="as_set") == [], (
        "the setting says never"
    )

    # Who approved it did not refuse it, and said why.
    refused = promote(
        asked_about=second, asked_against=first, answer="approved", answer_reason="ok", decided_by="Ada"
    )
    assert refused.action == "refused"
    assert refused.reason.startswith(
        "Approved by Ada: \u201cok\u201d, and refused by the gates all the same: "
    )
    rows = rows_of(settings, "SELECT action, decided_by FROM promotion ORDER BY sequence")
    assert [tuple(row) for row in rows] == [("promoted", "Ada"), ("refused", "rule")]


def test_a_rejected_candidate_is_not_promoted_by_the_next_run(settings: Settings) -> None:
    training_id = first_candidate(settings)

    said = promote(asked_about=training_id, answer="rejected", answer_reason="too few", decided_by="Ada")

    assert said.action == "rejected"
    assert said.reason == "Rejected by Ada: \u201ctoo few\u201d."
    assert promote(is_forced=True).action == "none"
    evaluate_training(open_workspace(), training_id)  # which finds the same
    assert promote(is_forced=True).action == "none"
    with pytest.raises(
        UnusableInputError, match=r"expected one that the gates refused, and it was rejected on"
    ):
        plan_promotion(open_workspace(), task=TASK, force=override(training_id))
    assert rows_of(settings, "SELECT action, decided_by FROM promotion") == [("rejected", "Ada")]

    # Neither is one whose sentences a later release words anew, nor was it when their words were part of the digest.
    migration = import_module(
        "lesion_tasks.database.migrations.versions.0026_tell_findings_by_codes_and_numbers"
    )
    kept = "SELECT figures ->> 'findings_sha256' FROM promotion"
    ((by_codes,),) = rows_of(settings, kept)
    for before, after in ((migration.BY_CODES, migration.WORDED), (migration.WORDED, migration.BY_CODES)):
        for statement in migration.statements(before, after):
            execute(settings, statement)
        assert (rows_of(settings, kept) == [(by_codes,)]) == (after == migration.BY_CODES)
    write_anew(settings, WORDED_ANEW)
    assert promote(is_forced=True).action == "none"

    # An evaluation that finds something else is a reason to ask again, and the question says so.
    write_anew(settings, OTHER_FIGURE)
    (question,) = write_questions(open_workspace(), tasks=[TASK], approval="always")
    assert question.asked_about == training_id
    assert "Caution: Rejected by Ada: \u201ctoo few\u201d on " in question.body


def override(training_id: str, asked_by: str = "Ada") -> Override:
    return Override(training_id=training_id, reason="The clinic needs it.", asked_by=asked_by)


def test_a_refusal_by_the_gates_can_be_overridden_by_name_and_with_a_reason(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = first_candidate(settings)
    promote(is_forced=True)
    second = candidate()
    for words in ("expected one that the gates refused", "nothing was decided about it yet"):
        with pytest.raises(UnusableInputError, match=words):
            plan_promotion(open_workspace(), task=TASK, force=override(second))
    assert promote().action == "refused"
    # It was judged on a cohort that nobody declares any more.
    execute(
        settings,
        """UPDATE promotion SET figures = jsonb_set(figures, '{cohorts}', '[{"name": "klinik"}]')
        WHERE action = 'refused'""",
    )
    said = promote(is_forced=True)
    assert said.action == "none"
    assert f"the gates refused {second}. To override the gates: " in said.reason

    # Through the questions, as a run of Airflow does: nobody but an approver, and with the approval of another one.
    monkeypatch.setenv("LESION_APPROVERS", "Ada, Grace")
    workspace, asked = open_workspace(), replace(override(second), run_id="run 2")
    (question,) = write_questions(
        workspace, tasks=list(TASKS), approval="always", is_forced=True, force=asked
    )
    assert question.is_override
    assert (
        "Approving overrides the refusal by the gates**, as Ada asks: \u201cThe clinic needs it.\u201d"
        in question.body
    )
    state = {"asked_about": second, "asked_against": first, "is_override": True}
    assert not is_superseded(workspace, Asked(task_name=TASK, **state))  # type: ignore[arg-type]
    answer = {"task_name": TASK, "answer": "approved", "reason": "ok", **state}
    told = {}
    for person, run_id in (("Ada", "run 1"), ("Grace", "run 2")):
        (instruction,) = gather_answers(
            workspace,
            tasks=list(TASKS),
            answers=[{**answer, "person": person}],
            approval="always",
            is_forced=True,
            triggered_by="Ada",
            force=asked,
        )
        told[person] = promote_model(
            workspace, **asdict(instruction), is_forced=True, force=asked, request_id=f"{run_id} {TASK}"
        )
    assert (told["Ada"].action, told["Grace"].action) == ("expired", "promoted")
    assert "cannot approve it alone" in told["Ada"].reason
    begins = (
        r"Overrides the refusal of [\d-]+, as Ada asked: \u201cThe clinic needs it.\u201d "
        r"Approved by Grace: \u201cok\u201d\. The refusal was: it makes the same predictions .*; "
        r"cohort klinik has left the catalogue since, and has no say any more\. Promoted by"
    )
    assert re.match(begins, told["Grace"].reason), "what people said comes first"
    assert told["Grace"].as_dict()["is_override"]
    rows = rows_of(
        settings, "SELECT action, decided_by, figures -> 'overrides' FROM promotion ORDER BY sequence"
    )
    assert [tuple(row) for row in rows] == [
        ("promoted", "rule", None),
        ("refused", "rule", None),
        ("expired", "Ada", None),
        ("promoted", "Grace", 2),
    ]
    assert is_superseded(workspace, Asked(task_name=TASK, **state))  # type: ignore[arg-type]
    # Run again, it finds its decision; another run finds none left.
    assert plan_promotion(workspace, task=TASK, force=asked)["rescore"] == []
    assert write_questions(workspace, tasks=[TASK], approval="always", is_forced=True, force=asked) == []
    assert tasks_to_decide(workspace, [TASK], asked) == [TASK]
    assert promote(is_forced=True, force=asked, request_id=f"run 2 {TASK}") == told["Grace"]
    # Another that was asked about meanwhile ends without an error, and people are told.
    late = replace(asked, run_id="run 3")
    assert write_questions(workspace, tasks=[TASK], approval="always", is_forced=True, force=late) == []
    for answers in ([], [{**answer, "person": "Grace"}]):
        (instruction,) = gather_answers(
            workspace,
            tasks=[TASK],
            answers=answers,
            approval="always",
            is_forced=True,
            triggered_by="Ada",
            force=late,
        )
        said = promote_model(workspace, **asdict(instruction), is_forced=True, force=late)
        assert said.action == "none"
        assert "it was promoted on" in said.reason
        notice = of_decision(said.as_dict(), "run 3")
        assert notice is not None
        assert (notice.event, notice.text, notice.is_alarming) == ("not_promoted", said.reason, True)
    command = ["promote", "--despite-gates", "--training", second, "--reason", "The clinic needs it."]
    with pytest.raises(UnusableInputError, match="may not promote despite the gates"):
        CliRunner().invoke(lesion, command, catch_exceptions=False)
    monkeypatch.delenv("LESION_APPROVERS")
    with pytest.raises(UnusableInputError, match="it was promoted on"):
        CliRunner().invoke(lesion, command, catch_exceptions=False)


def test_what_is_done_despite_the_gates_has_a_reason() -> None:
    assert read_force("", " ", is_forced=False, asked_by="Ada") is None
    for given in (("x", "why"), ("", "why"), ("x", "")):
        with pytest.raises(UnusableInputError, match=r"refused training or a reason.*Despite the gates"):
            read_force(*given, is_forced=False, asked_by="Ada")
    for name, what in (("x", "overriding the refusal of 'x'"), ("", "a promotion despite the gates")):
        with pytest.raises(UnusableInputError, match=f"{what}: the reason is empty"):
            read_force(name, " ", is_forced=True, asked_by="Ada")
        with pytest.raises(UnusableInputError, match="the reason has 501 characters, expected at most 500"):
            read_force(name, "y" * 501, is_forced=True, asked_by="Ada")
    read = read_force("x", "in\n\n# two lines", is_forced=True, asked_by="Ada")
    assert read == Override(training_id="x", reason="in # two lines", asked_by="Ada")
    assert read_force("", "why", is_forced=True, asked_by="Ada") == Force(reason="why", asked_by="Ada")


def refuse(settings: Settings, training_id: str, *, is_obstacle: bool = False) -> None:
    """Write a refusal by the gates."""
    execute(
        settings,
        """INSERT INTO promotion (task, sequence, action, training_id, reason, figures, decided_by)
           SELECT :task, count(*) + 1, 'refused', :id, 'It gains nothing.', CAST(:figures AS jsonb), 'rule'
           FROM promotion""",
        task=TASK,
        id=training_id,
        figures=json.dumps({"objections": ["x"], "is_obstacle": is_obstacle}),
    )


def test_an_override_that_meets_an_obstacle_says_so_and_its_question_closes(settings: Settings) -> None:
    training_id = first_candidate(settings)
    refuse(settings, training_id, is_obstacle=True)
    workspace = open_workspace()
    asked = replace(override(training_id), reason="see [it](https://x.org), *now* <b>")
    with pytest.raises(UnusableInputError, match="the gates refused, and it was refused: It gains nothing"):
        plan_promotion(workspace, task=TASK, force=asked)
    refuse(settings, training_id)
    (question,) = write_questions(workspace, tasks=[TASK], approval="always", is_forced=True, force=asked)
    shown = markdown_as_html(question.body)
    assert "as Ada asks: \u201csee [it](https://x.org), *now* &lt;b&gt;\u201d." in shown
    assert "best of its round" not in shown
    state = {"asked_about": training_id, "asked_against": None}
    open_state = Asked(
        task_name=TASK, asked_about=training_id, findings_sha256=question.findings_sha256, is_override=True
    )
    assert not is_superseded(workspace, open_state)
    assert training_id in promote(is_forced=True).reason

    # Its model cannot be read: nobody may promote it, whoever approves.
    ((key,),) = rows_of(settings, f"SELECT model_key FROM training WHERE training_id = '{training_id}'")
    model = open_bucket(settings).get(key)
    open_bucket(settings).put(key, b"another")
    assert is_superseded(workspace, open_state)
    said = promote(is_forced=True, force=asked, answer="approved", decided_by="Grace", **state)
    assert (said.action, said.training_id) == ("none", training_id)
    assert "SHA-256 is" in said.reason
    open_bucket(settings).put(key, model)

    archive_training(workspace, training_id, reason="no use", archived_by="ada")
    with workspace.engine.connect() as connection:
        assert "take it back first" in str(overtaken_by(connection, open_state))
    assert training_id not in promote(is_forced=True).reason
    assert rows_of(settings, "SELECT count(*) FROM promotion") == [(2,)]


def test_an_answer_counts_for_the_evaluation_that_its_question_showed(settings: Settings) -> None:
    training_id = first_candidate(settings)
    workspace = open_workspace()
    (question,) = write_questions(workspace, tasks=[TASK], approval="always")
    state = {"asked_about": training_id, "asked_against": None, "findings_sha256": question.findings_sha256}
    assert not is_superseded(workspace, Asked(task_name=TASK, **state))  # type: ignore[arg-type]
    write_anew(settings, WORDED_ANEW)
    assert not is_superseded(workspace, Asked(task_name=TASK, **state))  # type: ignore[arg-type]
    write_anew(settings, OTHER_FIGURE)

    assert is_superseded(workspace, Asked(task_name=TASK, **state))  # type: ignore[arg-type]
    for answer in ("approved", "rejected"):
        said = promote(answer=answer, decided_by="Ada", is_forced=True, **state)
        assert said.action == "expired"
        assert f"it stays a candidate: Ada {answer} an evaluation that was made again since" in said.reason
    said = promote(answer="expired", answer_reason="it needs an approver", decided_by="Eve", is_forced=True)
    assert said.reason == "Nobody was asked; it stays a candidate: it needs an approver"
    (question,) = write_questions(workspace, tasks=[TASK], approval="always")
    assert question.asked_about == training_id


def test_what_was_refused_for_a_better_one_beside_it_is_no_refusal_by_the_gates(settings: Settings) -> None:
    training_id = first_candidate(settings)
    execute(
        settings,
        """INSERT INTO promotion (task, sequence, action, training_id, reason, figures, decided_by)
           VALUES (:task, 1, 'refused', :id, 'x is better on val.', '{"val": 0.5, "is_obstacle": false}', 'rule')""",
        task=TASK,
        id=training_id,
    )
    with pytest.raises(UnusableInputError, match="the gates refused, and it was refused: x is better on val"):
        plan_promotion(open_workspace(), task=TASK, force=override(training_id))


def test_where_people_are_asked_a_candidate_that_nobody_was_asked_about_stays_one(settings: Settings) -> None:
    """A run that waited for the answer about another task ends after it has come."""
    workspace = open_workspace()
    assert write_questions(workspace, tasks=["malignancy"], approval="always") == []
    newcomer = first_candidate(settings)
    for is_forced in (False, True):
        (told,) = gather_answers(
            workspace,
            tasks=["malignancy"],
            answers=[],
            approval="always",
            is_forced=is_forced,
            triggered_by="Ada",
        )
        assert told.needs_answer
        said = promote(
            decided_by=told.decided_by, asked_about=None, needs_answer=told.needs_answer, is_forced=is_forced
        )
        assert (said.action, said.training_id) == ("none", newcomer)
        assert "gets one of its own" in said.reason
    (question,) = write_questions(workspace, tasks=["malignancy"], approval="always")
    assert question.asked_about == newcomer
    (told,) = gather_answers(
        workspace, tasks=["malignancy"], answers=[], approval="never", is_forced=False, triggered_by=None
    )
    assert not told.needs_answer


def test_a_question_that_nobody_answered_is_asked_again(settings: Settings) -> None:
    training_id = first_candidate(settings)

    assert promote(asked_about=training_id, answer="expired", decided_by="nobody").action == "expired"

    (question,) = write_questions(open_workspace(), tasks=[TASK], approval="always")
    assert question.asked_about == training_id


def test_a_newer_candidate_takes_the_place_of_an_open_question(settings: Settings) -> None:
    old = first_candidate(settings)
    assert not is_superseded(open_workspace(), Asked(task_name=TASK, asked_about=old))
    new = candidate()

    assert is_superseded(open_workspace(), Asked(task_name=TASK, asked_about=old))
    with open_workspace().engine.connect() as connection:  # by the database alone, as a page asks
        why = overtaken_by(connection, Asked(task_name=TASK, asked_about=old))
        assert (
            why
            == f"{old} is no longer a candidate: a newer training of its variant was evaluated, or it was put aside"
        )
        assert overtaken_by(connection, Asked(task_name=TASK, asked_about=new)) is None
    said = promote(asked_about=old, answer="approved", decided_by="Ada")

    assert (said.action, said.training_id) == ("superseded", old)
    (question,) = write_questions(open_workspace(), tasks=[TASK], approval="always")
    assert question.asked_about == new


def test_an_approval_against_another_champion_does_not_count(settings: Settings) -> None:
    first = first_candidate(settings)
    promote(is_forced=True)
    second = candidate()
    (question,) = write_questions(open_workspace(), tasks=[TASK], approval="always")
    asked = {"asked_about": second, "asked_against": first}
    assert {name: getattr(question, name) for name in asked} == asked
    assert not is_superseded(open_workspace(), Asked(task_name=TASK, **asked))

    said = promote(
        asked_about=second, asked_against=None, answer="approved", is_forced=True, decided_by="Ada"
    )

    assert said.action == "expired"
    assert f"was for a comparison with no champion, and the champion is {first} by now" in said.reason
    assert is_superseded(open_workspace(), Asked(task_name=TASK, asked_about=second))
    assert promote(**asked, answer="approved", is_forced=True, decided_by="Ada").is_promoted


def asker(run_id: str, *going_on: str, hours: float = 1) -> Asker:
    return Asker(run_id=run_id, wait=timedelta(hours=hours), is_asking=lambda name: name in going_on)


def test_one_run_asks_about_a_candidate_and_another_says_which(settings: Settings) -> None:
    training_id = first_candidate(settings)
    workspace = open_workspace()

    def asked(by: Asker, **how: Any) -> list[str]:
        found = write_questions(workspace, tasks=[TASK], approval="always", asker=by, **how)
        return [one.asked_about for one in found]

    assert asked(asker("one")) == [training_id]
    assert asked(asker("one")) == [training_id], "cleared, it asks again"
    assert asked(asker("two", "one")) == []
    said = promote(needs_answer=True, request_id=request_of("two", TASK))
    assert said.action == "none"
    assert said.reason == f"run one asks about {training_id} already: the answer there counts"
    assert rows_of(settings, "SELECT request_id FROM open_question") == [(request_of("one", TASK),)]

    # Of a run that was killed, or whose question has expired, nobody gets an answer.
    assert asked(asker("three", hours=0)) == [training_id]
    assert asked(asker("four", "three")) == [training_id]
    # Despite the gates is another question.
    assert asked(asker("five", "four"), is_forced=True, force=Force(reason="now", asked_by="Ada")) == [
        training_id
    ]
    rows = rows_of(settings, "SELECT action, request_id, reason FROM promotion ORDER BY sequence")
    assert [tuple(row) for row in rows] == [
        ("superseded", request_of(old, TASK), f"Run {new} asks about {training_id} {how}.")
        for old, new, how in (
            ("one", "three", "anew"), ("three", "four", "anew"), ("four", "five", "despite the gates"),
        )
    ]  # fmt: skip
    # Its own run finds how it ended, and the candidate is still one.
    late = promote(
        asked_about=training_id, answer="approved", decided_by="Eve", request_id=request_of("four", TASK)
    )
    assert (late.action, late.training_id) == ("superseded", training_id)
    decided = promote(
        asked_about=training_id,
        answer="approved",
        decided_by="Grace",
        is_forced=True,
        force=Force(reason="now", asked_by="Ada"),
        request_id=request_of("five", TASK),
    )
    assert decided.is_promoted
    assert decided.reason.startswith("Ada asked for it: \u201cnow\u201d. Approved by Grace.")
    assert rows_of(settings, "SELECT count(*) FROM open_question") == [(0,)]


def test_what_a_person_answered_is_kept_whatever_comes_between(settings: Settings) -> None:
    """A run decides when all of its questions are answered; others decide meanwhile."""
    training_id = first_candidate(settings)
    workspace = open_workspace()
    force = Force(reason="now", asked_by="Ada")

    def ask(by: str, *going_on: str, **how: Any) -> Any:
        how = {"tasks": [TASK], "approval": "always", "asker": asker(by, *going_on)} | how
        return next(iter(write_questions(workspace, **how)), None)

    # An approval is left to its run by the rule, and by another question despite the gates.
    one = ask("one")
    note_answer(workspace, one, answer="approved", person="Grace", reason="ok")
    left = promote(request_id=request_of("two", TASK))
    assert (left.action, left.training_id) == ("none", training_id)
    assert left.reason == f"run one asked about {training_id}, and decides: Grace approved it"
    assert ask("three", "one", is_forced=True, force=force) is None

    # A run that goes on no more is asked in place of; what is answered there before it looks again is kept.
    four = ask("four")
    assert four is not None and is_superseded(workspace, one)
    note_answer(workspace, one, answer="approved", person="Eve", reason="fine")
    # The row of the question that is open by now is none of its business.
    assert not looks_superseded(workspace, four)
    # Without its row a question is over, though its candidate waits: as of a run that has decided, and was cleared.
    void = promote(answer="expired", decided_by="Eve", request_id=request_of("four", TASK))
    assert void.action == "expired"
    assert looks_superseded(workspace, four)
    assert ask("four") is None, "it has decided"
    assert rows_of(settings, "SELECT count(*) FROM open_question") == [(0,)]

    # A rejection holds from then on, though its run has not decided.
    note_answer(workspace, four, answer="rejected", person="Grace", reason="too few of children")
    for is_forced in (False, True):
        said = promote(is_forced=is_forced, force=force if is_forced else None)
        assert said.action == "none"
    late = promote(
        asked_about=training_id, answer="rejected", decided_by="Grace", request_id=request_of("four", TASK)
    )
    assert (late.action, late.reason) == ("rejected", "Rejected by Grace: \u201ctoo few of children\u201d.")
    rows = rows_of(settings, "SELECT action, decided_by, reason FROM promotion ORDER BY sequence")
    assert [tuple(row) for row in rows] == [
        ("superseded", "rule", f"Run four asks about {training_id} anew. Grace had approved it."),
        ("superseded", "Eve", "Approved by Eve: \u201cfine\u201d. It came after the question had ended."),
        ("expired", "Eve", rows[2][2]),
        ("rejected", "Grace", "Rejected by Grace: \u201ctoo few of children\u201d."),
    ]


def test_what_a_run_asked_that_was_ended_leaves_a_row_and_its_answer_is_kept_once(settings: Settings) -> None:
    training_id = first_candidate(settings)
    workspace = open_workspace()
    (question,) = write_questions(workspace, tasks=[TASK], approval="always", asker=asker("one"))
    end_questions_of_run(workspace, "on")
    assert rows_of(settings, "SELECT count(*) FROM promotion") == [(0,)]
    for _ in range(2):
        end_questions_of_run(workspace, "one")
    assert rows_of(settings, "SELECT count(*) FROM open_question") == [(0,)]
    for _ in range(2):
        note_answer(workspace, question, answer="rejected", person="Grace", reason="too few of children")
        # What was rejected is no candidate any more: a rejection of another run's question is kept all the same.
        other = replace(question, request_id=request_of("two", TASK))
        note_answer(workspace, other, answer="rejected", person="Eve", reason="no")
    rows = rows_of(
        settings, "SELECT action, training_id, decided_by, reason FROM promotion ORDER BY sequence"
    )
    assert [tuple(row) for row in rows] == [
        ("superseded", training_id, "rule", "Its run was ended before it decided."),
        ("rejected", training_id, "Grace", "Rejected by Grace: \u201ctoo few of children\u201d."),
        ("superseded", training_id, "Eve", rows[2][3]),
    ]
    assert rows[2][3].startswith("Rejected by Eve: \u201cno\u201d. It came after the question had ended: ")


def test_a_run_that_asks_anew_keeps_one_question_of_a_task(settings: Settings) -> None:
    first = first_candidate(settings)
    workspace = open_workspace()
    how: dict[str, Any] = {"tasks": [TASK], "approval": "always", "asker": asker("one")}
    write_questions(workspace, only=[first], **how)
    second = candidate("metadata_mlp")
    (question,) = write_questions(workspace, only=[second], **how)
    assert rows_of(settings, "SELECT training_id FROM open_question") == [(second,)]
    # Marked as done without an answer: it does not name itself as the one that asks.
    said = promote(only=[second], needs_answer=True, request_id=question.request_id)
    assert said.reason == f"the question about {second} ended without an answer: it stays a candidate"


@pytest.mark.parametrize("is_forced", [True, False])
def test_a_decision_ends_the_question_of_another_run_with_a_row(is_forced: bool, settings: Settings) -> None:
    training_id = first_candidate(settings)
    workspace = open_workspace()
    (question,) = write_questions(workspace, tasks=[TASK], approval="always", asker=asker("one"))
    assert not is_superseded(workspace, question)
    void = promote(answer="expired", decided_by="Eve", request_id=request_of("two", TASK))
    assert void.action == "expired", "what does not count overtakes nothing"
    assert not is_superseded(workspace, question)

    force = Force(reason="now", asked_by="Ada") if is_forced else None
    said = promote(is_forced=is_forced, force=force, decided_by="Ada", request_id=request_of("three", TASK))

    assert said.reason.endswith("The question about it that run one asked ends as superseded.")
    assert is_superseded(workspace, question)
    with workspace.engine.connect() as connection:
        assert overtaken_by(connection, question) is not None
    rows = rows_of(settings, "SELECT action, request_id FROM promotion ORDER BY sequence")
    assert [tuple(row) for row in rows[1:]] == [
        ("superseded", request_of("one", TASK)),
        (said.action, request_of("three", TASK)),
    ]
    late = promote(
        asked_about=training_id, answer="rejected", decided_by="Eve", request_id=request_of("one", TASK)
    )
    assert late.action == "superseded"


def test_a_run_about_some_trainings_leaves_the_others_waiting(settings: Settings) -> None:
    """As `train_variants` hands on what it trained together with whether a person is asked."""
    waiting, trained = first_candidate(settings), candidate("metadata_mlp")
    workspace = open_workspace()
    (question,) = write_questions(workspace, tasks=[TASK], approval="always", only=[trained])
    assert question.asked_about == trained
    assert not is_superseded(workspace, question), (
        "a better one that its run is not about is none of its business"
    )
    assert plan_promotion(workspace, task=TASK, only=[trained])["candidate"] == trained
    assert promote(only=[trained], is_forced=True).training_id == trained
    assert promote(only=[trained]).reason.startswith("none of the trainings that started this run is waiting")
    assert [row[0] for row in rows_of(settings, "SELECT training_id FROM promotion")] == [trained]
    with workspace.engine.connect() as connection:
        assert [one.training_id for one in find_candidates(connection, workspace.bucket, TASK)] == [waiting]


def test_a_run_that_asks_nobody_says_why(settings: Settings) -> None:
    training_id = first_candidate(settings)
    fail_a_check(settings, training_id, "independent_of_labels")
    assert write_questions(open_workspace(), tasks=[TASK], approval="always") == []
    said = promote(needs_answer=True)
    assert "no candidate may be promoted, so nobody was asked" in said.reason
    ((reason, figures),) = rows_of(settings, "SELECT reason, figures FROM promotion")
    assert reason.startswith(
        "Nobody was asked, since no approval could promote it: Its evaluation failed 1 check. It does not."
    )
    assert outcome_of("refused", figures) == "barred"
    refuse(settings, training_id)
    assert promote(needs_answer=True).reason == (
        f"no training is waiting for a decision, so nobody was asked; the gates refused {training_id}. "
        + HOW_TO_OVERRIDE.rstrip(".")
    )


def test_labels_that_were_corrected_after_the_evaluation_are_a_caution_of_the_decision(
    settings: Settings,
) -> None:
    first_candidate(settings)
    execute(
        settings,
        """UPDATE image SET diagnosis = ARRAY['Malignant', 'Melanoma'] WHERE isic_id = (
               SELECT min(isic_id) FROM split_member WHERE subset = 'test' AND label = 'benign')""",
    )
    (question,) = write_questions(open_workspace(), tasks=[TASK], approval="always")
    assert "labels of test have changed since" in question.body


def test_a_candidate_tested_on_strangers_is_promoted_with_a_caution(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody says whose the images are: evaluation, report and decision say that they do not know it."""
    first = first_candidate(settings)

    def of_strangers(*where: Any) -> Any:
        return read_manifest(*where).assign(patient_id=None, lesion_id=None)

    monkeypatch.setattr("lesion_tasks.evaluation.subject.read_manifest", of_strangers)
    evaluate_training(open_workspace(), first)
    ((document,),) = rows_of(settings, "SELECT document FROM evaluation")
    assert document["identities"]["test"]["n_with_either"] == 0
    assert "patients and lesions are unknown" in document["verdict"]
    status = {one["name"]: one["status"] for one in document["integrity"]}
    assert (status["leaks"], status["few_groups"]) == ("caution", "caution")
    caution = "a model may be tested on patients from whom it learned"
    assert caution in document["promotion"]["cautions"][-1]
    decided = promote(is_forced=True)
    assert caution in decided.reason
    assert caution in figures_of_decision(settings)["cautions"][-1]


@pytest.mark.parametrize("is_of_gate", [True, False])
def test_a_gate_is_called_unjudged_by_the_cautions_of_gates_alone(is_of_gate: bool) -> None:
    said = ["too few positives to judge sensitivity"]
    proposal = Proposal(
        task=TASK,
        candidate=cast("Any", SimpleNamespace(test={"auc": {"value": 0.9}})),
        others=[],
        champion=None,
        comparison=None,
        objections=[],
        declined=[],
        gate_cautions=said if is_of_gate else [],
        further_cautions=[] if is_of_gate else said,
        n_openings=1,
        report_keys=[],
        missing=None,
        missing_on_cohorts=None,
    )
    reason = reason_of(proposal, is_forced=False)
    assert ("clears every gate that could be judged;" in reason) == is_of_gate
    assert reason.endswith(f"Caution: {said[0]}.")
    told = reason_of(
        replace(proposal, further_cautions=["a", "b; c", "<d>"], gate_cautions=[]), is_forced=False
    )
    assert told.endswith(" Cautions: (1) a; (2) b; c; (3) <d>.")
    lines = "".join(f'<span class="point">{one}</span>' for one in ("(1) a", "(2) b; c", "(3) &lt;d&gt;."))
    assert points(told).endswith(f" Cautions:{lines}")
    # Better is what the interval shows, and nothing else.
    for low, begins in ((0.001, "Better than"), (-0.01, "Not shown to be better or worse than")):
        gain = SimpleNamespace(low=low, model_dump=lambda low=low: {"value": 0.01, "low": low, "high": 0.05})
        compared: Any = SimpleNamespace(differences={"auc": gain}, n_left_out=0)
        said_of = reason_of(replace(proposal, comparison=compared), is_forced=False)
        assert said_of.startswith(f"{begins} None on the same test images: AUC, difference +0.0100")
    forced = reason_of(replace(proposal, objections=["it is bad"]), is_forced=True)
    assert forced == f"Promoted by force despite: it is bad. Caution: {said[0]}."


def test_a_question_shows_losses_of_guarded_slices_alone() -> None:
    from lesion_tasks.promotion.proposal import _slices

    def compared(**differences: float) -> Comparison:
        slices = [
            PublishedSliceDifference(
                attribute=attribute,
                value="x",
                n_images=20,
                n_groups=20,
                n_positives=None,
                reason=None,
                difference=Difference(
                    measure="auc",
                    candidate=0.8 + value,
                    champion=0.8,
                    value=value,
                    interval=Interval(low=value - 0.1, high=value + 0.1, method="paired"),
                ).published(),
            )
            for attribute, value in differences.items()
        ]
        return Comparison(champion="before", subset="test_natural", differences={}, slices=slices)

    shown = "\n".join(_slices(compared(sex=-0.02, age_years=0.04, size_mm=-0.44)))
    assert "\N{MINUS SIGN}0.0200" in shown and "0.0400" not in shown and "0.4400" not in shown
    assert _slices(compared(age_years=0.04, size_mm=-0.44)) == []


def figures_of_decision(settings: Settings) -> dict[str, Any]:
    ((figures,),) = rows_of(settings, "SELECT figures FROM promotion ORDER BY sequence DESC LIMIT 1")
    found: dict[str, Any] = figures
    return found


def test_a_request_that_is_run_again_finds_its_decision(settings: Settings) -> None:
    first_candidate(settings)
    said = promote(is_forced=True, request_id="run 1")
    candidate()

    assert promote(is_forced=True, request_id="run 1") == said
    assert rows_of(settings, "SELECT count(*) FROM promotion") == [(1,)]


@pytest.mark.parametrize(
    ("answer", "triggered_by", "told"),
    [
        (None, "Ada", None),  # an approver's own force
        (None, "Mallory", "expired"),  # it ends no candidacy
        (("approved", "Ada"), "Ada", "expired"),
        (("approved", "Grace"), "Ada", "approved"),
        (("rejected", "Ada"), "Ada", "rejected"),
    ],
)
def test_where_approvers_are_named_nobody_else_forces_and_nobody_forces_alone(
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    answer: tuple[str, str] | None,
    triggered_by: str,
    told: str | None,
) -> None:
    monkeypatch.setenv("LESION_APPROVERS", "Ada, Grace")
    answers = []
    if answer is not None:
        answers = [
            {
                "task_name": TASK,
                "asked_about": "x",
                "asked_against": None,
                "answer": answer[0],
                "person": answer[1],
                "reason": "",
            }
        ]

    (found,) = gather_answers(
        open_workspace(), tasks=[TASK], answers=answers, is_forced=True, triggered_by=triggered_by
    )

    assert found.answer == told


def test_the_leaderboard_holds_tasks_of_different_leading_measures(settings: Settings) -> None:
    first_candidate(settings)
    # As an evaluation of the other task: its figures have other names.
    execute(settings, "UPDATE training SET task = 'five_classes'")
    execute(
        settings,
        "UPDATE evaluation SET document = replace(document::text, '\"auc\"', '\"macro_auc\"')::jsonb",
    )
    candidate("metadata_mlp")

    rows = leaderboard_lines(open_workspace())

    assert {(row.task, row.measure) for row in rows} == {
        ("malignancy", "auc"),
        ("five_classes", "macro_auc"),
    }


def decision(
    training_id: str, previous: str | None, step: float | None, action: str = "promoted"
) -> SimpleNamespace:
    differences = {"sensitivity_at_90_specificity": {"value": step}}
    figures = {
        "comparison": None if step is None else {"differences": differences},
        "is_forced": action == "forced",
    }
    return SimpleNamespace(
        training_id=training_id, previous_training_id=previous, action=action, figures=figures
    )


@pytest.mark.parametrize(
    ("line", "step", "loss"),
    [
        # Each lost less than the margin of 0.05; together with the candidate they lost more.
        ([("a", None, None), ("b", "a", -0.03), ("c", "b", -0.02)], -0.01, 0.06),
        ([("a", None, None), ("b", "a", -0.03), ("c", "b", -0.02)], 0.01, None),
        # The best was not the first.
        ([("a", None, None), ("b", "a", 0.04), ("c", "b", -0.04)], -0.02, 0.06),
        # Without a comparison nothing is known of what came before.
        ([("a", None, None), ("b", "a", None), ("c", "b", -0.04)], -0.005, None),
        # A candidate that gains is not held to account for those before it.
        ([("a", None, None), ("b", "a", -0.2)], 0.1, None),
        # A person accepted a loss.
        ([("a", None, None), ("b", "a", -0.2, "forced")], -0.01, None),
        # A champion that somebody rolled back from had faults.
        ([("a", None, None), ("b", "a", 0.2), ("a", "b", None, "rolled_back")], -0.01, None),
        # A rollback puts the best back.
        ([("a", None, None), ("b", "a", -0.04), ("a", "b", None, "rolled_back")], -0.04, None),
    ],
)
def test_small_losses_of_many_promotions_cannot_add_up(
    monkeypatch: pytest.MonkeyPatch, line: list[tuple[Any, ...]], step: float, loss: float | None
) -> None:
    from lesion_tasks.promotion import drift

    monkeypatch.setattr(drift, "enthronements", lambda connection, task: [decision(*one) for one in line])
    comparison = {
        "differences": {
            "sensitivity_at_90_specificity": {"value": step, "low": step - 0.1},
            "auc": {"value": 0.01, "low": -0.02},
        }
    }
    gates = gates_of(TASK)
    found = drift.objections_to(drift.declines(None, TASK, comparison, gates), gates)  # type: ignore[arg-type]
    assert len(found) == (loss is not None)
    if loss is not None:
        assert f"would be {loss:.4f} below that of {'b' if line[1][2] == 0.04 else 'a'}, the best" in found[0]


def test_a_champions_luck_is_told_and_its_figures_on_images_that_joined_since(settings: Settings) -> None:
    first = first_candidate(settings)
    promote(is_forced=True)
    entry = json.loads(open_bucket(settings).get("champion.json"))[TASK]
    assert entry["figures"]["best_of_looks"] is None  # the first look
    assert entry["figures"]["since_promotion"] is None

    second = candidate_on_more_images(settings)
    evaluate_training(open_workspace(), first, manifest_digest=manifest_of(settings, second))

    documents = dict(rows_of(settings, "SELECT evaluation_id, document FROM evaluation"))
    looks = {
        document["training"]["training_id"]: document["best_of_looks"] for document in documents.values()
    }
    assert looks[second]["n_looks"] == 2
    assert looks[second]["luck"] >= 0
    champions, schema = (
        json.loads(open_bucket(settings).get(f"champion.{kind}")) for kind in ("json", "schema.json")
    )
    jsonschema.Draft202012Validator(schema).validate(champions)
    figures = champions[TASK]["figures"]
    assert figures["measure"] == "auc"
    ((n_joined,),) = rows_of(
        settings,
        "SELECT count(*) FROM prediction WHERE subset = 'test' AND isic_id > 'ISIC_0000400' "
        f"AND training_id = '{first}'",
    )
    assert figures["since_promotion"]["n_images"] == n_joined > 0
    page = open_bucket(settings).get("reports/index.html").decode()
    assert f"On {n_joined} images that joined the test set since" in page


def test_a_rollback_to_an_altered_model_is_refused(settings: Settings) -> None:
    first = first_candidate(settings)
    promote(is_forced=True)
    candidate()
    promote(is_forced=True)
    ((key,),) = rows_of(settings, f"SELECT model_key FROM training WHERE training_id = '{first}'")
    open_bucket(settings).put(key, b"another")
    with pytest.raises(UnusableInputError, match=f"rollback to '{first}': .*model {key}: SHA-256 is"):
        rollback_champion(open_workspace(), reason="worse in practice")


def test_only_approvers_promote_despite_the_gates_from_the_command_line(settings: Settings) -> None:
    first_candidate(settings)
    workspace = Workspace(settings.model_copy(update={"approvers": ("ann",)}))
    with pytest.raises(
        UnusableInputError, match="bob may not promote despite the gates, expected one of ann"
    ):
        workspace.settings.approval_rules.require_approver("promote despite the gates", person="bob")
    workspace.settings.approval_rules.require_approver("promote despite the gates", person="ann")
    settings.approval_rules.require_approver("promote despite the gates", person="bob")


def test_only_approvers_correct_the_data_unasked_where_people_are_asked() -> None:
    asking = ApprovalRules(is_set=True, approvers=("ann",))
    with pytest.raises(UnusableInputError, match="bob may not correct the data unasked, expected one of ann"):
        asking.require_corrector(person="bob")
    asking.require_corrector(person="ann")
    for rules in (replace(asking, is_set=False), replace(asking, approvers=())):
        rules.require_corrector(person="bob")


def test_patients_merged_after_the_evaluation_are_a_leak_when_it_is_repeated(settings: Settings) -> None:
    training_id = first_candidate(settings)
    execute(
        settings,
        """UPDATE image SET group_id = 'IP_0000001' WHERE isic_id IN (
               SELECT min(isic_id) FROM split_member WHERE split = 'malignancy_natural' AND subset IN ('train', 'test')
               GROUP BY subset)""",
    )
    said = promote(is_forced=True)
    assert said.action == "refused"
    assert "Since its evaluation a leak became known. The subsets overlap" in said.reason
    evaluate_training(open_workspace(), training_id)
    assert "leaks" in evaluation_of(settings, training_id)["failed_checks"]


def evaluation_of(settings: Settings, training_id: str) -> dict[str, Any]:
    ((document,),) = rows_of(settings, f"SELECT document FROM evaluation WHERE training_id = '{training_id}'")
    return dict(document)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("threshold", "0.0001"),
        ("classes", "ARRAY['malignant', 'benign']"),
        ("recipe", "recipe || '{\"seed\": 7}'"),
    ],
)
def test_a_training_whose_row_changed_after_its_evaluation_is_not_promoted(
    settings: Settings, column: str, value: str
) -> None:
    training_id = first_candidate(settings)
    execute(settings, f"UPDATE training SET {column} = {value}")
    said = promote(is_forced=True)
    assert not said.is_promoted
    assert f"{column} of training '{training_id}' changed after its evaluation" in said.reason


def test_predictions_that_were_stored_anew_after_an_evaluation_are_no_part_of_it(settings: Settings) -> None:
    """As a worker leaves it that scores again, wrongly, and dies before it has checked anything."""
    training_id = first_candidate(settings)
    with open_workspace().engine.begin() as connection:
        digest = manifest_of(settings, training_id)
        stored = read_predictions(connection, training_id, digest, "test", TASKS[TASK].classes)
        store_predictions(connection, training_id, digest, "test", stored[::-1].set_axis(stored.index))
    said = promote(is_forced=True)
    assert not said.is_promoted
    assert "are not those it evaluated" in said.reason


def test_an_evaluation_without_the_checks_of_today_is_repeated(settings: Settings) -> None:
    training_id = first_candidate(settings)
    kept = "jsonb_set(document, '{integrity}', jsonb_build_array(document #> '{integrity,0}'))"
    execute(settings, f"UPDATE evaluation SET document = {kept}, {SEAL.format(kept)}")
    said = promote(is_forced=True)
    assert not said.is_promoted
    assert "evaluated by an older version without degenerate, few_groups, gap" in said.reason
    # What stood in its way is mended: it is a candidate again.
    evaluate_training(open_workspace(), training_id)
    assert promote(is_forced=True).training_id == training_id


def test_a_model_that_was_missing_for_a_while_is_a_candidate_again(settings: Settings) -> None:
    training_id = first_candidate(settings)
    ((key,),) = rows_of(settings, "SELECT model_key FROM training")
    data = open_bucket(settings).get(key)
    open_bucket(settings).delete(key)
    assert promote(is_forced=True).action == "refused"
    open_bucket(settings).put(key, data)
    assert promote(is_forced=True).action == "none"
    evaluate_training(open_workspace(), training_id)
    assert promote(is_forced=True).training_id == training_id


def test_neither_a_trial_run_nor_a_shortened_training_hides_the_variants_own(settings: Settings) -> None:
    own = first_candidate(settings)
    workspace = open_workspace()
    shortened = train_variant(workspace, "metadata_logistic", max_epochs=2)
    trial = train_variant(workspace, "metadata_logistic", is_smoke_run=True)
    for training_id in (shortened, trial):
        evaluate_training(workspace, training_id)
    with workspace.engine.connect() as connection:
        found = {one.training_id: one for one in find_candidates(connection, workspace.bucket, TASK)}
    assert set(found) == {own, shortened, trial}
    assert "Changed for this training alone: max_epochs = 1" in (found[trial].obstacle or "")
    said = promote(is_forced=True)
    assert said.action == "promoted"
    assert said.training_id in {own, shortened}


def test_labels_under_rules_that_have_changed_are_another_question(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    first_candidate(settings)
    monkeypatch.setitem(TASKS, TASK, replace(TASKS[TASK], mapping_version=TASKS[TASK].mapping_version + 1))
    said = promote(is_forced=True)
    assert not said.is_promoted
    assert "of the task's rules, which are at version" in said.reason


def test_an_answer_is_kept_although_an_evaluation_is_missing_by_now(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = first_candidate(settings)
    with monkeypatch.context() as patched:
        cohort = Cohort(name="elsewhere", title="Elsewhere", tasks=(TASK,), attribution=("Another Hospital",))
        patched.setitem(COHORTS, cohort.name, cohort)
        with pytest.raises(UnusableInputError, match=f"not been judged .*`lesion evaluate {first}` first"):
            promote()
        assert "a cohort of the task has not been judged" in promote(is_forced=True).reason
    second = candidate_on_more_images(settings)
    with pytest.raises(UnusableInputError, match=f"{first} was not evaluated on manifest"):
        promote()
    said = promote(asked_about=second, answer="rejected", answer_reason="no", decided_by="Ada")
    assert said.action == "rejected"


def test_a_champion_that_is_bad_on_new_data_does_not_protect_itself(settings: Settings) -> None:
    first = first_candidate(settings)
    promote(is_forced=True)
    second = candidate_on_more_images(settings)
    digest = manifest_of(settings, second)
    evaluate_training(open_workspace(), first, manifest_digest=digest)
    evaluate_training(open_workspace(), second, manifest_digest=manifest_of(settings, first))
    fail_a_check(settings, first, "inverted", digest)
    assert "cannot be compared" not in promote().reason
