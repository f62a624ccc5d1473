"""A camera as a device of Home Assistant. Pure.

Its entities read the topics of the contract by templates, so that they are right whether or not this process lives.
Pictures and movements are available while the camera is online and its node is there; controls while its node is, since
a camera that is switched off is to be switched on again. What has happened, the last escalation and its picture, stays.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

import msgspec

from bridge.homeassistant.entity import Device, Entity
from bridge.homeassistant.facts import CameraFacts
from bridge.homeassistant.names import joined
from broker import TopicSpec
from broker.messages import Escalation, Mode
from broker.topics import (
    CAMERA_CHECK,
    CAMERA_ESCALATION,
    CAMERA_EVIDENCE,
    CAMERA_FRAME,
    CAMERA_MODEL,
    CAMERA_MOTION_ACTIVE,
    CAMERA_SET,
    CAMERA_SNAPSHOT,
    CAMERA_STATE,
    CAMERA_TRACK_OPEN,
    NODE_STATUS,
)

__all__ = ["camera_device", "camera_device_id"]

Config = dict[str, Any]

_SEVERITIES = next(get_args(field.type) for field in msgspec.structs.fields(Escalation) if field.name == "severity")
"""A closed list: Home Assistant ignores an event of any other type. Rules, and kinds of them, come and go."""
_CONFIG = {"entity_category": "config"}
_DIAGNOSTIC = {"entity_category": "diagnostic"}
_LIVE = "value_json.state == 'online'"
_SHOWN = f"{_LIVE} and not value_json.privacy"
"""Home Assistant keeps the last picture: with privacy on it is not to be looked at any more."""
_COUNTED = f"{_SHOWN} and value_json.detection"
"""Objects that nobody looks for stay open for whoever looks next."""
_TOLD_MAX = 30
_ESCALATION = (
    "{% set told = this.attributes.get('told') or [] %}{% if value_json.id not in told %}"
    "{{ {'event_type': value_json.severity, 'id': value_json.id, 'rule': value_json.rule, 'kind': value_json.kind, "
    "'severity': value_json.severity, 'summary': value_json.summary, 'label': value_json.label, "
    "'score': value_json.score, 'zones': value_json.zones, 'raised_at': value_json.raised_at, "
    "'clip': value_json.clip, 'drill': value_json.drill, "
    f"'told': ([value_json.id] + told)[:{_TOLD_MAX}]}} | tojson }}}}{{% endif %}}"
)
"""Without its pictures: an attribute is kept for every change of state, and shown on every page. Each once: a message
is sent again until a bridge has it, so the last ones that were told are remembered where Home Assistant keeps them."""
_CHECK = (
    "{{ {'checked_at': value_json.at, 'captured_at': value_json.captured_at, 'reference_at': value_json.reference_at, "
    "'problems': value_json.findings | rejectattr('ok') | map(attribute='about') | list, "
    "'findings': value_json.findings} | tojson }}"
)
_MODEL = (
    "{{ {'installed_version': value_json.installed, 'latest_version': value_json.wanted, 'title': 'Model', "
    "'in_progress': value_json.changing, 'release_summary': value_json.error[:255]} | tojson }}"
)


def camera_device_id(site: str, camera: str) -> str:
    """The device's id."""
    return joined("vigil", site, "camera", camera)


def camera_device(site: str, camera: str, facts: CameraFacts, *, version: str = "", url: str = "") -> Device:
    """A camera's device, with all its entities."""
    entities = [*_pictures(site, camera, facts), *_happenings(site, camera, facts), *_controls(site, camera, facts)]
    return Device(
        id=camera_device_id(site, camera),
        name=facts.name or camera,
        model="Camera",
        short=camera,
        entities={entity.key: entity for entity in entities},
        version=version,
        url=url,
        area=facts.area,
    )


def _available(site: str, camera: str, facts: CameraFacts, *, needs: str = "", worker: bool = False) -> Config:
    """Available while the node is there, what is said of the camera `needs` this, and its worker is there."""
    found = [_process_available(site, f"{facts.node}.{facts.role}")]
    if needs:
        said = f"{{{{ 'online' if {needs} else 'offline' }}}}"
        found.append({"topic": str(CAMERA_STATE.at(site, camera=camera)), "value_template": said})
    if worker and facts.worker:
        found.append(_process_available(site, facts.worker))
    return {"availability": found, "availability_mode": "all"}


def _process_available(site: str, origin: str) -> Config:
    """Available while a process is there; its will says that it is not."""
    node, _, role = origin.partition(".")
    return {
        "topic": str(NODE_STATUS.at(site, node=node, role=role)),
        "value_template": "{{ 'offline' if value_json.state == 'offline' else 'online' }}",
    }


def _pictures(site: str, camera: str, facts: CameraFacts) -> Iterator[Entity]:
    def at(spec: TopicSpec) -> str:
        return str(spec.at(site, camera=camera))

    shown = _available(site, camera, facts, needs=_SHOWN)
    jpeg = {"content_type": "image/jpeg", "qos": 1}
    yield Entity("camera", "camera", None, {"topic": at(CAMERA_FRAME), "qos": 0, **shown})
    yield Entity("evidence", "image", "Last escalation", {"image_topic": at(CAMERA_EVIDENCE), **jpeg})
    yield Entity("snapshot", "image", "Snapshot", {"image_topic": at(CAMERA_SNAPSHOT), **jpeg})


def _happenings(site: str, camera: str, facts: CameraFacts) -> Iterator[Entity]:
    live = _available(site, camera, facts, needs=_LIVE)
    moving = {
        "state_topic": str(CAMERA_MOTION_ACTIVE.at(site, camera=camera)),
        "payload_on": "ON",
        "payload_off": "OFF",
    }
    yield Entity("motion", "binary_sensor", "Motion", {**moving, "device_class": "motion", "qos": 1, **live})
    for label in facts.labels:
        for zone in ("", *facts.zones):
            yield from _counted(site, camera, facts, label, zone)
    raised = {
        "state_topic": CAMERA_ESCALATION.topic_filter(site, camera=camera),
        "event_types": list(_SEVERITIES),
        "value_template": _ESCALATION,
        "qos": 1,
        "icon": "mdi:shield-alert",
    }
    yield Entity("escalation", "event", "Escalation", raised)
    if facts.has_check:
        topic = str(CAMERA_CHECK.at(site, camera=camera))
        checked = {"state_topic": topic, "value_template": "{{ 'OFF' if value_json.ok else 'ON' }}", "qos": 1}
        found = {"json_attributes_topic": topic, "json_attributes_template": _CHECK}
        yield Entity(
            "check", "binary_sensor", "Camera check", {**checked, **found, "device_class": "problem", **_DIAGNOSTIC}
        )


def _counted(site: str, camera: str, facts: CameraFacts, label: str, zone: str) -> Iterator[Entity]:
    """Whether there is something of a label, and how much, in the whole picture or in a zone."""
    where = f" and '{zone}' in track.zones" if zone else ""
    each = f"{{% for track in value_json.tracks if track.label == '{label}'{where} %}}x{{% endfor %}}"
    found = f"{{% set found %}}{each}{{% endset %}}"
    common = {
        "state_topic": str(CAMERA_TRACK_OPEN.at(site, camera=camera)),
        "qos": 1,
        **_available(site, camera, facts, needs=_COUNTED, worker=True),
    }
    names = (label, zone) if zone else (label,)
    title = f"{zone} {label}".strip().capitalize()
    occupied = {"value_template": f"{found}{{{{ 'ON' if found | length else 'OFF' }}}}", "device_class": "occupancy"}
    yield Entity(joined("occupancy", *names), "binary_sensor", f"{title} occupancy", {**common, **occupied})
    counted = {
        "value_template": f"{found}{{{{ found | length }}}}",
        "state_class": "measurement",
        "icon": "mdi:counter",
    }
    yield Entity(joined("count", *names), "sensor", f"{title} count", {**common, **counted})


def _controls(site: str, camera: str, facts: CameraFacts) -> Iterator[Entity]:
    shown = _available(site, camera, facts, needs=_SHOWN)
    there = _available(site, camera, facts)
    state = {"state_topic": str(CAMERA_STATE.at(site, camera=camera)), "qos": 1, **there}

    def commands(name: str) -> Config:
        return {"command_topic": str(CAMERA_SET.at(site, camera=camera, property=name)), "retain": False, "qos": 2}

    def presses(name: str, payload: str) -> Config:
        return {**commands(name), "payload_press": payload}

    mode = {**state, **commands("mode"), "options": list(get_args(Mode)), "value_template": "{{ value_json.mode }}"}
    yield Entity("mode", "select", "Mode", {**mode, "icon": "mdi:cctv"})
    for name, icon, is_on in (
        ("detection", "mdi:account-search", "value_json.detection"),
        ("recording", "mdi:record-rec", "value_json.recording != 'off'"),
        ("privacy", "mdi:eye-off", "value_json.privacy"),
    ):
        wanted = {**state, **commands(name), "value_template": f"{{{{ 'ON' if {is_on} else 'OFF' }}}}", "icon": icon}
        yield Entity(name, "switch", name.capitalize(), wanted)
    yield Entity(
        "take_snapshot", "button", "Take snapshot", {**presses("snapshot", "now"), "icon": "mdi:camera", **shown}
    )
    yield Entity("drill", "button", "Drill", {**presses("drill", "now"), "icon": "mdi:bullhorn", **there, **_CONFIG})
    schedule = {**presses("mode", "auto"), "icon": "mdi:calendar-clock", **there, **_CONFIG}
    yield Entity("schedule", "button", "Follow schedule", schedule)
    model = {"state_topic": str(CAMERA_MODEL.at(site, camera=camera)), "value_template": _MODEL, "qos": 1}
    yield Entity("model", "update", "Model", {**model, "device_class": "firmware", **there})
    yield from _diagnostics(state)


def _diagnostics(state: Config) -> Iterator[Entity]:
    online = {"value_template": "{{ 'ON' if value_json.state == 'online' else 'OFF' }}", "device_class": "connectivity"}
    yield Entity("online", "binary_sensor", "Connection", {**state, **online, **_DIAGNOSTIC})
    rate = {"value_template": "{{ value_json.fps }}", "unit_of_measurement": "fps", "state_class": "measurement"}
    yield Entity("fps", "sensor", "Frame rate", {**state, **rate, "icon": "mdi:speedometer", **_DIAGNOSTIC})
    error = {"value_template": "{{ (value_json.error or 'none')[:255] }}", "icon": "mdi:alert-circle-outline"}
    yield Entity("error", "sensor", "Error", {**state, **error, **_DIAGNOSTIC})
    node = {"value_template": "{{ value_json.node }}", "icon": "mdi:server"}
    yield Entity("node", "sensor", "Node", {**state, **node, **_DIAGNOSTIC})
