"""Several callbacks as one."""

from collections.abc import Callable
from typing import Any


def in_turn(*calls: Callable[..., object] | None) -> Callable[..., None]:
    """Returns a function that makes several calls one after another; those that are None are left out."""
    own = [call for call in calls if call is not None]

    def call_all(*values: Any) -> None:
        for call in own:
            call(*values)

    return call_all
