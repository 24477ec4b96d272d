"""Models and migrations -> a new migration with their difference: `make migration name="add lesion size"`.

Works on its own empty Postgres, so that none of your databases affects what the migration contains.
"""

import re
import tempfile
from pathlib import Path

import click
from alembic import command
from alembic.config import Config

from lesion_tasks.database.connection import engine_for, migrate
from lesion_tasks.database.embedded import postgres
from lesion_tasks.database.migration_state import MIGRATIONS


@click.command(help=__doc__)
@click.argument("name")
def main(name: str) -> None:
    """See the module."""
    numbers = [int(path.name[:4]) for path in (MIGRATIONS / "versions").glob("[0-9]*.py")]
    revision = f"{max(numbers, default=0) + 1:04d}"
    slug = re.sub(r"\W+", "_", name.lower()).strip("_")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)  # as root, the server may have to run as another user
        try:
            url = postgres.database_url(Path(folder), "lesions")
            migrate(url)
            config = Config()
            config.set_main_option("script_location", str(MIGRATIONS))
            config.set_main_option("file_template", f"{revision}_{slug}")
            config.attributes["engine"] = engine_for(url)
            command.revision(config, message=name, autogenerate=True, rev_id=revision)
        finally:
            postgres.stop(Path(folder))
    click.echo(f"wrote {MIGRATIONS / 'versions' / f'{revision}_{slug}.py'}; read it before you commit it")


if __name__ == "__main__":
    main()
