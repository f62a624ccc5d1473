"""A recorded track log: what rules looked at, one frame a line of JSON, so that they can look again.

Each line is a :class:`detector.scene.Scene`; of a track's path only the newest step is in it, since the lines before
have the others.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import msgspec

from config import PermanentError
from detector.scene import Scene, Step, Track

__all__ = ["log_line", "read_track_log"]

_STEPS_MAX = 2000
"""Of a path that are kept while reading: many minutes of it."""
_DECODER = msgspec.json.Decoder(Scene)


def log_line(scene: Scene) -> bytes:
    """One frame, with the end of its line."""
    newest = tuple(dataclasses.replace(track, path=track.path[-1:]) for track in scene.tracks)
    return msgspec.json.encode(dataclasses.replace(scene, tracks=newest)) + b"\n"


def read_track_log(file: Path) -> Iterator[Scene]:
    """The frames of a log, with the paths that tracks have had so far.

    Raises:
        PermanentError: it cannot be read, or a line is none of a track log.
    """
    paths: dict[str, tuple[Step, ...]] = {}
    try:
        with file.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                try:
                    scene = _DECODER.decode(line)
                except msgspec.MsgspecError as error:
                    raise PermanentError(
                        f"{file}:{number}: this is no line of a track log, which `vigil detect VIDEO --tracks FILE` "
                        f"writes: {error}"
                    ) from error
                paths = {track.track_id: _grown(paths.get(track.track_id, ()), track) for track in scene.tracks}
                tracks = tuple(dataclasses.replace(track, path=paths[track.track_id]) for track in scene.tracks)
                yield dataclasses.replace(scene, tracks=tracks)
    except OSError as error:
        raise PermanentError(f"{file} cannot be read: {error.strerror}") from error


def _grown(path: tuple[Step, ...], track: Track) -> tuple[Step, ...]:
    """The path with the newest step, unless the object was not seen since."""
    if not track.path or (path and track.path[-1].at_s <= path[-1].at_s):
        return path
    return (*path[1 - _STEPS_MAX :], track.path[-1])
