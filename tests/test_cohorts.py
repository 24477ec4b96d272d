"""Cohorts: images that judge and never teach, what of them is taken out, and what the report says about them."""

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from catalogue import add_records, declare, labelled_records, rows_of
from click.testing import CliRunner
from evaluation_data import binary, drawn_multiclass
from PIL import Image as Pillow
from PIL import ImageOps
from sklearn.metrics import roc_auc_score
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from archive_server.drawing import Scene, draw
from lesion_tasks import UnusableInputError
from lesion_tasks.archive.picture import UnusablePictureError
from lesion_tasks.bucket import open_bucket
from lesion_tasks.catalog import COHORTS, TASKS, VARIANTS, Cohort
from lesion_tasks.catalog.gates import cautions, objections
from lesion_tasks.catalog.lookup import cohorts_left, refuse_misspelt_cohorts
from lesion_tasks.cli.command_line import lesion
from lesion_tasks.curation.curate import curate_images
from lesion_tasks.database.connection import engine_for
from lesion_tasks.database.schema import Training
from lesion_tasks.evaluation.cohort_comparison import compare_on_cohorts
from lesion_tasks.evaluation.cohort_overlap import Shared, counted, find_overlaps
from lesion_tasks.evaluation.comparison import missing_on_cohorts
from lesion_tasks.evaluation.decisions import named_in_decisions
from lesion_tasks.evaluation.evaluate import choose_trainings, evaluate_training
from lesion_tasks.evaluation.evaluation_record import count_openings
from lesion_tasks.evaluation.leaderboard import read_leaderboard_rows
from lesion_tasks.evaluation.other_data import taken_out_table, usable_rows
from lesion_tasks.evaluation.publish import leaderboard_lines
from lesion_tasks.evaluation.run_checks import find_leaks
from lesion_tasks.metrics.case_mix import reweight
from lesion_tasks.metrics.cohort_document import CaseMixRow, MetadataBaseline
from lesion_tasks.metrics.diagnoses import by_diagnosis
from lesion_tasks.metrics.fall import measure_fall, threshold_falls
from lesion_tasks.metrics.metadata_baseline import metadata_baseline
from lesion_tasks.metrics.recalibrate import recalibrate
from lesion_tasks.metrics.scored import Scored, join
from lesion_tasks.promotion.promote import promote_model
from lesion_tasks.reports.bundle import read_bundle
from lesion_tasks.reports.cohort_views import case_mix_line
from lesion_tasks.reports.in_brief import in_brief
from lesion_tasks.reports.model_card import model_card
from lesion_tasks.reports.page import render_page
from lesion_tasks.serving.picture_source import left_out_of, notes_about, open_source
from lesion_tasks.settings import Settings
from lesion_tasks.splits.cohort_manifest import NoImageToJudgeError, build_cohort
from lesion_tasks.splits.manifest import NoManifestError, manifest_in_force, read_manifest
from lesion_tasks.splits.split import build_split
from lesion_tasks.splits.subset_or_quarantine import subset_of
from lesion_tasks.training.run_record import find_finished
from lesion_tasks.training.train import train_variant
from lesion_tasks.workspace import open_workspace

SPLIT = "malignancy_natural"
ELSEWHERE = "Another Hospital"


@pytest.fixture(autouse=True)
def declared() -> Iterator[None]:
    """The catalogue of cohorts may be changed, and is put back."""
    before, variants = dict(COHORTS), dict(VARIANTS)
    yield
    for entries, kept in ((COHORTS, before), (VARIANTS, variants)):
        entries.clear()
        entries.update(kept)


def declare_cohort(**changed: Any) -> Cohort:
    conditions = changed or {"attribution": (ELSEWHERE,)}
    cohort = Cohort(name="elsewhere", title="Another hospital", tasks=("malignancy",), **conditions)
    COHORTS[cohort.name] = cohort
    return cohort


def other_records(n: int, *, first: int = 50_001, **known: Any) -> list[dict[str, Any]]:
    records = labelled_records(n, first=first)
    for record in records:
        record["attribution"] = ELSEWHERE
        record["metadata"]["clinical"].update(known)
    return records


def members(settings: Settings) -> dict[str, int]:
    found = rows_of(
        settings,
        f"SELECT coalesce(reason, subset), count(*) FROM split_member WHERE split = '{SPLIT}' GROUP BY 1",
    )
    return dict(found)


def curate(settings: Settings, *records: Any, **how: Any) -> None:
    for some in records:
        add_records(settings, some, **how)
    curate_images(open_workspace())


def test_without_a_cohort_a_manifest_is_what_it_was_and_with_one_its_images_are_set_aside(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    # Two of them the task would leave out anyhow.
    curate(settings, labelled_records(240), other_records(58), other_records(2, first=50_059, sex=None))
    before = build_split(open_workspace(), SPLIT)
    assert members(settings)["no_sex"] == 2
    placed = dict(rows_of(settings, "SELECT isic_id, subset FROM split_member"))
    declare_cohort()
    engine = engine_for(settings.database_url or "")
    with pytest.raises(
        NoManifestError, match="before the catalogue changed its cohorts: build the split again"
    ):
        manifest_in_force(engine, SPLIT)
    with engine.begin() as connection:
        # What judges another task is not named.
        connection.execute(
            text("INSERT INTO cohort_image SELECT 'five_classes', isic_id, 'other' FROM image LIMIT 300")
        )
    with caplog.at_level("INFO"):
        digest = build_split(open_workspace(), SPLIT)
    assert "found 'elsewhere' 60 times" in caplog.text
    assert digest != before
    assert manifest_in_force(engine, SPLIT)[0] == digest
    declare_cohort(attribution=(ELSEWHERE,), seen_from="2026-01-01")
    with pytest.raises(NoManifestError, match="its cohorts"):
        manifest_in_force(engine, SPLIT)
    assert members(settings)["set_aside"] == 60
    after = dict(rows_of(settings, f"SELECT isic_id, subset FROM split_member WHERE split = '{SPLIT}'"))
    assert all(after[f"ISIC_{i:07d}"] is None for i in range(50_001, 50_061))
    # Nobody else moves.
    assert all(after[one] == placed[one] for one in after if one < "ISIC_0050000")
    ((funnel,),) = rows_of(settings, f"SELECT funnel FROM manifest WHERE digest = '{digest}'")
    assert {"step": "left out", "reason": "set_aside", "n": -60} in funnel
    COHORTS.clear()
    assert build_split(open_workspace(), SPLIT) == before


@pytest.mark.parametrize(
    "conditions",
    [
        {"query": "fitzpatrick_skin_type:V sex:*"},
        {"copyright_license": ("CC-BY-NC",)},
        {"anatom_site": ("Palms/soles",), "attribution": (ELSEWHERE,)},
        {"fitzpatrick_skin_type": ("V", "VI")},
        {"seen_from": "2026-06-01"},
        {"seen_before": "2026-08-01", "copyright_license": ("CC-BY-NC",)},
        {"source": "/data/clinic"},
        {"collections": "65,66"},
    ],
    ids=lambda conditions: next(iter(conditions)),
)
def test_an_image_belongs_to_a_cohort_by_any_of_its_conditions(
    settings: Settings, conditions: dict[str, Any]
) -> None:
    others = other_records(20, fitzpatrick_skin_type="V", anatom_site_1="Palms/soles")
    for record in others:
        record["copyright_license"] = "CC-BY-NC"
    curate(settings, labelled_records(40), others)
    with engine_for(settings.database_url or "").begin() as connection:
        connection.execute(
            text("UPDATE record SET first_seen_at = '2026-07-01' WHERE isic_id > 'ISIC_0050000'")
        )
        connection.execute(
            text("""
                INSERT INTO scope (scope_id, source, query, collections)
                VALUES ('own', 'https://archive.example/', '', '65'), ('other', '/data/clinic', '', '65,66')
            """)
        )
        connection.execute(
            text("""
                INSERT INTO scope_record (scope_id, isic_id, record_hash)
                SELECT CASE WHEN isic_id > 'ISIC_0050000' THEN 'other' ELSE 'own' END, isic_id, '' FROM record
            """)
        )
    declare_cohort(**conditions)
    build_cohort(open_workspace(), "elsewhere", "malignancy")
    found = rows_of(settings, "SELECT isic_id FROM cohort_image ORDER BY 1")
    assert [one for (one,) in found] == [record["isic_id"] for record in others]


def test_the_database_refuses_an_image_of_a_cohort_in_train_or_val(settings: Settings) -> None:
    curate(settings, labelled_records(240), other_records(60))
    declare_cohort()
    build_split(open_workspace(), SPLIT)
    ((taught,),) = rows_of(settings, "SELECT min(isic_id) FROM split_member WHERE subset = 'train'")
    ((group,),) = rows_of(settings, "SELECT min(group_id) FROM group_subset WHERE subset = 'val'")
    for statement in (
        f"INSERT INTO cohort_image VALUES ('malignancy', '{taught}', 'elsewhere')",
        f"UPDATE cohort_image SET isic_id = '{taught}' WHERE isic_id = 'ISIC_0050001'",
        f"UPDATE split_member SET reason = NULL, subset = 'val', label = 'benign', group_id = '{group}' "
        "WHERE isic_id = 'ISIC_0050001'",
    ):
        with (
            pytest.raises(IntegrityError, match="cohorts_never_teach"),
            engine_for(settings.database_url or "").begin() as connection,
        ):
            connection.execute(text(statement))


def test_a_cohort_is_judged_by_its_own_rules_and_the_same_cohort_gives_the_same_manifest(
    settings: Settings,
) -> None:
    curate(
        settings,
        labelled_records(40),
        other_records(20, sex=None),
        other_records(2, first=60_001, diagnosis_1=None),
    )
    declare_cohort()
    workspace = open_workspace()
    digest = build_cohort(workspace, "elsewhere", "malignancy")
    assert build_cohort(workspace, "elsewhere", "malignancy") == digest
    ((funnel,),) = rows_of(settings, f"SELECT funnel FROM manifest WHERE digest = '{digest}'")
    rows = rows_of_manifest(settings, digest)
    assert len(rows) == 20
    assert set(rows["subset"]) == {"test"}
    assert rows["sex"].isna().all()
    assert {"step": "left out", "reason": "no_diagnosis", "n": -2} in funnel
    # As a source of pictures to predict: by id, with the manifest's metadata, each held against its digest.
    source = open_source(workspace, "cohort:elsewhere", "malignancy")
    listed = list(source.pictures())
    known = rows.sort_values("isic_id")
    assert [(one.image, one.stamp) for one in listed] == list(
        zip(known["isic_id"], known["sha256"], strict=True)
    )
    numbers = known[["age_years", "size_mm"]].to_dict("records")
    assert [one.metadata for one in listed] == [
        {name: value for name, value in row.items() if value == value} for row in numbers
    ]
    assert source.read(listed[0].place, listed[0].stamp)
    workspace.bucket.put(listed[0].place, b"another")
    with pytest.raises(UnusablePictureError, match=r"altered: picture .* was changed after it was stored"):
        source.read(listed[0].place, listed[0].stamp)
    COHORTS["elsewhere"] = replace(COHORTS["elsewhere"], requires_sex=True)
    with pytest.raises(NoImageToJudgeError, match="20 left out, no_sex"):
        build_cohort(workspace, "elsewhere", "malignancy")


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"query": ""}, "no condition, expected some of query"),
        ({"tasks": ("malignant",), "query": "sex:male"}, "unknown task 'malignant'; did you mean malignancy"),
        ({"fitzpatrick_skin_type": ("III", "7")}, "unknown skin type '7', expected one of I, II, III"),
        ({"fitzpatrick_skin_type": ("III-IV",)}, "unknown skin type 'III-IV'; did you mean III\\?"),
        ({"seen_from": "June"}, "seen_from: is 'June', expected a time"),
        ({"name": "a b", "query": "sex:male"}, "name: expected lower-case letters"),
    ],
)
def test_a_cohort_that_makes_no_sense_is_named(changed: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Cohort(**({"name": "elsewhere", "title": "Another hospital", "tasks": ("malignancy",)} | changed))


def test_a_query_that_cannot_be_read_and_an_unknown_cohort_are_named(settings: Settings) -> None:
    curate(settings, labelled_records(40))
    declare_cohort(query="sex:")
    with pytest.raises(UnusableInputError, match="cohort 'elsewhere': query 'sex:'"):
        build_cohort(open_workspace(), "elsewhere", "malignancy")
    with pytest.raises(UnusableInputError, match="did you mean elsewhere"):
        build_cohort(open_workspace(), "elsewere", "malignancy")


def test_an_empty_cohort_does_not_keep_the_others_from_being_built(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    photographs = labelled_records(4, first=60_001)
    for record in photographs:
        record["attribution"] = "Photographs"
        record["metadata"]["acquisition"]["image_type"] = "clinical: close-up"
    curate(settings, labelled_records(40), other_records(20), photographs)
    COHORTS["photographs"] = Cohort(
        name="photographs", title="Photographs", tasks=("malignancy",), attribution=("Photographs",)
    )
    for name in ("empty", "bare"):
        COHORTS[name] = Cohort(
            name=name, title=name, tasks=("malignancy", "five_classes"), source="/nowhere/"
        )
    COHORTS["shouted"] = Cohort(
        name="shouted", title="In capitals", tasks=("malignancy",), attribution=(ELSEWHERE.upper(),)
    )
    declare_cohort()
    found = CliRunner().invoke(lesion, ["cohorts"])
    assert found.exit_code == 1
    assert (
        f"attribution is '{ELSEWHERE.upper()}' of no image; did you mean {ELSEWHERE}?; there is "
        in found.output + caplog.text + str(found.exception)
    )
    assert '"elsewhere of malignancy": "' in found.output
    assert "empty of malignancy" in str(found.exception)
    assert "'clinical: close-up' 4 times; image_types in its entry of the catalogue says" in found.output
    assert (
        "no training is finished" in CliRunner().invoke(lesion, ["evaluate", "--cohort", "elsewhere"]).output
    )
    assert (found.output + caplog.text).count("/nowhere/ was never ingested") == 2  # once for each cohort
    caplog.clear()
    CliRunner().invoke(lesion, ["split", SPLIT, "five_classes_natural", "malignancy_balanced_all"])
    assert caplog.text.count("cohort empty: no image: /nowhere/") == 1  # of three splits


def test_a_misspelt_cohort_in_a_form_is_refused_and_one_that_has_left_is_left_aside(
    caplog: pytest.LogCaptureFixture,
) -> None:
    declare_cohort()
    with pytest.raises(UnusableInputError, match="unknown cohort 'elsewere'; did you mean elsewhere"):
        refuse_misspelt_cohorts(["elsewhere", "elsewere"])
    refuse_misspelt_cohorts(["elsewhere", "clinic_b"])
    assert cohorts_left(["elsewhere", "clinic_b"]) == ["elsewhere"]
    assert "cohort 'clinic_b' is not in the catalogue" in caplog.text


def drawn(seed: int) -> Pillow.Image:
    scene = Scene(
        look="pink", latent=0.0, lesion_seed=seed, photo_seed=1_000 + seed, width_px=256, height_px=192, skin=1,
        kind="dermoscopic",
    )  # fmt: skip
    return draw(scene)


def as_jpeg(picture: Pillow.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def test_whatever_a_training_already_has_is_named_and_taken_out_of_a_cohort(settings: Settings) -> None:
    task = TASKS["malignancy"]

    def is_taught(identity: str) -> bool:
        placed = subset_of(identity, salt=task.salt, val_share=task.val_share, test_share=task.test_share)
        return placed == "train"

    own = {record["isic_id"]: record for record in labelled_records(240)}
    known = {isic_id: record["metadata"]["clinical"] for isic_id, record in own.items()}
    others = {record["isic_id"]: record for record in other_records(40)[::2]}
    theirs = {isic_id: record["metadata"]["clinical"] for isic_id, record in others.items()}
    # One image of each of five lesions that teach, and five images of the cohort that share something with them.
    taught = [isic_id for isic_id, one in known.items() if is_taught(one["lesion_id"])][::2][:5]
    planted = list(others)[:5]
    patient, another = [name for i in range(100) if is_taught(name := f"IP_{i:07d}")][:2]
    for one in known.values():
        if one["lesion_id"] == known[taught[0]]["lesion_id"]:
            one["patient_id"] = patient
    theirs[planted[0]]["patient_id"] = patient
    theirs[planted[1]]["lesion_id"] = known[taught[1]]["lesion_id"]
    pictures = {taught[i]: as_jpeg(drawn(i), 95) for i in (2, 3, 4)}
    pictures |= {
        planted[2]: pictures[taught[2]],
        planted[3]: as_jpeg(drawn(3), 70),
        planted[4]: as_jpeg(ImageOps.mirror(drawn(4)), 90),
    }
    # One that shares and lacks something counts as sharing it; another lacks two things that the model needs.
    theirs[planted[0]]["sex"] = None
    lacking = list(others)[6]
    theirs[lacking] |= {"sex": None, "age_approx": None}
    # The lesion is closer than its patient.
    for one in known.values():
        if one["lesion_id"] == known[taught[1]]["lesion_id"]:
            one["patient_id"] = theirs[planted[1]]["patient_id"] = another
    declare_cohort()
    everything = own | others
    plain = [record for isic_id, record in everything.items() if isic_id not in pictures]
    add_records(settings, plain)
    add_records(settings, [everything[isic_id] for isic_id in pictures], picture_by_id=pictures, hashed=True)
    curate_images(open_workspace())
    rows = rows_of_manifest(settings, build_split(open_workspace(), SPLIT))
    cohort = rows_of_manifest(settings, build_cohort(open_workspace(), "elsewhere", "malignancy"))
    with engine_for(settings.database_url or "").connect() as connection:
        found = find_overlaps(connection, cohort, rows)
        kept, taken_out, _ = usable_rows(connection, Training(recipe={"metadata": []}), rows, cohort)
    kinds = ("patient", "lesion", "bytes", "picture", "picture")
    expected = {isic_id: (kind, "train") for isic_id, kind in zip(planted, kinds, strict=True)}
    assert {one.isic_id: (one.kind, one.subset) for one in found} == expected
    assert {one.other_id for one in found} <= set(rows.loc[rows["subset"] == "train", "isic_id"])
    assert sum(one.n_images for one in counted(found)) == 5
    # On none of them is a model measured, and the report names all.
    assert taken_out == found
    assert set(kept["isic_id"]) == set(cohort["isic_id"]) - set(planted)
    training_id = train_variant(open_workspace(), declare("metadata_logistic"))
    evaluate_training(open_workspace(), training_id)
    stored = open_bucket(settings)
    (judged,) = json.loads(stored.get(f"reports/{training_id}/metrics.json"))["other_data"]["cohorts"]
    assert judged["n_images"] == len(cohort) == judged["subset"]["subset"]["n_images"] + 6
    assert sorted(judged["overlapping_ids"]) == sorted(planted)
    named = pd.read_csv(io.BytesIO(stored.get(f"reports/{training_id}/overlap-elsewhere.csv")))
    assert named[["isic_id", "unknown"]].dropna().to_numpy().tolist() == [[lacking, "age in years, sex"]]
    named = named[named["unknown"].isna()]
    assert (
        dict(zip(named["isic_id"], zip(named["shares"], named["with"], strict=True), strict=True)) == expected
    )
    assert (
        "2 images with the same picture in train" in stored.get(f"reports/{training_id}/report.html").decode()
    )
    # Whoever predicts the cohort learns which of the answers are no test of the model.
    workspace = open_workspace()
    source = open_source(workspace, "cohort:elsewhere", "malignancy")
    (note,) = notes_about(source, training_id)
    assert "leaves out 6 of these images" in note
    assert "1 image with the same patient in train; " in note
    assert "1 image, age in years or sex unknown" in note
    left_out = left_out_of(source, training_id) or {}
    assert set(left_out) == {*planted, lacking}
    assert left_out[lacking] == "age in years, sex unknown"
    assert left_out[planted[0]].startswith("shares patient with ISIC_")
    (note,) = notes_about(source, "none")
    assert left_out_of(source, "none") is None
    assert "would leave out is unknown: training 'none': no such training" in note


def test_what_only_a_cohorts_image_ties_is_named_and_makes_no_leak(settings: Settings) -> None:
    task = TASKS["malignancy"]
    own = labelled_records(240)
    by_subset: dict[str, dict[str, Any]] = {}
    for record in own:
        lesion = record["metadata"]["clinical"]["lesion_id"]
        placed = subset_of(lesion, salt=task.salt, val_share=task.val_share, test_share=task.test_share)
        by_subset.setdefault(placed, record)
    one, other = by_subset["train"], by_subset["test"]
    pictures = {other["isic_id"]: as_jpeg(drawn(1), 95)}
    add_records(settings, [record for record in own if record is not other])
    add_records(settings, [other], picture_by_id=pictures, hashed=True)
    curate_images(open_workspace())
    rows = rows_of_manifest(settings, build_split(open_workspace(), SPLIT))
    declare_cohort()
    (told,) = other_records(1)
    # The table of the cohort says that its copy of one image is the lesion of another.
    told["metadata"]["clinical"]["lesion_id"] = one["metadata"]["clinical"]["lesion_id"]
    add_records(settings, [told], picture_by_id={told["isic_id"]: pictures[other["isic_id"]]}, hashed=True)
    curate_images(open_workspace())
    cohort = rows_of_manifest(settings, build_cohort(open_workspace(), "elsewhere", "malignancy"))
    both = f"('{one['isic_id']}', '{other['isic_id']}')"
    assert rows_of(settings, f"SELECT count(DISTINCT group_id) FROM image WHERE isic_id IN {both}") == [(1,)]
    subject: Any = SimpleNamespace(
        is_own_manifest=True, rows=rows, own_rows=rows, task=task, training=Training(recipe={})
    )
    engine = engine_for(settings.database_url or "")
    verdict = find_leaks(engine, subject)
    assert (verdict.status, verdict.is_failure) == ("caution", False)
    ends = {f"{one['isic_id']} (train)", f"{other['isic_id']} (test)"}
    assert all(end in verdict.sentence for end in ends)
    assert f"as {told['isic_id']} of cohort elsewhere" in verdict.sentence
    assert "the same lesion as" in verdict.sentence and "the same bytes as" in verdict.sentence
    # Of a group, the image is named to which the way leads, and not any of its members.
    alone = rows[rows["isic_id"].isin([one["isic_id"], other["isic_id"]])]
    linked = cohort.assign(isic_id=one["isic_id"], sha256="0" * 64, lesion_id=None, patient_id=None)
    with engine.connect() as connection:
        (shared,) = find_overlaps(connection, linked, alone[alone["isic_id"] == other["isic_id"]])
    assert (shared.kind, shared.other_id, shared.subset) == ("group", other["isic_id"], "test")
    COHORTS.clear()
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM cohort_image"))
    assert find_leaks(engine, subject).is_failure


def rows_of_manifest(settings: Settings, digest: str) -> pd.DataFrame:
    ((key,),) = rows_of(settings, f"SELECT object_key FROM manifest WHERE digest = '{digest}'")
    return read_manifest(open_bucket(settings), key)


def test_a_training_is_judged_on_the_cohorts_of_its_task_once_they_are_there_and_again_when_they_grow(
    small: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    training_id = train_variant(open_workspace(), declare("metadata_logistic"))

    def evaluated(**how: Any) -> dict[str, Any]:
        """The cohorts in the training's evaluation, by name."""
        evaluate_training(open_workspace(), **({"training_id": training_id} | how))
        ((document,),) = rows_of(small, "SELECT document -> 'other_data' FROM evaluation")
        return {one["name"]: one for one in document["cohorts"]} if document else {}

    def missing() -> list[dict[str, str]]:
        with engine_for(small.database_url or "").connect() as connection:
            return missing_on_cohorts(connection, find_finished(connection, training_id), None)

    def n_pooled() -> int:
        return int(rows_of(small, "SELECT document #> '{other_data,pooled,n_images}' FROM evaluation")[0][0])

    def n_tested() -> int:
        return int(rows_of(small, "SELECT document #> '{fairness,n_images}' FROM evaluation")[0][0])

    def page() -> str:
        return open_bucket(small).get(f"reports/{training_id}/report.html").decode()

    assert evaluated() == {}
    assert missing() == []
    assert "On other data" not in page()

    unsexed = other_records(20, first=60_001, sex=None)
    for record in unsexed:
        record["copyright_license"] = "CC-BY-NC"
    toned = other_records(10, monk_skin_tone="7")
    curate(small, toned, other_records(140, first=50_011), unsexed)
    declare_cohort(copyright_license=("CC-0",), attribution=(ELSEWHERE,))
    COHORTS["unsexed"] = Cohort(
        name="unsexed", title="Without a sex", tasks=("malignancy",), copyright_license=("CC-BY-NC",)
    )
    (needed,) = missing()
    found = evaluated(**needed)
    assert missing() == []
    cohort = found["elsewhere"]
    assert cohort["reason"] is None
    assert cohort["n_images"] == cohort["subset"]["subset"]["n_images"] == 150
    assert cohort["overlaps"] == []
    assert "Of 10 images Monk's skin tone is known: another scale" in "".join(cohort["remarks"])
    assert {one["status"] for one in cohort["integrity"]} <= {"passed", "not_applicable"}
    assert cohort["fall"]["cohort"] == cohort["subset"]["figures"]["auc"]["value"]
    # What metadata alone reach, on the test set and here; a model of metadata is held against no bar.
    alone = cohort["metadata_baseline"]
    assert alone["lacking"] == []
    assert alone["test"]["value"] is not None
    assert alone["n_images_fitted"] == alone["n_images_of_train"]
    assert "no bar for it" in alone["words"]
    assert alone["difference"] == pytest.approx(cohort["fall"]["cohort"] - alone["cohort"]["value"])
    assert alone["words"] in page()
    assert "AUC of metadata alone" in page()
    # Every row of train tells the sex: a missing one means nothing to the model.
    left_out = pd.read_csv(io.BytesIO(open_bucket(small).get(f"reports/{training_id}/overlap-unsexed.csv")))
    assert left_out["unknown"].tolist() == ["sex"] * 20
    assert "Taken out: 20 images, sex unknown" in page()
    assert f"{training_id} cannot do without sex" in found["unsexed"]["reason"]
    assert found["unsexed"]["subset"] is None
    assert cohort["fall"]["words"] in page()
    # Who reads the verdict alone learns of a fall, and only of one that is more than chance.
    stored = json.loads(open_bucket(small).get(f"reports/{training_id}/metrics.json"))
    for high, is_told in ((-0.1, True), (0.1, False)):
        fallen = next(one for one in stored["other_data"]["cohorts"] if one["name"] == "elsewhere")
        fallen["fall"] |= {"low": -0.3, "high": high}
        shown_of = render_page(read_bundle(stored))
        assert ("it is worse: AUC" in shown_of) == is_told
    # So does one that ranks as well and misses more; a cohort of one class has no AUC, and says why.
    words = cohort["at_threshold"][0]["words"]
    for high, is_told in ((-0.1, True), (0.1, False)):
        fallen["at_threshold"][0] |= {"low": -0.3, "high": high}
        bundle = read_bundle(stored)
        assert (
            f"it is worse: Sensitivity {cohort['at_threshold'][0]['cohort']:.3f}" in render_page(bundle)
        ) == is_told
        assert (
            f"it is worse: sensitivity {cohort['at_threshold'][0]['cohort']:.3f}" in model_card(bundle)
        ) == is_told
        assert (words in "".join(in_brief(bundle).get("worse on other data", []))) == is_told
    assert "unknown until" not in model_card(bundle)
    # Figures on other data are no more to be relied on than those at home.
    unsound = bundle.model_copy(update={"is_sound": False, "failed_checks": ["shortcut"]})
    section = render_page(unsound).partition('<section id="other-data"')[2].partition("<section ")[0]
    assert "Do not rely on these figures:" in section
    brief = in_brief(bundle)["on other data"]
    assert brief["Another hospital"].startswith(f"150 images, AUC {cohort['fall']['cohort']:.3f} (")
    assert brief["Another hospital"].endswith(cohort["fall"]["words"])
    assert brief["Without a sex"] == f"not judged, {found['unsexed']['reason']}."
    assert f"{training_id} on other data, Another hospital: {brief['Another hospital']}" in caplog.text
    fallen["fall"] = None
    fallen["subset"]["figures"]["auc"] |= {
        "value": None,
        "low": None,
        "high": None,
        "reason": "one class only",
    }
    bundle = read_bundle(stored)
    assert (
        "150 images, AUC undefined: one class only. Sens"
        in in_brief(bundle)["on other data"]["Another hospital"]
    )
    assert "<strong>AUC</strong>: undefined: one class only" in render_page(bundle)
    assert 'id="fairness"' in page()
    assert {one["attribute"] for one in cohort["fairness"]["attributes"]} == {
        "fitzpatrick_skin_type",
        "sex",
        "age_years",
    }
    assert n_pooled() == n_tested() + 150
    # Who asks for a cohort on which no figure could be made learns why, and where that stands.
    asked = CliRunner().invoke(lesion, ["evaluate", "--cohort", "unsexed"]).output
    assert (
        f"{training_id}: not judged on cohort unsexed, because {training_id} cannot do without sex" in asked
    )
    assert f"/reports/{training_id}/report.html" in asked
    assert "20 of 20 images left out, sex unknown" in caplog.text
    assert [line.worst_cohort.split(" ", 1)[1] for line in leaderboard_lines(open_workspace())] == [
        "elsewhere, of 1 judged of 2"
    ]
    ((figures,),) = rows_of(small, "SELECT cohort_figures FROM evaluation")
    assert {name: one["value"] for name, one in figures.items()} == {"elsewhere": cohort["fall"]["cohort"]}
    assert b"other data, worst cohort" in open_bucket(small).get("reports/index.html")
    # Neither opens the task's own test set, and no look is counted twice.
    openings = """
        SELECT m.split, count(*) FROM test_opening o JOIN manifest m ON m.digest = o.manifest_digest GROUP BY 1
    """
    looks = {SPLIT: 1, "cohort-elsewhere-malignancy": 1, "cohort-unsexed-malignancy": 1}
    assert dict(rows_of(small, openings)) == looks

    curate(small, other_records(10, first=70_001))
    build_cohort(open_workspace(), "elsewhere", "malignancy")
    assert missing() == [needed]
    again = evaluated(cohorts=["elsewhere"])
    assert again["elsewhere"]["n_images"] == 160
    assert again["unsexed"] == found["unsexed"]
    assert dict(rows_of(small, openings)) == {**looks, "cohort-elsewhere-malignancy": 2}
    with engine_for(small.database_url or "").connect() as connection:
        # Of this cohort there are two manifests; that it draws nothing by an assignment does not matter.
        digests = [row[0] for row in rows_of(small, "SELECT digest FROM manifest")]
        assert set(count_openings(connection, digests).values()) == {1}
    # What an earlier evaluation measured is pooled with what this one does.
    assert evaluated(cohorts=["unsexed"])["elsewhere"] == again["elsewhere"]
    assert n_pooled() == n_tested() + 160

    with engine_for(small.database_url or "").begin() as connection:
        connection.execute(
            text("UPDATE prediction SET probabilities = '{0.5, 0.5}' WHERE manifest_digest = :digest"),
            {"digest": again["elsewhere"]["manifest_digest"]},
        )
    with engine_for(small.database_url or "").connect() as connection:
        training = find_finished(connection, training_id)
        told = compare_on_cohorts(connection, open_bucket(small), training, training)
    assert "rows were changed after they were stored" in told[0].reason
    assert missing() == []
    with engine_for(small.database_url or "").begin() as connection:
        connection.execute(text('UPDATE evaluation SET document = document || \'{"verdict": "Fine."}\''))
    assert missing() == [needed]
    mended = evaluated(cohorts=["elsewhere"])
    # What an altered evaluation says of the others is not carried over.
    assert list(mended) == ["elsewhere"]
    assert mended["elsewhere"]["fall"] == again["elsewhere"]["fall"]
    del COHORTS["unsexed"]
    assert missing() == []
    COHORTS["elsewhere"] = replace(COHORTS["elsewhere"], title="Elsewhere")
    assert missing() == []
    COHORTS["elsewhere"] = replace(COHORTS["elsewhere"], seen_from="2020-01-01")
    assert missing() == [needed]

    def shown() -> list[str]:
        with engine_for(small.database_url or "").connect() as connection:
            (row,), _ = read_leaderboard_rows(connection, "malignancy")
        return list(row.on_cohorts)

    assert shown() == ["elsewhere"]
    del COHORTS["elsewhere"]
    assert shown() == []

    COHORTS["later"] = Cohort(
        name="later", title="Later", tasks=("malignancy",), seen_from="2020-01-01", attribution=(ELSEWHERE,)
    )
    # Nothing would judge a champion of other classes on it.
    foreign = Training(training_id="foreign", task="malignancy", classes=["a", "b"], manifest_digest="0" * 64)
    with engine_for(small.database_url or "").connect() as connection:
        assert missing_on_cohorts(connection, find_finished(connection, training_id), foreign) == [needed]


def test_a_challenger_that_is_better_at_home_and_worse_elsewhere_is_refused(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    others = other_records(120)
    for record in others:
        # Elsewhere the large lesions are the harmless ones.
        clinical = record["metadata"]["clinical"]
        size = float(clinical.pop("clin_size_long_diam_mm", "8"))
        clinical["clin_size_long_diam_mm"] = str(16 - size)
    curate(settings, labelled_records(400), others)
    declare_cohort()
    workspace = open_workspace()
    build_split(workspace, SPLIT)
    trained = []
    for name, fields in (("by_age", ("age_years",)), ("by_age_and_size", ("age_years", "size_mm"))):
        VARIANTS[name] = replace(VARIANTS["metadata_logistic"], name=name, metadata=fields)
        trained.append(train_variant(workspace, name))
        assert choose_trainings(workspace) == [trained[-1]]
        evaluate_training(workspace, trained[-1])
        decision = promote_model(workspace, task="malignancy", is_forced=len(trained) == 1)
    assert (decision.action, decision.training_id) == ("refused", trained[1])
    assert "AUC on cohort elsewhere loses" in decision.reason
    # Nobody is asked to evaluate what is just being evaluated.
    assert "no comparison with the champion" not in caplog.text
    ((compared,),) = rows_of(
        settings, "SELECT figures -> 'comparison' FROM promotion WHERE action = 'refused'"
    )
    assert compared["differences"]["auc"]["value"] > 0
    assert compared["cohorts"][0]["difference"]["value"] < -0.05
    # Where nobody names trainings: those without an evaluation, or without a word about one of the cohorts, once each.
    COHORTS["as_well"] = replace(COHORTS["elsewhere"], name="as_well")
    assert [choose_trainings(workspace, names) for names in (None, ["elsewhere"])] == [[], []]
    assert choose_trainings(workspace, ["elsewhere", "as_well", "as_well"]) == trained
    # Which cohorts had a say stands with each decision, also when the catalogue has them no more.
    cohort = rows_of(settings, "SELECT digest, n_images FROM manifest WHERE cohort = 'elsewhere'")[0]
    heard = rows_of(settings, "SELECT figures -> 'cohorts' FROM promotion ORDER BY sequence")
    assert heard == [([{"name": "elsewhere", "manifest_digest": cohort.digest, "n_images": 120}],)] * 2
    COHORTS.clear()
    with workspace.engine.connect() as connection:
        assert cohort.digest in named_in_decisions(connection)[1]
    assert leaderboard_lines(workspace)[0].training_id == trained[1]


def figure(value: float | None, low: float | None, **found: str) -> dict[str, Any]:
    """A figure on a cohort; `found`: why there is none, and what its checks say."""
    reason = found.pop("reason", None)
    integrity = [{"name": name, "status": status, "is_blocking": True} for name, status in found.items()]
    return {"figure": {"value": value, "low": low}, "reason": reason, "integrity": integrity}


def difference(value: float, low: float | None) -> dict[str, Any]:
    told = {
        "measure": "auc",
        "candidate": 0.8 + value,
        "champion": 0.8,
        "value": value,
        "low": low,
        "high": 0.2,
    }
    return {"cohort": "elsewhere", "reason": None, "difference": told}


@pytest.mark.parametrize(
    ("on_cohorts", "compared", "refused", "doubted"),
    [
        ({}, [], None, None),
        ({"elsewhere": figure(0.80, 0.75)}, [difference(-0.02, -0.04)], None, None),
        (
            {"elsewhere": figure(0.80, 0.75)},
            [difference(-0.06, -0.09)],
            "AUC on cohort elsewhere loses",
            None,
        ),
        ({"elsewhere": figure(0.80, 0.75)}, [difference(-0.02, -0.09)], None, "a loss of up to 0.090"),
        ({"elsewhere": figure(0.55, 0.50)}, [], "cohort elsewhere is 0.5500, below the floor 0.60", None),
        ({"elsewhere": figure(0.62, 0.55)}, [], None, "less than the floor 0.60 is not excluded"),
        ({"one": figure(0.9, 0.8), "two": figure(0.5, 0.4)}, [], "cohort two is 0.5000", None),
        ({"one": figure(0.5, None, few_groups="too_few")}, [], None, "one is 0.5000, of too few images"),
        ({"one": figure(0.5, 0.4, few_groups="too_few")}, [], "below the floor", None),
        (
            {"one": figure(None, None, reason="No image.")},
            [],
            None,
            "nothing is known of cohort one: No image",
        ),
        (
            {"one": figure(None, None, serving_differs="failed", reason="not to be trusted: others.")},
            [],
            "cohort one is not to be trusted: others",
            None,
        ),
        (
            {},
            [{"cohort": "elsewhere", "reason": "no image", "difference": None}],
            None,
            "cannot be compared: no image",
        ),
    ],
)
def test_the_gates_hold_on_every_cohort(
    on_cohorts: dict[str, Any], compared: list[dict[str, Any]], refused: str | None, doubted: str | None
) -> None:
    comparison = {"differences": {}, "slices": [], "cohorts": compared}
    other = {
        "figures": {name: one["figure"] for name, one in on_cohorts.items()},
        "cohorts": [{"name": name, **one} for name, one in on_cohorts.items()],
    }
    found = objections({}, comparison, (), other), cautions(comparison, (), {}, other)
    for told, expected in zip(found, (refused, doubted), strict=True):
        assert len(told) == (expected is not None)
        assert expected is None or expected in told[0]


def test_losses_that_are_shown_lead_the_cautions_and_what_nobody_knows_follows() -> None:
    told = {"candidate": 0.8, "champion": 0.8}
    comparison = {
        "differences": {"sensitivity": told | {"value": -0.184, "low": -0.288, "high": -0.09}},
        "slices": [],
        "cohorts": [difference(-0.02, -0.09)],
    }
    other = {
        "figures": {"known": {"value": 0.62, "low": 0.55}, "klinik": {"value": None}},
        "cohorts": [
            {"name": "known", "reason": None, "integrity": []},
            {"name": "klinik", "reason": "No image.", "integrity": []},
        ],
    }
    found = cautions(comparison, (), {"calibration_slope": {"value": 2.0, "low": None, "high": None}}, other)
    begins = ("sensitivity at each model's own threshold falls by 0.184", "nothing is known of cohort klinik")
    assert [words.startswith(one) for words, one in zip(found, begins, strict=False)] == [True, True]
    assert len(found) == 5


def cohort_of(labels: np.ndarray, scores: np.ndarray, first: int, **rows: Any) -> tuple[Scored, pd.DataFrame]:
    """Scored images and their rows, in the same order."""
    scored = binary(labels, scores)
    scored = replace(scored, group_ids=np.array([f"{first}-{i}" for i in range(len(labels))], dtype=object))
    known = {
        "age_years": np.full(len(labels), 50.0),
        "sex": "male",
        "anatom_site": None,
        "diagnosis_kind": "one",
    }
    return scored, pd.DataFrame({"isic_id": scored.isic_ids, **known, **rows})


def normal_scores(labels: np.ndarray, distance: np.ndarray | float, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=len(labels))
    return 1 / (1 + np.exp(-(distance * labels + noise)))


def test_a_fall_that_comes_from_the_case_mix_is_told_from_one_that_does_not() -> None:
    random = np.random.default_rng(1)
    labels = random.random(2_000) < 0.4
    # The model does well on the old and badly on the young, of whom the cohort has many.
    is_old = {"test": random.random(2_000) < 0.8, "cohort": random.random(2_000) < 0.2}

    def drawn_from(name: str, first: int, spoilt: float = 1.0) -> tuple[Scored, pd.DataFrame]:
        distance = np.where(is_old[name], 2.5, 0.3) * spoilt
        return cohort_of(
            labels,
            normal_scores(labels, distance, first),
            first,
            age_years=np.where(is_old[name], 70.0, 30.0),
        )

    (test, test_rows), (cohort, rows) = drawn_from("test", 1), drawn_from("cohort", 2)
    fall = measure_fall(test, cohort)
    assert fall is not None
    assert fall.low is not None and fall.high is not None and fall.high < -0.1
    # The size of a fall and its interval have one sign.
    assert (
        f"falls by {-fall.value:.3f} (95 % interval {-fall.high:.3f} to {-fall.low:.3f}): more than"
        in fall.words
    )
    sensitivity, specificity = threshold_falls(test, cohort, 0.7)
    assert sensitivity.high is not None and sensitivity.high < 0
    assert sensitivity.words.startswith("Sensitivity at the stored threshold falls")
    assert "at 0.5 " in threshold_falls(test, cohort, None)[0].words
    assert specificity.low is not None and specificity.high is not None
    assert specificity.low < 0 < specificity.high
    found = reweight(test, cohort, test_rows, rows, fall)
    assert found.reason is None
    assert found.auc == pytest.approx(fall.test, abs=0.04)
    assert "the case mix explains" in found.words
    # The other way round it is a rise, which the case mix explains and the weights take away.
    rise = measure_fall(cohort, test)
    assert rise is not None and rise.value > 0.1
    risen = reweight(cohort, test, rows, test_rows, rise)
    assert risen.value is not None and risen.value < -0.1
    assert "the case mix explains" in risen.words
    assert f", of the rise of {rise.value:.3f}." in risen.words
    # The same mix, and a model that is worse here.
    is_old["cohort"] = random.random(2_000) < 0.8
    worse, worse_rows = drawn_from("cohort", 3, 0.4)
    fall = measure_fall(test, worse)
    assert fall is not None
    assert fall.high is not None and fall.high < -0.05
    found = reweight(test, worse, test_rows, worse_rows, fall)
    assert found.value == pytest.approx(0, abs=0.02)
    # A cohort of another site: no weight makes heads of trunks, and what the others explain is told without the site.
    heads = rows.assign(anatom_site="Head and neck")
    fall = measure_fall(test, cohort)
    found = reweight(test, cohort, test_rows.assign(anatom_site="Trunk"), heads, fall)
    assert found.reason is None
    assert found.left_aside == ["anatom_site"]
    assert found.covariates == ["age_years", "sex", "diagnosis_kind"]
    assert found.auc == pytest.approx(fall.test if fall else None, abs=0.04)
    assert "mix of age, sex and kind of diagnosis" in found.words
    assert "what is not explained may be the site" in found.words
    # Nothing in the cohort stands for half of the test set.
    missing = rows.assign(age_years=30.0, anatom_site=np.where(labels, "Trunk", "Foot"))
    told = reweight(test, cohort, test_rows.assign(anatom_site="Trunk"), missing, fall)
    assert told.reason is not None
    assert "cannot be determined" in told.words
    assert "the two differ in age by" in told.words


def test_recalibration_on_one_half_mends_the_probabilities_of_the_other() -> None:
    labels = np.random.default_rng(2).random(1_500) < 0.3
    scored, _ = cohort_of(labels, normal_scores(labels, 2.0, 4), 5)
    found = recalibrate(scored)
    assert found.reason is None
    before, after = (side["calibration_intercept"].value for side in (found.before, found.after))
    assert abs(after or 0) < 0.3 < abs(before or 0)
    few, _ = cohort_of(labels[:60], normal_scores(labels[:60], 2.0, 6), 7)
    assert "floor 20" in (recalibrate(few).reason or "")


def test_with_more_than_two_classes_the_fall_is_over_the_classes_that_both_have() -> None:
    test = drawn_multiclass(900, seed=1)
    other = drawn_multiclass(900, signal=0.5, seed=2)
    cohort = other.where(other.labels != 3)
    fall = measure_fall(test, cohort)
    assert fall is not None
    assert fall.measure == "macro_auc"
    assert fall.high is not None and fall.high < 0
    assert threshold_falls(test, cohort, None) == []
    diagnoses = [np.array(["one"] * side.n_images, dtype=object) for side in (test, cohort)]
    kinds = {"test_kinds": diagnoses[0], "cohort_kinds": diagnoses[1]}
    rows = by_diagnosis(test, cohort, *diagnoses, **kinds, threshold=None)
    assert [row.label for row in rows] == ["a", "b", "c"]
    assert {row.auc for row in rows} == {None}
    assert "two classes" in reweight(test, cohort, pd.DataFrame(), pd.DataFrame(), fall).words
    assert "two classes" in (recalibrate(cohort).reason or "")


def told_rows(first: int, n: int, classes: Sequence[str], **known: Any) -> pd.DataFrame:
    """Rows in which the age tells the class, more or less."""
    random = np.random.default_rng(first)
    label = random.integers(len(classes), size=n)
    told = {
        "isic_id": [f"ISIC_{first + i:07d}" for i in range(n)],
        "label": [classes[i] for i in label],
        "group_id": [f"{first}-{i}" for i in range(n)],
        "age_years": 40 + 12 * label + 10 * random.normal(size=n),
        "sex": random.choice(["male", "female"], n),
    }
    return pd.DataFrame(told | known)


@pytest.mark.parametrize("classes", [("benign", "malignant"), ("a", "b", "c")])
def test_metadata_alone_are_a_baseline_on_what_train_and_cohort_both_have(classes: tuple[str, ...]) -> None:
    train, test, rows = (told_rows(first, n, classes) for first, n in ((1, 900), (2_001, 600), (4_001, 600)))
    positive = "malignant" if len(classes) == 2 else None
    right = pd.DataFrame(
        np.eye(len(classes))[[classes.index(one) for one in rows["label"]]],
        index=rows["isic_id"],
        columns=classes,
    )

    def measured(rows: pd.DataFrame, **known: bool) -> MetadataBaseline:
        cohort = join(right.loc[rows["isic_id"]], rows, class_names=classes, positive_class=positive)
        return metadata_baseline(cohort, train=train, test_rows=test, rows=rows, **known)

    found = measured(rows)
    assert found.fields == ["sex", "age_years"]
    assert found.test is not None and found.cohort is not None
    assert found.cohort.value == pytest.approx(found.test.value, abs=0.06)
    assert 0.65 < found.cohort.value < 0.95
    assert found.difference == pytest.approx(1 - found.cohort.value)
    assert found.low is not None and found.low > 0
    assert "fitted on 900 train images: the strongest of sex " in found.words
    assert "more than chance" in found.words
    # No model of two fields is shown as weaker than one of them.
    assert found.strongest and set(found.of_each) == {"sex", "age_years"} and found.of_all is not None
    each = [found.of_all, *found.of_each.values()]
    assert found.cohort.value == max(one.value or 0.0 for one in each)
    # A model of the same metadata is held against no bar.
    own = measured(rows, is_of_metadata=True)
    assert own.cohort == found.cohort
    assert own.words.endswith("The model sees metadata alone too, so that this is no bar for it.")
    # Without the age it knows nothing here, and says so.
    ageless = measured(rows.assign(age_years=np.nan))
    assert (ageless.fields, ageless.lacking) == (["sex"], ["age_years"])
    assert ageless.cohort is not None and ageless.cohort.value == pytest.approx(0.5, abs=0.06)
    assert "The cohort lacks age in years" in ageless.words
    bare = measured(rows.assign(age_years=np.nan, sex=None))
    assert bare.cohort is None
    assert bare.words.endswith("cannot be determined: the cohort lacks sex, age in years.")
    one = measured(rows[rows["label"] == classes[0]])
    assert f"no image of class {', '.join(classes[1:])}" in one.words
    few = measured(pd.concat([rows[rows["label"] == classes[0]], rows[rows["label"] != classes[0]][:3]]))
    assert few.low is None and "whether that is more than chance cannot be determined: too few" in few.words


def test_shares_differ_by_points_and_means_by_standard_deviations_with_their_units() -> None:
    def line(
        attribute: str, value: str | None, test: float | None, cohort: float, difference: float | None
    ) -> Any:
        return case_mix_line(
            CaseMixRow(attribute=attribute, value=value, test=test, cohort=cohort, difference=difference)
        )

    share = line("anatom_site", "Foot", 0.02, 0.995, 17.15)
    assert (share.difference, share.is_notable) == ("+97.5 points", True)
    every = line("label", "benign", 0.0, 1.0, None)
    assert (every.difference, every.is_notable) == ("+100.0 points", True)
    assert line("age_years", None, 50.0, 56.0, 0.4).difference == "+0.40 SD"
    assert line("age_years", None, None, 56.0, None).is_notable is False
    assert line("picture_brightness", None, 150.0, 160.0, 0.3).title.endswith("grey levels of 0 to 255")
    assert line("picture_white_share", None, 0.1, 0.3, 0.3).difference == "+20.0 points"


def test_a_diagnosis_that_is_named_more_finely_elsewhere_is_held_against_its_kind() -> None:
    test, cohort = (drawn_multiclass(300, seed=seed) for seed in (1, 2))

    def named(side: Scored, name: str) -> np.ndarray:
        return np.where(side.labels == 0, name, "naevus").astype(object)

    rows = by_diagnosis(
        test,
        cohort,
        named(test, "Melanoma, NOS"),
        named(cohort, "Melanoma Invasive"),
        test_kinds=named(test, "Melanoma"),
        cohort_kinds=named(cohort, "Melanoma"),
        threshold=None,
    )
    by_name = {row.diagnosis: row for row in rows}
    invasive = by_name["Melanoma Invasive"]
    assert invasive.n_images_of_test == test.class_counts["a"]
    assert invasive.kind_of_test == "Melanoma"
    assert invasive.called_right_of_test is not None
    assert by_name["naevus"].kind_of_test is None


def test_metadata_alone_are_no_weaker_than_the_age_that_they_see() -> None:
    """Of few, balanced train rows boosted trees learn steps and sites; an age alone ranks better than they."""
    sites = np.random.default_rng(6).choice([f"site {i}" for i in range(8)], (3, 300))
    train, test, rows = (
        told_rows(first, 300, ("benign", "malignant"), anatom_site=some)
        for first, some in zip((1, 2_001, 4_001), sites, strict=True)
    )
    is_malignant = (rows["label"] == "malignant").to_numpy()
    cohort = join(
        pd.DataFrame(
            np.column_stack([~is_malignant, is_malignant]).astype(float),
            index=rows["isic_id"],
            columns=("benign", "malignant"),
        ),
        rows,
        class_names=("benign", "malignant"),
        positive_class="malignant",
    )
    found = metadata_baseline(cohort, train=train, test_rows=test, rows=rows)
    assert found.cohort is not None and found.cohort.value is not None
    assert found.cohort.value >= roc_auc_score(is_malignant, rows["age_years"])


def test_what_is_taken_out_is_a_table_that_any_reader_of_csv_reads() -> None:
    shared = [Shared(isic_id="clinic-b.1", kind="lesion", subset="train", other_id="ISIC_0000001")]
    table = taken_out_table(shared, [("clinic-b.2", "age in years, sex")])
    assert table.decode().splitlines()[2] == 'clinic-b.2,,,,"age in years, sex"'
    empty = pd.read_csv(io.BytesIO(taken_out_table([], [])))
    assert list(empty.columns) == ["isic_id", "shares", "with", "other_isic_id", "unknown"]
    assert len(empty) == 0
