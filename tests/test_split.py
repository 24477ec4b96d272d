"""Images -> members: who is in, who is left out and why, and that growth moves nobody."""

import itertools
from typing import Any

import pandas as pd
import pytest
from catalogue import MELANOMA, NEVUS, add_records, archive_record, labelled_records, rows_of
from hypothesis import given
from hypothesis import strategies as st

from lesion_tasks.catalog import TASKS, Split
from lesion_tasks.curate import curate_images
from lesion_tasks.grouping import QUARANTINE, SUBSETS, subset_of
from lesion_tasks.manifest import as_table, digest_of, read_manifest
from lesion_tasks.settings import Settings
from lesion_tasks.split import build_split, draw_members, judge_images
from lesion_tasks.store import open_store

TASK = TASKS["malignancy"]
NATURAL = Split(name="natural", task="malignancy")
BALANCED = Split(name="balanced", task="malignancy", max_per_class=20)


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


@given(NUMBERS)
def test_a_balanced_train_set_is_balanced_and_as_large_as_it_can_be(numbers: set[int]) -> None:
    found = assigned(mixed(numbers), BALANCED)
    eligible = dict.fromkeys(TASK.classes, 0)
    members = dict.fromkeys(TASK.classes, 0)
    for subset, label, reason in found.values():
        if subset == "train":
            eligible[label] += 1
            members[label] += reason is None
    n = min(20, *eligible.values())
    assert members == dict.fromkeys(TASK.classes, n)


@given(NUMBERS, NUMBERS)
def test_a_balanced_train_set_loses_a_member_only_to_a_newcomer_of_its_class(
    before: set[int], new: set[int]
) -> None:
    def members(numbers: set[int]) -> dict[str, set[str]]:
        found = assigned(mixed(numbers), BALANCED)
        return {
            label: {
                i
                for i, (subset, own, reason) in found.items()
                if (subset, own, reason) == ("train", label, None)
            }
            for label in TASK.classes
        }

    old, grown = members(before), members(before | new)
    for label in TASK.classes:
        assert len(grown[label]) >= len(old[label])
        newcomers = {int(isic_id[5:]) for isic_id in grown[label]} - before
        assert len(old[label] - grown[label]) <= len(newcomers)


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
    curate_images()
    digest = build_split("malignancy_natural")
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
    rows = read_manifest(open_store(settings), f"splits/malignancy_natural-{digest}.parquet")
    assert len(rows) == 200
    for subset in SUBSETS:
        assert counts[subset] == {
            label: int(((rows["subset"] == subset) & (rows["label"] == label)).sum())
            for label in TASK.classes
        }


def test_a_manifest_with_other_rows_than_its_digest_says_is_refused(settings: Settings) -> None:
    import pyarrow.parquet as pq

    from lesion_tasks import UnusableInputError

    add_records(settings, labelled_records(300))
    curate_images()
    key = f"splits/malignancy_natural-{build_split('malignancy_natural')}.parquet"
    store = open_store(settings)
    table = pq.read_table(store.local_path(key))
    pq.write_table(table.slice(1), store.local_path(key))
    with pytest.raises(UnusableInputError, match="its rows have digest"):
        read_manifest(store, key)
