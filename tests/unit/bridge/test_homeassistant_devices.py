"""What Home Assistant is told of a camera and a node: legal, unambiguous, and about topics that there are."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.homeassistant import Device, camera_device, node_device
from bridge.homeassistant.facts import CameraFacts, NodeFacts
from bridge.homeassistant.names import is_of_site, joined, slug, split
from broker.topics import (
    CAMERA_ESCALATION,
    CAMERA_FRAME,
    CAMERA_SET,
    CAMERA_STATE,
    HOMEASSISTANT_DEVICE,
    HOMEASSISTANT_ENTITY,
    NODE_HEALTH,
    NODE_STATUS,
    TopicSpec,
    parse_topic,
)

ORIGIN = {"name": "Vigil", "sw_version": "1"}
YARD = camera_device(
    "home", "yard", CameraFacts(node="porch", worker="gpu.detector", labels=("person",), zones=("bed",), has_check=True)
)
PORCH = node_device(
    "home",
    "porch",
    NodeFacts(roles=("edge", "detector.2", "bridge"), version="1", has_temperature=True, has_wifi=True),
)
NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,8}", fullmatch=True)
ENTITY_ID = re.compile(r"^(?!.+__)(?!_)[\da-z_]+(?<!_)\.(?!_)[\da-z_]+(?<!_)$")
"""As Home Assistant checks it."""
TOPICS = ("state_topic", "command_topic", "topic", "image_topic")


def configs(device: Device) -> dict[str, dict[str, Any]]:
    """The configuration of each entity, as it is sent, by its key."""
    found: dict[str, dict[str, Any]] = json.loads(device.payload(ORIGIN))["components"]
    return found


def topics_of(config: dict[str, Any]) -> Iterator[str]:
    for name in TOPICS:
        if name in config:
            yield config[name]
    for available in config.get("availability", []):
        yield available["topic"]


def spec_of(topic: str) -> TopicSpec:
    return parse_topic(topic.replace("+", "porch.edge")).spec


@pytest.mark.parametrize("device", [YARD, PORCH], ids=["camera", "node"])
def test_every_entity_is_complete_in_both_forms(device: Device) -> None:
    for key, config in configs(device).items():
        alone = json.loads(device.entity_payload(ORIGIN, key))
        assert {**alone, "platform": config["platform"]} == {**config, "device": alone["device"], "origin": ORIGIN}
        assert alone["device"]["identifiers"] == [device.id]
        assert config["unique_id"] == f"{device.id}_{key}"
        domain, _, object_id = config["default_entity_id"].partition(".")
        assert (domain, object_id) == (config["platform"], config["object_id"])
        assert ENTITY_ID.match(config["default_entity_id"])
        topic = HOMEASSISTANT_ENTITY.at("home", prefix="homeassistant", component=domain, id=device.id, key=key)
        assert parse_topic(str(topic)).params == topic.params


@pytest.mark.parametrize("device", [YARD, PORCH], ids=["camera", "node"])
def test_every_topic_is_one_of_the_contract(device: Device) -> None:
    for config in configs(device).values():
        for topic in topics_of(config):
            assert not spec_of(topic).is_outside
            assert parse_topic(topic.replace("+", "porch.edge")).site == "home"


def test_the_device_says_what_it_is() -> None:
    about = json.loads(PORCH.payload(ORIGIN))["device"]
    assert about == {
        "identifiers": ["vigil_home_node_porch"],
        "name": "Node porch",
        "manufacturer": "Vigil",
        "model": "Node",
        "sw_version": "1",
    }
    seen = camera_device("home", "yard", CameraFacts(node="porch"), version="2", url="http://10.0.0.2:8126")
    told = json.loads(seen.payload(ORIGIN))
    assert (told["device"]["configuration_url"], told["device"]["sw_version"]) == ("http://10.0.0.2:8126", "2")
    assert told["origin"] == ORIGIN


def test_commands_are_never_retained_and_states_are_or_expire() -> None:
    for config in (*configs(YARD).values(), *configs(PORCH).values()):
        if "command_topic" in config:
            assert spec_of(config["command_topic"]) is CAMERA_SET
            assert (config["retain"], config["qos"]) == (False, CAMERA_SET.qos)
        if "state_topic" in config and spec_of(config["state_topic"]) is not CAMERA_ESCALATION:
            assert spec_of(config["state_topic"]).retain or config["expire_after"] == 30
        assert ("expire_after" in config) == ("state_topic" in config and spec_of(config["state_topic"]) is NODE_HEALTH)


def test_what_is_live_needs_the_camera_and_its_node_and_what_commands_it_only_the_node() -> None:
    def needed(key: str) -> list[tuple[TopicSpec, str]]:
        config = configs(YARD)[key]
        assert config["availability_mode"] == "all"
        return [(spec_of(one["topic"]), one["topic"].split("/")[4]) for one in config["availability"]]

    node, camera = (NODE_STATUS, "porch"), (CAMERA_STATE, "yard")
    assert needed("camera") == needed("motion") == [node, camera]
    assert needed("mode") == needed("privacy") == needed("drill") == needed("error") == [node]
    assert needed("occupancy_person") == needed("count_person_bed") == [node, camera, (NODE_STATUS, "gpu")]
    for key in ("camera", "take_snapshot"):
        assert "not value_json.privacy" in configs(YARD)[key]["availability"][1]["value_template"]
    assert "and value_json.detection" in configs(YARD)["count_person"]["availability"][1]["value_template"]
    assert not {"availability"} & (configs(YARD)["escalation"].keys() | configs(YARD)["evidence"].keys())


def test_an_escalation_has_a_closed_list_of_types_and_never_its_picture() -> None:
    event = configs(YARD)["escalation"]
    assert event["event_types"] == ["info", "warning", "critical"]
    assert "evidence" not in event["value_template"]
    assert event["state_topic"] == CAMERA_ESCALATION.topic_filter("home", camera="yard")
    assert configs(YARD)["camera"]["topic"] == str(CAMERA_FRAME.at("home", camera="yard"))


def test_each_label_is_counted_in_the_picture_and_in_each_zone() -> None:
    facts = CameraFacts(node="porch", labels=("person", "car"), zones=("bed", "gate"))
    keys = [key for key in camera_device("home", "yard", facts).entities if key.startswith(("count", "occupancy"))]
    assert len(keys) == len(set(keys)) == 2 * 2 * 3
    assert {"count_car", "occupancy_person_gate"} <= set(keys)


def test_a_machine_that_tells_no_temperature_has_none() -> None:
    assert {"temperature", "wifi"} <= PORCH.entities.keys()
    bare = node_device("home", "porch", NodeFacts(roles=("bridge",)))
    assert not {"temperature", "wifi", "queue_bridge"} & bare.entities.keys()
    assert node_device("home", "porch", NodeFacts()).entities == {}


@settings(max_examples=30)
@given(st.lists(st.tuples(NAMES, NAMES, st.booleans()), unique=True, min_size=2, max_size=6), NAMES)
def test_no_two_things_have_one_id_and_each_says_whose_it_is(things: list[tuple[str, str, bool]], zone: str) -> None:
    camera, node = CameraFacts(node="n", labels=("person", "a_b"), zones=(zone,)), NodeFacts(roles=("edge", "edge.2"))
    ids: list[str] = []
    for site, name, is_camera in things:
        device = camera_device(site, name, camera) if is_camera else node_device(site, name, node)
        assert is_of_site(device.id, site)
        assert [other for other, _, _ in things if is_of_site(device.id, other) and other != site] == []
        HOMEASSISTANT_DEVICE.at(site, prefix="homeassistant", id=device.id)
        ids += [config["unique_id"] for config in configs(device).values()]
    assert len(ids) == len(set(ids))


@given(st.lists(NAMES, min_size=1, max_size=5))
def test_what_is_joined_is_split_again(names: list[str]) -> None:
    assert split(joined(*names)) == names


@pytest.mark.parametrize(
    ("device_id", "is_ours"),
    [
        ("vigil_home_camera_yard", True),
        ("vigil_home_node_a__b", True),
        ("vigil_home2_camera_yard", False),
        ("vigil_home_lamp_yard", False),
        ("zigbee2mqtt_bridge", False),
        ("vigil_home_camera", False),
    ],
)
def test_other_peoples_devices_are_left_alone(device_id: str, is_ours: bool) -> None:  # noqa: FBT001
    assert is_of_site(device_id, "home") is is_ours


def test_an_id_that_people_see_has_only_what_home_assistant_takes() -> None:
    assert slug("vigil", "Yard--2_", "Ünder the bed") == "vigil_yard_2_nder_the_bed"
