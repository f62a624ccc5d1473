"""Which frames leave a node that scores its own."""

from __future__ import annotations

from typing import Literal

import msgspec

from broker.frames import Frame, reword_frame
from broker.local import Forward

__all__ = ["forwarding"]


def forwarding(policy: Literal["all", "moving", "zoom"]) -> Forward:
    """What of each frame goes to the broker, marked so that no other worker scores it a second time.

    Args:
        policy: ``all`` frames, those in which something is ``moving``, or only while somebody zooms; the last is part
            of each.
    """

    def forward(frame: Frame) -> bytes | None:
        meta = frame.meta
        if policy == "all" or meta.mode == "zoom" or (policy == "moving" and meta.moving):
            return reword_frame(frame, msgspec.structs.replace(meta, detect=False))
        return None

    return forward
