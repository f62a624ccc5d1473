"""Every reason for which Kafka does not take a record, on a real Kafka with rights: where each lands, and who is told.

Mosquitto, a single-node Kafka whose user has no rights but those that it is given, and `vigil bridge`. For each cause
something is raised, and its receipt waited for; what has no id that can be read gets none, and is looked for in the
topic. Then the causes are cured, `vigil dead-letters replay` sends everything where it belongs, and `vigil audit` says
before and after that nothing is missing.

    python bench/dead_letters.py
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from confluent_kafka.admin import (  # type: ignore[attr-defined] # its stubs forget them
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    ResourceType,
)

from bench._site import SITE, running_role
from bridge.kafka.dead_letters import UNREADABLE, DeadLetter, dead_letters_in
from broker import Bus, Delivery, connect, listen
from broker.messages import Evidence, Message, NodeStatus, Receipt, Receipts
from broker.topics import CAMERA_CLIP, CAMERA_ESCALATION, CAMERA_MOTION, CAMERA_TRACK, NODE_STATUS, RECEIPT, Topic
from config.settings import BusSettings, KafkaSettings, Settings
from tests.support.kafka.server import KafkaServer
from tests.support.messages import escalation, motion, track
from tests.support.mosquitto import Mosquitto
from tests.support.waiting import wait_until

REFUSAL_S = 2
RIGHTS_S = 1.0
SMALL_BYTES = 20_000
LARGE_BYTES = 60_000
TIMEOUT_S = 60
ESCALATIONS, MOTION, TRACKS, CLIPS = "vigil.escalations", "vigil.motion", "vigil.tracks", "vigil.clips"
LETTERS, SMALL_LETTERS = "vigil.dead-letters", "vigil.small-letters"


class Nonsense(Message, frozen=True, kw_only=True):
    """Something that is no message of the contract."""

    nonsense: str = "yes"


class Strange(Message, frozen=True, kw_only=True):
    """The same, with an id."""

    id: str


@dataclass
class World:
    """What runs, and what was heard."""

    folder: Path
    kafka: KafkaServer
    url: str
    sender: Bus
    receipts: dict[str, Receipt] = field(default_factory=dict)
    raised: int = 0
    rows: list[tuple[str, str, bool]] = field(default_factory=list)

    def on_receipts(self, delivery: Delivery) -> None:
        """Remember them."""
        if isinstance(delivery.content, Receipts):
            self.receipts |= {receipt.event_id: receipt for receipt in delivery.content.receipts}

    def letters(self, topic: str = LETTERS) -> list[DeadLetter]:
        """What is in the topic now."""
        plain = KafkaSettings.model_validate({"bootstrap": self.kafka.bootstrap, "topics": {"dead_letters": topic}})
        return list(dead_letters_in(plain))

    def run(self, cause: str, topic: Topic, build: Callable[[str], Message], wanted: str) -> bool:
        """Raise something, wait for its receipt, and note where it landed."""
        self.raised += 1
        event_id = self.sender.publish_event(topic, build)
        wait_until(lambda: event_id in self.receipts, timeout_s=TIMEOUT_S, what=f"the receipt of: {cause}")
        receipt = self.receipts[event_id]
        return self.note(cause, f"{receipt.sink}: {receipt.location}", receipt.sink == wanted, receipt=True)

    def note(self, cause: str, where: str, good: bool, *, receipt: bool) -> bool:  # noqa: FBT001
        """Print one line of the table."""
        print(f"{cause:<52}  {where:<44}  receipt {'yes' if receipt else 'no'}", flush=True)
        return good

    def vigil(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command on the same state; through the plain door, where everybody may do everything."""
        config = self.folder / "plain.yaml"
        bridge = {"kafka": kafka_section(self.kafka.bootstrap, LETTERS)}
        config.write_text(json.dumps({"site": SITE, "node": "bench", "bridge": bridge}))
        options = ["--config", str(config), "--state", str(self.folder / "state")]
        command = [sys.executable, "-m", "console", *options, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def audit(self) -> dict[str, int]:
        """Sums over escalations and events."""
        told = json.loads(self.vigil("audit", "--json").stdout)
        names = ("present", "quarantined", "waiting", "missing", "repeated")
        return {name: told["escalations"][name] + told["events"][name] for name in names}


def kafka_section(bootstrap: str, letters: str) -> dict[str, object]:
    """`bridge.kafka`, one topic a cause."""
    topics = {"escalation": ESCALATIONS, "motion": MOTION, "track": TRACKS, "clip": CLIPS, "dead_letters": letters}
    return {"bootstrap": bootstrap, "refusal_s": REFUSAL_S, "topics": topics}


def large(event_id: str, size_bytes: int = LARGE_BYTES) -> Message:
    """An escalation with a picture that does not compress."""
    picture = random.Random(1).randbytes(size_bytes)
    evidence = Evidence(content_type="image/jpeg", sha256="0" * 64, width=1, height=1, data=picture)
    return escalation(event_id, evidence=(evidence,))


def start_bridge(world: World, letters: str, stack: ExitStack) -> None:
    """A bridge that comes as the user with rights, and wait for its birth."""
    section = kafka_section(world.kafka.security.bootstrap("sasl_plaintext"), letters)
    door = world.kafka.security
    login = {"mechanism": "PLAIN", "username": door.user, "password": door.password}
    security = {"protocol": "sasl_plaintext", **login}
    site = {"site": SITE, "node": "bench", "bridge": {"kafka": section | {"security": security}}}
    (world.folder / "vigil.yaml").write_text(json.dumps(site))
    states: list[str] = []
    watcher = listen(Settings(site=SITE, node="bench", bus=BusSettings(url=world.url)), "console")

    def on_status(delivery: Delivery) -> None:
        if isinstance(delivery.content, NodeStatus) and not delivery.retained:
            states.append(delivery.content.state)

    watcher.subscribe(NODE_STATUS, on_status, role="bridge")
    watcher.start()
    stack.callback(watcher.close, 0)
    assert watcher.wait_connected(10)
    stack.enter_context(running_role(world.folder, world.url, ("bridge",)))
    wait_until(lambda: "online" in states, timeout_s=TIMEOUT_S, what="the bridge")


def make_topic(kafka: KafkaServer, topic: str, bytes_max: int) -> None:
    """A topic that takes no larger batch."""
    wanted = NewTopic(topic, 1, 1, config={"max.message.bytes": str(bytes_max)})
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    admin.create_topics([wanted])[topic].result(30)


def deny(kafka: KafkaServer, topic: str) -> None:
    """Take the right to write away; it takes the broker a moment to know."""
    kafka.deny(topic)
    time.sleep(RIGHTS_S)


def raise_limit(kafka: KafkaServer, topic: str) -> None:
    """Let a topic take large records."""
    entry = ConfigEntry("max.message.bytes", "2097152", incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    admin.incremental_alter_configs([resource])[resource].result(30)


def with_a_topic(world: World) -> list[bool]:
    """The causes whose dead letters land in the topic."""
    place = {"camera": "yard", "origin": world.sender.origin}
    with ExitStack() as stack:
        start_bridge(world, LETTERS, stack)
        good = [
            world.run("none", CAMERA_ESCALATION.at(SITE, **place), escalation, "kafka"),
            world.run("too large for its topic", CAMERA_ESCALATION.at(SITE, **place), large, "dead-letters"),
        ]
        deny(world.kafka, MOTION)
        good.append(world.run("no right to its topic", CAMERA_MOTION.at(SITE, camera="yard"), motion, "dead-letters"))
        admin = AdminClient({"bootstrap.servers": world.kafka.bootstrap})
        admin.delete_topics([TRACKS])[TRACKS].result(30)
        good.append(world.run("no such topic", CAMERA_TRACK.at(SITE, camera="yard"), track, "dead-letters"))
        good.append(
            world.run(
                "no message of the contract, with an id",
                CAMERA_CLIP.at(SITE, camera="yard"),
                lambda event_id: Strange(id=event_id),
                "dead-letters",
            )
        )
        world.raised += 1
        event_id = world.sender.publish_event(CAMERA_CLIP.at(SITE, camera="yard"), lambda _id: Nonsense())

        def nameless() -> list[DeadLetter]:
            return [letter for letter in world.letters() if letter.code == UNREADABLE and not letter.event_id]

        wait_until(nameless, timeout_s=TIMEOUT_S, what="the dead letter of what has no id")
        told = event_id in world.receipts
        where = f"dead-letters: {nameless()[0].location}"
        good.append(world.note("no message of the contract, without an id", where, not told, receipt=told))
    return good


def without_a_topic(world: World) -> list[bool]:
    """The causes that end in the quarantine on this machine."""
    topic = CAMERA_ESCALATION.at(SITE, camera="yard", origin=world.sender.origin)
    make_topic(world.kafka, SMALL_LETTERS, SMALL_BYTES)
    with ExitStack() as stack:
        start_bridge(world, SMALL_LETTERS, stack)
        good = [world.run("too large for the dead letters too", topic, large, "quarantine")]
        notices = [letter for letter in world.letters(SMALL_LETTERS) if letter.whole_at]
        print(f"{'':<52}  {len(notices)} notice in {SMALL_LETTERS} says where the whole one is")
        deny(world.kafka, SMALL_LETTERS)
        good.append(world.run("too large, and no right to the dead letters", topic, large, "quarantine"))
    return [*good, len(notices) == 1]


def cure_and_replay(world: World) -> list[bool]:
    """Give everything what it lacks (the second bridge has made the topic of tracks anew), send again, and count."""
    before = world.audit()
    print(f"vigil audit: {before}")
    world.kafka.allow(MOTION)
    raise_limit(world.kafka, ESCALATIONS)
    replayed = world.vigil("dead-letters", "replay")
    print(f"vigil dead-letters replay: {replayed.stdout.splitlines()[0] if replayed.stdout else replayed.stderr}")
    after = world.audit()
    print(f"vigil audit: {after}")
    return [
        before["missing"] == before["repeated"] == 0,
        before["quarantined"] == world.raised - 2,
        replayed.returncode == 0,
        after["missing"] == after["repeated"] == 0,
        after["quarantined"] == 1,
    ]


def main() -> int:
    """Run, judge."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    with tempfile.TemporaryDirectory() as place, ExitStack() as stack:
        folder = Path(place)
        for name in ("kafka", "mosquitto"):
            (folder / name).mkdir()
        kafka = stack.enter_context(KafkaServer(folder / "kafka", secured=True))
        broker = stack.enter_context(Mosquitto(folder / "mosquitto"))
        settings = Settings(site=SITE, node="bench", state_dir=folder / "state", bus=BusSettings(url=broker.url))
        sender = connect(settings, "edge", with_outbox=True)
        stack.callback(sender.close, 0)
        world = World(folder, kafka, broker.url, sender)
        sender.subscribe(RECEIPT, world.on_receipts, origin=sender.origin)
        sender.start()
        assert sender.wait_connected(10)
        make_topic(kafka, ESCALATIONS, SMALL_BYTES)
        good = [*with_a_topic(world), *without_a_topic(world), *cure_and_replay(world)]
    print(f"{sum(good)} of {len(good)} checks hold (target: all)")
    return 0 if all(good) else 1


if __name__ == "__main__":
    raise SystemExit(main())
