"""GStreamer's errors in words that help: what is wrong with which source, and the cure. Pure."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from config.errors import PermanentError, TransientError, VigilError
from edge.gst.codecs import DECODERS_CURE

__all__ = ["Cause", "explain_device", "explain_file", "explain_network"]

_REFUSED_RETRY_S = 30.0
"""A camera locks an account after some wrong passwords, for minutes."""
_ABSENT_RETRY_S = 10.0


class Cause:
    """What GStreamer said went wrong.

    Args:
        domain: of the error, such as ``gst-resource-error-quark``.
        code: in this domain.
        said: GStreamer's own words; logins in them are masked where an error is made of them.
        pictures: how many came before.
        missing: plugins that it asked for.
    """

    def __init__(self, domain: str, code: int, said: str, *, pictures: int = 0, missing: tuple[str, ...] = ()) -> None:
        kind = domain.removeprefix("gst-").removesuffix("-error-quark")
        self.name = _NAMES.get((kind, code), "")
        self.said = "it has no video stream" if self.name == "no-video" else said.rstrip(".")
        self.pictures = pictures
        self.missing = missing


_NAMES = {
    ("core", 12): "no-video",
    ("resource", 3): "not-found",
    ("resource", 5): "open-read",
    ("resource", 7): "open-read-write",
    ("resource", 9): "read",
    ("resource", 15): "not-authorized",
    ("stream", 4): "wrong-type",
    ("stream", 5): "codec-not-found",
    ("stream", 7): "decode",
}
"""Source: GStreamer, "GstGError": the values of GstCoreError, GstResourceError and GstStreamError."""


def explain_network(shown: str, find_reason: Callable[[], str | None], cause: Cause) -> VigilError:
    """Why a camera in the network gives no picture.

    Args:
        shown: its URI, without its login.
        find_reason: looks for the reason where GStreamer gives none; it takes seconds.
        cause: what GStreamer said.
    """
    if cause.missing:
        return PermanentError(f"{shown}: GStreamer has no {', '.join(cause.missing)}; {DECODERS_CURE}")
    if (refusal := _refusal(cause)) is not None:
        text, retry_after_s = refusal
        return TransientError(f"{shown}: {text}", retry_after_s=retry_after_s)
    if cause.pictures:
        return TransientError(f"{shown} broke off after {cause.pictures} pictures: {cause.said}")
    if (reason := find_reason()) is not None:
        return TransientError(f"{shown}: {reason}")
    return TransientError(f"{shown}: the camera broke off before its first picture ({cause.said}); restart it")


def _refusal(cause: Cause) -> tuple[str, float] | None:
    """What only a person can cure, and how soon to look whether one has; None: it may cure itself."""
    if cause.name == "not-authorized":
        return (
            "the camera refuses user and password (401); correct them in its source, with / ? # % and @ of the "
            "password as %2F %3F %23 %25 and %40"
        ), _REFUSED_RETRY_S
    if cause.name == "not-found":
        return "the camera has no such stream (404); correct the path, which its manual names", _ABSENT_RETRY_S
    if cause.name == "no-video":
        return f"{cause.said}; give the path of a video stream", _ABSENT_RETRY_S
    return None


def explain_file(path: Path, cause: Cause) -> VigilError:
    """Why a file gives no picture, or no more."""
    said = cause.said
    if cause.missing:
        return PermanentError(f"{path}: GStreamer has no {', '.join(cause.missing)}; {DECODERS_CURE}")
    if cause.pictures:
        return TransientError(f"{path} is damaged after frame {cause.pictures} ({said}); record or copy it again")
    return PermanentError(
        f"{path} is not a video that GStreamer can read ({said}); `ffprobe` shows what it is, "
        "`ffmpeg -i IN OUT.mp4` converts it"
    )


def explain_device(shown: str, cause: Cause) -> VigilError:
    """Why a camera at this machine gives no picture."""
    if cause.missing:
        return PermanentError(f"{shown}: GStreamer has no {', '.join(cause.missing)}; {DECODERS_CURE}")
    if cause.pictures:
        return TransientError(f"{shown} broke off after {cause.pictures} pictures: {cause.said}; check its cable")
    return TransientError(
        f"{shown} gives no picture: {cause.said}; check that it is plugged in, that no other program uses it, and "
        "that this user is in the group 'video' (`v4l2-ctl --list-devices`, `cam --list`)",
        retry_after_s=_ABSENT_RETRY_S,
    )
