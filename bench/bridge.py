"""How many escalations a second one bridge carries from a real Mosquitto into a real Kafka, acknowledged afterwards.

Mosquitto (as `vigil broker run` sets it), a single-node Kafka, `vigil bridge` and the load share two cores. The load is
150,000 escalations of 500 bytes of eight senders and 32 cameras, of which so many are without a receipt at any time as
the senders' outboxes together would let be. Measured are the receipts a second after the first tenth, and from them how
long each took: within the bridge (from its reading a message off the wire to its knowing that Kafka has it), and from
the sender's side (from publishing to receipt; that is mostly the time in the window, so a second run with 1,000 a
second shows what a site sees). Afterwards every id is looked for in Kafka. CPU time is that of each process over the
whole run.

A shared machine is as fast as its neighbours let it be: each mode runs three times, and the median counts. How long
Mosquitto takes for the same message says how fast the machine was.

    python bench/bridge.py [--mode at-least-once|exactly-once] [--runs RUNS] [--count COUNT] [--window WINDOW]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from bench._flood import ORIGINS, PAYLOAD_BYTES
from bench._outside import audit
from bench._site import SITE, running_role
from broker import listen
from broker.messages import NodeStatus
from broker.topics import NODE_STATUS
from config.settings import BusSettings, Settings
from tests.support.kafka.server import KafkaServer
from tests.support.mosquitto import Mosquitto
from tests.support.waiting import wait_until

TARGET_PER_S = 13_000
COUNT = 150_000
WINDOW = 3_000
CORES = 2
WARM_UP = 0.1
CALM_PER_S = 1_000
CALM_COUNT = 10_000
TIMEOUT_S = 300
MODES = ("at-least-once", "exactly-once")
BROKER = (
    "max_queued_messages 1000000",
    "max_queued_bytes 1000000000",
    "max_inflight_messages 1000",
    "set_tcp_nodelay true",
)


@dataclass(frozen=True)
class Run:
    """What one run has shown.

    Attributes:
        per_s: receipts a second, after the first tenth.
        within_ms: of each of these, milliseconds within the bridge,
        around_ms: and from publishing to receipt.
        batch: escalations in one message of receipts.
        cpu_us: microseconds of CPU time for each escalation, by process.
        lost: ids that are not in Kafka.
        repeated: records beyond one of each.
        unreceipted: escalations without a receipt.
    """

    per_s: float
    within_ms: Sequence[float]
    around_ms: Sequence[float]
    batch: float
    cpu_us: dict[str, float]
    lost: int
    repeated: int
    unreceipted: int


def measure(folder: Path, mode: str, count: int, window: int, per_s: int = 0) -> Run:
    """One run, everything new."""
    for name in ("kafka", "mosquitto"):
        (folder / name).mkdir()
    with ExitStack() as stack:
        kafka = stack.enter_context(KafkaServer(folder / "kafka"))
        broker = stack.enter_context(Mosquitto(folder / "mosquitto", persistent=True, settings=BROKER))
        (folder / "vigil.yaml").write_text(
            f"site: {SITE}\nnode: bench\nbridge: {{kafka: {{bootstrap: '{kafka.bootstrap}', mode: {mode}}}}}\n"
        )
        bridge = stack.enter_context(running_role(folder, broker.url, ("bridge",)))
        wait_online(broker.url)
        processes = {"bridge": bridge.pid, "mosquitto": broker.pid, "kafka": kafka.pid}
        before = {name: cpu_s(pid) for name, pid in processes.items()}
        told = flood(broker, count, window, per_s)
        used = {name: cpu_s(pid) - before[name] for name, pid in processes.items()} | {"load": told["cpu_s"]}
        records = kafka.consume("vigil.escalations")
        status, found = audit(folder)
    sums = found["escalations"]
    print(f"vigil audit: present {sums['present']}, missing {sums['missing']}, repeated {sums['repeated']}")
    assert status == 0, "vigil audit finds something missing"
    ids = Counter(record.headers["ce_id"] for record in records)
    return evaluate(told, count, {name: seconds / count * 1e6 for name, seconds in used.items()}, ids)


def wait_online(url: str) -> None:
    """Wait for the bridge's birth."""
    online: list[str] = []
    bus = listen(Settings(site=SITE, node="bench", bus=BusSettings(url=url)), "console")
    bus.subscribe(
        NODE_STATUS,
        lambda delivery: online.extend([delivery.content.state] if isinstance(delivery.content, NodeStatus) else []),
        role="bridge",
    )
    bus.start()
    try:
        wait_until(lambda: "online" in online, timeout_s=60, what="the bridge")
    finally:
        bus.close(0)


def cpu_s(pid: int) -> float:
    """CPU seconds that a process has used."""
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system


def flood(broker: Mosquitto, count: int, window: int, per_s: int) -> dict[str, Any]:
    """Let the load run, as a process of its own."""
    numbers = map(str, (broker.port, count, window, per_s))
    command = [sys.executable, "-m", "bench._flood", broker.host, *numbers]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=TIMEOUT_S)
    return dict(json.loads(done.stdout))


def evaluate(told: dict[str, Any], count: int, cpu_us: dict[str, float], ids: Counter[bytes | None]) -> Run:
    """What the load saw and what Kafka has, as figures."""
    first = int(count * WARM_UP)
    came = [
        (receipted_s, sent_s, within_ms)
        for receipted_s, sent_s, within_ms in zip(told["receipted_s"], told["sent_s"], told["latency_ms"], strict=True)
        if receipted_s is not None
    ]
    measured = sorted(came)[first:]
    span_s = measured[-1][0] - measured[0][0]
    wanted = {f"node-{number % ORIGINS}.edge:flood:{number // ORIGINS + 1}".encode() for number in range(count)}
    return Run(
        per_s=(len(measured) - 1) / span_s,
        within_ms=sorted(within_ms for _, _, within_ms in measured),
        around_ms=sorted((receipted_s - sent_s) * 1e3 for receipted_s, sent_s, _ in measured),
        batch=len(came) / told["receipt_messages"],
        cpu_us=cpu_us,
        lost=len(wanted - ids.keys()),
        repeated=ids.total() - len(ids),
        unreceipted=count - len(came),
    )


def percentile(ordered: Sequence[float], share: float) -> float:
    """The value below which this share lies."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def show(mode: str, run: Run) -> None:
    """Print it."""
    cpu = ", ".join(f"{name} {used_us:.0f}" for name, used_us in run.cpu_us.items())
    print(f"{mode}: {run.per_s:.0f} escalations/s of {PAYLOAD_BYTES} B")
    for name, ordered in (("receive to Kafka's word", run.within_ms), ("publish to receipt", run.around_ms)):
        print(f"  {name}: p50 {percentile(ordered, 0.5):.1f} ms, p99 {percentile(ordered, 0.99):.1f} ms")
    print(f"  receipts a message: {run.batch:.0f}; CPU µs an escalation: {cpu}")
    print(f"  lost {run.lost}, repeated {run.repeated}, without receipt {run.unreceipted}", flush=True)


def main() -> int:
    """Run, read back, judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mode", choices=MODES, action="append", help="Only this one.")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--count", type=int, default=COUNT)
    parser.add_argument("--window", type=int, default=WINDOW)
    options = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])  # and with it everything that is started here
    runs: dict[str, list[Run]] = {}
    for mode in options.mode or MODES:
        for _ in range(options.runs):
            with tempfile.TemporaryDirectory() as folder:
                runs.setdefault(mode, []).append(measure(Path(folder), mode, options.count, options.window))
            show(mode, runs[mode][-1])
        with tempfile.TemporaryDirectory() as folder:
            calm = measure(Path(folder), mode, CALM_COUNT, options.window, CALM_PER_S)
        show(f"{mode}, {CALM_PER_S} a second", calm)
    lost = sum(run.lost + run.unreceipted for some in runs.values() for run in some)
    per_s = {mode: statistics.median(run.per_s for run in some) for mode, some in runs.items()}
    told = ", ".join(f"{mode} {rate:.0f} escalations/s" for mode, rate in per_s.items())
    print(f"{told} (medians), lost or without receipt {lost} (target: at least {TARGET_PER_S} on {CORES} cores, 0)")
    return 0 if not lost and min(per_s.values()) >= TARGET_PER_S else 1


if __name__ == "__main__":
    raise SystemExit(main())
