"""Seeded mutations of weight files: each ends in arrays that are right, or in our own error."""

import io
import json
import random
import struct

import numpy as np
import pytest
from checkpoint_files import dictionary, legacy_file, many, pickled, storage, tensor, text, zip_file
from safetensors import SafetensorError
from safetensors.numpy import load, save

from jaxperturb.checkpoints.torch_file import open_weights
from jaxperturb.errors import CheckpointError

ZIP_CASES, LEGACY_CASES, SAFETENSORS_CASES, TORCH_CASES = 2500, 1800, 900, 600
VALUES = {
    "w": np.arange(12, dtype=np.float32).reshape(3, 4) + 0.5,
    "b": np.array([-1, 2, 3], np.int64),
    "h": np.array(1.5, np.float16),
}
KINDS = {"w": "FloatStorage", "b": "LongStorage", "h": "HalfStorage"}


def base_pickle(view=b""):
    strides = {"w": (4, 1), "b": (1,), "h": ()}
    entries = {
        key: tensor(storage(str(i), KINDS[key], array.size, view), 0, array.shape, strides[key])
        for i, (key, array) in enumerate(VALUES.items())
    }
    entries["t"] = tensor(storage("0", "FloatStorage", 12, view), 1, (2, 3), (1, 4))
    entries["epoch"] = b"K\x07"
    return pickled(dictionary({"net": dictionary(entries), "name": text("fuzz"), "list": many([b"N", b"\x88"])}))


ORIGINAL = {f"net/{key}": array for key, array in VALUES.items()}
ORIGINAL["net/t"] = np.lib.stride_tricks.as_strided(VALUES["w"].ravel()[1:], (2, 3), (4, 16)).copy()


def base_zip():
    return zip_file(base_pickle(), {str(i): array.tobytes() for i, array in enumerate(VALUES.values())})


def base_legacy():
    storages = {str(i): (array.size, array.tobytes()) for i, array in enumerate(VALUES.values())}
    return legacy_file(base_pickle(b"N"), storages)


def mutate(rng, raw, others):
    """One to three changes: a bit, a byte, a number of sizes' usual form, a cut, a piece moved, doubled or lent."""
    raw = bytearray(raw)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        place = rng.randrange(len(raw))
        length = rng.randrange(1, 40)
        match rng.randrange(9):
            case 0 | 1 | 2:
                raw[place] ^= 1 << rng.randrange(8)
            case 3:
                raw[place] = rng.choice((0, 1, 0x2E, 0x7F, 0x80, 0xFF, rng.randrange(256)))
            case 4:
                raw[place : place + 4] = struct.pack("<I", rng.choice((0, 1, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, len(raw))))
            case 5:
                del raw[place : place + length]
            case 6:
                del raw[place:]
            case 7:
                raw[place:place] = raw[place : place + length]
            case 8:
                lender = rng.choice(others)
                start = rng.randrange(len(lender))
                raw[place : place + length] = lender[start : start + length]
        raw = raw or bytearray(b"\0")
    return bytes(raw)


def spliced(rng, raw):
    """A zip whose members changed places, names or contents, with checksums that fit."""
    pickle = base_pickle()
    arrays = [array.tobytes() for array in VALUES.values()]
    choice = rng.randrange(4)
    if choice == 0:
        rng.shuffle(arrays)
    elif choice == 1:
        arrays[rng.randrange(3)] = arrays[rng.randrange(3)][: rng.randrange(60)]
    elif choice == 2:
        pickle = mutate(rng, pickle, [raw])
    else:
        del arrays[rng.randrange(3)]
    return zip_file(pickle, {str(i): array for i, array in enumerate(arrays)})


def read_all(path):
    file = open_weights(path)
    return {name: file.read(name) for name in file.names}


def outcome(path, raw):
    """The arrays of a file, or None where it is refused; anything else fails the test."""
    path.write_bytes(raw)
    try:
        return read_all(path)
    except CheckpointError:
        return None


def assert_equal(found, expected):
    assert set(found) == set(expected)
    for name, array in expected.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert found[name].tobytes() == array.tobytes()


def test_the_bases_are_read(tmp_path):
    assert_equal(outcome(tmp_path / "a", base_zip()), ORIGINAL)
    assert_equal(outcome(tmp_path / "b", base_legacy()), ORIGINAL)


def test_mutated_zips_give_the_original_or_an_error(tmp_path):
    rng, base = random.Random(1), base_zip()
    kept = 0
    for _ in range(ZIP_CASES):
        found = outcome(tmp_path / "a", mutate(rng, base, [base, base_legacy()]))
        if found is not None:
            # Every member has a checksum, so nothing else than the original may come out.
            assert_equal(found, ORIGINAL)
            kept += 1
    assert 0 < kept < ZIP_CASES // 2


def test_spliced_members_give_what_the_members_say(tmp_path):
    rng, base = random.Random(2), base_zip()
    for _ in range(300):
        found = outcome(tmp_path / "a", spliced(rng, base))
        for name, array in (found or {}).items():
            assert array.nbytes <= 4096, name


def changed_values(raw):
    """The arrays of a legacy file of our layout whose pickles are untouched: an own reading of its last bytes."""
    sizes = [array.nbytes for array in VALUES.values()]
    position, arrays = len(raw), {}
    for (key, array), size in reversed(list(zip(VALUES.items(), sizes, strict=True))):
        arrays[f"net/{key}"] = np.frombuffer(raw[position - size : position], array.dtype).reshape(array.shape)
        position -= size + 8
    arrays["net/t"] = np.ascontiguousarray(
        np.lib.stride_tricks.as_strided(arrays["net/w"].ravel()[1:], (2, 3), (4, 16))
    )
    return arrays


def test_mutated_legacy_values_are_read_as_they_are(tmp_path):
    rng, base = random.Random(3), base_legacy()
    tail = sum(array.nbytes + 8 for array in VALUES.values())
    for _ in range(300):
        raw = bytearray(base)
        raw[len(raw) - 1 - rng.randrange(tail)] ^= 1 << rng.randrange(8)
        found = outcome(tmp_path / "a", bytes(raw))
        if found is not None:
            assert_equal(found, changed_values(bytes(raw)))


def test_mutated_legacy_files_give_bounded_arrays_or_an_error(tmp_path):
    rng, base = random.Random(4), base_legacy()
    for _ in range(LEGACY_CASES):
        found = outcome(tmp_path / "a", mutate(rng, base, [base, base_zip()]))
        for name, array in (found or {}).items():
            assert array.nbytes <= 1 << 24, name


def test_mutated_legacy_files_agree_with_torch(tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    rng, base, compared = random.Random(5), base_legacy(), 0
    for _ in range(TORCH_CASES):
        raw = mutate(rng, base, [base])
        found = outcome(tmp_path / "a", raw)
        if found is None:
            continue
        try:
            value = torch.load(io.BytesIO(raw), weights_only=True)
        except Exception:  # PyTorch may refuse in any way what it cannot read: then there is nothing to compare
            continue
        compared += 1
        assert_equal(found, {name: array.contiguous().numpy() for name, array in flat(value).items()})
    assert compared > 20


def flat(value, path=()):
    if hasattr(value, "contiguous"):
        return {"/".join(path) or "tensor": value}
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    return {name: t for key, item in items for name, t in flat(item, (*path, str(key))).items()}


def test_mutated_safetensors_agree_with_the_library(tmp_path):
    rng, base, compared = random.Random(6), save(dict(VALUES)), 0
    for _ in range(SAFETENSORS_CASES):
        raw = mutate(rng, base, [base])
        found = outcome(tmp_path / "a", raw)
        if found is not None:
            assert_equal(found, loaded(raw))
            compared += 1
    assert compared > 50


def loaded(raw):
    try:
        return load(raw)
    except SafetensorError as error:
        pytest.fail(f"read a file that the library refuses: {error}: {json.dumps(raw[:200].decode('latin-1'))}")


def test_there_are_enough_cases():
    assert ZIP_CASES + 300 + 300 + LEGACY_CASES + SAFETENSORS_CASES >= 5000
