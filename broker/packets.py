"""How large a packet may be: what the broker said, or what being thrown out has taught.

A broker with MQTT 5 says its limit when it accepts a connection. With 3.1.1, or behind a proxy, nobody does: the
connection just ends when a packet is too large, and a client that sends it again is thrown out again, for ever. So a
connection that ends right after a packet larger than any that ever went through, twice, is taken as the answer.
"""

from __future__ import annotations

from config.log import get_logger

__all__ = ["PacketLimit"]

SUSPECT_BYTES_MIN = 16_384
"""Smaller packets are beyond suspicion: no broker refuses them, and connections also end for other reasons."""
_RIGHT_AFTER_S = 3.0
"""A packet after which a connection stood so long went through."""
_STRIKES = 2
_STRIKES_AGAINST_EVIDENCE = 4
"""A packet that once went through is suspected too when it ends so many connections: the broker's limit has changed."""


class PacketLimit:
    """The largest packet that may be sent.

    What is learned lies half-way between the largest packet that went through and the one that did not, so that a few
    lost connections find the limit, whatever it is. It is kept for the life of the process.

    Concurrency: the caller takes turns.
    """

    def __init__(self) -> None:
        self._told: int | None = None
        self._learned: int | None = None
        self._survived = 0
        self._strikes = 0
        self._unsent: dict[int, tuple[int, int]] = {}
        self._on_wire: list[tuple[float, int]] = []
        self._log = get_logger()

    @property
    def bytes_max(self) -> int | None:
        """The largest packet, in bytes; None while nothing speaks for a limit."""
        known = [limit for limit in (self._told, self._learned) if limit is not None]
        return min(known) if known else None

    @property
    def learned(self) -> int | None:
        """The part of it that no broker said."""
        return self._learned

    def connected(self, told: int | None) -> None:
        """A connection stands, with the limit that the broker said."""
        self._told = told
        self._unsent.clear()
        self._on_wire.clear()

    def handed_over(self, number: int, size_bytes: int, qos: int) -> None:
        """A packet is on its way."""
        if size_bytes >= SUSPECT_BYTES_MIN:
            self._unsent[number] = (size_bytes, qos)

    def sent(self, number: int, now_s: float) -> None:
        """A packet is on the wire (QoS 0), or the broker has it (QoS 1, 2)."""
        size_bytes, qos = self._unsent.pop(number, (0, 0))
        if not size_bytes:
            return
        if qos:
            self._went_through(size_bytes)
        else:
            self._note_stood(now_s)
            self._on_wire.append((now_s, size_bytes))

    def lost(self, now_s: float, *, too_large: bool) -> bool:
        """The connection was closed by the other side.

        Args:
            now_s: monotonic seconds.
            too_large: the broker said that a packet was too large.

        Returns:
            Whether a packet may have been the reason.
        """
        self._note_stood(now_s)
        suspects = [size for _, size in self._on_wire] + [size for size, _ in self._unsent.values()]
        self._on_wire.clear()
        self._unsent.clear()
        if not suspects:
            return False
        largest = max(suspects)
        self._strikes += 1
        against_evidence = largest <= self._survived
        if too_large or self._strikes >= (_STRIKES_AGAINST_EVIDENCE if against_evidence else _STRIKES):
            self._learn(0 if against_evidence else self._survived, largest)
        return not against_evidence

    def _learn(self, good_bytes: int, bad_bytes: int) -> None:
        self._survived, self._strikes = good_bytes, 0
        self._learned = max(SUSPECT_BYTES_MIN, (good_bytes + bad_bytes) // 2)
        self._log.warning("bus.packet_limit_learned", packet_bytes_max=self._learned, refused_bytes=bad_bytes)

    def _note_stood(self, now_s: float) -> None:
        while self._on_wire and now_s - self._on_wire[0][0] >= _RIGHT_AFTER_S:
            self._went_through(self._on_wire.pop(0)[1])

    def _went_through(self, size_bytes: int) -> None:
        self._survived = max(self._survived, size_bytes)
        self._strikes = 0
