"""The report as people see it: a real evaluation of a small catalogue, its files, and variations of its bundle."""

import json
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pandas as pd
import pytest
import yaml
from evaluation_data import Evaluated, run_evaluation

from lesion_tasks import catalog
from lesion_tasks.catalog import VARIANTS
from lesion_tasks.catalog.gates import standing
from lesion_tasks.catalog.printed_numbers import MINUS, NO_VALUE, number, signed, span
from lesion_tasks.catalog.synthetic_pictures import MARK, WARNING
from lesion_tasks.evaluation.decisions import outcome_of
from lesion_tasks.metrics import integrity
from lesion_tasks.metrics.compare import compare, compare_slices
from lesion_tasks.metrics.comparison_document import Comparison, TwoByTwo
from lesion_tasks.metrics.document import evaluation_document
from lesion_tasks.metrics.document_schema import DominantGroup, Figures, PublishedVerdict, SubsetDocument
from lesion_tasks.metrics.figure import NOT_PICKED
from lesion_tasks.metrics.known_identities import Identities
from lesion_tasks.metrics.resample import Resampling
from lesion_tasks.metrics.scored import Scored, join
from lesion_tasks.metrics.threshold import Threshold, choose_threshold
from lesion_tasks.reports.bundle import (
    BestOfLooks,
    Bundle,
    DataFacts,
    Epoch,
    Example,
    SincePromotion,
    Standing,
    bundle_schema,
    read_bundle,
)
from lesion_tasks.reports.checklist import PERSON, checklist, fill_checklist
from lesion_tasks.reports.checklist_items import GUIDELINES
from lesion_tasks.reports.doubt_views import broken_promises
from lesion_tasks.reports.in_brief import in_brief
from lesion_tasks.reports.index import (
    ChampionLine,
    DecisionLine,
    Leaderboard,
    LeaderboardRow,
    PromotionState,
    TaskLeaderboard,
    render_index,
    subset_figures,
)
from lesion_tasks.reports.markdown import escape
from lesion_tasks.reports.model_card import model_card
from lesion_tasks.reports.page import render_bundle, render_page
from lesion_tasks.reports.plot import nice_marks
from lesion_tasks.reports.views import natural_frequencies
from lesion_tasks.reports.words import class_label, flattened, moment
from lesion_tasks.settings import read_settings

# Few resamples: these tests look at pages, not at the coverage of intervals.
RESAMPLING = Resampling(n_resamples=60)
Files = dict[str, tuple[bytes, str]]
HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)> | [x](javascript:1) $"
PIXEL = (
    "data:image/png;base64,"
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


@pytest.fixture(scope="module")
def evaluated(module_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Evaluated]:
    """A real evaluation, run once for all tests of this file."""
    home = tmp_path_factory.mktemp("report")
    before = dict(VARIANTS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LESION_HOME", str(home))
        patch.setenv("LESION_DATABASE_URL", module_database_url)
        patch.setenv("LESION_BUCKET_URL", str(Path(home) / "bucket"))
        patch.setenv("LESION_ARCHIVE_URL", "http://127.0.0.1:9/api/v2/")
        patch.delenv("LESION_VARIANTS", raising=False)
        patch.delenv("LESION_WEIGHTS", raising=False)
        yield run_evaluation(read_settings())
    VARIANTS.clear()
    VARIANTS.update(before)


@pytest.fixture(scope="module")
def stored(evaluated: Evaluated) -> Bundle:
    """What Postgres holds of it."""
    return read_bundle(evaluated.document)


@pytest.fixture(scope="module")
def bundle(stored: Bundle) -> Bundle:
    """The same with documents and a comparison of simulated predictions, on more images than a test may train on.

    The pixels of examples stand in the written page alone: here is one in their place.
    """
    task = catalog.TASKS["malignancy"]
    candidate, champion = (simulated(task, n=600, seed=2, skill=skill) for skill in (1.6, 1.36))
    val = simulated(task, n=300, seed=1)
    differences = compare(candidate, champion, resampling=RESAMPLING).items()
    comparison = Comparison(
        champion="cnn_scratch-99aa88bb77",
        subset="test_natural",
        differences={name: difference.published() for name, difference in differences},
        slices=[one.published() for one in compare_slices(candidate, champion)],
    )
    documents = documents_of(candidate, val, threshold=choose_threshold(val))
    figures = documents["test_natural"].model_dump()["figures"]
    return changed(
        stored,
        is_sound=True,
        failed_checks=[],
        subsets=documents,
        comparison=comparison,
        promotion=Standing.model_validate(standing(task.name, figures, comparison.model_dump())),
        examples=[changed(one, picture=PIXEL, heatmap=PIXEL) for one in stored.examples],
    )


def documents_of(test: Scored, val: Scored, threshold: Threshold | None) -> dict[str, SubsetDocument]:
    """The documents of the three subsets, a third of test being the balanced one."""
    subsets = {
        "test_natural": test,
        "test_balanced": test.where(np.arange(test.n_images) % 3 == 0),
        "val": val,
    }
    return {
        name: evaluation_document(part, threshold=threshold, subset=name, resampling=RESAMPLING)
        for name, part in subsets.items()
    }


@pytest.fixture(scope="module")
def multiclass_bundle(bundle: Bundle) -> Bundle:
    """The same training as one of five classes, with the documents of simulated predictions."""
    task = catalog.TASKS["five_classes"]
    test, val = (simulated(task, n=n, seed=seed) for n, seed in ((600, 2), (300, 1)))
    counts = {"train": test.class_counts, "val": val.class_counts, "test": test.class_counts}
    return changed(
        bundle,
        subsets=documents_of(test, val, threshold=None),
        training=changed(
            bundle.training,
            task=task.name,
            task_title=task.title,
            classes=list(task.classes),
            positive_class=None,
            threshold=None,
        ),
        manifest=changed(bundle.manifest, task=task.name, class_counts=counts),
        comparison=None,
        promotion=None,
        examples=[],
    )


@pytest.fixture(scope="module")
def files(bundle: Bundle) -> Files:
    return render_bundle(bundle)


@pytest.fixture(scope="module")
def multiclass_files(multiclass_bundle: Bundle) -> Files:
    return render_bundle(multiclass_bundle)


def changed(model: Any, **fields: Any) -> Any:
    """A variation of a bundle or of a part of it."""
    unknown = set(fields) - set(type(model).model_fields)
    assert not unknown, unknown
    return model.model_copy(update=fields)


def simulated(
    task: catalog.Task,
    *,
    n: int,
    seed: int,
    skill: float = 1.6,
    prevalence: float = 0.25,
    is_shuffled: bool = False,
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
        }
    )  # fmt: skip
    if is_shuffled:
        probabilities = random.permutation(probabilities)
    predictions = pd.DataFrame(probabilities, index=ids, columns=list(task.classes))
    return join(predictions, rows, class_names=task.classes, positive_class=task.positive)


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


def page_of(bundle: Bundle) -> Page:
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
    with pytest.raises(ValueError, match="finite number"):
        Epoch(epoch=1, figures={"loss": float("nan")}, duration_s=1)
    broken = changed(bundle, epochs=[changed(bundle.epochs[0], figures={"loss": float("inf")})])
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


def test_every_value_of_the_bundle_shows_as_text(bundle):
    step = changed(bundle.manifest.funnel[0], step=HOSTILE, reason=HOSTILE, n=-1)
    hostile = changed(
        bundle,
        verdict=HOSTILE,
        training=changed(
            bundle.training,
            title=HOSTILE,
            task_title=HOSTILE,
            training_id=HOSTILE,
            weights=HOSTILE,
            versions={HOSTILE: HOSTILE},
            recipe={**bundle.training.recipe, HOSTILE: [HOSTILE]},
        ),
        manifest=changed(bundle.manifest, funnel=[*bundle.manifest.funnel, step]),
        comparison=changed(bundle.comparison, champion=HOSTILE),
        data=DataFacts(attributions={HOSTILE: 1}, licences={HOSTILE: 1}, missing={HOSTILE: {HOSTILE: 0.5}}),
        data_changes=changed(bundle.data_changes, since_manifest=HOSTILE, new_by_class={HOSTILE: 3}),
        examples=[changed(bundle.examples[0], isic_id=HOSTILE, label=HOSTILE, kind=HOSTILE)],
        integrity=[
            *bundle.integrity,
            PublishedVerdict(
                name=HOSTILE, status="failed", is_blocking=False, sentence=HOSTILE, numbers={HOSTILE: HOSTILE}
            ),
        ],
    )
    files = render_bundle(hostile)
    page = Page(files["report.html"][0])
    assert page.text.count("<script>alert(1)</script>") > 15
    assert all(tag != "script" for tag, _ in page.tags)
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)
    for name in ("model_card.md", "checklist.md"):
        text = files[name][0].decode()
        assert "<script" not in text and "<img" not in text and "[x](" not in text


def test_a_picture_from_elsewhere_is_left_out(bundle):
    tracker = "https://example.org/tracker.png"
    one, other = bundle.examples[:2]
    html = render_page(
        changed(bundle, examples=[changed(one, picture=tracker), changed(other, heatmap=tracker)])
    )
    assert "example.org" not in html
    assert "1 example left out" in Page(html).text


def test_pictures_beyond_the_room_of_a_page_are_left_out_and_counted(bundle):
    big = changed(bundle.examples[0], picture="data:image/jpeg;base64," + "A" * 900_000, heatmap=None)
    html = render_page(changed(bundle, examples=[big] * 6))
    assert len(html) < 5_000_000
    assert "3 examples left out" in Page(html).text


@pytest.mark.parametrize("called", ["malignant", None])
def test_a_confident_mistake_names_truth_and_call(bundle, called):
    """Also where the call was not kept: of two classes it is the other one."""
    example = Example(
        isic_id="ISIC_1",
        label="benign",
        called=called,
        probability=0.97,
        kind="confident mistake",
        picture=PIXEL,
    )
    assert (
        "True class benign , predicted malignant with probability 0.970"
        in page_of(changed(bundle, examples=[example])).text
    )


def test_the_move_of_a_figure_is_told_as_model_and_data(bundle):
    moved = TwoByTwo(
        old_model_old_data=0.80,
        old_model_new_data=0.82,
        new_model_old_data=0.85,
        new_model_new_data=0.88,
        move=0.08,
        model_effect=0.055,
        data_effect=0.025,
    )
    text = page_of(changed(bundle, comparison=changed(bundle.comparison, two_by_two=moved))).text
    assert "It changed by +0.080: +0.055 from the model, +0.025 from the data." in text
    assert "New model 0.850 0.880" in text


def test_figures_by_lesion_stand_beside_those_by_image(evaluated, stored):
    """Lesions of the catalogue have two images."""
    by_image, lesions = stored.subsets["test_natural"].figures["auc"], stored.lesions
    assert lesions.n_images == by_image.n_images
    assert lesions.n_lesions == lesions.figures["auc"].n_images
    assert by_image.n_images / 2 <= lesions.n_lesions < by_image.n_images
    assert 0 < lesions.n_with_several_images <= lesions.n_lesions
    assert lesions.figures["auc"].n_groups == by_image.n_groups
    assert ">By lesion<" in evaluated.files["report.html"].decode()
    assert json.loads(evaluated.files["metrics.json"])["lesions"] == stored.lesions.model_dump()


def test_the_lowest_slice_is_named_with_its_size(bundle, page):
    document = bundle.subsets["test_natural"]
    scored = [part for part in document.slices if part.is_scored]
    lowest = min(scored, key=lambda part: part.figures["auc"].value)
    n_images, auc = lowest.n_images, number(lowest.figures["auc"].value)
    words = page.text.split("Lowest AUC of ")[1].split("The lowest of many")[0]
    assert (
        words.startswith(f"{len(scored)} measured parts:")
        and f"{auc} (" in words
        and f"n = {n_images}." in words
    )


def test_a_report_on_another_manifest_finds_the_index_one_folder_further_up(bundle):
    def links(manifest):
        return {link["href"] for link in page_of(changed(bundle, manifest=manifest)).attributes("a")}

    own, other = bundle.manifest.digest, "f" * 64
    assert {"../index.html", f"../data/{own}.html"} <= links(bundle.manifest)
    assert {"../../index.html", f"../../data/{own}.html", f"../../data/{other}.html"} <= links(
        changed(bundle.manifest, digest=other)
    )


def test_sections_stand_in_the_order_a_reader_asks(page):
    sections = [section["id"] for section in page.attributes("section")]
    assert sections == [
        "verdict", "performance", "figures", "checks", "comparison", "slices", "fairness", "doubt", "examples",
        "training", "data", "lineage", "checklist",
    ]  # fmt: skip


def test_every_figure_of_every_subset_stands_on_the_page_with_its_interval(bundle, page):
    text = page.text
    for document in bundle.subsets.values():
        for figure in document.figures.values():
            assert number(figure.value) in text
            assert span(figure.low, figure.high) in text


def test_every_check_shows_its_sentence_and_numbers_also_when_passed(bundle, page):
    text = page.text
    for verdict in bundle.integrity:
        assert verdict.sentence in text
        for name, value in flattened(verdict.numbers):
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


def test_an_unsound_evaluation_says_so_before_any_figure(bundle):
    shuffled = simulated(catalog.TASKS["malignancy"], n=400, seed=2, is_shuffled=True)
    verdict = integrity.independent_of_labels(shuffled, threshold=0.5, trainer_auc=None)
    unsound = changed(
        bundle,
        is_sound=False,
        failed_checks=[verdict.name],
        verdict=verdict.sentence,
        integrity=[PublishedVerdict.model_validate(verdict.as_dict())],
    )
    text = page_of(unsound).text
    assert text.index("Verdict: not sound") < text.index("do not rely on them") < text.index("95 % interval")
    assert verdict.sentence in text
    assert "Do not rely on the figures" in model_card(unsound)
    sections = render_page(unsound).split("<section id=")[1:]
    warned = {one.split('"')[1] for one in sections if "Do not rely on these figures" in one}
    assert warned >= {"performance", "figures", "slices", "fairness", "doubt"}


def test_an_undefined_figure_shows_its_reason(bundle):
    benign = simulated(catalog.TASKS["malignancy"], n=120, seed=5, prevalence=0.0)
    document = evaluation_document(benign, threshold=None, subset="test_natural", resampling=RESAMPLING)
    page = page_of(changed(bundle, subsets={**bundle.subsets, "test_natural": document}))
    assert "undefined no positives among 120 images" in page.text
    assert "No ROC curve: no positives among 120 images." in page.text
    assert page.text.count("None") == page.text.count("None of")


def test_predictions_that_could_not_be_joined_still_give_a_page_that_says_why(bundle):
    verdict = integrity.ids_differ(["a", "b"], ["b", "c"])
    unjoined = changed(
        bundle,
        is_sound=False,
        failed_checks=["ids_differ"],
        verdict=f"Not to be trusted: {verdict.sentence}",
        integrity=[PublishedVerdict.model_validate(verdict.as_dict())],
        subsets={},
        comparison=None,
        examples=[],
        data_changes=None,
    )
    files = render_bundle(unjoined)
    page = Page(files["report.html"][0])
    assert verdict.sentence in page.text
    assert "performance" not in [section["id"] for section in page.attributes("section")]
    jsonschema.Draft202012Validator(bundle_schema()).validate(json.loads(files["metrics.json"][0]))


def test_a_fit_without_epochs_or_pixels_says_what_there_is_instead(bundle):
    recipe = {**bundle.training.recipe, "side_px": None, "metadata": ["age_years", "is_male"]}
    plain = changed(
        bundle,
        training=changed(bundle.training, recipe=recipe, weights=None),
        epochs=[Epoch(epoch=1, figures={"loss": 0.4}, duration_s=0.2)],
        examples=[],
        data=DataFacts(),
    )
    text = page_of(plain).text
    assert "This model does not look at pixels: it uses age in years, sex." in text
    assert "there is no curve" in text


def test_natural_frequencies_add_up_to_the_lesions_they_speak_of(bundle):
    rows = natural_frequencies(bundle.subsets["test_natural"])
    assert [row.n_positive for row in rows][:2] == [20, 100]
    for row in rows:
        assert row.n_found + row.n_missed == row.n_positive
        assert row.n_found + row.n_missed + row.n_false_alarms + row.n_rightly_cleared == row.n


# --- The checklist and the card -----------------------------------------------------------------------------------


def test_the_checklist_answers_from_the_bundle_and_leaves_the_rest_to_a_person(bundle):
    items = {item.asks: item for item in fill_checklist(bundle)}
    assert items["Ethical approval"].status == PERSON and items["Ethical approval"].answer is None
    sizes = items["Size of each partition and its balance of classes"].answer
    assert f"benign {bundle.manifest.class_counts['test']['benign']:,}" in sizes
    asked = {guideline for item in items.values() for guideline in item.guidelines}
    assert asked == set(GUIDELINES.values())
    assert len(items) == len(checklist())


def test_a_bundle_that_holds_less_answers_less(bundle):
    manifest = changed(bundle.manifest, recipe={})
    bare = changed(
        bundle, data=DataFacts(), comparison=None, examples=[], subsets={}, integrity=[], manifest=manifest
    )
    n_answered = [sum(i.status != PERSON for i in fill_checklist(some)) for some in (bundle, bare)]
    assert n_answered[1] < n_answered[0] - 10


def test_the_overlap_item_is_answered_only_where_leaks_were_looked_for(bundle):
    asks = "The level at which the partitions are disjoint, and the proof"
    (leaks,) = [verdict for verdict in bundle.integrity if verdict.name == "leaks"]
    answer = {item.asks: item.answer for item in fill_checklist(bundle)}
    assert answer[asks].endswith(leaks.sentence)
    others = [verdict for verdict in bundle.integrity if verdict is not leaks]
    status = {item.asks: item.status for item in fill_checklist(changed(bundle, integrity=others))}
    assert status[asks] == PERSON


def test_a_model_card_carries_figures_and_what_they_stand_on(bundle, files):
    card = files["model_card.md"][0].decode()
    auc = bundle.subsets["test_natural"].figures["auc"]
    assert f"{auc.value:.3f} ({auc.low:.3f} to {auc.high:.3f})" in card
    assert "Not for diagnosis" in card
    doubt = bundle.doubt
    for stated in (1 - doubt.error_rate, doubt.error_rate, doubt.novelty_rate):
        assert f"{100 * stated:.1f} %" in card
    for name, covered in doubt.test.covered_by_class.items():
        (row,) = [line for line in card.splitlines() if line.startswith(f"| {class_label(name)}, of test |")]
        assert f"{covered.value:.3f} ({covered.low:.3f} to {covered.high:.3f})" in row
    assert "What it does not know" not in model_card(changed(bundle, doubt=None))
    # Where an interval excludes what is stated, that is said, on the page too.
    name, held = next(iter(doubt.test.covered_by_class.items()))
    figures = {**doubt.test.covered_by_class, name: changed(held, value=0.759, low=0.635, high=0.85)}
    short = changed(bundle, doubt=changed(doubt, test=changed(doubt.test, covered_by_class=figures)))
    said = f"{class_label(name)} 0.759 (0.635 to 0.850)."
    for shown in (model_card(short), render_page(short)):
        assert "On test the sets do not hold what is stated" in shown
        assert said in shown
    figures[name] = changed(held, value=0.85, low=0.70, high=0.95)
    assert broken_promises(changed(doubt, test=changed(doubt.test, covered_by_class=figures)), None) == []
    widths = {}
    for line in card.splitlines():
        if line.startswith("|"):
            cells = line.replace("\\|", "").count("|")
            widths.setdefault("row", cells)
            assert cells == widths["row"]
        else:
            widths = {}


def test_a_model_card_begins_with_what_a_hub_reads_and_lists_no_figure_of_an_unsound_one(bundle, files):
    def said(text: str) -> dict[str, Any]:
        _, front, rest = text.split("---\n", 2)
        assert rest.startswith("\n# ")
        return yaml.safe_load(front)

    front = said(files["model_card.md"][0].decode())
    (model,) = front["model-index"]
    (result,) = model["results"]
    auc = bundle.subsets["test_natural"].figures["auc"].value
    assert {"type": "roc_auc", "name": "AUC", "value": auc} in result["metrics"]
    assert result["dataset"]["revision"] == bundle.manifest.digest
    assert (front["library_name"], front["license"]) == ("keras", "unknown")
    hostile = changed(bundle, training=changed(bundle.training, training_id=f"{HOSTILE}: [x"))
    assert said(model_card(hostile))["model-index"][0]["name"] == f"{HOSTILE}: [x"
    unsound = changed(bundle, is_sound=False, failed_checks=["leaks"])
    assert said(model_card(unsound))["model-index"][0]["results"] == []


# --- The index ----------------------------------------------------------------------------------------------------


CHAMPION = PromotionState(
    name="champion",
    did="promoted",
    decided_at="2026-03-01T14:10:00+00:00",
    decided_by="rule",
    reason=HOSTILE,
)


def leaderboard_row(bundle: Bundle, training_id: str, **changes: Any) -> LeaderboardRow:
    subsets = bundle.subsets
    row = LeaderboardRow(
        training_id=training_id,
        variant="cnn",
        title=f"Title of {training_id}",
        reproduces=None,
        evaluated_at="2026-03-01T14:05:00+00:00",
        is_sound=True,
        failed_checks=[],
        verdict="Sound.",
        figures=subsets["test_natural"].figures,
        balanced=subsets["test_balanced"].figures,
        val=subsets["val"].figures,
        report_path=f"{training_id}/report.html",
        state=PromotionState(name="candidate"),
        manifest_digest="aaaabbbbcccc",
        n_test_openings=1,
    )
    return changed(row, **changes)


def board(rows: list[LeaderboardRow], **changes: Any) -> Leaderboard:
    task = TaskLeaderboard(
        name="malignancy",
        title="Benign or malignant",
        classes=["benign", "malignant"],
        leading_measure="auc",
        champion=None,
        rows=rows,
        decisions=[],
    )
    return Leaderboard(generated_at="2026-03-01T14:10:00+00:00", tasks=[changed(task, **changes)])


def with_auc(bundle: Bundle, value: float | None) -> Figures:
    figures = bundle.subsets["test_natural"].figures
    reason = "no positives" if value is None else None
    return {**figures, "auc": changed(figures["auc"], value=value, reason=reason)}


def test_the_index_leads_to_the_data_of_every_row(bundle):
    digest = "0123456789abcdef" * 4
    rows = [
        leaderboard_row(bundle, "one", manifest_digest=digest),
        leaderboard_row(bundle, "other", manifest_digest="../../x"),
    ]
    links = {link["href"] for link in Page(render_index(board(rows))).attributes("a")}
    assert f"data/{digest}.html" in links
    assert not any("x.html" in link for link in links)


def test_the_index_ranks_sound_rows_and_never_the_best_unsound_one(bundle):
    rows = [
        leaderboard_row(
            bundle, "unsound-1", figures=with_auc(bundle, 0.999), is_sound=False, verdict="Labels leak."
        ),
        leaderboard_row(bundle, "undefined-2", figures=with_auc(bundle, None)),
        leaderboard_row(bundle, "low-3", figures=with_auc(bundle, 0.7)),
        leaderboard_row(bundle, "high-4", figures=with_auc(bundle, 0.8)),
    ]
    text = Page(render_index(board(rows))).text
    places = [text.index(f"Title of {name}") for name in ("high-4", "low-3", "undefined-2", "unsound-1")]
    assert places == sorted(places)
    assert text.index("never ranked") < places[-1] < text.index("Labels leak.")
    assert "1 Title of high-4" in text and "2 Title of low-3" in text
    assert f"{NO_VALUE} Title of undefined-2" in text and f"{NO_VALUE} Title of unsound-1" in text


def test_the_index_links_only_to_pages_beside_it(bundle):
    rows = [
        leaderboard_row(bundle, "good"),
        *(
            leaderboard_row(bundle, f"bad-{i}", report_path=path)
            for i, path in enumerate(
                ["javascript:alert(1)", "//example.org/x", "/etc/passwd", "../x.html", "https://example.org"]
            )
        ),
    ]
    links = [link["href"] for link in Page(render_index(board(rows))).attributes("a")]
    assert links == ["#main", "good/report.html"]


def test_the_index_shows_champion_and_decisions_as_text(bundle):
    champion = ChampionLine(
        training_id="a",
        variant="cnn",
        state=CHAMPION,
        report_path="a/report.html",
    )
    decisions = [
        DecisionLine(
            decided_at="2026-03-01T14:10:00+00:00",
            action=action,
            outcome=outcome_of(action, {}),
            training_id="a",
            previous_training_id=None,
            reason=f"{HOSTILE} Caution: few of children.",
            decided_by="rule",
            is_forced=action == "promoted",
        )
        for action in ("promoted", "refused", "rolled_back")
    ]
    page = Page(
        render_index(
            board([leaderboard_row(bundle, "a", state=CHAMPION)], champion=champion, decisions=decisions)
        )
    )
    assert (
        page.text.count("<script>alert(1)</script>") == 5
    )  # reasons: of the champion, beside its row, of decisions
    # One of the three was forced, and what to consider is folded.
    assert page.text.count("despite the gates") == 1
    assert page.text.count("What to consider") == 3
    for word in ("★ Champion", "promoted", "passed over", "restored"):
        assert word in page.text
    assert all(tag != "script" for tag, _ in page.tags)


def test_a_row_whose_predictions_could_not_be_joined_has_a_place_but_no_figure(bundle):
    row = leaderboard_row(bundle, "unjoined", figures={}, balanced={}, val={}, is_sound=False)
    assert "not measured" in Page(render_index(board([row]))).text


def test_the_leaderboard_and_its_page_need_neither_statistics_nor_plots():
    probe = (
        "import sys; import lesion_tasks.evaluation.publish; from lesion_tasks.reports.index import render_index; "
        "from lesion_tasks.reports.index import Leaderboard; "
        "render_index(Leaderboard(generated_at=None, tasks=[])); "
        "print([name for name in ('matplotlib', 'numpy', 'pandas', 'sklearn') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_an_empty_leaderboard_is_a_page():
    assert (
        "Nothing has been evaluated yet." in Page(render_index(Leaderboard(generated_at=None, tasks=[]))).text
    )


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


def test_the_page_shows_what_the_gates_say(bundle):
    def page_with(**fields):
        return page_of(changed(bundle, promotion=changed(bundle.promotion, **fields))).text

    assert "It cleared every gate." in page_with(objections=[], cautions=[])
    text = page_with(objections=["auc does not <gain>"], cautions=["a loss is possible"])
    assert "It would have been refused:" in text
    assert "auc does not <gain>" in text  # as text: the page is escaped
    assert "a loss is possible" in text
    assert all(gate.reason in text for gate in bundle.promotion.gates)
    assert "What the gates say" not in page_of(changed(bundle, promotion=None)).text


def test_the_page_compares_slices_with_the_champion(bundle):
    text = page_of(bundle).text
    assert "By part of the test set" in text
    n_too_small = sum(part.difference is None for part in bundle.comparison.slices)
    assert n_too_small > 0 and len(bundle.comparison.slices) > n_too_small
    assert f"{n_too_small} part{'' if n_too_small == 1 else 's'} too small to compare." in text
    without = changed(bundle.comparison, slices=[])
    assert "By part of the test set" not in page_of(changed(bundle, comparison=without)).text


# --- What was really written --------------------------------------------------------------------------------------


def test_the_document_in_the_database_is_the_metrics_json_that_was_written(evaluated, stored):
    assert json.loads(evaluated.files["metrics.json"]) == evaluated.document
    doubt = stored.doubt.object_key.rpartition("/")[2]
    assert set(evaluated.files) == {*render_bundle(stored), "predictions.parquet", doubt}


def test_the_written_page_has_pictures_and_its_documents_have_none(evaluated, stored):
    page = Page(evaluated.files["report.html"])
    assert len(page.attributes("img")) == 2 * len(stored.examples) > 0
    assert b"data:image" not in evaluated.files["metrics.json"]
    assert "data:image" not in json.dumps(evaluated.document)


def test_the_real_bundle_has_everything_that_a_second_training_can_have(stored):
    assert stored.data_changes.n_new == 20
    assert stored.promotion.gates and stored.examples and len(stored.epochs) == 2


def test_a_document_of_the_first_version_still_loads(evaluated, stored):
    """As stored before: with empty lists in each subset, and without what was not yet measured."""
    old = json.loads(json.dumps(evaluated.document))
    old["schema_version"] = 1
    for name in ("best_of_looks", "since_promotion", "undecided_checks"):
        del old[name]
    for subset in old["subsets"].values():
        subset |= {"schema_version": 1, "integrity": [], "lineage": {}}
        del subset["subset"]["dominant_groups"]
        for figure in subset["figures"].values():
            for name in ("reason", "interval_reason"):
                if figure[name] is None:
                    del figure[name]
            del figure["other_intervals"]
    (gap,) = (one["numbers"] for one in old["integrity"] if one["name"] == "gap")
    value = gap["validation_auc"] = gap.pop("val_auc")
    (gap,) = (one.numbers for one in read_bundle(old).integrity if one.name == "gap")
    assert gap["val_auc"] == value and "validation_auc" not in gap
    assert read_bundle(old).verdict == stored.verdict
    assert subset_figures(old, "val")["auc"].value == stored.subsets["val"].figures["auc"].value
    assert render_page(read_bundle(old))


@pytest.mark.parametrize("broken", [{"n_test_openings": -1}, {"unheard_of": 1}, {"verdict": None}])
def test_what_is_no_bundle_is_not_read(evaluated, broken):
    with pytest.raises(ValueError, match=next(iter(broken))):
        read_bundle({**evaluated.document, **broken})


def test_what_the_best_of_many_looks_owes_to_luck_stands_beside_the_leading_figure(bundle):
    assert "looks" not in page_of(bundle).text.split("Integrity checks")[0]
    best = BestOfLooks(measure="auc", n_looks=12, value=0.871, low=0.812, high=0.915, method="m", luck=0.013)
    text = page_of(changed(bundle, best_of_looks=best)).text
    assert (
        "Best of 12 different trainings by then: 0.871 (0.812 to 0.915) without the luck of being picked"
        in text
    )
    lower = changed(best, luck=0.0, method=NOT_PICKED)
    text = page_of(changed(bundle, best_of_looks=lower)).text
    assert (
        "Not the best of 12 different trainings by then" in text
        and "without the luck of being picked" not in text
    )


def test_a_champion_says_how_it_does_on_images_that_came_after_it(bundle):
    auc = bundle.subsets["test_natural"].figures["auc"]
    fresh = SincePromotion(
        promoted_at="2026-03-01T14:10:00+00:00", n_images=77, figures={"auc": changed(auc, value=0.8125)}
    )
    text = page_of(changed(bundle, since_promotion=fresh)).text
    assert "77 images joined the test set after its promotion on 2026-03-01 14:10 UTC" in text
    assert "AUC 0.812" in text


def test_a_group_that_has_much_of_a_class_is_named(bundle):
    test = bundle.subsets["test_natural"]
    group = DominantGroup(class_name="malignant", group_id="IP_0000007", share=0.31, n_images=31)
    size = changed(test.subset, dominant_groups=[group])
    subsets = {**bundle.subsets, "test_natural": changed(test, subset=size)}
    text = page_of(changed(bundle, subsets=subsets)).text
    assert "Group IP_0000007 alone has 31 % of the malignant images (31)" in text


def test_nobody_is_said_to_be_apart_who_is_unknown(bundle, page):
    """In the report, in the model card, on the terminal; and what it says where only lesions are known."""
    assert bundle.identities.test.group == "lesions; patients are unknown"
    assert "None of these lesions is in train or val; patients are unknown" in page.text
    strangers = changed(bundle.identities.test, n_with_lesion=0, n_with_either=0)
    unknown = changed(bundle, identities=Identities(train=strangers, val=strangers, test=strangers))
    text, card = page_of(unknown).text, model_card(unknown)
    for said in (text, card):
        assert "nobody can tell whether it learned from any of these patients too" in said
        assert "where a patient has several images, the intervals are too narrow" in said
        assert "None of these" not in said
        assert "counts once, however many images show it" not in said
    assert "- Patients and lesions are unknown: only copies of one picture" in card
    assert "patients and lesions are unknown" in in_brief(unknown)["patients and lesions"]
    failed = [changed(one, status="failed") if one.name == "leaks" else one for one in bundle.integrity]
    assert "is in train or val" not in page_of(changed(bundle, integrity=failed)).text
    known = bundle.identities.test
    one_side = changed(bundle, identities=Identities(train=strangers, val=known, test=known))
    assert "- In train, patients and lesions are unknown: only copies" in model_card(one_side)


def test_a_document_from_before_identities_were_counted_claims_nothing_of_strangers(evaluated):
    old = {name: value for name, value in evaluated.document.items() if name != "identities"}
    before = read_bundle(old)
    assert before.identities is None
    assert "No patient or lesion that is known is in train or val as well." in page_of(before).text
    assert "form a group where these are known" in model_card(before)
    assert "patients and lesions" not in in_brief(before)


def test_a_calibration_slope_never_stands_without_what_is_ideal(bundle, page):
    tile = page.text.split("Calibration slope", 1)[1][:60]
    assert "1 is ideal" in tile


def test_the_index_that_was_published_leads_to_the_report(evaluated):
    links = {link["href"] for link in Page(evaluated.index).attributes("a")}
    assert f"{evaluated.training_id}/report.html" in links


def test_drawn_pictures_are_said_to_be_drawn_on_report_card_and_index_and_others_are_not(bundle):
    drawn_by = DataFacts(attributions={f"Anonymous {MARK}": 3, "A hospital": 4})
    drawn = changed(bundle, data=drawn_by)
    index = board([leaderboard_row(bundle, "one")])
    for shown, plain in (
        (render_page(drawn), render_page(bundle)),
        (model_card(drawn), model_card(bundle)),
        (render_index(changed(index, has_synthetic=True)).decode(), render_index(index).decode()),
    ):
        assert WARNING in shown
        assert WARNING not in plain
