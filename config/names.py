"""What a site, a node, a camera, a role or a rule may be called.

A name becomes one level of a topic, a file name, a Kafka key and a Home Assistant id, so it keeps to what all of
them take.
"""

from __future__ import annotations

import re
import socket
from typing import Annotated

from pydantic import AfterValidator

from config.secrets import mask_uri

__all__ = ["Name", "RoleName", "check_name", "check_role", "this_node"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
_SHOWN_MAX = 300
"""A longer one is not looked at: it comes from a stranger, as a level of a topic of 64 KiB."""
_ROLE = re.compile(r"[a-z][a-z0-9_-]{0,30}(\.[1-9][0-9]{0,3})?")


def check_name(value: str) -> str:
    """Return `value` when it may be a name.

    Raises:
        ValueError: it may not; the message says what a name is and suggests the nearest one.
    """
    if _NAME.fullmatch(value):
        return value
    if len(value) > _SHOWN_MAX:
        raise ValueError(f"{len(value)} characters are not a name: use 63 at most")
    shown = mask_uri(value)  # before it is cut: half a login no longer looks like one
    nearest = re.sub(r"[^A-Za-z0-9_-]+", "-", shown).strip("-_")[:63] or "camera-1"
    raise ValueError(
        f"{shown[:80]!r} is not a name: use letters, digits, '-' and '_', starting with a letter or digit, "
        f"63 at most (try {nearest!r})"
    )


def check_role(value: str) -> str:
    """Return `value` when it may be a role: ``edge``, ``detector``, ``detector.2``.

    Raises:
        ValueError: it may not.
    """
    if _ROLE.fullmatch(value):
        return value
    raise ValueError(f"{value[:80]!r} is not a role: use a lower-case word, or a word and a number as 'detector.2'")


def this_node() -> str:
    """A node name made from this machine's host name."""
    label = socket.gethostname().split(".", 1)[0]
    cleaned = re.sub(r"[^A-Za-z0-9_-]+", "-", label).strip("-_")[:63]
    return cleaned or "node"


Name = Annotated[str, AfterValidator(check_name)]
RoleName = Annotated[str, AfterValidator(check_role)]
