"""Ray, imported only here: started for one study, or joined where it runs, and left as it was found."""

import contextlib
import functools
import logging
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxperturb.errors import ClusterError
from jaxperturb.study.worker import usable_cpus

AUTO = "auto"
_PREFIX = "jp-ray-"
_LONGEST_PLACE = 20  # of 107 characters that the path of a socket may have, Ray adds about 80
_CONNECT_SECONDS = 5.0
# Ray must report to nobody, and go on hiding devices from workers that ask for none.
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
}


@contextlib.contextmanager
def ray_session(address: str) -> Iterator[Any]:
    """Gives Ray's module, connected; what was started is stopped and removed at the end.

    Args:
        address: ``auto`` for a Ray that runs on this machine, or else one of its own that lives as long as the
            context; or the host:port of one that runs, with this machine among its own.

    Raises:
        ClusterError: Ray is not installed, or the address cannot be joined.
    """
    running = _running() if address == AUTO else address
    with _variables(_QUIET | _password(address, running)):
        ray = _import_ray()
        if ray.is_initialized():  # by the caller of the library, who also ends it
            yield ray
            return
        folder = None if running else _folder()
        try:
            with _silenced():
                with _own_signal_handlers(), warnings.catch_warnings():
                    # Ray's processes are forked, and replaced at once by other programs.
                    warnings.filterwarnings("ignore", "os.fork", RuntimeWarning)
                    _connect(ray, running, folder)
                yield ray
        finally:
            with _own_signal_handlers():
                ray.shutdown()
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)


def _import_ray() -> Any:
    try:
        import ray
    except ImportError:
        raise ClusterError('several machines need Ray: pip install "jaxperturb[ray]"') from None
    return ray


def _connect(ray: Any, running: str | None, folder: Path | None) -> None:
    common = {"log_to_driver": False, "configure_logging": False, "logging_level": logging.ERROR}
    if running is None:
        ray.init(num_cpus=usable_cpus(), include_dashboard=False, _temp_dir=str(folder), **common)
        return
    _check_reachable(running)
    try:
        ray.init(address=running, **common)
    except (RuntimeError, ConnectionError, ValueError, ray.exceptions.RayError) as error:
        reason = " ".join(str(error).split())
        raise ClusterError(
            f"cannot join the Ray at {running}: {reason}; this machine must be one of its own ('ray start "
            f"--address={running}' in this Python environment), and RAY_AUTH_MODE=token be set where it has a password"
        ) from None


def _check_reachable(address: str) -> None:
    host, colon, port = address.rpartition(":")
    if not (colon and host and port.isdigit()) or "/" in address:
        raise ClusterError(f"expected auto, or HOST:PORT as 'ray start' prints it, got {address!r}")
    if not _answers(address):
        raise ClusterError(f"nothing answers at {address}; start Ray there with 'ray start --head --port={port}'")


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), _CONNECT_SECONDS):
            return True
    except (OSError, ValueError):
        return False


def _running() -> str | None:
    """The address of the Ray that was started on this machine by 'ray start', or that the environment names."""
    named = os.environ.get("RAY_ADDRESS", "")
    if named not in ("", AUTO, "local"):
        return named
    noted = Path(os.environ.get("RAY_TMPDIR", tempfile.gettempdir())) / "ray" / "ray_current_cluster"
    try:
        address = noted.read_text().strip()
    except OSError:
        return None
    return address if _answers(address) else None  # the note of one that was killed stays behind


def _folder() -> Path:
    """Makes a folder for Ray's sockets and logs, after removing those of processes that were killed."""
    place = _temporary()
    for left in place.glob(f"{_PREFIX}*"):
        pid = left.name.removeprefix(_PREFIX).partition("-")[0]
        if pid.isdigit() and not _lives(int(pid)):
            shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=place))


def _temporary() -> Path:
    usual = tempfile.gettempdir()
    return Path(usual if len(usual) <= _LONGEST_PLACE else "/tmp")


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@contextlib.contextmanager
def _variables(values: Mapping[str, str]) -> Iterator[None]:
    """Sets variables of the environment that are not set, for as long as the context lasts."""
    own = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(own)
    try:
        yield
    finally:
        for name in own:
            os.environ.pop(name, None)


def _password(address: str, running: str | None) -> dict[str, str]:
    """The variables that lock a Ray of our own, or open one that was started here; others are up to the user."""
    if any(name.startswith("RAY_AUTH_") for name in os.environ):
        return {}
    if running is None:
        return _own_password()
    kept = Path.home() / ".ray" / "auth_token"  # by which 'ray start' locks what it starts
    return {"RAY_AUTH_MODE": "token"} if address == AUTO and kept.is_file() else {}


@functools.cache
def _own_password() -> dict[str, str]:
    """A password for all that this process starts, which Ray reads once; it would keep one in the user's home."""
    return {} if "ray" in sys.modules else {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """Keeps Ray's remarks off the terminal: what matters of them is an error that is raised."""
    logger = logging.getLogger("ray")
    level = logger.level
    logger.setLevel(logging.ERROR)
    worker = sys.modules.get("ray._private.worker")
    printing = getattr(worker, "print_to_stdstream", None)
    if printing is not None:  # prints of a lost worker among the results on standard output, whatever is set
        worker.print_to_stdstream = lambda *_, **__: None  # type: ignore[union-attr]
    try:
        yield
    finally:
        logger.setLevel(level)
        if printing is not None:
            worker.print_to_stdstream = printing  # type: ignore[union-attr]


@contextlib.contextmanager
def _own_signal_handlers() -> Iterator[None]:
    """Keeps the handlers of Ctrl-C and SIGTERM, which Ray replaces."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:
                signal.signal(number, handler)
