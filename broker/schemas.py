"""JSON Schema of every JSON message of the bus, from the structs themselves.

Published in ``docs/schemas/`` by ``vigil topics --write docs``; what goes into Kafka names its schema by
:func:`schema_uri`, and a schema registry gets the same text.

Source: JSON Schema, draft 2020-12.
"""

from __future__ import annotations

import inspect
import json
from functools import cache
from typing import Any

import msgspec

from broker.messages import FrameMeta, Message
from broker.topics import CONTRACT

__all__ = ["message_kinds", "schema_of", "schema_text", "schema_uri"]

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_DEFINITIONS = "#/$defs/"


def message_kinds() -> tuple[type[Message], ...]:
    """The struct of each message; FrameMeta rides in a JPEG."""
    payloads = (spec.payload for spec in CONTRACT if spec.payload is not None)
    kinds: dict[type[Message], None] = dict.fromkeys((FrameMeta, *payloads))
    return tuple(kinds)


@cache
def schema_uri(kind: type[Message]) -> str:
    """The schema's name, which stays as long as `v` does: an address would tie it to a server."""
    (version,) = msgspec.json.schema(kind)["$defs"][kind.__name__]["properties"]["v"]["enum"]
    return f"urn:vigil:schema:{kind.__name__}:{version}"


def schema_of(kind: type[Message]) -> dict[str, Any]:
    """One schema, complete in itself."""
    definitions = msgspec.json.schema(kind)["$defs"]
    own = definitions.pop(kind.__name__)
    document = {"$schema": _DIALECT, "$id": schema_uri(kind), **_described(own)}
    if definitions:
        document["$defs"] = {name: _described(definition) for name, definition in sorted(definitions.items())}
    return document


def schema_text(kind: type[Message]) -> str:
    """The same as text, as it is published and registered."""
    return json.dumps(schema_of(kind), indent=2, ensure_ascii=False) + "\n"


def _described(definition: dict[str, Any]) -> dict[str, Any]:
    """With the docstring's attributes as descriptions of the properties."""
    about, _, rest = inspect.cleandoc(definition.get("description", "")).partition("\n\nAttributes:\n")
    attributes = _attributes(rest)
    properties = {
        name: {**kind, "description": attributes[name]} if name in attributes else kind
        for name, kind in definition.get("properties", {}).items()
    }
    return {**definition, "description": " ".join(about.split()), "properties": properties}


def _attributes(text: str) -> dict[str, str]:
    """What a docstring (Google form) says of each attribute."""
    about: dict[str, list[str]] = {}
    indent = len(text) - len(text.lstrip(" "))
    name = ""
    for line in text.splitlines():
        begins = line[indent : indent + 1].strip() != ""
        name, words = line.strip().split(": ", 1) if begins else (name, line.strip())
        about.setdefault(name, []).append(words)
    return {name: " ".join(filter(None, lines)).replace("``", "`") for name, lines in about.items()}
