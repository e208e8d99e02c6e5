"""Flax Linen modules as functions of a tree of variables."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

from jaxperturb.types import Apply, Images, Logits, Params


@dataclass(frozen=True)
class Applied:
    """A module's function. Those of equal modules are equal, so that programs compiled for one serve the other.

    Attributes:
        module: a `flax.linen.Module`.
        keywords: further arguments of its call.
        identity: both of them, or where they cannot be hashed (a field that is an array) what no other has.
    """

    module: Any = field(compare=False)
    keywords: Mapping[str, Any] = field(compare=False)
    identity: Hashable

    def __call__(self, variables: Params, images: Images) -> Logits:
        """Returns the module's logits."""
        logits: Logits = self.module.apply(variables, images, **self.keywords)
        return logits


def functional(module: Any, keywords: Mapping[str, Any]) -> Apply:
    """Returns a Linen module as ``apply(variables, images)``.

    Args:
        module: a `flax.linen.Module`.
        keywords: further arguments of its call.
    """
    identity = module, tuple(sorted(keywords.items()))
    return Applied(module, keywords, identity if _is_hashable(identity) else object())


def _is_hashable(value: object) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True
