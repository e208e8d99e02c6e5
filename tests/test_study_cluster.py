"""The driver of a cluster with workers of its own process: equal parts, lost workers, refused ones, no Ray."""

import contextlib
import os
import socket
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from jaxperturb.api.workers import workers_of
from jaxperturb.data import from_arrays
from jaxperturb.data.prepared import prepare
from jaxperturb.engine.plan import INTACT
from jaxperturb.engine.run import evaluate_network, run
from jaxperturb.engine.tiling import Tiling
from jaxperturb.errors import ClusterError, EngineError, ImageError, StudyError
from jaxperturb.networks.network import Network
from jaxperturb.perturb.catalogue import parse_perturbations
from jaxperturb.study import admission, ray_session, worker
from jaxperturb.study.cluster import Cluster
from jaxperturb.study.exchange import Place
from jaxperturb.study.pool import WorkerLostError
from jaxperturb.study.worker import Worker

ASKED = parse_perturbations("synapse_knockout,mean_ablation")
LEVELS = {one.text: tuple(map(Decimal, ("0", "0.5", "1"))) for one in ASKED}
TARGETS = ("first", "second")
TILE = Tiling(16, 16)
IMAGES = 40  # three blocks, the last one short


class LocalPool:
    """Workers of this process, which die when they are told to.

    Attributes:
        dies: says for the number of a call whether its worker dies in it.
        calls: name and arguments of all calls.
    """

    def __init__(self, size=2, dies=lambda call: False):
        self._size, self.dies, self.calls, self.started, self.stopped = size, dies, [], 0, 0

    def size(self):
        return self._size

    def describe(self):
        return f"{self._size} of this process"

    def start(self, place):
        self.started += 1
        return Worker(Place({}, (), str(Path.cwd()), 1))

    def share(self, value):
        return value

    def call(self, own, method, *args):
        self.calls.append((method, args))
        return (own, method, args, self.dies(len(self.calls)))

    def wait(self, promises, seconds):
        return [promises[len(self.calls) % len(promises)]]  # in changing order, as it happens

    def result(self, promise):
        own, method, args, dies = promise
        if dies:
            raise WorkerLostError("killed")
        return getattr(own, method)(*args)

    def stop(self, own):
        self.stopped += 1


@pytest.fixture(autouse=True)
def _reports_of_a_few_parts(monkeypatch):
    monkeypatch.setattr(worker, "_REPORT_SECONDS", 0.002)


@pytest.fixture(autouse=True)
def _nobody_edits(monkeypatch):
    """The package's files may be edited while tests run; a worker that finds them changed is rightly refused."""
    monkeypatch.setattr(admission, "_files", lambda: "as they are")


@pytest.fixture(scope="module")
def network():
    random = np.random.default_rng(0)
    params = {
        "first": {"kernel": random.normal(size=(12, 9)).astype(np.float32), "bias": np.zeros(9, np.float32)},
        "second": {"kernel": random.normal(size=(9, 5)).astype(np.float32), "bias": np.zeros(5, np.float32)},
    }

    def apply(params, images):
        hidden = jnp.maximum(images.reshape(len(images), -1) @ params["first"]["kernel"] + params["first"]["bias"], 0)
        return hidden @ params["second"]["kernel"] + params["second"]["bias"]

    return Network(apply, params, image_shape=(2, 2, 3))


@pytest.fixture(scope="module")
def images():
    random = np.random.default_rng(1)
    pixels = random.normal(size=(IMAGES, 2, 2, 3)).astype(np.float32)
    return prepare(from_arrays(pixels, random.integers(0, 5, IMAGES)), None)


def collected(parts):
    """What is stored of parts, by name; each name comes once."""
    found = {}
    for part in parts:
        key = part.cell, part.start, part.stop
        assert key not in found, "computed twice"
        found[key] = part.outcomes.tobytes(), part.selected, part.changed, part.shortcut
    return found


def asked(run, network, images, draws=12, **options):
    return run(network, images, ASKED, LEVELS, TARGETS, draws, 7, batch_size=16, tile=TILE, **options)


def cluster_of(pool, **options):
    return Cluster(lambda: contextlib.nullcontext(pool), 1, **options)


@pytest.fixture(scope="module")
def expected(network, images):
    return collected(asked(run, network, images))


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_any_number_of_workers_gives_the_engines_parts(network, images, expected, workers):
    with cluster_of(LocalPool(workers)) as cluster:
        assert collected(asked(cluster.run, network, images)) == expected


@pytest.mark.parametrize("nth", [1, 3, 5, 6, 9])
def test_a_worker_that_dies_at_any_call_changes_nothing(network, images, expected, nth):
    pool = LocalPool(2, lambda call: call == nth)
    events = []
    with cluster_of(pool) as cluster:
        found = collected(asked(cluster.run, network, images, on_event=lambda *event: events.append(event)))
    assert found == expected
    assert pool.started == 3
    assert [kind for kind, _ in events].count("worker lost") == 1


def test_workers_that_die_again_and_again_change_nothing_while_there_is_progress(network, images, expected):
    pool = LocalPool(2, lambda call: call % 7 == 0)
    with cluster_of(pool) as cluster:
        assert collected(asked(cluster.run, network, images)) == expected
    assert pool.started > 4


def test_a_task_that_kills_every_worker_ends_the_run(network, images):
    pool = LocalPool(1)
    pool.dies = lambda call: pool.calls[-1][0] == "advance"
    with cluster_of(pool) as cluster, pytest.raises(EngineError, match="3 workers were lost on first") as error:
        collected(asked(cluster.run, network, images))
    assert "memory" in str(error.value)


def test_workers_that_never_begin_end_the_run(network, images):
    with (
        cluster_of(LocalPool(2, lambda call: True)) as cluster,
        pytest.raises(EngineError, match="end before they begin: killed"),
    ):
        collected(asked(cluster.run, network, images))


def test_what_is_done_is_not_computed_and_a_second_call_extends(network, images, expected):
    pool = LocalPool(2)
    with cluster_of(pool) as cluster:
        few = collected(asked(cluster.run, network, images, draws=5))
        known = set(few)
        more = collected(
            asked(cluster.run, network, images, done=lambda cell, start, stop: (cell, start, stop) in known)
        )
        assert few.keys().isdisjoint(more)
        assert few | more == expected
        assert collected(asked(cluster.run, network, images, done=lambda *_: True)) == {}
    networks = [args[1] is not None for method, args in pool.calls if method == "prepare"]
    assert pool.started == 2, "workers are kept"
    assert networks.count(True) <= 2 < len(networks), "and so is what they hold"


def test_fewer_images_first_and_then_more(network, images, expected):
    with cluster_of(LocalPool(2)) as cluster:
        some = collected(asked(cluster.run, network, images.first(16)))
        rest = collected(asked(cluster.run, network, images, done=lambda cell, start, stop: stop <= 16))
    assert some | rest == expected


def test_the_intact_network_alone(network, images):
    with cluster_of(LocalPool(2)) as cluster:
        found = cluster.evaluate(network, images, batch_size=16, tile=TILE)
    np.testing.assert_array_equal(found, evaluate_network(network, images, batch_size=16, tile=TILE))


def test_the_intact_network_beside_lesions(network, images, expected):
    with cluster_of(LocalPool(2)) as cluster:
        found = collected(asked(cluster.run, network, images, intact=True))
        alone = list(asked(cluster.run, network, images, intact=True, done=lambda cell, *_: cell != INTACT))
    assert found == expected | collected(alone)
    assert {part.cell for part in alone} == {INTACT}
    outcomes = np.concatenate([part.outcomes for part in sorted(alone, key=lambda part: part.start)], axis=1)
    np.testing.assert_array_equal(outcomes, evaluate_network(network, images, batch_size=16, tile=TILE))


def test_images_that_cannot_be_read_are_told_before_their_parts(network, images):
    def read(i):
        if i in (3, 20):
            raise ImageError(f"image {i} is torn")
        return images.dataset.read(i)

    torn = prepare(replace(images.dataset, read=read), None, None, "skip")
    told = []
    expected = collected(asked(run, network, replace(torn, on_skip=lambda *_: None)))
    with cluster_of(LocalPool(2)) as cluster:
        parts = asked(cluster.run, network, replace(torn, on_skip=lambda *skip: told.append(skip)))
        found = {}
        for part in parts:
            found |= collected([part])
            inside = [place for place in torn.positions.tolist() if place in (3, 20)]
            places = [torn.positions.tolist().index(place) for place in inside]
            assert {place for place, _ in told} >= {place for place in places if part.start <= place < part.stop}
    assert found == expected
    assert {reason for _, reason in told} == {"image 3 is torn", "image 20 is torn"}


def test_what_a_worker_raises_is_raised(network, images):
    def read(i):
        raise ImageError("image is torn")

    with cluster_of(LocalPool(2)) as cluster, pytest.raises(ImageError, match="torn"):
        list(asked(cluster.run, network, replace(images, dataset=replace(images.dataset, read=read))))


def test_a_run_may_be_ended_while_workers_are_waited_for(network, images):
    pool, turns = LocalPool(2), Counter()

    def check():
        turns["waited"] += 1
        if turns["waited"] == 9:
            raise KeyboardInterrupt

    with cluster_of(pool, on_wait=check) as cluster, pytest.raises(KeyboardInterrupt):
        list(asked(cluster.run, network, images))
    assert pool.stopped == pool.started == 2


def test_a_consumer_that_has_enough_leaves_no_worker_busy(network, images, expected):
    pool = LocalPool(2)
    with cluster_of(pool) as cluster:
        parts = asked(cluster.run, network, images)
        next(parts)
        parts.close()
        assert pool.stopped >= 1
        assert collected(asked(cluster.run, network, images)) == expected


def with_other(pool, method, **fields):
    """A pool of which each worker answers a call with other fields."""
    result = pool.result

    def changed(promise):
        found = result(promise)
        return replace(found, **fields) if promise[1] == method else found

    pool.result = changed
    return pool


def versions(**others):
    return {**admission.own_programs().versions, "jaxperturb's files": "as they are"} | others


@pytest.mark.parametrize(
    ("method", "fields", "said"),
    [
        ("programs", {"host": "n7", "versions": versions(jax="0.0.1")}, r"on n7 has other programs \(jax: \d[\d.]+ here, 0\.0\.1 there\)"),
        ("programs", {"versions": versions(Python="2.7")}, r"\(Python: 3\.\d+\.\d+ here, 2\.7 there\)"),
        ("programs", {"versions": versions(jaxperturb="9")}, r"\(jaxperturb: \S+ here, 9 there\)"),
        ("programs", {"versions": versions(**{"jaxperturb's files": "0"})}, r"\(jaxperturb's files: as they are here, 0 there\)"),
        ("prepare", {"weights": "a" * 64}, r"compute something else \(weights: \w{12} here, a{12} there\)"),
        ("prepare", {"images": ("b" * 64,)}, r"\(images: they or their labels differ from number 0 of the study's order"),
        ("prepare", {"backend": "gpu"}, r"\(backend: cpu here, gpu there\)"),
        ("prepare", {"tile": {"small": 1, "large": 16, "convolutions": "xla"}}, r"\(tile.small: 16 here, 1 there"),
    ],
)  # fmt: skip
def test_a_worker_that_would_compute_something_else_is_refused(network, images, method, fields, said):
    with (
        cluster_of(with_other(LocalPool(2), method, **fields)) as cluster,
        pytest.raises(ClusterError, match=said) as error,
    ):
        list(asked(cluster.run, network, images))
    assert "\n" not in str(error.value)


def test_another_device_is_said_and_no_reason_to_refuse(network, images, expected):
    events = []
    with cluster_of(with_other(LocalPool(2), "prepare", device="another cpu")) as cluster:
        found = collected(asked(cluster.run, network, images, on_event=lambda *event: events.append(event)))
    assert found == expected
    said = [text for kind, text in events if kind == "environment"]
    assert said == [
        f"process {os.getpid()} on {socket.gethostname()} computes on another cpu, this process on cpu: predictions that hang on the last bit may differ"
    ]


def test_a_function_whose_source_differs_on_the_worker_is_refused(network, images, tmp_path, monkeypatch):
    (tmp_path / "mine_for_workers.py").write_text("def halve(key, params, level, *, layers='*'):\n    return params\n")
    monkeypatch.syspath_prepend(tmp_path)
    own = parse_perturbations("mine_for_workers:halve")
    pool = with_other(LocalPool(1), "prepare", code={own[0].text: "c" * 64})
    with cluster_of(pool) as cluster, pytest.raises(ClusterError, match=r"source file of .*halve.* c{12} there"):
        list(cluster.run(network, images, own, {own[0].text: (Decimal(1),)}, TARGETS, 1, 0, batch_size=16, tile=TILE))


def test_what_cannot_be_sent_is_said(network, images):
    pool = LocalPool(1)

    def share(value):
        raise TypeError("cannot pickle '_io.TextIOWrapper' object")

    pool.share = share
    with cluster_of(pool) as cluster, pytest.raises(ClusterError, match="the network cannot be sent to workers"):
        list(asked(cluster.run, network, images))


def says(*command):
    code = "import sys; from jaxperturb.cli import main; sys.modules['ray'] = None; sys.exit(main.run(sys.argv[1:]))"
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True)
    return done.returncode, done.stderr


def test_without_ray_one_line_says_how_to_install_it(tmp_path):
    status, errors = says("sweep", "--cluster=auto", "--quiet", "--layers=fc8", "--draws=1", f"--out={tmp_path / 'a'}")
    assert (status, errors) == (2, 'jaxperturb: several machines need Ray: pip install "jaxperturb[ray]"\n')


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("localhost", "expected auto, or HOST:PORT as 'ray start' prints it, got 'localhost'"),
        ("ray://head:10001", "expected auto, or HOST:PORT"),
        ("127.0.0.1:1", "nothing answers at 127.0.0.1:1; start Ray there with 'ray start --head --port=1'"),
    ],
)
def test_an_address_that_cannot_be_joined_is_one_line(address, said):
    pytest.importorskip("ray")
    with pytest.raises(ClusterError, match=said), ray_session.ray_session(address):
        pass


@pytest.mark.parametrize(
    ("cluster", "cpus", "said"), [(None, 2, "is for a cluster"), ("auto", 0, "of 1 or more, got 0")]
)
def test_processors_are_for_workers(cluster, cpus, said):
    with pytest.raises(StudyError, match=f"cpus_per_worker.*{said}"):
        workers_of(cluster, cpus, None)


def test_a_worker_sets_its_process_up_before_jax_is_imported():
    code = (
        "import os, sys; from jaxperturb.study.worker import Worker; from jaxperturb.study.exchange import Place; "
        "Worker(Place({'NPROC': '1', 'MARK': 'x'}, ('/somewhere',), '/', 1)); "
        "print('jax' in sys.modules, os.environ['MARK'], sys.path[-1], os.getcwd())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "x", "/somewhere", "/"]


def test_folders_of_killed_processes_are_removed_and_those_of_others_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(ray_session, "_temporary", lambda: tmp_path)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for name in (f"jp-ray-{ended.pid}-a", f"jp-ray-{os.getpid()}-b", "jp-ray-notes", "other"):
        (tmp_path / name).mkdir()
    made = ray_session._folder()
    assert {path.name for path in tmp_path.iterdir()} == {made.name, f"jp-ray-{os.getpid()}-b", "jp-ray-notes", "other"}
    assert made.stat().st_mode & 0o077 == 0
