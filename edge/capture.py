"""Opening a source of pictures by its URI."""

from __future__ import annotations

from config.clock import Clock
from config.errors import ConfigError, PermanentError
from edge.source import CapturedFrame, PacketSource, Source, SourceOptions
from edge.uris import FileUri, SyntheticUri, parse_source

__all__ = ["CapturedFrame", "PacketSource", "Source", "SourceOptions", "open_packets", "open_source", "parse_source"]

_NO_GSTREAMER = (
    "cameras and video files need GStreamer and its Python binding, which belong to the distribution and not to pip: "
    "sudo apt-get install python3-gi gir1.2-gstreamer-1.0 gir1.2-gst-plugins-base-1.0 gstreamer1.0-plugins-base "
    "gstreamer1.0-plugins-good gstreamer1.0-plugins-bad gstreamer1.0-libav; then use a virtual environment that sees "
    "the distribution's packages, made by the distribution's own Python: "
    "/usr/bin/python3 -m venv --system-site-packages .venv"
)
_DEFAULTS = SourceOptions()


def open_source(uri: str, *, clock: Clock, options: SourceOptions = _DEFAULTS) -> Source:
    """Open a source; close it when done.

    Args:
        uri: see :func:`edge.uris.parse_source`.
        clock: sets the pace and stamps the pictures.
        options: how to open it.

    Raises:
        ConfigError: the URI is wrong.
        PermanentError: GStreamer or a part of it is missing, or the file cannot be read.
    """
    parsed = parse_source(uri)
    if isinstance(parsed, SyntheticUri):
        from edge.synthetic.source import SyntheticSource

        return SyntheticSource(parsed, clock=clock)
    _require_gstreamer()
    if isinstance(parsed, FileUri):
        from edge.gst.file import FileSource

        return FileSource(parsed, clock=clock, options=options)
    from edge.gst.stream import StreamSource

    return StreamSource(parsed, clock=clock, options=options)


def open_packets(uri: str, *, clock: Clock, options: SourceOptions) -> PacketSource:
    """Open a camera for its coded pictures only, which costs next to nothing; close it when done.

    Args:
        uri: of a camera that sends coded pictures; see :func:`edge.uris.parse_source`.
        clock: stamps the packets.
        options: how to open it; who takes its packets.

    Raises:
        ConfigError: the URI is wrong, or not a camera's.
        PermanentError: GStreamer or a part of it is missing.
    """
    parsed = parse_source(uri)
    if isinstance(parsed, FileUri | SyntheticUri):
        raise ConfigError(f"{uri} is looked at and recorded in one go: leave sub_source empty")
    _require_gstreamer()
    from edge.gst.stream import StreamPackets

    return StreamPackets(parsed, clock=clock, options=options)


def _require_gstreamer() -> None:
    try:
        import edge.gst.elements  # noqa: F401
    except (ImportError, ValueError) as error:  # ValueError: gi is there, the description of GStreamer is not
        raise PermanentError(f"{_NO_GSTREAMER} ({error})") from error
