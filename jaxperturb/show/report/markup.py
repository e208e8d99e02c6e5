"""HTML that is safe by construction: whatever is not markup already is escaped."""

import json
from collections.abc import Iterable
from html import escape
from typing import Any

_VOID = ("meta", "input")


class Markup(str):
    """Text that is markup already."""

    __slots__ = ()


def tag(name: str, /, *inside: str, **attributes: object) -> Markup:
    """Returns an element of HTML or SVG.

    Args:
        name: of the element.
        *inside: elements, and texts that are escaped.
        **attributes: ``class_`` and ``data_value`` stand for ``class`` and ``data-value``; None and False leave one
            out, True gives no value.
    """
    given = "".join(_attribute(key, value) for key, value in attributes.items() if value not in (None, False))
    if name in _VOID:
        return Markup(f"<{name}{given}>")
    return Markup(f"<{name}{given}>{joined(inside)}</{name}>")


def joined(parts: Iterable[str], between: str = "") -> Markup:
    """Returns elements and texts, which are escaped, one after another."""
    return Markup(escape(between).join(part if isinstance(part, Markup) else escape(part) for part in parts))


def shortened(text: str, letters: int = 32) -> str:
    """Returns a text without its middle where it is longer: a layer's path ends with what tells it from others."""
    end = letters * 2 // 3
    return text if len(text) <= letters else f"{text[: letters - end - 1]}…{text[-end:]}"


def data_block(name: str, value: Any) -> Markup:
    """Returns a value as JSON that scripts find by name, and that no browser runs."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":")).replace("<", r"\u003c")
    return tag("script", Markup(text), type="application/json", id=name)


def _attribute(key: str, value: object) -> str:
    name = key.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{escape(str(value))}"'
