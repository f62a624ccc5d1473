"""What makes scores: one file a model runtime, one protocol for all."""

from detector.backends.protocol import Backend, Prepared

__all__ = ["Backend", "Prepared"]
