"""Half an hour without a bridge: 18,000 escalations wait, then `vigil bridge` comes while new ones are raised.

The escalations of the outage are raised in bulk and the process's clock is set half an hour ahead, so that they are as
old as they would be. Then ten a second are raised, the bridge comes, and its journal says the rest: what came in which
order, what is missing, what is there twice, and how long the new ones took beside the old.

    python bench/drain.py [--minutes MINUTES]
"""

from __future__ import annotations

import argparse
import itertools
import json
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from bench._site import SITE, running_role
from broker import Bus, NewEvent, connect
from broker.messages import Escalation
from broker.outbox import split_event_id
from broker.topics import CAMERA_ESCALATION, Topic
from config.clock import SystemClock
from config.settings import BusSettings, Settings
from tests.support.mosquitto import Mosquitto
from tests.support.waiting import wait_until

PER_S = 10
AT_ONCE = 100
SEEN_AFTER_S = 0.5
"""The sender looks at the time four times a second: what it has not seen when the clock is set would count as new."""
NEW_P99_MAX_S = 1.0
TIMEOUT_S = 300.0


class SetAhead(SystemClock):
    """The machine's clocks, of which the monotonic one can be set ahead."""

    ahead_s = 0.0

    def monotonic_s(self) -> float:
        """Seconds, as if time had passed."""
        return super().monotonic_s() + self.ahead_s


def raised(event_id: str) -> Escalation:
    """An escalation of now, without a picture."""
    now = datetime.now(UTC)
    return Escalation(
        id=event_id, camera="yard", rule="presence", kind="presence", severity="warning",
        summary="person at yard", label="person", score=0.9, captured_at=now, raised_at=now, frame_seq=7,
        worker="bench.detector",
    )  # fmt: skip


@dataclass(frozen=True)
class Stored:
    """One row of the journal."""

    event_id: str
    raised_s: float
    stored_s: float


def read_journal(path: Path) -> list[Stored]:
    """Every escalation, in the order in which it was stored."""
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as db:
        rows = db.execute("SELECT event_id, raised_at, stored_at FROM escalation ORDER BY id").fetchall()
    moments = [(one, datetime.fromisoformat(at), datetime.fromisoformat(stored)) for one, at, stored in rows]
    return [Stored(one, at.timestamp(), stored.timestamp()) for one, at, stored in moments]


def raise_in_bulk(bus: Bus, topic: Topic, count: int) -> list[str]:
    """So many, a hundred a transaction."""
    ids: list[str] = []
    while len(ids) < count:
        ids += bus.publish_events([NewEvent(topic, raised)] * min(AT_ONCE, count - len(ids)))
    return ids


def raise_until_drained(bus: Bus, topic: Topic) -> list[str]:
    """Ten a second until nothing waits but what was raised this moment."""
    ids: list[str] = []
    deadline_s = time.monotonic() + TIMEOUT_S
    while bus.statistics().outbox_rows > PER_S:
        assert time.monotonic() < deadline_s, f"{bus.statistics().outbox_rows} still wait after {TIMEOUT_S:.0f} s"
        ids.append(bus.publish_event(topic, raised))
        time.sleep(1 / PER_S)
    return ids


def run(folder: Path, count: int) -> tuple[list[str], list[str], float]:
    """Raise, drain; the ids of the outage, the ids of afterwards, and when the bridge was started."""
    (folder / "mosquitto").mkdir()
    (folder / "vigil.yaml").write_text(f"site: {SITE}\nnode: bench\n")
    clock = SetAhead()
    with Mosquitto(folder / "mosquitto") as server:
        settings = Settings(site=SITE, node="bench", state_dir=folder / "state", bus=BusSettings(url=server.url))
        bus = connect(settings, "detector", with_outbox=True, clock=clock)
        topic = CAMERA_ESCALATION.at(SITE, camera="yard", origin=bus.origin)
        try:
            bus.start()
            assert bus.wait_connected(10)
            started_s = time.perf_counter()
            old = raise_in_bulk(bus, topic, count)
            print(f"{count} escalations raised in {time.perf_counter() - started_s:.1f} s, no bridge")
            time.sleep(SEEN_AFTER_S)
            clock.ahead_s = count / PER_S
            bridge_s = time.time()
            with running_role(folder, server.url, ("bridge",)):
                new = raise_until_drained(bus, topic)
                wait_until(lambda: bus.statistics().outbox_rows == 0, timeout_s=30, what="the last receipts")
            print(f"sent again for want of a receipt: {bus.statistics().resent}")
        finally:
            bus.close(0)
    return old, new, bridge_s


def percentiles(seconds: Sequence[float]) -> tuple[float, float]:
    """The median and the 99th."""
    ordered = sorted(seconds)
    return ordered[len(ordered) // 2], ordered[int(len(ordered) * 0.99)]


def audit(state: Path) -> int:
    """What `vigil audit` says of it."""
    vigil = [sys.executable, "-m", "console", "--state", str(state), "--site", SITE, "audit", "--json"]
    done = subprocess.run(vigil, capture_output=True, text=True, check=False)
    sums = json.loads(done.stdout)["escalations"]
    print(f"vigil audit: {', '.join(f'{name} {sums[name]}' for name in ('raised', 'present', 'missing', 'repeated'))}")
    return done.returncode


def judge(journal: Sequence[Stored], old: Sequence[str], new: Sequence[str], bridge_s: float) -> bool:
    """Print what the journal says; whether it is as it must be."""
    is_new = set(new)
    behind = [row for row in journal if row.event_id not in is_new]
    ahead = [row for row in journal if row.event_id in is_new]
    present = {row.event_id for row in journal}
    missing, repeated = len({*old, *new} - present), len(journal) - len(present)
    sequences = [split_event_id(row.event_id)[2] for row in behind]
    disorder = sum(after < before for before, after in itertools.pairwise(sequences))
    span_s = behind[-1].stored_s - behind[0].stored_s
    met_s = behind[0].stored_s  # what was raised before that waited for the bridge to start
    new_p50, new_p99 = percentiles([row.stored_s - max(row.raised_s, met_s) for row in ahead])
    old_p50, old_p99 = percentiles([row.stored_s - met_s for row in behind])
    print(f"bridge started in {met_s - bridge_s:.1f} s; {len(behind)} old ones in {span_s:.1f} s: "
          f"{len(behind) / max(span_s, 1e-3):.0f} a second")  # fmt: skip
    print(f"raised meanwhile: {len(ahead)}, stored after {new_p50 * 1e3:.0f} ms (p50), {new_p99 * 1e3:.0f} ms (p99); "
          f"old ones after {old_p50:.1f} s, {old_p99:.1f} s")  # fmt: skip
    print(
        f"old ones out of order {disorder}, missing {missing}, repeated {repeated}, new ones p99 {new_p99:.3f} s "
        f"(target: 0, 0, 0, at most {NEW_P99_MAX_S:.0f} s)"
    )
    return not (disorder or missing or repeated) and new_p99 <= NEW_P99_MAX_S


def main() -> int:
    """Run, read the journal, judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    count = max(AT_ONCE, int(parser.parse_args().minutes * 60 * PER_S))
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        old, new, bridge_s = run(folder, count)
        status = audit(folder / "state")
        good = judge(read_journal(folder / "state" / "journal.db"), old, new, bridge_s)
    return 0 if good and status == 0 else 1


if __name__ == "__main__":
    raise SystemExit(main())
