"""Champions in Postgres -> `champion.json` in the bucket, from which they are served, and a copy for each decision.

Here and not where champions are made: evaluations and pruning change what it says, too.
"""

import json
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection

from lesion_tasks.bucket import Bucket
from lesion_tasks.catalog import TASKS
from lesion_tasks.catalog.gates import leading_measure_of
from lesion_tasks.evaluation.champion_document import (
    CHAMPION_KEY,
    CHAMPION_SCHEMA_KEY,
    ChampionEntry,
    ChampionFigures,
    champion_schema,
)
from lesion_tasks.evaluation.decisions import Champion, champion_of, tasks_with_champion
from lesion_tasks.evaluation.doubt import entry_of
from lesion_tasks.evaluation.evaluation_record import (
    AlteredEvaluationError,
    find_sealed,
    newest_since_promotion,
    why_unsound,
)
from lesion_tasks.reports.bundle import BestOfLooks, SincePromotion
from lesion_tasks.reports.index import subset_figures


def champion_entries(connection: Connection) -> dict[str, ChampionEntry]:
    """What `champion.json` says, by task.

    Of tasks that are gone from the catalogue too: somebody may be served by one.
    """
    names = dict.fromkeys([*TASKS, *tasks_with_champion(connection)])
    found = {name: champion_of(connection, name) for name in names}
    return {name: champion_entry(connection, one) for name, one in found.items() if one is not None}


def write_champion_json(bucket: Bucket, champions: Mapping[str, ChampionEntry]) -> None:
    """Write the copy of each decision that has none yet, and `champion.json` last."""
    for name, entry in champions.items():
        key = champion_key(name, entry.sequence)
        if not bucket.exists(key):
            _put(bucket, key, entry.model_dump())
    _put(bucket, CHAMPION_SCHEMA_KEY, champion_schema())
    _put(bucket, CHAMPION_KEY, {name: entry.model_dump() for name, entry in champions.items()})


def _put(bucket: Bucket, key: str, document: Mapping[str, Any]) -> None:
    bucket.put(key, json.dumps(document, indent=2).encode(), content_type="application/json")


def champion_key(task: str, sequence: int) -> str:
    """The key of a decision's own copy of the champion, which never changes once written."""
    return f"champions/{task}/{sequence:06d}.json"


def champion_entry(connection: Connection, champion: Champion) -> ChampionEntry:
    """What `champion.json` says about a task: the model, how to read it, the decision behind it, and its figures."""
    decision, training = champion.decision, champion.training
    try:
        evaluation = find_sealed(connection, training.training_id, training.manifest_digest)
    except AlteredEvaluationError:
        evaluation = None  # what it says now is nobody's finding
    document = evaluation.document if evaluation is not None else {}
    best, fresh = _best_of_looks(document), since_promotion_of(connection, champion)
    measure = leading_measure_of(is_binary=len(training.classes) == 2)
    figure = subset_figures(document, "test_natural").get(measure)
    return ChampionEntry(
        sequence=decision.sequence,
        training_id=training.training_id,
        variant=training.variant,
        model_key=training.model_key or "",
        model_sha256=training.model_sha256 or "",
        classes=list(training.classes),
        threshold=training.threshold,
        since=decision.decided_at.isoformat(timespec="seconds"),
        reason=decision.reason,
        **entry_of(document),
        unsound=why_unsound(connection, training.training_id, training.manifest_digest),
        figures=ChampionFigures(
            measure=measure,
            value=figure.value if figure else None,
            low=figure.low if figure else None,
            high=figure.high if figure else None,
            best_of_looks=best if best and best.n_looks > 1 else None,
            since_promotion=fresh,
        ),
    )


def _best_of_looks(document: Mapping[str, Any]) -> BestOfLooks | None:
    found = document.get("best_of_looks")
    return None if found is None else BestOfLooks.model_validate(found)


def since_promotion_of(connection: Connection, champion: Champion) -> SincePromotion | None:
    """The champion on images that came after its promotion, by its newest evaluation; None where there are none."""
    found = newest_since_promotion(connection, champion.training.training_id)
    return None if found is None else SincePromotion.model_validate(found)
