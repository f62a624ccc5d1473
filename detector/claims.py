"""What a worker has claimed, and what became of it. Pure: messages and times come in.

Of two claims that cross, the one that comes last through the broker holds: everybody sees the same order, and it is
the one that is retained. A camera is a worker's when its claim comes back to it, so that what the broker sent before
that is somebody else's.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from broker.messages import CameraOwner

__all__ = ["Claims", "Holding"]

_AGAIN_S = 2.0
"""A camera that somebody else took is not claimed again for so long: two workers that see different facts would take
it from each other as fast as the broker can."""


@dataclass(frozen=True, slots=True)
class Holding:
    """A camera that is ours.

    Attributes:
        since: when our claim came back.
    """

    epoch: int
    since: datetime


class Claims:
    """One worker's claims.

    Args:
        me: the worker's origin.

    Attributes:
        held: what is ours, by camera; replaced, never changed, so that any thread may read it.
        made: claims so far.
        yielded: cameras that others took over.
        defended: times that an outdated claim of somebody else had to be put right.
    """

    def __init__(self, me: str) -> None:
        self._me = me
        self.held: dict[str, Holding] = {}
        self.made = 0
        self.yielded = 0
        self.defended = 0
        self._pending: dict[str, int] = {}
        self._unconfirmed: set[str] = set()
        self._taken_s: dict[str, float] = {}

    def reconnected(self) -> None:
        """What we hold was published again, to a new connection: what comes before it is older."""
        self._unconfirmed = set(self.held)

    def may_claim(self, camera: str, now_s: float) -> bool:
        """Whether it makes sense to claim a camera now."""
        if self.has(camera):
            return False
        return now_s - self._taken_s.get(camera, float("-inf")) > _AGAIN_S

    def claim(self, camera: str, known: CameraOwner | None) -> int:
        """Claim a camera; returns the epoch to publish."""
        epoch = 1 if known is None else known.epoch + 1
        self._pending[camera] = epoch
        self.made += 1
        return epoch

    def release(self, camera: str) -> bool:
        """Give a camera up; whether it was ours, or claimed."""
        was_pending = self._pending.pop(camera, None) is not None
        return self._drop(camera) or was_pending

    def has(self, camera: str) -> bool:
        """Whether a camera is ours, or about to be."""
        return camera in self.held or camera in self._pending

    def waiting(self) -> list[str]:
        """Cameras whose claim has not come back yet."""
        return list(self._pending)

    def on_owner(
        self, camera: str, owner: CameraOwner, now: datetime, now_s: float
    ) -> Literal["gained", "lost", "defend"] | None:
        """Hear the broker's word on a camera's owner.

        Returns:
            What that means for us: the camera is ours now, is not and will not be, or our claim must be made again.
        """
        if owner.worker == self._me:
            return self._on_own(camera, owner.epoch, now)
        epoch = self._pending.get(camera)
        is_on_its_way = epoch is not None or camera in self._unconfirmed
        if epoch is None and camera in self.held:
            epoch = self.held[camera].epoch
        if epoch is None or (is_on_its_way and owner.epoch <= epoch):
            return None
        if owner.epoch < epoch:
            self.defended += 1
            return "defend"
        if owner.worker:
            self._taken_s[camera] = now_s
        self.yielded += 1
        return "lost" if self.release(camera) else None

    def _on_own(self, camera: str, epoch: int, now: datetime) -> Literal["gained"] | None:
        if self._pending.get(camera) == epoch:
            del self._pending[camera]
            self.held = {**self.held, camera: Holding(epoch, now)}
            return "gained"
        if camera in self.held and self.held[camera].epoch == epoch:
            self._unconfirmed.discard(camera)
        return None

    def _drop(self, camera: str) -> bool:
        self._unconfirmed.discard(camera)
        if camera not in self.held:
            return False
        self.held = {name: holding for name, holding in self.held.items() if name != camera}
        return True
