"""The published systems that variants reproduce: what each reported, and why an honest figure differs. Data only.

S1 to S12 are the rows of the paper that this project starts from, R1 to R5 what it builds on. A variant says with
`reproduces` which of them it stands for.
"""

from dataclasses import dataclass

from lesion_tasks.catalog.entries import by_name


@dataclass(frozen=True, kw_only=True)
class System:
    """One row of the systems table."""

    name: str  # such as "S4"
    title: str
    reported: str  # by its authors, in short
    differs: str  # one sentence: why the figure here is another one
    task: str = "malignancy"
    backbones: tuple[str, ...] = ()  # those it was published with; a variant with another one is a stand-in
    read_on: str = "test_natural"  # the test on which its figure was reported
    stand_ins: tuple[
        str, ...
    ] = ()  # other variants, for systems whose own backbones' weights are seldom at hand


_BY_ID = "as for predictions paired with the wrong images; here each carries the id of its image."
_MISPAIRED = f"Its true and false positive rates agree to four digits, {_BY_ID}"
_INDEPENDENT = f"It lies within one standard error of exact independence from the labels, {_BY_ID}"

SYSTEMS = by_name(
    [
        System(
            name="S1",
            title="Logistic regression on metadata",
            reported="a curve without a number",
            differs="There is no number to compare with.",
        ),
        System(
            name="S2",
            title="Two dense layers on metadata",
            reported="nearly all called benign",
            differs=(
                "It called classes at 0.5 where one image in 25 is malignant; here the threshold is chosen on val, and "
                "ranking is judged without any."
            ),
        ),
        System(
            name="S3",
            title="Convolutional network from scratch",
            reported="as effective as a random classifier",
            differs=(
                "A sound classifier looks random too if its predictions are paired with the wrong images; here each "
                "carries the id of its image."
            ),
        ),
        System(
            name="S4",
            title="MobileNetV2, frozen, balanced, read on the balanced test",
            reported="AUC 0.4935",
            differs=_MISPAIRED,
            read_on="test_balanced",
            backbones=("mobilenet_v2",),
        ),
        System(
            name="S5",
            title="The same on twice the data",
            reported="nearly identical to S4",
            differs="Identical here too where the rarer class has fewer images than either cap; else as S4.",
            backbones=("mobilenet_v2",),
        ),
        System(
            name="S6",
            title="The same, read on the natural test",
            reported="AUC 0.4985",
            differs=_MISPAIRED,
            backbones=("mobilenet_v2",),
        ),
        System(
            name="S7",
            title="MobileNetV2, all layers trained, augmented",
            reported="AUC 0.5034",
            differs=_INDEPENDENT,
            backbones=("mobilenet_v2",),
        ),
        System(
            name="S8",
            title="MobileNetV2, frozen, augmented",
            reported="AUC 0.5052",
            differs=_INDEPENDENT,
            backbones=("mobilenet_v2",),
        ),
        System(
            name="S9",
            title="ResNet50, its last stage trained",
            reported="sensitivity 0.90, nearly all called malignant",
            differs=(
                "Learned from balanced classes and called at 0.5 on natural ones, it calls far too many malignant; "
                "here probabilities are calibrated on val at natural prevalence."
            ),
            backbones=("resnet50",),
            stand_ins=("efficientnet_lite0_top_tuned",),
        ),
        System(
            name="S10",
            title="MobileNetV2 and metadata",
            reported="AUC 0.4699",
            differs=(
                "Below chance by more than luck, as metadata joined by position after rows were dropped would be; here "
                "they are joined by image id."
            ),
            backbones=("mobilenet_v2",),
        ),
        System(
            name="S11",
            title="MobileNetV2, frozen, five classes",
            reported="biased to benign",
            differs="The most frequent class wins where nothing balances the loss, here as there.",
            task="five_classes",
            backbones=("mobilenet_v2",),
        ),
        System(
            name="S12",
            title="MobileNetV2, all layers trained, five classes",
            reported="clearly better than S11",
            differs="No figure was reported to compare with.",
            task="five_classes",
            backbones=("mobilenet_v2",),
        ),
        System(
            name="R1",
            title="Small CNN, classes balanced by rotated copies",
            reported="validation accuracy 0.8426",
            differs=(
                "Copies were made before the split, so that one picture stood on both sides; the honest variant makes "
                "them of train images alone."
            ),
        ),
        System(
            name="R2",
            title="U-Net, then MobileNetV3 with channel attention, bias loss (Lilhore et al. 2024)",
            reported="accuracy 0.9886 on HAM10000",
            differs=(
                "Its splits are unknown, and its own ablation ends at 0.9439; with images of one lesion on both sides "
                "such accuracies come by themselves."
            ),
        ),
        System(
            name="R3",
            title="Hair removed, lesion outlined, DenseNet169, ResNet50 or VGG16 (DeepSkin, Gururaj et al. 2023)",
            reported="accuracy 0.912 and 0.83, second-hand",
            differs="Its classes were over- and under-sampled; here test is as it is in life.",
            backbones=("densenet169", "resnet50", "vgg16"),
        ),
        System(
            name="R4",
            title="Keras Applications: residual networks",
            reported="no figure for skin lesions",
            differs="There is no number to compare with.",
            backbones=("resnet50", "resnet101", "resnet152", "resnet50_v2", "resnet101_v2", "resnet152_v2"),
            stand_ins=("efficientnet_lite0_frozen",),
        ),
        System(
            name="R5",
            title="Keras Applications: MobileNets",
            reported="no figure for skin lesions",
            differs="There is no number to compare with.",
            backbones=("mobilenet", "mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large"),
            stand_ins=("mobilenet_v2_frozen_natural",),
        ),
    ]
)
