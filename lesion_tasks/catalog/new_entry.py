"""A kind and a name -> a commented entry in the catalogue folder, valid as it is written."""

from collections.abc import Callable, Mapping
from pathlib import Path

from lesion_tasks import UnusableInputError
from lesion_tasks.catalog import (
    ARCHITECTURES,
    BACKBONES,
    IMPUTATIONS,
    LOSSES,
    SAMPLINGS,
    SPLITS,
    TASKS,
    own_entries,
)
from lesion_tasks.catalog.entries import NAME, NAME_RULE
from lesion_tasks.catalog.gates import DEFAULT_FLOOR, RECALL, measures_of
from lesion_tasks.catalog.lookup import find_split, find_task


def write_entry(kind: str, name: str, *, task: str | None = None, split: str | None = None) -> Path:
    """Write an entry into a file of its own in the catalogue folder, never over another; returns its path.

    `kind`: one of `WRITERS`. `task`: of a new split or cohort; `split`: of a new variant. Without it, that of the
    folder if it holds just one, else a built-in one. For gates, `name` is that of their task.
    """
    own_entries.refuse_broken()
    if not NAME.fullmatch(name):
        raise UnusableInputError(f"name {name[:200]!r}: expected {NAME_RULE}")
    if kind == "gates":
        find_task(name)
    if name in own_entries.KINDS[kind].entries:
        raise UnusableInputError(f"there is an entry {kind} {name!r} already, expected another name")
    about = {
        "split": task or _only_own("task", TASKS),
        "cohort": task or _only_own("task", TASKS),
        "variant": split or _only_own("split", SPLITS),
    }.get(kind, name)
    text = WRITERS[kind](name, about)
    path = own_entries.folder() / f"{kind}_{name}.toml"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise UnusableInputError(f"{path} exists: it is left as it is; expected a new name") from None
    except OSError as error:
        raise UnusableInputError(f"{path}: {(error.strerror or str(error)).lower()}") from error
    own_entries.refuse_broken()
    return path


def _only_own(kind: str, entries: Mapping[str, object]) -> str:
    own = [name for name in entries if own_entries.is_own(kind, name)]
    return own[0] if len(own) == 1 else next(iter(entries))


def _task(name: str, _: str) -> str:
    return f"# A task: what a model is asked, and which images it is about.\n[task.{name}]\n{_TASK_FIELDS}"


_TASK_FIELDS = """\
title = "Melanoma or nevus"
# In the order of a model's outputs. With two classes, the second is the positive one; with more, leave `positive` out.
classes = ["nevus", "melanoma"]
positive = "melanoma"

# Which diagnoses belong to which class: every one whose path begins like this. The first rule that applies counts; an
# image without one is left out. The paths of your images:
#   lesion sql "SELECT diagnosis, count(*) FROM image GROUP BY 1 ORDER BY 2 DESC"
rules = [
  {label = "nevus", path = ["Benign", "Benign melanocytic proliferations", "Nevus"]},
  {label = "melanoma", path = ["Malignant", "Malignant melanocytic proliferations (Melanoma)"]},
]

# Who is left out.
image_types = ["dermoscopic"]
excluded_manipulations = ["altered", "synthetic"]
requires_sex = false  # true: images of people of unknown sex are left out

# How many of the patients are held out; all splits of a task share them. Another salt is another draw.
val_share = 0.15
test_share = 0.15
salt = "2026"
"""


def _split(name: str, task: str) -> str:
    find_task(task)
    return f"""\
# A split: how train and val of a task are drawn. Test is the task's own.
[split.{name}]
task = "{task}"
# At most this many images of each class in train, never more than the rarest class has. Without it: all of them.
# max_per_class = 1000
imputation = "none"  # {" or ".join(IMPUTATIONS)}
"""


def _variant(name: str, split: str) -> str:
    find_split(split)
    return f"""\
# A variant: one complete training recipe. Fields that are left out are as in `lesion_tasks/catalog/recipe.py`; fields
# that would do nothing beside the others are refused. `lesion variants {name}` says in words what it does.
[variant.{name}]
title = "Small convolutional network"
split = "{split}"

[variant.{name}.looks_at]
side_px = 64  # pictures are scaled to this; "none" for a model on metadata alone
# metadata = ["age_years", "is_male", "size_mm"]

[variant.{name}.network]
architecture = "cnn"  # {", ".join(ARCHITECTURES)}
conv_filters = [16, 32, 64]
dense_units = [64]
dropout_rate = 0.3
# A pretrained network instead, whose weights LESION_WEIGHTS names (without conv_filters):
# architecture = "transfer"
# backbone = "mobilenet_v2"  # of {len(BACKBONES)}: `lesion_tasks/catalog/backbones.py`

[variant.{name}.learns]
sampling = "as_drawn"  # {", ".join(SAMPLINGS)}
loss = "cross_entropy"  # {", ".join(LOSSES)}
is_class_weighted = true  # every class counts the same, however many images it has
is_augmented = true
learning_rate = 1e-3
batch_size = 32
max_epochs = 30
patience = 5  # epochs without a better loss on val before it stops

[variant.{name}.serves]
is_flip_averaged = false  # true: the mean over the picture and its mirror images
"""


def _cohort(name: str, task: str) -> str:
    find_task(task)
    return f"""\
# A cohort: images that judge the models of a task and never teach them. Declare it before anything is trained: the next
# build of a split sets its images aside.
[cohort.{name}]
title = "{name.replace("_", " ").capitalize()}"
tasks = ["{task}"]

# Which images belong to it: every condition that is given must hold, and at least one is needed.
attribution = ["{name}"]  # to be edited: institutions, letter by letter as the records have them
# source = "/data/{name}"  # a folder that was ingested, or the address of an archive
# collections = "65,66"  # a scope of these collections of the archive, written as they were ingested
# query = "age_approx:[70 TO *]"  # in the archive's search language
# copyright_license = ["CC-BY"]
# anatom_site = ["Head and neck"]
# fitzpatrick_skin_type = ["V", "VI"]
# seen_from = "2026-01-01"  # images whose record was first read then (UTC) or later
# seen_before = "2026-06-01"

# Rules of the task that make no sense for other data.
requires_sex = false  # true: images of people of unknown sex are left out
# image_types = ["dermoscopic"]  # without it: those of the task
"""


def _gates(task: str, _: str) -> str:
    leading, *others = measures_of(task)
    second = (
        "sensitivity_at_90_specificity" if "sensitivity_at_90_specificity" in others else "balanced_accuracy"
    )
    recalls = [name for name in others if name.startswith(RECALL)]
    example = recalls[-1] if recalls else "specificity_at_90_sensitivity"
    return f"""\
# Gates: what a candidate must show on the test set before it becomes champion of a task. One gate for each measure:
#   {", ".join([leading, *others])}
# floor: the least. margin: the largest loss against the champion that is accepted. reason: stands in every decision.
[[gates.{task}]]
measure = "{leading}"
is_leading = true  # this one must gain
floor = {DEFAULT_FLOOR:.2f}
margin = 0.0
reason = "Below {DEFAULT_FLOOR:.2f} a model says little."

[[gates.{task}]]
measure = "{second}"
floor = 0.20
margin = 0.05
reason = "A better ranking must not come at the expense of this."

# [[gates.{task}]]
# measure = "{example}"
# floor = 0.50
# margin = 0.05
# reason = "Why this matters here."
"""


WRITERS: dict[str, Callable[[str, str], str]] = {
    "task": _task,
    "split": _split,
    "variant": _variant,
    "cohort": _cohort,
    "gates": _gates,
}
