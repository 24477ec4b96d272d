"""The database -> what a person does next where a page has nothing to show yet: the first step that is missing."""

from dataclasses import dataclass

from sqlalchemy import Connection, text

from lesion_tasks.catalog import TASKS
from lesion_tasks.database.pruned import HOLDS_OUT
from lesion_tasks.evaluation.candidacy import candidate_ids, waiting_ids
from lesion_tasks.evaluation.decisions import tasks_with_champion


@dataclass(frozen=True, kw_only=True)
class NextStep:
    """What to do, and the DAG that does it."""

    words: str
    dag_id: str


_READ = NextStep(
    words="trigger ingest_isic. It reads the archive; splits, trainings and a promotion follow by themselves.",
    dag_id="ingest_isic",
)
_SPLIT = NextStep(
    words="wait for build_splits, which starts by itself when an ingestion has ended, or trigger it.",
    dag_id="build_splits",
)
_TRAIN = NextStep(
    words="trigger train_variants, with the variants that you choose in its form. It evaluates them as well.",
    dag_id="train_variants",
)
_PROMOTE = NextStep(
    words="wait for promote_model, which starts by itself after an evaluation, or trigger it. It decides about the "
    "candidates.",
    dag_id="promote_model",
)
_TRAIN_MORE = NextStep(
    words="read in their reports why none of the evaluated trainings became champion, then trigger train_variants "
    "with other variants, or with more data.",
    dag_id="train_variants",
)


def next_step(connection: Connection, task: str | None = None) -> NextStep | None:
    """The first step of the path that is missing, of a task or of any; None: there is a champion."""
    found = connection.execute(
        text(f"""
            SELECT EXISTS (SELECT FROM record) AS has_records,
                   EXISTS (SELECT FROM manifest m WHERE m.cohort IS NULL AND m.held_out IS NULL) AS has_splits,
                   EXISTS (SELECT FROM evaluation e JOIN training t USING (training_id)
                           WHERE (t.task = :task OR CAST(:task AS text) IS NULL) AND NOT {HOLDS_OUT}) AS has_evaluated
        """),  # noqa: S608 - our own text
        {"task": task},
    ).one()
    if not found.has_records:
        return _READ
    if not found.has_splits:
        return _SPLIT
    if not found.has_evaluated:
        return _TRAIN
    champions = tasks_with_champion(connection)
    if task in champions or (task is None and champions):
        return None
    asked = TASKS if task is None else [task]
    waits = any(candidate_ids(connection, waiting_ids(connection, name)) for name in asked)
    return _PROMOTE if waits else _TRAIN_MORE
