"""What a durable publish costs: the outbox's rate on one core, and each delivery class beside plain paho.

The outbox is measured alone, pinned to one core: one caller, sixteen callers, many messages at once. Then each class
goes through a Bus to a real Mosquitto, events and escalations on to a real `vigil bridge` and back with their receipts;
plain paho sends as many bytes in the same run. CPU is this process's, with all its threads, until all is confirmed.

    python bench/bus.py [--count MESSAGES]
"""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from bench._site import SITE, running_role
from broker import Bus, NewEvent
from broker._paho import paho_transports
from broker.messages import Escalation, MotionEvent, encode_json
from broker.outbox import Outbox, OutboxMessage
from broker.topics import (
    CAMERA_DETECTIONS,
    CAMERA_ESCALATION,
    CAMERA_MOTION,
    CAMERA_SET,
    CAMERA_STATE,
    NODE_REPLY,
    Topic,
    origin_of,
)
from broker.transport import Transport, TransportEvents
from config import configure_logging
from config.settings import BusSettings
from tests.support.mosquitto import Mosquitto
from tests.support.waiting import wait_until

TARGET_PER_S = 5_000
THREADS = 16
AT_ONCE = 100
ORIGIN = origin_of("bench", "edge")
AT = datetime(2026, 1, 1, tzinfo=UTC)
TIMEOUT_S = 120.0


def movement(event_id: str) -> MotionEvent:
    """A message of the usual size."""
    box = (0.1234, 0.2345, 0.3456, 0.4567)
    return MotionEvent(
        id=event_id, motion_id=event_id, camera="yard", type="update", started_at=AT, at=AT, boxes=(box, box)
    )


def alarm(event_id: str) -> Escalation:
    """An escalation without a picture."""
    return Escalation(
        id=event_id, camera="yard", rule="presence", kind="presence", severity="warning",
        summary="person at yard", label="person", score=0.9, captured_at=AT, raised_at=AT, frame_seq=7, worker=ORIGIN,
    )  # fmt: skip


def measure(what: str, count: int, publish: Callable[[], object], confirmed: Callable[[], bool]) -> float:
    """Run, print a line, return messages a second."""
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    publish()
    call_s = time.perf_counter() - wall_s
    wait_until(confirmed, timeout_s=TIMEOUT_S, what=f"the end of {what}")
    wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
    figures = (call_s / count * 1e6, wall_s / count * 1e6, cpu_s / count * 1e6)
    print(f"{what:<44}{count / wall_s:>9.0f}" + "".join(f"{figure:>12.1f}" for figure in figures))
    return count / wall_s


def head(title: str) -> None:
    """Print the line above the figures."""
    print(f"\n{title:<44}{'a second':>9}{'call us':>12}{'wall us':>12}{'CPU us':>12}")


def on_threads(work: Callable[[int], object], count: int) -> None:
    """Do it on many threads at once."""
    threads = [threading.Thread(target=work, args=(count // THREADS,)) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@contextlib.contextmanager
def one_core() -> Iterator[None]:
    """Let this process have one core only."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def outbox_rate(folder: Path, count: int) -> tuple[float, float]:
    """Durable publishes a second on one core, by many callers and by many messages at once."""
    count -= count % (THREADS * AT_ONCE)
    box = Outbox(folder / "alone.db", origin=ORIGIN, rows_max=10 * count)
    message = OutboxMessage(
        CAMERA_MOTION.name, str(topic_of(CAMERA_MOTION)), lambda one: encode_json(movement(one)), 1, durable=True
    )

    def put(times: int) -> None:
        for _ in range(times):
            box.put_many((message,))

    head(f"outbox on one core, {len(encode_json(movement(ORIGIN + ':00000000:1')))} bytes each")
    with one_core():
        measure("one caller", count // 4, lambda: put(count // 4), lambda: True)
        threads = measure(f"{THREADS} callers", count, lambda: on_threads(put, count), lambda: True)
        at_once = measure(
            f"{AT_ONCE} at once",
            count,
            lambda: [box.put_many((message,) * AT_ONCE) for _ in range(count // AT_ONCE)],
            lambda: True,
        )
    assert box.rows == count // 4 + 2 * count
    box.close()
    return threads, at_once


def topic_of(spec: object) -> Topic:
    """A topic of the line of the contract."""
    names = {"camera": "yard", "origin": ORIGIN, "property": "mode", "node": "bench", "role": "edge"}
    for line in (CAMERA_DETECTIONS, CAMERA_ESCALATION, CAMERA_MOTION, CAMERA_SET, CAMERA_STATE, NODE_REPLY):
        if line is spec:
            return line.at(SITE, **{name: names[name] for name in line.placeholders})
    raise ValueError(spec)


class Counted:
    """A bus whose confirmations are counted."""

    def __init__(self, url: str, outbox: Outbox) -> None:
        settings = BusSettings(url=url)
        make = paho_transports(settings, client_id="bench-bus", persistent=False, window=128)
        self.confirmed = 0

        def transports(events: TransportEvents, will: object) -> Transport:
            del will

            def on_sent(number: int, refusal: str | None) -> None:
                self.confirmed += 1
                events.on_sent(number, refusal)

            return make(TransportEvents(events.on_message, on_sent), None)

        self.bus = Bus(site=SITE, origin=ORIGIN, transports=transports, settings=settings, outbox=outbox)

    def publish(self, topic: Topic, count: int) -> None:
        """Publish so many that are not stored."""
        for _ in range(count):
            self.bus.publish(topic, movement("n.edge:00000000:1"))

    def measure(self, topic: Topic, count: int) -> None:
        """Publish, and wait for as many confirmations."""
        before = self.confirmed
        what = f"{topic.spec.delivery} (QoS {topic.spec.qos})"
        measure(what, count, lambda: self.publish(topic, count), lambda: self.confirmed - before >= count)

    def measure_stored(self, topic: Topic, count: int, build: Callable[[str], MotionEvent | Escalation]) -> None:
        """Publish, and wait for as many receipts: one caller, then many messages at once."""
        publish, empty = partial(self.bus.publish_event, topic, build), lambda: not self.bus.statistics().outbox_rows
        what = f"{topic.spec.delivery}, with its receipt"
        measure(what, count, lambda: [publish() for _ in range(count)], empty)
        batch = [NewEvent(topic, build)] * AT_ONCE
        publish_many = partial(self.bus.publish_events, batch)
        measure(f"{what}, {AT_ONCE} at once", count, lambda: [publish_many() for _ in range(count // AT_ONCE)], empty)


def measure_paho(url: str, qos: int, count: int) -> None:
    """The same bytes with nothing around them."""
    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="bench-paho", protocol=mqtt.MQTTv5)
    client.max_inflight_messages_set(128)
    sent: list[int] = []
    client.on_publish = lambda _client, _userdata, mid, _reason, _properties: sent.append(mid)
    address = url.removeprefix("mqtt://").split(":")
    client.connect(address[0], int(address[1]))
    client.loop_start()
    wait_until(client.is_connected)
    payload = encode_json(movement("n.edge:00000000:1"))
    topic = str(topic_of(CAMERA_MOTION)) + "/plain"
    measure(
        f"plain paho, QoS {qos}",
        count,
        lambda: [client.publish(topic, payload, qos) for _ in range(count)],
        lambda: len(sent) >= count,
    )
    client.disconnect()
    client.loop_stop()


def measure_classes(folder: Path, count: int) -> None:
    """Each class through a bus, beside plain paho."""
    (folder / "mosquitto").mkdir()
    (folder / "vigil.yaml").write_text(f"site: {SITE}\nnode: bench\n")
    with Mosquitto(folder / "mosquitto") as server, running_role(folder, server.url, ("bridge",)):
        counted = Counted(server.url, Outbox(folder / "bus.db", origin=ORIGIN))
        counted.bus.start()
        assert counted.bus.wait_connected(10)
        head("a publish by delivery class")
        try:
            for qos in (0, 1):
                measure_paho(server.url, qos, count)
            for spec in (CAMERA_DETECTIONS, CAMERA_STATE, NODE_REPLY, CAMERA_SET):
                counted.measure(topic_of(spec), count)
            counted.measure_stored(topic_of(CAMERA_MOTION), count, movement)
            counted.measure_stored(topic_of(CAMERA_ESCALATION), count, alarm)
        finally:
            counted.bus.close(0)


def main() -> int:
    """Run, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=4_000)
    options = parser.parse_args()
    count = max(THREADS * AT_ONCE, options.count)
    configure_logging("error")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        by_callers, at_once = outbox_rate(folder, 5 * count)
        measure_classes(folder, count)
    print(
        f"\ndurable publishes on one core: {by_callers:.0f}/s by {THREADS} callers, {at_once:.0f}/s {AT_ONCE} at once "
        f"(target: at least {TARGET_PER_S}/s in one of the two)"
    )
    return 0 if max(by_callers, at_once) >= TARGET_PER_S else 1


if __name__ == "__main__":
    raise SystemExit(main())
