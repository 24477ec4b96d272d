"""A picture of any shape -> a square of pixels: the same for materializing, for masks and for serving."""

import io

import numpy as np
from PIL import Image, ImageOps

from lesion_tasks.catalog import InputSize


def decode_picture(data: bytes, size: InputSize, *, mode: str = "RGB") -> np.ndarray:
    """Decode a picture and make it a square: uint8 (side, side, 3), RGB 0..255; mode "L" gives grey (side, side).

    Antialiased bilinear resampling in whole numbers (Pillow's filter widens with
    the scale), so that no detail is aliased and every machine gives the same bytes.
    """
    shape = (size.side_px, size.side_px)
    resampling = Image.Resampling.BILINEAR
    with Image.open(io.BytesIO(data)) as picture:
        whole = picture.convert(mode)
    if size.aspect == "pad":
        square = ImageOps.pad(whole, shape, resampling, color="black")
    elif size.aspect == "crop":
        square = ImageOps.fit(whole, shape, resampling)
    else:
        square = whole.resize(shape, resampling)
    return np.asarray(square, dtype=np.uint8)
