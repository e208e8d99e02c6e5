"""From a state dict of PyTorch to a checked Flax tree, strict both ways, and back."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from jaxperturb.checkpoints.contents import nested_tensors
from jaxperturb.checkpoints.layouts import TILE_UNITS, to_flax, to_torch, torch_shape
from jaxperturb.checkpoints.stored import StoredTensor, scalar_text
from jaxperturb.checkpoints.torch_file import WeightsFile
from jaxperturb.checkpoints.torchvision_names import PLANS, Row, Sizes, optional_names, options, plan, rows, sizes_from
from jaxperturb.errors import CheckpointError
from jaxperturb.types import Params

WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
FLOATS = ("float16", "bfloat16", "float32", "float64")


@dataclass(frozen=True)
class Converted:
    """A network's weights as a Flax tree.

    Attributes:
        architecture: "alexnet", "vgg16_bn", ...
        options: of the architecture: the classes, and the width or pooled size where it is not torchvision's.
        channels: of the images that it takes.
        variables: {"params": {layer: {leaf: array}}}, and "batch_stats" where it has batch norms.
    """

    architecture: str
    options: Mapping[str, int | float]
    channels: int
    variables: Params


@dataclass(frozen=True)
class Fit:
    """How well named shapes (PyTorch's) fit an architecture.

    Attributes:
        architecture: its name.
        sizes: what the shapes say about its classes and widths.
        rows: the tensors that it needs.
        missing: those that are not there.
        unexpected: names that it does not have.
        misshapen: those with another shape.
    """

    architecture: str
    sizes: Sizes
    rows: tuple[Row, ...]
    missing: tuple[Row, ...]
    unexpected: tuple[str, ...]
    misshapen: tuple[Row, ...]

    @property
    def faults(self) -> int:
        """Number of tensors that do not fit; 0 is a perfect fit."""
        return len(self.missing) + len(self.unexpected) + len(self.misshapen)


def convert(
    file: WeightsFile,
    architecture: str | None = None,
    *,
    allow_nonfinite: bool = False,
    dtype: np.dtype | None = np.dtype(np.float32),  # noqa: B008 - a dtype is a constant
) -> Converted:
    """Converts the weights of an AlexNet, VGG or SqueezeNet with torchvision's names.

    Convolutions go from OIHW to HWIO, dense layers from OI to IO, and the inputs of the first dense layer from CHW to
    HWC order. A state dict inside "state_dict", "model_state_dict", "model" or "net" is found, and "module." in its
    names is dropped. Another number of classes is fine, and so are other widths and pooled sizes, if all tensors agree.

    Args:
        file: an open weight file.
        architecture: what it should be; None recognises it.
        allow_nonfinite: takes weights that are NaN or infinite, too.
        dtype: of the tree's arrays; None keeps the file's.

    Raises:
        CheckpointError: there is no state dict, or it does not fit; the message names every tensor that is missing,
            unexpected or of another shape.
    """
    found = state_dict(file.content)
    shapes = {name: stored.shape for name, stored in found.items()}
    fit = recognise(shapes) if architecture is None else fit_to(architecture, shapes)
    problems = _problems(fit, shapes) + _wrong_types(fit, found)
    if problems:
        raise CheckpointError(f"{file.path} does not fit {fit.architecture}: {'; '.join(problems)}")
    variables, nonfinite = _build(file, fit, found, dtype)
    if nonfinite and not allow_nonfinite:
        raise CheckpointError(f"{file.path}: {_nonfinite(fit, nonfinite)}")
    chosen = options(PLANS[fit.architecture], fit.sizes)
    return Converted(fit.architecture, chosen, fit.sizes.channels, variables)


def to_state_dict(architecture: str, variables: Params) -> dict[str, np.ndarray]:
    """Returns a Flax tree with torchvision's names, shapes and layouts; the inverse of `convert`.

    With batch norms it holds `num_batches_tracked` too (0), as PyTorch's ``load_state_dict(strict=True)`` wants it.

    Raises:
        CheckpointError: the tree is not one of this architecture; the message names every leaf that does not fit.
    """
    leaves = dict(_leaves(variables, ()))
    paths = {row.path: row.source for row in rows(plan(architecture), sizes_from(plan(architecture), {})[0])}
    shapes = {paths.get(path, "/".join(path)): torch_shape(np.asarray(leaf).shape) for path, leaf in leaves.items()}
    fit = fit_to(architecture, shapes)
    problems = _problems(fit, shapes)
    if problems:
        raise CheckpointError(f"the tree does not fit {architecture}: {'; '.join(problems)}")
    tensors = {row.source: to_torch(row, np.asarray(leaves[row.path])) for row in fit.rows}
    return tensors | {name: np.zeros((), np.int64) for name in optional_names(plan(architecture))}


def recognise(shapes: Mapping[str, tuple[int, ...]]) -> Fit:
    """Returns the architecture that named shapes (PyTorch's) fit best, with what does not fit.

    Raises:
        CheckpointError: not even half of any architecture's tensors are there.
    """
    best = min((fit_to(name, shapes) for name in PLANS), key=lambda fit: fit.faults)
    if 2 * len(best.missing) > len(best.rows):
        some = ", ".join(scalar_text(name) for name in list(shapes)[:3])
        raise CheckpointError(
            f"its {len(shapes)} tensors ({some}, ...) are of no architecture that can be converted ({', '.join(PLANS)})"
        )
    return best


def is_recognised(tensors: Mapping[str, StoredTensor]) -> bool:
    """Says whether half or more of an architecture's tensors are there."""
    try:
        recognise({name: stored.shape for name, stored in tensors.items()})
    except CheckpointError:
        return False
    return True


def fit_to(architecture: str, shapes: Mapping[str, tuple[int, ...]]) -> Fit:
    """Compares named shapes (PyTorch's) with what an architecture needs.

    Raises:
        CheckpointError: there is no architecture of that name.
    """
    # Torchvision's own sizes come first: one wrong tensor shall not be taken for another width.
    fits = (_compare(architecture, sizes, shapes) for sizes in sizes_from(plan(architecture), shapes))
    return min(fits, key=lambda fit: fit.faults)


def _compare(architecture: str, sizes: Sizes, shapes: Mapping[str, tuple[int, ...]]) -> Fit:
    needed = rows(PLANS[architecture], sizes)
    known = {row.source for row in needed} | set(optional_names(PLANS[architecture]))
    return Fit(
        architecture,
        sizes,
        needed,
        missing=tuple(row for row in needed if row.source not in shapes),
        unexpected=tuple(name for name in shapes if name not in known),
        misshapen=tuple(row for row in needed if row.source in shapes and shapes[row.source] != row.shape),
    )


def state_dict(content: object) -> dict[str, StoredTensor]:
    """Finds the state dict in a file's content and returns its tensors by their plain names.

    Numbers and texts beside the tensors are no weights and are left out.

    Raises:
        CheckpointError: there is none, there are two, or two names become one.
    """
    inner = _unwrap(content)
    if "param_groups" in inner and "state" in inner:
        raise CheckpointError("it holds an optimiser's state and no network; give the file with model.state_dict()")
    tensors: dict[str, StoredTensor] = {}
    for key, value in inner.items():
        for stored in nested_tensors(value):
            name = _plain_name(str(key) if value is stored else stored.name)
            if name in tensors:
                raise CheckpointError(f"two tensors are called {name!r} once 'module.' is dropped; keep one of them")
            tensors[name] = stored
    if not tensors:
        keys = ", ".join(scalar_text(key) for key in list(inner)[:5])
        raise CheckpointError(
            f"it holds no tensors (its keys: {keys or 'none'}); give the file with model.state_dict()"
        )
    return tensors


def _unwrap(content: object) -> dict:
    while isinstance(content, dict):
        inside = [key for key in WRAPPERS if isinstance(content.get(key), dict)]
        if len(inside) > 1:
            raise CheckpointError(
                f"it holds several state dicts ({', '.join(inside)}); save the one that is meant alone"
            )
        if not inside:
            return content
        content = content[inside[0]]
    what = "one tensor" if isinstance(content, StoredTensor) else f"a {type(content).__name__}"
    raise CheckpointError(f"it holds {what}, expected a state dict; give the file with model.state_dict()")


def _plain_name(name: str) -> str:
    # PyTorch's ImageNet example wraps only the features of AlexNet and VGG: features.module.0.weight.
    while name.startswith("module."):
        name = name.removeprefix("module.")
    return "features." + name.removeprefix("features.module.") if name.startswith("features.module.") else name


def _problems(fit: Fit, shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    problems = []
    if fit.missing:
        names = (f"{row.source} {_axes(row.shape)}" for row in fit.missing)
        problems.append(f"missing {len(fit.missing)}: {', '.join(names)}")
    if fit.unexpected:
        names = (f"{_shown(name)} {_axes(shapes[name])}" for name in fit.unexpected)
        problems.append(f"unexpected {len(fit.unexpected)}: {', '.join(names)}")
    if fit.misshapen:
        names = (f"{row.source} {_axes(shapes[row.source])}, expected {_axes(row.shape)}" for row in fit.misshapen)
        problems.append(f"of another shape {len(fit.misshapen)}: {', '.join(names)}")
    absent = {row.source for row in fit.missing}
    if absent and absent == {row.source for row in fit.rows if row.source.startswith("classifier.")}:
        problems.append("it is no classifier, only the features of one")
    return problems


def _wrong_types(fit: Fit, found: Mapping[str, StoredTensor]) -> list[str]:
    wrong = [row.source for row in fit.rows if row.source in found and found[row.source].dtype.name not in FLOATS]
    names = (f"{name} is {found[name].dtype.name}" for name in wrong)
    return [f"no floating-point numbers {len(wrong)}: {', '.join(names)}"] if wrong else []


def _build(
    file: WeightsFile, fit: Fit, found: Mapping[str, StoredTensor], dtype: np.dtype | None
) -> tuple[dict, list[str]]:
    variables: dict = {}
    nonfinite = []
    for row in fit.rows:
        stored = found[row.source]
        leaf, finite = to_flax(row, file.blocks(stored.name, TILE_UNITS), dtype or stored.dtype)
        if not finite:
            nonfinite.append(row.source)
        *groups, name = row.path
        inner = variables
        for group in groups:
            inner = inner.setdefault(group, {})
        inner[name] = leaf
    return variables, nonfinite


def _nonfinite(fit: Fit, names: list[str]) -> str:
    classifier = {row.source for row in fit.rows if row.source.startswith("classifier.")}
    if classifier <= set(names):
        return (
            f"its whole classifier is NaN or infinite; it is no classifier, only the features of a {fit.architecture}"
        )
    return f"NaN or infinite weights in {len(names)} tensors: {', '.join(names)}; allow them explicitly to convert it"


def _leaves(tree: object, path: tuple[str, ...]) -> Iterable[tuple[tuple[str, ...], object]]:
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _leaves(value, (*path, str(key)))
    else:
        yield path, tree


def _axes(shape: tuple[int, ...]) -> str:
    return f"({', '.join(map(str, shape))})" if shape else "(a number)"


def _shown(name: str) -> str:
    return name if name.isprintable() else repr(name)
