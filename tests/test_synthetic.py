import io

import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from archive_server import synthetic, synthetic_vocabulary
from archive_server.drawing import draw
from archive_server.sources import SyntheticSource, source_from_text
from lesion_tasks import UnusableInputError
from lesion_tasks.archive.vocabulary import ISIC_ID
from lesion_tasks.curation.landmarks import landmarks_of, read_grey
from lesion_tasks.curation.registration import MIN_AGREEING_PLACES, n_agreeing_places
from lesion_tasks.curation.shared_landmarks import pairs_in_common


@pytest.fixture(scope="module")
def population():
    return synthetic.populate(0, 20_000)


@pytest.fixture(scope="module")
def records(population):
    table = synthetic.build_table(0, population)
    return [table.record(position) for position in range(3000)]


def loaded(n_images, seed=0, **options):
    source = SyntheticSource(n_images, seed, **options)
    source.load(n_images)
    return source


def test_the_best_possible_auc_is_about_090(population):
    is_labelled = (population.image_type == synthetic.DERMOSCOPIC) & np.isin(
        population.label, [synthetic.BENIGN, synthetic.MALIGNANT]
    )
    labels = population.label[is_labelled] == synthetic.MALIGNANT
    # 14,000 lesions behind it: the standard error is about 0.003.
    assert roc_auc_score(labels, population.latent[is_labelled]) == pytest.approx(0.90, abs=0.01)
    assert labels.mean() == pytest.approx(0.25, abs=0.01)


def test_looks_alone_say_nothing_about_malignancy(population):
    is_malignant = population.label == synthetic.MALIGNANT
    is_benign = population.label == synthetic.BENIGN
    for look in range(len(synthetic_vocabulary.LOOKS)):
        share_malignant = (population.look[is_malignant] == look).mean()
        share_benign = (population.look[is_benign] == look).mean()
        assert share_malignant == pytest.approx(share_benign, abs=0.03)


def test_simple_features_of_small_pictures_find_much_of_the_signal():
    source = loaded(400)
    population = source.population
    is_used = (
        (population.image_type == synthetic.DERMOSCOPIC) & (population.label >= 0) & (population.label != 1)
    )
    features = np.array(
        [simple_features(draw(source.scene(int(position)))) for position in np.flatnonzero(is_used)]
    )
    labels = population.label[is_used] == synthetic.MALIGNANT
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.3, max_iter=1000))
    scores = cross_val_predict(
        model,
        features,
        labels,
        groups=population.lesion[is_used],
        cv=GroupKFold(5),
        method="decision_function",
    )
    assert roc_auc_score(labels, scores) > 0.75  # 1,250 pictures give 0.84


def simple_features(picture):
    """Colour means and spreads of the middle, and how much of it differs from the skin around, at 64 x 48."""
    pixels = np.asarray(picture.resize((64, 48)), np.float32)
    skin = np.median(np.concatenate([pixels[:6].reshape(-1, 3), pixels[-6:].reshape(-1, 3)]), axis=0)
    middle = pixels[8:-8, 12:-12].reshape(-1, 3)
    is_lesion = np.abs(middle - skin).sum(axis=1) > 60
    lesion = middle[is_lesion] if is_lesion.sum() > 10 else middle
    return [
        is_lesion.mean(),
        *middle.std(axis=0),
        *np.percentile(middle, 5, axis=0),
        *lesion.mean(0),
        *lesion.std(0),
    ]


def test_a_larger_archive_begins_with_the_smaller_one():
    small, large = (synthetic.build_table(5, synthetic.populate(5, n_images)) for n_images in (300, 900))
    assert [small.record(position) for position in range(300)] == [
        large.record(position) for position in range(300)
    ]


def test_another_seed_gives_other_records():
    one, other = (synthetic.build_table(seed, synthetic.populate(seed, 20)) for seed in (1, 2))
    assert [one.record(i) for i in range(20)] != [other.record(i) for i in range(20)]


def test_ids_are_distinct_and_not_in_listing_order(records):
    isic_ids = [record["isic_id"] for record in records]
    assert len(set(isic_ids)) == len(isic_ids)
    assert all(ISIC_ID.fullmatch(isic_id) for isic_id in isic_ids)
    assert isic_ids != sorted(isic_ids)


def test_a_lesion_has_one_patient_and_some_have_several_images(records):
    patients_by_lesion, n_images_by_lesion = {}, {}
    for record in records:
        clinical = record["metadata"]["clinical"]
        if "lesion_id" in clinical:
            patients_by_lesion.setdefault(clinical["lesion_id"], set()).add(clinical.get("patient_id"))
            n_images_by_lesion[clinical["lesion_id"]] = n_images_by_lesion.get(clinical["lesion_id"], 0) + 1
    assert all(len(patients) == 1 for patients in patients_by_lesion.values())
    assert max(n_images_by_lesion.values()) >= 3


def test_metadata_is_as_incomplete_as_the_real_archive(records):
    def share(field, group="clinical"):
        return sum(field in record["metadata"][group] for record in records) / len(records)

    assert share("pixels_x", "acquisition") == 1
    assert 0.94 < share("diagnosis_1") < 0.98
    assert 0.45 < share("clin_size_long_diam_mm") < 0.65
    assert 0.75 < share("patient_id") < 0.95
    assert share("acquisition_day") < 0.5
    types = {record["metadata"]["acquisition"]["image_type"] for record in records}
    assert types == {"dermoscopic", "clinical: close-up", "TBP tile: close-up"}
    assert {record["metadata"]["clinical"].get("diagnosis_1") for record in records} == {
        *("Benign", "Indeterminate", "Malignant"),
        None,
    }


def test_the_five_classes_of_the_multiclass_task_are_all_there(records):
    kinds = {record["metadata"]["clinical"].get("diagnosis_3") for record in records}
    assert kinds >= {
        *("Nevus", "Basal cell carcinoma", "Melanoma Invasive", "Melanoma in situ", "Melanoma, NOS"),
        *("Melanoma metastasis", "Squamous cell carcinoma, Invasive", "Squamous cell carcinoma in situ"),
    }


def test_rules_of_the_vocabulary_hold(records):
    for record in records:
        acquisition, clinical = record["metadata"]["acquisition"], record["metadata"]["clinical"]
        for stem in ("diagnosis", "anatom_site"):
            given = [f"{stem}_{level}" in clinical for level in range(1, 6)]
            assert given == sorted(given, reverse=True), "a level without the one above it"
        if "mel_thick_mm" in clinical or "mel_ulcer" in clinical:
            assert clinical["diagnosis_2"] == "Malignant melanocytic proliferations (Melanoma)"
        if clinical.get("concomitant_biopsy"):
            assert clinical["diagnosis_confirm_type"] == "histopathology"
        assert "dermoscopic_type" not in acquisition or acquisition["image_type"] == "dermoscopic"
        assert "tbp_tile_type" not in clinical or acquisition["image_type"].startswith("TBP tile")
        assert clinical.get("age_approx", 0) % 5 == 0
        for field in ("clin_size_long_diam_mm", "mel_thick_mm"):
            assert len(clinical.get(field, "0.00").partition(".")[2]) == 2


def test_created_ascends_with_microseconds_and_ties_on_request():
    instants = synthetic.created_instants(0, 5000)
    assert (np.diff(instants) > 0).all()
    assert (instants % 1_000_000 != 0).mean() > 0.99
    tied = synthetic.created_instants(0, 12, tie_length=3)
    assert len(set(tied.tolist())) == 4
    assert (np.diff(tied) >= 0).all()


def test_tables_of_shares_sum_to_one():
    names = synthetic_vocabulary
    for table in (
        names.LOOKS,
        names.HOSPITALS,
        names.SIZES_PX,
        names.BENIGN_CONFIRM_TYPES,
        *names.DIAGNOSES.values(),
    ):
        assert sum(share for _, share in table) == pytest.approx(1)
    assert sum(share for _, share, _ in names.SITES) == pytest.approx(1)
    assert sum(share for _, _, share in names.SITES) == pytest.approx(1)


def test_a_picture_is_the_same_bytes_whenever_it_is_drawn():
    first, again = (loaded(30, seed=4, n_kept_files=1).file(7, "full", 0).content for _ in range(2))
    assert first == again


def test_the_first_files_are_drawn_ahead_as_many_as_are_kept():
    source = loaded(30, seed=4, n_kept_files=3)
    assert not source.has_at_hand(0, "full", 0)
    source.draw_ahead()
    assert [source.has_at_hand(position, "full", 0) for position in range(4)] == [True, True, True, False]


def test_pictures_have_the_size_that_their_record_says():
    source = loaded(12)
    table, _ = source.load(12)
    for position in range(12):
        with Image.open(io.BytesIO(source.file(position, "full", 0).content)) as picture:
            acquisition = table.record(position)["metadata"]["acquisition"]
            assert picture.size == (acquisition["pixels_x"], acquisition["pixels_y"])
            assert picture.format == "JPEG"


def test_copies_are_the_same_bytes_or_nearly_the_same_picture():
    source = loaded(2000)
    population = source.population
    copies = np.flatnonzero(population.drawn != np.arange(2000))
    identical = copies[population.is_identical[copies]]
    cropped = copies[~population.is_identical[copies]]
    assert len(identical) >= 3
    assert len(cropped) >= 20
    position = int(identical[0])
    original = source.file(int(population.drawn[position]), "full", 0).content
    assert source.file(position, "full", 0).content == original

    position = int(cropped[0])
    original = source.file(int(population.drawn[position]), "full", 0).content
    copy = source.file(position, "full", 0).content
    assert copy != original
    small = [
        np.asarray(Image.open(io.BytesIO(file)).convert("L").resize((16, 12)), float)
        for file in (original, copy)
    ]
    assert np.corrcoef(small[0].ravel(), small[1].ravel())[0, 1] > 0.8
    is_foreign = population.lesion_identity[copies] != population.lesion_identity[population.drawn[copies]]
    assert 0.2 < is_foreign.mean() < 0.8


@pytest.mark.parametrize(
    "text", ["synthetic:", "synthetic:many", "synthetic:1:2:3", "synthetic:-1", "synthetic:99999999"]
)
def test_a_wrong_synthetic_source_is_refused_by_name(text):
    with pytest.raises(UnusableInputError, match="synthetic"):
        source_from_text(text)


def test_drawn_lesions_seldom_share_landmarks():
    """As a demo's page of suspects would show them: when all networks had one mesh, many pairs did."""
    source = loaded(400)
    marks = [landmarks_of(read_grey(source.file(place, "thumbnail_256", 0).content)) for place in range(120)]
    owners = np.repeat(np.arange(len(marks), dtype=np.int32), [len(some) for some in marks])
    lesion = source.population.lesion
    alike = [
        (i, j)
        for i, j in pairs_in_common(np.concatenate(marks), owners).tolist()
        if lesion[i] != lesion[j] and n_agreeing_places(marks[i], marks[j]) >= MIN_AGREEING_PLACES
    ]
    assert len(alike) <= 10, alike
