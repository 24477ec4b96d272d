"""The report bundle as people see it: from simulated predictions through the real statistics to the files."""

import json
import subprocess
import sys
from dataclasses import asdict
from html.parser import HTMLParser
from typing import Any

import jsonschema
import numpy as np
import pandas as pd
import pytest

from lesion_tasks import catalog
from lesion_tasks.catalog.gates import standing
from lesion_tasks.metrics import integrity
from lesion_tasks.metrics.compare import compare, compare_slices
from lesion_tasks.metrics.document import confusion_counts, evaluation_document
from lesion_tasks.metrics.resample import Resampling
from lesion_tasks.metrics.scored import Scored, join
from lesion_tasks.metrics.threshold import choose_threshold
from lesion_tasks.reports import bundle_schema, render_bundle, render_index
from lesion_tasks.reports.checklist import GUIDELINES, PERSON, fill_checklist
from lesion_tasks.reports.markdown import escape
from lesion_tasks.reports.model_card import model_card
from lesion_tasks.reports.page import render_page
from lesion_tasks.reports.plot import nice_marks
from lesion_tasks.reports.views import natural_frequencies
from lesion_tasks.reports.words import MINUS, NO_VALUE, flattened, moment, number, signed, span

# Few resamples: these tests look at pages, not at the coverage of intervals.
RESAMPLING = Resampling(n_resamples=60)
Files = dict[str, tuple[bytes, str]]
HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)> | [x](javascript:1) $"
PIXEL = (
    "data:image/png;base64,"
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def simulated(
    task: catalog.Task,
    *,
    n: int,
    seed: int,
    skill: float = 1.6,
    prevalence: float = 0.25,
    attribution: str = "Clinic A",
) -> Scored:
    """Predictions of a model of some skill on images of a made-up archive, several to a patient."""
    random = np.random.default_rng(seed)
    n_classes = len(task.classes)
    shares = [1 - prevalence, *[prevalence / (n_classes - 1)] * (n_classes - 1)]
    labels = random.choice(n_classes, size=n, p=shares)
    logits = (
        random.normal(size=(n, n_classes))
        + skill * np.eye(n_classes)[labels]
        + np.log(np.maximum(shares, 1e-3))
    )
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    ids = [f"ISIC_{seed:02d}{i:05d}" for i in range(n)]
    rows = pd.DataFrame(
        {
            "isic_id": ids,
            "label": [task.classes[label] for label in labels],
            "group_id": [f"IP_{i}" for i in random.integers(0, max(n // 2, 1), size=n)],
            "sex": random.choice(["female", "male"], size=n),
            "age_years": random.choice([np.nan, 25, 40, 55, 70, 85], size=n),
            "anatom_site": random.choice(["torso", "head/neck", "palms/soles"], size=n, p=[0.6, 0.39, 0.01]),
            "image_type": "dermoscopic",
            "fitzpatrick_skin_type": random.choice([None, "I", "II", "III"], size=n, p=[0.7, 0.1, 0.1, 0.1]),
            "diagnosis_confirm_type": random.choice(["histopathology", "serial imaging"], size=n),
            "attribution": attribution,
        }
    )  # fmt: skip
    predictions = pd.DataFrame(probabilities, index=ids, columns=list(task.classes))
    return join(predictions, rows, class_names=task.classes, positive_class=task.positive)


def make_bundle(
    task_name: str = "malignancy",
    *,
    n: int = 600,
    skill: float = 1.6,
    is_shuffled: bool = False,
    attribution: str = "Clinic A",
    resampling: Resampling = RESAMPLING,
) -> dict[str, Any]:
    """A bundle as the evaluate step makes it, from simulated predictions and the real statistics."""
    task = catalog.TASKS[task_name]
    val = simulated(task, n=n // 2, seed=1, skill=skill, attribution=attribution)
    test = simulated(task, n=n, seed=2, skill=skill, attribution=attribution)
    if is_shuffled:
        order = np.random.default_rng(3).permutation(test.n_images)
        test = join(
            pd.DataFrame(test.probabilities[order], index=test.isic_ids, columns=list(task.classes)),
            pd.DataFrame(
                {
                    "isic_id": test.isic_ids,
                    "label": [task.classes[label] for label in test.labels],
                    "group_id": test.group_ids,
                }
            ),
            class_names=task.classes,
            positive_class=task.positive,
        )
    balanced = test.where(np.arange(test.n_images) % 3 == 0)
    threshold = choose_threshold(val) if task.positive else None
    cut = threshold.value if threshold else None
    stored = dict(zip(test.isic_ids, test.probabilities, strict=True))
    verdicts = [
        integrity.ids_differ(test.isic_ids, test.isic_ids),
        integrity.independent_of_labels(test, threshold=cut, trainer_auc=None),
        integrity.inverted(test),
        integrity.marginals_differ(confusion_counts(test, cut), task.classes, test.class_counts),
        integrity.degenerate(test, threshold=cut),
        integrity.serving_differs(stored, {"alone": {k: stored[k] for k in list(stored)[:5]}}),
        integrity.no_better_than_random_weights(test, None),
        integrity.gap(val, test),
    ]
    failed = [verdict.name for verdict in verdicts if verdict.blocks]
    subsets = {"test_natural": test, "test_balanced": balanced, "val": val}
    variant = next(v for v in catalog.VARIANTS.values() if v.name == "mobilenet_v2_frozen_augmented")
    champion = simulated(task, n=n, seed=2, skill=skill * 0.85, attribution=attribution)
    counts = {
        "train": {name: 4 * n for name, n in test.class_counts.items()},
        "val": val.class_counts,
        "test": test.class_counts,
        "test_balanced": balanced.class_counts,
    }
    documents = {
        name: evaluation_document(part, threshold=threshold, subset=name, resampling=resampling)
        for name, part in subsets.items()
    }
    candidate = simulated(task, n=n, seed=2, skill=skill)
    comparison = {
        "champion": "cnn_scratch-99aa88bb77",
        "subset": "test_natural",
        "differences": {
            name: difference.as_dict()
            for name, difference in compare(candidate, champion, resampling=resampling).items()
        },
        "slices": [one.as_dict() for one in compare_slices(candidate, champion)],
    }
    return {
        "schema_version": 1,
        "evaluation_id": "mobilenet-0a1b2c3d-on-9f8e7d6c5b",
        "evaluated_at": "2026-03-01T14:05:00+00:00",
        "is_sound": not failed,
        "failed_checks": failed,
        "verdict": verdicts[1].sentence if failed else "Sound: all checks passed.",
        "training": {
            "training_id": "mobilenet_v2_frozen_augmented-0a1b2c3d4e",
            "variant": variant.name,
            "title": variant.title,
            "reproduces": variant.reproduces,
            "task": task.name,
            "task_title": task.title,
            "classes": list(task.classes),
            "positive_class": task.positive,
            "recipe": json.loads(json.dumps(asdict(variant))),
            "seed": variant.seed,
            "weights": "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_128_no_top.h5",
            "weights_sha256": "ab" * 32,
            "code_version": "3f2a9c1",
            "versions": {"python": "3.11.9", "keras": "3.12.0", "tensorflow": "2.21.0", "numpy": "2.4.6"},
            "threshold": cut,
            "started_at": "2026-03-01T13:00:00+00:00",
            "finished_at": "2026-03-01T13:58:12+00:00",
            "manifest_digest": "9f8e7d6c5b" * 6 + "abcd",
            "model_sha256": "cd" * 32,
        },
        "manifest": {
            "digest": "9f8e7d6c5b" * 6 + "abcd",
            "split": "malignancy_balanced_5000",
            "task": task.name,
            "n_images": sum(sum(by_class.values()) for by_class in counts.values()),
            "class_counts": counts,
            "funnel": [
                {"step": "records", "n": 12 * n},
                {"step": "rejected", "reason": "not_an_image", "n": -3},
                {"step": "images", "n": 12 * n - 3},
                {"step": "left out", "reason": "image_type", "n": -2 * n},
                {"step": "left out", "reason": "indeterminate", "n": -n // 9},
                {"step": "train", "n": 4 * n},
                {"step": "val", "n": val.n_images},
                {"step": "test", "n": test.n_images},
            ],
            "recipe": json.loads(
                json.dumps(
                    {
                        "split": asdict(catalog.SPLITS["malignancy_balanced_5000"]),
                        "task": asdict(task),
                    }
                )
            ),
            "created_at": "2026-03-01T12:00:00+00:00",
        },
        "integrity": [verdict.as_dict() for verdict in verdicts],
        "subsets": documents,
        "epochs": [
            {
                "epoch": i + 1,
                "figures": {
                    "loss": 0.62 * 0.9**i,
                    "auc": 0.9 - 0.2 * 0.8**i,
                    "val_loss": 0.60 * 0.94**i + 0.004 * i,
                    "val_auc": 0.87 - 0.15 * 0.8**i,
                },
                "duration_s": 11.5,
            }
            for i in range(14)
        ],
        "comparison": comparison,
        "promotion": standing(task_name, documents["test_natural"]["figures"], comparison),
        "data_changes": {
            "since_manifest": "11223344",
            "n_new": 120,
            "n_lost": 2,
            "by_class": {"benign": {"n_new": 100}},
        },
        "data": {
            "licences": {"CC-0": 5 * n, "CC-BY-NC": n},
            "attributions": {attribution: 6 * n},
            "image_types": {"dermoscopic": 6 * n},
            "sexes": {"female": 3 * n, "male": 3 * n},
            "missing": {
                "age_years": {"train": 0.1, "val": 0.12, "test": 0.11},
                "size_mm": {"train": 0.8, "val": 0.79, "test": 0.81},
            },
        },
        "examples": [
            {
                "isic_id": test.isic_ids[i],
                "label": task.classes[test.labels[i]],
                "probability": 0.97,
                "kind": kind,
                "picture": PIXEL,
                "heatmap": PIXEL,
            }
            for i, kind in enumerate(["confident mistake"] * 3 + ["confident hit"] * 3)
        ],
        "n_test_openings": 3,
    }


@pytest.fixture(scope="module")
def bundle() -> dict[str, Any]:
    return make_bundle()


@pytest.fixture(scope="module")
def multiclass_bundle() -> dict[str, Any]:
    return make_bundle("five_classes")


@pytest.fixture(scope="module")
def files(bundle: dict[str, Any]) -> Files:
    return render_bundle(bundle)


@pytest.fixture(scope="module")
def multiclass_files(multiclass_bundle: dict[str, Any]) -> Files:
    return render_bundle(multiclass_bundle)


class Page(HTMLParser):
    """What a page is made of: its tags in order, its attributes, its visible text; fails on tags that do not nest."""

    VOID = frozenset({"meta", "br", "img", "hr", "link", "input"})

    def __init__(self, html: bytes | str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(html.decode() if isinstance(html, bytes) else html)
        assert self.open == [], f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def attributes(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture(scope="module")
def page(files: Files) -> Page:
    return Page(files["report.html"][0])


@pytest.fixture(scope="module")
def multiclass_page(multiclass_files: Files) -> Page:
    return Page(multiclass_files["report.html"][0])


def page_of(bundle: dict[str, Any]) -> Page:
    """The page alone, without the pictures beside it."""
    return Page(render_page(bundle))


# --- The files --------------------------------------------------------------------------------------------------


def test_a_bundle_becomes_every_file_of_the_report_folder(files):
    assert set(files) == {
        "report.html", "metrics.json", "metrics.schema.json", "roc.png", "pr.png", "confusion.png", "calibration.png",
        "model_card.md", "checklist.md", "checklist.json",
    }  # fmt: skip
    for name, (data, content_type) in files.items():
        assert len(data) < 5_000_000
        if name.endswith(".png"):
            assert data.startswith(b"\x89PNG") and content_type == "image/png"


def test_metrics_json_is_valid_under_the_schema_published_beside_it(files, multiclass_files):
    for some in (files, multiclass_files):
        schema = json.loads(some["metrics.schema.json"][0])
        jsonschema.Draft202012Validator.check_schema(schema)
        jsonschema.Draft202012Validator(schema).validate(json.loads(some["metrics.json"][0]))


def test_the_schema_refuses_an_undefined_figure_without_a_reason(files):
    document = json.loads(files["metrics.json"][0])
    document["subsets"]["val"]["figures"]["auc"] = {
        "value": None, "low": None, "high": None, "method": None, "n_images": 1, "n_groups": 1, "n_positives": 0,
    }  # fmt: skip
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(bundle_schema()).validate(document)


def test_a_number_that_json_cannot_hold_is_an_error_and_not_a_file(bundle):
    broken = {**bundle, "n_test_openings": float("nan")}
    with pytest.raises(ValueError, match="JSON compliant"):
        render_bundle(broken)


def test_the_same_bundle_gives_the_same_bytes(bundle, files):
    assert render_bundle(bundle) == files


# --- The page ---------------------------------------------------------------------------------------------------


def test_a_page_asks_for_nothing_from_elsewhere(files, multiclass_files):
    for html in (files["report.html"][0], multiclass_files["report.html"][0]):
        page = Page(html)
        assert {"script", "link", "iframe", "object", "base", "form"}.isdisjoint(tag for tag, _ in page.tags)
        assert all(image["src"].startswith("data:image/") for image in page.attributes("img"))
        assert all("//" not in link["href"] and ":" not in link["href"] for link in page.attributes("a"))
        assert (
            b"url(" not in html and b"@import" not in html and b"http" not in html.replace(b"http-equiv", b"")
        )


def test_every_value_of_the_bundle_shows_as_text():
    hostile = make_bundle(n=150, attribution=HOSTILE)
    hostile["verdict"] = hostile["training"]["title"] = hostile["training"]["task_title"] = HOSTILE
    hostile["training"] |= {"training_id": HOSTILE, "weights": HOSTILE, "versions": {HOSTILE: HOSTILE}}
    hostile["training"]["recipe"][HOSTILE] = [HOSTILE]
    hostile["manifest"]["funnel"].append({"step": HOSTILE, "reason": HOSTILE, "n": -1})
    hostile["comparison"]["champion"] = HOSTILE
    hostile["data"] |= {HOSTILE: {HOSTILE: 1}, "missing": {HOSTILE: {HOSTILE: 0.5}}}
    hostile["data_changes"] = {HOSTILE: HOSTILE, "by_class": {HOSTILE: {HOSTILE: 3}}}
    hostile["examples"][0] |= {"isic_id": HOSTILE, "label": HOSTILE, "kind": HOSTILE}
    hostile["integrity"].append(
        {"name": HOSTILE, "status": "failed", "is_blocking": False, "sentence": HOSTILE, "numbers": {HOSTILE: HOSTILE}}
    )  # fmt: skip
    files = render_bundle(hostile)
    page = Page(files["report.html"][0])
    assert page.text.count("<script>alert(1)</script>") > 15
    assert all(tag != "script" for tag, _ in page.tags)
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)
    for name in ("model_card.md", "checklist.md"):
        text = files[name][0].decode()
        assert "<script" not in text and "<img" not in text and "[x](" not in text


def test_a_picture_from_elsewhere_is_left_out():
    bundle = make_bundle(n=150)
    bundle["examples"][0]["picture"] = "https://example.org/tracker.png"
    bundle["examples"][1]["heatmap"] = "https://example.org/tracker.png"
    html = render_page(bundle)
    assert "example.org" not in html
    assert "1 example left out" in Page(html).text


def test_pictures_beyond_the_room_of_a_page_are_left_out_and_counted():
    bundle = make_bundle(n=150)
    big = "data:image/jpeg;base64," + "A" * 900_000
    bundle["examples"] = [{**bundle["examples"][0], "picture": big, "heatmap": None} for _ in range(6)]
    html = render_page(bundle)
    assert len(html) < 5_000_000
    assert "3 examples left out" in Page(html).text


def test_a_confident_mistake_names_truth_and_call():
    bundle = make_bundle(n=150)
    bundle["examples"] = [{**bundle["examples"][0], "label": "benign", "probability": 0.97}]
    assert "In truth benign , called malignant with 0.970" in page_of(bundle).text


def test_the_move_of_a_figure_is_told_as_model_and_data(bundle):
    moved = {
        "old_model_old_data": 0.80, "old_model_new_data": 0.82, "new_model_old_data": 0.85, "new_model_new_data": 0.88,
        "move": 0.08, "model_effect": 0.055, "data_effect": 0.025,
    }  # fmt: skip
    text = page_of({**bundle, "comparison": {**bundle["comparison"], "two_by_two": moved}}).text
    assert "It moved by +0.080: +0.055 by the model, +0.025 by the data." in text
    assert "New model 0.850 0.880" in text


def test_the_lowest_slice_is_named_with_its_size(bundle, page):
    document = bundle["subsets"]["test_natural"]
    scored = [part for part in document["slices"] if part["is_scored"]]
    lowest = min(scored, key=lambda part: part["figures"]["auc"]["value"])
    n_images, auc = lowest["n_images"], number(lowest["figures"]["auc"]["value"])
    words = page.text.split("Lowest AUC of ")[1].split("The lowest of many")[0]
    assert (
        words.startswith(f"{len(scored)} scored parts:")
        and f"{auc} (" in words
        and f"n = {n_images}." in words
    )


def test_a_report_on_another_manifest_finds_the_index_one_folder_further_up(bundle):
    def links(manifest):
        return {link["href"] for link in page_of({**bundle, "manifest": manifest}).attributes("a")}

    own, other = bundle["manifest"]["digest"], "f" * 64
    assert {"../index.html", f"../data/{own}.html"} <= links(bundle["manifest"])
    assert {"../../index.html", f"../../data/{own}.html", f"../../data/{other}.html"} <= links(
        {**bundle["manifest"], "digest": other}
    )


def test_sections_stand_in_the_order_a_reader_asks(page):
    sections = [section["id"] for section in page.attributes("section")]
    assert sections == [
        "verdict", "performance", "figures", "checks", "comparison", "slices", "examples", "training", "data",
        "lineage", "checklist",
    ]  # fmt: skip


def test_every_figure_of_every_subset_stands_on_the_page_with_its_interval(bundle, page):
    text = page.text
    for document in bundle["subsets"].values():
        for figure in document["figures"].values():
            assert number(figure["value"]) in text
            assert span(figure["low"], figure["high"]) in text


def test_every_check_shows_its_sentence_and_numbers_also_when_passed(bundle, page):
    text = page.text
    for verdict in bundle["integrity"]:
        assert verdict["sentence"] in text
        for name, value in flattened(verdict["numbers"]):
            assert f"{name} {value}" in text


def test_a_page_is_usable_without_eyes(page, multiclass_page):
    for some in (page, multiclass_page):
        assert [tag for tag, _ in some.tags if tag in ("main", "nav", "header", "footer")] == [
            "header",
            "nav",
            "main",
            "footer",
        ]
        assert some.attributes("html")[0]["lang"] == "en"
        assert all(cell.get("scope") for cell in some.attributes("th"))
        assert all(image.get("alt") for image in some.attributes("img"))
        plots = [svg for svg in some.attributes("svg") if svg.get("aria-hidden") != "true"]
        assert plots and all(svg["role"] == "img" and svg["aria-labelledby"] for svg in plots)
        ids = [attrs["id"] for _, attrs in some.tags if "id" in attrs]
        assert len(ids) == len(set(ids))
        targets = {link["href"][1:] for link in some.attributes("a") if link["href"].startswith("#")}
        labels = {name for _, attrs in some.tags for name in (attrs.get("aria-labelledby") or "").split()}
        assert targets | labels <= set(ids)


def contrast(first: str, second: str) -> float:
    """Contrast ratio of two #rrggbb colours, WCAG 2.2."""

    def luminance(colour: str) -> float:
        channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(first), luminance(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_text_has_enough_contrast_in_light_and_dark(files):
    css = files["report.html"][0].decode().split("<style>")[1].split("</style>")[0]
    for block in (
        css.split("}")[0],
        css.split("@media screen and (prefers-color-scheme: dark)")[1].split("}")[0],
    ):
        colour = dict(
            part.strip().removeprefix("--").split(": ")
            for part in block.split("{")[-1].split(";")
            if ": #" in part
        )
        for ground in ("page", "sheet", "soft"):
            for ink in ("ink", "muted", "accent"):
                assert contrast(colour[ink], colour[ground]) >= 4.5, (ink, ground)
        for state in ("good", "bad", "warn"):
            assert contrast(colour[state], colour[f"{state}-soft"]) >= 4.5, state
        for i in range(6):  # curves are graphics: 3 to 1
            assert contrast(colour[f"s{i}"], colour["sheet"]) >= 3, i


def test_an_unsound_evaluation_says_so_before_any_figure():
    bundle = make_bundle(n=400, is_shuffled=True)
    assert "independent_of_labels" in bundle["failed_checks"]
    text = page_of(bundle).text
    assert text.index("Verdict: not sound") < text.index("not to be relied on") < text.index("95 % interval")
    assert "independent of the labels" in text
    assert "not to be relied on" in model_card(bundle)


def test_an_undefined_figure_shows_its_reason():
    task = catalog.TASKS["malignancy"]
    bundle = make_bundle(n=150)
    benign = simulated(task, n=120, seed=5, prevalence=0.0)
    bundle["subsets"]["test_natural"] = evaluation_document(
        benign, threshold=None, subset="test_natural", resampling=RESAMPLING
    )
    page = page_of(bundle)
    assert "undefined no positives among 120 images" in page.text
    assert "No ROC curve: no positives among 120 images." in page.text
    assert page.text.count("None") == page.text.count("None of")


def test_predictions_that_could_not_be_joined_still_give_a_page_that_says_why(bundle):
    verdict = integrity.ids_differ(["a", "b"], ["b", "c"])
    unjoined = {
        **bundle,
        "is_sound": False,
        "failed_checks": ["ids_differ"],
        "verdict": f"Not to be trusted: {verdict.sentence}",
        "integrity": [verdict.as_dict()],
        "subsets": {},
        "comparison": None,
        "examples": [],
        "data_changes": None,
    }
    files = render_bundle(unjoined)
    page = Page(files["report.html"][0])
    assert verdict.sentence in page.text
    assert "performance" not in [section["id"] for section in page.attributes("section")]
    jsonschema.Draft202012Validator(bundle_schema()).validate(json.loads(files["metrics.json"][0]))


def test_a_fit_without_epochs_or_pixels_says_what_there_is_instead(bundle):
    recipe = {**bundle["training"]["recipe"], "side_px": None, "metadata": ["age_years", "is_male"]}
    plain = {
        **bundle,
        "training": {**bundle["training"], "recipe": recipe, "weights": None},
        "epochs": [{"epoch": 1, "figures": {"loss": 0.4}, "duration_s": 0.2}],
        "examples": [],
        "data": {},
    }
    text = page_of(plain).text
    assert "This model does not look at pixels: it uses age_years, is_male." in text
    assert "there is no curve" in text


def test_natural_frequencies_add_up_to_the_lesions_they_speak_of(bundle):
    rows = natural_frequencies(bundle["subsets"]["test_natural"])
    assert [row["positive"] for row in rows][:2] == [20, 100]
    for row in rows:
        assert row["found"] + row["missed"] == row["positive"]
        assert sum(row[key] for key in ("found", "missed", "alarms", "right_negatives")) == row["n"]


# --- The checklist and the card -----------------------------------------------------------------------------------


def test_the_checklist_answers_from_the_bundle_and_leaves_the_rest_to_a_person(bundle):
    items = {item["asks"]: item for item in fill_checklist(bundle)}
    assert items["Ethical approval"]["status"] == PERSON and items["Ethical approval"]["answer"] is None
    sizes = items["Size of each partition and its balance of classes"]["answer"]
    assert f"benign {bundle['manifest']['class_counts']['test']['benign']:,}" in sizes
    asked = {guideline for item in items.values() for guideline in item["guidelines"]}
    assert asked == set(GUIDELINES)


def test_a_bundle_that_holds_less_answers_less(bundle):
    bare = {**bundle, "data": {}, "comparison": None, "examples": [], "subsets": {}, "integrity": []}
    bare["manifest"] = {**bundle["manifest"], "recipe": {}}
    n_answered = [sum(i["status"] != PERSON for i in fill_checklist(some)) for some in (bundle, bare)]
    assert n_answered[1] < n_answered[0] - 10


def test_the_overlap_item_is_answered_only_where_leaks_were_looked_for(bundle):
    asks = "The level at which the partitions are disjoint, and the proof"
    status = {item["asks"]: item["status"] for item in fill_checklist(bundle)}
    assert status[asks] == PERSON
    leaks = {
        "name": "leaks",
        "status": "passed",
        "is_blocking": True,
        "sentence": "No overlap.",
        "numbers": {},
    }
    proven = {**bundle, "integrity": [*bundle["integrity"], leaks]}
    answer = {item["asks"]: item["answer"] for item in fill_checklist(proven)}
    assert answer[asks].endswith("No overlap.")


def test_a_model_card_carries_figures_and_what_they_stand_on(bundle, files):
    card = files["model_card.md"][0].decode()
    auc = bundle["subsets"]["test_natural"]["figures"]["auc"]
    assert f"{auc['value']:.3f} ({auc['low']:.3f} to {auc['high']:.3f})" in card
    assert "Not for diagnosis" in card
    widths = {}
    for line in card.splitlines():
        if line.startswith("|"):
            cells = line.replace("\\|", "").count("|")
            widths.setdefault("row", cells)
            assert cells == widths["row"]
        else:
            widths = {}


# --- The index ----------------------------------------------------------------------------------------------------


def board_row(bundle: dict[str, Any], training_id: str, **changes: Any) -> dict[str, Any]:
    subsets = bundle["subsets"]
    row = {
        "training_id": training_id,
        "variant": "cnn",
        "title": f"Title of {training_id}",
        "reproduces": None,
        "evaluated_at": "2026-03-01T14:05:00+00:00",
        "is_sound": True,
        "failed_checks": [],
        "verdict": "Sound.",
        "figures": subsets["test_natural"]["figures"],
        "balanced": subsets["test_balanced"]["figures"],
        "val": subsets["val"]["figures"],
        "report_path": f"{training_id}/report.html",
        "is_champion": False,
        "manifest_digest": "aaaabbbbcccc",
        "n_test_openings": 1,
    }
    return row | changes


def board(rows: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    task = {
        "name": "malignancy",
        "title": "Benign or malignant",
        "classes": ["benign", "malignant"],
        "champion": None,
        "rows": rows,
        "decisions": [],
    }
    return {"generated_at": "2026-03-01T14:10:00+00:00", "tasks": [task | changes]}


def with_auc(bundle: dict[str, Any], value: float | None) -> dict[str, Any]:
    figure = bundle["subsets"]["test_natural"]["figures"]["auc"]
    changed = {**figure, "value": value} | ({"reason": "no positives"} if value is None else {})
    return {**bundle["subsets"]["test_natural"]["figures"], "auc": changed}


def test_the_index_leads_to_the_data_of_every_row(bundle):
    digest = "0123456789abcdef" * 4
    rows = [
        board_row(bundle, "one", manifest_digest=digest),
        board_row(bundle, "other", manifest_digest="../../x"),
    ]
    links = {link["href"] for link in Page(render_index(board(rows))).attributes("a")}
    assert f"data/{digest}.html" in links
    assert not any("x.html" in link for link in links)


def test_the_index_ranks_sound_rows_and_never_the_best_unsound_one(bundle):
    rows = [
        board_row(
            bundle, "unsound-1", figures=with_auc(bundle, 0.999), is_sound=False, verdict="Labels leak."
        ),
        board_row(bundle, "undefined-2", figures=with_auc(bundle, None)),
        board_row(bundle, "low-3", figures=with_auc(bundle, 0.7)),
        board_row(bundle, "high-4", figures=with_auc(bundle, 0.8)),
    ]
    text = Page(render_index(board(rows))).text
    places = [text.index(f"Title of {name}") for name in ("high-4", "low-3", "undefined-2", "unsound-1")]
    assert places == sorted(places)
    assert text.index("never ranked") < places[-1] < text.index("Labels leak.")
    assert "1 Title of high-4" in text and "2 Title of low-3" in text
    assert f"{NO_VALUE} Title of undefined-2" in text and f"{NO_VALUE} Title of unsound-1" in text


def test_the_index_links_only_to_pages_beside_it(bundle):
    rows = [
        board_row(bundle, "good"),
        *(
            board_row(bundle, f"bad-{i}", report_path=path)
            for i, path in enumerate(
                ["javascript:alert(1)", "//example.org/x", "/etc/passwd", "../x.html", "https://example.org"]
            )
        ),
    ]
    links = [link["href"] for link in Page(render_index(board(rows))).attributes("a")]
    assert links == ["#main", "good/report.html"]


def test_the_index_shows_champion_and_decisions_as_text(bundle):
    champion = {
        "training_id": "a",
        "variant": "cnn",
        "since": "2026-03-01T14:10:00+00:00",
        "reason": HOSTILE,
        "report_path": "a/report.html",
    }
    decisions = [
        {"decided_at": "2026-03-01T14:10:00+00:00", "action": action, "training_id": "a", "previous_training_id": None,
         "reason": HOSTILE, "decided_by": "rule"}
        for action in ("promoted", "refused", "rolled_back")
    ]  # fmt: skip
    page = Page(
        render_index(
            board([board_row(bundle, "a", is_champion=True)], champion=champion, decisions=decisions)
        )
    )
    assert page.text.count("<script>alert(1)</script>") == 4
    for word in ("★ Champion", "promoted", "refused", "rolled back"):
        assert word in page.text
    assert all(tag != "script" for tag, _ in page.tags)


def test_a_row_whose_predictions_could_not_be_joined_has_a_place_but_no_figure(bundle):
    row = board_row(bundle, "unjoined", figures={}, balanced={}, val={}, is_sound=False)
    assert "not measured" in Page(render_index(board([row]))).text


def test_the_index_needs_neither_statistics_nor_plots():
    probe = (
        "import sys; from lesion_tasks.reports import render_index; "
        "render_index({'generated_at': None, 'tasks': []}); "
        "print([name for name in ('matplotlib', 'numpy', 'pandas', 'sklearn') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_an_empty_leaderboard_is_a_page():
    assert "Nothing has been evaluated yet." in Page(render_index({"generated_at": None, "tasks": []})).text


# --- Words --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "words"),
    [(0.91234, "0.912"), (-0.0004, "0.000"), (-0.0016, f"{MINUS}0.002"), (None, NO_VALUE), (1, "1.000")],
)
def test_numbers_have_three_digits_and_a_true_minus(value, words):
    assert number(value) == words


@pytest.mark.parametrize(("value", "words"), [(0.02, "+0.020"), (-0.02, f"{MINUS}0.020"), (0.0, "0.000")])
def test_differences_carry_their_sign(value, words):
    assert signed(value) == words


@pytest.mark.parametrize(("low", "high"), [(0.13, 0.62), (-0.05, 0.3), (0.5, 0.5), (0.0, 1e-7), (3, 4_000)])
def test_marks_of_an_axis_enclose_the_data(low, high):
    marks = nice_marks(low, high)
    assert marks[0] <= low and marks[-1] >= high
    assert 2 <= len(marks) <= 8


def test_a_time_that_is_no_time_stays_as_it_is():
    assert moment("2026-03-01T14:05:00+00:00") == "2026-03-01 14:05 UTC"
    assert moment("yesterday") == "yesterday"
    assert moment(None) == NO_VALUE


def test_markdown_takes_no_markup_from_a_value():
    assert escape("a|b <i> [x](y)\nz") == "a\\|b &lt;i&gt; \\[x\\](y) z"


def test_the_page_shows_what_the_gates_say(bundle: dict[str, Any]) -> None:
    clear = page_of({**bundle, "promotion": {**bundle["promotion"], "objections": [], "cautions": []}}).text
    assert "It clears every gate." in clear
    refused = {
        **bundle["promotion"],
        "objections": ["auc does not <gain>"],
        "cautions": ["a loss is possible"],
    }
    text = page_of({**bundle, "promotion": refused}).text
    assert "It would be refused:" in text
    assert "auc does not <gain>" in text  # as text: the page is escaped
    assert "a loss is possible" in text
    assert all(gate["reason"] in text for gate in bundle["promotion"]["gates"])
    assert "What the gates say" not in page_of({**bundle, "promotion": None}).text


def test_the_page_compares_slices_with_the_champion(bundle: dict[str, Any]) -> None:
    text = page_of(bundle).text
    assert "In which parts of the test set" in text
    (too_small,) = [part for part in bundle["comparison"]["slices"] if part["difference"] is None]
    assert too_small["value"] == "palms/soles"
    assert "1 part too small to compare." in text
    without = {**bundle["comparison"], "slices": []}
    assert "In which parts of the test set" not in page_of({**bundle, "comparison": without}).text
