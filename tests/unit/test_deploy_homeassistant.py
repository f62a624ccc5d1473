"""The example dashboard, automations and blueprint: YAML that Home Assistant reads, about entities that appear."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from bridge.homeassistant import camera_device, node_device
from bridge.homeassistant.facts import CameraFacts, NodeFacts

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "homeassistant"
FILES = sorted(FOLDER.rglob("*.yaml"))
PAGE = ROOT / "docs" / "homeassistant.md"
ENTITY_ID = re.compile(r"\b(?:camera|image|binary_sensor|sensor|event|select|switch|button|update)\.vigil_[a-z0-9_]+")


class Loader(yaml.SafeLoader):
    """YAML with the tag that a blueprint has."""


class Input(str):
    """The name of an input."""

    __slots__ = ()


def _input(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> Input:
    return Input(loader.construct_scalar(node))


Loader.add_constructor("!input", _input)


def read(path: Path) -> Any:  # noqa: ANN401
    return yaml.load(path.read_text(), Loader)


def entity_ids() -> set[str]:
    """What appears of the camera and the node that the examples are about."""
    yard = CameraFacts(node="porch", labels=("person",), zones=("drive",), has_check=True)
    porch = NodeFacts(roles=("edge",), has_temperature=True)
    devices = (camera_device("home", "yard", yard), node_device("home", "porch", porch))
    return {device.entity_id(entity) for device in devices for entity in device.entities.values()}


def inputs(content: object) -> set[str]:
    if isinstance(content, Input):
        return {str(content)}
    inner = content.values() if isinstance(content, dict) else content if isinstance(content, list) else ()
    return {name for part in inner for name in inputs(part)}


@pytest.mark.parametrize("path", [*FILES, PAGE], ids=lambda path: path.name)
def test_every_entity_is_one_that_appears(path: Path) -> None:
    named = {entity_id for entity_id in ENTITY_ID.findall(path.read_text()) if not entity_id.endswith("_yard_2")}
    assert named
    assert named <= entity_ids()


def test_the_page_names_every_entity_of_a_camera() -> None:
    text = PAGE.read_text()
    assert [one for one in entity_ids() if "_yard" in one and one.split("_yard")[1] not in text] == []


def test_the_dashboard_shows_every_kind_of_thing() -> None:
    dashboard = read(FOLDER / "dashboard.yaml")
    assert all(card["type"] for view in dashboard["views"] for card in view["cards"])
    shown = {entity_id.partition(".")[0] for entity_id in ENTITY_ID.findall((FOLDER / "dashboard.yaml").read_text())}
    assert shown == {entity_id.partition(".")[0] for entity_id in entity_ids()}


def test_automations_leave_out_what_comes_back() -> None:
    notify, light = read(FOLDER / "automations.yaml")
    blueprint = read(FOLDER / "blueprints" / "escalation.yaml")
    for automation in (notify, blueprint):
        conditions = " ".join(condition["value_template"] for condition in automation["condition"])
        assert "from_state.state != 'unavailable'" in conditions
    assert light["trigger"][0]["from"] == "off"
    assert len({automation["id"] for automation in (notify, light)}) == 2


def test_the_blueprint_uses_each_of_its_inputs() -> None:
    blueprint = read(FOLDER / "blueprints" / "escalation.yaml")
    head = blueprint.pop("blueprint")
    assert head["domain"] == "automation"
    assert inputs(blueprint) == set(head["input"])
    assert set(head["input"]["severities"]["default"]) < set(
        head["input"]["severities"]["selector"]["select"]["options"]
    )
