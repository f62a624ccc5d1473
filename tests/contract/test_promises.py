"""What the bus promises where a broker does its part; amqtt does not, and receipts make up for it."""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import structlog.testing

from broker import topics
from broker.bus import Bus, Delivery
from broker.frames import Frame, encode_frame
from broker.outbox import Outbox
from broker.transport import Inbound, Outbound, Transport, TransportEvents
from config.errors import BadPayloadError, TransientError
from config.settings import BusSettings, OutboxSettings
from tests.contract.brokers import Site
from tests.contract.conftest import SiteMaker
from tests.support.messages import escalation, frame_meta, jpeg
from tests.support.waiting import wait_until

pytestmark = pytest.mark.timeout(60)

YARD = {"camera": "yard"}
MOTION = str(topics.CAMERA_MOTION.at("home", **YARD))
_READY = b"ready"
ESCALATION = topics.CAMERA_ESCALATION.at("home", origin="node-1.edge", **YARD)
FRAME = topics.CAMERA_FRAME.at("home", **YARD)
Join = Callable[..., Bus]


@pytest.fixture
def join(tmp_path: Path) -> Iterator[Join]:
    """Makes started buses and closes them."""
    buses: list[Bus] = []
    numbers = itertools.count()

    def make(site: Site, client_id: str | None = None, *, subscribe: Callable[[Bus], None] | None = None) -> Bus:
        number = next(numbers)
        settings = BusSettings(outbox=OutboxSettings(resend_after_s=0.5))
        outbox = Outbox(tmp_path / f"{number}.db", origin="node-1.edge")
        transports = site.transports(client_id or f"client-{number}")
        bus = Bus(site="home", origin="node-1.edge", transports=transports, outbox=outbox, settings=settings)
        buses.append(bus)
        if subscribe is not None:
            subscribe(bus)
        bus.start()
        assert bus.wait_connected(30)
        return bus

    yield make
    for bus in buses:
        bus.close(drain_s=0)


@dataclass(slots=True)
class Reader:
    """A persistent client that holds what it gets."""

    site: Site
    held: list[Inbound] = field(default_factory=list)
    subscribed: threading.Event = field(default_factory=threading.Event)
    transport: Transport = field(init=False)
    thread: threading.Thread = field(init=False)

    def connect(self) -> None:
        self.held.clear()
        events = TransportEvents(self._take, lambda _number, _refusal: None)
        self.transport = self.site.transports("reader", persistent=True)(events, None)
        self.transport.open()
        self.transport.subscribe([(MOTION, 1)])
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def wait_subscribed(self) -> None:
        """The broker takes its time over a subscription; what comes before it is for nobody."""
        while not self.subscribed.is_set():
            publish(self.site, _READY)
            self.subscribed.wait(0.2)

    def _take(self, message: Inbound) -> None:
        if message.payload == _READY:
            self.subscribed.set()
            self.transport.acknowledge(message)
        else:
            self.held.append(message)

    def _run(self) -> None:
        try:
            self.transport.run()
        except TransientError:
            return

    def leave(self) -> None:
        self.transport.close()
        self.thread.join(5)

    def wait(self, *texts: bytes) -> None:
        wait_until(lambda: [message.payload for message in self.held] == list(texts), what=str(texts))


def publish(site: Site, *texts: bytes) -> None:
    sent: list[int] = []
    transport = site.transports("writer")(TransportEvents(lambda _m: None, lambda n, _r: sent.append(n)), None)
    transport.open()
    thread = threading.Thread(target=transport.run, daemon=True)
    thread.start()
    for text in texts:
        transport.publish(Outbound(MOTION, text, 1, retain=False))
    wait_until(lambda: len(sent) == len(texts))
    transport.close()
    thread.join(5)


def test_what_is_confirmed_early_is_not_confirmed_before_what_came_first(able_site: SiteMaker) -> None:
    reader = Reader(able_site())
    reader.connect()
    reader.wait_subscribed()
    publish(reader.site, b"one", b"two", b"three")
    reader.wait(b"one", b"two", b"three")
    first = list(reader.held)
    assert reader.transport.acknowledge(first[2])
    assert reader.transport.acknowledge(first[1])
    assert reader.transport.unacknowledged == 3
    reader.leave()
    assert not reader.transport.acknowledge(first[0])
    reader.connect()
    reader.wait(b"one", b"two", b"three")
    for message in reversed(list(reader.held)):
        assert reader.transport.acknowledge(message)
    assert reader.transport.unacknowledged == 0
    publish(reader.site, b"four")
    reader.leave()
    reader.connect()
    reader.wait(b"four")
    reader.leave()


def test_a_confirmation_that_comes_too_late_is_ignored_and_counted(site: Site, join: Join) -> None:
    held: list[Delivery] = []
    bus = join(site, subscribe=lambda b: b.subscribe(topics.CAMERA_ESCALATION, held.append, manual_ack=True))
    join(site).publish_event(ESCALATION, escalation)
    wait_until(lambda: held)
    site.restart_empty(lambda: wait_until(lambda: not bus.connected))
    held[0].ack()
    assert bus.statistics().link.acks_ignored == 1


def test_what_the_broker_refuses_stays_is_counted_and_says_so(able_site: SiteMaker, join: Join) -> None:
    bus = join(able_site(refused=str(ESCALATION)))
    with structlog.testing.capture_logs() as logs:
        bus.publish_event(ESCALATION, escalation)
        wait_until(lambda: bus.statistics().link.refused >= 1)
        wait_until(lambda: [line for line in logs if line["event"] == "bus.refused"])
    line = next(line for line in logs if line["event"] == "bus.refused")
    assert (line["topic"], line["reason"]) == (str(ESCALATION), "Not authorized")
    assert bus.statistics().outbox_rows == 1
    bus.publish(topics.CAMERA_MOTION_ACTIVE.at("home", **YARD), "OFF")
    wait_until(lambda: bus.statistics().published["state"] == 1)
    assert bus.connected


def test_a_command_that_is_refused_is_counted(able_site: SiteMaker, join: Join) -> None:
    """With QoS 2 the refusal comes in a PUBREC, which paho does not look at."""
    topic = topics.NODE_STATUS.at("home", node="node-1", role="edge")
    site = able_site(refused=str(topic))
    refusals: list[str | None] = []
    transport = site.transports("writer")(TransportEvents(lambda _m: None, lambda _n, r: refusals.append(r)), None)
    transport.open()
    thread = threading.Thread(target=transport.run, daemon=True)
    thread.start()
    transport.publish(Outbound(str(topic), b"{}", 2, retain=False))
    transport.publish(Outbound(MOTION, b"{}", 2, retain=False))
    wait_until(lambda: refusals == ["Not authorized", None])
    transport.close()
    thread.join(5)


def test_a_packet_limit_that_the_broker_says_is_kept_at_once(able_site: SiteMaker, join: Join) -> None:
    site = able_site(packet_bytes_max=100_000)
    bus = join(site)
    assert 99_900 < bus.payload_bytes_max(FRAME) < 100_000
    assert bus.payload_bytes_max(ESCALATION) < bus.payload_bytes_max(FRAME)
    with pytest.raises(BadPayloadError, match="that may be sent"):
        bus.publish(FRAME, large_frame(100_000))
    with pytest.raises(BadPayloadError, match="that may be sent"):
        bus.publish_event(ESCALATION, lambda event_id: escalation(event_id, summary="x" * 100_000))
    assert bus.statistics().outbox_rows == 0
    seen: list[Delivery] = []
    watch = join(site, subscribe=lambda b: b.subscribe(topics.CAMERA_FRAME, seen.append))

    def arrives() -> bool:
        bus.publish(FRAME, large_frame(bus.payload_bytes_max(FRAME)))
        return bool(seen)

    wait_until(arrives)
    assert bus.statistics().link.connections == watch.statistics().link.connections == 1


def large_frame(size_bytes: int) -> bytes:
    """A frame of exactly so many bytes."""
    bare = encode_frame(jpeg(), frame_meta())
    return bare[:-2] + os.urandom(size_bytes - len(bare)) + bare[-2:]


def test_a_packet_limit_that_nobody_says_is_learned_without_a_reconnect_loop(able_site: SiteMaker, join: Join) -> None:
    """A 3.1.1 broker, or a proxy, just closes the connection; a client that sends the frame again is never back."""
    site = able_site(packet_bytes_max=120_000, tells=False)
    seen: list[Delivery] = []
    join(site, subscribe=lambda b: b.subscribe(topics.CAMERA_FRAME, seen.append))
    bus = join(site)
    sizes: list[int] = []

    def arrives() -> bool:
        size_bytes = min(400_000, bus.payload_bytes_max(FRAME))
        if bus.connected:
            sizes.append(size_bytes)
            with contextlib.suppress(BadPayloadError):  # the limit was learned this very moment
                bus.publish(FRAME, large_frame(size_bytes))
        return bool(seen)

    wait_until(arrives, timeout_s=30, what="a frame that fits")
    numbers = bus.statistics()
    assert isinstance(seen[0].content, Frame)
    assert 60_000 <= len(seen[0].payload) <= 120_000
    assert numbers.link.packet_limit_learned
    assert numbers.link.connections <= 5
    assert sum(numbers.link.losses.values()) == numbers.link.connections - 1


def test_a_state_that_has_become_too_large_does_not_cost_the_connection(able_site: SiteMaker, join: Join) -> None:
    site = able_site(packet_bytes_max=100_000)
    bus = join(site)
    evidence = topics.CAMERA_EVIDENCE.at("home", **YARD)
    bus._states[str(evidence)] = Outbound(str(evidence), bytes(200_000), 1, retain=True)
    bus.publish(topics.CAMERA_MOTION_ACTIVE.at("home", **YARD), "OFF")
    site.restart_empty()
    wait_until(lambda: bus.statistics().link.connections == 2 and bus.connected, timeout_s=20)
    assert (bus.statistics().states_unsent, bus.statistics().states_republished) == (1, 1)


def test_what_is_kept_expires_when_its_writer_wished_so(able_site: SiteMaker, join: Join) -> None:
    site = able_site()
    bus = join(site)
    bus.publish(topics.CAMERA_MOTION_ACTIVE.at("home", camera="gone"), "ON", expires_s=1)
    bus.publish(topics.CAMERA_MOTION_ACTIVE.at("home", camera="stays"), "OFF")

    def kept() -> set[str]:
        seen: list[Delivery] = []
        late = join(site, subscribe=lambda b: b.subscribe(topics.CAMERA_MOTION_ACTIVE, seen.append))
        wait_until(lambda: "stays" in {delivery.topic.camera for delivery in seen})
        late.close(0)
        return {delivery.topic.camera for delivery in seen}

    assert kept() == {"gone", "stays"}
    wait_until(lambda: kept() == {"stays"}, timeout_s=20, what="the end of what expired")


def test_two_with_one_name_do_not_fight_and_it_is_said(able_site: SiteMaker, join: Join) -> None:
    """Mosquitto 2.0 closes the connection of the first without a word; then it is known after a few losses."""
    site = able_site()
    with structlog.testing.capture_logs() as logs:
        both = [join(site, "same"), join(site, "same")]
        wait_until(lambda: said(logs), timeout_s=30, what="the word that the names are used twice")
        losses = sum(sum(bus.statistics().link.losses.values()) for bus in both)
        line = said(logs)[0]
    assert line["log_level"] == "error"
    assert "another process" in line["reason"]
    assert "give it another node or --role" in line["reason"]
    assert line["wait_s"] >= 4
    assert losses <= 12


def said(logs: Sequence[MutableMapping[str, Any]]) -> list[MutableMapping[str, Any]]:
    return [line for line in logs if line["event"] in {"bus.taken_over", "bus.unsteady"}]


def test_a_reader_that_was_away_catches_up_with_one_new_connection_and_loses_no_event(
    able_site: SiteMaker, join: Join
) -> None:
    site = able_site()
    blocked, frames, events = threading.Event(), list[float](), list[str]()

    def on_frame(delivery: Delivery) -> None:
        blocked.wait()
        frames.append(delivery.delay_s)

    def subscribe(bus: Bus) -> None:
        bus.subscribe(topics.CAMERA_FRAME, on_frame)
        bus.subscribe(topics.CAMERA_ESCALATION, lambda delivery: events.append(delivery.content.id))  # type: ignore[union-attr]

    settings = BusSettings(frame_age_max_s=0.2)
    reader = Bus(
        site="home",
        origin="node-1.reader",
        transports=site.transports("reader", persistent=True),
        settings=settings,
    )
    subscribe(reader)
    reader.start()
    assert reader.wait_connected(30)
    bus = join(site)
    ids = []
    stop = threading.Event()

    def film() -> None:
        for seq in itertools.count():
            if stop.wait(0.01):
                return
            bus.publish(FRAME, encode_frame(jpeg(), frame_meta(seq=seq, captured_at=datetime.now(UTC))))

    camera = threading.Thread(target=film)
    camera.start()
    wait_until(lambda: bus.statistics().published.get("frame", 0) >= 100)
    ids = [bus.publish_event(ESCALATION, escalation) for _ in range(20)]
    blocked.set()
    wait_until(lambda: set(events) >= set(ids), what="every escalation")
    wait_until(lambda: len(frames) > 20)
    stop.set()
    camera.join(5)
    assert max(frames[1:]) <= 0.2
    assert reader.statistics().frames_stale >= 50
    assert reader.statistics().link.connections <= 2
    reader.close(0)
