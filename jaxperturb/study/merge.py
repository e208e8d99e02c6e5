"""Joins stores of one study, which several machines have filled."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxperturb.engine.run import Part
from jaxperturb.errors import OutputError, StoreError
from jaxperturb.study.extend import differences
from jaxperturb.study.extend import merge as merge_studies
from jaxperturb.study.store import Store, create_store, open_store
from jaxperturb.study.study import Study


@dataclass(frozen=True)
class Merged:
    """What came of joining stores.

    Attributes:
        parts: number of parts that were copied, in all or in pieces.
        disagreeing: images whose outcomes in a cell differ between two stores; those of the first one were taken.
    """

    parts: int
    disagreeing: int


def merge_stores(paths: Sequence[Path], out: Path) -> Merged:
    """Writes a new store with all that is in some stores of one study. What several of them hold is taken once.

    Args:
        paths: of the stores, which stay as they are.
        out: of the new store, which appears under this name only when it is whole.

    Raises:
        StoreError: a file that is no sound store, one of another study, or one that is there as `out`.
        OutputError: the new store cannot be written.
    """
    if out.exists():
        raise StoreError(f"{out} is there already; choose another file for the joined store")
    draft = out.with_name(f".{out.name}.merge")
    with contextlib.ExitStack() as stack:
        stores = [stack.enter_context(open_store(path)) for path in paths]
        study = _joined_study(stores)
        images = max((store.images() for store in stores), key=len)
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            draft.unlink(missing_ok=True)  # of a process that was killed here
            with create_store(draft, study, images) as joined:
                for position, reason in (item for store in stores for item in store.skipped().items()):
                    joined.skip(None, position, reason)
                found = [_absorb(joined, store) for store in stores]
            draft.replace(out)
        except OSError as error:
            raise OutputError(f"{out} cannot be written: {error.strerror or error}") from error
        finally:
            draft.unlink(missing_ok=True)
    return Merged(sum(one.parts for one in found), sum(one.disagreeing for one in found))


def _joined_study(stores: Sequence[Store]) -> Study:
    first, *rest = stores
    study = first.study()
    for store in rest:
        other = store.study()
        if found := differences(study, other, (f"in {first.name}", f"in {store.name}")):
            raise StoreError(f"{store.name} holds another study than {first.name}: {'; '.join(found)}")
        study = merge_studies(study, other)
    return study


def _absorb(joined: Store, store: Store) -> Merged:
    events = store.events()
    runs = {
        run.number: joined.copy_run(run, [(time, kind, text) for of, time, kind, text in events if of == run.number])
        for run in store.runs()
    }
    parts = disagreeing = 0
    for run, part in store.parts():
        disagreeing += _disagreeing(joined, part)
        parts += not joined.covers(part.cell, part.start, part.stop)
        joined.add(runs[run], part)
    joined.commit()
    if disagreeing:
        joined.add_event(None, "merge", f"{store.name} disagrees on {disagreeing} outcomes, which were left out")
    return Merged(parts, disagreeing)


def _disagreeing(joined: Store, part: Part) -> int:
    """Returns for how many images of a part another outcome is there already."""
    new = joined.missing(part.cell, part.stop) - joined.missing(part.cell, part.start)
    if new == part.stop - part.start:
        return 0
    positions, outcomes = joined.outcomes(part.cell)
    shared = (positions >= part.start) & (positions < part.stop)
    differ = outcomes[:, shared] != part.outcomes[:, positions[shared] - part.start]
    return int(differ.any(axis=0).sum())
