"""The stream of a camera that is only recorded, while a smaller one is looked at."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import closing
from typing import Protocol

from config import Backoff, Clock, Supervised, TransientError, VigilError
from config.cameras import CameraSettings
from edge.picture import Packet
from edge.source import PacketSource, SourceOptions

__all__ = ["MainStream", "OpenPackets"]


class OpenPackets(Protocol):
    """Opens a source of coded pictures; :func:`edge.capture.open_packets` does."""

    def __call__(self, uri: str, *, clock: Clock, options: SourceOptions) -> PacketSource:
        """Open it."""
        ...


class MainStream:
    """Reads a camera's main stream for its recorder. Its trouble never touches the watching.

    Concurrency: it owns one thread; everything may be called from any.

    Args:
        camera: the camera's name.
        settings: what its owner chose.
        on_packet: gets each coded picture.
        clock: time.
        stall_timeout_s: silence after which it is opened again.
        open_packets: how to open it.

    Attributes:
        trouble: why nothing comes; None while it does.
    """

    def __init__(
        self,
        camera: str,
        settings: CameraSettings,
        on_packet: Callable[[Packet], None],
        *,
        clock: Clock,
        stall_timeout_s: float,
        open_packets: OpenPackets,
    ) -> None:
        self._uri = settings.source
        self._on_packet = on_packet
        self._clock = clock
        self._options = SourceOptions(
            stall_timeout_s=stall_timeout_s, decoder=settings.decoder, on_packet=self._take_packet
        )
        self._open_packets = open_packets
        self._stop = threading.Event()
        self._backoff = Backoff(0.25, 8.0)
        self.trouble: str | None = None
        self._thread = Supervised(
            f"main-stream-{camera}", self._read, stop=self._stop, backoff=self._backoff, clock=clock
        )

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def stop(self) -> None:
        """Ask it to end."""
        self._stop.set()

    def end(self, timeout_s: float) -> bool:
        """Stop, and wait for the end at most `timeout_s`; True when it has ended."""
        self._stop.set()
        return self._thread.join(timeout_s)

    def _take_packet(self, packet: Packet) -> None:
        if self.trouble is not None:
            self.trouble = None
            self._backoff.reset()
        self._on_packet(packet)

    def _read(self) -> None:
        try:
            with closing(self._open_packets(self._uri, clock=self._clock, options=self._options)) as source:
                source.run(self._stop)
            if not self._stop.is_set():
                raise TransientError("it has ended")
        except VigilError as error:
            self.trouble = f"the main stream: {error}"
            raise
