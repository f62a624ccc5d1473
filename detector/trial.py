"""Whether a model that has just come into use may stay. Pure."""

from __future__ import annotations

from detector.slot import Performance

__all__ = ["HANGS_S", "TRIAL_BATCHES", "TRIAL_S", "why_not"]

TRIAL_S = 10.0
"""The least time that a model is on trial."""
TRIAL_BATCHES = 20
"""The least work that it must have done; where no camera sends anything, a trial goes on until one does."""
HANGS_S = 30.0
"""Of one inference. The slowest machine needs some seconds for a batch of the largest model."""
_FAILED_MIN = 3
"""Two failures may be the machine's."""
_FAILED_SHARE_MAX = 0.2
_SLOWER_MAX = 2.0
_BUSY_MAX = 0.85
"""Share of the time in the model, above which a worker has no room left. A larger model that is slower is what
somebody wanted; one that the machine has no time for is not."""
_JUDGED_AFTER_S = 3.0


def why_not(before: Performance, now: Performance, elapsed_s: float) -> str:
    """Why a model must go; empty while it may stay.

    Args:
        before: how the model before it did.
        now: how it does.
        elapsed_s: since it came into use.
    """
    if now.failed >= _FAILED_MIN and now.failed > now.batches * _FAILED_SHARE_MAX:
        return f"{now.failed} of its {now.batches} inferences failed on real pictures"
    if now.running_s > HANGS_S:
        return f"one inference has not ended for {now.running_s:.0f} s"
    if elapsed_s < _JUDGED_AFTER_S or not before.picture_s:
        return ""
    slower, busy = now.picture_s / before.picture_s, now.busy_s / elapsed_s
    if slower > _SLOWER_MAX and busy > _BUSY_MAX:
        return (
            f"it is too slow for this worker's cameras: {now.picture_s * 1000:.0f} ms a picture are {slower:.1f} times "
            f"those of the model before, and it was busy {busy:.0%} of the time"
        )
    return ""
