"""A picture of any shape -> a square of pixels: the same for materializing, for masks and for serving."""

import io

import numpy as np
from PIL import Image, ImageOps


def decode_picture(data: bytes, side_px: int, aspect: str = "squash", *, mode: str = "RGB") -> np.ndarray:
    """Decode a picture and make it a square: uint8 (side, side, 3), RGB 0..255; mode "L" gives grey (side, side).

    `aspect` is one of `catalog.ASPECTS`. Antialiased bilinear resampling in whole numbers (Pillow's filter widens with
    the scale), so that no detail is aliased and every machine gives the same bytes.
    """
    size = (side_px, side_px)
    resampling = Image.Resampling.BILINEAR
    with Image.open(io.BytesIO(data)) as picture:
        whole = picture.convert(mode)
    if aspect == "pad":
        square = ImageOps.pad(whole, size, resampling, color="black")
    elif aspect == "crop":
        square = ImageOps.fit(whole, size, resampling)
    else:
        square = whole.resize(size, resampling)
    return np.asarray(square, dtype=np.uint8)
