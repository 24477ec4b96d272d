"""Tasks: the question for a model, and the images it is about."""

from dataclasses import dataclass

from lesion_tasks.catalog.entries import by_name

DIAGNOSIS_LEVELS = 5


@dataclass(frozen=True, kw_only=True)
class LabelRule:
    """Every diagnosis path that starts with `path` (levels 1 to 5) belongs to `label`."""

    label: str
    path: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Task:
    """A question, its classes, the images that it applies to, and who is held out.

    All splits of a task share its salt and shares, so they share their test sets too.
    """

    name: str
    title: str
    mapping_version: int  # raise it whenever `rules` change: labels are comparable only under one mapping
    classes: tuple[str, ...]  # the order of a model's outputs
    positive: str | None  # for two classes: the one whose probability is reported
    rules: tuple[LabelRule, ...]  # first match wins; no match means the image has no label and is left out
    # Four fifths of the archive are total-body-photography crops with 0.1 % malignant: a model that sees
    # several image types learns to tell cameras apart.
    image_types: tuple[str, ...] = ("dermoscopic",)
    # "instrument only" is a picture of an instrument's own rendering; altered and synthetic are not patients.
    excluded_manipulations: tuple[str, ...] = ("altered", "synthetic")
    requires_sex: bool = True  # the paper drops rows without sex
    salt: str = "2026"
    val_share: float = 0.15
    test_share: float = 0.15

    def __post_init__(self) -> None:
        if unknown := {rule.label for rule in self.rules} - set(self.classes):
            raise ValueError(f"task {self.name!r}: rules name unknown classes {sorted(unknown)}")
        if self.positive is not None and (len(self.classes) != 2 or self.positive != self.classes[1]):
            raise ValueError(f"task {self.name!r}: positive must be the second of two classes")
        if not 0 < self.val_share + self.test_share < 1:
            raise ValueError(
                f"task {self.name!r}: val and test shares sum to "
                f"{self.val_share + self.test_share:.3f}, expected more than 0 and less than 1"
            )

    @property
    def assignment(self) -> str:
        """Everything that subsets depend on: with another salt or other shares, everybody is assigned afresh."""
        return f"{self.name}:{self.salt}:{self.val_share:g}:{self.test_share:g}"

    def label_of(self, diagnosis: tuple[str, ...]) -> str | None:
        """Return the class of a diagnosis path, or None if no rule matches."""
        for rule in self.rules:
            if diagnosis[: len(rule.path)] == rule.path:
                return rule.label
        return None


_MELANOMA = ("Malignant", "Malignant melanocytic proliferations (Melanoma)")
_EPIDERMAL = ("Malignant", "Malignant epidermal proliferations")

TASKS = by_name(
    [
        Task(
            name="malignancy",
            title="Benign or malignant",
            mapping_version=1,
            classes=("benign", "malignant"),
            positive="malignant",
            rules=(
                LabelRule(label="benign", path=("Benign",)),
                LabelRule(label="malignant", path=("Malignant",)),
            ),
        ),
        Task(
            name="five_classes",
            title="Benign and four malignant diagnoses",
            mapping_version=1,
            classes=(
                "benign",
                "basal_cell_carcinoma",
                "melanoma",
                "melanoma_metastasis",
                "squamous_cell_carcinoma",
            ),
            positive=None,
            rules=(
                LabelRule(label="benign", path=("Benign",)),
                LabelRule(
                    label="basal_cell_carcinoma",
                    path=(
                        "Malignant",
                        "Malignant adnexal epithelial proliferations - Follicular",
                        "Basal cell carcinoma",
                    ),
                ),
                LabelRule(label="melanoma", path=(*_MELANOMA, "Melanoma Invasive")),
                LabelRule(label="melanoma", path=(*_MELANOMA, "Melanoma in situ")),
                LabelRule(label="melanoma", path=(*_MELANOMA, "Melanoma, NOS")),
                LabelRule(label="melanoma_metastasis", path=(*_MELANOMA, "Melanoma metastasis")),
                LabelRule(
                    label="squamous_cell_carcinoma", path=(*_EPIDERMAL, "Squamous cell carcinoma in situ")
                ),
                LabelRule(
                    label="squamous_cell_carcinoma", path=(*_EPIDERMAL, "Squamous cell carcinoma, Invasive")
                ),
                LabelRule(
                    label="squamous_cell_carcinoma", path=(*_EPIDERMAL, "Squamous cell carcinoma, NOS")
                ),
            ),
        ),
    ]
)
