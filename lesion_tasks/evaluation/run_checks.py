"""Stored predictions, the stored model and the manifest -> every integrity verdict of one evaluation."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from sqlalchemy import Connection, Engine, text

from lesion_tasks.bucket import AlteredObjectError, Bucket, MissingObjectError, get_verified
from lesion_tasks.catalog import InputSize
from lesion_tasks.curation.copies import picture_numbers
from lesion_tasks.curation.ties import Ties
from lesion_tasks.evaluation.probing import probe_predictions
from lesion_tasks.evaluation.rescore import Rescored, by_id
from lesion_tasks.evaluation.subject import EvaluationSubject, is_pretrained, random_weight_baseline
from lesion_tasks.training.predictions import find_alteration, join_to_manifest, read_predictions

if TYPE_CHECKING:
    import pandas as pd

    from lesion_tasks.metrics.scored import Scored
    from lesion_tasks.metrics.verdict import Verdict
    from lesion_tasks.training.examples import Examples

# Pictures of each subset that are decoded again from the bucket.
N_DECODED = 256
N_TIES_NAMED = 5
_SEED = 7

# Where the test set is an institution that was held out, these are what was asked, and no faults: a recipe that fails
# there would otherwise be left out of the answer. Predictions paired with the wrong rows are a fault there too.
_ABOUT_QUALITY = {
    "independent_of_labels", "inverted", "degenerate", "shortcut", "no_better_than_random_weights", "gap",
}  # fmt: skip


def judge_ids(subject: EvaluationSubject, stored: "Mapping[str, pd.DataFrame]") -> "list[Verdict]":
    """Whether test and val have one prediction for each row. Without that, nothing can be joined and judged."""
    from lesion_tasks.metrics.integrity import ids_differ

    test, val = (ids_differ(stored[name].index, subject.subset(name)["isic_id"]) for name in ("test", "val"))
    return [test, val.on_val()]


def judge_seals(
    engine: Engine, subject: EvaluationSubject, stored: "Mapping[str, pd.DataFrame]"
) -> "Verdict":
    """Whether the predictions for val and test are unchanged since they were stored."""
    from lesion_tasks.metrics.integrity import predictions_altered

    training_id, digest = subject.training.training_id, subject.manifest.digest
    with engine.connect() as connection:
        found = {
            subset: find_alteration(connection, training_id, digest, subset, frame)
            for subset, frame in stored.items()
        }
    return predictions_altered({subset: words for subset, words in found.items() if words is not None})


def judge(
    engine: Engine,
    *,
    bucket: Bucket,
    subject: EvaluationSubject,
    scored: "Mapping[str, Scored]",
    stored: "Mapping[str, pd.DataFrame]",
    again: Rescored,
    examples: "Mapping[str, Examples]",
) -> "list[Verdict]":
    """Run every check on a joined evaluation. `scored` has `test_natural` and `val`; `stored` has `test` and `val`."""
    from lesion_tasks.metrics import integrity
    from lesion_tasks.metrics.known_identities import count_known
    from lesion_tasks.metrics.shortcut import shortcut

    test, val = scored["test_natural"], scored["val"]
    on_test = _judge_subset(subject, "test", test)
    on_test.append(integrity.serving_differs(by_id(stored["test"]), again.test))
    on_val = _judge_subset(subject, "val", val)
    on_val.append(integrity.serving_differs(by_id(stored["val"]), again.val))
    on_test.append(integrity.pixels_differ(*decode_again(bucket, subject, examples, "test")))
    on_val.append(integrity.pixels_differ(*decode_again(bucket, subject, examples, "val")))
    probes, unjudged = probe_predictions(engine, bucket, subject, examples["test"])
    found = [
        *on_test,
        integrity.degenerate(test, threshold=subject.training.threshold),
        integrity.few_groups(test, count_known(subject.subset("test"))),
        *(verdict.on_val() for verdict in on_val),
        # Nothing was chosen on the val rows of another manifest.
        *([integrity.threshold_differs(subject.training.threshold, val)] if subject.is_own_manifest else []),
        find_leaks(engine, subject),
        shortcut(test, probes, unjudged=unjudged, n_images_of_train=len(subject.subset("train"))),
        integrity.no_better_than_random_weights(
            test, _baseline(engine, subject), is_pretrained=is_pretrained(subject.training.recipe)
        ),
        integrity.gap(val, test),
        find_changed_labels(engine, subject),
    ]
    if subject.manifest.held_out is None:
        return found
    return [replace(one, is_blocking=False) if _is_about_quality(one) else one for one in found]


def _is_about_quality(verdict: "Verdict") -> bool:
    from lesion_tasks.metrics.integrity import is_paired_wrongly

    return verdict.name in _ABOUT_QUALITY and not is_paired_wrongly(verdict)


def _judge_subset(subject: EvaluationSubject, subset: str, scored: "Scored") -> "list[Verdict]":
    """The checks on figures and counts that test and val must both pass."""
    from lesion_tasks.metrics import integrity
    from lesion_tasks.metrics.document import confusion_counts

    threshold = subject.training.threshold
    # The trainer has measured nothing on another manifest's rows.
    trainer = (subject.training.trainer_figures or {}) if subject.is_own_manifest else {}
    return [
        integrity.independent_of_labels(
            scored, threshold=threshold, trainer_auc=trainer.get(subset, {}).get("auc")
        ),
        integrity.inverted(scored),
        integrity.marginals_differ(
            confusion_counts(scored, threshold),
            subject.task.classes,
            subject.manifest.class_counts[subset],
        ),
    ]


def decode_again(
    bucket: Bucket, subject: EvaluationSubject, examples: "Mapping[str, Examples]", subset: str
) -> tuple[dict[str, float], dict[str, str]]:
    """Decode some pictures of a subset from the bucket, as serving would, and compare them with the model's pixels.

    Returns the largest difference in grey levels by image id, or why a picture could not be decoded.
    """
    import numpy as np

    from lesion_tasks.archive.picture import UnusablePictureError
    from lesion_tasks.pixels.decode import decode_picture

    pixels, size = examples[subset].pixels, InputSize.of_recipe(subject.training.recipe)
    differences: dict[str, float] = {}
    unreadable: dict[str, str] = {}
    if pixels is None or size is None:
        return differences, unreadable
    # The rows of the examples are those of the subset, in its order.
    rows = subject.subset(subset)[["isic_id", "sha256", "object_key"]]
    for row in sorted(np.random.default_rng(_SEED).permutation(len(rows))[:N_DECODED]):
        isic_id, sha256, key = rows.iloc[row]
        try:
            fresh = decode_picture(get_verified(bucket, key, sha256, kind="picture"), size)
        except (AlteredObjectError, MissingObjectError, UnusablePictureError) as error:
            unreadable[isic_id] = str(error)
            continue
        shown = pixels.take(np.array([row]))[0]
        differences[isic_id] = float(np.abs(fresh.astype(np.int16) - shown).max())
    return differences, unreadable


def find_leaks(engine: Engine, subject: EvaluationSubject) -> "Verdict":
    """The verdict `leaks`, of identities as the manifest has them and as the database knows them by now.

    The folds of a training are held against each other as its manifest has them: no model scored what it learned from.
    """
    from lesion_tasks.metrics.leaks import leaks

    identities, pairs, folds, tied = _identities(engine, subject)
    verdicts = [leaks(sides, pairs=pairs) for sides in identities]
    if tied and verdicts[0].status in ("passed", "caution"):
        verdicts[0] = replace(
            verdicts[0], status="caution", sentence=f"{verdicts[0].sentence} {_tied_in_words(tied)}"
        )
    if folds:
        verdicts.append(leaks(folds))
        of_folds = (
            f"No image, patient, lesion or picture that is known is in two of its {len(folds)} folds either."
        )
        verdicts[0] = replace(verdicts[0], sentence=f"{verdicts[0].sentence} {of_folds}")
    return next((verdict for verdict in verdicts if verdict.is_failure), verdicts[0])


def find_changed_labels(engine: Engine, subject: EvaluationSubject) -> "Verdict":
    """The verdict `labels_changed`: test labels of the manifest against those that the task gives today."""
    from lesion_tasks.metrics import integrity

    return integrity.labels_changed(*_labels(engine, subject))


def _identities(
    engine: Engine, subject: EvaluationSubject
) -> "tuple[list[dict[str, pd.DataFrame]], list[tuple[str, str]] | None, dict[str, pd.DataFrame], list[str]]":
    """The identities of every row, by subset; which pairs of subsets must be disjoint (None: all); those by fold; ties.

    Ties, in words, are those that exist only through images of a cohort: these have no say in where others stand.

    On a manifest other than its own, a training must not have learned from that manifest's test and val rows.
    The bare perceptual hash is replaced by the number of the picture: copies share one, and look-alikes with the same
    hash do not.
    """
    import pandas as pd

    sides = {str(name): part for name, part in subject.rows.groupby("subset")}
    pairs, own, learned_sides = None, subject.own_rows, ("train", "val")
    with engine.connect() as connection:
        if not subject.is_own_manifest:
            learned = {f"its own {name}": own[own["subset"] == name] for name in learned_sides}
            learned_sides = ("its own train", "its own val")
            sides = learned | {name: sides[name] for name in ("val", "test")}
            pairs = [("its own train", "test"), ("its own val", "test"), ("its own train", "val")]
        together = pd.concat(sides, names=["side"])
        pictures = picture_numbers(connection, together["sha256"].tolist())
        today = _identities_today(connection, together["isic_id"].tolist())
        side = together.index.get_level_values("side")
        side_by_image = dict(zip(together["isic_id"], side, strict=True))
        tied = _without_cohorts(connection, subject.task.name, today, side_by_image)
    then = together[["isic_id", "sha256", *_IDENTITIES]].assign(perceptual_hash=pictures)
    # An image that is no longer in the database is who the manifest says it is.
    now = then.copy()
    for name in _IDENTITIES:
        now[name] = [
            today[isic_id][name] if isic_id in today else known
            for isic_id, known in zip(then["isic_id"], then[name], strict=True)
        ]
    by_subset = [{name: identified[side == name] for name in sides} for identified in (then, now)]
    n_folds = subject.training.recipe.get("n_folds")
    if not n_folds:
        return by_subset, pairs, {}, tied
    from lesion_tasks.training.folds import deal_folds

    learned_from = then[side.isin(learned_sides)]
    fold = deal_folds(own, n_folds).loc[learned_from["isic_id"]].to_numpy()
    return by_subset, pairs, {f"fold {i + 1}": learned_from[fold == i] for i in range(n_folds)}, tied


_IDENTITIES = ("group_id", "patient_id", "lesion_id")


def _identities_today(connection: Connection, isic_ids: "list[str]") -> dict[str, dict[str, str | None]]:
    """Who images are known to be by now: an archive learns of patients after a split was built."""
    rows = connection.execute(
        text("SELECT isic_id, group_id, patient_id, lesion_id FROM image WHERE isic_id = ANY(:ids)"),
        {"ids": isic_ids},
    )
    return {row.isic_id: row._asdict() for row in rows}


def _without_cohorts(
    connection: Connection,
    task: str,
    today: dict[str, dict[str, str | None]],
    side_by_image: Mapping[str, str],
) -> list[str]:
    """Undo in `today` what images of the task's cohorts join, and say which images of two sides they would tie.

    Each tie names both images, and the images of cohorts by which it goes.
    """
    rows = connection.execute(
        text("""
            SELECT i.group_id, c.isic_id, c.cohort FROM cohort_image c JOIN image i USING (isic_id)
            WHERE c.task = :task AND i.group_id = ANY(:groups)
        """),
        {"task": task, "groups": sorted({str(one["group_id"]) for one in today.values()})},
    ).all()
    if not rows:
        return []
    ties = Ties(connection, {row.group_id for row in rows})
    cohort_of = {row.isic_id: row.cohort for row in rows if row.isic_id not in side_by_image}
    apart = ties.groups_without(cohort_of)
    found = []
    torn: dict[str, str] = {}  # a group as it is -> an image of it
    for isic_id, group in ties.group_by_image.items():
        if isic_id not in today or isic_id not in apart:
            continue
        today[isic_id]["group_id"] = apart[isic_id]
        first = torn.setdefault(group, isic_id)
        if apart[first] != apart[isic_id] and side_by_image[first] != side_by_image[isic_id]:
            way = "; ".join(
                f"the same {tie.by} as {tie.isic_id}"
                + (f" of cohort {cohort_of[tie.isic_id]}" if tie.isic_id in cohort_of else "")
                for tie in ties.way(first, {isic_id})
            )
            found.append(f"{first} ({side_by_image[first]}) and {isic_id} ({side_by_image[isic_id]}): {way}")
    return found


def _tied_in_words(tied: Sequence[str]) -> str:
    rest = f", and {len(tied) - N_TIES_NAMED:,} more" if len(tied) > N_TIES_NAMED else ""
    return (
        "Only images of cohorts, which have no say in this, tie images of two subsets to one another: "
        f"{', '.join(tied[:N_TIES_NAMED])}{rest}."
    )


def _labels(engine: Engine, subject: EvaluationSubject) -> tuple[dict[str, str], dict[str, str | None]]:
    """The labels of test images in the manifest, and those that the task gives them today, by image id."""
    test = subject.subset("test")
    then = dict(zip(test["isic_id"], test["label"], strict=True))
    with engine.connect() as connection:
        found = connection.execute(
            text("SELECT isic_id, diagnosis FROM image WHERE isic_id = ANY(:ids)"), {"ids": list(then)}
        ).all()
    return then, {row.isic_id: subject.task.label_of(tuple(row.diagnosis)) for row in found}


def _baseline(engine: Engine, subject: EvaluationSubject) -> "Scored | None":
    with engine.connect() as connection:
        training_id = random_weight_baseline(connection, subject)
        if training_id is None:
            return None
        predictions = read_predictions(
            connection, training_id, subject.manifest.digest, "test", subject.task.classes
        )
    return join_to_manifest(predictions, subject.subset("test"), subject.task)
