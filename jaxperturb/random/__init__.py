"""Where randomness comes from: a counter-based hash, keyed permutations made of it, and keys for everything drawn.

Attributes:
    SEMANTICS: version of all drawn numbers. It changes when any of them does; 0 was a pre-release, whose stores
        are refused.
"""

from jaxperturb.random.keys import draw_key, key
from jaxperturb.random.permutation import Permutation
from jaxperturb.random.prng import IMPLEMENTATION, bits, fold, normal, uniform, words_of

SEMANTICS = 1

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
