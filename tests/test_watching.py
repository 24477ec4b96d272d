"""A champion in use: shifts are found where there are some, seldom where there are none, and figures are followed."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, date, datetime
from itertools import count
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from catalogue import add_records, labelled_records, materialize_natural, rows_of
from scipy.stats import chi2_contingency, spearmanr
from test_pages import client
from test_promotion import execute

from benchmarks.simulate_watch import SHIFTS, WORSE, World, draw, watched
from lesion_tasks import UnusableInputError
from lesion_tasks.bucket import DirectoryBucket, open_bucket
from lesion_tasks.catalog import TASKS, VARIANTS
from lesion_tasks.catalog.recipe import METADATA
from lesion_tasks.curation.curate import curate_images
from lesion_tasks.database.schema import Training, Watch
from lesion_tasks.evaluation.decisions import record_decision
from lesion_tasks.metrics.newer_figures import measure_newer
from lesion_tasks.metrics.shifts import _fifths, _words, find_shifts
from lesion_tasks.metrics.two_samples import (
    adjust_by_holm,
    compare_values,
    detectable_difference,
    share_difference,
    tell_apart,
)
from lesion_tasks.metrics.watch_document import ShiftedValue, ShiftTest
from lesion_tasks.pages.decisions_page import ChampionState
from lesion_tasks.pages.run_results import find_result
from lesion_tasks.reports.watch_page import render_page
from lesion_tasks.serving.picture_source import stored_metadata
from lesion_tasks.serving.served_model import ModelFile
from lesion_tasks.settings import Settings
from lesion_tasks.splits.manifest import find_manifest
from lesion_tasks.splits.split import build_split
from lesion_tasks.training.examples import metadata_matrix
from lesion_tasks.training.train import train_variant
from lesion_tasks.upkeep.notices import of_watch
from lesion_tasks.watching import looks
from lesion_tasks.watching.watch import (
    _why_no_month,
    champions_to_watch,
    variants_to_retrain,
    watch_champion,
    window_of,
)
from lesion_tasks.watching.watched_images import WatchedChampion, find_images
from lesion_tasks.workspace import Workspace, open_workspace

TASK = TASKS["malignancy"]


def test_the_permutation_test_of_shares_agrees_with_chi_squared() -> None:
    rng = np.random.default_rng(1)
    ours, theirs = [], []
    for shift in np.linspace(0, 0.1, 12):
        before = rng.choice(list("abc"), 300, p=[0.5, 0.3, 0.2]).tolist()
        now = rng.choice(list("abc"), 200, p=[0.5 - shift, 0.3, 0.2 + shift]).tolist()
        found = compare_values(before, now)
        assert found is not None
        ours.append(found.p_value)
        table = [[side.count(value) for value in "abc"] for side in (before, now)]
        theirs.append(chi2_contingency(table, correction=False).pvalue)
    np.testing.assert_allclose(ours, theirs, atol=0.04)
    assert spearmanr(ours, theirs).statistic > 0.98


def test_values_are_compared_by_share_and_rare_ones_together() -> None:
    found = compare_values(["a"] * 60 + ["b"] * 40, ["a"] * 30 + ["b"] * 70)
    assert found is not None and found.p_value == 1 / 2000
    assert (found.values[0].reference, found.values[0].new) == (0.6, 0.3)
    assert found.effect == pytest.approx(0.3 / np.sqrt(0.45 * 0.55))
    assert compare_values(["a"] * 9, ["a"] * 9) is None
    rare = compare_values(["a"] * 60 + list("cdefg"), ["a"] * 60 + list("hijkl"))
    assert rare is not None and {one.value for one in rare.values} == {"a", "other values"}
    assert (share_difference(0, 0), share_difference(0, 1)) == (0, 2)


def test_a_classifier_tells_samples_apart_only_where_they_differ() -> None:
    rng = np.random.default_rng(2)
    before, now = rng.normal(size=(150, 40)), rng.normal(size=(100, 40))
    same = tell_apart(before, now, plain=3)
    assert same is not None and same.p_value > 0.05 and same.auc < 0.6
    now[:, :10] += 0.6
    other = tell_apart(before, now, plain=3)
    assert other is not None and other.p_value < 0.01 and other.auc > 0.6
    assert tell_apart(np.ones((60, 3)), np.ones((60, 3))) is None
    now[3, 4], now[5, 1] = np.nan, np.inf
    again = tell_apart(before, now, plain=3)
    assert again is not None and again.auc == pytest.approx(other.auc, abs=0.03)
    nothing = tell_apart(before, np.full_like(now, np.nan), plain=3)
    assert nothing is not None and (nothing.p_value, nothing.auc) == (1 / 2000, 1)


def test_p_values_are_adjusted_for_all_tests_together() -> None:
    assert adjust_by_holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert detectable_difference(400, 400, 0.05) == pytest.approx(2.8016 * np.sqrt(2 / 400), abs=1e-4)


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("colour", "picture_red_cast"),
        ("missing age", "age_years"),
        ("a new institution", "attribution"),
        ("prevalence", "label"),
    ],
)
def test_a_planted_shift_is_found_by_its_name(name: str, named: str) -> None:
    tests = watched(np.random.default_rng(3), SHIFTS[name], 250, 250)
    found = {one.name: one for one in tests if one.is_beyond}
    assert named in found
    if named == "attribution":
        assert found[named].values[0].value == "D" and found[named].values[0].reference == 0


@pytest.mark.parametrize(
    ("effect", "shown"), [(0.1961, "0.196"), (0.2039, "0.204"), (0.2, "0.2000"), (0.31, "0.31")]
)
def test_an_effect_close_to_its_bound_is_told_from_it(effect: float, shown: str) -> None:
    sides = {"n_reference": 100, "n_new": 100, "values": [ShiftedValue(value="a", reference=0.1, new=0.2)]}
    one = ShiftTest(
        kind="labels", name="label", institution=None, effect=effect, bound=0.2, is_found=True, **sides
    )
    assert f"; {shown} standard deviations" in _words(one)


def test_without_a_shift_nothing_is_found() -> None:
    tests = [one for i in range(4) for one in watched(np.random.default_rng([4, i]), World(), 150, 120)]
    assert [one.name for one in tests if one.is_found] == []
    assert {one.institution for one in tests} >= {None, "A"}


def test_too_few_groups_tell_nothing() -> None:
    rng = np.random.default_rng(5)
    sides = (draw(rng, World(), n).drop_duplicates("group_id") for n in (200, 30))
    assert {one.reason for one in find_shifts(*sides)} >= {"30 new groups, floor 50"}


def test_figures_follow_the_months_and_a_fall_is_told() -> None:
    rng = np.random.default_rng(6)
    test = draw(rng, World(), 300, 1)

    def month(world: World, n_groups: int, name: str) -> pd.DataFrame:
        rows = draw(rng, world, n_groups, 1)
        return rows.assign(isic_id=name + rows["isic_id"], group_id=name + rows["group_id"])

    first, second, third = month(World(), 20, "a"), month(World(), 200, "b"), month(WORSE, 300, "c")
    found = measure_newer(test, {"2026-08": first, "2026-09": second}, TASK, 0.5)
    assert [(one.first_month, one.last_month) for one in found.points] == [
        (None, None),
        ("2026-08", "2026-09"),
    ]
    assert [one.fall.measure for one in found.falls] == ["auc", "sensitivity", "specificity"]
    assert not any(one.is_beyond for one in found.falls)
    assert "97 % interval" in found.falls[0].fall.words
    worse = measure_newer(test, {"2026-08": first, "2026-09": second, "2026-10": third}, TASK, 0.5)
    assert worse.points[:2] == found.points
    assert worse.falls[0].is_beyond and worse.falls[0].fall.value < -0.05
    assert (worse.points[2].answered.value or 0) < 1  # type: ignore[union-attr]
    few = measure_newer(test, {"2026-08": first}, TASK, 0.5)
    assert few.falls == [] and few.reason and "12 groups of each class" in few.reason


def of_five_classes(rng: np.random.Generator, counts: Mapping[str, int], distance: float) -> pd.DataFrame:
    """Images of five classes, each a group; the greater the distance, the better a model tells them apart."""
    task = TASKS["five_classes"]
    labels = [name for name, n in counts.items() for _ in range(n)]
    logits = rng.normal(size=(len(labels), len(task.classes)))
    logits[np.arange(len(labels)), [task.classes.index(name) for name in labels]] += distance
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    ids = [f"ISIC_{one:07d}" for one in rng.choice(10**7, len(labels), replace=False)]
    columns = {f"p_{name}": p[:, i] for i, name in enumerate(task.classes)}
    return pd.DataFrame({"isic_id": ids, "group_id": ids, "label": labels, "answered": None, **columns})


def test_a_rare_class_hides_no_fall() -> None:
    rng = np.random.default_rng(11)
    task = TASKS["five_classes"]
    rare, *others = task.classes
    test = of_five_classes(rng, dict.fromkeys(task.classes, 60), 2)
    worse = of_five_classes(rng, {**dict.fromkeys(others, 80), rare: 1}, 0.7)
    found = measure_newer(test, {"2026-10": worse}, task, None)
    (fall,) = found.falls
    assert (fall.fall.measure, fall.is_beyond, found.reason, found.left_out) == (
        "macro_auc",
        True,
        None,
        (rare,),
    )
    # Nothing of what cannot be determined is said to have held.
    few = of_five_classes(rng, dict.fromkeys(task.classes[:2], 20), 2)
    other = of_five_classes(rng, dict.fromkeys(task.classes[3:], 20), 2)
    assert "no two classes" in (measure_newer(few, {"2026-10": other}, task, None).reason or "")
    one_patient = draw(rng, World(), 40, 1)
    one_patient["isic_id"] = "N" + one_patient["isic_id"]
    one_patient.loc[one_patient.index[:-30], "group_id"] = "P"
    told = measure_newer(draw(rng, World(), 300, 1), {"2026-10": one_patient}, TASK, 0.5)
    assert told.falls == [] or any(one.fall.high is None for one in told.falls)


def test_scores_close_to_one_fall_into_fifths_with_names_of_their_own() -> None:
    scores = pd.Series(1 - np.linspace(1e-5, 9e-4, 100))
    before, now = _fifths(scores, scores)
    assert before == now and {before.count(name) for name in before} == {20}


def test_one_image_more_changes_one_part() -> None:
    file = ModelFile(training_id="t", model_key="k", model_sha256="a")
    rows = draw(np.random.default_rng(12), World(), 1_200, 1).assign(sha256="b")
    rows = rows[["isic_id", "group_id", "sha256", *looks._METADATA]]
    assert 4 <= len(parts := looks.parts_of(file, rows)) <= 16
    assert sorted(one for part in parts for one in part.rows["isic_id"]) == sorted(rows["isic_id"])
    other = {part.digest for part in looks.parts_of(file, rows.iloc[1:])}
    assert len({part.digest for part in parts} - other) == 1
    assert looks.parts_of(file, rows.iloc[:0]) == []


def test_the_window_reaches_back_until_enough_groups_have_arrived() -> None:
    def some(first: int, n: int) -> pd.DataFrame:
        return pd.DataFrame({"group_id": [f"G{i}" for i in range(first, first + n)]})

    by_month = {"2026-07": some(0, 300), "2026-08": some(300, 150), "2026-10": some(500, 90)}
    assert window_of(by_month, date(2026, 11, 1)) == ["2026-08", "2026-10"]
    del by_month["2026-10"]
    assert window_of(by_month, date(2026, 9, 1)) == ["2026-07", "2026-08"]
    assert window_of(by_month, date(2026, 12, 1)) == []


def test_both_sides_are_drawn_by_the_same_rules(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TASKS, "malignancy", replace(TASK, val_share=0.1, test_share=0.6))
    old = labelled_records(110)
    for record in old[:55]:
        without_label(record)
    del old[20]["metadata"]["clinical"]["sex"], old[80]["metadata"]["clinical"]["sex"]
    add_records(settings, old)
    workspace = open_workspace()
    curate_images(workspace)
    digest = build_split(workspace, "malignancy_natural")
    with workspace.engine.connect() as connection:
        manifest = find_manifest(connection, digest)
    watched = WatchedChampion(
        training=Training(), manifest=manifest, task=TASKS["malignancy"], until=day(settings, 2)
    )
    first = find_images(workspace, watched).reference
    unlabelled = first[first["label"].isna()]
    assert 10 < len(unlabelled) < len(first) - 10
    assert not {"ISIC_0000021", "ISIC_0000081"} & set(first["isic_id"])
    # What comes later: one of a lesion of before, and two of unknown sex.
    new = labelled_records(30, first=1_001)
    new[0]["metadata"]["clinical"]["lesion_id"] = unlabelled["lesion_id"].iloc[0]
    without_label(new[4])
    for record in (new[4], new[5]):
        del record["metadata"]["clinical"]["sex"]
    arrive(settings, new, 1)
    found = find_images(workspace, watched)
    assert found.n_unlike == {"no_sex": 2} and sum(found.n_by_month.values()) == 28
    ((_, arrived),) = found.by_month.items()
    assert "ISIC_0001001" not in set(arrived["isic_id"]) and len(arrived) < 28
    assert {one.subset for one in found.overlaps} == {"test"}
    # Labels that come later take nothing from the side of before.
    execute(settings, "UPDATE image SET diagnosis = ARRAY['Benign'] WHERE diagnosis = '{}'")
    later = find_images(workspace, watched).reference
    assert later[["isic_id", "label"]].equals(first[["isic_id", "label"]])
    # A cohort's images are on neither side.
    chosen = [first["isic_id"].iloc[0], arrived["isic_id"].iloc[0]]
    for isic_id in chosen:
        execute(settings, "INSERT INTO cohort_image VALUES ('malignancy', :id, 'elsewhere')", id=isic_id)
    found = find_images(workspace, watched)
    assert (
        len(found.reference) == len(first) - 1 and sum(map(len, found.by_month.values())) == len(arrived) - 1
    )
    assert not set(chosen) & {*found.reference["isic_id"], *next(iter(found.by_month.values()))["isic_id"]}


def without_label(record: dict[str, Any]) -> None:
    for level in (1, 2, 3):
        record["metadata"]["clinical"].pop(f"diagnosis_{level}", None)


def arrive(settings: Settings, records: list[dict[str, Any]], months: int) -> None:
    """Records that are first read some months after everything else."""
    add_records(settings, records)
    ids = [record["isic_id"] for record in records]
    execute(
        settings,
        "UPDATE record SET first_seen_at = now() + make_interval(months => :months) WHERE isic_id = ANY(:ids)",
        months=months,
        ids=ids,
    )
    curate_images(open_workspace())


def day(settings: Settings, months: int) -> date:
    """The first day of a month, so many after this one."""
    ((found,),) = rows_of(
        settings, f"SELECT (date_trunc('month', now()) + make_interval(months => {months}))::date"
    )
    assert isinstance(found, date)
    return found


def make_older(settings: Settings) -> None:
    """The training data were made two months ago, of what had arrived long before."""
    execute(settings, "UPDATE manifest SET created_at = created_at - interval '2 months'")
    execute(settings, "UPDATE record SET first_seen_at = '2000-01-01'")


def crowned(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, of: str, records: list[dict[str, Any]]
) -> str:
    """A champion like a variant of the catalogue, learned from these records; most of them are its test set."""
    monkeypatch.setitem(TASKS, "malignancy", replace(TASK, val_share=0.1, test_share=0.6))
    variant = replace(VARIANTS[of], name="watched", split="malignancy_natural", max_epochs=1)
    monkeypatch.setitem(VARIANTS, "watched", variant)
    add_records(settings, records)
    workspace = open_workspace()
    curate_images(workspace)
    if variant.side_px is None:
        build_split(workspace, "malignancy_natural")
    else:
        materialize_natural()
    training_id = train_variant(workspace, "watched")
    with workspace.engine.begin() as connection:
        record_decision(
            connection,
            "malignancy",
            "promoted",
            training_id=training_id,
            previous=None,
            reason="it is needed",
            decided_by="Ada",
        )
    make_older(settings)
    return training_id


@pytest.fixture
def champion(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> str:
    """One that sees pictures, with enough test groups to compare with."""
    return crowned(settings, monkeypatch, "smoke", labelled_records(200))


def test_a_champion_without_pictures_is_watched(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    old, fresh = labelled_records(110), labelled_records(60, first=1_001)
    for record in [*old, *fresh]:
        record["metadata"]["clinical"]["lesion_id"] = f"IL_{record['isic_id'][5:]}"
    crowned(settings, monkeypatch, "metadata_logistic", old)
    for record in fresh:
        record["attribution"] = "New clinic"
    arrive(settings, fresh, -1)
    found = watch_champion(open_workspace(), "malignancy", day(settings, 0))
    shifts = found.document["shifts"]
    assert {one["kind"] for one in shifts} == {"metadata", "scores", "labels"}
    assert [one["name"] for one in shifts if one["is_beyond"]] == ["attribution"]
    assert found.document["points"][1]["figures"]["auc"]["value"] is not None
    page = open_bucket(settings).get(found.report_key).decode()
    assert "New clinic" in page and "Scores and answers" in page and "All pictures" not in page


def test_images_that_arrived_before_the_data_of_a_training_are_not_said_to_be_none() -> None:
    def why(since: date) -> str:
        at = datetime(since.year, since.month, since.day, tzinfo=UTC)
        return _why_no_month({}, SimpleNamespace(until=date(2026, 11, 29), since=at))  # type: ignore[arg-type]

    assert why(date(2026, 11, 12)) == (
        "no image arrived in 2026-11 so far after the data of its training (2026-11-12)"
    )
    assert "after" not in why(date(2026, 10, 12))


class KilledError(BaseException):
    """The end of a process."""


def watched_though_killed(workspace: Workspace, until: date, monkeypatch: pytest.MonkeyPatch) -> int:
    """Watch again and again, killed before the first write, before the second ...; returns how often."""
    put = DirectoryBucket.put
    for n_killed in count():
        left = iter(range(n_killed))

        def counted(bucket: DirectoryBucket, key: str, data: bytes, left: Any = left, **how: Any) -> None:
            if next(left, None) is None:
                raise KilledError
            put(bucket, key, data, **how)

        monkeypatch.setattr(DirectoryBucket, "put", counted)
        try:
            watch_champion(workspace, "malignancy", until)
        except KilledError:
            continue
        finally:
            monkeypatch.setattr(DirectoryBucket, "put", put)
        return n_killed
    raise AssertionError


def test_a_champion_is_watched_as_images_and_labels_arrive(
    settings: Settings, champion: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = open_workspace()
    with pytest.raises(UnusableInputError, match="expected a day after"):
        watch_champion(workspace, "malignancy", date(2020, 1, 1))
    with pytest.raises(UnusableInputError, match="until 9999-01-01: expected "):
        watch_champion(workspace, "malignancy", date(9999, 1, 1))
    assert champions_to_watch(workspace) == ["malignancy"]
    assert champions_to_watch(workspace, until=date(2020, 1, 1)) == []
    with monkeypatch.context() as patch:
        patch.setitem(TASKS, "malignancy", replace(TASKS["five_classes"], name="malignancy"))
        assert champions_to_watch(workspace) == []
    # A picture that was lost and is repaired.
    ((key,),) = rows_of(
        settings,
        "SELECT f.object_key FROM stored_file f JOIN split_member m USING (isic_id) WHERE m.subset = 'test' "
        "ORDER BY f.isic_id LIMIT 1",
    )
    picture = workspace.bucket.get(key)
    workspace.bucket.delete(key)
    nothing = watch_champion(workspace, "malignancy")
    assert "no image arrived in" in nothing.verdict and of_watch(nothing) is None
    assert nothing.document["n_unreadable"] == 1
    workspace.bucket.put(key, picture)
    # Of the new ones, those of the lesion that ends the training data are left out.
    fresh = labelled_records(120, first=201)
    for record in fresh:
        del record["metadata"]["clinical"]["age_approx"]
        record["attribution"] = "New clinic"
        without_label(record)
    arrive(settings, fresh, -1)
    monkeypatch.setattr(looks, "PART_IMAGES", 160)
    until = day(settings, 0)
    n_killed = watched_though_killed(workspace, until, monkeypatch)
    assert n_killed == 4  # what it asks for, a part, the page and the figures
    ((stored, sha256),) = rows_of(
        settings, f"SELECT document, document_sha256 FROM watch WHERE until = '{until}'"
    )
    found = watch_champion(workspace, "malignancy", until)
    assert (found.document, found.document_sha256) == (stored, sha256)
    assert found.document["n_unreadable"] == 0
    assert found.is_alarming and variants_to_retrain(workspace, [found.watch_id]) == []
    assert variants_to_retrain(workspace, [found.watch_id, nothing.watch_id], retraining="when_changed") == [
        "watched"
    ]
    beyond = {one["name"] for one in found.document["shifts"] if one["is_beyond"]}
    assert beyond >= {"age_years", "attribution"}
    assert "label" not in beyond and found.document["n_unlabelled"] == found.document["n_new"] > 100
    assert sum(one["n_images"] for one in found.document["overlaps"]) >= 1
    assert found.document["points"][0]["figures"]["auc"]["value"] is not None
    assert "no 12 groups of each class have arrived" in found.document["falls_reason"]
    notice = of_watch(found)
    assert notice is not None and notice.is_alarming and "passed a bound" in notice.text
    page = open_bucket(settings).get(found.report_key).decode()
    assert "Beyond a bound" in page and "New clinic" in page
    shown = client().get("/champion/malignancy").text
    assert "beyond a bound" in shown and found.report_key.removeprefix("reports/") in shown
    task = {"dag_id": "watch_champion", "run_id": "x", "task_id": "watch"}
    assert find_result(workspace, **task, returned=found.watch_id).address == found.report_key
    # A part that was changed is looked at again.
    bucket = open_bucket(settings)
    key = next(key for key in bucket.list_keys(f"{looks.folder_of(champion)}/") if key.endswith(".parquet"))
    bucket.put(key, b"x")
    assert watch_champion(workspace, "malignancy", until).document == stored
    # Labels arrive: the same day says more.
    execute(
        settings,
        "UPDATE image SET diagnosis = CASE WHEN substr(isic_id, 6)::int / 2 % 3 = 0 THEN ARRAY['Malignant'] "
        "ELSE ARRAY['Benign'] END WHERE diagnosis = '{}'",
    )
    again = watch_champion(workspace, "malignancy", until)
    assert again.document["falls_reason"] is None
    assert [one["first_month"] is None for one in again.document["points"]] == [True, False]
    assert again.document["n_unlabelled"] == 0 and again.document_sha256 != sha256


def test_an_institution_cannot_write_the_page(settings: Settings) -> None:
    rng = np.random.default_rng(8)
    evil = "<script>alert(1)</script>"
    sides = [draw(rng, World(), n).drop_duplicates("group_id") for n in (120, 120)]
    sides[1] = sides[1].assign(attribution=evil)
    tests = find_shifts(*sides)
    assert any(one.institution == evil for one in tests)
    from lesion_tasks.metrics.watch_document import WatchDocument

    known = {
        name: ("x" if field.annotation is str else 0 if "int" in str(field.annotation) else None)
        for name, field in WatchDocument.model_fields.items()
    }
    document = WatchDocument.model_validate(
        known
        | {"n_unlike": {}, "overlaps": [], "points": [], "falls": [], "alarms": [evil], "shifts": tests}
        | {"error_rate": 0.05, "falls_without": ["nevus"]}
    )
    page = render_page(document)
    assert evil not in page and "&lt;script&gt;" in page


def test_a_watch_tells_a_model_what_its_training_told_it() -> None:
    rows = pd.DataFrame(
        {
            "age_years": [50.0, np.nan] * 2,
            "size_mm": [np.nan, 2.0] * 2,
            "sex": ["male", "female", None, np.nan],
        }
    )
    told = [[stored_metadata(row).get(name, np.nan) for name in METADATA] for row in rows.to_dict("records")]
    np.testing.assert_array_equal(np.array(told, dtype=np.float32), metadata_matrix(rows, METADATA))


@pytest.mark.parametrize(
    ("is_alarming", "unknown", "words"),
    [
        (True, {"reason": "few"}, "beyond a bound"),
        (False, {}, "within bounds"),
        (False, {"reason": None, "falls_reason": "few"}, "within bounds, as far as it can be told"),
        (False, {"reason": "few", "falls_reason": "few"}, "cannot be determined"),
    ],
)
def test_what_a_watch_could_not_tell_is_not_within_bounds(
    is_alarming: bool, unknown: dict[str, Any], words: str
) -> None:
    assert ChampionState.found_by(Watch(is_alarming=is_alarming, document=unknown)) == words
