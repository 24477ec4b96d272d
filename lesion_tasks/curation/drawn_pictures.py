"""A catalogue -> whether its pictures were drawn by a program, as those of the demo were."""

from sqlalchemy import Connection, text

from lesion_tasks.catalog.drawn import MARK


def are_all_drawn(connection: Connection) -> bool:
    """Whether there are images and every one was drawn. An archive's first image answers it, so that any page can ask.

    Of some drawn ones among others, the reports on the data and on the models that have them tell.
    """
    statement = """
        SELECT EXISTS (SELECT FROM image) AND NOT EXISTS (
            SELECT FROM image WHERE right(coalesce(attribution, ''), :length) <> :mark
        )
    """
    return bool(connection.execute(text(statement), {"length": len(MARK), "mark": MARK}).scalar_one())
