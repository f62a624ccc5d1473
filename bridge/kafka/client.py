"""How anything of Vigil reaches the cluster: addresses, back-off, security, silence on standard error."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, ClusterMetadata  # type: ignore[attr-defined] # its stubs forget it
from pydantic import SecretStr

from config import ConfigError, PermanentError, TransientError
from config.outside import KafkaSecurity
from config.settings import KafkaSettings

__all__ = ["client_config", "connected_admin", "error_of", "refused", "unreachable"]

_SLICE_S = 0.5
_POLL_S = 0.05

_SILENT = logging.getLogger("librdkafka")
_SILENT.disabled = True
"""Takes what librdkafka would write to standard error; `error_cb` gets it as well, and makes it a log event."""


def client_config(settings: KafkaSettings) -> dict[str, Any]:
    """What every producer, consumer and admin client begins with.

    Raises:
        ConfigError: a secret is missing; the message names the variable of the environment for it.
    """
    return {
        "bootstrap.servers": settings.bootstrap,
        "client.id": "vigil-bridge",
        "socket.keepalive.enable": True,
        "reconnect.backoff.ms": 100,
        "reconnect.backoff.max.ms": 2_000,
        "logger": _SILENT,
        **dict(_security(settings.security)),
    }


def error_of(error: KafkaException) -> KafkaError:
    """What librdkafka says of it."""
    cause = error.args[0]
    return cause if isinstance(cause, KafkaError) else KafkaError(KafkaError._FAIL, str(error))  # noqa: SLF001


def unreachable(
    settings: KafkaSettings, error: KafkaException, complaints: Sequence[KafkaError]
) -> TransientError | PermanentError:
    """Why the cluster did not answer a first question.

    Args:
        settings: where it is.
        error: what the question ended with: most often that time was up.
        complaints: what `error_cb` was told meanwhile.
    """
    reason = complaints[0] if complaints else error_of(error)
    return refused(settings, complaints) or TransientError(
        f"no Kafka answers at {settings.bootstrap} within {settings.connect_timeout_s:g} s ({reason.str()}): "
        "check bridge.kafka.bootstrap (--kafka HOST:PORT) and bridge.kafka.security.protocol, and that the cluster is "
        "up"
    )


def refused(settings: KafkaSettings, complaints: Sequence[KafkaError]) -> PermanentError | None:
    """Why the cluster does not let us in; None while it may just be away."""
    for error in complaints:
        text = error.str()
        # Whoever hands out tokens and is away is told as a failed authentication, too. Source: RFC 6749, 5.2.
        is_away = _NO_TOKEN in text and '"error"' not in text
        cure = _TLS_CURE if _TLS_ALERT in text else _CURES.get(error.code())
        if cure is not None and not is_away:
            return PermanentError(f"Kafka at {settings.bootstrap} does not let us in ({text}): {cure}")
    return None


_NO_TOKEN = "Failed to acquire"  # noqa: S105 - librdkafka's words, no password
_TLS_ALERT = "ssl/tls alert"
"""What OpenSSL says when the other side does not like our certificate, or misses one."""
_TLS_CURE = "check ca_file, certificate and key in bridge.kafka.security"
_LOGIN_CURE = (
    "check the user and its password, or the client and its secret, in bridge.kafka.security, and that its mechanism "
    "is one that the cluster offers there"
)
_CURES = {
    KafkaError._AUTHENTICATION: _LOGIN_CURE,  # noqa: SLF001 - librdkafka's own codes begin with an underscore
    KafkaError.SASL_AUTHENTICATION_FAILED: _LOGIN_CURE,
    KafkaError._SSL: _TLS_CURE,  # noqa: SLF001
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: "allow this user to describe the cluster",
}


def connected_admin(settings: KafkaSettings) -> tuple[AdminClient, ClusterMetadata]:
    """An administrator's client, once the cluster has answered, and what it says of itself.

    Raises:
        TransientError: no Kafka answers within ``bridge.kafka.connect_timeout_s``.
        PermanentError: it does not let us in.
        ConfigError: a certificate or a key cannot be used.
    """
    complaints: list[KafkaError] = []
    client = client_config(settings)
    client["error_cb"] = complaints.append
    try:
        admin = AdminClient(client)
    except KafkaException as error:
        raise ConfigError(
            f"{error_of(error).str()}: check ca_file, certificate, key and key_password", field="bridge.kafka.security"
        ) from error
    deadline_s = time.monotonic() + settings.connect_timeout_s
    while True:
        left_s = deadline_s - time.monotonic()
        try:
            return admin, admin.list_topics(timeout=max(_POLL_S, min(_SLICE_S, left_s)))
        except KafkaException as error:
            admin.poll(0)
            # A wrong password is known at once: nobody waits for it.
            refusal = refused(settings, complaints)
            if refusal is not None:
                raise refusal from error
            if left_s <= _SLICE_S:
                raise unreachable(settings, error, complaints) from error


def _security(security: KafkaSecurity) -> Iterator[tuple[str, str]]:
    yield "security.protocol", security.protocol
    if security.encrypts:
        yield from _tls(security)
    if security.identifies:
        yield "sasl.mechanism", security.mechanism
        yield from _token(security) if security.mechanism == "OAUTHBEARER" else _password(security)


def _tls(security: KafkaSecurity) -> Iterator[tuple[str, str]]:
    files = {
        "ssl.ca.location": security.ca_file,
        "ssl.certificate.location": security.certificate,
        "ssl.key.location": security.key,
    }
    yield from ((name, str(file)) for name, file in files.items() if file is not None)
    if security.key_password is not None:
        yield "ssl.key.password", security.key_password.get_secret_value()


def _password(security: KafkaSecurity) -> Iterator[tuple[str, str]]:
    yield "sasl.username", security.username or ""
    yield "sasl.password", _secret(security.password, "password")


def _token(security: KafkaSecurity) -> Iterator[tuple[str, str]]:
    yield "sasl.oauthbearer.method", "oidc"
    yield "sasl.oauthbearer.token.endpoint.url", security.oidc_url or ""
    yield "sasl.oauthbearer.client.id", security.client_id or ""
    yield "sasl.oauthbearer.client.secret", _secret(security.client_secret, "client_secret")
    if security.scope:
        yield "sasl.oauthbearer.scope", security.scope
    if security.oidc_ca_file is not None:
        yield "https.ca.location", str(security.oidc_ca_file)


def _secret(value: SecretStr | None, name: str) -> str:
    if value is None:
        raise ConfigError(
            f"it is needed and not given: set VIGIL_BRIDGE__KAFKA__SECURITY__{name.upper()}",
            field=f"bridge.kafka.security.{name}",
        )
    return value.get_secret_value()
