"""A node as a device of Home Assistant: each of its processes, and the machine. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bridge.homeassistant.entity import Device, Entity
from bridge.homeassistant.facts import NodeFacts
from bridge.homeassistant.names import joined
from broker.topics import NODE_HEALTH, NODE_STATUS

__all__ = ["ROLES", "node_device", "node_device_id"]

ROLES = ("edge", "detector", "bridge", "commands", "homeassistant", "fleet", "broker", "console", "agent")
"""Processes that are there to stay; the first one of a node speaks for the machine."""
_WITH_OUTBOX = ("edge", "detector")
_EXPIRES_S = 30
"""Six reports: nothing that was measured outlives the process that measured it."""
_DIAGNOSTIC = {"entity_category": "diagnostic"}
_MEASURED = {"state_class": "measurement", "expire_after": _EXPIRES_S, "qos": 0, **_DIAGNOSTIC}
_MIB = 1024 * 1024


def node_device_id(site: str, node: str) -> str:
    """The device's id."""
    return joined("vigil", site, "node", node)


def node_device(site: str, node: str, facts: NodeFacts) -> Device:
    """A node's device, with all its entities."""
    entities = [entity for role in facts.roles for entity in _process(site, node, role)]
    if facts.roles:
        entities += _machine(str(NODE_HEALTH.at(site, node=node, role=facts.roles[0])), facts)
    return Device(
        id=node_device_id(site, node),
        name=facts.name or f"Node {node}",
        model="Node",
        short=f"node {node}",
        entities={entity.key: entity for entity in entities},
        version=facts.version,
        area=facts.area,
    )


def _process(site: str, node: str, role: str) -> Iterator[Entity]:
    """One process: whether it is there, and what it takes."""
    status = {"state_topic": str(NODE_STATUS.at(site, node=node, role=role)), "qos": 1, **_DIAGNOSTIC}
    health: dict[str, Any] = {"state_topic": str(NODE_HEALTH.at(site, node=node, role=role)), **_MEASURED}
    title = role.replace(".", " ").capitalize()
    key = role.replace(".", "-")
    there = {"value_template": "{{ 'OFF' if value_json.state == 'offline' else 'ON' }}", "device_class": "connectivity"}
    yield Entity(joined("status", key), "binary_sensor", f"{title} status", {**status, **there})
    started = {"value_template": "{{ value_json.started_at }}", "device_class": "timestamp"}
    yield Entity(joined("started", key), "sensor", f"{title} started", {**status, **started})
    load = {"value_template": "{{ value_json.cpu_percent | round(1) }}", "unit_of_measurement": "%"}
    yield Entity(joined("load", key), "sensor", f"{title} load", {**health, **load, "icon": "mdi:cpu-64-bit"})
    memory = _bytes("memory_bytes", _MIB, "MiB")
    yield Entity(joined("memory", key), "sensor", f"{title} memory", {**health, **memory, "icon": "mdi:memory"})
    if role.partition(".")[0] in _WITH_OUTBOX:
        waiting = {"value_template": "{{ value_json.queues.outbox | default(0) }}", "icon": "mdi:tray-full"}
        yield Entity(joined("queue", key), "sensor", f"{title} queue", {**health, **waiting})


def _machine(health_topic: str, facts: NodeFacts) -> Iterator[Entity]:
    """What every process of the machine says alike."""
    health: dict[str, Any] = {"state_topic": health_topic, **_MEASURED}
    yield Entity("disk", "sensor", "Disk free", {**health, **_bytes("disk_free_bytes", 1_000_000_000, "GB")})
    if facts.has_temperature:
        warm = {"device_class": "temperature", "unit_of_measurement": "°C"}
        yield Entity("temperature", "sensor", "Temperature", {**health, **warm, **_or_none("temperature_c")})
    if facts.has_wifi:
        heard = {"device_class": "signal_strength", "unit_of_measurement": "dBm"}
        yield Entity("wifi", "sensor", "Wireless signal", {**health, **heard, **_or_none("wifi_dbm")})


def _bytes(name: str, unit: int, unit_name: str) -> dict[str, Any]:
    template = f"{{{{ (value_json.{name} / {unit}) | round(1) }}}}"
    return {"value_template": template, "device_class": "data_size", "unit_of_measurement": unit_name}


def _or_none(name: str) -> dict[str, str]:
    # Home Assistant reads the word as "not known now".
    return {"value_template": f"{{{{ 'None' if value_json.{name} is none else value_json.{name} | round(1) }}}}"}
