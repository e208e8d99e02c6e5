"""Where randomness comes from: a counter-based hash, keyed permutations made of it, and keys for everything drawn.

Attributes:
    SEMANTICS: version of all drawn numbers. It changes when any of them does; 0 marks a pre-release, whose stores
        later versions refuse.
"""

from jaxperturb.random.keys import draw_key, key
from jaxperturb.random.permutation import Permutation
from jaxperturb.random.prng import IMPLEMENTATION, bits, fold, normal, uniform, words_of

SEMANTICS = 0

__all__ = [
    "IMPLEMENTATION",
    "SEMANTICS",
    "Permutation",
    "bits",
    "draw_key",
    "fold",
    "key",
    "normal",
    "uniform",
    "words_of",
]
