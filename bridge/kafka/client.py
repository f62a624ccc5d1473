"""How anything of Vigil reaches the cluster: addresses, back-off, silence on standard error."""

from __future__ import annotations

import logging
from typing import Any

from confluent_kafka import KafkaError, KafkaException

from config.settings import KafkaSettings

__all__ = ["client_config", "error_of"]

_SILENT = logging.getLogger("librdkafka")
_SILENT.disabled = True
"""Takes what librdkafka would write to standard error; `error_cb` gets it as well, and makes it a log event."""


def client_config(settings: KafkaSettings) -> dict[str, Any]:
    """What every producer, consumer and admin client begins with."""
    return {
        "bootstrap.servers": settings.bootstrap,
        "client.id": "vigil-bridge",
        "socket.keepalive.enable": True,
        "reconnect.backoff.ms": 100,
        "reconnect.backoff.max.ms": 2_000,
        "logger": _SILENT,
    }


def error_of(error: KafkaException) -> KafkaError:
    """What librdkafka says of it."""
    cause = error.args[0]
    return cause if isinstance(cause, KafkaError) else KafkaError(KafkaError._FAIL, str(error))  # noqa: SLF001
