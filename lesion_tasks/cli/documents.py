"""Schema and catalogue -> the generated parts of the documents, so that they cannot drift.

A generated part stands between `<!-- generated: NAME -->` and `<!-- end -->`. `lesion docs` rewrites them, and
a test fails while a document says something else.
"""

import ast
import re
from collections.abc import Callable
from inspect import cleandoc
from pathlib import Path
from typing import Any

import click

from lesion_tasks import ROOMS
from lesion_tasks.catalog import own_entries
from lesion_tasks.catalog.approvals import overrides_in_words
from lesion_tasks.catalog.gates import COHORT_GUARD, SLICE_GUARD
from lesion_tasks.catalog.glossary import GLOSSARY
from lesion_tasks.cli.command_line import lesion
from lesion_tasks.reports.index import STATES
from lesion_tasks.settings import PREFIX, Settings

ROOT = Path(__file__).parents[2]
PACKAGE = Path(__file__).parents[1]
INDENT = 30  # columns before the phrase of a module


def _table(header: list[str], rows: list[list[Any]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(
        f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines
    )


def variants_table() -> str:
    """The variants and the published system that each reproduces."""
    rows = [
        [f"`{v.name}`", v.reproduces or "", v.title, f"`{v.split}`"]
        for v in own_entries.built_in("variant").values()
    ]
    return _table(["Variant", "Reproduces", "What it is", "Split"], rows)


def splits_table() -> str:
    """The split recipes."""
    rows = [
        [
            f"`{s.name}`",
            f"`{s.task}`",
            "natural" if s.max_per_class is None else f"{s.max_per_class:,} of each class",
        ]
        for s in own_entries.built_in("split").values()
    ]
    return _table(["Split", "Task", "Train and val draw"], rows)


def published_tables() -> str:
    """The published data sets whose tables are recognised, with what their mappings could not confirm."""
    from lesion_tasks.archive.recognition import published_mappings

    rows = [
        [m.title, f"`{m.namespace}`", f"`{m.table}`", "; ".join(m.cited), " ".join(m.unconfirmed)]
        for m in sorted(published_mappings(), key=lambda m: m.title)
    ]
    return _table(["Data set", "Namespace", "Its table", "As stated in", "Not confirmed"], rows)


def mapping_fields() -> str:
    """The fields that a column may be mapped to, and the values that each may have."""
    from lesion_tasks.archive.terms import FIELDS, IDENTITIES, NUMBERS, PATHS, values_of

    def what(name: str) -> str:
        if name == "image":
            return (
                "the name of the picture, with or without ending and folders (those given must be the picture's); "
                "required"
            )
        if name in PATHS:
            return "a path of the archive, its levels joined by colons, as long as it is known"
        if name in IDENTITIES:
            return "any name; a list of columns is joined"
        if name in NUMBERS:
            return "a number; of a list of columns, the largest"
        return ", ".join(f"`{value}`" for value in values_of(name)) or "any text"

    return _table(["Field", "Its values"], [[f"`{name}`", what(name)] for name in FIELDS])


def gates_table() -> str:
    """What a candidate must show, with the reasons."""
    rows = [
        [
            f"`{task}`",
            f"`{g.measure}`",
            f"{g.floor:.2f}",
            "must gain" if g.is_leading else f"{g.margin:.2f}",
            g.reason,
        ]
        for task, gates in own_entries.built_in("gates").items()
        for g in gates
    ]
    guarded = ", ".join(f"`{name}`" for name in SLICE_GUARD.attributes)
    rows.append(
        ["every", f"AUC by {guarded}", "", f"{SLICE_GUARD.margin:.2f}, where shown", SLICE_GUARD.reason]
    )
    rows.append(
        [
            "every",
            "the leading measure on each cohort",
            f"{COHORT_GUARD.floor:.2f}",
            f"{COHORT_GUARD.margin:.2f}",
            f"{COHORT_GUARD.margin_reason} {COHORT_GUARD.floor_reason}",
        ]
    )
    return _table(["Task", "Measure", "Floor", "Loss allowed", "Reason"], rows)


def dictionary() -> str:
    """Every table and column, and which steps write it."""
    from lesion_tasks.database.schema import Base

    parts = []
    for mapper in sorted(Base.registry.mappers, key=lambda m: _line_of(m.class_)):
        table: Any = mapper.local_table
        text = " ".join((mapper.class_.__doc__ or "").split())
        rows = [
            [
                f"`{c.name}`",
                str(c.type).lower(),
                "key" if c.primary_key else "",
                "" if c.nullable else "always",
                c.comment,
            ]
            for c in table.columns
        ]
        writers = "Written by " + ", ".join(f"`{module}`" for module in mapper.class_.written_by) + "."
        columns = _table(["Column", "Type", "", "Filled", "What it holds"], rows)
        parts.append(f"## {table.name}\n\n{text}\n\n{writers}\n\n{columns}")
    return "\n".join(parts)


def _line_of(model: type) -> int:
    import inspect

    return inspect.getsourcelines(model)[1]


def settings_table() -> str:
    """Every environment variable that the settings read: what it holds, what it is without one, what it is for."""
    properties = Settings.model_json_schema()["properties"]
    rows = [
        [f"`{PREFIX}{name.upper()}`", _kind(entry), _default(entry), entry["description"]]
        for name, entry in properties.items()
    ]
    return _table(["Variable", "Type", "Default", "What it is"], rows)


def _kind(entry: dict[str, Any]) -> str:
    """A JSON Schema type in words: what a variable's text is read as."""
    kinds = [one for one in entry.get("anyOf", [entry]) if one.get("type") != "null"]
    (kind,) = kinds
    if "enum" in kind:
        return " or ".join(f"`{value}`" for value in kind["enum"])
    if kind["type"] == "array":
        return "list"
    return (
        "path"
        if kind.get("format") == "path"
        else {"string": "text", "integer": "whole number"}[kind["type"]]
    )


def _default(entry: dict[str, Any]) -> str:
    """The default where it is a value of its own; none, or one that follows from others, is in the description."""
    value = entry.get("default")
    return f"`{value}`" if value else ""


def rooms_tree() -> str:
    """Every room and module with a phrase: the first line of its docstring."""
    lines = ["```"]
    for room in ROOMS:
        path = PACKAGE / room
        if path.is_dir():
            lines.append(f"{room}/".ljust(INDENT) + _phrase(path / "__init__.py"))
            lines += _modules(path, 2)
        else:
            lines.append(f"{room}.py".ljust(INDENT) + _phrase(path.with_suffix(".py")))
    return "\n".join([*lines, "```", ""])


BESIDE = ("archive_server", "dags", "plugins", "docker", "benchmarks")


def beside_tree() -> str:
    """Every file of Python beside the package that people start or edit, with a phrase."""
    lines = ["```"]
    for name in BESIDE:
        folder = ROOT / name
        package = folder / "__init__.py"
        lines.append(f"{name}/".ljust(INDENT) + _phrase(package) if package.is_file() else f"{name}/")
        lines += _modules(folder, 2)
    return "\n".join([*lines, "```", ""])


def _modules(folder: Path, depth: int) -> list[str]:
    lines = []
    for path in sorted(folder.iterdir(), key=lambda path: (path.is_dir(), path.name)):
        name = " " * depth + path.name
        if path.suffix == ".py" and not path.name.startswith("__"):
            lines.append(name.ljust(INDENT) + _phrase(path))
        elif (path / "__init__.py").is_file():
            lines.append(f"{name}/".ljust(INDENT) + _phrase(path / "__init__.py"))
            lines += _modules(path, depth + 2)
    return lines


def _phrase(path: Path) -> str:
    """The first sentence of a module's docstring, without its full stop."""
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    first = " ".join(text.split("\n\n")[0].split())
    return first.removesuffix(".")


def commands() -> str:
    """Every command with its help, its arguments and its options, in the order of the path."""
    parts = []
    for name, command in lesion.commands.items():
        if command.hidden:
            continue
        context = click.Context(command, info_name=f"lesion {name}")
        usage = " ".join(command.collect_usage_pieces(context))
        parts.append(
            f"### `lesion {name}`\n\n{cleandoc(command.help or '')}\n\n```\nlesion {name} {usage}\n```\n"
        )
        rows = [
            _option(one, context)
            for one in command.params
            if isinstance(one, click.Option) and not one.hidden
        ]
        if rows:
            parts.append(_table(["Option", "What it does"], rows))
    return "\n".join(parts)


def _option(option: click.Option, context: click.Context) -> list[str]:
    names, text = option.get_help_record(context) or ("", "")
    return [f"`{names}`", text]


def glossary_table() -> str:
    """The words of the project."""
    return _table(["Word", "Meaning"], [list(row) for row in GLOSSARY.items()])


def states_table() -> str:
    """Where an evaluated training can stand, and what was decided about it."""
    return _table(["State", "Meaning"], [[title, meaning] for title, _, meaning in STATES.values()])


PARTS: dict[str, Callable[[], str]] = {
    "variants": variants_table,
    "splits": splits_table,
    "gates": gates_table,
    "overrides": overrides_in_words,
    "states": states_table,
    "glossary": glossary_table,
    "dictionary": dictionary,
    "settings": settings_table,
    "rooms": rooms_tree,
    "beside": beside_tree,
    "commands": commands,
    "published_tables": published_tables,
    "mapping_fields": mapping_fields,
}


# Other generated parts are what a benchmark measured: nothing here can rewrite them.
_PART = re.compile(rf"(<!-- generated: ({'|'.join(PARTS)}) -->\n).*?(<!-- end -->)", re.DOTALL)
DOCUMENTS = sorted(
    str(path.relative_to(ROOT))
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
    if _PART.search(path.read_text())
)


def with_parts(document: str) -> str:
    """Return a document with its generated parts as the code says they are."""
    return _PART.sub(lambda m: f"{m[1]}{PARTS[m[2]]()}{m[3]}", document)


def write_documents() -> list[str]:
    """Rewrite the generated parts; returns the documents that changed."""
    changed = []
    for name in DOCUMENTS:
        path = ROOT / name
        before = path.read_text()
        after = with_parts(before)
        if after != before:
            path.write_text(after)
            changed.append(name)
    return changed
