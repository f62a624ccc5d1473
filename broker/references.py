"""Names of files that are spoken of on the bus before they are there."""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime

from config.names import check_name

__all__ = ["clip_reference", "file_time"]

_READABLE_MAX = 100
"""Of an id that stands in a file's name; the digest behind it tells apart what was cut."""


def clip_reference(camera: str, captured_at: datetime, event_id: str) -> str:
    """Where the clip of an event lies, below the place to which its camera's node delivers.

    Who raises an escalation writes it down, and the node that cuts the clip goes by it; both know these three only.
    Whatever an id holds, the result is a relative path of three plain levels.

    Args:
        camera: the camera's name.
        captured_at: when what it is about was seen; aware.
        event_id: id of the escalation or movement, or a request's correlation id.

    Raises:
        ValueError: `camera` is not a name.
    """
    readable = re.sub(r"[^A-Za-z0-9]+", "-", event_id).strip("-")[:_READABLE_MAX]
    digest = hashlib.sha256(event_id.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    day = captured_at.astimezone(UTC).strftime("%Y-%m-%d")
    name = "_".join(part for part in (file_time(captured_at), check_name(camera), readable, digest) if part)
    return f"{camera}/{day}/{name}.mp4"


def file_time(moment: datetime) -> str:
    """A moment as it stands in the names of files: ``20261121T101500.250Z``, UTC, in order of time."""
    utc = moment.astimezone(UTC)
    return f"{utc:%Y%m%dT%H%M%S}.{utc.microsecond // 1000:03d}Z"
