"""Pictures from the bytes of files."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from optimum_serve.errors import RequestError, invalid

#: The greatest number of pixels of a request: more is taken for an attempt to fill the memory.
_PIXELS = 50_000_000
#: Formats that are read: those that browsers and cameras write. PIL has others, of which one runs another program.
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
#: First letters of PIL's modes of more than 8 bits, of which a conversion to colours cuts off the values above 255.
_WIDE = ("I", "F")


def read_pictures(files: Sequence[bytes]) -> list[Any]:
    """Return files as pictures of PIL, in colours and upright.

    Raises:
        RequestError: one is no picture, or together they have too many pixels; or pillow is not installed (501).
    """
    try:
        import PIL  # noqa: F401
    except ImportError:
        message = "pictures need pillow, which is not installed on this server"
        raise RequestError(status=501, kind="not_supported", message=message) from None
    found, room = [], _PIXELS
    for number, content in enumerate(files):
        found.append(_picture(content, number, room))
        room -= found[-1].width * found[-1].height
    return found


def _picture(content: bytes, number: int, room: int) -> Any:
    from PIL import Image, ImageOps

    try:
        picture = Image.open(io.BytesIO(content), formats=_FORMATS)
        if picture.width * picture.height > room:
            size = f"{picture.width} x {picture.height} pixels"
            message = f"file {number} has {size}, and all of a request may have {_PIXELS}"
            raise invalid(message, "too_large", 413)
        if picture.mode[0] in _WIDE:
            raise invalid(f"file {number} has mode {picture.mode!r}, of more than 8 bits: scale its values to 0…255")
        return ImageOps.exif_transpose(picture).convert("RGB")
    except RequestError:
        raise
    except Exception:  # noqa: BLE001 - the decoders of formats raise errors of many types
        raise invalid(f"file {number} is no picture that can be read") from None
