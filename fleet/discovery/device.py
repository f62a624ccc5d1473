"""A camera as it tells of itself over ONVIF."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import unquote

__all__ = [
    "CameraSetup",
    "CameraStreams",
    "DeviceFacts",
    "Encoding",
    "EncodingChange",
    "SetupChange",
    "Stream",
    "choose_streams",
    "device_service",
    "scope_value",
]

_DEVICE_PATH = "/onvif/device_service"
_SCOPE = "onvif://www.onvif.org/"
_SUB_HEIGHT_MIN_PX = 180
"""Of a stream that is looked at; motion needs no more, a smaller one shows nobody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceFacts:
    """Which thing it is.

    Attributes:
        manufacturer: who made it.
        model: what they call it.
        serial: its serial number; empty where it tells none.
        firmware: the version that runs on it.
        mac: of its first network interface, ``aa:bb:cc:dd:ee:ff``; None where it does not tell.
        name: what it calls itself.
        location: where it says it is.
        ahead_s: seconds that its clock is ahead of ours; None where it does not tell.
        services: what it speaks: ``media``, ``events``, ``ptz``, ``imaging`` ...
    """

    manufacturer: str = ""
    model: str = ""
    serial: str = ""
    firmware: str = ""
    mac: str | None = None
    name: str = ""
    location: str = ""
    ahead_s: float | None = None
    services: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoding:
    """How a stream is encoded.

    Attributes:
        codec: ``h264``, ``jpeg``, ``mpeg4``; as the camera calls it, in small letters.
        width: pixels; 0 where it does not tell, as below.
        height: pixels.
        fps: pictures a second at most.
        bitrate_bps: bits a second at most.
    """

    codec: str = ""
    width: int = 0
    height: int = 0
    fps: int = 0
    bitrate_bps: int = 0

    @property
    def size(self) -> str:
        """``1280x720``."""
        return f"{self.width}x{self.height}"

    def __str__(self) -> str:
        """``h264 1280x720 10 fps``."""
        parts = [self.codec, self.size if self.width else "", f"{self.fps} fps" if self.fps else ""]
        return " ".join(part for part in parts if part)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """One stream of a camera.

    Attributes:
        profile: the camera's token of it.
        encoder: the camera's token of what encodes it; empty where it tells none.
        lens: the camera's token of where its picture comes from.
        uri: ``rtsp://...`` without a login.
        encoding: how it is encoded.
    """

    profile: str
    uri: str
    encoding: Encoding
    encoder: str = ""
    lens: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CameraStreams:
    """The streams that matter.

    Attributes:
        main: the best one.
        sub: a smaller one of the same lens to look at.
        others: the best one of each other lens, or of each other channel of a recorder.
    """

    main: Stream
    sub: Stream | None = None
    others: tuple[Stream, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CameraSetup:
    """What a camera is set to.

    Attributes:
        name: what it calls itself.
        ahead_s: seconds that its clock is ahead of ours.
        main: how its best stream is encoded.
        sub: how its smaller one is.
    """

    name: str
    ahead_s: float | None
    main: Encoding
    sub: Encoding | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodingChange:
    """What to set of a stream; None leaves it."""

    codec: str | None = None
    size_px: tuple[int, int] | None = None
    fps: int | None = None
    bitrate_bps: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SetupChange:
    """What to set of a camera; None leaves it.

    Attributes:
        name: what it is to call itself.
        time: whether to set its clock to this machine's.
        main: of its best stream.
        sub: of its smaller one.
    """

    name: str | None = None
    time: bool = False
    main: EncodingChange | None = None
    sub: EncodingChange | None = None


def choose_streams(streams: Sequence[Stream]) -> CameraStreams | None:
    """The largest stream, and the smallest of the same lens on which one still sees somebody; None without any."""
    if not streams:
        return None
    main = max(streams, key=lambda one: _pixels(one.encoding))
    smaller = [
        one
        for one in streams
        if one.lens == main.lens
        and one.uri != main.uri
        and one.encoding.codec != "jpeg"
        and _SUB_HEIGHT_MIN_PX <= one.encoding.height < main.encoding.height
    ]
    others: dict[str, Stream] = {}
    for one in sorted(streams, key=lambda each: _pixels(each.encoding), reverse=True):
        if one.lens != main.lens:
            others.setdefault(one.lens, one)
    sub = min(smaller, key=lambda one: _pixels(one.encoding), default=None)
    return CameraStreams(main=main, sub=sub, others=tuple(others.values()))


def scope_value(scopes: Iterable[str], kind: str) -> str:
    """What a camera's scopes say of it: ``name``, ``location``, ``hardware``; empty where they do not."""
    start = f"{_SCOPE}{kind}/"
    return next((unquote(scope[len(start) :]).strip(" /") for scope in scopes if scope.startswith(start)), "")


def device_service(address: str) -> str:
    """The address of the device service of ``HOST``, ``HOST:PORT`` or what is one already."""
    return address if address.startswith(("http://", "https://")) else f"http://{address}{_DEVICE_PATH}"


def _pixels(encoding: Encoding) -> int:
    return encoding.width * encoding.height
