"""A training -> archived by hand: no longer a candidate, and not on the leaderboard at first; and taken back again."""

from sqlalchemy import text

from lesion_tasks import UnusableInputError
from lesion_tasks.database.locks import Lock, lock_until_commit
from lesion_tasks.database.pruned import find_archival
from lesion_tasks.evaluation.decisions import champion_of
from lesion_tasks.evaluation.publish import publish
from lesion_tasks.training.run_record import find_finished
from lesion_tasks.workspace import Workspace


def archive_training(workspace: Workspace, training_id: str, *, reason: str, archived_by: str) -> str:
    """Archive a finished training; returns when, by whom and why it was. Nothing of it is deleted.

    One that is archived stays as it is. Raises `UnusableInputError` for the champion, and for an empty reason.
    """
    if not reason.strip():
        raise UnusableInputError(f"archiving {training_id!r}: the reason is empty, expected one in words")
    with workspace.engine.begin() as connection:
        training = find_finished(connection, training_id)
        lock_until_commit(connection, Lock.PROMOTION, training.task)
        champion = champion_of(connection, training.task)
        if champion is not None and champion.training.training_id == training_id:
            raise UnusableInputError(
                f"archiving {training_id!r}: it is the champion of {training.task!r}; promote another or roll back"
            )
        if find_archival(connection, training_id) is None:
            connection.execute(
                text("""
                    INSERT INTO archival (training_id, archived_at, reason, archived_by)
                    VALUES (:id, now(), :reason, :by)
                """),
                {"id": training_id, "reason": reason.strip(), "by": archived_by},
            )
        words = find_archival(connection, training_id) or ""
    publish(workspace)
    return words


def return_training(workspace: Workspace, training_id: str, *, returned_by: str) -> None:
    """Take an archived training back; raises `UnusableInputError` if it is not archived."""
    with workspace.engine.begin() as connection:
        n_returned = connection.execute(
            text("""
                UPDATE archival SET returned_at = now(), returned_by = :by
                WHERE training_id = :id AND returned_at IS NULL
            """),
            {"id": training_id, "by": returned_by},
        ).rowcount
    if not n_returned:
        raise UnusableInputError(f"training {training_id!r}: it is not archived, expected one that is")
    publish(workspace)
