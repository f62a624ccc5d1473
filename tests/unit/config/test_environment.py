from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.environment import fields_at, layered, read_environment
from config.errors import ConfigError
from config.settings import Settings
from config.sources import load_settings

NESTED = st.recursive(
    st.integers(), lambda inside: st.dictionaries(st.sampled_from("abc"), inside, max_size=3), max_leaves=8
)


@pytest.mark.parametrize(
    ("variable", "text", "expected"),
    [
        ("VIGIL_SITE", "farm", {"site": "farm"}),
        ("vigil_bus__url", "mqtt://h", {"bus": {"url": "mqtt://h"}}),
        ("VIGIL_BUS__OUTBOX__WINDOW", "9", {"bus": {"outbox": {"window": "9"}}}),
        ("VIGIL_CAMERAS__YARD__SOURCE", "file:a.mp4", {"cameras": {"yard": {"source": "file:a.mp4"}}}),
        ("VIGIL_CAMERAS__YARD", '{"source": "file:a"}', {"cameras": {"yard": {"source": "file:a"}}}),
        ("VIGIL_CAMERAS", '{"Yard": {}}', {"cameras": {"Yard": {}}}),
        ("VIGIL_BRIDGE__KAFKA", '{"bootstrap": "h:1"}', {"bridge": {"kafka": {"bootstrap": "h:1"}}}),
        ("VIGIL_BUS__PASSWORD", '{"a": 1}', {"bus": {"password": '{"a": 1}'}}),
        ("VIGIL_BUS__COLOUR", "red", {"bus": {"colour": "red"}}),
        ("VIGIL_TOKEN", "{", {}),
        ("VIGILANT_SITE", "x", {}),
        ("VIGIL_", "x", {}),
        ("PATH", "/bin", {}),
    ],
)
def test_a_variable_is_a_setting_or_somebody_elses(variable: str, text: str, expected: dict[str, Any]) -> None:
    assert read_environment(Settings, {variable: text}) == expected


def test_variables_of_one_section_come_together() -> None:
    read = read_environment(Settings, {"VIGIL_BUS": '{"url": "mqtt://h", "username": "u"}', "VIGIL_BUS__USERNAME": "v"})
    assert read == {"bus": {"url": "mqtt://h", "username": "v"}}


def test_what_is_no_json_is_told_without_its_value() -> None:
    with pytest.raises(ConfigError, match="VIGIL_BUS is not JSON: give each setting a variable of its own") as caught:
        read_environment(Settings, {"VIGIL_BUS": "hunter2"})
    assert "hunter2" not in f"{caught.value!r}{caught.value.__cause__}"


def test_a_list_of_a_camera_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIGIL_CAMERAS__YARD__SCHEDULE", '[{"mode": "off", "start": "22:00", "end": "06:00"}]')
    monkeypatch.setenv("VIGIL_CAMERAS__YARD__MOTION__SENSITIVITY", "0.75")
    camera = load_settings().cameras["yard"]
    assert camera.schedule[0].mode == "off"
    assert camera.motion.sensitivity == 0.75


@pytest.mark.parametrize(
    ("place", "known"),
    [
        ([], "cameras"),
        (["bus", "outbox"], "window"),
        (["cameras", "yard", "privacy", "masks", "door"], "style"),
        (["cameras", "yard", "schedule", "0"], "mode"),
        (["bridge", "kafka"], "bootstrap"),
        (["detector", "rules", "door"], "hits"),
    ],
)
def test_the_settings_of_any_section_are_known(place: list[str], known: str) -> None:
    assert known in fields_at(Settings, place)


@pytest.mark.parametrize("place", [["nobody"], ["site"], ["site", "x"], ["bus", "url", "x"], ["cameras"]])
def test_what_is_no_section_has_no_settings(place: list[str]) -> None:
    assert fields_at(Settings, place) == []


@given(st.dictionaries(st.sampled_from("abc"), NESTED), st.dictionaries(st.sampled_from("abc"), NESTED))
def test_what_lies_above_holds_and_nothing_else_is_lost(below: dict[str, Any], above: dict[str, Any]) -> None:
    together = layered(below, above)
    assert layered(together, above) == together
    assert together.keys() == below.keys() | above.keys()
    assert all(together[key] == value for key, value in above.items() if not isinstance(value, dict))
    assert all(together[key] == value for key, value in below.items() if key not in above)
