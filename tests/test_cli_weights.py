"""``convert``, ``inspect``, ``export`` and ``--network``: what a user types, and one line for what goes wrong."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import serialization
from safetensors.numpy import load_file, save_file
from test_checkpoints_known import gives, serving
from torchvision_copies import small, weights

import jaxperturb as jp
from jaxperturb.checkpoints import known, load_network, read_manifest
from jaxperturb.cli import main

ROOT = Path(__file__).parents[1]


@pytest.fixture
def line(capsys):
    """Runs a command that must fail with status 2 and one line on standard error; returns the line."""

    def run(*words):
        assert main.run(words) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("jaxperturb: ")
        assert err.count("\n") == 1
        return err

    return run


@pytest.fixture
def says(capsys):
    """Runs a command that must succeed; returns what it prints."""

    def run(*words):
        assert main.run(words) == 0
        out, err = capsys.readouterr()
        assert err == ""
        return out

    return run


def tensors(name="alexnet", **changes):
    arrays = small(name) | changes
    return {key: np.ascontiguousarray(array) for key, array in arrays.items() if array is not None}


def saved(path="w.safetensors", name="alexnet", **changes):
    save_file(tensors(name, **changes), path)
    return path


@pytest.mark.parametrize("kept", ["orbax", "safetensors"])
def test_convert_makes_a_checkpoint_that_everything_takes(says, kept):
    told = says("convert", saved(), "--out=mine", f"--format={kept}")
    assert told == "mine: alexnet, 7 classes, images of 224x224x3; use it with --weights=mine\n"
    manifest = read_manifest(Path("mine"))
    assert (manifest.storage, manifest.name, manifest.licence) == (kept, "mine", "unknown")
    assert manifest.options == {"classes": 7, "width": 0.125, "dense_width": 0.0625, "pooled_size": 2}
    digest = subprocess.run(["sha256sum", "w.safetensors"], capture_output=True, text=True, check=True).stdout
    assert manifest.source == {"file": "w.safetensors", "container": "safetensors", "sha256": digest.split()[0]}
    kernel = load_network("mine").params["params"]["fc8"]["kernel"]
    np.testing.assert_array_equal(kernel, tensors()["classifier.6.weight"].T)
    assert "conv5" in says("layers", "--weights=mine")
    assert f"arrays as {kept}" in says("inspect", "mine")


def test_convert_without_out_takes_the_files_name(says):
    assert "checkpoints/w: " in says("convert", saved())
    assert load_network("checkpoints/w").name == "w"


def test_convert_writes_nothing_over(line, says):
    says("convert", saved(), "--out=mine")
    assert "mine exists already" in line("convert", "w.safetensors", "--out=mine")


def test_a_weight_file_needs_no_converting_first(says):
    assert "conv1_1" in says("layers", f"--weights={saved(name='vgg11_bn')}")
    assert "conv1_1" in says("layers", f"--weights={saved(name='vgg11_bn')}", "--network=vgg11_bn")


def test_a_wrong_architecture(line):
    told = line("convert", saved(), "--architecture=vgg11")
    assert "does not fit vgg11: missing" in told
    assert "no architecture is called 'vg11'; did you mean 'vgg11'" in line("convert", saved(), "--architecture=vg11")
    save_file({"conv1.weight": np.zeros((6, 3, 5, 5), np.float32)}, "lenet.safetensors")
    assert "of no architecture that can be converted" in line("convert", "lenet.safetensors")


def test_a_truncated_file(line, torch):
    torch.save({key: torch.from_numpy(array) for key, array in tensors().items()}, "w.pth")
    content = Path("w.pth").read_bytes()
    Path("w.pth").write_bytes(content[: len(content) // 2])
    assert "w.pth: " in line("convert", "w.pth")
    assert "w.pth: " in line("inspect", "w.pth")
    content = Path(saved()).read_bytes()
    Path("w.safetensors").write_bytes(content[:-100])
    assert "w.safetensors: the safetensors library refuses it" in line("convert", "w.safetensors")


def test_a_web_page(line):
    Path("w.pth").write_text("<!DOCTYPE html><html>404 Not Found</html>")
    for command in ("convert", "inspect"):
        assert "w.pth: it is a web page, not weights; the download went wrong, get it again" in line(command, "w.pth")


def test_a_checkpoint_of_an_optimiser(line, torch):
    parameter = torch.nn.Parameter(torch.ones(3))
    optimiser = torch.optim.Adam([parameter])
    parameter.sum().backward()
    optimiser.step()
    torch.save(optimiser.state_dict(), "w.pth")
    assert "it holds an optimiser's state and no network" in line("convert", "w.pth")


def test_a_missing_and_an_extra_key(line):
    told = line("convert", saved(**{"features.3.bias": None}))
    assert "does not fit alexnet: missing 1: features.3.bias (24)" in told
    told = line("convert", saved(extra=np.zeros((2, 5), np.float32)))
    assert "does not fit alexnet: unexpected 1: extra (2, 5)" in told


def test_weights_that_are_no_numbers(line, says):
    arrays = {"classifier.4.bias": np.full_like(small("alexnet")["classifier.4.bias"], np.nan)}
    told = line("convert", saved(**arrays))
    assert "NaN or infinite weights in 1 tensors: classifier.4.bias" in told
    assert "alexnet" in says("convert", "w.safetensors", "--allow_nonfinite", "--out=mine")


def test_features_without_a_classifier(line):
    """As in vgg16_features-amdegroot-88682ab5.pth, whose classifier is NaN, and in files that have none."""
    name = "vgg16_features-amdegroot-88682ab5.safetensors"
    nothing = {k: np.full_like(a, np.nan) for k, a in small("vgg16").items() if k.startswith("classifier")}
    assert "it is no classifier, only the features of a vgg16" in line("convert", saved(name, "vgg16", **nothing))
    without = dict.fromkeys(nothing)
    assert "it is no classifier, only the features of one" in line("convert", saved(name, "vgg16", **without))


def test_a_file_that_is_not_there(line):
    for words in (["convert", "no.pth"], ["inspect", "no.pth"]):
        assert "no.pth: cannot be opened (No such file or directory)" in line(*words)
    assert "no checkpoint is called 'no.pth'" in line("export", "no.pth", "out.safetensors")
    assert "convert needs WEIGHTS" in line("convert")
    assert "unexpected argument 'c': export takes NET OUT and flags" in line("export", "a", "b", "c")


def test_inspect_shows_tensors_and_what_lies_beside(says, torch):
    state = {key: torch.from_numpy(array) for key, array in tensors().items()}
    torch.save({"state_dict": state, "epoch": 3, "optimizer": {"state": {}, "param_groups": []}}, "w.pth")
    told = says("inspect", "w.pth").splitlines()
    assert told[0].startswith("w.pth: PyTorch, zip container, ")
    assert told[0].endswith(" MB, 16 tensors")
    assert told[1:5] == [
        "alexnet with 7 classes; 'jaxperturb convert' takes it",
        "'state_dict': 16 entries",
        "'epoch': 3",
        "'optimizer': 2 entries",
    ]
    assert told[5].split() == ["state_dict/features.0.weight", "8x3x11x11", "float32"]
    assert len(told) == 5 + 16


def test_inspect_says_what_does_not_fit(says):
    saved(extra=np.zeros(2, np.float32))
    assert "nearest to alexnet, but 1 tensors do not fit" in says("inspect", "w.safetensors")
    Path("c.msgpack").write_bytes(serialization.to_bytes({"params": {"d": {"kernel": np.ones((2, 3), np.float32)}}}))
    assert says("inspect", "c.msgpack").splitlines()[1].split() == ["params/d/kernel", "2x3", "float32"]


def test_export_is_the_network_behind_the_cell(says):
    words = ["--perturbation=synapse_knockout", "--layers=conv1", "--level=0.3", "--draw=7", "--seed=5"]
    told = says("export", "alexnet-digits", "lesioned.safetensors", *words)
    assert told == ("lesioned.safetensors: alexnet-digits, synapse_knockout of conv1 at level 0.3, draw 7, seed 5\n")
    lesioned = jp.lesion("alexnet-digits", "synapse_knockout", "conv1", 0.3, draw=7, seed=5)
    again = load_network("lesioned.safetensors")
    jax.tree.map(np.testing.assert_array_equal, again.params, lesioned.params)
    kernel = load_file("lesioned.safetensors")["features.0.weight"]
    assert (kernel == 0).sum() == int(0.3 * kernel.size)
    assert "conv1" in says("layers", "--weights=lesioned.safetensors")


def test_export_refuses_half_a_lesion(line):
    assert "--layers is of a lesion; say which with --perturbation" in line("export", "n", "o", "--layers=conv1")
    assert "--perturbation needs --level" in line("export", "n", "o", "--perturbation=resample", "--layers=conv1")
    told = line("export", "alexnet-digits", "o", "--perturbation=resample", "--layers=conv9", "--level=0.1")
    assert "unknown layer 'conv9'" in told
    assert not Path("o").exists()


# Known names


@pytest.fixture
def tiny(monkeypatch):
    """A known checkpoint whose file is small, with the content that a server is to give."""
    content = Path(saved("tiny.safetensors")).read_bytes()
    Path("tiny.safetensors").unlink()
    digest = hashlib.sha256(content).hexdigest()
    record = known.Known(
        "tinynet", f"tinynet-{digest[:8]}.pth", digest, len(content), len(content) / 2**20, "alexnet", 1, 50.0, 70.0
    )
    monkeypatch.setattr(known, "_FILES", (record,))
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between tries
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return record, content


def test_a_known_name_is_downloaded_once_and_then_used_by_its_name(tiny, capsys, says):
    record, content = tiny
    with serving(gives(content)) as server:
        assert main.run(["convert", "tinynet", f"--base_url={server.url}"]) == 0
        out, err = capsys.readouterr()
        place = known.place(record)
        assert out == f"{place}: alexnet, 7 classes, images of 224x224x3; use it with --weights=tinynet\n"
        assert f"{record.file}: 100%" in err
        assert place.read_bytes() == content
        again = says("convert", "tinynet", f"--base_url={server.url}")
        assert again == out
        assert server.paths == [f"/models/{record.file}"]
    assert "conv5" in says("layers", "--weights=tinynet")
    assert load_network("tinynet").source["licence"] == "BSD-3-Clause"


def test_a_known_name_becomes_a_folder_where_one_is_asked_for(tiny, capsys, says):
    _, content = tiny
    with serving(gives(content)) as server:
        assert main.run(["convert", "tinynet", f"--base_url={server.url}", "--out=here", "--quiet"]) == 0
    out, err = capsys.readouterr()
    assert (out[:14], err) == ("here: alexnet,", "")
    manifest = read_manifest(Path("here"))
    assert (manifest.name, manifest.licence) == ("here", "BSD-3-Clause")
    kernel = load_network("here").params["params"]["fc8"]["kernel"]
    np.testing.assert_array_equal(kernel, tensors()["classifier.6.weight"].T)


def test_a_known_name_without_a_connection_says_where_the_file_goes(tiny, capsys):
    record, content = tiny
    with serving(gives(content)) as server:
        url = server.url
    assert main.run(["convert", "tinynet", f"--base_url={url}"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    line = err.splitlines()[-1]
    assert line.startswith("jaxperturb: ")
    assert f"{url}/{record.file}" in line
    assert f"put the file at {known.place(record)} by hand" in line
    known.place(record).parent.mkdir(parents=True, exist_ok=True)
    known.place(record).write_bytes(content)
    assert main.run(["convert", "tinynet", f"--base_url={url}"]) == 0


def test_a_mirror_with_another_file_is_refused(tiny, capsys, line):
    record, content = tiny
    with serving(gives(content[:-1] + b"?")) as server:
        assert main.run(["convert", "tinynet", f"--base_url={server.url}", "--quiet"]) != 0
    assert "its SHA-256 begins with" in capsys.readouterr().err
    assert not known.place(record).exists()
    told = line("layers", "--weights=tinynet")
    assert f"'jaxperturb convert tinynet' downloads it, or put {record.file} at {known.place(record)}" in told
    assert "--base_url is for known names (tinynet), and 'w.pth' is none" in line("convert", "w.pth", "--base_url=x")


def test_networks_lists_the_known_names(says):
    told = says("networks")
    for name in ("alexnet-digits", "vgg16_bn", "squeezenet1_1"):
        assert f"  {name} " in told


def test_classes_of_known_checkpoints_are_those_of_imagenet(shared):
    names = known.imagenet_names()
    index = json.loads((shared / "data" / "imagenet_class_index.json").read_text())
    assert names == tuple(index[str(i)][1].replace("_", " ") for i in range(1000))
    assert (names[0], names[207], names[999]) == ("tench", "golden retriever", "toilet tissue")


class Own(nn.Module):
    """Somebody's network for the digits."""

    @nn.compact
    def __call__(self, images):
        return nn.Dense(10, name="only")(images.reshape(len(images), -1))


def make_network():
    digits = load_network("alexnet-digits")
    shapes = jax.tree.map(jnp.zeros_like, digits.params)
    return jp.Network.from_apply(digits.apply, shapes, name="mine", preprocessing=digits.preprocessing)


def test_a_network_of_ones_own_with_weights(line, capsys, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tests")
    params = jp.load_weights("alexnet-digits")
    Path("good.msgpack").write_bytes(serialization.to_bytes({"params": params["params"], "step": 3}))
    words = ["--weights=good.msgpack", "--network=test_cli_weights:make_network"]
    assert main.run(["evaluate", *words, "--images=20"]) == 0
    assert "mine on 20 images" in capsys.readouterr().out
    bad = {**params["params"], "fc8": {"kernel": np.ones((3, 4), np.float32)}}
    Path("bad.msgpack").write_bytes(serialization.to_bytes({"params": bad}))
    told = line("evaluate", "--weights=bad.msgpack", "--network=test_cli_weights:make_network")
    assert "missing 1: fc8/bias (10,)" in told
    assert "of another shape 1: fc8/kernel (3, 4), expected (512, 10)" in told
    assert "does not say its network" in line("evaluate", "--weights=good.msgpack")
    assert "returned a module without weights" in line("evaluate", "--network=test_cli_weights:Own")


BLOCKED = """
import sys

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "torchvision"):
            raise ModuleNotFoundError(f"No module named {name!r}")

sys.meta_path.insert(0, NoTorch())
from jaxperturb.cli import main
assert main.run(["convert", sys.argv[1], "--out=made"]) == 0
assert main.run(["layers", "--weights=made", "--device=cpu"]) == 0
assert main.run(["export", "made", "back.safetensors", "--device=cpu"]) == 0
assert "torch" not in sys.modules
try:
    import torch
except ModuleNotFoundError:
    print("torch is blocked")
"""


def test_it_imports_and_converts_with_no_torch_installed(torch, tmp_path):
    arrays = weights("vgg11_bn", width=0.05, dense_width=0.01, pooled=1, classes=3)
    torch.save({key: torch.from_numpy(np.array(array)) for key, array in arrays.items()}, "w.pth")
    done = subprocess.run([sys.executable, "-W", "error", "-c", BLOCKED, "w.pth"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "torch is blocked"
    assert done.stderr == ""
    back = load_file("back.safetensors")
    for key, array in arrays.items():
        assert "tracked" in key or back[key].tobytes() == array.tobytes()
