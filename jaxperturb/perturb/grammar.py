"""The text in which perturbations and their options are asked for: ``name(option=value,...),name``."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from jaxperturb.errors import PerturbationError

_NAME = re.compile(r"[A-Za-z_][\w.]*(:[A-Za-z_][\w.]*)?")
_WORD = re.compile(r"[A-Za-z_][\w.:/*+-]*")
_RANGE = re.compile(r"\d+:\d+")
_COMPOSED = re.compile(r"compose\((.*)\)", re.DOTALL)
_SPECIAL = {"true": True, "false": False, "none": None}


def parse_calls(text: str) -> list[tuple[str, dict[str, Any]]]:
    """Reads ``"a,b(x=1,word=int8)"`` into ``[("a", {}), ("b", {"x": 1, "word": "int8"})]``.

    Values are literals: numbers, words, quoted texts, true, false, none, and lists of these in square brackets.

    Raises:
        PerturbationError: a text that is not of this form.
    """
    return [parse_call(part) for part in split_calls(text)]


def split_calls(text: str) -> list[str]:
    """Returns the texts between the commas that are outside brackets and quotes; none of an empty text."""
    return [part.strip() for part in _split(text, ",")] if text.strip() else []


def composed_texts(text: str) -> list[str] | None:
    """Returns what is composed in ``"compose(a,b(x=1))"``, or None where the text is no composition."""
    found = _COMPOSED.fullmatch(text.strip())
    return split_calls(found[1]) if found else None


def format_call(name: str, options: Mapping[str, Any]) -> str:
    """Returns the one text of a name with options, in the order of their names; `parse_calls` reads it back."""
    inside = ",".join(f"{option}={_format(options[option])}" for option in sorted(options))
    return f"{name}({inside})" if inside else name


def parse_call(text: str) -> tuple[str, dict[str, Any]]:
    """Reads one name with its options.

    Raises:
        PerturbationError: a text that is not of this form.
    """
    text = text.strip()
    name, bracket, rest = text.partition("(")
    name = name.strip()
    if not _NAME.fullmatch(name) or (bracket and not rest.endswith(")")):
        raise PerturbationError(f"expected a perturbation such as node_knockout(include_bias=false), got {text!r}")
    options: dict[str, Any] = {}
    for item in _split(rest[:-1], ",") if rest[:-1].strip() else ():
        option, equals, value = (part.strip() for part in item.partition("="))
        if not equals or not option.isidentifier() or not value:
            raise PerturbationError(f"{name}: expected option=value, got {item.strip()!r}")
        if option in options:
            raise PerturbationError(f"{name}: option {option!r} is given twice")
        options[option] = _parse_value(value, name)
    return name, options


def _parse_value(text: str, name: str) -> Any:
    if text.startswith("[") and text.endswith("]"):
        return tuple(_parse_value(item.strip(), name) for item in _split(text[1:-1], ",")) if text[1:-1].strip() else ()
    if text.lower() in _SPECIAL:
        return _SPECIAL[text.lower()]
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1]
    if _is_word(text):
        return text
    raise PerturbationError(f"{name}: expected a number, a word, true, false or a [list] as a value, got {text!r}")


def _format(value: Any) -> str:
    match value:
        case None:
            return "none"
        case bool():
            return str(value).lower()
        case tuple() | list():
            return "[" + ",".join(_format(item) for item in value) + "]"
        case str() if not _is_word(value) or value.lower() in _SPECIAL:
            return f"'{value}'"
    return str(value)


def _is_word(text: str) -> bool:
    """Whether a text needs no quotes: int8, conv1/kernel, fixed(8,8), and the range 0:8."""
    return bool(_WORD.fullmatch(re.sub(r"\([^()]*\)$", "", text)) or _RANGE.fullmatch(text))


def _split(text: str, separator: str) -> Iterator[str]:
    """Splits at separators outside brackets and quotes."""
    depth, quote, start = 0, "", 0
    for i, letter in enumerate(text):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter in "([":
            depth += 1
        elif letter in ")]":
            depth -= 1
        elif letter == separator and depth == 0:
            yield text[start:i]
            start = i + 1
        if depth < 0:
            break
    if depth or quote:
        raise PerturbationError(f"brackets or quotes do not match in {text!r}")
    yield text[start:]
