"""Video files through GStreamer: the one place that knows it.

One pipeline decodes each frame once and hands it out twice: as a small brightness picture for motion detection, scaled
before it is converted (the other order costs twice as much), and at full size, kept by reference. A JPEG is made of the
full picture only when somebody asks, in a second small pipeline: at 480 x 360 it costs more than everything before it.

Nothing here runs a GLib main loop; errors are read from the pipeline's bus when no picture comes.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gi
import numpy as np

from config.clock import Clock
from config.errors import PermanentError, TransientError, VigilError
from edge.source import LUMA_HEIGHT_PX, CapturedFrame, FileUri, Pacer

if TYPE_CHECKING:
    from numpy.typing import NDArray

gi.require_version("Gst", "1.0")
gi.require_version("GstApp", "1.0")
# Versions first, then the import; importing GstApp gives the application sinks and sources their methods.
from gi.repository import Gst, GstApp  # noqa: E402, F401

__all__ = ["FileSource"]

_PACKAGES = {
    "filesrc": "libgstreamer1.0-0",
    "decodebin": "gstreamer1.0-plugins-base",
    "videorate": "gstreamer1.0-plugins-base",
    "videoconvert": "gstreamer1.0-plugins-base",
    "videoscale": "gstreamer1.0-plugins-base",
    "appsink": "gstreamer1.0-plugins-base",
    "appsrc": "gstreamer1.0-plugins-base",
    "jpegenc": "gstreamer1.0-plugins-good",
}
_DECODERS = "gstreamer1.0-libav gstreamer1.0-plugins-bad gstreamer1.0-plugins-ugly"

# async=false: each sink would otherwise hold the one streaming thread until the other has a first picture, for ever.
_SINK = "appsink async=false sync=false max-buffers=2"
_DECODE = (
    "filesrc name=file ! decodebin expose-all-streams=false caps=video/x-raw(ANY) ! {thin} videoconvert "
    f"! video/x-raw,format=I420 ! tee name=fan fan. ! {_SINK} name=full "
    f"fan. ! videoscale add-borders=false ! video/x-raw,height={LUMA_HEIGHT_PX},pixel-aspect-ratio=1/1 "
    f"! videoconvert ! video/x-raw,format=GRAY8 ! {_SINK} name=luma"
)
# A JPEG is full range BT.601 (JFIF), a video mostly limited range BT.709, and jpegenc converts neither: without this
# the picture comes out flat (28 dB from the right one instead of 35).
_ENCODE = (
    "appsrc name=raw format=time ! videoconvert ! video/x-raw,format=I420,colorimetry=1:4:0:0 ! jpegenc name=jpeg "
    f"! {_SINK} name=out"
)
_SLICE_S = 0.1
"""How long a wait for a picture goes without a look at the bus and at `stop`."""
_ENCODE_TIMEOUT_S = 5.0
_PERIOD_DEFAULT_S = 0.1
"""Time between frames of a video that does not say."""

Gst.init(None)


class FileSource:
    """A video file.

    Concurrency: `frames` belongs to one thread; a frame's `encode` may be called from any.

    Args:
        uri: the file and how to play it.
        clock: sets the pace and stamps the pictures.
        fps_max: thin out to this rate, unless every frame is wanted (``pace=max``).
        stall_timeout_s: silence after which the file counts as broken.

    Raises:
        PermanentError: the file cannot be read, or a part of GStreamer is missing.
    """

    def __init__(self, uri: FileUri, *, clock: Clock, fps_max: float | None, stall_timeout_s: float) -> None:
        _check_elements()
        _check_file(uri.path)
        self._uri = uri
        self._clock = clock
        self._fps_max = fps_max if uri.pace == "own" else None
        self._stall_timeout_s = stall_timeout_s
        self._encoder = _JpegEncoder()

    def frames(self, stop: threading.Event) -> Generator[CapturedFrame, None, None]:
        """Pictures of the file, over and over when it loops.

        Each round decodes the file anew, in a new pipeline: it takes some 10 ms and works for every container, seekable
        or not.

        Raises:
            TransientError: decoding broke off, or no picture came in time.
            PermanentError: there is no video in it that GStreamer can read.
        """
        pacer = Pacer(self._clock)
        seq, start_s = 0, 0.0
        while not stop.is_set():
            with closing(_Pass(self._uri.path, self._fps_max, self._stall_timeout_s)) as one_pass:
                for picture in one_pass.pictures(stop):
                    at_s = start_s + picture.at_s
                    due = self._uri.pace == "max" or pacer.wait_due(stop, at_s, picture.period_s)
                    if stop.is_set():
                        return
                    if due:
                        yield self._frame(seq, at_s, picture)
                    seq += 1
                start_s += one_pass.end_s
            if not self._uri.loop:
                return

    def _frame(self, seq: int, at_s: float, picture: _Picture) -> CapturedFrame:
        return CapturedFrame(
            seq=seq,
            captured_at=self._clock.now(),
            at_s=at_s,
            luma=picture.luma,
            width_px=picture.width_px,
            height_px=picture.height_px,
            encode=partial(self._encoder.encode, picture.full),
        )

    def close(self) -> None:
        """Stop the encoder; frames that are still held can no longer be encoded."""
        self._encoder.close()


@dataclass(frozen=True, slots=True)
class _Picture:
    """A decoded frame; `full` is GStreamer's sample, at full size."""

    luma: NDArray[np.uint8]
    full: Any
    width_px: int
    height_px: int
    at_s: float
    period_s: float


class _Pass:
    """One pass over a file, from its first frame to its last."""

    def __init__(self, path: Path, fps_max: float | None, stall_timeout_s: float) -> None:
        thin = f"videorate drop-only=true max-rate={math.ceil(fps_max)} !" if fps_max is not None else ""
        self._path = path
        self._stall_timeout_s = stall_timeout_s
        self._pipeline = Gst.parse_launch(_DECODE.format(thin=thin))
        self._pipeline.get_by_name("file").set_property("location", str(path))
        self._pipeline.connect("deep-element-added", _use_one_thread)
        self._full = self._pipeline.get_by_name("full")
        self._luma = self._pipeline.get_by_name("luma")
        self._count = 0
        self.end_s = 0.0

    def close(self) -> None:
        """Stop decoding and free the pipeline."""
        self._pipeline.set_state(Gst.State.NULL)

    def pictures(self, stop: threading.Event) -> Iterator[_Picture]:
        """Every frame in order; `end_s` is then the video's length."""
        self._pipeline.set_state(Gst.State.PLAYING)
        while (luma := self._pull(self._luma, stop)) is not None:
            full = self._pull(self._full, stop)
            if full is None:
                return
            picture = self._picture(luma, full)
            self._count += 1
            self.end_s = picture.at_s + picture.period_s
            yield picture
        if self._count == 0 and not stop.is_set():
            raise PermanentError(f"{self._path} has no picture in it; convert it with ffmpeg, or record it again")

    def _picture(self, luma: Any, full: Any) -> _Picture:  # noqa: ANN401 - GStreamer has no types
        layout = full.get_caps().get_structure(0)
        known, frames, seconds = layout.get_fraction("framerate")
        period_s = seconds / frames if known and frames > 0 else _PERIOD_DEFAULT_S
        stamp_ns = int(full.get_buffer().pts)
        # A frame without a time of its own follows the one before, and none goes back.
        at_s = self.end_s if stamp_ns == Gst.CLOCK_TIME_NONE else stamp_ns / Gst.SECOND
        return _Picture(
            luma=_luma_array(luma),
            full=full,
            width_px=layout.get_value("width"),
            height_px=layout.get_value("height"),
            at_s=max(at_s, self.end_s - period_s),
            period_s=period_s,
        )

    def _pull(self, sink: Any, stop: threading.Event) -> Any:  # noqa: ANN401 - GStreamer has no types
        """The sink's next sample; None at the end of the file, or when `stop` is set."""
        waited_s = 0.0
        while not stop.is_set():
            sample = sink.try_pull_sample(int(_SLICE_S * Gst.SECOND))
            if sample is not None:
                return sample
            ended = sink.is_eos()  # before the bus is read: an error is posted ahead of the end that it causes
            self._raise_error()
            if ended:
                return None
            waited_s += _SLICE_S
            if waited_s >= self._stall_timeout_s:
                raise TransientError(f"{self._path}: no picture for {self._stall_timeout_s:g} s; {self._why_silent()}")
        return None

    def _why_silent(self) -> str:
        if self._count:
            return "check the disk or network folder that it is on"
        return "it holds none, or the disk or network folder that it is on hangs"

    def _raise_error(self) -> None:
        missing: list[str] = []
        bus = self._pipeline.get_bus()
        while (message := bus.pop_filtered(Gst.MessageType.ERROR | Gst.MessageType.ELEMENT)) is not None:
            if message.type == Gst.MessageType.ERROR:
                error, _debug = message.parse_error()
                raise self._explain(error, missing)
            structure = message.get_structure()
            if structure.has_name("missing-plugin"):
                missing.append(structure.get_string("name") or "a plugin")

    def _explain(self, error: Any, missing: list[str]) -> VigilError:  # noqa: ANN401 - GStreamer has no types
        said = error.message.rstrip(".")
        if missing:
            return PermanentError(
                f"{self._path}: GStreamer has no {', '.join(missing)}; sudo apt-get install {_DECODERS}"
            )
        if self._count:
            return TransientError(
                f"{self._path} is damaged after frame {self._count} ({said}); record or copy it again"
            )
        if error.matches(Gst.CoreError.quark(), Gst.CoreError.MISSING_PLUGIN):
            said = "it has no video stream"
        return PermanentError(
            f"{self._path} is not a video that GStreamer can read ({said}); `ffprobe` shows what it is, "
            "`ffmpeg -i IN OUT.mp4` converts it"
        )


def _luma_array(sample: Any) -> NDArray[np.uint8]:  # noqa: ANN401 - GStreamer has no types
    layout = sample.get_caps().get_structure(0)
    width_px, height_px = layout.get_value("width"), layout.get_value("height")
    buffer = sample.get_buffer()
    pixels = np.frombuffer(buffer.extract_dup(0, buffer.get_size()), np.uint8)
    # Rows are padded to four bytes. Source: GStreamer, "Raw video media types", GRAY8.
    return np.ascontiguousarray(pixels.reshape(height_px, -1)[:, :width_px])


def _use_one_thread(_bin: object, _child_bin: object, element: Any) -> None:  # noqa: ANN401 - GStreamer has no types
    """Decode on one thread: more threads cost 4 to 25 % more CPU a frame, and a node has a camera a core."""
    if element.find_property("max-threads") is not None:
        element.set_property("max-threads", 1)


def _check_elements() -> None:
    for name, package in _PACKAGES.items():
        if Gst.ElementFactory.find(name) is None:
            raise PermanentError(f"GStreamer has no element {name!r}: sudo apt-get install {package}")


def _check_file(path: Path) -> None:
    try:
        if path.exists() and not path.is_file():  # opening a pipe would wait for its writer
            raise PermanentError(f"{path} is not a file; give the path of a video file")
        with path.open("rb") as file:
            empty = not file.read(1)
    except FileNotFoundError:
        raise PermanentError(f"there is no file {path} (looked in {Path.cwd()}); check the path") from None
    except OSError as error:
        raise PermanentError(f"{path} cannot be read: {error.strerror}; check its permissions") from error
    if empty:
        raise PermanentError(f"{path} is empty; record it again or give another file")


class _JpegEncoder:
    """Makes JPEGs of full-size samples.

    Concurrency: calls take turns.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pipeline = Gst.parse_launch(_ENCODE)
        self._raw = self._pipeline.get_by_name("raw")
        self._jpeg = self._pipeline.get_by_name("jpeg")
        self._out = self._pipeline.get_by_name("out")
        self._pipeline.set_state(Gst.State.PLAYING)

    def encode(self, sample: Any, quality: int) -> bytes:  # noqa: ANN401 - GStreamer has no types
        """The JPEG of a sample.

        Raises:
            TransientError: the encoder is closed, or failed.
        """
        with self._lock:
            self._jpeg.set_property("quality", quality)
            self._raw.push_sample(sample)
            encoded = self._out.try_pull_sample(int(_ENCODE_TIMEOUT_S * Gst.SECOND))
        if encoded is None:
            raise TransientError("the JPEG encoder gave no picture; it is closed, or failed")
        buffer = encoded.get_buffer()
        return bytes(buffer.extract_dup(0, buffer.get_size()))

    def close(self) -> None:
        """Stop the encoder."""
        self._pipeline.set_state(Gst.State.NULL)
