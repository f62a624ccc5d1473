"""Text from the bus on a terminal: nothing in it may move the cursor, change colours or ring the bell."""

from __future__ import annotations

__all__ = ["printable"]


def printable(text: str, limit: int = 200) -> str:
    """The text on one line, without control characters, cut to `limit` characters.

    Source: ECMA-48, 5.2 and 5.3: the control functions of a terminal begin in C0 or C1.
    """
    shown = "".join(character if character.isprintable() else " " for character in text[: limit + 1])
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"
