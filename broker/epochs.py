"""Which scores come too late: from a worker that the camera is not any more."""

from __future__ import annotations

from dataclasses import dataclass

from broker.intake import Delivery
from broker.messages import CameraOwner, CameraState, Detections

__all__ = ["Epochs"]

_HAND_OVER_S = 1.0
"""What a worker has in its hands when it gives a camera away is its own to score: frames that came before."""
_CAMERAS_MAX = 4000
"""Names come from topics, which whoever has access to the bus may invent."""


@dataclass(slots=True)
class _Reign:
    """Whose scores of a camera count.

    Attributes:
        epoch: of the owner.
        before: the epoch before that, whose scores count too until `until_s`.
        by_node: the camera's node scores it itself, and nobody owns it.
    """

    epoch: int = 0
    before: int = 0
    until_s: float = float("-inf")
    by_node: bool = False


class Epochs:
    """Tells a reader of scores which ones come too late; no clock: times come in.

    Concurrency: one thread.

    Attributes:
        late: scores that came too late so far.
    """

    def __init__(self) -> None:
        self._reigns: dict[str, _Reign] = {}
        self.late = 0

    def takes(self, delivery: Delivery, now_s: float) -> bool:
        """Look at a message; states, owners and scores of cameras must all come by here.

        Args:
            delivery: any message.
            now_s: monotonic seconds.

        Returns:
            False for scores of somebody who is not the camera's worker any more.
        """
        content = delivery.content
        if isinstance(content, CameraOwner):
            reign = self._reign(delivery.topic.camera)
            if content.epoch != reign.epoch:
                reign.before = content.epoch if delivery.retained else reign.epoch
                reign.epoch, reign.until_s = content.epoch, now_s + _HAND_OVER_S
        elif isinstance(content, CameraState):
            self._reign(delivery.topic.camera).by_node = content.scored_by == "node"
        elif isinstance(content, Detections):
            reign = self._reign(delivery.topic.camera)
            least = reign.before if now_s < reign.until_s else reign.epoch
            if content.epoch < least and not reign.by_node:
                self.late += 1
                return False
        return True

    def _reign(self, camera: str) -> _Reign:
        if camera not in self._reigns and len(self._reigns) >= _CAMERAS_MAX:
            return _Reign()
        return self._reigns.setdefault(camera, _Reign())
