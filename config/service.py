"""This process as a systemd service: ready, its state in a line, its watchdog, its end.

Source: sd_notify(3) and sd_watchdog_enabled(3); the protocol is a datagram of ``NAME=VALUE`` lines, so no library is
needed. Without systemd nothing of this does anything.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Mapping

from config.clock import Clock, SystemClock
from config.log import get_logger
from config.supervise import Supervised, frozen_threads

__all__ = ["ENVIRONMENT", "PATIENCE_S", "Service", "is_service"]

ENVIRONMENT = frozenset({"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"})
"""What systemd tells the process that it started, and what is none of the business of those that this one starts."""

PATIENCE_S = 60.0
"""A vital thread that is overdue by so much hangs for good. Less would restart healthy nodes together when something
that they share, such as a name server, is slow."""
_STATUS_INTERVAL_S = 10.0


class Service:
    """Tells systemd how this process is, for as long as it is well.

    The watchdog is fed while every vital thread goes on (:func:`config.supervise.frozen_threads`). One that hangs ends
    that, and systemd starts the process again. That a broker or a camera is away keeps no thread from going on.

    Concurrency: one thread calls; the watchdog has a thread of its own.

    Args:
        describe: the state in one line, for ``systemctl status``; called every few seconds.
        environment: where systemd has left its address.
        clock: time.
        frozen: names of the threads that hang.
    """

    def __init__(
        self,
        describe: Callable[[], str],
        *,
        environment: Mapping[str, str] = os.environ,
        clock: Clock | None = None,
        frozen: Callable[[], list[str]] = lambda: frozen_threads(PATIENCE_S),
    ) -> None:
        self._describe = describe
        self._address = _address(environment)
        self._watchdog_s = _watchdog_s(environment)
        self._clock: Clock = clock or SystemClock()
        self._frozen = frozen
        self._said: list[str] = []
        self._log = get_logger()
        self._stop = threading.Event()
        self._thread = Supervised("service", self._tell_and_wait, stop=self._stop, clock=self._clock)

    def ready(self) -> None:
        """Say that the process does its work from now on, and begin to feed the watchdog."""
        if self._address:
            self._notify("READY=1", f"STATUS={self._describe()}")
            self._thread.start()

    def stopping(self) -> None:
        """Say that it ends; it has as long for that as its unit allows."""
        self._stop.set()
        self._thread.join(1.0)
        self._notify("STOPPING=1", "STATUS=Stopping")

    def _tell_and_wait(self) -> None:
        frozen = self._frozen()
        if frozen and frozen != self._said:
            self._log.error("service.frozen", threads=frozen)
        self._said = frozen
        if frozen:
            self._notify(f"STATUS=Hangs: {', '.join(frozen)}")
        else:
            self._notify("WATCHDOG=1", f"STATUS={self._describe()}")
        # Three times in its time, so that two may be late.
        self._clock.wait(self._stop, min(_STATUS_INTERVAL_S, (self._watchdog_s or _STATUS_INTERVAL_S) / 3))

    def _notify(self, *lines: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as outlet:
                outlet.settimeout(1.0)
                outlet.sendto("\n".join(lines).encode(), self._address)
        except OSError as error:
            self._log.debug("service.unheard", error=str(error))


def is_service(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether systemd runs this process, and starts it again when it ends."""
    return bool(_address(environment))


def _address(environment: Mapping[str, str]) -> str:
    """The socket that systemd listens on; an ``@`` stands for the zero byte of an abstract one."""
    address = environment.get("NOTIFY_SOCKET", "")
    return "\0" + address[1:] if address.startswith("@") else address if address.startswith("/") else ""


def _watchdog_s(environment: Mapping[str, str]) -> float | None:
    """Seconds within which systemd must hear of this very process; None: it does not ask."""
    time_us = environment.get("WATCHDOG_USEC", "")
    mine = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    return int(time_us) / 1e6 if mine and time_us.isdecimal() and int(time_us) > 0 else None
