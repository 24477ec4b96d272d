"""A training -> a report bundle in the bucket and a verdict in Postgres.

Reads the stored predictions by key, loads the stored model afresh and scores again, runs every integrity check,
measures every figure, and writes `reports/<training_id>/`, then one evaluation row, then the index. Running it
again writes the same files and the same row.
"""

import hashlib
import json
import logging
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine, text

from lesion_tasks import UnusableInputError
from lesion_tasks.catalog import TASKS, Task, fit_name
from lesion_tasks.database import database_url, engine_for
from lesion_tasks.leaderboard import champion_of, publish
from lesion_tasks.manifest import read_manifest
from lesion_tasks.predictions import join_to_manifest, read_predictions, store_predictions
from lesion_tasks.progress import progress
from lesion_tasks.store import Store, open_store

if TYPE_CHECKING:
    import keras
    import pandas as pd

    from lesion_tasks.dataset import Examples
    from lesion_tasks.evaluation.scored import Scored
    from lesion_tasks.evaluation.threshold import Threshold
    from lesion_tasks.evaluation.verdict import Verdict

log = logging.getLogger(__name__)

# How much is scored again to see that the stored model serves what was measured.
N_ALONE = 16
N_PERMUTED = 512
_SEED = 7


@dataclass(frozen=True, kw_only=True)
class _Case:
    """One training on one manifest, as rows."""

    training: Any
    manifest: Any
    task: Task
    rows: "pd.DataFrame"

    @property
    def is_own_manifest(self) -> bool:
        return bool(self.training.manifest_digest == self.manifest.digest)

    @property
    def evaluation_id(self) -> str:
        return f"{self.training.training_id}-on-{self.manifest.digest[:10]}"

    @property
    def folder(self) -> str:
        base = f"reports/{self.training.training_id}"
        return base if self.is_own_manifest else f"{base}/on-{self.manifest.digest[:10]}"

    def subset(self, name: str) -> "pd.DataFrame":
        """Rows of val, test, or of their balanced draws."""
        base, _, drawn = name.partition("_")
        inside = self.rows[self.rows["subset"] == base]
        return inside[inside["is_balanced"]] if drawn == "balanced" else inside


def evaluate_training(training_id: str, *, manifest_digest: str | None = None) -> str:
    """Evaluate a finished training on its own manifest, or on another one of its task; returns the evaluation id."""
    engine = engine_for(database_url())
    store = open_store()
    case = _find_case(engine, store, training_id, manifest_digest)
    with progress(f"evaluate {training_id}", total=4) as advance:
        model = _load_model(store, case)
        examples = _load_examples(engine, store, case)
        _ensure_predictions(engine, case, model, examples)
        advance(1, "predictions")
        bundle = _measure(engine, case, model, examples)
        advance(1, "figures")
        _store_bundle(store, case, bundle, _stored_frames(engine, case))
        advance(1, "report")
        _record(engine, case, bundle)
        with engine.connect() as connection:
            publish(store, connection)
        advance(1, "index")
    log.info("%s: %s", training_id, bundle["verdict"])
    return case.evaluation_id


def list_unevaluated() -> list[str]:
    """Finished trainings without an evaluation on their own manifest, oldest first."""
    with engine_for(database_url()).connect() as connection:
        return list(
            connection.execute(
                text("""
                    SELECT training_id FROM training t WHERE status = 'finished' AND NOT EXISTS (
                        SELECT FROM evaluation e
                        WHERE e.training_id = t.training_id AND e.manifest_digest = t.manifest_digest)
                    ORDER BY finished_at
                """)
            ).scalars()
        )


def _find_case(engine: Engine, store: Store, training_id: str, manifest_digest: str | None) -> _Case:
    with engine.connect() as connection:
        training = connection.execute(
            text("SELECT * FROM training WHERE training_id = :id"), {"id": training_id}
        ).one_or_none()
        if training is None or training.status != "finished":
            found = "no such training" if training is None else f"it is {training.status}"
            raise UnusableInputError(f"training {training_id!r}: {found}, expected a finished one")
        manifest = connection.execute(
            text("SELECT * FROM manifest WHERE digest = :digest"),
            {"digest": manifest_digest or training.manifest_digest},
        ).one_or_none()
    if manifest is None or manifest.task != training.task:
        found = "no such manifest" if manifest is None else f"it is of task {manifest.task!r}"
        raise UnusableInputError(
            f"manifest {manifest_digest!r} for training {training_id!r}: {found}, expected one of {training.task!r}"
        )
    return _Case(
        training=training,
        manifest=manifest,
        task=TASKS[training.task],
        rows=read_manifest(store, manifest.object_key),
    )


def _load_model(store: Store, case: _Case) -> "keras.Model":
    from lesion_tasks.training_loop import load_model

    data = store.get(case.training.model_key)
    found = hashlib.sha256(data).hexdigest()
    if found != case.training.model_sha256:
        raise UnusableInputError(
            f"model {case.training.model_key}: SHA-256 is {found[:12]}, expected {case.training.model_sha256[:12]}"
        )
    return load_model(data)


def _load_examples(engine: Engine, store: Store, case: _Case) -> "dict[str, Examples]":
    from lesion_tasks.dataset import load_examples

    side_px = case.training.recipe["side_px"]
    with engine.connect() as connection:
        return {
            subset: load_examples(
                connection,
                store,
                case.subset(subset),
                classes=case.task.classes,
                fit=None if side_px is None else fit_name(side_px),
                metadata_fields=case.training.recipe["metadata"],
            )
            for subset in ("val", "test")
        }


def _ensure_predictions(
    engine: Engine, case: _Case, model: "keras.Model", examples: "dict[str, Examples]"
) -> None:
    """On another manifest than its own, a training has said nothing yet: score its subsets once."""
    from lesion_tasks.prediction import predict_examples

    if case.is_own_manifest:
        return
    for subset, some in examples.items():
        predictions = predict_examples(model, some, classes=case.task.classes)
        with engine.begin() as connection:
            store_predictions(
                connection, case.training.training_id, case.manifest.digest, subset, predictions
            )


def _stored_frames(engine: Engine, case: _Case) -> "dict[str, pd.DataFrame]":
    with engine.connect() as connection:
        return {
            subset: read_predictions(
                connection, case.training.training_id, case.manifest.digest, subset, case.task.classes
            )
            for subset in ("val", "test")
        }


def _measure(
    engine: Engine, case: _Case, model: "keras.Model", examples: "dict[str, Examples]"
) -> dict[str, Any]:
    """The bundle: everything that is known of this training on this manifest, as one JSON-able document."""
    from lesion_tasks.evaluation.document import evaluation_document
    from lesion_tasks.evaluation.integrity import ids_differ

    stored = _stored_frames(engine, case)
    verdicts = [ids_differ(stored["test"].index, case.subset("test")["isic_id"])]
    scored: dict[str, Scored] = {}
    if verdicts[0].status == "passed" and set(stored["val"].index) == set(case.subset("val")["isic_id"]):
        scored = {
            "test_natural": join_to_manifest(stored["test"], case.subset("test"), case.task),
            "test_balanced": join_to_manifest(stored["test"], case.subset("test_balanced"), case.task),
            "val": join_to_manifest(stored["val"], case.subset("val"), case.task),
        }
        verdicts += _judge(case, scored, stored, _rescore(case, model, examples))
    documents = {
        name: evaluation_document(
            some, threshold=_threshold(case), subset=name, training_id=case.training.training_id
        )
        for name, some in scored.items()
    }
    failed = [verdict.name for verdict in verdicts if verdict.blocks]
    return {
        "schema_version": 1,
        "evaluation_id": case.evaluation_id,
        "evaluated_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "is_sound": not failed,
        "failed_checks": failed,
        "verdict": _sentence(case, documents, verdicts),
        "training": _training_facts(case),
        "manifest": _manifest_facts(case),
        "integrity": [verdict.as_dict() for verdict in verdicts],
        "subsets": documents,
        "epochs": _epochs(engine, case),
        "comparison": _comparison(engine, case, scored),
        "data_changes": None,
        "data": _data_facts(case),
        "examples": [],
        "n_test_openings": _open_test(engine, case),
    }


def _threshold(case: _Case) -> "Threshold | None":
    from lesion_tasks.evaluation.threshold import Threshold

    if case.training.threshold is None:
        return None
    return Threshold(value=case.training.threshold, rule="highest balanced accuracy", chosen_on="val")


def _rescore(case: _Case, model: "keras.Model", examples: "dict[str, Examples]") -> dict[str, dict[str, Any]]:
    """Score again with the model loaded afresh: every test image in batches, some permuted, some alone."""
    import numpy as np

    from lesion_tasks.prediction import predict_examples

    test = examples["test"]
    shuffled = np.random.default_rng(_SEED).permutation(len(test))
    ways = {
        "in batches": predict_examples(model, test, classes=case.task.classes),
        "permuted": predict_examples(model, test, classes=case.task.classes, order=shuffled[:N_PERMUTED]),
        "alone": predict_examples(
            model, test, classes=case.task.classes, order=shuffled[:N_ALONE], batch_images=1
        ),
    }
    return {way: _by_id(frame) for way, frame in ways.items()}


def _by_id(frame: "pd.DataFrame") -> dict[str, Any]:
    return dict(zip(frame.index, frame.to_numpy(), strict=True))


def _judge(
    case: _Case,
    scored: "Mapping[str, Scored]",
    stored: "Mapping[str, pd.DataFrame]",
    rescored: Mapping[str, Mapping[str, Any]],
) -> "list[Verdict]":
    from lesion_tasks.evaluation import integrity
    from lesion_tasks.evaluation.document import confusion_counts

    test = scored["test_natural"]
    threshold = case.training.threshold
    # Of another manifest's rows the trainer has measured nothing.
    trainer = case.training.trainer_figures if case.is_own_manifest else {}
    return [
        integrity.independent_of_labels(
            test, threshold=threshold, trainer_auc=trainer.get("test", {}).get("auc")
        ),
        integrity.inverted(test),
        integrity.marginals_differ(
            confusion_counts(test, threshold), case.task.classes, case.manifest.class_counts["test"]
        ),
        integrity.degenerate(test, threshold=threshold),
        integrity.serving_differs(_by_id(stored["test"]), rescored),
        integrity.gap(scored["val"], test),
    ]


def _sentence(case: _Case, documents: Mapping[str, Any], verdicts: "list[Verdict]") -> str:
    if blocking := [verdict for verdict in verdicts if verdict.blocks]:
        return f"Not to be trusted ({blocking[0].name}): {blocking[0].sentence}"
    from lesion_tasks.leaderboard import leading_measure

    measure = leading_measure(case.task.name)
    figure = documents["test_natural"]["figures"][measure]
    if figure["value"] is None:
        return f"Sound, but {measure} is undefined: {figure['reason']}"
    return (
        f"Sound: all checks passed; {measure.replace('_', ' ').replace('auc', 'AUC')} {figure['value']:.3f} "
        f"(95 % interval {figure['low']:.3f} to {figure['high']:.3f}) on {figure['n_images']:,} test images."
    )


def _training_facts(case: _Case) -> dict[str, Any]:
    training = case.training
    return {
        **{
            name: getattr(training, name)
            for name in (
                "training_id", "variant", "task", "recipe", "seed", "weights", "weights_sha256", "code_version",
                "versions", "threshold", "manifest_digest", "model_sha256",
            )
        },
        "title": training.recipe["title"],
        "reproduces": training.recipe["reproduces"],
        "task_title": case.task.title,
        "classes": list(training.classes),
        "positive_class": case.task.positive,
        "started_at": training.started_at.isoformat(timespec="seconds"),
        "finished_at": training.finished_at.isoformat(timespec="seconds"),
    }  # fmt: skip


def _manifest_facts(case: _Case) -> dict[str, Any]:
    manifest = case.manifest
    return {
        **{
            name: getattr(manifest, name)
            for name in ("digest", "split", "task", "n_images", "class_counts", "funnel", "recipe")
        },
        "created_at": manifest.created_at.isoformat(timespec="seconds"),
    }


def _data_facts(case: _Case) -> dict[str, Any]:
    rows = case.rows

    def counts(column: str) -> dict[str, int]:
        return {str(name): int(n) for name, n in rows[column].fillna("unknown").value_counts().items()}

    missing = {
        field: {subset: float(part[field].isna().mean()) for subset, part in rows.groupby("subset")}
        for field in ("age_years", "sex", "size_mm", "anatom_site", "patient_id", "lesion_id")
    }
    return {
        "licences": counts("copyright_license"),
        "attributions": counts("attribution"),
        "image_types": counts("image_type"),
        "sexes": counts("sex"),
        "missing": missing,
    }


def _epochs(engine: Engine, case: _Case) -> list[dict[str, Any]]:
    with engine.connect() as connection:
        return [
            dict(row._mapping)
            for row in connection.execute(
                text(
                    "SELECT epoch, figures, duration_s FROM training_epoch WHERE training_id = :id ORDER BY epoch"
                ),
                {"id": case.training.training_id},
            )
        ]


def _comparison(engine: Engine, case: _Case, scored: "Mapping[str, Scored]") -> dict[str, Any] | None:
    """Against the present champion on the same test rows, where it has scored them."""
    from lesion_tasks.evaluation.compare import compare

    with engine.connect() as connection:
        champion = champion_of(connection, case.task.name)
        if champion is None or champion.training_id == case.training.training_id or not scored:
            return None
        predictions = read_predictions(
            connection, champion.training_id, case.manifest.digest, "test", case.task.classes
        )
    if set(predictions.index) != set(case.subset("test")["isic_id"]):
        return None
    differences = compare(
        scored["test_natural"],
        join_to_manifest(predictions, case.subset("test"), case.task),
        threshold=case.training.threshold,
        champion_threshold=champion.threshold,
    )
    return {
        "champion": champion.training_id,
        "subset": "test_natural",
        "differences": {name: difference.as_dict() for name, difference in differences.items()},
    }


def _open_test(engine: Engine, case: _Case) -> int:
    """Count this look at the test set; returns how often this one has been looked at by anybody."""
    with engine.begin() as connection:
        connection.execute(
            text("INSERT INTO test_opening (training_id, manifest_digest, why) VALUES (:id, :digest, :why)"),
            {
                "id": case.training.training_id,
                "digest": case.manifest.digest,
                "why": "evaluation" if case.is_own_manifest else "comparison with a candidate",
            },
        )
        n: int = connection.execute(
            text("SELECT count(*) FROM test_opening WHERE manifest_digest = :digest"),
            {"digest": case.manifest.digest},
        ).scalar_one()
    return n


def _store_bundle(
    store: Store, case: _Case, bundle: dict[str, Any], predictions: "dict[str, pd.DataFrame]"
) -> None:
    import pandas as pd

    from lesion_tasks.evaluation.report import render_bundle

    files = render_bundle(bundle)
    keyed = pd.concat([frame.assign(subset=subset) for subset, frame in predictions.items()])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "predictions.parquet"
        keyed.to_parquet(path)
        store.put_file(f"{case.folder}/predictions.parquet", path)
    # The page last: whoever finds it finds everything it points to.
    for name in sorted(files, key=lambda name: name == "report.html"):
        data, content_type = files[name]
        store.put(f"{case.folder}/{name}", data, content_type=content_type)


def _record(engine: Engine, case: _Case, bundle: dict[str, Any]) -> None:
    with engine.begin() as connection:
        connection.execute(
            text("""
                INSERT INTO evaluation (evaluation_id, training_id, manifest_digest, is_sound, failed_checks, verdict,
                                        document, report_key, evaluated_at)
                VALUES (:evaluation_id, :training_id, :digest, :is_sound, :failed, :verdict, :document, :key, :at)
                ON CONFLICT (evaluation_id) DO UPDATE SET
                    is_sound = excluded.is_sound, failed_checks = excluded.failed_checks,
                    verdict = excluded.verdict, document = excluded.document, evaluated_at = excluded.evaluated_at
            """),
            {
                "evaluation_id": case.evaluation_id,
                "training_id": case.training.training_id,
                "digest": case.manifest.digest,
                "is_sound": bundle["is_sound"],
                "failed": bundle["failed_checks"],
                "verdict": bundle["verdict"],
                "document": json.dumps(bundle),
                "key": f"{case.folder}/report.html",
                "at": bundle["evaluated_at"],
            },
        )
