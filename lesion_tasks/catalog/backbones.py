"""Every Keras Applications model by a readable name, with its pixel scaling; backbones that bring their own network.

Data only, standard library only. `lesion_tasks.catalog` re-exports the former as `BACKBONES`.
"""

import re
from dataclasses import dataclass
from pathlib import PurePath


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

    @property
    def files(self) -> str:
        """The pattern of its files' names in a folder of weights."""
        return f"{self.weights_stem}*.h5"


@dataclass(frozen=True, kw_only=True)
class StoredBackbone:
    """A `.keras` file with a network and its weights: pixels 0 to 255 in, a feature map or a vector out."""

    name: str
    files: str  # the pattern of its name in a folder of weights
    licence: str = ""  # of the weights; "" if only the file that lies beside them can say
    min_side_px: int = 1
    preprocessing: str = "none"  # what it does to pixels is in the file


@dataclass(frozen=True, kw_only=True)
class PresetBackbone:
    """A preset of KerasHub: a network, its weights and its scaling of pixels, as `save_to_preset` writes them."""

    name: str
    # The folder's name among the weights, or its path; where there is a network also an address of one version
    # (hf://..., kaggle://...) or the name that KerasHub has for it.
    preset: str
    licence: str = (
        ""  # of the weights, which nobody uses without one; "" if the file that lies beside them says it
    )

    @property
    def files(self) -> str:
        """What its trainings call it: its address, or the name of its folder without what leads there."""
        return self.preset if self.is_address else PurePath(self.preset).name

    @property
    def min_side_px(self) -> int:
        """1: the network itself says which sides it takes."""
        return 1

    @property
    def is_address(self) -> bool:
        """Whether it names a place on the network, wherever the weights lie."""
        return "://" in self.preset


AnyBackbone = Backbone | StoredBackbone | PresetBackbone


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

# EfficientNet-Lite is EfficientNet (Tan and Le 2019) without squeeze-and-excite and with ReLU6. Keras Applications has
# none; Google publishes the weights in its TensorFlow TPU models under the Apache licence.
STORED_BACKBONES: dict[str, StoredBackbone | PresetBackbone] = {
    f"efficientnet_lite{n}": StoredBackbone(
        name=f"efficientnet_lite{n}",
        files=f"efficientnet_lite{n}_*.keras",
        licence="Apache-2.0",
        min_side_px=32,
    )
    for n in range(5)
}

RANDOM_START = (
    "none"  # the value of LESION_WEIGHTS for random weights, and what their trainings say of their weights
)
# Values of LESION_WEIGHTS with which no file is at hand: Keras fetches its own, or none are wanted.
WITHOUT_FILES = ("imagenet", RANDOM_START)

_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\.keras")
_PART = "[A-Za-z0-9][A-Za-z0-9._-]*"
# Of a preset of KerasHub, which never changes under it.
PRESET_ADDRESS = re.compile(
    f"hf://{_PART}/{_PART}@[0-9a-f]{{40}}|kaggle://{_PART}/{_PART}/[Kk]eras/{_PART}/[1-9][0-9]*"
)
PRESET_ADDRESS_RULE = (
    "hf://OWNER/NAME@COMMIT with the 40 digits of a commit, or kaggle://OWNER/MODEL/keras/VARIATION/VERSION"
)


def find_backbone(name: str) -> AnyBackbone | None:
    """The backbone of a name, which may be that of any `.keras` file; None if there is no such backbone."""
    if _FILE_NAME.fullmatch(name):
        return StoredBackbone(name=name, files=name)
    return BACKBONES.get(name) or STORED_BACKBONES.get(name)
