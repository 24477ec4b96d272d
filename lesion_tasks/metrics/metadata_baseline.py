"""A model on a cohort -> what metadata alone reach there, and by how much the model exceeds that.

The baseline is the probe `metadata`: boosted trees, fitted on the train rows that every probe is fitted on. It sees
the fields that both those rows and the cohort have: on one that no image of the cohort has, it could not rely there.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from lesion_tasks.catalog.titles import label, label_inside, size_of_change
from lesion_tasks.metrics.auc import LEVEL
from lesion_tasks.metrics.binary import figure_of, stated_auc
from lesion_tasks.metrics.cohort_document import MetadataBaseline
from lesion_tasks.metrics.compare import auc_difference
from lesion_tasks.metrics.document_schema import PublishedFigure
from lesion_tasks.metrics.fall import common_sides
from lesion_tasks.metrics.headline import headline_auc
from lesion_tasks.metrics.probes import METADATA, fit_probe
from lesion_tasks.metrics.scored import Scored


def metadata_baseline(
    cohort: Scored,
    *,
    train: pd.DataFrame,
    test_rows: pd.DataFrame,
    rows: pd.DataFrame,
    n_images_of_train: int,
) -> MetadataBaseline:
    """Measure it on `rows`, whose images are those of `cohort`, and on `test_rows`; the two share no image.

    `train`: the rows that probes learn from. Each frame has `isic_id`, `label`, `group_id` and whichever columns of
    `METADATA` the model's probes may see. With more than two classes the figures are over the classes that both have.
    """
    told = [name for name in METADATA if name in train.columns and train[name].nunique(dropna=False) > 1]
    lacking = [name for name in told if rows[name].isna().all()]
    fields = [name for name in told if name not in lacking]
    known = MetadataBaseline(
        fields=fields,
        lacking=lacking,
        n_images_fitted=len(train),
        n_images_of_train=n_images_of_train,
        words="",
    )

    def without(reason: str) -> MetadataBaseline:
        words = f"What metadata alone would reach here cannot be determined: {reason}."
        return known.model_copy(update={"reason": reason, "words": words})

    if not told:
        return without("all train images have the same metadata")
    if not fields:
        return without(f"the cohort lacks {_listed(lacking)}")
    keys = ["isic_id", "label", "group_id"]
    probe = fit_probe(
        train[fields],
        pd.concat([test_rows[fields], rows[fields]], ignore_index=True),
        train=train,
        evaluated=pd.concat([test_rows[keys], rows[keys]], ignore_index=True),
        class_names=cohort.class_names,
        positive_class=cohort.positive_class,
    )
    is_here = pd.Index(probe.scored.isic_ids).isin(rows["isic_id"])
    on_test = probe.scored.where(~is_here)
    there, here = common_sides(on_test, probe.scored.where(is_here))
    _, model = common_sides(on_test, cohort)
    figure, compared = _figure(here), auc_difference(model, here)
    if figure is None or compared is None:
        absent = [name for name, n in cohort.class_counts.items() if n == 0]
        return without(f"the cohort has no image of class {_listed(absent)}")
    interval = compared.interval if figure.interval_reason is None else None
    found = known.model_copy(
        update={
            "test": _figure(there),
            "cohort": figure,
            "difference": compared.value,
            "low": interval.low if interval else None,
            "high": interval.high if interval else None,
        }
    )
    return found.model_copy(update={"words": _words(found, "auc" if cohort.is_binary else "macro_auc")})


def _figure(scored: Scored) -> PublishedFigure | None:
    """The leading figure with its interval; None if a class has no image."""
    auc = headline_auc(scored)
    if auc is None:
        return None
    return figure_of(scored)(auc.value, stated_auc(auc, LEVEL)).published()


def _words(found: MetadataBaseline, measure: str) -> str:
    if found.cohort is None or found.cohort.value is None or found.difference is None:
        return ""
    of = f"{found.n_images_fitted:,}"
    if found.n_images_fitted < found.n_images_of_train:
        of += f" of {found.n_images_of_train:,}"
    words = f"Metadata alone ({_listed(found.fields)}) reach {label(measure)} {found.cohort.value:.3f} here"
    words += f", fitted on {of} train images."
    higher = "higher" if found.difference > 0 else "lower"
    if found.low is None or found.high is None:
        words += (
            f" The model is {higher} by {abs(found.difference):.3f}; whether that is more than chance cannot be "
            f"determined: {found.cohort.interval_reason or 'no interval'}."
        )
    else:
        size = size_of_change(found.difference, found.low, found.high)
        chance = "no more than chance may do" if found.low <= 0 <= found.high else "more than chance"
        words += f" The model is {higher} by {size}: {chance}."
    if found.lacking:
        words += f" The cohort lacks {_listed(found.lacking)}, which this baseline therefore does without."
    return words


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(label_inside, names))
