"""Other precisions: who has them, what they compute, and that the engine's cut holds in them."""

from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from jaxperturb.data import from_arrays
from jaxperturb.data.prepared import prepare
from jaxperturb.engine.agreement import compare_precisions
from jaxperturb.engine.computing import Computing
from jaxperturb.engine.lesions import Lesions
from jaxperturb.engine.methods import method_of
from jaxperturb.engine.precision import check_precision, in_precision, precisions_of
from jaxperturb.engine.programs import Shape
from jaxperturb.engine.run import run
from jaxperturb.engine.tiling import Tiling
from jaxperturb.errors import DeviceError, StudyError
from jaxperturb.levels import parse_levels
from jaxperturb.networks.network import Network, specification
from jaxperturb.perturb import parse_perturbations
from jaxperturb.random import draw_key
from jaxperturb.study.extend import differences
from jaxperturb.study.study import describe

IMAGES, CLASSES, SHAPE, TILE = 40, 10, (8, 8, 2), Tiling(16, 32)
PERTURBATIONS = "synapse_knockout,node_knockout,gaussian_noise"

CPU = SimpleNamespace(platform="cpu", device_kind="cpu")
T4 = SimpleNamespace(platform="gpu", device_kind="Tesla T4", compute_capability="7.5")
P100 = SimpleNamespace(platform="gpu", device_kind="Tesla P100", compute_capability="6.0")
A100 = SimpleNamespace(platform="gpu", device_kind="NVIDIA A100", compute_capability="8.0")
H100 = SimpleNamespace(platform="gpu", device_kind="NVIDIA H100", compute_capability="9.0")
MI300 = SimpleNamespace(platform="gpu", device_kind="AMD MI300", compute_capability="gfx942")
TPU = SimpleNamespace(platform="tpu", device_kind="TPU v5e")


class Small(nn.Module):
    """Two convolutions and two dense layers."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(5, (3, 3), name="first")(x))
        x = nn.relu(nn.Conv(6, (3, 3), (2, 2), name="second")(x))
        return nn.Dense(CLASSES, name="last")(nn.relu(nn.Dense(32, name="third")(x.reshape(len(x), -1))))


@pytest.fixture(scope="module")
def network():
    variables = Small().init(jax.random.key(0), jnp.zeros((1, *SHAPE)))
    return Network.from_linen(Small(), variables, image_shape=SHAPE)


@pytest.fixture(scope="module")
def images(network):
    pixels = np.random.default_rng(1).standard_normal((IMAGES, *SHAPE), dtype=np.float32)
    labels = np.array(network.apply(network.params, pixels).argmax(-1), np.int32)
    labels[::4] = (labels[::4] + 1) % CLASSES
    return prepare(from_arrays(pixels, labels), None, None)


@pytest.mark.parametrize(
    ("device", "known"),
    [
        (CPU, ["float32"]),
        (P100, ["float32"]),
        (T4, ["float32", "float16"]),
        (A100, ["float32", "tf32", "bfloat16", "float16"]),
        (H100, ["float32", "tf32", "bfloat16", "float16"]),
        (MI300, ["float32", "tf32", "bfloat16", "float16"]),
        (TPU, ["float32", "bfloat16"]),
    ],
    ids=lambda value: getattr(value, "device_kind", ""),
)
def test_each_device_has_what_its_makers_say(device, known):
    assert list(precisions_of(device)) == known
    for precision in ("float32", "tf32", "bfloat16", "float16"):
        if precision in known:
            check_precision(precision, device)
        else:
            with pytest.raises(DeviceError, match=f"got {precision}"):
                check_precision(precision, device)


def test_a_refusal_names_what_to_take():
    with pytest.raises(DeviceError, match=r"on Tesla T4 \(compute capability 7.5\), got tf32; take float16$"):
        check_precision("tf32", T4)
    with pytest.raises(DeviceError, match="on TPU v5e, got float16; take bfloat16"):
        check_precision("float16", TPU)
    with pytest.raises(DeviceError, match="on a CPU, got bfloat16, which takes 1.4 times as long there; take"):
        check_precision("bfloat16", CPU)
    with pytest.raises(StudyError, match="got 'bfloat'; did you mean 'bfloat16'"):
        check_precision("bfloat", A100)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_a_dense_layer_rounds_as_numpy_does(precision):
    """Operands are rounded, products are summed in float32, and the sum is rounded: by ml_dtypes."""
    rng = np.random.default_rng(0)
    images, weights = rng.standard_normal((6, 1, 1, 50), np.float32), rng.standard_normal((50, 7), np.float32)

    def apply(params, images):
        return images.reshape(len(images), -1) @ params["w"]

    found = np.asarray(jax.jit(in_precision(apply, precision))({"w": weights}, images))
    short = ml_dtypes.bfloat16 if precision == "bfloat16" else np.float16
    a, b = (x.astype(short).astype(np.float32) for x in (images.reshape(6, 50), weights))
    step = float(ml_dtypes.finfo(short).eps)
    np.testing.assert_allclose(found, (a @ b).astype(short).astype(np.float32), rtol=2 * step, atol=step)
    assert np.abs(found - images.reshape(6, 50) @ weights).max() > step / 8  # no float32 in disguise
    assert found.dtype == np.float32


def test_float32_is_the_network_itself(network):
    assert in_precision(network.apply, "float32") is network.apply


def test_tf32_is_asked_of_every_product(network):
    text = str(jax.make_jaxpr(in_precision(network.apply, "tf32"))(network.params, jnp.zeros((1, *SHAPE))))
    assert text.count("precision=(Precision.HIGH, Precision.HIGH)") + text.count("precision=HIGH") == 4, text


@pytest.mark.parametrize(
    ("precision", "tile"), [("bfloat16", TILE), ("float16", Tiling(32, 32, masks=3))], ids=["loop", "masks"]
)
def test_lesions_in_another_precision_are_those_of_the_plain_network_in_it(network, images, precision, tile):
    asked = parse_perturbations(PERTURBATIONS)
    levels, events = {item.text: parse_levels("0.3,0.8") for item in asked}, []
    parts = list(
        run(
            network,
            images,
            asked,
            levels,
            ("second", "third"),
            1,
            3,
            batch_size=IMAGES,
            tile=tile,
            precision=precision,
            on_event=lambda kind, text: events.append((kind, text)),
        )
    )
    assert [text for kind, text in events if kind == "fallback"] == []
    assert len(parts) == 3 * 2 * 2
    plain = jax.jit(in_precision(network.apply, precision))
    for part in parts:
        (one,) = parse_perturbations(part.cell.perturbation)
        lesioned = one.perturbation.function(
            draw_key(3, part.cell.draw), network.params, part.cell.level, layers=part.cell.target
        )
        logits = np.asarray(plain(lesioned, images.block(0, IMAGES)))
        best = np.sort(logits, axis=1)
        close = best[:, -1] - best[:, -2] < 0.02 * np.abs(logits).max()  # rounding may decide
        assert close.mean() < 0.4
        right = np.argsort(-logits, axis=1, kind="stable")[:, 0] == images.labels
        np.testing.assert_array_equal(part.outcomes[0][~close], right[~close], err_msg=str(part.cell))


def test_noise_takes_no_shortcut_that_rounds_differently(network):
    (asked,) = parse_perturbations("gaussian_noise")
    names = {}
    for precision in ("float32", "bfloat16"):
        shape = Shape(in_precision(network.apply, precision), specification(network.params), SHAPE, TILE)
        names[precision] = method_of(shape, Lesions.of(network, asked, "second", {})).name
    assert names == {"float32": "linear", "bfloat16": "product"}


def test_agreement_is_counted(network, images):
    plain, short = compare_precisions(network, images, ("bfloat16",), batch_size=16, tile=TILE)
    pixels = images.block(0, IMAGES)
    exact, rounded = (
        np.asarray(jax.jit(in_precision(network.apply, name))(network.params, pixels))
        for name in ("float32", "bfloat16")
    )
    assert (plain.precision, short.precision) == ("float32", "bfloat16")
    assert plain.same.all()
    assert not plain.difference.any()
    far = np.abs(exact - rounded).max(-1)
    np.testing.assert_allclose(short.difference, far, atol=0.01 * np.abs(exact).max())
    assert (short.same != (exact.argmax(-1) == rounded.argmax(-1))).mean() <= 0.05
    assert (plain.outcomes[0] == (exact.argmax(-1) == images.labels)).mean() >= 0.95
    assert 0 < short.difference.max() < 0.1 * np.abs(exact).max()
    assert min(plain.images_per_second, short.images_per_second) > 0


def test_a_study_in_another_precision_or_tile_is_another_study(network, images):
    asked = parse_perturbations("synapse_knockout")
    levels = {item.text: parse_levels("0.5") for item in asked}

    def described(computing):
        tile = computing.tile(network, SHAPE)
        return describe(network, images, asked, levels, ("third",), 1, 0, tile=tile, precision=computing.precision)

    plain = described(Computing())
    assert differences(plain, described(Computing(memory_gb=1.0, devices=1))) == []
    (precision,) = differences(plain, described(Computing(precision="bfloat16")))
    assert precision == "precision: float32 in the store, bfloat16 asked"
    (convolutions,) = differences(
        described(Computing(convolutions="xla")), described(Computing(convolutions="winograd"))
    )
    assert convolutions == "tiles.convolutions: xla in the store, winograd_all+slices asked"
    assert "tiles.masks: none in the store, 3 asked" in differences(plain, described(Computing(masks_per_call=3)))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"precision": "half"}, "expected precision of float32, tf32, bfloat16, float16, got 'half'"),
        ({"convolutions": "fft"}, "expected convolutions of auto, xla, winograd, got 'fft'"),
        ({"masks_per_call": -1}, "expected masks_per_call of 0 or more, got -1"),
        ({"masks_per_call": True}, "expected masks_per_call of 0 or more, got True"),
        ({"memory_gb": 0}, "expected memory_gb above 0, got 0"),
        ({"memory_gb": float("nan")}, "expected memory_gb above 0, got nan"),
        ({"devices": 9}, "expected 1 device, as this machine has, got 9"),
    ],
)
def test_what_cannot_be_is_refused(options, said):
    with pytest.raises((StudyError, DeviceError), match=said):
        Computing(**options).check()
