"""Running a study: what is computed, what is not, and what a second run may change. With a fake engine, and the real one."""

import json
import sqlite3
from contextlib import closing
from dataclasses import replace
from decimal import Decimal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxperturb.data import from_arrays
from jaxperturb.data.prepared import prepare
from jaxperturb.engine import run as engine
from jaxperturb.engine.plan import INTACT, plan
from jaxperturb.engine.run import Part
from jaxperturb.errors import StoreError, StudyError
from jaxperturb.networks.network import Network
from jaxperturb.perturb.catalogue import parse_perturbations
from jaxperturb.study.planned import Shard
from jaxperturb.study.runner import open_study, preview, run_study
from jaxperturb.study.store import open_store
from jaxperturb.study.study import describe

IMAGES = 300


def make_network(seed=0):
    rng = np.random.default_rng(seed)

    def dense(inputs, units):
        return {
            "kernel": jnp.asarray(rng.normal(size=(inputs, units)), jnp.float32),
            "bias": jnp.zeros(units, jnp.float32),
        }

    def apply(params, images):
        hidden = images.reshape(len(images), -1)
        for name in ("first", "last"):
            hidden = hidden @ params["params"][name]["kernel"] + params["params"][name]["bias"]
        return hidden

    return Network(apply, {"params": {"last": dense(6, 4), "first": dense(9, 6)}}, name="two")


def make_dataset(seed=0, changed=None):
    rng = np.random.default_rng(seed)
    images = rng.normal(size=(IMAGES, 3, 3, 1)).astype(np.float32)
    if changed is not None:
        images[changed] += 1
    return from_arrays(images, np.arange(IMAGES) % 4)


def fake_engine(calls):
    """An engine whose outcomes are a pure function of the cell and the image, and which records what it computes."""

    def run(network, images, asked, levels, targets, draws, seed, *, batch_size, done, intact, on_event):
        for start in range(0, len(images), batch_size):
            stop = min(start + batch_size, len(images))
            for item in plan(asked, levels, targets, draws, intact=intact):
                for cell in (*item.intact, *item.cells):
                    if not done(cell, start, stop):
                        calls.append((cell, start, stop))
                        yield Part(
                            cell,
                            start,
                            stop,
                            outcomes_of(cell, images, start, stop),
                            1,
                            1,
                            "intact" if cell in item.intact else "",
                        )

    return run


def outcomes_of(cell, images, start, stop):
    number = images.positions[start:stop] * 7 + int(cell.level * 10) + 3 * cell.draw + len(cell.target)
    return np.stack([number % (plane + 2) == 0 for plane in range(5)])


class Asking:
    """The pieces of one study."""

    def __init__(self, path=None, perturbations="synapse_knockout", levels="0,0.5", targets=("first", "last"), draws=2, seed=0,
                 images=IMAGES, batch_size=128, network=None, dataset=None, run=None, **callbacks):  # fmt: skip
        self.network = network or make_network()
        self.prepared = prepare(dataset or make_dataset(), None, images)
        self.asked = parse_perturbations(perturbations)
        self.levels = {one.text: tuple(Decimal(level) for level in levels.split(",")) for one in self.asked}
        self.study = describe(self.network, self.prepared, self.asked, self.levels, targets, draws, seed)
        self.path, self.batch_size, self.callbacks, self.calls = path, batch_size, callbacks, []
        self.run = run or fake_engine(self.calls)

    def __call__(self):
        """Runs it and returns all outcomes by cell."""
        with open_study(self.path, self.study, self.prepared) as store:
            run_study(
                self.study, store, self.network, self.prepared, self.asked, self.levels,
                batch_size=self.batch_size, run=self.run, **self.callbacks,
            )  # fmt: skip
            return {counts.cell: store.outcomes(counts.cell)[1] for counts in store.cells()}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "results.sqlite"


def query(path, text):
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(text).fetchall()


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    for cell, outcomes in expected.items():
        np.testing.assert_array_equal(found[cell], outcomes)


def test_all_cells_are_stored_with_the_engines_outcomes(path):
    asking = Asking(path)
    found = asking()
    assert len(found) == 2 * (1 + 2)
    for cell, outcomes in found.items():
        np.testing.assert_array_equal(outcomes, outcomes_of(cell, asking.prepared, 0, IMAGES))


def test_the_same_study_again_computes_nothing(path):
    first, again = Asking(path), Asking(path)
    expected = first()
    assert_equal(again(), expected)
    assert len(first.calls) == 6 * 3
    assert again.calls == []
    assert query(path, "SELECT outcome FROM run") == [("complete",)] * 2


@pytest.mark.parametrize(
    "more",
    [
        {"draws": 3},
        {"levels": "0,0.5,1"},
        {"levels": "0.25"},
        {"perturbations": "synapse_knockout,node_knockout"},
        {"perturbations": "resample"},
    ],
)
def test_more_of_the_same_computes_only_what_is_new(path, more):
    first, second = Asking(path)(), Asking(path, **more)
    found = second()
    assert not {cell for cell, _, _ in second.calls} & first.keys()
    assert found.keys() >= first.keys()
    fresh = Asking(**more)()
    assert {cell: found[cell].tolist() for cell in fresh} == {cell: fresh[cell].tolist() for cell in fresh}


def test_another_layer_is_added_in_the_networks_order(path):
    Asking(path, targets=("last",))()
    second = Asking(path, targets=("first",))
    assert_equal(second(), Asking(targets=("first", "last"))())
    assert {cell.target for cell, _, _ in second.calls} == {"first"}
    with open_store(path) as store:
        assert store.study().targets == ("first", "last")


@pytest.mark.parametrize(("fewer", "batch_size"), [(256, 128), (100, 128), (299, 7)])
def test_more_images_extend_a_study(path, fewer, batch_size):
    Asking(path, images=fewer, batch_size=batch_size)()
    second = Asking(path)
    assert_equal(second(), Asking()())
    assert all(stop > fewer for _, _, stop in second.calls)
    assert query(path, "SELECT COUNT(*), MAX(position) FROM image") == [(IMAGES, IMAGES - 1)]


def test_fewer_images_leave_what_is_there(path):
    expected = Asking(path)()
    second = Asking(path, images=100)
    assert_equal(second(), expected)
    assert second.calls == []
    with open_store(path) as store:
        assert store.study().images == IMAGES


def test_another_block_size_changes_nothing(path):
    assert_equal(Asking(path, batch_size=17)(), Asking()())


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"seed": 1}, "seed: 0 in the store, 1 asked"),
        ({"network": make_network(1)}, "weights: [0-9a-f]{12} in the store"),
        ({"dataset": make_dataset(1)}, "images: they or their labels differ from number 0 "),
        ({"dataset": make_dataset(changed=slice(None))}, "images: "),
    ],
)
def test_another_study_is_refused_and_nothing_is_touched(path, other, message):
    Asking(path)()
    before = path.read_bytes()
    second = Asking(path, **other)
    with pytest.raises(StoreError, match=message) as caught:
        second()
    assert str(path) in str(caught.value)
    assert second.calls == []
    assert path.read_bytes() == before


def test_one_changed_pixel_of_the_last_image_is_noticed(path):
    Asking(path)()
    last = int(Asking().prepared.positions[-1])
    with pytest.raises(StoreError, match="differ from number 256 "):
        Asking(path, dataset=make_dataset(changed=last))()


def test_an_interruption_keeps_what_was_yielded(path):
    parts = []

    def interrupt(part):
        parts.append(part)
        if len(parts) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Asking(path, on_part=interrupt)()
    assert query(path, "SELECT COUNT(*) FROM part") == [(5,)]
    assert query(path, "SELECT outcome FROM run") == [("interrupted",)]
    second = Asking(path)
    assert_equal(second(), Asking()())
    assert len(second.calls) == 6 * 3 - 5


def test_a_failure_keeps_what_was_yielded(path):
    engine_of = fake_engine([])

    def failing(*args, **options):
        for number, part in enumerate(engine_of(*args, **options)):
            if number == 3:
                raise ValueError("out of luck")
            yield part

    with pytest.raises(ValueError, match="out of luck"):
        Asking(path, run=failing)()
    assert query(path, "SELECT COUNT(*) FROM part") == [(3,)]
    assert query(path, "SELECT outcome FROM run") == [("failed",)]


def test_the_engine_is_closed_when_a_callback_raises():
    closed = []

    def run(*args, **options):
        try:
            yield from fake_engine([])(*args, **options)
        finally:
            closed.append(True)

    def refuse(part):
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        Asking(run=run, on_part=refuse)()
    assert closed == [True]


def test_callbacks_get_what_is_computed(path):
    starts, parts = [], []
    Asking(path, images=100)()
    second = Asking(path, draws=3, on_start=starts.append, on_part=parts.append)
    second()
    # Stored before: 6 cells on 100 images. Asked: 8 cells on 300.
    assert [(start.cells, start.evaluations) for start in starts] == [(8, 8 * 300 - 6 * 100)]
    assert [(part.cell, part.start, part.stop) for part in parts] == second.calls


def test_the_intact_network_is_evaluated_once_where_no_level_stands_for_it(path):
    first, again, wider = (Asking(path, levels=levels) for levels in ("0.5", "0.5", "0,0.5"))
    blocks = [(INTACT, start, min(start + 128, IMAGES)) for start in range(0, IMAGES, 128)]
    for asking, expected in ((first, blocks), (again, []), (wider, [])):
        asking()
        assert [call for call in asking.calls if call[0] == INTACT] == expected
    assert query(path, "SELECT COUNT(*) FROM cells WHERE shortcut = 'intact'") == [(2,)]  # those of level 0


def test_a_run_says_who_computed(path):
    Asking(path)()
    ((versions, device, tiling, command, precision),) = query(
        path, "SELECT versions, device, tiling, command, precision FROM run"
    )
    assert {"python", "jax", "jaxlib", "flax", "numpy", "jaxperturb"} <= json.loads(versions).keys()
    assert json.loads(device)["platform"] == "cpu"
    asking = Asking()
    assert json.loads(tiling) == {"block": 128, "shard": None, "tiles": asking.study.identity.tiles}
    assert command
    assert precision == "float32"


def test_a_label_that_the_network_has_no_class_for_is_refused():
    dataset = from_arrays(np.zeros((3, 3, 3, 1), np.float32), [0, 1, 4])
    with pytest.raises(StudyError, match="label 4 is none of two's 4 classes"):
        Asking(dataset=dataset, images=3)


REAL = {"perturbations": "synapse_knockout,node_knockout,gaussian_noise", "levels": "0,0.5,1", "run": engine.run}


def test_a_study_in_pieces_is_the_whole_one(path):
    for piece in ({"images": 130, "draws": 1}, {"targets": ("last",), "batch_size": 64}, {"draws": 1}, {}):
        found = Asking(path, **(REAL | piece))()
    assert_equal(found, Asking(**REAL)())


def test_how_a_study_was_pieced_together_is_not_seen_in_its_cells(path):
    for piece in ({"draws": 1}, {}):
        Asking(path, **(REAL | piece))()
    whole = path.with_name("whole.sqlite")
    Asking(whole, **REAL)()
    table = "SELECT * FROM cells ORDER BY perturbation, target, level, draw"
    assert query(path, table) == query(whole, table)


def environment(path):
    return query(path, "SELECT run, text FROM event WHERE kind = 'environment'")


def test_another_device_or_version_is_said_and_recorded(path):
    starts = []
    for _ in range(2):
        Asking(path, draws=1, on_start=starts.append)()
    assert [start.remarks for start in starts] == [(), ()]
    assert environment(path) == []
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE run SET device = json_set(device, '$.platform', 'tpu', '$.host', 'elsewhere')")
        connection.execute("UPDATE run SET versions = json_set(versions, '$.jax', '0.1.2')")
    Asking(path, on_start=starts.append)()
    remarks = ("platform: tpu before, cpu now", f"jax: 0.1.2 before, {jax.__version__} now")
    assert starts[-1].remarks == remarks
    assert environment(path) == [(3, remark) for remark in remarks]


def test_what_a_run_would_compute_is_said_without_writing(path):
    asking = Asking(path)
    start = preview(path, asking.study)
    assert (start.cells, start.evaluations) == (6, 6 * IMAGES)
    assert not path.exists()
    Asking(path, images=100)()
    before = path.read_bytes()
    start = preview(path, asking.study, pace=lambda: 0.5)
    assert (start.cells, start.evaluations) == (6, 6 * (IMAGES - 100))
    assert start.seconds == start.work / 2
    with pytest.raises(StoreError, match="seed: 0 in the store, 1 asked"):
        preview(path, Asking(seed=1).study)
    assert path.read_bytes() == before


def test_a_store_of_another_semantics_is_refused(path, monkeypatch):
    Asking(path)()
    monkeypatch.setattr("jaxperturb.study.study.SEMANTICS", 2)
    with pytest.raises(StoreError, match="semantics: 1 in the store, 2 asked"):
        Asking(path)()


def test_another_precision_is_refused(path):
    Asking(path)()
    other = Asking(path)
    other.study = replace(other.study, identity=replace(other.study.identity, precision="bfloat16"))
    with pytest.raises(StoreError, match="precision: float32 in the store, bfloat16 asked"):
        other()


@pytest.mark.parametrize("count", [1, 3, 4, 7])
def test_shares_of_a_study_are_the_whole_one(path, tmp_path, count):
    expected, found, computed = Asking(levels="0,0.3,0.5,1")(), {}, []
    for number in range(1, count + 1):
        one = Asking(tmp_path / f"{number}.sqlite", levels="0,0.3,0.5,1", shard=Shard(number, count))
        found |= one()
        computed += one.calls
    assert_equal(found, expected)
    assert len(computed) == len(set(computed)), "no share computes what another does"
