"""One run: a mesh, its faults, its recovery, and what is found afterwards."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from config import PermanentError
from config.process import vigil_command
from config.text import printable
from console.chaos.checks import Tally, check_audit, check_journal, check_promises, read_journal, split
from console.chaos.clock import Clocks, find_faketime
from console.chaos.faults import Injector
from console.chaos.mesh import DRILLS, Mesh, MeshOptions
from console.chaos.resends import ResendCounter
from console.chaos.schedule import BROKER, ROLES, Fault, FaultKind, make_schedule
from console.verdict import AuditReport

__all__ = ["ChaosRun", "RunReport", "RunSpec", "Tell"]

Tell = Callable[[str], None]
"""Gets a line for a person."""

_TICK_S = 0.05
_HEALED_S = 60.0
"""Seconds for the last process to be there again. A few are enough; a machine with other work takes its time, and that
is no loss. The same holds for the bounds below."""
_EMPTY_S = 60.0
"""Seconds for the outboxes to become empty."""
_EMPTY_POLL_S = 0.1
_STOP_S = 30.0
"""Seconds for an orderly end."""
_AUDIT_S = 60.0


@dataclass(frozen=True, slots=True)
class RunSpec:
    """What to do.

    Attributes:
        seed: of the schedule.
        duration_s: of the schedule.
        kinds: of faults.
        options: of the mesh.
    """

    seed: int
    duration_s: float
    kinds: tuple[FaultKind, ...]
    options: MeshOptions

    def schedule(self) -> tuple[Fault, ...]:
        """The faults."""
        return make_schedule(self.seed, self.duration_s, self.kinds)


class RunReport(msgspec.Struct, kw_only=True):
    """What came out.

    Attributes:
        faults: injected, by kind.
        resent: messages that were sent again for want of a receipt, as far as health reports told.
        restarts: of processes, wanted or not.
        recovery_s: from the end of the faults until the last outbox was empty; None when that never came.
        took_s: the whole run.
        findings: what should not be; empty is a run that held.
    """

    seed: int
    engine: str
    sink: str
    duration_s: float
    faults: dict[str, int] = msgspec.field(default_factory=dict)
    escalations: Tally = Tally()
    events: Tally = Tally()
    resent: int = 0
    restarts: int = 0
    recovery_s: float | None = None
    took_s: float = 0.0
    findings: list[str] = msgspec.field(default_factory=list)
    interrupted: bool = False


class ChaosRun:
    """Runs one seed, once.

    Args:
        spec: what to do.
        folder: an empty folder for everything that the mesh writes.
        stop: set when a person has had enough.
        tell: gets a line for each fault as it happens.
    """

    def __init__(self, spec: RunSpec, folder: Path, stop: threading.Event, tell: Tell) -> None:
        self._spec = spec
        self._stop = stop
        self._tell = tell
        clocks = folder / "clocks"
        clocks.mkdir(parents=True)
        stepped = {role for fault in spec.schedule() if fault.kind is FaultKind.CLOCK for role in fault.targets}
        self._clocks = Clocks(clocks, find_faketime(), stepped)
        self._mesh = Mesh(folder, spec.options, self._clocks)
        self._injector = Injector(self._mesh, self._clocks, tell)
        self._resends = ResendCounter(self._mesh.settings)
        self._report = RunReport(
            seed=spec.seed,
            engine=spec.options.engine,
            sink="Kafka" if spec.options.kafka else "the journal",
            duration_s=spec.duration_s,
        )

    def run(self) -> RunReport:
        """Start the mesh, break it, heal it, look.

        Returns:
            What came out; a mesh that did not come up is a finding too.
        """
        began_s = time.monotonic()
        report = self._report
        try:
            with self._mesh:
                self._mesh.start(self._stop)
                self._resends.start(self._mesh.broker_url)
                self._break()
                self._recover()
                self._stop_mesh()
            if self._stop.is_set():
                report.interrupted = True
            else:
                self._look()
        except PermanentError as error:
            report.findings.append(str(error))
        finally:
            self._resends.close()
        report.faults = {kind.value: count for kind, count in sorted(self._injector.injected.items())}
        report.restarts = sum(max(0, process.starts - 1) for process in self._mesh.processes.values())
        report.resent = self._resends.total
        report.findings += self._injector.findings
        report.findings += [f"in the log of {words}" for words in self._mesh.logbook.faults()]
        report.took_s = round(time.monotonic() - began_s, 1)
        return report

    # --- the faults -------------------------------------------------------------------------------------------

    def _break(self) -> None:
        begin_s = time.monotonic()
        for at_s, begins, _, fault in self._steps():
            if not self._tend_until(begin_s + at_s):
                return
            if begins:
                self._tell(fault.told())
                self._injector.begin(fault, time.monotonic())
            else:
                self._injector.end(fault)
        self._tend_until(begin_s + self._spec.duration_s)

    def _steps(self) -> list[tuple[float, bool, int, Fault]]:
        """When, whether it begins then, its number, and the fault; at one moment, ends come before begins."""
        steps = []
        for number, fault in enumerate(self._spec.schedule()):
            steps += [(at_s, at_s == fault.at_s, number, fault) for at_s in {fault.at_s, fault.end_s}]
        return sorted(steps, key=lambda step: step[:3])

    def _tend_until(self, until_s: float) -> bool:
        """Look after the processes; False when a person has had enough."""
        while (left_s := until_s - time.monotonic()) > 0:
            if self._stop.wait(min(_TICK_S, left_s)):
                return False
            self._injector.tend(time.monotonic())
        return not self._stop.is_set()

    # --- the recovery -----------------------------------------------------------------------------------------

    def _recover(self) -> None:
        """Heal, stop what raises, and wait until nothing waits any more."""
        healed_s = time.monotonic()
        self._injector.heal(healed_s)
        if self._stop.is_set():
            return
        if not self._wait(lambda: self._injector.complete, _HEALED_S):
            self._report.findings.append("not every process was there again after the faults")
        self._injector.leave_alone(DRILLS)
        self._mesh.stop_raising()
        quiet: set[str] = set()
        if self._wait(lambda: self._were_empty(quiet), _EMPTY_S):
            self._report.recovery_s = round(time.monotonic() - healed_s, 1)
        else:
            left = {role: rows for role, rows in self._mesh.waiting().items() if role not in quiet}
            self._report.findings.append(f"outboxes not empty {_EMPTY_S:.0f} s after the faults: {left}")

    def _were_empty(self, quiet: set[str]) -> bool:
        """Whether each outbox was seen empty once: an edge and a detector go on raising."""
        waiting = self._mesh.waiting()
        quiet.update(role for role in ROLES if role not in waiting and self._has_ended(role))
        return len(quiet) == len(ROLES)

    def _has_ended(self, role: str) -> bool:
        return role not in DRILLS or not self._mesh.process(role).running

    def _wait(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        deadline_s = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline_s or self._stop.wait(_EMPTY_POLL_S):
                return False
            self._injector.tend(time.monotonic())
        return True

    def _stop_mesh(self) -> None:
        """Stop everything in order, the way of the data."""
        if self._stop.is_set():
            return
        for roles in (DRILLS, ("edge", "detector"), ("bridge",), (BROKER,)):
            killed = self._mesh.stop_roles(roles, _STOP_S)
            self._report.findings += [f"{role} did not end within {_STOP_S:.0f} s of being asked to" for role in killed]

    # --- the result -------------------------------------------------------------------------------------------

    def _look(self) -> None:
        report, mesh = self._report, self._mesh
        audit = self._audit()
        if audit is None:
            return
        report.escalations, report.events = split(audit)
        kafka = self._spec.options.kafka is not None
        report.findings += check_audit(audit, may_repeat=kafka)
        if kafka:
            report.findings += check_promises(audit, mesh.promised)
            return
        journal = read_journal(mesh.settings.state_dir / "journal.db")
        report.findings += check_journal(journal, mesh.promised)

    def _audit(self) -> AuditReport | None:
        command = vigil_command(self._mesh.site_file, ("audit", "--json"))
        try:
            done = subprocess.run(
                command,
                env=self._mesh.environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_AUDIT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            self._report.findings.append(f"the audit did not end within {_AUDIT_S:.0f} s")
            return None
        try:
            return msgspec.json.decode(done.stdout, type=AuditReport)
        except msgspec.DecodeError:
            words = done.stderr.decode(errors="replace").strip()
            self._report.findings.append(f"the audit failed: {printable(words, 400)}")
            return None
