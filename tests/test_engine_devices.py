"""Several devices give the counts of one, bit for bit, however the work divides."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxperturb.engine.devices import local_devices
from jaxperturb.engine.mesh import mesh_of
from jaxperturb.errors import DeviceError

EIGHT = "--xla_force_host_platform_device_count=8"
TESTS = Path(__file__).parent


def with_eight_devices(*words):
    """Runs a program of its own, since JAX asks how many devices there are only once."""
    environment = os.environ | {"XLA_FLAGS": EIGHT, "PYTHONPATH": str(TESTS)}
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


# 40 images in tiles of 32: two tiles, the last of which is not full. Two draws of two levels: four lesions, of which
# three are computed at a time.
STUDY = """
import json
import flax.linen as nn, jax, numpy as np
from jaxperturb.data import from_arrays
from jaxperturb.data.prepared import prepare
from jaxperturb.engine import batched, cells
from jaxperturb.engine.run import run
from jaxperturb.engine.tiling import Tiling
from jaxperturb.levels import parse_levels
from jaxperturb.networks.network import Network
from jaxperturb.perturb import parse_perturbations

class Small(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(5, (3, 3), name="first")(x))
        x = nn.relu(nn.Conv(6, (3, 3), (2, 2), name="second")(x))
        return nn.Dense(10, name="last")(nn.relu(nn.Dense(32, name="third")(x.reshape(len(x), -1))))

shape, rng = (8, 8, 2), np.random.default_rng(0)
shapes = jax.eval_shape(Small().init, jax.random.key(0), jax.ShapeDtypeStruct((1, *shape), np.float32))
variables = jax.tree.map(lambda leaf: 0.2 * rng.standard_normal(leaf.shape, np.float32), shapes)
network = Network.from_linen(Small(), variables, image_shape=shape)
images = prepare(from_arrays(rng.standard_normal((40, *shape), np.float32), np.arange(40) % 10), None, None)
seen = set()

def watch(module):
    plain = module.mesh_of
    def mesh_of(*arguments):
        seen.add(plain(*arguments).devices.shape)
        return plain(*arguments)
    module.mesh_of = mesh_of

watch(batched)
watch(cells)

def study(perturbations, targets, tile, devices):
    asked = parse_perturbations(perturbations)
    levels = {item.text: parse_levels("0.00002,0.00004" if "bit" in item.text else "0.3,0.6") for item in asked}
    parts = run(network, images, asked, levels, targets, 2, 3, batch_size=40, tile=tile, devices=devices)
    return {str(part.cell): [part.outcomes.tolist(), part.changed] for part in parts}

assert jax.local_device_count() == 8
loop, masks = Tiling(16, 32), Tiling(32, 32, masks=3)
for perturbations, target, tile in (
    ("synapse_knockout", "third", loop),
    ("gaussian_noise", "second", loop),
    ("bit_flip(bits=0:31)", "third", loop),
    ("synapse_knockout", "first+third", masks),
    ("node_knockout", "second", masks),
):
    seen.clear()
    one, all_of_them = (study(perturbations, (target,), tile, count) for count in (1, None))
    assert one and one == all_of_them
    print(json.dumps(sorted(seen)))
"""


def test_all_devices_give_the_counts_of_one(tmp_path):
    program = tmp_path / "study.py"
    program.write_text(STUDY)
    shapes = [json.loads(line) for line in with_eight_devices(str(program)).splitlines()]
    assert shapes[:3] == [[[2, 2]]] * 3  # draws by tiles; of one device nobody asks for a mesh
    assert shapes[3:] == [[[1, 1], [2, 2]]] * 2  # groups of lesions by tiles, on one device and on eight


def test_the_digits_study_has_the_counts_of_one_device(tmp_path):
    words = ["sweep", "--quiet", "--images=40", "--draws=3", "--layers=fc8", "--levels=0.5,1"]
    tables = []
    for flags in ("", EIGHT):
        out = tmp_path / f"study{len(tables)}"
        command = [sys.executable, "-m", "jaxperturb", *words, f"--out={out}"]
        environment = os.environ | {"XLA_FLAGS": flags}
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        tables.append((out / "results.csv").read_text())
    assert tables[0] == tables[1]
    assert tables[0].count("\n") == 1 + 3 * 2 * 3


@pytest.mark.parametrize(
    ("devices", "groups", "tiles", "shape"),
    [
        (1, 5, 5, (1, 1)),
        (8, 1, 1, (1, 1)),
        (8, 8, 1, (8, 1)),
        (8, 1, 8, (1, 8)),
        (8, 1, 3, (1, 3)),
        (8, 5, 2, (5, 1)),
        (8, 4, 2, (4, 2)),
        (7, 2, 3, (2, 3)),
        (3, 100, 1, (3, 1)),
    ],
)
def test_the_mesh_takes_the_fewest_rounds_and_no_idle_devices(devices, groups, tiles, shape):
    found = mesh_of(jax.devices() * devices, groups, tiles)
    assert found.devices.shape == shape


def test_no_mesh_takes_fewer_rounds():
    for devices in range(1, 9):
        for groups in range(1, 12):
            for tiles in range(1, 6):
                rows, columns = mesh_of(jax.devices() * devices, groups, tiles).devices.shape
                assert rows * columns <= devices
                best = min(
                    -(-groups // r) * -(-tiles // c)
                    for r in range(1, devices + 1)
                    for c in range(1, devices + 1)
                    if r * c <= devices
                )
                assert -(-groups // rows) * -(-tiles // columns) == best


def test_more_devices_than_there_are_are_refused():
    assert local_devices(1) == local_devices()
    with pytest.raises(DeviceError, match="expected 1 device, as this machine has, got 2"):
        local_devices(2)
    with pytest.raises(DeviceError, match="got 0"):
        local_devices(0)


def test_what_each_device_holds_is_found(tmp_path):
    """On a mesh of 2 by 3, an array over both axes comes apart into the six blocks that NumPy cuts."""
    program = tmp_path / "blocks.py"
    program.write_text(
        "import json, jax, numpy as np\n"
        "from jax.sharding import NamedSharding, PartitionSpec as P\n"
        "from jaxperturb.engine.mesh import by_device, mesh_of\n"
        "mesh = mesh_of(jax.devices(), 2, 3)\n"
        "whole = jax.device_put(np.arange(48).reshape(4, 3, 4), NamedSharding(mesh, P('masks', 'images')))\n"
        "print(json.dumps([[own.tolist() for own in row] for row in by_device(whole, mesh)]))\n"
    )
    found = json.loads(with_eight_devices(str(program)))
    whole = np.arange(48).reshape(4, 3, 4)
    for row in range(2):
        for column in range(3):
            np.testing.assert_array_equal(found[row][column], whole[2 * row : 2 * row + 2, column : column + 1])
