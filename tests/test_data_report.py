"""The page of a manifest: complete, safe to open, and honest about what changed."""

import json
from pathlib import Path

import pyarrow.parquet as pq
from catalogue import NEVUS, add_records, archive_record, labelled_records, rows_of
from click.testing import CliRunner
from test_curate import skin_jpeg

from lesion_tasks.bucket import digest_of_file, open_bucket
from lesion_tasks.cli.command_line import lesion
from lesion_tasks.curation.curate import curate_images
from lesion_tasks.settings import Settings
from lesion_tasks.splits.croissant import _licences
from lesion_tasks.splits.data_report import page_key
from lesion_tasks.splits.exclusions import REASONS
from lesion_tasks.splits.manifest import COLUMNS
from lesion_tasks.splits.split import build_split
from lesion_tasks.workspace import open_workspace


def page_of(settings: Settings, split: str = "malignancy_natural") -> str:
    return open_bucket(settings).get(page_key(build_split(open_workspace(), split))).decode()


def test_the_page_tells_every_reason_and_needs_no_network(settings: Settings) -> None:
    records = [
        *labelled_records(300),
        archive_record("ISIC_0009001", diagnosis_1="Indeterminate", sex="male"),
        archive_record("ISIC_0009002", sex="female"),
        archive_record("ISIC_0009003", **NEVUS),
        archive_record("ISIC_0009004", **NEVUS, sex="male", image_type="clinical: close-up"),
    ]
    add_records(settings, records)
    curate_images(open_workspace())
    page = page_of(settings)
    for reason in ("indeterminate", "no_diagnosis", "no_sex", "image_type"):
        assert reason.replace("_", " ") in page
        assert REASONS[reason] in page
    assert "default-src &#39;none&#39;" in page or "default-src 'none'" in page
    for address in ("http://", "https://", "<script", 'src="/'):
        assert address not in page
    # What the archive sends is shown, not run.
    assert "Test &lt;b&gt;Hospital&lt;/b&gt;" in page


def test_the_page_shows_copies_with_their_pictures(settings: Settings) -> None:
    add_records(settings, labelled_records(300))
    records = [
        archive_record(f"ISIC_000900{i}", lesion_id=f"IL_000900{i}", sex="male", **NEVUS) for i in (1, 2)
    ]
    pictures = {f"ISIC_000900{i}": skin_jpeg(1, quality) for i, quality in ((1, 95), (2, 70))}
    add_records(settings, records, picture_by_id=pictures, hashed=True)
    curate_images(open_workspace())
    page = page_of(settings)
    assert "1 pair of pictures with different patient and lesion ids show the same thing" in page
    assert page.count("data:image/jpeg;base64,") == 2


def test_the_page_tells_what_changed_since_the_manifest_before(settings: Settings) -> None:
    add_records(settings, labelled_records(300))
    curate_images(open_workspace())
    assert "This is the first manifest of the split" in page_of(settings)
    add_records(settings, labelled_records(30, first=1_001))
    curate_images(open_workspace())
    page = page_of(settings)
    assert '<th scope="row">New in the manifest</th><td class="num">30</td>' in page
    assert '<th scope="row">In another subset</th><td class="num">0</td>' in page
    assert '<th scope="row">Same subset and label</th><td class="num">300</td>' in page


def test_the_page_shows_what_stands_in_for_missing_values(settings: Settings) -> None:
    add_records(settings, labelled_records(300))
    curate_images(open_workspace())
    ((n, overall),) = rows_of(
        settings, "SELECT count(*) FILTER (WHERE size_mm IS NULL), avg(size_mm) FROM image"
    )
    page = page_of(settings)
    ((train,),) = rows_of(
        settings,
        "SELECT avg(size_mm) FROM image JOIN split_member USING (isic_id) WHERE subset = 'train'",
    )
    assert (
        f'<td class="num">{n}</td><td class="num">{train:.2f}</td><td class="num">{overall:.2f}</td>' in page
    )


def test_a_leaking_recipe_says_so_on_its_page(settings: Settings) -> None:
    add_records(settings, labelled_records(300))
    curate_images(open_workspace())
    assert "leaks deliberately" in page_of(settings, "malignancy_balanced_5000_paper_imputation")
    assert "leaks deliberately" not in page_of(settings, "malignancy_balanced_5000")


def test_a_manifest_is_described_column_by_column_with_its_licences(
    settings: Settings, tmp_path: Path
) -> None:
    add_records(settings, labelled_records(300))
    curate_images(open_workspace())
    digest = build_split(open_workspace(), "malignancy_natural")
    done = CliRunner().invoke(lesion, ["croissant", "malignancy_natural", "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    said = json.loads((tmp_path / "out" / "croissant.json").read_text())
    (file,), (records,) = said["distribution"], said["recordSet"]
    path = tmp_path / "out" / file["contentUrl"]
    assert file["sha256"] == digest_of_file(path)
    assert digest in path.name
    columns = [field["source"]["extract"]["column"] for field in records["field"]]
    assert columns == pq.read_schema(path).names == list(COLUMNS)
    assert all(field["description"] != field["name"] for field in records["field"])
    assert said["license"] == ["https://creativecommons.org/publicdomain/zero/1.0/"]
    assert [one["name"] for one in said["creator"]] == ["Test <b>Hospital</b>"]


def test_rows_without_a_licence_are_said_to_have_an_unknown_one():
    assert _licences(["CC-BY", None, ""]) == ["https://creativecommons.org/licenses/by/4.0/", "unknown"]
