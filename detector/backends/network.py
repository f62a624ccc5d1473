"""A neural network as a backend: letterbox, run, decode. Which runtime runs it is the runtime's matter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from broker.messages import ModelRef
from config import ConfigError, TransientError
from detector.backends.protocol import Prepared
from detector.decoding import Found, Outputs, letterbox, suppress, to_picture
from detector.layouts import recognise
from detector.pictures import Picture

__all__ = ["InputSpec", "Network", "Runtime"]


@dataclass(frozen=True, slots=True)
class InputSpec:
    """What a network takes.

    Attributes:
        width: pixels.
        height: pixels.
        batch: pictures in one inference, when the file fixes them; None when any number goes.
        dtype: of the numbers; pixels stay 0 to 255.
        channels_first: [n, 3, h, w]; otherwise [n, h, w, 3].
    """

    width: int
    height: int
    batch: int | None
    dtype: np.dtype[Any]
    channels_first: bool


class Runtime(Protocol):
    """A loaded model file."""

    @property
    def input(self) -> InputSpec:
        """What it takes."""
        ...

    def run(self, tensor: NDArray[Any]) -> list[NDArray[np.float32]]:
        """Run the network.

        Args:
            tensor: a batch as `input` says it.

        Returns:
            The outputs, each with the batch's dimension first.

        Raises:
            TransientError: the runtime failed on this batch.
        """
        ...


class Network:
    """A detection network of a known layout.

    Args:
        runtime: the loaded file.
        model: which file it is.
        labels: what its class numbers mean.
        batch_max: the most pictures in one inference, where the file leaves it open.
        min_score: boxes below it are left out.
        nms_iou: boxes of one class that overlap more than this are one object.

    Raises:
        ConfigError: it does not run, the layout is unknown, or the labels are not as many as the classes.
    """

    def __init__(
        self,
        runtime: Runtime,
        model: ModelRef,
        labels: tuple[str, ...],
        *,
        batch_max: int,
        min_score: float,
        nms_iou: float,
    ) -> None:
        self.model = model
        self.labels = labels
        self.batch_max = runtime.input.batch or batch_max
        self._runtime = runtime
        self._min_score = min_score
        self._nms_iou = nms_iou
        spec = runtime.input
        # One grey picture through the network says the true shapes, also where the file leaves them open.
        blank = self.prepare(np.full((spec.height, spec.width, 3), 114, np.uint8))
        try:
            (outputs,) = self.infer([blank])
        except TransientError as error:
            raise ConfigError(f"{model.name} cannot be used: {error}", field="detector.model") from error
        shapes = [output.shape for output in outputs]
        self._layout = recognise(spec.width, spec.height, shapes, model=model.name)
        if self._layout.classes != len(labels):
            raise ConfigError(
                f"{model.name} knows {self._layout.classes} classes and there are {len(labels)} labels: "
                "give the file with its labels, one a line",
                field="detector.labels",
            )

    def prepare(self, picture: Picture) -> Prepared:
        """Letterbox a picture; see :meth:`Backend.prepare`."""
        pixels, scale = letterbox(picture, self._runtime.input.width, self._runtime.input.height)
        return Prepared(pixels, scale, picture.shape[1], picture.shape[0])

    def infer(self, batch: Sequence[Prepared]) -> list[Outputs]:
        """Run the network; see :meth:`Backend.infer`."""
        spec = self._runtime.input
        tensor = np.stack([prepared.pixels for prepared in batch])
        if spec.batch is not None and spec.batch > len(batch):
            tensor = np.concatenate((tensor, np.repeat(tensor[-1:], spec.batch - len(batch), axis=0)))
        if spec.channels_first:
            tensor = tensor.transpose(0, 3, 1, 2)
        outputs = self._runtime.run(np.ascontiguousarray(tensor, spec.dtype))
        return [tuple(output[place] for output in outputs) for place in range(len(batch))]

    def decode(self, outputs: Outputs, prepared: Prepared) -> Found:
        """Read one picture's outputs; see :meth:`Backend.decode`."""
        found = suppress(self._layout.decode(outputs, self._min_score), self._nms_iou)
        return to_picture(found, prepared.scale, prepared.width, prepared.height)
