"""A network of the user's own, named as ``package.module:function`` or given as a function."""

import importlib
import sys
from collections.abc import Callable
from typing import Any

import flax.linen as nn

from jaxperturb.errors import NetworkError, did_you_mean
from jaxperturb.networks.network import Network

Factory = Callable[[], Any]


def call_factory(factory: str | Factory) -> Any:
    """Calls a factory without arguments and returns the network or the module of a framework that it makes.

    Returns:
        A `Network`, or a module of Linen, NNX or Equinox.

    Raises:
        NetworkError: there is no such function, or it makes something else.
    """
    made: Any = (find_function(factory) if isinstance(factory, str) else factory)()
    if isinstance(made, Network | nn.Module) or is_nnx(made) or is_equinox(made):
        return made
    raise NetworkError(
        f"network {factory_name(factory)} returned a {type(made).__name__}, not a jaxperturb.Network or a module of "
        "Flax or Equinox"
    )


def is_nnx(made: object) -> bool:
    """Says whether something is an NNX module."""
    return _is_a("flax.nnx", made)


def is_equinox(made: object) -> bool:
    """Says whether something is an Equinox module."""
    return _is_a("equinox", made)


def _is_a(library: str, made: object) -> bool:
    # Whoever made the module has imported its library; nobody else needs it.
    module = sys.modules.get(library)
    return module is not None and isinstance(made, module.Module)


def factory_name(factory: str | Factory) -> str:
    """Returns what to call a factory in a message."""
    return factory if isinstance(factory, str) else getattr(factory, "__qualname__", repr(factory))


def find_function(path: str) -> Factory:
    """Imports what ``package.module:function`` names.

    Raises:
        NetworkError: the module cannot be imported, or has no such function.
    """
    module_name, _, name = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise NetworkError(f"network {path}: module {module_name!r} cannot be imported: {error}") from None
    except ValueError:
        raise NetworkError(f"network {path}: a function of your own is written package.module:function") from None
    function: Factory | None = getattr(module, name, None)
    if function is None or not callable(function):
        near = did_you_mean(name, (known for known in dir(module) if not known.startswith("_")))
        raise NetworkError(f"network {path}: module {module_name!r} has no function {name!r}{near}")
    return function
