"""One writer per store: a lease, kept in a small file beside it and renewed for as long as its holder lives.

File locks are not relied on: on mounted drives they often do nothing, or fail. A lease is given up when its process is
known to be dead, or 90 seconds after its last sign of life where that cannot be known. A holder that was taken for
dead, and was only asleep, finds another's name in the file before it writes again.
"""

import contextlib
import json
import os
import secrets
import socket
import sys
import threading
import time
import uuid
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from jaxperturb.errors import OutputError, StoreInUseError
from jaxperturb.study.schema import now

BEAT_SECONDS = 15.0
STALE_SECONDS = 90.0
_SETTLE_SECONDS = 0.3  # two that take a dead one's lease over at once: the last to write has it, and both look again
_ATTEMPTS = 20


@dataclass(frozen=True)
class Holder:
    """Who writes a store.

    Attributes:
        token: random, tells one lease from another.
        host: name of the machine.
        pid: number of the process.
        process: when the process started, as its system counts, which tells it from a later one of its number; empty
            where not known.
        machine: what tells this running system from others, so that process numbers may be compared.
        since: when the lease was taken, as ISO 8601 text in UTC.
        beat: last sign of life, in seconds since 1970.
    """

    token: str
    host: str
    pid: int
    process: str
    machine: str
    since: str
    beat: float

    def is_gone(self) -> bool:
        """Returns whether nobody holds the lease any more."""
        if self.machine == _machine() and (alive := _is_alive(self.pid, self.process)) is not None:
            return not alive
        return abs(time.time() - self.beat) > STALE_SECONDS

    def text(self) -> str:
        """Returns who and since when, for messages."""
        return f"process {self.pid} on {self.host}, since {self.since}"


class Lease:
    """The right to write a store, held by this process until `release`. Use `take`."""

    def __init__(self, store: Path, holder: Holder) -> None:
        """Takes what `take` has written."""
        self._store, self._holder = store, holder
        self._lock = threading.Lock()
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="jaxperturb-lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Makes sure that nobody has taken the lease over; to be called before each write.

        Raises:
            StoreInUseError: another run has it.
        """
        found = read_holder(self._store)
        if found is not None and found.token != self._holder.token:
            raise StoreInUseError(
                f"{self._store} was taken over by another run ({found.text()}) while this one gave no sign of life; "
                "what this one had stored before is kept"
            )

    def release(self) -> None:
        """Gives the lease back; nothing happens where it is another's by now."""
        self._released.set()
        self._thread.join()
        found = read_holder(self._store)
        if found is not None and found.token == self._holder.token:
            with contextlib.suppress(OSError):  # it is stale in any case once this process has ended
                lease_path(self._store).unlink()

    def _beat(self) -> None:
        while not self._released.wait(BEAT_SECONDS):
            found = read_holder(self._store)
            if found is None or found.token == self._holder.token:
                with contextlib.suppress(OSError):  # the next beat tries again; `check` sees whether in time
                    _replace(lease_path(self._store), replace(self._holder, beat=time.time()))


def lease_path(store: Path) -> Path:
    """Returns the file of a store's lease."""
    return store.with_name(f"{store.name}.writer")


def take(store: Path) -> Lease:
    """Takes the lease of a store, which need not exist yet; its folder must.

    Raises:
        StoreInUseError: another run holds it; the message says who, and since when.
        OutputError: the file of the lease cannot be written.
    """
    own, path = _own_holder(), lease_path(store)
    try:
        for _ in range(_ATTEMPTS):
            if _create(path, own):
                return Lease(store, own)
            found = read_holder(store)
            if found is None:  # given back between the two, or not written yet
                time.sleep(_SETTLE_SECONDS)
                _remove_torn(store)
                continue
            if not found.is_gone():
                raise StoreInUseError(_refusal(store, found))
            _replace(path, own)
            time.sleep(_SETTLE_SECONDS)
            if (after := read_holder(store)) is not None and after.token == own.token:
                return Lease(store, own)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}; choose another folder") from error
    raise StoreInUseError(f"{store} is wanted by several runs at once; ask again, or choose another folder")


def read_holder(store: Path) -> Holder | None:
    """Returns who holds, or held, the lease of a store; None where there is no lease, or one that cannot be read."""
    try:
        return Holder(**json.loads(lease_path(store).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _refusal(store: Path, holder: Holder) -> str:
    text = f"{store} is being written by another run ({holder.text()}); wait for it, stop it, or choose another folder"
    if holder.machine == _machine():
        return text
    silent = max(0, time.time() - holder.beat)
    return f"{text} (last sign of life {silent:.0f} s ago; it is given up after {STALE_SECONDS:.0f} s)"


def _own_holder() -> Holder:
    pid = os.getpid()
    process = _process_start(pid) or ""
    return Holder(secrets.token_hex(8), socket.gethostname(), pid, process, _machine(), now(), time.time())


def _create(path: Path, holder: Holder) -> bool:
    """Writes the file unless it is there; returns whether it was not."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(json.dumps(asdict(holder)))
    except FileExistsError:
        return False
    return True


def _replace(path: Path, holder: Holder) -> None:
    draft = path.with_name(f".{path.name}.{holder.token}")
    try:
        draft.write_text(json.dumps(asdict(holder)), encoding="utf-8")
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise


def _remove_torn(store: Path) -> None:
    """Removes a lease without a readable name that is too old to be in the making: its writer died over it."""
    path = lease_path(store)
    with contextlib.suppress(FileNotFoundError):
        if abs(time.time() - path.stat().st_mtime) > STALE_SECONDS and read_holder(store) is None:
            path.unlink()


def _machine() -> str:
    """Returns what tells a running system, and its own numbering of processes, from others."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return f"{sys.platform} {socket.gethostname()} {uuid.getnode():x}"


def _is_alive(pid: int, process: str) -> bool | None:
    """Returns whether a process of this machine lives, None where that cannot be told."""
    if os.name != "posix":
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        pass
    started = _process_start(pid)
    if started is None or not process:
        return None
    return started == process


def _process_start(pid: int) -> str | None:
    """Returns when a process started; empty for one that has ended and was not fetched, None where not known."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return None
    state, *fields = text.rpartition(")")[2].split()  # the name before it may hold anything
    return "" if state in "ZX" else fields[18]
