"""One camera's graph: it reads, cuts into coded pictures, decodes each once, and hands out what comes by.

::

    front (by the URI) --> parse --> coded pictures --> decoder --> full pictures --> scale --> luma
                                     | on_packet                    | kept by reference         |
                                     v                              +----------- shot <---------+

There is no queue in it and no tee: probes look at what passes, on the one thread that GStreamer has for it, and the
brightness picture, scaled before anything else (the other order costs twice as much), arrives while its full picture
is still in hand. What nobody asked for is not made: no packets, no JPEGs, and without `decodes` no pictures.

Nothing here runs a GLib main loop; messages are read from the pipeline's bus by who waits for pictures.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from config.clock import Clock
from config.errors import PermanentError, TransientError, VigilError
from edge.gst.codecs import CODECS, Codec, choose_decoders, codec_of
from edge.gst.elements import Gio, GLib, Gst, rank_of, require_elements
from edge.gst.fronts import Front
from edge.gst.slot import Slot
from edge.gst.timeline import SLICE_S, KeyframeGate, TimeLine, Trouble, Watch
from edge.gst.trouble import Cause
from edge.modes import FrameGate
from edge.picture import Packet
from edge.source import LUMA_HEIGHT_PX, SourceOptions

__all__ = ["DecoderError", "Graph", "Shot", "require_graph"]

_LOOK = (
    "videoconvert ! video/x-raw,format={I420,NV12} ! videoscale name=scale add-borders=false "
    f"! video/x-raw,height={LUMA_HEIGHT_PX},pixel-aspect-ratio=1/1 "
    "! fakesink name=luma async=false sync=false"
)
_LOOK_ELEMENTS = ("videoconvert", "videoscale", "fakesink", "capsfilter")
_DROP_ALL = "fakesink async=false sync=false"
_IN_BURSTS = ("hlsdemux", "hlsdemux2", "dashdemux", "dashdemux2")
"""What reads seconds of video at once."""
_PERIOD_DEFAULT_S = 0.1
"""Time between pictures of a stream that does not say."""
_TROUBLES: dict[Trouble, str] = {
    "silent": "no picture for {timeout_s:g} s; {hint}",
    "undecoded": "{decoder} makes no pictures of what comes; set decoder: software, or another codec in the camera",
    "no keyframe": "no keyframe came; set the camera's keyframe interval (GOP, I-frame interval) to 2 s",
}


class DecoderError(TransientError):
    """A decoder refuses the stream from the start; another one may take it."""


@dataclass(frozen=True, slots=True)
class Shot:
    """A decoded picture, twice.

    Attributes:
        seq: counts from 0, those included that nobody took in time.
        luma: GStreamer's sample, `LUMA_HEIGHT_PX` high; its first plane is brightness.
        full: GStreamer's sample, at full size.
        width_px: of the full picture.
        height_px: the same.
        at: when it was decoded.
        at_s: seconds since the first, never falling.
        period_s: to the next one.
    """

    seq: int
    luma: Any
    full: Any
    width_px: int
    height_px: int
    at: datetime
    at_s: float
    period_s: float


def require_graph(front: Front, more: Iterable[str] = ()) -> None:
    """Check that GStreamer has all that a graph is made of, and `more`.

    Raises:
        PermanentError: it has not; the message names the package.
    """
    require_elements((*front.elements, *_LOOK_ELEMENTS, *more))


class Graph:
    """One attempt at one source, from its first elements to its end.

    Concurrency: `shots`, `run` and `close` belong to one thread; what begins with `_on` runs on GStreamer's.

    Args:
        front: how it begins.
        clock: stamps what comes.
        options: how it was asked for.
        decodes: whether pictures are wanted; otherwise packets only.
        refused: decoders that have refused the stream.

    Attributes:
        gate: which coded pictures are decoded.
        gives_packets: whether it is a stream that packets are made of; known from the first picture on.
        decoder: who decodes, likewise.

    Raises:
        PermanentError: the file of a certificate cannot be read.
    """

    def __init__(
        self, front: Front, *, clock: Clock, options: SourceOptions, decodes: bool = True, refused: tuple[str, ...] = ()
    ) -> None:
        self._front = front
        self._clock = clock
        self._options = options
        self._decodes = decodes
        self._refused = refused
        self._others = False
        self._slot = Slot[Shot](keeps_all=not front.live)
        self._thinned = FrameGate()
        self._coded_times, self._times = TimeLine(), TimeLine()
        self.gate = KeyframeGate()
        self.gives_packets = False
        self.decoder = ""
        self._error: VigilError | None = None
        self._warning = ""
        self._missing: list[str] = []
        self._ended = False
        self._bursts = False
        self._heard = 0
        self._count = 0
        self._layout = _Layout()
        self._full: tuple[Any, datetime, float] | None = None
        self._undo: list[Callable[[], None]] = []
        self._stream: Any = None
        self._bin = Gst.parse_bin_from_description(front.description, False)  # noqa: FBT003 - GStreamer's
        self._pipeline = Gst.Pipeline.new(None)
        self._connect(self._pipeline, "deep-element-added", self._on_element)
        self._pipeline.add(self._bin)
        self._configure()

    def _configure(self) -> None:
        source = self._bin.get_by_name("source")
        for name, value in self._front.settings.items():
            source.set_property(name, value)
        if self._front.tls_ca_file is not None:
            try:
                source.set_property("tls-database", Gio.TlsFileDatabase.new(str(self._front.tls_ca_file.absolute())))
            except GLib.Error as error:
                raise PermanentError(f"{self._front.tls_ca_file} is not a file of certificates: {error}") from error
        if source.find_property("protocols") is not None:
            self._connect(source, "select-stream", self._on_stream)
        opener = self._bin.get_by_name("open") or source
        self._connect(opener, "pad-added", self._on_pad)
        self._connect(opener, "pad-removed", self._on_pad_removed)

    def _connect(self, target: Any, signal: str, handler: Callable[..., Any]) -> None:  # noqa: ANN401 - no types
        number = target.connect(signal, handler)
        self._undo.append(lambda: target.disconnect(number))

    # --- for who waits

    def shots(self, stop: threading.Event) -> Generator[Shot, None, None]:
        """Pictures in order, until `stop` is set or the stream ends.

        Raises:
            TransientError: it broke, or fell silent.
            PermanentError: a person must cure it.
        """
        watch = Watch(self._options.stall_timeout_s)
        self._pipeline.set_state(Gst.State.PLAYING)
        while not stop.is_set():
            shot = self._slot.take(SLICE_S)
            self._read_bus()
            if shot is None and self._ended:
                shot = self._slot.take(0.0)  # it came while the bus was read
                if shot is None:
                    self._check_video()
                    return
            if shot is not None:
                watch.saw(self._heard, self.gate.passed)
                yield shot
            elif trouble := watch.misses(self._heard, self.gate.passed, pictures=self._decodes):
                raise self._broken(trouble)

    def run(self, stop: threading.Event) -> None:
        """Let packets pass, until `stop` is set or the stream ends; raises as `shots` does."""
        for _shot in self.shots(stop):
            pass

    def close(self) -> None:
        """Stop and free everything; may be called twice."""
        self._slot.close()
        self._pipeline.set_state(Gst.State.NULL)
        # Each handler and probe holds this object, which holds what they hang on.
        while self._undo:
            self._undo.pop()()
        self._full = self._stream = None

    def _read_bus(self) -> None:
        if self._error is not None:
            raise self._error
        bus = self._pipeline.get_bus()
        while (message := bus.pop()) is not None:  # all of them: what nobody pops is kept
            if message.type == Gst.MessageType.ERROR:
                raise self._explain(message)
            if message.type == Gst.MessageType.WARNING:
                self._warning = message.parse_warning()[0].message.rstrip(".")
            elif message.type == Gst.MessageType.EOS:
                self._ended = True
            elif message.type == Gst.MessageType.ELEMENT and message.get_structure().has_name("missing-plugin"):
                self._missing.append(message.get_structure().get_string("name") or "a plugin")

    def _check_video(self) -> None:
        if self._stream is None:
            error = GLib.Error.new_literal(Gst.CoreError.quark(), "no video", Gst.CoreError.MISSING_PLUGIN)
            raise self._front.explain(self._cause(error))

    def _explain(self, message: Any) -> VigilError:  # noqa: ANN401 - GStreamer has no types
        error, _debug = message.parse_error()
        if self._others and not self._count and message.src.get_name() == "decoder":
            return DecoderError(f"{self._front.shown}: {self.decoder} refuses it: {error.message}")
        return self._front.explain(self._cause(error))

    def _cause(self, error: Any) -> Cause:  # noqa: ANN401 - GStreamer has no types
        return Cause(error.domain, error.code, error.message, pictures=self._count, missing=tuple(self._missing))

    def _broken(self, trouble: Trouble) -> VigilError:
        text = _TROUBLES[trouble].format(
            timeout_s=self._options.stall_timeout_s, decoder=self.decoder, hint=self._front.hint
        )
        message = f"{self._front.shown}: {text}" + (f" ({self._warning})" if self._warning else "")
        refused = trouble == "undecoded" and self._others and not self._count
        return DecoderError(message) if refused else TransientError(message)

    # --- on GStreamer's threads

    def _on_element(self, _pipeline: object, _bin: object, element: Any) -> None:  # noqa: ANN401 - no types
        """Decode on one thread: more threads cost 4 to 25 % more CPU a frame, and a node has a camera a core."""
        if element.find_property("max-threads") is not None:
            element.set_property("max-threads", 1)
        self._bursts = self._bursts or element.get_factory().get_name() in _IN_BURSTS

    def _on_stream(self, _source: object, _number: int, caps: Any) -> bool:  # noqa: ANN401 - no types
        """Whether a camera should send one of its streams: sound and metadata are left where they are."""
        return bool(caps.get_structure(0).get_string("media") == "video")

    def _on_pad(self, _opener: object, pad: Any) -> None:  # noqa: ANN401 - GStreamer has no types
        caps = (pad.get_current_caps() or pad.query_caps(None)).get_structure(0)
        if self._stream is not None or not _is_video(caps):
            self._append(pad, _DROP_ALL)  # not left open: that is an error where it is the only one
            return
        self._stream = pad
        try:
            self._append(pad, self._tail(caps))
        except VigilError as error:
            self._error = error
        except GLib.Error as error:  # what is called a decoder is none, or decodes something else
            self._error = PermanentError(
                f"{self._front.shown}: {self.decoder} does not decode it ({error.message}); set decoder: auto"
            )

    def _append(self, pad: Any, description: str) -> None:  # noqa: ANN401 - GStreamer has no types
        tail = Gst.parse_bin_from_description(description, True)  # noqa: FBT003 - GStreamer's
        if (coded := tail.get_by_name("coded")) is not None:
            self.gives_packets = True
            self._probe(coded.get_static_pad("src"), self._on_coded)
        if (scale := tail.get_by_name("scale")) is not None:
            self._probe(scale.get_static_pad("sink"), self._on_full)
            self._probe(tail.get_by_name("luma").get_static_pad("sink"), self._on_luma)
        self._bin.add(tail)
        tail.sync_state_with_parent()
        pad.link(tail.get_static_pad("sink"))

    def _on_pad_removed(self, _opener: object, pad: Any) -> None:  # noqa: ANN401 - GStreamer has no types
        if pad is self._stream:
            self._error = TransientError(f"{self._front.shown}: the stream was replaced by another one")

    def _tail(self, caps: Any) -> str:  # noqa: ANN401 - GStreamer has no types
        """What follows the pad of a stream, for GStreamer's parser.

        Raises:
            PermanentError: nothing on this machine decodes it, or it has nothing that could be recorded.
        """
        media, rtp = caps.get_name(), caps.get_name() == "application/x-rtp"
        codec = CODECS.get(caps.get_string("encoding-name") or "") if rtp else codec_of(media)
        first = ("clocksync",) if self._bursts else ()
        if codec is None:
            if not self._decodes:
                raise PermanentError(f"{self._front.shown} is neither H.264, H.265 nor JPEG: set the camera to H.264")
            decode = () if media == "video/x-raw" else ("decodebin name=decoder",)
            return " ! ".join((*first, *decode, _LOOK))
        coded = (codec.depay,) if rtp else ()
        parsed = (*first, *coded, codec.parse, f'capsfilter name=coded caps="{codec.packets}"')
        return " ! ".join((*parsed, *((self._decode(codec), _LOOK) if self._decodes else (_DROP_ALL,))))

    def _decode(self, codec: Codec) -> str:
        wanted = choose_decoders(codec, self._options.decoder, rank_of)
        left = [name for name in wanted if name not in self._refused] or wanted[-1:]
        self.decoder, self._others = left[0], len(left) > 1
        return f"{self.decoder} name=decoder"

    def _probe(self, pad: Any, look: Callable[[Any, Any], Any]) -> None:  # noqa: ANN401 - no types
        number = pad.add_probe(Gst.PadProbeType.BUFFER, look)
        self._undo.append(lambda: pad.remove_probe(number))

    def _on_coded(self, pad: Any, passing: Any) -> Any:  # noqa: ANN401 - GStreamer has no types
        buffer = passing.get_buffer()
        keyframe = not buffer.has_flags(Gst.BufferFlags.DELTA_UNIT)
        self._heard += 1
        stamp_ns = buffer.pts if buffer.dts == Gst.CLOCK_TIME_NONE else buffer.dts
        at_s = self._coded_times.place(_seconds(stamp_ns), _PERIOD_DEFAULT_S)
        if self._options.on_packet is not None:
            sample = Gst.Sample.new(buffer, pad.get_current_caps(), None, None)
            self._options.on_packet(Packet(sample, self._clock.now(), at_s, keyframe, buffer.get_size()))
        return Gst.PadProbeReturn.OK if self.gate.passes(at_s, keyframe=keyframe) else Gst.PadProbeReturn.DROP

    def _on_full(self, pad: Any, passing: Any) -> Any:  # noqa: ANN401 - GStreamer has no types
        buffer, caps = passing.get_buffer(), pad.get_current_caps()
        self._heard += 1
        self._layout = self._layout.of(caps)
        at_s = self._times.place(_seconds(buffer.pts), self._layout.period_s)
        fps_max = self._options.fps_max
        if fps_max is not None and not self._thinned.passes(at_s, fps_max):
            return Gst.PadProbeReturn.DROP
        self._full = (Gst.Sample.new(buffer, caps, None, None), self._clock.now(), at_s)
        return Gst.PadProbeReturn.OK

    def _on_luma(self, pad: Any, passing: Any) -> Any:  # noqa: ANN401 - GStreamer has no types
        if self._full is not None:
            luma = Gst.Sample.new(passing.get_buffer(), pad.get_current_caps(), None, None)
            (full, at, at_s), self._full = self._full, None
            layout = self._layout
            period_s = max(layout.period_s, 1.0 / (self._options.fps_max or 1e6))
            shot = Shot(self._count, luma, full, layout.width_px, layout.height_px, at, at_s, period_s)
            self._count += 1
            self._slot.put(shot)
        return Gst.PadProbeReturn.OK


class _Layout:
    """What the caps of raw pictures say; they seldom change."""

    def __init__(self, caps: Any = None) -> None:  # noqa: ANN401 - GStreamer has no types
        self._caps = caps
        self.width_px = self.height_px = 0
        self.period_s = _PERIOD_DEFAULT_S
        if caps is not None:
            layout = caps.get_structure(0)
            self.width_px, self.height_px = layout.get_value("width"), layout.get_value("height")
            known, frames, seconds = layout.get_fraction("framerate")
            if known and frames > 0:
                self.period_s = seconds / frames

    def of(self, caps: Any) -> _Layout:  # noqa: ANN401 - GStreamer has no types
        """The layout of these."""
        return self if self._caps is not None and caps.is_equal(self._caps) else _Layout(caps)


def _is_video(caps: Any) -> bool:  # noqa: ANN401 - GStreamer has no types
    return bool(caps.get_name().startswith(("video/", "image/")) or caps.get_string("media") == "video")


def _seconds(stamp_ns: int) -> float | None:
    return None if stamp_ns == Gst.CLOCK_TIME_NONE else stamp_ns / Gst.SECOND
