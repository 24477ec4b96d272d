"""A metadata export without pictures -> what curation and splits make of it: the funnel and class counts.

    python benchmarks/records.py export.csv five_classes_natural malignancy_natural

Every record is given a file that is not there, so that rules, labels, groups and splits can be looked at before
anything is downloaded. Runs on an embedded Postgres in a temporary folder.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

from lesion_tasks.settings import read_settings
from lesion_tasks.workspace import open_workspace

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

_FILES = """
    INSERT INTO stored_file (isic_id, rendition, url, object_key, size_bytes, sha256, width_px, height_px, fetched_at)
    SELECT isic_id, 'thumbnail_256', 'https://archive.example/' || isic_id, 'images/' || isic_id, 1,
           md5(isic_id) || md5('f' || isic_id), 256, 192, now() FROM record
    ON CONFLICT DO NOTHING
"""


def main(export: str, names: list[str]) -> None:
    """Ingest the export's records, pretend their files, and print what becomes of them."""
    from sqlalchemy import text

    from lesion_tasks.curation.curate import curate_images
    from lesion_tasks.database.connection import database_url, engine_for, migrate
    from lesion_tasks.database.embedded import postgres
    from lesion_tasks.ingest.passes import ingest
    from lesion_tasks.splits.split import build_split

    with tempfile.TemporaryDirectory(prefix="records-") as home:
        os.environ["LESION_HOME"] = home
        for name in ("LESION_DATABASE_URL", "LESION_BUCKET_URL"):
            os.environ.pop(name, None)
        try:
            migrate(database_url(read_settings()))
            ingest(open_workspace(), source=export, query="", collections="", passes=("append",))
            engine = engine_for(database_url(read_settings()))
            with engine.begin() as connection:
                connection.execute(text(_FILES))
            print(json.dumps(curate_images(open_workspace())))
            for name in names:
                digest = build_split(open_workspace(), name)
                with engine.connect() as connection:
                    row = connection.execute(
                        text("SELECT funnel, class_counts FROM manifest WHERE digest = :digest"),
                        {"digest": digest},
                    ).one()
                print(name, digest)
                for step in row.funnel:
                    print(f"  {step['n']:>8,} {step['step']} {step.get('reason', '')}")
                for subset, counts in row.class_counts.items():
                    print(f"  {subset}: {', '.join(f'{n:,} {label}' for label, n in counts.items())}")
            engine.dispose()
        finally:
            postgres.stop(Path(home))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
