"""A picture of any shape -> a square of pixels: the same for materializing, for masks and for serving."""

import numpy as np
from PIL import Image, ImageOps

from lesion_tasks.archive.picture import BLACK, WHITE, open_picture
from lesion_tasks.catalog import InputSize


def decode_picture(data: bytes, size: InputSize) -> np.ndarray:
    """Decode a picture to a square: uint8 (side, side, 3), RGB 0 to 255. Raises `UnusablePictureError`.

    Transparent parts are white. Antialiased bilinear resampling in integer arithmetic (Pillow's filter widens with
    the scale), so that no detail is aliased and every machine produces the same bytes.
    """
    return _squared(open_picture(data, "RGB", background=WHITE), size)


def decode_mask(data: bytes, size: InputSize) -> np.ndarray:
    """Decode a mask like the picture that it belongs to: grey uint8 (side, side), 0 to 255.

    Transparent parts are black: where nothing is drawn, nothing is marked. Raises `UnusablePictureError`.
    """
    return _squared(open_picture(data, "L", background=BLACK), size)


def _squared(whole: Image.Image, size: InputSize) -> np.ndarray:
    shape = (size.side_px, size.side_px)
    resampling = Image.Resampling.BILINEAR
    if size.aspect == "pad":
        square = ImageOps.pad(whole, shape, resampling, color="black")
    elif size.aspect == "crop":
        square = ImageOps.fit(whole, shape, resampling)
    else:
        square = whole.resize(shape, resampling)
    return np.asarray(square, dtype=np.uint8)
