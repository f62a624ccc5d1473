"""`vigil rules list --registry`: rules of cameras that only the site's registry names."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from broker.messages import CameraDocument, RegistryIndex
from broker.session import listen
from broker.topics import REGISTRY_CAMERA, REGISTRY_INDEX
from config.settings import BusSettings, Settings
from detector.rules_cli import rules
from tests.support.mosquitto import Mosquitto


def test_rules_of_the_registrys_cameras_are_listed(tmp_path: Path, mosquitto: Mosquitto) -> None:
    settings = Settings(state_dir=tmp_path, bus=BusSettings(url=mosquitto.url))
    fleet = listen(settings, "fleet")
    fleet.start()
    assert fleet.wait_connected(30)
    own = {"night": {"kind": "presence", "severity": "critical"}}
    cameras: dict[str, dict[str, Any]] = {"yard": {"settings": {"rules": own}}, "gate": {"excluded": True}, "door": {}}
    for camera, more in cameras.items():
        given: dict[str, Any] = {"camera": camera, "source": "synthetic:street", "revision": 1, **more}
        fleet.publish(REGISTRY_CAMERA.at("home", camera=camera), CameraDocument(**given))
    index = RegistryIndex(revision=1, at=datetime(2026, 1, 1, tzinfo=UTC), cameras=("door", "gate", "yard"))
    fleet.publish(REGISTRY_INDEX.at("home"), index)

    def load(_flags: Mapping[str, Any]) -> Settings:
        return settings

    answer = CliRunner().invoke(rules, ["list", "--registry", "--json"], obj=load)
    fleet.close()
    lines = [json.loads(line) for line in answer.stdout.splitlines() if line.startswith('{"rule"')]
    assert [(line["rule"], sorted(line["cameras"])) for line in lines] == [
        ("presence", ["door", "yard"]),
        ("night", ["yard"]),
    ]
