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


def test_rows_of_the_wrong_length_are_still_records(tmp_path):
    folder = open_folder(
        write_folder(tmp_path, ["isic_id,sex", "ISIC_0000001", "ISIC_0000002,male,surplus,more"])
    )
    short, long = read_records(folder)
    assert short["metadata"]["clinical"] == {}
    assert long["metadata"]["clinical"] == {"sex": "male"}


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
    with pytest.raises(UnusableInputError, match="found columns name, sex; expected a column isic_id"):
        open_folder(write_folder(tmp_path, ["name,sex", "x,male"]))


def test_a_table_that_is_not_utf_8_is_refused(tmp_path):
    write_folder(tmp_path, ["isic_id,attribution"])
    (tmp_path / "metadata.csv").write_bytes(b"isic_id,attribution\nISIC_0000001,Cl\xednic\n")
    with pytest.raises(UnusableInputError, match="UTF-8"):
        list(read_records(open_folder(tmp_path)))




def test_row_instants_ascend_and_have_microseconds():
    instants = [row_instant(row_index) for row_index in range(2000)]
    assert all(earlier < later for earlier, later in pairwise(instants))
    assert sum(instant.microsecond != 0 for instant in instants) > 1900
