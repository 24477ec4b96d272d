"""Stored records -> counts of fields and values that the archive's published vocabulary does not know.

Only a warning: nothing is refused because of it. Older records may violate newer rules, and the archive adds fields
freely; a count that jumps is a sign to review labels and curation rules. The rules are those of the ISIC team's
`isic-metadata` package; its version 4.12 knows both generations of anatomical sites.
"""

import importlib.metadata
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any

from sqlalchemy import text

from lesion_tasks.archive import vocabulary
from lesion_tasks.ingest.scope import ScopeKey, Trust, polled_scope, scope_key
from lesion_tasks.workspace import Workspace

# Measured or renamed by the archive: not contributors' metadata, so no rule covers them.
_OUTSIDE_THE_RULES = frozenset({"pixels_x", "pixels_y"})
# Identifiers differ from record to record and have one rule, their form, which the archive itself enforces.
_IDENTIFIERS = frozenset({"patient_id", "lesion_id", "rcm_case_id", "acquisition_day"})
_KNOWN_FIELDS = (
    vocabulary.SEARCH_STRINGS
    | vocabulary.SEARCH_NUMBERS
    | vocabulary.SEARCH_BOOLEANS
    | vocabulary.INTEGER_FIELDS
    | _IDENTIFIERS
    | {"anatom_site_general"}  # until May 2026
)

MAX_CHARACTERS = 200  # of a finding's text: some rules list every possible value

Finding = tuple[str, str]  # (kind, words): kind is unknown_field or rule


def check_vocabulary(
    workspace: Workspace,
    *,
    source: str | None = None,
    query: str | None = None,
    collections: str = "",
    trust: Trust = "operator",
) -> dict[str, Any]:
    """Compare the current records of a scope with the vocabulary and return counts; writes nothing."""
    key = scope_key(workspace, source, query, collections, trust)
    polled_scope(key)
    find = lru_cache(maxsize=20_000)(_findings)
    counts: Counter[Finding] = Counter()
    n_records = n_with_findings = 0
    for metadata in _current_metadata(key):
        n_records += 1
        findings = find(_comparable(metadata))
        n_with_findings += bool(findings)
        counts.update(findings)
    by_kind: dict[str, dict[str, int]] = {"unknown_field": {}, "rule": {}}
    for (kind, words), count in counts.most_common(200):
        by_kind[kind][words] = count
    return {
        "records": n_records,
        "records_with_findings": n_with_findings,
        "unknown_fields": by_kind["unknown_field"],
        "rules": by_kind["rule"],
        "checked_by": f"isic-metadata {importlib.metadata.version('isic-metadata')}",
    }


def _current_metadata(key: ScopeKey) -> Iterator[Mapping[str, Any]]:
    statement = text("""
        SELECT document -> 'metadata' FROM scope_record
        JOIN record USING (isic_id) JOIN record_version USING (isic_id, version)
        WHERE scope_id = :scope_id AND scope_record.missing_since IS NULL
    """)
    with key.workspace.session() as session:
        rows = session.execute(statement, {"scope_id": key.scope_id}, execution_options={"yield_per": 2_000})
        for (metadata,) in rows:
            yield metadata


def _comparable(metadata: Mapping[str, Any]) -> str:
    """Return the metadata that rules apply to, as text: many records share it, so each combination is checked once."""
    fields = {
        name: "known" if name in _IDENTIFIERS and isinstance(value, str) else value
        for group in ("acquisition", "clinical")
        for name, value in (metadata.get(group) or {}).items()
        if name not in _OUTSIDE_THE_RULES
    }
    return json.dumps(fields, sort_keys=True)


def _findings(comparable: str) -> tuple[Finding, ...]:
    """Check one record's fields against the package's rules; the package is slow to load, so it is loaded here."""
    from isic_metadata.metadata import MetadataRow
    from pydantic import ValidationError

    fields = json.loads(comparable)
    # The archive publishes ages in five-year steps under a separate name.
    if "age_approx" in fields:
        fields["age"] = fields.pop("age_approx")
    make_row: Callable[..., Any] = MetadataRow
    try:
        return tuple(("unknown_field", name) for name in make_row(**fields).unstructured)
    except ValidationError as error:
        # The rule is older than anatom_site_1 to 5, which replaced anatom_site_general.
        rules = [
            ("rule", _words(dict(problem)))
            for problem in error.errors(include_url=False)
            if not ("requires setting anatom_site_general" in problem["msg"] and "anatom_site_1" in fields)
        ]
        unknown = [("unknown_field", name) for name in json.loads(comparable) if name not in _KNOWN_FIELDS]
        return (*rules, *unknown)


def _words(problem: dict[str, Any]) -> str:
    if not problem["loc"]:
        return str(problem["msg"])[:MAX_CHARACTERS]
    found = str(problem.get("input"))[:60]
    return f"{problem['loc'][0]} is {found!r}: {problem['msg']}"[:MAX_CHARACTERS]
