"""One process a node: cameras, what moves in them, and their frames on the bus.

The heavy parts (NumPy, GStreamer) are imported when a camera is opened, not with this package.
"""

from edge.capture import CapturedFrame, Source, open_source, parse_source

__all__ = ["CapturedFrame", "Source", "open_source", "parse_source"]
