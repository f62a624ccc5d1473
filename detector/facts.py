"""What a model file says of itself: the words that exporters write beside the network."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["ModelFacts", "parse_facts", "read_facts"]

_LENGTH_MAX = 1_000_000
"""Characters that are looked at: 10,000 labels of 100 characters."""
_LABEL_MAX = 256
_LABELS_MAX = 100_000


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What a model file says of itself.

    Attributes:
        labels: what its class numbers mean; empty when it does not say.
        task: what it was trained for, such as ``detect``, ``classify`` or ``segment``; empty when it does not say.
        transformer: it calls itself an RT-DETR.
    """

    labels: tuple[str, ...] = ()
    task: str = ""
    transformer: bool = False


def read_facts(said: Mapping[str, Any]) -> ModelFacts:
    """Read the words of a file.

    What is not understood is left out: people edit them, and a model is of use without.

    Args:
        said: ONNX `metadata_props`, where every value is text, or the like in a TFLite file.

    Source: Ultralytics, engine/exporter.py, and YOLOv5, export.py: `names`, `task`, `description`, written by `str`.
    """
    task = said.get("task", "")
    described = f"{said.get('description', '')} {said.get('model_family', '')}".lower()
    return ModelFacts(
        labels=_labels(_literal(said.get("names"))),
        task=task if isinstance(task, str) else "",
        transformer="rtdetr" in described or "rt-detr" in described,
    )


def parse_facts(text: str) -> ModelFacts:
    """The same from one text, JSON or a Python dictionary."""
    said = _literal(text)
    return read_facts({str(key): value for key, value in said.items()}) if isinstance(said, dict) else ModelFacts()


def _literal(value: object) -> object:
    if not isinstance(value, str):
        return value
    text = value[:_LENGTH_MAX]
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
    return None


def _labels(names: object) -> tuple[str, ...]:
    """Labels in order, from a list, or from a mapping of numbers to names."""
    if isinstance(names, dict):
        try:
            numbered = {int(number): name for number, name in names.items()}
        except (TypeError, ValueError):
            return ()
        if not numbered or min(numbered) < 0 or max(numbered) >= _LABELS_MAX:
            return ()
        names = [numbered.get(number, f"class {number}") for number in range(max(numbered) + 1)]
    if not isinstance(names, list | tuple):
        return ()
    return tuple(str(name).strip()[:_LABEL_MAX] or f"class {number}" for number, name in enumerate(names))
