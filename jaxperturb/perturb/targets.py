"""What one lesion of a study perturbs: a layer, several at one level each, or several as one."""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxperturb.errors import LayerError
from jaxperturb.perturb.scope import Shared
from jaxperturb.trees import select_layers

_JOINT = "joint:"


@dataclass(frozen=True)
class Target:
    """A target of a study.

    Attributes:
        layers: names of the layers that are perturbed together.
        scope: ``each`` if the level holds for each of them, ``joint`` if it is one budget over all.
    """

    layers: tuple[str, ...]
    scope: Shared = "each"

    @property
    def name(self) -> str:
        """The one text of the target: ``conv1``, ``fc6+fc7``, ``joint:fc6+fc7``."""
        return (_JOINT if self.scope == "joint" else "") + "+".join(self.layers)

    @classmethod
    def of(cls, name: str) -> "Target":
        """Returns the target of a text that `name` gave."""
        layers = name.removeprefix(_JOINT)
        return cls(tuple(layers.split("+")), "joint" if name.startswith(_JOINT) else "each")


def parse_targets(names: Sequence[str], asked: str | Sequence[str]) -> tuple[str, ...]:
    """Returns the texts of the targets that are asked for.

    Args:
        names: the layers of the network, in its order.
        asked: names or `fnmatch` patterns, each layer of which is a target of its own (``conv*``); joined by ``+``
            they are one target with one level for each (``fc6+fc7``); with ``joint:`` before, one budget over all
            their weights (``joint:conv*``). A sequence, or joined by commas.

    Raises:
        LayerError: a pattern that matches no layer, or none given.
    """
    wanted = [item.strip() for item in (asked.split(",") if isinstance(asked, str) else asked)]
    single = [item for item in wanted if not _is_compound(item)]
    found = list(select_layers(names, single)) if single or len(wanted) == len(single) else []
    for item in wanted:
        if _is_compound(item):
            patterns = item.removeprefix(_JOINT).split("+")
            if not all(pattern.strip() for pattern in patterns):
                raise LayerError(f"expected layers joined by +, such as fc6+fc7 or joint:conv*, got {item!r}")
            found.append(Target(select_layers(names, patterns), "joint" if item.startswith(_JOINT) else "each").name)
    return tuple(dict.fromkeys(found))


def _is_compound(item: str) -> bool:
    return "+" in item or item.startswith(_JOINT)
