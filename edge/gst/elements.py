"""GStreamer itself: started once, and asked which elements it has."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Mapping

import gi

from config.errors import PermanentError

gi.require_version("Gst", "1.0")
gi.require_version("GstApp", "1.0")
gi.require_version("GstVideo", "1.0")
# Versions first, then the import; importing GstApp gives the application sinks and sources their methods.
from gi.repository import Gio, GLib, Gst, GstApp, GstVideo  # noqa: E402, F401

__all__ = ["PACKAGES", "GLib", "Gio", "Gst", "GstVideo", "rank_of", "require_elements"]

_LIBAV = "gstreamer1.0-libav"
_BASE = "gstreamer1.0-plugins-base"
_GOOD = "gstreamer1.0-plugins-good"
_BAD = "gstreamer1.0-plugins-bad"
_UGLY = "gstreamer1.0-plugins-ugly"

PACKAGES: Mapping[str, str] = {
    "appsink": _BASE,
    "appsrc": _BASE,
    "avdec_h264": _LIBAV,
    "avdec_h265": _LIBAV,
    "clocksync": "libgstreamer1.0-0",
    "decodebin": _BASE,
    "fakesink": "libgstreamer1.0-0",
    "filesrc": "libgstreamer1.0-0",
    "h264parse": _BAD,
    "h265parse": _BAD,
    "jpegdec": _GOOD,
    "jpegenc": _GOOD,
    "jpegparse": _BAD,
    "libcamerasrc": "gstreamer1.0-libcamera",
    "mp4mux": _GOOD,
    "parsebin": _BASE,
    "qtdemux": _GOOD,
    "rtph264depay": _GOOD,
    "rtph265depay": _GOOD,
    "rtpjpegdepay": _GOOD,
    "rtspsrc": _GOOD,
    "souphttpsrc": _GOOD,
    "v4l2src": _GOOD,
    "videoconvert": _BASE,
    "videoscale": _BASE,
    "x264enc": _UGLY,
    "x265enc": _BAD,
}
"""Debian's package of each element that is asked for by name."""

_M_ARENA_MAX, _M_MMAP_THRESHOLD = -8, -3
"""Source: malloc.h of glibc."""


def _return_memory() -> None:
    """Have pictures' memory given back when they are freed: 2 MB less with one camera, 8 less with four.

    glibc would keep it for the next one, in an arena for each thread, and a camera has five of those.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # glibc's
        libc.mallopt(_M_ARENA_MAX, 2)
        libc.mallopt(_M_MMAP_THRESHOLD, 128 * 1024)


_return_memory()
# A session that is resumed is not verified again: who stops trusting a camera would not be heard.
GLib.setenv("G_TLS_GNUTLS_PRIORITY", "NORMAL:%NO_TICKETS", False)  # noqa: FBT003 - GLib's: leave what is set
Gst.init(None)


def rank_of(name: str) -> int | None:
    """How much an element is preferred; 0: it is used only where it is asked for, None: this machine has none.

    Who wants a decoder left alone says so in the environment: ``GST_PLUGIN_FEATURE_RANK=v4l2h264dec:NONE``.
    """
    factory = Gst.ElementFactory.find(name)
    return None if factory is None else int(factory.get_rank())


def require_elements(names: Iterable[str]) -> None:
    """Check that they are there.

    Raises:
        PermanentError: one is not; the message names its package.
    """
    for name in names:
        if rank_of(name) is None:
            package = PACKAGES.get(name)
            cure = f"sudo apt-get install {package}" if package else "`gst-inspect-1.0` lists those of this machine"
            raise PermanentError(f"GStreamer has no element {name!r}: {cure}")
