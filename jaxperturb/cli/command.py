"""What a command is, and how strictly its words are read: every mistake is a `UsageError` of one line."""

import re
import textwrap
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from absl import flags

from jaxperturb.errors import UsageError, did_you_mean

HELP_WORDS = ("-h", "--help")
_WIDTH = 100


@dataclass(frozen=True)
class Command:
    """One command of the command line.

    Attributes:
        name: what is typed after ``jaxperturb``.
        summary: one line, for the list of commands.
        details: what a first reader needs to know, for the command's own help.
        examples: pairs (what it does, the command line without ``jaxperturb``), the simplest first.
        define: adds the command's flags to a new `flags.FlagValues`; the command has no others.
        run: does the work; takes the parsed flags and one string for each of `arguments`.
        arguments: names of the words that must stand beside the flags, such as ``OUT``; a last one with dots,
            ``STORE...``, may be given several times.
        optional: names of words that may follow these.
    """

    name: str
    summary: str
    details: str
    examples: tuple[tuple[str, str], ...]
    define: Callable[[flags.FlagValues], None]
    run: Callable[..., None]
    arguments: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()


@dataclass(frozen=True)
class Parsed:
    """A command's flags and arguments as they were typed."""

    values: flags.FlagValues
    arguments: tuple[str, ...]


def parse(command: Command, words: Iterable[str]) -> Parsed:
    """Reads the words after a command's name.

    Raises:
        UsageError: an unknown, shortened, one-dashed or repeated flag; a value that is missing or of the wrong type;
            an argument too many or too few.
    """
    values = flags.FlagValues()
    command.define(values)
    arguments: list[str] = []
    seen: set[str] = set()
    rest = deque(words)
    while rest:
        word = rest.popleft()
        if word == "--":
            arguments.extend(rest)
            break
        if not word.startswith("-") or word == "-":
            arguments.append(word)
            continue
        name, text = _split_flag(command, values, word, rest)
        if name in seen:
            raise UsageError(f"--{name} is given twice; give it once")
        seen.add(name)
        _set(values, name, text)
    _check_arguments(command, arguments)
    values(["jaxperturb"])  # marks flags that were not given as parsed
    return Parsed(values, tuple(arguments))


def _split_flag(command: Command, values: flags.FlagValues, word: str, rest: deque[str]) -> tuple[str, str]:
    """Returns a flag's full name and its value; takes the value from `rest` where it is the next word."""
    name, equals, text = word.lstrip("-").partition("=")
    switches = {f"no{flag}" for flag in values if values[flag].boolean}
    short = len(name) == 1 and name in values and word.startswith(f"-{name}")
    if not short and (not word.startswith("--") or word.startswith("---")):
        raise UsageError(f"unknown flag {word!r}: flags begin with two dashes{_nearest_flag(name, values)}")
    if name in switches:
        if equals:
            raise UsageError(f"--{name} takes no value")
        return name.removeprefix("no"), "false"
    if name not in values:
        known = sorted(f"--{flag}" for flag in values)
        near = _nearest_flag(name, values) or f"; {command.name} takes {', '.join(known)}"
        raise UsageError(f"unknown flag '--{name}'{near}")
    if values[name].boolean and not equals:
        return name, "true"
    if not equals and rest and not _is_flag(rest[0]):
        text = rest.popleft()
    if not text.strip():
        raise UsageError(f"--{name} needs a value: {_takes(values[name])}")
    return name, text


def _is_flag(word: str) -> bool:
    """Whether a word is a flag rather than the value of the flag before it, such as ``-1``."""
    return word.startswith("--") or (word.startswith("-") and not word[1:2].isdigit() and word[1:2] != ".")


def _nearest_flag(name: str, values: flags.FlagValues) -> str:
    starts = [flag for flag in values if name and flag.startswith(name)]
    return f"; did you mean '--{starts[0]}'?" if len(starts) == 1 else _dashed(did_you_mean(name, values))


def _dashed(hint: str) -> str:
    return hint.replace("mean '", "mean '--")


def _set(values: flags.FlagValues, name: str, text: str) -> None:
    try:
        values(["jaxperturb", f"--{name}={text}"])
    except flags.IllegalFlagValueError:
        choices = getattr(values[name].parser, "enum_values", ())
        raise UsageError(f"--{name} takes {_takes(values[name])}, not {text!r}{did_you_mean(text, choices)}") from None


def _takes(flag: flags.Flag) -> str:
    """Says in words what a flag's value must be."""
    if flag.boolean:
        return "true or false"
    if choices := getattr(flag.parser, "enum_values", ()):
        return "one of " + ", ".join(choices)
    return (
        flag.parser.syntactic_help.replace("an integer", "a whole number").replace("integer", "whole number")
        or "a text"
    )


def _check_arguments(command: Command, arguments: list[str]) -> None:
    most = len(command.arguments) + len(command.optional)
    several = any(name.endswith("...") for name in command.arguments)
    if len(arguments) > most and not several:
        extra = arguments[most]
        raise UsageError(
            f"unexpected argument {extra!r}: {command.name} takes {_takes_arguments(command)} (--flag=value)"
        )
    if len(arguments) < len(command.arguments):
        missing = command.arguments[len(arguments)]
        raise UsageError(f"{command.name} needs {missing}, such as: jaxperturb {command.examples[0][1]}")


def _takes_arguments(command: Command) -> str:
    words = _words(command)
    return " ".join(words) + " and flags" if words else "flags only"


def _words(command: Command) -> tuple[str, ...]:
    return (*command.arguments, *(f"[{name}]" for name in command.optional))


def help_text(command: Command) -> str:
    """Returns the help of one command: usage, what it does, examples, its flags with their defaults."""
    values = flags.FlagValues()
    command.define(values)
    usage = " ".join(("usage: jaxperturb", command.name, *_words(command), "[--flag=value ...]"))
    examples = "\n".join(f"  # {what}\n  jaxperturb {line}" for what, line in command.examples)
    rows = "\n".join(_flag_help(values[name]) for name in values)
    return f"{usage}\n\n{_fill(command.summary + ' ' + command.details)}\n\nExamples:\n{examples}\n\nFlags:\n{rows}"


def _flag_help(flag: flags.Flag) -> str:
    dashes = "-" if len(flag.name) == 1 else "--"
    form = f"--[no]{flag.name}" if flag.boolean else f"{dashes}{flag.name}={_placeholder(flag)}"
    default = "" if flag.boolean or flag.default is None else f" (default: {flag.default})"
    return f"  {form}\n{_fill(_own_help(flag) + default, '      ')}"


def _own_help(flag: flags.Flag) -> str:
    """Returns a flag's help without the choices that absl puts before it, since the form shows them."""
    return re.sub(r"^<[^>]*>: ", "", flag.help)


def _placeholder(flag: flags.Flag) -> str:
    if choices := getattr(flag.parser, "enum_values", ()):
        return "|".join(choices)
    return {"int": "N", "float": "X"}.get(flag.flag_type(), "TEXT")


def _fill(text: str, indent: str = "") -> str:
    return textwrap.fill(text, _WIDTH, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)
