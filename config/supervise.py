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

from config.backoff import Backoff
from config.clock import Clock, SystemClock
from config.errors import BadPayloadError, ConfigError, PermanentError, TransientError
from config.log import get_logger

__all__ = ["Supervised", "stop_on_signals"]

_STOPS = frozenset({signal.SIGTERM, signal.SIGINT})


def stop_on_signals(stop: threading.Event) -> None:
    """Set `stop` at SIGTERM and SIGINT; a second signal ends the process the hard way.

    A thread of its own sets it. Python calls a signal's handler only when the main thread runs again, which it does
    not while it waits for that very event and the kernel gave the signal to another thread, as it does to a process
    that was frozen; and a handler that sets an event can interrupt the main thread while it holds the event's lock.

    Must be called from the main thread.
    """
    reader, writer = socket.socketpair()
    writer.settimeout(0.0)
    signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    for number in _STOPS:
        signal.signal(number, _leave_to_thread)
    threading.Thread(target=_wait_signals, args=(reader, writer, stop), name="signals", daemon=True).start()


def _leave_to_thread(_number: int, _frame: FrameType | None) -> None:
    """The byte that the signal has put on the wire says everything."""


def _wait_signals(reader: socket.socket, _writer: socket.socket, stop: threading.Event) -> None:
    """Runs for as long as the process; keeps both ends of the wire."""
    while (byte := reader.recv(1)) and byte[0] not in _STOPS:
        pass
    stop.set()
    while (byte := reader.recv(1)) and byte[0] not in _STOPS:
        pass
    os._exit(128 + byte[0])


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
    ) -> None:
        self._run_once = run_once
        self._stop = stop
        self._on_fatal = on_fatal
        self._backoff = backoff or Backoff()
        self._clock: Clock = clock or SystemClock()
        self._log = get_logger(thread=name)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread's end at most `timeout_s`; True when it has ended."""
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while not self._stop.is_set():
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
        expected = isinstance(error, TransientError | BadPayloadError)
        self._log.warning(
            "thread.retrying",
            error=str(error) or type(error).__name__,
            delay_s=round(delay_s, 2),
            exc_info=None if expected else error,
        )
        self._clock.wait(self._stop, delay_s)
