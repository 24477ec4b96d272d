"""Variants: the systems that are reproduced, the ones that compete with them, and controls."""

from collections.abc import Iterable
from typing import Any

from lesion_tasks.catalog.backbones import BACKBONES
from lesion_tasks.catalog.ensembles import check_members
from lesion_tasks.catalog.entries import by_name
from lesion_tasks.catalog.input_size import InputSize
from lesion_tasks.catalog.learning import Learning
from lesion_tasks.catalog.recipe import FineTuning, SearchRange, SearchSpace, Variant

PAPER_METADATA = ("age_years", "is_male", "size_mm")


def _frozen(name: str, backbone: str, reproduces: str, title: str) -> Variant:
    """A frozen pretrained backbone on the paper's balanced data, without augmentation: features are computed once."""
    return Variant(
        name=name,
        title=title,
        reproduces=reproduces,
        split="malignancy_balanced_5000",
        architecture="transfer",
        backbone=backbone,
    )


_PAPER = [
    Variant(
        name="metadata_logistic",
        title="Logistic regression on age, sex and lesion size",
        reproduces="S1",
        split="malignancy_natural",
        architecture="metadata_logistic",
        side_px=None,
        metadata=PAPER_METADATA,
        dense_units=(),
    ),
    Variant(
        name="metadata_mlp",
        title="Two dense layers on age, sex and lesion size",
        reproduces="S2",
        split="malignancy_natural",
        architecture="metadata_mlp",
        side_px=None,
        metadata=PAPER_METADATA,
        dense_units=(64, 32),
        dropout_rate=0.3,
    ),
    Variant(
        name="cnn_scratch",
        title="Convolutional network from scratch",
        reproduces="S3",
        split="malignancy_balanced_5000",
        architecture="cnn",
        conv_filters=(32, 64, 128),
    ),
    _frozen(
        "mobilenet_v2_frozen", "mobilenet_v2", "S4", "MobileNetV2, frozen base; read on the balanced test"
    ),
    Variant(
        name="mobilenet_v2_frozen_10000",
        title="The same on twice the data",
        reproduces="S5",
        split="malignancy_balanced_10000",
        architecture="transfer",
        backbone="mobilenet_v2",
    ),
    _frozen("mobilenet_v2_frozen_natural", "mobilenet_v2", "S6", "The same; read on the natural test"),
    Variant(
        name="mobilenet_v2_unfrozen_augmented",
        title="MobileNetV2, all layers trained, augmented",
        reproduces="S7",
        split="malignancy_balanced_5000",
        architecture="transfer",
        backbone="mobilenet_v2",
        is_backbone_frozen=False,
        is_augmented=True,
    ),
    Variant(
        name="mobilenet_v2_frozen_augmented",
        title="MobileNetV2, frozen base, augmented",
        reproduces="S8",
        split="malignancy_balanced_5000",
        architecture="transfer",
        backbone="mobilenet_v2",
        is_augmented=True,
        dropout_rate=0.5,
    ),
    Variant(
        name="resnet50_top_tuned",
        title="ResNet50, its last stage trained",
        reproduces="S9",
        split="malignancy_balanced_5000",
        architecture="transfer",
        backbone="resnet50",
        unfrozen_from="conv5_",
    ),
    Variant(
        name="mobilenet_v2_metadata",
        title="MobileNetV2 and metadata, joined after pooling",
        reproduces="S10",
        split="malignancy_balanced_5000",
        architecture="transfer",
        backbone="mobilenet_v2",
        metadata=PAPER_METADATA,
    ),
    Variant(
        name="five_classes_frozen",
        title="MobileNetV2, frozen base, five classes",
        reproduces="S11",
        split="five_classes_natural",
        architecture="transfer",
        backbone="mobilenet_v2",
    ),
    Variant(
        name="five_classes_unfrozen",
        title="MobileNetV2, all layers trained, five classes",
        reproduces="S12",
        split="five_classes_natural",
        architecture="transfer",
        backbone="mobilenet_v2",
        is_backbone_frozen=False,
    ),
]


def _rotated_copies(name: str, title: str, sampling: str, *, is_promotable: bool) -> Variant:
    return Variant(
        name=name,
        title=title,
        reproduces="R1",
        is_promotable=is_promotable,
        split="malignancy_natural",
        architecture="cnn",
        side_px=180,
        conv_filters=(32, 64, 128),
        feature_dropout_rate=0.5,
        dropout_rate=0.25,
        sampling=sampling,
        max_epochs=20,
        patience=20,
    )


def _deepskin(backbone: str, sampling: str) -> Variant:
    return Variant(
        name=f"deepskin_{backbone}",
        title=f"{BACKBONES[backbone].keras_class} on the segmented lesion, hair removed, {sampling}",
        reproduces="R3",
        split="malignancy_natural",
        architecture="transfer",
        backbone=backbone,
        is_hair_removed=True,
        is_segmented=True,
        sampling=sampling,
    )


_RELATED = [
    _rotated_copies(
        "rotated_copies_cnn_leaky",
        "Rotated copies added before the split, as published: leaks, never promoted",
        "rotated_copies_leaky",
        is_promotable=False,
    ),
    _rotated_copies(
        "rotated_copies_cnn",
        "The same, its copies made of train images alone",
        "rotated_copies",
        is_promotable=True,
    ),
    Variant(
        name="unet_mobilenet_v3_eca",
        title="U-Net, then MobileNetV3 with channel attention and dilation, bias loss",
        reproduces="R2",
        split="malignancy_natural",
        architecture="mobilenet_v3_eca",
        is_segmented=True,
        loss="bias",
        sampling="resampled",
        dropout_rate=0.2,
        search=SearchSpace(
            ranges=(
                SearchRange(field="learning_rate", low=1e-4, high=1e-2, is_log=True),
                SearchRange(field="dropout_rate", low=0.0, high=0.5),
                SearchRange(field="bias_alpha", low=0.1, high=0.6),
                SearchRange(field="dilation_rate", low=1, high=3, is_whole=True),
            )
        ),
    ),
    _deepskin("densenet169", "resampled"),
    _deepskin("resnet50", "undersampled"),
    _deepskin("vgg16", "oversampled"),
    *(
        _frozen(f"{name}_frozen", name, "R4", f"{BACKBONES[name].keras_class}, frozen base")
        for name in ("resnet50", "resnet101", "resnet152", "resnet50_v2", "resnet101_v2", "resnet152_v2")
    ),
    *(
        _frozen(f"{name}_frozen", name, "R5", f"{BACKBONES[name].keras_class}, frozen base")
        for name in ("mobilenet", "mobilenet_v3_small", "mobilenet_v3_large")
    ),
]

_CONTROLS = [
    Variant(
        name="smoke",
        title="Two small convolutions at 32 px, to see the path work",
        split="malignancy_balanced_5000",
        architecture="cnn",
        side_px=32,
        conv_filters=(8, 16),
        dense_units=(16,),
        # An epoch is a dozen steps. At 3e-3 one of three seeds learned nothing: all its units were off.
        learning_rate=1.5e-3,
        max_epochs=24,
    ),
    Variant(
        name="mobilenet_v2_random_augmented",
        title="S8 from random weights: what pretraining has to beat",
        split="malignancy_balanced_5000",
        architecture="transfer",
        backbone="mobilenet_v2",
        is_pretrained=False,
        is_augmented=True,
        dropout_rate=0.5,
    ),
]


def _modern(name: str, title: str, backbone: str, **changed: Any) -> Variant:
    """What a practitioner would try first at these sizes: all natural data, a warm head, then a slow second stage."""
    recipe: dict[str, Any] = {
        "split": "malignancy_natural",
        "architecture": "transfer",
        "dropout_rate": 0.3,
        "is_class_weighted": True,
        "is_augmented": True,
        "is_augmented_strongly": True,
        "is_flip_averaged": True,
        "max_epochs": 30,
        "patience": 5,
        "fine_tuning": FineTuning(),
    }
    return Variant(name=name, title=title, backbone=backbone, **(recipe | changed))


_MODERN = [
    _modern("mobilenet_v2_035_tuned", "Small MobileNetV2, two stages", "mobilenet_v2_035"),
    _modern("mobilenet_v2_tuned", "MobileNetV2, two stages", "mobilenet_v2"),
    _modern(
        "mobilenet_v2_tuned_focal",
        "MobileNetV2, two stages, focal loss for class weights",
        "mobilenet_v2",
        loss="focal",
        is_class_weighted=False,
    ),
    _modern(
        "mobilenet_v2_tuned_film",
        "MobileNetV2, two stages, metadata scale and shift features",
        "mobilenet_v2",
        metadata=PAPER_METADATA,
        fusion="film",
    ),
    _modern(
        "mobilenet_v2_tuned_gated",
        "MobileNetV2, two stages, metadata gate features",
        "mobilenet_v2",
        metadata=PAPER_METADATA,
        fusion="gated",
    ),
    _modern("efficientnet_v2_b0_tuned", "EfficientNetV2-B0, two stages", "efficientnet_v2_b0"),
    _modern("convnext_tiny_tuned", "ConvNeXt-Tiny, two stages", "convnext_tiny"),
    # Keras has no EfficientNet-Lite: these two need its file among the weights.
    Variant(
        name="efficientnet_lite0_frozen",
        title="EfficientNet-Lite0, frozen base, its head solved",
        split="malignancy_natural",
        architecture="transfer",
        backbone="efficientnet_lite0",
        dense_units=(),
        learning=Learning(is_head_solved=True),
    ),
    Variant(
        name="efficientnet_lite0_top_tuned",
        title="EfficientNet-Lite0, its last stages trained, on the paper's balanced data",
        split="malignancy_balanced_5000",
        architecture="transfer",
        backbone="efficientnet_lite0",
        unfrozen_from="block6a",
        # At the paper's 1e-3 it forgets what it came with: after two epochs it calls everything the same.
        learning_rate=3e-4,
    ),
    Variant(
        name="efficientnet_lite0_tuned",
        title="EfficientNet-Lite0, a solved head, then all but its first five blocks",
        split="malignancy_natural",
        architecture="transfer",
        backbone="efficientnet_lite0",
        feature_dropout_rate=0.3,
        dense_units=(),
        is_flip_averaged=True,
        fine_tuning=FineTuning(learning_rate=4e-4, max_epochs=8, patience=8, unfrozen_from="block4a"),
        learning=Learning(
            is_head_solved=True,
            weight_decay=0.02,
            schedule="cosine",
            warmup_share=0.05,
            ema_momentum=0.99,
            n_distortions=3,
            distortion_strength=0.5,
            auxiliary_weight=0.5,
        ),
        search=SearchSpace(
            ranges=(
                SearchRange(field="fine_tuning.learning_rate", low=5e-5, high=2e-3, is_log=True),
                SearchRange(field="learning.weight_decay", low=1e-3, high=1e-1, is_log=True),
                SearchRange(field="learning.distortion_strength", low=0.2, high=1.0),
                SearchRange(field="learning.auxiliary_weight", low=0.0, high=1.0),
            )
        ),
    ),
]

_AVERAGES = [
    Variant(
        name="efficientnet_lite0_frozen_five_folds",
        title="EfficientNet-Lite0, frozen base, its head solved five times, each time without another fifth",
        split="malignancy_natural",
        architecture="transfer",
        backbone="efficientnet_lite0",
        dense_units=(),
        learning=Learning(is_head_solved=True),
        n_folds=5,
    ),
    Variant(
        name="efficientnet_lite0_and_mobilenet_v2_tuned",
        title="The mean of EfficientNet-Lite0 and of MobileNetV2 with metadata gates, both tuned",
        split="malignancy_natural",
        architecture="ensemble",
        members=("efficientnet_lite0_tuned", "mobilenet_v2_tuned_gated"),
        metadata=PAPER_METADATA,
    ),
]

VARIANTS = by_name([*_CONTROLS, *_PAPER, *_RELATED, *_MODERN, *_AVERAGES])
for _variant in VARIANTS.values():
    check_members(_variant, VARIANTS)

# What scheduled retraining trains if LESION_VARIANTS is empty: what a model of pictures has to beat, and models of
# pictures whose weights are at hand, for which nothing is fetched; without any, one that shows that the path works.
DEFAULT_VARIANTS = ("metadata_logistic",)
DEFAULT_WITH_WEIGHTS = ("efficientnet_lite0_tuned",)
DEFAULT_WITHOUT_WEIGHTS = ("smoke",)


def input_sizes_of(split: str, variants: Iterable[str] | None = None) -> list[InputSize]:
    """The input sizes of these variants (default: all) of a split, smallest first."""
    asked = VARIANTS.values() if variants is None else [VARIANTS[name] for name in variants]
    return sorted({v.input_size for v in asked if v.split == split and v.input_size is not None})


# The retrain policy of the schedule: a variant is trained again when the manifest of its split has this share
# of new or changed images since its last training. By hand, anything can be trained at any time.
RETRAIN_SHARE = 0.01
