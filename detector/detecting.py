"""A picture or a video looked at from its first pixel to the last word about it."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO

import click

from broker.messages import ModelRef
from config import PermanentError
from config.cameras import CameraSettings
from config.settings import DetectorSettings
from detector.films import FilmWriter, Shot, Video, open_film, open_video, read_image, write_image
from detector.models import open_backend
from detector.offline import Looked, OfflineCamera
from detector.scene import Firing
from detector.showing import draw, moment_words, say_firing, say_found, to_json
from detector.track_log import log_line

__all__ = ["Detecting"]

_SHOWN_S = 3.0
"""How long a firing stays in the picture."""


@dataclass(slots=True)
class _Story:
    """What happened in a video.

    Attributes:
        pictures: that were looked at.
        length_s: until the last of them.
        objects: by label.
        firings: with when, in seconds of the video.
    """

    pictures: int = 0
    length_s: float = 0.0
    objects: Counter[str] = field(default_factory=Counter)
    firings: list[tuple[float, Firing]] = field(default_factory=list)


class Detecting:
    """Looks at one file.

    Args:
        file: a picture or a video.
        camera: its name.
        settings: of the worker.
        camera_settings: zones, labels and rate.

    Raises:
        ConfigError: the model, the labels or a rule cannot be used.
    """

    def __init__(self, file: Path, camera: str, settings: DetectorSettings, camera_settings: CameraSettings) -> None:
        self._file = file
        self._name = camera
        self._camera_settings = camera_settings
        backend = open_backend(settings)
        self._model: ModelRef = backend.model
        self._camera = OfflineCamera(camera, backend, settings, camera_settings)

    def picture(self, out: Path | None, *, as_json: bool) -> None:
        """Look at a picture.

        Args:
            out: where it is drawn; None draws nothing.
            as_json: print one line of JSON, not words.

        Raises:
            PermanentError: a file cannot be read or written.
            TransientError: the model failed.
        """
        picture = read_image(self._file)
        looked = self._camera.glance(picture, datetime.now(UTC))
        if out is not None:
            drawn = draw(picture, looked, self._camera_settings.zones, caption=self._model.name)
            write_image(out, drawn)
        if as_json:
            size = {"width": looked.meta.width, "height": looked.meta.height}
            click.echo(to_json({**self._about(out), **size, "parts": looked.parts, "detections": looked.detections}))
            return
        click.echo(f"{self._file}: {looked.meta.width}x{looked.meta.height}, seen by {self._model.name}")
        for line in say_found(looked):
            click.echo(line)
        if out is not None:
            click.echo(f"drawn in {out}")

    def video(
        self, out: Path | None, *, fps: float | None, began: datetime | None, log: Path | None, as_json: bool
    ) -> None:
        """Look at a video.

        Args:
            out: where it is drawn; None draws nothing.
            fps: pictures a second that are looked at; default what the camera sends.
            began: when it began; default now.
            log: where the track log is written; None writes none.
            as_json: print one line of JSON, not words.

        Raises:
            PermanentError: a file cannot be read or written.
            TransientError: the model failed.
        """
        with open_video(self._file) as video:
            fps = min(fps or self._camera_settings.motion_fps, video.fps)
            story, codec = self._watch(video, fps, began or datetime.now(UTC), out, log)
        if as_json:
            click.echo(to_json({**self._about(out), "fps": fps, **_story_fields(story)}))
            return
        click.echo(
            f"{self._file}: {moment_words(story.length_s)}, {story.pictures} pictures seen by {self._model.name}, "
            f"{fps:g} a second"
        )
        objects = ", ".join(f"{count} {label}" for label, count in story.objects.most_common()) or "none"
        click.echo(f"objects: {objects}")
        click.echo(f"firings: {len(story.firings) or 'none'}")
        for at_s, firing in story.firings:
            click.echo(say_firing(firing, at_s))
        if out is not None:
            click.echo(f"drawn in {out} ({codec})")
        if log is not None:
            click.echo(f"tracks in {log}: vigil rules test --camera {self._name} --replay {log}")

    def _about(self, out: Path | None) -> dict[str, Any]:
        return {"file": str(self._file), "drawn": out and str(out), "model": self._model}

    def _watch(
        self, video: Video, fps: float, began: datetime, out: Path | None, log: Path | None
    ) -> tuple[_Story, str]:
        story, codec = _Story(), ""
        with ExitStack() as stack:
            film: FilmWriter | None = None
            lines = stack.enter_context(_open_log(log)) if log is not None else None
            for shot in stack.enter_context(_progress(video, fps)):
                looked = self._camera.look(shot.picture, shot.seq, began + timedelta(seconds=shot.at_s))
                _note(story, shot, looked)
                if lines is not None:
                    lines.write(log_line(looked.scene))
                if out is None:
                    continue
                alarms = [firing for at_s, firing in story.firings if shot.at_s - at_s < _SHOWN_S]
                drawn = draw(
                    shot.picture,
                    looked,
                    self._camera_settings.zones,
                    caption=moment_words(shot.at_s),
                    alarms=alarms,
                )
                if film is None:
                    film = open_film(out, drawn, fps)
                    stack.callback(film.close)
                    codec = film.codec
                film.write(drawn)
        return story, codec


def _note(story: _Story, shot: Shot, looked: Looked) -> None:
    story.pictures += 1
    story.length_s = shot.at_s
    story.objects.update(change.track.label for change in looked.changes if change.type == "start")
    story.firings.extend((shot.at_s, firing) for firing in looked.firings)


def _story_fields(story: _Story) -> dict[str, Any]:
    return {
        "length_s": round(story.length_s, 3),
        "pictures": story.pictures,
        "objects": dict(story.objects),
        "firings": [
            {
                "at_s": round(at_s, 3),
                "rule": firing.rule,
                "kind": firing.settings.kind,
                "severity": firing.settings.severity,
                "summary": firing.summary,
                "tracks": [track.track_id for track in firing.tracks],
            }
            for at_s, firing in story.firings
        ],
    }


def _open_log(path: Path) -> BinaryIO:
    try:
        return path.open("wb")
    except OSError as error:
        raise PermanentError(f"{path} cannot be written: {error.strerror}") from error


@contextmanager
def _progress(video: Video, fps: float) -> Iterator[Iterator[Shot]]:
    """The pictures, and a bar on standard error where a person looks at it."""
    expected = round(video.length_s * fps) if video.length_s else None
    with click.progressbar(
        video.shots(fps), length=expected, label=video.path.name, file=sys.stderr, hidden=not sys.stderr.isatty()
    ) as shots:
        yield iter(shots)
