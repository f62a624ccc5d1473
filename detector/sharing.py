"""One model for two uses: a node's scores, and its search for people whom nobody is to see."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import cv2
import numpy as np

from broker.messages import FoundPeople, FoundPerson
from config import ConfigError
from detector.backends import Backend, Prepared
from detector.decoding import Found, Outputs, to_detections
from detector.pictures import Picture

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["PERSON", "PeopleFinder", "Planes", "SharedBackend"]

PERSON = "person"
"""What models call somebody."""


class SharedBackend:
    """A backend for several threads: one at a time is in the model.

    Args:
        backend: the model.
    """

    def __init__(self, backend: Backend) -> None:
        self.model = backend.model
        self.labels = backend.labels
        self.device = backend.device
        self.batch_max = backend.batch_max
        self.input_px = backend.input_px
        self._backend = backend
        self._turn = threading.Lock()

    def prepare(self, picture: Picture) -> Prepared:
        """Make a picture fit the model; see :meth:`Backend.prepare`."""
        return self._backend.prepare(picture)

    def infer(self, batch: Sequence[Prepared]) -> list[Outputs]:
        """Run the model, when it is free; see :meth:`Backend.infer`."""
        with self._turn:
            return self._backend.infer(batch)

    def decode(self, outputs: Outputs, prepared: Prepared) -> Found:
        """Read one picture's outputs; see :meth:`Backend.decode`."""
        return self._backend.decode(outputs, prepared)

    def close(self) -> None:
        """Give back what the model holds; see :meth:`Backend.close`."""
        with self._turn:
            self._backend.close()


class Planes(Protocol):
    """A picture as I420: brightness, and two colour differences at half the resolution, rounded up; all uint8."""

    @property
    def y(self) -> NDArray[np.uint8]:
        """Brightness, shape (height, width)."""
        ...

    @property
    def u(self) -> NDArray[np.uint8]:
        """Blue difference."""
        ...

    @property
    def v(self) -> NDArray[np.uint8]:
        """Red difference."""
        ...


class PeopleFinder:
    """Finds people in pictures as a camera's decoder gives them.

    Concurrency: may be called from any thread.

    Args:
        backend: the model; one that several threads may use.
    """

    def __init__(self, backend: SharedBackend) -> None:
        self._backend = backend

    def __call__(self, picture: Planes) -> FoundPeople:
        """Look for people.

        Args:
            picture: stays as it is.

        Raises:
            ConfigError: the model knows no people.
            TransientError: the runtime failed.
        """
        if PERSON not in self._backend.labels:
            raise ConfigError(
                f"the model {self._backend.model.name} never says {PERSON!r}, so nobody can be blurred: "
                "choose another, or set privacy.blur to none",
                field="detector.model",
            )
        pixels = _blue_green_red(picture)
        height_px, width_px = pixels.shape[:2]
        prepared = self._backend.prepare(pixels)
        (outputs,) = self._backend.infer([prepared])
        found = self._backend.decode(outputs, prepared)
        people = found[found.classes == self._backend.labels.index(PERSON)]
        detections = to_detections(people, self._backend.labels, width_px, height_px)
        return FoundPeople(
            model=self._backend.model,
            people=tuple(FoundPerson(score=person.score, box=person.box) for person in detections),
        )


def _blue_green_red(picture: Planes) -> Picture:
    """As a model takes it. An odd last row or column is left out; a model sees no difference between the ranges."""
    height_px, width_px = picture.y.shape[0] // 2 * 2, picture.y.shape[1] // 2 * 2
    chroma = slice(height_px // 2), slice(width_px // 2)
    planes = (picture.y[:height_px, :width_px], picture.u[chroma], picture.v[chroma])
    packed = np.concatenate([plane.ravel() for plane in planes]).reshape(height_px * 3 // 2, width_px)
    return np.asarray(cv2.cvtColor(packed, cv2.COLOR_YUV2BGR_I420), np.uint8)
