"""How far two networks are apart: the authors' formula, and where nothing changed."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sample_networks import CLASSES, SAMPLES, dense, plain

import jaxperturb as jp
from jaxperturb.cli import main
from jaxperturb.errors import NetworkError


def linear(params, images):
    return images.reshape(len(images), -1) @ params["last"]["w"] + params["last"]["b"]


def changed(network, seed=0, size=0.1):
    random = np.random.default_rng(seed)
    return replace(network, params=jax.tree.map(lambda w: w + size * random.normal(size=w.shape), network.params))


def authors_z_scores(base, other):
    """Returns the absolute z-scores as the authors' plot.py has them, transcribed line by line to plain NumPy."""
    weights_diffs = base - other
    means, stds = np.mean(np.absolute(base)), np.std(np.absolute(base))
    return np.absolute((np.absolute(weights_diffs) - means) / stds)


def test_numbers_agree_with_numpy():
    network = SAMPLES["linen"]()
    other = changed(network)
    table = jp.weight_change(network, other).set_index(["layer", "tensor"])
    assert list(dict.fromkeys(layer for layer, _ in table.index)) == ["conv1", "fc2", "fc10"]
    for layer, tensor in table.index:
        place = ("conv1_norm", tensor.removeprefix("norm/")) if tensor.startswith("norm/") else (layer, tensor)
        a, b = (np.asarray(net.params["params"][place[0]][place[1]], np.float64) for net in (network, other))
        row = table.loc[layer, tensor]
        assert row["size"] == a.size
        assert row["z_score"] == pytest.approx(authors_z_scores(a, b).mean(), rel=1e-9)
        assert row["z_change"] == pytest.approx(np.abs(b - a).mean() / np.std(np.abs(a)), rel=1e-9)
        assert row["relative_norm"] == pytest.approx(np.sqrt(((b - a) ** 2).sum() / (a**2).sum()), rel=1e-9)
        assert row["cosine"] == pytest.approx((a * b).sum() / np.sqrt((a**2).sum() * (b**2).sum()), rel=1e-9)


def test_a_network_is_not_changed_against_itself():
    table = jp.weight_change(SAMPLES["resnet"](), SAMPLES["resnet"]())
    assert len(table) > 10
    assert (table[["z_change", "relative_norm"]] == 0).all(axis=None)
    assert (table["cosine"] == 1).all()


def test_what_is_not_defined_is_nan():
    network = plain(linear, {"last": dense(64, CLASSES)})
    silent = replace(network, params=jax.tree.map(jnp.zeros_like, network.params))
    row = jp.weight_change(silent, network).iloc[0]
    assert np.isnan(row[["z_change", "relative_norm", "cosine"]].astype(float)).all()
    same = jp.weight_change(silent, silent).iloc[0]
    assert same["z_change"] == same["relative_norm"] == 0


def test_other_architectures_are_one_clear_error():
    wide = plain(linear, {"last": dense(64, CLASSES + 1)})
    with pytest.raises(NetworkError, match=r"not of one architecture: last/b is \(10,\) in the first and \(11,\)"):
        jp.weight_change(plain(linear, {"last": dense(64, CLASSES)}), wide)
    with pytest.raises(NetworkError, match="missing"):
        jp.weight_change(SAMPLES["linen"](), SAMPLES["mlp"]())


def test_changes_prints_a_table_and_draws_it(tmp_path, capsys):
    one = jp.load_network("alexnet-digits")
    from jaxperturb.checkpoints.export import export_network

    export_network(jp.lesion(one, "gaussian_noise", "conv2", 1), tmp_path / "noisy.safetensors")
    words = ["changes", "alexnet-digits", str(tmp_path / "noisy.safetensors"), "--format=csv", "--figure=figures"]
    assert main.run(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("layer,tensor,size,z_change,z_score")
    moved = {line.split(",")[0] for line in lines[1:17] if float(line.split(",")[3]) > 0}
    assert moved == {"conv2"}
    assert [line.rpartition(".")[2] for line in lines[-2:]] == ["png", "pdf"]
    assert (tmp_path / "figures/weight-change.png").stat().st_size > 1000


def test_changes_of_different_architectures_is_one_line(capsys):
    assert main.run(["changes", "alexnet-digits", "alexnet-cifar10"]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "not of one architecture" in err
