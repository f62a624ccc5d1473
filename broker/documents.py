"""Documents that are derived from the contract: the topics page, the AsyncAPI description, a schema of each message.

``vigil topics --write docs`` writes them, ``vigil topics --check docs`` fails when they are stale.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import yaml

from broker.messages import FrameMeta
from broker.schemas import message_kinds, schema_text
from broker.topics import CONTRACT, OUTSIDE, ROOT, DeliveryClass, PayloadKind, TopicSpec

__all__ = ["SCHEMAS", "asyncapi_document", "stale_documents", "topics_page", "write_documents"]

SCHEMAS = "schemas"
"""The folder of the schemas, below that of the documents."""
_PROMISE = {
    DeliveryClass.FRAME: "latest wins; bounded by bytes in flight, older ones dropped and counted",
    DeliveryClass.STATE: "the broker keeps the latest; published again after every reconnect",
    DeliveryClass.EVENT: "in the sender's outbox on disk until the bridge's receipt; where none comes, for "
    "`bus.outbox.event_hold_s` once the broker has it",
    DeliveryClass.DURABLE: "in the sender's outbox on disk until the bridge's receipt; sent again with the same id",
    DeliveryClass.COMMAND: "QoS 2, deduplicated by correlation id, always answered",
    DeliveryClass.REPLY: "QoS 1, not stored: who asked asks again",
}


def topics_page() -> str:
    """``docs/topics.md``."""
    lines = [
        "# Topics",
        "",
        "Generated from `broker/topics.py` by `vigil topics --write docs`; do not edit.",
        "",
        f"Every topic stands below `{ROOT}/{{site}}`. Times are RFC 3339 in UTC, boxes `[x1, y1, x2, y2]` as fractions",
        "of the picture. Every JSON payload carries `v`, the schema version, now 1.",
        "",
        *_table(CONTRACT),
        "",
        "## Topics of other systems",
        "",
        "They stand below a prefix that is configured there: `homeassistant.prefix`.",
        "",
        *_table(OUTSIDE),
    ]
    lines += ["", "## What each class promises", ""]
    lines += [f"- **{name}**: {promise}." for name, promise in _PROMISE.items()]
    lines += ["", "## Payloads", ""]
    for name, schema in sorted(_schemas().items()):
        lines += _payload_section(name, schema)
    return "\n".join(lines).rstrip() + "\n"


def _table(specs: Iterable[TopicSpec]) -> list[str]:
    return [
        "| topic | payload | QoS | retain | class | from | to | what |",
        "|---|---|---|---|---|---|---|---|",
        *(
            f"| `{spec.pattern}` | {_payload_name(spec)} | {spec.qos} | {'yes' if spec.retain else 'no'} "
            f"| {spec.delivery} | {', '.join(spec.writers)} | {', '.join(spec.readers)} | {spec.about} |"
            for spec in specs
        ),
    ]


def _payload_section(name: str, schema: dict[str, Any]) -> list[str]:
    about = str(schema.get("description", "")).split("\n", 1)[0]
    lines = [f"### {name}", "", about, "", "| field | type | needed |", "|---|---|---|"]
    needed = schema.get("required", [])
    lines += [
        f"| `{field}` | {_type_name(kind)} | {'yes' if field in needed else 'no'} |"
        for field, kind in schema.get("properties", {}).items()
    ]
    return [*lines, ""]


def _payload_name(spec: TopicSpec) -> str:
    if spec.kind is PayloadKind.JPEG:
        return "JPEG with [FrameMeta](#framemeta)"
    if spec.kind is PayloadKind.TEXT:
        return " / ".join(f"`{word}`" for word in spec.words)
    if spec.payload is None:
        return "JSON of that system"
    return f"[{spec.payload.__name__}](#{spec.payload.__name__.lower()})"


def _type_name(kind: dict[str, Any]) -> str:
    if "$ref" in kind:
        name = str(kind["$ref"]).rsplit("/", 1)[-1]
        return f"[{name}](#{name.lower()})"
    if "enum" in kind:
        return ", ".join(f"`{value}`" for value in kind["enum"])
    if "anyOf" in kind:
        return " or ".join(_type_name(option) for option in kind["anyOf"])
    if kind.get("type") == "array":
        items = kind.get("items")
        inner = _type_name(items) if isinstance(items, dict) else "number"
        return f"list of {inner}"
    if "contentEncoding" in kind:
        return f"string ({kind['contentEncoding']})"
    return " ".join(str(kind[key]) for key in ("type", "format") if key in kind)


def _schemas() -> dict[str, dict[str, Any]]:
    kinds: list[type] = [FrameMeta]
    kinds += [spec.payload for spec in CONTRACT if spec.payload is not None]
    _, components = msgspec.json.schema_components(
        list(dict.fromkeys(kinds)), ref_template="#/components/schemas/{name}"
    )
    return components


def asyncapi_document() -> str:
    """``docs/asyncapi.yaml``, AsyncAPI 3.0 with MQTT bindings 0.2.0."""
    document = {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Vigil",
            "version": "1.0.0",
            "description": "The topics of a Vigil mesh. Generated from broker/topics.py; do not edit.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": str(PayloadKind.JSON),
        "channels": {spec.name: _channel(spec) for spec in CONTRACT + OUTSIDE},
        "operations": {f"publish_{spec.name}": _operation(spec) for spec in CONTRACT + OUTSIDE},
        "components": {"schemas": _schemas()},
    }
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=110)


def _channel(spec: TopicSpec) -> dict[str, Any]:
    names = spec.placeholders if spec.is_outside else ("site", *spec.placeholders)
    return {
        "address": spec.pattern if spec.is_outside else f"{ROOT}/{{site}}/{spec.pattern}",
        "title": spec.name,
        "description": spec.about,
        "parameters": {name: {"description": f"The {name}."} for name in names},
        "messages": {"message": _message(spec)},
    }


def _message(spec: TopicSpec) -> dict[str, Any]:
    message: dict[str, Any] = {"name": spec.name, "contentType": str(spec.kind)}
    if spec.payload is not None:
        message["payload"] = {"$ref": f"#/components/schemas/{spec.payload.__name__}"}
    elif spec.kind is PayloadKind.TEXT:
        message["payload"] = {"type": "string", "enum": list(spec.words)}
    elif spec.kind is PayloadKind.JSON:
        message["payload"] = {"type": "object"}
    else:
        message["payload"] = {"type": "string", "format": "binary", "maxLength": spec.max_bytes}
        message["x-jpeg-comment"] = {"$ref": "#/components/schemas/FrameMeta"}
    return message


def _operation(spec: TopicSpec) -> dict[str, Any]:
    return {
        "action": "send",
        "channel": {"$ref": f"#/channels/{spec.name}"},
        "description": f"From {', '.join(spec.writers)} to {', '.join(spec.readers)}. "
        f"Class {spec.delivery}: {_PROMISE[spec.delivery]}.",
        "bindings": {"mqtt": {"qos": spec.qos, "retain": spec.retain, "bindingVersion": "0.2.0"}},
    }


def _documents() -> dict[str, str]:
    texts = {f"{SCHEMAS}/{kind.__name__}.json": schema_text(kind) for kind in message_kinds()}
    return {"topics.md": topics_page(), "asyncapi.yaml": asyncapi_document(), **texts}


def write_documents(folder: Path) -> list[Path]:
    """Write the documents; returns where."""
    paths = []
    for name, text in _documents().items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        paths.append(path)
    for path in _left_over(folder):
        path.unlink()
    return paths


def _left_over(folder: Path) -> list[Path]:
    """Schemas of messages that are no more."""
    return sorted({*(folder / SCHEMAS).glob("*.json")} - {folder / name for name in _documents()})


def stale_documents(folder: Path) -> list[Path]:
    """The documents in `folder` that do not say what the contract says."""
    stale = [
        folder / name
        for name, text in _documents().items()
        if not (folder / name).is_file() or (folder / name).read_text(encoding="utf-8") != text
    ]
    return stale + _left_over(folder)
