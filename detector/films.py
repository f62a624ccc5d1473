"""Pictures and videos as files: read one by one, and written so that players open them."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from config import PermanentError
from detector.pictures import PIXELS_MAX, Picture

__all__ = ["FilmWriter", "Shot", "Video", "is_picture", "open_film", "open_video", "read_image", "write_image"]

_PICTURES = (".jpg", ".jpeg", ".png")
_FILM = ".mp4"
_HEAD_BYTES = 4096
_FPS_OTHERWISE = 25.0
"""Of a video that does not say."""
_QUALITY = 90
_ENCODERS = (
    ("x264enc", "speed-preset=veryfast"),
    ("openh264enc",),
)
"""GStreamer's H.264 encoders, and their settings; OpenCV's wheel brings none, for reasons of licence."""
_END_S = 60.0


def is_picture(path: Path) -> bool:
    """Whether a file is a picture that OpenCV reads, judged by its first bytes.

    Raises:
        PermanentError: it cannot be read.
    """
    _read_head(path)
    return bool(cv2.haveImageReader(str(path)))


def read_image(path: Path) -> Picture:
    """A picture's pixels, uint8 [h, w, 3], blue-green-red, turned as its camera says.

    Raises:
        PermanentError: it cannot be read, is damaged or too large.
    """
    try:
        coded = np.frombuffer(path.read_bytes(), np.uint8)
        picture = cv2.imdecode(coded, cv2.IMREAD_COLOR)
    except (OSError, cv2.error) as error:
        raise PermanentError(f"{path} cannot be read: {error}") from error
    if picture is None:
        raise PermanentError(f"{path} is a damaged picture: it cannot be decoded")
    if picture.shape[0] * picture.shape[1] > PIXELS_MAX:
        raise PermanentError(f"{path} is larger than the {PIXELS_MAX} pixels that are looked at: make it smaller")
    return np.asarray(picture, np.uint8)


def write_image(path: Path, picture: Picture) -> None:
    """Write a JPEG or a PNG.

    Raises:
        PermanentError: its name has another ending, or it cannot be written.
    """
    if path.suffix.lower() not in _PICTURES:
        raise PermanentError(f"{path}: a picture is written as {' or '.join(_PICTURES)}")
    suffix = path.suffix.lower()
    quality = [] if suffix == ".png" else [cv2.IMWRITE_JPEG_QUALITY, _QUALITY]
    _, coded = cv2.imencode(suffix, picture, quality)
    try:
        path.write_bytes(coded.tobytes())
    except OSError as error:
        raise PermanentError(f"{path} cannot be written: {error.strerror}") from error


@dataclass(frozen=True, slots=True)
class Shot:
    """One picture of a video.

    Attributes:
        seq: its number in the video.
        at_s: seconds since the video's first picture.
    """

    seq: int
    at_s: float
    picture: Picture


@dataclass(frozen=True, slots=True)
class Video:
    """An open video.

    Attributes:
        fps: pictures a second, as the file says.
        length_s: how long it is, as the file says; None where it does not.
    """

    path: Path
    fps: float
    length_s: float | None
    _capture: cv2.VideoCapture

    def shots(self, fps: float) -> Iterator[Shot]:
        """Its pictures, or fewer of them, in order.

        Args:
            fps: pictures a second that are wanted, at most.

        Raises:
            PermanentError: it has no picture.
        """
        seq, first_s, next_s, last_s = 0, 0.0, 0.0, -1.0
        while self._capture.grab():
            told_s = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
            first_s = told_s if seq == 0 else first_s
            at_s = told_s - first_s if told_s - first_s > last_s else last_s + 1 / self.fps
            last_s = at_s
            # Half a picture early is nearer than half a picture late.
            if at_s + 0.5 / self.fps >= next_s:
                read, picture = self._capture.retrieve()
                if read:
                    next_s = max(next_s + 1 / fps, at_s + 0.5 / fps)
                    yield Shot(seq, at_s, np.asarray(picture, np.uint8))
            seq += 1
        if seq == 0:
            raise PermanentError(f"{self.path} has a video stream without a picture: it is cut off or damaged")


@contextmanager
def open_video(path: Path) -> Iterator[Video]:
    """Open a video file.

    Raises:
        PermanentError: it cannot be read, or is neither a picture nor a video.
    """
    neither = f"{path} is neither a picture nor a video that FFmpeg reads"
    # FFmpeg takes a text for a picture of letters. Every container has zeros in its head.
    if b"\0" not in _read_head(path):
        raise PermanentError(neither)
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    try:
        if not capture.isOpened():
            raise PermanentError(f"{neither}, or has no video stream")
        fps = capture.get(cv2.CAP_PROP_FPS)
        fps = fps if 0 < fps <= 1000 else _FPS_OTHERWISE
        pictures = capture.get(cv2.CAP_PROP_FRAME_COUNT)
        yield Video(path, fps, pictures / fps if pictures > 0 else None, capture)
    finally:
        capture.release()


def _read_head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_HEAD_BYTES)
    except OSError as error:
        raise PermanentError(f"{path} cannot be read: {error.strerror}") from error


class FilmWriter(Protocol):
    """A video that is being written."""

    codec: str
    """What players must know, in words."""

    def write(self, picture: Picture) -> None:
        """Add a picture, of the size of the first one.

        Raises:
            PermanentError: the file cannot be written.
        """
        ...

    def close(self) -> None:
        """Finish the file.

        Raises:
            PermanentError: the file cannot be written.
        """
        ...


def open_film(path: Path, picture: Picture, fps: float) -> FilmWriter:
    """Begin an .mp4: H.264 where GStreamer is there to make it, else MPEG-4, which browsers do not play.

    Args:
        path: of the file; what is there is replaced.
        picture: one of its pictures, for the size.
        fps: pictures a second.

    Raises:
        PermanentError: its name has another ending, or it cannot be written.
    """
    if path.suffix.lower() != _FILM:
        raise PermanentError(f"{path}: a video is written as {_FILM}")
    try:
        path.open("wb").close()
    except OSError as error:
        raise PermanentError(f"{path} cannot be written: {error.strerror}") from error
    # H.264 keeps colours at half the resolution, so both sides are even; and GStreamer's rows begin at whole words.
    height, width = picture.shape[0] // 2 * 2, picture.shape[1] // 4 * 4
    encoder = _h264_encoder()
    if encoder is not None:
        return _GstreamerFilm(path, (width, height), fps, encoder)
    return _OpenCvFilm(path, (width, height), fps)


def _h264_encoder() -> tuple[str, ...] | None:
    if shutil.which("gst-launch-1.0") is None or shutil.which("gst-inspect-1.0") is None:
        return None
    return next((encoder for encoder in _ENCODERS if _has_element(encoder[0])), None)


def _has_element(name: str) -> bool:
    return subprocess.run(["gst-inspect-1.0", "--exists", name], check=False, capture_output=True).returncode == 0


class _GstreamerFilm:
    """H.264 by GStreamer's command line, which gets bare pixels."""

    codec = "H.264"

    def __init__(self, path: Path, size_px: tuple[int, int], fps: float, encoder: tuple[str, ...]) -> None:
        self._path = path
        self._size_px = size_px
        rate = Fraction(fps).limit_denominator(1001)
        width, height = size_px
        raw = f"format=bgr width={width} height={height} framerate={rate.numerator}/{rate.denominator}".split()
        # Without it an encoder keeps the colours at full resolution, which few players show.
        shape = ["video/x-raw,format=I420"]
        steps = [["fdsrc", "fd=0"], ["rawvideoparse", *raw], ["videoconvert"], shape, [*encoder], ["h264parse"]]
        steps += [["mp4mux", "faststart=true"], ["filesink", f"location={path}"]]
        command = ["gst-launch-1.0", "-q", *steps[0]]
        for step in steps[1:]:
            command += ["!", *step]
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the film
        # Ctrl-C is for whoever feeds it, and then ends the film in order: a cut-off MP4 plays nowhere.
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=self._said,
            bufsize=0,
            start_new_session=True,
        )

    def write(self, picture: Picture) -> None:
        width, height = self._size_px
        pixels = np.ascontiguousarray(picture[:height, :width]).data.cast("B")
        pipe = self._process.stdin
        try:
            while pixels and pipe is not None:
                pixels = pixels[pipe.write(pixels) :]
        except BrokenPipeError as error:
            raise self._failure() from error

    def close(self) -> None:
        with self._said:
            if self._process.stdin is not None:
                self._process.stdin.close()
            try:
                self._process.wait(_END_S)
            except subprocess.TimeoutExpired as error:
                self._process.kill()
                self._process.wait()
                raise PermanentError(f"{self._path}: the encoder did not end") from error
            if self._process.returncode:
                raise self._failure()

    def _failure(self) -> PermanentError:
        self._process.wait(_END_S)
        self._said.seek(0)
        lines = [line for line in self._said.read().decode(errors="replace").splitlines() if line.strip()]
        told = (line for line in lines if line.startswith(("ERROR", "WARNING: erroneous")))
        reason = next(told, "GStreamer ended and gave no reason")
        return PermanentError(f"{self._path} cannot be written: {reason}")


class _OpenCvFilm:
    """MPEG-4 (part 2), as the FFmpeg inside OpenCV writes it."""

    codec = "MPEG-4"

    def __init__(self, path: Path, size_px: tuple[int, int], fps: float) -> None:
        self._size_px = size_px
        self._writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"mp4v"), fps, size_px)
        if not self._writer.isOpened():
            raise PermanentError(f"{path} cannot be written: OpenCV has no {self.codec} encoder here")

    def write(self, picture: Picture) -> None:
        width, height = self._size_px
        self._writer.write(np.ascontiguousarray(picture[:height, :width]))

    def close(self) -> None:
        self._writer.release()
