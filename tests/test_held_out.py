"""A recipe tested where it never learned: folds that share nobody, found again, and what they say together."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from catalogue import add_records, declare, labelled_records, rows_of
from evaluation_data import drawn
from markupsafe import escape
from scipy.special import expit, logit
from scipy.stats import f, f_oneway, norm
from scipy.stats import t as student
from sqlalchemy import text

from lesion_tasks import UnusableInputError
from lesion_tasks.bucket import open_bucket
from lesion_tasks.catalog import SPLITS, VARIANTS
from lesion_tasks.catalog.recipe import depends_on_seed
from lesion_tasks.catalog.split_recipes import N_TRAININGS
from lesion_tasks.curation.curate import curate_images
from lesion_tasks.database.connection import engine_for
from lesion_tasks.evaluation.evaluate import evaluate_training, list_unevaluated
from lesion_tasks.evaluation.held_out_report import (
    Fold,
    choose_folds,
    list_reported,
    n_seeds_of,
    report_held_out,
    train_fold,
)
from lesion_tasks.evaluation.leaderboard import read_leaderboard_rows
from lesion_tasks.metrics.auc import Auc, measure_auc
from lesion_tasks.metrics.between_sites import (
    SITE_METHOD,
    BetweenSites,
    SiteFigure,
    between_variance,
    combine_sites,
    heterogeneity,
    heterogeneity_p,
    site_figure,
    site_interval,
    training_variance,
)
from lesion_tasks.metrics.held_out_document import HeldOutDocument, put_together
from lesion_tasks.promotion.candidates import find_candidates
from lesion_tasks.settings import Settings
from lesion_tasks.splits.data_report import page_key
from lesion_tasks.splits.held_out import (
    HeldOut,
    build_held_out,
    find_origins,
    refuse_to_hold_out,
)
from lesion_tasks.splits.institution_names import find_alike, names_none
from lesion_tasks.splits.manifest import manifests_in_force, read_manifest
from lesion_tasks.splits.split import build_split
from lesion_tasks.training.run_spec import find_run_spec
from lesion_tasks.training.train import choose_variants, train_variant
from lesion_tasks.workspace import open_workspace

SPLIT = "malignancy_natural"
CLINICS = ("Clinic A", "Clinic B", "Clinic <b>C</b>")


def records_of_clinics(n: int = 300) -> list[dict[str, Any]]:
    """Three clinics, one that is too small to be tested, and images of which nothing tells the clinic.

    Age tells malignant from benign in all clinics but the last.
    """
    records, random = labelled_records(n), np.random.default_rng(5)
    for i, record in enumerate(records):
        # Two images in a row are of one lesion, three lesions in a row of one clinic.
        record["attribution"] = CLINICS[((i + 1) // 6) % 3]
        clinical = record["metadata"]["clinical"]
        clinical.pop("clin_size_long_diam_mm", None)
        told = (
            0
            if record["attribution"] == CLINICS[2]
            else 12
            if clinical["diagnosis_1"] == "Malignant"
            else -12
        )
        clinical["age_approx"] = int(np.clip(random.normal(50 + told, 12) // 5 * 5, 0, 85))
    for record in records[:11]:
        record["attribution"] = "Tiny"
    for record in records[11:17]:
        record["attribution"] = None
    for record in records[11:14]:
        record["attribution"] = "Anonymous"
    # The second images of these lesions were taken in another clinic.
    for i, clinic in ((20, "Clinic B"), (26, "Clinic <b>C</b>"), (32, "Clinic A")):
        records[i]["attribution"] = clinic
    return records


def rows_of_fold(settings: Settings, digest: str) -> pd.DataFrame:
    ((key,),) = rows_of(settings, f"SELECT object_key FROM manifest WHERE digest = '{digest}'")
    return read_manifest(open_bucket(settings), key)


@pytest.fixture
def clinics(settings: Settings) -> Iterator[Settings]:
    """A curated catalogue of several clinics, split; the catalogue of variants is put back."""
    before = dict(VARIANTS)
    add_records(settings, records_of_clinics())
    curate_images(open_workspace())
    build_split(open_workspace(), SPLIT)
    yield settings
    VARIANTS.clear()
    VARIANTS.update(before)


def _check_folds(clinics: Settings) -> None:
    """What is held out is the test, and whatever is linked to it teaches nothing."""
    workspace = open_workspace()
    ((digest,),) = rows_of(clinics, "SELECT digest FROM manifest")
    whole = rows_of_fold(clinics, digest)
    split_digest = digest
    origins = find_origins(workspace, split_digest, "attribution")
    assert {one.value for one in origins.held_out} == set(CLINICS)
    told = {one.value: one.reason for one in origins.found}
    assert "floor 10" in (told["Tiny"] or "")
    is_unknown = whole["attribution"].isna() | (whole["attribution"] == "Anonymous")
    assert origins.n_unknown == (is_unknown & (whole["subset"] != "test")).sum() > 0
    assert "Anonymous" not in told
    reasons = set()
    for value in CLINICS:
        held_out = HeldOut(by="attribution", value=value, manifest_digest=split_digest)
        digest = build_held_out(workspace, held_out)
        assert build_held_out(workspace, held_out) == digest
        rows = rows_of_fold(clinics, digest)
        test, taught = rows[rows["subset"] == "test"], rows[rows["subset"] != "test"]
        # All of it in train and val is test; the others stay where they were, and the split's own test stays closed.
        is_tested = (whole["attribution"] == value) & (whole["subset"] != "test")
        assert set(test["isic_id"]) == set(whole["isic_id"][is_tested])
        assert not set(taught["attribution"]) & {value, None, "Anonymous"}
        assert not set(taught["group_id"]) & set(test["group_id"])
        placed = whole.set_index("isic_id")["subset"]
        assert (placed[taught["isic_id"]].to_numpy() == taught["subset"].to_numpy()).all()
        assert "Tiny" in set(taught["attribution"])
        ((funnel,),) = rows_of(clinics, f"SELECT funnel FROM manifest WHERE digest = '{digest}'")
        reasons |= {step.get("reason") for step in funnel}
    assert {"tied_to_held_out", "kept_closed", "unknown_origin"} <= reasons
    # What is in force for everything else is the whole split.
    with workspace.engine.connect() as connection:
        assert [one.split for one in manifests_in_force(connection)] == [SPLIT]
    for by, value, words in (
        ("attribution", "Clinic AA", "did you mean Clinic A"),
        ("attributions", "Clinic A", "did you mean attribution"),
    ):
        with pytest.raises(UnusableInputError, match=words):
            build_held_out(workspace, HeldOut(by=by, value=value, manifest_digest=split_digest))
    with pytest.raises(
        UnusableInputError, match=f"is of split '{SPLIT}', expected one of 'malignancy_balanced"
    ):
        find_run_spec(workspace, VARIANTS["mobilenet_v2_frozen"], held_out)
    with pytest.raises(UnusableInputError, match="no such manifest"):
        build_held_out(workspace, HeldOut(by="attribution", value="Clinic A", manifest_digest="0" * 64))
    for split, words in (
        (
            "malignancy_balanced_5000",
            "at most 5,000 train images of a class.*expected a variant on malignancy_natural$",
        ),
        ("malignancy_balanced_5000_paper_imputation", "filled in from all images"),
    ):
        with pytest.raises(UnusableInputError, match=words):
            refuse_to_hold_out(SPLITS[split])
    with pytest.raises(UnusableInputError, match="0 of 0 values can be held out"):
        find_origins(workspace, split_digest, "collections")
    # A scope of two collections is two values, and what a scope no longer lists is not of it.
    with workspace.engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO scope (scope_id, source, query, collections) "
                "VALUES ('1', 'x', '', '65,66'), ('2', 'x', '', '67')"
            )
        )
        connection.execute(
            text("""
                INSERT INTO scope_record (scope_id, isic_id, record_hash, missing_since)
                SELECT scope_id, isic_id, '', CASE scope_id WHEN '2' THEN now() END FROM record, scope
                WHERE scope_id IN ('1', '2')
            """)
        )
    with pytest.raises(UnusableInputError, match=r"0 of 2 values can be held out.*\(65: .*; 66: "):
        find_origins(workspace, split_digest, "collections")
    with workspace.engine.begin() as connection:
        for table in ("scope_record", "scope"):
            connection.execute(text(f"DELETE FROM {table} WHERE scope_id IN ('1', '2')"))
    # An image may be of two collections, and is then a test image of both and teaches in neither.
    collections = {"66": "ISIC_0000180", "212": "ISIC_0000140"}
    for scope, (name, least) in enumerate(collections.items()):
        with workspace.engine.begin() as connection:
            listed = {"scope": str(scope), "name": name, "least": least}
            connection.execute(
                text(
                    "INSERT INTO scope (scope_id, source, query, collections) VALUES (:scope, 'x', '', :name)"
                ),
                listed,
            )
            connection.execute(
                text(f"""
                    INSERT INTO scope_record (scope_id, isic_id, record_hash)
                    SELECT :scope, isic_id, '' FROM record WHERE isic_id {"<" if name == "66" else ">"} :least
                """),
                listed,
            )
    origins = find_origins(workspace, split_digest, "collections")
    assert {one.value for one in origins.held_out} == set(collections)
    assert origins.n_of_several > 0
    held_out = HeldOut(by="collections", value="66", manifest_digest=split_digest)
    rows = rows_of_fold(clinics, build_held_out(workspace, held_out))
    test, taught = rows[rows["subset"] == "test"], rows[rows["subset"] != "test"]
    assert test["isic_id"].max() < "ISIC_0000180" <= taught["isic_id"].min()


def test_a_recipe_is_tested_on_each_institution_once_by_folds_that_share_nobody_and_found_again(
    clinics: Settings,
) -> None:
    _check_folds(clinics)
    workspace = open_workspace()
    name = declare("metadata_logistic")

    chosen = choose_folds(workspace, name, "attribution")
    split_digest = chosen[0].held_out.manifest_digest
    assert {one.seed for one in chosen} == {VARIANTS[name].seed}
    # The archive lives: after the first fold new images come, and a new split.
    train_fold(workspace, name, chosen[0])
    add_records(clinics, labelled_records(6, first=1_001))
    curate_images(workspace)
    newer_digest = build_split(workspace, SPLIT)
    assert newer_digest != split_digest

    def run() -> tuple[str, list[str]]:
        ids = [train_fold(workspace, name, fold) for fold in chosen]
        return report_held_out(workspace, split_digest, "attribution", ids), ids

    key, ids = run()
    bucket = open_bucket(clinics)
    before = {one: bucket.get(one) for one in bucket.list_keys(key.rpartition("/")[0])}
    evaluated = rows_of(clinics, "SELECT evaluated_at FROM evaluation ORDER BY 1")
    assert run() == (key, ids)
    assert rows_of(clinics, "SELECT evaluated_at FROM evaluation ORDER BY 1") == evaluated
    assert {one: bucket.get(one) for one in before} == before
    document = HeldOutDocument.model_validate(json.loads(before[key.replace("report.html", "metrics.json")]))
    assert {one.value for one in document.sites} == set(CLINICS)
    assert document.manifest_digest == split_digest
    for one in document.sites:
        (training,) = one.trainings
        assert one.figure == training.figures["auc"]
        assert one.figure.value is not None
    page = before[key].decode()
    assert "Tiny" in page
    assert f"../../{ids[0]}/report.html" in page
    index = bucket.get("reports/index.html").decode()
    assert f'href="{key.removeprefix("reports/")}"' in index
    assert escape(document.words) in index
    told = bucket.get(page_key(split_digest)).decode()
    assert "in two spellings, and are counted as two: Clinic &lt;b&gt;C&lt;/b&gt; and Clinic B." in told
    # The clinic where age tells nothing is found. How good a model is there is the answer, and never a fault.
    verdicts = rows_of(clinics, "SELECT document -> 'integrity' FROM evaluation")
    blocking = {one["name"]: one["is_blocking"] for (found,) in verdicts for one in found}
    assert [
        blocking[name] for name in ("gap", "shortcut", "leaks", "serving_differs", "inverted_on_val")
    ] == [
        False,
        False,
        True,
        True,
        True,
    ]
    assert document.together is not None
    assert document.together.differ
    folds = [rows_of_fold(clinics, one.manifest_digest) for one in document.sites]
    tested = [set(rows["group_id"][rows["subset"] == "test"]) for rows in folds]
    assert document.n_groups == len(set.union(*tested))
    assert document.n_shared_groups == sum(map(len, tested)) - document.n_groups > 0
    assert "differ by more than chance" in page
    assert "another seed gives the same model" in page, "its luck is none, not unknown"
    assert ">unknown<" not in page
    # None of them is a model for use.
    with engine_for(clinics.database_url or "").connect() as connection:
        assert find_candidates(connection, bucket, "malignancy") == []
        assert read_leaderboard_rows(connection, "malignancy") == ([], 0)
    assert list_unevaluated(workspace) == []
    assert choose_variants(workspace, variants=[name]) == [name]
    with pytest.raises(UnusableInputError, match="something was held out by anatom_site"):
        report_held_out(workspace, split_digest, "anatom_site", ids)
    part = report_held_out(workspace, split_digest, "attribution", ids[:2])
    document = HeldOutDocument.model_validate(
        json.loads(bucket.get(part.replace("report.html", "metrics.json")))
    )
    (missing,) = set(CLINICS) - {one.value for one in document.sites}
    assert document.words.endswith(f"Not among these, though each could be held out: {missing}.")
    assert missing in {one.value for one in document.untested}
    with pytest.raises(
        UnusableInputError, match=f"learned from another manifest .* than {newer_digest[:12]}"
    ):
        report_held_out(workspace, newer_digest, "attribution", ids)
    assert choose_folds(workspace, name, "attribution")[0].held_out.manifest_digest == newer_digest

    # How good a model is there is no fault, but predictions paired with the wrong rows are.
    with workspace.engine.begin() as connection:
        connection.execute(
            text("UPDATE training SET trainer_figures = jsonb_set(trainer_figures, '{test,auc}', '0.11')")
        )
    full = train_variant(workspace, name)
    with workspace.engine.begin() as connection:
        connection.execute(
            text(f"UPDATE training SET started_at = '2000-01-01' WHERE training_id = '{full}'")
        )
    evaluate_training(workspace, ids[0])
    ((failed, changes),) = rows_of(
        clinics,
        f"SELECT failed_checks, document -> 'data_changes' FROM evaluation WHERE training_id = '{ids[0]}'",
    )
    assert failed == ["independent_of_labels"]
    assert changes is None, "what is held out is no change of the data"
    # Folds that are not of one recipe, or one value twice, make no report.
    for statement, words in (
        (
            f"UPDATE training SET recipe = jsonb_set(recipe, '{{batch_size}}', '99') WHERE training_id = '{ids[0]}'",
            "differ in batch_size",
        ),
        (
            "UPDATE manifest SET recipe = jsonb_set(recipe, '{held_out,value}', '\"Clinic A\"') "
            "WHERE held_out IS NOT NULL",
            "several trainings without Clinic A with seed 20260",
        ),
    ):
        with workspace.engine.begin() as connection:
            connection.execute(text(statement))
        with pytest.raises(UnusableInputError, match=words):
            report_held_out(workspace, split_digest, "attribution", ids)


def test_each_institution_is_held_out_by_trainings_of_several_seeds(clinics: Settings) -> None:
    workspace, bucket = open_workspace(), open_bucket(clinics)
    name = declare("metadata_mlp")
    assert {n_seeds_of(VARIANTS[one]) for one in ("metadata_logistic", "efficientnet_lite0_frozen")} == {1}
    assert n_seeds_of(VARIANTS[name]) == N_TRAININGS
    chosen = choose_folds(workspace, name, "attribution", n_seeds=2)
    assert [Fold.from_json(json.loads(json.dumps(one.as_json))) for one in chosen] == chosen
    seeds = [one.seed for one in chosen]
    assert len(set(seeds)) == 2 * len(CLINICS), "each training has luck of its own"
    # More trainings begin with those that are there.
    more = choose_folds(workspace, name, "attribution", n_seeds=3)
    assert [one for one in more if one in chosen] == chosen
    # Two without the first, one without each of the others.
    done = [*chosen[:2], *chosen[2::2]]
    ids = [train_fold(workspace, name, fold) for fold in done]
    digest = chosen[0].held_out.manifest_digest
    key = report_held_out(workspace, digest, "attribution", ids)
    document = HeldOutDocument.model_validate(
        json.loads(bucket.get(key.replace("report.html", "metrics.json")))
    )
    assert document.title == VARIANTS[name].title, "a seed is none of the recipe's"
    assert list_reported(bucket) == set(ids)
    for site in document.sites:
        assert [one.seed for one in site.trainings] == [
            one.seed for one in done if one.held_out.value == site.value
        ]
    (twice,) = (site for site in document.sites if len(site.trainings) == 2)
    assert all(one.is_sound for one in twice.trainings), [one.verdict for one in twice.trainings]
    values = [one.figures["auc"].value for one in twice.trainings]
    assert twice.figure is not None and twice.figure.value is not None
    assert min(values) <= twice.figure.value <= max(values)
    assert twice.figure.method == SITE_METHOD
    assert document.together is not None
    assert document.together.n_trainings == len(ids)
    assert document.together.training_sd is not None
    page = bucket.get(key).decode()
    assert all(f"../../{one}/report.html" in page for one in ids)
    for wrong, n_seeds, words in (
        ("metadata_logistic", 2, "expected 1: another seed gives the same model"),
        ("efficientnet_lite0_and_mobilenet_v2_tuned", 2, "expected 1: an ensemble has no seed of its own"),
        (name, 0, "0 trainings of each, expected 1 or more"),
    ):
        with pytest.raises(UnusableInputError, match=words):
            choose_folds(workspace, wrong, "attribution", n_seeds=n_seeds)


def test_values_that_may_be_one_origin_are_named() -> None:
    values = [
        "Hospital Clinic, Barcelona",
        "Hospital Clinic de Barcelona",
        "Hospital of Basel",
        "basel hospital",
    ]
    assert find_alike(values) == [
        ("Hospital Clinic de Barcelona", "Hospital Clinic, Barcelona"),
        ("Hospital of Basel", "basel hospital"),
    ]


def auc_of(distance: float, seed: int, n_images: int = 400) -> Auc:
    scored = drawn(n_images, distance=distance, seed=seed, n_groups=n_images // 2)
    found = measure_auc(scored.is_positive, scored.scores, scored.groups)
    assert found is not None
    return found


def once(aucs: Iterable[Auc]) -> list[list[Auc]]:
    """Sites of one training each."""
    return [[auc] for auc in aucs]


def test_sites_that_differ_are_told_from_sites_that_do_not() -> None:
    alike = combine_sites(once(auc_of(1.5, seed) for seed in range(8)))
    apart = combine_sites(once(auc_of(0.5 + 0.3 * seed, seed) for seed in range(8)))
    assert isinstance(alike, BetweenSites)
    assert isinstance(apart, BetweenSites)
    assert not alike.differ
    assert apart.differ
    assert alike.mean_low < alike.mean < alike.mean_high
    # What a new site may give is wider than what the mean is, and wider where sites differ.
    for one in (alike, apart):
        assert one.new_site_low <= one.mean_low
        assert one.mean_high <= one.new_site_high
    assert apart.new_site_high - apart.new_site_low > 2 * (alike.new_site_high - alike.new_site_low)
    assert combine_sites(once(auc_of(1.5, seed) for seed in range(8))) == alike
    together, reason, words = put_together(once(auc_of(1.5, seed) for seed in range(2)), "institution")
    assert together is None
    assert reason is not None
    assert "2 sites" in reason
    assert "cannot be determined" in words
    sites = once(auc_of(0.5 + 0.3 * seed, seed) for seed in range(8))
    assert "more than chance" in put_together(sites, "institution")[2]
    # A training that went badly looks like an institution that differs, where trainings can go badly.
    assert "luck" not in put_together(sites, "institution")[2]
    said = put_together(sites, "anatomical site", has_luck=True)[2]
    assert "Each anatomical site has one sound training, so the luck of training is not told apart" in said
    has_luck = {
        name: depends_on_seed(VARIANTS[name].as_recipe)
        for name in ("metadata_logistic", "efficientnet_lite0_frozen", "mobilenet_v2_frozen")
    }
    assert list(has_luck.values()) == [False, False, True]


@pytest.mark.parametrize(
    "value", [None, float("nan"), "Anonymous", " unknown. ", "Anonymous (drawn by a program)"]
)
def test_a_word_for_nobody_is_no_institution(value: str | float | None) -> None:
    assert names_none(value)
    assert not names_none("Anonymous Clinic")


def test_sites_that_share_people_are_not_combined() -> None:
    aucs = once(auc_of(1.5, seed) for seed in range(4))
    together, _, words = put_together(aucs, "anatomical site", n_groups=100, n_shared=5)
    assert together is not None
    assert "5 of 100 groups are in more than one test" in words
    together, reason, _ = put_together(aucs, "anatomical site", n_groups=100, n_shared=6)
    assert together is None
    assert reason == "6 of 100 groups are in the test of more than one anatomical site, at most 5 % may"


def test_sites_that_agree_by_luck_say_no_more_than_their_own_errors() -> None:
    sites = [auc_of(1.5, seed) for seed in range(3)]
    lucky = [replace(one, value=sites[0].value + 0.0005 * i) for i, one in enumerate(sites)]
    found = combine_sites(once(lucky))
    assert isinstance(found, BetweenSites)
    errors = [one.standard_error / (one.value * (1 - one.value)) for one in lucky]
    width = 2 * 1.96 / np.sqrt(sum(1 / error**2 for error in errors))
    assert logit(found.mean_high) - logit(found.mean_low) == pytest.approx(width, rel=1e-3)
    assert logit(found.new_site_high) - logit(found.new_site_low) > 0.95 * width


def trained(auc: Auc, *luck: float) -> list[Auc]:
    """Several trainings on one site's people, that much better or worse on the logit scale."""
    return [replace(auc, value=float(expit(logit(auc.value) + one))) for one in luck]


def test_luck_of_training_is_not_taken_for_a_difference_between_sites() -> None:
    luck = np.random.default_rng(2).normal(0, 0.6, (5, 4))
    sites = [trained(auc_of(1.5, seed), *luck[seed]) for seed in range(5)]
    first = put_together([some[:1] for some in sites], "institution", has_luck=True)
    both = put_together(sites, "institution", has_luck=True)
    assert first[0] is not None and both[0] is not None
    assert first[0].differ and first[0].training_sd is None
    assert not both[0].differ
    assert both[0].training_sd == pytest.approx(np.sqrt(luck.var(axis=1, ddof=1).mean()), rel=0.02)
    assert "is not told apart" in first[2] and "is not told apart" not in both[2]
    assert "no more than chance and the luck of training" in both[2]
    # A new site gets the model of one training: it is expected where one training may end.
    width = logit(both[0].new_site_high) - logit(both[0].new_site_low)
    assert width > 2 * 1.96 * both[0].training_sd
    # The interval of one site holds the luck too, and a difference beyond luck is found.
    figures = [site_figure(some) for some in sites]
    told = [one for one in figures if one is not None]
    interval = site_interval(told[0], training_variance(told))
    assert logit(interval.high) - logit(interval.low) > 2 * 1.96 * both[0].training_sd / np.sqrt(4)
    apart = [trained(auc_of(0.5 + 0.6 * seed, seed), *luck[seed] / 6) for seed in range(5)]
    found = put_together(apart, "institution", has_luck=True)
    assert "differ by more than chance and the luck of training" in found[2]


def test_what_the_chance_of_who_was_tested_brings_is_no_luck_of_training() -> None:
    # Models that are equally good and err on other people: they differ by their errors alone.
    random, labels = np.random.default_rng(3), np.arange(60) % 3 == 0

    def auc() -> Auc:
        found = measure_auc(labels, 1.5 * labels + random.normal(size=60), np.arange(60) // 2)
        assert found is not None
        return found

    sites = [[auc() for _ in range(3)] for _ in range(40)]
    figures = [one for some in sites if (one := site_figure(some)) is not None]
    found = training_variance(figures)
    assert found is not None and found.degrees == 2 * len(figures) > 70
    assert found.squares > 0.1, "without the correction they would differ by a third of the logit"
    assert found.squares == pytest.approx(found.expected, rel=0.35)
    one, other = auc(), auc()
    pair = site_figure([one, other])
    slopes = [1 / (some.value * (1 - some.value)) for some in (one, other)]
    apart = slopes[0] * one.influence - slopes[1] * other.influence
    assert pair is not None and pair.expected == pytest.approx(float(apart @ apart) / 2)


def test_with_luck_alone_the_test_of_heterogeneity_is_the_f_test() -> None:
    luck = np.random.default_rng(1).normal(0, 0.4, (4, 3)) + 0.3 * np.arange(4)[:, None]
    figures = [
        SiteFigure(
            y=some.mean(),
            variance=1e-12,
            degrees=20,
            n_trainings=3,
            squares=float(((some - some.mean()) ** 2).sum()),
            expected=0.0,
        )
        for some in luck
    ]
    found = heterogeneity_p(
        luck.mean(axis=1), np.full(4, 1e-12), np.full(4, 20.0), np.full(4, 3), training_variance(figures)
    )
    assert found == pytest.approx(f_oneway(*luck).pvalue)


def _kenward_roger(
    contrasts: np.ndarray, y: np.ndarray, parts: list[np.ndarray], estimates: np.ndarray, errors: np.ndarray
) -> tuple[float, float, float, float]:
    """Kenward & Roger 1997, section 3, of the model whose rows are all fixed effects: A1, A2, and what F they give.

    The covariance of `y` is the sum of `parts`, each times its estimate, whose variances `errors` has. That the
    contrasts are zero is tested. Returns A1, A2, the scaled statistic and its degrees of freedom.
    """
    covariance = sum(one * part for one, part in zip(estimates, parts, strict=True))
    inverse = np.linalg.inv(covariance)
    n_tested = len(contrasts)
    theta = contrasts.T @ np.linalg.inv(contrasts @ covariance @ contrasts.T) @ contrasts
    # With a fixed effect for each row, the design is the identity and no term beyond these remains.
    moved = [theta @ covariance @ (-inverse @ part @ inverse) @ covariance for part in parts]
    first = sum(error * np.trace(one) ** 2 for error, one in zip(errors, moved, strict=True))
    second = sum(error * np.trace(one @ one) for error, one in zip(errors, moved, strict=True))
    statistic = float(y @ theta @ y) / n_tested
    b = (first + 6 * second) / (2 * n_tested)
    g = ((n_tested + 1) * first - (n_tested + 4) * second) / ((n_tested + 2) * second)
    c = np.array([g, n_tested - g, n_tested + 2 - g]) / (3 * n_tested + 2 * (1 - g))
    expected = 1 / (1 - second / n_tested)
    spread = 2 / n_tested * (1 + c[0] * b) / ((1 - c[1] * b) ** 2 * (1 - c[2] * b))
    degrees = 4 + (n_tested + 2) / (n_tested * spread / (2 * expected**2) - 1)
    return float(first), float(second), statistic * degrees / (expected * (degrees - 2)), degrees


def _first_order(sites: Sequence[SiteFigure]) -> tuple[float, float, float]:
    """Q, and the p-value of Kenward & Roger with general matrices: to the first order in 1 / degrees, and theirs."""
    k, training = len(sites), training_variance(sites)
    assert training is not None
    y = np.array([one.y for one in sites])
    sampling = np.array([one.variance for one in sites])
    # One part for each site's own variance, and one for the variance that they share.
    parts = [np.diag(np.arange(k) == i).astype(float) for i in range(k)]
    parts.append(np.diag([1 / one.n_trainings for one in sites]))
    estimates = np.append(sampling, training.variance)
    errors = np.append(
        2 * sampling**2 / [one.degrees for one in sites], 2 * training.squares**2 / training.degrees
    )
    contrasts = np.eye(k)[1:] - np.eye(k)[0]
    first, second, statistic, of_error = _kenward_roger(contrasts, y, parts, estimates, errors)
    lost = k - 1
    spread = (first + 2 * second) / (lost * (lost + 2))
    covariance = sum(one * part for one, part in zip(estimates, parts, strict=True))
    q = float(y @ contrasts.T @ np.linalg.inv(contrasts @ covariance @ contrasts.T) @ contrasts @ y)
    p_value = f.sf(q / lost / (1 + second / lost - spread), lost, 2 / spread)
    return q, float(p_value), float(f.sf(statistic, lost, of_error))


@pytest.mark.parametrize("n_seeds", [(3, 3, 3, 3), (2, 5, 1, 3, 4)])
def test_with_both_variances_the_test_of_heterogeneity_is_kenward_and_rogers(
    n_seeds: tuple[int, ...],
) -> None:
    random = np.random.default_rng(4)
    sites = [
        SiteFigure(
            y=random.normal(2, 0.6),
            variance=random.uniform(0.02, 0.2),
            degrees=random.uniform(15, 60),
            n_trainings=n,
            squares=0.25 * (n - 1),
            expected=0.05 * (n - 1),
        )
        for n in n_seeds
    ]
    slopes = [float(expit(one.y) * expit(-one.y)) for one in sites]
    on_own = [
        replace(
            one,
            y=float(expit(one.y)),
            **{name: getattr(one, name) * slope**2 for name in ("variance", "squares", "expected")},
        )
        for one, slope in zip(sites, slopes, strict=True)
    ]
    by_logit, by_own = _first_order(sites), _first_order(on_own)
    assert by_logit[1] != pytest.approx(by_own[1], rel=1e-3), "the scales do not say the same"
    assert heterogeneity(sites) == pytest.approx(max(by_logit[:2], by_own[:2], key=lambda one: one[1]))
    for _, found, theirs in (by_logit, by_own):
        assert found == pytest.approx(theirs, rel=0.25)


@pytest.mark.parametrize(
    ("values", "on_logit", "on_own"),
    [
        ((0.81, 0.96, 0.91, 0.60), True, True),
        ((0.96, 0.93, 0.68, 0.95), True, False),
        ((0.74, 0.76, 0.98, 0.72), False, True),
        ((0.82, 0.85, 0.88, 0.80), False, False),
    ],
)
def test_sites_are_said_to_differ_if_they_do_on_both_scales(
    values: tuple[float, ...], on_logit: bool, on_own: bool
) -> None:
    sites = [
        Auc(value=one, influence=np.full(48, np.sqrt(one * (1 - one) / 24 / 48)), n_groups_by_class=(24, 24))
        for one in values
    ]
    y, error = np.array(values), np.array([one.standard_error for one in sites])
    slope = y * (1 - y)
    by_logit = heterogeneity_p(logit(y), (error / slope) ** 2, np.full(4, 23.0))
    by_own = heterogeneity_p(y, error**2, np.full(4, 23.0))
    assert (by_logit < 0.05, by_own < 0.05) == (on_logit, on_own)
    found = combine_sites(once(sites))
    assert isinstance(found, BetweenSites)
    assert found.p_value == pytest.approx(max(by_logit, by_own))
    assert found.differ == (on_logit and on_own)
    # Q and I² are of the test whose p it is.
    scale, variance = (logit(y), (error / slope) ** 2) if by_logit > by_own else (y, error**2)
    mean = (scale / variance).sum() / (1 / variance).sum()
    assert found.q == pytest.approx(((scale - mean) ** 2 / variance).sum())
    assert found.i2 == pytest.approx(max(0, 1 - 3 / found.q))


def _drawn_half_width(sites: Sequence[SiteFigure], n_draws: int = 20_000) -> float:
    """Half the 95 % interval of a new site on the logit scale, with every variance and error drawn."""
    random, training, degrees = np.random.default_rng(8), training_variance(sites), len(sites) - 1
    y, sampling, n = (np.array([getattr(one, x) for one in sites]) for x in ("y", "variance", "n_trainings"))
    luck = np.zeros(n_draws)
    if training is not None:
        drawn = training.squares * training.degrees / random.chisquare(training.degrees, n_draws)
        luck = np.maximum(0, drawn - training.expected)
    within = sampling + luck[:, None] / n

    def squares(tau2: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        weight = 1 / (within + tau2[:, None])
        total = weight.sum(axis=1)
        return (weight * (y - (weight @ y / total)[:, None]) ** 2).sum(axis=1), total

    wanted, low, high = random.chisquare(degrees, n_draws), np.zeros(n_draws), np.full(n_draws, 1e5)
    for _ in range(45):
        middle = (low + high) / 2
        is_above = squares(middle)[0] > wanted
        low, high = np.where(is_above, middle, low), np.where(is_above, high, middle)
    found, total = squares(low)
    by_t = np.sqrt(found / degrees)
    is_wider = by_t * student.isf(0.025, degrees) > norm.isf(0.025)
    error = np.where(is_wider, by_t * random.standard_t(degrees, n_draws), random.normal(size=n_draws))
    off = np.sqrt(low + luck) * random.normal(size=n_draws) + error / np.sqrt(total)
    return float(np.quantile(np.abs(off), 0.95))


@pytest.mark.parametrize(
    ("n_sites", "n_trainings", "apart"), [(3, 1, 0.0), (3, 3, 0.0), (3, 3, 0.6), (8, 1, 0.1), (8, 3, 0.6)]
)
def test_the_interval_of_a_new_site_is_what_drawing_every_variance_gives(
    n_sites: int, n_trainings: int, apart: float
) -> None:
    sizes = np.linspace(0.7, 1.5, n_sites)
    deviations = np.resize([1, -1, 0.5], n_sites) * apart
    base = auc_of(1.5, 0)
    luck = np.linspace(-0.3, 0.3, n_trainings) if n_trainings > 1 else np.zeros(1)
    trainings = [
        trained(replace(base, influence=base.influence * size), *(deviation + luck))
        for size, deviation in zip(sizes, deviations, strict=True)
    ]
    found = combine_sites(trainings)
    assert isinstance(found, BetweenSites)
    assert (found.q < 1e-9) == (apart == 0)
    sites = [one for some in trainings if (one := site_figure(some)) is not None]
    half = (logit(found.new_site_high) - logit(found.new_site_low)) / 2
    assert half == pytest.approx(_drawn_half_width(sites), rel=0.05)


def test_a_variance_of_training_that_is_put_at_nothing_leaves_room_in_the_interval_of_a_new_site() -> None:
    # Trainings that err on different people differ by less than that lets them.
    base = auc_of(1.5, 0)
    sites = [
        [replace(one, influence=np.roll(one.influence, i)) for i, one in enumerate(trained(base, *luck))]
        for luck in ((-0.2, 0.1, 0.0), (0.1, 0.2, 0.3), (0.0, -0.1, -0.2), (0.0, 0.1, -0.1))
    ]
    figures = [one for some in sites if (one := site_figure(some)) is not None]
    training = training_variance(figures)
    assert training is not None and training.squares > 0 and training.variance == 0
    found = combine_sites(sites)
    assert isinstance(found, BetweenSites)
    half = (logit(found.new_site_high) - logit(found.new_site_low)) / 2
    assert half == pytest.approx(_drawn_half_width(figures), rel=0.05)


def test_with_equal_variances_the_variance_between_sites_is_what_the_sample_has_beyond_them() -> None:
    y, within = np.array([0.1, 0.5, 0.9, 1.3]), np.full(4, 0.05)
    assert between_variance(y, within) == pytest.approx(np.var(y, ddof=1) - 0.05)
    assert between_variance(y, np.full(4, 5.0)) == 0.0


def test_the_test_of_heterogeneity_is_welchs() -> None:
    random = np.random.default_rng(0)
    groups = [random.normal(0.3 * i, 1 + i, 8 + 3 * i) for i in range(4)]
    y = np.array([one.mean() for one in groups])
    variance = np.array([one.var(ddof=1) / len(one) for one in groups])
    found = heterogeneity_p(y, variance, np.array([len(one) - 1 for one in groups]))
    assert found == pytest.approx(f_oneway(*groups, equal_var=False).pvalue)
