"""A file from a web server: resumed after a break, checked while it comes, there whole or not at all."""

import contextlib
import http.client
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from jaxperturb.checkpoints.cache import VARIABLE
from jaxperturb.checkpoints.lock import exclusive
from jaxperturb.checkpoints.partial import Expected, Partial, check_file, digests, open_partial, sizes
from jaxperturb.errors import CheckpointError, DownloadError, OutputError

BLOCK = 1 << 18
# Called with the number of bytes that are there, and with how many there will be (None while nobody knows).
Progress = Callable[[int, int | None], None]


@dataclass(frozen=True)
class Patience:
    """How long a server is waited for.

    Attributes:
        timeout: seconds without any byte after which a connection counts as broken.
        tries: how often a file is asked for before a broken connection becomes an error, at least 1.
        pause: seconds before the second try; doubled before each further one.
    """

    timeout: float = 30.0
    tries: int = 4
    pause: float = 1.0


@dataclass(frozen=True)
class _Job:
    url: str
    path: Path
    expected: Expected
    progress: Progress
    patience: Patience

    @property
    def by_hand(self) -> str:
        return f"put the file at {self.path} by hand"


def download(
    url: str, path: Path, expected: Expected, *, progress: Progress | None = None, patience: Patience | None = None
) -> Path:
    """Downloads a file, or waits for the process that does; it appears at `path` when its SHA-256 is right.

    What came before a break stays beside it (`.part`) and is not asked for again. Proxies are taken from the
    environment (``https_proxy``, ``no_proxy``).

    Args:
        url: http or https.
        path: where to; folders above it are made.
        expected: what the file must be.
        progress: told how many bytes are there, and how many there will be.
        patience: how long to wait and how often to try.

    Returns:
        The path.

    Raises:
        CheckpointError: there is no connection, it broke too often, or the server has no such file or another one.
        OutputError: the folder cannot be written to.
    """
    job = _Job(checked_url(url), path, expected, progress or (lambda *_: None), patience or Patience())
    part = path.with_name(f"{path.name}.part")
    with exclusive(path.with_name(f"{path.name}.lock"), lambda: job.progress(_size(part), expected.size)):
        if path.exists():
            check_file(path, expected)
            return path
        with open_partial(part, expected) as partial:
            _complete(partial, job)
        try:
            part.replace(path)
        except OSError as error:
            raise OutputError(f"cannot make {path} ({error.strerror}); set {VARIABLE} to another folder") from None
    return path


def checked_url(url: str) -> str:
    """Returns the address if it is one that can be asked.

    Raises:
        CheckpointError: it is not http or https, or names no host.
    """
    try:
        parts = urllib.parse.urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable or not url.isascii() or re.search(r"[\x00-\x20\x7f]", url):
        raise CheckpointError(f"{url!r} is no address of a file; expected http://HOST/… or https://HOST/…")
    return url


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0  # the other process is done with it, or has not begun


def _complete(partial: Partial, job: _Job) -> None:
    _receive_all(partial, job)
    if not partial.is_right and partial.resumed:
        # What was there before may be at fault: another file's beginning, or blocks lost in a power cut.
        partial.restart()
        _receive_all(partial, job)
    if not partial.is_right:
        found = digests(partial.digest, job.expected)
        partial.restart()
        raise CheckpointError(
            f"{job.url} gave another file than expected: {found}; it was removed: try another base_url, "
            f"or {job.by_hand}"
        )
    partial.sync()


def _receive_all(partial: Partial, job: _Job) -> None:
    """Takes one answer to its end, asking anew for the rest as often as the connection breaks."""
    for attempt in range(job.patience.tries):
        if partial.is_right:
            return
        try:
            _receive(partial, job)
            return
        except (OSError, http.client.HTTPException) as error:
            # A server that was never reached will not be there a second later.
            unreachable = attempt == 0 and isinstance(error, urllib.error.URLError)
            if unreachable or attempt + 1 == job.patience.tries:
                raise DownloadError(_broken(partial, job, error)) from error
        time.sleep(job.patience.pause * 2**attempt)


def _receive(partial: Partial, job: _Job) -> None:
    with _ask(partial, job) as response:
        total = _total(response, partial.size) or job.expected.size
        job.progress(partial.size, total)
        while block := response.read1(BLOCK):
            partial.add(block)
            if partial.size > job.expected.largest:
                return  # it is another file, perhaps an endless one
            job.progress(partial.size, total)
    if partial.size < (total or job.expected.smallest) and not partial.is_right:
        raise ConnectionError("the server closed it")


def _ask(partial: Partial, job: _Job) -> http.client.HTTPResponse:
    """Returns an answer that goes on where the file ends so far, or begins anew."""
    response = _open(job, partial.size)
    if response is None:
        partial.restart()
        response = _open(job, 0)
    if response is None:
        raise CheckpointError(f"{job.url} gave a piece that was not asked for; try another base_url, or {job.by_hand}")
    with contextlib.ExitStack() as closing:
        closing.enter_context(response)
        start = _start(response)
        _check_answer(response, start, job)
        # Only now: the web page of a hotel's network must not cost what is there already.
        if start == 0 and partial.size:
            partial.restart()
        partial.resumed = start > 0
        closing.pop_all()
    return response


def _open(job: _Job, start: int) -> http.client.HTTPResponse | None:
    """Asks for a file from a byte on; None if the server has no such rest, or gives another one."""
    request = urllib.request.Request(job.url, headers={"User-Agent": "jaxperturb"})
    if start:
        # Without If-Range: the SHA-256 of the whole tells, and a file with its hash in its name does not change.
        request.add_header("Range", f"bytes={start}-")
    try:
        response: http.client.HTTPResponse = _opener().open(request, timeout=job.patience.timeout)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and start:
            return None
        if error.code >= 500:
            raise
        raise CheckpointError(
            f"{job.url} cannot be had: the server answered {error.code} {_plain(error.reason)}; "
            f"try another base_url, or {job.by_hand}"
        ) from None
    if _start(response) in (0, start):
        return response
    response.close()
    return None


def _opener() -> urllib.request.OpenerDirector:
    """Returns what urllib uses by default, without its handlers of ftp, file and data."""
    opener = urllib.request.OpenerDirector()
    opener.add_handler(urllib.request.ProxyHandler())
    opener.add_handler(urllib.request.UnknownHandler())
    opener.add_handler(urllib.request.HTTPHandler())
    opener.add_handler(urllib.request.HTTPSHandler())
    opener.add_handler(urllib.request.HTTPRedirectHandler())
    opener.add_handler(urllib.request.HTTPDefaultErrorHandler())
    opener.add_handler(urllib.request.HTTPErrorProcessor())
    return opener


def _start(response: http.client.HTTPResponse) -> int:
    """Returns the byte of the file that an answer begins with; -1 if it does not say."""
    if response.status != http.HTTPStatus.PARTIAL_CONTENT:
        return 0
    found = re.match(r"bytes (\d+)-\d+/", response.headers.get("Content-Range", ""))
    return int(found[1]) if found else -1


def _total(response: http.client.HTTPResponse, start: int) -> int | None:
    """Returns the number of bytes of the whole file, as far as an answer says it."""
    length = response.headers.get("Content-Length", "")
    return start + int(length) if length.isdecimal() else None


def _check_answer(response: http.client.HTTPResponse, start: int, job: _Job) -> None:
    if job.url.startswith("https:") and not response.url.startswith("https:"):
        raise CheckpointError(f"{job.url} leads to {response.url}, which is not https; try another base_url")
    if response.headers.get_content_type() == "text/html":
        raise CheckpointError(
            f"{job.url} gave a web page instead of the file; log in to the network or try another base_url, "
            f"or {job.by_hand}"
        )
    total = _total(response, start)
    if total is not None and not job.expected.takes(total):
        raise CheckpointError(
            f"{job.url} gave another file than expected: {total:,} bytes, expected {sizes(job.expected)}; "
            f"try another base_url, or {job.by_hand}"
        )


def _broken(partial: Partial, job: _Job, error: Exception) -> str:
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(error, urllib.error.HTTPError):
        cause = f"the server answered {error.code} {error.reason}"
    reason = _plain(getattr(cause, "strerror", None) or str(cause)) or type(cause).__name__
    if not partial.size:
        return f"cannot get {job.url} ({reason}); check the connection, or {job.by_hand}"
    return (
        f"the connection to {job.url} broke after {partial.size:,} of {sizes(job.expected)} bytes ({reason}); "
        f"they are kept: try again to go on from there, or {job.by_hand}"
    )


def _plain(text: str) -> str:
    """Returns what a stranger's server says as part of one line that cannot do anything to a terminal."""
    words = " ".join(text.split())[:200]
    return "".join(letter for letter in words if letter.isprintable())
