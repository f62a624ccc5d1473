"""The mesh under test: real processes, each with a link of its own to the broker."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import yaml

from broker.outbox import read_backlogs
from broker.session import find_outboxes
from config import PermanentError
from config.process import role_command
from config.settings import Settings
from config.site_file import role_environment
from console.chaos.clock import Clocks
from console.chaos.logbook import Logbook
from console.chaos.process import OnLine, VictimProcess
from console.chaos.proxy import Switchboard
from console.chaos.schedule import BROKER, KEEPALIVE_S, ROLES
from console.machine import PortClaims, answers

__all__ = ["DRILLS", "SITE", "Mesh", "MeshOptions"]

SITE = "chaos"
DRILLS = ("drill", "drill.2")
_HOST = "127.0.0.1"
_CAMERAS = {"drill": "gate", "drill.2": "yard"}
_RESEND_AFTER_S = 3.0
_START_S = 120.0
_POLL_S = 0.05
_STOP_S = 5.0
_DRAIN_S = 120.0
"""Seconds for which a drill that was asked to stop waits for its receipts: longer than it is waited for, so that one
that hangs is still there to be asked where."""


@dataclass(frozen=True, slots=True)
class MeshOptions:
    """What to run.

    Attributes:
        engine: the broker.
        rate: escalations a second, both drills together; there are as many motion events.
        kafka: ``HOST:PORT`` where the sink is Kafka, None for the journal.
    """

    engine: Literal["embedded", "mosquitto"] = "mosquitto"
    rate: float = 20.0
    kafka: str | None = None


class Mesh:
    """The processes of one run.

    Args:
        folder: an empty folder for everything that they write.
        options: what to run.
        clocks: where their wall clocks are set.

    Attributes:
        settings: where they keep things.
        site_file: what they run with.
        environment: theirs.
        logbook: what they said.
        promised: every id that a drill said was on disk.
    """

    def __init__(self, folder: Path, options: MeshOptions, clocks: Clocks) -> None:
        self.settings = Settings(site=SITE, node=SITE, state_dir=folder / "state")
        self.site_file = folder / "vigil.yaml"
        self.environment = role_environment(self.settings)
        self.promised: set[str] = set()
        (folder / "logs").mkdir(parents=True)
        self.logbook = Logbook(folder / "logs")
        self.links = Switchboard()
        self._options = options
        self._clocks = clocks
        self._claims = PortClaims()
        self._port = self._claims.take_any(_HOST)
        self._processes: dict[str, VictimProcess] = {}
        self._said_before: dict[str, int] = {}

    @property
    def broker_url(self) -> str:
        """The broker itself, beside the links."""
        return f"mqtt://{_HOST}:{self._port}"

    def process(self, role: str) -> VictimProcess:
        """One of them."""
        return self._processes[role]

    @property
    def processes(self) -> Mapping[str, VictimProcess]:
        """All of them, by role, in the order in which they start."""
        return self._processes

    # --- start -------------------------------------------------------------------------------------------------

    def start(self, stop: threading.Event) -> None:
        """Start everything, and wait until every role is on the bus.

        Raises:
            PermanentError: it did not get there; the message has the last words.
        """
        self.site_file.write_text(yaml.safe_dump(self._document(), sort_keys=False), encoding="utf-8")
        self._add(BROKER, ("broker", "run"))
        self.process(BROKER).start()
        self._wait(lambda: self.has_joined(BROKER) and answers(_HOST, self._port), BROKER, stop)
        for role, arguments in self._role_arguments():
            port = self.links.open(role, self._port)
            self._add(role, arguments, "--bus", f"mqtt://{_HOST}:{port}", "--log-level", "info")
            self.process(role).start()
        for role in ROLES:
            self._wait(partial(self.has_joined, role), role, stop)

    def _document(self) -> dict[str, Any]:
        """The site file. Times are short, so that what happens in minutes elsewhere happens in seconds here."""
        document: dict[str, Any] = {
            "site": SITE,
            "node": SITE,
            "state_dir": str(self.settings.state_dir.absolute()),
            "log": {"style": "json"},
            "bus": {
                "url": self.broker_url,
                "keepalive_s": KEEPALIVE_S,
                "connect_timeout_s": 2.0,
                "protocol": "3.1.1" if self._options.engine == "embedded" else "auto",
                "outbox": {"resend_after_s": _RESEND_AFTER_S},
            },
            "broker": {"engine": self._options.engine, "port": self._port},
            "cameras": {
                "street": {
                    "source": "synthetic:street?fps=4&width=640&height=360",
                    "idle_fps": 1.0,
                    "motion_fps": 2.0,
                    "motion": {"hold_s": 1.0},
                }
            },
            "detector": {"threads": 1, "rules": {"presence": {"for_s": 0, "cooldown_s": 1.0}}},
        }
        if self._options.kafka is not None:
            token = secrets.token_hex(4)
            events = f"vigil.chaos.{token}.events"
            topics = {"escalation": f"vigil.chaos.{token}", "motion": events, "track": events, "clip": events}
            document["bridge"] = {"kafka": {"bootstrap": self._options.kafka, "topics": topics}}
        return document

    def _role_arguments(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        rate = str(self._options.rate / len(DRILLS))
        for role in ROLES:
            if role not in DRILLS:
                yield role, (role,)
                continue
            flags = ("--camera", _CAMERAS[role], "--rate", rate, "--wait", f"{_DRAIN_S:.0f}s", "--role", role)
            yield role, ("drill", "--motion", "--for", "30d", *flags)

    def _add(self, role: str, arguments: Sequence[str], *flags: str) -> None:
        self._processes[role] = VictimProcess(
            role,
            role_command(self.site_file, (*flags, *arguments)),  # the root's flags come first
            environment={**self.environment, **self._clocks.environment(role)},
            on_line=self._hear_drill(role) if role in DRILLS else self.logbook.listener(role),
        )

    def _hear_drill(self, role: str) -> OnLine:
        """A drill's ids come on standard output, its log on standard error."""

        def hear(stream: str, line: str) -> None:
            if stream == "stdout":
                self.promised.add(line)
            else:
                self.logbook.add(role, line)

        return hear

    def has_joined(self, role: str) -> bool:
        """Whether it is on the bus since its last start or, the broker, listens."""
        return self.process(role).running and self._times_joined(role) > self._said_before.get(role, 0)

    def start_again(self, role: str) -> None:
        """Start one that has ended."""
        self._said_before[role] = self._times_joined(role)
        self.process(role).start()

    def _times_joined(self, role: str) -> int:
        return self.logbook.count(role, "broker.listening" if role == BROKER else "bus.connected")

    def _wait(self, condition: Callable[[], object], role: str, stop: threading.Event) -> None:
        deadline_s = time.monotonic() + _START_S
        while not condition() and not stop.wait(_POLL_S):
            if not self.process(role).running or time.monotonic() > deadline_s:
                words = self.logbook.take_last_words(role) or f"see {self.site_file.parent / 'logs' / role}.log"
                raise PermanentError(f"the mesh did not come up, {role} is not there: {words}")

    # --- while it runs ----------------------------------------------------------------------------------------

    def forget_broker(self) -> None:
        """Delete what a stopped broker kept on disk."""
        for file in (self.settings.state_dir / "mosquitto").glob("*.db*"):
            file.unlink()

    def waiting(self, roles: Collection[str] = ROLES) -> dict[str, int]:
        """Messages in the outboxes of these roles that nobody has confirmed, where there are any."""
        found = {}
        for origin, path in find_outboxes(self.settings).items():
            role = origin.partition(".")[2]
            rows = sum(len(backlog.waiting) for backlog in read_backlogs(path)) if role in roles else 0
            if rows:
                found[role] = rows
        return found

    # --- the end ----------------------------------------------------------------------------------------------

    def stop_raising(self) -> None:
        """Ask the drills to end; they wait for their receipts."""
        for role in DRILLS:
            self.process(role).ask_to_stop()

    def stop_roles(self, roles: Sequence[str], timeout_s: float = _STOP_S) -> list[str]:
        """Stop them at once, all together; names of those that had to be killed."""
        for role in roles:
            self.process(role).ask_to_stop()
        return [role for role in roles if not self.process(role).wait_stopped(timeout_s)]

    def close(self) -> None:
        """End everything that is left, on the spot."""
        for process in self._processes.values():
            process.kill()
        self.links.__exit__(None, None, None)
        self._claims.__exit__(None, None, None)
        self.logbook.close()

    def __enter__(self) -> Self:
        """Open the switchboard; no process runs yet."""
        self.links.__enter__()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """End everything that is left."""
        self.close()
