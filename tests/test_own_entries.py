"""Entries of one's own: read beside the built-in ones, or refused with every mistake in one message."""

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, fields
from pathlib import Path

import pytest
from click.testing import CliRunner
from documented import fenced

from lesion_tasks import UnusableInputError
from lesion_tasks.catalog import SPLITS, TASKS, VARIANTS, own_entries
from lesion_tasks.catalog.backbones import PresetBackbone, StoredBackbone, find_backbone
from lesion_tasks.catalog.entries import fingerprint
from lesion_tasks.catalog.gates import GATES, check_gates, figures_to_judge, gates_of, measures_of, objections
from lesion_tasks.catalog.new_entry import WRITERS, write_entry
from lesion_tasks.catalog.recipe import GROUPS, Variant
from lesion_tasks.catalog.schedules import SCHEDULES
from lesion_tasks.cli.command_line import lesion
from lesion_tasks.cli.documents import splits_table, variants_table
from lesion_tasks.settings import read_settings

TASK = """
[task.three]
title = "Three"
classes = ["nevus", "melanoma", "keratosis"]
rules = [
  {label = "nevus", path = ["Benign", "Benign melanocytic proliferations"]},
  {label = "melanoma", path = ["Malignant"]},
  {label = "keratosis", path = ["Benign", "Benign epidermal proliferations"]},
]
"""
SPLIT = '[split.three_all]\ntask = "three"\n'
VARIANT = """
[variant.three_mlp]
title = "On metadata"
split = "three_all"
architecture = "metadata_mlp"
side_px = "none"
metadata = ["age_years"]
dense_units = [8]
"""
GATE = """
[[gates.three]]
measure = "macro_auc"
is_leading = true
floor = 0.6
margin = 0
reason = "A reason."
"""
SCHEDULE = '[schedule.train_variants]\ncron = "0 3 * * 1-5"\n'

Write = Callable[..., None]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes files into a catalogue folder that is in force; what was in the catalogue is put back."""
    folder = tmp_path / "catalog"
    folder.mkdir()

    def write_files(**texts: str) -> None:
        for name, text in texts.items():
            (folder / f"{name}.toml").write_text(text)

    monkeypatch.setenv("LESION_CATALOG", str(folder))
    yield write_files
    monkeypatch.undo()
    own_entries.refresh()


def mistakes() -> list[str]:
    with pytest.raises(own_entries.BrokenCatalogueError) as broken:
        read_settings()
    return [line.strip() for line in str(broken.value).splitlines()[1:]]


def test_entries_stand_beside_the_built_in_ones_whichever_files_they_are_in(write: Write) -> None:
    before = {kind: dict(how.entries) for kind, how in own_entries.KINDS.items()}
    write(a=VARIANT + GATE, b=SPLIT, z=TASK + SCHEDULE)
    read_settings()
    variant = VARIANTS["three_mlp"]
    assert (variant.side_px, variant.metadata, variant.task) == (None, ("age_years",), TASKS["three"])
    assert SPLITS["three_all"].task == "three"
    assert [gate.measure for gate in gates_of("three")] == ["macro_auc"]
    assert SCHEDULES["train_variants"].cron == "0 3 * * 1-5"
    for kind, how in own_entries.KINDS.items():
        if kind != "schedule":
            assert before[kind].items() <= how.entries.items(), kind
    write(a="", b="", z="")
    read_settings()
    assert {kind: dict(how.entries) for kind, how in own_entries.KINDS.items()} == before


FLAT = """
[variant.mine]
title = "Mine"
split = "malignancy_natural"
architecture = "transfer"
backbone = "mobilenet_v2"
side_px = 160
metadata = ["age_years"]
fusion = "film"
dense_units = [32]
is_augmented = true
fine_tuning = {learning_rate = 2e-5, unfrozen_from = "block_13"}
batch_size = 16
is_flip_averaged = true
"""
GROUPED = """
[variant.mine]
title = "Mine"
split = "malignancy_natural"
[variant.mine.looks_at]
side_px = 160
metadata = ["age_years"]
[variant.mine.network]
architecture = "transfer"
backbone = "mobilenet_v2"
fusion = "film"
dense_units = [32]
[variant.mine.learns]
is_augmented = true
batch_size = 16
[variant.mine.learns.fine_tuning]
learning_rate = 2e-5
unfrozen_from = "block_13"
[variant.mine.serves]
is_flip_averaged = true
"""


def test_a_variant_in_groups_is_the_same_as_a_flat_one(write: Write) -> None:
    found = []
    for text in (FLAT, GROUPED):
        write(a=text)
        read_settings()
        found.append(VARIANTS["mine"])
    assert found[0] == found[1]
    assert fingerprint(found[0]) == fingerprint(found[1])
    assert sorted(
        [*sum(GROUPS.values(), ()), "name", "title", "split", "reproduces", "search_id", "adjusted"]
    ) == (sorted(one.name for one in fields(Variant)))


def test_what_stands_in_a_wrong_group_or_does_nothing_is_refused(write: Write) -> None:
    wrong = (
        GROUPED.replace("batch_size", "batchsize")
        .replace("side_px = 160", "side_px = 160\ndropout_rate = 0.2")
        .replace('split = "malignancy_natural"', 'split = "malignancy_natural"\nfusion = "gated"')
    )
    write(a=wrong)
    assert mistakes() == [
        "a.toml: [variant.mine] looks_at: dropout_rate belongs to network",
        "a.toml: [variant.mine] network: fusion stands twice, expected it once",
        "a.toml: [variant.mine] learns: unknown field 'batchsize'; did you mean batch_size?, expected one of "
        + ", ".join(GROUPS["learns"]),
    ]
    write(a=FLAT + "conv_filters = [8]\nbias_alpha = 0.5\n")
    assert mistakes() == [
        "a.toml: [variant.mine] conv_filters: does nothing, since architecture is not cnn; leave it out",
        "a.toml: [variant.mine] bias_alpha: does nothing, since loss is not bias; leave it out",
    ]


@pytest.mark.parametrize("name", own_entries.built_in("variant"))
def test_no_built_in_variant_says_what_does_nothing(name: str) -> None:
    assert VARIANTS[name].idle_fields == {}


def test_documents_and_other_folders_know_nothing_of_them(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = variants_table(), splits_table()
    write(a=TASK + SPLIT + VARIANT)
    read_settings()
    assert "three" in TASKS
    assert (variants_table(), splits_table()) == tables
    monkeypatch.setenv("LESION_CATALOG", "/nonexistent")
    assert read_settings().catalog == Path("/nonexistent")
    assert "three" not in TASKS


def test_every_mistake_of_every_file_is_in_one_message(write: Write) -> None:
    write(
        a=TASK.replace("melanoma", "melanom", 1).replace('title = "Three"', "titel = 3"),
        b=SPLIT.replace('"three"', '"tree"') + VARIANT.replace("three_all", "three_al"),
        c="[variants.x]\n[split]\nmore = 1\n",
        d="x = [\n",
        e=VARIANT.replace("age_years", "age").replace("[8]", "[8, 1.5]") + "dropout_rate = nan\n",
        f='[variant.smoke]\ntitle = "x"\n["variant"."Big"]\n[variant.y]\nname = "y"\n[split]\nz = 3\n',
        g='[schedule.tran_variants]\ncron = "* * * * *"\n[[gates.malignancy]]\n[gates.three]\nmeasure = "auc"\n',
    )
    found = mistakes()
    for beginning in (
        "a.toml: [task.three] unknown field 'titel'; did you mean title?, expected one of title, mapping_version",
        "a.toml: [task.three] title: is missing",
        "b.toml: [split.three_all] task: unknown task 'tree'; did you mean three?, expected one of malignancy",
        "b.toml: [variant.three_mlp] split: unknown split 'three_al'; did you mean three_all?, expected one of",
        "c.toml: unknown kind of entry 'variants'; did you mean variant?, expected one of task, split",
        "d.toml: Invalid value",
        "e.toml: [variant.three_mlp] is in b.toml already, expected each name once",
        "f.toml: [variant.smoke] has the name of a built-in entry, expected another name",
        "f.toml: [variant.Big] name: expected lower-case letters",
        "f.toml: [variant.y] has a field 'name', expected it in the heading alone",
        "f.toml: [split.z] is not a table, expected its fields under the heading [split.z]",
        "g.toml: [schedule.tran_variants] unknown schedule 'tran_variants'; did you mean train_variants?",
        "g.toml: [gates.malignancy] has the name of a built-in entry, expected another name",
        "g.toml: [gates.three] is not an array of tables, expected each under the heading [[gates.three]]",
    ):
        assert [line for line in found if line.startswith(beginning)], beginning


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TASK.replace('label = "melanoma"', 'label = "melanom"'), "unknown class 'melanom'; did you mean melanoma?"),
        (TASK.replace(', "keratosis"]', "]"), "a rule has an unknown class 'keratosis'"),
        (TASK.replace('path = ["Malignant"]', "path = []"), "rules[2]: rule of 'melanoma': path is empty"),
        (TASK.replace('"Benign melanocytic proliferations"', ""), "the rule of 'keratosis' for Benign > Benign epid"),
        (TASK + "positive = 'melanoma'\n", "positive is 'melanoma', expected None"),
        (TASK + "val_share = 0.6\ntest_share = 0.5\n", "val and test shares are 0.6 and 0.5"),
        (TASK.replace("keratosis", "Keratosis"), "class 'Keratosis': expected lower-case letters"),
        (TASK + SPLIT + "max_per_class = 0\n", "max_per_class is 0, expected at least 1"),
        (TASK + SPLIT + VARIANT.replace("age_years", "age_year"), "metadata[1]: unknown metadata 'age_year'; did"),
        (TASK + SPLIT + VARIANT + "max_epochs = 2.5\n", "max_epochs: is 2.5, expected a valid integer"),
        (TASK + SPLIT + VARIANT + "is_augmented = 1\n", "is_augmented: is 1, expected a valid boolean"),
        (TASK + SPLIT + VARIANT + "dropout_rate = inf\n", "dropout_rate: is inf, expected a finite number"),
        (TASK + SPLIT + VARIANT + "seed = 2026-01-31\n", "seed: is a date or time"),
        (TASK + SPLIT + VARIANT + "fine_tuning = {rate = 1}\n", "fine_tuning: unknown field 'rate', expected one"),
        (TASK + SPLIT + VARIANT.replace("_mlp\"", "_logistic\""), "dense_units is [8]: a logistic regression has none"),
        (TASK + SPLIT + VARIANT.replace('"none"', "32"), "side_px: metadata_mlp looks at no pictures, expected"),
        (
            TASK + SPLIT + VARIANT.replace("metadata_mlp", "transfer") + "backbone = 'mobilenet_v2'\n",
            "side_px: a backbone looks at pictures, expected a number",
        ),
        (
            TASK + SPLIT + VARIANT.replace("metadata_mlp", "cnn").replace('"none"', "8") + "conv_filters = [4,4,4,4]\n",
            "conv_filters: 4 layers halve 8 pixels to nothing",
        ),
        (TASK + SPLIT + VARIANT + "loss = 'bias'\n", "bias loss needs pooled feature maps"),
        (TASK + GATE.replace("macro_auc", "auc"), "unknown measure 'auc', expected one of macro_auc"),
        (TASK + GATE.replace("true", "false"), "is_leading is true for no gate, expected it for macro_auc alone"),
        (TASK + GATE + GATE, "2 gates on macro_auc, expected one"),
        (TASK + GATE.replace("0.6", "60"), "[1]: gate 'macro_auc': floor is 60 and margin 0, expected 0 to 1 each"),
        (GATE, "unknown task 'three'"),
        ('[schedule.append]\ncron = "61 1 * * *"\n', "minute is '61', expected * or numbers from 0 to 59"),
        ('[schedule.append]\ncron = "1 * * *"\n', "has 4 fields, expected minute, hour"),
        ('[schedule.append]\ncron = "*/0 1 5-2 * *"\n', "minute is '*/0'"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_what_is_allowed(write: Write, text: str, message: str) -> None:
    write(own=text)
    assert [line for line in mistakes() if message in line] != []


def test_a_mistake_in_one_entry_is_not_blamed_on_those_that_name_it(write: Write) -> None:
    write(own=TASK.replace("title", "titel") + SPLIT + VARIANT + GATE)
    assert all("[task.three]" in line for line in mistakes())


MEAN = """
[variant.three_mean]
title = "Their mean"
split = "three_all"
architecture = "ensemble"
members = ["three_mlp", "three_mlp_twice"]
side_px = "none"
metadata = ["age_years"]
"""


def test_an_ensemble_may_name_variants_of_any_file_and_its_misfits_are_named(write: Write) -> None:
    twice = VARIANT.replace("three_mlp", "three_mlp_twice") + "n_folds = 0\nseed = 2\n"
    write(a=MEAN, b=TASK + SPLIT + VARIANT, c=twice)
    read_settings()
    assert VARIANTS["three_mean"].members == ("three_mlp", "three_mlp_twice")
    write(c=twice.replace("n_folds = 0", "n_folds = 5"))
    assert mistakes() == [
        "a.toml: [variant.three_mean] member three_mlp_twice: is itself an average, expected a variant that is trained "
        "once"
    ]
    write(c="")
    assert mistakes()[0].startswith(
        "a.toml: [variant.three_mean] unknown member 'three_mlp_twice'; did you mean three"
    )
    write(c=twice.replace("seed", "sead"))
    assert all(line.startswith("c.toml") for line in mistakes()), "an ensemble is blamed for its member"


def test_a_broken_folder_harms_nothing_that_is_built_in_and_a_mended_one_is_read_at_once(
    write: Write,
) -> None:
    write(own=TASK + SPLIT + VARIANT)
    read_settings()
    assert "three_mlp" in VARIANTS
    write(own=TASK + SPLIT + VARIANT.replace("three_all", "three"))
    assert len(mistakes()) == 1
    assert "three" not in TASKS
    assert "smoke" in VARIANTS
    write(own=TASK + SPLIT + VARIANT)
    read_settings()
    assert VARIANTS["three_mlp"].split == "three_all"


def test_files_that_are_no_text_or_no_files_are_named(write: Write, tmp_path: Path) -> None:
    write(b="x = 1\n", c="#" + "x" * own_entries.MAX_FILE_BYTES)
    (tmp_path / "catalog" / "a.toml").write_bytes(b"\xff\xfe")
    (tmp_path / "catalog" / "d.toml").symlink_to("nowhere")
    (tmp_path / "catalog" / "e.toml").write_text("x = " + "[" * 20_000)
    (tmp_path / "catalog" / ".hidden.toml").write_text("x = [")
    (tmp_path / "catalog" / "notes.txt").write_text("x = [")
    assert [line.partition(":")[0] for line in mistakes()] == [f"{name}.toml" for name in "abcde"]


# ------------------------------------------------------------------------------------------------------- gates


def test_a_task_without_gates_has_stated_ones_and_may_be_asked_for_the_recall_of_a_class(
    write: Write,
) -> None:
    write(own=TASK)
    read_settings()
    (gate,) = gates_of("three")
    assert (gate.measure, gate.floor, gate.is_leading) == ("macro_auc", 0.7, True)
    assert measures_of("three")[-3:] == ("recall_nevus", "recall_melanoma", "recall_keratosis")
    write(own=TASK + GATE + GATE.replace("macro_auc", "recall_melanoma").replace("true", "false"))
    read_settings()
    recall = {"value": 0.5, "low": 0.4, "high": 0.6}
    document = {"figures": {"macro_auc": {"value": 0.9}}, "by_class": {"melanoma": {"recall": recall}}}
    (objection,) = objections(figures_to_judge(document), None, gates_of("three"))
    assert objection.startswith("recall of melanoma 0.5000 is below the floor 0.6000")


def test_the_built_in_gates_keep_the_rules_for_own_ones() -> None:
    for task, gates in GATES.items():
        check_gates(task, gates)


# ----------------------------------------------------------------------------------------------------- commands


def run(*words: str) -> tuple[int, str]:
    found = CliRunner().invoke(lesion, words)
    error = found.exception
    return found.exit_code, found.output + (str(error) if isinstance(error, UnusableInputError) else "")


def test_a_new_entry_of_each_kind_is_valid_as_it_is_written(write: Write, tmp_path: Path) -> None:
    for kind in WRITERS:
        write_entry(kind, "melanoma_or_nevus")
    assert VARIANTS["melanoma_or_nevus"].split == "melanoma_or_nevus"
    assert SPLITS["melanoma_or_nevus"].task == "melanoma_or_nevus"
    assert "melanoma_or_nevus" in GATES
    names = sorted(path.name for path in (tmp_path / "catalog").iterdir())
    assert names == sorted(f"{kind}_melanoma_or_nevus.toml" for kind in WRITERS)
    code, listed = run("catalog")
    assert code == 0
    assert listed.count("melanoma_or_nevus") >= len(WRITERS)


def test_new_gates_of_a_task_of_several_classes_are_valid_too(write: Write) -> None:
    write(own=TASK)
    write_entry("gates", "three")
    assert [gate.measure for gate in gates_of("three")] == ["macro_auc", "balanced_accuracy"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("variant", "smoke"), "there is an entry variant 'smoke' already"),
        (("gates", "malignancy"), "there is an entry gates 'malignancy' already"),
        (("gates", "malignanc"), "unknown task 'malignanc'; did you mean malignancy?"),
        (("task", "Mine"), "name 'Mine': expected lower-case letters"),
        (("split", "mine", "--task", "nope"), "unknown task 'nope'"),
        (("variant", "mine", "--split", "nope"), "unknown split 'nope'"),
        (("variant", "kept"), "exists: it is left as it is"),
    ],
)
def test_nothing_is_written_over_or_beside_an_entry_of_the_name(
    write: Write, tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    write(variant_kept="# mine\n")
    code, said = run("new", *words)
    assert code != 0
    assert message in said
    assert {path.name: path.read_text() for path in (tmp_path / "catalog").iterdir()} == {
        "variant_kept.toml": "# mine\n"
    }


def test_commands_on_a_broken_folder_end_with_its_mistakes_and_help_does_not(write: Write) -> None:
    write(own=TASK.replace("title", "titel"))
    for words in (
        ("variants",),
        ("catalog",),
        ("leaderboard", "--task", "three"),
        ("new", "task", "x"),
        ("train",),
        ("cohorts",),
    ):
        code, said = run(*words)
        assert code == 1, words
        assert "own.toml: [task.three] title: is missing" in said, words
    assert run("--help")[0] == 0


def test_the_query_of_a_cohort_is_read_with_the_catalogue(write: Write) -> None:
    write(own='[cohort.old]\ntitle = "Old"\ntasks = ["malignancy"]\nquery = "age:[70 TO *]"\n')
    code, said = run("catalog")
    assert code == 1
    assert "cohort 'old': query 'age:[70 TO *]': unknown field 'age'; did you mean age_approx?" in said


def test_a_task_of_ones_own_is_a_choice_of_every_command_and_a_misspelt_one_is_named(write: Write) -> None:
    write(own=TASK)
    code, said = run("history", "--task", "thre")
    assert code == 2
    assert "unknown task 'thre'; did you mean three?" in said
    assert f"entries of your own are read from {own_entries.folder()} (LESION_CATALOG)" in said


BACKBONE = """
[backbone.our_net]
files = "our_net_*.keras"
licence = "CC-BY-4.0"
min_side_px = 64
"""
TRANSFER = """
[variant.on_our_net]
title = "On our own network"
split = "malignancy_natural"
architecture = "transfer"
backbone = "our_net"
side_px = 96
"""


def test_a_backbone_of_ones_own_has_a_name_and_what_it_says_is_part_of_it(write: Write) -> None:
    write(a=TRANSFER, b=BACKBONE)
    read_settings()
    backbone = find_backbone(str(VARIANTS["on_our_net"].backbone))
    assert backbone == StoredBackbone(
        name="our_net", files="our_net_*.keras", licence="CC-BY-4.0", min_side_px=64
    )
    code, listed = run("catalog")
    assert code == 0
    assert "our_net_*.keras" in listed
    write(b=BACKBONE.replace("our_net_*.keras", "nets/our_net.h5") + 'preprocessing = "caffe"\n')
    assert mistakes() == [
        "b.toml: [backbone.our_net] files: is 'nets/our_net.h5', expected the name of a .keras file or a pattern such "
        "as our_net_*.keras",
        "b.toml: [backbone.our_net] preprocessing: is in the file itself, which takes pixels 0 to 255; leave it out",
    ]
    preset = '[backbone.our_net]\npreset = "dinov2_small"\nlicence = "Apache-2.0"\n'
    write(b=preset)
    read_settings()
    backbone = find_backbone(str(VARIANTS["on_our_net"].backbone))
    assert backbone == PresetBackbone(name="our_net", preset="dinov2_small", licence="Apache-2.0")
    assert "dinov2_small" in run("catalog")[1]
    write(b=preset + 'files = "our_net_*.keras"\n')
    assert mistakes() == ["b.toml: [backbone.our_net] unknown field 'files', expected one of preset, licence"]
    for address in (
        "s3://ours/dino",
        "hf://dino",
        "hf://ours/dino-2",
        "hf://ours/dino-2@main",
        "kaggle://keras/dinov2/tensorflow/small/1",
        "kaggle://keras/dinov2/keras/dinov2_small",
        "",
    ):
        write(b=preset.replace("dinov2_small", address))
        assert mistakes() == [
            f"b.toml: [backbone.our_net] preset: is {address!r}, expected the name of a folder among the weights, its "
            "path, a name of KerasHub's, or an address of one version: hf://OWNER/NAME@COMMIT with the 40 digits of a "
            "commit, or kaggle://OWNER/MODEL/keras/VARIATION/VERSION"
        ]
    for address in (
        f"hf://ours/dino-2@{'0a' * 20}",
        "kaggle://keras/dinov2/keras/dinov2_small/3",
        "/data/presets/dino",
    ):
        write(b=preset.replace("dinov2_small", address))
        read_settings()
    write(a="", b=BACKBONE.replace("our_net", "mobilenet_v2"))
    assert mistakes() == [
        "b.toml: [backbone.mobilenet_v2] has the name of a model of Keras Applications, expected another name"
    ]


def test_without_a_folder_nothing_is_loaded_for_it() -> None:
    code = "import sys, lesion_tasks.catalog; print(sorted({'pydantic', 'tomllib'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() in ("[]", "['tomllib']")


def test_every_field_of_the_built_in_entries_is_one_that_a_file_can_hold(write: Write) -> None:
    """What asdict gives of an entry is what a file would say; it must come back as the same entry."""
    for kind in ("task", "split", "variant"):
        for name, entry in own_entries.built_in(kind).items():
            content = {
                field: value
                for field, value in asdict(entry).items()
                if field != "name" and value is not None
            }
            nones = {field: "none" for field, value in asdict(entry).items() if value is None}
            built, problems = own_entries.build(kind, name, _as_toml(content) | nones)
            assert (built, problems) == (entry, []), name


def _as_toml(value: object) -> object:
    if isinstance(value, dict):
        return {name: _as_toml(one) for name, one in value.items() if one is not None}
    return [_as_toml(one) for one in value] if isinstance(value, list | tuple) else value


@pytest.mark.parametrize(
    "page", ["docs/your-own-pictures.md", "docs/your-own-question.md", "docs/cohorts.md"]
)
def test_the_entries_of_the_documents_are_valid(write: Write, page: str) -> None:
    entries = [
        block
        for block in fenced(page, "toml")
        if re.search(r"^\[+(task|cohort|variant)\.", block, re.MULTILINE)
    ]
    assert entries
    for number, block in enumerate(entries):
        write(**{f"entries_{number}": block})
    read_settings()
    assert own_entries.listing()
