"""A recipe, a manifest and weights -> everything that identifies a training, and the data it uses."""

import ast
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Engine, text

from lesion_tasks import UnusableInputError
from lesion_tasks.bucket import Bucket
from lesion_tasks.catalog import SPLITS, Variant
from lesion_tasks.catalog.backbones import Backbone, PresetBackbone, find_backbone
from lesion_tasks.catalog.shortened import without
from lesion_tasks.curation.cleaning import diagnosis_path
from lesion_tasks.splits.held_out import HeldOut, build_held_out
from lesion_tasks.splits.manifest import find_manifest, manifest_in_force, object_key
from lesion_tasks.training.quiet_start import import_tensorflow
from lesion_tasks.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd

    from lesion_tasks.training.examples import Data
    from lesion_tasks.training.model import Weights

PACKAGE = Path(__file__).parents[1]
# Rooms whose code, all of it, decides a training's numbers. So does whatever they import from the rooms in SHARED;
# what they import from others moves data (database, bucket, splits) or is in the fingerprint by value (catalog).
DECIDING = ("pixels", "training")
SHARED = ("archive", "curation", "metrics")


def deciding_files(package: Path) -> list[Path]:
    """The sources of a package that decide a training's numbers: whole rooms, and what they import from shared ones."""
    found = {path for room in DECIDING for path in (package / room).rglob("*.py")}
    waiting = list(found)
    while waiting:
        for path in _shared_imports(package, waiting.pop()) - found:
            found.add(path)
            waiting.append(path)
    return sorted(found)


def _shared_imports(package: Path, path: Path) -> set[Path]:
    """Modules of shared rooms that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    parts = [name.split(".")[1:] for name in names if name.startswith(f"{package.name}.")]
    files = [package.joinpath(*inner).with_suffix(".py") for inner in parts if inner[0] in SHARED]
    return {file for file in files if file.is_file()}


@lru_cache(maxsize=4)
def code_digest(package: Path = PACKAGE) -> str:
    """SHA-256 over the sources that decide a training's numbers, with their paths."""
    digest = hashlib.sha256()
    for path in deciding_files(package):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(package)} {len(content)}\n".encode() + content)
    return digest.hexdigest()


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """Everything that identifies a training."""

    variant: Variant
    digest: str
    manifest_key: str
    weights: "Weights | None"
    weights_location: str  # where the settings say that pretrained weights are
    code_version: str
    members: tuple[str, ...] = ()  # of an ensemble: the fingerprints of the trainings that it averages

    @property
    def is_missing_weights(self) -> bool:
        backbone = find_backbone(self.variant.backbone or "")
        is_needed = not isinstance(backbone, Backbone) or self.variant.is_pretrained
        return backbone is not None and is_needed and self.weights is None

    @property
    def fingerprint(self) -> str:
        backbone = find_backbone(self.variant.backbone or "")
        parts: dict[str, Any] = {
            "variant": self.variant.as_recipe,
            "manifest": self.digest,
            "weights": self.weights.sha256 if self.weights else None,
            "code": code_digest(),
            # By value: different preprocessing under the same name is a different training.
            "backbone": backbone and asdict(backbone),
        }
        if self.members:
            parts["members"] = list(self.members)
        if self.is_missing_weights:
            parts["missing_weights"] = self.weights_location
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    @property
    def row(self) -> dict[str, Any]:
        """The columns of the training's row that are known before it starts."""
        variant, task = self.variant, self.variant.task
        return {
            "variant": variant.name,
            "task": task.name,
            "fingerprint": self.fingerprint,
            "recipe": variant.as_recipe,
            "manifest_digest": self.digest,
            "weights": self.weights.described if self.weights else None,
            "weights_sha256": self.weights.sha256 if self.weights else None,
            "seed": variant.seed,
            "code_version": self.code_version,
            "versions": versions(variant),
            "classes": list(task.classes),
        }


def find_run_spec(workspace: Workspace, variant: Variant, held_out: HeldOut | None = None) -> RunSpec:
    """The run spec of a variant on the manifest in force of its split, without looking for weights yet.

    Something that is held out makes it another manifest, of the split's manifest that `held_out` names, and the recipe
    one that is never promoted. Raises `UnusableInputError` if that manifest is not of the variant's split.
    """
    if held_out is None:
        digest, manifest_key = manifest_in_force(workspace.engine, variant.split)
    else:
        with workspace.engine.connect() as connection:
            split = find_manifest(connection, held_out.manifest_digest).split
        if split != variant.split:
            raise UnusableInputError(
                f"variant {variant.name!r}: manifest {held_out.manifest_digest[:12]} is of split {split!r}, expected "
                f"one of {variant.split!r}, from which it learns"
            )
        digest = build_held_out(workspace, held_out)
        manifest_key = object_key(held_out.split_name(variant.split), digest)
    return RunSpec(
        variant=as_trained(variant, held_out),
        digest=digest,
        manifest_key=manifest_key,
        weights=None,
        weights_location=workspace.settings.weights,
        code_version=workspace.settings.code_version,
    )


def as_trained(variant: Variant, held_out: HeldOut | None) -> Variant:
    """The recipe of a training from which something may be held out."""
    return variant if held_out is None else without(variant, held_out.value)


def versions(variant: Variant) -> dict[str, str]:
    """Versions of what computes: Keras, its back end, NumPy, scikit-learn, Python, and KerasHub for a preset."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    import_tensorflow()
    import keras

    has_preset = isinstance(find_backbone(variant.backbone or ""), PresetBackbone)
    found = {"python": platform.python_version(), "keras": keras.__version__}
    for name, packages in {
        keras.backend.backend(): ("tensorflow-cpu", "tensorflow", keras.backend.backend()),
        "numpy": ("numpy",),
        "scikit-learn": ("scikit-learn",),
        **({"keras-hub": ("keras-hub",)} if has_preset else {}),
    }.items():
        for package in packages:
            try:
                found[name] = version(package)
                break
            except PackageNotFoundError:
                continue
    return found


def load_data(
    engine: Engine, bucket: Bucket, variant: Variant, rows: "pd.DataFrame", *, has_test: bool = True
) -> "Data":
    """Examples by subset; `val_drawn` is val as the split draws it. Without `has_test`, test is not opened at all."""
    from lesion_tasks.training.examples import Data, load_examples

    subsets = ("train", "val", "test") if has_test else ("train", "val")
    wanted = {subset: rows[rows["subset"] == subset] for subset in subsets}
    is_drawn = SPLITS[variant.split].max_per_class is not None
    wanted["val_drawn"] = wanted["val"][wanted["val"]["is_balanced"]] if is_drawn else wanted["val"]
    with engine.connect() as connection:
        found = {
            subset: load_examples(
                connection,
                bucket,
                part,
                classes=variant.task.classes,
                input_size=variant.input_size,
                metadata_fields=variant.metadata,
            )
            for subset, part in wanted.items()
        }
        diagnosis_by_id = {}
        if variant.learning is not None and variant.learning.auxiliary_weight:
            diagnosis_by_id = read_diagnoses(connection, wanted["train"], variant.learning.auxiliary_level)
    sha256_by_id = dict(zip(rows["isic_id"], rows["sha256"], strict=True))
    lesion_by_id = {}
    if variant.learning is not None and variant.learning.lesion_weighting != "by_image":
        known = wanted["train"].dropna(subset="lesion_id")
        lesion_by_id = dict(zip(known["isic_id"], known["lesion_id"], strict=True))
    return Data(
        train=found["train"],
        val_drawn=found["val_drawn"],
        val=found["val"],
        test=found.get("test"),
        sha256_by_id=sha256_by_id,
        diagnosis_by_id=diagnosis_by_id,
        lesion_by_id=lesion_by_id,
    )


def read_diagnoses(connection: Connection, rows: "pd.DataFrame", level: int) -> dict[str, str]:
    """The diagnosis of images as deep as their record says, at most down to `level`, by image id.

    Read from the version of the record that the manifest names, which never changes. Images whose record says no more
    than level 1 are left out: that is the question itself.
    """
    found = connection.execution_options(stream_results=True).execute(
        text("""
            SELECT isic_id, document #> '{metadata,clinical}' AS clinical
            FROM unnest(CAST(:ids AS text[]), CAST(:versions AS int[])) AS wanted (isic_id, version)
            JOIN record_version USING (isic_id, version)
        """),
        {"ids": rows["isic_id"].tolist(), "versions": [int(v) for v in rows["record_version"]]},
    )
    paths = ((row.isic_id, diagnosis_path(row.clinical or {})[:level]) for row in found)
    return {isic_id: path[-1] for isic_id, path in paths if len(path) > 1}


def licences_of(rows: "pd.DataFrame") -> dict[str, dict[str, Any]]:
    """The licences of the pictures that a model learned from (train and val), and whom to credit.

    Licence -> `images`, their number, and `attributions`, the number for each wording that the archive asks for. A
    picture without a licence is listed under "none stated".
    """
    learned = rows[rows["subset"].isin(["train", "val"])]
    found: dict[str, dict[str, Any]] = {}
    for said in learned[["copyright_license", "attribution"]].itertuples(index=False, name=None):
        licence, words = ("none stated" if value is None or value != value else value for value in said)
        entry = found.setdefault(licence, {"images": 0, "attributions": {}})
        entry["images"] += 1
        entry["attributions"][words] = entry["attributions"].get(words, 0) + 1
    return found


def trainer_figures(labels: Any, predictions: "pd.DataFrame") -> Mapping[str, float | None]:
    """AUC as the trainer sees it: labels and scores by position, straight from the arrays it trained with.

    The evaluator computes the same from keyed rows; if the two differ, rows were mixed up.
    """
    from lesion_tasks.training.judge import auc_of

    return {"auc": auc_of(predictions.to_numpy(), labels)}
