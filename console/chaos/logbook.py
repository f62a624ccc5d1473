"""Everything that the processes of a mesh under test say: kept, and searched for what should not be there."""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import msgspec

__all__ = ["EXPECTED_ERRORS", "Logbook"]

EXPECTED_ERRORS = frozenset({"escalation.held", "motion.refused"})
"""Events of level error that belong to the faults: the disk was full, and the one who noticed says so."""
_EXPECTED_WORDS = re.compile(
    r"\d+ escalations? .*raised"  # a drill at its end
    r"|socket\.send\(\) raised exception"  # asyncio, when amqtt goes on writing to a client that is gone
    r"|Fatal Python error: Aborted|(Current t|T)hread 0x|Extension mod"  # one that hangs, which is told elsewhere
)
_ERRORS = frozenset({"escalation.held", "motion.refused"})
"""Events of level error that belong to the faults: the disk was full, and the one who noticed says so."""
_EXPECTED_WORDS = re.compile(
    r"\d+ escalations? .*raised|Fatal Python error: Aborted|(Current t|T)hread 0x|Extension mod"
)
"""What a drill says at its end, and a process that hangs when it is asked where; that it hangs is told elsewhere."""
_ERRORS = frozenset({"error", "critical"})
_FAULTS_MAX = 20
_LINE_MAX = 2_000


class Logbook:
    """The logs of one run.

    What counts as a fault: an event of level error that is not expected, an event with a traceback (the supervisor met
    something that nobody had thought of), and lines that are no log at all, which is how an interpreter dies.

    Concurrency: `add` may be called from any thread.

    Args:
        folder: where the logs are kept, one file a role; it exists.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._files: dict[str, IO[str]] = {}
        self._events: Counter[tuple[str, str]] = Counter()
        self._faults: Counter[str] = Counter()
        self._last_words: dict[str, str] = {}

    def listener(self, role: str) -> Callable[[str, str], None]:
        """What to call with each line of a role."""
        return lambda _stream, line: self.add(role, line)

    def add(self, role: str, line: str) -> None:
        """Keep one line."""
        entry = _parsed(line)
        with self._lock:
            if role not in self._files:
                self._files[role] = (self._folder / f"{role}.log").open("a", encoding="utf-8", buffering=1)
            self._files[role].write(f"{line}\n")
            if entry is None:
                self._add_words(role, line)
            else:
                self._events[role, str(entry["event"])] += 1
                self._add_event(role, entry)

    def _add_words(self, role: str, line: str) -> None:
        if not line.strip():
            return
        if line.startswith("vigil: "):
            self._last_words[role] = line.removeprefix("vigil: ")
        elif not line.startswith(" ") and not _EXPECTED_WORDS.match(line):
            # Of a traceback that is its first line and its last.
            self._faults[f"{role}: {line[:_LINE_MAX]}"] += 1

    def _add_event(self, role: str, entry: Mapping[str, Any]) -> None:
        event = str(entry["event"])
        if "exception" in entry:
            last = str(entry["exception"]).strip().splitlines()[-1]
            self._faults[f"{role}: {event} with a traceback: {last[:_LINE_MAX]}"] += 1
        elif entry.get("level") in _ERRORS and event not in EXPECTED_ERRORS:
            why = entry.get("error") or entry.get("reason") or ""
            self._faults[f"{role}: {event} {why}".strip()[:_LINE_MAX]] += 1

    def mark(self, role: str, words: str) -> None:
        """Note in a role's log what is done to it."""
        self.add(role, msgspec.json.encode({"event": "chaos.fault", "level": "info", "what": words}).decode())

    def count(self, role: str, event: str) -> int:
        """How often a role has logged an event."""
        with self._lock:
            return self._events[role, event]

    def take_last_words(self, role: str) -> str:
        """What a role said when it gave up, since this was last asked."""
        with self._lock:
            return self._last_words.pop(role, "")

    def faults(self) -> list[str]:
        """What should not be in the logs, each once, with how often."""
        with self._lock:
            found = self._faults.most_common(_FAULTS_MAX)
        return [words if count == 1 else f"{words} ({count} times)" for words, count in found]

    def close(self) -> None:
        """Close the files."""
        with self._lock:
            for file in self._files.values():
                file.close()
            self._files.clear()


def _parsed(line: str) -> Mapping[str, Any] | None:
    if not line.startswith("{"):
        return None
    try:
        entry = msgspec.json.decode(line)
    except msgspec.DecodeError:
        return None
    return entry if isinstance(entry, dict) and "event" in entry else None
