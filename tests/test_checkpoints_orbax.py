"""Checkpoint folders whose arrays are an Orbax checkpoint: the same contract as with safetensors."""

import dataclasses
import shutil

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from test_checkpoints_folder import MANIFEST, variables  # noqa: F401 - a fixture

from jaxperturb.checkpoints import load_network, read_manifest, save_checkpoint
from jaxperturb.errors import CheckpointError, OutputError

ORBAX = dataclasses.replace(MANIFEST, storage="orbax")


@pytest.fixture(scope="module")
def written(variables, tmp_path_factory):  # noqa: F811
    return save_checkpoint(tmp_path_factory.mktemp("checkpoints") / "tiny", variables, ORBAX)


@pytest.fixture
def folder(written, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(written, tmp_path / "tiny")


def test_a_network_comes_back(written, variables):  # noqa: F811
    network = load_network(written)
    assert (network.name, network.classes, network.image_shape) == ("tiny", ("a", "b", "c"), (64, 64, 1))
    assert jax.tree.structure(network.params) == jax.tree.structure(variables)
    jax.tree.map(np.testing.assert_array_equal, network.params, variables)


def test_nothing_else_lies_there(written):
    assert sorted(path.name for path in written.iterdir()) == ["arrays", "manifest.json"]
    assert [path.name for path in written.parent.iterdir()] == ["tiny"]
    assert not list(written.rglob("*tmp*"))


def test_both_storages_have_the_same_digests(written, variables, tmp_path):  # noqa: F811
    other = save_checkpoint(tmp_path / "other", variables, MANIFEST)
    assert read_manifest(other).arrays == read_manifest(written).arrays


def test_plain_orbax_reads_the_arrays(written, variables):  # noqa: F811
    with ocp.StandardCheckpointer() as checkpointer:
        tree = checkpointer.restore((written / "arrays").absolute(), variables)
    jax.tree.map(np.testing.assert_array_equal, tree, variables)


def test_half_precision_comes_back_as_float32(variables, tmp_path):  # noqa: F811
    halves = jax.tree.map(lambda a: np.asarray(a, np.float16), variables)
    network = load_network(save_checkpoint(tmp_path / "half", halves, ORBAX))
    jax.tree.map(np.testing.assert_array_equal, network.params, halves)


def largest_file(folder):
    return max(
        (path for path in (folder / "arrays").rglob("*") if path.is_file()), key=lambda path: path.stat().st_size
    )


def test_flipped_bits_of_the_arrays_are_noticed(folder):
    """Orbax reads on; the digests do not."""
    path, random = largest_file(folder), np.random.default_rng(0)
    content = path.read_bytes()
    for place in random.integers(len(content) // 10, len(content) * 9 // 10, 12):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1 << random.integers(8)]) + content[place + 1 :])
        with pytest.raises(CheckpointError, match="is damaged") as caught:
            load_network(folder)
        assert "\n" not in str(caught.value)
    path.write_bytes(content)
    assert load_network(folder)


def test_a_digest_of_another_array_is_noticed(folder):
    text = (folder / "manifest.json").read_text()
    digest = read_manifest(folder).arrays["params/conv1/kernel"].sha256
    (folder / "manifest.json").write_text(text.replace(digest, "0" * 64))
    with pytest.raises(CheckpointError, match="the SHA-256 of params/conv1/kernel is not its manifest's"):
        load_network(folder)


def test_damaged_files_give_right_arrays_or_one_line(written, variables, tmp_path, capfd):  # noqa: F811
    random = np.random.default_rng(1)
    refused = 0
    for path in sorted(p.relative_to(written) for p in (written / "arrays").rglob("*") if p.is_file()):
        for damage in ("gone", "cut", "empty", "flipped"):
            folder = tmp_path / "tiny"
            shutil.rmtree(folder, ignore_errors=True)
            damaged = shutil.copytree(written, folder) / path
            content = bytearray(damaged.read_bytes())
            if damage == "gone":
                damaged.unlink()
            elif damage == "flipped" and content:
                content[random.integers(len(content))] ^= 1 << random.integers(8)
            damaged.exists() and damaged.write_bytes(
                {"cut": content[: len(content) // 2], "empty": b""}.get(damage, content)
            )
            try:
                network = load_network(folder)
            except CheckpointError as error:
                assert "\n" not in str(error)
                refused += 1
            else:
                jax.tree.map(np.testing.assert_array_equal, network.params, variables)
    assert refused > 5
    assert capfd.readouterr() == ("", "")


def test_arrays_that_are_gone(folder):
    shutil.rmtree(folder / "arrays")
    with pytest.raises(CheckpointError, match="has no arrays; get the checkpoint again"):
        load_network(folder)


def test_arrays_of_another_checkpoint(folder, variables):  # noqa: F811
    shutil.rmtree(folder / "arrays")
    del (tree := {"params": dict(variables["params"])})["params"]["fc8"]
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save((folder / "arrays").absolute(), tree)
    with pytest.raises(CheckpointError, match="does not hold the arrays of its manifest: missing params/fc8/bias"):
        load_network(folder)
    shutil.rmtree(folder / "arrays")
    wider = {
        "params": variables["params"] | {"fc8": jax.tree.map(lambda a: np.append(a, a), variables["params"]["fc8"])}
    }
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save((folder / "arrays").absolute(), wider)
    with pytest.raises(CheckpointError, match=r"params/fc8/bias has the shape \(6,\), but its manifest says \(3,\)"):
        load_network(folder)


def test_a_failed_save_leaves_no_rest(variables, folder, monkeypatch):  # noqa: F811
    from jaxperturb.checkpoints import orbax_files

    def broken(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(orbax_files, "write_tree", broken)
    with pytest.raises(OutputError, match=r"cannot write .*No space left"):
        save_checkpoint(folder, variables, dataclasses.replace(ORBAX, name="newer"), overwrite=True)
    assert load_network(folder).name == "tiny"
    assert [path.name for path in folder.parent.iterdir()] == ["tiny"]
