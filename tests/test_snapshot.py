"""The archive's two snapshot files: read without unpacking, and believed in nothing."""

import io
import struct
import zipfile
import zlib
from datetime import UTC, datetime
from decimal import Decimal

import pyarrow
import pyarrow.parquet as parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lesion_tasks import UnusableInputError
from lesion_tasks.archive.client import OversizedError, RefusedUrlError
from lesion_tasks.archive.snapshot import Snapshot, is_snapshot, made_at, record_from_values
from lesion_tasks.archive.zipped import DamagedFileError, ZippedPictures

NAME = "images/ISIC_0000001.jpg"
ID = "ISIC_0000001"


def zipped(path, members, method=zipfile.ZIP_STORED, comment=b""):
    with zipfile.ZipFile(path, "w", method) as file:
        file.comment = comment
        for name, data in members.items():
            file.writestr(name, data)
    return ZippedPictures(path)


def table(folder, columns, metadata=None, **options):
    folder.mkdir(exist_ok=True)
    made = pyarrow.table(columns).replace_schema_metadata(metadata)
    parquet.write_table(made, folder / "ISIC_metadata.parquet", **options)
    return Snapshot(folder)


# --- The zip file -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_picture_is_read_by_its_id(tmp_path, method):
    data = bytes(range(256)) * 40
    pictures = zipped(tmp_path / "a.zip", {NAME: data, "ISIC_0000009.png": b"flat"}, method, b"a comment")

    assert len(pictures) == 2
    assert pictures.member(ID).name == NAME
    assert pictures.read(ID, max_bytes=10**6) == data
    assert pictures.read("ISIC_0000009", max_bytes=10) == b"flat"
    with pytest.raises(FileNotFoundError):
        pictures.read("ISIC_0000002", max_bytes=10)


def test_a_member_that_was_streamed_with_its_sizes_behind_it_is_read(tmp_path):
    class Unseekable(io.RawIOBase):
        def __init__(self, file):
            self.file = file

        def writable(self):
            return True

        def write(self, data):
            return self.file.write(data)

    with (tmp_path / "a.zip").open("wb") as raw, zipfile.ZipFile(Unseekable(raw), "w") as file:
        file.writestr(NAME, b"streamed")

    assert ZippedPictures(tmp_path / "a.zip").read(ID, max_bytes=100) == b"streamed"


def test_a_zip64_directory_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 1)
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 4)
    pictures = zipped(tmp_path / "a.zip", {NAME: b"first picture", "images/ISIC_0000002.jpg": b"second"})

    assert pictures.read(ID, max_bytes=100) == b"first picture"
    assert pictures.read("ISIC_0000002", max_bytes=100) == b"second"


def test_bytes_before_the_first_member_do_no_harm(tmp_path):
    zipped(tmp_path / "a.zip", {NAME: b"picture"})
    (tmp_path / "b.zip").write_bytes(b"#!/bin/sh\n" + (tmp_path / "a.zip").read_bytes())

    assert ZippedPictures(tmp_path / "b.zip").read(ID, max_bytes=100) == b"picture"


@pytest.mark.parametrize(
    "name",
    [
        "../../ISIC_0000001.jpg",
        "/images/ISIC_0000001.jpg",
        "images/../ISIC_0000001.jpg",
        "images//ISIC_0000001.jpg",
        "__MACOSX/images/ISIC_0000001.jpg",
        "images/._ISIC_0000001.jpg",
        "images/ISIC_0000001.jpg.xmp",
        "images/ISIC_0000001.jpg/x",
        "images/ISIC_1.jpg",
        "images/ISIC_0000001.exe",
        "images/isic_0000001.jpg",
        "images/ISIC_000000\u0661.jpg",
        "metadata.csv",
    ],
)
def test_a_name_that_is_no_picture_of_an_id_is_not_there(tmp_path, name):
    assert len(zipped(tmp_path / "a.zip", {name: b"x"})) == 0


@pytest.mark.parametrize(
    "name",
    [
        "images/ISIC_0000001.JPG",
        "ISIC_0000001.Jpeg",
        "ISIC_images/ISIC_0000001.jpg",
        "export/2026/images/ISIC_0000001.TIFF",
        "images\\ISIC_0000001.jpg",
    ],
)
def test_a_picture_in_any_folder_and_with_an_extension_in_either_case_is_there(tmp_path, name):
    pictures = zipped(tmp_path / "a.zip", {name: b"picture", "ISIC_images/ISIC_0000002.txt": b"x"})

    assert len(pictures) == 1
    assert pictures.read(ID, max_bytes=100) == b"picture"


def test_two_pictures_of_one_id_in_a_zip_file_are_refused_by_name(tmp_path):
    members = {NAME: b"one", "masks/ISIC_0000001.png": b"another", "images/ISIC_0000002.jpg": b"x"}

    with pytest.raises(
        UnusableInputError,
        match=r"a\.zip: found images/ISIC_0000001\.jpg and masks/ISIC_0000001\.png; expected one picture",
    ):
        zipped(tmp_path / "a.zip", members)


def test_a_small_member_that_unpacks_to_a_large_one_is_refused(tmp_path):
    pictures = zipped(tmp_path / "a.zip", {NAME: bytes(10_000_000)}, zipfile.ZIP_DEFLATED)

    with pytest.raises(OversizedError, match="10000000 bytes announced"):
        pictures.read(ID, max_bytes=1_000_000)


def test_a_member_that_unpacks_to_more_than_it_announces_is_damaged_and_not_unpacked(tmp_path):
    path = tmp_path / "a.zip"
    zipped(path, {NAME: bytes(50_000_000)}, zipfile.ZIP_DEFLATED)
    data = path.read_bytes().replace(struct.pack("<L", 50_000_000), struct.pack("<L", 10))
    path.write_bytes(data)

    with pytest.raises(DamagedFileError, match="11 bytes, 10 announced"):
        ZippedPictures(path).read(ID, max_bytes=100_000)


def test_a_member_whose_bytes_changed_is_damaged(tmp_path):
    path = tmp_path / "a.zip"
    zipped(path, {NAME: b"picture"})
    path.write_bytes(path.read_bytes().replace(b"picture", b"pictuRe"))

    with pytest.raises(DamagedFileError, match="checksum"):
        ZippedPictures(path).read(ID, max_bytes=100)


def test_a_member_packed_in_a_way_nobody_here_reads_is_damaged(tmp_path):
    pictures = zipped(tmp_path / "a.zip", {NAME: b"picture" * 100}, zipfile.ZIP_LZMA)

    with pytest.raises(DamagedFileError, match="packed by method 14"):
        pictures.read(ID, max_bytes=1_000)


@pytest.mark.parametrize("kept", [0, 10, 60, -1])
def test_a_cut_zip_file_is_named(tmp_path, kept):
    path = tmp_path / "a.zip"
    zipped(path, {NAME: b"picture"})
    path.write_bytes(path.read_bytes()[:kept])

    with pytest.raises(UnusableInputError, match=r"a\.zip: .*expected a complete zip file"):
        ZippedPictures(path)


WHOLE = io.BytesIO()
with zipfile.ZipFile(WHOLE, "w", zipfile.ZIP_DEFLATED) as _file:
    for _number in range(4):
        _file.writestr(f"images/ISIC_000000{_number}.jpg", zlib.compress(bytes(range(200))) * 3)


@settings(max_examples=1000, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=6), st.floats(0.2, 1))
def test_a_damaged_zip_file_is_refused_or_its_members_are(tmp_path_factory, damage, kept_share):
    data = bytearray(WHOLE.getvalue())
    for place, value in damage:
        data[int(place * (len(data) - 1))] = value
    path = tmp_path_factory.getbasetemp() / "damaged.zip"
    path.write_bytes(data if kept_share > 0.5 else data[: int(len(data) * kept_share * 2)])

    try:
        pictures = ZippedPictures(path)
    except UnusableInputError:
        return
    for number in range(4):
        try:
            assert len(pictures.read(f"ISIC_000000{number}", max_bytes=10_000)) <= 10_000
        except (DamagedFileError, OversizedError, FileNotFoundError) as error:
            assert str(error)


# --- The table --------------------------------------------------------------------------------------------------


def test_a_row_becomes_the_record_that_the_api_sends():
    row = {
        "isic_id": ID,
        "attribution": "A hospital",
        "copyright_license": "CC-0",
        "age_approx": 55.0,
        "pixels_x": 600,
        "image_type": "dermoscopic",
        "mel_thick_mm": 0.5,
        "clin_size_long_diam_mm": Decimal("3.5"),
        "melanocytic": True,
        "concomitant_biopsy": "False",
        "sex": None,
        "acquisition_day": float("nan"),
        "unheard_of": 7,
        "also_unheard_of": "x",
    }

    assert record_from_values(row) == {
        "isic_id": ID,
        "attribution": "A hospital",
        "copyright_license": "CC-0",
        "metadata": {
            "acquisition": {"pixels_x": 600, "image_type": "dermoscopic"},
            "clinical": {
                "age_approx": 55,
                "mel_thick_mm": "0.50",
                "clin_size_long_diam_mm": "3.50",
                "melanocytic": True,
                "concomitant_biopsy": False,
                "unheard_of": 7,
                "also_unheard_of": "x",
            },
        },
        "public": True,
    }


@pytest.mark.parametrize("first_row", [0, 1, 7, 10, 24, 25, 99])
def test_rows_are_read_from_any_row_on(tmp_path, first_row):
    ids = [f"ISIC_{number:07d}" for number in range(25)]
    snapshot = table(tmp_path / "s", {"isic_id": ids}, row_group_size=10)

    assert [record["isic_id"] for record in snapshot.records(first_row)] == ids[first_row:]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (b"2026-08-21T06:30:00+00:00", datetime(2026, 8, 21, 6, 30, tzinfo=UTC)),
        (b"2026-08-21 06:30:00", datetime(2026, 8, 21, 6, 30, tzinfo=UTC)),
        (b"2026-08-21T06:30:00Z", datetime(2026, 8, 21, 6, 30, tzinfo=UTC)),
        (b"1755757800", datetime(2025, 8, 21, 6, 30, tzinfo=UTC)),
        (None, None),
        (b"yesterday", None),
        (b"\xff", None),
        (b"9999-01-01", None),
    ],
)
def test_when_a_snapshot_was_made_is_read_and_a_time_to_come_is_not_believed(tmp_path, written, expected):
    assert made_at(written, tmp_path) == expected


def test_a_table_that_is_cut_or_has_no_ids_is_named(tmp_path):
    table(tmp_path / "s", {"isic_id": [ID]})
    path = tmp_path / "s" / "ISIC_metadata.parquet"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(
        UnusableInputError, match=r"ISIC_metadata\.parquet: .*expected a complete Parquet file"
    ):
        Snapshot(tmp_path / "s")
    with pytest.raises(UnusableInputError, match=r"found 1 columns, name; expected a column isic_id"):
        table(tmp_path / "t", {"name": ["x"]})


def test_a_table_whose_columns_would_be_mixed_up_is_refused(tmp_path):
    (tmp_path / "s").mkdir()
    doubled = pyarrow.Table.from_arrays([pyarrow.array(["x"])] * 3, ["isic_id", "lesion_id", "lesion_id"])
    parquet.write_table(doubled, tmp_path / "s" / "ISIC_metadata.parquet")
    with pytest.raises(UnusableInputError, match=r"found 2 columns 'lesion_id' \(columns 2, 3\)"):
        Snapshot(tmp_path / "s")
    with pytest.raises(UnusableInputError, match="found a column 'Lesion ID '; expected it as lesion_id"):
        table(tmp_path / "t", {"isic_id": [ID], "Lesion ID ": ["IL_0000001"]})


def test_a_url_leads_to_pictures_alone(tmp_path):
    snapshot = table(tmp_path / "s", {"isic_id": [ID]})
    zipped(tmp_path / "s" / "ISIC_images.zip", {NAME: b"picture", "metadata.csv": b"secret"})

    assert snapshot.file_of(ID) == {"url": f"zip:{NAME}", "size": 7}
    assert snapshot.file_of("../../etc/passwd") is None
    assert snapshot.read_file(f"zip:{NAME}", max_bytes=100) == b"picture"
    for url in ("zip:metadata.csv", "zip:images/../metadata.csv", "file:/etc/passwd", ""):
        with pytest.raises(RefusedUrlError):
            snapshot.read_file(url, max_bytes=100)


def test_a_snapshot_is_told_from_other_folders(tmp_path):
    assert not is_snapshot(tmp_path)
    (tmp_path / "ISIC_images.zip").touch()
    assert is_snapshot(tmp_path)
