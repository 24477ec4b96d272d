"""A test set and a cohort with the diagnosis of each image -> the same few figures for each diagnosis of the cohort."""

from __future__ import annotations

import numpy as np

from lesion_tasks.metrics.binary import figure_of, ranking_figures
from lesion_tasks.metrics.cohort_document import DiagnosisRow
from lesion_tasks.metrics.document_schema import PublishedFigure
from lesion_tasks.metrics.proportion import proportion_interval
from lesion_tasks.metrics.resample import Resampling
from lesion_tasks.metrics.scored import Scored

N_SHOWN = 20  # the commonest of the cohort


def by_diagnosis(
    test: Scored,
    cohort: Scored,
    test_diagnoses: np.ndarray,
    cohort_diagnoses: np.ndarray,
    *,
    test_kinds: np.ndarray,
    cohort_kinds: np.ndarray,
    threshold: float | None,
) -> list[DiagnosisRow]:
    """How the images of each diagnosis are called at the stored threshold, and ranked among images of the other class.

    The diagnoses, (n,) str, stand in the order of the scored images, and so do their kinds, the level above. Data sets
    name a disease more or less finely: one that the test set does not have is held against all of its kind there.
    """
    resampling = Resampling()
    rows = []
    names, counts = np.unique(cohort_diagnoses.astype(str), return_counts=True)
    for name in names[np.argsort(-counts, kind="stable")][:N_SHOWN]:
        here, there = cohort_diagnoses == name, test_diagnoses == name
        for index in np.unique(cohort.labels[here]):
            of_cohort = here & (cohort.labels == index)
            of_test, kind = there & (test.labels == index), None
            if not of_test.any():
                kinds, counts_of_kind = np.unique(cohort_kinds[of_cohort].astype(str), return_counts=True)
                kind = str(kinds[counts_of_kind.argmax()])
                of_test = (test_kinds == kind) & (test.labels == index)
            rows.append(
                DiagnosisRow(
                    diagnosis=str(name),
                    label=cohort.class_names[index],
                    n_images=int(of_cohort.sum()),
                    n_groups=len(np.unique(cohort.groups[of_cohort])),
                    n_images_of_test=int(of_test.sum()),
                    kind_of_test=kind if of_test.any() else None,
                    called_right=_called_right(cohort, of_cohort, threshold),
                    called_right_of_test=_called_right(test, of_test, threshold) if of_test.any() else None,
                    auc=_auc(cohort, of_cohort, resampling),
                    auc_of_test=_auc(test, of_test, resampling) if of_test.any() else None,
                )
            )
    return rows


def _called_right(scored: Scored, mask: np.ndarray, threshold: float | None) -> PublishedFigure:
    part = scored.where(mask)
    called = part.predicted(threshold) if part.is_binary else part.predicted()
    hits, everyone = called == part.labels, np.ones(part.n_images, dtype=bool)
    interval = proportion_interval(hits, everyone, part.groups)
    return figure_of(part)(hits.mean(), interval).published()


def _auc(scored: Scored, mask: np.ndarray, resampling: Resampling) -> PublishedFigure | None:
    if not scored.is_binary:
        return None
    label = scored.labels[mask][0]
    part = scored.where(mask | (scored.labels != label))
    return ranking_figures(part, ("auc",), resampling)["auc"].published()
