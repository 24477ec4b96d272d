"""Every Keras Applications model by a readable name, with its pixel scaling and the names of its weights files.

Data only, standard library only. `lesion_tasks.catalog` re-exports it as `BACKBONES`.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """A Keras Applications model without its top."""

    name: str
    keras_class: str  # in keras.applications
    # How pixels 0 to 255 become its input: "symmetric" is x / 127.5 - 1; "caffe" is BGR minus the ImageNet mean;
    # "torch" is x / 255, minus the ImageNet mean, divided by the ImageNet deviation; "none" is for models with their
    # own rescaling, for which rescaling outside would be a silent error.
    preprocessing: str
    weights_stem: str  # in a folder of weights, the file that starts with this belongs to this backbone
    alpha: float | None = None  # width multiplier, MobileNets only
    min_side_px: int = 32


def _mobilenet(name: str, keras_class: str, how: str, stem: str, alpha: float = 1.0) -> Backbone:
    return Backbone(name=name, keras_class=keras_class, preprocessing=how, weights_stem=stem, alpha=alpha)


def _same(how: str, members: dict[str, tuple[str, str]], *, min_side_px: int = 32) -> list[Backbone]:
    """A family with one preprocessing: name -> (class, stem of its weights files)."""
    return [
        Backbone(
            name=name, keras_class=keras_class, preprocessing=how, weights_stem=stem, min_side_px=min_side_px
        )
        for name, (keras_class, stem) in members.items()
    ]


# The stems are the beginnings of the names under which Keras publishes and caches its own files, so that a folder of
# those can be used unchanged.
_ALL = [
    _mobilenet("mobilenet", "MobileNet", "symmetric", "mobilenet_1_0_"),
    _mobilenet("mobilenet_v2", "MobileNetV2", "symmetric", "mobilenet_v2_1.0_"),
    _mobilenet("mobilenet_v2_035", "MobileNetV2", "symmetric", "mobilenet_v2_0.35_", 0.35),
    _mobilenet("mobilenet_v3_small", "MobileNetV3Small", "none", "weights_mobilenet_v3_small_"),
    _mobilenet("mobilenet_v3_large", "MobileNetV3Large", "none", "weights_mobilenet_v3_large_"),
    *_same("caffe", {f"resnet{n}": (f"ResNet{n}", f"resnet{n}_") for n in (50, 101, 152)}),
    *_same("symmetric", {f"resnet{n}_v2": (f"ResNet{n}V2", f"resnet{n}v2_") for n in (50, 101, 152)}),
    *_same("caffe", {f"vgg{n}": (f"VGG{n}", f"vgg{n}_") for n in (16, 19)}),
    *_same("torch", {f"densenet{n}": (f"DenseNet{n}", f"densenet{n}_") for n in (121, 169, 201)}),
    *_same("none", {f"efficientnet_b{n}": (f"EfficientNetB{n}", f"efficientnetb{n}_") for n in range(8)}),
    *_same(
        "none",
        {
            f"efficientnet_v2_{n.lower()}": (f"EfficientNetV2{n}", f"efficientnetv2-{n.lower()}_")
            for n in ("B0", "B1", "B2", "B3", "S", "M", "L")
        },
    ),
    *_same(
        "none",
        {
            f"convnext_{n.lower()}": (f"ConvNeXt{n}", f"convnext_{n.lower()}_")
            for n in ("Tiny", "Small", "Base", "Large", "XLarge")
        },
    ),
    *_same("symmetric", {"inception_v3": ("InceptionV3", "inception_v3_")}, min_side_px=75),
    *_same(
        "symmetric", {"inception_resnet_v2": ("InceptionResNetV2", "inception_resnet_v2_")}, min_side_px=75
    ),
    *_same("symmetric", {"xception": ("Xception", "xception_")}, min_side_px=71),
    *_same(
        "symmetric",
        {
            "nasnet_mobile": ("NASNetMobile", "NASNet-mobile"),
            "nasnet_large": ("NASNetLarge", "NASNet-large"),
        },
    ),
]

BACKBONES = {backbone.name: backbone for backbone in _ALL}
if len(BACKBONES) != len(_ALL):
    raise ValueError("a backbone is declared twice")
