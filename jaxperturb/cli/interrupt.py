"""Ctrl-C and SIGTERM: the first lets the run finish its part and store it, the second Ctrl-C ends the process at once.

Ending at once does no harm: a store is safe from a process that is killed.
"""

import contextlib
import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

_FIRST = (
    "\njaxperturb: stopping as soon as this part is done and stored; Ctrl-C stops at once, and harms nothing either\n"
)


class Stopped(KeyboardInterrupt):
    """A run that was asked to stop, and has.

    Attributes:
        exit_status: 128 and the signal's number, as shells have it: 130 for Ctrl-C, 143 for SIGTERM.
    """

    def __init__(self, message: str, number: int) -> None:
        """Takes what to tell, and the signal."""
        super().__init__(message)
        self.exit_status = 128 + number


class Interrupts:
    """Notes a first Ctrl-C or SIGTERM from `listen` to the end of its context."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def listen(self, *_: object) -> None:
        """Begins to take signals; does nothing outside the main thread, which alone can."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup and background jobs of scripts have it
                self._before[number] = signal.signal(number, self._note)

    def check(self) -> None:
        """Raises `KeyboardInterrupt` where a signal has come; to be called when a part is stored."""
        if self.received is not None:
            raise KeyboardInterrupt

    def __enter__(self) -> "Interrupts":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.received = number
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if signal.SIGTERM in self._before:  # it may come twice, to a process and to its group
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        with contextlib.suppress(OSError):  # not print: the signal may have come in the middle of one
            os.write(2, _FIRST.encode())
