"""Models: which made a score, and which the workers are to use."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from broker.messages.base import Count, Message, Moment, Positive, Short, Text

__all__ = ["ModelFile", "ModelInput", "ModelManifest", "ModelRef"]


class ModelRef(msgspec.Struct, frozen=True, kw_only=True):
    """Which model made a score.

    Attributes:
        sha256: of the model file, 64 hexadecimal digits; for a detector that is code, of its name and parameters.
    """

    name: Short
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


class ModelInput(msgspec.Struct, frozen=True, kw_only=True):
    """How a model takes a picture, where that is not what its layout usually does.

    Attributes:
        colour: order of the channels.
        fit: ``corner`` and ``centre`` keep the picture's shape, with grey around it; ``stretch`` fills the input.
        mean: is taken off each channel's pixels (0 to 255), in the order of `colour`.
        std: and the rest is divided by this.
    """

    colour: Literal["bgr", "rgb"] | None = None
    fit: Literal["corner", "centre", "stretch"] | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[Positive, Positive, Positive] | None = None


class ModelFile(msgspec.Struct, frozen=True, kw_only=True):
    """A model file, and what it does not tell of itself.

    Attributes:
        name: what people call it, and how the file is called without its ending.
        sha256: of the file, 64 hexadecimal digits: two files of one name are two models.
        url: where workers fetch it: ``https://…``, or ``file:`` and a path. A worker that has it already asks nobody.
        kind: of file; ``hog`` is OpenCV's people detector, which has none.
        layout: how it writes down what it found; empty where its shapes tell.
        input: how it takes a picture; None where it does as its layout usually does.
        labels: what its class numbers mean; empty means what the file says, else COCO's 80.
        licence: SPDX identifier; empty where nobody knows.
    """

    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    size_bytes: Count
    url: Text = ""
    kind: Literal["onnx", "tflite", "hog"] = "onnx"
    layout: Short = ""
    input: ModelInput | None = None
    labels: tuple[Short, ...] = ()
    licence: Short = ""


class ModelManifest(Message, frozen=True, kw_only=True):
    """The model that the workers of a class are to use.

    Attributes:
        name: the class of worker, or ``default`` for those of which no class has a model.
        version: grows with each `vigil models use` and `rollback`; a worker that refused a model tries it again then.
        model: what they are to use.
        canary: the worker that tries it first, while all others use `previous`; empty when all are to use it.
        previous: what they used before, and go back to; None where nobody had said.
    """

    name: Short
    version: Count
    at: Moment
    model: ModelFile
    canary: Short = ""
    previous: ModelFile | None = None
