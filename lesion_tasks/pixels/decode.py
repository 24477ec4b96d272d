"""A picture of any shape -> a square of pixels: the same for materializing, for masks and for serving."""

import numpy as np
from PIL import Image, ImageOps

from lesion_tasks.archive.picture import BLACK, WHITE, UnusablePictureError, open_picture
from lesion_tasks.catalog import InputSize


def decode_picture(data: bytes, size: InputSize) -> np.ndarray:
    """Decode a picture to a square: uint8 (side, side, 3), RGB 0 to 255. Raises `UnusablePictureError`.

    Transparent parts are white. Antialiased bilinear resampling in integer arithmetic (Pillow's filter widens with
    the scale), so that no detail is aliased and every machine produces the same bytes.
    """
    return _squared(open_picture(data, "RGB", background=WHITE), size)


def square_of_pixels(pixels: np.ndarray, size: InputSize) -> np.ndarray:
    """The same of a picture that is decoded already: uint8 (height, width, 3), RGB 0 to 255.

    Raises `UnusablePictureError` for another type or shape.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
        found = f"{pixels.dtype} {pixels.shape}"
        raise UnusablePictureError("unknown_format", f"{found} found, expected uint8 (height, width, 3)")
    return _squared(Image.fromarray(pixels), size)


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
