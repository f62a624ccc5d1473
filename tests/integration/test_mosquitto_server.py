from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest
from paho.mqtt import publish, subscribe
from paho.mqtt.client import Client, MQTTMessage

from tests.support.mosquitto import Mosquitto
from tests.support.server import ServerDiedError, ServerProcess, start_on_free_port


def keep(server: Mosquitto, topic: str, payload: str) -> None:
    publish.single(topic, payload, qos=1, retain=True, hostname=server.host, port=server.port)


def kept(server: Mosquitto, topic: str) -> list[str]:
    """Its retained payloads: none are left when that of `last` comes, which is asked for behind it."""
    payloads: list[str] = []

    def collect(client: Client, _userdata: object, message: MQTTMessage) -> None:
        if message.topic == "last":
            client.disconnect()
        else:
            payloads.append(message.payload.decode())

    keep(server, "last", "last")
    subscribe.callback(collect, [topic, "last"], qos=1, hostname=server.host, port=server.port)  # type: ignore[no-untyped-call]
    return payloads


def test_a_killed_one_comes_back_empty_on_its_port(mosquitto: Mosquitto) -> None:
    port, pid = mosquitto.port, mosquitto.pid
    keep(mosquitto, "door", "open")
    assert kept(mosquitto, "door") == ["open"]

    mosquitto.kill()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((mosquitto.host, port))
    mosquitto.start()

    assert mosquitto.port == port
    assert mosquitto.pid != pid
    assert kept(mosquitto, "door") == []


def test_a_persistent_one_keeps_what_it_is_not_told_to_forget(tmp_path: Path) -> None:
    with Mosquitto(tmp_path, persistent=True) as server:
        keep(server, "door", "open")
        server.restart()
        assert kept(server, "door") == ["open"]
        server.restart(forget=True)
        assert kept(server, "door") == []


def test_a_frozen_one_takes_connections_and_answers_nothing_until_thawed(mosquitto: Mosquitto) -> None:
    mosquitto.freeze()
    with socket.create_connection((mosquitto.host, mosquitto.port), timeout=0.3) as client:
        client.sendall(b"\x10\x0e\x00\x04MQTT\x04\x02\x00\x0a\x00\x02me")
        with pytest.raises(TimeoutError):
            client.recv(4)
        mosquitto.thaw()
        client.settimeout(5)
        assert client.recv(4) == b"\x20\x02\x00\x00"


def test_a_wrong_setting_is_shown(tmp_path: Path) -> None:
    with pytest.raises(ServerDiedError, match="no_such_setting"):
        Mosquitto(tmp_path, settings=["no_such_setting true"]).start()


def test_a_taken_port_is_left_for_another(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        tried: list[int] = []

        def make(port: int) -> ServerProcess:
            tried.append(port if tried else taken)
            return ServerProcess(
                [sys.executable, "-u", "-m", "http.server", "--bind", "127.0.0.1", str(tried[-1])],
                log=tmp_path / "log",
                ready="Serving HTTP",
                start_timeout_s=20,
            )

        server, port = start_on_free_port(make)
        server.kill()

    assert tried == [taken, port]
