"""What the worker asks of a backend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from broker.messages import ModelRef
from detector.decoding import Found, Outputs
from detector.pictures import Picture

__all__ = ["Backend", "Prepared"]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A picture as a model takes it.

    Attributes:
        pixels: uint8 [h, w, 3], blue-green-red.
        scale: pixels of `pixels` a pixel of the picture.
        width: of the picture, in pixels.
        height: of the picture, in pixels.
    """

    pixels: Picture
    scale: float
    width: int
    height: int


class Backend(Protocol):
    """Finds things in pictures, in three steps, so that the one in the model is timed by itself.

    `prepare` and `decode` are pure. A backend is used from one thread at a time.
    """

    @property
    def model(self) -> ModelRef:
        """Which model it is."""
        ...

    @property
    def labels(self) -> tuple[str, ...]:
        """What its class numbers mean."""
        ...

    @property
    def batch_max(self) -> int:
        """The most pictures that it takes in one inference; 1 or more."""
        ...

    def prepare(self, picture: Picture) -> Prepared:
        """Make a picture fit the model.

        Args:
            picture: uint8 [h, w, 3], blue-green-red, of any size.
        """
        ...

    def infer(self, batch: Sequence[Prepared]) -> list[Outputs]:
        """Run the model.

        Args:
            batch: one to `batch_max` pictures.

        Returns:
            The model's outputs, one a picture.

        Raises:
            TransientError: the runtime failed on this batch.
        """
        ...

    def decode(self, outputs: Outputs, prepared: Prepared) -> Found:
        """Read one picture's outputs.

        Returns:
            Boxes in pixels of the picture, clipped to it, the best first.
        """
        ...
