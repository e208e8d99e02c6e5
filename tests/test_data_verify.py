"""Features of the photograph against PyTorch's, with stand-ins for the real weights."""

import numpy as np
import pytest
from PIL import Image
from torchvision_copies import torch_network, weights

from jaxperturb.checkpoints import load_network
from jaxperturb.cli import main
from jaxperturb.data import verify
from jaxperturb.errors import CheckpointError

NARROW = {"classes": 5, "width": 0.125, "dense_width": 1 / 128}
PHOTOGRAPH = ("torchvision_known_answers", "img.png")


def torch_inputs(torch, shared):
    """Torchvision's Resize(224), ToTensor, Normalize written out."""
    picture = Image.open(shared.joinpath("data", *PHOTOGRAPH)).resize((224, 224), Image.Resampling.BILINEAR)
    scaled = np.asarray(picture, np.float32) / 255
    inputs = (scaled - np.float32([0.485, 0.456, 0.406])) / np.float32([0.229, 0.224, 0.225])
    return torch.from_numpy(inputs.transpose(2, 0, 1)[None].copy())


@pytest.fixture
def stand_in(torch, shared, tmp_path):
    """Makes narrow weights of an architecture: their file, and PyTorch's features of the photograph."""

    def make(name):
        arrays = weights(name, **NARROW)
        reference = torch_network(torch, name, **NARROW)
        reference.load_state_dict({key: torch.from_numpy(array) for key, array in arrays.items()})
        torch.save(reference.state_dict(), tmp_path / f"{name}.pth")
        with torch.no_grad():
            found = reference.features(torch_inputs(torch, shared)).numpy()
        return tmp_path / f"{name}.pth", found[0].transpose(1, 2, 0).copy()

    return make


def test_the_bundled_answers_are_the_published_ones(torch, shared):
    answers = verify.known_answers()
    assert sorted(answers) == ["alexnet", "vgg11", "vgg11_bn"]
    for name, answer in answers.items():
        path = shared / "data" / "torchvision_known_answers" / f"{name}.pred.pth"
        expected = torch.load(path, weights_only=True)["output"].detach().numpy()
        np.testing.assert_array_equal(answer.transpose(2, 0, 1)[None], expected)


@pytest.mark.parametrize("name", ["alexnet", "vgg11", "vgg11_bn"])
def test_features_equal_pytorchs(stand_in, name):
    path, answer = stand_in(name)
    network = load_network(path)
    found = verify.verify(network, answer)
    assert found.agrees
    assert found.largest == np.abs(answer).max() > 1
    last = "conv5" if name == "alexnet" else "conv5_2"
    network.params["params"][last]["kernel"] = network.params["params"][last]["kernel"] * 1.001
    assert not verify.verify(network, answer).agrees


def test_only_networks_with_such_features_can_be_verified(stand_in):
    network = load_network("squeezenet-imagenet")
    with pytest.raises(CheckpointError, match="has no layer fc6; only AlexNet and VGG can be verified"):
        verify.verify(network, np.zeros((6, 6, 256), np.float32))
    narrow = load_network(stand_in("alexnet")[0])
    with pytest.raises(CheckpointError, match=r"gives features \(6, 6, 32\), expected \(6, 6, 256\)"):
        verify.verify(narrow, verify.known_answers()["alexnet"])


def test_the_command_says_one_line(stand_in, monkeypatch, capsys):
    path, answer = stand_in("alexnet")
    monkeypatch.setattr(verify, "known_answers", lambda: {"alexnet": answer, "vgg11": answer + 1})
    assert main.run(["verify", "alexnet", f"--weights={path}"]) == 0
    line = capsys.readouterr().out
    assert line.startswith("alexnet: agrees with torchvision on the photograph, largest difference ")
    assert line.count("\n") == 1
    assert main.run(["verify", "vgg11", f"--weights={path}"]) == 2
    assert "these weights are not torchvision's vgg11" in capsys.readouterr().err
    assert main.run(["verify", "alexnot"]) == 2
    assert "there is no known answer for 'alexnot'; did you mean 'alexnet'?" in capsys.readouterr().err


def test_weights_that_are_not_here_are_said_to_be(capsys):
    assert main.run(["verify", "alexnet"]) == 2
    assert "alexnet is not here yet: 'jaxperturb convert alexnet' downloads it" in capsys.readouterr().err
