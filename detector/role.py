"""The detector as a role: model, bus, worker and presence, from the first second to the last."""

from __future__ import annotations

import statistics
import threading

import numpy as np

from broker import Presence, connect
from config import Clock, SystemClock, get_logger
from config.settings import Settings
from detector.backends import Backend
from detector.models import open_backend
from detector.worker import Worker

__all__ = ["frames_per_s", "run_detector"]

_PROBES = 3
_PROBE_SIZE = (480, 640, 3)


def frames_per_s(backend: Backend, clock: Clock) -> float:
    """What a model can do on this machine, measured on grey pictures of 640x480; full batches."""
    blank = np.full(_PROBE_SIZE, 114, np.uint8)
    took_s = []
    for _ in range(_PROBES):
        started_s = clock.monotonic_s()
        backend.infer([backend.prepare(blank)] * backend.batch_max)
        took_s.append(clock.monotonic_s() - started_s)
    return backend.batch_max / max(statistics.median(took_s), 1e-6)


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
    backend = open_backend(settings.detector)
    capacity = {"frames_per_s": round(frames_per_s(backend, clock), 1)}
    fatal: list[Exception] = []

    def on_fatal(error: Exception) -> None:
        fatal.append(error)
        stop.set()

    bus = connect(settings, role, with_outbox=True, clock=clock, on_fatal=on_fatal)
    worker = Worker(bus, backend, settings.detector, clock=clock, on_fatal=on_fatal)
    presence = Presence(bus, settings, role, capacity=capacity, figures=worker.figures, clock=clock)
    worker.start()
    bus.start()
    presence.start()
    log = get_logger(origin=bus.origin)
    log.info("detector.started", model=backend.model.name, bus=settings.bus.url, **capacity)
    stop.wait()
    worker.close()
    presence.close()
    bus.close()
    log.info("detector.stopped", **worker.figures().counts)
    if fatal:
        raise fatal[0]
