from __future__ import annotations

import re
from pathlib import Path

import pytest

from config.errors import EXIT_CONFIG, ConfigError
from config.sources import check_settings, exposes_secrets, load_settings


@pytest.fixture
def site_file(tmp_path: Path) -> Path:
    return tmp_path / "vigil.yaml"


def test_defaults_need_no_file() -> None:
    settings = load_settings()
    assert settings.site == "home"
    assert settings.bus.url == "mqtt://127.0.0.1:1883"
    assert settings.detector.rules["presence"].kind == "presence"


def test_flags_win_over_the_environment_over_the_file_over_the_default(
    site_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site_file.write_text("site: from-file\nbus: {keepalive_s: 30, connect_timeout_s: 7}\nbroker: {port: 1900}\n")
    monkeypatch.setenv("VIGIL_BUS__KEEPALIVE_S", "31")
    monkeypatch.setenv("VIGIL_BROKER__PORT", "1901")
    settings = load_settings(site_file, {"broker": {"port": 1902}})
    assert (settings.site, settings.broker.port) == ("from-file", 1902)
    assert (settings.bus.keepalive_s, settings.bus.connect_timeout_s) == (31, 7)


def test_every_error_is_told_with_file_and_line(site_file: Path) -> None:
    site_file.write_text(
        "site: home\n"
        "detector:\n"
        "  modle: x.onnx\n"
        "cameras:\n"
        "  front/door: {source: 'synthetic:street'}\n"
        "  yard:\n"
        "    idle_fps: 900\n"
        "colour: red\n"
    )
    settings, errors = check_settings(site_file)
    assert settings is None
    text = "\n".join(sorted(str(error) for error in errors))
    assert f"{site_file}:3: detector.modle: unknown key; did you mean 'model'?" in text
    assert re.search(r"yaml:5: cameras\.front/door: .*try 'front-door'", text)
    assert re.search(r"yaml:7: cameras\.yard\.idle_fps: .*900", text)
    assert "yaml:8: colour: unknown key; known here: " in text
    assert all(error.exit_code == EXIT_CONFIG for error in errors)


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [("site: [", 1, "not valid YAML"), ("- a\n- b\n", 1, "must be a mapping"), ("a: 1\n b: 2\n", 2, "not valid YAML")],
)
def test_a_file_that_is_no_mapping_is_told_with_its_line(site_file: Path, text: str, line: int, message: str) -> None:
    site_file.write_text(text)
    with pytest.raises(ConfigError, match=message) as raised:
        load_settings(site_file)
    assert raised.value.line in (line, line + 1)


def test_a_missing_file_is_told() -> None:
    with pytest.raises(ConfigError, match="no such file; give another with --config"):
        load_settings(Path("nowhere.yaml"))


def test_an_error_from_the_environment_names_no_line(site_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site_file.write_text("site: home\n")
    monkeypatch.setenv("VIGIL_BROKER__PORT", "many")
    with pytest.raises(ConfigError, match=r"broker\.port: .*from a flag or the environment"):
        load_settings(site_file)


def test_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIGIL_BUS__PASSWORD", "hunter2")
    assert "hunter2" not in repr(load_settings())


@pytest.mark.parametrize(
    "text",
    [
        "bus: {url: 'mqtt://u:hunter2@h'}",
        "bus: mqtt://u:hunter2@h",
        "bus: {password: [hunter2]}",
        "bus: {password: {a: hunter2}}",
        "bus: {password: *hunter2}",
        "bus: {password: !hunter2}",
        "bus: {password: !hunter2 x}",
        "bus: {password: !hunter!2 x}",
        "bus:\n  password: hunter2: x",
        "bus:\n  password: [hunter2",
        "bus: {password: &hunter2 x, username: &hunter2 y}",
        "? [hunter2]\n: password",
        "cameras: rtsp://u:hunter2@h",
        "cameras: {yard: 'rtsp://u:hunter2@h'}",
        "cameras: {'rtsp://u:hunter2@h': {}}",
        "cameras: {'rtsp://u:hunter2 x@h': {}}",
        "cameras: {yard: {sorce: 'rtsp://u:hunter2@h'}}",
        "cameras: {yard: {source: ['rtsp://u:hunter2@h']}}",
        "cameras: {yard: {idle_fps: 'http://h/?token=hunter2'}}",
        "bridge: {kafka: {bootstrap: 'u:hunter2@h:9092'}}",
        "bridge: {kafka: {password: hunter2}}",
    ],
)
def test_no_error_shows_a_secret(site_file: Path, text: str) -> None:
    site_file.write_text(text)
    settings, errors = check_settings(site_file)
    assert (settings is None) == bool(errors)
    assert "unter2" not in "".join(f"{error!r}{error}{error.__cause__}" for error in errors)


@pytest.mark.parametrize("name", ["VIGIL_CAMERAS", "VIGIL_BUS", "VIGIL_CAMERAS__YARD", "VIGIL_BUS__URL"])
def test_no_error_shows_a_secret_of_the_environment(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "rtsp://u:hunter2@h")
    with pytest.raises(ConfigError) as raised:
        load_settings()
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("site: home\n", False),
        ("bus: {password: ''}\n", False),
        ("bus: {password: hunter2}\n", True),
        ("cameras: {yard: {source: 'rtsp://u:hunter2@h'}}\n", True),
        ("cameras: {yard: {source: 'file:a@b.mp4'}}\n", False),
        ("a: [{b: 'http://h/?token=hunter2'}]\n", True),
        ("a: [", False),
    ],
)
def test_a_site_file_with_a_secret_that_everybody_can_read_is_known(
    site_file: Path, text: str, *, secret: bool
) -> None:
    site_file.write_text(text)
    site_file.chmod(0o644)
    assert exposes_secrets(site_file) is secret
    site_file.chmod(0o640)
    assert not exposes_secrets(site_file)


def test_rules_of_the_site_file_take_the_place_of_the_default(site_file: Path) -> None:
    site_file.write_text("detector: {rules: {door: {for_s: 2}}}\n")
    assert list(load_settings(site_file).detector.rules) == ["door"]


ROOM = "cameras: {room: {zones: {bed: {points: [[0, 0], [1, 0], [1, 1]]}}}, hall: {}}\ndetector:\n  rules:\n"


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("{zones: [bed, sofa]}", r"vigil\.yaml:4: detector\.rules\.night\.zones: no camera that .* a zone 'sofa'"),
        ("{cameras: [hall], zones: [bed]}", r"night\.zones: .* a zone 'bed'"),
        ("{kind: on-the-ground, beds: [sofa]}", r"night\.beds: .* a zone 'sofa'"),
        ("{kind: fall}", r"vigil\.yaml:4: detector\.rules\.night: there is no kind 'fall'; there are presence, dwell,"),
        ("{kind: dwell, hits: 3}", r"rules\.night\.hits: unknown key; known here: cameras, cooldown_s, for_s, hours,"),
        ("{kind: dwell, zone: [bed]}", r"rules\.night\.zone: unknown key; did you mean 'zones'?"),
        ("{hours: [{start: '22:00', ends: '06:00'}]}", r"rules\.night\.hours\.0\.e"),
    ],
)
def test_a_rule_that_cannot_work_says_where_and_why(site_file: Path, rule: str, message: str) -> None:
    site_file.write_text(f"{ROOM}    night: {rule}\n")
    with pytest.raises(ConfigError, match=message):
        load_settings(site_file)


@pytest.mark.parametrize(
    "rule", ["{zones: [bed]}", "{cameras: [attic], zones: [sofa]}", "{cameras: [room], zones: [bed]}"]
)
def test_a_zone_is_one_of_some_camera_or_of_one_that_only_the_registry_knows(site_file: Path, rule: str) -> None:
    site_file.write_text(f"{ROOM}    night: {rule}\n")
    assert list(load_settings(site_file).detector.rules) == ["night"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"bus": {"url": "localhost"}}, r"bus\.url: write mqtt://HOST:PORT.*, not 'localhost'"),
        ({"bridge": {"kafka": {"bootstrap": "kafka"}}}, r"bridge\.kafka\.bootstrap: write HOST:PORT"),
    ],
)
def test_a_wrong_address_says_how_to_write_one(overrides: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_settings(None, overrides)
