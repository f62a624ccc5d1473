from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from config import ConfigError
from config.settings import Settings
from config.site_file import role_environment, write_site_file
from config.sources import check_settings, load_settings
from console.compose import Machine, Plan, compose

ALL_FREE = Machine(port_is_free=lambda _host, _port: True, free_port=lambda _host: 40_000)
ALL_TAKEN = Machine(port_is_free=lambda _host, _port: False, free_port=lambda _host: 40_000)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(None, {"state_dir": tmp_path, "node": "laptop"})


def roles(plan: Plan) -> list[str]:
    return [role.name for role in plan.roles]


def test_without_anything_it_is_a_synthetic_street_on_an_embedded_broker(settings: Settings) -> None:
    plan = compose(settings, ALL_FREE)
    assert roles(plan) == ["broker", "edge", "detector", "bridge", "console"]
    assert {name: camera.source for name, camera in plan.settings.cameras.items()} == {"street": "synthetic:street"}
    assert plan.settings.bus.url == "mqtt://127.0.0.1:1883"
    assert plan.page_url == "http://127.0.0.1:8126/"
    assert plan.notices == ()
    assert plan.settings.detector.rules["presence"].cooldown_s == 4.0


def test_cameras_of_flags_take_the_place_of_those_of_the_site_file(tmp_path: Path) -> None:
    given = {"yard": {"source": "synthetic:street?seed=2"}, "gate": {"source": "synthetic:street"}}
    settings = load_settings(None, {"cameras": given, "state_dir": tmp_path})
    assert list(compose(settings, ALL_FREE, cameras=["gate"]).settings.cameras) == ["gate"]
    assert list(compose(settings, ALL_FREE).settings.cameras) == ["yard", "gate"]
    assert compose(settings, ALL_FREE).settings.detector == settings.detector


def test_a_taken_port_gives_way_to_a_free_one_and_says_so(settings: Settings) -> None:
    plan = compose(settings, ALL_TAKEN)
    assert plan.settings.broker.port == 40_000
    assert plan.settings.bus.url == "mqtt://127.0.0.1:40000"
    assert plan.page_url == "http://127.0.0.1:40000/"
    assert "port 1883 is taken, so the broker is on 40000" in plan.notices
    assert "-p 40000 -t 'vigil/v1/+/camera/+/frame' -C 1 > a.jpg" in plan.frame_example


@pytest.mark.parametrize("section", ["broker", "console"])
def test_a_taken_port_that_a_flag_insists_on_is_an_error(settings: Settings, section: str) -> None:
    with pytest.raises(ConfigError, match=rf"{section}\.port: port \d+ on 127\.0\.0\.1 is taken"):
        compose(settings, ALL_TAKEN, fixed_ports=[section])


def test_a_broker_that_is_named_is_used_and_none_is_started(settings: Settings, tmp_path: Path) -> None:
    named = load_settings(None, {"bus": {"url": "mqtt://broker.local"}, "state_dir": tmp_path})
    assert "broker" not in roles(compose(named, ALL_FREE))
    assert "-h broker.local -t" in compose(named, ALL_FREE).frame_example
    assert "broker" not in roles(compose(settings, ALL_FREE, foreign_bus=True))


def test_a_site_file_that_names_its_own_broker_still_gets_one(tmp_path: Path) -> None:
    given = {"bus": {"url": "mqtt://127.0.0.1:2000"}, "broker": {"port": 2000}, "state_dir": tmp_path}
    assert roles(compose(load_settings(None, given), ALL_FREE))[0] == "broker"


def test_a_file_that_is_not_there_is_said_before_anything_starts(tmp_path: Path) -> None:
    given = {"cameras": {"yard": {"source": f"file:{tmp_path}/no.avi?pace=max"}}, "state_dir": tmp_path}
    with pytest.raises(ConfigError, match=r"cameras\.yard\.source: there is no file '.*no\.avi'"):
        compose(load_settings(None, given), ALL_FREE)


def test_the_embedded_broker_is_not_asked_for_mqtt_5(settings: Settings, tmp_path: Path) -> None:
    assert compose(settings, ALL_FREE).settings.bus.protocol == "3.1.1"
    mosquitto = load_settings(None, {"broker": {"engine": "mosquitto"}, "state_dir": tmp_path})
    assert compose(mosquitto, ALL_FREE).settings.bus.protocol == "auto"


def test_the_roles_read_back_what_was_planned(tmp_path: Path) -> None:
    given = {
        "site": "depot",
        "node": "laptop",
        "state_dir": tmp_path,
        "cameras": {"yard": {"source": "synthetic:street?seed=3", "motion_fps": 7.5}},
        "detector": {"rules": {"door": {"label": "person", "for_s": 2, "cooldown_s": 1.5}}},
        "bridge": {"kafka": {"bootstrap": "kafka-1:9092"}},
    }
    plan = compose(load_settings(None, given), ALL_TAKEN)
    path = tmp_path / "up" / "vigil.yaml"
    write_site_file(plan.settings, path, written_by="vigil up")
    assert path.stat().st_mode & 0o777 == 0o600
    read, errors = check_settings(path)
    assert errors == []
    assert read is not None
    assert read.model_dump() == plan.settings.model_dump()


def test_secrets_go_by_environment_and_settings_in_it_do_not_go_above_the_site_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    security = {"protocol": "sasl_ssl", "username": "vigil", "password": "kafka=hunter3"}
    registry = {"url": "https://schemas.local", "username": "vigil", "password": "hunter4"}
    given = {
        "bus": {"url": "mqtt://broker.local", "username": "vigil", "password": "hunter2"},
        "bridge": {"kafka": {"bootstrap": "kafka-1:9093", "security": security, "schema_registry": registry}},
        "state_dir": tmp_path,
    }
    settings = load_settings(None, given)
    path = tmp_path / "up.yaml"
    plan = compose(settings, ALL_FREE)
    write_site_file(plan.settings, path, written_by="vigil up")
    assert "hunter" not in path.read_text()
    assert "password" not in path.read_text()
    assert yaml.safe_load(path.read_text())["bus"]["username"] == "vigil"
    environment = role_environment(
        settings,
        {
            "PATH": "/bin",
            "VIGIL_BUS__URL": "mqtt://old",
            "VIGIL_BRIDGE__KAFKA__SECURITY__PASSWORD": "old",
            "VIGIL_SITE": "old",
            "VIGIL_CONFIG": "old.yaml",
            "NOTIFY_SOCKET": "/run/systemd/notify",
        },
    )
    assert environment == {
        "PATH": "/bin",
        "VIGIL_BUS__PASSWORD": "hunter2",
        "VIGIL_BRIDGE__KAFKA__SECURITY__PASSWORD": "kafka=hunter3",
        "VIGIL_BRIDGE__KAFKA__SCHEMA_REGISTRY__PASSWORD": "hunter4",
    }
    # A role reads both, and has what was planned; one that is run by hand without them is not refused.
    without, errors = check_settings(path)
    assert errors == []
    assert without is not None
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    read, _ = check_settings(path)
    assert read is not None
    assert read.model_dump() == plan.settings.model_dump()


def test_a_secure_mesh_has_a_port_for_processes_and_one_for_people(tmp_path: Path) -> None:
    given = {"broker": {"secure": True, "engine": "mosquitto"}, "state_dir": tmp_path / "a state", "node": "laptop"}
    plan = compose(load_settings(None, given), ALL_FREE)
    assert plan.is_secure
    assert (plan.settings.bus.url, plan.people_url) == ("mqtts://127.0.0.1:8883", "mqtts://127.0.0.1:8884")
    assert plan.broker_port == 8883
    assert plan.watch_example == f"vigil --state '{tmp_path}/a state' --bus mqtts://127.0.0.1:8884 watch"
    identity = tmp_path / "a state" / "identity"
    assert plan.frame_example == (
        f"mosquitto_sub -h 127.0.0.1 -p 8884 --cafile '{identity}/ca.crt' --cert '{identity}/person.crt' "
        f"--key '{identity}/person.key' -t 'vigil/v1/+/camera/+/frame' -C 1 > a.jpg"
    )


def test_taken_ports_of_a_secure_mesh_give_way_too(tmp_path: Path) -> None:
    taken = {8883, 8884}
    free = iter((40_001, 40_002))
    machine = Machine(port_is_free=lambda _host, port: port not in taken, free_port=lambda _host: next(free))
    plan = compose(load_settings(None, {"broker": {"secure": True}, "state_dir": tmp_path}), machine)
    assert (plan.settings.bus.url, plan.people_url) == ("mqtts://127.0.0.1:40001", "mqtts://127.0.0.1:40002")
    assert plan.notices == (
        "port 8883 is taken, so the broker is on 40001",
        "port 8884 is taken, so the broker's port for people is on 40002",
    )


def test_a_broker_elsewhere_is_not_made_secure_here(tmp_path: Path) -> None:
    given = {"broker": {"secure": True}, "bus": {"url": "mqtts://broker.local:8883"}, "state_dir": tmp_path}
    plan = compose(load_settings(None, given), ALL_FREE)
    assert not plan.is_secure
    assert plan.people_url == "mqtts://broker.local:8883"


def test_a_mesh_without_tls_keeps_its_port(settings: Settings) -> None:
    plan = compose(settings, ALL_FREE)
    assert not plan.is_secure
    assert (plan.broker_port, plan.people_url) == (1883, "mqtt://127.0.0.1:1883")


def test_what_is_outside_has_roles_of_its_own_only_where_it_is_asked_for(tmp_path: Path) -> None:
    kafka = {"bootstrap": "kafka-1:9092", "commands": {}}
    given = {"state_dir": tmp_path, "bridge": {"kafka": kafka}, "homeassistant": {"enabled": True}}
    plan = compose(load_settings(None, given), ALL_FREE)
    assert [role.name for role in plan.roles if not role.needed] == ["commands", "homeassistant", "console"]
