"""Images -> members: who is in, who is left out and why, and that growth moves nobody."""

import contextlib
import itertools
import re
from typing import Any

import numpy as np
import pandas as pd
import pytest
from catalogue import MELANOMA, NEVUS, add_records, archive_record, labelled_records, rows_of
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from lesion_tasks import UnusableInputError
from lesion_tasks.bucket import open_bucket
from lesion_tasks.catalog import SPLITS, TASKS, Split, Task
from lesion_tasks.cli.command_line import lesion
from lesion_tasks.curation.curate import curate_images
from lesion_tasks.database.connection import engine_for
from lesion_tasks.metrics.auc import measure_auc
from lesion_tasks.metrics.needed_auc import needed_auc
from lesion_tasks.settings import Settings
from lesion_tasks.splits.balance import draw_members
from lesion_tasks.splits.manifest import as_table, digest_of, read_manifest
from lesion_tasks.splits.manifest_checks import check_manifest
from lesion_tasks.splits.members import judge_images
from lesion_tasks.splits.split import build_split
from lesion_tasks.splits.subset_or_quarantine import QUARANTINE, SUBSETS, subset_of, unit_interval
from lesion_tasks.workspace import open_workspace

TASK = TASKS["malignancy"]
NATURAL = Split(name="natural", task="malignancy")
BALANCED = Split(name="balanced", task="malignancy", max_per_class=20)
UNLIMITED = Split(name="unlimited", task="malignancy", max_per_class=1_000_000)


def test_a_test_set_too_small_to_judge_by_is_named_with_what_helps(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    add_records(settings, labelled_records(160))
    curate_images(open_workspace())
    build_split(open_workspace(), "malignancy_natural")
    said = next(one for one in caplog.messages if "test has" in one)
    assert "1 group (lesions; patients are unknown) of malignant; below 10 figures have no interval" in said
    assert "Its share is 0.15: a task of your own may hold out more" in said


def test_a_split_that_cannot_be_built_withholds_no_other(settings: Settings) -> None:
    add_records(settings, labelled_records(300))
    curate_images(open_workspace())
    found = CliRunner().invoke(lesion, ["split", "five_classes_natural", "malignancy_natural"])
    assert isinstance(found.exception, UnusableInputError)
    assert "split 'five_classes_natural': subset train has" in str(found.exception)
    ((digest,),) = rows_of(settings, "SELECT digest FROM manifest")
    assert f'"malignancy_natural": "{digest}"' in found.output


def test_splits_that_cannot_be_built_are_told_in_full(
    monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    """A long message is cut in the middle, and what stood there was of the second of three splits."""

    def refuse(_: Any, name: str, **__: Any) -> str:
        raise UnusableInputError(f"split {name!r}: " + "x" * 900)

    monkeypatch.setattr("lesion_tasks.splits.split.build_split", refuse)
    names = ["five_classes_balanced", "five_classes_natural", "malignancy_natural"]
    found = CliRunner().invoke(lesion, ["split", *names])
    assert all(f"split {name!r}: xxx" in found.output for name in names)
    assert str(found.exception) == f"not built: {', '.join(names)}"


def test_a_test_set_on_which_only_the_best_could_be_promoted_is_named_with_what_it_takes(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    records = labelled_records(300)
    for record in records:
        del record["metadata"]["clinical"]["lesion_id"]
    add_records(settings, records)
    curate_images(open_workspace())
    assert "curate: patients and lesions are unknown: only copies of one picture" in caplog.text
    digest = build_split(open_workspace(), "malignancy_natural")
    said = next(one for one in caplog.messages if "test has" in one)
    assert "groups (copies of one picture; patients and lesions are unknown): to become the first" in said
    assert re.search(
        r"a model needs an AUC of about 0\.[89]\d here, for an interval from so few groups to begin at 0\.70",
        said,
    )
    assert "malignancy_natural: patients and lesions are unknown: only copies of one picture" in caplog.text
    page = open_workspace().bucket.get(f"reports/data/{digest}.html").decode()
    assert "In these data, patients and lesions are unknown" in page


@pytest.mark.parametrize(("n_groups", "auc"), [((22, 19), 0.87), ((50, 50), 0.8), ((69, 45), 0.8)])
def test_the_auc_that_a_test_set_asks_for_is_that_of_the_interval(
    n_groups: tuple[int, int], auc: float
) -> None:
    """Against the intervals of drawn scores of such a model: half of them begin at the floor."""
    rng = np.random.default_rng(0)
    is_positive = np.arange(sum(n_groups)) >= n_groups[0]
    groups = np.arange(len(is_positive))
    lows = []
    for _ in range(300):
        scores = rng.normal(size=len(is_positive)) + is_positive * norm.ppf(auc) * 2**0.5
        measured = measure_auc(is_positive, scores, groups)
        assert measured is not None
        lows.append(measured.interval().low)
    needed = needed_auc(float(np.median(lows)), *n_groups)
    assert needed is not None and abs(needed - auc) <= 0.02
    assert needed_auc(0.7, 1, 40) is None


def image(number: int, **known: Any) -> dict[str, Any]:
    """A row of `image` as the split step reads it; benign unless it says otherwise."""
    isic_id = f"ISIC_{number:07d}"
    row = {
        "isic_id": isic_id,
        "group_id": isic_id,
        "atom_id": isic_id,
        "patient_id": None,
        "lesion_id": None,
        "diagnosis": list(NEVUS.values()),
        "sha256": f"{number:064x}",
        "object_key": f"images/{isic_id}.jpg",
        "perceptual_hash": number,
        "size_bytes": 1,
        "width_px": 4,
        "height_px": 3,
        "image_type": "dermoscopic",
        "image_manipulation": None,
        "sex": "male",
        "age_years": 50.0,
        "size_mm": float("nan"),
        "anatom_site": None,
        "fitzpatrick_skin_type": None,
        "diagnosis_confirm_type": None,
        "attribution": None,
        "copyright_license": "CC-0",
        "record_version": 1,
    }
    return row | known


def melanoma(number: int, **known: Any) -> dict[str, Any]:
    return image(number, diagnosis=list(MELANOMA.values()), **known)


def assign(images: list[dict[str, Any]], split: Split) -> pd.DataFrame:
    """Judge and draw: isic_id, group_subset, label, reason."""
    members = judge_images(pd.DataFrame(images), TASK)
    eligible = members[members["reason"].isna()].rename(columns={"group_subset": "subset"})
    drawn = draw_members(eligible[["isic_id", "subset", "label"]], split, TASK)
    left = set(drawn.loc[~drawn["is_member"].astype(bool), "isic_id"])
    balanced = set(drawn.loc[drawn["is_balanced"].astype(bool), "isic_id"])
    members.loc[members["isic_id"].isin(left), "reason"] = "beyond_balance"
    return members.assign(is_balanced=members["isic_id"].isin(balanced))


def assigned(images: list[dict[str, Any]], split: Split = NATURAL) -> dict[str, tuple[Any, ...]]:
    members = assign(images, split)
    return {row.isic_id: (row.group_subset, row.label, row.reason) for row in members.itertuples(index=False)}


def digest(images: list[dict[str, Any]], split: Split) -> str:
    members = assign(images, split).rename(columns={"group_subset": "subset"})
    rows = pd.DataFrame(images).merge(
        members.loc[members["reason"].isna(), ["isic_id", "subset", "label", "is_balanced"]], on="isic_id"
    )
    return digest_of({}, as_table(rows))


@pytest.mark.parametrize(
    ("known", "reason"),
    [
        ({}, None),
        ({"image_type": "TBP tile: close-up"}, "image_type"),
        ({"image_type": None}, "image_type"),
        ({"image_manipulation": "synthetic"}, "image_manipulation"),
        ({"image_manipulation": "instrument only"}, None),
        ({"diagnosis": []}, "no_diagnosis"),
        ({"diagnosis": ["Indeterminate", "Indeterminate epidermal proliferations"]}, "indeterminate"),
        ({"diagnosis": ["Something new"]}, "diagnosis_not_in_task"),
        ({"sex": None}, "no_sex"),
    ],
)
def test_an_image_that_is_left_out_has_its_reason(known: dict[str, Any], reason: str | None) -> None:
    found = assigned([image(i) for i in range(1, 40)] + [image(99, **known)])
    assert found["ISIC_0000099"][2] == reason


def test_a_group_whose_parts_hash_to_different_subsets_is_quarantined() -> None:
    def subset(number: int) -> str:
        return subset_of(
            f"ISIC_{number:07d}", salt=TASK.salt, val_share=TASK.val_share, test_share=TASK.test_share
        )

    first = 1
    other = next(n for n in range(2, 100) if subset(n) != subset(first))
    alike = next(n for n in range(2, 100) if subset(n) == subset(first))
    found = assigned([image(first, group_id="g"), image(other, group_id="g")])
    assert {entry[0] for entry in found.values()} == {QUARANTINE}
    assert {entry[2] for entry in found.values()} == {"quarantined"}
    found = assigned([image(first, group_id="g"), image(alike, group_id="g")])
    assert {entry[0] for entry in found.values()} == {subset(first)}


NUMBERS = st.sets(st.integers(1, 400), min_size=30, max_size=150)


def mixed(numbers: set[int]) -> list[dict[str, Any]]:
    return [melanoma(n) if n % 3 == 0 else image(n) for n in sorted(numbers)]


@given(NUMBERS, NUMBERS)
def test_growth_moves_nobody(before: set[int], new: set[int]) -> None:
    old, grown = assigned(mixed(before)), assigned(mixed(before | new))
    assert all(grown[isic_id][0] == entry[0] for isic_id, entry in old.items())


def drawn(numbers: set[int], split: Split = BALANCED) -> dict[tuple[str, str], set[str]]:
    """The balanced draw of every subset: ids by subset and class."""
    members = assign(mixed(numbers), split)
    members = members[members["is_balanced"]]
    return {
        (subset, label): set(
            members.loc[(members["group_subset"] == subset) & (members["label"] == label), "isic_id"]
        )
        for subset in SUBSETS
        for label in TASK.classes
    }


def eligible(numbers: set[int]) -> dict[tuple[str, str], set[str]]:
    found: dict[tuple[str, str], set[str]] = {(s, c): set() for s in SUBSETS for c in TASK.classes}
    for isic_id, (subset, label, _) in assigned(mixed(numbers)).items():
        found[subset, label].add(isic_id)
    return found


@given(NUMBERS)
def test_balanced_sets_are_balanced_and_as_large_as_they_can_be(numbers: set[int]) -> None:
    whole, draw = eligible(numbers), drawn(numbers)
    for subset in SUBSETS:
        n = min(len(whole[subset, label]) for label in TASK.classes)
        n = n if subset == "test" else min(n, BALANCED.max_per_class or n)
        assert [len(draw[subset, label]) for label in TASK.classes] == [n, n]


@given(NUMBERS, NUMBERS)
def test_balanced_sets_only_grow_and_give_a_place_only_to_a_newcomer_with_a_lower_hash(
    before: set[int], new: set[int]
) -> None:
    def place(isic_id: str) -> float:
        return unit_interval(f"{TASK.salt}:draw", isic_id)

    old, grown, known = drawn(before), drawn(before | new), eligible(before)
    for key in old:
        assert len(grown[key]) >= len(old[key])
        lost, newcomers = old[key] - grown[key], grown[key] - known[key]
        assert len(lost) <= len(newcomers)
        assert all(place(i) > place(j) for i in lost for j in newcomers)


@given(NUMBERS, NUMBERS)
def test_a_class_without_newcomers_keeps_every_drawn_image(before: set[int], new: set[int]) -> None:
    old, grown = drawn(before), drawn(before | {n for n in new if n % 3 == 0})  # malignant ones
    for subset in SUBSETS:
        assert old[subset, "benign"] <= grown[subset, "benign"]


@given(NUMBERS, NUMBERS)
def test_without_a_limit_the_rarest_class_keeps_every_drawn_image(before: set[int], new: set[int]) -> None:
    old, grown, whole = drawn(before, UNLIMITED), drawn(before | new, UNLIMITED), eligible(before | new)
    for subset in SUBSETS:
        rarest = min(TASK.classes, key=lambda label: len(whole[subset, label]))
        assert old[subset, rarest] <= grown[subset, rarest]


def test_a_smaller_balanced_set_is_part_of_a_larger_one() -> None:
    images = mixed(set(range(1, 400)))
    sets = [
        {
            i
            for i, entry in assigned(images, Split(name="s", task="malignancy", max_per_class=n)).items()
            if not entry[2]
        }
        for n in (5, 20, 60, 1_000_000)
    ]
    for small, large in itertools.pairwise(sets):
        assert small < large


@given(NUMBERS, st.randoms(use_true_random=False))
def test_the_digest_does_not_depend_on_the_order_of_rows(numbers: set[int], random: Any) -> None:
    rows = mixed(numbers)
    shuffled = rows.copy()
    random.shuffle(shuffled)
    assert digest(rows, BALANCED) == digest(shuffled, BALANCED)


@pytest.mark.parametrize(
    "change",
    [
        {"sha256": "f" * 64},
        {"age_years": None},
        {"size_mm": 0.0},
        {"attribution": ""},
        {"patient_id": "IP_1"},
    ],
)
def test_another_value_in_one_row_gives_another_digest(change: dict[str, Any]) -> None:
    rows = mixed(set(range(1, 60)))
    changed = [{**row, **change} if row["isic_id"] == "ISIC_0000007" else row for row in rows]
    assert digest(rows, NATURAL) != digest(changed, NATURAL)


def test_text_that_moves_from_one_row_to_the_next_gives_another_digest() -> None:
    rows = mixed(set(range(1, 60)))
    one = [{**row, "attribution": {0: "ab", 1: "c"}.get(i)} for i, row in enumerate(rows)]
    other = [{**row, "attribution": {0: "a", 1: "bc"}.get(i)} for i, row in enumerate(rows)]
    assert digest(one, NATURAL) != digest(other, NATURAL)


def test_every_record_is_accounted_for_in_the_funnel(settings: Settings) -> None:
    records = [
        *labelled_records(200),
        archive_record("ISIC_0009001", diagnosis_1="Indeterminate", sex="male"),
        archive_record("ISIC_0009002", sex="female"),
        archive_record("ISIC_0009003", **NEVUS),
        archive_record("ISIC_0009004", **NEVUS, sex="male", image_type="clinical: close-up"),
        archive_record("ISIC_0009005", **NEVUS, sex="male"),
    ]
    add_records(settings, records, picture_by_id={"ISIC_0009005": b""})
    curate_images(open_workspace())
    digest = build_split(open_workspace(), "malignancy_natural")
    ((funnel, counts),) = rows_of(settings, "SELECT funnel, class_counts FROM manifest")
    left_out = {step["reason"]: step["n"] for step in funnel if "reason" in step}
    assert left_out == {
        "no_file": -1,
        "indeterminate": -1,
        "no_diagnosis": -1,
        "no_sex": -1,
        "image_type": -1,
    }
    by_step = {step["step"]: step["n"] for step in funnel}
    assert by_step["records"] == 205
    assert by_step["images"] == 204
    assert sum(by_step[subset] for subset in SUBSETS) == 200
    rows = read_manifest(open_bucket(settings), f"splits/malignancy_natural-{digest}.parquet")
    assert len(rows) == 200
    for subset in SUBSETS:
        assert counts[subset] == {
            label: int(((rows["subset"] == subset) & (rows["label"] == label)).sum())
            for label in TASK.classes
        }


def test_a_manifest_with_other_rows_than_its_digest_says_is_refused(settings: Settings) -> None:
    import pyarrow.parquet as pq

    add_records(settings, labelled_records(300))
    curate_images(open_workspace())
    key = f"splits/malignancy_natural-{build_split(open_workspace(), 'malignancy_natural')}.parquet"
    bucket = open_bucket(settings)
    table = pq.read_table(bucket.local_path(key))
    pq.write_table(table.slice(1), bucket.local_path(key))
    with pytest.raises(UnusableInputError, match="its rows have digest"):
        read_manifest(bucket, key)


def places(settings: Settings, split: str = "malignancy_natural") -> dict[str, str]:
    """Where every image of the catalogue stands: a subset, or the reason why in none."""
    query = f"SELECT isic_id, coalesce(reason, subset) FROM split_member WHERE split = '{split}'"
    return dict(rows_of(settings, query))


def subset_if_drawn(identity: str) -> str:
    return subset_of(identity, salt=TASK.salt, val_share=TASK.val_share, test_share=TASK.test_share)


def identity_of(subset: str, form: str, *, first: int = 1) -> str:
    """The first identity of a form such as IP_{:07d} whose hash falls into a subset."""
    numbers = range(first, first + 1_000)
    return next(form.format(n) for n in numbers if subset_if_drawn(form.format(n)) == subset)


def test_a_test_image_whose_patient_becomes_known_never_moves_to_train(settings: Settings) -> None:
    add_records(settings, labelled_records(300))
    stays, meets = (identity_of(subset, "ISIC_{:07d}", first=9001) for subset in ("test", "train"))
    also = identity_of("test", "ISIC_{:07d}", first=int(stays[5:]) + 1)
    add_records(settings, [archive_record(i, sex="male", **NEVUS) for i in (stays, also, meets)])
    curate_images(open_workspace())
    build_split(open_workspace(), "malignancy_natural")
    before = places(settings)
    assert [before[i] for i in (stays, also, meets)] == ["test", "test", "train"]

    # Two of one patient, both in test, and their patient's own hash says train: they stay.
    patient = identity_of("train", "IP_{:07d}")
    edited = [archive_record(i, sex="male", patient_id=patient, **NEVUS) for i in (stays, also)]
    add_records(settings, edited, version=2)
    curate_images(open_workspace())
    for split in ("malignancy_natural", "malignancy_balanced_5000"):  # one was built before, one was not
        build_split(open_workspace(), split)
        assert [places(settings, split)[i] for i in (stays, also)] == ["test", "test"]

    # A third one was in train: on either side it would leak.
    add_records(settings, [archive_record(meets, sex="male", patient_id=patient, **NEVUS)], version=2)
    curate_images(open_workspace())
    build_split(open_workspace(), "malignancy_natural")
    after = places(settings)
    assert [after[i] for i in (stays, also, meets)] == ["quarantined"] * 3
    assert {i: after[i] for i in before if i not in (stays, also, meets)} == {
        i: place for i, place in before.items() if i not in (stays, also, meets)
    }


def test_members_kept_up_to_date_are_those_of_a_split_built_from_nothing(settings: Settings) -> None:
    generator = np.random.default_rng(0)
    add_records(settings, labelled_records(300))
    curate_images(open_workspace())
    build_split(open_workspace(), "malignancy_balanced_5000")
    for day in range(3):
        add_records(settings, labelled_records(20, first=1_001 + 20 * day))
        for i in generator.choice(300, 6, replace=False).tolist():
            edited = archive_record(
                f"ISIC_{i + 1:07d}", sex="male", lesion_id=f"IL_{(i + 1) // 2:07d}", **MELANOMA
            )
            with contextlib.suppress(IntegrityError):  # edited on an earlier day
                add_records(settings, [edited], version=2)
        with engine_for(settings.database_url or "").begin() as connection:
            connection.execute(
                text("UPDATE record SET withdrawn_at = now() WHERE isic_id = :id"),
                {"id": f"ISIC_{7 + day:07d}"},
            )
        curate_images(open_workspace())
        digest = build_split(open_workspace(), "malignancy_balanced_5000")
        kept = rows_of(settings, "SELECT * FROM split_member ORDER BY isic_id")
        groups = rows_of(settings, "SELECT * FROM group_subset ORDER BY group_id")
        with engine_for(settings.database_url or "").begin() as connection:
            connection.execute(text("DELETE FROM split_state"))
        assert build_split(open_workspace(), "malignancy_balanced_5000") == digest
        assert rows_of(settings, "SELECT * FROM split_member ORDER BY isic_id") == kept
        assert rows_of(settings, "SELECT * FROM group_subset ORDER BY group_id") == groups


def test_no_split_is_built_from_half_a_curation(settings: Settings) -> None:
    add_records(settings, labelled_records(300))
    curate_images(open_workspace())
    with engine_for(settings.database_url or "").begin() as connection:
        connection.execute(text("INSERT INTO ungrouped (isic_id) VALUES ('ISIC_0000001')"))
    with pytest.raises(UnusableInputError, match="1 images have no group yet"):
        build_split(open_workspace(), "malignancy_natural")


def test_the_papers_imputation_takes_the_mean_over_all_images(settings: Settings) -> None:
    add_records(settings, labelled_records(300))
    curate_images(open_workspace())
    bucket = open_bucket(settings)
    frames = {}
    for name in ("malignancy_balanced_5000", "malignancy_balanced_5000_paper_imputation"):
        frames[name] = read_manifest(bucket, f"splits/{name}-{build_split(open_workspace(), name)}.parquet")
    honest, papers = frames.values()
    is_missing = honest["size_mm"].isna()
    assert is_missing.any()
    assert papers.loc[is_missing, "size_mm"].unique() == pytest.approx([honest["size_mm"].mean()])
    assert papers.loc[~is_missing, "size_mm"].equals(honest.loc[~is_missing, "size_mm"])
    assert SPLITS["malignancy_balanced_5000_paper_imputation"].is_leaking
    assert not SPLITS["malignancy_balanced_5000"].is_leaking


def manifest_table(numbers: set[int], change: dict[str, Any] | None = None, row: int = 3) -> Any:
    images = mixed(numbers)
    members = assign(images, NATURAL).rename(columns={"group_subset": "subset"})
    frame = pd.DataFrame(images).merge(
        members.loc[members["reason"].isna(), ["isic_id", "subset", "label", "is_balanced"]], on="isic_id"
    )
    for column, value in (change or {}).items():
        frame[column] = frame[column].astype(object)
        frame.loc[row, column] = value
    return as_table(frame)


@pytest.mark.parametrize(
    ("change", "objection"),
    [
        ({}, None),
        (
            {"isic_id": "ISIC_0000001"},
            r"expected each value once \(isic_id\): ISIC_0000001 has 'ISIC_0000001', ISIC_0000001",
        ),
        ({"isic_id": "../x"}, r"expected ISIC_ and 7 digits, or namespace.name \(isic_id\): \.\./x has"),
        ({"label": "unclear"}, r"expected one of benign, malignant \(label\): ISIC_\d{7} has 'unclear'"),
        ({"subset": "all"}, r"expected one of train, val, test \(subset\): ISIC_\d{7} has 'all'"),
        ({"sex": None}, r"expected a value \(sex\): ISIC_\d{7} has nan"),
        (
            {"image_type": "overview"},
            r"expected one of dermoscopic \(image_type\): ISIC_\d{7} has 'overview'",
        ),
        ({"age_years": 400.0}, r"expected 0 to 120 \(age_years\): ISIC_\d{7} has 400"),
        ({"sha256": "xyz"}, r"expected 64 hexadecimal digits \(sha256\): ISIC_\d{7} has 'xyz'"),
        ({"sha256": f"{1:064x}", "subset": "test"}, r"expected one subset for each sha256: ISIC_\d{7}"),
        (
            {"group_id": "ISIC_0000001", "subset": "test"},
            r"expected one subset for each group_id: ISIC_\d{7}",
        ),
        ({"age_years": 400.0, "sex": "x"}, r"\(sex\): .*; expected 0 to 120 \(age_years\): "),
        ({"is_balanced": True}, "the same number of each class"),
    ],
)
def test_a_broken_promise_stops_a_manifest(change: dict[str, Any], objection: str | None) -> None:
    images = manifest_table(set(range(1, 400)))
    assert images["subset"][0].as_py() == "val"
    row = next(
        i
        for i in range(3, 399)
        if images["subset"][i].as_py() != "train" and not images["is_balanced"][i].as_py()
    )
    table = manifest_table(set(range(1, 400)), change, row)
    if objection is None:
        check_manifest(table, NATURAL, TASK)
        return
    with pytest.raises(UnusableInputError, match=objection):
        check_manifest(table, NATURAL, TASK)


def test_a_draw_that_is_none_of_chance_is_refused() -> None:
    table = manifest_table(set(range(1, 400)))
    crooked = Task(**{**vars(TASK), "test_share": 0.6})
    with pytest.raises(UnusableInputError, match=r"test holds .* of the groups with benign, expected 60.0 %"):
        check_manifest(table, NATURAL, crooked)
