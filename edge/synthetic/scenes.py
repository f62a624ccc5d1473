"""The scenes that are drawn by code, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from edge.synthetic.room import SyntheticRoom
from edge.synthetic.street import SyntheticStreet

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edge.uris import SyntheticUri

__all__ = ["DrawnScene", "open_scene"]


class DrawnScene(Protocol):
    """What there is to see at any instant.

    Attributes:
        period_s: seconds after which everything that there is to see has been seen once.
    """

    period_s: float

    def picture(self, t_s: float) -> NDArray[np.uint8]:
        """The picture at an instant: shape (height, width, 3), red, green, blue; a new array each time."""
        ...


def open_scene(uri: SyntheticUri, width_px: int, height_px: int) -> DrawnScene:
    """The scene that a source names, in pictures of some size."""
    if uri.scene == "room":
        return SyntheticRoom(uri.seed, width_px, height_px)
    return SyntheticStreet(uri.seed, width_px, height_px)
