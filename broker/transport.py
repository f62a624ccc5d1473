"""One connection to a broker, seen from the bus: what paho and the in-memory broker have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

__all__ = ["Inbound", "Outbound", "Transport", "TransportEvents", "TransportFactory"]


@dataclass(frozen=True, slots=True)
class Inbound:
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
    """A message as it goes onto the wire."""

    topic: str
    payload: bytes
    qos: int
    retain: bool


@dataclass(frozen=True, slots=True)
class TransportEvents:
    """What a connection reports; all from the thread that runs it.

    Attributes:
        on_message: a message came.
        on_sent: the broker has this message (QoS 1, 2), or it is on the wire (QoS 0).
    """

    on_message: Callable[[Inbound], None]
    on_sent: Callable[[int], None]


class Transport(Protocol):
    """One connection, used once.

    Concurrency: `open` and `run` belong to one thread; the others may be called from any.
    """

    def open(self) -> bool:
        """Connect and wait for the broker's answer.

        Returns:
            Whether the broker still had this client's session.

        Raises:
            TransientError: nobody answers.
            PermanentError: the broker refuses these credentials.
        """
        ...

    def run(self) -> None:
        """Serve the connection until it is closed from this side.

        Raises:
            TransientError: the connection was lost.
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

    def acknowledge(self, message: Inbound) -> None:
        """Confirm a message to the broker; one of an older connection is ignored."""
        ...

    def close(self) -> None:
        """Say goodbye and make `run` return. No will is sent."""
        ...


TransportFactory = Callable[[TransportEvents, Outbound | None], Transport]
"""Makes a new connection from the events and the will."""
