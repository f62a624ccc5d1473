"""The published schemas, as somebody uses them who has nothing else of Vigil."""

from __future__ import annotations

import json
from functools import cache

import jsonschema

from broker.messages import Message
from broker.schemas import schema_text

__all__ = ["faults_of"]


def faults_of(kind: type[Message], payload: bytes) -> list[str]:
    """What is wrong with a payload by the published schema of its message; nothing when it is valid."""
    return [f"{error.json_path}: {error.message[:200]}" for error in _validator(kind).iter_errors(json.loads(payload))]


@cache
def _validator(kind: type[Message]) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(json.loads(schema_text(kind)))
