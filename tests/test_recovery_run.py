"""Whole recoveries of a small network: what is measured, stored, continued after a kill, and refused."""

import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import pytest
from sample_networks import dense, plain

import jaxperturb as jp
from jaxperturb.api import recovery as calls
from jaxperturb.cli import main
from jaxperturb.data import from_arrays
from jaxperturb.errors import DataError, DivergedError, LevelError, RecoveryError, StoreError
from jaxperturb.recovery.keeping import read_state
from jaxperturb.recovery.run import Job
from jaxperturb.recovery.store import read_recovery
from jaxperturb.trees import fingerprint

SHAPE, CLASSES = (4, 4, 1), 4


def perceptron(params, images):
    x = jnp.tanh(images.reshape(len(images), -1) @ params["first"]["w"] + params["first"]["b"])
    return x @ params["last"]["w"] + params["last"]["b"]


def network_and_data():
    """A network that tells four noisy patterns apart, and images of them."""
    random = np.random.default_rng(0)
    patterns = random.normal(size=(CLASSES, *SHAPE))

    def some(n):
        labels = np.arange(n) % CLASSES
        return from_arrays((patterns[labels] + random.normal(size=(n, *SHAPE))).astype(np.float32), labels)

    network = plain(perceptron, {"first": dense(16, 12), "last": dense(12, CLASSES)}, SHAPE)
    train, test = some(120), some(60)
    x = np.stack([train.read(i) for i in range(120)]).reshape(120, 16)
    params, labels = network.params, jnp.asarray(train.labels)
    for _ in range(60):
        loss = lambda p: optax.softmax_cross_entropy_with_integer_labels(perceptron(p, x), labels).mean()  # noqa: E731
        params = jax.tree.map(lambda w, g: w - 0.5 * g, params, jax.grad(loss)(params))
    return jp.Network.from_apply(perceptron, params, image_shape=SHAPE, name="patterns"), train, test


NETWORK, TRAIN, TEST = network_and_data()
SMALL = {"layers": "first", "level": 0.5, "draws": 2, "steps": 6, "evaluate_every": 3, "batch_size": 20}
recover = partial(jp.recover, NETWORK, TRAIN, TEST)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a finished recovery, and what it returned; to be read only."""
    folder = tmp_path_factory.mktemp("recovery") / "whole"
    return folder, recover(**SMALL, lesion="held,free", out=folder, save_networks=True)


def rows(folder):
    with closing(sqlite3.connect(folder / "recovery.sqlite")) as connection:
        tables = ("point", "layer_change")
        return {name: sorted(connection.execute(f"SELECT * FROM {name}").fetchall(), key=str) for name in tables}


def test_each_evaluation_is_that_of_the_network(whole):
    _, found = whole
    cells = found.cells.set_index(["target", "lesion", "draw", "step"])
    assert cells.loc[("", "", 0, 0), "top1"] == jp.evaluate(NETWORK, TEST).top1
    for draw in range(2):
        damaged = jp.evaluate(jp.lesion(NETWORK, "synapse_knockout", "first", 0.5, draw), TEST)
        for lesion in ("held", "free"):
            assert cells.loc[("first", lesion, draw, 0), "top1"] == damaged.top1
    assert cells.xs("held", level="lesion").index.get_level_values("step").unique().tolist() == [0, 3, 6]


def test_the_last_network_is_the_one_that_was_written(whole):
    folder, found = whole
    cells = found.cells.set_index(["lesion", "draw", "step"])
    for lesion in ("held", "free"):
        path = folder / f"networks/first-{lesion}-draw1.safetensors"
        trained = jp.load_network(path, lambda: NETWORK)
        assert jp.evaluate(trained, TEST).top1 == cells.loc[(lesion, 1, 6), "top1"]
        zeros = int((np.asarray(trained.params["first"]["w"]) == 0).sum())
        assert zeros == (16 * 12 // 2 if lesion == "held" else 0)


def test_weight_change_is_from_the_lesioned_network_in_units_of_the_intact_one(whole):
    folder, found = whole
    lesioned = jp.lesion(NETWORK, "synapse_knockout", "first", 0.5, 0).params
    trained = jp.load_network(folder / "networks/first-held-draw0.safetensors", lambda: NETWORK).params
    table = found.changes.set_index(["lesion", "draw", "layer", "tensor"])
    for layer in ("first", "last"):
        a, b, base = (np.asarray(tree[layer]["w"], np.float64) for tree in (lesioned, trained, NETWORK.params))
        row = table.loc[("held", 0, layer, "w")]
        assert row["z_change"] == pytest.approx(np.abs(b - a).mean() / np.abs(base).std(), rel=1e-6)


def test_the_share_that_came_back_is_that_of_the_counts(whole):
    _, found = whole
    summary = found.summary().set_index("lesion")
    cells = found.cells
    before = cells.loc[0, "top1"] / 60
    for lesion in ("held", "free"):
        own = cells[cells["lesion"] == lesion].groupby("step")["top1"].mean() / 60
        row = summary.loc[lesion]
        assert (row["before"], row["damaged"], row["recovered"]) == pytest.approx((before, own[0], own[6]))
        assert row["share"] == pytest.approx((own[6] - own[0]) / (before - own[0]))
        assert row["share_low"] <= row["share"] <= row["share_high"]
        assert row["damaged_low"] <= row["damaged"] <= row["damaged_high"]


def test_draws_learn_from_the_same_batches_and_alone_as_together(whole):
    _, found = whole
    together = recover(**SMALL, draws_at_once=2)
    held = found.cells[found.cells["lesion"] == "held"]
    pd.testing.assert_frame_equal(
        together.cells.iloc[1:].sort_values(["draw", "step"]).reset_index(drop=True),
        held.sort_values(["draw", "step"]).reset_index(drop=True),
        rtol=1e-4,
    )


class Killed(BaseException):
    """Ends a run as a kill does: nothing is tidied up for it."""


@pytest.mark.parametrize("end", [Killed, KeyboardInterrupt])
def test_a_run_that_was_stopped_ends_with_the_same_bits(whole, tmp_path, monkeypatch, end):
    monkeypatch.setattr(calls, "Job", partial(Job, checkpoint_seconds=0.0))
    for steps in (4, 9, 11):  # in another training each time
        made = []

        def stop(count, made=made, steps=steps):
            made.append(count)
            if sum(made) >= steps:
                raise end

        with pytest.raises(end):
            recover(**SMALL, lesion="held,free", out=tmp_path, on_steps=stop, save_networks=True)
    recover(**SMALL, lesion="held,free", out=tmp_path, save_networks=True)
    folder, _ = whole
    assert rows(tmp_path) == rows(folder)
    same_networks(tmp_path, folder)
    assert not list((tmp_path / "checkpoints").glob("*/*")), "states of finished trainings are removed"


# The recovery of `whole` in a process of its own, slow enough to be killed, and with its state kept at each evaluation.
SLOW = """
import sys, time
from functools import partial
import test_recovery_run as own
own.calls.Job = partial(own.Job, checkpoint_seconds=0.0)
pause = lambda steps: time.sleep(0.1)
own.recover(**own.SMALL, lesion="held,free", out=sys.argv[1], on_steps=pause, save_networks=True)
"""


def test_a_killed_run_ends_with_the_same_bits(whole, tmp_path):
    folder, _ = whole
    expected = rows(folder)
    store, total = tmp_path / "recovery.sqlite", len(expected["point"])
    for share in (0.3, 0.7):
        process = subprocess.Popen([sys.executable, "-c", SLOW, str(tmp_path)], cwd=Path(__file__).parent)
        while process.poll() is None and not (store.exists() and stored_points(store) >= share * total):
            time.sleep(0.01)
        process.kill()
        assert process.wait() == -9, "it ended before it was killed"
        assert stored_points(store) < total
    recover(**SMALL, lesion="held,free", out=tmp_path, save_networks=True)
    assert rows(tmp_path) == expected
    same_networks(tmp_path, folder)


def same_networks(folder, expected):
    for path in (expected / "networks").iterdir():
        same = [jp.load_network(where, lambda: NETWORK).params for where in (path, folder / "networks" / path.name)]
        assert fingerprint(same[0]) == fingerprint(same[1])


def stored_points(store):
    try:
        with closing(sqlite3.connect(store)) as connection:
            return connection.execute("SELECT count(*) FROM point").fetchone()[0]
    except sqlite3.OperationalError:  # not made yet
        return 0


def test_a_finished_run_computes_nothing_and_more_draws_extend_it(whole, tmp_path):
    steps = []
    recover(**SMALL, out=tmp_path)
    recover(**SMALL, out=tmp_path, on_steps=steps.append)
    assert steps == []
    recover(**SMALL | {"draws": 3}, out=tmp_path, on_steps=steps.append)
    assert sum(steps) == 6
    assert set(rows(whole[0])["point"]) > {row for row in rows(tmp_path)["point"] if row[2] < 2}


def test_another_training_is_refused(whole):
    folder, _ = whole
    with pytest.raises(StoreError, match="steps: 6 there, 7 here"):
        recover(**SMALL | {"steps": 7}, out=folder)
    with pytest.raises(StoreError, match="holds another recovery .*seed: 0 there, 1 here"):
        recover(**SMALL, seed=1, out=folder)


def test_a_loss_that_is_not_finite_stops_and_the_last_good_state_is_kept(tmp_path):
    calls_made = []

    def explode(updates, state, params=None):
        factor = jnp.where(state == 4, jnp.inf, 1e-3)
        return jax.tree.map(lambda g: -factor * g, updates), state + 1

    optimizer = optax.GradientTransformation(lambda _: jnp.zeros((), jnp.int32), explode)
    with pytest.raises(
        DivergedError, match=r"first \(held\): the loss of draw 0 is not finite at step 6; lower"
    ) as told:
        recover(**SMALL | {"steps": 9}, optimizer=optimizer, out=tmp_path, on_point=calls_made.append)
    assert "\n" not in str(told.value)
    with read_recovery(tmp_path) as store:
        kept = store.checkpoint(calls_made[-1].arm)
    assert kept.step == 3
    assert str(tmp_path / "checkpoints" / kept.folder) in str(told.value)
    arrays = read_state(tmp_path / "checkpoints" / kept.folder)
    assert all(np.isfinite(array).all() for array in arrays.values())


def test_a_state_that_was_damaged_is_refused(tmp_path, monkeypatch):
    from jaxperturb.errors import CheckpointError
    from jaxperturb.recovery import keeping

    keeping.write_state(tmp_path / "state", {"a": np.arange(6, dtype=np.float32)})
    assert keeping.read_state(tmp_path / "state")["a"].tolist() == [0, 1, 2, 3, 4, 5]
    digests = tmp_path / "state" / keeping.DIGESTS
    digests.write_text(digests.read_text().replace('a": "', 'a": "0'))
    with pytest.raises(CheckpointError, match="damaged"):
        keeping.read_state(tmp_path / "state")


def test_damage_that_grows_stands_beside_the_same_at_once():
    found = recover(**SMALL | {"level": None, "draws": 1}, progress_levels="0.25:0.75:0.25")
    table = found.curve("first", "held")
    assert table["level"].tolist() == ["0.25"] * 4 + ["0.5"] * 4 + ["0.75"] * 4
    assert table["trained"].tolist()[-1] == 18
    for level in ("0.25", "0.5", "0.75"):
        row = table[(table["level"] == level) & table["at_once"]].iloc[0]
        damaged = jp.evaluate(jp.lesion(NETWORK, "synapse_knockout", "first", level), TEST)
        assert row["value"] == pytest.approx(damaged.top1 / 60)


def test_without_damage_a_network_learns_under_fresh_damage():
    networks = []
    found = recover(
        None, draws=1, steps=4, batch_size=20, damage_while_training="node_knockout:0.5@first",
        on_network=lambda _, network: networks.append(network),
    )  # fmt: skip
    assert found.experiment.damage == "node_knockout:0.5@first"
    (trained,) = networks
    assert jp.evaluate(trained, TEST).top1 == found.cells.iloc[-1]["top1"]
    results = jp.sweep(trained, TEST, "node_knockout", levels=[0.5], draws=1)
    assert len(results.cells) == 2


@pytest.mark.parametrize(
    ("asked", "error", "message"),
    [
        ({"train": "damaged", "level": 0}, RecoveryError, "damaged nothing, so there is nothing to train"),
        ({"train": "damaged", "level": 1}, RecoveryError, "holds all that learns"),
        ({"train": "frist"}, jp.JaxPerturbError, "did you mean 'first'"),
        ({"lesion": "hold"}, RecoveryError, "did you mean 'held'"),
        ({"optimizer": "adma"}, RecoveryError, "expected sgd or adam"),
        ({"progress_levels": "0.1:0.9:0.1"}, LevelError, "got both"),
        ({"level": None, "progress_levels": "0.1,0.3", "lesion": "free"}, RecoveryError, "stays removed"),
        ({"level": None, "progress_levels": [0.3, 0.1]}, LevelError, "levels that grow"),
        ({"batch_size": 200}, DataError, "120 images, less than a batch of 200"),
        ({"metric": "balanced"}, RecoveryError, "top1 or top5"),
        ({"steps": 0}, jp.JaxPerturbError, "steps of 1 or more"),
    ],
    ids=str,
)
def test_what_cannot_be_done_is_one_clear_line(asked, error, message):
    with pytest.raises(error, match=message) as told:
        recover(**SMALL | asked)
    assert "\n" not in str(told.value)


def test_a_training_set_without_all_classes_is_refused():
    some = np.flatnonzero(TRAIN.labels != 2)
    less = from_arrays(np.stack([TRAIN.read(i) for i in some.tolist()]), TRAIN.labels[some], ["a", "b", "c", "d"])
    with pytest.raises(DataError, match="has no images of '2', which test images are of"):
        jp.recover(NETWORK, less, from_arrays(np.stack([TEST.read(i) for i in range(60)]), TEST.labels), **SMALL)


# The command line.


def test_recover_writes_its_files_prints_its_table_and_is_continued(tmp_path, capsys):
    words = ["recover", "--layers=fc8", "--draws=1", "--steps=2", "--images=40", "--train_images=64", "--batch_size=16",
             "--lesion=held,free", "--out=out"]  # fmt: skip
    assert main.run(words) == 0
    out, err = capsys.readouterr()
    assert [line.split()[:2] for line in out.splitlines()[1:]] == [["fc8", "held"], ["fc8", "free"]]
    assert "alexnet-digits: 2 trainings of 2 steps" in err
    names = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.*") if path.is_file()}
    assert {"recovery.sqlite", "recovery.csv", "curves.csv", "changes.csv", "figures/share-recovered.png"} <= names
    assert main.run([*words, "--quiet"]) == 0
    assert capsys.readouterr() == (out, "")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--optimizer=sdg"], "did you mean 'sgd'?"),
        (["--train=damaged", "--level=0"], "damaged nothing"),
        (["--train_split=tran"], "did you mean 'train'"),
        (["--damage_while_training=synapse_knockout"], "expected damage such as"),
        (["--perturbation=none", "--level=0.5"], "a level needs a perturbation"),
    ],
    ids=str,
)
def test_mistakes_are_one_line(capsys, words, message):
    assert main.run(["recover", "--layers=fc8", "--images=20", "--train_images=64", "--out=out", *words]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert message in err


def test_a_new_head_learns_other_classes_and_the_weights_before_it_may_stay():
    random = np.random.default_rng(5)
    patterns = 2 * random.normal(size=(3, *SHAPE))

    def some(n):
        labels = np.arange(n) % 3
        return from_arrays((patterns[labels] + 0.3 * random.normal(size=(n, *SHAPE))).astype(np.float32), labels)

    found = jp.recover(
        NETWORK, some(90), some(60), None, new_head=True, train="last", draws=1, steps=60, optimizer=optax.adam(0.05)
    )
    cells = found.cells.sort_values("step")
    assert cells["top1"].iloc[-1] >= 54
    moved = found.changes.groupby("layer")["relative_norm"].max()
    assert moved["first"] == 0
    assert moved["last"] > 0
