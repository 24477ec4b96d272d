"""A training's held-out predictions, and look-alike pictures -> labels and pairs that a person should look at.

Predictions are those of val and test, as they were sealed, and of folds those of train too: of images that the model,
or the member that was asked, never learned from. Pairs are pictures that look alike from afar, of which a closer look
did not find that they are copies, and that belong to different groups. What a person has decided about is left out.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sqlalchemy import Connection, text

from lesion_tasks import UnusableInputError
from lesion_tasks.curation.corrections import decided_labels
from lesion_tasks.database.schema import Manifest
from lesion_tasks.evaluation.decisions import champion_of
from lesion_tasks.evaluation.subject import EvaluationSubject, find_subject
from lesion_tasks.metrics.counted import plural
from lesion_tasks.splits.subset_or_quarantine import SUBSETS
from lesion_tasks.training.predictions import join_to_manifest, read_sealed_predictions
from lesion_tasks.workspace import Workspace

if TYPE_CHECKING:
    from lesion_tasks.metrics.scored import Scored
    from lesion_tasks.metrics.suspects import SuspectLabel

# Pairs whose fine detail agrees less nearly all show any two lesions (docs/results.md); copies begin far above.
MIN_DETAIL = 0.4
# Of so many trainings the suspects are kept, for whoever looks at a page again: sealed predictions do not change.
N_KEPT = 4
_found: "dict[tuple[str, str, str], SuspectLabels]" = {}


@dataclass(frozen=True, kw_only=True)
class SuspectLabels:
    """The labels that a training disagrees with, and among which images they were looked for."""

    labels: "list[SuspectLabel]"
    subset_by_id: Mapping[str, str]  # of the images that were looked at, those of the labels among them
    n_by_subset: Mapping[str, int]  # how many images were looked at, in the order of the subsets
    n_left_out: int  # images of train, which the model learned from: their labels are not looked at

    @property
    def looked_at(self) -> str:
        """Which images were looked at and which were not, and why: sentences."""
        found = " and ".join(f"{n:,} of {subset}" for subset, n in self.n_by_subset.items())
        if self.n_left_out:
            left_out = plural(self.n_left_out, "image")
            rest = f"The {left_out} of train were left out: the model learned from their labels."
        elif "train" in self.n_by_subset:
            rest = "Each of train and val was judged by the model of a fold that did not learn from it."
        else:
            rest = ""
        return f"Looked at: {found}. {rest}".strip()


@dataclass(frozen=True, kw_only=True)
class SuspectPair:
    """Two images of different groups that may show one lesion."""

    isic_id: str
    other_isic_id: str
    detail_correlation: float


def suspect_labels_of(workspace: Workspace, task: str, training_id: str | None = None) -> SuspectLabels:
    """Labels that nobody has decided about, by the predictions of a training: by default the task's champion."""
    with workspace.engine.connect() as connection:
        if training_id is None:
            champion = champion_of(connection, task)
            if champion is None:
                raise UnusableInputError(f"task {task!r}: no champion, expected one or the id of a training")
            training_id = champion.training.training_id
    key = workspace.bucket.url, task, training_id
    found = _found.pop(key, None)
    if found is None:
        found = _find_labels(workspace, task, training_id)
    _found[key] = found  # the last in the order of use
    for stale in list(_found)[:-N_KEPT]:
        _found.pop(stale, None)
    with workspace.engine.connect() as connection:
        decided = decided_labels(connection, task)
    return replace(found, labels=[one for one in found.labels if one.isic_id not in decided])


def _find_labels(workspace: Workspace, task: str, training_id: str) -> SuspectLabels:
    from lesion_tasks.metrics.suspects import suspect_labels

    subject = find_subject(workspace.engine, workspace.bucket, training_id)
    if subject.task.name != task:
        raise UnusableInputError(
            f"training {training_id!r}: of task {subject.task.name!r}, expected {task!r}"
        )
    with workspace.engine.connect() as connection:
        scored = held_out_predictions(connection, subject)
    subset_by_id = dict(zip(subject.rows["isic_id"], subject.rows["subset"], strict=True))
    n_in = Counter(subset_by_id[isic_id] for isic_id in scored.isic_ids)
    n_train = sum(subset == "train" for subset in subset_by_id.values())
    return SuspectLabels(
        labels=suspect_labels(scored),
        subset_by_id=subset_by_id,
        n_by_subset={subset: n_in[subset] for subset in SUBSETS if n_in[subset]},
        n_left_out=0 if n_in["train"] else n_train,
    )


def held_out_predictions(connection: Connection, subject: EvaluationSubject) -> "Scored":
    """What a training said, as it was sealed, of images that it never learned from."""
    import pandas as pd

    frames = {
        subset: read_sealed_predictions(
            connection,
            subject.training.training_id,
            subject.manifest.digest,
            subset,
            subject.task.classes,
        )
        for subset in SUBSETS  # of train, only folds have stored any: each by the member that did not see it
    }
    rows = subject.rows[subject.rows["subset"].isin([name for name, frame in frames.items() if len(frame)])]
    return join_to_manifest(pd.concat(frames.values()), rows, subject.task)


def cautions_about_test(connection: Connection, manifest: Manifest) -> list[str]:
    """The caution that people set images aside that would stand in test of a manifest; empty if there are none."""
    n = connection.execute(
        text("""
            SELECT count(*) FROM split_member m JOIN image i USING (isic_id)
            JOIN group_subset g ON g.split = m.split AND g.group_id = i.group_id
            JOIN correction c ON c.task = :task AND c.isic_id = m.isic_id
            WHERE m.split = :split AND m.reason = 'label_set_aside' AND g.subset = 'test'
                AND c.withdrawn_at IS NULL AND c.decided_at <= :built_at
        """),
        {"task": manifest.task, "split": manifest.split, "built_at": manifest.built_at},
    ).scalar_one()
    if not n:
        return []
    return [
        f"people set {plural(n, 'image')} aside that would stand in test: where a model's errors chose which labels "
        "they looked at, its figures gain"
    ]


_SUSPECT_PAIRS = """
    FROM picture_pair p JOIN image i ON i.sha256 = p.sha256 JOIN image j ON j.sha256 = p.other_sha256
    WHERE NOT p.is_copy AND p.detail_correlation >= :least AND i.group_id <> j.group_id
        AND NOT EXISTS (
            SELECT FROM correction c WHERE c.withdrawn_at IS NULL
                AND c.isic_id = least(i.isic_id, j.isic_id) AND c.other_isic_id = greatest(i.isic_id, j.isic_id))
"""


def count_suspect_pairs(connection: Connection) -> int:
    """How many pairs of different groups look alike, and nobody decided about."""
    n: int = connection.execute(
        text(f"SELECT count(*) {_SUSPECT_PAIRS}"),
        {"least": MIN_DETAIL},
    ).scalar_one()
    return n


def suspect_pairs(connection: Connection, n: int, *, first: int = 0) -> list[SuspectPair]:
    """`n` of these pairs, most alike first, from the one at `first`."""
    rows = connection.execute(
        text(f"""
            SELECT least(i.isic_id, j.isic_id) AS one, greatest(i.isic_id, j.isic_id) AS other,
                   p.detail_correlation AS detail
            {_SUSPECT_PAIRS} ORDER BY detail DESC, one, other LIMIT :n OFFSET :first
        """),
        {"least": MIN_DETAIL, "n": n, "first": first},
    ).all()
    return [
        SuspectPair(isic_id=row.one, other_isic_id=row.other, detail_correlation=row.detail) for row in rows
    ]
