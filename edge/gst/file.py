"""Video files through GStreamer, at their own pace or as fast as they are taken."""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from config.clock import Clock
from config.errors import PermanentError
from edge.gst.fronts import front_of
from edge.gst.stream import Reader
from edge.picture import Packet
from edge.source import CapturedFrame, Pacer, SourceOptions
from edge.uris import FileUri

__all__ = ["FileSource"]


class FileSource:
    """A video file.

    Concurrency: as :class:`edge.source.Source`.

    Args:
        uri: the file and how to play it.
        clock: sets the pace and stamps the pictures.
        options: how to open it; with ``pace=max`` every frame is given.

    Raises:
        PermanentError: the file cannot be read, or a part of GStreamer is missing.
    """

    def __init__(self, uri: FileUri, *, clock: Clock, options: SourceOptions) -> None:
        _check_file(uri.path)
        self._uri = uri
        self._clock = clock
        self._take_packet = options.on_packet
        self._start_s = 0.0
        self._reader = Reader(
            front_of(uri, stall_timeout_s=options.stall_timeout_s),
            clock=clock,
            options=replace(
                options,
                fps_max=options.fps_max if uri.pace == "own" else None,
                on_packet=self._on_packet if options.on_packet is not None else None,
            ),
        )
        self.keyframes_only = self._reader.keyframes_only
        self.close = self._reader.close

    @property
    def gives_packets(self) -> bool:
        """Whether coded pictures go to `on_packet`; known from the first frame on."""
        return self._reader.gives_packets

    def frames(self, stop: threading.Event) -> Generator[CapturedFrame, None, None]:
        """Pictures of the file, over and over when it loops.

        Each round decodes the file anew, in a new pipeline: it takes some 10 ms and works for every container, seekable
        or not.

        Raises:
            TransientError: decoding broke off, or no picture came in time.
            PermanentError: there is no video in it that GStreamer can read.
        """
        pacer = Pacer(self._clock)
        seq = 0
        while not stop.is_set():
            count, end_s = 0, 0.0
            with closing(self._reader.shots(stop)) as shots:
                for shot in shots:
                    at_s = self._start_s + shot.at_s
                    due = self._uri.pace == "max" or pacer.wait_due(stop, at_s, shot.period_s)
                    if stop.is_set():
                        return
                    if due:
                        yield replace(self._reader.frame(shot), seq=seq, captured_at=self._clock.now(), at_s=at_s)
                    seq, count, end_s = seq + 1, count + 1, shot.at_s + shot.period_s
            if not count and not stop.is_set():
                raise PermanentError(
                    f"{self._uri.path} has no picture in it; convert it with ffmpeg, or record it again"
                )
            self._start_s += end_s
            if not self._uri.loop:
                return

    def _on_packet(self, packet: Packet) -> None:
        assert self._take_packet is not None  # noqa: S101 - asked for only then
        self._take_packet(replace(packet, at_s=self._start_s + packet.at_s))


def _check_file(path: Path) -> None:
    try:
        if path.exists() and not path.is_file():  # opening a pipe would wait for its writer
            raise PermanentError(f"{path} is not a file; give the path of a video file")
        with path.open("rb") as file:
            empty = not file.read(1)
    except FileNotFoundError:
        raise PermanentError(f"there is no file {path} (looked in {Path.cwd()}); check the path") from None
    except OSError as error:
        raise PermanentError(f"{path} cannot be read: {error.strerror}; check its permissions") from error
    if empty:
        raise PermanentError(f"{path} is empty; record it again or give another file")
