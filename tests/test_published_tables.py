"""Each published table, as a small made-up one with its columns and classes, is read as its publication means it."""

import asyncio

import numpy as np
import pytest
from archives import write_picture

from lesion_tasks import UnusableInputError
from lesion_tasks.archive.csv_table import read_rows
from lesion_tasks.archive.folder_inspection import inspect_folder
from lesion_tasks.archive.local import LocalListing, open_download
from lesion_tasks.archive.mapped_folder import MappedFolder, Reading
from lesion_tasks.archive.recognition import published_mappings

MELANOMA = "Malignant:Malignant melanocytic proliferations (Melanoma):Melanoma, NOS"
NEVUS = "Benign:Benign melanocytic proliferations:Nevus"
SEBORRHEIC = "Benign:Benign epidermal proliferations:Seborrheic keratosis"
ACTINIC = "Indeterminate:Indeterminate epidermal proliferations:Solar or actinic keratosis"
KERATOSES = "Benign:Benign epidermal proliferations"
BASAL = "Malignant:Malignant adnexal epithelial proliferations - Follicular:Basal cell carcinoma"
DERMATOFIBROMA = "Benign:Benign soft tissue proliferations - Fibro-histiocytic:Dermatofibroma"
SQUAMOUS = "Malignant:Malignant epidermal proliferations:Squamous cell carcinoma, NOS"

# By data set: its tables, and what each row becomes: id, diagnosis, and a few other values.
TABLES = {
    "isic-2016": (
        {"ISBI2016_ISIC_Part3_Training_GroundTruth.csv": "ISIC_0000000,benign\nISIC_0000002,malignant\n"},
        [("ISIC_0000000", "Benign", {"image_type": "dermoscopic"}), ("ISIC_0000002", "Malignant", {})],
    ),
    "isic-2017": (
        {
            "ISIC-2017_Training_Part3_GroundTruth.csv": "image_id,melanoma,seborrheic_keratosis\n"
            "ISIC_0000000,0.0,0.0\nISIC_0000001,1.0,0.0\nISIC_0000002,0.0,1.0\n"
        },
        [
            ("ISIC_0000000", NEVUS, {}),
            ("ISIC_0000001", MELANOMA, {}),
            ("ISIC_0000002", SEBORRHEIC, {}),
        ],
    ),
    "isic-2018": (
        {
            "ISIC2018_Task3_Training_GroundTruth.csv": "image,MEL,NV,BCC,AKIEC,BKL,DF,VASC\n"
            "ISIC_0024306,0.0,1.0,0.0,0.0,0.0,0.0,0.0\nISIC_0024307,0.0,0.0,0.0,1.0,0.0,0.0,0.0\n"
            "ISIC_0024308,0.0,0.0,0.0,0.0,0.0,0.0,1.0\nISIC_0024309,1.0,1.0,0.0,0.0,0.0,0.0,0.0\n",
            "ISIC2018_Task3_Training_LesionGroupings.csv": "image,lesion_id,diagnosis_confirm_type\n"
            "ISIC_0024306,HAM_0000550,histopathology\n",
        },
        [
            ("ISIC_0024306", NEVUS, {"lesion_id": "isic-2018.lesion:HAM_0000550"}),
            ("ISIC_0024307", "Indeterminate:Indeterminate epidermal proliferations", {}),
            ("ISIC_0024308", "Benign", {}),
            ("ISIC_0024309", "two_classes", {}),
        ],
    ),
    "isic-2019": (
        {
            "ISIC_2019_Training_GroundTruth.csv": "image,MEL,NV,BCC,AK,BKL,DF,VASC,SCC,UNK\n"
            "ISIC_0000000_downsampled,0,1,0,0,0,0,0,0,0\nISIC_0000001,0,0,0,0,0,0,0,1,0\n"
            "ISIC_0000002,0,0,0,0,0,0,0,0,1\n",
            "ISIC_2019_Training_Metadata.csv": "image,age_approx,anatom_site_general,lesion_id,sex\n"
            "ISIC_0000000_downsampled,55,anterior torso,MSK4_0011169,female\nISIC_0000001,,palms/soles,,male\n",
        },
        [
            (
                "isic-2019.ISIC_0000000_downsampled",
                NEVUS,
                {"age_approx": 55, "anatom_site_2": "Anterior trunk", "sex": "female"},
            ),
            ("ISIC_0000001", SQUAMOUS, {"anatom_site_1": None}),
            ("ISIC_0000002", None, {}),
        ],
    ),
    "isic-2020": (
        {
            "ISIC_2020_Training_GroundTruth.csv": "image_name,patient_id,sex,age_approx,"
            "anatom_site_general_challenge,diagnosis,benign_malignant,target\n"
            "ISIC_2637011,IP_7279968,male,45,head/neck,unknown,benign,0\n"
            "ISIC_0015719,IP_3075186,female,45,torso,melanoma,malignant,1\n"
            "ISIC_0052212,IP_2842074,,,,lichenoid keratosis,benign,0\n"
        },
        [
            ("ISIC_2637011", "Benign", {"patient_id": "IP_7279968", "anatom_site_1": "Head and neck"}),
            ("ISIC_0015719", MELANOMA, {"sex": "female"}),
            ("ISIC_0052212", f"{KERATOSES}:Lichen planus like keratosis", {"sex": None}),
        ],
    ),
    "ham10000": (
        {
            "HAM10000_metadata": "lesion_id,image_id,dx,dx_type,age,sex,localization\n"
            "HAM_0000118,ISIC_0027419,bkl,histo,80.0,male,scalp\nHAM_0000119,ISIC_0027420,mel,follow_up,,unknown,acral\n"
            "HAM_0000120,ISIC_0027421,xyz,consensus,5.0,female,unknown\n"
        },
        [
            (
                "ISIC_0027419",
                KERATOSES,
                {
                    "lesion_id": "ham10000.lesion:HAM_0000118",
                    "diagnosis_confirm_type": "histopathology",
                    "age_approx": 80,
                    "anatom_site_3": "Scalp",
                },
            ),
            ("ISIC_0027420", MELANOMA, {"sex": None, "anatom_site_1": None, "age_approx": None}),
            ("ISIC_0027421", None, {}),
        ],
    ),
    "bcn20000": (
        {
            "bcn_20k_train.csv": "bcn_filename,age_approx,anatom_site_general,diagnosis,lesion_id,"
            "capture_date,sex,split\n"
            "BCN_0000000001.jpg,55.0,anterior torso,MEL,BCN_0003884,2012-05-16,male,train\n"
            "BCN_0000000003.jpg,50.0,oral/genital,DF,BCN_0000019,2015-07-09,female,train\n"
        },
        [
            (
                "bcn20000.BCN_0000000001",
                MELANOMA,
                {"lesion_id": "bcn20000.lesion:BCN_0003884", "age_approx": 55},
            ),
            ("bcn20000.BCN_0000000003", DERMATOFIBROMA, {"anatom_site_1": None}),
        ],
    ),
    "pad-ufes-20": (
        {
            "metadata.csv": "patient_id,lesion_id,age,gender,fitspatrick,region,diameter_1,diameter_2,diagnostic,"
            "img_id,biopsed\nPAT_8,15,55,FEMALE,3.0,NECK,6.0,5.0,SCC,PAT_8_15_820.png,True\n"
            "PAT_9,15,77,,,NOSE,,,ACK,PAT_9_15_1.png,False\n"
        },
        [
            (
                "pad-ufes-20.PAT_8_15_820",
                "Malignant:Malignant epidermal proliferations",
                {
                    "patient_id": "pad-ufes-20.patient:PAT_8",
                    "lesion_id": "pad-ufes-20.lesion:PAT_8/15",
                    "fitzpatrick_skin_type": "III",
                    "clin_size_long_diam_mm": "6.00",
                    "diagnosis_confirm_type": "histopathology",
                },
            ),
            ("pad-ufes-20.PAT_9_15_1", ACTINIC, {"diagnosis_confirm_type": None}),
        ],
    ),
    "ddi": (
        {
            "ddi_metadata.csv": ",DDI_ID,DDI_file,skin_tone,malignant,disease\n"
            "0,1,000001.png,56,True,melanoma-in-situ\n1,2,000002.png,12,False,hyperpigmentation\n"
            "2,3,000003.png,34,True,something-new\n"
        },
        [
            (
                "ddi.000001",
                "Malignant:Malignant melanocytic proliferations (Melanoma):Melanoma in situ",
                {"fitzpatrick_skin_type_group": "V-VI", "fitzpatrick_skin_type": None},
            ),
            ("ddi.000002", "Benign", {}),
            ("ddi.000003", "Malignant", {}),
        ],
    ),
    "derm7pt": (
        {
            "meta/meta.csv": "case_num,diagnosis,seven_point_score,location,sex,clinic,derm,case_id\n"
            "1,clark nevus,0,lower limbs,male,NEL/Nel027.jpg,NEL/Nel026.jpg,\n"
        },
        [
            (
                "derm7pt.NEL-Nel026-*",
                f"{NEVUS}:Nevus, Atypical, Dysplastic, or Clark",
                {"image_type": "dermoscopic", "lesion_id": "derm7pt.lesion:1"},
            ),
            (
                "derm7pt.NEL-Nel027-*",
                f"{NEVUS}:Nevus, Atypical, Dysplastic, or Clark",
                {"image_type": "clinical: close-up", "lesion_id": "derm7pt.lesion:1"},
            ),
        ],
    ),
    "fitzpatrick17k": (
        {
            "fitzpatrick17k.csv": "md5hash,fitzpatrick_scale,fitzpatrick_centaur,label,nine_partition_label,"
            "three_partition_label,qc,url,url_alphanum\n"
            "5e82a45bc5d78bd24ae9202d194423f8,3,3,melanoma,malignant melanoma,malignant,,,\n"
            "fa2911a9b13b6f8af79cb700937cc14f,-1,1,psoriasis,inflammatory,non-neoplastic,,,\n"
        },
        [
            (
                "fitzpatrick17k.5e82a45bc5d78bd24ae9202d194423f8",
                "Malignant:Malignant melanocytic proliferations (Melanoma)",
                {"fitzpatrick_skin_type": "III"},
            ),
            (
                "fitzpatrick17k.fa2911a9b13b6f8af79cb700937cc14f",
                "Benign:Inflammatory or infectious diseases",
                {"fitzpatrick_skin_type": None},
            ),
        ],
    ),
    "mra-midas": (
        {
            "release_midas.csv": "midas_record_id,midas_file_name,midas_iscontrol,midas_distance,midas_path,"
            "midas_gender,midas_age,midas_fitzpatrick,length_(mm),width_(mm)\n"
            'S-PRD-1,s-prd-1.jpg,no,dscope,malignant- bcc,male,60,"ii fair skin, blue eyes",5,8.5\n'
            "S-PRD-1,s-prd-2.jpg,yes,6in,,male,60,unknown,,\n"
        },
        [
            (
                "mra-midas.s-prd-1",
                BASAL,
                {
                    "image_type": "dermoscopic",
                    "fitzpatrick_skin_type": "II",
                    "sex": "male",
                    "clin_size_long_diam_mm": "8.50",
                },
            ),
            ("mra-midas.s-prd-2", None, {"image_type": "clinical: close-up"}),
        ],
    ),
}


B, M, U = "Benign", "Malignant", "Indeterminate"
EIGHT = {"MEL": M, "NV": B, "BCC": M, "AK": U, "BKL": B, "DF": B, "VASC": B, "SCC": M}
# By data set: every class of its publication, and the first level that it becomes; None: it has no counterpart.
CLASSES = {
    "isic-2016": {"benign": B, "malignant": M},
    "isic-2017": {"melanoma": M, "seborrheic_keratosis": B, "none of them": B},
    "isic-2018": {"MEL": M, "NV": B, "BCC": M, "AKIEC": U, "BKL": B, "DF": B, "VASC": B},
    "isic-2019": {**EIGHT, "UNK": None},
    "isic-2020": {
        "melanoma": M, "nevus": B, "seborrheic keratosis": B, "lichenoid keratosis": B, "solar lentigo": B,
        "lentigo NOS": B, "cafe-au-lait macule": B, "atypical melanocytic proliferation": U,
    },
    "ham10000": {"mel": M, "nv": B, "bcc": M, "akiec": U, "bkl": B, "df": B, "vasc": B},
    "bcn20000": EIGHT,
    "pad-ufes-20": {"ACK": U, "BCC": M, "MEL": M, "NEV": B, "SCC": M, "SEK": B},
    # 78 diseases; those that stand for the ways in which they are read.
    "ddi": {
        "melanoma": M, "melanoma-in-situ": M, "basal-cell-carcinoma": M, "squamous-cell-carcinoma-in-situ": M,
        "mycosis-fungoides": M, "actinic-keratosis": U, "melanocytic-nevi": B, "seborrheic-keratosis": B,
        "epidermal-cyst": B, "verruca-vulgaris": B, "dermatofibroma": B, "eczema-spongiotic-dermatitis": B,
        "hematoma": None, "hyperpigmentation": None, "leukemia-cutis": None,
    },
    "derm7pt": {
        "basal cell carcinoma": M, "blue nevus": B, "clark nevus": B, "combined nevus": B, "congenital nevus": B,
        "dermal nevus": B, "recurrent nevus": B, "reed or spitz nevus": B, "dermatofibroma": B, "lentigo": B,
        "melanosis": B, "melanoma": M, "melanoma (in situ)": M, "melanoma (less than 0.76 mm)": M,
        "melanoma (0.76 to 1.5 mm)": M, "melanoma (more than 1.5 mm)": M, "melanoma metastasis": M,
        "seborrheic keratosis": B, "vascular lesion": B, "miscellaneous": None,
    },
    "fitzpatrick17k": {
        "malignant melanoma": M, "malignant epidermal": M, "malignant dermal": M, "malignant cutaneous lymphoma": M,
        "benign melanocyte": B, "benign epidermal": B, "benign dermal": B, "inflammatory": B, "genodermatoses": None,
    },
    "mra-midas": {
        "malignant- bcc": M, "malignant- melanoma": M, "malignant- scc": M, "malignant- sccis": M, "malignant- ak": U,
        "malignant- other": M, "benign-melanocytic nevus": B, "benign-seborrheic keratosis": B,
        "benign-dermatofibroma": B, "benign-hemangioma": B, "benign-fibrous papule": B, "benign-other": B,
        "melanocytic tumor, possible re-excision (severe, spitz, aimp)": U,
        "other- non-neoplastic, inflammatory, infectious": None,
    },
}  # fmt: skip
# One class to a column, or a table without a header, which is recognised by its classes.
NEVER_UNKNOWN = {"isic-2016", "isic-2017", "isic-2018", "isic-2019"}


def written(folder, tables):
    """Write tables and a picture for each name of one in them."""
    mapping = None
    for name, text in tables.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    mapping = open_download(folder).mapping
    columns = list(mapping.image)
    for _, row in read_rows(MappedFolder(folder, mapping).table, MappedFolder(folder, mapping).form):
        for column in columns:
            name = row[column]
            path = folder / "pictures" / (name if "." in name else f"{name}.jpg")
            path.parent.mkdir(parents=True, exist_ok=True)
            write_picture(path, np.random.default_rng(0), width_px=16)
    return folder


@pytest.mark.parametrize("namespace", TABLES)
def test_a_published_table_is_recognised_and_read(namespace, tmp_path):
    tables, expected = TABLES[namespace]

    download = open_download(written(tmp_path, tables))

    assert download.namespace == namespace
    records = list(download.records())
    assert len(records) == len(expected)
    for record, (isic_id, diagnosis, others) in zip(records, expected, strict=True):
        assert record["isic_id"] == isic_id or record["isic_id"].startswith(isic_id.rstrip("*"))
        values = {**record["metadata"]["acquisition"], **record["metadata"]["clinical"]}
        levels = [values[f"diagnosis_{level}"] for level in range(1, 6) if f"diagnosis_{level}" in values]
        found = getattr(record, "reason", None) or ":".join(levels) or None
        assert found == diagnosis
        assert {name: values.get(name) for name in others} == others


def test_every_mapping_has_a_table_here_and_says_where_it_comes_from():
    assert {mapping.namespace for mapping in published_mappings()} == set(TABLES)
    assert [m.title for m in published_mappings() if not (m.title and m.cited)] == []


def test_every_class_of_a_publication_becomes_what_it_means_or_has_no_counterpart():
    for mapping in published_mappings():
        meanings, without = mapping.values["diagnosis"], mapping.no_counterpart.get("diagnosis", frozenset())
        told = {
            name: None if name in without else meanings[name].split(":")[0]
            for name in CLASSES[mapping.namespace]
        }
        assert told == CLASSES[mapping.namespace], mapping.namespace
    for namespace in (
        "derm7pt",
        "fitzpatrick17k",
        "pad-ufes-20",
        "ham10000",
        "bcn20000",
        "isic-2018",
        "isic-2019",
    ):
        (mapping,) = [one for one in published_mappings() if one.namespace == namespace]
        known = {*mapping.values["diagnosis"], *mapping.no_counterpart.get("diagnosis", ())}
        assert known == set(CLASSES[namespace]), namespace


@pytest.mark.parametrize("namespace", sorted(TABLES.keys() - NEVER_UNKNOWN))
def test_a_class_that_no_publication_has_is_counted_and_never_guessed(namespace, tmp_path):
    tables, _ = TABLES[namespace]
    name, text = next(iter(tables.items()))
    lines = [line.split(",") for line in text.splitlines()]
    row, column = next(
        (i, j) for i, line in enumerate(lines) for j, value in enumerate(line) if value in CLASSES[namespace]
    )
    lines[row][column] = "no such disease"
    download = open_download(written(tmp_path, {**tables, name: "\n".join(map(",".join, lines)) + "\n"}))
    reading = Reading()
    records = list(download.read(reading))
    assert reading.unknown["diagnosis"]["no such disease"] == 1  # a row counts once
    n_pictures = 2 if namespace == "derm7pt" else 1  # of each case
    assert {
        record["metadata"]["clinical"].get("diagnosis_2")
        for record in records[row - 1 : row - 1 + n_pictures]
    } == {None}


def test_values_without_counterpart_and_unknown_ones_are_counted_apart(tmp_path):
    download = open_download(written(tmp_path, TABLES["ddi"][0]))
    reading = Reading()
    list(download.read(reading))
    assert dict(reading.no_counterpart["diagnosis"]) == {"hyperpigmentation": 1}
    assert dict(reading.unknown["diagnosis"]) == {"something-new": 1}


def test_skin_tone_scales_are_never_converted():
    for mapping in published_mappings():
        scales = {
            "fitzpatrick_skin_type",
            "fitzpatrick_skin_type_group",
            "monk_skin_tone",
        } & mapping.columns.keys()
        assert len(scales) <= 1


def test_an_inspection_writes_down_a_published_mapping_that_reads_the_same(tmp_path):
    folder = written(tmp_path, TABLES["isic-2019"][0])
    before = list(open_download(folder).records())
    (folder / "lesion-mapping.toml").write_text(inspect_folder(folder).proposal)
    assert list(open_download(folder).records()) == before


def test_photographs_that_no_default_query_takes_are_named_with_the_remedy(tmp_path):
    folder = written(tmp_path, TABLES["pad-ufes-20"][0])
    said = [
        one for one in inspect_folder(folder).findings if one.startswith("image_type is 'clinical: close-up'")
    ]
    assert len(said) == 1
    assert "`lesion ingest --query ''` takes every kind" in said[0]
    listing = LocalListing(folder, query="image_type:dermoscopic", collections="")
    with pytest.raises(UnusableInputError, match=r"an empty query .* takes every kind"):
        asyncio.run(listing.poll())
