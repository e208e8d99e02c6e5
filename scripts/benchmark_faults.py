"""Single faults beside lesions of as many weights for which the whole layer is computed: milliseconds for one lesion.

    python scripts/benchmark_faults.py --images=256                  # AlexNet at 224, each layer
    python scripts/benchmark_faults.py --layers=fc6 --faults=1

Both are studies of one level, timed with few and with many draws: the difference is what the lesions themselves cost.
Bits 0 to 22 of float32 words are flipped; the other lesion removes about as many synapses.
"""

import time
from collections.abc import Sequence
from decimal import Decimal

import numpy as np
from absl import app, flags
from benchmark import IMAGES, chosen, data_of, network_of

import jaxperturb as jp
from jaxperturb.engine.allocator import keep_pages

FAULTS = flags.DEFINE_integer("faults", 4, "Faults of a lesion, on average.", lower_bound=1)
FEW, MANY = 2, 18


def milliseconds(network: jp.Network, images: jp.data.Dataset, word: str, layer: str, level: Decimal) -> float:
    """Returns what one lesion takes."""
    spent = []
    for draws in (MANY, FEW, MANY):  # the first compiles
        start = time.perf_counter()
        jp.sweep(network, images, word, layer, levels=[level], draws=draws)
        spent.append(time.perf_counter() - start)
    return (spent[2] - spent[1]) / (MANY - FEW) * 1e3


def main(argv: Sequence[str]) -> None:
    """Prints a table."""
    del argv
    keep_pages()
    network = network_of("alexnet")
    images = jp.data.from_arrays(*data_of(network))
    weights = {layer.name: layer.weights for layer in network.layers()}
    print(f"AlexNet, {IMAGES.value} images, about {FAULTS.value} faults a lesion; milliseconds")
    print(f"{'layer':8}{'synapses':>10}{'faults':>10}{'times':>8}")
    for layer in chosen(network.layer_names()):
        rate = Decimal(f"{FAULTS.value / weights[layer]:.12f}")
        bit = Decimal(f"{FAULTS.value / weights[layer] / 23:.12f}")
        whole = milliseconds(network, images, "synapse_knockout", layer, rate)
        few = milliseconds(network, images, "bit_flip(bits=0:23)", layer, bit)
        print(f"{layer:8}{whole:10.1f}{few:10.1f}{np.divide(whole, few):8.1f}", flush=True)


if __name__ == "__main__":
    app.run(main)
