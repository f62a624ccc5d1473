"""The worker that scores frames: mailbox, model backends, rules, and the escalations that they raise.

The heavy parts (OpenCV, a model runtime) are imported by the role when it starts, not with this package.
"""

from detector.mailbox import LatestMailbox
from detector.scene import Firing

__all__ = ["Firing", "LatestMailbox"]
