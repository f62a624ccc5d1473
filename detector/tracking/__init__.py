"""Which boxes of two frames are one object: a small protocol, and the library behind it."""

from detector.tracking.protocol import Tracker
from detector.tracking.sort import SortTracker, next_period_s

__all__ = ["SortTracker", "Tracker", "next_period_s"]
