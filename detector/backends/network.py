"""A neural network as a backend: fit, run, decode. Which runtime runs it is the runtime's matter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from broker.messages import ModelInput, ModelRef
from config import ConfigError, TransientError
from detector.backends.protocol import Prepared
from detector.decoding import Floats, Found, Outputs, best, suppress, to_picture
from detector.facts import ModelFacts
from detector.inputs import InputConvention, InputSpec, place, to_numbers
from detector.labels import coco_labels
from detector.layouts import Layout, Output, Seen, SsdLayout, recognise
from detector.pictures import Picture

__all__ = ["Network", "OutputSpec", "Runtime"]


class Runtime(Protocol):
    """A loaded model file."""

    @property
    def input(self) -> InputSpec:
        """What it takes."""
        ...

    @property
    def outputs(self) -> Sequence[OutputSpec]:
        """What it gives: name, and whether they are whole numbers."""
        ...

    @property
    def facts(self) -> ModelFacts:
        """What the file says of itself."""
        ...

    @property
    def device(self) -> str:
        """What it runs on; see :attr:`Backend.device`."""
        ...

    @property
    def batches(self) -> bool:
        """Whether several pictures at a time take less time a picture."""
        ...

    def run(self, pictures: Sequence[NDArray[Any]]) -> list[Floats]:
        """Run the network.

        Args:
            pictures: each as `input` says it, as many as that takes.

        Returns:
            The outputs, each with the batch's dimension first; nothing overwrites them.

        Raises:
            TransientError: the runtime failed on this batch.
        """
        ...

    def close(self) -> None:
        """Give back the model's memory."""
        ...


OutputSpec = tuple[str, bool]
"""Name of an output, and whether it has whole numbers."""


class Network:
    """A network of a known layout.

    Args:
        runtime: the loaded file.
        model: which file it is.
        labels: what its class numbers mean; empty: COCO's, where it knows as many classes.
        layout: name of its layout; empty where its outputs tell.
        taken: how it takes a picture, where that is not what its layout usually does.
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
        labels: tuple[str, ...] = (),
        *,
        layout: str = "",
        taken: ModelInput | None = None,
        batch_max: int,
        min_score: float,
        nms_iou: float,
    ) -> None:
        self.model = model
        self.device = runtime.device
        spec = runtime.input
        # Without an accelerator a picture takes as long in a batch as alone (YOLOX-Nano: 20.0 ms, and 23.9 each of 8).
        self.batch_max = spec.batch or (batch_max if runtime.batches else 1)
        self.input_px = (spec.width, spec.height)
        self._runtime = runtime
        self._min_score = min_score
        self._nms_iou = nms_iou
        self._convention = InputConvention()
        self._layout = recognise(self._look(len(labels) or None), model=model.name, stated=layout)
        self._convention = self._layout.convention.changed(taken)
        self.labels = _checked(labels, self._layout, model.name)

    def _look(self, labels: int | None) -> Seen:
        """What the network shows: one grey picture through it says the true shapes, also where the file has none."""
        spec, runtime = self._runtime.input, self._runtime
        try:
            (outputs,) = self.infer([self.prepare(np.full((spec.height, spec.width, 3), 114, np.uint8))])
        except TransientError as error:
            raise ConfigError(f"{self.model.name} cannot be used: {error}", field="detector.model") from error
        shown = [
            Output(name, values.shape, whole) for (name, whole), values in zip(runtime.outputs, outputs, strict=True)
        ]
        return Seen(spec.width, spec.height, shown, runtime.facts, labels)

    def prepare(self, picture: Picture) -> Prepared:
        """Make a picture fit the network; see :meth:`Backend.prepare`."""
        pixels, fit = place(picture, *self.input_px, self._convention.fit)
        return Prepared(to_numbers(pixels, self._runtime.input, self._convention), fit)

    def infer(self, batch: Sequence[Prepared]) -> list[Outputs]:
        """Run the network, as often as the batch needs; see :meth:`Backend.infer`."""
        steps = range(0, len(batch), self.batch_max)
        return [outputs for first in steps for outputs in self._run(batch[first : first + self.batch_max])]

    def _run(self, batch: Sequence[Prepared]) -> list[Outputs]:
        pictures = [prepared.pixels for prepared in batch]
        # A file that takes no fewer gets the last one again.
        pictures += pictures[-1:] * ((self._runtime.input.batch or 0) - len(pictures))
        outputs = self._runtime.run(pictures)
        if any(not output.shape or len(output) != len(pictures) for output in outputs):
            shapes = ", ".join(str(list(output.shape)) for output in outputs)
            raise TransientError(f"of a batch of {len(pictures)} it gives {shapes}, not one of each a picture")
        return [tuple(np.asarray(output[place]) for output in outputs) for place in range(len(batch))]

    def decode(self, outputs: Outputs, prepared: Prepared) -> Found:
        """Read one picture's outputs; see :meth:`Backend.decode`."""
        found = self._layout.decode(outputs, self._min_score)
        found = best(found) if self._layout.suppressed else suppress(found, self._nms_iou)
        known = (found.classes >= 0) & (found.classes < len(self.labels))
        return to_picture(found[known], prepared.fit)

    def close(self) -> None:
        """Give back the model's memory; see :meth:`Backend.close`."""
        self._runtime.close()


def _checked(labels: tuple[str, ...], layout: Layout, model: str) -> tuple[str, ...]:
    """The labels that these are, or COCO's.

    Raises:
        ConfigError: they are not as many as the classes.
    """
    usual = 90 if isinstance(layout, SsdLayout) else 80
    labels = labels or coco_labels(layout.classes or usual)
    if layout.classes not in (None, len(labels)):
        raise ConfigError(
            f"{model} knows {layout.classes} classes and there are {len(labels)} labels: "
            "give the file with its labels, one a line",
            field="detector.labels",
        )
    return labels
