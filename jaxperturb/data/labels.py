"""Which class of a network each class of a data set is: by WordNet id, by name, by number, or as a file says."""

import csv
import dataclasses
import functools
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from importlib import resources
from pathlib import Path

import numpy as np
from jaxtyping import Int32

from jaxperturb.errors import DataError, did_you_mean
from jaxperturb.types import Labels

NONE = -1  # the target of a class that the network does not have, and no image is of
_IMAGENET = 1000
_AGREEING = 900  # of 1,000 names in place: lists of ILSVRC's names differ in a few words
_WNID = re.compile(r"n\d{8}")
_SHOWN = 12


@dataclasses.dataclass(frozen=True)
class ClassMap:
    """Which class of a network each class of a data set is.

    Attributes:
        names: of the data set's classes.
        targets: for each of them the network's class, `NONE` for one that it does not have and no image is of.
        target_names: a name for each of these, empty where the network's classes have none.
        outputs: how many classes the network tells apart.
        how: "WordNet id", "name", "number", "order" or the name of a file.
        restriction: the classes of the network, ascending, that alone compete; None for all.
    """

    names: tuple[str, ...]
    targets: tuple[int, ...]
    target_names: tuple[str, ...]
    outputs: int
    how: str
    restriction: tuple[int, ...] | None = None

    def apply(self, labels: Labels) -> Int32[np.ndarray, " n"]:
        """Returns for each label of the data set the place of its class among the logits that compete."""
        targets = np.asarray(self.targets, np.int32)[np.asarray(labels)]
        return targets if self.restriction is None else np.searchsorted(self.restriction, targets).astype(np.int32)

    def restricted(self) -> "ClassMap":
        """Returns the map by which the data set's classes alone compete.

        Raises:
            DataError: there is only one.
        """
        competing = tuple(sorted({target for target in self.targets if target != NONE}))
        if len(competing) < 2:
            raise DataError(f"all images are of one class ({self.names[0]}), so there is nothing to restrict scores to")
        return dataclasses.replace(self, restriction=competing)

    def is_plain(self) -> bool:
        """Returns whether each class of the data set is the network's class of the same number."""
        return self.targets == tuple(range(len(self.targets)))

    def is_evident(self) -> bool:
        """Returns whether there is nothing to tell: all of the network's classes, in its order, under its names."""
        whole = self.is_plain() and len(self.targets) == self.outputs and self.restriction is None
        return whole and (not any(self.target_names) or self.target_names == self.names)

    def describe(self) -> str:
        """Returns one line for a person: how many classes, matched how, and which became which."""
        among = "them alone" if self.restriction else f"the network's {self.outputs}"
        line = f"{len(self.names)} classes by {self.how}, scored among {among}"
        named = any(self.target_names)
        if self.is_plain() and (not named or self.target_names == self.names):
            return line
        pairs = [
            f"{name} = {target} {text}".rstrip()
            for name, target, text in zip(self.names, self.targets, self.target_names, strict=True)
            if target != NONE
        ]
        return f"{line}: {', '.join(pairs[:_SHOWN])}{', ...' if len(pairs) > _SHOWN else ''}"


def match_classes(
    names: Sequence[str],
    used: Collection[int],
    network_names: Sequence[str] | None,
    outputs: int,
    given: Mapping[str, str | int] | None = None,
    source: str = "the given map",
) -> ClassMap:
    """Finds for each class of a data set the class of a network.

    In this order: what is given; the same name, where a WordNet id and its ILSVRC name are one, and case, spaces and
    underscores do not matter; names that are numbers, by number; all classes in their order, where the network's have
    no names and there are equally many.

    Args:
        names: of the data set's classes.
        used: numbers of the classes that have images; others need no match.
        network_names: of the network's classes, or None. A network with 1,000 classes without names is ILSVRC's.
        outputs: number of the network's classes.
        given: classes of the network, by name, WordNet id or number, by class of the data set.
        source: what the given classes are called in messages.

    Raises:
        DataError: a class with images that the network does not have, or may be one of two.
    """
    network = _Classes.of(network_names, outputs)
    fixed = _given_targets(names, given or {}, network, source)
    rest = [name for place, name in enumerate(names) if name not in fixed and place in used]
    how, found = _automatic(rest, names, network)
    if rest:
        _check_found(rest, found, network)
    targets = tuple(fixed.get(name, found.get(name, NONE)) for name in names)
    texts = tuple(network.text(target) for target in targets)
    return ClassMap(tuple(names), targets, texts, outputs, source if fixed else how)


def read_class_file(path: Path) -> dict[str, str]:
    """Reads ``data set's class,network's class`` lines (comma or tab; ``#`` begins a remark).

    Raises:
        DataError: it cannot be read, or a line is not of this form.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    given: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        fields = [field.strip() for field in next(csv.reader([line], delimiter="\t" if "\t" in line else ","))]
        if len(fields) != 2 or not all(fields):
            raise DataError(
                f"{path}, line {number}: expected 'class of the data set,class of the network', got {line!r}"
            )
        if fields[0] in given:
            raise DataError(f"{path}, line {number}: {fields[0]!r} is there twice")
        given[fields[0]] = fields[1]
    return given


@functools.cache
def imagenet_classes() -> tuple[tuple[str, str], ...]:
    """Returns WordNet id and name of the 1,000 classes of ILSVRC 2012 in torchvision's order (sorted by id)."""
    text = resources.files("jaxperturb.data").joinpath("imagenet_classes.csv").read_text(encoding="utf-8")
    return tuple((row["wnid"], row["name"]) for row in csv.DictReader(text.splitlines()))


def is_wnid(name: str) -> bool:
    """Returns whether a name has the form of a WordNet id, ``n01440764``."""
    return _WNID.fullmatch(name) is not None


@dataclasses.dataclass(frozen=True)
class _Classes:
    """A network's classes: names as they are shown, how they are found, and whether the network itself names them."""

    names: tuple[str, ...] | None
    places: Mapping[str, tuple[int, ...]]
    outputs: int
    named: bool

    @classmethod
    def of(cls, names: Sequence[str] | None, outputs: int) -> "_Classes":
        if names is not None and all(name.isdecimal() for name in names):
            names = None if [int(name) for name in names] == list(range(outputs)) else names
        keys, named = [_key(name) for name in names or ()], names is not None
        if outputs == _IMAGENET:
            own = imagenet_classes()
            if names is None or sum(key == wnid for key, (wnid, _) in zip(keys, own, strict=True)) >= _AGREEING:
                names, keys = names or [name for _, name in own], [wnid for wnid, _ in own]
        places: dict[str, tuple[int, ...]] = {}
        for place, key in enumerate(keys):
            places[key] = (*places.get(key, ()), place)
        return cls(None if names is None else tuple(names), places, outputs, named)

    def find(self, name: str) -> int:
        """The class of a name, `NONE` where there is none or several."""
        found = self.places.get(_key(name), ())
        return found[0] if len(found) == 1 else NONE

    def text(self, target: int) -> str:
        return "" if self.names is None or target == NONE else self.names[target]


def _automatic(rest: Sequence[str], names: Sequence[str], network: _Classes) -> tuple[str, dict[str, int]]:
    """How classes were matched, and the network's class for each that was found."""
    found = {name: target for name in names if (target := network.find(name)) != NONE}
    if found.keys() & set(rest):
        return "WordNet id" if all(map(is_wnid, found)) else "name", found
    if all(name.isdecimal() for name in names):
        return "number", {name: int(name) for name in names if int(name) < network.outputs}
    if not network.named and len(names) == network.outputs:
        return "order", {name: place for place, name in enumerate(names)}
    return "name", {}


def _check_found(rest: Sequence[str], found: Mapping[str, int], network: _Classes) -> None:
    missing = [name for name in rest if name not in found]
    if not missing:
        return
    first, more = missing[0], f" and {len(missing) - 1} more" if len(missing) > 1 else ""
    if len(network.places.get(_key(first), ())) > 1:
        raise DataError(f"several classes of the network are called {first!r}; say which with --classes=FILE")
    known = network.names or ()
    span = f"{network.outputs} classes (0 to {network.outputs - 1})"
    near = "" if first.isdecimal() else did_you_mean(first, known)
    raise DataError(
        f"class {first!r}{more} of the data set is none of the network's {span}{near}; map classes with --classes=FILE"
    )


def _given_targets(
    names: Sequence[str], given: Mapping[str, str | int], network: _Classes, source: str
) -> dict[str, int]:
    targets = {}
    for name, target in given.items():
        if name not in names:
            raise DataError(f"{source}: the data set has no class {name!r}{did_you_mean(name, names)}")
        targets[name] = _given_target(target, network, source)
    return targets


def _given_target(target: str | int, network: _Classes, source: str) -> int:
    text = str(target)
    found = int(text) if text.isdecimal() else network.find(text)
    if not 0 <= found < network.outputs:
        near = did_you_mean(text, network.names or ())
        raise DataError(
            f"{source}: {text!r} is none of the network's {network.outputs} classes (0 to {network.outputs - 1}){near}"
        )
    return found


def _key(name: str) -> str:
    """What two names of one class have in common: the WordNet id where there is one, else the plain words."""
    if is_wnid(name):
        return name
    plain = _plain(name)
    return _ids_by_name().get(plain) or _ids_by_name().get(_plain(name.partition(",")[0]), plain)


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()


@functools.cache
def _ids_by_name() -> Mapping[str, str]:
    plain = [(_plain(name), wnid) for wnid, name in imagenet_classes()]
    counts = Counter(name for name, _ in plain)
    return {name: wnid for name, wnid in plain if counts[name] == 1}
