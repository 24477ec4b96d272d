"""A bundle -> the run's own answers to items of reporting guidelines; None if it has none."""

from __future__ import annotations

from collections.abc import Mapping

from lesion_tasks.catalog.printed_numbers import number, percent, signed, span
from lesion_tasks.catalog.titles import label, label_inside
from lesion_tasks.metrics.counted import plural
from lesion_tasks.metrics.document_schema import PublishedFigure, PublishedVerdict, SubsetDocument
from lesion_tasks.reports.bundle import Bundle
from lesion_tasks.reports.recipe_words import last_stage_words
from lesion_tasks.reports.words import (
    by_subset,
    check_title,
    class_label,
    count,
    figure_words,
    measure_words,
    moment,
    opened,
    plain,
    short_digest,
    subset_phrase,
    subset_title,
)


def question(bundle: Bundle) -> str | None:
    training = bundle.training
    classes = ", ".join(class_label(name) for name in training.classes)
    return f"{training.task_title}: {classes}."


def design(bundle: Bundle) -> str | None:
    return (
        "Retrospective: images and diagnoses of an archive, collected before the model was trained. "
        "Development with an internal test set that shares no group with training."
    )


def sources(bundle: Bundle) -> str | None:
    parts = []
    for name in ("attributions", "licences"):
        if known := getattr(bundle.data, name):
            parts.append(f"{label(name)}: {_counts(known)}.")
    return " ".join(parts) or None


def dates(bundle: Bundle) -> str | None:
    made = moment(bundle.manifest.created_at)
    return f"The list of images was fixed {made}; when the images were taken is not recorded."


def funnel(bundle: Bundle) -> str | None:
    steps = []
    for step in bundle.manifest.funnel:
        reason = f" ({class_label(step.reason)})" if step.reason else ""
        steps.append(f"{step.step}{reason} {count(step.n)}")
    return f"{'; '.join(steps)}." if steps else None


def image_types(bundle: Bundle) -> str | None:
    known = bundle.data.image_types
    return f"{_counts(known)}." if known else None


def artefacts(bundle: Bundle) -> str | None:
    excluded = bundle.manifest.recipe.get("task", {}).get("excluded_manipulations")
    return f"Images that the archive marks as {' or '.join(excluded)} are left out." if excluded else None


_SHAPED = {
    "squash": "Resized regardless of aspect ratio to",
    "pad": "Padded with black to a square and resized to",
    "crop": "Cropped to the central square and resized to",
}


def preprocessing(bundle: Bundle) -> str | None:
    recipe = bundle.training.recipe
    if "side_px" not in recipe:
        return None
    if recipe["side_px"] is None:
        return "The model uses no pixels."
    return (
        f"{_SHAPED[recipe.get('aspect', 'squash')]} {recipe['side_px']} x {recipe['side_px']} px; scaling of pixels "
        "is part of the stored model, so that training and use cannot differ."
    )


def metadata(bundle: Bundle) -> str | None:
    fields = bundle.training.recipe.get("metadata")
    if fields is None:
        return None
    used = f"The model uses {', '.join(map(label_inside, fields))}." if fields else "The model uses none."
    known = [
        field for field, shares in bundle.data.missing.items() if any(one < 1 for one in shares.values())
    ]
    return f"{used} Known about images: {', '.join(map(label_inside, known))}." if known else used


def skin_types(bundle: Bundle) -> str | None:
    return _slice_sizes(bundle, "fitzpatrick_skin_type")


def missing(bundle: Bundle) -> str | None:
    known = bundle.data.missing
    if not known:
        return None
    shares = "; ".join(
        f"{label(field)} {', '.join(f'{subset} {percent(share)}' for subset, share in by_subset.items())}"
        for field, by_subset in known.items()
    )
    return f"Share missing: {shares}. Imputation is fitted on train and stored in the model."


def label_source(bundle: Bundle) -> str | None:
    version = bundle.manifest.recipe.get("task", {}).get("mapping_version")
    if version is None:
        return None
    return (
        f"Diagnosis paths of the archive, mapped to classes by version {version} of the rules; indeterminate and "
        "missing diagnoses are left out, not taken as benign."
    )


def histopathology(bundle: Bundle) -> str | None:
    document = _test(bundle)
    if document is None:
        return None
    for part in document.slices:
        if part.attribute == "diagnosis_confirm_type" and part.value == "histopathology":
            n = document.subset.n_images
            return f"{count(part.n_images)} of {plural(n, 'test image')} ({percent(part.n_images / n)})."
    return None


def partitions(bundle: Bundle) -> str | None:
    task = bundle.manifest.recipe.get("task", {})
    if "val_share" not in task:
        return None
    return (
        f"By a hash of patient, else lesion, else image: {percent(task['val_share'], 0)} val, "
        f"{percent(task['test_share'], 0)} test, the rest train. A group's subset never changes."
    )


def overlap(bundle: Bundle) -> str | None:
    found = _verdict(bundle, "leaks")
    if found is None or found.status == "not_applicable":
        return None
    by = "Groups of patient and lesion where these are known, identical file and copies of a picture."
    return f"{by} {found.sentence}"


def sizes(bundle: Bundle) -> str | None:
    parts = [
        f"{subset_title(subset)}: {_counts(counts)}"
        for subset, counts in by_subset(bundle.manifest.class_counts)
    ]
    return f"{'; '.join(parts)}." if parts else None


def precision(bundle: Bundle) -> str | None:
    document, figure = _test(bundle), _leading(bundle)
    if document is None or figure is None or figure.low is None:
        return None
    return f"No sample size was planned; the resulting interval is {span(figure.low, figure.high)}."


def characteristics(bundle: Bundle) -> str | None:
    document = _test(bundle)
    if document is None:
        return None
    parts = [
        f"{label(attribute)}: {sizes}"
        for attribute in ("sex", "age_years", "anatom_site")
        if (sizes := _slice_sizes(bundle, attribute))
    ]
    known = bundle.identities and bundle.identities.test
    who = known.group if known else "patients or lesions where these are known"
    groups = f"Test: {plural(document.subset.n_groups, 'group')} ({who})."
    return " ".join([groups, *parts])


def architecture(bundle: Bundle) -> str | None:
    recipe = bundle.training.recipe
    if members := recipe.get("members"):
        return f"The mean of the logits of {', '.join(members)}."
    names = ("architecture", "backbone", "conv_filters", "dense_units", "dropout_rate", "is_backbone_frozen")
    known = [
        f"{label(name).lower()} {plain(recipe[name])}"
        for name in names
        if recipe.get(name) not in (None, [], ())
    ]
    return f"{'; '.join(known)}." if known else None


def weights(bundle: Bundle) -> str | None:
    training = bundle.training
    if members := training.recipe.get("members"):
        return f"Those of its members: {', '.join(members)}."
    if training.weights:
        return f"{training.weights}, SHA-256 {short_digest(training.weights_sha256)}."
    return f"Random, seed {training.seed}."


def training(bundle: Bundle) -> str | None:
    recipe = bundle.training.recipe
    if members := recipe.get("members"):
        return f"{', '.join(members)}: each by its own recipe; their mean learns nothing itself."
    names = ("optimizer", "learning_rate", "batch_size", "max_epochs", "patience", "is_augmented", "seed")
    known = [
        f"{name.replace('_', ' ').removeprefix('is ')} {plain(recipe[name])}"
        for name in names
        if name in recipe
    ]
    if not known:
        return None
    if how := recipe.get("learning"):
        known.append(f"last stage: {', '.join(last_stage_words(how))}")
    if n_folds := recipe.get("n_folds"):
        known.append(f"the mean of {n_folds} models, each trained without another fold of train and val")
    return f"{'; '.join(known)}; {plural(len(bundle.epochs), 'epoch')} run."


def selection(bundle: Bundle) -> str | None:
    if bundle.training.recipe.get("members"):
        return "Its members were selected by their own recipes; the test set plays no part."
    if not any("val_loss" in epoch.figures for epoch in bundle.epochs):
        return "There was a single fit and nothing to select; the test set plays no part."
    by = "highest AUC on val" if bundle.training.recipe.get("learning") else "lowest loss on val"
    on = ", of each fold on what it holds out" if bundle.training.recipe.get("n_folds") else ""
    return f"The epoch with the {by}{on}; the test set plays no part."


def versions(bundle: Bundle) -> str | None:
    known = bundle.training.versions
    code = f"Code {bundle.training.code_version}"
    return f"{code}; {plain(known)}." if known else f"{code}."


def imbalance(bundle: Bundle) -> str | None:
    split = bundle.manifest.recipe.get("split", {})
    if "max_per_class" not in split:
        return None
    if split["max_per_class"] is None:
        return "Train keeps the natural share of classes."
    return (
        f"Train takes the same number of images of each class, at most {count(split['max_per_class'])}; "
        "the natural test set keeps the archive's share."
    )


def threshold(bundle: Bundle) -> str | None:
    document = _test(bundle)
    if document is None:
        return None
    stored = document.threshold
    if stored is None:
        return "None: the most likely class is the prediction." if document.task == "multiclass" else None
    return f"{number(stored.value)}, chosen on {subset_phrase(stored.chosen_on)} for the {stored.rule}."


def performance(bundle: Bundle) -> str | None:
    document, figure = _test(bundle), _leading(bundle)
    if document is None or figure is None:
        return None
    name = label(_leading_name(document))
    return (
        f"{name} {figure_words(figure)} by {figure.method or 'no method'}; all other measures are in report.html. "
        f"Resampling by {document.resampling.unit}, {count(document.resampling.n_resamples)} times."
    )


def confusion(bundle: Bundle) -> str | None:
    document = _test(bundle)
    if document is None:
        return None
    names = [class_label(name) for name in document.confusion.class_names]
    rows = [
        f"{name} classified as {', '.join(f'{called} {count(n)}' for called, n in zip(names, row, strict=True))}"
        for name, row in zip(names, document.confusion.counts, strict=True)
    ]
    return f"{'; '.join(rows)}."


def calibration(bundle: Bundle) -> str | None:
    document = _test(bundle)
    names = ("calibration_slope", "calibration_intercept", "brier_score", "expected_calibration_error")
    known = [
        f"{measure_words(name).lower()} {figure_words(document.figures[name])}"
        for name in names
        if document is not None and name in document.figures
    ]
    return f"{'; '.join(known)}." if known else None


def subgroups(bundle: Bundle) -> str | None:
    document = _test(bundle)
    if document is None or not document.slices:
        return None
    n_scored = sum(part.is_scored for part in document.slices)
    attributes = dict.fromkeys(label(part.attribute) for part in document.slices)
    return (
        f"{n_scored} of {len(document.slices)} slices are measured; the others are too small and only listed. "
        f"By: {'; '.join(attributes)}.{_gaps(bundle)}"
    )


def _gaps(bundle: Bundle) -> str:
    """The largest differences between skin types, sexes and ages on the test set, in words."""
    told = []
    for one in bundle.fairness.attributes if bundle.fairness else ():
        if one.reason is not None:
            told.append(f"{label(one.attribute)}: cannot be determined, {one.reason}.")
        told += [f"{label(one.attribute)}, {label(gap.measure)}: {gap.words}" for gap in one.gaps]
    if bundle.fairness and bundle.fairness.words:
        told.append(bundle.fairness.words)
    return "".join(f" {words}" for words in told)


def robustness(bundle: Bundle) -> str | None:
    verdicts = bundle.integrity
    if not verdicts:
        return None
    return "; ".join(f"{check_title(v.name)}: {v.status.replace('_', ' ')}" for v in verdicts) + "."


def comparison(bundle: Bundle) -> str | None:
    document, found = _test(bundle), bundle.comparison
    if document is None or found is None:
        return None
    difference = found.differences.get(_leading_name(document))
    if difference is None:
        return None
    return (
        f"Paired with {found.champion}: {label(difference.measure)} {signed(difference.value)} "
        f"({span(difference.low, difference.high)}). No comparison with clinicians."
    )


def explanations(bundle: Bundle) -> str | None:
    n = sum(bool(example.heatmap) for example in bundle.examples)
    return f"Grad-CAM on {plural(n, 'confident mistake and hit')} in report.html." if n else None


def failures(bundle: Bundle) -> str | None:
    n = sum("mistake" in example.kind for example in bundle.examples)
    return f"{plural(n, 'confident mistake')} shown in report.html." if n else None


def openings(bundle: Bundle) -> str | None:
    return f"{opened(bundle.n_test_openings).capitalize()}, this evaluation included."


def other_data(bundle: Bundle) -> str | None:
    return " ".join(f"{title}: {words}" for title, words in on_cohorts(bundle)) or None


def on_cohorts(bundle: Bundle) -> list[tuple[str, str]]:
    """Each cohort's title, and its leading figure and falls in words; of one that was not judged, why."""
    told = []
    for cohort in bundle.other_data.cohorts if bundle.other_data else ():
        if cohort.subset is None:
            reason = f", {cohort.reason.rstrip('.')}" if cohort.reason else ""
            told.append((cohort.title, f"not judged{reason}."))
            continue
        measure = _leading_name(cohort.subset)
        figure = figure_words(cohort.subset.figures.get(measure))
        falls = [cohort.fall, *(fall for fall in cohort.at_threshold if fall.is_worse or cohort.fall is None)]
        n_images = plural(cohort.subset.subset.n_images, "image")
        words = " ".join([f"{label(measure)} {figure}.", *(fall.words for fall in falls if fall is not None)])
        told.append((cohort.title, f"{n_images}, {words}"))
    return told


def worse_elsewhere(bundle: Bundle) -> list[str]:
    """What falls on a cohort by more than chance, a sentence each."""
    return [
        f"On other data it is worse: {label_inside(fall.measure)} {number(fall.cohort)} on {cohort.title}. {fall.words}"
        for cohort in (bundle.other_data.cohorts if bundle.other_data else ())
        for fall in cohort.worse
    ]


def availability(bundle: Bundle) -> str | None:
    trained = bundle.training
    return (
        f"Code {trained.code_version}; list of images {short_digest(bundle.manifest.digest)}; "
        f"model SHA-256 {short_digest(trained.model_sha256)}."
    )


def _test(bundle: Bundle) -> SubsetDocument | None:
    return bundle.subsets.get("test_natural")


def _leading_name(document: SubsetDocument) -> str:
    return "auc" if document.task == "binary" else "macro_auc"


def _leading(bundle: Bundle) -> PublishedFigure | None:
    document = _test(bundle)
    return None if document is None else document.figures.get(_leading_name(document))


def _verdict(bundle: Bundle, name: str) -> PublishedVerdict | None:
    return next((verdict for verdict in bundle.integrity if verdict.name == name), None)


def _slice_sizes(bundle: Bundle, attribute: str) -> str | None:
    document = _test(bundle)
    if document is None:
        return None
    sizes = [
        f"{part.value} {count(part.n_images)}" for part in document.slices if part.attribute == attribute
    ]
    return f"{', '.join(sizes)}." if sizes else None


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{class_label(name)} {count(n)}" for name, n in counts.items())
