"""Every SQL statement of the package against a migrated database: a misspelt column or table fails here.

Statements are found in the source: what is handed to `text`, `copy_out`, `exec_driver_sql`, `copy_expert` or a cursor's
`execute`, and the columns that `copy_rows` is given. Names in them are followed to constants, to assignments of the
function and to the arguments of its callers in the module. What is composed of anything else stands in COMPOSED.

Postgres prepares what it can; of other kinds, the statement is run and rolled back.
"""

import ast
import importlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.dialects.postgresql.base import PGDialect
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql.elements import TextClause

import lesion_tasks
from lesion_tasks.database.connection import engine_for
from lesion_tasks.database.schema import Base
from lesion_tasks.database.triggers import FUNCTIONS, TRIGGERS
from lesion_tasks.upkeep.verify_bucket import KINDS, PART
from lesion_tasks.watching.watched_images import BEFORE, NEW, filled

PACKAGE = Path(lesion_tasks.__file__).parent
# (file, expression) -> what it may be. Only what does not stand in the source as text.
COMPOSED = {
    ("curation/reason_counts.py", "table"): ["refused_record", "stored_file", "reject"],
    ("curation/reason_counts.py", "key"): ["isic_id"],
    ("curation/reason_counts.py", "_TABLES[what][0]"): ["refused_record", "stored_file", "reject"],
    ("database/bulk.py", "table"): ["image"],
    ("database/bulk.py", "_quoted(columns)"): ['"isic_id", "sex"'],
    ("database/bulk.py", "_quoted(key)"): ['"isic_id"'],
    ("database/bulk.py", "changes"): ['"sex" = excluded."sex"'],
    ("database/bulk.py", "query"): ["SELECT isic_id FROM image"],
    ("database/trigger_changes.py", "name"): ["TRIGGER note_deleted ON stored_file"],
    ("database/trigger_changes.py", "statement"): [made.create for made in (*FUNCTIONS, *TRIGGERS)],
    ("ingest/fetch.py", "len('ISIC_') + PREFIX_DIGITS"): ["7"],
    ("splits/balance.py", "split.name"): ["a_split"],
    ("splits/balance.py", "subsets"): ["'val', 'test'"],
    ("splits/cohort_images.py", "column"): ["attribution"],
    ("splits/manifest_rows.py", "split.name"): ["a_split"],
    ("splits/members.py", "assignment"): ["an_assignment"],
    ("splits/members.py", "int(since)"): ["1"],
    ("splits/members.py", "name"): ["a_split"],
    ("splits/members.py", "task_name"): ["a_task"],
    ("upkeep/copy_installation.py", "', '.join((table.name for table in tables))"): [
        "pixel_row, pixel_shard"
    ],
    ("upkeep/verify_bucket.py", "statement"): [kind.forget for kind in KINDS if kind.forget],
    ("upkeep/verify_bucket.py", "inside"): [PART.format(listing=kind.listing) for kind in KINDS],
    ("watching/watched_images.py", "asked"): [
        filled(query, task="a_task", assignment="an_assignment", since="2026-01-01", until="2026-02-01")
        for query in (BEFORE, NEW)
    ],
}
# (file, expression or statement) -> why it is not checked.
UNCHECKED = {
    (
        "database/schema.py",
        "group_id is not null",
    ): "a part of an index: test_schema compares it with the database's",
    ("database/schema.py", "reason = 'set_aside'"): "the same",
    ("database/schema.py", "reason is not null"): "the same",
    ("database/schema.py", "continues is null"): "the same",
    ("database/schema.py", "returned_at is null"): "the same",
    ("database/schema.py", "ended_at is null"): "the same",
    ("database/schema.py", "task is not null and withdrawn_at is null"): "the same",
    ("database/schema.py", "detail_correlation DESC"): "the same",
    ("database/schema.py", "not is_copy"): "the same",
    ("database/schema.py", "task is null and withdrawn_at is null"): "the same",
    ("database/read_only_query.py", "statement.replace('%', '%%')"): "whatever a person asks",
    (
        "database/embedded/postgres.py",
        "sql.SQL('create database {}').format(sql.Identifier(name))",
    ): "speaks of no table, and cannot be taken back",
}
# Parameters whose type Postgres cannot tell from their place.
TYPES = {"retry_after": "interval", "missing_since": "timestamptz"}
USED: set[tuple[str, str]] = set()  # of COMPOSED
PREPARED = ("SELECT", "INSERT", "UPDATE", "DELETE", "WITH")
NUMBERED = PGDialect(paramstyle="numeric_dollar")


class UnresolvedError(Exception):
    """An expression that is not followed."""


@dataclass(frozen=True)
class Statement:
    """One statement as it may be sent, and where it stands."""

    file: str
    line: int
    sql: str
    has_parameters: bool  # written `:name`


class Source:
    """A module's text, and what its names stand for."""

    def __init__(self, path: Path) -> None:
        self.file = str(path.relative_to(PACKAGE))
        self.module = "lesion_tasks." + self.file.removesuffix(".py").replace("/", ".")
        self.tree = ast.parse(path.read_text())
        self.parent = {child: node for node in ast.walk(self.tree) for child in ast.iter_child_nodes(node)}
        self.imports_text = any(
            isinstance(node, ast.ImportFrom) and node.module == "sqlalchemy" and "text" in names_of(node)
            for node in ast.walk(self.tree)
        )

    def calls(self) -> Iterator[tuple[ast.Call, str]]:
        """Every call, with the last part of the called name."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
                yield node, node.func.id if isinstance(node.func, ast.Name) else node.func.attr

    def function_around(self, node: ast.AST) -> ast.FunctionDef | ast.AsyncFunctionDef | None:
        while node in self.parent:
            node = self.parent[node]
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                return node
        return None

    def values(self, node: ast.expr) -> list[str]:
        """The strings that an expression may be."""
        if given := COMPOSED.get((self.file, ast.unparse(node))):
            USED.add((self.file, ast.unparse(node)))
            return given
        match node:
            case ast.Constant(value=str(words)):
                return [words]
            case ast.JoinedStr(values=parts):
                return self._joined([p.value if isinstance(p, ast.FormattedValue) else p for p in parts])
            case ast.BinOp(op=ast.Add(), left=left, right=right):
                return self._joined([left, right])
            case ast.IfExp(body=body, orelse=orelse):
                return self.values(body) + self.values(orelse)
            case ast.Call(func=ast.Attribute(value=template, attr="format"), args=args, keywords=keywords):
                return self._formatted(template, args, keywords)
            case ast.Subscript(value=ast.Name(id=name)):
                return self._one_of(name)
            case ast.Name(id=name):
                return self._named(node, name)
        raise UnresolvedError(ast.unparse(node))

    def _joined(self, parts: list[ast.expr]) -> list[str]:
        return ["".join(some) for some in product(*(self.values(part) for part in parts))]

    def _formatted(
        self, template: ast.expr, arguments: list[ast.expr], keywords: list[ast.keyword]
    ) -> list[str]:
        by_position = list(product(*(self.values(argument) for argument in arguments)))
        given = [[(k.arg or "", value) for value in self.values(k.value)] for k in keywords]
        return [
            words.format(*some, **dict(named))
            for words in self.values(template)
            for some in by_position
            for named in product(*given)
        ]

    def _named(self, node: ast.expr, name: str) -> list[str]:
        if (function := self.function_around(node)) is not None:
            arguments = [argument.arg for argument in (*function.args.posonlyargs, *function.args.args)]
            if name in arguments:
                return self._handed_in(function.name, arguments.index(name), name)
            assigned = [
                assignment.value
                for assignment in ast.walk(function)
                if isinstance(assignment, ast.Assign) and name in map(ast.unparse, assignment.targets)
            ]
            if assigned:
                return [value for expression in assigned for value in self.values(expression)]
        value = getattr(importlib.import_module(self.module), name, None)
        if isinstance(value, str | TextClause):
            return [str(value)]
        raise UnresolvedError(name)

    def _one_of(self, name: str) -> list[str]:
        values = getattr(importlib.import_module(self.module), name, None)
        if isinstance(values, dict) and all(isinstance(value, str) for value in values.values()):
            return list(values.values())
        raise UnresolvedError(name)

    def _handed_in(self, function: str, position: int, name: str) -> list[str]:
        found = []
        for call, called in self.calls():
            if called == function:
                by_name = [keyword.value for keyword in call.keywords if keyword.arg == name]
                found += self.values(by_name[0] if by_name else call.args[position])
        if not found:
            raise UnresolvedError(name)
        return found


def names_of(node: ast.ImportFrom) -> set[str]:
    return {alias.name for alias in node.names}


def handed_statement(source: Source, call: ast.Call, called: str) -> tuple[ast.expr, bool] | None:
    """The expression of the statement in a call, and whether it has parameters; None for any other call."""
    if called == "text" and source.imports_text and isinstance(call.func, ast.Name):
        return call.args[0], True
    if called == "copy_out":
        return call.args[1], False
    if called in {"exec_driver_sql", "copy_expert"} or (called == "execute" and is_of_cursor(call)):
        return call.args[0], False
    return None


def is_of_cursor(call: ast.Call) -> bool:
    return isinstance(call.func, ast.Attribute) and ast.unparse(call.func.value) == "cursor"


@cache
def all_statements() -> tuple[list[Statement], set[tuple[str, str]]]:
    """What is found, and (file, expression) of what is not followed."""
    found, unresolved = [], set()
    for path in sorted(PACKAGE.rglob("*.py")):
        if "migrations" in path.parts:
            continue
        source = Source(path)
        for call, called in source.calls():
            if called == "copy_rows":
                found += copied_columns(source, call)
            if (handed := handed_statement(source, call, called)) is None:
                continue
            try:
                statements = source.values(handed[0])
            except UnresolvedError:
                unresolved.add((source.file, ast.unparse(handed[0])))
                continue
            found += [Statement(source.file, call.lineno, sql, handed[1]) for sql in statements]
    return found, unresolved


def copied_columns(source: Source, call: ast.Call) -> list[Statement]:
    """The columns of a `copy_rows` as a statement that reads them."""
    table, columns = call.args[1:3]
    names = ", ".join(str(ast.literal_eval(name)) for name in columns.elts)  # type: ignore[attr-defined]
    return [
        Statement(source.file, call.lineno, f"SELECT {names} FROM {name}", False)
        for name in source.values(table)
    ]


STATEMENTS = [s for s in all_statements()[0] if (s.file, s.sql) not in UNCHECKED]


@pytest.fixture(scope="module")
def connection(module_database_url: str) -> Iterator[Connection]:
    """A transaction in which every temporary table of the package is there; none of it stays."""
    with engine_for(module_database_url).connect() as connection:
        waiting = [s for s in STATEMENTS if kind_of(s) == "CREATE TEMP TABLE"]
        while waiting:  # some are made of others
            left = [statement for statement in waiting if not is_run(connection, statement)]
            if len(left) == len(waiting):
                break  # their own tests say why
            waiting = left
        yield connection
        connection.rollback()


def kind_of(statement: Statement) -> str:
    """The words that say what a statement does."""
    words = re.sub(r"--.*", "", statement.sql).split()
    return " ".join(words[:3] if words[0] == "CREATE" else words[:1]).upper()


def is_run(connection: Connection, statement: Statement) -> bool:
    attempt = connection.begin_nested()
    try:
        run(connection, statement)
    except DBAPIError:
        attempt.rollback()
        return False
    return True


def run(connection: Connection, statement: Statement) -> None:
    if statement.has_parameters:
        clause = text(statement.sql)
        connection.execute(clause, dict.fromkeys(clause.compile().params))
    else:
        connection.exec_driver_sql(statement.sql)


def prepare(connection: Connection, statement: Statement) -> None:
    sql, types = statement.sql, ""
    if statement.has_parameters:
        compiled = text(sql).compile(dialect=NUMBERED)
        names = compiled.positiontup or []
        # What is handed to IN is a list, which the driver spells out.
        sql = re.sub(r"\bIN (\$\d+)", r"= ANY(\1)", str(compiled))
        types = f"({', '.join(TYPES.get(name, 'unknown') for name in names)})" if names else ""
    cursor = connection.connection.cursor()  # the driver's own: what looks like its parameters is none
    cursor.execute(f"PREPARE checked {types} AS {sql}")
    cursor.execute("DEALLOCATE checked")
    cursor.close()


def as_read(statement: Statement) -> Statement:
    """What COPY reads or writes, as a statement that reads it."""
    if inner := re.fullmatch(r"COPY \((.*)\) TO STDOUT.*", statement.sql, re.DOTALL):
        return Statement(statement.file, statement.line, inner[1], False)
    if inner := re.fullmatch(r"COPY (\S+) \((.*)\) FROM STDIN", statement.sql):
        return Statement(statement.file, statement.line, f"SELECT {inner[2]} FROM {inner[1]}", False)
    return statement


@pytest.mark.parametrize("statement", STATEMENTS, ids=lambda s: f"{s.file}:{s.line}")
def test_a_statement_speaks_of_what_the_database_has(connection: Connection, statement: Statement) -> None:
    attempt = connection.begin_nested()
    try:
        if kind_of(as_read(statement)) in PREPARED:
            prepare(connection, as_read(statement))
        elif kind_of(statement) != "CREATE TEMP TABLE":
            run(connection, statement)
        else:
            connection.exec_driver_sql(f"DROP TABLE {made_table(statement)} CASCADE")
            run(connection, statement)
    finally:
        attempt.rollback()


def made_table(statement: Statement) -> str:
    return statement.sql.split()[3]


def test_every_statement_is_followed_and_every_exception_is_needed() -> None:
    found, unresolved = all_statements()
    sent = {(statement.file, statement.sql) for statement in found}
    assert unresolved - set(UNCHECKED) == set(), "say in COMPOSED what these may be"
    assert set(UNCHECKED) - unresolved - sent == set()
    assert set(COMPOSED) - USED == set()
    assert set(TYPES) <= {name for s in found if s.has_parameters for name in text(s.sql).compile().params}
    assert {s.file.partition("/")[0] for s in found} >= {"ingest", "curation", "splits", "pixels", "training"}


@pytest.mark.parametrize(
    "sql", ["SELECT no_such_column FROM image", "SELECT 1 FROM no_such_table", "SELEC 1"]
)
def test_a_misspelt_statement_is_told(connection: Connection, sql: str) -> None:
    attempt = connection.begin_nested()
    with pytest.raises(Exception, match=r"does not exist|syntax error"):
        prepare(connection, Statement("", 1, sql, True))
    attempt.rollback()


def written_tables() -> Iterator[tuple[str, str]]:
    """Every table that a statement or a bulk call writes, with the module, such as `ingest.append`."""
    triggers = [Statement("database/triggers.py", 1, made.create, False) for made in FUNCTIONS]
    for statement in [s for s in all_statements()[0] if not s.file.startswith("database/")] + triggers:
        for table in re.findall(r"(?:INSERT INTO|UPDATE|DELETE FROM)\s+(\w+)", statement.sql):
            yield table, statement.file
    table_by_model = {mapper.class_.__name__: mapper.local_table.name for mapper in Base.registry.mappers}
    for source in (Source(path) for path in PACKAGE.rglob("*.py") if "database" not in path.parts):
        for call, called in source.calls():
            if called in {"copy_rows", "copy_dicts", "upsert_rows"}:
                yield from ((table, source.file) for table in source.values(call.args[1]))
            elif called in {"insert", "update", "delete"} and call.args:
                model = ast.unparse(call.args[0])
                yield from [(table_by_model[model], source.file)] if model in table_by_model else []


def test_each_table_names_the_steps_that_write_it() -> None:
    declared = {mapper.local_table.name: mapper.class_.written_by for mapper in Base.registry.mappers}
    found: dict[str, set[str]] = {table: set() for table in declared}
    for table, file in written_tables():
        if table in found:  # no temporary one
            found[table].add(file.removesuffix(".py").replace("/", "."))
    assert {table: tuple(sorted(modules)) for table, modules in found.items()} == declared
