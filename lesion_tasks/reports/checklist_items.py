"""What four reporting guidelines ask, each thing once, and who can answer it. Data only.

CLEAR Derm (Daneshjou et al. 2022, doi:10.1001/jamadermatol.2021.4915), STARD-AI (Sounderajah et al. 2025,
doi:10.1038/s41591-025-03953-8), TRIPOD+AI (Collins et al. 2024, doi:10.1136/bmj-2023-078378), CLAIM (Tejani et al.
2024, doi:10.1148/ryai.240300). Items are in our words and carry no numbers: before a submission, the guideline's
own form decides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lesion_tasks.reports import answers

CLEAR_DERM, STARD_AI, TRIPOD_AI, CLAIM = GUIDELINES = ("CLEAR Derm", "STARD-AI", "TRIPOD+AI", "CLAIM")
ALL = GUIDELINES

Answer = Callable[[Mapping[str, Any]], str | None]


@dataclass(frozen=True, kw_only=True)
class Item:
    """One thing that guidelines ask. `answer` gives None where this bundle does not hold it."""

    section: str
    asks: str
    guidelines: tuple[str, ...]
    answer: Answer | None = None
    is_partial: bool = False


ITEMS = (
    Item(section="Aim", asks="Intended use, target population and place in care", guidelines=ALL),
    Item(
        section="Aim",
        asks="The question put to the model, and its classes",
        guidelines=ALL,
        answer=answers.question,
    ),
    Item(
        section="Aim",
        asks="Known inequalities in health between groups, and how they bear on the model",
        guidelines=(CLEAR_DERM, STARD_AI, TRIPOD_AI),
    ),
    Item(
        section="Aim",
        asks="Design: prospective or retrospective; development, validation or both",
        guidelines=(STARD_AI, TRIPOD_AI, CLAIM),
        answer=answers.design,
    ),
    Item(
        section="Data",
        asks="Source of the images, and their licences",
        guidelines=ALL,
        answer=answers.sources,
    ),
    Item(
        section="Data",
        asks="Dates: when the data were gathered and fixed",
        guidelines=(STARD_AI, TRIPOD_AI, CLAIM),
        answer=answers.dates,
        is_partial=True,
    ),
    Item(
        section="Data",
        asks="Who was included and left out, and why, with numbers",
        guidelines=ALL,
        answer=answers.funnel,
    ),
    Item(
        section="Data",
        asks="Image types",
        guidelines=(CLEAR_DERM, STARD_AI, CLAIM),
        answer=answers.image_types,
    ),
    Item(
        section="Data",
        asks="Devices, sites and how pictures were taken",
        guidelines=(CLEAR_DERM, STARD_AI, CLAIM),
    ),
    Item(
        section="Data",
        asks="Artefacts in pictures (ink, rulers, hair, altered pictures)",
        guidelines=(CLEAR_DERM, CLAIM),
        answer=answers.artefacts,
        is_partial=True,
    ),
    Item(
        section="Data",
        asks="Preparation of pictures before the model sees them",
        guidelines=ALL,
        answer=answers.preprocessing,
    ),
    Item(section="Data", asks="Removal of identifying information", guidelines=(STARD_AI, CLAIM)),
    Item(
        section="Data",
        asks="Patient-level information that comes with each image",
        guidelines=(CLEAR_DERM, TRIPOD_AI, CLAIM),
        answer=answers.metadata,
    ),
    Item(
        section="Data",
        asks="Skin tones that the data cover",
        guidelines=(CLEAR_DERM, TRIPOD_AI),
        answer=answers.skin_types,
    ),
    Item(
        section="Data",
        asks="Missing values, and what is done about them",
        guidelines=(STARD_AI, TRIPOD_AI, CLAIM),
        answer=answers.missing,
    ),
    Item(
        section="Data",
        asks="Synthetic pictures, where any were used",
        guidelines=(CLEAR_DERM,),
        answer=answers.artefacts,
    ),
    Item(
        section="Reference standard",
        asks="What the label is and where it comes from",
        guidelines=ALL,
        answer=answers.label_source,
    ),
    Item(
        section="Reference standard",
        asks="Share of diagnoses confirmed by histopathology",
        guidelines=(CLEAR_DERM, STARD_AI),
        answer=answers.histopathology,
    ),
    Item(
        section="Reference standard",
        asks="Who labelled, how well they agree, and what they knew of the model",
        guidelines=(STARD_AI, TRIPOD_AI, CLAIM),
    ),
    Item(
        section="Partitions",
        asks="How images were assigned to training, validation and test",
        guidelines=ALL,
        answer=answers.partitions,
    ),
    Item(
        section="Partitions",
        asks="The level at which the partitions are disjoint, and the proof",
        guidelines=ALL,
        answer=answers.overlap,
    ),
    Item(
        section="Partitions",
        asks="Size of each partition and its balance of classes",
        guidelines=ALL,
        answer=answers.sizes,
    ),
    Item(
        section="Partitions",
        asks="Why the sample is large enough",
        guidelines=(STARD_AI, TRIPOD_AI, CLAIM),
        answer=answers.precision,
        is_partial=True,
    ),
    Item(
        section="Partitions",
        asks="Patients, sexes, ages and sites by partition",
        guidelines=(CLEAR_DERM, STARD_AI, TRIPOD_AI, CLAIM),
        answer=answers.characteristics,
        is_partial=True,
    ),
    Item(section="Partitions", asks="Test on data from another place", guidelines=ALL),
    Item(
        section="Model",
        asks="Architecture, inputs and outputs",
        guidelines=(CLEAR_DERM, TRIPOD_AI, CLAIM),
        answer=answers.architecture,
    ),
    Item(
        section="Model",
        asks="Where the parameters start from",
        guidelines=(TRIPOD_AI, CLAIM),
        answer=answers.weights,
    ),
    Item(
        section="Model",
        asks="Training: augmentation, hyperparameters, when it stops",
        guidelines=(CLEAR_DERM, TRIPOD_AI, CLAIM),
        answer=answers.training,
    ),
    Item(
        section="Model",
        asks="How the final model was chosen",
        guidelines=(TRIPOD_AI, CLAIM),
        answer=answers.selection,
    ),
    Item(
        section="Model",
        asks="Software, versions and hardware",
        guidelines=(STARD_AI, TRIPOD_AI, CLAIM),
        answer=answers.versions,
        is_partial=True,
    ),
    Item(
        section="Model",
        asks="How imbalance of classes was handled",
        guidelines=(CLEAR_DERM, TRIPOD_AI),
        answer=answers.imbalance,
    ),
    Item(
        section="Model",
        asks="The threshold, how it was chosen and why",
        guidelines=(STARD_AI, TRIPOD_AI, CLAIM),
        answer=answers.threshold,
    ),
    Item(
        section="Results",
        asks="Measures of performance, with intervals and the method behind them",
        guidelines=ALL,
        answer=answers.performance,
    ),
    Item(
        section="Results",
        asks="The table of calls against truth",
        guidelines=(STARD_AI, CLAIM),
        answer=answers.confusion,
    ),
    Item(section="Results", asks="Calibration", guidelines=(TRIPOD_AI, CLAIM), answer=answers.calibration),
    Item(
        section="Results", asks="Performance in subgroups, fairness", guidelines=ALL, answer=answers.subgroups
    ),
    Item(
        section="Results",
        asks="Robustness: checks against shortcuts and faults",
        guidelines=(CLEAR_DERM, CLAIM),
        answer=answers.robustness,
    ),
    Item(
        section="Results",
        asks="Comparison with other models, or with clinicians",
        guidelines=(CLEAR_DERM, STARD_AI, CLAIM),
        answer=answers.comparison,
        is_partial=True,
    ),
    Item(
        section="Results",
        asks="What the model looks at",
        guidelines=(CLEAR_DERM, CLAIM),
        answer=answers.explanations,
    ),
    Item(
        section="Results",
        asks="Analysis of failures",
        guidelines=(CLEAR_DERM, CLAIM),
        answer=answers.failures,
        is_partial=True,
    ),
    Item(
        section="Results",
        asks="How often the test set was used",
        guidelines=(TRIPOD_AI, CLAIM),
        answer=answers.openings,
    ),
    Item(section="Use", asks="Limitations, and what they mean for patients and clinicians", guidelines=ALL),
    Item(
        section="Use",
        asks="Harm from wrong answers, and from pictures unlike those of training",
        guidelines=(CLEAR_DERM, STARD_AI, TRIPOD_AI),
    ),
    Item(
        section="Use",
        asks="Availability of data, code and model",
        guidelines=ALL,
        answer=answers.availability,
        is_partial=True,
    ),
    Item(section="Study", asks="Ethical approval", guidelines=(STARD_AI, TRIPOD_AI, CLAIM)),
    Item(section="Study", asks="Registration and protocol", guidelines=(STARD_AI, TRIPOD_AI, CLAIM)),
    Item(section="Study", asks="Funding and conflicts of interest", guidelines=(STARD_AI, TRIPOD_AI, CLAIM)),
    Item(section="Study", asks="Involvement of patients and public", guidelines=(TRIPOD_AI,)),
)
