from itertools import pairwise

import pytest
from PIL import Image

from lesion_tasks import UnusableInputError
from lesion_tasks.archive.folder import open_folder, read_records, row_instant


def write_folder(root, rows, images=(), images_folder="."):
    (root / images_folder).mkdir(parents=True, exist_ok=True)
    (root / "metadata.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    for name in images:
        Image.new("RGB", (40, 30)).save(root / images_folder / name)
    return root


def test_both_layouts_give_the_same_records(tmp_path):
    rows = ["isic_id,copyright_license,sex", "ISIC_0000001,CC-0,male"]
    snapshot = open_folder(write_folder(tmp_path / "a", rows, ["ISIC_0000001.jpg"], "images"))
    flat = open_folder(write_folder(tmp_path / "b", rows, ["ISIC_0000001.jpg"]))
    assert (snapshot.layout, flat.layout) == ("snapshot", "isic-cli")
    assert list(read_records(snapshot)) == list(read_records(flat))
    assert snapshot.path_of("ISIC_0000001") == tmp_path / "a" / "images" / "ISIC_0000001.jpg"
    assert flat.path_of("ISIC_0000001") == tmp_path / "b" / "ISIC_0000001.jpg"


def test_a_row_becomes_the_nested_typed_record_of_the_api(tmp_path):
    rows = [
        "isic_id,attribution,copyright_license,age_approx,clin_size_long_diam_mm,image_type,melanocytic,pixels_x,"
        "anatom_site_general,sex,mel_mitotic_index",
        'ISIC_0000001,"Clínic, Exemple",CC-BY,55.0,3.5,dermoscopic,True,600,lower extremity,,<1/mm^2',
    ]
    folder = open_folder(write_folder(tmp_path, rows))
    assert list(read_records(folder)) == [
        {
            "isic_id": "ISIC_0000001",
            "copyright_license": "CC-BY",
            "attribution": "Clínic, Exemple",
            "metadata": {
                "acquisition": {"image_type": "dermoscopic", "pixels_x": 600},
                "clinical": {
                    "age_approx": 55,
                    "clin_size_long_diam_mm": "3.50",
                    "melanocytic": True,
                    "anatom_site_general": "lower extremity",
                    "mel_mitotic_index": "<1/mm^2",
                },
            },
            "public": True,
        }
    ]


def test_a_tab_before_a_formula_sign_is_taken_off(tmp_path):
    folder = open_folder(
        write_folder(tmp_path, ["isic_id,attribution", "ISIC_0000001,\t=Hospital", "ISIC_0000002,\t@x"])
    )
    assert [record["attribution"] for record in read_records(folder)] == ["=Hospital", "@x"]


@pytest.mark.parametrize(
    ("field", "cell"),
    [
        ("age_approx", "old"),
        ("age_approx", "52.5"),
        ("melanocytic", "maybe"),
        ("mel_thick_mm", "thin"),
        ("age_approx", "inf"),
    ],
)
def test_a_value_that_does_not_fit_its_field_stays_text(tmp_path, field, cell):
    folder = open_folder(write_folder(tmp_path, [f"isic_id,{field}", f"ISIC_0000001,{cell}"]))
    assert next(read_records(folder))["metadata"]["clinical"] == {field: cell}


HEADER = "isic_id,attribution,patient_id,sex"
ROW = "ISIC_{:07d},A hospital,IP_0000001,male"
ROWS = [HEADER, *(ROW.format(i) for i in range(1, 31))]


def damaged(line, old, new):
    """The table with one line changed."""
    return [row.replace(old, new, 1) if i == line else row for i, row in enumerate(ROWS, 1)]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (damaged(20, "A hospital", '"A hospital'), "line 20: found a row that cannot be read"),
        # Closed by the next quote: the rest of the table goes on, one row short of nineteen.
        (
            [
                *damaged(20, "A hospital", '"A hospital')[:24],
                ROWS[24].replace("A hospital", 'A hospital"'),
                *ROWS[25:],
            ],
            "line 20: found a quote open up to line 25",
        ),
        (damaged(20, "A hospital,IP", '"A hospital,IP,"x"'), "line 20: found a row that cannot be read"),
        (damaged(20, ",male", ""), "line 20: found a row of 3; expected 4 cells"),
        (damaged(20, "A hospital", "A, hospital"), "line 20: found a row of 5; expected 4 cells"),
        (damaged(31, ",IP_0000001,male", ""), "line 31: found a row of 2; expected 4 cells"),
        (damaged(20, "hospital", "hos\x00pital"), "line 20: found a NUL byte"),
        (damaged(1, "sex", "patient_id"), r"found 2 columns 'patient_id' \(columns 3, 4\)"),
        (damaged(1, "sex", " patient_id "), r"found 2 columns 'patient_id' \(columns 3, 4\)"),
        (damaged(1, "patient_id", "Patient ID"), "found a column 'Patient ID'; expected it as patient_id"),
        (damaged(1, "patient_id", "patient_id\u200b"), "expected it as patient_id"),
        (damaged(1, "isic_id", "ISIC_ID"), "found a column 'ISIC_ID'; expected a column isic_id"),
        ([row.replace(",", ";") for row in ROWS], "as if semicolons separated; expected commas"),
        ([row.replace(",", "\t") for row in ROWS], "as if tabs separated; expected commas"),
    ],
)
def test_a_table_that_lies_is_refused_with_the_place(tmp_path, rows, words):
    write_folder(tmp_path, rows)
    with pytest.raises(UnusableInputError, match=rf"metadata\.csv.*{words}"):
        list(read_records(open_folder(tmp_path)))


@pytest.mark.parametrize(
    ("encoding", "words"),
    [
        ("utf-16", "line 1: found UTF-16"),
        ("utf-16-le", "line 1: found a NUL byte"),
        ("latin-1", "line 20: found byte 0xED, no UTF-8"),
    ],
)
def test_a_table_in_another_encoding_is_refused_with_its_line(tmp_path, encoding, words):
    (tmp_path / "metadata.csv").write_bytes(
        ("\n".join(damaged(20, "hospital", "cl\xednic")) + "\n").encode(encoding)
    )
    with pytest.raises(UnusableInputError, match=f"{words}.*expected a CSV table in UTF-8"):
        list(read_records(open_folder(tmp_path)))


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_every_line_end_and_a_byte_order_mark_give_the_same_records(tmp_path, line_end, mark):
    (tmp_path / "metadata.csv").write_bytes(
        (mark + line_end.join([HEADER.replace(",", " , "), "", *ROWS[1:], ""])).encode()
    )
    records = list(read_records(open_folder(tmp_path)))
    assert [record["isic_id"] for record in records] == [f"ISIC_{i:07d}" for i in range(1, 31)]
    assert all(r["metadata"]["clinical"] == {"patient_id": "IP_0000001", "sex": "male"} for r in records)


def test_a_cell_may_hold_lines_and_quotes_of_its_own(tmp_path):
    row = 'ISIC_0000001,"A ""large"" hospital,\nsecond floor",IP_0000001,male'
    (record,) = read_records(open_folder(write_folder(tmp_path, [HEADER, row])))
    assert record["attribution"] == 'A "large" hospital,\nsecond floor'


def test_the_index_that_pandas_writes_is_no_field(tmp_path):
    rows = [f",{HEADER}", *(f"{i},{row}" for i, row in enumerate(ROWS[1:]))]
    records = list(read_records(open_folder(write_folder(tmp_path, rows))))
    assert records[7]["metadata"]["clinical"] == {"patient_id": "IP_0000001", "sex": "male"}


def test_a_table_without_a_last_line_end_is_read_and_said_to_be_perhaps_cut(tmp_path, caplog):
    (tmp_path / "metadata.csv").write_text("\n".join(ROWS))
    assert len(list(read_records(open_folder(tmp_path)))) == 30
    assert "line 31: the table ends without a line end" in caplog.text
    caplog.clear()
    list(read_records(open_folder(write_folder(tmp_path, ROWS))))
    assert caplog.text == ""


@pytest.mark.parametrize("layout", ["images", "."])
@pytest.mark.parametrize("sidecar", ["json", "txt", "xml", "md5", "jpg.part", "xmp", "csv", "jpg~", "part"])
def test_a_file_beside_the_picture_is_not_taken_for_it(tmp_path, layout, sidecar):
    ids = [f"ISIC_{i:07d}" for i in range(1, 31)]
    write_folder(tmp_path, ROWS, [f"{isic_id}.jpg" for isic_id in ids], layout)
    for isic_id in ids:
        (tmp_path / layout / f"{isic_id}.{sidecar}").write_text("{}")
    folder = open_folder(tmp_path)
    assert [folder.path_of(isic_id).name for isic_id in ids] == [f"{isic_id}.jpg" for isic_id in ids]


def test_a_picture_is_found_by_its_id_whatever_the_case_of_its_extension(tmp_path):
    folder = open_folder(write_folder(tmp_path, ROWS, ["ISIC_0000001.JPG", "ISIC_0000002.Tiff"]))
    assert folder.path_of("ISIC_0000001").name == "ISIC_0000001.JPG"
    assert folder.path_of("ISIC_0000002").name == "ISIC_0000002.Tiff"


def test_two_pictures_of_one_id_are_refused_by_name(tmp_path):
    write_folder(tmp_path, ROWS, ["ISIC_0000002.png", "ISIC_0000002.jpg", "ISIC_0000003.jpg"])
    with pytest.raises(
        UnusableInputError, match=r"found ISIC_0000002\.jpg, ISIC_0000002\.png; expected one picture"
    ):
        open_folder(tmp_path)


def test_a_row_without_a_file_and_an_id_without_form_have_no_path(tmp_path):
    folder = open_folder(write_folder(tmp_path, ["isic_id", "ISIC_0000001", "../../etc/passwd"]))
    assert [record["isic_id"] for record in read_records(folder)] == ["ISIC_0000001", "../../etc/passwd"]
    assert folder.path_of("ISIC_0000001") is None
    assert folder.path_of("../../etc/passwd") is None


def test_an_export_without_files_is_read_from_the_table_itself(tmp_path):
    write_folder(tmp_path, ["isic_id,sex", "ISIC_0000001,male"])
    folder = open_folder(tmp_path / "metadata.csv")
    assert folder.layout == "export"
    assert len(list(read_records(folder))) == 1


def test_a_folder_that_is_not_there_is_refused_by_name(tmp_path):
    with pytest.raises(
        UnusableInputError, match=r"nowhere: found nothing, expected a folder with metadata\.csv"
    ):
        open_folder(tmp_path / "nowhere")


def test_a_folder_without_metadata_is_refused_with_what_is_in_it(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "ISIC_0000001.jpg")
    with pytest.raises(UnusableInputError, match=r"found ISIC_0000001\.jpg, expected metadata\.csv"):
        open_folder(tmp_path)


def test_a_table_without_ids_is_refused_with_its_columns(tmp_path):
    with pytest.raises(UnusableInputError, match=r"found 2 columns, name, sex; expected a column isic_id"):
        open_folder(write_folder(tmp_path, ["name,sex", "x,male"]))


def test_row_instants_ascend_and_have_microseconds():
    instants = [row_instant(row_index) for row_index in range(2000)]
    assert all(earlier < later for earlier, later in pairwise(instants))
    assert sum(instant.microsecond != 0 for instant in instants) > 1900
