"""A chosen variant -> the manifest and the pixels that its training needs, and the training.

The schedule builds splits and pixels for the variants that it trains; a variant chosen by hand may need another split
or another input size. Running it again finds both and changes nothing.
"""

import logging
import re
from collections.abc import Mapping
from typing import Any

from lesion_tasks.catalog.lookup import find_variant
from lesion_tasks.catalog.shortened import adjust
from lesion_tasks.pixels.materialize import materialize_manifest
from lesion_tasks.splits.manifest import NoManifestError, manifest_in_force
from lesion_tasks.splits.split import build_split
from lesion_tasks.workspace import Workspace

log = logging.getLogger(__name__)


def prepare_training(
    workspace: Workspace,
    variant: str,
    *,
    is_smoke_run: bool = False,
    changes: Mapping[str, Any] | None = None,
) -> str:
    """Build a variant's split unless it was built as it is defined, and decode its pictures in the variant's size.

    Returns the digest of the manifest. A split that has such a manifest is left unchanged: `build_split` decides when
    to include newer images. Raises UnusableInputError if the available images cannot make the split.
    """
    recipe = adjust(find_variant(variant), is_smoke_run=is_smoke_run, changes=changes)
    engine = workspace.engine
    try:
        digest, _ = manifest_in_force(engine, recipe.split)
    except NoManifestError as error:
        log.info("%s: it is built now", re.split(", expected|: build the split", str(error))[0])
        digest = build_split(workspace, recipe.split)
    if recipe.input_size is not None:
        materialize_manifest(workspace, digest, recipe.input_size)
    return digest


def prepare_and_train(
    workspace: Workspace,
    variant: str,
    *,
    again: bool,
    is_smoke_run: bool,
    max_epochs: int | None,
    n_trials: int,
    changes: Mapping[str, Any] | None,
) -> str:
    """What is done for each chosen variant, by a command or a task of Airflow; returns the training's id."""
    from lesion_tasks.training.train import train_variant

    prepare_training(workspace, variant, is_smoke_run=is_smoke_run, changes=changes)
    return train_variant(
        workspace,
        variant,
        again=again,
        is_smoke_run=is_smoke_run,
        max_epochs=max_epochs,
        n_trials=n_trials,
        changes=changes,
    )
