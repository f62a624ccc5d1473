"""What the cluster has, read back: by `vigil audit`.

Only what is committed counts: a transaction that was aborted, or is open still, left records that no reader with
``isolation.level=read_committed`` ever sees. To the mode ``at-least-once`` that makes no difference.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import cast

from confluent_kafka import Message
from confluent_kafka.admin import ClusterMetadata  # type: ignore[attr-defined] # its stubs forget it

from bridge.audit import Identity
from bridge.kafka.client import connected_admin
from bridge.kafka.committed import read_committed
from bridge.kafka.ledger_topic import block_in
from bridge.kafka.records import EVENT_TYPES, topic_of
from bridge.kafka.written import read_block
from bridge.sink import ESCALATIONS, EVENTS
from config import BadPayloadError, PermanentError
from config.settings import KafkaSettings

__all__ = ["read_dead_letters", "read_event_ids", "read_written"]

_NAME = "[A-Za-z0-9_-]+"
"""Of a camera or a site, in a topic's name."""


def read_event_ids(settings: KafkaSettings, site: str = "") -> Iterator[tuple[str, str]]:
    """What every record of escalations and events says it is, from the topics' beginning to their present end.

    Args:
        settings: where Kafka is, and the topics.
        site: only of this site; empty: of all.

    Yields:
        The line of the contract and the event id, both from the headers; empty where a record does not say.

    Raises:
        TransientError: no Kafka answers, or it stops answering.
        PermanentError: there is no topic of escalations; without one of events there are just none.
    """
    _, cluster = connected_admin(settings)
    there = {line.name: _matching(settings, site, line.name, cluster.topics) for line in ESCALATIONS + EVENTS}
    for line in ESCALATIONS:
        if not there[line.name]:
            raise PermanentError(
                f"Kafka at {settings.bootstrap} has no topic {topic_of(settings.topics, line.name, site, '*')!r}; "
                "give another with --topic"
            )
    topics = set().union(*there.values())
    for message in _read(settings, cluster, topics):
        yield from _identities_in(message, site)


def read_dead_letters(settings: KafkaSettings, site: str = "") -> Iterator[tuple[str, str]]:
    """The same of the topic of dead letters; none where there is no such topic."""
    _, cluster = connected_admin(settings)
    for message in _read(settings, cluster, {settings.topics.dead_letters} & cluster.topics.keys()):
        yield from _identities_in(message, site)


def read_written(settings: KafkaSettings, site: str = "") -> Iterator[Identity]:
    """What the ledger topic says now was written; none without one."""
    _, cluster = connected_admin(settings)
    blocks: dict[bytes, bytes | None] = {}
    for message in _read(settings, cluster, {settings.topics.ledger} & cluster.topics.keys()):
        blocks[message.key() or b""] = message.value()
    return _identities_of(blocks, site)


def _identities_of(blocks: Mapping[bytes, bytes | None], site: str) -> Iterator[Identity]:
    for key, value in blocks.items():
        place = block_in(key)
        if place is None or value is None or site not in ("", place[0]):
            continue
        try:
            (stream, origin, epoch), ids = read_block(place[2], value)
        except BadPayloadError:
            continue
        yield from ((stream, origin, epoch, seq) for seq in ids)


def _matching(settings: KafkaSettings, site: str, stream: str, topics: Collection[str]) -> set[str]:
    """Topics that a line of the contract may go to: one, or one a camera."""
    wanted = re.escape(topic_of(settings.topics, stream, site or "SITE", "CAMERA")).replace("CAMERA", _NAME)
    pattern = re.compile(wanted if site else wanted.replace("SITE", _NAME))
    return {topic for topic in topics if pattern.fullmatch(topic)}


def _read(settings: KafkaSettings, cluster: ClusterMetadata, topics: Collection[str]) -> Iterator[Message]:
    partitions = [(topic, number) for topic in topics for number in cluster.topics[topic].partitions]
    return read_committed(settings, partitions)


_STREAMS = {event_type.encode(): stream for stream, event_type in EVENT_TYPES.items()}
_TYPES_OF_OURS = b"io.vigil."


def _identities_in(message: Message, site: str) -> Iterator[tuple[str, str]]:
    """What a record says it is; nothing where it is another site's, or of a kind that has no identity."""
    listed = cast("list[tuple[str, bytes | None]]", message.headers() or [])  # so they always come back
    headers = dict(listed)
    event_type = headers.get("ce_type") or b""
    stream = _STREAMS.get(event_type, "")
    is_state = not stream and event_type.startswith(_TYPES_OF_OURS)
    is_others = site and not (headers.get("ce_source") or b"").startswith(f"/vigil/{site}/".encode())
    if not (is_state or (stream and is_others)):
        yield stream, (headers.get("ce_id") or b"").decode("utf-8", "replace")
