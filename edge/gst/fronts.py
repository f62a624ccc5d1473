"""How each kind of source begins: pure functions from its URI to the first elements of its graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from pathlib import Path

from config.errors import VigilError
from config.secrets import mask_uri
from edge.gst.trouble import Cause, explain_device, explain_file, explain_network
from edge.reach import why_unreachable
from edge.uris import FileUri, LibcameraUri, NetworkUri, SourceUri, V4l2Uri

__all__ = ["Front", "front_of"]

_TIMEOUT_MAX_S = 5.0
"""For a camera to answer at all: those that are there take some tenths."""
_JITTER_MS = 100
"""Over TCP nothing is out of order; it is waited so long only for what a camera itself has left out."""
_GOODBYE_NS = 50_000_000
"""To say so when a stream is left; a camera that hangs does not hear it."""
_FPS_MAX = 240
_FORMATS: Mapping[str, tuple[str, ...]] = {
    # Raw pictures cost nothing to decode, but USB 2 carries few of the large ones.
    "auto": ("video/x-raw", "image/jpeg", "video/x-h264"),
    "raw": ("video/x-raw",),
    "jpeg": ("image/jpeg",),
    "h264": ("video/x-h264",),
}


@dataclass(frozen=True, slots=True)
class Front:
    """The first elements of a graph.

    Attributes:
        shown: the source as messages name it, without its login.
        description: for GStreamer's parser; ``name=source`` is what `settings` are for, ``name=open``, or else the
            same, is what makes a pad for each stream that it finds.
        elements: that are needed.
        explain: makes an error of what GStreamer says.
        settings: properties of `source`, among them the login: they never stand in `description`.
        hint: what to look at when nothing comes.
        live: whether a newer picture is worth more than the one before; otherwise none is left out.
        tls_ca_file: who may have signed the server's certificate; None: whom this machine trusts.
    """

    shown: str
    description: str
    elements: tuple[str, ...]
    explain: Callable[[Cause], VigilError] = field(repr=False)
    hint: str = "check that the camera has power and sends video, and the network to it"
    settings: Mapping[str, str | int | bool] = field(default_factory=dict, repr=False)
    live: bool = True
    tls_ca_file: Path | None = None


def front_of(uri: SourceUri, *, stall_timeout_s: float) -> Front:
    """The beginning of a source's graph.

    Args:
        uri: of any kind but synthetic.
        stall_timeout_s: silence after which it counts as broken.
    """
    if isinstance(uri, FileUri):
        return _file(uri)
    if isinstance(uri, V4l2Uri):
        return _v4l2(uri)
    if isinstance(uri, LibcameraUri):
        return _libcamera(uri)
    assert isinstance(uri, NetworkUri)  # noqa: S101 - what is left is drawn, not read
    timeout_s = min(stall_timeout_s, _TIMEOUT_MAX_S)
    return _rtsp(uri, timeout_s) if uri.is_rtsp else _http(uri, timeout_s)


def _file(uri: FileUri) -> Front:
    return Front(
        shown=str(uri.path),
        description="filesrc name=source ! parsebin name=open",
        elements=("filesrc", "parsebin"),
        explain=partial(explain_file, uri.path),
        hint="it holds none, or the disk or network folder that it is on hangs",
        settings={"location": str(uri.path)},
        live=False,
    )


def _rtsp(uri: NetworkUri, timeout_s: float) -> Front:
    return Front(
        shown=mask_uri(uri.location),
        description=f"rtspsrc name=source protocols=tcp latency={_JITTER_MS} teardown-timeout={_GOODBYE_NS}",
        elements=("rtspsrc",),
        explain=_explainer(uri, timeout_s),
        settings={
            "location": uri.location,
            "tcp-timeout": int(timeout_s * 1e6),
            **_login(uri),
            **({} if uri.tls_verified else {"tls-validation-flags": 0}),
        },
        tls_ca_file=uri.ca_file,
    )


def _http(uri: NetworkUri, timeout_s: float) -> Front:
    return Front(
        shown=mask_uri(uri.location),
        description="souphttpsrc name=source is-live=true do-timestamp=true retries=0 ! parsebin name=open",
        elements=("souphttpsrc", "parsebin"),
        explain=_explainer(uri, timeout_s),
        settings={
            "location": uri.location,
            "timeout": max(1, round(timeout_s)),
            **_login(uri),
            **({} if uri.tls_verified else {"ssl-strict": False}),
        },
        tls_ca_file=uri.ca_file,
    )


def _explainer(uri: NetworkUri, timeout_s: float) -> Callable[[Cause], VigilError]:
    find_reason = partial(
        why_unreachable, uri.location, tls_verified=uri.tls_verified, ca_file=uri.ca_file, timeout_s=timeout_s
    )
    return partial(explain_network, mask_uri(uri.location), find_reason)


def _login(uri: NetworkUri) -> dict[str, str | int | bool]:
    return {"user-id": uri.user, "user-pw": uri.password} if uri.user else {}


def _v4l2(uri: V4l2Uri) -> Front:
    # The driver takes the largest that lies in a range, of the first form that it has at all.
    size = f"width=[16,{uri.width_px}],height=[16,{uri.height_px}]"
    forms = _FORMATS[uri.format]
    fast = [f"{form},{size},framerate=[{_fraction(uri.fps)},{_FPS_MAX}/1]" for form in forms]
    caps = ";".join([*fast, *(f"{form},{size}" for form in forms)])
    return Front(
        shown=f"v4l2:{uri.device}",
        description=f'v4l2src name=source ! capsfilter caps="{caps}" ! parsebin name=open',
        elements=("v4l2src", "parsebin"),
        explain=partial(explain_device, f"v4l2:{uri.device}"),
        hint="it hangs; unplug it and plug it in again",
        settings={"device": str(uri.device)},
    )


def _libcamera(uri: LibcameraUri) -> Front:
    # All of it is said: left to choose, libcamera takes GREY or NV21, and the picture is black or green.
    caps = (
        f"video/x-raw,format=NV12,width={uri.width_px},height={uri.height_px},framerate={_fraction(uri.fps)},"
        "colorimetry=bt709,interlace-mode=progressive"
    )
    return Front(
        shown=f"libcamera:{uri.name}",
        description=f'libcamerasrc name=source ! capsfilter caps="{caps}" ! parsebin name=open',
        elements=("libcamerasrc", "parsebin"),
        explain=partial(explain_device, f"libcamera:{uri.name}"),
        hint="it hangs; unplug it and plug it in again",
        settings={"camera-name": uri.name} if uri.name else {},
    )


def _fraction(fps: float) -> str:
    exact = Fraction(fps).limit_denominator(1001)
    return f"{exact.numerator}/{exact.denominator}"
