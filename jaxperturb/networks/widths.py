"""How many units a layer has when its network is made narrower or wider."""

import math
from fractions import Fraction


def scaled(units: int, width: float | Fraction) -> int:
    """Returns a number of units times a width above 0: halves go up, and at least one unit stays.

    Halves go up, not to the even neighbour: a width names one network in every language that rebuilds it.
    """
    return max(1, math.floor(units * width + Fraction(1, 2)))
