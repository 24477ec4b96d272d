"""`lesion`: every step without Airflow, in the order the data takes. Also `python -m lesion_tasks`."""

import logging
import sys

import click

from lesion_tasks import UnavailableError, UnusableInputError
from lesion_tasks.cli.command_line import lesion


def main() -> None:
    """Run the command line; bad input and unreachable services end it with one line and exit status 1."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    try:
        lesion(prog_name="lesion")
    except (UnusableInputError, UnavailableError) as error:
        click.echo(f"lesion: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
