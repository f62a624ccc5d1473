"""One connection to a broker, seen from the bus: what paho and the in-memory broker have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import msgspec

from config.errors import TransientError

__all__ = [
    "ConnectionLostError",
    "Inbound",
    "Limits",
    "LossCause",
    "Outbound",
    "Transport",
    "TransportEvents",
    "TransportFactory",
    "packet_bytes",
]

LossCause = Literal["closed", "silent", "taken_over", "packet_too_large", "expelled"]
"""Why a connection ended: the other side closed it or the network broke, nothing was heard any more, another client
took our client id, a packet was larger than the broker takes, the broker said another reason."""


class ConnectionLostError(TransientError):
    """A connection that stood is gone.

    Args:
        message: where it was, and what is known.
        cause: the same as a word that can be counted.
    """

    def __init__(self, message: str, cause: LossCause) -> None:
        super().__init__(message)
        self.cause = cause


class Inbound(msgspec.Struct, frozen=True):
    """A message as it came off the wire.

    Attributes:
        token: what to hand to `acknowledge`; only this connection understands it.
    """

    topic: str
    payload: bytes
    qos: int
    retained: bool
    token: int


@dataclass(frozen=True, slots=True)
class Outbound:
    """A message as it goes onto the wire.

    Attributes:
        expiry_s: seconds after which a broker with MQTT 5 drops it; None keeps it. MQTT 3.1.1 cannot say so.
    """

    topic: str
    payload: bytes
    qos: int
    retain: bool
    expiry_s: int | None = None


def packet_bytes(topic: str, payload_bytes: int) -> int:
    """The most bytes that a message takes as a packet.

    Source: MQTT 5 section 3.3: type and remaining length 5, length of the topic 2, packet identifier 2, property
    length 1, Message Expiry Interval 5.
    """
    return 15 + len(topic.encode()) + payload_bytes


@dataclass(frozen=True, slots=True)
class Limits:
    """What the broker said of a connection when it accepted it.

    Attributes:
        version: the MQTT version that is spoken.
        packet_bytes_max: the largest packet that it takes; None when it does not say.
        receive_max: messages of QoS 1 and 2 that it takes unconfirmed.
        keepalive_s: seconds of silence after which it asks.
        session_present: whether it still had this client's session.
    """

    version: Literal["5", "3.1.1"]
    packet_bytes_max: int | None
    receive_max: int
    keepalive_s: int
    session_present: bool


@dataclass(frozen=True, slots=True)
class TransportEvents:
    """What a connection reports; all from the thread that runs it.

    Attributes:
        on_message: a message came.
        on_sent: the broker has this message (QoS 1, 2), or it is on the wire (QoS 0). With MQTT 5 the broker may
            refuse it: then the second argument says why.
    """

    on_message: Callable[[Inbound], None]
    on_sent: Callable[[int, str | None], None]


class Transport(Protocol):
    """One connection, used once.

    Concurrency: `open` and `run` belong to one thread; the others may be called from any.
    """

    @property
    def limits(self) -> Limits:
        """What the broker said; only after `open`."""
        ...

    @property
    def unacknowledged(self) -> int:
        """Messages that came and are not acknowledged."""
        ...

    def open(self) -> None:
        """Connect and wait for the broker's answer.

        Raises:
            TransientError: nobody answers.
            PermanentError: the broker refuses these credentials.
        """
        ...

    def run(self) -> None:
        """Serve the connection until it is closed from this side.

        Raises:
            ConnectionLostError: it was lost.
        """
        ...

    def publish(self, message: Outbound) -> int:
        """Hand over a message; `on_sent` comes later with the number returned here.

        Raises:
            TransientError: there is no connection.
        """
        ...

    def subscribe(self, filters: Sequence[tuple[str, int]]) -> None:
        """Ask for topic filters, each with its QoS."""
        ...

    def unsubscribe(self, filters: Sequence[str]) -> None:
        """Ask for topic filters no more."""
        ...

    def acknowledge(self, message: Inbound) -> bool:
        """Confirm a message to the broker, once all that came before it are confirmed too.

        Returns:
            False when there is nothing to confirm: it was confirmed before, or its connection is gone.
        """
        ...

    def close(self) -> None:
        """Say goodbye and make `run` return. No will is sent."""
        ...


TransportFactory = Callable[[TransportEvents, Outbound | None], Transport]
"""Makes a new connection from the events and the will."""
