"""Networks from whatever their weights are kept in: names, folders, files, and the user's own code."""

import dataclasses
import os
from collections.abc import Collection, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxperturb.checkpoints import fitting, flax_files, known, manifest, orbax_files
from jaxperturb.checkpoints.bundled import bundled
from jaxperturb.checkpoints.convert import is_recognised, state_dict
from jaxperturb.checkpoints.converted import convert_file, convert_known
from jaxperturb.checkpoints.folder import load_folder, network_of
from jaxperturb.checkpoints.torch_file import open_weights
from jaxperturb.errors import CheckpointError, NetworkError, did_you_mean
from jaxperturb.networks.catalogue import ARCHITECTURES
from jaxperturb.networks.factory import Factory, call_factory, factory_name, is_equinox, is_nnx
from jaxperturb.networks.network import ImageShape, Network
from jaxperturb.networks.variables import call_in_use
from jaxperturb.trees import COLLECTION, leaf_names, nested
from jaxperturb.types import Params

Weights = str | os.PathLike[str]

# Sides of the images that networks are commonly made for: a module alone does not say which one it takes.
SIDES = (224, 32, 28, 64, 96, 128, 227, 256, 299, 384, 48, 16, 8, 512)
COLOURS = (3, 1)
GIVE_NETWORK = "give that, too (network='package.module:function'; --network=package.module:function)"


def load_network(
    name_or_path: Weights | None = None,
    network: str | Factory | None = None,
    *,
    image_shape: ImageShape | None = None,
) -> Network:
    """Reads a network.

    Args:
        name_or_path: its weights. A bundled name such as "alexnet-digits" (see `bundled`); the name of a known public
            checkpoint that was downloaded; a checkpoint folder; or a `.pth`, `.pt`, `.t7` or `.safetensors` file of an
            architecture that is recognised. A name wins over a folder of the same name; ``./name`` is the folder. With
            a network of your own also an Orbax checkpoint, a msgpack file of Flax or a `.safetensors` of a Flax tree;
            `params` and `batch_stats` of a training state are picked.
        network: only for weights that do not bring theirs: your own network as ``"package.module:function"`` or a
            function, called without arguments. It returns a `Network`, which may bring its weights, or a module of
            Linen, NNX or Equinox. Or the name of an architecture, which the weights must then be of.
        image_shape: (height, width, channels), for a Linen module that only fits its weights at one size.

    Raises:
        CheckpointError: there are no such weights, they are damaged, or they do not fit; the message names every
            array that does not, with both shapes.
        NetworkError: no such network, or weights are needed.
    """
    if network is None:
        if name_or_path is None:
            raise NetworkError("expected a network: the name of weights, their path, or a factory")
        return _load(name_or_path, None)
    if isinstance(network, str) and ":" not in network:
        return _load_as(name_or_path, network)
    made = call_factory(network)
    if name_or_path is None:
        if not isinstance(made, Network):
            raise NetworkError(f"network {factory_name(network)} returned a module without weights; give them, too")
        return made
    arrays = fitting.variables_in(_arrays(name_or_path, made))
    own = _own(made, arrays, image_shape)
    return dataclasses.replace(own, params=fitting.filled(own.params, arrays, str(name_or_path)))


def load_weights(name_or_path: Weights, network: str | Factory | None = None) -> Params:
    """Reads weights as a tree ``{"params": …}``, with ``"batch_stats"`` where there are some.

    Args:
        name_or_path: as `load_network` takes it; without a network also a file or Orbax checkpoint of any Flax tree,
            which is then returned as it is, without a step or an optimiser's state.
        network: as `load_network` takes it; the weights are held against it.

    Raises:
        CheckpointError: there are no such weights, they are damaged, or they do not fit.
        NetworkError: no such network.
    """
    if network is None and _is_flax(name_or_path):
        arrays = fitting.variables_in(flax_files.read_arrays_of(_path(name_or_path)))
        return nested(fitting.collections_of(arrays, (COLLECTION, fitting.STATISTICS)))
    return load_network(name_or_path, network).params


def _load(name_or_path: Weights, architecture: str | None) -> Network:
    found = _find(name_or_path)
    if isinstance(found, known.Known):
        path = known.cached(found)
        if path is None:
            raise CheckpointError(
                f"{found.name} is not here yet: 'jaxperturb convert {found.name}' downloads it, or put {found.file} "
                f"at {known.place(found)}"
            )
        return network_of(*convert_known(found, path, architecture))
    if found.is_file():
        if flax_files.is_msgpack(found):
            raise CheckpointError(f"{found} is a msgpack file of Flax, which does not say its network; {GIVE_NETWORK}")
        return network_of(*convert_file(found, architecture))
    if orbax_files.is_orbax(found) and not (found / manifest.FILE).is_file():
        raise CheckpointError(f"{found} is a plain Orbax checkpoint, which does not say its network; {GIVE_NETWORK}")
    return load_folder(found)


def _load_as(name_or_path: Weights | None, architecture: str) -> Network:
    if architecture not in ARCHITECTURES:
        if architecture in bundled():
            raise NetworkError(
                f"{architecture!r} names trained weights: write --weights={architecture} (and leave --network out)"
            )
        near = did_you_mean(architecture, ARCHITECTURES) or f"; networks are {', '.join(ARCHITECTURES)}"
        raise NetworkError(f"unknown network {architecture!r}{near}")
    if name_or_path is None:
        raise NetworkError(f"network {architecture!r} needs trained weights: add --weights=NAME or --weights=FOLDER")
    network = _load(name_or_path, architecture)
    if network.source.get("architecture") != architecture:
        raise NetworkError(
            f"these weights are of network {network.source.get('architecture')!r}, not {architecture!r}; "
            "leave --network out"
        )
    return network


def _own(made: Any, arrays: Mapping[str, np.ndarray], image_shape: ImageShape | None) -> Network:
    """Returns a network of the user's own, before the weights are in it; that of a Linen module has shapes alone."""
    if isinstance(made, Network):
        return made
    if is_nnx(made):
        return Network.from_nnx(made, image_shape=image_shape)
    if is_equinox(made):
        return Network.from_equinox(made, image_shape=image_shape)
    return Network.from_linen(made, _tree_of(made, arrays, image_shape), image_shape=image_shape)


def _arrays(name_or_path: Weights, made: Any) -> Mapping[str, np.ndarray]:
    """Reads weights for a network of the user's own: by their own names, or as an architecture that is recognised."""
    if _is_flax(name_or_path):
        return flax_files.read_arrays_of(_path(name_or_path))
    found = _find(name_or_path)
    if isinstance(found, Path) and found.is_file():
        file = open_weights(found)
        tensors = {flax_files.slashed(name): kept for name, kept in state_dict(file.content).items()}
        if _has_names_of(made, tensors) or not is_recognised(state_dict(file.content)):
            return {name: file.read(kept.name) for name, kept in tensors.items()}
    return {name: np.asarray(leaf) for name, leaf in orbax_files.flatten(_load(name_or_path, None).params).items()}


def _has_names_of(made: Any, names: Collection[str]) -> bool:
    if isinstance(made, nn.Module):
        return False  # its kernels are never called as in PyTorch
    wanted = leaf_names(_own(made, {}, None).params)
    return any(name.removeprefix(f"{COLLECTION}/") in names for name in wanted)


def _is_flax(name_or_path: Weights) -> bool:
    """Says whether weights are those of a Flax tree without a manifest."""
    found = _find(name_or_path)
    if isinstance(found, known.Known) or (found / manifest.FILE).is_file():
        return False
    if found.is_dir() or flax_files.is_msgpack(found):
        return True
    file = open_weights(found)
    return file.container == "safetensors" and flax_files.is_flax(file.tensors)


def _find(name_or_path: Weights) -> Path | known.Known:
    """Returns the folder or file that is there, or the record of a known checkpoint."""
    names, public = bundled(), known.known()
    if isinstance(name_or_path, str) and name_or_path in names:
        return names[name_or_path]
    if isinstance(name_or_path, str) and name_or_path in public:
        return public[name_or_path]
    path = _path(name_or_path)
    # An empty name would be the current folder.
    if name_or_path != "" and (path.exists() or _is_path(name_or_path)):
        if not path.exists():
            raise CheckpointError(f"there is no checkpoint folder or file {path}")
        return path
    hint = did_you_mean(str(name_or_path), [*names, *public])
    listed = ", ".join([*names, *public])
    raise CheckpointError(
        f"no checkpoint is called {name_or_path!r}{hint}; give a folder, a file or a known name ({listed})"
    )


def _path(name_or_path: Weights) -> Path:
    return Path(name_or_path).expanduser()


def _is_path(name_or_path: Weights) -> bool:
    return not isinstance(name_or_path, str) or name_or_path.startswith(("~", ".")) or os.sep in name_or_path


def _tree_of(module: nn.Module, arrays: Mapping[str, np.ndarray], image_shape: ImageShape | None) -> Params:
    """Returns the shapes of a module's variables, at the size of images where arrays fit them best."""
    best: Params | None = None
    for tree in _trees(module, [image_shape] if image_shape else _usual_shapes()):
        if best is None or fitting.faults(tree, arrays) < fitting.faults(best, arrays):
            best = tree
        if not fitting.faults(best, arrays):
            break
    return best


def _usual_shapes() -> list[ImageShape]:
    return [(side, side, colours) for colours in COLOURS for side in SIDES]


def _trees(module: nn.Module, shapes: list[ImageShape]) -> Iterator[Params]:
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    init = partial(module.init, **call_in_use(type(module).__call__, {}))
    reason, made = "", False
    for shape in shapes:
        try:
            tree = jax.eval_shape(init, keys, jax.ShapeDtypeStruct((1, *shape), jnp.float32))
        except Exception as error:  # a user's module may raise anything for images that it does not take
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            continue
        made = True
        yield tree
    if not made:
        raise NetworkError(
            f"{type(module).__name__} cannot be set up from images alone ({reason}); give image_shape, or a factory "
            "that returns a jaxperturb.Network"
        )
