"""Kill -9 of the bridge, of Kafka and of Mosquitto at random: is everything in Kafka, and how often?

A real Kafka, a real Mosquitto that keeps what it has, two senders with real outboxes and a `vigil bridge`. From each
seed come two to four kills within some seconds, in both modes of `bridge.kafka.mode`. Then everything is let drain, and
`vigil audit` reads the topics back as a consumer with isolation.level=read_committed does.

    python bench/bridge_chaos.py [--seeds N] [--first-seed N] [--mode at-least-once|exactly-once]
"""

from __future__ import annotations

import argparse
import random
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from bench._outside import BridgeProcess, Senders, audit, opened_senders, write_site
from config.log import configure_logging
from tests.support.kafka.server import KafkaServer
from tests.support.mosquitto import Mosquitto
from tests.support.waiting import wait_until

MODES = ("at-least-once", "exactly-once")
VICTIMS = ("bridge", "kafka", "mosquitto")
RATE_PER_S = 300
FAULTS_S = 5.0
FIRST_S = 1.0
"""Kafka forgets a topic whose making it was killed too soon after (see `KafkaServer`); topics are made before this."""
DOWN_S = (0.05, 1.0)
DRAIN_S = 90.0


@dataclass(frozen=True, slots=True)
class Kill:
    """What dies when, and when it is started again."""

    at_s: float
    victim: str
    down_s: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one run.

    Attributes:
        left: messages that had no receipt in the end.
        repeated: records beyond one of each, as a read_committed reader sees them.
    """

    mode: str
    seed: int
    kills: tuple[Kill, ...]
    raised: int
    present: int
    missing: int
    repeated: int
    left: int
    took_s: float

    @property
    def holds(self) -> bool:
        """Whether it is as its mode promises."""
        whole = not self.missing and not self.left and self.present == self.raised > 0
        return whole and (self.mode == "at-least-once" or not self.repeated)

    def told(self) -> str:
        """One line of the table."""
        died = " ".join(f"{kill.victim}@{kill.at_s:.1f}" for kill in self.kills)
        return (
            f"{self.mode:<13} {self.seed:>4} {self.raised:>6} {self.present:>7} {self.missing:>7} {self.repeated:>8} "
            f"{self.left:>5} {self.took_s:>6.1f}  {died}{'' if self.holds else '  MISSED'}"
        )


def schedule(seed: int) -> list[Kill]:
    """Two to four kills, in order."""
    chosen = random.Random(seed)
    count = chosen.randint(2, 4)
    victims = [*chosen.sample(VICTIMS, min(count, 3)), *chosen.choices(VICTIMS, k=max(0, count - 3))]
    times = sorted(chosen.uniform(FIRST_S, FAULTS_S) for _ in victims)
    return [Kill(at_s, victim, chosen.uniform(*DOWN_S)) for at_s, victim in zip(times, victims, strict=True)]


def run(
    folder: Path, kafka: KafkaServer, mode: str, kills: Sequence[Kill], *, seed: int = 0, faults_s: float = FAULTS_S
) -> Outcome:
    """Some kills in one mode."""
    begin_s = time.monotonic()
    (folder / "mosquitto").mkdir()
    write_site(folder, kafka.bootstrap, mode, f"{mode}-{seed}")
    settings = ["set_tcp_nodelay true", "max_queued_messages 100000", "max_inflight_messages 1000"]
    with (
        Mosquitto(folder / "mosquitto", persistent=True, settings=settings) as mosquitto,
        BridgeProcess(folder, mosquitto.url) as bridge,
        opened_senders(folder, mosquitto.url) as senders,
    ):
        wait_until(lambda: bridge.has_said("bridge.started"), timeout_s=60, what="the bridge")
        load_and_kill(senders, kills, faults_s, bridge, Servers(kafka, mosquitto))
        left = drained(senders)
        raised = senders.raised
    _, found = audit(folder)
    sums = [found[kind] for kind in ("escalations", "events")]
    return Outcome(
        mode=mode,
        seed=seed,
        kills=tuple(kills),
        raised=raised,
        present=sum(kind["present"] for kind in sums),
        missing=sum(kind["missing"] for kind in sums),
        repeated=sum(kind["repeated"] for kind in sums),
        left=left,
        took_s=time.monotonic() - begin_s,
    )


class Servers(NamedTuple):
    """What is killed besides the bridge."""

    kafka: KafkaServer
    mosquitto: Mosquitto


def load_and_kill(
    senders: Senders, kills: Sequence[Kill], faults_s: float, bridge: BridgeProcess, servers: Servers
) -> None:
    """Raise for as long as the faults take, and carry them out."""
    stop = threading.Event()
    load = threading.Thread(target=senders.load, args=(RATE_PER_S, stop))
    load.start()
    begin_s = time.monotonic()
    try:
        for kill in kills:
            time.sleep(max(0.0, begin_s + kill.at_s - time.monotonic()))
            if kill.victim == "bridge":
                bridge.kill()
                continue
            server = servers.kafka if kill.victim == "kafka" else servers.mosquitto
            server.kill()
            time.sleep(kill.down_s)
            server.start()
        time.sleep(max(0.0, begin_s + faults_s - time.monotonic()))
    finally:
        stop.set()
        load.join()


def drained(senders: Senders) -> int:
    """Wait until every message has its receipt; how many have none when that takes too long."""
    deadline_s = time.monotonic() + DRAIN_S
    while senders.waiting and time.monotonic() < deadline_s:
        time.sleep(0.05)
    return senders.waiting


def main() -> int:
    """Run every seed in both modes, print a line for each, and judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--mode", choices=MODES, help="only this one")
    options = parser.parse_args()
    configure_logging("error", "json")
    outcomes: list[Outcome] = []
    print(f"{'mode':<13} seed raised present missing repeated  left   took  killed (-9) at second", flush=True)
    with tempfile.TemporaryDirectory(prefix="chaos-") as root:
        (Path(root) / "kafka").mkdir()
        with KafkaServer(Path(root) / "kafka") as kafka:
            for seed in range(options.first_seed, options.first_seed + options.seeds):
                for mode in [options.mode] if options.mode else MODES:
                    folder = Path(root) / f"{mode}-{seed}"
                    folder.mkdir()
                    outcomes.append(run(folder, kafka, mode, schedule(seed), seed=seed))
                    print(outcomes[-1].told(), flush=True)
    return judge(outcomes)


def judge(outcomes: list[Outcome]) -> int:
    """The sums beside what they must be."""
    for mode in MODES:
        ran = [outcome for outcome in outcomes if outcome.mode == mode]
        if not ran:
            continue
        target = "missing 0, repeated 0" if mode == "exactly-once" else "missing 0, repeated counted"
        print(
            f"{mode}: {len(ran)} seeds, {sum(len(outcome.kills) for outcome in ran)} kills -9, "
            f"{sum(outcome.raised for outcome in ran)} raised, {sum(outcome.present for outcome in ran)} in Kafka, "
            f"missing {sum(outcome.missing for outcome in ran)}, repeated {sum(outcome.repeated for outcome in ran)}, "
            f"without a receipt {sum(outcome.left for outcome in ran)} (target: {target}, without a receipt 0)"
        )
    return 0 if outcomes and all(outcome.holds for outcome in outcomes) else 1


if __name__ == "__main__":
    raise SystemExit(main())
