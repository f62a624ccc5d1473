"""What the state of the machine means for the cameras: fewer frames while it is hot, frames of doubtful time marked."""

from __future__ import annotations

import threading
from collections.abc import Callable

from broker.machine import MachineFigures
from config import Clock, Supervised, get_logger
from edge.watch import Vitals

__all__ = ["Cooling", "MachineWatch"]

_READ_INTERVAL_S = 5.0
_PACE_MIN = 0.25
"""Never less: somebody who looks must see that the camera lives."""
_WORSE_EVERY_S = 15.0
_BETTER_EVERY_S = 60.0
"""A processor warms in seconds and its case cools in minutes."""
_HYSTERESIS_C = 5.0


class Cooling:
    """Decides which part of the wanted frames a hot machine sends; pure.

    Half as many at `hot_c` and again for as long as it stays hot, twice as many again once it is well below.

    Args:
        hot_c: degrees Celsius from which it is hot.
    """

    def __init__(self, hot_c: float) -> None:
        self.pace = 1.0
        self._hot_c = hot_c
        self._changed_s = float("-inf")

    def step(self, machine: MachineFigures, now_s: float) -> float:
        """The part to send, from a quarter to 1.

        Args:
            machine: how it is now; one that does not tell its temperature is cool, unless its processor is slowed down.
            now_s: monotonic.
        """
        temperature_c = machine.temperature_c if machine.temperature_c is not None else float("-inf")
        since_s = now_s - self._changed_s
        if temperature_c >= self._hot_c or machine.is_throttled:
            if since_s >= _WORSE_EVERY_S and self.pace > _PACE_MIN:
                self._change(self.pace / 2, now_s)
        elif temperature_c <= self._hot_c - _HYSTERESIS_C and since_s >= _BETTER_EVERY_S and self.pace < 1.0:
            self._change(self.pace * 2, now_s)
        return self.pace

    def _change(self, pace: float, now_s: float) -> None:
        self.pace = pace
        self._changed_s = now_s


class MachineWatch:
    """Looks at the machine every few seconds, and changes the vitals of the cameras.

    Concurrency: it owns one thread; `figures` may be read from any.

    Args:
        read: how the machine is.
        vitals: what the cameras look at.
        hot_c: degrees Celsius from which fewer frames are sent.
        clock: time.
    """

    def __init__(self, read: Callable[[], MachineFigures], vitals: Vitals, *, hot_c: float, clock: Clock) -> None:
        self._read = read
        self._vitals = vitals
        self._cooling = Cooling(hot_c)
        self._clock = clock
        self._figures = MachineFigures()
        self._synchronised: bool | None = True
        self._log = get_logger()
        self._stop = threading.Event()
        self._thread = Supervised("machine", self._look_and_wait, stop=self._stop, clock=clock)

    def start(self) -> None:
        """Look at once, and then every few seconds."""
        self.look()
        self._thread.start()

    def close(self) -> None:
        """Look no more."""
        self._stop.set()
        self._thread.join(1.0)

    def figures(self) -> MachineFigures:
        """How the machine was a moment ago."""
        return self._figures

    def _look_and_wait(self) -> None:
        self._clock.wait(self._stop, _READ_INTERVAL_S)
        if not self._stop.is_set():
            self.look()

    def look(self) -> None:
        """Look now."""
        before, machine = self._figures, self._read()
        self._figures = machine
        self._cool(machine)
        if machine.throttled != before.throttled and machine.throttled:
            self._log.warning("machine.throttled", reasons=list(machine.throttled))
        if machine.clock_synchronised is not self._synchronised:
            self._synchronised = machine.clock_synchronised
            self._vitals.clock_synchronised = machine.clock_synchronised is not False
            if machine.clock_synchronised is False:
                self._log.warning("machine.clock_unsynchronised")
            else:
                self._log.info("machine.clock_synchronised")

    def _cool(self, machine: MachineFigures) -> None:
        before = self._vitals.pace
        pace = self._vitals.pace = self._cooling.step(machine, self._clock.monotonic_s())
        if pace < before:
            self._log.warning("machine.hot", temperature_c=machine.temperature_c, frames_percent=round(100 * pace))
        elif pace > before:
            self._log.info("machine.cooler", temperature_c=machine.temperature_c, frames_percent=round(100 * pace))
