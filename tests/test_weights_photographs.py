"""The bundled networks that were trained on photographs do what their manifests say."""

import pytest

from jaxperturb import api
from jaxperturb.checkpoints import bundled, read_manifest
from jaxperturb.data import load_dataset
from jaxperturb.data.fingerprints import split_fingerprint

LEAST = {"alexnet-cifar10": 0.76, "vgg11-cifar10": 0.83, "alexnet-imagenette": 0.70, "vgg11-imagenette": 0.80}


@pytest.mark.parametrize("name", [name for name in LEAST if name in bundled()])
def test_it_gets_the_accuracy_of_its_manifest(name, photographs):
    accuracy = read_manifest(bundled()[name]).accuracy
    place = (
        {"name": "cifar10", "data_dir": photographs / "tfds"}
        if accuracy["dataset"] == "cifar10"
        else {"name": f"folder:{photographs / 'imagenette64'}"}
    )
    data = load_dataset(split=accuracy["split"], **place)
    assert split_fingerprint(data) == accuracy["fingerprint"]
    found = api.evaluate(name, data)
    assert found.images == accuracy["images"] == len(data)
    # 0.2 points: another processor adds in another order.
    assert abs(found.top1 - accuracy["top1"]) <= 0.002 * len(data)
    assert abs(found.top5 - accuracy["top5"]) <= 0.002 * len(data)
    assert found.top1 >= LEAST[name] * len(data)
