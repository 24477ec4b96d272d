"""Pruning a catalogue of 200 trainings: what decisions name stays and opens, the rest goes, killed at any moment."""

import hashlib
import io
import json
import random
import re
import signal
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest
from catalogue import add_records, labelled_records, rows_of
from click.testing import CliRunner
from sqlalchemy import text
from test_pages import client

from lesion_tasks import UnusableInputError
from lesion_tasks.bucket import Bucket
from lesion_tasks.catalog import BACKBONES, TASKS, VARIANTS, InputSize
from lesion_tasks.catalog.retention import RETENTION
from lesion_tasks.cli.command_line import lesion
from lesion_tasks.curation.curate import curate_images
from lesion_tasks.database.bulk import copy_dicts
from lesion_tasks.evaluation.decisions import record_decision
from lesion_tasks.evaluation.evaluate import evaluate_training
from lesion_tasks.evaluation.evaluation_record import list_evaluated_ids, record_evaluation
from lesion_tasks.evaluation.publish import leaderboard_lines, publish
from lesion_tasks.pages.run_results import find_result
from lesion_tasks.pages.stored_files import read_report_file
from lesion_tasks.pixels.materialize import materialize_manifest
from lesion_tasks.promotion.archive_training import archive_training, return_training
from lesion_tasks.promotion.promote import rollback_champion
from lesion_tasks.serving.predict_job import PredictionJob, key_of
from lesion_tasks.serving.served_model import ModelFile
from lesion_tasks.settings import Settings
from lesion_tasks.splits.manifest import find_manifest, read_manifest
from lesion_tasks.splits.split import build_split
from lesion_tasks.training.predictions import read_sealed_predictions, store_predictions
from lesion_tasks.training.run_record import begin, find_finished, finish, read_model
from lesion_tasks.upkeep.disk_use import disk_use
from lesion_tasks.upkeep.prune import PruneResult, prune, prune_and_tell
from lesion_tasks.upkeep.verify_bucket import verify_bucket
from lesion_tasks.watching import looks
from lesion_tasks.workspace import Workspace, open_workspace

TASK = "malignancy"
NOW = datetime.now(UTC)
VARIANT_NAMES = ("metadata_logistic", "metadata_mlp", "smoke", "cnn_scratch", "mobilenet_v2_frozen")
N_ROUNDS = 40  # of all variants, ten days apart, the last one ten days ago
N_PROMOTIONS = 6
# What a publication writes anew, whatever was pruned.
PUBLISHED = ("reports/index.html", "champion.json")

# Prunes in a process that ends itself, as kill -9 would, before the removal or the commit with this number.
KILLED = """
import os, signal, sys
from sqlalchemy import Engine, event
from lesion_tasks.bucket import DirectoryBucket
from lesion_tasks.upkeep.prune import prune
from lesion_tasks.workspace import open_workspace

left = int(sys.argv[1])

def count(*_):
    global left
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1

delete = DirectoryBucket.delete
DirectoryBucket.delete = lambda self, key: (count(), delete(self, key))
event.listen(Engine, "commit", count)
prune(open_workspace(), is_deleting=True, pruned_by="ada", request_id="run 1")
"""


class History:
    """A catalogue of trainings, evaluated and decided on by the steps' own functions, with small made-up objects."""

    def __init__(self, settings: Settings, model: bytes = b"model", n_rounds: int = N_ROUNDS) -> None:
        self.settings = settings
        self.workspace = open_workspace()
        self.manifests = [self._grow(first) for first in (1, 181, 211)]
        self.model = model
        ids = [
            row.isic_id for row in rows_of(settings, "SELECT isic_id FROM image ORDER BY isic_id LIMIT 20")
        ]
        self.predictions = pd.DataFrame(
            np.full((20, 2), 0.5), index=pd.Index(ids, name="isic_id"), columns=list(TASKS[TASK].classes)
        )
        self.ids = [self._round(number) for number in range(n_rounds)]
        decided = range(2, min(n_rounds, 2 + N_PROMOTIONS * 5), 5)
        self.champions = [self._decide(number) for number in decided]
        self._age()
        publish(self.workspace)

    def _grow(self, first: int) -> str:
        add_records(self.settings, labelled_records(180 if first == 1 else 30, first=first))
        curate_images(self.workspace)
        return build_split(self.workspace, "malignancy_natural")

    def _round(self, number: int) -> list[str]:
        digest = self.manifests[number * len(self.manifests) // N_ROUNDS]
        return [self._training(name, number, digest) for name in VARIANT_NAMES]

    def _training(self, variant: str, number: int, digest: str) -> str:
        engine, bucket = self.workspace.engine, self.workspace.bucket
        name, _ = begin(engine, row_of(variant, number, digest))
        model = bytes(number) + self.model  # what comes before a zip file is ignored
        bucket.put(f"models/{name}/model.keras", model)
        bucket.put(f"models/{name}/manifest.json", b"{}")
        for file in ("report.html", "metrics.json", "roc.png"):
            bucket.put(f"reports/{name}/{file}", f"{file} {number}".encode() * 20)
        document = {
            "training": {"training_id": name},
            "manifest": {"digest": digest},
            "is_sound": True,
            "failed_checks": [],
            "verdict": "No check failed.",
            "integrity": [],
            "subsets": {},
        }
        with engine.begin() as connection:
            for subset in ("val", "test"):
                store_predictions(connection, name, digest, subset, self.predictions)
            finish(
                connection,
                name,
                model_key=f"models/{name}/model.keras",
                model_sha256=hashlib.sha256(model).hexdigest(),
            )
            record_evaluation(connection, f"{name}-on", document, report_key=f"reports/{name}/report.html")
        return name

    def _decide(self, number: int) -> str:
        """One of a round is promoted, the others are refused."""
        champion, *others = self.ids[number]
        previous = None if number == 2 else self.ids[number - 5][0]
        with self.workspace.engine.begin() as connection:
            for name, action in ((champion, "promoted"), *((other, "refused") for other in others)):
                record_decision(
                    connection,
                    TASK,
                    action,
                    training_id=name,
                    previous=previous,
                    reason="so it was",
                    decided_by="rule",
                )
        return champion

    def _age(self) -> None:
        with self.workspace.engine.begin() as connection:
            for number, names in enumerate(self.ids):
                at = NOW - timedelta(days=10 * (N_ROUNDS - number))
                connection.execute(
                    text(
                        "UPDATE training SET started_at = :at, finished_at = :at WHERE training_id = ANY(:ids)"
                    ),
                    {"at": at, "ids": names},
                )
            for number, digest in enumerate(self.manifests):
                connection.execute(
                    text("UPDATE manifest SET built_at = :at, created_at = :at WHERE digest = :digest"),
                    {"at": NOW - timedelta(days=400 - 130 * number), "digest": digest},
                )

    def sizes(self) -> dict[str, int]:
        return {k: n for k, n in self.workspace.bucket.list_sizes() if k not in PUBLISHED}


def row_of(variant: str, number: int, digest: str) -> dict[str, Any]:
    """The columns of a training that are known at its start."""
    return {
        "variant": variant,
        "task": TASK,
        "fingerprint": hashlib.sha256(f"{variant} {number}".encode()).hexdigest(),
        "recipe": asdict(VARIANTS[variant]),
        "manifest_digest": digest,
        "weights": None,
        "weights_sha256": None,
        "seed": 1,
        "code_version": "1",
        "versions": {},
        "classes": list(TASKS[TASK].classes),
    }


def small_model() -> bytes:
    """What a model's file is: an archive with its manifest."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("lesion.json", json.dumps({"classes": TASKS[TASK].classes}))
    return buffer.getvalue()


def add_caches(history: History, monkeypatch: pytest.MonkeyPatch) -> dict[str, set[str]]:
    """Pixels, features and checkpoints, some of which nobody asks for any more; returns the names of those, by kind."""
    workspace = history.workspace
    for side_px in (32, 48):  # smoke runs ask for the first, nobody for the second
        materialize_manifest(workspace, history.manifests[-1], InputSize(side_px))
    asked = replace(VARIANTS["mobilenet_v2_frozen_natural"], name="asked", split="malignancy_natural")
    monkeypatch.setitem(VARIANTS, "asked", asked)
    (picture, *_) = (row.sha256 for row in rows_of(history.settings, "SELECT sha256 FROM image"))
    with workspace.engine.begin() as connection:
        for fit in (str(asked.input_size), "48-squash"):
            key = f"features/{fit}/shard.npy"
            workspace.bucket.put(key, b"numbers")
            shard = {
                "object_key": key,
                "features_id": fit,
                "recipe": {"backbone": asdict(BACKBONES["mobilenet_v2"]), "fit": fit},
                "n_images": 1,
                "n_features": 8,
                "sha256": hashlib.sha256(b"numbers").hexdigest(),
                "created_at": NOW.isoformat(),
            }
            copy_dicts(connection, "feature_shard", [shard])
            place = {"features_id": fit, "sha256": picture, "object_key": key, "row_index": 0}
            copy_dicts(connection, "feature_row", [place])
    with workspace.engine.begin() as connection:
        for table in ("pixel_shard", "feature_shard"):
            connection.execute(
                text(f"UPDATE {table} SET created_at = :at"), {"at": NOW - timedelta(days=200)}
            )
    failed, _ = begin(workspace.engine, row_of("smoke", N_ROUNDS, history.manifests[-1]))
    running, _ = begin(workspace.engine, row_of("smoke", N_ROUNDS + 1, history.manifests[-1]))
    with workspace.engine.begin() as connection:
        connection.execute(
            text("UPDATE training SET status = 'failed', started_at = :at WHERE training_id = :id"),
            {"at": NOW - timedelta(days=20), "id": failed},
        )
    # Of one that goes, of a champion whose process was killed at its end, and of what nobody knows.
    for name in (history.ids[0][0], history.champions[0], failed, running, "unknown"):
        workspace.bucket.put(f"trainings/{name}/stage-1/epoch-0001.npz", b"weights" * 9)
    workspace.bucket.put("searches/unknown/trial-0001/state.json", b"{}")
    pixels = [one.object_key for one in rows_of(history.settings, "SELECT object_key FROM pixel_shard")]
    return {
        "pixels": {key for key in pixels if "/48-" in key},
        "features": {"features/48-squash/shard.npy"},
        "checkpoints": {f"trainings/{name}/" for name in (history.champions[0], failed)},
    }


def of_kind(result: PruneResult, *kinds: str) -> set[str]:
    return {one.name for one in result.things if one.kind in kinds}


def test_two_hundred_trainings_are_pruned_and_nothing_that_a_decision_names_is_lost(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = History(settings, small_model())
    workspace = history.workspace
    unasked = add_caches(history, monkeypatch)
    before = history.sizes()

    # A dry run changes nothing.
    wanted = prune(workspace, pruned_by="ada")
    assert history.sizes() == before
    assert rows_of(settings, "SELECT count(*) FROM pruning") == [(0,)]
    named = {row.training_id for row in rows_of(settings, "SELECT training_id FROM promotion")}
    old = {name for number in range(N_ROUNDS - 8) for name in history.ids[number]}
    assert of_kind(wanted, "training") == old - named
    assert len(of_kind(wanted, "training")) == 130
    assert of_kind(wanted, "manifest") == set()  # each was asked by one that is kept
    assert {kind: of_kind(wanted, kind) for kind in unasked} == unasked
    assert prune_and_tell(workspace, is_deleting=False, pruned_by="ada") == wanted.counts()
    use = {one.what: one for one in disk_use(workspace)}
    assert use["models"].n_prunable == 260
    assert sum(one.prunable_bytes for one in use.values() if one.where == "bucket") == wanted.size_bytes

    # Killed at random points, each time gone on with by the next run; in the end two at once.
    chance = random.Random(7)
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", KILLED, str(chance.randrange(20, 260))], capture_output=True, check=False
        )
        assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert 0 < len(before) - len(history.sizes()) < wanted.n_objects
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(prune, workspace, is_deleting=True, pruned_by="ada") for _ in range(2)]
        assert [one.result().is_deleting for one in both] == [True, True]

    # Bytes are freed as said, and each thing has its row.
    after = history.sizes()
    gone = {key: n for key, n in before.items() if key not in after}
    assert set(after) <= set(before)
    assert len(gone) == wanted.n_objects
    assert sum(gone.values()) == wanted.size_bytes
    rows = rows_of(
        settings, "SELECT kind, name, size_bytes, pruned_by, request_id, reason, ended_at FROM pruning"
    )
    assert {(row.kind, row.name) for row in rows} == {(one.kind, one.name) for one in wanted.things}
    assert sum(row.size_bytes for row in rows) == wanted.size_bytes
    assert {row.pruned_by for row in rows} == {"ada"}
    assert {row.request_id for row in rows} == {"run 1", None}
    assert all(row.ended_at and row.reason for row in rows)
    assert prune(workspace, is_deleting=True, pruned_by="ada").things == []

    # Every champion of the history opens: model, predictions, manifest, report.
    with workspace.engine.connect() as connection:
        for name in named:
            training = find_finished(connection, name)
            data = read_model(workspace.bucket, training)
            assert not read_sealed_predictions(
                connection, name, training.manifest_digest, "test", training.classes
            ).empty
            manifest = find_manifest(connection, training.manifest_digest)
            assert len(read_manifest(workspace.bucket, manifest.object_key)) == manifest.n_images
            assert read_report_file(workspace, f"{name}/report.html").data
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                assert json.loads(archive.read("lesion.json"))["classes"]
    champion = json.loads(workspace.bucket.get("champion.json"))[TASK]
    assert champion["training_id"] == history.champions[-1]

    # What was pruned is named as pruned, and neither complained about nor made again.
    found = verify_bucket(workspace)
    assert (found.n_lost, found.n_repairable) == (0, 0)
    lost = min(of_kind(wanted, "training"))
    for ask in (
        lambda: evaluate_training(workspace, lost),
        lambda: read_report_file(workspace, f"{lost}/report.html"),
        lambda: CliRunner().invoke(lesion, ["report", lost], catch_exceptions=False),
        lambda: archive_training(workspace, lost, reason="it is gone", archived_by="ada"),
    ):
        with pytest.raises(
            UnusableInputError, match=r"pruned on .* by ada \(ended .* no decision names it\)"
        ):
            ask()
    board = {row.training_id: row.kept for row in leaderboard_lines(workspace)}
    assert {name for name, kept in board.items() if kept == "pruned"} == of_kind(wanted, "training")
    assert f"reports/{lost}" not in str(workspace.bucket.get("reports/index.html"))
    the_page_shows_each_row(rows)
    page = client().get(f"/leaderboard/{TASK}?words={lost}").text
    assert "pruned on" in page
    assert f"read/{lost}" not in page
    report = client().get(f"/read/{lost}/report.html")
    assert (report.status_code, "was pruned on" in report.text) == (404, True)
    with workspace.engine.connect() as connection:
        assert not list_evaluated_ids(connection, TASK) & of_kind(wanted, "training")

    # Asked for again, it is trained again, under another id.
    ((variant, digest),) = rows_of(
        settings, f"SELECT variant, manifest_digest FROM training WHERE training_id = '{lost}'"
    )
    number = next(number for number, names in enumerate(history.ids) if lost in names)
    assert begin(workspace.engine, row_of(variant, number, digest)) == (f"{lost}-2", False)


def the_page_shows_each_row(rows: list[Any]) -> None:
    """Page by page, of all runs and of one, and from the tab of a run."""
    n_pages = -(-len(rows) // 50)
    whole = "".join(client().get(f"/pruned?number={number}").text for number in range(1, n_pages + 1))
    assert all(f"{row.kind} <code>{row.name}</code>" in whole for row in rows)
    assert "no decision names it" in whole
    assert f"of {len(rows)}</span>" in whole
    of_run = [row for row in rows if row.request_id]
    assert 0 < len(of_run) < len(rows)
    tab = client().get("/result?dag=prune&run=run%201").text
    assert 'href="/pruned?run=run%201"' in tab
    assert f"of {len(of_run)}</span>" in client().get("/pruned?run=run%201").text
    assert "This run removed nothing" in client().get("/pruned?run=another").text


def test_a_policy_that_lets_refused_models_go_keeps_their_reports_and_every_champion(
    settings: Settings,
) -> None:
    history = History(settings)
    workspace = history.workspace
    policy = replace(RETENTION, is_refused_kept=False, manifest_days=0, n_manifests=1)
    refused = {name for number in range(2, 2 + N_PROMOTIONS * 5, 5) for name in history.ids[number][1:]}
    wanted = prune(workspace, pruned_by="ada", policy=policy)
    assert of_kind(wanted, "model") == refused
    assert not of_kind(wanted, "model", "training") & set(history.champions)
    result = prune(workspace, is_deleting=True, pruned_by="ada", policy=policy)
    assert result.size_bytes == wanted.size_bytes
    assert all(workspace.bucket.exists(f"reports/{name}/report.html") for name in refused)
    assert not any(workspace.bucket.exists(f"models/{name}/model.keras") for name in refused)
    with workspace.engine.connect() as connection, pytest.raises(UnusableInputError, match="refused"):
        find_finished(connection, min(refused))
    assert verify_bucket(workspace).n_lost == 0


def test_the_newest_of_each_fold_and_what_a_report_on_folds_names_are_kept(settings: Settings) -> None:
    history = History(settings, n_rounds=8)
    workspace = history.workspace
    fold, reported, other = (history.ids[number][0] for number in (0, 1, 3))
    with workspace.engine.begin() as connection:
        held_out = {"digest": history.manifests[1], "id": fold}
        connection.execute(
            text("UPDATE manifest SET held_out = 'attribution: Clinic B' WHERE digest = :digest"), held_out
        )
        connection.execute(
            text("UPDATE training SET manifest_digest = :digest WHERE training_id = :id"), held_out
        )
    document = {"sites": [{"training_id": reported}]}
    workspace.bucket.put("reports/held-out/some/metrics.json", json.dumps(document).encode())
    going = of_kind(
        prune(workspace, pruned_by="ada", policy=replace(RETENTION, training_days=0, n_trainings=1)),
        "training",
    )
    assert other in going
    assert not {fold, reported} & going


def plan_made_up_job(workspace: Workspace, letter: str, asked_at: datetime | None) -> str:
    """A finished prediction job of 3 objects and a page, with small made-up bytes."""
    job_id = f"smoke-0123456789-{letter * 12}"
    job = PredictionJob(
        job_id=job_id,
        asked_at=asked_at,
        source="/pictures",
        task=TASK,
        training_id="smoke-0123456789",
        model_key="models/smoke-0123456789/model.keras",
        model_sha256="0" * 64,
        n_images=1,
        pictures_sha256="0" * 64,
        notes=(),
    )
    workspace.bucket.put(f"{job.folder}/job.json", job.model_dump_json().encode())
    for key in (
        f"{job.folder}/pictures.parquet",
        f"{job.folder}/predictions.csv",
        key_of(job_id, "report.html"),
    ):
        workspace.bucket.put(key, b"made up")
    return job_id


def test_predictions_go_90_days_after_they_were_last_asked_for_whatever_kills_it(settings: Settings) -> None:
    workspace = open_workspace()
    bucket = workspace.bucket
    old, undated, again, kept, cut_short = (
        plan_made_up_job(workspace, letter, at)
        for letter, at in (
            ("a", NOW - timedelta(days=90)),
            ("b", None),
            ("c", NOW - timedelta(days=100)),
            ("d", NOW - timedelta(days=89)),
            ("e", NOW),
        )
    )
    bucket.delete(f"predictions/{cut_short}/job.json")
    of_kept = {key for key in bucket.list_keys() if kept in key or undated in key}
    wanted = prune(workspace, pruned_by="ada")
    assert of_kind(wanted, "predictions") == {old, again, cut_short}, (
        "how old another release's are is unknown"
    )
    going = {one.what: (one.n, one.n_prunable) for one in disk_use(workspace) if one.where == "bucket"}
    assert going["predictions of pictures"] == (14, 8)

    # Killed after its first removal, and then a job that it had not come to is asked for again.
    done = subprocess.run([sys.executable, "-c", KILLED, "4"], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert not bucket.exists(f"predictions/{old}/job.json")
    assert bucket.exists(f"predictions/{old}/predictions.csv")
    plan_made_up_job(workspace, "c", NOW)
    prune(workspace, is_deleting=True, pruned_by="ada")
    assert set(bucket.list_keys("predictions/")) == {
        key for key in of_kept if key.startswith("predictions/")
    } | {f"predictions/{again}/{name}" for name in ("job.json", "pictures.parquet", "predictions.csv")}
    rows = rows_of(settings, "SELECT name, n_objects, reason, ended_at FROM pruning ORDER BY name")
    assert [(row.name, row.n_objects) for row in rows] == [(old, 4), (cut_short, 3)]
    assert [row.reason for row in rows] == [
        f"last asked for on {(NOW - timedelta(days=90)).date()}",
        "its plan was cut short",
    ]
    assert all(row.ended_at for row in rows)
    shown = find_result(
        workspace, dag_id="predict_images", run_id="a", task_id=None, returned=None, made=[old]
    )
    assert "were pruned on" in shown.words


def see_made_up(bucket: Bucket, training_id: str, day: date, at: datetime, *digests: str) -> None:
    """A watch of a model, with small made-up parts; `digests`: a letter for each."""
    parts = [looks.Part(folder="", digest=32 * letter, rows=pd.DataFrame()) for letter in digests]
    looks.ask_for(bucket, ModelFile(training_id=training_id, model_key="", model_sha256=""), day, parts, at)
    for part in parts:
        bucket.put(f"{looks.folder_of(training_id)}/{part.digest}-{'0' * 64}.parquet", b"made up")


def test_what_a_champion_saw_goes_90_days_after_a_watch_last_asked_for_it(settings: Settings) -> None:
    workspace = open_workspace()
    bucket = workspace.bucket
    long_ago, lately = NOW - timedelta(days=90), NOW - timedelta(days=89)
    see_made_up(bucket, "old-0123456789", date(2026, 1, 1), long_ago, "a", "b")
    see_made_up(bucket, "watched-0123456789", date(2026, 1, 1), long_ago, "c", "d")
    see_made_up(bucket, "watched-0123456789", date(2026, 2, 1), lately, "d", "e")
    see_made_up(bucket, "back-0123456789", date(2026, 1, 1), long_ago, "f")
    before = set(bucket.list_keys("watching/"))
    wanted = prune(workspace, pruned_by="ada")
    assert of_kind(wanted, "predictions") == {
        f"watching/{name}-0123456789" for name in ("old", "watched", "back")
    }
    going = {one.what: (one.n, one.n_prunable) for one in disk_use(workspace) if one.where == "bucket"}
    assert going["what champions saw of new images"] == (10, 7)

    # Killed after its first removal, and then a champion of before is watched again.
    done = subprocess.run([sys.executable, "-c", KILLED, "4"], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert 0 < len(before - set(bucket.list_keys("watching/"))) < 7
    see_made_up(bucket, "back-0123456789", date(2026, 3, 1), NOW, "f")
    see_made_up(bucket, "old-0123456789", date(2026, 3, 1), NOW, "b")
    prune(workspace, is_deleting=True, pruned_by="ada")
    left = {key.removeprefix("watching/").replace("-0123456789", "") for key in bucket.list_keys("watching/")}
    assert {re.sub(r"(.)\1{31}-0{64}", r"\1", key) for key in left} == {
        "back/asked/2026-03-01.json",
        "back/f.parquet",
        "old/asked/2026-03-01.json",
        "old/b.parquet",
        "watched/asked/2026-02-01.json",
        "watched/d.parquet",
        "watched/e.parquet",
    }
    assert prune(workspace, is_deleting=True, pruned_by="ada").things == []
    rows = rows_of(settings, "SELECT name, reason, ended_at FROM pruning")
    assert {row.reason for row in rows} == {"no watch asked for it in 90 days"} and all(
        row.ended_at for row in rows
    )


def test_a_manifest_that_nobody_asks_for_goes_and_comes_back_when_a_build_gives_it_again(
    settings: Settings,
) -> None:
    workspace = open_workspace()
    policy = replace(RETENTION, n_manifests=1, manifest_days=0)
    add_records(settings, labelled_records(180))
    curate_images(workspace)
    first = build_split(workspace, "malignancy_natural")
    add_records(settings, labelled_records(30, first=181))
    curate_images(workspace)
    build_split(workspace, "malignancy_natural")

    with workspace.engine.connect() as connection:
        key = find_manifest(connection, first).object_key
    size_bytes = sum(n for k, n in workspace.bucket.list_sizes() if first in k)
    (gone,) = prune(workspace, is_deleting=True, pruned_by="ada", policy=policy).things
    assert (gone.kind, gone.name, gone.n_objects, gone.size_bytes) == ("manifest", first, 2, size_bytes)
    assert not [k for k in workspace.bucket.list_keys() if first in k]
    with (
        workspace.engine.connect() as connection,
        pytest.raises(UnusableInputError, match=r"pruned on .* by ada"),
    ):
        find_manifest(connection, first)
    with pytest.raises(UnusableInputError, match=r"manifest .* was pruned on"):
        read_report_file(workspace, f"data/{first}.html")
    assert verify_bucket(workspace).n_lost == 0
    assert prune(workspace, pruned_by="ada", policy=policy).things == []

    with workspace.engine.begin() as connection:
        connection.execute(text("UPDATE record SET withdrawn_at = now() WHERE isic_id > 'ISIC_0000180'"))
    curate_images(workspace)
    assert build_split(workspace, "malignancy_natural") == first
    with workspace.engine.connect() as connection:
        assert find_manifest(connection, first).object_key == key
    assert not read_manifest(workspace.bucket, key).empty
    assert verify_bucket(workspace).n_lost == 0


def test_what_a_killed_run_left_goes_only_if_nothing_has_come_back_to_it(settings: Settings) -> None:
    workspace = open_workspace()
    add_records(settings, labelled_records(180))
    curate_images(workspace)
    digest = build_split(workspace, "malignancy_natural")
    materialize_manifest(workspace, digest, InputSize(32))  # as smoke runs ask for it
    shards = [row.object_key for row in rows_of(settings, "SELECT object_key FROM pixel_shard")]
    resumed, running, stale = (begin(workspace.engine, row_of("smoke", n, digest))[0] for n in range(3))
    at = NOW - timedelta(days=20)
    with workspace.engine.begin() as connection:
        connection.execute(text("UPDATE training SET started_at = :at"), {"at": at})
        connection.execute(
            text("UPDATE training SET status = 'failed' WHERE training_id <> :id"), {"id": running}
        )
        epoch = {
            "training_id": resumed,
            "epoch": 1,
            "figures": {},
            "duration_s": 1,
            "ended_at": NOW.isoformat(),
        }
        copy_dicts(connection, "training_epoch", [epoch])
        left = {
            "reason": "it has not got on", "pruned_by": "ada", "n_objects": 1, "size_bytes": 7,
            "began_at": (NOW - timedelta(hours=1)).isoformat(),
        }  # fmt: skip
        for kind, names in (
            ("checkpoints", [f"trainings/{name}/" for name in (resumed, running, stale)]),
            ("pixels", [*shards, "pixels/32-squash/gone.npy"]),
        ):
            copy_dicts(connection, "pruning", [left | {"kind": kind, "name": name} for name in names])
    keys = [f"trainings/{name}/stage-1/epoch-0001.npz" for name in (resumed, running, stale)]
    for key in keys:
        workspace.bucket.put(key, b"weights")

    gone = of_kind(prune(workspace, is_deleting=True, pruned_by="ada"), "checkpoints", "pixels")
    assert gone == {f"trainings/{stale}/", "pixels/32-squash/gone.npy"}
    assert [workspace.bucket.exists(key) for key in keys] == [True, True, False]
    assert all(map(workspace.bucket.exists, shards))
    rows = rows_of(settings, "SELECT name, n_objects, size_bytes FROM pruning WHERE ended_at IS NOT NULL")
    assert {row.name for row in rows if row.n_objects == row.size_bytes == 0} == {
        *shards, f"trainings/{resumed}/", f"trainings/{running}/",
    }  # fmt: skip
    assert verify_bucket(workspace).n_lost == 0


@pytest.mark.parametrize(
    "changed",
    [{"n_trainings": 0}, {"n_manifests": 0}, {"training_days": -1}],
    ids=lambda changed: str(changed),
)
def test_a_policy_that_keeps_nothing_is_none(changed: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="retention: "):
        replace(RETENTION, **changed)


def test_own_variants_that_this_process_does_not_see_keep_what_they_need(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = open_workspace()
    add_records(settings, labelled_records(180))
    curate_images(workspace)
    before = build_split(workspace, "malignancy_natural")
    add_records(settings, labelled_records(30, first=181))
    curate_images(workspace)
    digest = build_split(workspace, "malignancy_natural")
    for side_px in (48, 56):
        materialize_manifest(workspace, digest, InputSize(side_px))
    some = VARIANTS["mobilenet_v2_frozen_natural"]
    own = replace(some, name="own", split="malignancy_natural", side_px=48)
    with workspace.engine.begin() as connection:
        picture = connection.execute(text("SELECT max(sha256) FROM pixel_row")).scalar_one()
        for fit in ("48-squash", "56-squash"):
            shard = {
                "object_key": f"features/{fit}/shard.npy", "features_id": fit, "n_images": 1, "n_features": 8,
                "recipe": {"backbone": {"name": "mobilenet_v2"}, "fit": fit},
                "sha256": digest, "created_at": NOW.isoformat(),
            }  # fmt: skip
            copy_dicts(connection, "feature_shard", [shard])
            place = {"features_id": fit, "sha256": picture, "object_key": shard["object_key"], "row_index": 0}
            copy_dicts(connection, "feature_row", [place])
    for name in ("features/48-squash/shard.npy", "features/56-squash/shard.npy"):
        workspace.bucket.put(name, b"numbers")
    # It learned from the manifest before; the next one will learn from that in force.
    names = [
        begin(workspace.engine, row_of("smoke", n, before) | {"variant": "own", "recipe": asdict(own)})[0]
        for n in range(5)
    ]
    with workspace.engine.begin() as connection:
        for n, name in enumerate(names):
            finish(connection, name, model_key=f"models/{name}/model.keras", model_sha256=digest)
            at = NOW - timedelta(days=200 - n)
            connection.execute(
                text("UPDATE training SET started_at = :at, finished_at = :at WHERE training_id = :id"),
                {"at": at, "id": name},
            )
        for table in ("pixel_shard", "feature_shard"):
            connection.execute(
                text(f"UPDATE {table} SET created_at = :at"), {"at": NOW - timedelta(days=200)}
            )
    # Archived trainings are no newer ones, and none is the newest.
    monkeypatch.setattr("lesion_tasks.upkeep.prune.TASKS", {})
    archive_training(workspace, names[-1], reason="a leak", archived_by="ada")
    found = prune(workspace, is_deleting=True, pruned_by="ada")
    assert of_kind(found, "training") == {names[0]}
    pixels = of_kind(found, "pixels")
    assert pixels
    assert all(name.startswith("pixels/56-squash/") for name in pixels)
    assert of_kind(found, "features") == {"features/56-squash/shard.npy"}


def test_an_archived_training_is_no_candidate_until_it_is_taken_back(settings: Settings) -> None:
    history = History(settings, n_rounds=8)
    workspace, latest = history.workspace, history.ids[-1][1]

    def run(*arguments: str) -> Any:
        return CliRunner().invoke(lesion, ["archive-training", *arguments], catch_exceptions=False)

    def seen(*, has_archived: bool = False) -> set[str]:
        return {row.training_id for row in leaderboard_lines(workspace, has_archived=has_archived)}

    def candidates() -> set[str]:
        with workspace.engine.connect() as connection:
            return list_evaluated_ids(connection, TASK)

    assert latest in seen() & candidates()
    assert run(latest, "--reason", "the camera was broken").exit_code == 0
    assert run(latest, "--reason", "again").exit_code == 0  # it is archived: nothing changes
    assert latest not in seen() | candidates()
    assert f"{latest}/report.html" not in str(workspace.bucket.get("reports/index.html"))
    (kept,) = {
        row.kept for row in leaderboard_lines(workspace, has_archived=True) if row.training_id == latest
    }
    assert kept == "archived"
    link = f"read/{latest}/report.html"
    assert link not in client().get(f"/leaderboard/{TASK}").text
    shown = client().get(f"/leaderboard/{TASK}?has_archived=true").text
    assert link in shown
    assert "(the camera was broken)" in shown
    with workspace.engine.connect() as connection:
        assert find_finished(connection, latest).status == "finished"  # nothing was deleted

    assert run(latest, "--return").exit_code == 0
    assert latest in seen() & candidates()
    ((reason, returned),) = rows_of(settings, "SELECT reason, returned_at IS NOT NULL FROM archival")
    assert (reason, returned) == ("the camera was broken", True)
    for arguments, words in (
        ((latest, "--return"), "it is not archived"),
        ((history.champions[-1], "--reason", "old"), "it is the champion"),
        ((latest, "--reason", " "), "the reason is empty"),
        (("none-such", "--reason", "old"), "no such training"),
    ):
        with pytest.raises(UnusableInputError, match=words):
            run(*arguments)
    assert run(latest).exit_code == 2

    # An earlier champion that was archived is not put back.
    archive_training(workspace, history.champions[0], reason="a leak", archived_by="ada")
    with pytest.raises(UnusableInputError, match=r"archived on .* by ada \(a leak\)"):
        rollback_champion(workspace, reason="the new one is worse")
    return_training(workspace, history.champions[0], returned_by="ada")
    with pytest.raises(UnusableInputError, match="evaluated by an older version"):
        rollback_champion(workspace, reason="the new one is worse")
