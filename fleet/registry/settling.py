"""After a change of the folder, for commands: the bus says it too, or the reason why not."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext

from broker import Delivery, listen
from broker.messages import NodeStatus
from broker.topics import NODE_STATUS
from config import SystemClock, TransientError
from config.settings import Settings
from fleet.registry.compare import Difference, compare
from fleet.registry.facts import Facts
from fleet.registry.folder import RegistryFolder
from fleet.registry.publisher import Publisher
from fleet.registry.reach import looks_as, may_publish, wait_for_broker
from fleet.registry.writer import take_writer

__all__ = ["settle"]

_LOOK_S = 0.02
_TURN_S = 2.0
"""How long somebody else may take to publish before this process tries whether it can itself: it may have been a
command, which has looked at the folder before it was changed."""


def settle(settings: Settings, *, wait_s: float = 15.0) -> list[Difference]:
    """Wait until the bus says what the folder says, and publish it where no `vigil fleet` of this machine does.

    Args:
        settings: the site's.
        wait_s: for how long at most.

    Returns:
        What was different before.

    Raises:
        PermanentError: the folder cannot be used.
        TransientError: there is no broker, or it is not so in time.
    """
    end_s = time.monotonic() + wait_s
    before: list[Difference] | None = None
    while True:
        with take_writer(settings) if may_publish(settings) else nullcontext(enter_result=False) as is_ours:
            found, is_settled = _publish(settings, wait_s) if is_ours else _wait(settings, _TURN_S)
        before = found if before is None else before
        if is_settled:
            return before
        if is_ours or time.monotonic() > end_s:
            raise TransientError(
                f"the broker at {settings.bus.url} does not say what {settings.fleet.registry} says within "
                f"{wait_s:g} s: `vigil registry diff` shows where; on a secure bus only machines with the role fleet "
                "may publish it"
            )


def _publish(settings: Settings, wait_s: float) -> tuple[list[Difference], bool]:
    bus = listen(settings, "fleet")
    keepers: dict[str, str] = {}

    def note(delivery: Delivery) -> None:
        if isinstance(delivery.content, NodeStatus):
            keepers[delivery.topic.params["node"]] = delivery.content.state

    bus.subscribe(NODE_STATUS, note, role="fleet")
    publisher = Publisher(bus, settings)
    publisher.listen()
    bus.start()
    try:
        wait_for_broker(bus, settings)
        _wait_until(lambda: publisher.facts.complete, wait_s)
        _leave_to_others(settings, [node for node, state in keepers.items() if state != "offline"])
        found = compare(publisher.folder.read(), publisher.facts.cameras, publisher.facts.nodes)

        def is_settled() -> bool:
            publisher.look()
            return publisher.settled

        return found, _wait_until(is_settled, wait_s)
    finally:
        bus.close()


def _leave_to_others(settings: Settings, keepers: Sequence[str]) -> None:
    """What one machine has no file of, it would take away from the other."""
    others = [node for node in keepers if node != settings.node]
    if others:
        raise TransientError(
            f"the registry of {settings.site} is kept by `vigil fleet` on {', '.join(others)}, not in "
            f"{settings.fleet.registry}: give the command there, or stop that one"
        )


def _wait(settings: Settings, wait_s: float) -> tuple[list[Difference], bool]:
    bus = listen(settings, looks_as(settings))
    facts = Facts(bus, SystemClock())
    facts.start()
    folder = RegistryFolder(settings.fleet.registry)

    def differences() -> list[Difference]:
        return compare(folder.read(), facts.cameras, facts.nodes)

    bus.start()
    try:
        wait_for_broker(bus, settings)
        _wait_until(lambda: facts.complete, wait_s)
        found = differences()
        return found, _wait_until(lambda: not differences(), wait_s)
    finally:
        bus.close()


def _wait_until(condition: Callable[[], bool], wait_s: float) -> bool:
    end_s = time.monotonic() + wait_s
    while not condition():
        if time.monotonic() > end_s:
            return False
        time.sleep(_LOOK_S)
    return True
