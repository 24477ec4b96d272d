"""Triggers on the tables of `schema`, and the functions that they call.

    record, stored_file written               -> their ids are added to uncurated
    record, stored_file ... written in a scope -> the note in scope.idle is removed
    split_member, cohort_image written         -> refused, if an image of a cohort stands in train or val
    training set to failed, or begun again while marked as running -> a row of training_failure

They are declared here as the tables are declared there. Migrations create them: `make migration` writes one for a
changed declaration, and a test compares it with a migrated database.
"""

from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import InstrumentedAttribute

from lesion_tasks.database.schema import (
    Base,
    CohortImage,
    Record,
    RefusedRecord,
    ScopeRecord,
    SplitMember,
    StoredFile,
    Training,
)


@dataclass(frozen=True, kw_only=True)
class Function:
    """A function in PL/pgSQL that a trigger calls once its rows are written."""

    name: str
    statement: str  # one, without its semicolon

    @property
    def create(self) -> str:
        """The statement that creates or replaces it."""
        return (
            f"CREATE OR REPLACE FUNCTION {self.name}() RETURNS trigger LANGUAGE plpgsql AS $$\n"
            f"BEGIN\n    {self.statement};\n    RETURN NULL;\nEND $$"
        )


@dataclass(frozen=True, kw_only=True)
class Trigger:
    """When a function is called. With `columns`, for each row in which an update changed one of them.

    With `condition`, for each row that an update of one of them leaves so, whether or not it changes it.
    """

    name: str
    table: type[Base]
    event: str  # the event after which it is called
    calls: Function
    rows_as: str | None = None  # the name by which the function knows all rows of a statement
    is_for_each_row: bool = False
    columns: tuple[InstrumentedAttribute[Any], ...] = ()
    condition: str = ""  # by OLD and NEW

    @property
    def create(self) -> str:
        """The statement that creates or replaces it."""
        names = [column.key for column in self.columns]
        condition = self.condition or " OR ".join(f"OLD.{n} IS DISTINCT FROM NEW.{n}" for n in names)
        parts = [
            f"CREATE OR REPLACE TRIGGER {self.name} AFTER {self.event}",
            f"OF {', '.join(names)}" if names else "",
            f"ON {self.table.__tablename__}",
            f"REFERENCING NEW TABLE AS {self.rows_as}" if self.rows_as else "",
            "FOR EACH ROW" if self.is_for_each_row else "FOR EACH STATEMENT",
            f"WHEN ({condition})" if condition else "",
            f"EXECUTE FUNCTION {self.calls.name}()",
        ]
        return " ".join(part for part in parts if part)


# Rows that are inserted together are noted together, ids in order, so that two writers of the same rows wait for each
# other and do not deadlock.
NOTE_INSERTED = Function(
    name="note_inserted",
    statement="INSERT INTO uncurated SELECT DISTINCT isic_id FROM inserted ORDER BY isic_id ON CONFLICT DO NOTHING",
)
NOTE_CHANGED = Function(
    name="note_changed",
    statement="INSERT INTO uncurated VALUES (coalesce(NEW.isic_id, OLD.isic_id)) ON CONFLICT DO NOTHING",
)
END_IDLE = Function(name="end_idle", statement="UPDATE scope SET idle = NULL WHERE idle IS NOT NULL")

# What judges a model never teaches it. Whoever writes these tables holds the lock of the task's assignment.
_REFUSE_TAUGHT = """DECLARE taught record;
    BEGIN
        SELECT c.cohort, m.isic_id, m.split, m.subset INTO taught
        FROM {members} m JOIN split_state s USING (split) JOIN {cohorts} c ON c.task = s.task AND c.isic_id = m.isic_id
        WHERE m.subset IN ('train', 'val') LIMIT 1;
        IF FOUND THEN
            RAISE EXCEPTION USING ERRCODE = 'check_violation', CONSTRAINT = 'cohorts_never_teach',
                MESSAGE = 'cohorts_never_teach: image ' || taught.isic_id || ' of cohort ' || taught.cohort
                    || ' stands in ' || taught.subset || ' of split ' || taught.split;
        END IF;
    END"""
REFUSE_TAUGHT_MEMBERS = Function(
    name="refuse_taught_members",
    statement=_REFUSE_TAUGHT.format(members="written", cohorts="cohort_image"),
)
REFUSE_TAUGHT_COHORTS = Function(
    name="refuse_taught_cohorts",
    statement=_REFUSE_TAUGHT.format(members="split_member", cohorts="written"),
)

_INSERT_FAILURE = """INSERT INTO training_failure
        SELECT NEW.training_id, clock_timestamp(), {reason},
               (SELECT count(*) FROM training_epoch e WHERE e.training_id = NEW.training_id)"""
NOTE_FAILURE = Function(
    name="note_failure",
    statement=f"""{_INSERT_FAILURE.format(reason="coalesce(NEW.reason, 'unknown')")}
        WHERE NEW.status = 'failed'""",
)
# Whoever begins a training holds its lock: a row that says running then is of a process that ended.
NOTE_LOSS = Function(
    name="note_loss",
    statement=_INSERT_FAILURE.format(
        reason="'lost: its process ended without notice, and it was begun again before anybody noted that'"
    ),
)

# The columns that curation and manifests read; changes of others (last seen, number of attempts) do not matter.
READ_BY_CURATION: dict[type[Base], tuple[InstrumentedAttribute[Any], ...]] = {
    Record: (Record.version, Record.withdrawn_at),
    StoredFile: (
        StoredFile.object_key,
        StoredFile.size_bytes,
        StoredFile.sha256,
        StoredFile.perceptual_hash,
        StoredFile.thumbprint,
        StoredFile.width_px,
        StoredFile.height_px,
        StoredFile.reason,
        StoredFile.detail,
    ),
}
# A change of any of these, also by hand, removes the notes in scope.idle.
WATCHED: tuple[type[Base], ...] = (Record, ScopeRecord, RefusedRecord, StoredFile)

FUNCTIONS = (
    NOTE_INSERTED,
    NOTE_CHANGED,
    END_IDLE,
    REFUSE_TAUGHT_MEMBERS,
    REFUSE_TAUGHT_COHORTS,
    NOTE_FAILURE,
    NOTE_LOSS,
)
TRIGGERS = (
    *(
        Trigger(name="note_inserted", table=table, event="INSERT", calls=NOTE_INSERTED, rows_as="inserted")
        for table in READ_BY_CURATION
    ),
    *(
        Trigger(
            name="note_updated",
            table=table,
            event="UPDATE",
            calls=NOTE_CHANGED,
            is_for_each_row=True,
            columns=columns,
        )
        for table, columns in READ_BY_CURATION.items()
    ),
    Trigger(name="note_deleted", table=StoredFile, event="DELETE", calls=NOTE_CHANGED, is_for_each_row=True),
    *(
        Trigger(name="end_idle", table=table, event="INSERT OR UPDATE OR DELETE OR TRUNCATE", calls=END_IDLE)
        for table in WATCHED
    ),
    *(
        Trigger(
            name=f"refuse_taught_{event.lower()}", table=table, event=event, calls=function, rows_as="written"
        )
        for table, function in ((SplitMember, REFUSE_TAUGHT_MEMBERS), (CohortImage, REFUSE_TAUGHT_COHORTS))
        for event in ("INSERT", "UPDATE")
    ),
    Trigger(
        name="note_failure",
        table=Training,
        event="UPDATE",
        calls=NOTE_FAILURE,
        is_for_each_row=True,
        columns=(Training.status, Training.reason),
    ),
    Trigger(
        name="note_loss",
        table=Training,
        event="UPDATE",
        calls=NOTE_LOSS,
        is_for_each_row=True,
        columns=(Training.status,),
        condition="OLD.status = 'running' AND NEW.status = 'running'",
    ),
)
