"""The detector as a role: model, bus, worker and presence, from the first second to the last."""

from __future__ import annotations

import statistics
import threading
from collections.abc import Mapping

import numpy as np

from broker import Presence, connect
from broker.topics import origin_of
from config import Clock, SystemClock, get_logger
from config.settings import DetectorSettings, Settings
from detector.backends import Backend
from detector.batching import BatchTimes
from detector.ownership import CameraScores, Offer, Ownership
from detector.rollout import ModelState, Rollout
from detector.worker import Worker

__all__ = ["announced_fps", "measure", "run_detector"]

_PROBES = 3
_PROBE_SIZE = (480, 640, 3)
_PROBE_S = 3.0
"""A model that has taken so long is not asked for larger batches too."""
_SHARE = 0.9
"""Of what the model can do, for decoding, tracking and publishing."""
_DRAIN_S = 5.0


def measure(backend: Backend, clock: Clock) -> BatchTimes:
    """How long a model takes on this machine, measured on grey pictures of 640x480; batches of 1, 2, 4 and so on."""
    blank = backend.prepare(np.full(_PROBE_SIZE, 114, np.uint8))
    times = BatchTimes()
    began_s, size = clock.monotonic_s(), 1
    while size <= backend.batch_max and clock.monotonic_s() - began_s < _PROBE_S:
        took_s = []
        for _ in range(_PROBES):
            started_s = clock.monotonic_s()
            backend.infer([blank] * size)
            took_s.append(clock.monotonic_s() - started_s)
        times.note(size, statistics.median(took_s))
        size *= 2
    return times


def announced_fps(settings: DetectorSettings, fps: float) -> float:
    """Frames a second that a worker takes on whose model does so many."""
    return settings.capacity_fps or round(fps * _SHARE, 2)


def run_detector(settings: Settings, role: str, stop: threading.Event) -> None:
    """Be a worker until `stop` is set.

    Args:
        settings: the site's settings.
        role: ``detector``, or ``detector.2`` for a second one on the machine.
        stop: set by signals, or by a test.

    Raises:
        ConfigError: the model, the labels or a rule cannot be used.
        PermanentError: the outbox cannot be opened, or the broker refuses us for good.
    """
    clock = SystemClock()
    origin = origin_of(settings.node, role)
    note = settings.state_dir / "detector" / settings.site / f"{origin}.json"
    fatal: list[Exception] = []

    def on_fatal(error: Exception) -> None:
        fatal.append(error)
        stop.set()

    rollout = Rollout(settings.detector, origin, note, clock=clock, on_fatal=on_fatal)
    times = measure(rollout.slot.current, clock)
    fps = times.best_fps()
    bus = connect(settings, role, with_outbox=True, clock=clock, on_fatal=on_fatal)

    def scored() -> Mapping[str, CameraScores]:
        return worker.camera_scores()

    ownership = Ownership(bus, lambda: _offer(settings.detector, rollout.state, fps), scored=scored, clock=clock)
    worker = Worker(bus, rollout.slot, settings, ownership, times=times, clock=clock, on_fatal=on_fatal)
    capacity = {"frames_per_s": round(fps, 1)}
    presence = Presence(bus, settings, role, capacity=capacity, figures=worker.figures, clock=clock)
    worker.start()
    rollout.start(bus)
    bus.start()
    presence.start()
    log = get_logger(origin=bus.origin)
    log.info("detector.started", model=rollout.state.model.name, bus=settings.bus.url, **capacity)
    stop.wait()
    rollout.close()
    worker.drain(_DRAIN_S)
    worker.close()
    presence.close()
    bus.close()
    log.info("detector.stopped", **worker.figures().counts)
    if fatal:
        raise fatal[0]


def _offer(settings: DetectorSettings, state: ModelState, fps: float) -> Offer:
    """What this worker can do now; `fps` of the model with which it began."""
    return Offer(
        capacity_fps=announced_fps(settings, fps * state.speed),
        classes=settings.classes,
        labels=state.labels,
        model=state.model,
        model_wanted=state.wanted,
        model_error=state.error,
        model_version=state.version,
    )
