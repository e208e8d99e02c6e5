"""Picture files as torchvision's default loader reads them: Pillow, then RGB; the EXIF orientation is ignored."""

import errno
import hashlib
import io
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from jaxperturb.errors import ImageError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")
# Pillow's other formats are not for photographs, and one of them (EPS) starts a program.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
_OF_THE_MACHINE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


def read_picture(path: Path) -> UInt8[np.ndarray, "h w 3"]:
    """Returns the pixels of a picture file, the first frame where there are several.

    Raises:
        ImageError: it is gone, empty, truncated, of an unknown format, or larger than Pillow takes for safe.
    """
    return decode_picture(read_bytes(path), str(path))


def decode_picture(encoded: bytes, name: str) -> UInt8[np.ndarray, "h w 3"]:
    """Returns the pixels of an encoded picture, the first frame where there are several.

    Equals ``numpy.asarray(Image.open(file).convert("RGB"))``: palettes are looked up, alpha is dropped, CMYK and 16
    bits are converted as Pillow does.

    Args:
        encoded: the content of a file.
        name: of the picture, for messages.

    Raises:
        ImageError: see `read_picture`.
    """
    if not encoded:
        raise ImageError(f"{name} is empty; remove it or fetch it again")
    try:
        with Image.open(io.BytesIO(encoded), formats=_FORMATS) as picture:
            if is_too_large(*picture.size):
                raise _too_large(name)
            # Pillow warns of transparency that is lost; it is meant to be.
            picture.info.pop("transparency", None)
            return np.asarray(picture.convert("RGB"))
    except (ImageError, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_large(name) from None
    except UnidentifiedImageError:
        kinds = ", ".join(_FORMATS)
        raise ImageError(f"{name} is not a picture ({kinds}); remove it or fetch it again") from None
    except Exception as error:  # Pillow's decoders raise whatever a damaged file makes them stumble over
        raise ImageError(f"{name} is damaged ({_first_line(error)}); fetch it again") from error


def file_digest(path: Path) -> str:
    """Returns the SHA-256 (hexadecimal) of a file.

    Raises:
        ImageError: it cannot be read.
    """
    return hashlib.sha256(read_bytes(path)).hexdigest()


def read_bytes(path: Path) -> bytes:
    """Returns the content of a picture's file.

    Raises:
        ImageError: it is gone or cannot be read.
        OSError: this process has too many files open, or no memory: that is no fault of the picture.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ImageError(f"{path} is gone; restore it") from None
    except OSError as error:
        if error.errno in _OF_THE_MACHINE:
            raise
        raise ImageError(f"{path} cannot be read: {error.strerror or error}") from error


def is_too_large(width: int, height: int) -> bool:
    """Returns whether a picture has more pixels than Pillow takes for safe."""
    return Image.MAX_IMAGE_PIXELS is not None and width * height > Image.MAX_IMAGE_PIXELS


def _too_large(name: str) -> ImageError:
    return ImageError(f"{name} has more than {Image.MAX_IMAGE_PIXELS:,} pixels, too many to be safe; make it smaller")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
