"""Coded pictures out of a file, as they are: what a clip is cut from."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from config.errors import PermanentError
from edge.gst.elements import Gst
from edge.picture import Packet

__all__ = ["read_packets"]

_READ = "filesrc name=file ! qtdemux name=demux appsink name=out sync=false max-buffers=64"
_PARSERS = {
    "video/x-h264": "h264parse ! capsfilter caps=video/x-h264,stream-format=byte-stream,alignment=au",
    "video/x-h265": "h265parse ! capsfilter caps=video/x-h265,stream-format=byte-stream,alignment=au",
    "image/jpeg": "jpegparse",
}
_PULL_S = 5.0
"""A disk that gives nothing for so long hangs."""


def read_packets(path: Path, starts_at: datetime, *, from_s: float = 0.0) -> Generator[Packet, None, None]:
    """The coded pictures of a file that this node wrote, in decoding order; it may be written still.

    Args:
        path: the file.
        starts_at: when its first picture was taken.
        from_s: begin with the last keyframe at or before this time in the file, where the file can be searched, as
            every finished one can; otherwise with its first picture.

    Raises:
        PermanentError: no picture can be read.
    """
    found = False
    for begin_s in (from_s, 0.0):
        with closing(_read(path, begin_s)) as samples:
            for sample in samples:
                found = True
                yield _packet(sample, starts_at)
        if found:
            return


def _read(path: Path, begin_s: float) -> Generator[Any, None, None]:
    pipeline = Gst.parse_launch(_READ)
    pipeline.get_by_name("file").set_property("location", str(path))
    sink = pipeline.get_by_name("out")
    demux = pipeline.get_by_name("demux")
    linking = demux.connect("pad-added", _link, pipeline, sink)
    found = False
    try:
        _begin(pipeline, path, begin_s)
        while (sample := sink.try_pull_sample(int(_PULL_S * Gst.SECOND))) is not None:
            found = True
            yield sample
        if not found and begin_s <= 0:
            raise PermanentError(f"{path} has no picture that can be read ({_reason(pipeline)})")
    finally:
        pipeline.set_state(Gst.State.NULL)
        demux.disconnect(linking)  # it holds the pipeline, which holds the demuxer: neither would ever be freed


def _link(_demux: object, pad: Any, pipeline: Any, sink: Any) -> None:  # noqa: ANN401 - GStreamer has no types
    """Put the right parser behind the video; runs on the thread that reads the file."""
    parser = _PARSERS.get(pad.get_current_caps().get_structure(0).get_name())
    if parser is None or sink.get_static_pad("sink").is_linked():
        return
    parse = Gst.parse_bin_from_description(parser, ghost_unlinked_pads=True)
    pipeline.add(parse)
    parse.link(sink)
    parse.sync_state_with_parent()
    pad.link(parse.get_static_pad("sink"))


def _begin(pipeline: Any, path: Path, from_s: float) -> None:  # noqa: ANN401 - GStreamer has no types
    pipeline.set_state(Gst.State.PAUSED)
    result, _state, _pending = pipeline.get_state(int(_PULL_S * Gst.SECOND))
    if result == Gst.StateChangeReturn.FAILURE:
        raise PermanentError(f"{path} cannot be read ({_reason(pipeline)})")
    if from_s > 0:
        flags = Gst.SeekFlags.FLUSH | Gst.SeekFlags.KEY_UNIT | Gst.SeekFlags.SNAP_BEFORE
        pipeline.seek_simple(Gst.Format.TIME, flags, int(from_s * Gst.SECOND))
    pipeline.set_state(Gst.State.PLAYING)


def _packet(sample: Any, starts_at: datetime) -> Packet:  # noqa: ANN401 - GStreamer has no types
    buffer = sample.get_buffer()
    at_s = (buffer.pts if buffer.dts == Gst.CLOCK_TIME_NONE else buffer.dts) / Gst.SECOND
    return Packet(
        sample=sample,
        at=starts_at + timedelta(seconds=at_s),
        at_s=at_s,
        keyframe=not buffer.has_flags(Gst.BufferFlags.DELTA_UNIT),
        size_bytes=buffer.get_size(),
    )


def _reason(pipeline: Any) -> str:  # noqa: ANN401 - GStreamer has no types
    message = pipeline.get_bus().pop_filtered(Gst.MessageType.ERROR)
    return "it holds none" if message is None else str(message.parse_error()[0].message).rstrip(".")
