"""The end of a process's log, and what has come since: in answers that fit on the bus."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["LogPart", "read_log"]

BYTES_MAX = 24_000
"""Of one answer: as JSON, and all of it quotes and line ends, it still fits a reply's 64 KiB."""
LINES_MAX = 1_000


@dataclass(frozen=True, slots=True)
class LogPart:
    """A part of a log.

    Attributes:
        text: whole lines, as far as there were any.
        cursor: to be handed back for what comes after it.
        more: there is more already: ask again at once.
    """

    text: str
    cursor: str
    more: bool = False


def read_log(file: Path, *, lines: int = 50, cursor: str = "") -> LogPart:
    """Read the last lines of a log; or, with a cursor, what came after it.

    Args:
        file: the log.
        lines: so many of the last, without a cursor.
        cursor: from an earlier part. Of a log that was begun anew since, it starts at the beginning.

    Raises:
        OSError: there is no such file.
    """
    with file.open("rb") as log:
        about = log.seek(0, 2)
        number = file.stat().st_ino
        known, _, place = cursor.partition(":")
        start = int(place) if place.isdecimal() and known == str(number) and int(place) <= about else 0
        if not cursor:
            start = max(0, about - BYTES_MAX)
        log.seek(start)
        block = log.read(BYTES_MAX)
    if not cursor:
        whole = block if start == 0 else block.partition(b"\n")[2]
        kept = b"".join(whole.splitlines(keepends=True)[-max(1, min(lines, LINES_MAX)) :])
        return LogPart(kept.decode(errors="replace"), f"{number}:{start + len(block)}")
    # Half a line waits for its other half, unless it alone fills an answer.
    end = block.rfind(b"\n") + 1 or (len(block) if len(block) == BYTES_MAX else 0)
    return LogPart(block[:end].decode(errors="replace"), f"{number}:{start + end}", more=start + end + 1 < about)
