"""Which way imports point: the path, written once. A folder or module imports only from those listed before it."""

import ast
import re
import subprocess
import sys
import tomllib
from collections import defaultdict
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from lesion_tasks import ROOMS

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "lesion_tasks"

MOST_ROOT_MODULES = 8
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")
ARCHIVE_SERVER_FILES = sorted((ROOT / "archive_server").rglob("*.py"))
# What is run and what is looked for by its place: any package may have one.
PLACES = {"__init__", "__main__"}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@cache
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
    return {name for name in modules if name in ROOMS}


def test_the_list_names_every_room_and_no_other() -> None:
    assert {room_of(path) for path in FILES} == set(ROOMS)


def test_the_root_holds_few_modules() -> None:
    assert len(list(PACKAGE.glob("*.py"))) <= MOST_ROOT_MODULES


def test_no_two_files_share_a_stem() -> None:
    """Nor a file and a folder, which people look for by the same word."""
    places = defaultdict(list)
    for path in PACKAGE.rglob("__init__.py"):
        places[path.parent.name].append(str(path.parent.relative_to(ROOT)))
    for path in (*FILES, *ARCHIVE_SERVER_FILES):
        if path.stem not in PLACES and "versions" not in path.parts:
            places[path.stem].append(str(path.relative_to(ROOT)))
    assert {stem: where for stem, where in places.items() if len(where) > 1} == {}


def test_no_two_templates_share_a_name() -> None:
    """Pages look for those of reports too: the first of two would hide the other."""
    names = [path.name for path in PACKAGE.rglob("*.j2")]
    assert len(names) == len(set(names)) > 0


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_come_from_rooms_before(path: Path) -> None:
    own = ROOMS.index(room_of(path))
    after = [room for room in rooms_imported_by(path) if ROOMS.index(room) > own]
    assert after == [], f"{room_of(path)} imports from {after}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_imports_airflow_or_the_stand_in_archive(path: Path) -> None:
    assert {name.split(".")[0] for name in imports_of(path)} & {"airflow", "archive_server"} == set()


MOST_BY_POSITION = 6


@pytest.mark.parametrize(
    "path", [*FILES, *ARCHIVE_SERVER_FILES], ids=lambda path: str(path.relative_to(ROOT))
)
def test_many_values_are_handed_over_by_name(path: Path) -> None:
    """A swap of two would be silent. What is decorated, a command or a route, is called by name anyway."""
    functions = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)]
    long = [
        one.name
        for one in functions
        if not one.decorator_list
        and len([arg for arg in one.args.args if arg.arg not in ("self", "cls")]) > MOST_BY_POSITION
    ]
    assert long == []


def test_numbers_that_people_read_are_written_by_one_module() -> None:
    """A format writes a hyphen for a minus, and no space before a per cent sign; `catalog.printed_numbers` does not."""
    for room in ("catalog", "ingest", "splits", "metrics", "promotion", "reports", "pages"):
        for path in (ROOT / "lesion_tasks" / room).glob("*.py"):
            signs = [
                node.lineno
                for node in ast.walk(ast.parse(path.read_text()))
                if isinstance(node, ast.FormattedValue)
                and node.format_spec
                and re.search(r"\+|%'$", ast.unparse(node.format_spec))
            ]
            assert not signs, f"{path}: lines {signs}"


@pytest.mark.parametrize("path", ARCHIVE_SERVER_FILES, ids=lambda path: path.stem)
def test_the_stand_in_archive_knows_the_outer_door_alone(path: Path) -> None:
    assert rooms_imported_by(path) <= {"progress", "scratch", "addresses", "catalog", "settings", "archive"}


def test_the_package_itself_imports_no_room_until_it_is_asked() -> None:
    """It stands before all rooms, for the errors that they raise; `open_champion` is the door for whoever uses it."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    at_once = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert {node.module for node in at_once if isinstance(node, ast.ImportFrom)} == {"pathlib", "typing"}
    assert [node for node in at_once if isinstance(node, ast.Import)] == []


def test_no_module_is_imported_in_a_circle() -> None:
    """At the top of modules: what is imported inside a function comes later, and may come from anywhere before."""
    graph: dict[str, set[str]] = {}
    for path in FILES:
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        nodes = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.ImportFrom)]
        graph[name] = {f"{node.module}.{alias.name}" for node in nodes for alias in node.names}
    # What is no module is a name in one.
    for name, found in graph.items():
        graph[name] = {one if one in graph else one.rpartition(".")[0] for one in found} & set(graph) - {name}
    assert list(TopologicalSorter(graph).static_order())


# Which extras a folder may count on, besides what is always installed: a module is imported where it is used.
OF_THE_PRODUCT = ("airflow", "train", "local", "heic", "dicom", "onnx", "litert", "kerashub")
EXTRAS = {
    "lesion_tasks": OF_THE_PRODUCT,
    "archive_server": (),
    "dags": ("airflow",),
    "plugins": ("airflow",),
    "docker": ("cluster",),
    **dict.fromkeys(
        ("tests", "ui_tests", "stack_tests", "benchmarks", "requirements"), (*OF_THE_PRODUCT, "dev")
    ),
}
# Modules whose distribution has another name.
DISTRIBUTIONS = {
    "PIL": "pillow",
    "airflow": "apache-airflow",
    "markdown_it": "markdown-it-py",
    "opentelemetry": "opentelemetry-api",
    "psycopg2": "psycopg2-binary",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}


def distribution(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@cache
def declared(*extras: str) -> set[str]:
    """The distributions that pyproject.toml names for an installation with these extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [
        *project["dependencies"],
        *(line for name in extras for line in project["optional-dependencies"][name]),
    ]
    return {distribution(re.match(r"[\w.-]+", line)[0]) for line in lines}  # type: ignore[index]


def undeclared(names: set[str], extras: tuple[str, ...]) -> set[str]:
    """Top modules of `names` that come neither with Python, nor from this repository, nor from what is declared."""
    ours = {one.stem for folder in EXTRAS for one in (ROOT / folder).glob("*.py")} | set(EXTRAS)
    tops = {name.split(".")[0] for name in names} - ours - set(sys.stdlib_module_names)
    return {top for top in tops if distribution(DISTRIBUTIONS.get(top, top)) not in declared(*extras)}


@pytest.mark.parametrize("folder", EXTRAS)
def test_what_is_imported_is_declared(folder: str) -> None:
    """What comes by way of something else goes when that no longer needs it."""
    found = {
        str(path.relative_to(ROOT)): missing
        for path in sorted((ROOT / folder).rglob("*.py"))
        if (missing := undeclared(imports_of(path), EXTRAS[folder]))
    }
    assert found == {}


STEPS = (
    "ingest.passes", "curation.curate", "splits.split", "pixels.materialize", "training.train",
    "evaluation.evaluate", "promotion.promote",
)  # fmt: skip


def test_the_command_line_starts_without_what_most_commands_do_not_need() -> None:
    """Half a second is noticed at each command: the database, pydantic and tables come when a command asks for them."""
    late = ("sqlalchemy", "pydantic", "numpy", "jinja2", "rich", "yarl", "aiohttp", "boto3")
    program = f"import lesion_tasks.__main__, sys; print([name for name in {late!r} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("module", ["__main__", *STEPS])
def test_a_step_is_imported_without_anything_heavy(module: str) -> None:
    heavy = ("tensorflow", "keras", "pandas", "pandera", "sklearn", "matplotlib")
    program = f"import lesion_tasks.{module}, sys; print([name for name in {heavy!r} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"
