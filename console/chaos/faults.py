"""Faults, done to a mesh and taken back."""

from __future__ import annotations

import math
import signal
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

from config.errors import EXIT_CONFIG
from console.chaos.clock import Clocks
from console.chaos.mesh import Mesh
from console.chaos.proxy import Link
from console.chaos.schedule import BROKER, NETWORK_KINDS, Fault, FaultKind

__all__ = ["Injector"]

_STOP_S = 5.0
"""Seconds that a role has for its orderly end before it is killed."""
_AGAIN_S = 0.5
"""After an end that no fault has brought about: what `vigil up` or systemd would do."""
_GIVES_UP = frozenset({1, 2, EXIT_CONFIG})
"""Statuses that say that trying again is in vain. No fault of ours is a reason for that."""
_ENDS_MAX = 10


@dataclass(slots=True)
class _Return:
    """A process that is down, or on its way there.

    Attributes:
        at_s: when it is to be started again.
        kill_at_s: when it is killed if it has not ended by then.
        forget: it comes back without its data.
    """

    at_s: float
    kill_at_s: float
    forget: bool = False


class Injector:
    """Does faults to a mesh. Belongs to one thread; times are monotonic seconds.

    Args:
        mesh: the mesh, running.
        clocks: those of its processes.
        tell: gets a line for a person about each process that ends by itself.

    Attributes:
        injected: faults so far, by kind.
        findings: what should not have happened.
    """

    def __init__(self, mesh: Mesh, clocks: Clocks, tell: Callable[[str], None]) -> None:
        self._mesh = mesh
        self._clocks = clocks
        self._tell = tell
        self._returns: dict[str, _Return] = {}
        self._ends: Counter[str] = Counter()
        self._left_alone: frozenset[str] = frozenset()
        self.injected: Counter[FaultKind] = Counter()
        self.findings: list[str] = []

    def begin(self, fault: Fault, now_s: float) -> None:
        """Let it go wrong."""
        self.injected[fault.kind] += 1
        for target in fault.targets:
            self._mesh.logbook.mark(target, fault.told())
            if fault.kind in NETWORK_KINDS:
                self._mesh.links.do(target, lambda link: _begin_on_link(link, fault))
            else:
                self._begin_on_process(target, fault, now_s)

    def _begin_on_process(self, target: str, fault: Fault, now_s: float) -> None:
        process = self._mesh.process(target)
        match fault.kind:
            case FaultKind.KILL | FaultKind.FORGET | FaultKind.CRASH:
                process.kill()
                forget = fault.kind is not FaultKind.KILL
                self._returns[target] = _Return(now_s + fault.length_s, now_s, forget)
            case FaultKind.RESTART:
                process.ask_to_stop()
                self._returns[target] = _Return(now_s + fault.length_s, now_s + _STOP_S)
            case FaultKind.FREEZE:
                process.freeze()
            case FaultKind.DISK:
                process.limit_files(0)
            case FaultKind.CLOCK:
                self._clocks.step(target, fault.amount)

    def end(self, fault: Fault) -> None:
        """Put it right; a process that was killed or stopped is started by `tend`."""
        for target in fault.targets:
            if fault.kind in NETWORK_KINDS:
                self._mesh.links.do(target, lambda link: _end_on_link(link, fault.kind))
            elif fault.kind is FaultKind.FREEZE:
                self._mesh.process(target).thaw()
            elif fault.kind is FaultKind.DISK:
                self._mesh.process(target).limit_files(None)

    def tend(self, now_s: float) -> None:
        """Start again what is due, and what has ended by itself."""
        for role, process in self._mesh.processes.items():
            due = self._returns.get(role)
            if role in self._left_alone:
                continue
            if process.running:
                if due is not None and now_s >= due.kill_at_s:
                    process.kill()
            elif due is None:
                self._returns[role] = _Return(self._again_at_s(role, now_s), math.inf)
            elif now_s >= due.at_s:
                del self._returns[role]
                if due.forget and role == BROKER:
                    self._mesh.forget_broker()
                self._mesh.start_again(role)

    def _again_at_s(self, role: str, now_s: float) -> float:
        status = self._mesh.process(role).exit_status
        how = f"killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        words = self._mesh.logbook.take_last_words(role)
        said = f"{role} {how}" + (f": {words}" if words else "")
        self._tell(f"          {said}")
        self._ends[role] += 1
        if status < 0 or status in _GIVES_UP:
            self.findings.append(f"gave up: {said}")
        if self._ends[role] > _ENDS_MAX:
            self.findings.append(f"{role} ended {_ENDS_MAX} times by itself and was not started again")
            return math.inf
        return now_s + _AGAIN_S

    def leave_alone(self, roles: Collection[str]) -> None:
        """Do not start these again: they have been asked to end."""
        self._left_alone = frozenset(roles)

    def heal(self, now_s: float) -> None:
        """Put everything right that is still wrong."""
        for role, process in self._mesh.processes.items():
            process.thaw()
            process.limit_files(None)
            if role != BROKER:
                self._mesh.links.do(role, Link.heal)
        self._clocks.heal()
        for due in self._returns.values():
            due.at_s = min(due.at_s, now_s)

    @property
    def complete(self) -> bool:
        """Whether every process has been on the bus since its last start: before that, it may not take a signal."""
        return not self._returns and all(self._mesh.has_joined(role) for role in self._mesh.processes)


def _begin_on_link(link: Link, fault: Fault) -> None:
    match fault.kind:
        case FaultKind.CUT:
            link.change(replace(link.state, refusing=True))
            link.close_all()
        case FaultKind.RESET:
            link.reset_all()
        case FaultKind.HALF_CLOSE:
            link.half_close(from_broker=bool(fault.amount))
        case FaultKind.STALL:
            link.change(replace(link.state, stalled=True))
        case FaultKind.BLACK_HOLE:
            link.change(replace(link.state, swallowing=True))
        case FaultKind.DELAY:
            link.change(replace(link.state, delay_s=fault.amount))
        case FaultKind.THROTTLE:
            link.change(replace(link.state, bytes_per_s=fault.amount))
        case FaultKind.REPEAT:
            link.change(replace(link.state, repeating=True))


def _end_on_link(link: Link, kind: FaultKind) -> None:
    match kind:
        case FaultKind.CUT:
            link.change(replace(link.state, refusing=False))
        case FaultKind.HALF_CLOSE:
            link.reset_all(half_closed=True)
        case FaultKind.STALL:
            link.change(replace(link.state, stalled=False))
        case FaultKind.BLACK_HOLE:
            link.change(replace(link.state, swallowing=False))
            link.reset_all()
        case FaultKind.DELAY:
            link.change(replace(link.state, delay_s=0.0))
        case FaultKind.THROTTLE:
            link.change(replace(link.state, bytes_per_s=0.0))
        case FaultKind.REPEAT:
            link.change(replace(link.state, repeating=False))
