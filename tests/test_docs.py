"""The documents say what the code says."""

import re
from pathlib import Path

import pytest

from lesion_tasks.__main__ import lesion
from lesion_tasks.cli.documents import DOCUMENTS, ROOT, with_parts
from lesion_tasks.settings import Settings

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


@pytest.mark.parametrize("name", DOCUMENTS)
def test_generated_parts_are_up_to_date(name: str) -> None:
    document = (ROOT / name).read_text()
    assert "<!-- generated: " in document
    assert with_parts(document) == document, "run `make docs`"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_documents_lead_somewhere(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", page.read_text()):
        if "://" not in target:
            linked = page.parent / target if target else page
            assert linked.exists(), target
            assert not anchor or linked.suffix != ".md" or anchor in anchors_of(linked), f"{target}#{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_code_that_a_document_names_exists(page: Path) -> None:
    named = set(re.findall(r"\b((?:[a-z_]+/)+\w+\.py)\b", page.read_text()))
    assert {
        name for name in named if not ((ROOT / name).is_file() or (ROOT / "lesion_tasks" / name).is_file())
    } == set()


def anchors_of(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


LONGEST_LINE = 120


def test_the_prose_of_the_results_fits_into_a_window() -> None:
    """A row of a table, a command and a heading cannot be broken."""
    lines = (ROOT / "docs" / "results.md").read_text().splitlines()
    inside = [line.lstrip().startswith("```") for line in lines]
    is_code = [sum(inside[: i + 1]) % 2 == 1 or inside[i] for i in range(len(lines))]
    long = [
        number
        for number, line in enumerate(lines, start=1)
        if len(line) > LONGEST_LINE and not is_code[number - 1] and not line.lstrip().startswith(("|", "#"))
    ]
    assert long == []


MOST_WORDS = 30  # of the glossary: as many as a newcomer reads


def test_the_glossary_is_short_and_has_each_word_once() -> None:
    glossary = (ROOT / "docs" / "architecture.md").read_text().partition("\n## Words\n")[2]
    words = re.findall(r"^\| ([a-z ]+) \|", glossary, re.MULTILINE)
    assert 0 < len(words) == len(set(words)) <= MOST_WORDS


def test_every_command_of_the_readme_exists_and_every_command_has_help() -> None:
    named = set(re.findall(r"bin/lesion ([a-z][a-z-]*)", (ROOT / "README.md").read_text()))
    assert named <= set(lesion.commands)
    assert [name for name, command in lesion.commands.items() if not command.help] == []


def test_every_make_target_of_the_readme_exists() -> None:
    named = set(re.findall(r"^make (\w+)", (ROOT / "README.md").read_text(), re.MULTILINE))
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert named <= targets


def test_every_variable_of_the_code_and_the_deployment_is_documented() -> None:
    sources = [
        path
        for folder in ("lesion_tasks", "dags", "plugins", "docker", "deploy", "archive_server")
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    ]
    used = {
        name
        for path in [*sources, ROOT / "Makefile", ROOT / "docker-compose.yaml"]
        for name in re.findall(r"\bLESION_[A-Z]+(?:_[A-Z]+)*\b", path.read_text(errors="replace"))
    }
    documented = set(re.findall(r"`(LESION_[A-Z_]+)`", (ROOT / "docs/settings.md").read_text()))
    assert used - documented == set()
    assert documented - used <= {f"LESION_{name.upper()}" for name in Settings.model_fields}


def test_every_page_is_linked_from_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    pages = [page for page in (ROOT / "docs").glob("*.md") if f"docs/{page.name}" not in readme]
    assert pages == []
