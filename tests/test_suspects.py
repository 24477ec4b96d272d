"""Labels that a model disagrees with, pairs that show one lesion, and what a person's decision about them changes."""

import signal
import subprocess
import sys

import numpy as np
import pytest
from catalogue import add_records, labelled_records, rows_of
from evaluation_data import binary
from sqlalchemy import event
from test_pages import client
from test_path import prepare
from test_promotion import candidate, promote

from lesion_tasks import UnusableInputError
from lesion_tasks.curation.apply_correction import correct, withdraw_correction
from lesion_tasks.curation.curate import curate_images
from lesion_tasks.evaluation.find_suspects import suspect_labels_of, suspect_pairs
from lesion_tasks.metrics.suspects import suspect_labels
from lesion_tasks.settings import Settings
from lesion_tasks.splits.data_report import collect_facts
from lesion_tasks.splits.manifest import NoManifestError, manifest_in_force
from lesion_tasks.splits.split import build_split
from lesion_tasks.workspace import open_workspace

SPLIT = "malignancy_natural"
# Joins two images in a process that ends itself, as kill -9 would, when all is done but committed.
KILLED = """
import os, signal, sys
from sqlalchemy import event
from lesion_tasks.curation.apply_correction import correct
from lesion_tasks.workspace import open_workspace

workspace = open_workspace()
event.listen(workspace.engine, "commit", lambda _: os.kill(os.getpid(), signal.SIGKILL))
one, other = sys.argv[1:]
correct(workspace, "lesions_joined", one, other_isic_id=other, reason="the same mole", decided_by="Ada")
"""


def test_planted_wrong_labels_are_found_far_above_chance() -> None:
    rng = np.random.default_rng(0)
    truth = (rng.random(2_000) < 0.3).astype(int)
    is_planted = rng.random(2_000) < 0.05
    labels = np.where(is_planted, 1 - truth, truth)
    p = 1 / (1 + np.exp(-(4 * truth - 2 + rng.normal(0, 1.2, 2_000))))
    found = suspect_labels(binary(labels, p))
    planted = {f"ISIC_{i:07d}" for i in np.flatnonzero(is_planted)}
    hits = [one.isic_id in planted for one in found]
    assert sum(hits) / len(planted) > 0.6
    assert np.mean(hits) > 0.5
    assert np.mean(hits[:20]) > 0.9
    assert [one.margin for one in found] == sorted((one.margin for one in found), reverse=True)
    assert found[0].probable != found[0].label


def group(settings: Settings, isic_id: str) -> str:
    ((found,),) = rows_of(settings, f"SELECT group_id FROM image WHERE isic_id = '{isic_id}'")
    return str(found)


def funnel(settings: Settings, digest: str) -> dict[str | None, int]:
    ((steps,),) = rows_of(settings, f"SELECT funnel FROM manifest WHERE digest = '{digest}'")
    return {step.get("reason"): step["n"] for step in steps}


@pytest.fixture
def curated(settings: Settings) -> Settings:
    add_records(settings, labelled_records(240))
    curate_images(open_workspace())
    return settings


def test_a_label_that_is_set_aside_leaves_the_splits_until_it_is_withdrawn(curated: Settings) -> None:
    workspace = open_workspace()
    before = build_split(workspace, SPLIT)
    ask = {"task": "malignancy", "reason": "a seborrhoeic keratosis", "decided_by": "Ada"}
    number = correct(workspace, "label_set_aside", "ISIC_0000005", **ask)
    assert correct(workspace, "label_set_aside", "ISIC_0000005", **ask) == number
    with pytest.raises(
        NoManifestError, match=r"what people decided .* now than when it was built, expected the same: build"
    ):
        manifest_in_force(workspace.engine, SPLIT)
    assert manifest_in_force(workspace.engine, SPLIT, is_corrected=False)[0] == before
    with workspace.engine.connect() as connection:
        assert collect_facts(workspace.bucket, connection, before).corrections == []
    after = build_split(workspace, SPLIT)
    assert manifest_in_force(workspace.engine, SPLIT)[0] == after
    assert after != before and funnel(curated, after)["label_set_aside"] == -1
    assert rows_of(curated, "SELECT reason FROM split_member WHERE isic_id = 'ISIC_0000005'") == [
        ("label_set_aside",)
    ]
    page = workspace.bucket.get(f"reports/data/{after}.html").decode()
    assert "a seborrhoeic keratosis" in page and "Ada" in page and "A person found its label" in page
    assert "Decided by people" not in workspace.bucket.get(f"reports/data/{before}.html").decode()
    with pytest.raises(UnusableInputError, match="withdraw it first"):
        correct(workspace, "label_kept", "ISIC_0000005", **ask)
    withdraw_correction(workspace, number, withdrawn_by="Bea")
    with workspace.engine.connect() as connection:
        assert len(collect_facts(workspace.bucket, connection, after).corrections) == 1
    assert build_split(workspace, SPLIT) == before
    assert rows_of(curated, "SELECT decided_by, withdrawn_by, reason FROM correction") == [
        ("Ada", "Bea", "a seborrhoeic keratosis")
    ]
    with pytest.raises(UnusableInputError, match=r"withdrawn .* by Bea"):
        withdraw_correction(workspace, number, withdrawn_by="Bea")


def test_a_label_that_is_kept_changes_no_split(curated: Settings) -> None:
    workspace = open_workspace()
    before = build_split(workspace, SPLIT)
    correct(workspace, "label_kept", "ISIC_0000005", task="malignancy", reason="histology", decided_by="Ada")
    assert build_split(workspace, SPLIT) == before


def test_two_images_of_one_lesion_stay_in_one_group_whatever_arrives_until_it_is_withdrawn(
    curated: Settings,
) -> None:
    workspace, pair = open_workspace(), ("ISIC_0000010", "ISIC_0000100")
    before = build_split(workspace, SPLIT)
    asked: list[str] = []
    event.listen(workspace.engine, "before_cursor_execute", lambda *said: asked.append(said[2]))
    groups = "SELECT isic_id, group_id FROM image ORDER BY isic_id"
    undecided = rows_of(curated, groups)
    done = subprocess.run([sys.executable, "-c", KILLED, *pair], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert rows_of(curated, "SELECT FROM correction") == [] and rows_of(curated, groups) == undecided
    number = correct(
        workspace, "lesions_joined", pair[1], other_isic_id=pair[0], reason="the same mole", decided_by="Ada"
    )
    assert asked
    assert not [one for one in asked if "picture_landmarks" in one], "a decision changes no picture"
    together = group(curated, pair[0])
    assert group(curated, pair[1]) == together
    # A new image of the one lesion: its group is computed anew, with the other lesion.
    add_records(curated, [labelled_records(1, first=5_000)[0] | {"isic_id": "ISIC_0005000"}])
    (new,) = labelled_records(1, first=6_000)
    new["metadata"]["clinical"]["lesion_id"] = "IL_0000005"
    add_records(curated, [new])
    curate_images(workspace)
    assert {group(curated, name) for name in (*pair, "ISIC_0006000")} == {together}
    assert build_split(workspace, SPLIT) != before
    withdraw_correction(workspace, number, withdrawn_by="Ada")
    assert group(curated, pair[0]) != group(curated, pair[1])
    assert group(curated, pair[0]) == group(curated, "ISIC_0006000")


def test_a_pair_of_which_no_image_is_in_a_split_leaves_it_as_it_was(curated: Settings) -> None:
    workspace = open_workspace()
    others = labelled_records(4, first=7_001)
    for record in others:
        record["metadata"]["acquisition"]["image_type"] = "clinical: close-up"
        record["metadata"]["clinical"]["lesion_id"] = f"IL_9{record['isic_id'][5:]}"
        record["metadata"]["clinical"].pop("patient_id", None)
    add_records(curated, others)
    curate_images(workspace)
    before = build_split(workspace, SPLIT)
    pair = [others[0]["isic_id"], others[3]["isic_id"]]
    correct(workspace, "lesions_joined", pair[1], other_isic_id=pair[0], reason="one mole", decided_by="Ada")
    assert group(curated, pair[0]) == group(curated, pair[1])
    assert manifest_in_force(workspace.engine, SPLIT)[0] == before
    assert build_split(workspace, SPLIT) == before


def test_a_pair_that_is_taken_apart_again_leaves_every_split_as_it_was(curated: Settings) -> None:
    workspace = open_workspace()
    singles = labelled_records(40, first=7_001)
    for record in singles:
        record["metadata"]["clinical"]["lesion_id"] = f"IL_9{record['isic_id'][5:]}"
        record["metadata"]["clinical"].pop("patient_id", None)
    add_records(curated, singles)
    curate_images(workspace)
    before = build_split(workspace, SPLIT)
    # The only pictures of their lesions, on one side and on two.
    alone: dict[str, list[str]] = {"train": [], "test": []}
    for isic_id, subset in rows_of(
        curated,
        """
        SELECT min(isic_id), min(subset) FROM split_member WHERE split = 'malignancy_natural' AND reason IS NULL
        GROUP BY group_id HAVING count(*) = 1 ORDER BY 1
        """,
    ):
        if subset in alone:
            alone[subset].append(isic_id)
    same_side, two_sides = alone["train"][:2], [alone["train"][2], alone["test"][0]]
    for pair in (same_side, two_sides):
        number = correct(
            workspace, "lesions_joined", pair[0], other_isic_id=pair[1], reason="one mole", decided_by="Ada"
        )
        assert build_split(workspace, SPLIT) != before
        withdraw_correction(workspace, number, withdrawn_by="Ada")
        assert build_split(workspace, SPLIT) == before


@pytest.mark.parametrize(
    ("decision", "images", "words"),
    [
        ("label_set_asid", ("ISIC_0000001",), "label_set_aside"),
        ("label_kept", ("ISIC_0000001", "ISIC_0000002"), "found a second image, expected one image"),
        ("lesions_joined", ("ISIC_0000001",), "found one image, expected a pair"),
        ("lesions_joined", ("ISIC_0000001", "ISIC_0000001"), "twice"),
        ("label_kept", ("ISIC_0999999",), "the database has no image of this id"),
    ],
)
def test_a_decision_that_makes_no_sense_is_refused(
    settings: Settings, decision: str, images: tuple[str, ...], words: str
) -> None:
    with pytest.raises(UnusableInputError, match=words):
        correct(
            open_workspace(),
            decision,
            images[0],
            other_isic_id=images[1] if len(images) > 1 else None,
            task="malignancy",
            reason="because",
            decided_by="Ada",
        )
    with pytest.raises(UnusableInputError, match="the reason is empty"):
        correct(
            open_workspace(), "label_kept", "ISIC_0000001", task="malignancy", reason=" ", decided_by="Ada"
        )


def test_the_page_shows_suspects_until_somebody_decided(settings: Settings) -> None:
    prepare(settings)
    page = client().get("/suspects/malignancy").text
    assert "this task has none yet" in page
    assert "No pair is suspect" in client().get("/suspects/malignancy?kind=pairs").text
    workspace = open_workspace()
    for subset in ("train", "test"):
        ((one,),) = rows_of(settings, f"SELECT min(isic_id) FROM split_member WHERE subset = '{subset}'")
        correct(workspace, "label_set_aside", one, task="malignancy", reason="a scar", decided_by="Ada")
    build_split(workspace, SPLIT)
    candidate()
    promote(is_forced=True, decided_by="Ada")
    caution = "people set 1 image aside that would stand in test"
    for column in ("document -> 'promotion' FROM evaluation", "figures FROM promotion"):
        ((said,),) = rows_of(settings, f"SELECT {column}")
        assert caution in said["cautions"][-1]
    found = suspect_labels_of(workspace, "malignancy")
    with workspace.engine.connect() as connection:
        assert found.labels and suspect_pairs(connection, 5) == []
    page = client(startable=("correct_data",)).get("/suspects/malignancy").text
    first = found.labels[0].isic_id
    n_by = dict(
        rows_of(
            settings,
            f"SELECT subset, count(*) FROM split_member WHERE subset IS NOT NULL AND split = '{SPLIT}' GROUP BY 1",
        )
    )
    assert f"Looked at: {n_by['val']} of val and {n_by['test']} of test. The {n_by['train']} images" in page
    shown = {one.isic_id: found.subset_by_id[one.isic_id] for one in found.labels[:3]}
    assert set(shown.values()) <= {"val", "test"}, "a model learned from the labels of train"
    for isic_id, subset in shown.items():
        card = page[page.index(f"<code>{isic_id}</code>: labelled") :]
        assert f"In {subset}." in card[: card.index("</p>")]
    assert f"image/{first}" in page and "Set the label aside" in page
    assert "Set the label aside" not in client().get("/suspects/malignancy").text
    correct(workspace, "label_kept", first, task="malignancy", reason="<b>sure</b>", decided_by="Ada")
    assert first not in [one.isic_id for one in suspect_labels_of(workspace, "malignancy").labels]
    assert f"image/{first}" not in client().get("/suspects/malignancy").text
    assert "&lt;b&gt;sure&lt;/b&gt;" in client().get("/suspects/malignancy?kind=decided").text
