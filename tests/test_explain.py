"""Pictures of what a model looked at: also under a frozen backbone, which is a model inside the model."""

import keras
import numpy as np
import pytest

from lesion_tasks.evaluation.heatmaps import grad_cam
from lesion_tasks.training.model.averaging import average_members
from lesion_tasks.training.model.stored_model import average_over_flips, with_calibration


def bright_corner_detector(*, is_nested: bool) -> keras.Model:
    """P(second class) rises with the brightness of the map; the convolution is frozen, alone or in a model."""
    convolution = keras.layers.Conv2D(1, 8, strides=8, kernel_initializer="ones", trainable=False)
    pixels = keras.Input((32, 32, 3), name="pixels")
    scaled = keras.layers.Rescaling(1 / 255 / 192)(pixels)
    if is_nested:
        inner = keras.Input((32, 32, 3))
        base = keras.Model(inner, convolution(inner), name="base")
        base.trainable = False
        maps = base(scaled, training=False)
    else:
        maps = convolution(scaled)
    pooled = keras.layers.GlobalAveragePooling2D()(maps)
    head = keras.layers.Dense(1, activation="sigmoid", kernel_initializer="ones")
    return keras.Model({"pixels": pixels}, head(pooled))


@pytest.mark.parametrize("is_nested", [False, True])
def test_the_heat_lies_where_the_class_was_seen(is_nested: bool) -> None:
    picture = np.zeros((1, 32, 32, 3), dtype=np.float32)
    picture[0, :8, 24:] = 255
    heat = grad_cam(
        bright_corner_detector(is_nested=is_nested), {"pixels": picture}, np.array([1]), n_classes=2
    )
    assert heat is not None
    assert heat.shape == (1, 4, 4)
    assert heat[0, 0, 3] == 1.0
    assert heat.sum() == pytest.approx(1.0, abs=1e-4)


def test_a_model_that_averages_over_flips_shows_what_all_of_them_saw() -> None:
    picture = np.zeros((1, 32, 32, 3), dtype=np.float32)
    picture[0, :8, 24:] = 255
    averaged = with_calibration(average_over_flips(bright_corner_detector(is_nested=True)), 2.0, 0.5)
    heat = grad_cam(averaged, {"pixels": picture}, np.array([1]), n_classes=2)
    assert heat is not None
    # Each view's heat lies on that view's corner: turned back, all of it lies on the picture's own.
    assert heat[0, 0, 3] == 1.0
    assert heat.sum() == pytest.approx(1.0, abs=1e-4)


def test_an_average_shows_what_its_members_saw_however_fine_their_maps_are() -> None:
    fine = keras.Input((32, 32, 3), name="pixels")
    maps = keras.layers.AveragePooling2D(2)(keras.layers.Rescaling(1 / 255)(fine))
    head = keras.layers.Dense(1, activation="sigmoid", kernel_initializer="ones")
    second = keras.Model({"pixels": fine}, head(keras.layers.GlobalAveragePooling2D()(maps)))
    blind = keras.Input((2,), name="metadata")
    third = keras.Model({"metadata": blind}, keras.layers.Dense(1, activation="sigmoid")(blind))
    first = average_over_flips(bright_corner_detector(is_nested=True))
    averaged = with_calibration(average_members([first, second, third], "average"), 2.0, 0.5)
    picture = np.zeros((1, 32, 32, 3), dtype=np.float32)
    picture[0, :8, 24:] = 255
    inputs = {"pixels": picture, "metadata": np.zeros((1, 2), dtype=np.float32)}
    heat = grad_cam(averaged, inputs, np.array([1]), n_classes=2)
    assert heat is not None
    assert heat.shape == (1, 16, 16)
    assert heat[0, 1, 14] == 1.0
    assert heat[0, 8:].max() == heat[0, :, :8].max() == 0


def test_a_detector_of_one_side_has_heat_on_both_sides_once_averaged_over_flips() -> None:
    pixels = keras.Input((32, 32, 3), name="pixels")
    left = keras.layers.Cropping2D(((0, 0), (0, 16)))(pixels)
    maps = keras.layers.ZeroPadding2D(((0, 0), (0, 16)))(keras.layers.Rescaling(1 / 255)(left))
    pooled = keras.layers.GlobalAveragePooling2D()(maps)
    head = keras.layers.Dense(1, activation="sigmoid", kernel_initializer="ones")(pooled)
    model = keras.Model({"pixels": pixels}, head)
    picture = {"pixels": np.full((1, 32, 32, 3), 128, dtype=np.float32)}
    alone, averaged = (
        grad_cam(some, picture, np.array([1]), n_classes=2) for some in (model, average_over_flips(model))
    )
    assert alone is not None
    assert averaged is not None
    assert alone[:, :, 16:].max() == 0
    np.testing.assert_allclose(averaged, 1.0, atol=1e-5)


def test_nothing_speaks_for_the_other_class() -> None:
    picture = np.full((1, 32, 32, 3), 255, dtype=np.float32)
    heat = grad_cam(bright_corner_detector(is_nested=True), {"pixels": picture}, np.array([0]), n_classes=2)
    assert heat is not None
    assert heat.max() == 0


def test_a_model_without_a_feature_map_has_no_picture() -> None:
    pixels = keras.Input((4, 4, 3), name="pixels")
    flat = keras.layers.Reshape((48,))(pixels)
    model = keras.Model({"pixels": pixels}, keras.layers.Dense(1, activation="sigmoid")(flat))
    assert (
        grad_cam(model, {"pixels": np.zeros((1, 4, 4, 3), dtype=np.float32)}, np.array([1]), n_classes=2)
        is None
    )


def test_each_picture_of_a_batch_has_the_heat_that_it_has_alone() -> None:
    pictures = np.random.default_rng(1).integers(0, 256, (3, 32, 32, 3)).astype(np.float32)
    model = average_over_flips(bright_corner_detector(is_nested=True))
    classes = np.array([1, 0, 1])
    together = grad_cam(model, {"pixels": pictures}, classes, n_classes=2)
    assert together is not None
    for i in range(3):
        alone = grad_cam(model, {"pixels": pictures[i : i + 1]}, classes[i : i + 1], n_classes=2)
        assert alone is not None
        np.testing.assert_allclose(together[i], alone[0], atol=1e-5)
    assert together[1].max() == 0
