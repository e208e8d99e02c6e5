"""How an image becomes a network's input: torchvision's recipe on Pillow images."""

import numpy as np
from jaxtyping import Float32, Num, UInt8
from PIL import Image

from jaxperturb.data.pictures import is_too_large
from jaxperturb.errors import DataError, ImageError
from jaxperturb.networks.preprocessing import Preprocessing


def to_pixels(image: UInt8[np.ndarray, "h w c"], preprocessing: Preprocessing) -> UInt8[np.ndarray, "h2 w2 c2"]:
    """Converts channels, resizes and crops, as torchvision does with a Pillow image.

    Equals, bit for bit, ``Compose([Resize(resize), CenterCrop(crop)])`` of torchvision on the image as RGB, and the
    same after ``Grayscale()`` for a network that takes one channel.

    Args:
        image: (height, width, channels) with 1 channel (grey), 3 (RGB) or 4 (RGB and alpha, which is dropped).
        preprocessing: what to do.

    Returns:
        Pixels from 0 to 255, channels in the order that `preprocessing` names.

    Raises:
        DataError: another number of channels.
        ImageError: so elongated that it would be too large once resized.
    """
    if image.shape[2] not in (1, 3, 4):
        raise DataError(f"an image has {image.shape[2]} channels; expected 1 (grey), 3 (RGB) or 4 (RGB and alpha)")
    picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
    picture = picture.convert("L" if preprocessing.channels == "L" else "RGB")
    picture = _crop(_resize(picture, preprocessing), preprocessing.crop)
    pixels = np.asarray(picture).reshape(picture.height, picture.width, -1)
    return pixels[..., ::-1] if preprocessing.channels == "BGR" else pixels


def normalise(pixels: Num[np.ndarray, "*n h w c"], preprocessing: Preprocessing) -> Float32[np.ndarray, "*n h w c"]:
    """Returns ``(pixels * scale - mean) / std`` in float32."""
    mean, std = np.asarray(preprocessing.mean, np.float32), np.asarray(preprocessing.std, np.float32)
    normal = pixels.astype(np.float32)
    # In place: a block of photographs takes hundreds of megabytes.
    normal *= np.float32(preprocessing.scale)
    normal -= mean
    normal /= std
    return normal


def _resize(picture: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    resize = preprocessing.resize
    if resize is None:
        return picture
    if isinstance(resize, tuple):
        height, width = resize
    else:
        short, long = sorted(picture.size)
        other = int(resize * long / short)
        width, height = (resize, other) if picture.width <= picture.height else (other, resize)
    if is_too_large(width, height):
        raise ImageError(f"it is {picture.width} by {picture.height} pixels, too elongated to be resized")
    return picture.resize((width, height), Image.Resampling[preprocessing.interpolation.upper()])


def _crop(picture: Image.Image, side: int | None) -> Image.Image:
    if side is None:
        return picture
    left, top = (_offset(length, side) for length in picture.size)
    # Pillow fills what lies outside the picture with black, as torchvision's padding does.
    return picture.crop((left, top, left + side, top + side))


def _offset(length: int, side: int) -> int:
    # torchvision pads a smaller image first, the odd pixel after it; in a larger one it rounds halves to even.
    return -((side - length) // 2) if length < side else round((length - side) / 2)
