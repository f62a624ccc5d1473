"""One look at a source: whether pictures come, which, and how soon."""

from __future__ import annotations

import threading
from contextlib import closing
from dataclasses import dataclass, field

from config.clock import Clock
from config.errors import TransientError
from config.secrets import mask_uri
from edge.capture import open_source
from edge.picture import Packet
from edge.privacy import Privacy, ShownFrame, WithheldError
from edge.source import CapturedFrame, SourceOptions

__all__ = ["Sighting", "look_at"]

_WATCH_S = 1.0
"""Seconds of pictures from which their rate is told."""
_PICTURES_MAX = 300
"""As many of them say as much; a file at ``pace=max`` gives thousands in that time."""
_QUALITY = 85


@dataclass(frozen=True, slots=True)
class Sighting:
    """What came.

    Attributes:
        source: without its login.
        codec: as people call it, such as ``H.264``; empty where pictures come uncoded.
        fps: pictures a second; 0 where only one came.
        first_picture_s: seconds from opening to the first picture.
        jpeg: the first picture; None where nobody is to see it.
    """

    source: str
    codec: str
    width_px: int
    height_px: int
    fps: float
    first_picture_s: float
    jpeg: bytes | None = field(repr=False)


@dataclass(slots=True)
class _Packets:
    """The coded pictures that passed; filled on a thread of GStreamer's."""

    count: int = 0
    first_s: float = 0.0
    last_s: float = 0.0
    newest: Packet | None = None

    def take(self, packet: Packet) -> None:
        self.first_s = packet.at_s if not self.count else self.first_s
        self.count, self.last_s, self.newest = self.count + 1, packet.at_s, packet

    @property
    def codec(self) -> str:
        if self.newest is None:
            return ""
        from edge.gst.codecs import codec_of

        found = codec_of(self.newest.sample.get_caps().get_structure(0).get_name())
        return "" if found is None else found.name


def look_at(
    uri: str,
    *,
    privacy: Privacy,
    clock: Clock,
    wait_s: float,
    decoder: str = "auto",
    height_px: int | None = None,
) -> Sighting:
    """Open a source as the edge does, and look at it for about a second.

    Args:
        uri: see :func:`edge.uris.parse_source`.
        privacy: takes out of the picture what nobody is to see.
        clock: time.
        wait_s: for a picture.
        decoder: as :class:`config.cameras.CameraSettings` has it.
        height_px: of the JPEG; None: as high as the picture is.

    Raises:
        ConfigError: the URI is wrong.
        TransientError: no picture came; says why, and the cure.
        PermanentError: none can come; the same.
    """
    packets, stop = _Packets(), threading.Event()
    options = SourceOptions(stall_timeout_s=wait_s, decoder=decoder, on_packet=packets.take)
    opened_s = clock.monotonic_s()
    with closing(open_source(uri, clock=clock, options=options)) as source, closing(source.frames(stop)) as frames:
        first = next(frames, None)
        if first is None:
            raise TransientError(f"{mask_uri(uri)} ended before its first picture: restart the camera")
        first_picture_s = clock.monotonic_s() - opened_s
        jpeg = _jpeg(privacy.show(first), height_px)
        last = first
        for last in frames:
            if last.at_s - first.at_s >= _WATCH_S or last.seq - first.seq >= _PICTURES_MAX:
                break
        stop.set()
    return Sighting(
        source=mask_uri(uri),
        codec=packets.codec,
        width_px=first.width_px,
        height_px=first.height_px,
        fps=_rate(packets, first, last),
        first_picture_s=round(first_picture_s, 2),
        jpeg=jpeg,
    )


def _jpeg(shown: ShownFrame, height_px: int | None) -> bytes | None:
    try:
        return shown.encode(_QUALITY, height_px=height_px)
    except WithheldError:
        return None


def _rate(packets: _Packets, first: CapturedFrame, last: CapturedFrame) -> float:
    """Pictures a second: the coded ones, for a slow machine does not decode all."""
    count, elapsed_s = packets.count - 1, packets.last_s - packets.first_s
    if count < 1:
        count, elapsed_s = last.seq - first.seq, last.at_s - first.at_s
    return round(count / elapsed_s, 1) if elapsed_s > 0 else 0.0
