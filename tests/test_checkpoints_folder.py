"""Checkpoint folders: written whole, read only when every bit is right."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from jaxperturb.checkpoints import Manifest, load_network, save_checkpoint
from jaxperturb.checkpoints import arrays as array_files
from jaxperturb.errors import CheckpointError, OutputError
from jaxperturb.networks import catalogue
from jaxperturb.networks.preprocessing import Preprocessing

OPTIONS = {"classes": 3, "width": 0.05, "pooled_size": 1}
MANIFEST = Manifest(
    name="tiny",
    summary="a tiny AlexNet",
    architecture="alexnet",
    options=OPTIONS,
    image_shape=(64, 64, 1),
    licence="MIT",
    arrays={},
    classes=("a", "b", "c"),
    preprocessing=Preprocessing(resize=(64, 64), channels="L"),
    training={"seed": 7},
    accuracy={"top1": 1},
)


@pytest.fixture(scope="module")
def variables():
    init = catalogue.build("alexnet", OPTIONS).init
    shapes = jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, 64, 64, 1)))
    random = np.random.default_rng(0)
    return jax.tree.map(lambda s: random.normal(size=s.shape).astype(np.float32), shapes)


@pytest.fixture(scope="module")
def written(variables, tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("checkpoints") / "tiny", variables, MANIFEST)


@pytest.fixture
def folder(written, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(written, tmp_path / "tiny")


def edit(folder, change):
    path = folder / "manifest.json"
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def refused(folder, message):
    with pytest.raises(CheckpointError, match=message) as caught:
        load_network(folder)
    assert "\n" not in str(caught.value)


def loaded_or_refused(folder, path):
    try:
        return load_network(folder)
    except CheckpointError as error:
        message = str(error)
    assert str(path) in message
    assert "\n" not in message
    return None


def test_a_network_comes_back(written, variables):
    network = load_network(written)
    assert (network.name, network.classes, network.image_shape) == ("tiny", ("a", "b", "c"), (64, 64, 1))
    assert network.preprocessing == MANIFEST.preprocessing
    assert network.source["licence"] == "MIT"
    assert network.source["training"] == {"seed": 7}
    assert jax.tree.structure(network.params) == jax.tree.structure(variables)
    jax.tree.map(np.testing.assert_array_equal, network.params, variables)
    images = np.random.default_rng(0).normal(size=(2, 64, 64, 1)).astype(np.float32)
    expected = catalogue.build("alexnet", OPTIONS).apply(variables, images)
    np.testing.assert_array_equal(network.apply(network.params, images), expected)


def test_files_may_be_read_by_those_who_may_read_the_folder(written):
    modes = {path.stat().st_mode & 0o777 for path in written.iterdir()}
    assert modes == {written.stat().st_mode & 0o666}


def test_the_folder_holds_two_files_and_nothing_lies_beside_it(written):
    assert sorted(p.name for p in written.iterdir()) == ["arrays.safetensors", "manifest.json"]
    assert [p.name for p in written.parent.iterdir()] == ["tiny"]


def test_a_path_may_be_text_relative_or_from_home(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    monkeypatch.setenv("HOME", str(folder.parent))
    assert {
        load_network(p).name for p in (str(folder), "tiny", "./tiny", "~/tiny", "../" + folder.parent.name + "/tiny")
    }


def test_float16_arrays_are_read_as_float32(variables, tmp_path):
    halves = jax.tree.map(lambda a: np.asarray(a, np.float16), variables)
    network = load_network(save_checkpoint(tmp_path / "half", halves, MANIFEST))
    assert all(a.dtype == np.float32 for a in jax.tree.leaves(network.params))
    jax.tree.map(np.testing.assert_array_equal, network.params, halves)


def test_every_flipped_bit_of_an_array_is_noticed(folder):
    path = folder / array_files.FILE
    content = path.read_bytes()
    data = 8 + int.from_bytes(content[:8], "little")
    random = np.random.default_rng(0)
    for place in [data, len(content) - 1, *random.integers(data, len(content), 30)]:
        path.write_bytes(content[:place] + bytes([content[place] ^ 1 << random.integers(8)]) + content[place + 1 :])
        refused(folder, r"is damaged: the SHA-256 of params/\w+/\w+ is not its manifest's; get the checkpoint again")
    path.write_bytes(content)
    assert load_network(folder)


def test_damaged_files_give_right_arrays_or_our_error(folder, variables):
    path = folder / array_files.FILE
    content = path.read_bytes()
    random = np.random.default_rng(1)
    cases = [content[:n] for n in (0, 1, 7, 8, 9, 500, len(content) // 2, len(content) - 1)]
    cases += [content + b"\0", b"<html>404</html>", b"\xff" * 64]
    for place in random.integers(0, 8 + int.from_bytes(content[:8], "little"), 100):
        cases.append(content[:place] + bytes([random.integers(256)]) + content[place + 1 :])
    for case in cases:
        path.write_bytes(case)
        network = loaded_or_refused(folder, path)
        if network:
            jax.tree.map(np.testing.assert_array_equal, network.params, variables)


def test_arrays_that_are_missing_extra_or_changed_in_the_file(folder):
    path = folder / array_files.FILE
    arrays = safetensors.numpy.load_file(path)
    fc8 = arrays.pop("params/fc8/bias")
    safetensors.numpy.save_file(arrays, path)
    refused(folder, "does not hold the arrays of its manifest: missing params/fc8/bias")
    safetensors.numpy.save_file({**arrays, "params/fc8/bias": fc8, "params/fc9/bias": fc8}, path)
    refused(folder, "does not hold the arrays of its manifest: extra params/fc9/bias")
    safetensors.numpy.save_file({**arrays, "params/fc8/bias": np.append(fc8, fc8[:1])}, path)
    refused(folder, r"params/fc8/bias has the shape \(4,\), but its manifest says \(3,\)")
    safetensors.numpy.save_file({**arrays, "params/fc8/bias": fc8.astype(np.float64)}, path)
    refused(folder, "params/fc8/bias has the dtype float64, but its manifest says float32")
    path.unlink()
    refused(folder, r"has no arrays.safetensors; get the checkpoint again")


def test_a_manifest_that_does_not_fit_the_architecture(folder, written):
    edit(folder, lambda m: m["options"].update(classes=4) or m.update(classes=None))
    refused(folder, r"params/fc8/kernel has the shape \(205, 3\), expected \(205, 4\)")
    shutil.copy(written / "manifest.json", folder)
    edit(folder, lambda m: m["arrays"].pop("params/conv3/kernel"))
    refused(folder, "do not fit the network: params/conv3/kernel is missing")
    shutil.copy(written / "manifest.json", folder)
    edit(folder, lambda m: m["arrays"].update({"params/conv9/bias": m["arrays"]["params/fc8/bias"]}))
    refused(folder, "do not fit the network: params/conv9/bias is not part of the network")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architecture": "alexnot"}, "unknown architecture 'alexnot'; did you mean 'alexnet'"),
        ({"options": {"width": "wide"}}, "width must be a number above 0"),
        ({"options": {"depth": 3}}, "alexnet has no option 'depth'"),
        ({"image_shape": [32, 32, 1], "preprocessing": None}, "at least 63 by 63"),
        ({"image_shape": [65, 65, 1]}, r"makes images \(64, 64, 1\), its network takes \(65, 65, 1\)"),
        ({"classes": ["a", "b"]}, "names 2 classes, its network has 3"),
        ({"storage": "pickle"}, "its arrays are kept as 'pickle'; expected 'safetensors' or 'orbax'"),
    ],
)
def test_a_manifest_that_cannot_be_built_is_refused(folder, change, message):
    edit(folder, lambda m: m.update(change))
    refused(folder, message)


def test_what_is_not_there(tmp_path):
    refused(tmp_path / "none", "there is no checkpoint folder .*none")
    refused(tmp_path, r"is no checkpoint: it has no manifest.json")
    (tmp_path / "file").write_text("x")
    refused(tmp_path / "file", "neither a PyTorch nor a safetensors file")


def test_saving_refuses_an_existing_folder_unless_told(variables, folder):
    with pytest.raises(OutputError, match="exists already"):
        save_checkpoint(folder, variables, MANIFEST)
    save_checkpoint(folder, variables, dataclasses.replace(MANIFEST, name="newer"), overwrite=True)
    assert load_network(folder).name == "newer"
    assert [p.name for p in folder.parent.iterdir()] == ["tiny"]


def test_overwriting_never_removes_what_is_no_checkpoint(variables, tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(OutputError, match="exists already"):
        save_checkpoint(tmp_path, variables, MANIFEST, overwrite=True)
    assert (tmp_path / "thesis.tex").exists()


def test_a_failed_save_leaves_the_old_checkpoint_and_no_rest(variables, folder, monkeypatch):
    def broken(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(array_files, "write_arrays", broken)
    with pytest.raises(OutputError, match=r"cannot write .*No space left"):
        save_checkpoint(folder, variables, dataclasses.replace(MANIFEST, name="newer"), overwrite=True)
    assert load_network(folder).name == "tiny"
    assert [p.name for p in folder.parent.iterdir()] == ["tiny"]


def test_saving_refuses_what_cannot_be_read_again(variables, tmp_path):
    bare = {"params": {**variables["params"], "fc8": {"kernel": variables["params"]["fc8"]["kernel"]}}}
    with pytest.raises(CheckpointError, match=r"cannot save tiny: .*params/fc8/bias is missing"):
        save_checkpoint(tmp_path / "x", bare, MANIFEST)
    with pytest.raises(CheckpointError, match="is int8; expected float32 or float16"):
        save_checkpoint(tmp_path / "x", jax.tree.map(lambda a: np.asarray(a, np.int8), variables), MANIFEST)
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="cannot make"):
        save_checkpoint(tmp_path / "file" / "x", variables, MANIFEST)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
