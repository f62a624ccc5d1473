"""Which fault happens when, to whom: a pure function of a seed and a duration.

The kinds come from a shuffled deck that is dealt again and again, so that even a short schedule has most of them, and a
long one has each about equally often.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

__all__ = [
    "BROKER",
    "KEEPALIVE_S",
    "NETWORK_KINDS",
    "ROLES",
    "Fault",
    "FaultKind",
    "make_schedule",
]

BROKER = "broker"
ROLES = ("edge", "detector", "bridge", "drill", "drill.2")
"""The roles that reach the broker through a link of their own."""
KEEPALIVE_S = 3
"""Of the mesh under test: short, so that a freeze beyond it fits into a schedule."""

_FIRST_S = 0.3
_GAP_S = (0.5, 2.2)
_LEAST_S = 0.3
"""A fault with less time left than this is not begun."""
_LONG_FREEZE_S = 2.2 * KEEPALIVE_S
"""A broker gives a silent client up after 1.5 keep-alives (MQTT 5, 3.1.2.10), and looks now and then."""
_ALL_LINKS_SHARE = 0.25
_CRASH_EVERY_S = 30.0
"""Starting six processes is most of what two cores do for some seconds."""
_FULL_BEFORE_CRASH_S = 0.8


class FaultKind(StrEnum):
    """What may go wrong."""

    KILL = "kill"
    """SIGKILL; started again after a pause."""
    FREEZE = "freeze"
    """SIGSTOP, later SIGCONT."""
    RESTART = "restart"
    """SIGTERM; started again after a pause."""
    FORGET = "forget"
    """The broker is killed and comes back without its data."""
    CRASH = "crash"
    """Everything is killed at once, and the broker comes back without its data: what a machine's crash leaves."""
    CUT = "cut"
    """Connections end, new ones are refused."""
    RESET = "reset"
    """Connections end with a TCP reset."""
    HALF_CLOSE = "half-close"
    """One direction ends, the other goes on."""
    STALL = "stall"
    """Nothing passes; everything passes later, in order."""
    BLACK_HOLE = "black-hole"
    """Everything is swallowed while the connection stands; then it is reset."""
    DELAY = "delay"
    """Everything comes later."""
    THROTTLE = "throttle"
    """Only so many bytes a second pass."""
    REPEAT = "repeat"
    """Every PUBLISH packet of QoS 1 comes twice."""
    DISK = "disk"
    """Every write to a file fails, as on a full disk."""
    CLOCK = "clock"
    """The wall clock jumps, forward or back, and stays there."""

    @property
    def layer(self) -> str:
        """What it is done to: a link, a disk, a clock, or else a process."""
        return "link" if self in NETWORK_KINDS else self.value if self in _OWN_LAYER else "process"


NETWORK_KINDS = (
    FaultKind.CUT,
    FaultKind.RESET,
    FaultKind.HALF_CLOSE,
    FaultKind.STALL,
    FaultKind.BLACK_HOLE,
    FaultKind.DELAY,
    FaultKind.THROTTLE,
    FaultKind.REPEAT,
)
_OWN_LAYER = (FaultKind.DISK, FaultKind.CLOCK)

_LENGTHS_S: dict[FaultKind, tuple[float, float]] = {
    FaultKind.KILL: (0.1, 1.5),
    FaultKind.FREEZE: (0.5, 3.0),
    FaultKind.RESTART: (0.1, 1.0),
    FaultKind.FORGET: (0.1, 1.5),
    FaultKind.CRASH: (0.1, 1.0),
    FaultKind.CUT: (0.3, 3.0),
    FaultKind.RESET: (0.0, 0.0),
    FaultKind.HALF_CLOSE: (1.0, 3.0),
    FaultKind.STALL: (0.5, 4.0),
    FaultKind.BLACK_HOLE: (0.5, 4.0),
    FaultKind.DELAY: (1.0, 4.0),
    FaultKind.THROTTLE: (1.0, 4.0),
    FaultKind.REPEAT: (1.0, 4.0),
    FaultKind.DISK: (0.5, 3.0),
    FaultKind.CLOCK: (0.0, 0.0),
}
_DELAYS_S = (0.02, 0.4)
_BYTES_PER_S = (2_000, 20_000)
_CLOCK_STEPS_S = (-86_400, -3_600, -30, 30, 3_600, 86_400 * 30)


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault.

    Attributes:
        at_s: seconds after the schedule's start.
        kind: what goes wrong.
        targets: roles, :data:`BROKER` among them for faults of processes.
        length_s: seconds until it is over; for a kill or restart, until the process is started again.
        amount: of a delay seconds, of a throttle bytes/s, of a clock step seconds; of a half-close 1 when it is the
            broker's direction that ends, else 0.
    """

    at_s: float
    kind: FaultKind
    targets: tuple[str, ...]
    length_s: float
    amount: float = 0.0

    @property
    def end_s(self) -> float:
        """Seconds after the schedule's start at which it is over."""
        return self.at_s + self.length_s

    def told(self) -> str:
        """As one line for a person."""
        target = {len(ROLES): "all links", len(ROLES) + 1: "all"}.get(len(self.targets), self.targets[0])
        return f"{self.at_s:6.1f} s  {self.kind:<10}  {target:<9}  {self._details()}".rstrip()

    def _details(self) -> str:
        length = f"{self.length_s:.1f} s"
        details = {
            FaultKind.KILL: f"back after {length}",
            FaultKind.RESTART: f"back after {length}",
            FaultKind.FORGET: f"back after {length} without its data",
            FaultKind.CRASH: f"back after {length}, the broker without its data",
            FaultKind.DELAY: f"{self.amount * 1000:.0f} ms for {length}",
            FaultKind.THROTTLE: f"{self.amount:.0f} bytes/s for {length}",
            FaultKind.CLOCK: f"{self.amount:+.0f} s",
            FaultKind.HALF_CLOSE: f"{'from' if self.amount else 'to'} the broker, for {length}",
            FaultKind.RESET: "",
        }
        return details.get(self.kind, f"for {length}")


def make_schedule(seed: int, duration_s: float, kinds: Collection[FaultKind] = tuple(FaultKind)) -> tuple[Fault, ...]:
    """The faults of a seed, in the order in which they begin; all are over at `duration_s`.

    On one role there is at one time at most one fault of each layer, so that a process may be killed while its disk is
    full and its link is cut. Where freezes are wanted and there is room, one lasts longer than the keep-alive.
    """
    return tuple(_Dealer(random.Random(seed), duration_s, [kind for kind in FaultKind if kind in kinds]).deal())


class _Dealer:
    def __init__(self, rng: random.Random, duration_s: float, kinds: Sequence[FaultKind]) -> None:
        self._rng = rng
        self._duration_s = duration_s
        self._kinds = kinds
        self._busy_until_s: dict[tuple[str, str], float] = {}
        self._long_freeze_due = True
        self._crashes_due = max(1, int(duration_s / _CRASH_EVERY_S))

    def deal(self) -> Iterator[Fault]:
        at_s = _FIRST_S
        while self._kinds and at_s + _LEAST_S <= self._duration_s:
            for kind in self._rng.sample(self._kinds, len(self._kinds)):
                faults = self._crash(at_s) if kind is FaultKind.CRASH else self._fault(kind, at_s)
                if not faults:
                    continue
                yield from faults
                at_s = round(faults[-1].at_s + self._rng.uniform(*_GAP_S), 1)
                if at_s + _LEAST_S > self._duration_s:
                    return
            at_s = round(at_s + _GAP_S[0], 1)

    def _crash(self, at_s: float) -> list[Fault]:
        """A crash, once no process has another fault; before it the bridge cannot store what comes."""
        free_s = max(at_s, *(self._busy_until_s.get((FaultKind.CRASH.layer, one), 0.0) for one in (BROKER, *ROLES)))
        disk_s = max(free_s, self._busy_until_s.get((FaultKind.DISK.layer, "bridge"), 0.0))
        crash_s = round(disk_s + _FULL_BEFORE_CRASH_S, 1)
        if not self._crashes_due or crash_s + _LEAST_S > self._duration_s:
            return []
        self._crashes_due -= 1
        crash = self._fault(FaultKind.CRASH, crash_s)
        if FaultKind.DISK not in self._kinds:
            return crash
        disk = Fault(disk_s, FaultKind.DISK, ("bridge",), round(crash_s - disk_s, 1))
        self._busy_until_s[disk.kind.layer, "bridge"] = disk.end_s
        return [disk, *crash]

    def _fault(self, kind: FaultKind, at_s: float) -> list[Fault]:
        length_s = self._length_s(kind, at_s)
        targets = self._targets(kind, at_s)
        if not targets:
            return []
        fault = Fault(at_s, kind, targets, length_s, self._amount(kind))
        for target in targets:
            self._busy_until_s[kind.layer, target] = fault.end_s
        return [fault]

    def _length_s(self, kind: FaultKind, at_s: float) -> float:
        room_s = self._duration_s - at_s
        if kind is FaultKind.FREEZE and self._long_freeze_due and room_s >= _LONG_FREEZE_S:
            self._long_freeze_due = False
            return _LONG_FREEZE_S
        return min(round(self._rng.uniform(*_LENGTHS_S[kind]), 1), round(room_s - 0.05, 1))

    def _targets(self, kind: FaultKind, at_s: float) -> tuple[str, ...]:
        network = kind in NETWORK_KINDS
        layer = kind.layer
        candidates: tuple[str, ...] = ROLES if network or kind is FaultKind.DISK else (BROKER, *ROLES)
        if kind is FaultKind.FORGET:
            candidates = (BROKER,)
        free = [one for one in candidates if self._busy_until_s.get((layer, one), 0.0) <= at_s]
        if kind is FaultKind.CRASH:
            return tuple(free)
        if network and len(free) == len(ROLES) and self._rng.random() < _ALL_LINKS_SHARE:
            return ROLES
        return (self._rng.choice(free),) if free else ()

    def _amount(self, kind: FaultKind) -> float:
        match kind:
            case FaultKind.DELAY:
                return round(self._rng.uniform(*_DELAYS_S), 2)
            case FaultKind.THROTTLE:
                return self._rng.randint(*_BYTES_PER_S)
            case FaultKind.CLOCK:
                return self._rng.choice(_CLOCK_STEPS_S)
            case FaultKind.HALF_CLOSE:
                return self._rng.randint(0, 1)
        return 0.0
