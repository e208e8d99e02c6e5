"""Known checkpoints: the table, and downloads from a server on this machine that behaves well and badly."""

import contextlib
import dataclasses
import hashlib
import http.server
import math
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from jaxperturb.checkpoints import known
from jaxperturb.checkpoints.cache import cache_folder
from jaxperturb.checkpoints.download import Patience
from jaxperturb.checkpoints.torchvision_names import PLANS, Sizes, plan, rows
from jaxperturb.errors import CheckpointError, OutputError

CONTENT = np.random.default_rng(0).bytes(700_001)
DIGEST = hashlib.sha256(CONTENT).hexdigest()
HALF = len(CONTENT) // 2
ONCE = Patience(timeout=5.0, tries=1)
THRICE = Patience(timeout=5.0, tries=3, pause=0.0)


def record(content: bytes = CONTENT, digits: int = 64, exact: bool = True) -> known.Known:
    """Returns a table entry for a small file."""
    digest = hashlib.sha256(content).hexdigest()
    size = len(content) if exact else None
    mebibytes = round(len(content) / 2**20, 3)
    return known.Known("tiny", f"tiny-{digest[:8]}.pth", digest[:digits], size, mebibytes, "alexnet", 1, 50.0, 70.0)


TINY = record()
VAGUE = record(digits=8, exact=False)


class Handler(http.server.BaseHTTPRequestHandler):
    """Hands each request to the next of the server's answers; the last one stays."""

    def do_GET(self) -> None:
        server = self.server
        server.seen.append(self.headers["Range"])
        server.paths.append(self.path)
        answer = server.answers[min(len(server.seen), len(server.answers)) - 1]
        found = re.fullmatch(r"bytes=(\d+)-", self.headers["Range"] or "")
        # The client may well hang up: that is its right.
        with contextlib.suppress(ConnectionError):
            answer(self, int(found[1]) if found else 0)

    def log_message(self, *args) -> None:
        pass


Answer = Callable[[Handler, int], None]


@contextlib.contextmanager
def serving(*answers: Answer) -> Iterator[http.server.ThreadingHTTPServer]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.seen, server.paths, server.answers = [], [], answers
    server.url = f"http://127.0.0.1:{server.server_port}/models"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def head(handler: Handler, start: int, length: int | None, kind: str = "application/octet-stream") -> None:
    handler.send_response(206 if start else 200)
    handler.send_header("Content-Type", kind)
    if length is not None:
        handler.send_header("Content-Length", str(length))
    if start:
        handler.send_header("Content-Range", f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
    handler.end_headers()


def whole(handler: Handler, start: int) -> None:
    if start >= len(CONTENT):
        handler.send_error(416)
    else:
        head(handler, start, len(CONTENT) - start)
        handler.wfile.write(CONTENT[start:])


def ignores_ranges(handler: Handler, start: int) -> None:
    whole(handler, 0)


def breaks_at(stop: int, ranges: bool = True) -> Answer:
    def answer(handler: Handler, start: int) -> None:
        start = start if ranges else 0
        head(handler, start, len(CONTENT) - start)
        handler.wfile.write(CONTENT[start:stop])

    return answer


def gives(content: bytes, length: int | None = None, kind: str = "application/octet-stream") -> Answer:
    """Gives content, and says that it has another length."""

    def answer(handler: Handler, start: int) -> None:
        head(handler, 0, len(content) if length is None else length, kind)
        handler.wfile.write(content)

    return answer


def says_no_length(content: bytes) -> Answer:
    def answer(handler: Handler, start: int) -> None:
        head(handler, 0, None)
        handler.wfile.write(content)

    return answer


def fails_with(code: int) -> Answer:
    def answer(handler: Handler, start: int) -> None:
        handler.send_error(code)

    return answer


def leads_to(url: str) -> Answer:
    def answer(handler: Handler, start: int) -> None:
        handler.send_response(302)
        handler.send_header("Location", url)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


@pytest.fixture(autouse=True)
def _plain_network(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("JAXPERTURB_CACHE", raising=False)


def part(one: known.Known = TINY) -> Path:
    return known.place(one).with_name(f"{one.file}.part")


def leave_part(content: bytes) -> None:
    part().parent.mkdir(parents=True)
    part().write_bytes(content)


def refusal(*answers: Answer, one: known.Known = TINY, patience: Patience = ONCE) -> str:
    """Returns the one line that a download from such a server ends in."""
    with serving(*answers) as server, pytest.raises(CheckpointError) as caught:
        known.fetch(one, base_url=server.url, patience=patience)
    assert known.cached(one) is None
    message = str(caught.value)
    assert "\n" not in message
    assert f"{server.url}/{one.file}" in message
    assert str(known.place(one)) in message, "the place to put the file by hand"
    return message


# The table


def test_names_hold_the_digits_of_the_digest():
    table = known.known()
    assert len(table) == 11
    for name, one in table.items():
        assert name == one.name
        assert len(one.sha256) in (8, 64)
        assert re.fullmatch(rf"[a-z0-9_]+(-owt)?-{one.sha256[:8]}\.pth", one.file)
        assert one.file.startswith(name)
        assert one.licence == "BSD-3-Clause"
        assert 50 < one.top1 < one.top5 < 100


def test_sizes_agree_with_each_other_and_with_the_parameters():
    for one in known.known().values():
        expected, rounded = one.expected, dataclasses.replace(one, size=None).expected
        assert expected.size == one.size
        assert rounded.takes(round(one.mebibytes * 2**20))
        assert rounded.largest - rounded.smallest < 2200
        if one.size is not None:
            assert rounded.takes(one.size)
        # Four bytes a number, and some thousands for names (and batch norms' statistics).
        assert 4 * one.parameters < expected.smallest < 4 * one.parameters + 200_000


@pytest.mark.parametrize("name", ["alexnet", *(f"vgg{n}{bn}" for n in (11, 13, 16, 19) for bn in ("", "_bn"))])
def test_parameters_are_those_of_the_architecture(name: str):
    one = known.find(name)
    assert one.architecture in PLANS
    sizes = Sizes(1000, 3, Fraction(1), Fraction(1), plan(name).pooled_size)
    trained = (row for row in rows(plan(name), sizes) if row.path[0] == "params")
    assert sum(math.prod(row.shape) for row in trained) == one.parameters


@pytest.mark.parametrize(
    ("name", "stem", "side", "fires"),
    [
        ("squeezenet1_0", 96, 7, ((96, 16, 64), (128, 16, 64), (128, 32, 128), (256, 32, 128))),
        ("squeezenet1_1", 64, 3, ((64, 16, 64), (128, 16, 64), (128, 32, 128), (256, 32, 128))),
    ],
)
def test_parameters_of_squeezenet(name: str, stem: int, side: int, fires: tuple):
    def conv(seen: int, units: int, side: int) -> int:
        return seen * units * side * side + units

    later = ((256, 48, 192), (384, 48, 192), (384, 64, 256), (512, 64, 256))
    modules = (conv(i, s, 1) + conv(s, e, 1) + conv(s, e, 3) for i, s, e in (*fires, *later))
    assert conv(3, stem, side) + sum(modules) + conv(512, 1000, 1) == known.find(name).parameters


def test_unknown_name_is_refused_with_the_nearest():
    for ask in (known.cached, known.fetch, known.place, known.find):
        with pytest.raises(CheckpointError, match="'vgg16bn'; did you mean 'vgg16_bn'"):
            ask("vgg16bn")


# The cache


def test_cache_folder_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    assert cache_folder() == tmp_path / "cache" / "jaxperturb"
    assert known.place("vgg16") == tmp_path / "cache" / "jaxperturb" / "weights" / "vgg16-397923af.pth"
    monkeypatch.setenv("JAXPERTURB_CACHE", "here")
    assert cache_folder() == tmp_path / "here"
    monkeypatch.setenv("JAXPERTURB_CACHE", "")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    if sys.platform == "linux":
        assert cache_folder() == tmp_path / "home" / ".cache" / "jaxperturb"


def test_asking_what_is_here_makes_nothing():
    assert known.cached("alexnet") is None
    assert not cache_folder().exists()


def test_file_put_there_by_hand_is_checked_and_used_without_network():
    place = known.place(TINY)
    place.parent.mkdir(parents=True)
    place.write_bytes(CONTENT)
    assert known.cached(TINY) == place
    with serving(whole) as server:
        assert known.fetch(TINY, base_url=server.url) == place
        assert server.seen == []
    assert list(place.parent.iterdir()) == [place]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (CONTENT[:-1], "has 700,000 bytes, expected 700,001"),
        (CONTENT[:-1] + b"?", f"its SHA-256 begins with [0-9a-f]{{8}}, expected {DIGEST[:8]}"),
    ],
)
def test_wrong_file_put_there_by_hand_is_refused_and_left_alone(content: bytes, reason: str):
    place = known.place(TINY)
    place.parent.mkdir(parents=True)
    place.write_bytes(content)
    for ask in (known.cached, known.fetch):
        with pytest.raises(CheckpointError, match=f"{re.escape(str(place))} .*{reason}.*remove it"):
            ask(TINY)
    assert place.read_bytes() == content


@pytest.mark.parametrize("blocked", ["cache", "cache/jaxperturb/weights"])
def test_cache_that_cannot_be_written_to(tmp_path: Path, blocked: str):
    path = tmp_path / blocked
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("a file, not a folder")
    with serving(whole) as server:
        with pytest.raises(OutputError, match="cannot write into .*; set JAXPERTURB_CACHE to another folder"):
            known.fetch(TINY, base_url=server.url)
        assert server.seen == []


def test_disk_that_takes_no_more():
    resource = pytest.importorskip("resource", reason="this system has no limit on the size of a file")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    with serving(whole) as server:
        resource.setrlimit(resource.RLIMIT_FSIZE, (HALF, limit[1]))
        try:
            with pytest.raises(OutputError, match="cannot write .*; make room, or set JAXPERTURB_CACHE"):
                known.fetch(TINY, base_url=server.url, patience=ONCE)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        assert known.cached(TINY) is None
        assert known.fetch(TINY, base_url=server.url, patience=ONCE).read_bytes() == CONTENT


# Downloads that end well


@pytest.mark.parametrize("one", [TINY, VAGUE], ids=["all digits", "eight digits"])
def test_whole_download(one: known.Known):
    told = []
    with serving(whole) as server:
        path = known.fetch(one, base_url=f"{server.url}/", progress=lambda *n: told.append(n))
        assert known.fetch(one, base_url=server.url) == path
        assert server.seen == [None], "asked once"
        assert server.paths == [f"/models/{one.file}"]
    assert path == known.cached(one) == known.place(one)
    assert path.read_bytes() == CONTENT
    assert not part(one).exists()
    there = [done for done, _ in told]
    assert there == sorted(there)
    assert (there[0], there[-1]) == (0, len(CONTENT))
    assert {total for _, total in told} == {len(CONTENT)}


def test_break_is_resumed_in_the_same_call():
    with serving(breaks_at(HALF), breaks_at(HALF + 7), whole) as server:
        path = known.fetch(TINY, base_url=server.url, patience=THRICE)
        assert server.seen == [None, f"bytes={HALF}-", f"bytes={HALF + 7}-"]
    assert path.read_bytes() == CONTENT


def test_break_is_resumed_by_a_later_call():
    message = refusal(breaks_at(HALF))
    assert f"broke after {HALF:,} of 700,001 bytes" in message
    assert "they are kept" in message
    assert part().read_bytes() == CONTENT[:HALF]
    told = []
    with serving(whole) as server:
        path = known.fetch(TINY, base_url=server.url, progress=lambda *n: told.append(n))
        assert server.seen == [f"bytes={HALF}-"], "only the rest is asked for"
    assert path.read_bytes() == CONTENT
    assert told[0] == (HALF, len(CONTENT))


def test_server_that_ignores_ranges_starts_anew():
    leave_part(CONTENT[:HALF])
    with serving(ignores_ranges) as server:
        assert known.fetch(TINY, base_url=server.url).read_bytes() == CONTENT
        assert server.seen == [f"bytes={HALF}-"]


def test_server_that_ignores_ranges_and_breaks():
    with serving(breaks_at(HALF), breaks_at(9, ranges=False), whole) as server:
        assert known.fetch(TINY, base_url=server.url, patience=THRICE).read_bytes() == CONTENT
        assert server.seen == [None, f"bytes={HALF}-", "bytes=9-"]


def test_complete_part_of_a_killed_process_needs_no_network():
    leave_part(CONTENT)
    with serving(fails_with(500)) as server:
        assert known.fetch(TINY, base_url=server.url).read_bytes() == CONTENT
        assert server.seen == []


@pytest.mark.parametrize(
    "left", [b"x" * HALF, CONTENT + b"more", CONTENT[:-1] + b"?"], ids=["another file", "too long", "one byte"]
)
def test_wrong_part_is_dropped(left: bytes):
    leave_part(left)
    with serving(whole) as server:
        assert known.fetch(TINY, base_url=server.url, patience=ONCE).read_bytes() == CONTENT
        assert server.seen == [f"bytes={len(left)}-", None]


@pytest.mark.parametrize("claim", ["bytes 3-9/700001", "bytes=3", None])
def test_server_that_gives_another_piece_is_asked_for_the_whole(claim: str | None):
    def other_piece(handler: Handler, start: int) -> None:
        handler.send_response(206)
        if claim:
            handler.send_header("Content-Range", claim)
        handler.send_header("Content-Length", "7")
        handler.end_headers()
        handler.wfile.write(CONTENT[3:10])

    leave_part(CONTENT[:HALF])
    with serving(other_piece, whole) as server:
        assert known.fetch(TINY, base_url=server.url, patience=ONCE).read_bytes() == CONTENT
        assert server.seen == [f"bytes={HALF}-", None]
    known.place(TINY).unlink()
    assert "a piece that was not asked for" in refusal(other_piece)


def test_server_that_says_no_length():
    with serving(says_no_length(CONTENT)) as server:
        assert known.fetch(VAGUE, base_url=server.url, patience=ONCE).read_bytes() == CONTENT


def test_server_that_says_no_length_and_breaks():
    with serving(says_no_length(CONTENT[:HALF]), whole) as server:
        assert known.fetch(VAGUE, base_url=server.url, patience=THRICE).read_bytes() == CONTENT
        assert server.seen == [None, f"bytes={HALF}-"]


def test_redirect_is_followed():
    with serving(whole) as mirror, serving(leads_to(f"{mirror.url}/other")) as server:
        leave_part(CONTENT[:HALF])
        assert known.fetch(TINY, base_url=server.url).read_bytes() == CONTENT
        assert mirror.seen == [f"bytes={HALF}-"]


def test_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch):
    with serving(whole) as proxy:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.server_port}")
        known.fetch(TINY, base_url="http://mirror.invalid/a")
        assert proxy.paths == [f"http://mirror.invalid/a/{TINY.file}"]


# Downloads that are refused


def test_wrong_file_is_refused_and_removed():
    message = refusal(gives(CONTENT[:-1] + b"?"))
    assert re.search(rf"its SHA-256 begins with [0-9a-f]{{8}}, expected {DIGEST[:8]}; it was removed", message)
    assert not part().exists()


def test_wrong_file_that_is_resumed_is_refused_and_removed():
    wrong = CONTENT[:-1] + b"?"
    leave_part(CONTENT[:HALF])
    refusal(gives(wrong))
    assert not part().exists()


@pytest.mark.parametrize("one", [TINY, VAGUE], ids=["all digits", "eight digits"])
def test_endless_file_is_given_up(one: known.Known):
    def endless(handler: Handler, start: int) -> None:
        head(handler, 0, None)
        while True:
            handler.wfile.write(CONTENT)

    assert "gave another file" in refusal(endless, one=one)
    assert not part(one).exists()


@pytest.mark.parametrize("length", [len(CONTENT) + 100, HALF, 0])
def test_server_with_another_length_is_refused_at_once(length: int):
    leave_part(CONTENT[:9])
    message = refusal(gives(CONTENT, length))
    assert f"{length:,} bytes, expected 700,001" in message
    assert part().read_bytes() == CONTENT[:9], "what was there is kept"


def test_server_that_promises_a_few_bytes_too_many():
    with serving(gives(CONTENT, len(CONTENT) + 100)) as server:
        path = known.fetch(VAGUE, base_url=server.url, patience=ONCE)
        assert path.read_bytes() == CONTENT, "its hash says that nothing is missing"
        assert server.seen == [None]


def test_server_that_gives_less_than_it_promises():
    message = refusal(breaks_at(HALF, ranges=False), patience=THRICE)
    assert f"broke after {HALF:,} of 700,001 bytes" in message


def test_web_page_is_refused_and_costs_nothing():
    leave_part(CONTENT[:HALF])
    page = gives(b"<html>log in</html>", kind="text/html; charset=utf-8")
    assert "gave a web page instead of the file" in refusal(page)
    assert part().read_bytes() == CONTENT[:HALF]


def test_web_page_that_passes_for_a_file():
    assert "19 bytes, expected 700,001" in refusal(gives(b"<html>log in</html>"))
    assert "broke after 19" in refusal(says_no_length(b"<html>log in</html>"), one=VAGUE)


@pytest.mark.parametrize("code", [403, 404, 503])
def test_answer_that_is_an_error(code: int):
    with serving(fails_with(code)) as server, pytest.raises(CheckpointError, match=f"the server answered {code} "):
        known.fetch(TINY, base_url=server.url, patience=THRICE)
    assert server.seen == [None]
    assert [path.name for path in part().parent.iterdir()] == [f"{TINY.file}.lock"]
    refusal(fails_with(code))


def test_failing_server_after_a_break_is_asked_again():
    with serving(breaks_at(HALF), fails_with(503), whole) as server:
        assert known.fetch(TINY, base_url=server.url, patience=THRICE).read_bytes() == CONTENT


def test_no_connection():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # taken, but nobody listens
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        with pytest.raises(CheckpointError) as caught:
            known.fetch(TINY, base_url=url)
    message = str(caught.value)
    assert message.startswith(f"cannot get {url}/{TINY.file} (Connection refused); check the connection, ")
    assert message.endswith(f"or put the file at {known.place(TINY)} by hand")
    assert not part().exists()


def test_server_that_falls_silent():
    release = threading.Event()

    def silent(handler: Handler, start: int) -> None:
        head(handler, start, len(CONTENT))
        handler.wfile.write(CONTENT[:HALF])
        release.wait(30)

    try:
        message = refusal(silent, patience=Patience(timeout=0.3, tries=1))
    finally:
        release.set()
    assert f"broke after {HALF:,} of 700,001 bytes (timed out)" in message


def test_server_that_speaks_no_http():
    def garbage(handler: Handler, start: int) -> None:
        handler.wfile.write(b"220 \x1b[2Jready\r\n")

    assert "(220 [2Jready)" in refusal(garbage)


@pytest.mark.parametrize(
    ("target", "reason"), [("file:///etc/passwd", "not allowed"), ("ftp://127.0.0.1/x", "unknown url type: ftp")]
)
def test_redirect_to_something_else_is_refused(target: str, reason: str):
    assert reason in refusal(leads_to(target))


@pytest.mark.parametrize(
    "base_url",
    ["file:///tmp", "ftp://host/x", "host/models", "http://", "http://a b/", "http://host:port", "http://é/"],
)
def test_base_url_that_is_none(base_url: str):
    with pytest.raises(CheckpointError, match="expected http://HOST/… or https://HOST/…"):
        known.fetch(TINY, base_url=base_url)
    assert not cache_folder().exists()


# Several processes


CHILD = """
import sys
from jaxperturb.checkpoints import known
from jaxperturb.checkpoints.download import Patience
url, file, digest, size = sys.argv[1:]
one = known.Known("tiny", file, digest, int(size), 0.667, "alexnet", 1, 50.0, 70.0)
told = lambda done, total: print("told", done, flush=True)
print("path", known.fetch(one, base_url=url, progress=told, patience=Patience(timeout=60.0, tries=1)), flush=True)
"""


@contextlib.contextmanager
def children(url: str, count: int) -> Iterator[Sequence[subprocess.Popen]]:
    command = [sys.executable, "-c", CHILD, url, TINY.file, TINY.sha256, str(TINY.size)]
    with contextlib.ExitStack() as stack:
        started = []
        for _ in range(count):
            child = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
            stack.callback(child.kill)
            started.append(child)
        yield started


@contextlib.contextmanager
def half_then_waiting() -> Iterator[tuple[Answer, threading.Event]]:
    """Gives an answer that stops half-way until the event is set."""
    release = threading.Event()

    def answer(handler: Handler, start: int) -> None:
        head(handler, start, len(CONTENT) - start)
        handler.wfile.write(CONTENT[start:HALF])
        release.wait(60)
        handler.wfile.write(CONTENT[HALF:])

    try:
        yield answer, release
    finally:
        release.set()


def test_two_processes_download_once():
    with half_then_waiting() as (answer, release), serving(answer) as server, children(server.url, 2) as both:
        for child in both:  # one is in the middle of it, the other waits for the first
            assert child.stdout.readline().startswith("told ")
        release.set()
        for child in both:
            output = child.communicate(timeout=60)[0]
            assert output.splitlines()[-1] == f"path {known.place(TINY)}"
            assert child.returncode == 0
        assert server.seen == [None]
    assert known.place(TINY).read_bytes() == CONTENT


def test_killed_process_leaves_nothing_trusted_and_no_lock():
    with half_then_waiting() as (answer, _), serving(answer, whole) as server, children(server.url, 1) as (child,):
        deadline = time.monotonic() + 60
        while f"told {HALF}\n" != child.stdout.readline():
            assert time.monotonic() < deadline
            assert child.poll() is None
        child.kill()
        child.wait(60)
        assert known.cached(TINY) is None
        assert not known.place(TINY).exists()
        assert part().read_bytes() == CONTENT[:HALF]
        assert known.fetch(TINY, base_url=server.url, patience=ONCE).read_bytes() == CONTENT
        assert server.seen == [None, f"bytes={HALF}-"]
