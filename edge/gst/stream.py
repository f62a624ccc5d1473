"""Cameras through GStreamer: the newest picture of each, or what they send as it is."""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import closing
from functools import partial

from config.clock import Clock
from config.errors import TransientError
from config.log import get_logger
from config.secrets import mask_uri
from edge.gst.fronts import Front, front_of
from edge.gst.graph import DecoderError, Graph, Shot, require_graph
from edge.gst.jpeg import JPEG_ELEMENTS, JpegEncoder
from edge.gst.pixels import copy_luma, copy_picture
from edge.source import CapturedFrame, SourceOptions
from edge.uris import LibcameraUri, NetworkUri, V4l2Uri

__all__ = ["Reader", "StreamPackets", "StreamSource"]

CameraUri = NetworkUri | V4l2Uri | LibcameraUri


class Reader:
    """Reads a source with the decoder that takes it, and makes frames of what comes.

    Concurrency: `keyframes_only` may be called from any thread, the rest from one; so may a frame's `encode` and
    `picture`.

    Args:
        front: how the source begins.
        clock: stamps the pictures.
        options: how to open it.

    Attributes:
        gives_packets: whether coded pictures go to `on_packet`; known from the first frame on.

    Raises:
        PermanentError: a part of GStreamer is missing.
    """

    def __init__(self, front: Front, *, clock: Clock, options: SourceOptions) -> None:
        require_graph(front, JPEG_ELEMENTS)
        self._front = front
        self._clock = clock
        self._options = options
        self._encoder = JpegEncoder()
        self._refused: tuple[str, ...] = ()
        self._only_keyframes = False
        self._graph: Graph | None = None
        self.gives_packets = False

    def shots(self, stop: threading.Event) -> Generator[Shot, None, None]:
        """Pictures from the source's beginning to its end; again at each call.

        A decoder that refuses the stream from the start gives way to the next one of this machine.

        Raises:
            TransientError: it cannot be reached, broke off, or fell silent.
            PermanentError: a person must cure it.
        """
        while True:
            graph = Graph(self._front, clock=self._clock, options=self._options, refused=self._refused)
            self._graph = graph
            graph.gate.only = self._only_keyframes
            with closing(graph):
                try:
                    for shot in graph.shots(stop):
                        self.gives_packets = graph.gives_packets
                        yield shot
                except DecoderError as error:
                    get_logger().warning("source.decoder_refused", decoder=graph.decoder, error=str(error))
                    self._refused = (*self._refused, graph.decoder)
                else:
                    return

    def frame(self, shot: Shot) -> CapturedFrame:
        """A picture as the rest of the edge knows it."""
        return CapturedFrame(
            seq=shot.seq,
            captured_at=shot.at,
            at_s=shot.at_s,
            luma=copy_luma(shot.luma),
            width_px=shot.width_px,
            height_px=shot.height_px,
            encode=partial(self._encoder.encode, shot.full),
            picture=partial(copy_picture, shot.full),
        )

    def keyframes_only(self, *, only: bool) -> None:
        """Decode keyframes only, at most one a second, or everything again from the next keyframe on."""
        self._only_keyframes = only
        if (graph := self._graph) is not None:
            graph.gate.only = only

    def close(self) -> None:
        """Let everything go; frames that are still held can no longer be encoded."""
        if self._graph is not None:
            self._graph.close()
        self._encoder.close()


class StreamSource:
    """A camera in the network or at this machine.

    A picture that nobody took in time makes room for the next one; the numbers of the frames show it.

    Concurrency: as :class:`edge.source.Source`.

    Args:
        uri: the camera.
        clock: stamps the pictures.
        options: how to open it.

    Raises:
        PermanentError: a part of GStreamer is missing.
    """

    def __init__(self, uri: CameraUri, *, clock: Clock, options: SourceOptions) -> None:
        self._front = _front(uri, options)
        self._reader = Reader(self._front, clock=clock, options=options)
        self.keyframes_only = self._reader.keyframes_only
        self.close = self._reader.close

    @property
    def gives_packets(self) -> bool:
        """Whether coded pictures go to `on_packet`; known from the first frame on."""
        return self._reader.gives_packets

    def frames(self, stop: threading.Event) -> Generator[CapturedFrame, None, None]:
        """Pictures as they come, until `stop` is set.

        Raises:
            TransientError: it cannot be reached, broke off, ended, or fell silent.
            PermanentError: a person must cure it.
        """
        for shot in self._reader.shots(stop):
            yield self._reader.frame(shot)
        if not stop.is_set():
            raise _ended(self._front)


class StreamPackets:
    """What a camera sends, as it is: nothing is decoded.

    Args:
        uri: the camera.
        clock: stamps the packets.
        options: how to open it; who takes its packets.

    Raises:
        PermanentError: a part of GStreamer is missing.
    """

    def __init__(self, uri: CameraUri, *, clock: Clock, options: SourceOptions) -> None:
        self._front = _front(uri, options)
        require_graph(self._front)
        self._graph = Graph(self._front, clock=clock, options=options, decodes=False)
        self.close = self._graph.close

    def run(self, stop: threading.Event) -> None:
        """Give each coded picture to `on_packet`, until `stop` is set.

        Raises:
            TransientError: it cannot be reached, broke off, ended, or fell silent.
            PermanentError: a person must cure it.
        """
        with closing(self._graph):
            self._graph.run(stop)
        if not stop.is_set():
            raise _ended(self._front)


def _front(uri: CameraUri, options: SourceOptions) -> Front:
    if isinstance(uri, NetworkUri) and not uri.tls_verified:
        get_logger().warning("source.tls_unverified", source=mask_uri(uri.location))
    return front_of(uri, stall_timeout_s=options.stall_timeout_s)


def _ended(front: Front) -> TransientError:
    return TransientError(f"{front.shown}: the camera ended the stream; it restarts, or has too many viewers")
