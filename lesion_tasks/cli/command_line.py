"""The command `lesion`, and how its results are shown."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from getpass import getuser
from typing import TYPE_CHECKING, Any

import click

from lesion_tasks import UnusableInputError, __version__
from lesion_tasks.catalog.approvals import UNNAMED
from lesion_tasks.catalog.entries import unknown
from lesion_tasks.catalog.lookup import did_you_mean, find_task
from lesion_tasks.catalog.own_entries import BrokenCatalogueError

if TYPE_CHECKING:
    from lesion_tasks.workspace import Workspace


class _Path(click.Group):
    """A group that lists its commands in the order they were added: the order of the path."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            ctx.fail(f"No such command {args[0][:80]!r}{did_you_mean(args[0], self.commands)}")
        return super().resolve_command(ctx, args)


@click.group(cls=_Path, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__)
def lesion() -> None:
    """Retrain skin-lesion classifiers from the ISIC Archive, with numbers that can be trusted.

    Each command is one step of the path and can be run again or killed at any moment. Settings are LESION_*
    environment variables; without any, an embedded Postgres and a directory under ./var are used.
    """


def open_workspace() -> "Workspace":
    """The workspace that the environment's settings name; what it needs is loaded when a command asks for it."""
    from lesion_tasks.workspace import open_workspace as open_named

    return open_named()


def number(value: float | None, form: str = ".4f") -> str:
    return "" if value is None else format(value, form)


def interval(low: float | None, high: float | None) -> str:
    """The ends of a difference; empty where there is no interval."""
    return "" if low is None or high is None else f"{low:+.4f} to {high:+.4f}"


def print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    if not rows:
        return
    columns = list(dict.fromkeys(name for row in rows for name in row))
    table = Table(*columns)
    for row in rows:
        table.add_row(*(str(row.get(name) or "") for name in columns))
    # Where there is no terminal to ask, wide enough for ids and reasons. A cell is shown as it is: the site `:Foot:` is
    # no picture of a foot, and brackets are no colours.
    Console(width=None if sys.stdout.isatty() else 200, markup=False, emoji=False).print(table)


def person() -> str:
    """Who gives this command; an account without a name (a container's user id, say) is a person all the same."""
    try:
        return getuser()
    except (KeyError, OSError):
        return UNNAMED


@contextmanager
def shown_whatever_happens() -> Iterator[dict[str, Any]]:
    """Results gathered one after the other and printed as one JSON object, also when a later one fails."""
    done: dict[str, Any] = {}
    try:
        yield done
    finally:
        if done:
            show(done)


def show(result: Any) -> None:
    click.echo(json.dumps(result, indent=2, default=str, ensure_ascii=False))


class Choice(click.Choice[str]):
    """One of a few words, with the one that was probably meant."""

    def get_invalid_choice_message(self, value: Any, ctx: click.Context | None) -> str:
        """Say what was meant and what there is."""
        return unknown("value", str(value), self.choices)


class TaskName(click.ParamType):
    """The name of a task of the catalogue."""

    name = "task"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The name itself; a usage error for an unknown one."""
        try:
            return find_task(value).name
        except BrokenCatalogueError:
            raise
        except UnusableInputError as error:
            self.fail(str(error), param, ctx)


task_option = click.option("--task", default="malignancy", type=TaskName(), show_default=True)


def _refuse_smoke(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value:
        raise click.UsageError("--smoke: it is called --rehearsal by now; smoke is a variant")


def shortening(command: Any) -> Any:
    """The options that shorten a training or a search."""
    for option in (
        click.option(
            "--max-epochs", type=click.IntRange(min=1), help="At most this many epochs in each stage."
        ),
        click.option(
            "--rehearsal",
            "is_smoke_run",
            is_flag=True,
            help="One epoch on tiny pictures, never promoted: does it run?",
        ),
        click.option(
            "--smoke", is_flag=True, hidden=True, expose_value=False, is_eager=True, callback=_refuse_smoke
        ),
    ):
        command = option(command)
    return command
