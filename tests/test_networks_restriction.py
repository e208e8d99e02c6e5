"""A network of which some classes alone compete."""

import jax
import numpy as np
import pytest

from jaxperturb.data import from_arrays
from jaxperturb.data.prepared import prepare
from jaxperturb.data.scoring import fit_classes
from jaxperturb.engine.run import PLANES, evaluate_network
from jaxperturb.errors import DataError
from jaxperturb.networks.catalogue import build
from jaxperturb.networks.network import Network
from jaxperturb.networks.restriction import restrict

IMAGES = np.random.default_rng(0).normal(size=(40, 64, 64, 1)).astype(np.float32)


@pytest.fixture(scope="module")
def network() -> Network:
    module = build("alexnet", {"classes": 12, "width": 0.05, "dense_width": 0.01, "pooled_size": 1})
    variables = module.init(jax.random.key(0), IMAGES[:1])
    return Network.from_linen(module, variables, classes=tuple("abcdefghijkl"))


def test_its_logits_are_the_chosen_columns(network: Network):
    chosen = restrict(network, (7, 2, 11))
    whole = np.asarray(network.apply(network.params, IMAGES))
    np.testing.assert_array_equal(chosen.apply(chosen.params, IMAGES), whole[:, [7, 2, 11]])
    assert chosen.classes == ("h", "c", "l")
    assert chosen.params is network.params
    assert chosen.number_of_classes((64, 64, 1)) == 3
    assert chosen.layer_names((64, 64, 1)) == network.layer_names((64, 64, 1))


def test_restricting_twice_compiles_once(network: Network):
    assert restrict(network, (1, 2)).apply == restrict(network, (1, 2)).apply
    assert hash(restrict(network, (1, 2)).apply) == hash(restrict(network, (1, 2)).apply)
    assert restrict(network, (1, 2)).apply != restrict(network, (2, 1)).apply


@pytest.mark.parametrize("restricted", [False, True])
def test_images_are_scored_among_the_classes_that_compete(network: Network, restricted: bool):
    names = ["k", "b", "e"]  # of the data set; the network's 10, 1 and 4
    labels = np.arange(40) % 3
    images = prepare(from_arrays(IMAGES, labels, classes=names), None)
    fitted, scored = fit_classes(network, images, restrict_classes=restricted)
    planes = evaluate_network(fitted, scored, batch_size=16)

    logits = np.asarray(network.apply(network.params, IMAGES))[images.positions]
    truth = np.array([10, 1, 4])[labels[images.positions]]
    competing = [1, 4, 10] if restricted else list(range(12))
    own = logits[np.arange(40), truth]
    ahead = (logits[:, competing] > own[:, None]).sum(axis=1)
    assert planes[PLANES.index("top1")].tolist() == (ahead < 1).tolist()
    assert planes[PLANES.index("top5")].tolist() == (ahead < min(5, len(competing))).tolist()


def test_a_class_that_the_network_does_not_have_is_an_error_before_anything_is_computed(network: Network):
    images = prepare(from_arrays(IMAGES, np.arange(40) % 2, classes=["a", "z"]), None)
    with pytest.raises(DataError, match="class 'z' of the data set is none of the network's 12 classes"):
        fit_classes(network, images)
    with pytest.raises(DataError, match="class '12' of the data set is none"):
        fit_classes(network, prepare(from_arrays(IMAGES, np.arange(40) % 13), None))


def test_a_file_of_classes_overrides(network: Network, tmp_path):
    (tmp_path / "map.csv").write_text("z,c\n")
    images = prepare(from_arrays(IMAGES, np.arange(40) % 2, classes=["a", "z"]), None)
    _, scored = fit_classes(network, images, tmp_path / "map.csv")
    assert scored.class_map.how == "map.csv"
    assert scored.labels.tolist() == [2 * (p % 2) for p in scored.positions]
    np.testing.assert_array_equal(scored.own_labels, scored.positions % 2)


def test_the_order_of_images_does_not_hang_on_the_map(network: Network):
    data = from_arrays(IMAGES, np.arange(40) % 3, classes=["k", "b", "e"])
    plain, (_, scored) = prepare(data, None, 10), fit_classes(network, prepare(data, None, 10))
    np.testing.assert_array_equal(plain.positions, scored.positions)
    assert plain.chain == scored.chain
    assert scored.first(20).labels[:10].tolist() == scored.labels.tolist()
