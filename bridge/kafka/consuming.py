"""Reading what the world tells the mesh, and answering: commands, and documents of cameras."""

from __future__ import annotations

import threading
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from bridge.commands.messages import Received
from bridge.commands.offsets import Offsets
from bridge.kafka.client import client_config, connected_admin, error_of
from bridge.kafka.topics import TopicBook, TopicNeed
from config import Clock, ConfigError, PermanentError, SystemClock, TransientError, get_logger
from config.outside import CommandSettings
from config.settings import KafkaSettings

__all__ = ["CameraTopic", "CommandTopic", "ensure_command_topics"]

_ROWS_AT_ONCE = 100
_AGAIN_S = 2.0
"""An answer that Kafka refused is written again after so long."""
_CLOSE_S = 5.0
_LOOK_S = 0.2
_SESSION_MS = 10_000
"""Who is silent for so long loses its partitions to the others of its group."""
_TWICE = "is there a second `vigil commands` of the same node and role? Give it one of its own (--role commands.2)"


def ensure_command_topics(settings: KafkaSettings, commands: CommandSettings, site: str) -> None:
    """Make or check the topics.

    Raises:
        TransientError: no Kafka answers within ``bridge.kafka.connect_timeout_s``.
        PermanentError: it does not let us in; a topic is missing and cannot be created, or breaks what we promise.
    """
    needs = [
        TopicNeed(commands.topic, "bridge.kafka.commands.topic"),
        TopicNeed(commands.replies_topic, "bridge.kafka.commands.replies_topic"),
    ]
    if commands.cameras_topic is not None:
        needs.append(TopicNeed(commands.cameras_topic, "bridge.kafka.commands.cameras_topic", "compact"))
    TopicBook(settings, site=site, lines=(), more=needs).ensure()
    _wait_told_of(settings, {need.topic for need in needs})


def _wait_told_of(settings: KafkaSettings, topics: set[str]) -> None:
    """A consumer that asks for a topic which its broker has not been told of yet asks again after minutes."""
    clock = SystemClock()
    deadline_s = clock.monotonic_s() + settings.connect_timeout_s
    while True:
        _, cluster = connected_admin(settings)
        missing = topics.difference(cluster.topics)
        if not missing:
            return
        if clock.monotonic_s() > deadline_s:
            raise TransientError(f"Kafka at {settings.bootstrap} does not show the topics {sorted(missing)} yet")
        clock.wait(threading.Event(), _LOOK_S)


class CommandTopic:
    """The topic of commands, in a consumer group, and that of replies.

    A record is done with when its answer is written; only then the group goes on behind it.

    Concurrency: one thread.

    Args:
        settings: where Kafka is.
        commands: names of the topics.
        site: the site; in the group's name.
        member: what we are called in it, whenever we come back.
        on_lost: told that records of a partition are somebody else's now.
        clock: time.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        commands: CommandSettings,
        site: str,
        *,
        member: str,
        on_lost: Callable[[Callable[[Received], bool]], None],
        clock: Clock | None = None,
    ) -> None:
        self._commands = commands
        self._group = f"vigil-{site}-commands"
        self._fatal = ""
        self._on_lost = on_lost
        self._clock: Clock = clock or SystemClock()
        self._log = get_logger(bootstrap=settings.bootstrap)
        self._offsets = Offsets()
        self._refused: deque[tuple[float, Received, str, bytes]] = deque()
        self._is_paused = False
        self._consumer = _consumer(
            settings,
            self._complain,
            **{
                "group.id": self._group,
                # One that comes back, also from kill -9, has its partitions at once.
                "group.instance.id": member,
                "session.timeout.ms": _SESSION_MS,
                "auto.offset.reset": "earliest",
                "enable.auto.offset.store": False,  # what is stored is committed, and that is what was answered
                "auto.commit.interval.ms": 500,
            },
        )
        self._producer = Producer(
            {
                **client_config(settings),
                "enable.idempotence": True,
                "delivery.timeout.ms": 0,
                "linger.ms": 1,
                "compression.type": "lz4",
                "partitioner": "murmur2_random",
                "error_cb": self._complain,
            }
        )
        self._consumer.subscribe([commands.topic], on_revoke=self._on_revoke, on_lost=self._on_revoke)

    def poll(self, timeout_s: float, *, has_room: bool) -> list[Received]:
        """Records that came within `timeout_s`; without room none, and the group is stayed in.

        Raises:
            PermanentError: another process has our place in the group.
        """
        self._producer.poll(0)
        if self._fatal:
            raise PermanentError(f"the group {self._group!r} has put us out ({self._fatal}): {_TWICE}")
        self._write_refused()
        self._pause(wanted=not has_room)
        found = []
        for message in self._consumer.consume(_ROWS_AT_ONCE, timeout_s):
            received = _received(message, self._commands.topic)
            if received is not None:
                self._offsets.take(*received.place)
                found.append(received)
        return found

    def reply(self, received: Received, command: str, payload: bytes) -> None:
        """Write an answer with the key and the trace of its command, which is done with once the answer is written."""
        headers: list[tuple[str, str | bytes | None]] = [
            ("content-type", "application/json"),
            ("correlation_id", command),
            *((name, value) for name, value in received.headers.items() if name in ("traceparent", "tracestate")),
        ]
        try:
            self._producer.produce(
                self._commands.replies_topic,
                value=payload,
                key=received.key,
                headers=headers,
                on_delivery=partial(self._on_written, received, command, payload),
            )
        except (BufferError, KafkaException):
            self._refused.append((self._clock.monotonic_s(), received, command, payload))

    def close(self) -> None:
        """Write what is answered, say how far we are, and leave the group."""
        self._producer.flush(_CLOSE_S)
        self._consumer.close()

    def _on_written(
        self, received: Received, command: str, payload: bytes, error: KafkaError | None, _message: Message
    ) -> None:
        if error is not None:
            self._log.error("commands.reply_refused", topic=self._commands.replies_topic, error=error.str())
            self._refused.append((self._clock.monotonic_s(), received, command, payload))
            return
        topic, partition, _ = received.place
        next_offset = self._offsets.finish(*received.place)
        if next_offset is not None:
            self._consumer.store_offsets(offsets=[TopicPartition(topic, partition, next_offset)])

    def _write_refused(self) -> None:
        now_s = self._clock.monotonic_s()
        while self._refused and now_s - self._refused[0][0] > _AGAIN_S:
            _, received, command, payload = self._refused.popleft()
            self.reply(received, command, payload)

    def _pause(self, *, wanted: bool) -> None:
        if wanted != self._is_paused:
            (self._consumer.pause if wanted else self._consumer.resume)(self._consumer.assignment())
            self._is_paused = wanted

    def _on_revoke(self, _consumer: Consumer, partitions: Sequence[TopicPartition]) -> None:
        places = {(partition.topic, partition.partition) for partition in partitions}
        for place in places:
            self._offsets.lose(*place)
        self._is_paused = False
        self._on_lost(lambda received: received.place[:2] in places)

    def _complain(self, error: KafkaError) -> None:
        if error.fatal():
            self._fatal = error.str()
        else:
            self._log.warning("kafka.unreachable", error=error.str())


class CameraTopic:
    """The topic of camera documents, from its beginning, by every reader for itself.

    Concurrency: one thread.

    Args:
        settings: where Kafka is.
        topic: the topic.

    Raises:
        TransientError: no Kafka answers.
    """

    def __init__(self, settings: KafkaSettings, topic: str) -> None:
        self._topic = topic
        self._log = get_logger(bootstrap=settings.bootstrap)
        _, cluster = connected_admin(settings)
        partitions = cluster.topics[topic].partitions
        self._unread = set(partitions)
        group = f"vigil-cameras-{uuid.uuid4()}"  # of one reader; nothing is committed in it
        self._consumer = _consumer(
            settings, self._complain, **{"group.id": group, "enable.auto.commit": False, "enable.partition.eof": True}
        )
        self._consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in partitions])

    @property
    def is_read(self) -> bool:
        """Whether it was read to its end once."""
        return not self._unread

    def poll(self, timeout_s: float) -> list[Received]:
        """Records that came within `timeout_s`."""
        found = []
        for message in self._consumer.consume(_ROWS_AT_ONCE, timeout_s):
            error = message.error()
            if error is not None and error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - librdkafka's own code
                self._unread.discard(message.partition() or 0)
                continue
            received = _received(message, self._topic)
            if received is not None:
                found.append(received)
        return found

    def close(self) -> None:
        """Read no more."""
        self._consumer.close()

    def _complain(self, error: KafkaError) -> None:
        self._log.warning("kafka.unreachable", error=error.str())


def _consumer(settings: KafkaSettings, complain: Callable[[KafkaError], None], **more: Any) -> Consumer:  # noqa: ANN401 - librdkafka's settings
    try:
        return Consumer({**client_config(settings), "error_cb": complain, **more})
    except KafkaException as error:
        raise ConfigError(error_of(error).str(), field="bridge.kafka.security") from error


def _received(message: Message, topic: str) -> Received | None:
    """What came; None where it is word of a trouble, which librdkafka goes on to try its way out of."""
    error = message.error()
    if error is not None:
        get_logger().warning("commands.unreadable", topic=topic, error=error.str())
        return None
    headers = cast("list[tuple[str, bytes | None]]", message.headers() or [])  # so they always come back
    place = (message.topic() or topic, message.partition() or 0, message.offset() or 0)
    return Received(place, message.key(), message.value(), {name: value or b"" for name, value in headers})
