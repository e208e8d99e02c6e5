"""Where downloaded weights are kept."""

import os
import sys
from pathlib import Path

from jaxperturb.errors import OutputError

VARIABLE = "JAXPERTURB_CACHE"


def cache_folder() -> Path:
    r"""Returns the folder for what can be had again: ``$JAXPERTURB_CACHE``, else in the platform's cache.

    That is ``$XDG_CACHE_HOME/jaxperturb`` or ``~/.cache/jaxperturb`` on Linux, ``~/Library/Caches/jaxperturb`` on macOS
    and ``%LOCALAPPDATA%\jaxperturb`` on Windows. Nothing is made.

    Raises:
        OutputError: the user has no home folder, and the environment names no other.
    """
    chosen = os.environ.get(VARIABLE)
    try:
        return Path(chosen).expanduser().absolute() if chosen else _platform_folder() / "jaxperturb"
    except RuntimeError as error:
        raise OutputError(f"there is no home folder for a cache ({error}); set {VARIABLE} to a folder") from None


def _platform_folder() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    if sys.platform == "darwin" and not os.environ.get("XDG_CACHE_HOME"):
        return Path.home() / "Library" / "Caches"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute()
