"""A training recipe -> what it does, in words, without the fields that mean nothing for it."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from lesion_tasks.catalog.lookup import find_split
from lesion_tasks.catalog.printed_numbers import percent
from lesion_tasks.catalog.recipe import OF_ENSEMBLES, Variant, idle_fields
from lesion_tasks.catalog.titles import label_inside, split_title
from lesion_tasks.reports.words import flattened

_ASPECTS = {
    "squash": "squashed into a square",
    "pad": "padded to a square",
    "crop": "cropped to a square",
}
_FUSIONS = {
    "concatenate": "joined to the picture's features",
    "gated": "as gates on the picture's features",
    "film": "scaling and shifting the picture's features",
}
_SAMPLINGS = {
    "as_drawn": "every train image once an epoch",
    "undersampled": "train images of the common classes left out until all are as large as the rarest",
    "oversampled": "train images of the rare classes repeated until all are as large as the largest",
    "resampled": "every class brought to the mean size",
    "rotated_copies": "rotated copies added until every class is as large as the largest",
    "rotated_copies_leaky": "rotated copies added before val was drawn, as published: this leaks",
}
_WEIGHTINGS_OF_LESIONS = {
    "by_root": "each of n images of a lesion weighted by one over the root of n",
    "by_lesion": "every lesion weighted the same, however many images it has",
}


def meaningful(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe without the fields that mean nothing for it, such as the frozen layers of a backbone that it lacks."""
    if recipe.get("members"):
        return {name: recipe[name] for name in OF_ENSEMBLES if recipe.get(name) not in (None, (), [])}
    moot = {name for name in ("reproduces", "search", "search_id", "adjusted") if not recipe.get(name)}
    if not recipe.get("backbone"):
        moot.add("backbone")
    if not recipe.get("metadata"):
        moot.add("metadata")
    if recipe.get("side_px") is None:
        moot.add("side_px")
    moot |= idle_fields(recipe).keys()
    return {name: value for name, value in recipe.items() if name not in moot}


def as_lines(recipe: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The fields that mean something, in the order of the catalogue: the title of each, and its value."""
    order = [one.name for one in fields(Variant)]
    told = meaningful(recipe)
    told = {name: told[name] for name in sorted(told, key=lambda name: (*order, name).index(name))}
    if told.get("split"):
        told["split"] = split_title(told["split"])
    if told.get("metadata"):
        told["metadata"] = [label_inside(name) for name in told["metadata"]]
    return flattened(told)


def in_words(recipe: Mapping[str, Any]) -> dict[str, list[str]]:
    """What a recipe does, by what it is about: its task, input, network, learning and serving."""
    return {
        "task": _task(recipe),
        "looks at": _inputs(recipe),
        "network": _network(recipe),
        "learns": _learning(recipe),
        "serves": _serving(recipe),
    }


def _task(recipe: Mapping[str, Any]) -> list[str]:
    split = find_split(recipe["split"])
    found = [f"{split.task}, on the split {split.name}"]
    if recipe.get("reproduces"):
        found.append(f"reproduces system {recipe['reproduces']}")
    return found


def _inputs(recipe: Mapping[str, Any]) -> list[str]:
    found = []
    if recipe["side_px"] is not None:
        found.append(
            f"pictures of {recipe['side_px']} x {recipe['side_px']} px, {_ASPECTS[recipe['aspect']]}"
        )
    if recipe.get("is_hair_removed"):
        found.append("hair removed")
    if recipe.get("is_segmented"):
        found.append("only the lesion, as outlined by a U-Net")
    if recipe["metadata"]:
        is_joined = found and not recipe.get("members")  # members join them, or not
        how = f", {_FUSIONS[recipe['fusion']]}" if is_joined else ""
        found.append(f"{', '.join(map(label_inside, recipe['metadata']))}{how}")
    return found


def _network(recipe: Mapping[str, Any]) -> list[str]:
    if recipe.get("members"):
        return [f"the mean of the logits of {' and of '.join(recipe['members'])}"]
    if recipe["backbone"]:
        weights = "pretrained" if recipe["is_pretrained"] else "random"
        found = [f"{recipe['backbone']} with {weights} weights, {_trained_part(recipe)}"]
    else:
        found = [recipe["architecture"].replace("_", " ")]
    if recipe["conv_filters"]:
        found.append(f"convolutions with {_listed(recipe['conv_filters'])} filters")
    if recipe["dense_units"]:
        found.append(f"dense layers of {_listed(recipe['dense_units'])}")
    if rate := max(recipe["dropout_rate"], recipe["feature_dropout_rate"]):
        found.append(f"dropout {rate:g}")
    return found


def _trained_part(recipe: Mapping[str, Any]) -> str:
    if not recipe["is_backbone_frozen"]:
        return "all layers trained"
    if recipe["unfrozen_from"]:
        return f"frozen up to {recipe['unfrozen_from']}"
    if tuning := recipe["fine_tuning"]:
        part = f"from {tuning['unfrozen_from']} on" if tuning["unfrozen_from"] else "whole"
        return f"frozen at first, then trained {part} at {tuning['learning_rate']:g}"
    return "frozen"


def _learning(recipe: Mapping[str, Any]) -> list[str]:
    if recipe.get("members"):
        return ["nothing itself: each member by its own recipe"]
    found = [_SAMPLINGS[recipe["sampling"]]]
    if recipe["side_px"] is not None and recipe["is_augmented"]:
        found.append("strongly augmented" if recipe["is_augmented_strongly"] else "augmented")
    weighted = ", every class weighted the same" if recipe["is_class_weighted"] else ""
    found.append(f"{recipe['loss'].replace('_', ' ')}{weighted}")
    how = recipe.get("learning") or {}
    if how.get("is_head_solved"):
        found.append(f"its head solved as a logistic regression; batches of {recipe['batch_size']}")
    else:
        found.append(
            f"{recipe['optimizer']} at {recipe['learning_rate']:g}, batches of {recipe['batch_size']}, at most "
            f"{recipe['max_epochs']} epochs, stopped after {recipe['patience']} without a better val loss"
        )
    if how:
        found += last_stage_words(how)
    if n_folds := recipe.get("n_folds"):
        found.append(
            f"{n_folds} times, each time without another of {n_folds} parts of the groups of train and val, which "
            "stops it"
        )
    if recipe.get("search"):
        found.append("can be searched (`lesion tune`)")
    return found


def last_stage_words(how: Mapping[str, Any]) -> list[str]:
    """What a recipe of learning asks for beyond an optimizer at one rate."""
    said = {
        "weight_decay": "weight decay {:g}",
        "warmup_share": "a warm-up of {} of the steps",
        "ema_momentum": "averaged weights (momentum {:g})",
        "label_smoothing": "label smoothing {:g}",
        "logit_adjustment": "logits adjusted by {:g} times the classes' frequency",
        "mixup_alpha": "pairs of pictures mixed (alpha {:g})",
        "cutmix_alpha": "a part of one picture put into another (alpha {:g})",
        "n_distortions": "{} random distortions of each picture",
        "auxiliary_weight": "a second head on the deeper diagnosis, weighted {:g}",
        "max_minutes": "at most {:g} minutes",
    }
    values = {**how, "warmup_share": percent(how.get("warmup_share"), 0)}
    found = [words.format(values[name]) for name, words in said.items() if how.get(name)]
    if how.get("schedule") == "cosine":
        found.insert(0, "AdamW, its rate falling to 0 along a cosine")
    if how.get("backbone_rate_share", 1) != 1:
        found.append(f"the backbone at {how['backbone_rate_share']:g} of the head's rate")
    if weighting := _WEIGHTINGS_OF_LESIONS.get(how.get("lesion_weighting", "by_image")):
        found.append(weighting)
    return [*found, "kept by AUC on val"]


def _serving(recipe: Mapping[str, Any]) -> list[str]:
    found = []
    if recipe["side_px"] is not None and recipe["is_flip_averaged"]:
        found.append("the mean over the picture and its mirror images")
    if n_folds := recipe.get("n_folds"):
        found.append(f"the mean of the logits of its {n_folds} models")
    if recipe["is_calibrated"]:
        found.append(f"calibrated on {'scores of images that a model did not see' if n_folds else 'val'}")
    if not recipe["is_promotable"]:
        found.append("never promoted")
    return found or ["the model's own answer"]


def _listed(numbers: Any) -> str:
    return ", ".join(str(number) for number in numbers)
