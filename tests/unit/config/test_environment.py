from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.errors import ConfigError
from config.sources import check_settings, layered, load_settings

NESTED = st.recursive(
    st.integers(), lambda inside: st.dictionaries(st.sampled_from("abc"), inside, max_size=3), max_leaves=8
)


def test_a_variable_is_a_setting_or_somebody_elses(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, text in {
        "VIGIL_SITE": "farm",
        "vigil_bus__url": "mqtt://h",
        "VIGIL_BUS__OUTBOX__WINDOW": "9",
        "VIGIL_BUS__PASSWORD": '{"a": 1}',
        "VIGIL_BRIDGE__KAFKA": '{"bootstrap": "h:1"}',
        "VIGIL_TOKEN": "{",
        "VIGILANT_SITE": "x",
        "VIGIL_": "x",
    }.items():
        monkeypatch.setenv(variable, text)
    settings = load_settings()
    assert (settings.site, settings.bus.url, settings.bus.outbox.window) == ("farm", "mqtt://h", 9)
    assert settings.bus.password is not None
    assert settings.bus.password.get_secret_value() == '{"a": 1}'
    assert settings.bridge.kafka is not None
    assert settings.bridge.kafka.bootstrap == "h:1"


def test_variables_of_one_section_come_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIGIL_BUS", '{"url": "mqtt://h", "username": "u"}')
    monkeypatch.setenv("VIGIL_BUS__USERNAME", "v")
    bus = load_settings().bus
    assert (bus.url, bus.username) == ("mqtt://h", "v")


def test_what_is_no_json_is_told_without_its_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIGIL_BUS", "hunter2")
    with pytest.raises(ConfigError, match=r'"bus".*give each setting a variable of its own') as caught:
        load_settings()
    assert "hunter2" not in f"{caught.value!r}{caught.value.__cause__}"


def test_a_list_of_a_camera_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIGIL_CAMERAS__YARD__SCHEDULE", '[{"mode": "off", "start": "22:00", "end": "06:00"}]')
    monkeypatch.setenv("VIGIL_CAMERAS__YARD__MOTION__SENSITIVITY", "0.75")
    camera = load_settings().cameras["yard"]
    assert camera.schedule[0].mode == "off"
    assert camera.motion.sensitivity == 0.75


@pytest.mark.parametrize(
    ("document", "known"),
    [
        ({"colour": 1}, "cameras"),
        ({"bus": {"outbox": {"colour": 1}}}, "window"),
        (
            {"cameras": {"yard": {"privacy": {"masks": {"door": {"points": [[0, 0], [1, 0], [1, 1]], "colour": 1}}}}}},
            "style",
        ),
        (
            {"cameras": {"yard": {"schedule": [{"mode": "off", "start": "22:00", "end": "06:00", "colour": 1}]}}},
            "mode",
        ),
        ({"bridge": {"kafka": {"bootstrap": "h:1", "colour": 1}}}, "bootstrap"),
        ({"detector": {"rules": {"door": {"colour": 1}}}}, "severity"),
    ],
)
def test_what_is_no_setting_is_told_with_those_that_are(document: dict[str, Any], known: str) -> None:
    settings, errors = check_settings(None, document)
    assert settings is None
    assert known in str(errors[0])


@given(st.dictionaries(st.sampled_from("abc"), NESTED), st.dictionaries(st.sampled_from("abc"), NESTED))
def test_what_lies_above_holds_and_nothing_else_is_lost(below: dict[str, Any], above: dict[str, Any]) -> None:
    together = layered(below, above)
    assert layered(together, above) == together
    assert together.keys() == below.keys() | above.keys()
    assert all(together[key] == value for key, value in above.items() if not isinstance(value, dict))
    assert all(together[key] == value for key, value in below.items() if key not in above)
