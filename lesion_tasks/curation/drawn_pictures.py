"""A catalogue -> whether its pictures were drawn by a program, as those of the demo were."""

from sqlalchemy import Connection, text

from lesion_tasks.catalog.drawn import MARK

N_LOOKED_AT = 1_000


def has_drawn_pictures(connection: Connection) -> bool:
    """Whether one of some thousand images was drawn; not one of all, so that any page can ask."""
    statement = """
        SELECT EXISTS (
            SELECT FROM (SELECT attribution FROM image LIMIT :n) AS looked_at WHERE right(attribution, :length) = :mark
        )
    """
    values = {"n": N_LOOKED_AT, "length": len(MARK), "mark": MARK}
    return bool(connection.execute(text(statement), values).scalar_one())
