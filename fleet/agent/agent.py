"""The agent: what the site says of its node becomes what runs there, and is told back."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import msgspec

from broker import Bus, Delivery, Figures
from broker.figures import own_versions
from broker.messages import Hardware, NodeDocument, NodeProblem, NodeReport, RegistryIndex, UpdateReport
from broker.topics import NODE_REPORT, REGISTRY_INDEX, REGISTRY_NODE
from config import BadPayloadError, Clock, ConfigError, Supervised, SystemClock, TransientError, get_logger
from config.files import FileWatch
from config.process import RoleProcess, role_command
from config.settings import Settings
from config.site_file import role_environment, write_site_file
from config.sources import secrets_in, variable_of
from config.supervise import beat
from fleet.agent.container import ContainerProcess, container_command, container_name
from fleet.agent.crew import STOP_S, Crew
from fleet.agent.hardware import look_at_machine
from fleet.agent.logs import read_log
from fleet.agent.pulse import Pulse
from fleet.agent.remembered import Remembered
from fleet.agent.wanted import WantedRole, wanted_roles

__all__ = ["Agent", "LoadSettings"]

TICK_S = 0.2
REPORT_INTERVAL_S = 5.0
"""Source: the design, coordinator and agents ("status every 5 s")."""
LOOK_INTERVAL_S = 60.0
"""Between two looks at the machine: a camera or a container engine may come."""
_AGAIN_S = 10.0
"""Between two attempts to write down what is to run."""
_MAIL_MAX = 256
NodeState = Literal["greeting", "running", "draining", "drained", "offline"]


class LoadSettings(Protocol):
    """Reads the settings; :class:`console.loading.SettingsLoader` does.

    Attributes:
        file: the site file, where there is one.
    """

    file: Path | None

    def check(self, overrides: Mapping[str, Any] | None = None) -> tuple[Settings | None, list[ConfigError]]:
        """The settings with `overrides` above them and no errors, or None and everything that is wrong."""
        ...


class Agent:
    """Runs what the site asks of this node.

    Concurrency: one thread of its own does all of it; what comes from the bus or from orders is handed over to it.

    Args:
        bus: not yet started.
        settings: this node's own.
        load: reads them again, with what the document says above them.
        leave: ends the process; called from any thread.
        sockets: an empty folder with a short path, for the notify sockets of the processes.
        clock: time.
    """

    def __init__(
        self,
        bus: Bus,
        settings: Settings,
        load: LoadSettings,
        *,
        leave: Callable[[], None],
        sockets: Path,
        clock: Clock | None = None,
    ) -> None:
        self._bus = bus
        self._own = settings
        self._load = load
        self._leave = leave
        self._clock: Clock = clock or SystemClock()
        self._log = get_logger()
        self._folder = settings.state_dir / "agent"
        self._site_file = self._folder / "vigil.yaml"
        self._remembered = Remembered(self._folder / f"{settings.site}.{settings.node}.json")
        self._crew = Crew(self._make, sockets, settings.fleet.watchdog_s, self._clock)
        self._watch = FileWatch(load.file)
        self._mail: queue.Queue[Callable[[], None]] = queue.Queue(_MAIL_MAX)
        self._hardware: Hardware | None = None
        self._settings = settings
        self._written: Settings | None = None
        self._again_s = float("inf")
        self._problems: list[NodeProblem] = []
        self._told_by: list[Callable[[], Sequence[NodeProblem]]] = []
        self._listeners: list[Callable[[NodeDocument | None], None]] = []
        self._on_index_listeners: list[Callable[[], None]] = []
        self._update: UpdateReport | None = None
        self._version = own_versions()["vigil"]
        self._started_at = self._clock.now()
        self._report: NodeReport | None = None
        self._reported_s = float("-inf")
        self._ending = False
        self._stop = threading.Event()
        self._looks = threading.Event()
        self._thread = Supervised("agent", self._step, stop=self._stop, clock=self._clock, vital="alone")
        self._looker = Supervised("hardware", self._look, stop=self._looks, clock=self._clock)

    # --- for those who add something to the agent ---------------------------------------------------------------

    @property
    def document(self) -> NodeDocument | None:
        """What the site says of this node; None: nothing yet."""
        return self._remembered.document

    @property
    def report(self) -> NodeReport | None:
        """What it has told last."""
        return self._report

    @property
    def is_connected(self) -> bool:
        """Whether there is a broker."""
        return self._bus.connected

    def on_document(self, listener: Callable[[NodeDocument | None], None]) -> None:
        """Have `listener` called with each new document, on the agent's thread; call before `start`."""
        self._listeners.append(listener)

    def on_index(self, listener: Callable[[], None]) -> None:
        """Have `listener` called when anything in the site's registry has changed; call before `start`."""
        self._on_index_listeners.append(listener)

    def add_problems(self, tell: Callable[[], Sequence[NodeProblem]]) -> None:
        """Have what else cannot be done told in the node's report; call before `start`."""
        self._told_by.append(tell)

    def tell_update(self, update: UpdateReport | None) -> None:
        """Tell how far a change of version is; from any thread."""
        self._update = update

    def leave(self) -> None:
        """End this process in order, its roles too.

        The service starts the agent again: as another version, or under another name.
        """
        self._leave()

    # --- start and end ------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Ask for what the site says, and begin with what it said last; before the bus starts."""
        node = self._own.node
        self._bus.subscribe(REGISTRY_NODE, self._on_document, node=node)
        self._bus.subscribe(REGISTRY_INDEX, self._on_index)
        self._follow()
        self._thread.start()
        self._looker.start()

    def close(self) -> None:
        """Stop the processes along the data's way, and say that the node is away."""
        self._looks.set()
        self._ending = True
        patience_s = (len(self._crew.names) + 1) * (STOP_S + 1)
        deadline_s = self._clock.monotonic_s() + patience_s
        while not self._crew.is_idle and self._clock.monotonic_s() < deadline_s:
            self._clock.wait(threading.Event(), TICK_S / 2)
        self._stop.set()
        self._thread.join(STOP_S)
        self._crew.close()
        self._publish(self._made_report("offline"))

    def figures(self) -> Figures:
        """What it adds to the process's health."""
        reports = self._report.roles if self._report is not None else {}
        return Figures(
            counts={
                "roles_wanted": len(reports),
                "roles_running": sum(role.state == "running" for role in reports.values()),
                "roles_restarted": sum(role.restarts for role in reports.values()),
                "roles_hung": self._crew.hung,
            }
        )

    # --- orders -------------------------------------------------------------------------------------------------

    @property
    def orders(self) -> Mapping[str, Callable[[Mapping[str, str]], Mapping[str, str]]]:
        """What the agent can be asked to do."""
        return {
            "ping": self._ping,
            "logs": self._logs,
            "restart": self._restart,
            "drain": lambda _arguments: self._rest(resting=True),
            "resume": lambda _arguments: self._rest(resting=False),
        }

    def _ping(self, _arguments: Mapping[str, str]) -> Mapping[str, str]:
        return {"at": self._clock.now().isoformat(), "version": self._version}

    def _logs(self, arguments: Mapping[str, str]) -> Mapping[str, str]:
        role, lines = arguments.get("role", ""), arguments.get("lines", "50")
        logs = {file.stem: file for file in sorted((self._own.state_dir / "logs").glob("*.log"))}
        if role not in logs:
            raise BadPayloadError(f"role: {role[:64]!r} has no log here; there are {', '.join(logs) or 'none'}")
        if not lines.isdecimal() or not 1 <= int(lines[:9]) <= 1000:
            raise BadPayloadError(f"lines: {lines[:64]!r} is no number from 1 to 1000")
        try:
            part = read_log(logs[role], lines=int(lines), cursor=arguments.get("cursor", ""))
        except OSError as error:
            raise TransientError(f"the log of {role} cannot be read ({error.strerror}): ask again") from error
        return {"text": part.text, "cursor": part.cursor, "more": "yes" if part.more else "no"}

    def _restart(self, arguments: Mapping[str, str]) -> Mapping[str, str]:
        role = arguments.get("role") or None
        if role is not None and role not in self._crew.names:
            running = ", ".join(self._crew.names) or "nothing"
            raise BadPayloadError(f"role: this node does not run {role[:64]!r}; it runs {running}")
        self._hand_over(lambda: self._log.info("agent.restarting", roles=self._crew.restart(role)))
        return {"restarting": role or ", ".join(self._crew.names)}

    def _rest(self, *, resting: bool) -> Mapping[str, str]:
        if self.document is None:
            raise BadPayloadError("the site has no document for this node: `vigil node accept` it first")

        def remember() -> None:
            self._remembered.keep(self.document, drained=resting)
            self._follow()

        self._hand_over(remember)
        return {"state": "draining" if resting else "running"}

    def _hand_over(self, task: Callable[[], None]) -> None:
        try:
            self._mail.put_nowait(task)
        except queue.Full:
            raise TransientError(f"{_MAIL_MAX} orders wait here already: ask again") from None

    # --- what the site says -------------------------------------------------------------------------------------

    def _on_document(self, delivery: Delivery) -> None:
        document = delivery.content
        if document is None:
            self._hand_over(lambda: self._take(None))
        elif isinstance(document, NodeDocument):
            if document.node != self._own.node:
                reason = f"the document is of node {document.node[:64]!r}, its topic of {self._own.node!r}"
                self._bus.reject(str(delivery.topic), reason, len(delivery.payload))
                return
            self._hand_over(lambda: self._take(document))

    def _on_index(self, delivery: Delivery) -> None:
        index = delivery.content
        if not isinstance(index, RegistryIndex):
            return
        if self._own.node not in index.nodes:
            self._hand_over(lambda: self._forget(index.revision))
        for listener in self._on_index_listeners:
            listener()

    def _forget(self, revision: int) -> None:
        """The site does not know this node any more; an index from before its document says nothing."""
        if self.document is not None and self.document.revision < revision:
            self._take(None)

    def _take(self, document: NodeDocument | None) -> None:
        known = self.document
        if document == known:
            return
        if document is not None and known is not None and document.revision < known.revision:
            reason = f"revision {document.revision} is older than {known.revision}, which holds here"
            topic = REGISTRY_NODE.at(self._own.site, node=self._own.node)
            self._bus.reject(str(topic), reason, 0)
            return
        self._log.info("agent.document", revision=None if document is None else document.revision)
        # What was ordered here holds until the site says something else of that very thing.
        says_so = document is not None and known is not None and document.drained == known.drained
        self._remembered.keep(document, drained=self._remembered.drained if says_so else None)
        self._follow()
        for listener in self._listeners:
            listener(document)

    # --- the agent's own thread ---------------------------------------------------------------------------------

    def _step(self) -> None:
        try:
            task = self._mail.get(timeout=TICK_S)
        except queue.Empty:
            pass
        else:
            task()
        now_s = self._clock.monotonic_s()
        if self._watch.has_changed(now_s) or now_s >= self._again_s:
            self._follow()
        self._crew.resting = self._ending or self._is_to_rest()
        self._crew.tend()
        beat()
        report = self._made_report()
        known = self._report
        if known is None or now_s - self._reported_s >= REPORT_INTERVAL_S or report != _at_time_of(known, report):
            self._reported_s = now_s
            self._publish(report)

    def _look(self) -> None:
        hardware = _kept(look_at_machine(), self._hardware)
        if hardware != self._hardware:  # the first one always: nothing starts before it
            self._hand_over(lambda: self._note_hardware(hardware))
        self._clock.wait(self._looks, LOOK_INTERVAL_S)

    def _note_hardware(self, hardware: Hardware) -> None:
        self._hardware = hardware
        self._follow()

    def _is_to_rest(self) -> bool:
        document, ordered = self._remembered.document, self._remembered.drained
        return ordered if ordered is not None else document is not None and document.drained

    def _follow(self) -> None:
        """Work out what is to run, from the document, this machine and its settings as they are now."""
        document = self.document
        settings, errors = self._load.check(document.settings if document is not None else {})
        self._problems = [NodeProblem(part="settings", reason=str(error)[:4096]) for error in errors]
        if settings is not None:
            own = {"site": self._own.site, "node": self._own.node, "state_dir": self._own.state_dir}
            self._settings = settings.model_copy(update=own)
        wanted: dict[str, WantedRole] = {}
        if document is not None and self._hardware is not None:
            image = f"vigil-mesh:{self._version}"
            wanted, problems = wanted_roles(document, self._settings, self._hardware, image=image)
            self._problems += problems
        try:
            self._write_site_file()
        except OSError as error:
            reason = f"{self._site_file} cannot be written ({error.strerror}): what runs goes on as it is"
            self._problems.append(NodeProblem(part="settings", reason=reason))
            self._again_s = self._clock.monotonic_s() + _AGAIN_S
            return
        self._again_s = float("inf")
        self._crew.want(wanted)

    def _write_site_file(self) -> None:
        if self._settings != self._written:
            write_site_file(self._settings, self._site_file, written_by="vigil node run")
            self._written = self._settings

    def _make(self, wanted: WantedRole, pulse: Pulse) -> RoleProcess:
        log_file = self._own.state_dir / "logs" / f"{wanted.name}.log"
        environment = role_environment(self._settings)
        if wanted.image:
            return self._made_container(wanted, pulse, log_file, environment)
        if wanted.gpus is not None:
            numbers = ",".join(str(number) for number in wanted.gpus)
            environment |= {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": numbers}
        command = role_command(self._site_file, wanted.arguments)
        return RoleProcess(wanted.name, command, log_file=log_file, environment=environment | pulse.environment)

    def _made_container(
        self, wanted: WantedRole, pulse: Pulse, log_file: Path, environment: dict[str, str]
    ) -> RoleProcess:
        command = container_command(
            wanted,
            self._settings,
            site_file=self._site_file.absolute(),
            hardware=self._hardware or Hardware(),
            notify=pulse.environment,
            secrets=[variable_of(place) for place in secrets_in(self._settings)],
        )
        name = container_name(self._settings, wanted.name)
        return ContainerProcess(wanted.name, command, container=name, log_file=log_file, environment=environment)

    # --- what it tells ------------------------------------------------------------------------------------------

    def _made_report(self, state: NodeState | None = None) -> NodeReport:
        told = [problem for tell in self._told_by for problem in tell()]
        return NodeReport(
            node=self._own.node,
            at=self._clock.now(),
            started_at=self._started_at,
            state=state or self._state(),
            revision=self.document.revision if self.document is not None else 0,
            version=self._version,
            hardware=self._hardware or Hardware(),
            roles=self._crew.reports(),
            problems=(*self._problems, *self._crew.problems(), *told),
            update=self._update,
        )

    def _state(self) -> NodeState:
        if self._crew.resting:
            return "drained" if self._crew.is_idle else "draining"
        return "greeting" if self.document is None else "running"

    def _publish(self, report: NodeReport) -> None:
        self._report = report
        _, _, role = self._bus.origin.partition(".")
        try:
            self._bus.publish(NODE_REPORT.at(self._own.site, node=self._own.node, role=role), report)
        except BadPayloadError as error:
            self._log.error("agent.report_too_large", error=str(error))


def _kept(seen: Hardware, before: Hardware | None) -> Hardware:
    """What was seen, with the GPUs and engines of before where none answers now.

    They do not go while a machine runs, but what lists them may be slow or fail for once; and every worker would be
    started anew on the processor.
    """
    if before is None:
        return seen
    return msgspec.structs.replace(seen, gpus=seen.gpus or before.gpus, engines=seen.engines or before.engines)


def _at_time_of(report: NodeReport, other: NodeReport) -> NodeReport:
    return msgspec.structs.replace(report, at=other.at)
