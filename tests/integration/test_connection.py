from __future__ import annotations

import contextlib
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker._paho import paho_transports
from broker.bus import Bus
from broker.transport import Inbound, Outbound, Transport, TransportEvents
from config.errors import ConfigError, PermanentError, TransientError
from config.settings import BusSettings
from tests.support.embedded import EmbeddedBroker
from tests.support.mosquitto import Mosquitto
from tests.support.ports import free_port
from tests.support.waiting import wait_until

NOTHING = TransportEvents(lambda _message: None, lambda _number, _refusal: None)


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker(tmp_path) as broker:
        yield broker


def test_a_broker_without_mqtt_5_is_spoken_to_in_3_1_1(embedded: EmbeddedBroker) -> None:
    bus = Bus(
        site="home",
        origin="n.edge",
        transports=paho_transports(BusSettings(url=embedded.url), client_id="c", persistent=False),
    )
    bus.start()
    assert bus.wait_connected(30)
    bus.close()


def test_a_frozen_broker_that_spoke_mqtt_5_is_spoken_to_in_it_again(mosquitto: Mosquitto) -> None:
    settings = BusSettings(url=mosquitto.url, connect_timeout_s=1.0)
    make = paho_transports(settings, client_id="c", persistent=False)
    first = make(NOTHING, None)
    first.open()
    assert first.limits.version == "5"
    mosquitto.freeze()
    try:
        for _ in range(2):
            with pytest.raises(TransientError, match="does not answer"):
                make(NOTHING, None).open()
    finally:
        mosquitto.thaw()
    again = make(NOTHING, None)
    again.open()
    assert again.limits.version == "5"
    for transport in (first, again):
        transport.close()
        with contextlib.suppress(TransientError):
            transport.run()


def test_wrong_credentials_stop_the_retries_and_say_so(tmp_path: Path) -> None:
    passwords = tmp_path / "passwords"
    subprocess.run(["mosquitto_passwd", "-b", "-c", str(passwords), "edge", "right"], check=True)
    passwords.chmod(0o644)
    settings = ["allow_anonymous false", f"password_file {passwords}"]
    folder = tmp_path / "mosquitto"
    folder.mkdir()
    with Mosquitto(folder, settings=settings) as server:
        told: list[Exception] = []
        wrong = BusSettings(url=server.url, username="edge", password="wrong")
        bus = Bus(
            site="home",
            origin="n.edge",
            transports=paho_transports(wrong, client_id="c", persistent=False),
            on_fatal=told.append,
        )
        bus.start()
        wait_until(lambda: told)
        assert isinstance(told[0], PermanentError)
        assert "check bus.username and VIGIL_BUS__PASSWORD" in str(told[0])
        assert "wrong" not in str(told[0])
        bus.close()


def test_nobody_there_and_somebody_silent_are_told_apart() -> None:
    with pytest.raises(TransientError, match="no broker at"):
        paho_transports(BusSettings(url=f"mqtt://127.0.0.1:{free_port()}"), client_id="c", persistent=False)(
            NOTHING, None
        ).open()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        settings = BusSettings(url=f"mqtt://127.0.0.1:{silent.getsockname()[1]}", connect_timeout_s=0.3)
        with pytest.raises(TransientError, match="does not answer as an MQTT broker"):
            paho_transports(settings, client_id="c", persistent=False)(NOTHING, None).open()


@pytest.mark.parametrize("url", ["mqtt://host:99999", "mqtt://:1883"])
def test_an_unusable_address_is_a_configuration_error(url: str) -> None:
    with pytest.raises(ConfigError, match=r"bus\.url"):
        paho_transports(BusSettings(url=url), client_id="c", persistent=False)


def test_an_acknowledgement_of_a_lost_session_confirms_nothing_newer(tmp_path: Path) -> None:
    """paho would send PUBACK for the same number, which by then is another message's."""
    folder = tmp_path / "mosquitto"
    folder.mkdir()
    with Mosquitto(folder) as server:
        settings = BusSettings(url=server.url, protocol="5")
        make = paho_transports(settings, client_id="reader", persistent=True)
        held: list[Inbound] = []

        def connect() -> tuple[Transport, threading.Thread]:
            transport = make(TransportEvents(held.append, lambda _number, _refusal: None), None)
            transport.open()
            transport.subscribe([("t", 1)])
            runner = threading.Thread(target=run, args=(transport,))
            runner.start()
            return transport, runner

        def run(transport: Transport) -> None:
            try:
                transport.run()
            except TransientError:
                return

        def publish(text: bytes) -> None:
            done = threading.Event()
            writer = paho_transports(settings, client_id="writer", persistent=False)(
                TransportEvents(lambda _message: None, lambda _number, _refusal: done.set()), None
            )
            writer.open()
            runner = threading.Thread(target=writer.run)
            runner.start()
            writer.publish(Outbound("t", text, 1, retain=False))
            assert done.wait(30)
            writer.close()
            runner.join(5)

        first, first_runner = connect()
        publish(b"old")
        wait_until(lambda: len(held) == 1)
        server.kill()
        first_runner.join(5)
        server.start()
        second, second_runner = connect()
        publish(b"new")
        wait_until(lambda: len(held) == 2)
        assert held[0].token == held[1].token
        first.acknowledge(held[0])
        second.close()
        second_runner.join(5)
        third, third_runner = connect()
        wait_until(lambda: len(held) == 3)
        assert held[2].payload == b"new"
        third.close()
        third_runner.join(5)


def test_who_does_not_confirm_is_not_sent_to_without_end_and_stays_connected(mosquitto: Mosquitto) -> None:
    """Mosquitto 2.0 sends over the window, and MQTT 3.1.1 has none: then the connection is not read for a while."""
    settings = BusSettings(url=mosquitto.url, protocol="3.1.1", receive_window=5, keepalive_s=2)
    sent: list[int] = []
    writer = paho_transports(settings, client_id="writer", persistent=False)(
        TransportEvents(lambda _message: None, lambda number, _refusal: sent.append(number)), None
    )
    writer.open()
    writing = threading.Thread(target=writer.run)
    writing.start()
    writer.publish(Outbound("t", b"subscribed", 1, retain=True))
    wait_until(lambda: len(sent) == 1)
    held: list[Inbound] = []
    reader = paho_transports(settings, client_id="reader", persistent=False)(
        TransportEvents(held.append, lambda _number, _refusal: None), None
    )
    reader.open()
    reader.subscribe([("t", 1)])
    reading = threading.Thread(target=reader.run)
    reading.start()
    wait_until(lambda: len(held) == 1, what="what is retained: from now on nothing is missed")
    assert reader.acknowledge(held.pop())
    for number in range(19):
        writer.publish(Outbound("t", b"%d" % number, 1, retain=False))
    wait_until(lambda: len(sent) == 20)
    wait_until(lambda: len(held) == 11, what="one more than two windows")
    paused_s = time.monotonic()
    wait_until(lambda: time.monotonic() > paused_s + 3.5 * settings.keepalive_s, what="several keep-alives")
    assert len(held) == 11
    for message in held:
        assert reader.acknowledge(message)
    wait_until(lambda: [message.payload for message in held] == [b"%d" % number for number in range(19)])
    for transport, thread in ((reader, reading), (writer, writing)):
        transport.close()
        thread.join(5)
        assert not thread.is_alive()
