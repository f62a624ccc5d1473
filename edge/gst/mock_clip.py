"""What a mock camera plays: a file's coded pictures in memory, taken as they are or encoded once."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import gi

from config.errors import PermanentError
from edge.gst.elements import Gst, require_elements

gi.require_version("GstPbutils", "1.0")
from gi.repository import GLib, GstPbutils  # noqa: E402 - versions first

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["LOOP_MAX_S", "Clip", "Codec", "Film", "Unit", "drawn_film", "open_film"]

Codec = Literal["h264", "h265", "jpeg"]

LOOP_MAX_S = 60.0
"""No more of a film than this is played: it is held in memory, and may have to be encoded first."""
_LOOP_H265_S = 5.0
"""The same where it is made H.265, which takes some 10 ms a picture and serves to show another codec only."""
_WAIT_S = 15.0
"""Silence after which a file counts as unreadable."""
_KEYFRAME_GAP_MAX_NS = 5_000_000_000
_RATE_DEFAULT = (10, 1)
"""Pictures a second of a film that does not say, as a fraction."""
_PARSED: dict[Codec, str] = {
    # config-interval=-1: each keyframe brings its parameter sets, so that a client may come in at any of them.
    "h264": "h264parse config-interval=-1 ! video/x-h264,stream-format=byte-stream,alignment=au",
    "h265": "h265parse config-interval=-1 ! video/x-h265,stream-format=byte-stream,alignment=au",
    "jpeg": "jpegparse ! image/jpeg",
}
_ENCODERS: dict[Codec, str] = {
    "h264": "x264enc tune=zerolatency speed-preset=ultrafast pass=quant quantizer=21 key-int-max={gop}",
    "h265": "x265enc tune=zerolatency speed-preset=ultrafast bitrate=1000 key-int-max={gop}",
    "jpeg": "jpegenc quality=85",
}
_ELEMENTS = ("parsebin", "videoconvert", "videoscale", "jpegenc", "h264parse", "h265parse", "x264enc", "x265enc")
_SINK = "appsink name=out sync=false max-buffers=8"


@dataclass(frozen=True, slots=True)
class Unit:
    """One coded picture.

    Attributes:
        content: as it goes into a packet: for H.264 and H.265 an access unit in byte-stream form.
        pts_ns: when it is shown, from the clip's beginning.
        dts_ns: when it is decoded; the same, unless pictures stand out of order.
        keyframe: whether a decoder can begin here.
    """

    content: bytes
    pts_ns: int
    dts_ns: int
    keyframe: bool


@dataclass(frozen=True)
class Clip:
    """Coded pictures that are played over and over.

    Attributes:
        codec: how they are coded.
        units: at least one; the first is a keyframe.
        length_ns: when the first follows the last.
        size_px: width and height.
    """

    codec: Codec
    units: tuple[Unit, ...]
    length_ns: int
    size_px: tuple[int, int]

    @cached_property
    def _keyframes(self) -> tuple[int, ...]:
        return tuple(index for index, unit in enumerate(self.units) if unit.keyframe)

    @property
    def keyframe_gap_ns(self) -> int:
        """The longest time from one keyframe to the next."""
        starts = [*(self.units[index].dts_ns for index in self._keyframes), self.length_ns]
        return max(later - earlier for earlier, later in itertools.pairwise(starts))

    def begin(self, now_ns: int) -> int:
        """The keyframe at or before a moment of the endless film, as a number that counts on through the rounds."""
        rounds, at_ns = divmod(now_ns, self.length_ns)
        after = bisect.bisect_right(self._keyframes, at_ns, key=lambda index: self.units[index].pts_ns)
        return rounds * len(self.units) + self._keyframes[max(0, after - 1)]

    def unit(self, number: int) -> tuple[Unit, int]:
        """A picture of the endless film, and the nanoseconds that its round began after the first."""
        rounds, index = divmod(number, len(self.units))
        return self.units[index], rounds * self.length_ns


class Film:
    """A film in the codecs and sizes that were asked for, each made once.

    Args:
        native: as it is played when nobody asks for anything else.
        encode: makes it in another codec or height.
    """

    def __init__(self, native: Clip, encode: Callable[[Codec, int], Clip]) -> None:
        self.native = native
        self._encode = encode
        self._made: dict[tuple[Codec, int], Clip] = {(native.codec, native.size_px[1]): native}

    def clip(self, codec: Codec | None = None, height_px: int | None = None) -> Clip:
        """The film in a codec and at a height, both its own where not given.

        Raises:
            PermanentError: it cannot be encoded.
        """
        key = (codec or self.native.codec, height_px or self.native.size_px[1])
        if key not in self._made:
            self._made[key] = self._encode(*key)
        return self._made[key]


def open_film(path: Path) -> Film:
    """A video file as a film: H.264 and H.265 are taken as they are, everything else becomes H.264 at once.

    So does a film with so few keyframes that a client would wait for its first picture for longer than at any camera.

    Raises:
        PermanentError: it is no video, or a part of GStreamer is missing.
    """
    require_elements(_ELEMENTS)
    seen = _look_into(path)
    encode = partial(_encode_file, path, seen)
    native = _read_file(path, seen) if seen.codec is not None else None
    if native is None or native.keyframe_gap_ns > _KEYFRAME_GAP_MAX_NS:
        native = encode("h264", seen.size_px[1] & ~1)
    return Film(native, encode)


def drawn_film(pictures: Iterable[NDArray[np.uint8]], fps: int) -> Film:
    """A film of drawn pictures, which is H.264.

    Args:
        pictures: each of shape (height, width, 3), red, green, blue, all of one even size.
        fps: pictures a second.

    Raises:
        PermanentError: a part of GStreamer is missing.
    """
    require_elements(_ELEMENTS)
    drawn = list(pictures)
    height_px, width_px = drawn[0].shape[:2]
    seen = _Seen(None, (width_px, height_px), (fps, 1))
    encode = partial(_encode_drawn, drawn, seen)
    return Film(encode("h264", height_px), encode)


@dataclass(frozen=True, slots=True)
class _Seen:
    """What stands in a file; `codec` only where it can be played as it is."""

    codec: Codec | None
    size_px: tuple[int, int]
    rate: tuple[int, int]

    @property
    def period_ns(self) -> int:
        """Time of one picture."""
        return self.rate[1] * int(Gst.SECOND) // self.rate[0]

    def encoder(self, codec: Codec, height_px: int) -> str:
        """Raw pictures to coded ones, a keyframe a second."""
        width_px = round(self.size_px[0] * height_px / self.size_px[1]) & ~1
        coder = _ENCODERS[codec].format(gop=max(1, round(self.rate[0] / self.rate[1])))
        return (
            f"videoscale add-borders=false ! videoconvert ! video/x-raw,format=I420,width={width_px},"
            f"height={height_px},pixel-aspect-ratio=1/1 ! {coder} ! {_PARSED[codec]} ! {_SINK}"
        )


def _look_into(path: Path) -> _Seen:
    if not path.is_file():
        raise PermanentError(f"there is no file {path} (looked in {Path.cwd()}); check the path")
    try:
        found = GstPbutils.Discoverer.new(int(_WAIT_S * Gst.SECOND)).discover_uri(path.resolve().as_uri())
        (video, *_) = found.get_video_streams()
    except GLib.Error as error:
        raise PermanentError(f"{path} is not a video that GStreamer can read ({error.message})") from None
    except ValueError:
        raise PermanentError(f"{path} has no picture in it; give a video file") from None
    codecs: dict[str, Codec] = {"video/x-h264": "h264", "video/x-h265": "h265"}
    rate = (video.get_framerate_num(), video.get_framerate_denom())
    return _Seen(
        codecs.get(video.get_caps().get_structure(0).get_name()),
        (video.get_width(), video.get_height()),
        rate if rate[0] > 0 else _RATE_DEFAULT,
    )


def _read_file(path: Path, seen: _Seen) -> Clip:
    assert seen.codec is not None  # noqa: S101 - the caller has looked
    with _playing(f"filesrc name=file ! parsebin ! {_PARSED[seen.codec]} ! {_SINK}", path) as pipeline:
        return _gather(pipeline, seen.codec, seen, LOOP_MAX_S)


def _encode_file(path: Path, seen: _Seen, codec: Codec, height_px: int) -> Clip:
    decode = "filesrc name=file ! decodebin expose-all-streams=false caps=video/x-raw(ANY)"
    with _playing(f"{decode} ! {seen.encoder(codec, height_px)}", path) as pipeline:
        return _gather(pipeline, codec, seen, _LOOP_H265_S if codec == "h265" else LOOP_MAX_S)


def _encode_drawn(pictures: list[NDArray[np.uint8]], seen: _Seen, codec: Codec, height_px: int) -> Clip:
    width, height = seen.size_px
    layout = f"video/x-raw,format=RGB,width={width},height={height},framerate={seen.rate[0]}/{seen.rate[1]}"
    with _playing(f"appsrc name=raw format=time caps={layout} ! {seen.encoder(codec, height_px)}", None) as pipeline:
        raw = pipeline.get_by_name("raw")
        for number, picture in enumerate(pictures):
            raw.push_buffer(_raw_buffer(picture, number * seen.period_ns, seen.period_ns))
        raw.end_of_stream()
        return _gather(pipeline, codec, seen, _LOOP_H265_S if codec == "h265" else LOOP_MAX_S)


def _raw_buffer(picture: NDArray[np.uint8], pts_ns: int, period_ns: int) -> Any:  # noqa: ANN401 - GStreamer has no types
    height, width = picture.shape[:2]
    # Rows are padded to four bytes. Source: GStreamer, "Raw video media types", RGB.
    padding = -width * 3 % 4
    rows = picture.reshape(height, -1)
    content = rows.tobytes() if not padding else b"".join(row.tobytes() + bytes(padding) for row in rows)
    buffer = Gst.Buffer.new_wrapped(content)
    buffer.pts, buffer.duration = pts_ns, period_ns
    return buffer


@contextmanager
def _playing(description: str, path: Path | None) -> Generator[Any, None, None]:
    pipeline = Gst.parse_launch(description)
    if path is not None:
        pipeline.get_by_name("file").set_property("location", str(path))
    pipeline.set_state(Gst.State.PLAYING)
    try:
        yield pipeline
    finally:
        pipeline.set_state(Gst.State.NULL)


def _gather(pipeline: Any, codec: Codec, seen: _Seen, loop_s: float) -> Clip:  # noqa: ANN401 - GStreamer has no types
    """The pictures that a pipeline gives, from the first keyframe on, at most `loop_s` of them."""
    samples = list(itertools.islice(_samples(pipeline), round(loop_s * Gst.SECOND / seen.period_ns)))
    coded = list(itertools.dropwhile(_is_delta, (sample.get_buffer() for sample in samples)))
    if not coded:
        raise PermanentError(f"there is no picture in it ({_why(pipeline)}); give another video file")
    stamps = [_stamps(buffer, number, seen.period_ns) for number, buffer in enumerate(coded)]
    start_ns = min(dts_ns for _, dts_ns in stamps)
    units = tuple(
        Unit(
            bytes(buffer.extract_dup(0, buffer.get_size())), pts_ns - start_ns, dts_ns - start_ns, not _is_delta(buffer)
        )
        for buffer, (pts_ns, dts_ns) in zip(coded, stamps, strict=True)
    )
    layout = samples[0].get_caps().get_structure(0)
    length_ns = max(dts_ns for _, dts_ns in stamps) - start_ns + seen.period_ns
    return Clip(codec, units, length_ns, (layout.get_value("width"), layout.get_value("height")))


def _samples(pipeline: Any) -> Iterator[Any]:  # noqa: ANN401 - GStreamer has no types
    sink = pipeline.get_by_name("out")
    while (sample := sink.try_pull_sample(int(_WAIT_S * Gst.SECOND))) is not None:
        yield sample


def _is_delta(buffer: Any) -> bool:  # noqa: ANN401 - GStreamer has no types
    return bool(buffer.has_flags(Gst.BufferFlags.DELTA_UNIT))


def _stamps(buffer: Any, number: int, period_ns: int) -> tuple[int, int]:  # noqa: ANN401 - GStreamer has no types
    """When a picture is shown and decoded; one without a time comes at its turn."""
    pts_ns, dts_ns = int(buffer.pts), int(buffer.dts)
    if pts_ns == Gst.CLOCK_TIME_NONE:
        pts_ns = number * period_ns
    return pts_ns, pts_ns if dts_ns == Gst.CLOCK_TIME_NONE else dts_ns


def _why(pipeline: Any) -> str:  # noqa: ANN401 - GStreamer has no types
    message = pipeline.get_bus().pop_filtered(Gst.MessageType.ERROR)
    return message.parse_error()[0].message.rstrip(".") if message is not None else "GStreamer does not say why"
