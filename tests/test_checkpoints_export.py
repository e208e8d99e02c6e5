"""Export: into PyTorch and back again, bit for bit."""

import dataclasses
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from torchvision_copies import SMALL, agree, pictures, randomise, torch_logits, torch_network, torch_squeezenet

import jaxperturb as jp
from jaxperturb.checkpoints import load_network
from jaxperturb.checkpoints.export import export_network
from jaxperturb.errors import CheckpointError, OutputError


def saved(torch, name, path):
    if name.startswith("squeezenet"):
        made = torch_squeezenet(torch, name[-3:].replace("_", "."), classes=7, width=0.25)
    else:
        made = torch_network(torch, name, **SMALL, pooled=2)
    torch.save(randomise(torch, made).state_dict(), path)
    return made


@pytest.mark.parametrize("name", ["alexnet", "vgg16", "vgg13_bn", "squeezenet1_0", "squeezenet1_1"])
def test_pytorch_takes_it_strictly_and_answers_alike(torch, tmp_path, name):
    reference = saved(torch, name, tmp_path / "w.pth")
    network = load_network(tmp_path / "w.pth")
    lesioned = jp.lesion(network, "gaussian_noise", "*", 0.1, draw=3)
    path = export_network(lesioned, tmp_path / "out" / "w.safetensors")
    state = {key: torch.from_numpy(array) for key, array in load_file(path).items()}
    for key, tensor in reference.state_dict().items():
        assert state[key].dtype == tensor.dtype
    reference.load_state_dict(state, strict=True)
    images = pictures(111 if name == "alexnet" else 64)
    logits = np.asarray(lesioned.apply(lesioned.params, images))
    assert agree(logits, torch_logits(torch, reference, images))
    assert not np.allclose(logits, network.apply(network.params, images), rtol=1e-2)
    again = load_network(path)
    jax.tree.map(np.testing.assert_array_equal, again.params, lesioned.params)
    assert again.source["options"] == network.source["options"]
    second = export_network(again, tmp_path / "again.safetensors")
    assert {k: a.tobytes() for k, a in load_file(second).items()} == {
        k: a.tobytes() for k, a in load_file(path).items()
    }


def test_what_tensors_cannot_say_comes_back(tmp_path):
    """A bundled network takes 64 × 64 grey images, which its tensors do not tell."""
    network = load_network("alexnet-digits")
    again = load_network(export_network(network, tmp_path / "w.safetensors", remark="none"))
    for field in ("classes", "preprocessing", "image_shape"):
        assert getattr(again, field) == getattr(network, field)
    assert again.source["source"]["exported"] == {"network": "alexnet-digits", "lesion": "none"}
    jax.tree.map(np.testing.assert_array_equal, again.params, network.params)


def test_an_option_without_a_tensor_comes_back(torch, tmp_path):
    saved(torch, "squeezenet1_0", tmp_path / "w.pth")
    network = load_network(tmp_path / "w.pth")
    source = dict(network.source) | {"options": {**network.source["options"], "final_padding": 1}}
    path = export_network(dataclasses.replace(network, source=source), tmp_path / "w.safetensors")
    assert load_network(path).source["options"] == {"classes": 7, "width": 0.25, "final_padding": 1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda told: told.update(image_shape=[64, 64]), "image_shape must be"),
        (lambda told: told.pop("classes"), "'classes'"),
        (lambda told: told.update(classes=[1]), "classes must be texts"),
        (lambda told: told.update(preprocessing={"crop": -1}), "crop must be"),
        (lambda told: told.update(options=3), "remark 'jaxperturb' is damaged"),
        (lambda told: told.update(options={"depth": 3}), "no option 'depth'"),
        (lambda told: told.update(classes=["a"]), "names 1 classes, its network has 10"),
    ],
)
def test_a_damaged_remark_is_refused(tmp_path, change, message):
    path = export_network(load_network("alexnet-digits"), tmp_path / "w.safetensors")
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
    told = json.loads(metadata["jaxperturb"])
    change(told)
    save_file(load_file(path), path, {"jaxperturb": json.dumps(told)})
    with pytest.raises(CheckpointError, match=message):
        load_network(path)


def test_an_existing_file_and_an_impossible_place_are_refused(tmp_path):
    network = load_network("alexnet-digits")
    path = export_network(network, tmp_path / "w.safetensors")
    with pytest.raises(OutputError, match="exists already"):
        export_network(network, path)
    with pytest.raises(OutputError, match="cannot write"):
        export_network(network, path / "w.safetensors")
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]


def test_the_file_may_be_read_by_those_who_may_read_its_folder(tmp_path):
    path = export_network(load_network("alexnet-digits"), tmp_path / "w.safetensors")
    (tmp_path / "plain").touch()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


class Own(nn.Module):
    """A network of no architecture that is known."""

    @nn.compact
    def __call__(self, images):
        return nn.Dense(3, name="only")(images.mean((1, 2)))


def test_a_network_of_ones_own_keeps_its_names(tmp_path):
    module = Own()
    variables = module.init(jax.random.key(0), jnp.ones((1, 4, 4, 3)))
    path = export_network(jp.Network.from_linen(module, variables), tmp_path / "own.safetensors")
    assert sorted(load_file(path)) == ["params/only/bias", "params/only/kernel"]
    jax.tree.map(np.testing.assert_array_equal, load_network(path, Own).params, variables)
