"""What the worker asks of a backend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from broker.messages import ModelRef
from detector.decoding import Fit, Found, Outputs
from detector.pictures import Picture

__all__ = ["Backend", "Prepared"]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A picture as a model takes it.

    Attributes:
        pixels: in the model's own size, order and numbers; only its backend knows which.
        fit: where the picture lies in them.
    """

    pixels: NDArray[Any]
    fit: Fit


class Backend(Protocol):
    """Finds things in pictures, in three steps, so that the one in the model is timed by itself.

    Concurrency: `prepare` and `decode` are pure and may be called from any thread, also while another one is in the
    model; `infer` from one thread at a time. Nothing is called after `close`.
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
    def device(self) -> str:
        """What it runs on: ``cpu``, or an accelerator as settings call it."""
        ...

    @property
    def batch_max(self) -> int:
        """The most pictures in one call of `infer` that are of use: with more, none comes out sooner; 1 or more."""
        ...

    @property
    def input_px(self) -> tuple[int, int]:
        """Width and height that `prepare` makes a picture fit into; a larger picture shows it nothing more."""
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
            batch: one picture or more; more than `batch_max` are taken in several goes.

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

    def close(self) -> None:
        """Give back what the model holds: memory, an accelerator."""
        ...
