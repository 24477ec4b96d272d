import csv

import pytest

from lesion_tasks.ingest import append_records, check_vocabulary


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
    append_records(source=table, query="")

    found = check_vocabulary(source=table, query="")

    assert found["records"] == 3
    assert found["unknown_fields"] == {"iddx_full": 1}


def test_values_are_held_against_the_published_rules(table):
    pytest.importorskip("isic_metadata")
    append_records(source=table, query="")

    found = check_vocabulary(source=table, query="")

    assert found["records_with_findings"] == 2
    assert [rule.split(":")[0] for rule in found["rules"]] == ["sex"]
