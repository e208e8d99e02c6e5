"""The public calls on a small network, against NumPy's own pass through it."""

import json
import sqlite3
from contextlib import closing
from decimal import Decimal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxperturb as jp
from jaxperturb.errors import (
    CheckpointError,
    DataError,
    LayerError,
    LevelError,
    NetworkError,
    OutputError,
    PerturbationError,
    SeedError,
    StoreError,
    StudyError,
)

IMAGES = 90
CLASSES = 6


@pytest.fixture(scope="module")
def net():
    rng = np.random.default_rng(0)

    def dense(inputs, units):
        kernel, bias = rng.normal(size=(inputs, units)), rng.normal(size=units)
        return {"kernel": jnp.asarray(kernel, jnp.float32), "bias": jnp.asarray(bias, jnp.float32)}

    def apply(params, images):
        layers = params["params"]
        hidden = jnp.maximum(images.reshape(len(images), -1) @ layers["fc2"]["kernel"] + layers["fc2"]["bias"], 0)
        return hidden @ layers["fc10"]["kernel"] + layers["fc10"]["bias"]

    return jp.Network(apply, {"params": {"fc10": dense(8, CLASSES), "fc2": dense(12, 8)}}, name="tiny")


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(1)
    return jp.data.from_arrays(rng.normal(size=(IMAGES, 2, 2, 3)).astype(np.float32), np.arange(IMAGES) % CLASSES)


def numpy_ranks(net, data):
    """The rank of the true class of each image in the data set's own order, by float64 arithmetic."""
    layers = {
        name: [np.asarray(leaf[part], np.float64) for part in ("kernel", "bias")]
        for name, leaf in net.params["params"].items()
    }
    images = np.stack([data.read(i) for i in range(len(data))]).reshape(len(data), -1).astype(np.float64)
    hidden = np.maximum(images @ layers["fc2"][0] + layers["fc2"][1], 0)
    logits = hidden @ layers["fc10"][0] + layers["fc10"][1]
    true = np.take_along_axis(logits, data.labels[:, None].astype(int), 1)
    lower = np.arange(CLASSES)[None] < data.labels[:, None]
    return ((logits > true) | ((logits == true) & lower)).sum(axis=1)


def unchecked(function):
    """The function as users have it, without the tests' check of types at run time."""
    return getattr(function, "__wrapped__", function)


SMALL = {"perturbations": "synapse_knockout,gaussian_noise", "levels": "0,0.5,1", "draws": 2}


def test_cells_are_what_numpy_counts_on_the_lesioned_networks(net, data):
    results = jp.sweep(net, data, **SMALL, seed=3)
    assert len(results.cells) == 2 * 2 * 3 * 2
    for row in results.cells.itertuples():
        lesioned = jp.lesion(net, row.perturbation, row.target, row.level_text, row.draw, seed=3)
        ranks = numpy_ranks(lesioned, data)
        assert (row.top1, row.top5) == ((ranks < 1).sum(), (ranks < 5).sum())
        outcomes = results.outcomes(row.perturbation, row.target, row.level, row.draw)
        order = results.images["data_index"].to_numpy()[outcomes.positions]
        np.testing.assert_array_equal(outcomes.top1, ranks[order] < 1)


def test_evaluate_is_what_numpy_counts(net, data):
    found = jp.evaluate(net, data, batch_size=7)
    ranks = numpy_ranks(net, data)
    assert (found.images, found.classes, found.nonfinite) == (IMAGES, CLASSES, 0)
    assert (found.top1, found.top5) == ((ranks < 1).sum(), (ranks < 5).sum())
    assert found.accuracy() == (ranks < 1).mean()
    assert found.accuracy("top5") == (ranks < 5).mean()
    assert (found.chance(), found.chance("top5")) == (1 / 6, 5 / 6)
    assert jp.evaluate(net, data, images=40).images == 40


def test_targets_are_in_the_networks_order(net, data):
    assert jp.sweep(net, data, "resample", levels=[0.5], draws=1).cells["target"].tolist() == ["fc2", "fc10"]


def test_the_seed_decides(net, data):
    def counts(**other):
        return jp.sweep(net, data, **SMALL, **other).cells[["top1", "top5", "same1"]].to_numpy().tolist()

    assert counts() == counts() == counts(batch_size=16)
    assert counts() != counts(seed=1)


@pytest.mark.parametrize(
    ("levels", "expected"),
    [
        ("0,0.5", {"synapse_knockout": ["0", "0.5"], "gaussian_noise": ["0", "0.5"]}),
        ([0, 0.5], {"synapse_knockout": ["0", "0.5"], "gaussian_noise": ["0", "0.5"]}),
        (np.array([0.3, 0.3, 0.1]), {"synapse_knockout": ["0.1", "0.3"], "gaussian_noise": ["0.1", "0.3"]}),
        (0.5, {"synapse_knockout": ["0.5"], "gaussian_noise": ["0.5"]}),
        (Decimal("0.5"), {"synapse_knockout": ["0.5"], "gaussian_noise": ["0.5"]}),
        ("gaussian_noise=2;0.5", {"synapse_knockout": ["0.5"], "gaussian_noise": ["2"]}),
        ({"gaussian_noise": [2], "*": 0.5}, {"synapse_knockout": ["0.5"], "gaussian_noise": ["2"]}),
        ({"synapse_knockout": "1"}, {"synapse_knockout": ["1"], "gaussian_noise": [f"{i / 5:g}" for i in range(11)]}),
    ],
)
def test_levels_in_all_forms(net, data, levels, expected):
    results = jp.sweep(net, data, "synapse_knockout,gaussian_noise", "fc2", levels, draws=1, images=8)
    assert results.cells.groupby("perturbation")["level_text"].agg(list).to_dict() == expected


def flip(key, params, level, *, layers="*"):
    """Changes the sign of every weight of the layers."""
    flipped = {
        name: {"kernel": -leaf["kernel"] * level, "bias": leaf["bias"]}
        for name, leaf in params["params"].items()
        if name in layers
    }
    return {"params": params["params"] | flipped}


def test_a_users_own_function_is_run_and_identified_by_its_file(net, data):
    results = jp.sweep(net, data, flip, "fc2", [1], draws=1)
    (row,) = results.cells.to_dict("records")
    assert row["perturbation"].endswith(":flip")
    lesioned = jp.lesion(net, flip, "fc2", 1)
    np.testing.assert_array_equal(lesioned.params["params"]["fc2"]["kernel"], -net.params["params"]["fc2"]["kernel"])
    assert row["top1"] == (numpy_ranks(lesioned, data) < 1).sum()
    assert len(results.study.perturbations[0].code) == 64


def test_lesion_leaves_the_rest_alone(net):
    lesioned = jp.lesion(net, "node_knockout(include_bias=false)", "fc2", 0.5, draw=1)
    before, after = net.params["params"], lesioned.params["params"]
    assert after["fc10"]["kernel"] is before["fc10"]["kernel"]
    assert after["fc2"]["bias"] is before["fc2"]["bias"]
    assert (np.asarray(after["fc2"]["kernel"]) == 0).all(axis=0).sum() == 4
    assert lesioned.name == "tiny"


def test_a_folder_gets_store_table_record_and_figures(net, data, tmp_path):
    out = tmp_path / "runs" / "tiny"
    results = jp.sweep(net, data, **SMALL, out=out, flags={"device": "cpu"})
    assert sorted(str(file.relative_to(out)) for file in out.rglob("*") if file.is_file()) == [
        "config.json",
        "figures/gaussian_noise.pdf",
        "figures/gaussian_noise.png",
        "figures/synapse_knockout.pdf",
        "figures/synapse_knockout.png",
        "levels.csv",
        "results.csv",
        "results.sqlite",
        "summary.csv",
    ]
    flags = json.loads((out / "config.json").read_text())["flags"]
    assert flags["perturbations"] == "synapse_knockout,gaussian_noise"
    assert flags["levels"] == "synapse_knockout=0,0.5,1;gaussian_noise=0,0.5,1"
    assert (flags["layers"], flags["draws"], flags["seed"], flags["images"]) == ("fc2,fc10", 2, 0, IMAGES)
    assert (flags["metric"], flags["device"], flags["batch_size"]) == ("top1", "cpu", 1000)
    assert "weights" not in flags  # a network object has no name that a command line could use
    assert jp.load_results(out).cells.equals(results.cells)
    assert results.outcomes("synapse_knockout", "fc2", 0.5).top1.shape == (IMAGES,)


def test_a_record_repeats_its_study(net, data, tmp_path):
    first = jp.sweep(net, data, **SMALL, layers="fc2", images=50, out=tmp_path / "a")
    flags = json.loads((tmp_path / "a" / "config.json").read_text())["flags"]
    names = ("perturbations", "layers", "levels", "draws", "seed", "images", "metric", "batch_size")
    assert jp.sweep(net, data, **{name: flags[name] for name in names}).cells.equals(first.cells)


def test_a_second_run_computes_nothing_and_an_extended_one_only_what_is_new(net, data, tmp_path):
    parts = []
    first = jp.sweep(net, data, **SMALL, layers="fc10", out=tmp_path, on_part=parts.append)
    number = len(parts)
    again = jp.sweep(net, data, **SMALL, layers="fc10", out=tmp_path, on_part=parts.append)
    assert len(parts) == number
    assert again.cells.equals(first.cells)
    extended = jp.sweep(net, data, **SMALL, out=tmp_path, on_part=parts.append)
    assert {part.cell.target for part in parts[number:]} == {"fc2"}
    assert extended.cells.equals(jp.sweep(net, data, **SMALL).cells)
    with closing(sqlite3.connect(tmp_path / "results.sqlite")) as connection:
        assert connection.execute("SELECT outcome FROM run").fetchall() == [("complete",)] * 3


@pytest.mark.parametrize("pruned", [False, True])
def test_a_pruned_network_is_said_to_be_one_at_the_start(net, data, capsys, pruned):
    own = jp.lesion(net, "synapse_knockout", "fc10", 0.6) if pruned else net
    jp.sweep(own, data, "synapse_knockout", "fc10", levels=[0.5], draws=1, images=8, progress=True)
    arrays = [np.asarray(leaf) for leaf in jax.tree.leaves(own.params)]
    share = sum((array == 0).sum() for array in arrays) / sum(array.size for array in arrays)
    said = f"{share:.1%} of the network's weights are 0 already (it was pruned)"
    assert (said in capsys.readouterr().err) == pruned


def test_nothing_is_written_without_a_folder(net, data, tmp_path):
    jp.sweep(net, data, **SMALL)
    assert list(tmp_path.iterdir()) == []


def test_images_and_labels_are_a_data_set(net, data):
    images = np.stack([data.read(i) for i in range(len(data))])
    assert jp.evaluate(net, (images, data.labels)).top1 == jp.evaluate(net, data).top1


@pytest.mark.parametrize("name", ["draws", "images", "batch_size"])
@pytest.mark.parametrize("value", [0, -1, 1.5, "3", True])
def test_counts_below_one_or_of_another_type_are_refused(net, data, name, value):
    sweep = unchecked(jp.sweep)
    with pytest.raises(StudyError, match=f"expected {name} of 1 or more, got {value!r}"):
        sweep(net, data, **{name: value})


@pytest.mark.parametrize(
    ("other", "error", "message"),
    [
        ({"perturbations": "synapse_knokout"}, PerturbationError, "did you mean 'synapse_knockout'"),
        ({"perturbations": []}, PerturbationError, "got none"),
        ({"layers": "fc3"}, LayerError, "unknown layer 'fc3'; did you mean 'fc2'"),
        ({"levels": "0,1.1"}, LevelError, "out of range"),
        ({"levels": -0.1}, LevelError, "0 or more"),
        ({"levels": ""}, LevelError, "got none"),
        ({"levels": []}, LevelError, "got none"),
        ({"levels": "many"}, LevelError, "expected a number"),
        ({"levels": True}, LevelError, "expected a number"),
        ({"levels": {"resample": 1}}, LevelError, "not in the study"),
        ({"seed": -1}, SeedError, "expected a seed"),
        ({"seed": 2**32}, SeedError, "expected a seed"),
        ({"metric": "top3"}, StudyError, "unknown metric 'top3'"),
        ({"images": IMAGES + 1}, DataError, f"{IMAGES + 1} images were asked for"),
        ({"net": 3}, NetworkError, "got int"),
        ({"net": "no-such-net"}, CheckpointError, "no-such-net"),
        ({"data": 3}, DataError, "got int"),
        ({"data": "digit"}, DataError, "did you mean 'digits'"),
    ],
)
def test_mistakes_are_refused_in_one_line_before_anything_is_computed(net, data, other, error, message):
    computed = []
    with pytest.raises(error, match=message) as caught:
        unchecked(jp.sweep)(
            **({"net": net, "data": data, "perturbations": "synapse_knockout", "on_start": computed.append} | other)
        )
    assert "\n" not in str(caught.value)
    assert computed == []


@pytest.mark.parametrize("place", ["file/below", "/proc/jaxperturb/out", "/proc/self"])
def test_a_folder_that_cannot_be_made_is_said_before_anything_is_computed(net, data, tmp_path, place):
    (tmp_path / "file").touch()
    starts = []
    with pytest.raises(OutputError, match="results cannot be written to"):
        jp.sweep(net, data, **SMALL, out=tmp_path / place, on_start=starts.append)
    assert starts == []


def test_a_file_that_is_no_store_is_refused(net, data, tmp_path):
    (tmp_path / "results.sqlite").write_text("something of the user's")
    with pytest.raises(StoreError, match="is not a store"):
        jp.sweep(net, data, **SMALL, out=tmp_path)
    assert (tmp_path / "results.sqlite").read_text() == "something of the user's"


def test_another_seed_in_the_same_folder_is_refused(net, data, tmp_path):
    jp.sweep(net, data, **SMALL, out=tmp_path)
    with pytest.raises(StoreError, match="seed: 0 in the store, 1 asked"):
        jp.sweep(net, data, **SMALL, seed=1, out=tmp_path)


def test_lesion_refuses_a_level_out_of_range(net):
    with pytest.raises(LevelError, match="out of range"):
        jp.lesion(net, "synapse_knockout", "fc2", 1.5)
