"""JPEGs of full-size pictures, made when somebody asks."""

from __future__ import annotations

import threading
from typing import Any

from config.errors import TransientError
from edge.gst.elements import Gst
from edge.gst.pixels import convertible, copy_picture, sample_of
from edge.picture import Retouch, reduced_size

__all__ = ["JPEG_ELEMENTS", "JpegEncoder"]

JPEG_ELEMENTS = ("appsrc", "videoscale", "videoconvert", "jpegenc", "appsink")
# A JPEG is full range BT.601 (JFIF), a video mostly limited range BT.709, and jpegenc converts neither: without this
# the picture comes out flat (28 dB from the right one instead of 35).
_ENCODE = (
    "appsrc name=raw format=time ! videoscale add-borders=false ! capsfilter name=size ! videoconvert "
    "! video/x-raw,format=I420,colorimetry=1:4:0:0 ! jpegenc name=jpeg "
    "! appsink name=out async=false sync=false max-buffers=2"
)
_ANY_SIZE = "video/x-raw"
_TIMEOUT_S = 5.0


class JpegEncoder:
    """Makes JPEGs of full-size samples. Its pipeline is built at the first one: a camera that sends none needs none.

    Concurrency: calls take turns; each may come from any thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pipeline: Any = None
        self._size_px: tuple[int, int] | None = None
        self._closed = False

    def encode(
        self,
        sample: Any,  # noqa: ANN401 - GStreamer has no types
        quality: int,
        *,
        height_px: int | None = None,
        retouch: Retouch | None = None,
    ) -> bytes:
        """The JPEG of a sample; see :class:`edge.picture.EncodeJpeg`.

        Raises:
            TransientError: the encoder is closed, or failed.
        """
        if retouch is not None:
            picture = copy_picture(sample)
            retouch(picture)
            sample = sample_of(picture, sample.get_caps())
        with self._lock:
            encoded = None if self._closed else self._push(sample, quality, height_px)
            if encoded is None:
                self._drop()
                raise TransientError("the JPEG encoder gave no picture; it is closed, or failed")
        buffer = encoded.get_buffer()
        return bytes(buffer.extract_dup(0, buffer.get_size()))

    def close(self) -> None:
        """Stop the encoder; may be called twice."""
        with self._lock:
            self._closed = True
            self._drop()

    def _push(self, sample: Any, quality: int, height_px: int | None) -> Any:  # noqa: ANN401 - GStreamer has no types
        if self._pipeline is None:
            self._pipeline = Gst.parse_launch(_ENCODE)
            self._size_px = None
            self._pipeline.set_state(Gst.State.PLAYING)
        layout = sample.get_caps().get_structure(0)
        size_px = layout.get_value("width"), layout.get_value("height")
        reduced_px = reduced_size(*size_px, height_px)
        self._resize(None if reduced_px == size_px else reduced_px)
        self._pipeline.get_by_name("jpeg").set_property("quality", quality)
        self._pipeline.get_by_name("raw").push_sample(convertible(sample))
        return self._pipeline.get_by_name("out").try_pull_sample(int(_TIMEOUT_S * Gst.SECOND))

    def _resize(self, size_px: tuple[int, int] | None) -> None:
        if size_px == self._size_px:
            return
        caps = _ANY_SIZE if size_px is None else f"{_ANY_SIZE},width={size_px[0]},height={size_px[1]}"
        self._pipeline.get_by_name("size").set_property("caps", Gst.Caps.from_string(caps))
        self._size_px = size_px

    def _drop(self) -> None:
        if self._pipeline is not None:
            self._pipeline.set_state(Gst.State.NULL)
            self._pipeline = None
