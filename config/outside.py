"""Settings of the world outside the mesh: Kafka, the journal, Home Assistant, metrics and traces."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, SecretStr, model_validator

from config.names import Name
from config.section import Fraction, Section

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
    "SchemaRegistrySettings",
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


def _check_collector(value: str) -> str:
    if re.fullmatch(r"https?://[^/\s?#@]+(/[^\s?#@]*)?", value) and not value.rstrip("/").endswith("/v1/traces"):
        return value.rstrip("/")
    raise ValueError("write http://HOST:PORT or https://HOST:PORT, without /v1/traces and without a login")


def _check_registry_url(value: str) -> str:
    if "@" in value:
        raise ValueError("user name and password have settings of their own")
    if re.fullmatch(r"https?://[^/\s?#]+(/[^\s?#]*)?", value):
        return value.rstrip("/")
    raise ValueError("write http://HOST:PORT or https://HOST:PORT")


def _check_site_template(value: str) -> str:
    if "{camera}" in value:
        raise ValueError("one for all cameras: write {site} or {stream}, which it may hold")
    return _check_template(value)


Template = Annotated[str, AfterValidator(_check_template)]
"""A topic's name, in which ``{site}``, ``{camera}`` and ``{stream}`` are filled in."""
SiteTemplate = Annotated[str, AfterValidator(_check_site_template)]
"""The same without ``{camera}``."""
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
    state: SiteTemplate = "vigil.state"
    """States of cameras and processes, the latest of each: a compacted topic."""
    health: SiteTemplate = "vigil.health"
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
    oidc_url: str | None = None
    """Where tokens come from (OIDC client credentials), for OAUTHBEARER."""
    client_id: str | None = None
    """Client id there."""
    client_secret: SecretStr | None = None
    """Client secret; better given as VIGIL_BRIDGE__KAFKA__SECURITY__CLIENT_SECRET than in a file."""
    scope: str = ""
    """Scope of the token."""
    oidc_ca_file: Path | None = None
    """Certificates that the server of tokens is checked against; default the system's."""

    @property
    def encrypts(self) -> bool:
        """Whether it is TLS."""
        return self.protocol in ("ssl", "sasl_ssl")

    @property
    def identifies(self) -> bool:
        """Whether we say who we are (SASL)."""
        return self.protocol in ("sasl_plaintext", "sasl_ssl")

    @model_validator(mode="after")
    def _belong_together(self) -> Self:
        """Refuse what is incomplete, and what would be given and not used.

        A secret that is missing is said where it is used: the site file of `vigil up`, with which any role can be run
        by hand, holds none.
        """
        given = {name for name in self.model_fields_set if getattr(self, name) not in (None, "")}
        for names, used, wanted in _USED_WITH:
            idle = sorted(given & names)
            if idle and not used(self):
                raise ValueError(f"{', '.join(idle)}: only used with {wanted}; change that, or leave it out")
        for names, used, wanted in _NEEDED_WITH:
            missing = sorted(names - given)
            if missing and used(self):
                raise ValueError(f"{wanted} needs {' and '.join(missing)}: give it, or change that")
        return self


_Use = tuple[frozenset[str], Callable[[KafkaSecurity], bool], str]


def _has_password(security: KafkaSecurity) -> bool:
    return security.identifies and security.mechanism != "OAUTHBEARER"


def _has_token(security: KafkaSecurity) -> bool:
    return security.identifies and security.mechanism == "OAUTHBEARER"


_TLS = "protocol ssl or sasl_ssl"
_SASL = "protocol sasl_plaintext or sasl_ssl"
_USED_WITH: tuple[_Use, ...] = (
    (frozenset({"ca_file", "certificate", "key", "key_password"}), lambda security: security.encrypts, _TLS),
    (frozenset({"mechanism"}), lambda security: security.identifies, _SASL),
    (frozenset({"username", "password"}), _has_password, f"{_SASL} and mechanism PLAIN or SCRAM-SHA-..."),
    (
        frozenset({"oidc_url", "client_id", "client_secret", "scope", "oidc_ca_file"}),
        _has_token,
        f"{_SASL} and mechanism OAUTHBEARER",
    ),
)
_NEEDED_WITH: tuple[_Use, ...] = (
    (frozenset({"key"}), lambda security: security.certificate is not None, "certificate"),
    (frozenset({"certificate"}), lambda security: security.key is not None, "key"),
    (frozenset({"key"}), lambda security: security.key_password is not None, "key_password"),
    (frozenset({"username"}), _has_password, "the mechanism"),
    (frozenset({"oidc_url", "client_id"}), _has_token, "mechanism OAUTHBEARER"),
)


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


class SchemaRegistrySettings(Section):
    """A schema registry, as Confluent's is asked; Karapace and Apicurio answer the same questions."""

    url: Annotated[str, AfterValidator(_check_registry_url)]
    """Such as ``http://127.0.0.1:8081``."""
    username: str | None = None
    """User name, where it asks for one."""
    password: SecretStr | None = None
    """Password; better given as VIGIL_BRIDGE__KAFKA__SCHEMA_REGISTRY__PASSWORD than in a file."""
    ca_file: Path | None = None
    """Certificates that it is checked against; default the system's."""


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
    schema_registry: SchemaRegistrySettings | None = None
    """A schema registry at which the schemas of all messages are registered at start; empty: none."""
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
    """What was stored longer ago is deleted."""
    bytes_max: int = Field(default=5_000_000_000, ge=10_000_000)
    """So large its file may be: the oldest are deleted in time, events before escalations."""


class BridgeSettings(Section):
    """The way out: escalations into the journal, or into Kafka."""

    kafka: KafkaSettings | None = None
    """Where Kafka is; empty means the journal."""
    journal: Path | None = None
    """The journal's file; default ``journal.db`` in the state folder."""
    retention: RetentionSettings = RetentionSettings()
    """How long the journal keeps what it has."""
    drain_journal: bool = True
    """Whether what the journal has goes into Kafka, once, when there is a Kafka."""
    forward: tuple[Forwarded, ...] = ("motion", "track", "clip")
    """What goes out besides escalations. Events (motion, track, clip) have receipts as escalations have; ``state`` and
    ``health`` go into Kafka only, the latest of each."""
    evidence_store: str | None = None
    """Where large pictures of escalations go: a folder or s3://BUCKET/PATH (also gs://, az://); empty: nowhere."""
    shards: int = Field(default=1, ge=1, le=64)
    """Parts into which the cameras are split for the bridges of one Kafka. The same number in all of them. In the mode
    ``exactly-once`` change it only while no outbox waits: what was written is remembered by shard."""


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
    """Address to listen on. Whoever reaches it may read: give one of a network that you trust, never the internet's."""


class TracingSettings(Section):
    """Traces from capture to Kafka's word, for OpenTelemetry."""

    endpoint: Annotated[str, AfterValidator(_check_collector)] | None = None
    """Where spans go (OTLP over HTTP), such as ``http://127.0.0.1:4318``; empty: nowhere. What a collector wants to
    know of who we are stands in OTEL_EXPORTER_OTLP_HEADERS of the environment."""
    share: Fraction = 1.0
    """Share of the frames that are traced. An escalation always is, from its picture's capture on: each process keeps
    the last 2,048 that were not drawn, and the node of a camera hears of its escalations within about a second."""
