"""What every source of pictures gives, whatever makes them, and how a source is written as a URI."""

from __future__ import annotations

import difflib
import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, cast
from urllib.parse import parse_qsl, unquote

from config.clock import Clock
from config.errors import ConfigError
from config.secrets import mask_uri

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "LUMA_HEIGHT_PX",
    "CapturedFrame",
    "FileUri",
    "Pacer",
    "Source",
    "SourceUri",
    "SyntheticUri",
    "parse_source",
]

LUMA_HEIGHT_PX = 100
"""Height of the brightness thumbnail. The motion detector's constants are tuned on it; Frigate uses the same."""

_CATCH_UP_MAX_S = 1.0
"""Further behind than this a schedule starts anew: the machine slept, or cannot keep up at all."""


@dataclass(frozen=True, slots=True)
class CapturedFrame:
    """One picture of a source.

    Attributes:
        seq: counts the source's pictures from 0, those that were dropped as late included. The first pass over a file
            with ``pace=max`` gives every frame of it, so the video's 1-based frame number is ``seq + 1``.
        captured_at: when it was taken; aware, UTC.
        at_s: the same in seconds on the source's own time line, never falling; for motion.
        luma: brightness, uint8, shape (100, width), aspect kept.
        width_px: of the full picture.
        height_px: of the full picture.
        encode: makes the full picture's JPEG at a quality of 1 to 100. It costs milliseconds, so it is called for
            wanted frames only, and until the source is closed. It raises TransientError when the encoder fails.
    """

    seq: int
    captured_at: datetime
    at_s: float
    luma: NDArray[np.uint8]
    width_px: int
    height_px: int
    encode: Callable[[int], bytes]


class Source(Protocol):
    """Where pictures come from.

    Concurrency: `frames` and what it yields belong to one thread; `stop` is set from any.
    """

    def frames(self, stop: threading.Event) -> Generator[CapturedFrame, None, None]:
        """Pictures in order, until `stop` is set or the source has no more; close it when leaving early.

        Raises:
            TransientError: the source broke or fell silent; close it, wait, and open it again.
            PermanentError: a person must cure it; the message says how.
        """
        ...

    def close(self) -> None:
        """Let everything go; may be called twice."""
        ...


class Pacer:
    """Lets pictures out when their own time has come, and says which ones are too late.

    Args:
        clock: how to wait.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._start_s: float | None = None

    def wait_due(self, stop: threading.Event, at_s: float, period_s: float) -> bool:
        """Wait until a picture is due.

        Args:
            stop: ends the wait.
            at_s: the picture's time, in seconds on the source's time line.
            period_s: time to the next one.

        Returns:
            False when its successor is due already, so that it should be dropped.
        """
        now_s = self._clock.monotonic_s()
        if self._start_s is None:
            self._start_s = now_s - at_s
        late_s = now_s - (self._start_s + at_s)
        if late_s > _CATCH_UP_MAX_S:
            self._start_s = now_s - at_s
            return True
        if late_s < 0:
            self._clock.wait(stop, -late_s)
        return late_s < period_s


@dataclass(frozen=True, slots=True)
class FileUri:
    """``file:PATH``: a video file.

    Attributes:
        path: the file.
        pace: ``own`` shows each frame at its time, as a camera does; ``max`` gives every frame as fast as it is taken.
        loop: start again at the end.
    """

    path: Path
    pace: Literal["own", "max"]
    loop: bool


@dataclass(frozen=True, slots=True)
class SyntheticUri:
    """``synthetic:street``: a street drawn by code.

    Attributes:
        seed: decides who walks where; the same seed gives the same pictures.
        fps: pictures a second.
        width_px: of the picture.
        height_px: of the picture.
        pace: ``own`` at `fps`; ``max`` as fast as pictures are taken.
    """

    seed: int
    fps: float
    width_px: int
    height_px: int
    pace: Literal["own", "max"]


SourceUri = FileUri | SyntheticUri

_KNOWN = "file:PATH (such as file:yard.mp4?pace=max) and synthetic:street (such as synthetic:street?seed=1)"


def parse_source(uri: str) -> SourceUri:
    """Read a source's URI.

    Args:
        uri: ``file:PATH[?pace=own|max&loop=0|1]``, where PATH stands as it is, or percent-encoded in ``file:///PATH``;
            or ``synthetic:street[?seed=N&fps=N&width=N&height=N&pace=own|max]``.

    Raises:
        ConfigError: it is none of these. Credentials in it are not repeated.
    """
    scheme, colon, rest = uri.partition(":")
    location, _, query = rest.partition("?")
    options = _Options(query)
    if not colon or scheme not in ("file", "synthetic"):
        raise ConfigError(_unknown_scheme(uri))
    parsed = _file(location, options) if scheme == "file" else _synthetic(location, options)
    options.refuse_unread()
    return parsed


def _unknown_scheme(uri: str) -> str:
    # Masked before it is cut: half a login no longer looks like one.
    scheme, colon, _ = mask_uri(uri).partition(":")
    if not colon:
        return f"{scheme[:200]!r} is not a source: write file:{scheme[:200]} for a video file; known are {_KNOWN}"
    return f"sources of the kind {scheme[:40]!r} are not known to this version; known are {_KNOWN}"


def _file(location: str, options: _Options) -> FileUri:
    path = unquote(location.removeprefix("//")) if location.startswith("///") else location
    if not path:
        raise ConfigError("file: names no file; write file:PATH, such as file:/srv/yard.mp4")
    pace = options.pace()
    return FileUri(Path(path), pace, options.switch("loop", default=pace == "own"))


def _synthetic(location: str, options: _Options) -> SyntheticUri:
    if location != "street":
        raise ConfigError(f"there is no synthetic scene {mask_uri(location)[:40]!r}; write synthetic:street")
    return SyntheticUri(
        seed=int(options.number("seed", 1, 0, 2**31)),
        fps=options.number("fps", 10, 0.1, 120),
        width_px=int(options.number("width", 640, 160, 3840)),
        height_px=int(options.number("height", 360, 120, 2160)),
        pace=options.pace(),
    )


class _Options:
    """What stands behind the question mark; each is read once, and what nobody read is refused."""

    def __init__(self, query: str) -> None:
        self._given = dict(parse_qsl(query, keep_blank_values=True))
        self._known: list[str] = []

    def refuse_unread(self) -> None:
        for name in self._given:
            if name not in self._known:
                near = difflib.get_close_matches(name, self._known, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(self._known)}"
                raise ConfigError(f"a source has no option {mask_uri(name)[:40]!r}; {hint}")

    def _read(self, name: str) -> str | None:
        self._known.append(name)
        return self._given.get(name)

    def pace(self) -> Literal["own", "max"]:
        text = self._read("pace") or "own"
        if text not in ("own", "max"):
            raise ConfigError(f"pace={text[:40]}: write pace=own or pace=max")
        return cast("Literal['own', 'max']", text)

    def switch(self, name: str, *, default: bool) -> bool:
        text = self._read(name)
        if text not in (None, "0", "1"):
            raise ConfigError(f"{name}={text[:40]}: write {name}=0 or {name}=1")
        return default if text is None else text == "1"

    def number(self, name: str, default: float, least: float, most: float) -> float:
        text = self._read(name)
        try:
            value = default if text is None else float(text)
        except ValueError:
            value = float("nan")
        if not least <= value <= most:
            raise ConfigError(f"{name}={(text or '')[:40]}: write a number from {least:g} to {most:g}")
        return value
