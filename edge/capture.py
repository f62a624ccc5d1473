"""Opening a source of pictures by its URI."""

from __future__ import annotations

from config.clock import Clock
from config.errors import PermanentError
from edge.source import CapturedFrame, FileUri, Source, parse_source

__all__ = ["CapturedFrame", "Source", "open_source", "parse_source"]

_NO_GSTREAMER = (
    "video files need GStreamer and its Python binding, which belong to the distribution and not to pip: "
    "sudo apt-get install python3-gi gir1.2-gstreamer-1.0 gir1.2-gst-plugins-base-1.0 gstreamer1.0-plugins-base "
    "gstreamer1.0-plugins-good gstreamer1.0-plugins-bad gstreamer1.0-libav; then use a virtual environment that sees "
    "the distribution's packages, made by the distribution's own Python: "
    "/usr/bin/python3 -m venv --system-site-packages .venv"
)


def open_source(uri: str, *, clock: Clock, fps_max: float | None = None, stall_timeout_s: float = 5.0) -> Source:
    """Open a source; close it when done.

    Args:
        uri: see :func:`edge.source.parse_source`.
        clock: sets the pace and stamps the pictures.
        fps_max: a file faster than this is thinned out to it, except with ``pace=max``, which gives every frame.
        stall_timeout_s: silence after which a source counts as broken.

    Raises:
        ConfigError: the URI is wrong.
        PermanentError: GStreamer or a part of it is missing, or the file cannot be read.
    """
    parsed = parse_source(uri)
    if not isinstance(parsed, FileUri):
        from edge.synthetic_source import SyntheticSource

        return SyntheticSource(parsed, clock=clock)
    try:
        from edge._gstreamer import FileSource
    except (ImportError, ValueError) as error:  # ValueError: gi is there, the description of GStreamer is not
        raise PermanentError(f"{_NO_GSTREAMER} ({error})") from error
    return FileSource(parsed, clock=clock, fps_max=fps_max, stall_timeout_s=stall_timeout_s)
