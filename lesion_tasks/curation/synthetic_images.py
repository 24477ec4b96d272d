"""A database -> whether its images are synthetic, as those of the demo are."""

from sqlalchemy import Connection, text

from lesion_tasks.catalog.synthetic_pictures import MARK


def are_all_synthetic(connection: Connection) -> bool:
    """Whether there are images and all are synthetic. An archive's first image answers it, so that any page can ask.

    Of some among others, the reports on the data and on the models that have them say so.
    """
    statement = """
        SELECT EXISTS (SELECT FROM image) AND NOT EXISTS (
            SELECT FROM image WHERE right(coalesce(attribution, ''), :length) <> :mark
        )
    """
    return bool(connection.execute(text(statement), {"length": len(MARK), "mark": MARK}).scalar_one())
