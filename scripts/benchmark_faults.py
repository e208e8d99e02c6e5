"""Single faults beside lesions of as many weights for which the whole layer is computed: milliseconds for one lesion.

    python scripts/benchmark_faults.py --images=256                  # AlexNet at 224, each layer
    python scripts/benchmark_faults.py --layers=fc6 --faults=1

Both are studies of one level and many draws.
Bits 0 to 22 of float32 words are flipped; the other lesion removes about as many synapses.
"""

import time
from collections.abc import Sequence
from decimal import Decimal

from absl import app, flags
from benchmark import IMAGES, chosen, data_of, network_of

import jaxperturb as jp
from jaxperturb.engine.allocator import keep_pages

FAULTS = flags.DEFINE_integer("faults", 4, "Faults of a lesion, on average.", lower_bound=1)
DRAWS = 32  # the first half is not counted: it compiles, and includes what a study does once


def milliseconds(network: jp.Network, images: jp.data.Dataset, word: str, layer: str, level: Decimal) -> float:
    """Returns what one lesion takes."""
    at: list[float] = []
    jp.sweep(
        network, images, word, layer, levels=[level], draws=DRAWS, on_part=lambda _: at.append(time.perf_counter())
    )
    return (at[-1] - at[DRAWS // 2 - 1]) / (DRAWS // 2) * 1e3


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
        print(f"{layer:8}{whole:10.1f}{few:10.1f}{whole / few:8.1f}", flush=True)


if __name__ == "__main__":
    app.run(main)
