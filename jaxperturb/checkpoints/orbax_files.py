"""Trees of arrays as Orbax checkpoints, restored to NumPy: a file written on a TPU opens on a laptop."""

import asyncio
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import Context
from pathlib import Path
from typing import Any, TypeVarTuple

import jax
import numpy as np

from jaxperturb.errors import CheckpointError

Tree = Any  # nested dictionaries, lists and tuples
MARKS = ("_METADATA", "_CHECKPOINT_METADATA")
# What Orbax's manager, and people, call the one item that is the training state.
ITEMS = ("default", "state", "params", "model")

Ts = TypeVarTuple("Ts")


def is_orbax(folder: Path) -> bool:
    """Says whether a folder is an Orbax checkpoint, or a step of one that holds the checkpoint of its items."""
    return any((folder / mark).is_file() for mark in MARKS)


def item_of(folder: Path) -> Path:
    """Returns the folder of arrays inside what a user may name: that folder itself, or a manager's step.

    Raises:
        CheckpointError: it is no Orbax checkpoint, a step with several items, or a folder of several steps.
    """
    if (folder / MARKS[0]).is_file():
        return folder
    items = [folder / name for name in ITEMS if (folder / name / MARKS[0]).is_file()]
    if len(items) == 1:
        return items[0]
    steps = sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal() and is_orbax(path))
    if steps:
        newest = folder / str(steps[-1])
        raise CheckpointError(f"{folder} holds {len(steps)} steps of a training; give one, such as {newest}")
    others = sorted(path.parent.name for path in folder.glob(f"*/{MARKS[0]}"))
    found = f"; it holds the items {', '.join(others)}, give one" if others else ""
    raise CheckpointError(f"{folder} is no checkpoint: it has neither a manifest.json nor Orbax's {MARKS[0]}{found}")


def write_tree(folder: Path, tree: Tree) -> None:
    """Writes a tree of NumPy arrays into a new folder."""
    import orbax.checkpoint as ocp

    with _quiet(), ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
        checkpointer.save(folder.absolute(), args=ocp.args.StandardSave(tree))


def tree_shapes(folder: Path) -> Tree:
    """Returns the tree with a `jax.ShapeDtypeStruct` for each array, and reads no array.

    Raises:
        CheckpointError: the checkpoint is damaged.
    """
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(tuple(leaf.shape), np.dtype(leaf.dtype)), _metadata(folder))


def read_tree(folder: Path) -> Tree:
    """Reads all arrays, whatever devices they were written from, as NumPy's.

    Orbax itself does not notice a flipped bit.

    Raises:
        CheckpointError: the checkpoint is damaged.
    """
    import orbax.checkpoint as ocp

    metadata = _metadata(folder)
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), metadata)
    with _readable(folder), ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        tree: Tree = checkpointer.restore(folder.absolute(), args=ocp.args.PyTreeRestore(restore_args=as_numpy))
        return tree


def _metadata(folder: Path) -> Tree:
    import orbax.checkpoint as ocp

    with _readable(folder), ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        found = checkpointer.metadata(folder.absolute()).item_metadata
        if found is None:
            raise ValueError("Orbax finds no tree in it")
        return found.tree


def flatten(tree: Tree) -> dict[str, Any]:
    """Returns the leaves of nested dictionaries, lists and tuples by their path, joined by "/"; None is no leaf."""
    return {"/".join(path): leaf for path, leaf in _leaves(tree, ())}


def _leaves(tree: Tree, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _leaves(value, (*path, str(key)))
    elif isinstance(tree, list | tuple):
        for index, value in enumerate(tree):
            yield from _leaves(value, (*path, str(index)))
    elif tree is not None:
        yield path, tree


@contextmanager
def _readable(folder: Path) -> Iterator[None]:
    try:
        with _quiet():
            yield
    except (OSError, ValueError, KeyError, TypeError, AttributeError, json.JSONDecodeError, RuntimeError) as error:
        raise CheckpointError(f"{folder} is damaged ({_brief(error)}); get the checkpoint again") from error
    except Exception as error:
        # Orbax raises the bare class, too; anything derived from it is not about the files.
        if type(error) is not Exception:
            raise
        raise CheckpointError(f"{folder} is damaged ({_brief(error)}); get the checkpoint again") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences Orbax's remarks on threads, sharding and time: a command prints one line of its own."""
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
    levels, policy = [logger.level for logger in loggers], asyncio.get_event_loop_policy()
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    asyncio.set_event_loop_policy(_Policy())
    try:
        yield
    finally:
        asyncio.set_event_loop_policy(policy)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


class _Loop(asyncio.SelectorEventLoop):
    """A loop that lets late results go once it is closed.

    When one array cannot be read, Orbax closes its loop while others are still being read; each of them would print
    "Event loop is closed" later, from a thread of its own.
    """

    def call_soon_threadsafe(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        try:
            return super().call_soon_threadsafe(callback, *args, context=context)
        except RuntimeError:
            if not self.is_closed():
                raise
            return asyncio.Handle(callback, args, self, context)


class _Policy(asyncio.DefaultEventLoopPolicy):
    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        return _Loop()


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
