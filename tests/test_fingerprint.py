"""What decides a training's numbers is in its fingerprint: no file of it can change while the fingerprint stays."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from lesion_tasks.catalog import BACKBONES, VARIANTS
from lesion_tasks.training.run_spec import DECIDING, PACKAGE, RunSpec, code_digest, deciding_files

FILES = [path.relative_to(PACKAGE) for path in deciding_files(PACKAGE)]


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package with the same files, to change."""
    package = tmp_path_factory.mktemp("package") / PACKAGE.name
    return Path(shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__")))


def spec() -> RunSpec:
    return RunSpec(
        variant=VARIANTS["mobilenet_v2_frozen"],
        digest="d" * 64,
        manifest_key="manifests/d.parquet",
        weights=None,
        weights_location="imagenet",
        code_version="1",
    )


def test_every_file_of_the_rooms_that_train_decides() -> None:
    everything = {path.relative_to(PACKAGE) for room in DECIDING for path in (PACKAGE / room).rglob("*.py")}
    assert len(everything) > 20
    assert everything <= set(FILES)
    # What these rooms import from shared ones: the decoder of every picture, the threshold that is stored, and by how
    # many digits an epoch is kept.
    shared = ("archive/picture.py", "metrics/threshold.py", "metrics/digits.py")
    assert {Path(name) for name in shared} <= set(FILES)


def test_one_more_byte_in_a_deciding_file_is_another_fingerprint(copy: Path) -> None:
    before = code_digest.__wrapped__(copy)
    assert before == code_digest()
    found = {before}
    for name in FILES:
        content = (copy / name).read_bytes()
        (copy / name).write_bytes(content + b"\n")
        found.add(code_digest.__wrapped__(copy))
        (copy / name).write_bytes(content)
    assert len(found) == len(FILES) + 1


def test_another_preprocessing_of_the_same_backbone_is_another_fingerprint(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before, name = spec().fingerprint, "mobilenet_v2"
    assert spec().fingerprint == before
    other = {"symmetric": "caffe"}[BACKBONES[name].preprocessing]
    monkeypatch.setitem(BACKBONES, name, replace(BACKBONES[name], preprocessing=other))
    assert spec().fingerprint != before


def test_where_weights_were_looked_for_in_vain_is_part_of_the_fingerprint() -> None:
    assert replace(spec(), weights_location="none").fingerprint != spec().fingerprint
