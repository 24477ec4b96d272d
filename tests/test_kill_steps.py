"""Evaluation and promotion, killed before one of their writes to the bucket and run again: as if nothing had been."""

import json
import signal
import subprocess
import sys

import pytest
from catalogue import add_records, labelled_records, rows_of

from lesion_tasks.bucket import open_bucket
from lesion_tasks.curation.curate import curate_images
from lesion_tasks.evaluation.evaluate import evaluate_training
from lesion_tasks.promotion.promote import promote_model
from lesion_tasks.settings import Settings
from lesion_tasks.splits.split import build_split
from lesion_tasks.training.train import train_variant
from lesion_tasks.workspace import open_workspace

# Runs a step in a process that ends itself, as kill -9 would, before the write with this number.
KILLED = """
import os, signal, sys
from lesion_tasks.bucket import DirectoryBucket

left = int(sys.argv[1])

def counted(write):
    def inner(*args, **kwargs):
        global left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
        return write(*args, **kwargs)
    return inner

DirectoryBucket.put = counted(DirectoryBucket.put)
DirectoryBucket.put_file = counted(DirectoryBucket.put_file)
"""
EVALUATE = (
    "from lesion_tasks.evaluation.evaluate import evaluate_training; "
    "from lesion_tasks.workspace import open_workspace; evaluate_training(open_workspace(), sys.argv[2])"
)
PROMOTE = (
    "from lesion_tasks.promotion.promote import promote_model; "
    "from lesion_tasks.workspace import open_workspace; promote_model(open_workspace(), task=sys.argv[2])"
)
BUNDLE = {"report.html", "metrics.json", "model_card.md", "roc.png", "predictions.parquet"}


def run_killed(step: str, n_writes: int, argument: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED + step, str(n_writes), argument], capture_output=True, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()


@pytest.fixture
def training_id(settings: Settings) -> str:
    add_records(settings, labelled_records(400))
    curate_images(open_workspace())
    build_split(open_workspace(), "malignancy_natural")
    return train_variant(open_workspace(), "metadata_logistic")


def test_killed_evaluations_and_promotions_leave_nothing_half_published(
    settings: Settings, training_id: str
) -> None:
    bucket, folder = open_bucket(settings), f"reports/{training_id}/"
    run_killed(EVALUATE, 4, training_id)
    assert list(bucket.list_keys(folder))
    assert not bucket.exists(f"{folder}report.html")  # the page comes last
    evaluate_training(open_workspace(), training_id)
    assert {key.removeprefix(folder) for key in bucket.list_keys(folder)} >= BUNDLE
    assert rows_of(settings, "SELECT training_id FROM evaluation") == [(training_id,)]

    run_killed(PROMOTE, 0, "malignancy")  # decided, and nothing published yet
    decided = "SELECT sequence, action, training_id FROM promotion"
    ((_, action, promoted),) = rows_of(settings, decided)
    assert json.loads(bucket.get("champion.json")) == {}  # as the evaluation left it
    assert promote_model(open_workspace(), task="malignancy").action == "none"  # a decision is made once
    assert rows_of(settings, decided) == [(1, action, promoted)]
    assert action == "promoted"
    assert json.loads(bucket.get("champion.json"))["malignancy"]["training_id"] == promoted
