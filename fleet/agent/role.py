"""The agent as a process: bus, presence, orders and the node's processes, from the first second to the last."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from broker import Presence, connect
from broker.messages import NodeProblem
from config import PermanentError, get_logger
from config.files import hold_lock_if_free
from config.settings import Settings
from fleet.agent.agent import Agent, LoadSettings
from fleet.desk import Desk, Order

__all__ = ["Addition", "run_agent"]


class Addition(Protocol):
    """Something that an agent does besides running processes."""

    @property
    def orders(self) -> Mapping[str, Order]:
        """What it can be asked to do, by the name of the order."""
        ...

    def start(self) -> None:
        """Begin, before the bus connects."""
        ...

    def close(self) -> None:
        """End in order, while the bus is still there."""
        ...

    def problems(self) -> Sequence[NodeProblem]:
        """What it cannot do of what the site asks; called often."""
        ...


def run_agent(
    settings: Settings,
    role: str,
    stop: threading.Event,
    *,
    load: LoadSettings,
    additions: Callable[[Agent], Sequence[Addition]] = lambda _agent: (),
) -> None:
    """Run what the site asks of this node until `stop` is set.

    Args:
        settings: this node's own.
        role: ``agent``.
        stop: set by signals, or by a test.
        load: reads the settings again, with what the site says above them.
        additions: makes what else this agent does.

    Raises:
        PermanentError: another agent runs on the same state folder, it cannot be used, or the broker refuses us for
            good.
    """
    lock = settings.state_dir / "agent" / "lock"
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PermanentError(
            f"state folder {settings.state_dir} cannot be used ({error.strerror}): choose another with --state DIR"
        ) from error
    with hold_lock_if_free(lock) as is_ours, tempfile.TemporaryDirectory(prefix="vigil-") as sockets:
        if not is_ours:
            raise PermanentError(
                f"another agent runs on {settings.state_dir}: a machine has one; `systemctl status vigil-node` shows "
                "whether systemd runs it"
            )
        _run(settings, role, stop, load=load, additions=additions, sockets=Path(sockets))


def _run(
    settings: Settings,
    role: str,
    stop: threading.Event,
    *,
    load: LoadSettings,
    additions: Callable[[Agent], Sequence[Addition]],
    sockets: Path,
) -> None:
    fatal: list[Exception] = []

    def on_fatal(error: Exception) -> None:
        fatal.append(error)
        stop.set()

    bus = connect(settings, role, on_fatal=on_fatal)
    agent = Agent(bus, settings, load, leave=stop.set, sockets=sockets)
    made = list(additions(agent))
    orders = dict(agent.orders)
    for part in made:
        orders |= part.orders
    desk = Desk(bus, orders)
    presence = Presence(
        bus, settings, role, figures=agent.figures, takes_orders=True, describe=lambda: _in_a_line(agent)
    )
    for part in made:
        agent.add_problems(part.problems)
        part.start()
    agent.start()
    desk.start()
    bus.start()
    presence.start()
    get_logger().info("agent.started", bus=settings.bus.url)
    stop.wait()
    for part in reversed(made):
        part.close()
    agent.close()
    presence.close()
    bus.close()
    get_logger().info("agent.stopped")
    if fatal:
        raise fatal[0]


def _in_a_line(agent: Agent) -> str:
    """How the node is, for `systemctl status`."""
    report = agent.report
    roles = {} if report is None else report.roles
    running = sum(role.state == "running" for role in roles.values())
    state = "starting" if report is None else report.state
    problems = f", {len(report.problems)} problems" if report is not None and report.problems else ""
    return f"{state}: {running} of {len(roles)} processes{problems}"
