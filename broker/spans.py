"""Spans of a process: noted cheaply where the work is done, sent in batches by a thread of their own.

Where `tracing.endpoint` is not set, nothing is noted and no library is loaded. Where it is set and the collector is
away, spans wait in a bounded queue, the oldest make way and are counted, and nothing else notices.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from broker.figures import Figures
from broker.tracing import Step, is_sampled, span_id_of, trace_id_of
from config.clock import Clock, SystemClock
from config.errors import TransientError
from config.log import get_logger
from config.settings import Settings, TracingSettings
from config.supervise import Supervised

__all__ = ["Exporter", "Span", "Tracer"]

Attributes = Mapping[str, str | int | float | bool]

_QUEUE_MAX = 4_096
_BATCH_MAX = 512
_BATCH_WAIT_S = 1.0
_BATCHES_MAX = 4
"""In one go, so 2,048 spans a second: to send one takes 50 us of the processor, which a bridge in a storm has no time
for. What is above that is dropped and counted, as when the collector is away."""
_ASIDE_MAX = 2_048
"""Traces that were not drawn, in case an escalation comes of one: over a minute of four cameras at 8 frames/s."""
_SPANS_ASIDE_MAX = 16
"""Of one trace: somebody may send any number of events with one time."""
_JOIN_S = 2.0


@dataclass(frozen=True, slots=True)
class Span:
    """One step of one picture, done.

    Attributes:
        trace_id: the picture's; the others are `broker.tracing`'s too.
        parent_id: the step before; 0 for the first.
        attributes: what else is known of it.
    """

    step: Step
    trace_id: int
    span_id: int
    parent_id: int
    started_at: datetime
    ended_at: datetime
    attributes: Attributes


class Exporter(Protocol):
    """Sends spans away; from one thread."""

    def export(self, spans: Sequence[Span]) -> None:
        """Send them.

        Raises:
            TransientError: they did not arrive.
        """
        ...

    def close(self) -> None:
        """Give up what is on its way; from any thread."""
        ...


OpenExporter = Callable[[], Exporter]


class Tracer:
    """Notes what was done to pictures.

    A trace is drawn by its id, so that every process draws the same ones. Of the others, the last few wait here until
    somebody says `keep`: those of an escalation are wanted whole, and when a picture is taken nobody knows yet that it
    will become one.

    Concurrency: `note` and `keep` may be called from any thread; `start` and `close` belong to one.

    Args:
        site: whose pictures these are.
        settings: what share is drawn.
        open_exporter: called on the tracer's thread, before the first span goes; None turns everything off.
        clock: time.

    Attributes:
        on: whether anything is noted; look at it before you make what only `note` needs.
    """

    def __init__(
        self,
        site: str,
        settings: TracingSettings | None = None,
        *,
        open_exporter: OpenExporter | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.on = open_exporter is not None
        self._site = site
        self._share = (settings or TracingSettings()).share
        self._open_exporter = open_exporter
        self._clock: Clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._waiting: deque[Span] = deque()
        self._aside: OrderedDict[int, list[Span]] = OrderedDict()
        self._kept: OrderedDict[int, None] = OrderedDict()
        self._exporter: Exporter | None = None
        self._away = False
        self._exported = 0
        self._dropped = 0
        self._stop = threading.Event()
        self._log = get_logger()
        self._thread = Supervised("spans", self._export_once, stop=self._stop, clock=self._clock)

    @staticmethod
    def of(settings: Settings, role: str, clock: Clock | None = None) -> Tracer:
        """The tracer of a process, as the settings want it."""
        endpoint = settings.tracing.endpoint

        def open_exporter() -> Exporter:
            from broker.otlp import OtlpExporter

            return OtlpExporter(endpoint or "", site=settings.site, node=settings.node, role=role)

        make = open_exporter if endpoint is not None else None
        return Tracer(settings.site, settings.tracing, open_exporter=make, clock=clock)

    def start(self) -> None:
        """Begin to send."""
        if self.on:
            self._thread.start()

    def close(self) -> None:
        """Send what waits, where somebody takes it, and end."""
        if not self.on:
            return
        self._stop.set()
        if self._thread.join(_JOIN_S):
            while self._waiting and not self._away:
                self._export_once()
        if self._exporter is not None:
            self._exporter.close()

    # --- in ------------------------------------------------------------------------------------------------------

    def note(
        self,
        step: Step,
        camera: str,
        captured_at: datetime,
        *,
        started_at: datetime,
        ended_at: datetime | None = None,
        of: str = "",
        parent: tuple[Step, str] | None = None,
        keep: bool = False,
        attributes: Attributes | None = None,
    ) -> None:
        """A step is done.

        Args:
            step: which.
            camera: whose picture,
            captured_at: and when it was taken.
            started_at: when the step began.
            ended_at: when it was done; default now.
            of: see `broker.tracing.span_id_of`.
            parent: the step before, with its `of`.
            keep: the trace is wanted, drawn or not.
            attributes: what else is known of it.
        """
        if not self.on:
            return
        trace_id = trace_id_of(self._site, camera, captured_at)
        span = Span(
            step,
            trace_id,
            span_id_of(trace_id, step, of),
            span_id_of(trace_id, *parent) if parent is not None else 0,
            started_at,
            ended_at or self._clock.now(),
            {"vigil.camera": camera, **(attributes or {})},
        )
        with self._lock:
            if keep:
                self._keep(trace_id)
            if trace_id in self._kept or is_sampled(trace_id, self._share):
                self._put(span)
            else:
                self._put_aside(span)

    def keep(self, camera: str, captured_at: datetime) -> None:
        """An escalation came of this picture: what was done to it is wanted, and what will be."""
        if self.on:
            with self._lock:
                self._keep(trace_id_of(self._site, camera, captured_at))

    def _keep(self, trace_id: int) -> None:
        if is_sampled(trace_id, self._share) or trace_id in self._kept:
            return
        self._kept[trace_id] = None
        if len(self._kept) > _ASIDE_MAX:
            self._kept.popitem(last=False)
        for span in self._aside.pop(trace_id, ()):
            self._put(span)

    def _put_aside(self, span: Span) -> None:
        spans = self._aside.setdefault(span.trace_id, [])
        if len(spans) < _SPANS_ASIDE_MAX:
            spans.append(span)
        if len(self._aside) > _ASIDE_MAX:
            self._aside.popitem(last=False)

    def _put(self, span: Span) -> None:
        if len(self._waiting) >= _QUEUE_MAX:
            self._waiting.popleft()
            self._dropped += 1
        self._waiting.append(span)

    # --- out -----------------------------------------------------------------------------------------------------

    def _export_once(self) -> None:
        """Send what has come within a second, as far as there is time."""
        self._clock.wait(self._stop, _BATCH_WAIT_S)
        for _ in range(_BATCHES_MAX):
            batch = self._take()
            if not batch:
                return
            try:
                self._send(batch)
            except TransientError as error:
                self._put_back(batch)
                self._tell_away(str(error))
                return
            self._exported += len(batch)
            if self._away:
                self._away = False
                self._log.info("tracing.back")

    def _take(self) -> list[Span]:
        with self._lock:
            return [self._waiting.popleft() for _ in range(min(_BATCH_MAX, len(self._waiting)))]

    def _put_back(self, batch: Sequence[Span]) -> None:
        """What did not arrive goes first the next time, as far as there is room."""
        with self._lock:
            room = _QUEUE_MAX - len(self._waiting)
            kept = batch[len(batch) - min(room, len(batch)) :]
            self._dropped += len(batch) - len(kept)
            self._waiting.extendleft(reversed(kept))

    def _send(self, batch: Sequence[Span]) -> None:
        if self._exporter is None and self._open_exporter is not None:
            try:
                self._exporter = self._open_exporter()
            except ModuleNotFoundError as error:
                raise TransientError(f"it needs {error.name}: pip install 'vigil-mesh[telemetry]'") from error
        if self._exporter is not None:
            self._exporter.export(batch)

    def _tell_away(self, error: str) -> None:
        if not self._away:
            self._away = True
            self._log.warning("tracing.unreachable", error=error)

    def figures(self) -> Figures:
        """What waits, what was dropped, what went."""
        if not self.on:
            return Figures()
        return Figures(
            queues={"spans": len(self._waiting)},
            drops={"spans": self._dropped},
            counts={"spans_exported": self._exported},
        )
