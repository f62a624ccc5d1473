"""Devices and entities, and what Home Assistant is told of them in either form of discovery. Pure.

Source: Home Assistant, "MQTT", section "MQTT discovery"; `docs/homeassistant.md` says which versions take which form.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bridge.homeassistant.names import slug

__all__ = ["MIGRATE", "Device", "Entity"]

MIGRATE = b'{"migrate_discovery":true}'
"""What an old topic says before the entity comes under a new one, so that it keeps its id, its name and its history."""


@dataclass(frozen=True, slots=True)
class Entity:
    """One entity of a device.

    Attributes:
        key: what distinguishes it within its device; never changes.
        component: kind of entity, such as ``binary_sensor``.
        name: what it is called beside the device's name; None where it is what the device is.
        config: the rest, as Home Assistant's documentation of the component names it.
    """

    key: str
    component: str
    name: str | None
    config: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Device:
    """A device and its entities.

    Attributes:
        id: never changes.
        name: what it is called.
        model: what kind of thing it is.
        short: begins the ids of its entities.
        entities: by key.
        version: of Vigil there; empty where nobody says.
        url: where it is looked at; empty where nobody says.
        area: the one that Home Assistant proposes for it; empty where nobody says.
    """

    id: str
    name: str
    model: str
    short: str
    entities: Mapping[str, Entity] = field(hash=False)
    version: str = ""
    url: str = ""
    area: str = ""

    def entity_id(self, entity: Entity) -> str:
        """The id that people see, where it is still free."""
        return f"{entity.component}.{slug('vigil', self.short, entity.name or '')}"

    def components(self) -> dict[str, str]:
        """The component of each entity, by its key."""
        return {key: entity.component for key, entity in self.entities.items()}

    def payload(self, origin: Mapping[str, str], removed: Mapping[str, str] | None = None) -> bytes:
        """The whole device, for Home Assistant 2024.11 and newer.

        Args:
            origin: who tells it.
            removed: components by key that it has no more.
        """
        components: dict[str, dict[str, Any]] = {
            key: {"platform": entity.component, **self._config(entity)} for key, entity in self.entities.items()
        }
        components |= {key: {"platform": component} for key, component in (removed or {}).items()}
        return _json({"device": self._about(), "origin": dict(origin), "components": components})

    def entity_payload(self, origin: Mapping[str, str], key: str) -> bytes:
        """One entity, for older versions and openHAB."""
        return _json({**self._config(self.entities[key]), "device": self._about(), "origin": dict(origin)})

    def _about(self) -> dict[str, Any]:
        about = {"identifiers": [self.id], "name": self.name, "manufacturer": "Vigil", "model": self.model}
        if self.version:
            about["sw_version"] = self.version
        if self.url:
            about["configuration_url"] = self.url
        if self.area:
            about["suggested_area"] = self.area
        return about

    def _config(self, entity: Entity) -> dict[str, Any]:
        # Versions before 2025.10 know only the one, those from 2026.4 on only the other.
        entity_id = self.entity_id(entity)
        return {
            "unique_id": f"{self.id}_{entity.key}",
            "name": entity.name,
            "object_id": entity_id.partition(".")[2],
            "default_entity_id": entity_id,
            **_guarded(entity.config),
        }


def _guarded(config: Mapping[str, Any]) -> dict[str, Any]:
    """The same, with templates that take what was taken back: nothing, in which Home Assistant finds no JSON."""
    guarded = dict(config)
    if "value_template" in config:
        guarded["value_template"] = _unless_empty(config["value_template"], "None")
    if "json_attributes_template" in config:
        guarded["json_attributes_template"] = _unless_empty(config["json_attributes_template"], "{}")
    if "availability" in config:
        guarded["availability"] = [
            {**source, "value_template": _unless_empty(source["value_template"], "offline")}
            for source in config["availability"]
        ]
    return guarded


def _unless_empty(template: str, otherwise: str) -> str:
    return f"{{% if value_json is defined %}}{template}{{% else %}}{otherwise}{{% endif %}}"


def _json(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()
