"""Every command of the documents exists, with the options and words it is given, and is run or says why not."""

import re

import click
import pytest
from click.testing import CliRunner
from documented import FOLLOWED, Documented, documented_commands

from lesion_tasks.cli.command_line import lesion
from lesion_tasks.cli.documents import ROOT

# The reference of commands is generated from them.
COMMANDS = [command for command in documented_commands() if command.page != "docs/commands.md"]
# What an older version had, and the document says so.
FORMER = {"lesion ingest --layer", "lesion ingest --source <each of them> --layer append"}


def problem_of(command: Documented) -> str | None:
    """Why the command line would not take these words; None if it would."""
    name, *words = command.words or [""]
    known = lesion.commands.get(name)
    if known is None:
        return None if name in ("--help", "--version") else f"no command {name!r}"
    context = click.Context(known, info_name=name)
    parser = known.make_parser(context)
    if command.is_inline and words and words[-1].startswith("--"):
        words.append("...")  # a sentence may name an option without its value
        parser.ignore_unknown_options = words[-2] not in {opt for p in known.params for opt in p.opts}
        if parser.ignore_unknown_options:
            return f"no option {words[-2]}"
    try:
        values, _, _ = parser.parse_args(list(words))
    except click.UsageError as error:
        return error.format_message()
    for param in known.params:
        given = values.get(param.name or "")
        if (
            isinstance(param.type, click.Choice)
            and isinstance(given, str)
            and given not in param.type.choices
        ):
            return None if given == "..." or given.isupper() else f"{param.name} is {given!r}"
        is_given = isinstance(given, str | int) or (isinstance(given, tuple) and given)
        if param.required and not is_given and not command.is_inline and not param.envvar:
            return f"without {param.name}"
    return None


@pytest.mark.parametrize("page", sorted({command.page for command in COMMANDS}))
def test_every_command_is_one_that_there_is(page: str) -> None:
    wrong = [
        f"{command.line}: {problem}"
        for command in COMMANDS
        if command.page == page and command.is_ours and command.line not in FORMER
        if (problem := problem_of(command))
    ]
    assert wrong == []


def test_what_is_wrong_with_a_command_is_found() -> None:
    def found(line: str, *, is_inline: bool = False) -> str | None:
        return problem_of(Documented("a.md", line, is_inline=is_inline))

    assert found("lesion trian") == "no command 'trian'"
    assert "No such option '--agian'" in (found("lesion train smoke --agian") or "")
    assert found("lesion new taks NAME") == "kind is 'taks'"
    assert found("lesion report") == "without training_id"
    assert found("lesion report", is_inline=True) is None
    assert found("lesion changes --since", is_inline=True) is None
    assert found("lesion changes --sinse", is_inline=True) == "no option --sinse"


def test_every_command_is_run_by_something_or_says_why_not() -> None:
    """What `make docs-check` runs are commands of `lesion`; pages that a test follows are read by that test."""
    nobody = [c.line for c in COMMANDS if c.reason_not_run is None and not c.is_ours]
    assert nobody == []
    for page, test in FOLLOWED.items():
        assert re.search(re.escape(page.rpartition("/")[2]), (ROOT / test).read_text()), test


def test_the_help_of_every_command_can_be_shown() -> None:
    for name in lesion.commands:
        assert CliRunner().invoke(lesion, [name, "--help"]).exit_code == 0, name
