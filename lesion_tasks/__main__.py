"""`lesion`: every step without Airflow, in the order the data takes. Also `python -m lesion_tasks`."""

import logging
import sys

import click

from lesion_tasks import UnavailableError, UnusableInputError
from lesion_tasks.addresses import masked
from lesion_tasks.cli.command_line import lesion


def main() -> None:
    """Run the command line. Whatever is wrong is one line: exit status 2 for a command, 1 for input and services."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for name in ("alembic", "botocore"):
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        sys.exit(lesion.main(prog_name="lesion", standalone_mode=False))
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(error.exit_code)
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "lesion"
        # Click quotes what it does not understand, such as the address of a database.
        click.echo(
            f"{command}: {masked(error.format_message()).rstrip('.')} (see `{command} --help`)", err=True
        )
        sys.exit(error.exit_code)
    except click.ClickException as error:
        click.echo(f"lesion: {masked(error.format_message())}", err=True)
        sys.exit(error.exit_code)
    except click.Abort:
        click.echo("Aborted!", err=True)
        sys.exit(1)
    except (UnusableInputError, UnavailableError) as error:
        click.echo(f"lesion: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
