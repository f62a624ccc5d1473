"""Wall clocks that can be set, one a process: libfaketime between a process and its system."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path

__all__ = ["Clocks", "find_faketime"]

_PLACES = ("/usr/lib/*/faketime", "/usr/lib/faketime", "/usr/local/lib/faketime", "/usr/lib64/faketime")
_LIBRARY = "libfaketimeMT.so.1"
"""The variant for processes with threads."""
_SLEEP = """# libfaketime 0.9.10 answers EINVAL to the sleep with an absolute end (clock_nanosleep) that Python uses.
import select
import time

time.sleep = lambda seconds: select.select((), (), (), seconds) and None
"""


def find_faketime() -> Path | None:
    """The library, where it is installed."""
    found = [path for place in _PLACES for path in sorted(Path("/").glob(f"{place[1:]}/{_LIBRARY}"))]
    return found[0] if found else None


class Clocks:
    """The offset of each process's wall clock. The monotonic clock stays what it is, as it does when a clock is set.

    Args:
        folder: where the offsets are kept; it exists.
        library: libfaketime, or None: then clocks cannot be set.
        roles: whose clocks will be set; the others run without it.
    """

    def __init__(self, folder: Path, library: Path | None, roles: Collection[str]) -> None:
        self._folder = folder
        self._library = library
        self._roles = frozenset(roles)
        self._offsets_s: dict[str, float] = {}
        if library is not None:
            (folder / "sitecustomize.py").write_text(_SLEEP, encoding="utf-8")

    def environment(self, role: str) -> Mapping[str, str]:
        """What its process must find in its environment."""
        if self._library is None or role not in self._roles:
            return {}
        self._set(role, 0.0)
        return {
            "LD_PRELOAD": str(self._library),
            "FAKETIME_TIMESTAMP_FILE": str(self._file(role)),
            "FAKETIME_CACHE_DURATION": "1",  # seconds between two looks at the file; one a call would take 5 us
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            # Made for an old glibc; with a newer one it makes threads wait up to 200 ms for Python's lock.
            "FAKETIME_FORCE_MONOTONIC_FIX": "0",
            "NO_FAKE_STAT": "1",
            "PYTHONPATH": os.pathsep.join(filter(None, (str(self._folder), os.environ.get("PYTHONPATH")))),
        }

    def step(self, role: str, seconds: float) -> None:
        """Set its clock forward or, with a negative number, back."""
        self._set(role, self._offsets_s[role] + seconds)

    def heal(self) -> None:
        """Set every clock right."""
        for role in self._offsets_s:
            self._set(role, 0.0)

    def _set(self, role: str, offset_s: float) -> None:
        self._offsets_s[role] = offset_s
        written = self._file(role).with_name(f"{role}.clock.new")
        written.write_text(f"{offset_s:+.0f}\n", encoding="ascii")
        written.replace(self._file(role))  # a reader finds the old or the new one, never an empty file

    def _file(self, role: str) -> Path:
        return self._folder / f"{role}.clock"
