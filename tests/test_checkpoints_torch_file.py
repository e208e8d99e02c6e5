"""Weight files of PyTorch and safetensors against PyTorch itself, bit for bit."""

import io
import pickle
import struct
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from jaxperturb.checkpoints.torch_file import open_weights
from jaxperturb.errors import CheckpointError

DATA = Path(__file__).parents[2] / "shared" / "data"
CONTAINERS = {"zip": True, "legacy": False}
DTYPES = [
    "float16",
    "bfloat16",
    "float32",
    "float64",
    "uint8",
    "int8",
    "int16",
    "int32",
    "int64",
    "bool",
    "complex64",
    "complex128",
    "uint16",
    "uint32",
    "uint64",
    "float8_e4m3fn",
    "float8_e5m2",
]


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="PyTorch is not installed")


@pytest.fixture(params=CONTAINERS)
def save(request, torch, tmp_path):
    """Saves a value with PyTorch in one of its containers and returns the path."""

    def save(value, **options):
        path = tmp_path / "saved.pth"
        torch.save(value, path, _use_new_zipfile_serialization=CONTAINERS[request.param], **options)
        return path

    return save


def bits(tensor):
    """PyTorch's values as bytes, whatever their type."""
    tensor = tensor.detach().resolve_conj().contiguous().clone()
    return tensor.view(-1).view(__import__("torch").uint8).numpy().tobytes() if tensor.numel() else b""


def assert_same(array, tensor):
    assert array.shape == tuple(tensor.shape)
    assert array.dtype.name == str(tensor.dtype).removeprefix("torch.")
    assert array.flags.c_contiguous
    assert array.flags.aligned
    assert array.tobytes() == bits(tensor)


def flat(value, path=()):
    """The tensors in nested containers, by their path."""
    if hasattr(value, "items"):
        value = list(value.items())
    elif isinstance(value, list | tuple):
        value = list(enumerate(value))
    else:
        return {"/".join(path) or "tensor": value} if hasattr(value, "untyped_storage") else {}
    return {name: t for key, item in value for name, t in flat(item, (*path, str(key))).items()}


def assert_reads(path, value):
    file, expected = open_weights(path), flat(value)
    assert set(file.names) == set(expected)
    for name, tensor in expected.items():
        assert file.tensors[name].shape == tuple(tensor.shape)
        assert_same(file.read(name), tensor)
    return file


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_element_type(torch, save, dtype):
    values = torch.arange(24).reshape(2, 3, 4) % 5
    assert_reads(save({"w": values.to(getattr(torch, dtype))}), {"w": values.to(getattr(torch, dtype))})


def test_special_values_keep_their_bits(torch, save):
    values = torch.tensor([float("nan"), float("inf"), -float("inf"), -0.0, 1e-45, 3.4e38])
    state = {"f": values, "h": values.half(), "b": values.bfloat16(), "d": values.double()}
    assert_reads(save(state), state)


def test_strides_offsets_and_shared_storages(torch, save):
    base = torch.randn(6, 7, 8, generator=torch.Generator().manual_seed(0))
    state = {
        "whole": base,
        "transposed": base.permute(2, 0, 1),
        "step": base[1::2, ::3, 2::2],
        "row": base[3],
        "one": base[2, 3, 4],
        "windows": base.flatten().unfold(0, 5, 2),
        "repeated": base[0, :1].expand(9, 8),
        "channels_last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "tied": base,
    }
    file = assert_reads(save(state), state)
    shared = {file.tensors[name].segment for name in state if name != "channels_last"}
    assert len(shared) == 1


def test_empty_and_zero_dimensional_tensors(torch, save):
    state = {
        "none": torch.zeros(0),
        "no_rows": torch.zeros(0, 5, dtype=torch.float16),
        "no_columns": torch.zeros(5, 0, 2),
        "number": torch.tensor(3.5),
        "count": torch.tensor(7, dtype=torch.int64),
        "end": torch.arange(4.0)[4:],
    }
    assert_reads(save(state), state)


def test_parameters_modules_and_attributes(torch, save):
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Linear(4, 2))
    marked = torch.nn.Parameter(torch.ones(3))
    marked.note = "an attribute"
    plain = torch.arange(3.0)
    plain.note = "an attribute"
    state = {"sd": module.state_dict(), "p": torch.nn.Parameter(torch.ones(2, 3)), "m": marked, "t": plain}
    assert_reads(save(state), state)


def test_other_values_are_plain_data(torch, save):
    extra = OrderedDict(
        epoch=3,
        big=-(2**60),
        acc=59.44,
        name="Ünïcode",
        flag=True,
        nothing=None,
        raw=b"\x00\xff",
        history=[1, 2.5, (3, "x")],
        size=torch.Size([2, 3]),
        dtype=torch.float32,
        device=torch.device("cpu"),
        labels={"a", "b"},
        nested={1: {"deep": []}},
    )
    content = open_weights(save({"w": torch.ones(2), "extra": extra})).content
    labels = content["extra"].pop("labels")
    assert sorted(labels) == ["a", "b"]
    expected = {**extra, "size": (2, 3), "dtype": "float32", "device": "cpu"}
    expected.pop("labels")
    assert content["extra"] == expected
    assert all(
        type(v) in (int, float, str, bool, type(None), bytes, list, tuple, dict) for v in content["extra"].values()
    )


def test_numpy_scalars_become_plain_numbers(torch, save):
    extra = {"a": np.float64(97.38), "b": np.int32(-5), "c": np.bool_(True), "d": np.float32(0.1), "e": np.float16(2)}
    content = open_weights(save({"w": torch.ones(1), **extra})).content
    assert {key: content[key] for key in extra} == {key: value.item() for key, value in extra.items()}
    assert type(content["a"]) is float


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickle_protocols(torch, save, protocol):
    state = {"w": torch.arange(5.0), "v": {"x": torch.ones(2, 2)}, "text": "abc", "raw": b"abc", "set": {1}}
    file = assert_reads(save(state, pickle_protocol=protocol), state)
    assert (file.content["text"], file.content["raw"], file.content["set"]) == ("abc", b"abc", [1])


def test_lists_and_single_tensors(torch, save):
    assert_reads(
        save([torch.ones(2), (torch.zeros(3), {"k": torch.ones(1)})]),
        [torch.ones(2), (torch.zeros(3), {"k": torch.ones(1)})],
    )
    assert_reads(save(torch.ones(2)), torch.ones(2))


def test_files_without_checksums_are_read(torch, tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"w": torch.arange(9.0)}, tmp_path / "a.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    assert_reads(tmp_path / "a.pth", {"w": torch.arange(9.0)})


def test_large_tensor_comes_in_pieces(torch, save):
    tensor = torch.arange(3_000_000, dtype=torch.float32).reshape(3000, 1000)
    path = save({"w": tensor, "t": tensor.t()})
    assert_reads(path, {"w": tensor, "t": tensor.t()})
    pieces = list(open_weights(path).blocks("w", 1024))
    assert [rows for rows, _ in pieces] == [slice(0, 1024), slice(1024, 2048), slice(2048, 3000)]
    assert not pieces[0][1].flags.writeable


def test_python_2_strings(torch, tmp_path):
    path = tmp_path / "py2.pth"
    torch.save({"weight": torch.arange(3.0), "acc": np.float64(1.5)}, path, _use_new_zipfile_serialization=False)
    raw = path.read_bytes()
    for text in (b"weight", b"storage", b"cpu"):
        raw = raw.replace(b"X" + struct.pack("<I", len(text)) + text, b"U" + bytes([len(text)]) + text)
    assert b"U\x06weight" in raw
    path.write_bytes(raw)
    assert_reads(path, {"weight": torch.arange(3.0)})


def big_endian(path, numbers, code):
    """A zip as a big-endian machine writes it; there is none at hand, so it is put together here."""
    kind = {"f": "FloatStorage", "H": "BFloat16Storage"}[code]
    pickled = (
        b"\x80\x02}X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\n"
        + kind.encode()
        + b"\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x03tQK\x00K\x03\x85K\x01\x85\x89ccollections\nOrderedDict\n)RtRs."
    )
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", pickled)
        archive.writestr("a/byteorder", "big")
        archive.writestr("a/data/0", struct.pack(f">3{code}", *numbers))


def test_big_endian_files(tmp_path):
    big_endian(tmp_path / "f.pth", (1.5, -2.0, 3e10), "f")
    np.testing.assert_array_equal(open_weights(tmp_path / "f.pth").read("w"), np.array([1.5, -2.0, 3e10], np.float32))
    big_endian(tmp_path / "b.pth", (0x3F80, 0x4000, 0xC040), "H")
    expected = np.array([1, 2, -3], ml_dtypes.bfloat16)
    np.testing.assert_array_equal(open_weights(tmp_path / "b.pth").read("w"), expected)


def test_safetensors(tmp_path):
    arrays = {
        "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
        "half": np.ones((2, 2), np.float16),
        "brain": np.array([1, 2.5], ml_dtypes.bfloat16),
        "count": np.array(7),
        "empty": np.zeros((0, 3), np.float32),
        "flag": np.array([True, False]),
    }
    save_file(arrays, tmp_path / "s.anything", metadata={"format": "pt"})
    file = open_weights(tmp_path / "s.anything")
    assert (file.container, file.metadata, set(file.names)) == ("safetensors", {"format": "pt"}, set(arrays))
    for name, array in arrays.items():
        assert file.read(name).dtype == array.dtype
        assert file.read(name).shape == array.shape
        assert file.read(name).tobytes() == array.tobytes()


def shared_files():
    folder = DATA / "pth"
    return sorted(folder.iterdir()) if folder.is_dir() else []


REFUSED = {"arun_lenet.pth": "whole pickled model", "dou_model_int8.pth": "quantised"}
COUNTS = {
    "ccc_ckpt.t7": 107,
    "john_ckpt.pth": 26,
    "lpips_alexnet_linear.pth": 5,
    "mrfi_lenet_cifar10.pth": 10,
    "sak_lenet_fp16.pth": 10,
    "sifat_ckpt.pth": 10,
}


@pytest.mark.skipif(not shared_files(), reason="shared/data/pth is not there")
@pytest.mark.parametrize("name", [*REFUSED, *COUNTS])
def test_checkpoints_of_others(name):
    path = DATA / "pth" / name
    if name in REFUSED:
        with pytest.raises(CheckpointError, match=REFUSED[name]):
            open_weights(path)
        return
    file = open_weights(path)
    assert len(file.names) == COUNTS[name]
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: only names are checked")
    with torch.serialization.safe_globals([*numpy_scalar_names()]):
        value = torch.load(path, weights_only=True, map_location="cpu")
    assert_reads(path, value)
    numbers = {k: v for k, v in value.items() if isinstance(v, int | float)}
    assert {key: file.content[key] for key in numbers} == numbers


@pytest.mark.skipif(not shared_files(), reason="shared/data/pth is not there")
def test_the_list_of_others_is_complete():
    assert {path.name for path in shared_files()} == {*REFUSED, *COUNTS}


def numpy_scalar_names():
    return [(np._core.multiarray.scalar, "numpy.core.multiarray.scalar"), np.dtype, np.dtypes.Float64DType]


def tar_head():
    import tarfile

    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for member in ("sys_info", "pickle", "tensors", "storages"):
            archive.addfile(tarfile.TarInfo(member))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "empty"),
        (b"\n<!DOCTYPE html><html>404</html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"\x1f\x8b\x08\x00", "gzip"),
        (b"\x93NUMPY\x01\x00", "NumPy"),
        (pickle.dumps({"a": 1}), "not one of torch.save"),
        (b"some text", "neither a PyTorch nor a safetensors"),
        (b"PK\x03\x04" + bytes(200), "no end record"),
        (struct.pack("<Q", 1 << 30) + b"{", "neither"),
        (struct.pack("<Q", 20) + b'{"a": not json     }' + bytes(10), "safetensors library refuses"),
        (tar_head(), "tar container"),
    ],
)
def test_files_of_another_kind_are_named(tmp_path, raw, message):
    path = tmp_path / "weights.pth"
    path.write_bytes(raw)
    with pytest.raises(CheckpointError, match=message) as caught:
        open_weights(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_files_and_folders(tmp_path):
    for path in (tmp_path / "none.pth", tmp_path):
        with pytest.raises(CheckpointError, match="cannot be opened"):
            open_weights(path)


@pytest.mark.filterwarnings("ignore:.*quantized tensor creation:UserWarning")
def test_whole_modules_and_unusual_tensors(torch, save):
    module = torch.nn.Linear(2, 2)
    with pytest.raises(CheckpointError, match=r"whole pickled model.*state_dict"):
        open_weights(save(module))
    with pytest.raises(CheckpointError, match="quantised"):
        open_weights(save({"w": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)}))
    with pytest.raises(CheckpointError, match="sparse"):
        open_weights(save({"w": torch.eye(2).to_sparse()}))
    with pytest.raises(CheckpointError, match=r"conj|complex|negative"):
        open_weights(save({"w": torch.ones(2, dtype=torch.complex64).conj()}))


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_torchscript_archives(torch, tmp_path):
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "s.pt")
    with pytest.raises(CheckpointError, match="TorchScript"):
        open_weights(tmp_path / "s.pt")


def test_a_flipped_bit_of_a_value_is_noticed(torch, tmp_path):
    path = tmp_path / "w.pth"
    torch.save({"a": torch.arange(100.0), "b": torch.ones(3)}, path)
    raw = bytearray(path.read_bytes())
    raw[raw.index(np.arange(100, dtype=np.float32).tobytes()) + 201] ^= 4
    path.write_bytes(raw)
    file = open_weights(path)
    assert file.read("b").tolist() == [1, 1, 1]
    with pytest.raises(CheckpointError, match="checksum of a"):
        file.read("a")


def test_an_unknown_name_gets_a_hint(tmp_path):
    save_file({"conv1": np.ones(2)}, tmp_path / "s")
    with pytest.raises(CheckpointError, match="did you mean 'conv1'"):
        open_weights(tmp_path / "s").read("conv2")


def test_reading_imports_no_torch(tmp_path):
    save_file({"conv1": np.ones(2)}, tmp_path / "s")
    big_endian(tmp_path / "z", (1.0, 2.0, 3.0), "f")
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from jaxperturb.checkpoints.torch_file import open_weights\n"
        "from jaxperturb.checkpoints import convert\n"
        f"print(open_weights({str(tmp_path / 's')!r}).read('conv1'), open_weights({str(tmp_path / 'z')!r}).read('w'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert done.stdout == "[1. 1.] [1. 2. 3.]\n", done.stderr
