from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from evaluation_data import binary, drawn, drawn_multiclass, multiclass
from scipy.stats import norm

from benchmarks import planted_mistakes
from lesion_tasks.evaluation.evaluation_record import cautions_of_checks
from lesion_tasks.metrics import integrity
from lesion_tasks.metrics.document import confusion_counts
from lesion_tasks.metrics.independence import independence
from lesion_tasks.metrics.known_identities import count_known
from lesion_tasks.metrics.leaks import leaks
from lesion_tasks.metrics.probes import fit_probes
from lesion_tasks.metrics.shortcut import shortcut
from lesion_tasks.metrics.threshold import choose_threshold

N_POSITIVES, N_NEGATIVES = 1_826, 46_940


@pytest.fixture(scope="module")
def paper():
    """The paper's test set, with scores of a model of AUC 0.92: what 84 % validation accuracy amounts to."""
    labels = np.repeat([1, 0], [N_POSITIVES, N_NEGATIVES])
    noise = np.random.default_rng(11).normal(size=len(labels))
    return labels, 1 / (1 + np.exp(-(2 * labels - 1 + noise)))


def test_the_papers_numbers_with_predictions_permuted_are_independent_of_the_labels(paper):
    labels, scores = paper
    permuted = binary(labels, np.random.default_rng(12).permutation(scores))
    verdict = integrity.independent_of_labels(permuted, threshold=0.5)
    assert verdict.blocks
    assert verdict.sentence.startswith("The predictions are independent of the labels")
    assert "48,766 images, 1,826 positives" in verdict.sentence
    assert verdict.numbers["low"] < 0.5 < verdict.numbers["high"]
    assert abs(verdict.numbers["tpr"] - verdict.numbers["fpr"]) < 0.04


def test_the_same_predictions_rightly_joined_depend_on_the_labels(paper):
    labels, scores = paper
    verdict = integrity.independent_of_labels(binary(labels, scores), threshold=0.5, trainer_auc=0.92)
    assert verdict.status == "passed"
    assert verdict.numbers["low"] > 0.9


def test_a_trainer_that_measured_another_auc_convicts_even_when_the_auc_is_not_one_half(paper):
    labels, scores = paper
    mixed = scores.copy()
    mixed[: N_POSITIVES // 2] = np.random.default_rng(13).permutation(scores)[: N_POSITIVES // 2]
    verdict = integrity.independent_of_labels(binary(labels, mixed), trainer_auc=0.92)
    assert verdict.blocks
    assert "trainer measured an AUC of 0.92" in verdict.sentence


def test_a_weak_model_that_the_trainer_agrees_with_is_not_said_to_be_mispaired():
    scored = drawn(60, distance=0.2)
    own = integrity.headline_auc(scored).value
    verdict = integrity.independent_of_labels(scored, trainer_auc=own)
    assert verdict.blocks  # nothing shows that it knows anything
    assert "wrong rows" not in verdict.sentence
    assert verdict.status == "too_few"


def honest(seed, n_images, n_positives, auc):
    """Images of a rare class, each its own group, scored by a model of this true AUC."""
    is_positive = np.arange(n_images) < n_positives
    latent = np.sqrt(2) * norm.ppf(auc) * is_positive + np.random.default_rng(seed).normal(size=n_images)
    return binary(is_positive, norm.cdf(latent))


@pytest.mark.parametrize(("n_positives", "auc"), [(5, 0.90), (8, 0.85)])
def test_a_sound_model_of_a_rare_class_is_called_independent_of_the_labels_by_no_chance(n_positives, auc):
    verdicts = [
        integrity.independent_of_labels(honest(seed, 200, n_positives, auc), trainer_auc=None)
        for seed in range(100)
    ]
    status = [verdict.status for verdict in verdicts]
    assert status.count("failed") == 0
    assert status.count("passed") >= 90  # an interval passed 72 of 100 with 5 positives
    undecided = next(verdict for verdict in verdicts if verdict.status == "too_few")
    assert undecided.blocks and undecided.is_undecided and not undecided.is_failure
    needed = undecided.numbers["n_images_needed"]
    assert needed > 200
    said = f"labels: there are 200, and it takes about {needed:,} such images. The AUC is"
    assert undecided.sentence.startswith("Too few images to tell whether the predictions depend on the ")
    assert said in undecided.sentence


def test_five_classes_with_one_lesion_of_the_rarest_pass():
    for seed in range(25):
        scored = drawn_multiclass(400, 5, signal=2.5, seed=seed)
        kept = scored.where((scored.labels != 4) | (scored.groups == scored.groups[scored.labels == 4][0]))
        assert len(set(kept.group_ids[kept.labels == 4])) == 1
        assert integrity.independent_of_labels(kept).status == "passed"


@pytest.mark.parametrize("likeness", [0.0, 0.7])
def test_a_model_that_knows_nothing_of_grouped_images_is_found_dependent_one_time_in_twenty(
    likeness, monkeypatch
):
    monkeypatch.setattr("lesion_tasks.metrics.independence.N_PERMUTATIONS", 199)
    n_rejected = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        groups = np.sort(rng.integers(0, 100, 300))
        # Half of the groups hold images of both classes, as a patient's do.
        labels = np.where(
            rng.random(100)[groups] < 0.5, (rng.random(100) < 0.3)[groups], rng.random(300) < 0.3
        )
        noise = np.sqrt(likeness) * rng.normal(size=100)[groups]
        scores = norm.cdf(noise + np.sqrt(1 - likeness) * rng.normal(size=300))
        n_rejected += independence(binary(labels, scores, groups)).is_rejected
    assert 1 <= n_rejected <= 22  # 10 expected, four standard errors


def test_knowledge_inside_one_patients_images_counts():
    """Forty patients with a single melanoma each: between patients there is nothing to know."""
    groups, labels = np.repeat(np.arange(40), 10), np.tile(np.arange(10) == 0, 40)
    shared = np.random.default_rng(1).normal(size=40)[groups]
    found = independence(binary(labels, norm.cdf(3 * shared + labels), groups))
    assert found.is_rejected


def test_the_stored_threshold_is_held_against_the_one_that_val_gives():
    scored = drawn(300)
    chosen = choose_threshold(scored).value
    assert integrity.threshold_differs(chosen, scored).status == "passed"
    assert integrity.threshold_differs(chosen + 0.001, scored).is_failure
    assert integrity.threshold_differs(None, scored).is_failure
    assert integrity.threshold_differs(None, drawn_multiclass(100)).status == "not_applicable"
    assert integrity.threshold_differs(0.5, drawn_multiclass(100)).is_failure


def test_labels_that_changed_since_are_a_caution_with_their_count_and_five_examples():
    manifest = {f"ISIC_{i:07d}": "benign" for i in range(10)}
    assert integrity.labels_changed(manifest, manifest).status == "passed"
    today = manifest | dict.fromkeys(list(manifest)[:7], "malignant")
    del today["ISIC_0000009"]
    verdict = integrity.labels_changed(manifest, today)
    assert verdict.status == "caution" and not verdict.blocks
    assert (
        "7 of 10 labels of test have changed since: ISIC_0000000 from benign to malignant" in verdict.sentence
    )
    assert "1 of 10 images of test are no longer in the database" in verdict.sentence
    assert len(verdict.numbers["examples"]) == 5


def test_without_positives_independence_cannot_be_asked():
    assert integrity.independent_of_labels(binary([0, 0], [0.1, 0.2])).status == "not_applicable"


def test_metadata_shifted_by_one_row_is_independent_of_the_labels():
    scored = drawn(3_000)
    assert integrity.independent_of_labels(binary(scored.labels, np.roll(scored.scores, 1))).blocks


def test_swapped_classes_are_inverted():
    scored = drawn(300)
    assert integrity.inverted(scored).status == "passed"
    verdict = integrity.inverted(binary(scored.labels, 1 - scored.scores))
    assert verdict.blocks
    assert "classes are swapped" in verdict.sentence


def test_one_swapped_pair_of_many_classes_is_inverted_and_named():
    scored = drawn_multiclass(800)
    assert integrity.inverted(scored).status == "passed"
    swapped = multiclass(scored.labels, scored.probabilities[:, [1, 0, 2, 3]])
    verdict = integrity.inverted(swapped)
    assert verdict.blocks
    assert verdict.numbers["inverted_classes"] == ["a", "b"]


def test_ids_of_another_subset_differ():
    assert integrity.ids_differ(["a", "b"], ["b", "a"]).status == "passed"
    verdict = integrity.ids_differ(["a", "b", "x"], ["a", "b", "c", "d"])
    assert verdict.blocks
    assert "1 have no manifest row, 2 manifest rows have no prediction" in verdict.sentence
    assert integrity.ids_differ(["a", "a"], ["a"]).blocks


def test_marginals_of_another_evaluation_set_differ():
    scored = drawn(200)
    confusion = confusion_counts(scored, 0.5)
    counts = scored.class_counts
    assert integrity.marginals_differ(confusion, scored.class_names, counts).status == "passed"
    verdict = integrity.marginals_differ(confusion, scored.class_names, counts | {"benign": 100})
    assert verdict.blocks
    assert f"benign {counts['benign']} instead of 100" in verdict.sentence


@pytest.mark.parametrize(
    ("n_called", "n_positives", "status"),
    [
        (1, 200, "failed"),  # 0.999 called benign
        (15, 200, "passed"),  # 0.985
        (6, 6, "passed"),  # 0.994 called benign, as many as are
        (2, 6, "failed"),  # 0.998 called benign where 0.994 are
    ],
)
def test_one_class_for_nearly_everyone_is_degenerate_unless_nearly_everyone_is_of_it(
    n_called, n_positives, status
):
    labels = np.arange(1_000) < n_positives
    scores = np.where(np.arange(1_000) < n_called, 0.9, 0.1) + np.linspace(0, 0.01, 1_000)
    assert integrity.degenerate(binary(labels, scores), threshold=0.5).status == status


def test_a_constant_score_is_degenerate_at_any_threshold():
    verdict = integrity.degenerate(binary([0, 1, 0, 1], [0.3] * 4), threshold=0.3)
    assert verdict.blocks
    assert "Every image has the same scores" in verdict.sentence


STORED = {"a": 0.25, "b": 0.5, "c": [0.75]}


@pytest.mark.parametrize(
    ("rescored", "status"),
    [
        ({"alone": {"a": 0.25}, "permuted": {"c": 0.75, "a": 0.250001}}, "passed"),
        ({"alone": {"a": 0.25}, "batch": {"a": 0.25, "b": 0.51}}, "failed"),
        ({"alone": {"a": float("nan")}}, "failed"),
        ({"alone": {"x": 0.25}}, "failed"),
        ({"alone": {}}, "not_applicable"),
        ({}, "not_applicable"),
    ],
)
def test_serving_differs_when_a_fresh_model_gives_another_probability(rescored, status):
    assert integrity.serving_differs(STORED, rescored).status == status


def test_serving_names_the_way_that_differs():
    verdict = integrity.serving_differs(STORED, {"alone": {"a": 0.25}, "batch": {"b": 0.51}})
    assert "batch by up to 0.01" in verdict.sentence
    assert "alone" not in verdict.sentence


def identities(name, **changes):
    columns = {
        "patient_id": [f"{name}P1", None, None],
        "lesion_id": [f"{name}L1", f"{name}L2", None],
        "sha256": [f"{name}1", f"{name}2", f"{name}3"],
        "perceptual_hash": [hash_of(name, 1), hash_of(name, 2), None],
    }
    return pd.DataFrame(columns | changes)


def hash_of(name, number):
    return f"{int.from_bytes((name * 8)[:8].encode()) ^ (number << 40):016x}"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"patient_id": ["aP1", None, None]}, "1 patient"),
        ({"lesion_id": ["aL2", "aL1", None]}, "2 lesions"),
        ({"sha256": ["a1", "x", "y"]}, "1 identical file"),
        ({"perceptual_hash": [hash_of("a", 2), None, None]}, "1 copied picture"),
    ],
)
def test_an_identity_on_two_sides_leaks(changes, words):
    assert leaks({"train": identities("a"), "test": identities("b")}).status == "passed"
    verdict = leaks({"train": identities("a"), "val": identities("c"), "test": identities("b", **changes)})
    assert verdict.blocks
    assert f"train and test share {words}" in verdict.sentence


def test_strangers_are_not_said_to_be_apart():
    nobody = {"patient_id": [None] * 3, "lesion_id": [None] * 3}
    verdict = leaks({"train": identities("a", **nobody), "test": identities("b", **nobody)})
    assert verdict.status == "caution" and not verdict.blocks
    assert verdict.sentence.startswith("No file or picture is in two of train, test (")
    assert "Patients and lesions are unknown: only copies of one picture" in verdict.sentence
    lesions = {"patient_id": [None] * 3}
    verdict = leaks(
        {name: identities(name, **lesions, lesion_id=[f"{name}{i}" for i in range(3)]) for name in ("a", "b")}
    )
    assert verdict.status == "passed"
    assert "No lesion, file or picture is in two of" in verdict.sentence
    assert "Patients are unknown, the lesion of every image is known: another lesion" in verdict.sentence


def test_groups_of_strangers_are_a_caution():
    scored = drawn(200)
    nobody = count_known(pd.DataFrame(index=range(200)))
    assert integrity.few_groups(scored).status == "passed"
    verdict = integrity.few_groups(scored, nobody)
    assert verdict.status == "caution"
    assert "where a patient has several images, the intervals are too narrow" in verdict.sentence
    few = integrity.few_groups(drawn(200, n_groups=3), nobody)
    assert few.status == "too_few"
    assert "groups (copies of one picture; patients and lesions are unknown), expected" in few.sentence


def test_only_equal_hashes_are_one_picture_however_they_are_written():
    hashes = np.random.default_rng(0).integers(0, 2**64, 3, dtype=np.uint64)
    written = [int(hashes[0].astype(np.int64)), f"{hashes[1]:016x}", hashes[2] ^ np.uint64(1)]
    frames = {
        "train": pd.DataFrame({"perceptual_hash": hashes}),
        "test": pd.DataFrame({"perceptual_hash": pd.Series(written, dtype=object)}),
    }
    assert leaks(frames).numbers["overlaps"]["train and test"]["perceptual_hash"] == 2


def test_without_identities_leaks_cannot_be_asked():
    frames = {"train": pd.DataFrame({"sha256": [None]}), "test": pd.DataFrame({"sha256": ["a"]})}
    assert leaks({"train": frames["train"]}).status == "not_applicable"


def camera_rows(n_images, seed):
    """Rows where the camera tells the label with AUC 0.8 or so."""
    rng = np.random.default_rng(seed)
    labels = rng.random(n_images) < 0.3
    is_dermoscopic = rng.random(n_images) < np.where(labels, 0.85, 0.25)
    return pd.DataFrame(
        {
            "isic_id": [f"ISIC_{index:07d}" for index in range(n_images)],
            "label": np.where(labels, "malignant", "benign"),
            "group_id": [f"G{index}" for index in range(n_images)],
            "image_type": np.where(is_dermoscopic, "dermoscopic", "clinical: overview"),
            "size_bytes": rng.integers(10_000, 90_000, n_images),
            "age_years": rng.choice([30.0, 50.0, np.nan], n_images),
        }
    )


@pytest.fixture(scope="module")
def camera():
    rows = camera_rows(2_000, 1)
    probes = fit_probes(
        camera_rows(3_000, 2), rows, class_names=("benign", "malignant"), positive_class="malignant"
    )
    return rows, probes


def model_of(rows, latent):
    scores = 1 / (1 + np.exp(-latent))
    return binary(rows["label"] == "malignant", scores, image_type=rows["image_type"].to_numpy())


def test_a_probe_sees_the_camera_and_nothing_in_file_sizes(camera):
    _, probes = camera
    assert integrity.headline_auc(probes["image_type_and_size"].scored).value > 0.75
    interval = integrity.headline_auc(probes["file"].scored).interval()
    assert interval.low <= 0.5 <= interval.high


def test_a_model_that_knows_the_lesion_is_no_shortcut(camera):
    rows, probes = camera
    noise = np.random.default_rng(3).normal(size=len(rows))
    model = model_of(rows, 2 * (rows["label"] == "malignant") + noise)
    verdict = shortcut(model, probes)
    assert verdict.status == "passed"
    assert "image_type_and_size 0." in verdict.sentence
    assert "fitted on" not in verdict.sentence
    # Of many train images, probes learn from some.
    of_many = shortcut(model, probes, n_images_of_train=20_000)
    assert of_many.sentence.endswith("The probes were fitted on 3,000 of 20,000 train images.")
    assert of_many.numbers["n_images_fitted"] == 3_000


@pytest.mark.parametrize("noise", [0.0, 0.1, 1.0])
def test_a_model_that_knows_only_the_camera_is_a_shortcut(camera, noise):
    rows, probes = camera
    latent = 2 * (rows["image_type"] == "dermoscopic") + noise * np.random.default_rng(4).normal(
        size=len(rows)
    )
    verdict = shortcut(model_of(rows, latent), probes)
    assert verdict.blocks
    assert "within one image type" in verdict.sentence


def test_a_probe_of_the_models_own_inputs_is_shown_and_not_judged(camera):
    rows, probes = camera
    same = binary(rows["label"] == "malignant", probes["image_type_and_size"].scored.scores)
    assert shortcut(same, {"metadata": probes["image_type_and_size"]}).is_failure
    unjudged = {"metadata": "the model is meant to use them"}
    verdict = shortcut(same, {"metadata": probes["image_type_and_size"]}, unjudged=unjudged)
    assert verdict.status == "passed"
    assert verdict.numbers["probes"]["metadata"]["is_judged"] is False
    assert "nothing was judged" in verdict.sentence
    assert "not judged: metadata 0." in verdict.sentence


def test_facts_that_are_the_label_are_asked_about_though_the_model_may_use_them(camera):
    """The diagnosis was read from the column of the sex: nobody judges that probe, and nobody may overlook it."""
    rows, probes = camera
    is_malignant = (rows["label"] == "malignant").to_numpy()
    same = replace(probes["image_type_and_size"], scored=binary(is_malignant, is_malignant.astype(float)))
    unjudged = {"metadata": "the model is meant to use them"}
    model = binary(is_malignant, norm.cdf(np.random.default_rng(5).normal(size=len(rows)) + is_malignant))
    verdict = shortcut(model, {"metadata": same}, unjudged=unjudged)
    assert verdict.status == "caution"
    assert verdict.sentence.startswith("The probe metadata (AUC 1.000) alone settles the labels")
    assert cautions_of_checks([verdict.as_dict()]) == [verdict.sentence.rstrip(".")]


@pytest.mark.parametrize("share", [0.7, 0.9])
def test_a_sound_model_is_not_convicted_by_an_institution_that_has_more_melanomas(share):
    made = planted_mistakes.honest(3, auc=0.85)
    for subset, frame in made.rows.items():
        is_malignant = made.is_malignant(subset)
        at_a = made.rng.random(len(frame)) < np.where(is_malignant, share, 1 - share)
        made.rows[subset] = frame.assign(attribution=np.where(at_a, "Hospital A", "Hospital B"))
    (verdict,) = [one for one in planted_mistakes.verdicts(made) if one.name == "shortcut"]
    assert verdict.status == "passed"
    assert verdict.numbers["probes"]["institution"]["low"] > 0.5
    assert "institution 0." in verdict.sentence


@pytest.mark.parametrize(
    "title",
    [
        "A white ruler at the edge of malignant pictures only",
        "A vignette that is deeper the likelier the lesion is malignant",
        "JPEG quality 40 for malignant, 90 for benign",
        "One institution sent the malignant lesions",
        "The institution is the class, without exception",
        "The licence goes with the class",
        "Half of the malignant pictures have a ruler, the other half another licence",
        "The size is missing for malignant lesions only, a model of metadata",
    ],
)
def test_a_shortcut_is_named(title):
    made = planted_mistakes.honest(1)
    planted_mistakes.MISTAKES[title][1](made)
    made.seal()
    failed = [one.name for one in planted_mistakes.verdicts(made) if one.is_failure]
    assert failed == ["shortcut"]


def test_what_a_shortcut_was_judged_by_and_what_not_is_said():
    made = planted_mistakes.honest(1)
    made.is_of_metadata = True
    (verdict,) = [one for one in planted_mistakes.verdicts(made) if one.name == "shortcut"]
    assert set(verdict.numbers["probes"]) == {"missing_values", "metadata"}
    assert "not judged: metadata 0." in verdict.sentence
    assert "(the model is meant to use them)" in verdict.sentence


def test_on_another_manifest_what_was_learned_from_is_held_against_its_test_rows():
    own, test = identities("a"), identities("b", sha256=["a2", "x", "y"])
    verdict = leaks({"its own train": own, "test": test}, pairs=[("its own train", "test")])
    assert verdict.is_failure
    assert verdict.sentence == "The subsets overlap: its own train and test share 1 identical file."
    # The subsets of that manifest are no concern of this training.
    apart = {"its own train": own, "train": test, "test": identities("c", sha256=["x", "z", "w"])}
    assert leaks(apart, pairs=[("its own train", "test")]).status == "passed"


def test_what_was_compared_is_counted_by_identity_and_not_by_image():
    twice = identities("a", patient_id=["p", "p", "p"], lesion_id=["l", "l", None])
    verdict = leaks({"train": twice, "test": identities("b")})
    assert "(2 patients, 3 lesions, 6 files, 4 pictures compared)" in verdict.sentence
    assert verdict.numbers["n_known"]["patient_id"] == 4


def test_what_two_manifests_share_is_compared_and_counted_once():
    shared = identities("v", isic_id=["v1", "v2", "v3"])
    sides = {"own val": shared, "val": shared, "test": identities("t", isic_id=["t1", "t2", "t3"])}
    verdict = leaks(sides | {"train": identities("x")}, pairs=[("own val", "test"), ("val", "test")])
    assert "(6 images, 2 patients, 4 lesions, 6 files, 4 pictures compared)" in verdict.sentence
    assert "The patient is known for 2 of 6 images" in verdict.sentence
    assert set(verdict.numbers["n_images"]) == {"own val", "val", "test"}


def test_pretraining_that_does_nothing_is_no_better_than_random_weights():
    model, noise = drawn(600), np.random.default_rng(5).normal(size=600)
    worse = binary(model.labels, 1 / (1 + np.exp(-(0.3 * model.labels + noise))))
    assert integrity.no_better_than_random_weights(model, worse).status == "passed"
    assert integrity.no_better_than_random_weights(model, model).blocks
    assert integrity.no_better_than_random_weights(worse, model).blocks
    assert "baseline" in integrity.no_better_than_random_weights(model, None).sentence
    from_scratch = integrity.no_better_than_random_weights(model, None, is_pretrained=False)
    assert from_scratch.status == "not_applicable" and "learns from scratch" in from_scratch.sentence


def test_a_gain_within_its_interval_is_told_and_does_not_block():
    model = drawn(60)
    slightly_worse = model.scores.copy()
    slightly_worse[[int(np.argmax(np.where(model.is_positive, model.scores, 0)))]] = 0.5
    verdict = integrity.no_better_than_random_weights(model, binary(model.labels, slightly_worse))
    assert verdict.status == "failed"
    assert not verdict.blocks


def test_validation_and_test_that_tell_different_stories_have_a_gap():
    good, weak = drawn(1_500, distance=2.5, seed=1), drawn(1_500, distance=0.8, seed=2)
    verdict = integrity.gap(good, weak)
    assert verdict.blocks
    assert "different stories" in verdict.sentence
    assert integrity.gap(good, drawn(1_500, distance=2.5, seed=3)).status == "passed"
    assert integrity.gap(None, good).status == "not_applicable"
    assert [found.name for found in (verdict, integrity.gap(None, good)) if found.blocks] == ["gap"]


def test_a_perfect_ranking_of_a_few_positives_is_not_called_a_shortcut():
    is_positive = np.arange(200) < 5
    types = np.where(np.arange(200) % 2 == 0, "dermoscopic", "clinical")
    perfect = binary(is_positive, np.where(is_positive, 0.9, 0.1), image_type=types)
    verdict = shortcut(perfect, {})
    assert verdict.numbers["within_image_type"]["low"] < 0.5
    assert verdict.numbers["within_image_type"]["is_judged"] is False
    assert verdict.status == "passed"
