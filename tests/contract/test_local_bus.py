"""What a process with two components in it may rely on, with every kind of broker and with none."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from broker import topics
from broker.bus import Bus, Delivery, NewEvent
from broker.frames import Frame, decode_frame, encode_frame, reword_frame
from broker.local import Forward, LocalBus
from broker.memory import MemoryBroker
from broker.messages import Detections, Escalation, Message, ModelRef, MotionEvent, encode_json
from broker.outbox import Outbox, split_event_id
from broker.transport import Outbound, TransportEvents, TransportFactory
from config.errors import BadPayloadError
from config.settings import BusSettings, OutboxSettings
from tests.contract.brokers import Site
from tests.support.messages import AT, escalation, frame_meta, jpeg, motion, receipt
from tests.support.waiting import wait_until

ORIGIN = "node-1.edge"
FRAME = topics.CAMERA_FRAME.at("home", camera="yard")
SCORES = topics.CAMERA_DETECTIONS.at("home", camera="yard")
MOTION = topics.CAMERA_MOTION.at("home", camera="yard")
ALARM = topics.CAMERA_ESCALATION.at("home", camera="yard", origin=ORIGIN)
Join = Callable[..., LocalBus]
Listen = Callable[..., Bus]


@pytest.fixture
def join(tmp_path: Path) -> Iterator[Join]:
    """Makes buses of one process, one after another, and closes them."""
    buses: list[Bus] = []

    def make(transports: TransportFactory, forward: Forward | None = None) -> LocalBus:
        bus = LocalBus(
            site="home",
            origin=ORIGIN,
            transports=transports,
            outbox=Outbox(tmp_path / "edge.db", origin=ORIGIN),
            settings=BusSettings(outbox=OutboxSettings(resend_after_s=0.5)),
            forward=forward,
        )
        buses.append(bus)
        return bus

    yield make
    for bus in buses:
        bus.close(drain_s=0)


@pytest.fixture
def offline(join: Join) -> LocalBus:
    """A bus that never finds its broker; not started."""
    broker = MemoryBroker()
    broker.stop()
    return join(broker.transports("edge"))


@pytest.fixture
def listen(site: Site) -> Iterator[Listen]:
    """Makes started buses of other processes, with one subscription each, and closes them."""
    numbers = itertools.count()
    buses: list[Bus] = []

    def make(spec: topics.TopicSpec, handler: Callable[[Delivery], None]) -> Bus:
        role = f"console.{next(numbers) + 2}"
        bus = Bus(site="home", origin=f"node-2.{role}", transports=site.transports(role))
        buses.append(bus)
        bus.subscribe(spec, handler)
        bus.start()
        assert bus.wait_connected(15)
        return bus

    yield make
    for bus in buses:
        bus.close(drain_s=0)


def frame(seq: int, camera: str = "yard", **changes: object) -> bytes:
    return encode_frame(jpeg(), frame_meta(camera, seq, **changes))


def scores(seq: int) -> Detections:
    model = ModelRef(name="m", sha256="ab" * 32)
    return Detections(
        camera="yard", frame_seq=seq, worker=ORIGIN, model=model, width=64, height=48, captured_at=AT, received_at=AT,
        infer_started_at=AT, infer_ms=1.0, batch=1, published_at=AT,
    )  # fmt: skip


def seqs(deliveries: list[Delivery]) -> list[int]:
    return [d.content.meta.seq for d in deliveries if isinstance(d.content, Frame)]


def unmarked(frame: Frame) -> bytes:
    return reword_frame(frame, msgspec.structs.replace(frame.meta, detect=False))


# --- with every broker ------------------------------------------------------------------------------------------


def test_a_frame_is_worked_on_here_and_seen_elsewhere(site: Site, join: Join, listen: Listen) -> None:
    here: list[Delivery] = []
    there: list[Delivery] = []
    listen(topics.CAMERA_FRAME, there.append)
    bus = join(site.transports("edge"), unmarked)
    bus.subscribe(topics.CAMERA_FRAME, here.append)
    bus.start()
    assert bus.wait_connected(15)
    numbers = itertools.count(1)

    def arrives() -> bool:
        bus.publish(FRAME, frame(next(numbers)))
        return bool(here and there)

    wait_until(arrives)
    assert isinstance(here[0].content, Frame)
    assert isinstance(there[0].content, Frame)
    assert here[0].content.meta.detect
    assert not there[0].content.meta.detect  # so that nobody else scores it


def test_an_event_is_told_once_whoever_raised_it(site: Site, join: Join) -> None:
    heard: list[str] = []

    def note(delivery: Delivery) -> None:
        assert isinstance(delivery.content, Escalation)
        heard.append(delivery.content.id)

    bus = join(site.transports("edge"))
    bus.subscribe(topics.CAMERA_ESCALATION, note, camera="yard")
    bus.start()
    assert bus.wait_connected(15)
    own = bus.publish_event(ALARM, escalation)
    wait_until(lambda: own in heard, what="what was raised here")
    wait_until(lambda: bus.statistics().awaiting_receipt, what="the broker's word")
    # Raised after ours was at the broker: when this is here, ours has come back too.
    say(site, topics.CAMERA_ESCALATION.at("home", camera="yard", origin="node-3.drill"), escalation("node-3.drill:e:1"))
    wait_until(lambda: "node-3.drill:e:1" in heard, what="what was raised elsewhere")
    assert heard == [own, "node-3.drill:e:1"]


def say(site: Site, topic: topics.Topic, message: Message) -> None:
    """Publish one message, without an outbox."""
    client = site.transports("somebody")(TransportEvents(lambda _message: None, lambda _number, _refusal: None), None)
    client.open()
    thread = threading.Thread(target=client.run, daemon=True)
    thread.start()
    client.publish(Outbound(str(topic), encode_json(message), 1, retain=False))
    client.close()
    thread.join(5)


def test_what_was_raised_without_a_broker_is_delivered_when_there_is_one(site: Site, join: Join) -> None:
    ids: list[str] = []

    def raise_three() -> None:
        bus = join(site.transports("edge"))
        bus.start()
        ids.extend(bus.publish_event(ALARM, escalation) for _ in range(3))
        assert not bus.connected
        bus.close(drain_s=0)

    site.restart_empty(raise_three)
    arrived: list[str] = []
    bridge = Bus(site="home", origin="hub.bridge", transports=site.transports("bridge"))

    def store(delivery: Delivery) -> None:
        assert isinstance(delivery.content, Escalation)
        arrived.append(delivery.content.id)
        origin, _, _ = split_event_id(delivery.content.id)
        bridge.publish(topics.RECEIPT.at("home", origin=origin), receipt(delivery.content.id, delivery.payload))

    bridge.subscribe(topics.CAMERA_ESCALATION, store)
    bridge.start()
    assert bridge.wait_connected(15)
    bus = join(site.transports("edge"))
    bus.start()
    try:
        wait_until(lambda: not bus.statistics().outbox_rows, timeout_s=20, what="an empty outbox")
    finally:
        bridge.close(drain_s=0)
    assert arrived[:3] == ids


# --- without any ------------------------------------------------------------------------------------------------


def test_frames_scores_and_alarms_go_from_one_component_to_the_other(offline: LocalBus) -> None:
    heard: list[Message] = []

    def score(delivery: Delivery) -> None:
        assert isinstance(delivery.content, Frame)
        offline.publish(SCORES, scores(delivery.content.meta.seq))
        offline.publish_event(ALARM, escalation)

    def note(delivery: Delivery) -> None:
        assert isinstance(delivery.content, Detections | Escalation)
        heard.append(delivery.content)

    offline.subscribe(topics.CAMERA_FRAME, score)
    offline.subscribe(topics.CAMERA_DETECTIONS, note)
    offline.subscribe(topics.CAMERA_ESCALATION, note, camera="yard")
    offline.start()
    offline.publish(FRAME, frame(7))
    wait_until(lambda: len(heard) == 2)
    assert {type(message) for message in heard} == {Detections, Escalation}
    assert offline.statistics().outbox_rows == 1
    assert offline.statistics().link.connections == 0


def test_a_slow_reader_gets_the_newest_frame_of_each_camera_and_holds_nobody_up(offline: LocalBus) -> None:
    taken: list[Delivery] = []
    entered, go_on = threading.Event(), threading.Event()

    def slow(delivery: Delivery) -> None:
        taken.append(delivery)
        entered.set()
        assert go_on.wait(20)

    offline.subscribe(topics.CAMERA_FRAME, slow)
    offline.start()
    offline.publish(FRAME, frame(1))
    assert entered.wait(10)
    door = topics.CAMERA_FRAME.at("home", camera="door")
    for seq in range(2, 40):
        offline.publish(FRAME, frame(seq))
        offline.publish(door, frame(seq, camera="door"))
    assert seqs(taken) == [1]  # nobody waited for it
    go_on.set()
    wait_until(lambda: len(taken) == 3)
    assert [(d.topic.camera, seq) for d, seq in zip(taken, seqs(taken), strict=True)] == [
        ("yard", 1), ("yard", 39), ("door", 39),
    ]  # fmt: skip
    assert offline.statistics().local_replaced == 2 * 37


def test_events_overtake_frames_and_are_counted_when_nobody_takes_them(
    offline: LocalBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker.local._EVENTS_MAX", 2)
    order: list[str] = []
    entered, go_on = threading.Event(), threading.Event()

    def on_frame(_delivery: Delivery) -> None:
        order.append("frame")
        entered.set()
        assert go_on.wait(20)

    offline.subscribe(topics.CAMERA_FRAME, on_frame)
    offline.subscribe(topics.CAMERA_MOTION, lambda _delivery: order.append("motion"))
    offline.start()
    offline.publish(FRAME, frame(1))
    assert entered.wait(10)
    offline.publish(FRAME, frame(2))
    ids = [offline.publish_event(MOTION, motion) for _ in range(4)]
    go_on.set()
    wait_until(lambda: order.count("frame") == 2)
    assert order == ["frame", "motion", "motion", "frame"]
    assert offline.statistics().local_missed == 2
    assert offline.statistics().outbox_rows == len(ids) == 4  # missed here, not lost


def test_events_published_together_are_told_too(offline: LocalBus) -> None:
    heard: list[str] = []

    def note(delivery: Delivery) -> None:
        assert isinstance(delivery.content, MotionEvent)
        heard.append(delivery.content.id)

    offline.subscribe(topics.CAMERA_MOTION, note)
    offline.start()
    ids = offline.publish_events([NewEvent(MOTION, motion)] * 2)
    wait_until(lambda: len(heard) == 2)
    assert heard == ids


def test_a_frame_is_wanted_where_somebody_takes_it(offline: LocalBus) -> None:
    assert not offline.wants(FRAME)
    offline.subscribe(topics.CAMERA_FRAME, lambda _delivery: None, camera="yard")
    assert offline.wants(FRAME)
    assert not offline.wants(topics.CAMERA_FRAME.at("home", camera="door"))


def test_a_frame_that_is_kept_back_is_counted_and_worked_on_here(join: Join) -> None:
    broker = MemoryBroker()
    here: list[Delivery] = []
    there: list[Delivery] = []
    listener = Bus(site="home", origin="node-2.console", transports=broker.transports("console"))
    listener.subscribe(topics.CAMERA_FRAME, there.append)
    listener.start()
    bus = join(broker.transports("edge"), lambda one: one.jpeg if one.meta.moving else None)
    bus.subscribe(topics.CAMERA_FRAME, here.append)
    bus.start()
    try:
        assert listener.wait_connected(5)
        assert bus.wait_connected(5)
        for seq in (1, 2, 3):
            bus.publish(FRAME, frame(seq, moving=seq == 2))
            wait_until(lambda seq=seq: seqs(here)[-1:] == [seq])  # type: ignore[misc]
        wait_until(lambda: there)
    finally:
        listener.close(drain_s=0)
    assert seqs(there) == [2]
    assert bus.statistics().frames_kept_back == 2


def test_what_is_no_frame_is_refused(offline: LocalBus) -> None:
    with pytest.raises(BadPayloadError, match="not a JPEG"):
        offline.publish(FRAME, b"GIF89a")


def test_a_picture_keeps_its_bytes_under_other_words() -> None:
    bare = jpeg()
    one = decode_frame(encode_frame(bare, frame_meta(seq=4)))
    other = decode_frame(reword_frame(one, msgspec.structs.replace(one.meta, detect=False)))
    assert (other.meta.seq, other.meta.detect) == (4, False)
    assert other.jpeg.count(b'"camera"') == 1
    assert other.jpeg.endswith(bare[2:])
