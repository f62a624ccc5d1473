"""Settings of the world outside the mesh: Kafka, the journal, Home Assistant, metrics and traces."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, SecretStr

from config.cameras import Fraction, Section
from config.names import Name

__all__ = [
    "BridgeSettings",
    "CommandRule",
    "CommandSettings",
    "Forwarded",
    "HomeAssistantSettings",
    "KafkaSecurity",
    "KafkaSettings",
    "KafkaTopics",
    "MetricsSettings",
    "RetentionSettings",
    "TracingSettings",
]

Forwarded = Literal["motion", "track", "clip", "state", "health"]
"""What may go into Kafka besides escalations."""

_PLACEHOLDER = re.compile(r"\{(site|camera|stream)\}")


def _check_bootstrap(value: str) -> str:
    if re.fullmatch(r"[^\s,@]+:\d{1,5}(,[^\s,@]+:\d{1,5})*", value):
        return value
    raise ValueError("write HOST:PORT, several separated by commas")


def _check_template(value: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9._-]{1,249}", _PLACEHOLDER.sub("x", value)):
        return value
    raise ValueError(
        "write letters, digits, '.', '_' and '-', and {site}, {camera} or {stream} where they should stand"
    )


Template = Annotated[str, AfterValidator(_check_template)]
"""A topic's name, in which ``{site}``, ``{camera}`` and ``{stream}`` are filled in."""
TopicName = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,249}$")]


class KafkaTopics(Section):
    """Topics in Kafka, by what goes into them."""

    escalation: Template = "vigil.escalations"
    """Escalations."""
    motion: Template = "vigil.events"
    """Movements."""
    track: Template = "vigil.events"
    """Objects over time."""
    clip: Template = "vigil.events"
    """Clips that were delivered."""
    state: Template = "vigil.state"
    """States of cameras and processes, the latest of each: a compacted topic."""
    health: Template = "vigil.health"
    """How processes do, every few seconds."""
    dead_letters: TopicName = "vigil.dead-letters"
    """What Kafka does not take where it belongs, with the reason."""
    ledger: TopicName = "vigil.ledger"
    """What was written, by origin: a compacted topic of the mode ``exactly-once``."""


class KafkaSecurity(Section):
    """How to be let in."""

    protocol: Literal["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"] = "plaintext"
    """``ssl`` encrypts, ``sasl_…`` asks who we are."""
    ca_file: Path | None = None
    """Certificates that the cluster's is checked against; default the system's."""
    certificate: Path | None = None
    """Our certificate (PEM), where the cluster asks for one."""
    key: Path | None = None
    """Its key (PEM)."""
    key_password: SecretStr | None = None
    """Password of the key; better given as VIGIL_BRIDGE__KAFKA__SECURITY__KEY_PASSWORD than in a file."""
    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] = "SCRAM-SHA-512"
    """How we say who we are (SASL)."""
    username: str | None = None
    """User name, for PLAIN and SCRAM."""
    password: SecretStr | None = None
    """Password; better given as VIGIL_BRIDGE__KAFKA__SECURITY__PASSWORD than in a file."""
    token_url: str | None = None
    """Where tokens come from (OIDC client credentials), for OAUTHBEARER."""
    client_id: str | None = None
    """Client id there."""
    client_secret: SecretStr | None = None
    """Client secret; better given as VIGIL_BRIDGE__KAFKA__SECURITY__CLIENT_SECRET than in a file."""
    scope: str = ""
    """Scope of the token."""


class CommandRule(Section):
    """What one sender of commands may do."""

    source: str = "*"
    """CloudEvents source of its commands; ``*`` is everybody who may write to the topic."""
    cameras: tuple[str, ...] = ("*",)
    """Cameras that it may command; ``*`` is all."""
    nodes: tuple[str, ...] = ()
    """Processes that it may command, such as ``porch.edge``; ``*`` is all."""
    commands: tuple[str, ...] = ()
    """Properties of cameras (``mode``, ``snapshot`` ...) and commands of processes; ``*`` is all."""


class CommandSettings(Section):
    """Commands out of Kafka."""

    topic: TopicName = "vigil.commands"
    """The topic that they are read from."""
    replies_topic: TopicName = "vigil.replies"
    """The topic that each is answered on."""
    cameras_topic: TopicName | None = None
    """A compacted topic of camera documents by camera, which becomes the site's registry; empty: none."""
    allow: tuple[CommandRule, ...] = ()
    """Who may do what; what no rule allows is refused."""
    reply_within_s: float = Field(default=10.0, ge=0.5, le=600)
    """Seconds that a node has for its answer."""


class KafkaSettings(Section):
    """The Kafka that escalations go to."""

    bootstrap: Annotated[str, AfterValidator(_check_bootstrap)]
    """``HOST:PORT``, several separated by commas."""
    mode: Literal["at-least-once", "exactly-once"] = "at-least-once"
    """``at-least-once`` may repeat a message after a crash; ``exactly-once`` writes each in a transaction together with
    the note that it was written, so that readers with ``isolation.level=read_committed`` see it once."""
    topics: KafkaTopics = KafkaTopics()
    """Topics in Kafka."""
    security: KafkaSecurity = KafkaSecurity()
    """How to be let in."""
    schema_registry: str | None = None
    """URL of a schema registry at which the schemas of all messages are registered at start; empty: none."""
    evidence_inline_bytes_max: int = Field(default=400_000, ge=0, le=1_000_000)
    """Pictures of an escalation that are larger than this together go into `bridge.evidence_store`, where there is
    one, and the escalation says where."""
    refusal_s: float = Field(default=30.0, ge=0, le=86_400)
    """Seconds for which a record is tried again that the cluster refuses for a reason that a person can cure (no right
    to the topic, no such topic); then it becomes a dead letter."""
    commands: CommandSettings | None = None
    """Commands out of Kafka; empty: none are taken."""
    connect_timeout_s: float = Field(default=10.0, ge=0.5, le=300)
    """Seconds to wait at start for the cluster to answer."""


class RetentionSettings(Section):
    """How long the journal keeps what it has."""

    days: float = Field(default=90.0, gt=0, le=36_500)
    """Older escalations and events are deleted."""
    bytes_max: int = Field(default=5_000_000_000, ge=10_000_000)
    """Above this size of the file the oldest are deleted, events before escalations."""


class BridgeSettings(Section):
    """The way out: escalations into the journal, or into Kafka."""

    kafka: KafkaSettings | None = None
    """Where Kafka is; empty means the journal."""
    journal: Path | None = None
    """The journal's file; default ``journal.db`` in the state folder."""
    retention: RetentionSettings = RetentionSettings()
    """How long the journal keeps what it has."""
    forward: tuple[Forwarded, ...] = ("motion", "track", "clip")
    """What goes out besides escalations. Events (motion, track, clip) have receipts as escalations have; ``state`` and
    ``health`` go into Kafka only, the latest of each."""
    evidence_store: str | None = None
    """Where large pictures of escalations go: a folder or s3://BUCKET/PATH (also gs://, az://); empty: nowhere."""
    shards: int = Field(default=1, ge=1, le=64)
    """Parts into which the cameras are split for the bridges of one Kafka. The same number in all of them."""


class HomeAssistantSettings(Section):
    """What Home Assistant, or openHAB, is told."""

    enabled: bool = False
    """Whether `vigil up` starts it."""
    discovery: Literal["device", "entity"] = "device"
    """``device`` needs Home Assistant 2024.11 or newer; ``entity`` is for older ones and for openHAB."""
    prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*$")] = "homeassistant"
    """Its discovery prefix."""
    labels: tuple[Name, ...] = ("person",)
    """Labels that are counted, by camera and zone."""
    rediscover_within_s: float = Field(default=5.0, ge=0, le=300)
    """When it starts, it is told everything again after a random part of so many seconds."""


class MetricsSettings(Section):
    """Figures for Prometheus."""

    port: int | None = Field(default=None, ge=1, le=65_000)
    """First TCP port: each role serves ``/metrics`` on one of its own from here on (`vigil metrics` lists them); empty:
    none does."""
    host: str = "127.0.0.1"
    """Address to listen on."""


class TracingSettings(Section):
    """Traces from capture to Kafka's word, for OpenTelemetry."""

    endpoint: str | None = None
    """Where spans go (OTLP over HTTP), such as ``http://127.0.0.1:4318``; empty: nowhere."""
    share: Fraction = 1.0
    """Share of the frames that are traced; those of an escalation always are."""
