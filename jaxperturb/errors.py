"""One exception type per cause. A message says what was expected, what came, and what to do."""

import difflib
from collections.abc import Iterable


class JaxPerturbError(Exception):
    """Anything that jaxperturb refuses or cannot do.

    Attributes:
        exit_status: status of the command line: 2 for a mistake in what was asked, 1 for a failure.
    """

    exit_status = 2


class UsageError(JaxPerturbError):
    """An unknown command or flag, or a flag's value of the wrong type."""


class LevelError(JaxPerturbError):
    """A level, a grid of levels or a count that cannot be read or is out of range."""


class SeedError(JaxPerturbError):
    """A seed outside 0 ... 2**32 - 1, or a key that is not one."""


class LayerError(JaxPerturbError):
    """An unknown layer, a pattern that matches none, or a tree without layers."""


class PerturbationError(JaxPerturbError):
    """An unknown perturbation, or an option that it does not have."""


class NetworkError(JaxPerturbError):
    """An unknown network, or one that does not fit its weights or images."""


class CheckpointError(JaxPerturbError):
    """Weights that are not there, damaged, or of another format."""


class DownloadError(CheckpointError):
    """A download that did not come through: no connection, or one that broke."""

    exit_status = 1


class DataError(JaxPerturbError):
    """An unknown data set, or images and labels that cannot be used."""


class ImageError(DataError):
    """One image that cannot be read: truncated, of an unknown format, too large, or gone. A study may leave it out."""


class StudyError(JaxPerturbError):
    """A study that cannot be run as asked: no draws, no images, an unknown metric."""


class RecoveryError(JaxPerturbError):
    """A training that cannot be run as asked: nothing that learns, an unknown optimiser."""


class DivergedError(RecoveryError):
    """A training whose loss is not finite."""

    exit_status = 1


class StoreError(JaxPerturbError):
    """A store that is missing, damaged, foreign, or of another study."""


class StoreInUseError(StoreError):
    """A store that another run writes, or that another program has locked."""


class OutputError(JaxPerturbError):
    """A place that cannot be written to."""


class DeviceError(JaxPerturbError):
    """A device or precision that this machine does not have."""


class DependencyError(JaxPerturbError):
    """A package that what was asked needs, and that is not installed."""


class ClusterError(JaxPerturbError):
    """Workers of a cluster that cannot be had, or that would compute something else than is asked."""


class EngineError(JaxPerturbError):
    """A computation that failed on this machine."""

    exit_status = 1


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Returns ``"; did you mean 'x'?"`` for the nearest known word, or an empty string."""
    near = difflib.get_close_matches(word, list(known), 1)
    return f"; did you mean {near[0]!r}?" if near else ""
