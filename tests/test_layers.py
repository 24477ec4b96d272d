"""Which way imports point. The table of layers is the rule, written once; a module may use those above it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "lesion_tasks"

LAYERS = (
    {
        "settings",
        "backbones",
        "catalog",
        "adjust",
        "vocabulary",
        "progress",
        "grouping",
        "look_alikes",
        "square",
        "gates",
        "scratch",
        "cleaning",
    },  # words and pure rules
    {"schema", "store", "archive", "archive_server"},  # doors
    {"local"},
    {"database", "migrations"},
    {
        "rules",
        "manifest",
        "masks",
        "copies",
        "regroup",
        "lesions",
        "balance",
        "funnel",
        "manifest_checks",
        "training_row",
    },
    {"members", "manifest_rows"},
    {"evaluation"},  # pure figures and pages
    {"dataset", "in_memory", "accelerator", "model", "prediction", "training_loop", "predictions"},  # tensors
    {"sampling", "features", "segmentation"},
    {"engine"},
    {"leaderboard", "case", "comparison", "data_report", "training_job", "search"},
    {"checks", "explain"},
    {"ingest", "curate", "split", "materialize", "train", "evaluate", "promote"},  # steps
    {"prepare", "reference", "predict"},  # what callers put before and after steps
    {"__main__"},
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
STEPS = next(names for names in LAYERS if "train" in names)


def module_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_modules(path: Path) -> set[str]:
    """Modules of this package that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lesion_tasks."):
            found.add(str(node.module).split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("lesion_tasks.")}
    return found


FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE or path.stem != "__init__")


def test_every_module_has_a_layer() -> None:
    assert {module_of(path) for path in FILES} == set(LEVEL)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_up_the_table(path: Path) -> None:
    own = module_of(path)
    if own == "local":
        return  # starts what the steps run on: it may know all of them, but see the next test
    for other in imported_modules(path) - {own}:
        if (own, other) == ("database", "local"):
            continue  # the embedded Postgres
        assert LEVEL[other] <= LEVEL[own], f"{own} imports {other}"
        assert not (own in STEPS and other in STEPS), f"step {own} imports step {other}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_imports_airflow(path: Path) -> None:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").split(".")[0])
    assert "airflow" not in names


@pytest.mark.parametrize(
    "module", ["lesion_tasks.__main__", *(f"lesion_tasks.{name}" for name in sorted(STEPS))]
)
def test_a_step_is_imported_without_anything_heavy(module: str) -> None:
    heavy = ("tensorflow", "keras", "pandas", "pandera", "sklearn", "matplotlib")
    probe = f"import {module}, sys; print([name for name in {heavy!r} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"
