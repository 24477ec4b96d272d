"""The document of an evaluation and the cohorts of its task -> those that it does not judge as they are by now."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, text

from lesion_tasks.catalog import Cohort, cohorts_of


def unjudged_cohorts(connection: Connection, task: str, document: Mapping[str, Any]) -> list[str]:
    """The cohorts of which it says nothing, or what was true before they grew or were defined anew."""
    other = document.get("other_data") or {"cohorts": []}
    said = {one["name"]: one["manifest_digest"] for one in other["cohorts"]}
    return [
        cohort.name
        for cohort in cohorts_of(task)
        if cohort.name not in said
        or _has_changed(connection, cohort, task, said[cohort.name], document["evaluated_at"])
    ]


def _has_changed(
    connection: Connection, cohort: Cohort, task: str, said: str | None, evaluated_at: str
) -> bool:
    """Whether what was judged is not the cohort of today: another manifest is in force, or another definition."""
    found = cohort_manifest_in_force(connection, cohort, task)
    if said is None:
        # No image could be judged then. One of an earlier definition is left from before.
        return found is not None and bool(found.built_at > datetime.fromisoformat(evaluated_at))
    if found is None or found.digest != said:
        return True
    return not is_of_today(cohort, found)


def is_of_today(cohort: Cohort, manifest: Row[Any]) -> bool:
    """Whether a manifest of a cohort was built by its definition in the catalogue; younger fields were as they are."""
    was = manifest.recipe["cohort"]
    return all(was.get(name, value) == value for name, value in cohort.definition.items())


def cohort_manifest_in_force(connection: Connection, cohort: Cohort, task: str) -> Row[Any] | None:
    """Digest, recipe and time of the newest manifest of a cohort for a task; None without one."""
    statement = text("""
        SELECT digest, recipe, built_at FROM manifest WHERE split = :split ORDER BY built_at DESC LIMIT 1
    """)
    return connection.execute(statement, {"split": cohort.split_name(task)}).one_or_none()
