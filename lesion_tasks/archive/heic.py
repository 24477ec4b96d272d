"""A HEIC file, as phones write it -> its first picture, upright, as 8-bit RGB. Needs the extra `heic`."""

import io

from PIL import Image
from pillow_heif import open_heif

from lesion_tasks.archive.picture import UnusablePictureError


def heic_picture(data: bytes, *, max_pixels: int) -> Image.Image:
    """Decode the primary picture. libheif applies the container's rotation. Raises `UnusablePictureError`."""
    try:
        opened = open_heif(io.BytesIO(data), convert_hdr_to_8bit=True)
        width_px, height_px = opened.size
        if width_px * height_px > max_pixels:
            detail = f"{width_px} x {height_px} found, expected at most {max_pixels} pixels"
            raise UnusablePictureError("too_many_pixels", detail)
        return opened.to_pillow()
    except (OSError, ValueError, RuntimeError, EOFError, SyntaxError, MemoryError) as error:
        said = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UnusablePictureError("damaged", said) from error
