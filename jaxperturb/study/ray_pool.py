"""Workers that are Ray's actors."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax

from jaxperturb.errors import ClusterError, DeviceError, JaxPerturbError
from jaxperturb.study.cluster import Cluster
from jaxperturb.study.exchange import Place
from jaxperturb.study.pool import WorkerLostError
from jaxperturb.study.ray_session import ray_session
from jaxperturb.study.worker import Worker, usable_cpus

# Of a worker, where nobody says: one lesion after another gains little by threads, but each worker takes memory.
_CPUS = 2
_LONGEST = 300  # characters of what Ray says


def open_cluster(address: str, cpus: int | None = None, on_wait: Callable[[], object] | None = None) -> Cluster:
    """Returns the workers of a Ray, which is started or joined when they are first needed.

    A worker has one GPU where this process computes on GPUs, and otherwise some processors.

    Args:
        address: ``auto`` for a Ray on this machine, which is started where there is none; or HOST:PORT.
        cpus: processors for each worker; by default 2, or half of this machine's where it has fewer than 4.
        on_wait: called about every second while workers are waited for.

    Raises:
        DeviceError: this process computes on another kind of device.
    """
    backend = jax.default_backend()
    if backend not in ("cpu", "gpu"):
        raise DeviceError(f"workers compute on a CPU or GPUs, but this machine has a {backend}; divide by --shard=i/n")
    own = cpus or max(1, min(_CPUS, usable_cpus() // 2))

    @contextlib.contextmanager
    def open_pool() -> Iterator[RayPool]:
        with ray_session(address) as ray:
            yield RayPool(ray, own, gpu=backend == "gpu")

    return Cluster(open_pool, own, on_wait)


class RayPool:
    """Actors of a Ray that is connected."""

    def __init__(self, ray: Any, cpus: int, *, gpu: bool) -> None:
        """Takes Ray's module, and what each worker gets: so many processors, and a GPU or none."""
        self._ray, self._cpus, self._gpu = ray, cpus, gpu

    def size(self) -> int:
        """Returns how many workers there is room for.

        Raises:
            ClusterError: for none.
        """
        found = sum(map(self._room, self._machines()))
        if not found:
            wanted = "a GPU" if self._gpu else f"{self._cpus} processors (--cpus_per_worker)"
            raise ClusterError(f"no machine of the Ray has {wanted} for a worker")
        return found

    def describe(self) -> str:
        """Returns what the workers are, in a few words."""
        each = "a GPU" if self._gpu else f"{self._cpus} CPU{'s' if self._cpus > 1 else ''}"
        machines = len([one for one in self._machines() if self._room(one)])
        return (
            f"{self.size()} worker{'s' if self.size() > 1 else ''} with {each} each, on {machines} "
            f"machine{'s' if machines > 1 else ''}"
        )

    def start(self, place: Place) -> Any:
        """Starts a worker. Ray does not restart it: what was lost with it is known elsewhere."""
        options = {"num_cpus": self._cpus, "num_gpus": int(self._gpu), "max_restarts": 0, "max_task_retries": 0}
        return self._actor.options(**options, scheduling_strategy="SPREAD").remote(place)

    def share(self, value: Any) -> Any:
        """Puts a large argument into Ray's store, once for all workers."""
        return self._ray.put(value)

    def call(self, worker: Any, method: str, *args: Any) -> Any:
        """Calls a method of a worker, and returns the promise."""
        return getattr(worker, method).remote(*args)

    def wait(self, promises: Sequence[Any], seconds: float) -> Sequence[Any]:
        """Returns the promises that are kept or broken, after so many seconds at most."""
        return self._ray.wait(list(promises), timeout=seconds)[0]

    def result(self, promise: Any) -> Any:
        """Returns what was promised, or raises `WorkerLostError` or what the worker raised."""
        known = self._ray.exceptions
        try:
            return self._ray.get(promise)
        except known.RayTaskError as error:
            if isinstance(error.cause, JaxPerturbError):
                raise error.cause from None
            raise
        except (known.RayActorError, known.OutOfMemoryError, known.ObjectLostError, known.NodeDiedError) as error:
            raise WorkerLostError(" ".join(str(error).split())[:_LONGEST]) from error

    def stop(self, worker: Any) -> None:
        """Ends a worker's process."""
        self._ray.kill(worker)

    @functools.cached_property
    def _actor(self) -> Any:
        return self._ray.remote(Worker)

    def _machines(self) -> list[dict[str, float]]:
        return [node["Resources"] for node in self._ray.nodes() if node["Alive"]]

    def _room(self, machine: dict[str, float]) -> int:
        by_cpus = int(machine.get("CPU", 0) // self._cpus)
        return min(by_cpus, int(machine.get("GPU", 0))) if self._gpu else by_cpus
