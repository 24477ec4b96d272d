"""Tasks: the question for a model, and the images it is about."""

from collections.abc import Iterator
from dataclasses import dataclass

from lesion_tasks.catalog.entries import NAME, NAME_RULE, by_name, refuse, unknown

DIAGNOSIS_LEVELS = 5


@dataclass(frozen=True, kw_only=True)
class LabelRule:
    """Every diagnosis path that starts with `path` (levels 1 to 5) belongs to `label`."""

    label: str
    path: tuple[str, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.path) <= DIAGNOSIS_LEVELS or not all(self.path):
            found = " > ".join(self.path) or "empty"
            raise ValueError(
                f"rule of {self.label!r}: path is {found}, expected 1 to {DIAGNOSIS_LEVELS} levels of a diagnosis"
            )


@dataclass(frozen=True, kw_only=True)
class Task:
    """A question, its classes, the images that it applies to, and who is held out.

    All splits of a task share its salt and shares, so they share their test sets too.
    """

    name: str
    title: str
    mapping_version: int = 1  # raise it whenever `rules` change: labels are comparable only under one mapping
    classes: tuple[str, ...]  # the order of a model's outputs
    positive: str | None = None  # for two classes: the one whose probability is reported
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
        problems = [*self._class_problems(), *self._rule_problems(), *self._share_problems()]
        refuse(f"task {self.name!r}", problems)

    def _class_problems(self) -> Iterator[str]:
        if len(self.classes) < 2 or len(set(self.classes)) < len(self.classes):
            yield f"classes are {', '.join(self.classes) or 'none'}, expected at least two, each once"
        for name in self.classes:
            if not NAME.fullmatch(name):
                yield f"class {name!r}: expected {NAME_RULE}"
        # A model has one output for two classes: the probability of the second.
        expected = self.classes[1] if len(self.classes) == 2 else None
        if self.positive != expected:
            yield f"positive is {self.positive!r}, expected {expected!r}: the second of two classes, else none"

    def _rule_problems(self) -> Iterator[str]:
        for rule in self.rules:
            if rule.label not in self.classes:
                yield f"a rule has an {unknown('class', rule.label, self.classes)}"
        for name in self.classes:
            if name not in {rule.label for rule in self.rules}:
                yield f"class {name!r} has no rule, expected at least one"
        for place, rule in enumerate(self.rules):
            first = next(one for one in self.rules if rule.path[: len(one.path)] == one.path)
            if first is not self.rules[place]:
                yield (
                    f"the rule of {rule.label!r} for {' > '.join(rule.path)} never applies: {' > '.join(first.path)} "
                    f"comes before it, as {first.label!r}"
                )

    def _share_problems(self) -> Iterator[str]:
        if min(self.val_share, self.test_share) <= 0 or self.val_share + self.test_share >= 1:
            yield (
                f"val and test shares are {self.val_share:g} and {self.test_share:g}, expected more than 0 each and "
                "less than 1 together"
            )

    @property
    def assignment(self) -> str:
        """Everything that subsets depend on: with another salt or other shares, everybody is assigned afresh."""
        return assignment_of(self.name, self.salt, self.val_share, self.test_share)

    def label_of(self, diagnosis: tuple[str, ...]) -> str | None:
        """Return the class of a diagnosis path, or None if no rule matches."""
        for rule in self.rules:
            if diagnosis[: len(rule.path)] == rule.path:
                return rule.label
        return None


def assignment_of(name: str, salt: str, val_share: float, test_share: float) -> str:
    """The assignment of a task by these fields, as its recipe has them."""
    return f"{name}:{salt}:{val_share:g}:{test_share:g}"


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
