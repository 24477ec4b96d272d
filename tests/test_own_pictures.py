"""Somebody's own table and pictures, explained by a mapping, take the same way as a download of the archive."""

import csv
import os
import re
import shutil
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from archives import listed_ids, rows, scalar, write_folder, write_picture
from catalogue import add_records, draw, labelled_records
from click.testing import CliRunner

from lesion_tasks import UnusableInputError
from lesion_tasks.__main__ import lesion
from lesion_tasks.archive.column_doubts import doubt_about
from lesion_tasks.archive.folder_inspection import as_toml, inspect_folder, proposed_mapping, write_mapping
from lesion_tasks.archive.image_ids import id_of, is_image_id
from lesion_tasks.archive.local import open_download
from lesion_tasks.archive.mapped_folder import MappedFolder, Reading, _counted, findings_in_words
from lesion_tasks.archive.picture_names import PictureNames
from lesion_tasks.archive.record import Refusal, check_record
from lesion_tasks.cli.documents import ROOT
from lesion_tasks.curation.curate import curate_images
from lesion_tasks.ingest.fetch import fetch_files, fetch_ranges
from lesion_tasks.ingest.passes import ingest
from lesion_tasks.splits.manifest import read_table
from lesion_tasks.splits.split import build_split
from lesion_tasks.training.masks import import_masks, read_index
from lesion_tasks.workspace import open_workspace

MAPPING = """
namespace = "clinic"
table = "cases.csv"
separator = ";"
missing = ["k.A."]

[columns]
image = "file"
patient_id = "patient"
lesion_id = ["patient", "lesion"]
diagnosis = "dx"
age_approx = "age"
sex = "sex"

[values.diagnosis]
NV = "Benign:Benign melanocytic proliferations:Nevus"
MM = "Malignant:Malignant melanocytic proliferations (Melanoma)"

[values.sex]
w = "female"

[no_counterpart]
diagnosis = ["rash"]

[constants]
image_type = "dermoscopic"
copyright_license = "CC-BY"
"""
COLUMNS = ("file", "patient", "lesion", "dx", "age", "sex", "surname")
ROWS = (
    ("IMG_1.jpg", "7", "1", "NV", "44", "w", "Muster"),
    ("IMG_2", "7", "2", "MM", "45.0", "male", "Muster"),
    ("Foto 3 (links).jpg", "8", "1", "rash", "k.A.", "x", "Muster"),
    ("ISIC_0000001.jpg", "", "1", "zz", "old", "", "Muster"),
    ("absent.jpg", "9", "1", "NV", "50", "w", "Muster"),
    ("", "9", "1", "NV", "50", "w", "Muster"),
    ("twice.jpg", "9", "1", "NV", "50", "w", "Muster"),
)
PICTURES = (
    "IMG_1.jpg",
    "b/IMG_2.png",
    "Foto 3 (links).jpg",
    "ISIC_0000001.jpg",
    "a/twice.jpg",
    "b/twice.jpg",
)


def write_table(folder, lines=ROWS, columns=COLUMNS):
    with (folder / "cases.csv").open("w", newline="") as stream:
        csv.writer(stream, delimiter=";").writerows([columns, *lines])


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "clinic"
    for number, name in enumerate([*PICTURES, "unused.jpg"]):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_picture(folder / name, np.random.default_rng(number), width_px=40)
    write_table(folder)
    (folder / "lesion-mapping.toml").write_text(MAPPING)
    return folder


def test_rows_become_records_under_a_namespace_and_keep_only_mapped_cells(folder):
    records = list(open_download(folder).records())[:4]

    assert [record["isic_id"] for record in records] == [
        "clinic.IMG_1",
        "clinic.IMG_2",
        "clinic.Foto-3-links-bbb0100326",
        "ISIC_0000001",
    ]
    assert records[1] == {
        "isic_id": "clinic.IMG_2",
        "copyright_license": "CC-BY",
        "metadata": {
            "acquisition": {"image_type": "dermoscopic"},
            "clinical": {
                "patient_id": "clinic.patient:7",
                "lesion_id": "clinic.lesion:7/2",
                "diagnosis_1": "Malignant",
                "diagnosis_2": "Malignant melanocytic proliferations (Melanoma)",
                "age_approx": 45,
                "sex": "male",
            },
        },
        "public": True,
        "source": {
            "namespace": "clinic",
            "row": {
                "file": "IMG_2",
                "patient": "7",
                "lesion": "2",
                "dx": "MM",
                "age": "45.0",
                "sex": "male",
            },
        },
        "files": {"full": {"url": "file:b/IMG_2.png", "size": (folder / "b/IMG_2.png").stat().st_size}},
    }
    assert (
        records[3]["metadata"]["clinical"] == {}
    )  # nothing of that row is explained, and nothing is guessed


def test_what_the_mapping_does_not_explain_is_counted_and_named(folder):
    assert open_download(folder).findings() == (
        "1 of 7 rows refused (no_picture), such as line 6: picture 'absent.jpg': no such file below clinic",
        "1 of 7 rows refused (no_picture_name), such as line 7: names no picture, expected one",
        "1 of 7 rows refused (ambiguous_picture), such as line 8: picture 'twice.jpg': a/twice.jpg and b/twice.jpg "
        "answer to it, expected one file",
        "sex: the mapping does not say what 'x' (1 row) means; taken as no value",
        "diagnosis: the mapping does not say what 'zz' (1 row) means; taken as no value",
        "age_approx: no number: 'old' (1 row); taken as no value",
        "diagnosis: the archive has no word for 'rash' (1 row)",
        "3 of 7 pictures have no row, such as a/twice.jpg",
    )


def test_each_row_is_counted_once_among_the_values_of_a_field(folder):
    found = inspect_folder(folder)
    told = {name: words for name, _, words in found.fields}
    # Of seven rows three are refused, and the sex of one of the others is empty.
    assert [words for words in told["sex"].split("; ") if "(" in words][-1] == "no value (1)"
    assert "no value" not in told["diagnosis"]


def test_a_row_of_other_length_is_refused_and_the_others_are_read(folder):
    table = folder / "cases.csv"
    table.write_text(table.read_text().replace("IMG_2;7", "IMG_2;a note; with the separator;7"))
    records = list(open_download(folder).records())
    assert records[1].reason == "unreadable_row"
    assert "line 3: 9 cells, expected 7" in records[1].detail
    assert "note" not in str(records[1])
    assert records[0]["isic_id"] == "clinic.IMG_1"


def test_links_and_what_is_no_file_are_refused_rows(folder, tmp_path, settings):
    elsewhere = tmp_path / "elsewhere.jpg"
    shutil.copy(folder / "IMG_1.jpg", elsewhere)
    links = {
        "nowhere.jpg": "gone.jpg",
        "out.jpg": str(elsewhere),
        "loop.jpg": "loop.jpg",
        "good.jpg": "IMG_1.jpg",
    }
    for name, target in links.items():
        (folder / name).symlink_to(target)
    os.mkfifo(folder / "pipe.jpg")
    write_table(folder, [(name, "7", "1", "NV", "44", "w", "") for name in (*links, "pipe.jpg", "IMG_1.jpg")])

    *refused, pipe, last = open_download(folder).records()
    good = refused.pop()

    assert [(one.reason, one.detail.partition(": ")[2]) for one in (*refused, pipe)] == [
        ("unreadable_picture", "picture 'nowhere.jpg': No such file or directory"),
        ("unreadable_picture", "picture 'out.jpg': a link that leads out of the folder"),
        ("unreadable_picture", "picture 'loop.jpg': Too many levels of symbolic links"),
        ("unreadable_picture", "picture 'pipe.jpg': a pipe or a device, not a file"),
    ]
    assert good["files"]["full"]["size"] == last["files"]["full"]["size"] == elsewhere.stat().st_size
    counts = ingest(open_workspace(), source=str(folder))
    assert (counts["append"]["refused"], counts["fetch"]["stored"]) == (4, 2)


def test_lesions_that_are_numbered_by_patient_are_noticed(folder):
    mapping = (folder / "lesion-mapping.toml").read_text()
    (folder / "lesion-mapping.toml").write_text(mapping.replace('["patient", "lesion"]', '"lesion"'))
    said = open_download(folder).findings()
    assert any(
        each.startswith("1 lesion is listed under two patients, such as clinic.lesion:1") for each in said
    )


def test_a_column_that_names_one_patient_for_all_is_asked_about(tmp_path):
    write_table(tmp_path, [(f"{n}.jpg", "Rossi", f"{n // 2}", "NV", "44", "w", "") for n in range(20)])
    for n in range(20):
        write_picture(tmp_path / f"{n}.jpg", np.random.default_rng(n), width_px=16)
    found = inspect_folder(tmp_path)
    assert any(
        each.startswith(
            "patient_id: 20 of 20 images have the same value in 'patient', and all of them stand on one side of"
        )
        for each in found.findings
    )
    assert not any(each.startswith("lesion_id") for each in found.findings)
    assert ("lesion_id", "lesion", "10 of them, with at most 2 images each") in found.fields


def test_a_table_without_patients_and_lesions_gets_a_warning(folder):
    mapping = (folder / "lesion-mapping.toml").read_text()
    kept = [line for line in mapping.splitlines() if not line.startswith(("patient_id", "lesion_id"))]
    (folder / "lesion-mapping.toml").write_text("\n".join(kept))
    assert "only copies of one picture are kept together" in open_download(folder).findings()[-1]


@pytest.fixture(scope="module")
def german(tmp_path_factory):
    """A folder of 48 pictures whose table names everything in German; one column of each kind."""
    folder = tmp_path_factory.mktemp("german") / "klinik"
    folder.mkdir()
    columns = (
        "Bilddatei",
        "Patient",
        "Läsion",
        "Diagnose",
        "Alter",
        "Geschlecht",
        "Körperstelle",
        "Tag",
        "Jahr",
        "Maß",
    )
    lines = [
        f"A{n}.jpg P{n // 2} L{n} {('Nävus', 'Melanom')[n % 2]} {20 + n} {'wm'[n % 2]} Fuß"
        f" {n % 28 + 1}.0{3 + n // 28}.2021 {1940 + n} {n},5"
        for n in range(48)
    ]
    write_table(folder, [line.split() for line in lines], columns)
    for n in range(48):
        write_picture(folder / f"A{n}.jpg", np.random.default_rng(n), width_px=16)
    return folder


@pytest.mark.parametrize(
    ("field", "column", "said"),
    [
        (
            "diagnosis",
            "Alter",
            "diagnosis: the values of column 'Alter' are 48 different numbers, such as '20', ",
        ),
        ("diagnosis", "Tag", "diagnosis: the values of column 'Tag' are dates, such as '1.03.2021'"),
        (
            "diagnosis",
            "Läsion",
            "of column 'Läsion' are different in nearly every row (48 values in 48 rows), such",
        ),
        (
            "diagnosis",
            "Geschlecht",
            "diagnosis: column 'Geschlecht' is that of sex too; is it the right column?",
        ),
        ("sex", "Tag", "sex: the values of column 'Tag' are dates, such as '1.03.2021'"),
        ("sex", "Patient", None),  # 24 words may be words for two sexes: they are asked for
        ("age_approx", "Tag", "age_approx: the values of column 'Tag' are dates"),
        (
            "age_approx",
            "Diagnose",
            "'Diagnose' are no numbers, such as 'Nävus', 'Melanom', expected ages in years",
        ),
        ("age_approx", "Jahr", "'Jahr' are not between 0 and 120, such as '1940'"),
        (
            "clin_size_long_diam_mm",
            "Maß",
            "'Maß' are written with a comma for a point, such as '0,5', '1,5', '2,5'",
        ),
        ("patient_id", "Tag", "patient_id: the values of column 'Tag' are dates"),
        ("patient_id", "Bilddatei", "is that of image too, so that every picture is one of its own"),
        ("patient_id", "Körperstelle", "48 of 48 images have the same value in 'Körperstelle'"),
        ("image", "Patient", "names no picture in 48 rows; 'Bilddatei' names one in 48 of the first rows"),
    ],
)
def test_a_column_of_another_kind_is_asked_about_and_its_values_are_not(german, field, column, said):
    mapping = german / "lesion-mapping.toml"
    mapping.unlink(missing_ok=True)
    proposed = inspect_folder(german).proposal
    kept = [line for line in proposed.splitlines() if not line.startswith(f"{field} =")]
    mapping.write_text("\n".join(kept).replace("[columns]", f'[columns]\n{field} = "{column}"'))

    found = inspect_folder(german)

    is_asked = any(f"under [values.{field}]" in line for line in found.to_fill_in)
    assert is_asked == (said is None or column == "Geschlecht")  # w and m may be meant as something
    if said is not None:
        assert sum(said in each for each in found.findings) == 1, found.findings
    if field not in ("image", "patient_id") and column not in ("Jahr", "Geschlecht"):
        assert any(each.startswith(f"{field}: ") and "taken as no value" in each for each in found.findings)


def test_a_proposal_lists_no_values_of_a_column_that_is_probably_wrong(german):
    (german / "lesion-mapping.toml").unlink(missing_ok=True)
    written = as_toml(*proposal_of(german, "diagnosis", "Alter"))
    assert "[values.diagnosis]\n# diagnosis: the values of column 'Alter' are 48 different numbers" in written
    assert '# "20" = ""' not in written


def proposal_of(folder, field, column):
    """The parts that a proposal is written from, with a field read from a column of one's choice."""
    mapping = proposed_mapping(folder)
    mapping = replace(mapping, columns={**mapping.columns, field: (column,)}, values={})
    opened, reading = MappedFolder(folder, mapping), Reading()
    for _ in opened.read(reading):
        pass
    return mapping, reading, opened.columns


def of_values(field, values, unread=None, n_rows=None):
    """The doubt about a column with these cells, of which nobody explained any, or `unread`."""
    found = Counter(values)
    return doubt_about(
        field, ("col",), found, found if unread is None else Counter(unread), n_rows or len(values)
    )


def test_codes_are_numbers_that_come_again_and_are_asked_for():
    codes = of_values("diagnosis", [f"87{n % 15:02d}3" for n in range(300)])
    assert "are 15 different numbers" in codes.words and codes.is_explicable
    measured = of_values("diagnosis", [f"{n}" for n in range(300)])
    assert "are 300 different numbers" in measured.words and not measured.is_explicable
    assert (
        of_values("diagnosis", [f"87{n % 15:02d}/3" for n in range(300)]) is None
    )  # no dates of the year 8700


def test_a_date_has_a_month_and_a_day():
    for written in ("2021-03-17", "17.3.2021", "3/17/21", "2021-03", "1999/12/31 08:15"):
        assert "are dates" in of_values("patient_id", [written] * 30).words
    for written in ("8720/3", "2021-13-17", "45.3.2021", "13/17/2021", "0.1.2021"):
        assert of_values("patient_id", [written] * 30) is None


def test_numbers_among_words_are_not_said_to_be_none():
    ages = [str(40 + n) for n in range(10)]
    assert of_values("age_approx", ["n.k."] * 15 + ages, unread=["n.k."] * 15) is None
    assert "are no numbers" in of_values("age_approx", ["n.k."] * 25).words
    mixed = of_values(
        "clin_size_long_diam_mm", [f"{n},5" for n in range(20)] + ages, [f"{n},5" for n in range(20)]
    )
    assert "are mostly written with a comma for a point" in mixed.words


def test_no_more_values_are_claimed_than_were_counted(tmp_path):
    """Of two columns for a field, two pictures in a line, and more values than are counted."""
    with (tmp_path / "t.csv").open("w") as stream:
        stream.write("a,b,dx1,dx2\n")
        stream.writelines(f"a{n}.jpg,b{n}.jpg,word {n},term {n}\n" for n in range(600))
    write_picture(tmp_path / "x.jpg", np.random.default_rng(0), width_px=16)
    for name in (f"{column}{n}.jpg" for n in range(600) for column in "ab"):
        os.link(tmp_path / "x.jpg", tmp_path / name)
    mapping = 'namespace = "clinic"\ntable = "t.csv"\n[columns]\n'
    mapping += 'image = { a = "clinical: close-up", b = "dermoscopic" }\n'
    (tmp_path / "lesion-mapping.toml").write_text(mapping + 'diagnosis = ["dx1", "dx2"]\n')
    said = "\n".join(open_download(tmp_path).findings())
    assert "different in nearly every row (500 or more values in 600 rows)" in said
    assert "diagnosis: the mapping does not say what 'word 0' (1 row), 'term 0' (1 row)" in said
    assert "and 492 or more other values means; taken as no value" in said


def test_columns_are_proposed_by_the_words_of_seven_languages(german):
    (german / "lesion-mapping.toml").unlink(missing_ok=True)
    columns = dict(proposed_mapping(german).columns)
    assert columns == {
        "patient_id": ("Patient",),
        "lesion_id": ("Läsion",),
        "diagnosis": ("Diagnose",),
        "age_approx": ("Alter",),
        "sex": ("Geschlecht",),
        "anatom_site": ("Körperstelle",),
    }


@pytest.mark.parametrize(
    ("header", "fields"),
    [
        ("Numéro patient;Lésion;Diagnostic;Âge;Sexe;Localisation", 6),
        ("ID paziente;Lesione;Diagnosi;Età;Sesso;Sede", 6),
        ("Id paciente;Lesión;Diagnóstico;Edad;Sexo;Localización", 6),
        ("Paciente;Lesão;Diagnóstico;Idade;Género;Localização", 6),
        ("Patiëntnummer;Laesie;Diagnose;Leeftijd;Geslacht;Lichaamslocatie", 6),
        ("Patientennummer;Läsions-Nr;Befund;Lebensalter;Geschl.;Lokalisation", 6),
    ],
)
def test_the_usual_words_of_a_language_are_known(tmp_path, header, fields):
    (tmp_path / "t.csv").write_text(f"file;{header}\nA.jpg;1;1;a;40;m;b\n", encoding="utf-8")
    write_picture(tmp_path / "A.jpg", np.random.default_rng(0), width_px=16)
    assert len(proposed_mapping(tmp_path).columns) == fields


def test_one_of_a_thing_is_not_several(german):
    (german / "lesion-mapping.toml").unlink(missing_ok=True)
    mapping, reading, _ = proposal_of(german, "diagnosis", "Körperstelle")
    said = " ".join(findings_in_words(MappedFolder(german, mapping), reading))
    assert "'Fuß' (48 rows) means" in said
    counts = Counter({f"v{n}": 1 for n in range(9)})
    assert _counted(counts).endswith("'v7' (1 row) and 1 other value")
    assert not re.search(r"\b1 (other )?[a-z]+s\b", _counted(counts))


def test_own_pictures_go_through_ingestion_and_curation_and_refused_rows_are_rows(folder, settings):
    counts = ingest(open_workspace(), source=str(folder))

    assert counts["append"]["new"] == counts["fetch"]["stored"] == 4
    assert counts["append"]["refused"] == 3
    assert counts["poll"]["findings"] == list(open_download(folder).findings())
    assert dict(rows("SELECT reason, isic_id FROM refused_record")) == {
        "no_picture": "clinic.absent",
        "no_picture_name": None,
        "ambiguous_picture": "clinic.twice",
    }
    curate_images(open_workspace())
    image = rows("SELECT * FROM image WHERE isic_id = 'clinic.IMG_1'")[0]
    assert (image.patient_id, image.lesion_id, image.sex) == (
        "clinic.patient:7",
        "clinic.lesion:7/1",
        "female",
    )
    key = scalar("SELECT object_key FROM stored_file WHERE isic_id = 'clinic.IMG_1'")
    assert key.startswith("images/thumbnail_256/clinic/")
    groups = rows(
        "SELECT count(DISTINCT group_id) FROM image WHERE isic_id IN ('clinic.IMG_1', 'clinic.IMG_2')"
    )
    assert groups == [(1,)]  # one patient


def test_own_ids_stand_in_splits_beside_those_of_the_archive(settings):
    records = labelled_records(200)
    pictures = {}
    for number, record in enumerate(records):
        if number % 2:
            record["isic_id"] = f"clinic.IMG_{number}"
            pictures[record["isic_id"]] = draw(10_000 + number, is_malignant=False)
    add_records(settings, records, picture_by_id=pictures)
    curate_images(open_workspace())

    digest = build_split(open_workspace(), "malignancy_natural")

    key = scalar("SELECT object_key FROM manifest WHERE digest = :digest", digest=digest)
    ids = [row["isic_id"] for row in read_table(open_workspace().bucket, key).to_pylist()]
    assert ids == sorted(ids)
    assert {isic_id.partition("_")[0] for isic_id in ids} == {"ISIC", "clinic.IMG"}


def test_masks_of_own_pictures_are_known_by_their_ids(settings, tmp_path):
    (tmp_path / "masks").mkdir()
    for name in ("clinic.IMG_1_segmentation.png", "isic_0000001.png", "notes.png"):
        write_picture(tmp_path / "masks" / name, np.random.default_rng(0), width_px=16)
    workspace = open_workspace()
    assert import_masks(workspace, str(tmp_path / "masks"))["masks"] == 2
    assert set(read_index(workspace.bucket)) == {"clinic.IMG_1", "ISIC_0000001"}


def test_a_refused_row_becomes_a_record_once_it_is_mended(folder, settings):
    ingest(open_workspace(), source=str(folder))
    write_picture(folder / "absent.jpg", np.random.default_rng(99), width_px=40)
    write_table(folder, [row for row in ROWS if row[0] not in {"", "IMG_1.jpg"}])

    counts = ingest(open_workspace(), source=str(folder))

    assert (counts["append"]["new"], counts["fetch"]["stored"], counts["reconcile"]["missing"]) == (1, 1, 1)
    assert listed_ids() >= {"clinic.absent", "clinic.IMG_2"}
    assert scalar("SELECT count(*) FROM refused_record WHERE isic_id = 'clinic.absent'") == 0


def test_a_namespace_belongs_to_one_folder(folder, settings, tmp_path):
    ingest(open_workspace(), source=str(folder))
    other = shutil.copytree(folder, tmp_path / "other")
    with pytest.raises(
        UnusableInputError, match=rf"namespace 'clinic' is that of {folder}, expected another"
    ):
        ingest(open_workspace(), source=str(other))

    mapping = (other / "lesion-mapping.toml").read_text()
    (other / "lesion-mapping.toml").write_text(f'continues = "{folder}"\n{mapping}')

    assert ingest(open_workspace(), source=str(other))["append"]["changed"] == 0
    # What continues it is not the archive either: it does not stand over somebody's own corrections.
    write_table(folder, [("ISIC_0000001.jpg", "7", "1", "MM", "44", "w", "")])
    again = ingest(open_workspace(), source=str(folder))["append"]
    assert (again["changed"], again.get("described_elsewhere", 0)) == (1, 0)


def test_no_archive_can_send_an_id_of_a_namespace(folder):
    record = next(open_download(folder).records())
    refused = check_record(record)
    assert isinstance(refused, Refusal) and refused.reason == "bad_id"
    assert isinstance(check_record(record, "another"), Refusal)
    assert not isinstance(check_record(record, "clinic"), Refusal)


@pytest.mark.parametrize("name", ["ä", "a b", "a/b", "a.b", "x" * 65, "..", "-", "\udcff", "a'b", "1:2"])
def test_any_name_makes_a_well_formed_id_of_its_own(name):
    assert is_image_id(id_of("clinic", name))
    assert id_of("clinic", name) != id_of("clinic", name + "x")


def test_ranges_of_own_files_cover_them_all(folder, settings):
    workspace = open_workspace()
    ingest(workspace, source=str(folder), passes=("append",))

    ranges = fetch_ranges(workspace, source=str(folder), ranges=3)

    assert len(ranges) > 1
    counts = [ingest_range(workspace, folder, each) for each in ranges]
    assert sum(counts) == 4


def ingest_range(workspace, folder, id_range):

    return fetch_files(workspace, id_range, source=str(folder))["stored"]


def changed(old, new):
    return MAPPING.replace(old, new)


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        (changed('"age"', '"aged"'), r"column 'aged' \(age_approx\) is not in the table; did you mean age.*has file"),
        (changed('image = "file"\n', ""), "columns.image: not given, expected the column that names each picture"),
        (changed('namespace = "clinic"', ""), 'namespace: not given, expected a name for these pictures'),
        (changed('"clinic"', '"ISIC"'), "namespace 'ISIC': expected 2 to 24 small letters"),
        (changed("sex =", "gender ="), r"\[columns\] 'gender' is not a field"),
        (changed("patient_id =", "patientid ="), r"'patientid' is not a field; did you mean patient_id\?"),
        (changed(":Nevus", ":Nevi"), "'Benign:Benign melanocytic proliferations:Nevi'; did you mean Benign.*:Nevus"),
        (changed('"female"', '"woman"'), r"values.sex 'w' is 'woman'.*expected one of female, male"),
        (changed("separator", "seperator"), "'seperator' is not a setting of a mapping; did you mean separator"),
        (changed("cases.csv", "case.csv"), "table 'case.csv': found nothing, expected one file"),
        (changed("[columns]", "[columns"), "expected a TOML document in UTF-8"),
        (changed('separator = ";"', 'pictures = "../b"'), "pictures '../b': expected a place below this folder"),
        (changed("cases.csv", "/etc/passwd"), "table '/etc/passwd': expected a place below this folder"),
        (changed('separator = ";"', ""), "found one column.*as if semicolons separated; expected commas"),
    ],
)  # fmt: skip
def test_a_mapping_that_is_wrong_says_what_and_what_was_meant(folder, mapping, message):
    (folder / "lesion-mapping.toml").write_text(mapping)
    with pytest.raises(UnusableInputError, match=message):
        open_download(folder)


def test_everything_wrong_with_a_mapping_is_told_at_once(folder):
    (folder / "lesion-mapping.toml").write_text(
        changed('"clinic"', '"C"').replace('"female"', '"f"').replace("age_approx", "age")
    )
    with pytest.raises(UnusableInputError) as error:
        open_download(folder)
    assert all(word in str(error.value) for word in ("namespace 'C'", "values.sex", "'age' is not a field"))


def test_one_picture_in_two_rows_that_disagree_is_refused_with_both(folder, settings):
    write_table(folder, [*ROWS[:2], ("IMG_1.jpg", "7", "1", "MM", "44", "w", "")])
    with pytest.raises(UnusableInputError, match=r"clinic.IMG_1 is in rows 1 and 3 .* with diagnosis_1"):
        ingest(open_workspace(), source=str(folder))


def test_pictures_of_no_said_kind_are_not_listed_by_a_query_for_a_kind(folder, settings):
    (folder / "lesion-mapping.toml").write_text(changed('image_type = "dermoscopic"\n', ""))
    write_table(folder, ROWS[:2])
    with pytest.raises(UnusableInputError, match="says nothing about image_type"):
        ingest(open_workspace(), source=str(folder), query="image_type:dermoscopic")
    (folder / "lesion-mapping.toml").write_text(changed('"dermoscopic"', '"clinical: close-up"'))
    with pytest.raises(UnusableInputError, match="all have image_type 'clinical: close-up'"):
        ingest(open_workspace(), source=str(folder), query="image_type:dermoscopic")


def test_codes_are_named_and_a_patient_may_be_called_zero(folder):
    lines = [("IMG_1.jpg", "0", "0", "0", "44", "w", ""), ("IMG_2", "-9", "1", "true", "45", "male", "")]
    write_table(folder, lines)
    download = open_download(folder)
    first, second = (record["metadata"]["clinical"] for record in download.records())
    assert (first["patient_id"], first["lesion_id"]) == ("clinic.patient:0", "clinic.lesion:0/0")
    assert not {"patient_id", "lesion_id"} & set(second)
    said = " ".join(download.findings())
    assert "diagnosis: the mapping does not say what '0' (1 row), 'true' (1 row) means" in said
    assert "patient_id: the mapping does not say what '-9' (1 row) means" in said


def test_a_truth_is_a_value_and_a_zero_may_be_one(folder):
    mapping = changed('diagnosis = "dx"', 'melanocytic = "dx"')
    (folder / "lesion-mapping.toml").write_text(
        mapping.replace(
            "[values.diagnosis]", '[values.melanocytic]\n1 = "true"\n0 = "false"\n[values.diagnosis]'
        )
        .replace("[values.diagnosis]\nNV", "[values.anatom_site]\nNV")
        .replace('NV = "Benign:Benign melanocytic proliferations:Nevus"\n', "")
        .replace('MM = "Malignant:Malignant melanocytic proliferations (Melanoma)"\n', "")
        .replace("[values.anatom_site]\n", "")
        .replace('diagnosis = ["rash"]', 'sex = ["x"]')
    )
    cells = ("0", "1", "false")
    names = ("IMG_1.jpg", "IMG_2", "Foto 3 (links).jpg")
    lines = [(name, "7", "1", cell, "44", "w", "") for name, cell in zip(names, cells, strict=True)]
    write_table(folder, lines)
    found = [r["metadata"]["clinical"]["melanocytic"] for r in open_download(folder).records()]
    assert found == [False, True, False]


def test_classes_that_nobody_marked_are_no_class(tmp_path):
    columns = ("image_id", "melanoma", "seborrheic_keratosis")
    lines = [("ISIC_0000001", "", ""), ("ISIC_0000002", "0.0", ""), ("ISIC_0000003", "0.0", "0.0")]
    with (tmp_path / "ISIC-2017_Training_Part3_GroundTruth.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([columns, *lines])
    for number, (name, *_) in enumerate(lines):
        write_picture(tmp_path / f"{name}.jpg", np.random.default_rng(number), width_px=16)
    first, second, third = open_download(tmp_path).records()
    assert "diagnosis_1" not in first["metadata"]["clinical"]
    assert second.reason == "not_one_or_zero"
    assert third["metadata"]["clinical"]["diagnosis_1"] == "Benign"


def test_two_tables_of_one_published_data_set_are_named(tmp_path):
    for part in ("Training", "Test"):
        (tmp_path / f"ISIC-2017_{part}_Part3_GroundTruth.csv").write_text(
            "image_id,melanoma,seborrheic_keratosis\nISIC_0000001,0,0\n"
        )
    with pytest.raises(UnusableInputError, match="are tables of one published data set, expected one"):
        open_download(tmp_path)


def test_a_picture_of_the_archive_keeps_its_id_in_any_folder(folder):
    write_table(
        folder, [("b/IMG_2.png", "7", "1", "NV", "44", "w", ""), (r"x\ISIC_0000001.jpg", *ROWS[3][1:])]
    )
    ids = [record["isic_id"] for record in open_download(folder).records()]
    assert ids[0].startswith("clinic.b-IMG_2-")
    assert ids[1] == "ISIC_0000001"


def test_a_row_of_another_folder_gets_no_picture_of_its_name(folder):
    (folder / "a/twice.jpg").unlink()
    names = ("a/twice.jpg", "b/twice", r"C:\images\b\twice.jpg", "a/b/twice.jpg", "other/IMG_1.jpg")
    write_table(folder, [(name, *ROWS[0][1:]) for name in names])
    said = open_download(folder)
    assert [said.pictures.find(name) for name in names] == [None, *["b/twice.jpg"] * 3, "IMG_1.jpg"]


def test_a_folder_that_may_not_be_read_is_named(tmp_path):
    (tmp_path / "a.png").touch()  # what os.walk says of it reaches people in the same way
    with pytest.raises(UnusableInputError, match=r"folder .*a\.png: Not a directory; expected one"):
        PictureNames(tmp_path / "a.png")


def test_a_repeated_row_without_a_picture_is_refused_and_stops_nothing(folder, settings):
    write_table(folder, [*ROWS[:2], ROWS[4], ROWS[4]])
    assert ingest(open_workspace(), source=str(folder))["append"]["new"] == 2


def test_a_second_table_says_one_thing_of_a_picture(folder):
    (folder / "ages.csv").write_text("file;years\nIMG_1;60\nIMG_1.jpg;61\n")
    (folder / "lesion-mapping.toml").write_text(
        changed('"age"', '"years"').replace("namespace", 'joined = ["ages.csv"]\nnamespace')
    )
    with pytest.raises(
        UnusableInputError, match=r"ages.csv: line 3: picture 'IMG_1.jpg' is in an earlier row"
    ):
        list(open_download(folder).records())


def test_a_second_table_adds_columns_by_picture(folder):
    (folder / "ages.csv").write_text("file;years\nIMG_1;60\n")
    (folder / "lesion-mapping.toml").write_text(
        changed('"age"', '"years"').replace("namespace", 'joined = ["ages.csv"]\nnamespace')
    )
    ages = [record["metadata"]["clinical"].get("age_approx") for record in open_download(folder).records()]
    assert ages[:3] == [60, None, None]


def test_folders_named_by_class_need_no_table(tmp_path):
    for number, name in enumerate(["Benign/1.jpg", "Benign/2.jpg", "malignant/1.jpg"]):
        (tmp_path / "Set B" / name).parent.mkdir(parents=True, exist_ok=True)
        write_picture(tmp_path / "Set B" / name, np.random.default_rng(number), width_px=40)

    records = list(open_download(tmp_path / "Set B").records())

    assert [record["metadata"]["clinical"] for record in records] == [
        {"diagnosis_1": "Benign"},
        {"diagnosis_1": "Benign"},
        {"diagnosis_1": "Malignant"},
    ]
    assert records[2]["isic_id"].startswith("set-b.malignant-1-")


DOCUMENT = (ROOT / "docs/your-own-pictures.md").read_text()


def blocks(kind):
    return re.findall(rf"^```{kind}\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)


def test_the_example_of_the_document_does_what_it_says(settings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LESION_QUERY", "image_type:dermoscopic")
    (tmp_path / "clinic").mkdir()
    (tmp_path / "clinic/cases.csv").write_text(blocks("csv")[0])
    for number in range(1, 7):
        write_picture(tmp_path / f"clinic/IMG_{number}.jpg", np.random.default_rng(number), width_px=40)
    first, then, _ = blocks("sh")

    (said,) = run_lines(first)
    for line in blocks("text")[0].splitlines():
        assert line in said
    (tmp_path / "clinic/lesion-mapping.toml").write_text(blocks("toml")[0])
    _, looked, ingested, _ = run_lines(then)

    assert "read by lesion-mapping.toml: 7 rows, 6 pictures, 6 images" in looked
    assert '"stored": 6' in ingested
    images = rows("SELECT isic_id, patient_id, anatom_site FROM image ORDER BY isic_id")
    assert [image.isic_id for image in images] == [f"clinic.IMG_{number}" for number in range(1, 7)]
    assert images[1][1:] == ("clinic.patient:17", "Upper extremity")
    assert [*rows("SELECT DISTINCT reason FROM refused_record")] == [("no_picture",)]


def run_lines(commands):
    said = []
    for line in commands.splitlines():
        done = CliRunner().invoke(lesion, line.split()[1:], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        said.append(done.output)
    return said


def test_every_reason_of_the_document_is_one_of_the_code_and_the_other_way_round():
    source = (ROOT / "lesion_tasks/archive/mapped_folder.py").read_text()
    told = set(
        re.findall(r"^\| `(\w+)` \| (?=it has|the row|no file|a file|two|a column)", DOCUMENT, re.MULTILINE)
    )
    assert set(re.findall(r'_Refused\(\s*"(\w+)"', source)) == told


def test_an_inspection_never_writes_over_a_mapping_unasked(folder):
    before = (folder / "lesion-mapping.toml").read_text()
    assert inspect_folder(folder).proposal is None
    with pytest.raises(UnusableInputError, match="there is one already"):
        write_mapping(folder, "namespace = 1", overwrite=False)
    assert (folder / "lesion-mapping.toml").read_text() == before
    write_mapping(folder, "anew", overwrite=True)
    assert (folder / "lesion-mapping.toml").read_text() == "anew"
    assert not list(folder.glob(".*"))


def test_what_is_proposed_can_be_read_and_leaves_open_what_nobody_said(folder):
    (folder / "lesion-mapping.toml").unlink()

    found = inspect_folder(folder)

    write_mapping(folder, found.proposal, overwrite=False)
    mapping = open_download(folder).mapping
    assert dict(mapping.columns) == {
        "patient_id": ("patient",),
        "lesion_id": ("patient", "lesion"),
        "diagnosis": ("dx",),
        "age_approx": ("age",),
        "sex": ("sex",),
    }
    assert (mapping.table, mapping.separator, dict(mapping.image)) == ("cases.csv", ";", {"file": None})
    assert mapping.values["diagnosis"] == {"NV": "Benign:Benign melanocytic proliferations:Nevus"}
    assert '# "MM" = ""  # 1 row' in found.proposal
    assert found.unused_columns == ("surname",)
    assert any("set image_type" in finding for finding in found.findings)


def test_an_inspection_says_what_to_fill_in_and_shows_each_cell_as_it_is(folder):
    mapping = (folder / "lesion-mapping.toml").read_text()
    (folder / "lesion-mapping.toml").write_text(
        mapping.replace('sex = "sex"', 'sex = "sex"\nanatom_site = "surname"')
        + '\n[values.anatom_site]\nMuster = "Lower extremity:Foot:Sole of foot"\n'
    )
    said = CliRunner().invoke(lesion, ["inspect", str(folder)]).output
    assert "Muster (4) = Lower extremity:Foot:Sole of foot" in said  # `:Foot:` is an emoji elsewhere
    assert 'In lesion-mapping.toml, under [values.diagnosis]:\n# What these mean, such as "Benign" or' in said
    assert '\n"zz" = ""  # 1 row\n' in said


def test_a_column_with_a_usual_word_in_its_name_is_suggested(folder):
    (folder / "lesion-mapping.toml").unlink()
    write_table(folder, columns=("file", "patient", "lesion", "Diagnosi istologica", "age", "sex", "surname"))
    assert '\n# diagnosis = "Diagnosi istologica"  # which one' in inspect_folder(folder).proposal


def test_a_table_of_western_europes_spreadsheets_is_read(folder):
    (folder / "lesion-mapping.toml").unlink()
    (folder / "cases.csv").write_bytes("file;Läsion;dx\nIMG_1.jpg;3;Nävus\n".encode("cp1252"))
    found = inspect_folder(folder)
    assert 'encoding = "cp1252"' in found.proposal
    assert 'lesion_id = "Läsion"' in found.proposal


def test_an_inspection_of_a_download_needs_no_mapping_and_of_nothing_says_so(tmp_path):
    write_folder(tmp_path / "download", 3)
    assert "needs no mapping: 3 rows, 3 with a picture" in inspect_folder(tmp_path / "download").understood_as
    (tmp_path / "empty").mkdir()
    with pytest.raises(UnusableInputError, match="no pictures found in it"):
        inspect_folder(tmp_path / "empty")


def test_files_that_may_be_meant_as_a_table_are_named(tmp_path):
    write_picture(tmp_path / "a.jpg", np.random.default_rng(0), width_px=16)
    (tmp_path / "other.csv").write_text("name,dx\nz.jpg,mel\n")
    findings = inspect_folder(tmp_path).findings
    assert any("other.csv is not read: none of its columns names a picture" in each for each in findings)
    (tmp_path / "cases.xlsx").write_bytes(b"PK")
    with pytest.raises(UnusableInputError, match=r"cases.xlsx: is a spreadsheet.*save it as CSV"):
        inspect_folder(tmp_path)  # and nothing is proposed that would stand in the way of the saved table
    (tmp_path / "cases.csv").write_text("file,dx\na.jpg,mel\n")
    assert "cases.xlsx is a spreadsheet and is not read: save it as CSV" in inspect_folder(tmp_path).findings


def test_a_table_with_a_short_row_is_read_all_the_same(tmp_path):
    for name in "abc":
        write_picture(tmp_path / f"{name}.jpg", np.random.default_rng(ord(name)), width_px=16)
    (tmp_path / "cases.csv").write_text("file,dx,age\na.jpg,mel,40\nb.jpg,mel\nc.jpg,nv,50\n")
    found = inspect_folder(tmp_path)
    assert 'table = "cases.csv"' in found.proposal
    assert any("unreadable_row), such as line 3: 2 cells, expected 3" in each for each in found.findings)


@pytest.mark.parametrize("own_first", [True, False])
def test_what_the_archive_says_about_its_picture_stands(folder, settings, tmp_path, own_first):
    write_table(folder, [("ISIC_0000001.jpg", "7", "1", "MM", "44", "w", "")])
    download = tmp_path / "download"
    download.mkdir()
    (download / "metadata.csv").write_text(
        "isic_id,image_type,diagnosis_1\nISIC_0000001,dermoscopic,Benign\n"
    )
    shutil.copy(folder / "ISIC_0000001.jpg", download)

    counts = [
        ingest(open_workspace(), source=str(source))["append"]
        for source in ([folder, download] if own_first else [download, folder])
    ]
    again = ingest(open_workspace(), source=str(folder))["append"]

    assert counts[1]["changed"] == own_first
    assert counts[1].get("described_elsewhere", 0) == (not own_first)
    assert (again["changed"], again["described_elsewhere"]) == (0, 1)
    document = scalar("SELECT document FROM record JOIN record_version USING (isic_id, version)")
    assert document["metadata"]["clinical"] == {"diagnosis_1": "Benign"}


@pytest.mark.parametrize("start", [b"PK\x03\x04", b"\xd0\xcf\x11\xe0"])
def test_a_spreadsheet_as_a_table_is_refused_with_what_helps(folder, start):
    (folder / "cases.csv").rename(folder / "cases.xlsx")
    (folder / "cases.xlsx").write_bytes(start + b"\x00\xff" * 500)
    (folder / "lesion-mapping.toml").write_text(changed('"cases.csv"', '"cases.xlsx"'))
    with pytest.raises(UnusableInputError, match=r"cases.xlsx: is a spreadsheet.*save it as CSV"):
        open_download(folder)


@pytest.mark.parametrize(
    ("letters", "meanings"),
    [
        (("H", "M"), {"H": "male", "M": "female"}),
        (("V", "M"), {}),  # `varón` and `mujer`, or `vrouw` and `man`
        (("m", "w"), {"m": "male", "w": "female"}),
        (("M", "F"), {"M": "male", "F": "female"}),
        (("M",), {}),
        (("H", "M", "F"), {}),
    ],
)
def test_columns_of_other_languages_are_proposed_and_letters_only_where_they_are_clear(
    folder, letters, meanings
):
    (folder / "lesion-mapping.toml").unlink()
    columns = ("fichero", "Paciente", "Lesión", "Diagnóstico", "edad", "sexo", "médico")
    names = ("IMG_1.jpg", "IMG_2", "ISIC_0000001.jpg")
    lines = [(name, "7", "1", "x", "44", sex, "") for name, sex in zip(names, letters, strict=False)]
    write_table(folder, lines, columns)
    write_mapping(folder, inspect_folder(folder).proposal, overwrite=False)
    mapping = open_download(folder).mapping
    assert {field: columns for field, (*_, columns) in mapping.columns.items()} == {
        "patient_id": "Paciente",
        "lesion_id": "Lesión",
        "diagnosis": "Diagnóstico",
        "age_approx": "edad",
        "sex": "sexo",
    }
    assert mapping.values.get("sex", {}) == meanings


def test_the_last_level_of_a_diagnosis_alone_is_answered_with_its_path(folder):
    (folder / "lesion-mapping.toml").write_text(
        changed("Benign:Benign melanocytic proliferations:Nevus", "nevus")
    )
    with pytest.raises(
        UnusableInputError, match="did you mean Benign:Benign melanocytic proliferations:Nevus"
    ):
        open_download(folder)
    (folder / "lesion-mapping.toml").write_text(
        changed("Benign:Benign melanocytic proliferations:Nevus", "lunar")
    )
    with pytest.raises(UnusableInputError, match="`lesion terms diagnosis` lists them"):
        open_download(folder)
