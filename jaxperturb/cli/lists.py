"""Prints names with one line each, in two columns."""

from collections.abc import Mapping


def print_list(lines: Mapping[str, str]) -> None:
    """Prints each name and its line; the lines start in one column."""
    width = max(map(len, lines), default=0)
    for name, line in lines.items():
        print(f"{name:<{width}}  {line}")
