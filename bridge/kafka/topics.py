"""Kafka's topics: made or checked before anything is written, with the settings that our promises stand on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import (  # type: ignore[attr-defined] # its stubs forget them
    AdminClient,
    ClusterMetadata,
    ConfigResource,
    NewTopic,
    ResourceType,
)

from bridge.kafka.client import connected_admin, error_of
from bridge.kafka.records import topic_of
from bridge.sink import ESCALATIONS, Record
from broker.topics import TopicSpec
from config import PermanentError, TransientError, get_logger
from config.settings import KafkaSettings

__all__ = ["MESSAGE_BYTES_MAX", "Policy", "TopicBook", "TopicNeed", "needed_topics"]

MESSAGE_BYTES_MAX = 2 * 1024 * 1024
"""The contract lets an escalation be 1 MiB; key, headers and the batch around them come on top."""
_BATCH_OVERHEAD_BYTES = 4_096
_TRANSACTIONS = "__transaction_state"
_FACTOR = "transaction.state.log.replication.factor"
Policy = Literal["delete", "compact"]
"""What becomes of old records: they go when they are old, or when there is a newer one of the same key."""


@dataclass(frozen=True, slots=True)
class TopicNeed:
    """A topic in Kafka, as it must be.

    Attributes:
        topic: its name.
        setting: the setting that names it.
        policy: what becomes of old records.
        payload_bytes_max: the largest record that goes into it.
        spare: we can do without it.
    """

    topic: str
    setting: str
    policy: Policy = "delete"
    payload_bytes_max: int = 64 * 1024
    spare: bool = False


def needed_topics(settings: KafkaSettings, site: str, lines: Sequence[TopicSpec]) -> list[TopicNeed]:
    """What the bridge writes to, but for the ledger; without topics whose name a camera's is part of.

    Args:
        settings: their names.
        site: fills ``{site}``.
        lines: lines of the contract that go into Kafka.
    """
    if not lines:
        return []
    needs = [_need_of(settings, site, "", spec) for spec in lines if not _has_camera(settings, spec)]
    largest = max(spec.max_bytes for spec in ESCALATIONS)
    # Without it what would be in it is kept on this machine.
    dead = TopicNeed(settings.topics.dead_letters, "bridge.kafka.topics.dead_letters", "delete", largest, spare=True)
    return [*needs, dead]


def _need_of(settings: KafkaSettings, site: str, camera: str, spec: TopicSpec) -> TopicNeed:
    topic = topic_of(settings.topics, spec.name, site, camera)
    return TopicNeed(topic, f"bridge.kafka.topics.{spec.name.removeprefix('camera_')}", "delete", spec.max_bytes)


def _has_camera(settings: KafkaSettings, spec: TopicSpec) -> bool:
    return topic_of(settings.topics, spec.name, "", "a") != topic_of(settings.topics, spec.name, "", "b")


class TopicBook:
    """Sees that topics are there and are as they must be; creates those that are missing.

    Concurrency: `ensure` once, `prepare` from one thread after it.

    Args:
        settings: where Kafka is.
        site: the site whose messages go there.
        lines: lines of the contract that go into Kafka.
        more: topics besides those.
    """

    def __init__(
        self, settings: KafkaSettings, *, site: str, lines: Sequence[TopicSpec], more: Iterable[TopicNeed] = ()
    ) -> None:
        self._settings = settings
        self._site = site
        self._lines = {spec.name: spec for spec in lines}
        self._needs = [*needed_topics(settings, site, lines), *more]
        self._by_camera = any(_has_camera(settings, spec) for spec in lines)
        self._ready: set[str] = set()
        self._log = get_logger(bootstrap=settings.bootstrap)

    def ensure(self) -> None:
        """See that Kafka answers, and make or check the topics.

        Raises:
            TransientError: no Kafka answers within ``bridge.kafka.connect_timeout_s``.
            PermanentError: it does not let us in; a topic is missing and cannot be created, or a setting of it breaks
                what we promise; or the cluster cannot do what the mode asks for.
            ConfigError: a secret is missing, or a certificate cannot be used.
        """
        needs = _joined(self._needs)
        admin, cluster = connected_admin(self._settings)
        if self._settings.mode == "exactly-once":
            self._check_transactions(admin, cluster)
        self._check_or_create(admin, cluster, needs)

    def prepare(self, records: Iterable[Record]) -> None:
        """The same before the first record of a camera whose name is part of its topic's.

        A topic that cannot be had is said once. Its records then meet what records do for which there is no topic.

        Raises:
            TransientError: no Kafka answers.
        """
        for record in records if self._by_camera else ():
            need = _need_of(self._settings, self._site, record.camera, self._lines[record.stream])
            if need.topic not in self._ready:
                self._prepare(need)

    def _prepare(self, need: TopicNeed) -> None:
        admin, cluster = connected_admin(self._settings)
        try:
            self._check_or_create(admin, cluster, [need])
        except PermanentError as error:
            self._say_refused(need, error)
            self._ready.add(need.topic)

    def _say_refused(self, need: TopicNeed, error: Exception) -> None:
        self._log.error("kafka.topic_refused", topic=need.topic, error=str(error))

    def _check_or_create(self, admin: AdminClient, cluster: ClusterMetadata, needs: Sequence[TopicNeed]) -> None:
        self._check(admin, [need for need in needs if need.topic in cluster.topics], cluster)
        for need in needs:
            if need.topic not in cluster.topics:
                self._create_or_spare(admin, need)
            self._ready.add(need.topic)

    def _create_or_spare(self, admin: AdminClient, need: TopicNeed) -> None:
        try:
            self._create(admin, need)
        except (TransientError, PermanentError) as error:
            if not need.spare:
                raise
            self._say_refused(need, error)

    def _create(self, admin: AdminClient, need: TopicNeed) -> None:
        settings = self._settings
        config = {"max.message.bytes": str(MESSAGE_BYTES_MAX), "cleanup.policy": need.policy}
        wanted = NewTopic(need.topic, num_partitions=-1, replication_factor=-1, config=config)  # the cluster's own
        try:
            created = admin.create_topics([wanted], request_timeout=settings.connect_timeout_s)
            created[need.topic].result(settings.connect_timeout_s + 1.0)
        except KafkaException as error:
            reason = error_of(error)
            if reason.code() == KafkaError.TOPIC_ALREADY_EXISTS:
                self._check_seen(admin, need)
                return
            if reason.retriable() or reason.code() == KafkaError._TIMED_OUT:  # noqa: SLF001 - librdkafka's own code
                raise TransientError(f"Kafka did not create topic {need.topic!r} now: {reason.str()}") from error
            options = " ".join(f"--config {name}={value}" for name, value in config.items())
            raise PermanentError(
                f"Kafka at {settings.bootstrap} has no topic {need.topic!r} that we may see, and does not let it be "
                f"created ({reason.str()}): let somebody run `kafka-topics.sh --bootstrap-server {settings.bootstrap} "
                f"--create --topic {need.topic} {options}`, or name another in {need.setting}"
            ) from error
        self._log.info("kafka.topic_created", topic=need.topic, cleanup_policy=need.policy)

    def _check_seen(self, admin: AdminClient, need: TopicNeed) -> None:
        """Tell one that another bridge was quicker to create from one that we may not see."""
        try:
            found = admin.list_topics(need.topic, timeout=self._settings.connect_timeout_s).topics.get(need.topic)
        except KafkaException as error:
            raise TransientError(f"Kafka says no more of topic {need.topic!r}: {error_of(error).str()}") from error
        reason = found.error if found is not None else None
        if reason is not None and reason.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
            raise PermanentError(
                f"Kafka at {self._settings.bootstrap} has a topic {need.topic!r} that we may not see "
                f"({reason.str()}): let somebody run `kafka-acls.sh --bootstrap-server "
                f"{self._settings.bootstrap} --add --allow-principal User:... --operation Describe --operation Write "
                f"--topic {need.topic}`, or name another in {need.setting}"
            )

    def _check(self, admin: AdminClient, needs: Sequence[TopicNeed], cluster: ClusterMetadata) -> None:
        resources = {ConfigResource(ResourceType.TOPIC, need.topic): need for need in needs}
        for resource, config, error in _described(admin, list(resources), self._settings.connect_timeout_s):
            need = resources[resource]
            if config is None:
                self._log.warning("kafka.topic_unchecked", topic=need.topic, error=error)
                continue
            copies = min((len(part.replicas) for part in cluster.topics[need.topic].partitions.values()), default=1)
            self._check_policy(need, config["cleanup.policy"])
            self._check_size(need, int(config["max.message.bytes"]))
            self._check_copies(need, int(config["min.insync.replicas"]), copies)

    def _check_policy(self, need: TopicNeed, policy: str) -> None:
        if policy == need.policy:
            return
        cure = self._cure(need.topic, f"cleanup.policy={need.policy}")
        if need.policy == "delete":
            raise PermanentError(
                f"topic {need.topic!r} has cleanup.policy={policy}: of several events of one camera Kafka would keep "
                f"only the last; {cure}, or name another in {need.setting}"
            )
        self._log.warning("kafka.topic_forgets", topic=need.topic, cleanup_policy=policy, cure=cure)

    def _check_size(self, need: TopicNeed, bytes_max: int) -> None:
        if bytes_max < need.payload_bytes_max + _BATCH_OVERHEAD_BYTES:
            cure = self._cure(need.topic, f"max.message.bytes={MESSAGE_BYTES_MAX}")
            self._log.warning(
                "kafka.topic_small",
                topic=need.topic,
                max_message_bytes=bytes_max,
                cure=f"larger messages become dead letters: {cure}",
            )

    def _check_copies(self, need: TopicNeed, in_sync_min: int, copies: int) -> None:
        if in_sync_min > copies:
            raise PermanentError(
                f"topic {need.topic!r} has min.insync.replicas={in_sync_min} and {copies} replicas: it takes nothing; "
                + self._cure(need.topic, f"min.insync.replicas={copies}")
            )
        if in_sync_min == 1 < copies:
            cure = self._cure(need.topic, "min.insync.replicas=2")
            self._log.warning(
                "kafka.topic_weak",
                topic=need.topic,
                replicas=copies,
                cure=f"what is acknowledged may be on one broker only: {cure}",
            )

    def _cure(self, topic: str, setting: str) -> str:
        return (
            f"run `kafka-configs.sh --bootstrap-server {self._settings.bootstrap} --alter --entity-type topics "
            f"--entity-name {topic} --add-config {setting}`"
        )

    def _check_transactions(self, admin: AdminClient, cluster: ClusterMetadata) -> None:
        """Without room for the state of transactions a producer would wait for ever."""
        if _TRANSACTIONS in cluster.topics:
            return
        resource = ConfigResource(ResourceType.BROKER, str(next(iter(cluster.brokers))))
        for _, config, error in _described(admin, [resource], self._settings.connect_timeout_s):
            if config is None:
                self._log.warning("kafka.transactions_unchecked", error=error)
                continue
            factor = int(config[_FACTOR])
            if factor > len(cluster.brokers):
                raise PermanentError(
                    f"bridge.kafka.mode exactly-once: the cluster has {len(cluster.brokers)} brokers, and {_FACTOR} is "
                    f"{factor}, so it cannot keep transactions: add brokers, set {_FACTOR} to {len(cluster.brokers)} "
                    "in the brokers' server.properties and start them again, or use mode at-least-once"
                )


def _joined(needs: Iterable[TopicNeed]) -> list[TopicNeed]:
    """One need a topic: several lines of the contract may share it.

    Raises:
        PermanentError: they contradict each other.
    """
    joined: dict[str, TopicNeed] = {}
    for need in needs:
        other = joined.setdefault(need.topic, need)
        if other.policy != need.policy:
            raise PermanentError(
                f"{other.setting} and {need.setting} are both {need.topic!r}, and one of them is compacted: name two"
            )
        joined[need.topic] = max(other, need, key=_size)
    return list(joined.values())


def _size(need: TopicNeed) -> int:
    return need.payload_bytes_max


_Config = Mapping[str, str]


def _described(
    admin: AdminClient, resources: Sequence[ConfigResource], timeout_s: float
) -> Iterator[tuple[ConfigResource, _Config | None, str]]:
    """The settings of each, or why they are not to be had."""
    if not resources:
        return
    asked = admin.describe_configs(list(resources), request_timeout=timeout_s)
    for resource, answer in asked.items():
        try:
            entries = answer.result(timeout_s + 1.0)
            yield resource, {name: entry.value or "" for name, entry in entries.items()}, ""
        except KafkaException as error:
            yield resource, None, error_of(error).str()
