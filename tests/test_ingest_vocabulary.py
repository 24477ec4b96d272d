import csv

import pytest

from lesion_tasks.ingest.append import append_records
from lesion_tasks.ingest.vocabulary_check import check_vocabulary
from lesion_tasks.workspace import open_workspace


@pytest.fixture
def table(settings, tmp_path):
    path = tmp_path / "metadata.csv"
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows(
            [
                ["isic_id", "image_type", "sex", "anatom_site_general", "anatom_site_1", "iddx_full"],
                ["ISIC_0000001", "dermoscopic", "male", "anterior torso", "Trunk", ""],
                ["ISIC_0000002", "dermoscopic", "female", "", "Trunk", "Benign"],
                ["ISIC_0000003", "dermoscopic", "unknown", "", "", ""],
            ]
        )
    return str(path)


def test_unknown_fields_are_kept_and_counted(table):
    append_records(open_workspace(), source=table, query="")

    found = check_vocabulary(open_workspace(), source=table, query="")

    assert found["records"] == 3
    assert found["unknown_fields"] == {"iddx_full": 1}


def test_values_are_held_against_the_published_rules(table):
    append_records(open_workspace(), source=table, query="")

    found = check_vocabulary(open_workspace(), source=table, query="")

    assert found["records_with_findings"] == 2
    assert [rule.split(":")[0] for rule in found["rules"]] == ["sex is 'unknown'"]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"anatom_site_1": "Lower extremity", "anatom_site_2": "Foot"}, None),
        ({"anatom_site_1": "Lower extremity", "anatom_site_special": "acral palms or soles"}, None),
        ({"anatom_site_general": "lower extremity", "anatom_site_special": "acral palms or soles"}, None),
        ({"anatom_site_1": "Trunk", "anatom_site_general": "anterior torso"}, None),
        ({"anatom_site_1": "Torso"}, "anatom_site"),
        ({"anatom_site_1": "Trunk", "anatom_site_2": "Foot"}, "anatom_site"),
        ({"anatom_site_general": "foot"}, "anatom_site_general"),
        ({"diagnosis_1": "Benign", "diagnosis_2": "Nevus"}, "diagnosis"),
        ({"age_approx": 55, "mel_thick_mm": "0.50"}, "mel_thick_mm"),
    ],
)
def test_both_generations_of_sites_and_the_taxonomy_are_known(settings, tmp_path, fields, field):
    path = tmp_path / "metadata.csv"
    path.write_text(
        ",".join(["isic_id", *fields]) + "\n" + ",".join(["ISIC_0000001", *map(str, fields.values())])
    )
    append_records(open_workspace(), source=str(path), query="")

    found = check_vocabulary(open_workspace(), source=str(path), query="")

    assert found["unknown_fields"] == {}
    assert [field in rule for rule in found["rules"]] == ([True] if field else [])
