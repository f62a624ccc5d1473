"""Models that are known by name: where they are, what exactly they are, and what one may do with them."""

from __future__ import annotations

from broker.messages import ModelFile

__all__ = ["CATALOGUE", "known_model"]

_YOLOX = "https://github.com/Megvii-BaseDetection/YOLOX/releases/download/0.1.1rc0"

CATALOGUE = (
    ModelFile(
        name="yolox_nano",
        sha256="c789161ed43c8269fcd4e67c67eeeb4e80c622da2eb296a20bc6007bd18a0b7d",
        size_bytes=3_659_407,
        url=f"{_YOLOX}/yolox_nano.onnx",
        licence="Apache-2.0",
    ),
    ModelFile(
        name="yolox_tiny",
        sha256="427cc366d34e27ff7a03e2899b5e3671425c262ea2291f88bb942bc1cc70b0f7",
        size_bytes=20_219_662,
        url=f"{_YOLOX}/yolox_tiny.onnx",
        licence="Apache-2.0",
    ),
    ModelFile(
        name="yolox_s",
        sha256="c5c2d13e59ae883e6af3b45daea64af4833a4951c92d116ec270d9ddbe998063",
        size_bytes=35_858_002,
        url=f"{_YOLOX}/yolox_s.onnx",
        licence="Apache-2.0",
    ),
)
"""YOLOX by Megvii, trained on COCO: its official release 0.1.1rc0, the smallest first. Sizes and hashes as several
projects have published them independently for these very addresses; the licence is that of the repository."""


def known_model(name: str) -> ModelFile | None:
    """The model of this name; None where the catalogue has none."""
    return next((model for model in CATALOGUE if model.name == name), None)
