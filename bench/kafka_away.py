"""Kafka away for ten minutes at 500 messages a second: what grows, what is lost, and how long until all is there?

A real Kafka is killed with SIGKILL (or frozen with SIGSTOP) and comes back so much later, while two senders go on
raising: escalations of 500 bytes and movements, through a real Mosquitto and a `vigil bridge`. Printed are the memory
of bridge and Mosquitto and the depth of the outboxes over time, then how long it takes to catch up beside live
traffic, in which order the backlog is in Kafka, and what `vigil audit` says.

What bounds everything: a sender has at most `bus.outbox.window` messages on their way, and keeps the rest on its disk
(`bus.outbox.rows_max` and `bytes_max`; here rows for the whole time); the bridge takes 10,000 messages or 64 MB and
answers no more; Mosquitto holds what the senders have on their way.

    python bench/kafka_away.py [--minutes M] [--mode at-least-once|exactly-once] [--freeze]
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from bench._outside import SITE, BridgeProcess, Senders, audit, kafka_settings, opened_senders, write_site
from bridge.kafka import read_event_ids
from broker.outbox import split_event_id
from config.log import configure_logging
from tests.support.kafka.server import KafkaServer
from tests.support.mosquitto import Mosquitto
from tests.support.waiting import wait_until

RATE_PER_S = 500
BEFORE_S = 5.0
SAMPLE_S = 1.0
LIVE_S = 11.0
"""What is younger than 10 s is live, and overtakes the backlog on purpose."""
GROWTH_MAX_MB = 150
"""The bridge takes at most 64 MB of messages on top of what it has anyway; each is there as bytes and as an object."""
TIMEOUT_S = 900.0


@dataclass(slots=True)
class Memory:
    """Resident memory of the bridge and of Mosquitto, and what waits, over time."""

    bridge_mb: list[float] = field(default_factory=list)
    mosquitto_mb: list[float] = field(default_factory=list)
    waiting: list[int] = field(default_factory=list)
    raised: list[Mapping[str, int]] = field(default_factory=list)

    def sample(self, bridge: BridgeProcess, mosquitto: Mosquitto, senders: Senders) -> None:
        """Note how it is now."""
        self.bridge_mb.append(resident_mb(bridge.pid or 0))
        self.mosquitto_mb.append(resident_mb(mosquitto.pid))
        self.waiting.append(senders.waiting)
        self.raised.append(senders.last_sequences())

    def told(self) -> str:
        """The last sample."""
        return (
            f"bridge {self.bridge_mb[-1]:6.1f} MB, mosquitto {self.mosquitto_mb[-1]:5.1f} MB, "
            f"{self.waiting[-1]:7d} in the outboxes"
        )


@dataclass(frozen=True, slots=True)
class Outage:
    """What was measured.

    Attributes:
        calm: memory before.
        away: memory while Kafka was away.
        catch_up_s: from Kafka's return until no more waits than before.
        last_old: the last sequence that was not live any more at the return, by line of the contract.
    """

    calm: Memory
    away: Memory
    catch_up_s: float
    last_old: Mapping[str, int]
    raised: int
    refused: int


def resident_mb(pid: int) -> float:
    """Of a process; 0 where it is not there."""
    try:
        return float(psutil.Process(pid).memory_info().rss) / 1e6
    except psutil.NoSuchProcess:
        return 0.0


def run(folder: Path, kafka: KafkaServer, away_s: float, mode: str, *, freeze: bool) -> Outage:
    """Before, away, and after."""
    (folder / "mosquitto").mkdir()
    write_site(folder, kafka.bootstrap, mode, mode)
    rows_max = int(2 * RATE_PER_S * (away_s + 120))
    with ExitStack() as stack:
        mosquitto = stack.enter_context(Mosquitto(folder / "mosquitto", settings=["set_tcp_nodelay true"]))
        bridge = stack.enter_context(BridgeProcess(folder, mosquitto.url))
        senders = stack.enter_context(opened_senders(folder, mosquitto.url, rows_max=rows_max, window=64))
        wait_until(lambda: bridge.has_said("bridge.started"), timeout_s=60, what="the bridge")
        stop = threading.Event()
        load = threading.Thread(target=senders.load, args=(RATE_PER_S, stop))
        load.start()
        stack.callback(load.join)
        stack.callback(stop.set)
        calm = watch(BEFORE_S, bridge, mosquitto, senders, "before")
        (kafka.freeze if freeze else kafka.kill)()
        away = watch(away_s, bridge, mosquitto, senders, "away")
        (kafka.thaw if freeze else kafka.start)()
        back_s = time.monotonic()
        last_old = away.raised[-1 - round(LIVE_S / SAMPLE_S)]
        wait_until(lambda: senders.waiting <= max(calm.waiting) + RATE_PER_S, timeout_s=TIMEOUT_S, what="the backlog")
        catch_up_s = time.monotonic() - back_s
        stop.set()
        load.join()
        wait_until(lambda: not senders.waiting, timeout_s=120, what="every receipt")
        away.sample(bridge, mosquitto, senders)
        print(f"{'all there':>10}: {away.told()}", flush=True)
        return Outage(calm, away, catch_up_s, last_old, senders.raised, senders.refused)


def watch(length_s: float, bridge: BridgeProcess, mosquitto: Mosquitto, senders: Senders, name: str) -> Memory:
    """Sample for so long; some ten lines of it are printed."""
    memory = Memory()
    begin_s = time.monotonic()
    for number in itertools.count():
        memory.sample(bridge, mosquitto, senders)
        if number % max(1, round(length_s / SAMPLE_S / 10)) == 0:
            print(f"{name:>6} {number * SAMPLE_S:4.0f} s: {memory.told()}", flush=True)
        due_s = begin_s + (number + 1) * SAMPLE_S
        if due_s - begin_s > length_s:
            return memory
        time.sleep(max(0.0, due_s - time.monotonic()))
    raise AssertionError("unreachable")


def disorder(bootstrap: str, mode: str, last_old: Mapping[str, int]) -> tuple[int, int]:
    """How many of the backlog lie behind a later one of their stream in Kafka, and how many there are."""
    sequences: dict[str, list[int]] = {}
    for stream, event_id in read_event_ids(kafka_settings(bootstrap, mode, mode), SITE):
        seq = split_event_id(event_id)[2]
        if seq <= last_old[stream]:
            sequences.setdefault(stream, []).append(seq)
    return sum(map(behind, sequences.values())), sum(map(len, sequences.values()))


def behind(sequence: Sequence[int]) -> int:
    """How many numbers come after a greater one."""
    return sum(number < highest for number, highest in zip(sequence, itertools.accumulate(sequence, max), strict=True))


def judge(folder: Path, kafka: KafkaServer, mode: str, outage: Outage, away_s: float) -> int:
    """Print what was found beside what must be."""
    status, found = audit(folder)
    sums = [found[kind] for kind in ("escalations", "events")]
    missing, repeated, present = (sum(kind[name] for kind in sums) for name in ("missing", "repeated", "present"))
    late, old = disorder(kafka.bootstrap, mode, outage.last_old)
    growth_mb = max(outage.away.bridge_mb) - max(outage.calm.bridge_mb)
    mosquitto_mb = max(outage.away.mosquitto_mb) - max(outage.calm.mosquitto_mb)
    print(
        f"outboxes at most {max(outage.away.waiting)} deep, {outage.refused} refused by them; caught up "
        f"{outage.catch_up_s:.1f} s after Kafka's return beside {RATE_PER_S} live a second "
        f"({max(outage.away.waiting) / max(outage.catch_up_s, 0.1):.0f} a second of the backlog)"
    )
    print(f"vigil audit: raised {outage.raised}, present {present}, missing {missing}, repeated {repeated}")
    print(
        f"{mode}, Kafka away {away_s / 60:g} min at {RATE_PER_S}/s: bridge grew {growth_mb:.1f} MB, Mosquitto "
        f"{mosquitto_mb:.1f} MB, missing {missing}, out of order {late} of {old} of the backlog, catch-up "
        f"{outage.catch_up_s:.1f} s (target: at most {GROWTH_MAX_MB} MB, missing 0, in order, and said)"
    )
    whole = status == 0 and missing == 0 and present == outage.raised > 0 and not outage.refused
    exact = mode == "at-least-once" or repeated == 0
    return 0 if whole and exact and late == 0 and growth_mb <= GROWTH_MAX_MB else 1


def main() -> int:
    """Run, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--mode", choices=["at-least-once", "exactly-once"], default="at-least-once")
    parser.add_argument("--freeze", action="store_true", help="SIGSTOP instead of SIGKILL")
    options = parser.parse_args()
    if options.minutes * 60 < 1.5 * LIVE_S:
        parser.error("with less than 0.3 minutes there is no backlog")
    configure_logging("error", "json")
    away_s = options.minutes * 60.0
    with tempfile.TemporaryDirectory(prefix="away-") as root:
        folder, kafka_folder = Path(root) / "site", Path(root) / "kafka"
        folder.mkdir()
        kafka_folder.mkdir()
        with KafkaServer(kafka_folder) as kafka:
            outage = run(folder, kafka, away_s, options.mode, freeze=options.freeze)
            return judge(folder, kafka, options.mode, outage, away_s)


if __name__ == "__main__":
    raise SystemExit(main())
