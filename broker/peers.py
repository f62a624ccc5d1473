"""Who of those that share work lives, as the bus tells of it. No I/O and no clock: times come in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from broker.intake import Delivery
from broker.messages import NodeStatus

__all__ = ["BEAT_INTERVAL_S", "BEAT_LOST_S", "Peer", "Peers"]

BEAT_INTERVAL_S = 1.0
"""Source: the contract, beats ("once a second")."""
BEAT_LOST_S = 3.0
"""Without a sign of life for so long a process is taken for dead, also where its connection stands. A frozen worker's
cameras are to be scored again within 5 s."""
_BEAT_MISSED_S = 2.0
"""Without a sign of life for so long a process has missed a beat at least, whatever its beats' phase."""
_REJOIN_S = 10.0
"""How long after our own new connection the others may take for theirs: a pause of up to 5 s between attempts, and as
much for the attempt."""
_PEERS_MAX = 2000
"""Names come from topics, which whoever has access to the bus may invent: what is kept of them is bounded."""


@dataclass(slots=True)
class Peer(ABC):
    """What is known of one process.

    Attributes:
        sign_s: monotonic seconds of its last sign of life.
        away: the broker says that its connection broke.
        away_sure: and the broker has answered us since, so that it is not the broker that dies.
        silent: it was taken for dead for its silence.
    """

    sign_s: float
    away: bool = False
    away_sure: bool = False
    silent: bool = False

    @property
    @abstractmethod
    def takes_part(self) -> bool:
        """Whether it is one of those that share the work, by its own words."""

    @property
    def is_there(self) -> bool:
        """Whether it is one of those, and lives."""
        return self.takes_part and not self.away and not self.silent

    def shows_life(self, now_s: float) -> None:
        """It did something."""
        self.sign_s = max(self.sign_s, now_s)
        self.away = self.away_sure = self.silent = False


P = TypeVar("P", bound=Peer)


@dataclass(slots=True)
class Peers(ABC, Generic[P]):
    """Processes that share work.

    Attributes:
        me: origin of the one whose view it is; it is never judged. Empty for an onlooker.
        peers: by origin.
        doubts: times that everybody else fell silent at once, which is the bus and not they.
    """

    me: str = ""
    peers: dict[str, P] = field(default_factory=dict)
    doubts: int = 0
    _rejoin_until_s: float = float("-inf")
    _doubting: bool = False

    @abstractmethod
    def _new_peer(self, now_s: float) -> P: ...

    def _peer(self, origin: str, now_s: float) -> P | None:
        """What is known of a process; None where there is no room for another."""
        peer = self.peers.get(origin)
        if peer is None and len(self.peers) < _PEERS_MAX:
            peer = self.peers[origin] = self._new_peer(now_s)
        return peer

    def _fold_node(self, origin: str, peer: P, status: NodeStatus, delivery: Delivery, now_s: float) -> None:
        if status.state == "offline":
            # What is kept after a restart of the broker was laid down by the one that died.
            is_old = delivery.retained and now_s < self._rejoin_until_s and peer.is_there
            peer.away = not is_old and origin != self.me
            return
        peer.away = peer.away_sure = False
        if not delivery.retained:
            peer.shows_life(now_s)

    def connected(self, now_s: float) -> None:
        """Our connection is a new one: the others' may take a while, and what a dying broker said of them is void."""
        self._rejoin_until_s = now_s + _REJOIN_S
        for peer in self.peers.values():
            if peer.away and not peer.away_sure:
                peer.away = False
            if peer.is_there:
                peer.sign_s = max(peer.sign_s, self._rejoin_until_s - BEAT_LOST_S)

    def resumed(self, now_s: float) -> None:
        """The bus, or we, stood still: the others are only as silent as from now on."""
        for peer in self.peers.values():
            peer.sign_s = max(peer.sign_s, now_s)

    def confirm(self) -> None:
        """The broker has answered us: what it said before of others counts."""
        for peer in self.peers.values():
            peer.away_sure = peer.away

    def judge(self, now_s: float) -> list[str]:
        """Take for dead who is silent for too long; nobody where all others fell silent at once.

        Only to be called when one of our own beats has come back.

        Returns:
            Who was taken for dead.
        """
        others = dict(self._living())
        silent = [name for name, peer in others.items() if now_s - peer.sign_s > BEAT_LOST_S]
        if not silent:
            self._doubting = False
            return []
        if len(others) > 1 and all(now_s - peer.sign_s > _BEAT_MISSED_S for peer in others.values()):
            self.doubts += not self._doubting
            self._doubting = True
            return []
        for name in silent:
            others[name].silent = True
        return silent

    def is_overdue(self, now_s: float) -> bool:
        """Whether there is somebody to judge."""
        return any(now_s - peer.sign_s > BEAT_LOST_S for _, peer in self._living())

    def others(self) -> list[str]:
        """The others that live, sorted."""
        return sorted(name for name, _ in self._living())

    def _living(self) -> Iterator[tuple[str, P]]:
        return ((name, peer) for name, peer in list(self.peers.items()) if name != self.me and peer.is_there)
