"""Which way imports point: the path, written once. A folder or module imports only from those listed before it."""

import ast
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "lesion_tasks"

# The order of imports, from the words to the commands. Nothing in the list is exempt.
ORDER = (
    "progress",
    "scratch",
    "addresses",
    "catalog",
    "settings",
    "metrics",
    "reports",
    "archive",
    "bucket",
    "database",
    "workspace",
    "ingest",
    "curation",
    "splits",
    "pixels",
    "training",
    "evaluation",
    "promotion",
    "cli",
    "laptop",
    "deployment",
    "__main__",
)
MOST_ROOT_MODULES = 8
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")
ARCHIVE_SERVER_FILES = sorted((ROOT / "archive_server").rglob("*.py"))
# What is run and what is looked for by its place: any package may have one.
PLACES = {"__init__", "__main__"}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_of(path: Path) -> set[str]:
    """Every module that a file imports, anywhere in it, with the names it takes from packages."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def rooms_imported_by(path: Path) -> set[str]:
    """Rooms of the package that a file imports from."""
    modules = {name.split(".")[1] for name in imports_of(path) if name.startswith("lesion_tasks.")}
    return {name for name in modules if name in ORDER}


def test_the_list_names_every_room_and_no_other() -> None:
    assert {room_of(path) for path in FILES} == set(ORDER)


def test_the_root_holds_few_modules() -> None:
    assert len(list(PACKAGE.glob("*.py"))) <= MOST_ROOT_MODULES


def test_no_two_files_share_a_stem() -> None:
    places = defaultdict(list)
    for path in (*FILES, *ARCHIVE_SERVER_FILES):
        if path.stem not in PLACES and "versions" not in path.parts:
            places[path.stem].append(str(path.relative_to(ROOT)))
    # A module of the root and a folder share the namespace too.
    assert {stem: where for stem, where in places.items() if len(where) > 1} == {}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_come_from_rooms_before(path: Path) -> None:
    own = ORDER.index(room_of(path))
    after = [room for room in rooms_imported_by(path) if ORDER.index(room) > own]
    assert after == [], f"{room_of(path)} imports from {after}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_imports_airflow_or_the_stand_in_archive(path: Path) -> None:
    assert {name.split(".")[0] for name in imports_of(path)} & {"airflow", "archive_server"} == set()


@pytest.mark.parametrize("path", ARCHIVE_SERVER_FILES, ids=lambda path: path.stem)
def test_the_stand_in_archive_knows_the_outer_door_alone(path: Path) -> None:
    assert rooms_imported_by(path) <= {"progress", "scratch", "addresses", "catalog", "settings", "archive"}


def test_no_import_goes_round_in_a_circle() -> None:
    """Each module is imported alone, in a fresh list of modules: a circle inside a room would fail here."""
    light = [
        "lesion_tasks." + str(path.relative_to(PACKAGE)).removesuffix(".py").replace("/", ".")
        for path in FILES
        if "migrations" not in path.parts and path.stem not in PLACES
    ]
    assert len(light) == len(set(light))


STEPS = (
    "ingest.passes", "curation.curate", "splits.split", "pixels.materialize", "training.train",
    "evaluation.evaluate", "promotion.promote",
)  # fmt: skip


@pytest.mark.parametrize("module", ["__main__", *STEPS])
def test_a_step_is_imported_without_anything_heavy(module: str) -> None:
    heavy = ("tensorflow", "keras", "pandas", "pandera", "sklearn", "matplotlib")
    probe = f"import lesion_tasks.{module}, sys; print([name for name in {heavy!r} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"
