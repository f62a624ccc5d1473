"""Coded pictures: how each kind is brought into shape, and who decodes it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from config.errors import PermanentError

__all__ = ["CODECS", "DECODERS_CURE", "Codec", "choose_decoders", "codec_of"]

DECODERS_CURE = (
    "sudo apt-get install gstreamer1.0-libav gstreamer1.0-plugins-good gstreamer1.0-plugins-bad "
    "gstreamer1.0-plugins-ugly"
)


@dataclass(frozen=True, slots=True)
class Codec:
    """One kind of coded picture.

    Attributes:
        name: as people call it.
        media_type: GStreamer's.
        depay: takes it out of RTP.
        parse: cuts it into pictures and says which are keyframes.
        packets: what a packet then is.
        hardware: decoders that cost the processor next to nothing, the best first. Stateless ones are left out: what
            they write on a Raspberry Pi 5 (columns of 128 bytes) nothing else reads.
        software: the others.
    """

    name: str
    media_type: str
    depay: str
    parse: str
    packets: str
    hardware: Sequence[str]
    software: Sequence[str]


CODECS: Mapping[str, Codec] = {
    "H264": Codec(
        "H.264",
        "video/x-h264",
        "rtph264depay",
        "h264parse config-interval=-1",
        "video/x-h264,stream-format=byte-stream,alignment=au",
        ("v4l2h264dec", "vah264dec"),
        ("avdec_h264", "openh264dec"),
    ),
    "H265": Codec(
        "H.265",
        "video/x-h265",
        "rtph265depay",
        "h265parse config-interval=-1",
        "video/x-h265,stream-format=byte-stream,alignment=au",
        ("v4l2h265dec", "vah265dec"),
        ("avdec_h265", "libde265dec"),
    ),
    "JPEG": Codec("JPEG", "image/jpeg", "rtpjpegdepay", "jpegparse", "image/jpeg", (), ("jpegdec", "avdec_mjpeg")),
}
"""By their names in RTP."""


def codec_of(media_type: str) -> Codec | None:
    """The codec of a media type; None: none that packets are made of."""
    return next((codec for codec in CODECS.values() if codec.media_type == media_type), None)


def choose_decoders(codec: Codec, wanted: str, rank_of: Callable[[str], int | None]) -> tuple[str, ...]:
    """Who may decode on this machine, in the order in which to try.

    A decoder in hardware that is there may refuse all the same: it is taken, or the picture is too large for it.

    Args:
        codec: of the stream.
        wanted: ``auto``, ``software``, or the name of an element.
        rank_of: how much this machine prefers an element; 0: only where it is asked for, None: it has none.

    Raises:
        PermanentError: there is none.
    """
    if wanted not in ("auto", "software"):
        if rank_of(wanted) is None:
            raise PermanentError(
                f"this machine has no decoder {wanted!r}: set decoder: auto; `gst-inspect-1.0 | grep dec` lists them"
            )
        return (wanted,)
    hardware = tuple(name for name in codec.hardware if rank_of(name)) if wanted == "auto" else ()
    software = tuple(name for name in codec.software if rank_of(name))[:1]
    if not hardware and not software:
        raise PermanentError(f"GStreamer has no {codec.name} decoder; {DECODERS_CURE}")
    return (*hardware, *software)
