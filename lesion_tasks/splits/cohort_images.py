"""The cohorts of a task and the curated images -> which images judge its models, and are set aside from its splits."""

import logging
from collections.abc import Iterator
from datetime import UTC, datetime

from sqlalchemy import Connection, text

from lesion_tasks import UnusableInputError
from lesion_tasks.archive.query import Expression, QueryCrashError, QueryError, parse, satisfies
from lesion_tasks.catalog import Cohort, Task, cohorts_of
from lesion_tasks.catalog.cohorts import BY_VALUE
from lesion_tasks.catalog.lookup import did_you_mean
from lesion_tasks.database.bulk import copy_rows

log = logging.getLogger(__name__)

_BATCH_RECORDS = 2_000
N_VALUES_NAMED = 8
_OF_VALUES = " AND ".join(
    f"(cardinality(CAST(:{name} AS text[])) = 0 OR i.{name} = ANY(:{name}))" for name in BY_VALUE
)
# Every condition but the query. Without a value, a condition holds.
_MEMBERS = text(f"""
    SELECT i.isic_id, CASE WHEN :is_queried THEN v.document END AS document
    FROM image i JOIN record r USING (isic_id)
        JOIN record_version v ON v.isic_id = i.isic_id AND v.version = i.record_version
    WHERE {_OF_VALUES}
        AND (CAST(:seen_from AS timestamptz) IS NULL OR r.first_seen_at >= :seen_from)
        AND (CAST(:seen_before AS timestamptz) IS NULL OR r.first_seen_at < :seen_before)
        AND (:is_anywhere OR EXISTS (
            SELECT FROM scope_record l JOIN scope s USING (scope_id) WHERE l.isic_id = i.isic_id
                AND (s.source = :source OR :source = '') AND (s.collections = :collections OR :collections = '')))
""")  # noqa: S608 - our own words


def gather_cohorts(connection: Connection, task: Task, *, told: set[str] | None = None) -> None:
    """Bring `cohort_image` of a task in line with the images.

    Images that have become a cohort's leave every split of the task at once; the splits take notice when they are next
    built. The log names cohorts without an image, except those in `told` already, which gets their names; with
    None it names none. The caller holds the lock of the task's assignment. Raises `UnusableInputError` for a query that
    cannot be read.
    """
    cohorts = cohorts_of(task.name)
    values = {"task": task.name}
    known = text("SELECT EXISTS (SELECT FROM cohort_image WHERE task = :task)")
    if not cohorts and not connection.execute(known, values).scalar_one():
        return
    connection.execute(
        text(
            "CREATE TEMP TABLE chosen (isic_id text, cohort text, PRIMARY KEY (isic_id, cohort)) ON COMMIT DROP"
        )
    )
    for cohort in cohorts:
        chosen = ((isic_id, cohort.name) for isic_id in list(_images_of(connection, cohort)))
        n_images = copy_rows(connection, "chosen", ("isic_id", "cohort"), chosen)
        if not n_images and told is not None and cohort.name not in told:
            told.add(cohort.name)
            log.warning("cohort %s: no image%s", cohort.name, why_none(connection, cohort))
    connection.execute(text("ANALYZE chosen"))
    connection.execute(
        text("""
            DELETE FROM cohort_image c WHERE task = :task
                AND NOT EXISTS (SELECT FROM chosen n WHERE (n.isic_id, n.cohort) = (c.isic_id, c.cohort))
        """),
        values,
    )
    # They keep their group until the split is next built: by that it knows which members it has lost.
    connection.execute(
        text("""
            UPDATE split_member m SET reason = 'set_aside', subset = NULL, label = NULL, is_balanced = false
            FROM split_state s WHERE s.split = m.split AND s.task = :task
                AND m.isic_id IN (SELECT isic_id FROM chosen)
                AND m.reason IS DISTINCT FROM 'set_aside'
                AND m.split NOT IN (SELECT split FROM manifest WHERE cohort IS NOT NULL)
        """),
        values,
    )
    connection.execute(
        text("""
            INSERT INTO cohort_image (task, isic_id, cohort) SELECT :task, isic_id, cohort FROM chosen
            ON CONFLICT DO NOTHING
        """),
        values,
    )
    connection.execute(text("DROP TABLE chosen"))


def _images_of(connection: Connection, cohort: Cohort) -> Iterator[str]:
    expression = query_of(cohort)
    rows = connection.execute(
        _MEMBERS.execution_options(yield_per=_BATCH_RECORDS),
        {
            **{name: list(getattr(cohort, name)) for name in BY_VALUE},
            "seen_from": _moment(cohort.seen_from),
            "seen_before": _moment(cohort.seen_before),
            "source": cohort.source,
            "collections": cohort.collections,
            "is_anywhere": not (cohort.source or cohort.collections),
            "is_queried": expression is not None,
        },
    )
    for row in rows:
        if expression is None or satisfies(row.document, expression):
            yield row.isic_id


def query_of(cohort: Cohort) -> Expression | None:
    """A cohort's query as it is matched. Raises `UnusableInputError` for one that cannot be read."""
    try:
        return parse(cohort.query)
    except (QueryError, QueryCrashError) as error:
        raise UnusableInputError(f"cohort {cohort.name!r}: query {cohort.query[:200]!r}: {error}") from None


def _moment(told: str) -> datetime | None:
    """An ISO time, in UTC where it names no zone; None for none."""
    if not told:
        return None
    moment = datetime.fromisoformat(told)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def why_none(connection: Connection, cohort: Cohort) -> str:
    """What was ingested, if that is where the cohort's source or collections are missing."""
    if cohort.source:
        known = list(connection.execute(text("SELECT DISTINCT source FROM scope ORDER BY source")).scalars())
        if cohort.source not in known:
            found = ", ".join(known) or "nothing"
            return (
                f": {cohort.source} was never ingested{did_you_mean(cohort.source, known)}; ingested: {found}"
            )
    if cohort.collections:
        statement = text("SELECT DISTINCT collections FROM scope ORDER BY collections")
        known = list(connection.execute(statement).scalars())
        if cohort.collections not in known:
            return f": collections {cohort.collections} were never ingested as such"
    for column in BY_VALUE:
        statement = text(f"SELECT {column}, count(*) FROM image GROUP BY 1 ORDER BY 2 DESC, 1")  # noqa: S608 - our own word
        n_by_value = {row[0]: row[1] for row in connection.execute(statement) if row[0] is not None}
        for told in getattr(cohort, column):
            if told not in n_by_value:
                alike = {one.casefold(): one for one in n_by_value}.get(told.casefold())
                meant = f"; did you mean {alike}?" if alike else did_you_mean(told, n_by_value)
                shown = ", ".join(f"{one} ({n:,})" for one, n in list(n_by_value.items())[:N_VALUES_NAMED])
                return f": {column} is {told!r} of no image{meant}; there is {shown or 'none that has one'}"
    return ""
