"""Data sets from batches: NumPy, PyTorch's loader, mappings as grain yields them."""

import itertools
from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np
import pytest

from jaxperturb.data import from_batches
from jaxperturb.errors import DataError

IMAGES = np.random.default_rng(0).integers(0, 256, (10, 6, 5, 3), dtype=np.uint8)
LABELS = np.arange(10) % 3


def batches(size: int = 4) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for start in range(0, 10, size):
        yield IMAGES[start : start + size], LABELS[start : start + size]


def test_batches_join_in_their_order_the_short_last_one_too():
    data = from_batches(batches(), classes=["a", "b", "c"], name="mine")
    assert (len(data), data.classes, data.labels.tolist()) == (10, ("a", "b", "c"), LABELS.tolist())
    np.testing.assert_array_equal([data.read(i) for i in range(10)], IMAGES)


def test_mappings_and_jax_arrays_are_batches_too():
    data = from_batches([{"image": jnp.asarray(i), "label": jnp.asarray(n), "id": [1]} for i, n in batches()])
    np.testing.assert_array_equal([data.read(i) for i in range(10)], IMAGES)


def test_a_limit_stops_a_loader_without_an_end():
    read = []

    def endless() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for number in itertools.count():
            read.append(number)
            yield IMAGES[:4], LABELS[:4]

    assert len(from_batches(endless(), limit=6)) == 6
    assert read == [0, 1]


def test_pytorch_s_loader_gives_channels_first(torch):
    tensors = torch.tensor(IMAGES).permute(0, 3, 1, 2).float() / 255
    pairs = torch.utils.data.TensorDataset(tensors, torch.tensor(LABELS))
    data = from_batches(torch.utils.data.DataLoader(pairs, batch_size=4))
    assert data.read(0).dtype == np.float32
    np.testing.assert_allclose([data.read(i) for i in range(10)], IMAGES / 255, atol=1e-7)
    half = from_batches([(tensors.bfloat16().requires_grad_(), torch.tensor(LABELS))])
    np.testing.assert_allclose([half.read(i) for i in range(10)], IMAGES / 255, atol=1 / 256)
    kept = from_batches([(torch.tensor(IMAGES), torch.tensor(LABELS))], channels_first=False)
    np.testing.assert_array_equal(kept.read(3), IMAGES[3])


def test_numpy_s_channels_first_are_said():
    data = from_batches([(np.moveaxis(i, -1, 1), n) for i, n in batches()], channels_first=True)
    np.testing.assert_array_equal(data.read(7), IMAGES[7])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (3, "expected an iterable of batches .*, got int"),
        ([], "the loader yields no batches"),
        ([IMAGES], "batch 0 is a ndarray, not a pair"),
        ([(IMAGES, LABELS, LABELS)], "batch 0 is a tuple, not a pair"),
        ([{"image": IMAGES, "target": LABELS}], "batch 0 holds image, target; expected image and label"),
        ([(IMAGES, LABELS[:5])], r"batch 0 holds arrays of shapes \(10, 6, 5, 3\) and \(5,\)"),
        ([(IMAGES, np.eye(10))], "expected n images and n labels"),
        ([(IMAGES, LABELS), (IMAGES[:, :3], LABELS)], r"batch 1 has images of uint8 \(3, 5, 3\), the first one"),
        ([(IMAGES, LABELS), (IMAGES / 255, LABELS)], "batch 1 has images of float64"),
        ([([np.zeros((2, 2, 3)), np.zeros((3, 3, 3))], [0, 1])], "images of a batch have different shapes"),
        ([(IMAGES, LABELS / 2)], "labels must be whole numbers"),
    ],
)
def test_what_are_no_batches_is_refused(given, message):
    with pytest.raises(DataError, match=message) as caught:
        from_batches(given)
    assert "\n" not in str(caught.value)


def test_a_limit_below_one_is_refused():
    with pytest.raises(DataError, match="limit must be at least 1, got 0"):
        from_batches(batches(), limit=0)
