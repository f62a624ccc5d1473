"""Our own beats, and whether they come back: then the bus lives, and so do we.

Who shares work with others decides when one of its beats comes back through the broker: whatever the broker said before
that has been heard. What it has is a lease that its beats renew: when they do not come back it has nothing, before
anybody else could have taken it for dead. No I/O and no clock: times come in.
"""

from __future__ import annotations

from typing import Any

from broker.peers import BEAT_LOST_S, Peers

__all__ = ["Heartbeat"]

_STOOD_STILL_S = 2.0
"""Between two of our own beats that come back: the bus, or this process, was frozen meanwhile."""
_BEATS_KEPT = 100
"""Beats on their way whose time of sending is remembered."""


class Heartbeat:
    """Beats of one process.

    Concurrency: none of its own; under the lock of who has it, but for `is_leased`.

    Args:
        peers: the others; they are judged when a beat comes back.

    Attributes:
        connections: number of the connection that is known.
    """

    def __init__(self, peers: Peers[Any]) -> None:
        self._peers = peers
        self.connections = 0
        self._seq = self._answered_seq = 0
        self._sent_s: dict[int, float] = {}
        self._lease_s = self._echoed_s = float("-inf")
        self._settled_s = float("inf")

    def is_leased(self, now_s: float) -> bool:
        """Whether nobody can have taken us for dead yet."""
        return now_s - self._lease_s <= BEAT_LOST_S

    @property
    def is_answered(self) -> bool:
        """Whether none is on its way: the next one must be sent before a new fact is decided on."""
        return self._answered_seq == self._seq

    def is_due(self, now_s: float, within_s: float) -> bool:
        """Whether a beat is needed before its time: somebody is to be judged, or we have just settled."""
        return self._peers.is_overdue(now_s) or self._settled_s <= now_s < self._settled_s + within_s

    def notice(self, connections: int, now_s: float) -> bool:
        """Whether the connection is another one than before; then a beat is to be sent."""
        if connections == self.connections:
            return False
        if self.connections:
            self._peers.connected(now_s)
        self.connections = connections
        self._settled_s = float("inf")
        self._answered_seq = self._seq  # beats of the connection before are lost
        return True

    def next_seq(self, now_s: float) -> int:
        """The number of a beat that goes out now."""
        self._seq += 1
        self._sent_s[self._seq] = now_s
        self._sent_s.pop(self._seq - _BEATS_KEPT, None)
        return self._seq

    def answer(self, seq: int, now_s: float) -> list[str] | None:
        """A beat has come back.

        Returns:
            Who is taken for dead now; None where the beat is not one of ours.
        """
        sent_s = self._sent_s.get(seq)
        if sent_s is None:
            return None
        if now_s - self._echoed_s > _STOOD_STILL_S:
            self._peers.resumed(now_s)
        self._lease_s, self._echoed_s, self._answered_seq = sent_s, now_s, seq
        self._peers.confirm()
        return self._peers.judge(now_s)

    def settle(self, now_s: float, listen_s: float) -> bool:
        """Whether to decide now; on a new connection only after `listen_s`, counted from the first beat that came back.

        Args:
            now_s: monotonic seconds.
            listen_s: how long a new connection is to be listened to; 0 where there is nobody to wait for.
        """
        if self._settled_s == float("inf"):
            self._settled_s = now_s + listen_s
        return now_s >= self._settled_s
