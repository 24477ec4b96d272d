"""Cohorts: images that judge and never teach, what of them is taken out, and what the report says about them."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from catalogue import add_records, labelled_records, rows_of
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from lesion_tasks import UnusableInputError
from lesion_tasks.bucket import open_bucket
from lesion_tasks.catalog import COHORTS, VARIANTS, Cohort
from lesion_tasks.curation.curate import curate_images
from lesion_tasks.database.connection import engine_for
from lesion_tasks.settings import Settings
from lesion_tasks.splits.cohort_manifest import build_cohort
from lesion_tasks.splits.manifest import read_manifest
from lesion_tasks.splits.split import build_split
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
    settings: Settings,
) -> None:
    curate(settings, labelled_records(240), other_records(60))
    before = build_split(open_workspace(), SPLIT)
    placed = dict(rows_of(settings, "SELECT isic_id, subset FROM split_member"))
    declare_cohort()
    digest = build_split(open_workspace(), SPLIT)
    assert digest != before
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
    ((key, funnel),) = rows_of(settings, f"SELECT object_key, funnel FROM manifest WHERE digest = '{digest}'")
    rows = read_manifest(open_bucket(settings), key)
    assert len(rows) == 20
    assert set(rows["subset"]) == {"test"}
    assert rows["sex"].isna().all()
    assert {"step": "left out", "reason": "no_diagnosis", "n": -2} in funnel
    COHORTS["elsewhere"] = replace(COHORTS["elsewhere"], requires_sex=True)
    with pytest.raises(UnusableInputError, match="20 left out, no_sex"):
        build_cohort(workspace, "elsewhere", "malignancy")


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"query": ""}, "no condition, expected some of query"),
        ({"tasks": ("malignant",), "query": "sex:male"}, "malignant.*expected some of malignancy"),
        ({"seen_from": "June"}, "seen_from is 'June', expected a time"),
        ({"name": "a b", "query": "sex:male"}, "expected a name of lower-case letters"),
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
