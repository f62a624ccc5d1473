"""`vigil doctor`, on brokers as people have them."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.doctor import Finding, examine
from broker.probe import ROLE, Prober
from broker.topics import PROBE
from config.settings import BusSettings, Settings
from tests.support.embedded import EmbeddedBroker
from tests.support.mosquitto import Mosquitto
from tests.support.ports import free_port
from tests.support.site import SecureBroker, Site, Subscriber
from tests.support.waiting import wait_until

BROKER = {"broker", "protocol", "rights", "round trip", "retained", "packets", "session", "queue", "window", "$share"}


def settings_of(url: str, folder: Path, **bus: object) -> Settings:
    return Settings(state_dir=folder / "doctor", node="porch", bus=BusSettings(url=url, **bus))


def findings(settings: Settings) -> dict[str, Finding]:
    """Of the broker, by subject."""
    return {finding.subject: finding for finding in examine(settings)}


def level(found: dict[str, Finding]) -> dict[str, str]:
    return {subject: finding.level for subject, finding in found.items() if subject in BROKER}


def bad(found: dict[str, Finding]) -> list[str]:
    return [f"{subject}: {found[subject].text}" for subject, word in level(found).items() if word == "bad"]


def test_mosquitto_as_the_distribution_sets_it_up(mosquitto: Mosquitto, tmp_path: Path) -> None:
    settings = settings_of(mosquitto.url, tmp_path)
    found = findings(settings)
    assert found["broker"].text.endswith("speaks MQTT 5; mosquitto version 2.0.11")
    assert level(found)["queue"] == "bad"
    assert "the newest, and acknowledged them all the same" in found["queue"].text
    assert "raise its limit (Mosquitto: max_queued_messages" in found["queue"].text
    assert level(found)["session"] == level(found)["retained"] == level(found)["packets"] == "ok"
    assert "may write and read every topic" in found["rights"].text
    assert found["mosquitto 2.0.11"].level == "note"


def test_it_leaves_nothing_behind(mosquitto: Mosquitto, tmp_path: Path) -> None:
    settings = settings_of(mosquitto.url, tmp_path)
    other = str(PROBE.at("home", origin="other.edge"))
    options = ["-h", mosquitto.host, "-p", str(mosquitto.port)]
    everything_else = [option for topic in ("vigil/#", "#") for option in ("-t", topic)]
    with Subscriber(options, other, tmp_path / "before.sub", *everything_else, "-T", PROBE.topic_filter()) as all_of_it:
        Prober(settings, "5").look()
        assert all_of_it.got == [], "only its own topic is written"
    with Subscriber(options, "#", tmp_path / "after.sub", "-i", f"vigil-home-porch-{ROLE}", "-c", "-x", "1") as later:
        subprocess.run(["mosquitto_pub", *options, "-t", "end", "-m", "."], check=True)
        assert later.wait_for("end .") == ["end ."], "no session and nothing retained is left"


def test_a_mosquitto_with_less_room_than_our_frames(tmp_path: Path) -> None:
    folder = tmp_path / "mosquitto"
    folder.mkdir()
    limits = ["max_packet_size 600000", "retain_available false", "max_queued_messages 10"]
    with Mosquitto(folder, settings=limits) as server:
        found = findings(settings_of(server.url, tmp_path))
        assert "takes 600,000 bytes but bus.frame_bytes_max is 1,900,000" in found["packets"].text
        assert found["retained"].level == found["queue"].level == "bad"
        by_trying = findings(settings_of(server.url, tmp_path, protocol="3.1.1"))
        assert "takes 500,000 bytes but" in by_trying["packets"].text


def test_drops_since_its_start_are_told(tmp_path: Path) -> None:
    folder = tmp_path / "mosquitto"
    folder.mkdir()
    with Mosquitto(folder, settings=["sys_interval 1", "max_queued_messages 1"]) as server:
        settings = settings_of(server.url, tmp_path)
        examine(settings)
        wait_until(lambda: "drops" in findings(settings), timeout_s=30, what="a figure")


@pytest.fixture
def site(tmp_path: Path) -> Site:
    folder = tmp_path / "site"
    folder.mkdir()
    made = Site(folder)
    made.node("porch", "edge", cameras=["porch"])
    made.person("alice", "dashboard")
    return made


@pytest.mark.parametrize("engine", ["mosquitto", "embedded"])
def test_a_secure_one(engine: str, site: Site, tmp_path: Path) -> None:
    with SecureBroker(site, engine) as server:  # type: ignore[arg-type]
        found = findings(settings_of(server.url, tmp_path, identity=site.folder / "porch"))
        assert bad(found) == []
        assert found["certificate doctor"].text == "holds for 397 more days"
        assert found["broker's certificate (TLSv1.3)"].text == "holds for 825 more days"
        told = "an ACL is in force, and a publish that it refuses is told so"
        silent = "an ACL is in force, but a publish that it refuses is acknowledged"
        assert found["rights"].text.startswith(told if engine == "mosquitto" else silent)

        person = findings(settings_of(server.people_url, tmp_path, identity=site.folder / "alice"))
        assert person["rights"].text.startswith("nothing can be tried with a person's certificate")
        assert person["broker"].level == "ok"

        stranger = findings(settings_of(server.url, tmp_path))
        assert "shows a certificate of an authority that this machine does not know" in stranger["broker"].text


def test_the_embedded_one(tmp_path: Path) -> None:
    with EmbeddedBroker(tmp_path) as server:
        found = findings(settings_of(server.url, tmp_path))
    assert found["broker"].text.endswith("speaks MQTT 3.1.1; amqtt version 0.12.1")
    assert level(found)["$share"] == level(found)["session"] == level(found)["protocol"] == "note"
    assert found["session"].text.startswith("what was not acknowledged is forgotten")
    assert bad(found) == []


@pytest.fixture
def mute() -> Iterator[int]:
    """The port of something that takes connections and says nothing that MQTT knows."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        stop = threading.Event()

        def greet() -> None:
            while not stop.is_set():
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.sendall(b"220 mail.example.org ESMTP\r\n")

        thread = threading.Thread(target=greet)
        thread.start()
        yield int(listener.getsockname()[1])
        stop.set()
        with socket.create_connection(listener.getsockname()):
            pass
        thread.join()


def test_nobody_there_and_somebody_else_there(mute: int, tmp_path: Path) -> None:
    nobody = findings(settings_of(f"mqtt://127.0.0.1:{free_port()}", tmp_path))["broker"]
    assert nobody.level == "bad"
    assert nobody.text.startswith("no broker at")
    assert "vigil broker run" in nobody.text
    assert findings(settings_of(f"mqtt://127.0.0.1:{mute}", tmp_path))["broker"].level == "bad"
    tls = findings(settings_of(f"mqtts://127.0.0.1:{mute}", tmp_path))["broker"]
    assert "does not speak TLS: write mqtt://" in tls.text


def test_the_command_for_programs(mosquitto: Mosquitto, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "console", "--state", str(tmp_path), "--bus", mosquitto.url, "doctor", "--json"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    rows = json.loads(ended.stdout)
    assert {"level", "subject", "text"} == set(rows[0])
    assert ended.returncode == 1, "a queue that drops is bad"
    assert any(row["subject"] == "queue" and row["level"] == "bad" for row in rows)
