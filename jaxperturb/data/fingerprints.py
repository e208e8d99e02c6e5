"""What tells one set of images from another: hashes of their contents, labels and names, in study order."""

import hashlib

import numpy as np
from jaxtyping import Int64

from jaxperturb.data.dataset import Dataset
from jaxperturb.data.order import study_order
from jaxperturb.errors import ImageError

LINK = 256  # images of one hash


def image_chain(
    dataset: Dataset, count: int, on_bad_image: str = "raise", known: tuple[str, ...] = ()
) -> tuple[str, ...]:
    """Returns the hashes of `PreparedImages.chain` for the first `count` images in study order.

    Args:
        dataset: labelled images.
        count: of images.
        on_bad_image: "raise" or "skip", for an image whose content cannot be read.
        known: the beginning of the chain, which is not computed again.
    """
    order = study_order(dataset.labels)
    links = list(known)
    for start in range(len(links) * LINK, count, LINK):
        links.append(_link(dataset, order[start : start + LINK], links[-1] if links else "", on_bad_image))
    return tuple(links)


def split_fingerprint(dataset: Dataset) -> str:
    """Returns a SHA-256 of all images of a data set with their labels and identifiers, before any preprocessing."""
    return image_chain(dataset, len(dataset))[-1]


def _link(dataset: Dataset, positions: Int64[np.ndarray, " m"], before: str, on_bad_image: str) -> str:
    digest = hashlib.sha256(before.encode())
    for position in positions.tolist():
        kind, content = _content(dataset, position, on_bad_image)
        head = f"{kind} {dataset.labels[position]} {dataset.identifiers[position]!r}"
        for part in (head.encode(), content):
            digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()


def _content(dataset: Dataset, position: int, on_bad_image: str) -> tuple[str, bytes]:
    """What identifies an image: a word on its kind, and the digest of its file or its pixels."""
    try:
        if dataset.digest is not None:
            return "file", dataset.digest(position).encode()
        image = np.ascontiguousarray(dataset.read(position))
    except ImageError:
        if on_bad_image == "raise":
            raise
        return "unreadable", b""
    return f"{image.dtype.name} {image.shape}", image.astype(image.dtype.newbyteorder("<"), copy=False).tobytes()
