"""What takes commands out of Kafka, as a process."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path

from bridge.commands.answered import Answered
from bridge.commands.dispatch import Dispatcher
from bridge.commands.messages import Received
from bridge.commands.registry import Registry
from broker import Bus, Figures, Presence, connect
from broker.topics import origin_of
from config import ConfigError, Supervised, get_logger, stop_on_signals
from config.outside import CommandSettings
from config.settings import KafkaSettings, Settings

__all__ = ["answered_path", "run_commands"]

_POLL_S = 0.05
"""How long answers of the bus wait at most while Kafka has nothing to say."""
_LEAVE_S = 5.0


def answered_path(settings: Settings, role: str) -> Path:
    """Where a process remembers what was answered."""
    return settings.state_dir / "commands" / settings.site / f"{origin_of(settings.node, role)}.db"


def run_commands(settings: Settings, role: str) -> None:
    """Carry commands until the process is asked to stop.

    Args:
        settings: the site's settings.
        role: the process's role.

    Raises:
        ConfigError: the settings name no Kafka, or no topic of commands.
        TransientError: Kafka does not answer at the start, or the disk fails.
        PermanentError: Kafka or the broker refuses us for good.
    """
    kafka, commands = _sections(settings)
    stop = threading.Event()
    ends: list[Exception] = []

    def on_fatal(error: Exception) -> None:
        ends.append(error)
        stop.set()

    bus = connect(settings, role, on_fatal=on_fatal)
    carrying = _Carrying(bus, settings, kafka, commands, answered_path(settings, role))
    presence = Presence(bus, settings, role, figures=carrying.figures)
    worker = Supervised("commands", carrying.run_once, stop=stop, on_fatal=on_fatal)
    # Not earlier: while Kafka does not answer there is nothing to finish, and a signal ends the process at once.
    stop_on_signals(stop)
    bus.start()
    presence.start()
    worker.start()
    get_logger().info("commands.started", topic=commands.topic, bus=settings.bus.url, rules=len(commands.allow))
    stop.wait()
    worker.join(_LEAVE_S)
    carrying.close()
    presence.close()
    bus.close()
    get_logger().info("commands.stopped", **carrying.figures().counts)
    if ends:
        raise ends[0]


def _sections(settings: Settings) -> tuple[KafkaSettings, CommandSettings]:
    kafka = settings.bridge.kafka
    if kafka is None:
        raise ConfigError("commands come out of Kafka: say where it is (--kafka HOST:PORT)", field="bridge.kafka")
    return kafka, kafka.commands or CommandSettings()


class _Carrying:
    """Commands and documents, on one thread."""

    def __init__(
        self, bus: Bus, settings: Settings, kafka: KafkaSettings, commands: CommandSettings, path: Path
    ) -> None:
        from bridge.kafka import CameraTopic, CommandTopic, ensure_command_topics

        ensure_command_topics(kafka, commands, settings.site)
        self._answered = Answered(path)
        self._answered.open()
        self._topic = CommandTopic(kafka, commands, settings.site, member=bus.origin, on_lost=self._forget)
        self._dispatcher = Dispatcher(
            bus, self._topic, self._answered, rules=commands.allow, reply_within_s=commands.reply_within_s
        )
        self._registry = Registry(bus, self._dispatcher.known.document, self._answered, on_refused=self._topic.reply)
        self._cameras = None if commands.cameras_topic is None else CameraTopic(kafka, commands.cameras_topic)
        self._untaken: deque[Received] = deque()
        self._dispatcher.start()

    def run_once(self) -> None:
        """One pass over everything that waits."""
        if not self._untaken:
            self._untaken.extend(self._topic.poll(_POLL_S, has_room=self._dispatcher.has_room))
        while self._untaken:
            self._dispatcher.take(self._untaken[0])
            self._untaken.popleft()
        if self._cameras is not None:
            for received in self._cameras.poll(0.0):
                self._registry.take(received)
            if self._cameras.is_read:
                self._registry.read_through()
            self._registry.tend()
        self._dispatcher.tend()

    def _forget(self, is_lost: Callable[[Received], bool]) -> None:
        """Leave records to other processes that they are given to now."""
        self._untaken = deque(received for received in self._untaken if not is_lost(received))
        self._dispatcher.forget(is_lost)

    def figures(self) -> Figures:
        """What was done, for the health."""
        commands, documents = self._dispatcher.figures(), self._registry.figures()
        return Figures(queues={**commands.queues, **documents.queues}, counts={**commands.counts, **documents.counts})

    def close(self) -> None:
        """Say how far we are, and let go of everything."""
        self._topic.close()
        if self._cameras is not None:
            self._cameras.close()
        self._answered.close()
