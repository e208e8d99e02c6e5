"""The one fixed order in which a study takes the images of a data set."""

import hashlib
import heapq

import numpy as np
from jaxtyping import Int, Int64

from jaxperturb.types import Labels


def study_order(labels: Labels) -> Int64[np.ndarray, " n"]:
    """Returns the positions of all images in study order: a permutation of 0 … n-1 that depends on the labels alone.

    Every prefix holds each class in the set's proportion to within one image: of m images, a class with a share of s
    has more than m·s - 1 and fewer than m·s + 1. Within a class the order is that of a hash of the position, so it is
    unrelated to how the set is sorted, and the same with every version of every library.
    """
    labels = np.asarray(labels)
    classes, counts = np.unique(labels, return_counts=True)
    members = [_shuffled(np.flatnonzero(labels == label)) for label in classes]
    turns = _turns(counts, [_hash(b"class", int(label)) for label in classes])
    taken = np.zeros(len(classes), np.int64)
    order = np.empty(labels.size, np.int64)
    for place, index in enumerate(turns):
        order[place] = members[index][taken[index]]
        taken[index] += 1
    return order


def _turns(counts: Int[np.ndarray, " k"], ties: list[bytes]) -> list[int]:
    """Returns which class comes at each place.

    Member j of a class with c of n images must come at a place in [floor(j·n/c), ceil((j+1)·n/c)). Taking the earliest
    deadline among those that may come meets all deadlines (Baruah et al. 1996, proportionate progress), and a class
    that meets its own is never a whole image off its share.
    """
    total = int(counts.sum())
    arrivals: list[list[int]] = [[] for _ in range(total)]
    for index, count in enumerate(counts.tolist()):
        for j in range(count):
            arrivals[j * total // count].append(index)
    waiting: list[tuple[int, bytes, int]] = []
    seen = [0] * len(counts)
    turns = []
    for place in range(total):
        for index in arrivals[place]:
            seen[index] += 1
            heapq.heappush(waiting, (-(-seen[index] * total // int(counts[index])), ties[index], index))
        turns.append(heapq.heappop(waiting)[2])
    return turns


def _shuffled(positions: Int[np.ndarray, " n"]) -> list[int]:
    return sorted(positions.tolist(), key=lambda position: _hash(b"image", position))


def _hash(what: bytes, number: int) -> bytes:
    return hashlib.sha256(what + number.to_bytes(8, "little", signed=True)).digest()
