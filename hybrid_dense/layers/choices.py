"""Options that take one of a few values."""

from __future__ import annotations

from collections.abc import Collection


def check_choice(option: str, value: object, choices: Collection) -> None:
    """Raise ValueError, with all choices, where the value is none of them."""
    if value not in choices:
        raise ValueError(f"{option} {value!r} is not one of {', '.join(map(str, choices))}")
