"""The page of a training that failed: each failure beside the try of the task in which it happened, or beside none."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, text
from test_pages import client
from test_prune import row_of

from lesion_tasks import UnusableInputError
from lesion_tasks.catalog import VARIANTS
from lesion_tasks.database.locks import Lock, hold_lock_if_free
from lesion_tasks.database.schema import Manifest, Pruning
from lesion_tasks.pages.training_page import RanTry, TaskTry, nearest_try, read_training
from lesion_tasks.settings import Settings
from lesion_tasks.training.run_record import LOST, Outcome, begin, mark_lost, record_epoch
from lesion_tasks.training.run_spec import RunSpec
from lesion_tasks.workspace import open_workspace

DIGEST = "a" * 64
NOON = datetime(2026, 11, 29, 12, tzinfo=UTC)


def begun(variant: str = "cnn_scratch", *, held_out: str | None = None) -> str:
    """A training on a manifest without rows, begun; returns its id."""
    with open_workspace().session() as session:
        session.merge(
            Manifest(
                digest=DIGEST,
                split="malignancy_natural",
                task="malignancy",
                held_out=held_out,
                recipe={},
                object_key="x",
                n_images=0,
                class_counts={},
                funnel=[],
                created_at=NOON,
                built_at=NOON,
            )
        )
    training_id, _ = begin(open_workspace().engine, row_of(variant, 0, DIGEST))
    return training_id


def asked(training_id: str) -> list[tuple[frozenset[str], datetime]]:
    """The labels and the moments for which the page looks for a try, the last failure first."""
    found: list[tuple[frozenset[str], datetime]] = []
    read_training(open_workspace(), training_id, lambda *given: found.append(given))
    return found


def reasons(training_id: str) -> list[str]:
    state = read_training(open_workspace(), training_id, lambda *_: None)
    return [one.failure.reason for one in state.failures]


def at(minutes: float) -> datetime:
    return NOON + timedelta(minutes=minutes)


@pytest.mark.parametrize(
    ("moment", "number"),
    [
        (9.9, 1),  # what fails ends then, a moment after its failure was noted
        (10.2, 1),  # by a clock that is behind
        (10.8, 2),
        (40, 2),
    ],
)
def test_the_try_is_the_one_nearest_in_time_to_the_failure(moment: float, number: int) -> None:
    """The second began 60 seconds after the first ended."""
    first = TaskTry(dag_id="train_variants", run_id="a", task_id="each.train", map_index=0, number=1)
    tries = [
        RanTry(task_try=replace(first, number=2), began=at(11), ended=None),
        RanTry(task_try=first, began=at(0), ended=at(10)),
    ]
    assert nearest_try(tries, at(moment)) == replace(first, number=number)
    assert nearest_try([], at(moment)) is None


def test_a_lost_training_is_looked_for_where_it_gave_its_last_sign(settings: Settings) -> None:
    engine = open_workspace().engine
    training_id = begun()
    assert mark_lost(engine) == [training_id]
    ((_, moment),) = asked(training_id)
    with engine.connect() as connection:
        started_at = connection.execute(text("SELECT started_at FROM training")).scalar_one()
    assert moment == started_at  # it did not come to the end of an epoch

    begun()
    record_epoch(engine, training_id, 1, {}, 1.0)
    mark_lost(engine)
    begun()
    record_epoch(engine, training_id, 2, {}, 1.0)
    with engine.connect() as connection:
        ended_at = connection.execute(
            text("SELECT ended_at FROM training_epoch WHERE epoch = 1")
        ).scalar_one()
    # By its own last epoch, whatever ended since; of the first nothing is known any more, so nothing is named.
    assert [moment for _, moment in asked(training_id)] == [ended_at]
    page = client().get(f"/training/{training_id}").text
    assert page.count("none of Airflow that it still keeps") == 2


def test_a_training_that_is_begun_again_before_its_loss_was_noted_keeps_a_failure(settings: Settings) -> None:
    training_id = begun()
    assert begun() == training_id  # as a task that is tried again does, if nobody looked in between
    (reason,) = reasons(training_id)
    assert reason.startswith("lost: ")
    with pytest.raises(ValueError, match="the cause"), Outcome(open_workspace().engine, training_id):
        # Another process took it for lost before it could say why it failed.
        mark_lost(open_workspace().engine)
        raise ValueError("the cause")
    assert reasons(training_id)[:2] == ["ValueError: the cause", LOST]


def test_a_training_that_lacks_its_weights_is_begun_under_its_lock(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two at once would each take the other for lost."""
    from lesion_tasks.training import train

    spec = RunSpec(
        variant=VARIANTS["efficientnet_lite0_frozen"],
        digest=DIGEST,
        manifest_key="x",
        weights=None,
        weights_location="nowhere",
        code_version="x",
    )
    free = []

    def begin_seen(engine: Engine, row: dict[str, Any]) -> tuple[str, bool]:
        with hold_lock_if_free(engine, Lock.TRAINING, row["fingerprint"]) as is_free:
            free.append(is_free)
        return "x", False

    monkeypatch.setattr(train, "begin", begin_seen)
    with pytest.raises(UnusableInputError):
        train._train(open_workspace(), spec)
    assert free == [False]


def test_a_member_of_an_ensemble_was_trained_by_the_task_of_the_ensemble(settings: Settings) -> None:
    ensemble = next(one for one in VARIANTS.values() if one.members)
    member, other = ensemble.members
    training_id = begun(member)
    mark_lost(open_workspace().engine)
    ((labels, _),) = asked(training_id)
    assert {ensemble.name, member} <= labels
    assert other not in labels
    page = client().get(f"/training/{training_id}").text
    assert "The task is" not in page  # none is known
    assert f"lesion train {member}" in page


def test_the_page_stays_when_the_data_was_pruned(settings: Settings) -> None:
    training_id = begun(held_out="institution: A hospital")
    mark_lost(open_workspace().engine)
    with open_workspace().session() as session:
        session.add(
            Pruning(
                kind="manifest",
                name=DIGEST,
                reason="nobody asks",
                pruned_by="ada",
                n_objects=1,
                size_bytes=1,
                began_at=NOON,
            )
        )
    answer = client().get(f"/training/{training_id}")
    assert answer.status_code == 200
    assert "pruned on 2026-11-29 by ada (nobody asks)" in answer.text
    assert "without institution: A hospital" in answer.text
    assert f"read/data/{DIGEST}" not in answer.text
    ((labels, _),) = asked(training_id)
    assert labels == {"A hospital, seed 1", "A hospital"}
