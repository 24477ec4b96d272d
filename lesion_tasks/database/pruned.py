"""Trainings and manifests -> whether they were pruned or archived, or are not for use: words and conditions."""

from datetime import datetime

from sqlalchemy import Connection, exists, select
from sqlalchemy.orm import Session

from lesion_tasks.database.schema import Archival, Pruning

# The kinds of pruning after which a training, a manifest or a prediction job is gone.
KINDS = {"training": ("training", "model"), "manifest": ("manifest",), "predictions": ("predictions",)}
# Which row `p` of pruning is about a row `t` with a training_id.
PRUNED_TRAINING = f"p.kind IN {KINDS['training']} AND p.name = t.training_id"
# Conditions about a row `t` with a training_id, and about a row `m` of manifest, for the statements of other modules.
TRAINING_IS_PRUNED = f"EXISTS (SELECT FROM pruning p WHERE {PRUNED_TRAINING})"
# Of a training whose model alone was pruned the report stays.
REPORT_IS_PRUNED = "EXISTS (SELECT FROM pruning p WHERE p.kind = 'training' AND p.name = t.training_id)"
TRAINING_IS_ARCHIVED = (
    "EXISTS (SELECT FROM archival a WHERE a.training_id = t.training_id AND a.returned_at IS NULL)"
)
# About a row `t` of training: it answers how a recipe does where it never learned, and is not for use.
HOLDS_OUT = "EXISTS (SELECT FROM manifest h WHERE h.digest = t.manifest_digest AND h.held_out IS NOT NULL)"
MANIFEST_IS_PRUNED = """
    EXISTS (SELECT FROM pruning p WHERE p.kind = 'manifest' AND p.name = m.digest AND p.made_again_at IS NULL)
"""


def find_pruning(connection: Connection, thing: str, name: str) -> Pruning | None:
    """The last pruning of a training, a manifest (by its digest) or a prediction job, detached; None if it is there."""
    statement = select(Pruning).where(
        Pruning.kind.in_(KINDS[thing]), Pruning.name == name, Pruning.made_again_at.is_(None)
    )
    with Session(connection, expire_on_commit=False) as session:
        found = session.scalar(statement.order_by(Pruning.pruning_id.desc()).limit(1))
        session.expunge_all()
    return found


def find_archival(connection: Connection, training_id: str) -> str | None:
    """When, by whom and why a training was archived, in words; None if it is not."""
    with Session(connection) as session:
        found = session.scalar(
            select(Archival).where(Archival.training_id == training_id, Archival.returned_at.is_(None))
        )
        if found is None:
            return None
        return in_words("archived", found.archived_at, found.archived_by, found.reason)


def pruned_in_words(found: Pruning) -> str:
    """When, by whom and why it was pruned."""
    return in_words("pruned", found.began_at, found.pruned_by, found.reason)


def in_words(what: str, at: datetime, by: str, reason: str) -> str:
    """What was done to a thing, such as: pruned on 2026-01-31 by ada (ended more than 90 days ago)."""
    return f"{what} on {at.date()} by {by} ({reason})"


def has_pruned(connection: Connection, request_id: str) -> bool:
    """Whether a run removed anything."""
    return bool(connection.scalar(select(exists().where(Pruning.request_id == request_id))))
