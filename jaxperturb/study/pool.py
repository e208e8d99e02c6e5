"""What the driver of a cluster asks of wherever its workers come from."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from jaxperturb.study.exchange import Place


class WorkerLostError(Exception):
    """A worker whose process or machine is gone."""


@runtime_checkable
class Pool(Protocol):
    """Where workers come from. A call of a worker's method gives a promise of what it returns."""

    def size(self) -> int:
        """Returns how many workers there is room for."""

    def describe(self) -> str:
        """Returns what they are, in a few words."""

    def start(self, place: Place) -> Any:
        """Starts a worker."""

    def share(self, value: Any) -> Any:
        """Returns what stands for a large argument in calls."""

    def call(self, worker: Any, method: str, *args: Any) -> Any:
        """Calls a method of a worker, and returns the promise."""

    def wait(self, promises: Sequence[Any], seconds: float) -> Sequence[Any]:
        """Returns the promises that are kept or broken, after so many seconds at most."""

    def result(self, promise: Any) -> Any:
        """Returns what was promised, or raises `WorkerLostError` or what the worker raised."""

    def stop(self, worker: Any) -> None:
        """Ends a worker's process."""
