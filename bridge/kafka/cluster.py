"""Which Kafka it is, whatever addresses it was given by."""

from __future__ import annotations

from bridge.kafka.client import connected_admin
from config.settings import KafkaSettings

__all__ = ["cluster_id"]


def cluster_id(settings: KafkaSettings) -> str:
    """The cluster's own name for itself, which all of its brokers say.

    Raises:
        ConfigError: a secret is missing.
        TransientError: no Kafka answers within ``bridge.kafka.connect_timeout_s``.
        PermanentError: it does not let us in.
    """
    _, cluster = connected_admin(settings)
    return str(cluster.cluster_id)
