"""A model on a cohort -> what metadata alone reach there, and by how much the model exceeds that.

The baseline sees the fields that both train rows and cohort have: on one that no image of the cohort has, it could not
rely there. Each field alone and all of them together are a regularised logistic model, and the strongest of these on
the cohort is the bar: on the few rows of a balanced draw boosted trees tell less than the age that they see.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from sklearn.compose import make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from threadpoolctl import threadpool_limits

from lesion_tasks.catalog.titles import label, label_inside, size_of_change
from lesion_tasks.metrics.auc import LEVEL
from lesion_tasks.metrics.binary import figure_of, stated_auc
from lesion_tasks.metrics.cohort_document import MetadataBaseline
from lesion_tasks.metrics.compare import auc_difference
from lesion_tasks.metrics.counted import plural
from lesion_tasks.metrics.document_schema import PublishedFigure
from lesion_tasks.metrics.fall import common_sides
from lesion_tasks.metrics.headline import headline_auc
from lesion_tasks.metrics.probes import METADATA
from lesion_tasks.metrics.scored import Scored, join

NUMBERS = ("age_years", "size_mm")
MISSING = "missing"
MAX_STEPS = 1_000


def metadata_baseline(
    cohort: Scored,
    *,
    train: pd.DataFrame,
    test_rows: pd.DataFrame,
    rows: pd.DataFrame,
    is_of_metadata: bool = False,
) -> MetadataBaseline:
    """Measure it on `rows`, whose images are those of `cohort`, and on `test_rows`; the two share no image.

    Each frame has `isic_id`, `label`, `group_id` and whichever columns of `METADATA` are known, whatever the model
    sees. With more than two classes the figures are over the classes that both have. `is_of_metadata`: the model itself
    sees nothing else, and the words hold it against no bar.
    """
    told = [name for name in METADATA if name in train.columns and train[name].nunique(dropna=False) > 1]
    lacking = [name for name in told if rows[name].isna().all()]
    fields = [name for name in told if name not in lacking]
    known = MetadataBaseline(
        fields=fields,
        lacking=lacking,
        n_images_fitted=len(train),
        n_images_of_train=len(train),
        words="",
    )

    def without(reason: str) -> MetadataBaseline:
        words = f"What metadata alone would reach here cannot be determined: {reason}."
        return known.model_copy(update={"reason": reason, "words": words})

    if not told:
        return without("all train images have the same metadata")
    if not fields:
        return without(f"the cohort lacks {_listed(lacking)}")
    asked = pd.concat([test_rows, rows], ignore_index=True)
    is_of_cohort = asked["isic_id"].isin(rows["isic_id"])

    def sides(of: Sequence[str]) -> tuple[Scored, Scored]:
        """What these fields give on test and on the cohort, over the classes that both have."""
        scores = pd.DataFrame(0.0, index=asked["isic_id"].astype(object), columns=list(cohort.class_names))
        fitted = _fit(train, of)
        scores[list(fitted.classes_)] = fitted.predict_proba(_filled(asked, of))
        scored = join(scores, asked, class_names=cohort.class_names, positive_class=cohort.positive_class)
        is_here = pd.Index(scored.isic_ids).isin(asked.loc[is_of_cohort, "isic_id"])
        return common_sides(scored.where(~is_here), scored.where(is_here))

    choices = [[name] for name in fields] + ([fields] if len(fields) > 1 else [])
    measured = [(of, *sides(of)) for of in choices]
    figures = [_figure(here) for _, _, here in measured]
    place = max(range(len(figures)), key=lambda i: _value(figures[i]))
    strongest, there, here = measured[place]
    _, model = common_sides(there, cohort)
    figure, compared = figures[place], auc_difference(model, here)
    if figure is None or compared is None:
        absent = [name for name, n in cohort.class_counts.items() if n == 0]
        return without(f"the cohort has no image of class {_listed(absent)}")
    interval = compared.interval if figure.interval_reason is None else None
    found = known.model_copy(
        update={
            "strongest": strongest,
            "of_each": {of[0]: one for of, one in zip(choices, figures, strict=True) if len(of) == 1},
            "of_all": figures[-1],
            "test": _figure(there),
            "cohort": figure,
            "difference": compared.value,
            "low": interval.low if interval else None,
            "high": interval.high if interval else None,
        }
    )
    return found.model_copy(
        update={"words": _words(found, "auc" if cohort.is_binary else "macro_auc", is_of_metadata)}
    )


@threadpool_limits.wrap(limits=1)
def _fit(train: pd.DataFrame, fields: Sequence[str]) -> Pipeline:
    """A ridge logistic model of the label: numbers standardized, a column for each value of the others and for none."""
    numbers = [name for name in fields if name in NUMBERS]
    others = [name for name in fields if name not in NUMBERS]
    design = make_column_transformer(
        (make_pipeline(SimpleImputer(add_indicator=True), StandardScaler()), numbers),
        (OneHotEncoder(handle_unknown="ignore"), others),
    )
    model = make_pipeline(design, LogisticRegression(max_iter=MAX_STEPS))
    return model.fit(_filled(train, fields), train["label"].astype(str))


def _filled(frame: pd.DataFrame, fields: Sequence[str]) -> pd.DataFrame:
    """The fields: numbers as such, of the others a value of its own where it is missing."""
    filled = {
        name: frame[name].astype(float)
        if name in NUMBERS
        else frame[name].astype(object).where(frame[name].notna(), MISSING).astype(str)
        for name in fields
    }
    return pd.DataFrame(filled)


def _value(figure: PublishedFigure | None) -> float:
    return -1.0 if figure is None or figure.value is None else figure.value


def _figure(scored: Scored) -> PublishedFigure | None:
    """The leading figure with its interval; None if a class has no image."""
    auc = headline_auc(scored)
    if auc is None:
        return None
    return figure_of(scored)(auc.value, stated_auc(auc, LEVEL)).published()


def _words(found: MetadataBaseline, measure: str, is_of_metadata: bool) -> str:
    if found.cohort is None or found.cohort.value is None or found.difference is None:
        return ""
    words = (
        f"Metadata alone ({_listed(found.strongest)}) reach {label(measure)} {found.cohort.value:.3f} here"
    )
    words += f", fitted on {plural(found.n_images_fitted, 'train image')}"
    if len(found.fields) > 1:
        told = [f"{label_inside(name)} {_value(one):.3f}" for name, one in found.of_each.items()]
        words += f": the strongest of {', '.join(told)} and all together {_value(found.of_all):.3f}"
    words += "."
    if is_of_metadata:
        words += " The model sees metadata alone too, so that this is no bar for it."
    elif found.low is None or found.high is None:
        words += (
            f" The model is {_compared(found.difference)} by {abs(found.difference):.3f}; whether that is more than "
            f"chance cannot be determined: {found.cohort.interval_reason or 'no interval'}."
        )
    else:
        size = size_of_change(found.difference, found.low, found.high)
        chance = "no more than chance may do" if found.low <= 0 <= found.high else "more than chance"
        words += f" The model is {_compared(found.difference)} by {size}: {chance}."
    if found.lacking:
        words += f" The cohort lacks {_listed(found.lacking)}, which this baseline therefore does without."
    return words


def _compared(difference: float) -> str:
    return "higher" if difference > 0 else "lower"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(label_inside, names))
