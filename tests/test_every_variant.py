"""Variants of the catalogue, trained and evaluated by a real scheduler: drawn pictures, one epoch, tiny sizes.

Two of them, since what a scheduler adds is the same for all and tests/test_train.py trains one for each path through
the engine; or, with `--every-variant` (`make test-variants`), all of them: ten minutes of two cores, most of which
TensorFlow spends on compiling.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from typing import Any

import pytest
from catalogue import add_records, labelled_records, rows_of

from lesion_tasks.bucket import open_bucket
from lesion_tasks.catalog import SPLITS, TASKS, VARIANTS
from lesion_tasks.catalog.backbones import STORED_BACKBONES
from lesion_tasks.curation.curate import curate_images
from lesion_tasks.laptop import stack
from lesion_tasks.laptop.airflow_api import AirflowApi
from lesion_tasks.settings import Settings, read_settings
from lesion_tasks.splits.subset_or_quarantine import unit_interval
from lesion_tasks.workspace import open_workspace

pytestmark = pytest.mark.scheduler

CHOSEN = ("metadata_logistic", "five_classes_frozen")
# Here there are no weights: backbones that are files of their own train in tests/test_stored_backbone.py.
WITHOUT_FILES = tuple(
    name for name, v in VARIANTS.items()
    if not any(VARIANTS[part].backbone in STORED_BACKBONES for part in (name, *v.members))
)  # fmt: skip
N_IMAGES = 240
TIMEOUT_S = 7_200.0
SYSTEMS = {*(f"S{n}" for n in range(1, 13)), *(f"R{n}" for n in range(1, 6))}
# Two trainings at once: with so little to learn, most of their time is Python's, on one core.
SLOTS = {"name": "gpu", "slots": 2, "description": "two at once in this test", "include_deferred": True}
FIVE_CLASSES = TASKS["five_classes"]
MALIGNANT = {rule.label: rule.path for rule in FIVE_CLASSES.rules if rule.label != "benign"}


def five_class_records(n: int) -> list[dict[str, Any]]:
    """`labelled_records` with the malignant lesions dealt out to the four malignant classes, some in every subset."""
    records = labelled_records(n)
    malignant = [
        clinical for record in records
        if (clinical := record["metadata"]["clinical"])["diagnosis_1"] == "Malignant"
    ]  # fmt: skip
    # In the order that decides their subsets, so that each class has its turn in each of them.
    lesions = sorted({c["lesion_id"] for c in malignant}, key=partial(unit_interval, FIVE_CLASSES.salt))
    path_by_lesion = dict(zip(lesions, cycle(MALIGNANT.values()), strict=False))
    for clinical in malignant:
        path = path_by_lesion[clinical["lesion_id"]]
        clinical |= {f"diagnosis_{level}": name for level, name in enumerate(path, 1)}
    return records


@dataclass(frozen=True, kw_only=True)
class Trained:
    """One run of `train_variants` on chosen variants, ended."""

    settings: Settings
    api: AirflowApi
    run_id: str
    names: list[str]  # of the chosen variants, sorted

    def by_variant(self, task_id: str) -> dict[str, dict[str, Any]]:
        """The instances of a mapped task, by the variant of their map index."""
        tasks = self.api.task_instances("train_variants", self.run_id)
        name_by_index = {
            task["map_index"]: task["rendered_map_index"] for task in tasks if task["task_id"] == "each.train"
        }
        return {name_by_index[t["map_index"]]: t for t in tasks if t["task_id"] == task_id}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[Trained]:
    names = sorted(WITHOUT_FILES if pytestconfig.getoption("--every-variant") else CHOSEN)
    home = tmp_path_factory.mktemp("every") / "home"
    with pytest.MonkeyPatch.context() as patch:
        for name in ("LESION_DATABASE_URL", "LESION_BUCKET_URL", "LESION_VARIANTS"):
            patch.delenv(name, raising=False)
        patch.setenv("LESION_HOME", str(home))
        nowhere = stack.Wishes(archive="http://127.0.0.1:9/api/v2/", weights="none")
        try:
            api = stack.bring_up(read_settings(), nowhere, port=None, say=print)
            patch.setenv("LESION_DATABASE_URL", f"{stack.postgres.ensure_running(home)}/lesions")
            add_records(read_settings(), five_class_records(N_IMAGES))
            curate_images(open_workspace())
            deadline = time.monotonic() + TIMEOUT_S
            while "train_variants" not in api.dag_ids():
                assert time.monotonic() < deadline
                time.sleep(0.5)
            api.patch("pools/gpu", SLOTS)
            api.patch("dags/train_variants", {"is_paused": False})
            conf = {"variants": names, "policy": "always", "rehearsal": True}
            run_id = api.trigger("train_variants", conf)
            while api.get(f"dags/train_variants/dagRuns/{run_id}")["state"] in ("queued", "running"):
                assert time.monotonic() < deadline, "not all of them ended in time"
                time.sleep(1)
            yield Trained(settings=read_settings(), api=api, run_id=run_id, names=names)
        finally:
            stack.take_down(home)


def test_every_system_is_reproduced_by_a_variant() -> None:
    assert {variant.reproduces for variant in VARIANTS.values()} - {None} == SYSTEMS


@pytest.mark.timeout(TIMEOUT_S)
def test_each_variant_trains_and_is_evaluated(trained: Trained) -> None:
    for task_id in ("each.train", "each.evaluate"):
        tasks = trained.by_variant(task_id)
        assert sorted(tasks) == trained.names
        red = {name: trained.api.log(task, 5) for name, task in tasks.items() if task["state"] != "success"}
        assert red == {}
        assert {name for name, task in tasks.items() if task["try_number"] != 1} == set()


def test_each_variant_has_its_split_and_predictions_for_each_image_of_it(trained: Trained) -> None:
    found = rows_of(
        trained.settings,
        """
        SELECT t.variant, m.split, t.status, t.recipe->>'is_promotable',
            (SELECT count(*) FROM prediction p WHERE p.training_id = t.training_id AND p.subset = 'test'),
            (SELECT sum(n::int) FROM jsonb_each_text(m.class_counts->'test') AS c(label, n))
        FROM training t JOIN manifest m ON m.digest = t.manifest_digest ORDER BY 1
        """,
    )
    assert [(row[0], row[1]) for row in found] == [(name, VARIANTS[name].split) for name in trained.names]
    assert {row[1] for row in found} <= set(SPLITS)
    for variant, _, status, is_promotable, n_predicted, n_images in found:
        assert (status, is_promotable) == ("finished", "false"), variant
        assert n_predicted == n_images > 0, variant


def test_each_variant_stands_in_the_index_with_its_figures_on_both_tests(trained: Trained) -> None:
    bucket = open_bucket(trained.settings)
    index = bucket.get("reports/index.html").decode()
    rows = rows_of(trained.settings, "SELECT training_id FROM training")
    assert len(rows) == len(trained.names)
    for (training_id,) in rows:
        assert f"{training_id}/report.html" in index
        names = {key.rsplit("/", 1)[-1] for key in bucket.list_keys(f"reports/{training_id}/")}
        assert {"report.html", "metrics.json", "predictions.parquet", "roc.png", "confusion.png"} <= names
        metrics = bucket.get(f"reports/{training_id}/metrics.json").decode()
        assert all(f'"{subset}"' in metrics for subset in ("test_natural", "test_balanced"))
