"""The threads between a frame and its scores, each with a little work ahead, so that the model is never without."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice, takewhile

from broker import Distribution
from config import Clock, Supervised, TransientError
from detector.backends import Backend
from detector.batching import BatchTimes, batch_size
from detector.flow import Arrival, Inference, Readable, Scored
from detector.mailbox import LatestMailbox, WaitingLine
from detector.preparing import Preparer
from detector.slot import BackendSlot

__all__ = ["Pipeline"]

_WAIT_S = 0.25
"""How soon a thread notices that nothing comes any more, and the last one looks after what it holds back."""
_BATCHES_AHEAD = 2
"""Results that wait while the ones before are published; with more, the model waits."""
_JOIN_S = 5.0


class Pipeline:
    """Takes the newest frames of the mailbox, makes them ready, runs the model on them, and passes on what it says.

    Three threads: one makes ready what the next batch needs and no more, so that a frame waits for at most one
    inference once it is ready; one is in the model; one works on the results.

    Concurrency: `start` and `close` belong to one thread; the rest may be called from any.

    Args:
        mailbox: frames that came.
        preparer: makes them ready.
        slot: the model in use.
        times: how long its batches take, as measured so far.
        publish: called with what the model says of one frame, on the last thread.
        look_after: called on that thread before each batch, and now and then while nothing comes.
        batch_max: the most pictures in a batch, where the model takes more.
        age_max_s: frames that are older are worth nothing.
        clock: time.
        on_fatal: called with the error after which nothing more can be scored.

    Attributes:
        batches: inferences that succeeded.
        failed: frames of inferences that failed.
        inference: how long those that succeeded took.
    """

    def __init__(
        self,
        mailbox: LatestMailbox[Arrival],
        preparer: Preparer,
        slot: BackendSlot,
        *,
        times: BatchTimes,
        publish: Callable[[Scored], None],
        look_after: Callable[[], None],
        batch_max: int,
        age_max_s: float,
        clock: Clock,
        on_fatal: Callable[[Exception], None] | None,
    ) -> None:
        self._mailbox = mailbox
        self._preparer = preparer
        self._slot = slot
        self._times = times
        self._timed: Backend = slot.current
        self._publish = publish
        self._look_after = look_after
        self._batch_max = batch_max
        self._age_max_s = age_max_s
        self._clock = clock
        self._ahead = self._useful_batch(slot.current)
        self._ready = WaitingLine[Readable]()
        self._results = WaitingLine[list[Scored]]()
        self._unpublished: deque[Scored] = deque()
        self.batches = 0
        self.failed = 0
        self.inference = Distribution()
        self._stops = [threading.Event() for _ in range(3)]
        steps = {"prepares": self._prepare_once, "infers": self._infer_once, "publishes": self._publish_once}
        self._threads = [
            Supervised(name, step, stop=stop, on_fatal=on_fatal, clock=clock)
            for stop, (name, step) in zip(self._stops, steps.items(), strict=True)
        ]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def queues(self) -> dict[str, int]:
        """How many frames and batches wait, by place."""
        return {"frames": len(self._mailbox), "frames_ready": len(self._ready), "batches_scored": len(self._results)}

    @property
    def picture_s(self) -> float:
        """How long one picture takes; 0 while nothing is known."""
        return self._times.picture_s

    def close(self, finish_s: float) -> bool:
        """Take no more frames, finish those that are here within so many seconds, and end; True when all has ended."""
        self._mailbox.close()
        deadline_s = self._clock.monotonic_s() + finish_s
        for thread in self._threads:
            thread.join(max(0.0, deadline_s - self._clock.monotonic_s()))
        for stop in self._stops:
            stop.set()
        ended = sum(thread.join(_JOIN_S) for thread in self._threads) == len(self._threads)
        self._preparer.close()
        return ended

    # --- the first thread -----------------------------------------------------------------------------------------

    def _prepare_once(self) -> None:
        room = self._ready.wait_room(self._ahead, _WAIT_S)
        arrivals = self._mailbox.take(room, _WAIT_S) if room else []
        for readable in self._preparer.prepare(arrivals):
            self._ready.put(readable)
        if not arrivals and self._mailbox.is_over:
            self._ready.close()
            self._stops[0].set()

    # --- the second -----------------------------------------------------------------------------------------------

    def _infer_once(self) -> None:
        if not self._results.wait_room(_BATCHES_AHEAD, _WAIT_S):
            return
        batch = self._ready.take(self._choose, _WAIT_S)
        fresh = [readable for readable in batch if self._preparer.is_fresh(readable.arrival)]
        if fresh:
            self._results.put(self._infer(fresh))
        elif self._ready.is_over:
            self._results.close()
            self._stops[1].set()

    def _choose(self, waiting: Sequence[Readable]) -> int:
        """How many of these go into the model together: for the same model, and in time."""
        now_s, backend = self._clock.monotonic_s(), waiting[0].backend
        together = list(takewhile(lambda readable: readable.backend is backend, waiting))
        slack_s = [one.arrival.age_max_s(self._age_max_s) - one.arrival.age_s(now_s) for one in together]
        pictures_max = min(self._batch_max, backend.batch_max)
        return batch_size(slack_s, [one.pictures for one in together], self._times_of(backend), pictures_max)

    def _infer(self, batch: Sequence[Readable]) -> list[Scored]:
        backend = batch[0].backend
        pictures = [picture for readable in batch for picture in (readable.whole, *readable.parts)]
        started_at, started_s = self._clock.now(), self._clock.monotonic_s()
        try:
            outputs = iter(self._slot.infer(backend, pictures))
        except TransientError:
            self.failed += len(batch)
            raise
        took_s = self._clock.monotonic_s() - started_s
        self._times_of(backend).note(len(pictures), took_s)
        self.inference.note(took_s)
        self._ahead = self._useful_batch(backend)
        self.batches += 1
        inference = Inference(started_at, round(took_s * 1000, 3), len(batch))
        return [Scored(readable, tuple(islice(outputs, readable.pictures)), inference) for readable in batch]

    def _times_of(self, backend: Backend) -> BatchTimes:
        if backend is not self._timed:
            self._timed, self._times = backend, BatchTimes()
        return self._times

    def _useful_batch(self, backend: Backend) -> int:
        """The batch that is as large as is of use when there is time: so much is made ready ahead."""
        most = min(self._batch_max, backend.batch_max)
        return batch_size([float("inf")] * most, [1] * most, self._times, most)

    # --- the third ------------------------------------------------------------------------------------------------

    def _publish_once(self) -> None:
        self._look_after()
        if not self._unpublished:
            for batch in self._results.take(lambda _: 1, _WAIT_S):
                self._unpublished.extend(batch)
        if not self._unpublished and self._results.is_over:
            self._stops[2].set()
        while self._unpublished:  # one that fails does not take the others with it
            self._publish(self._unpublished.popleft())
