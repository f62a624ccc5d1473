"""librdkafka's mock cluster with its faults: real sockets, no Java, errors on request.

Source: rdkafka_mock.h; the library that confluent-kafka brings exports it.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from types import TracebackType
from typing import Self

import confluent_kafka

__all__ = ["INIT_PRODUCER_ID", "PRODUCE", "MockKafka"]

PRODUCE = 0
INIT_PRODUCER_ID = 22
_PRODUCER = 0


def _library() -> ctypes.CDLL:
    folder = Path(confluent_kafka.__file__).parent.parent / "confluent_kafka.libs"
    (path,) = folder.glob("librdkafka*.so*")
    library = ctypes.CDLL(str(path))
    for name in ("rd_kafka_conf_new", "rd_kafka_new", "rd_kafka_mock_cluster_new"):
        getattr(library, name).restype = ctypes.c_void_p
    library.rd_kafka_mock_cluster_bootstraps.restype = ctypes.c_char_p
    return library


class MockKafka:
    """A cluster of one broker.

    Args:
        topics: the topics that are there.
    """

    def __init__(self, *topics: str) -> None:
        self._topics = topics
        self._library = _library()
        self.bootstrap = ""

    def __enter__(self) -> Self:
        """Start it."""
        reason = ctypes.create_string_buffer(256)
        conf = ctypes.c_void_p(self._library.rd_kafka_conf_new())
        client = self._library.rd_kafka_new(_PRODUCER, conf, reason, ctypes.c_size_t(256))
        assert client, reason.value
        self._client = ctypes.c_void_p(client)
        self._cluster = ctypes.c_void_p(self._library.rd_kafka_mock_cluster_new(self._client, 1))
        self._library.rd_kafka_mock_group_initial_rebalance_delay_ms(self._cluster, ctypes.c_int32(0))
        for topic in self._topics:
            self._library.rd_kafka_mock_topic_create(self._cluster, topic.encode(), 2, 1)
        self.bootstrap = self._library.rd_kafka_mock_cluster_bootstraps(self._cluster).decode()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """End it."""
        self._library.rd_kafka_mock_cluster_destroy(self._cluster)
        self._library.rd_kafka_destroy(self._client)

    def answer_with_errors(self, request: int, *codes: int) -> None:
        """Answer the next requests of this kind with these errors, one each."""
        errors = [ctypes.c_int(code) for code in codes]
        self._library.rd_kafka_mock_push_request_errors(
            self._cluster, ctypes.c_int16(request), ctypes.c_size_t(len(errors)), *errors
        )

    def go_down(self) -> None:
        """Take no connections, and drop those that are there."""
        self._library.rd_kafka_mock_broker_set_down(self._cluster, ctypes.c_int32(1))

    def come_up(self) -> None:
        """Take connections again."""
        self._library.rd_kafka_mock_broker_set_up(self._cluster, ctypes.c_int32(1))
