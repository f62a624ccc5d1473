"""Threads and signals of a role: the one place that catches everything.

A role is a process. Its loops run as :class:`Supervised` threads: `run_once` is a straight line, and what it raises
is logged with its chain, waited for, and tried again. SIGTERM and SIGINT set one event that everybody waits on.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable
from types import FrameType
from typing import Literal

from config.backoff import Backoff
from config.clock import Clock, SystemClock
from config.errors import BadPayloadError, ConfigError, PermanentError, TransientError
from config.log import get_logger

__all__ = ["Supervised", "beat", "frozen_threads", "stop_on_signals"]

_STOPS = frozenset({signal.SIGTERM, signal.SIGINT})
Vital = Literal["alone", "together"]
_THREAD = threading.local()
_VITAL: dict[Supervised, Vital] = {}
_VITAL_LOCK = threading.Lock()


def beat(silent_for_s: float = 0.0) -> None:
    """Say that the calling thread goes on; where a vital :class:`Supervised` thread loops inside its `run_once`.

    Args:
        silent_for_s: seconds that it may be busy or wait from now on before it says so again.
    """
    supervised = getattr(_THREAD, "supervised", None)
    if supervised is not None:
        supervised.beat(silent_for_s)


def frozen_threads(patience_s: float) -> list[str]:
    """Threads for whose sake the process should be started again, by name.

    Those that are vital alone, and all that are vital together once each of them is overdue.

    Args:
        patience_s: how much a thread may be overdue with its next beat.
    """
    with _VITAL_LOCK:
        vital = dict(_VITAL)
    overdue = {thread for thread in vital if thread.overdue_s() > patience_s}
    some_go_on = any(kind == "together" and thread not in overdue for thread, kind in vital.items())
    return sorted(thread.name for thread in overdue if vital[thread] == "alone" or not some_go_on)


def stop_on_signals(stop: threading.Event, *, hang_up: threading.Event | None = None) -> None:
    """Set `stop` at SIGTERM and SIGINT; a second signal ends the process the hard way.

    With `hang_up`, SIGHUP sets that one and ends nothing: daemons read their settings again then.

    A thread of its own sets it. Python calls a signal's handler only when the main thread runs again, which it does
    not while it waits for that very event and the kernel gave the signal to another thread, as it does to a process
    that was frozen; and a handler that sets an event can interrupt the main thread while it holds the event's lock.

    Must be called from the main thread.
    """
    reader, writer = socket.socketpair()
    writer.settimeout(0.0)
    signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    for number in (*_STOPS, *((signal.SIGHUP,) if hang_up is not None else ())):
        signal.signal(number, _leave_to_thread)
    threading.Thread(target=_wait_signals, args=(reader, writer, stop, hang_up), name="signals", daemon=True).start()


def _leave_to_thread(_number: int, _frame: FrameType | None) -> None:
    """The byte that the signal has put on the wire says everything."""


def _wait_signals(
    reader: socket.socket, _writer: socket.socket, stop: threading.Event, hang_up: threading.Event | None
) -> None:
    """Runs for as long as the process; keeps both ends of the wire."""
    asked = False
    while byte := reader.recv(1):
        if byte[0] == signal.SIGHUP and hang_up is not None:
            hang_up.set()
        elif byte[0] in _STOPS:
            if asked:
                os._exit(128 + byte[0])
            asked = True
            stop.set()


class Supervised:
    """A thread that runs `run_once` again and again until it is stopped.

    A :class:`PermanentError` or :class:`ConfigError` ends it and calls `on_fatal`; every other error is logged,
    backed off from, and retried. `run_once` returning means "call me again at once".

    Concurrency: `run_once` runs on the one thread that this object owns; `stop` and `join` may be called anywhere.

    Args:
        name: the thread's name, also in its log lines.
        run_once: one straight-line pass; it must look at `stop` when it blocks.
        stop: set by whoever wants the thread to end.
        on_fatal: called with the error that ended the thread.
        backoff: delays between failures; reset after each success.
        clock: how to wait.
        vital: the process is of no use while this thread hangs (``alone``), or while all such threads do
            (``together``): `frozen_threads` looks at them, and for its sake the watchdog of the service. Nothing that
            waits for a disk or a server without a limit may be vital.
    """

    def __init__(
        self,
        name: str,
        run_once: Callable[[], None],
        *,
        stop: threading.Event,
        on_fatal: Callable[[Exception], None] | None = None,
        backoff: Backoff | None = None,
        clock: Clock | None = None,
        vital: Vital | None = None,
    ) -> None:
        self.name = name
        self._run_once = run_once
        self._stop = stop
        self._on_fatal = on_fatal
        self._backoff = backoff or Backoff()
        self._clock: Clock = clock or SystemClock()
        self._log = get_logger(thread=name)
        self._vital = vital
        self._due_s = 0.0
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self.beat()
        if self._vital is not None:
            with _VITAL_LOCK:
                _VITAL[self] = self._vital
        self._thread.start()

    def beat(self, silent_for_s: float = 0.0) -> None:
        """Say that the thread goes on; see the function :func:`beat`."""
        self._due_s = self._clock.monotonic_s() + silent_for_s

    def overdue_s(self) -> float:
        """Seconds since it should have said that it goes on; negative before that."""
        return self._clock.monotonic_s() - self._due_s

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread's end at most `timeout_s`; True when it has ended."""
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        _THREAD.supervised = self
        self._repeat()
        # Not in a `finally`: one that dies of what nobody foresaw is to be missed.
        with _VITAL_LOCK:
            _VITAL.pop(self, None)

    def _repeat(self) -> None:
        while not self._stop.is_set():
            self.beat()
            try:
                self._run_once()
            except (PermanentError, ConfigError) as error:
                self._log.error("thread.ended", error=str(error))
                if self._on_fatal is not None:
                    self._on_fatal(error)
                return
            except Exception as error:  # noqa: BLE001 - the supervisor: everything else is retried and said
                self._retry_later(error)
            else:
                self._backoff.reset()

    def _retry_later(self, error: Exception) -> None:
        delay_s = self._backoff.delay_s()
        if isinstance(error, TransientError):
            delay_s = max(delay_s, error.retry_after_s)
        expected = isinstance(error, TransientError | BadPayloadError)
        self._log.warning(
            "thread.retrying",
            error=str(error) or type(error).__name__,
            delay_s=round(delay_s, 2),
            exc_info=None if expected else error,
        )
        self.beat(delay_s)
        self._clock.wait(self._stop, delay_s)
