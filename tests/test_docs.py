"""What README and documentation show works: every command and snippet runs, as a reader would type it.

The blocks of a page run in order, in one folder. A block that cannot run here has a line before it that says why:
``<!-- not run: needs the internet: ... -->``. Studies of the command line run on fewer images and draws than shown.
"""

import ast
import contextlib
import doctest
import inspect
import io
import re
import runpy
import shlex
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

import jaxperturb as jp
from jaxperturb.cli import main
from jaxperturb.cli.command import help_text

ROOT = Path(__file__).resolve().parents[1]
PAGES = {str(path.relative_to(ROOT)): path for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}
RUN, SHOWN = {"python", "bash", "sql"}, {"text", "r", "json", "bibtex", "csv"}
REASONS = (
    "needs the internet",
    "needs an accelerator",
    "needs a cluster",
    "needs R",
    "needs your own",
    "takes minutes",
)
IMAGES, DRAWS = 40, 2
THOROUGH = "docs/tutorial.md"  # the figures of the others are drawn coarsely
STORE = "runs/alexnet-digits/results.sqlite"


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, the line it starts at, and why it is not run, where it is not."""

    language: str
    text: str
    line: int
    reason: str | None


def blocks_of(text: str) -> Iterator[Block]:
    lines, reason, i = text.splitlines(), None, 0
    while i < len(lines):
        indent = lines[i][: len(lines[i]) - len(lines[i].lstrip())]
        if found := re.fullmatch(r"<!-- not run: (.*) -->", lines[i].strip()):
            reason = found[1]
        elif found := re.match(r"```(\w*)", lines[i].strip()):
            end = next(j for j in range(i + 1, len(lines)) if lines[j].strip() == "```")
            body = "\n".join(line.removeprefix(indent) for line in lines[i + 1 : end])
            yield Block(found[1], body, i + 1, reason)
            reason, i = None, end
        i += 1


def page_blocks(page: str) -> list[Block]:
    return list(blocks_of(PAGES[page].read_text(encoding="utf-8")))


EVERY = [pytest.param(page, block, id=f"{page}:{block.line}") for page in PAGES for block in page_blocks(page)]


@pytest.mark.parametrize(("page", "block"), EVERY)
def test_a_block_is_run_or_says_why_not(page: str, block: Block):
    assert block.language in RUN | SHOWN, "a block needs a language: text for what is only read"
    if block.reason is not None:
        assert block.language in RUN | {"r"}, "only what could run needs a reason"
        assert block.reason.startswith(REASONS), f"expected a reason that begins with one of {REASONS}"


@pytest.mark.once
@pytest.mark.parametrize("page", [page for page in PAGES if any(block.language in RUN for block in page_blocks(page))])
def test_a_page_runs_from_top_to_bottom(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=":")
    if page != THOROUGH:
        monkeypatch.setattr("jaxperturb.show.style.FORMATS", ("png",))
        monkeypatch.setattr("jaxperturb.show.style.DPI", 30)
    names: dict[str, object] = {"__name__": "__page__"}
    modules = set(sys.modules)
    printed: str | None = None
    try:
        for block in page_blocks(page):
            if block.language == "text" and printed is not None:
                assert same_output(block.text, printed), f"{page}:{block.line} shows other lines than these:\n{printed}"
            printed = None
            if block.reason is None and block.language in RUN:
                try:
                    printed = run(block, names)
                except BaseException as error:
                    error.add_note(f"in {page}, the block in line {block.line}")
                    raise
    finally:
        for name in set(sys.modules) - modules:
            if Path(getattr(sys.modules[name], "__file__", None) or "/").is_relative_to(tmp_path):
                del sys.modules[name]  # a page's own file, whose name another page may use


def run(block: Block, names: dict[str, object]) -> str | None:
    """Runs a block; returns what a block of Python printed."""
    if block.language == "bash":
        return run_commands(block.text)
    if block.language == "sql":
        with contextlib.closing(sqlite3.connect(f"file:{STORE}?mode=ro", uri=True)) as connection:
            assert connection.execute(block.text).fetchall(), "the query finds nothing"
        return None
    if named := re.match(r"# (\w+\.py)\n", block.text):
        Path(named[1]).write_text(block.text + "\n", encoding="utf-8")
        return None
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile(block.text, f"<line {block.line}>", "exec"), names)
    return out.getvalue()


def run_commands(text: str) -> None:
    for command in commands(text):
        if command[0] != "jaxperturb":
            subprocess.run(command, check=True, capture_output=True, timeout=300)
            continue
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as err:
            status = main.run(smaller(command[1:]))
        assert status == 0, f"{shlex.join(command)} ends with {status}: {err.getvalue()}"


def commands(text: str) -> Iterator[list[str]]:
    """Yields the words of each command of a shell's lines: no pipes, no variables, so that all systems run them."""
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=";|&<>")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in (*lexer, ";"):
            assert not set(word) <= set("|&<>"), f"{word!r} in {line!r} is not for all shells"
            if word != ";":
                words.append(word)
            elif words:
                yield words
                words = []


def smaller(words: Sequence[str]) -> list[str]:
    """Returns a command with at most so many images and draws, where it is one that computes a study."""
    if words[0] not in ("sweep", "evaluate", "recover") or "--help" in words:
        return list(words)
    limits = {"images": IMAGES} | ({"draws": DRAWS} if words[0] == "sweep" else {})
    rest = []
    for word in words:
        name, _, value = word.removeprefix("--").partition("=")
        if name in limits:
            limits[name] = min(limits[name], int(value))
        else:
            rest.append(word)
    return [*rest, *(f"--{name}={limit}" for name, limit in limits.items())]


def same_output(shown: str, printed: str) -> bool:
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    return doctest.OutputChecker().check_output(shown + "\n", printed, flags)


def test_blocks_are_found_with_their_reasons():
    text = "a\n```bash\nb\n```\n<!-- not run: needs R -->\n```r\nc\n```\n  ```\n  d\n  ```\n"
    assert list(blocks_of(text)) == [
        Block("bash", "b", 2, None),
        Block("r", "c", 6, "needs R"),
        Block("", "d", 9, None),
    ]


def test_commands_are_split_as_a_shell_does():
    text = "jaxperturb a --x='b;c'; jaxperturb d  # e; f\n# g\njaxperturb \\\n h"
    assert list(commands(text)) == [["jaxperturb", "a", "--x=b;c"], ["jaxperturb", "d"], ["jaxperturb", "h"]]


def test_outputs_are_compared_word_by_word():
    assert same_output("a ... d\n  e", "a b c d\ne\n")
    assert not same_output("968 of 1936", "967 of 1936\n")


def test_studies_are_made_smaller_and_never_larger():
    assert smaller(["sweep", "--draws=20", "--images=10"]) == ["sweep", "--images=10", "--draws=2"]
    assert smaller(["table", "runs/a"]) == ["table", "runs/a"]


def documented() -> set[str]:
    """Returns the last part of each name that the reference shows."""
    pages = (ROOT / "docs" / "reference").glob("*.md")
    shown = (re.findall(r"^::: ([\w.]+)$", page.read_text(encoding="utf-8"), re.MULTILINE) for page in pages)
    return {identifier.rpartition(".")[2] for identifiers in shown for identifier in identifiers}


def test_the_reference_has_every_public_name():
    sources = ast.parse(Path(jp.data.__file__).read_text(encoding="utf-8")).body
    of_data = {alias.asname for node in sources if isinstance(node, ast.ImportFrom) for alias in node.names}
    own = {"__version__", "JaxPerturbError", "data", "plots"}  # a text, and modules whose content is shown
    assert ({*jp.__all__, *of_data} - own) - documented() == set()


@pytest.mark.parametrize("name", [name for name in jp.__all__ if name not in ("__version__",)])
def test_every_public_name_says_what_it_does(name: str):
    value = getattr(jp, name)
    assert value.__doc__
    if not callable(value) or isinstance(value, type):
        return
    names = inspect.signature(value).parameters
    missing = [one for one in names if not re.search(rf"^\s+\*{{0,2}}{one}: ", value.__doc__, re.MULTILINE)]
    assert not missing, f"{name} does not say what {missing} are"
    assert "Returns" in value.__doc__ or re.match(r"\w+s\b", value.__doc__)
    assert "Raises:" in value.__doc__


def test_the_page_of_the_command_line_is_made_of_its_help():
    page = runpy.run_path(str(ROOT / "scripts" / "mkdocs_hooks.py"))["cli_page"]()
    for name, command in main.COMMANDS.items():
        assert f"## {name}\n\n```text\n{help_text(command)}\n```" in page


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == jp.__version__
    assert {"cff-version", "message", "title", "authors", "license"} <= citation.keys()
