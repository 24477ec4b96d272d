"""Two at once and clocks that differ, as processes of their own on one database. Whole machines: `make test-faults`."""

import subprocess
import sys
from datetime import UTC, datetime, timedelta

from sqlalchemy import text
from test_path import prepare

from lesion_tasks.database.connection import engine_for
from lesion_tasks.evaluation.evaluate import evaluate_training
from lesion_tasks.promotion.promote import promote_model
from lesion_tasks.settings import Settings
from lesion_tasks.training.train import train_variant
from lesion_tasks.workspace import open_workspace


def test_two_promotions_at_once_decide_once(settings: Settings) -> None:
    prepare(settings)
    evaluate_training(open_workspace(), train_variant(open_workspace(), "metadata_logistic"))
    command = [
        sys.executable,
        "-m",
        "lesion_tasks",
        "promote",
        "--task",
        "malignancy",
        "--despite-gates",
        "--reason",
        "twice at once",
    ]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = [process.communicate()[0] for process in running]
    assert [process.returncode for process in running] == [0, 0, 0]
    with engine_for(settings.database_url or "").connect() as connection:
        rows = connection.execute(text("SELECT action FROM promotion ORDER BY sequence")).scalars().all()
    assert len(rows) == 1, "one of them decided, the others found nothing to decide"
    assert sum("no training is waiting" in words for words in said) == 2


def test_a_worker_whose_clock_is_an_hour_ahead_does_not_stay_champion_for_it(settings: Settings) -> None:
    """The order of decisions is a number, not a time."""
    prepare(settings)
    evaluate_training(open_workspace(), train_variant(open_workspace(), "metadata_logistic"))
    promote_model(open_workspace(), task="malignancy", is_forced=True)
    ahead = datetime.now(UTC) + timedelta(hours=1)
    with engine_for(settings.database_url or "").begin() as connection:
        connection.execute(text("UPDATE promotion SET decided_at = :ahead"), {"ahead": ahead})
    second = train_variant(open_workspace(), "metadata_logistic", again=True)
    evaluate_training(open_workspace(), second)
    assert promote_model(open_workspace(), task="malignancy", is_forced=True).training_id == second
    from lesion_tasks.evaluation.decisions import champion_of

    with engine_for(settings.database_url or "").connect() as connection:
        champion = champion_of(connection, "malignancy")
    assert champion is not None
    assert champion.training.training_id == second
