"""A film with a secret in it, and a search for that secret in whatever came out.

The secret is a random code of small squares, two colours that differ in brightness and in tint, another one every half
second. It fills a quadrilateral in a street with people, so that there is movement, and somebody to escalate.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.synthetic.street import SyntheticStreet

__all__ = ["FOUND", "HEIGHT_PX", "POLYGON", "SecretFilm", "interior", "pictures_in", "pictures_of_video", "resemblance"]

Rgb = NDArray[np.uint8]
Bgr = NDArray[np.uint8]
Code = NDArray[np.float32]

WIDTH_PX, HEIGHT_PX = 640, 360
POLYGON = ((0.05, 0.08), (0.42, 0.05), (0.40, 0.45), (0.07, 0.42))
"""Where the secret is, as a mask's points."""
FOUND = 0.35
"""Correlation from which the secret counts as found. Its 1,296 squares make chance 0.03, and the best of all places and
codes under 0.2; a picture that shows it has 0.9 or more."""
_INNER = (52, 36, 244, 144)
"""Left, top, right, bottom of a rectangle inside the quadrilateral: what is searched for."""
_SEARCHED_PX = 320
"""Width at which pictures are searched: a square of the code is then two pixels wide."""
_SQUARE_PX = 4
_CODES = 4
_FRAMES_A_CODE = 5
_FPS = 10
_DARK, _BRIGHT = (20, 40, 150), (250, 225, 90)
_RIM_PX = 16
"""A block of a JPEG, colours included, that lies across the rim is no longer of one colour."""


@dataclass(frozen=True)
class SecretFilm:
    """A film of some seconds.

    Attributes:
        path: the file, H.264.
        codes: what is hidden in it, one after another; -1 and 1, shape of the searched rectangle.
    """

    path: Path
    codes: tuple[Code, ...]

    @classmethod
    def make(cls, folder: Path, secret: int, *, seconds: float = 2.0, lossless: bool = False) -> SecretFilm:
        """Draw and encode it.

        Args:
            folder: for the file.
            secret: decides the codes, and nothing else.
            seconds: its length.
            lossless: so that two films differ in the secret's pixels alone.
        """
        fields = [_field(secret, number) for number in range(_CODES)]
        path = folder / f"secret-{secret}{'-exact' if lossless else ''}.mp4"
        _encode(path, _draw(fields, round(seconds * _FPS)), quantizer=0 if lossless else 20)
        left, top, right, bottom = _INNER
        return cls(path, tuple(field[top:bottom, left:right] for field in fields))


def _field(secret: int, number: int) -> Code:
    rng = np.random.default_rng([secret, number])
    squares = rng.choice(np.array([-1, 1], np.float32), (HEIGHT_PX // _SQUARE_PX, WIDTH_PX // _SQUARE_PX))
    return np.kron(squares, np.ones((_SQUARE_PX, _SQUARE_PX), np.float32))


def _draw(fields: Sequence[Code], count: int) -> Iterator[Rgb]:
    inside = _secret_pixels()
    for number, scene in enumerate(_street(count)):
        picture = scene.copy()
        code = fields[number // _FRAMES_A_CODE % len(fields)]
        picture[inside] = np.where((code > 0)[..., None], _BRIGHT, _DARK).astype(np.uint8)[inside]
        yield picture


@cache
def _street(count: int) -> tuple[Rgb, ...]:
    street = SyntheticStreet(seed=3, width_px=WIDTH_PX, height_px=HEIGHT_PX)
    return tuple(street.picture(1.0 + number / _FPS) for number in range(count))


@cache
def _secret_pixels() -> NDArray[np.bool_]:
    """The pixels whose middles are inside: none that the polygon does not touch."""
    corners = np.array(POLYGON, np.float32) * np.array((WIDTH_PX, HEIGHT_PX), np.float32)
    inside = np.zeros((HEIGHT_PX, WIDTH_PX), np.bool_)
    for row, column in np.ndindex(HEIGHT_PX // 2, WIDTH_PX // 2):
        middle = (column + 0.5, row + 0.5)
        inside[row, column] = cv2.pointPolygonTest(corners, middle, measureDist=False) > 0
    return inside


def _encode(path: Path, pictures: Iterator[Rgb], *, quantizer: int) -> None:
    from edge.gst.elements import Gst  # here: tests without GStreamer use nothing of it

    pipeline = Gst.parse_launch(
        f"appsrc name=raw format=time caps=video/x-raw,format=RGB,width={WIDTH_PX},height={HEIGHT_PX},"
        f"framerate={_FPS}/1 ! videoconvert ! video/x-raw,format=I420 ! x264enc speed-preset=ultrafast pass=quant "
        f"quantizer={quantizer} key-int-max={_FPS} ! h264parse ! mp4mux ! filesink location={path}"
    )
    pipeline.set_state(Gst.State.PLAYING)
    raw = pipeline.get_by_name("raw")
    for number, picture in enumerate(pictures):
        buffer = Gst.Buffer.new_wrapped(picture.tobytes())
        buffer.pts, buffer.duration = number * Gst.SECOND // _FPS, Gst.SECOND // _FPS
        raw.push_buffer(buffer)
    raw.end_of_stream()
    ended = pipeline.get_bus().timed_pop_filtered(60 * Gst.SECOND, Gst.MessageType.EOS | Gst.MessageType.ERROR)
    pipeline.set_state(Gst.State.NULL)
    assert ended is not None
    assert ended.type == Gst.MessageType.EOS, ended.parse_error()


def pictures_in(content: bytes) -> Iterator[Bgr]:
    """Every JPEG in some bytes, those inside of another one included, as OpenCV decodes it."""
    start = content.find(b"\xff\xd8\xff")
    while start >= 0:
        picture = cv2.imdecode(np.frombuffer(content, np.uint8, offset=start), cv2.IMREAD_COLOR)
        if picture is not None:
            yield np.asarray(picture, np.uint8)
        start = content.find(b"\xff\xd8\xff", start + 2)


def pictures_of_video(path: Path) -> Iterator[Bgr]:
    """Every picture of a video file, as FFmpeg decodes it; none where it is no video."""
    video = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    while (read := video.read())[0]:
        yield np.asarray(read[1], np.uint8)
    video.release()


def resemblance(picture: Bgr, codes: Sequence[Code], scales: Sequence[float] = (1.0,)) -> float:
    """How much of a picture looks like one of the codes at most, in brightness or in tint, anywhere; 0 to 1.

    Args:
        picture: of any size.
        codes: to look for.
        scales: sizes to look for, as parts of what the whole film's size in this picture would be.
    """
    height, width = picture.shape[0] * _SEARCHED_PX // picture.shape[1], _SEARCHED_PX
    smaller = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
    planes = cv2.split(cv2.cvtColor(smaller, cv2.COLOR_BGR2YCrCb))[:2]
    best = 0.0
    for scale in scales:
        factor = width / WIDTH_PX * scale
        size = round(codes[0].shape[1] * factor), round(codes[0].shape[0] * factor)
        if size[0] > width or size[1] > height:
            continue
        for code in codes:
            wanted = np.asarray(cv2.resize(code, size, interpolation=cv2.INTER_AREA), np.float32)
            best = max(best, *(_best_match(plane.astype(np.float32), wanted) for plane in planes))
    return best


def _best_match(plane: Code, wanted: Code) -> float:
    found = np.abs(cv2.matchTemplate(plane, wanted, cv2.TM_CCOEFF_NORMED))
    # Where a place has one colour only there is nothing to divide by.
    return float(found[np.isfinite(found) & (found <= 1.01)].max(initial=0.0))


def interior(picture: Bgr) -> NDArray[np.uint8]:
    """The pixels of the masked area that share no block with others; shape (pixels, 3)."""
    return picture[_interior(picture.shape[0], picture.shape[1])]


@cache
def _interior(height_px: int, width_px: int) -> NDArray[np.bool_]:
    inside = np.zeros((height_px, width_px), np.uint8)
    corners = (np.array(POLYGON) * (width_px, height_px)).astype(np.int32)
    cv2.fillPoly(inside, [corners], (1,))
    return cv2.erode(inside, np.ones((2 * _RIM_PX + 1, 2 * _RIM_PX + 1), np.uint8)).astype(np.bool_)
