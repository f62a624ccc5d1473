"""GStreamer's raw pictures as arrays, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from config.errors import TransientError
from edge.gst.elements import Gst, GstVideo
from edge.picture import Picture

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["convertible", "copy_luma", "copy_picture", "sample_of"]

_FULL_RANGE = getattr(GstVideo.VideoColorRange, "0_255")

# In most videos black is 16 and white 235. GStreamer's own conversion to gray does this for some of them only.
_IN_FULL_RANGE = np.clip((np.arange(256) - 16) * (255 / 219) + 0.5, 0, 255).astype(np.uint8)


def copy_luma(sample: Any) -> NDArray[np.uint8]:  # noqa: ANN401 - GStreamer has no types
    """The brightness of an I420 or NV12 sample in full range, shape (height, width)."""
    layout = _Layout(sample)
    y = layout.plane(0, layout.height_px, layout.width_px)
    return y.copy() if layout.full_range else _IN_FULL_RANGE[y]


def copy_picture(sample: Any) -> Picture:  # noqa: ANN401 - GStreamer has no types
    """A copy of an I420 or NV12 sample, that may be written."""
    layout = _Layout(sample)
    height, width = (layout.height_px + 1) // 2, (layout.width_px + 1) // 2
    if layout.format == "NV12":
        both = layout.plane(1, height, 2 * width)
        u, v = both[:, 0::2], both[:, 1::2]
    else:
        u, v = layout.plane(1, height, width), layout.plane(2, height, width)
    y = layout.plane(0, layout.height_px, layout.width_px)
    return Picture(y.copy(), u.copy(), v.copy(), full_range=layout.full_range)


def sample_of(picture: Picture, caps: Any) -> Any:  # noqa: ANN401 - GStreamer has no types
    """A picture as an I420 sample.

    Args:
        picture: the pixels.
        caps: of the sample that it was copied from: range, colours and shape of a pixel are the same.
    """
    height, width = picture.y.shape
    before, now = GstVideo.VideoInfo.new_from_caps(caps), GstVideo.VideoInfo.new()
    now.set_format(GstVideo.VideoFormat.I420, width, height)
    now.colorimetry, now.par_n, now.par_d = before.colorimetry, before.par_n, before.par_d
    pixels = np.zeros(now.size, np.uint8)
    for number, plane in enumerate((picture.y, picture.u, picture.v)):
        rows, columns = plane.shape
        start, stride = now.offset[number], now.stride[number]
        pixels[start : start + rows * stride].reshape(rows, stride)[:, :columns] = plane
    return Gst.Sample.new(Gst.Buffer.new_wrapped(pixels.tobytes()), now.to_caps(), None, None)


def convertible(sample: Any) -> Any:  # noqa: ANN401 - GStreamer has no types
    """The sample under a name by which `videoconvert` brings it into full range.

    GStreamer 1.22 leaves a picture as it is where only the range differs from what is wanted: BT.601 in limited range,
    which most small cameras send, would come out flat. Of the matrix called FCC the coefficients are within 0.004 of
    BT.601's, and it is converted.
    """
    caps = sample.get_caps()
    info = GstVideo.VideoInfo.new_from_caps(caps)
    colours = info.colorimetry  # lies inside of it, and is gone when it is
    if colours.range == _FULL_RANGE or colours.matrix != GstVideo.VideoColorMatrix.BT601:
        return sample
    colours.matrix = GstVideo.VideoColorMatrix.FCC
    renamed = caps.copy()
    renamed.set_value("colorimetry", colours.to_string())
    return Gst.Sample.new(sample.get_buffer(), renamed, None, None)


class _Layout:
    """Where the planes of a sample are: as its buffer says, or else as its caps do."""

    def __init__(self, sample: Any) -> None:  # noqa: ANN401 - GStreamer has no types
        buffer = sample.get_buffer()
        info = GstVideo.VideoInfo.new_from_caps(sample.get_caps())
        meta = GstVideo.buffer_get_video_meta(buffer) or info
        self.width_px: int = info.width
        self.height_px: int = info.height
        self.format: str = info.finfo.name
        self.full_range: bool = info.colorimetry.range == _FULL_RANGE
        self._offsets, self._strides = tuple(meta.offset), tuple(meta.stride)
        mapped, memory = buffer.map(Gst.MapFlags.READ)
        if not mapped:
            raise TransientError("a picture's memory could not be read; the camera is opened again")
        self._pixels = np.frombuffer(memory.data, np.uint8)  # which is a copy
        buffer.unmap(memory)

    def plane(self, number: int, rows: int, columns: int) -> NDArray[np.uint8]:
        """One plane without its padding, which the last row may lack."""
        start = self._pixels[self._offsets[number] :]
        return np.lib.stride_tricks.as_strided(start, (rows, columns), (self._strides[number], 1), writeable=False)
