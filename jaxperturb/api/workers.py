"""Who computes a study: this process, or the workers of a cluster."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

from jaxperturb.api.inputs import check_count
from jaxperturb.errors import StudyError
from jaxperturb.study.cluster import Cluster
from jaxperturb.study.ray_pool import open_cluster
from jaxperturb.study.runner import Start


def workers_of(
    cluster: str | None, cpus: object, on_wait: Callable[[], object] | None
) -> AbstractContextManager[Cluster | None]:
    """Returns the workers of a cluster, or None where this process is to compute.

    Raises:
        StudyError: a number of processors for workers without a cluster, or one that is no such number.
    """
    if cluster is None:
        if cpus is not None:
            raise StudyError("cpus_per_worker is for a cluster; give that, too (cluster='auto'; --cluster=auto)")
        return nullcontext()
    return open_cluster(cluster, None if cpus is None else check_count("cpus_per_worker", cpus), on_wait)


def naming_workers(show: Callable[[Start], None], workers: Cluster | None) -> Callable[[Start], None]:
    """Returns what shows a start, with the workers in the place of this machine's device."""
    return lambda start: show(replace(start, device=workers.describe()) if workers and start.cells else start)
