"""Array types, defined once. Axis letters: n images, h height, w width, c channels, k classes, p planes of outcomes."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float, Int, Num, Shaped, UInt32

AnyArray = jax.Array | np.ndarray

Params = Any  # a tree of arrays: Flax variables, an NNX state, plain dicts, an Equinox model's arrays
Key = Shaped[AnyArray, "..."]  # a typed key of any JAX implementation, or legacy words

Images = Float[AnyArray, "n h w c"]
Pixels = Num[AnyArray, "n h w c"]
Logits = Float[AnyArray, "n k"]
Labels = Int[AnyArray, " n"]
Outcomes = Bool[np.ndarray, "p n"]
Scalar = Num[AnyArray, ""]
Words = tuple[UInt32[AnyArray, ""], UInt32[AnyArray, ""]]

Apply = Callable[[Params, Images], Logits]
