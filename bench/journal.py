"""The journal over years: rows in, questions, files out, and old rows deleted beside live ones.

The file gets 300,000 movements of 400 B and 20,000 escalations of 4 KB, as a forwarder writes them. Then everything
is asked that `vigil escalations` and `vigil events` ask; all of it is exported; and retention makes half of it go while
2,000 messages a second come in.

    python bench/journal.py

Targets, and why: 13,000 rows/s in, since that is what the way into Kafka has to do, and the embedded default should be
no slower; a question in 50 ms, which a person takes for at once; 10,000 rows/s out, so that a year of a small site is
minutes; and with retention at work 99 of 100 writes within 150 ms, for an alarm must not wait for history to be
deleted, while the history goes faster than the messages come.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

from bench._site import SITE
from bridge.journal import EscalationFilter, EventFilter, Journal, JournalReader
from bridge.journal.export import export
from bridge.sink import Record, utc_text
from config.clock import SystemClock
from config.outside import RetentionSettings
from tests.support.waiting import wait_until

EVENTS = 300_000
ESCALATIONS = 20_000
BATCH = 1_000
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
CAMERAS = 20
ZONES = ("", ",door,", ",door,path,")
IN_MIN_PER_S = 13_000
ASK_MAX_S = 0.05
OUT_MIN_PER_S = 10_000
LIVE_PER_S = 2_000
LIVE_S = 10.0
LIVE_P99_MAX_S = 0.15
TIMEOUT_S = 300.0


class SetAhead(SystemClock):
    """The machine's clocks, of which the wall clock can be set ahead."""

    ahead = timedelta()

    def now(self) -> datetime:
        """The wall clock, as if time had passed."""
        return super().now() + self.ahead


def event(seq: int) -> Record:
    """A movement, one a second over all cameras."""
    camera, at = f"camera-{seq % CAMERAS}", utc_text(BEGAN + timedelta(seconds=seq))
    identity = f"node-{seq % CAMERAS}.edge:m1:{seq}"
    payload = (
        f'{{"id":"{identity}","motion_id":"m-{seq}","camera":"{camera}","type":"start","at":"{at}","score":0.25,'
        f'"boxes":[[0.1,0.1,0.2,0.2]],"path":"{"x" * 200}","v":1}}'
    )
    return Record(
        stream="camera_motion" if seq % 3 else "camera_track", event_id=identity, origin=f"node-{seq % CAMERAS}.edge",
        epoch="m1", seq=seq, site=SITE, camera=camera, at=at, payload=payload.encode(), received_s=0.0,
        details={"stream": "camera_motion" if seq % 3 else "camera_track", "type": "start",
                 "label": "" if seq % 3 else "person", "zones": ZONES[seq // 3 % 3]},
    )  # fmt: skip


def escalation(seq: int) -> Record:
    """An escalation, one in 15 s over all cameras."""
    camera, at = f"camera-{seq % CAMERAS}", utc_text(BEGAN + timedelta(seconds=15 * seq))
    identity = f"worker.detector:e1:{seq}"
    payload = f'{{"id":"{identity}","camera":"{camera}","rule":"presence","summary":"{"x" * 4_000}","v":1}}'
    return Record(
        stream="camera_escalation", event_id=identity, origin="worker.detector", epoch="e1", seq=seq, site=SITE,
        camera=camera, at=at, payload=payload.encode(), received_s=0.0,
        details={"rule": f"rule-{seq % 7}", "kind": "presence", "severity": "critical" if seq % 50 == 0 else "info",
                 "summary": "person at camera", "label": "person", "zones": ZONES[seq // 3 % 3], "score": 0.9,
                 "captured_at": at, "drill": int(seq % 100 == 0)},
    )  # fmt: skip


def batches(make: Callable[[int], Record], first: int, count: int) -> Iterator[list[Record]]:
    """Records as a forwarder hands them over."""
    for start in range(first, first + count, BATCH):
        yield [make(seq) for seq in range(start, min(start + BATCH, first + count))]


def fill(journal: Journal) -> float:
    """Rows a second in."""
    took_s = 0.0
    for made in (batches(escalation, 1, ESCALATIONS), batches(event, 1, EVENTS)):
        for batch in made:
            began_s = time.perf_counter()
            journal.write(batch)
            took_s += time.perf_counter() - began_s
    return (EVENTS + ESCALATIONS) / took_s


def ask(reader: JournalReader) -> float:
    """The slowest question, in seconds."""
    late = utc_text(BEGAN + timedelta(seconds=EVENTS - 3_600))
    early = utc_text(BEGAN + timedelta(seconds=3_600))
    questions: dict[str, Callable[[], object]] = {
        "the newest": lambda: reader.events(limit=50),
        "the newest of a camera": lambda: reader.events(EventFilter(camera="camera-7"), limit=50),
        "the first hour": lambda: reader.events(EventFilter(until=early), limit=50),
        "people at the door, last hour": lambda: reader.events(
            EventFilter(since=late, label="person", zone="door"), limit=50
        ),
        "tracks of a camera": lambda: reader.events(
            EventFilter(camera="camera-7", stream="camera_track"), limit=50
        ),
        "page 1,000": lambda: reader.events(before=EVENTS - 50_000, limit=50),
        "what came since": lambda: reader.events_after(EVENTS - 50, limit=50),
        "critical escalations": lambda: reader.entries(EscalationFilter(severity="critical"), limit=50),
        "drills of a rule": lambda: reader.entries(EscalationFilter(rule="rule-3", drill=True), limit=50),
        "critical ones of a camera, by rule": lambda: reader.entries(
            EscalationFilter(camera="camera-0", rule="rule-1", severity="critical"), limit=50
        ),
    }  # fmt: skip
    slowest_s = 0.0
    for name, question in questions.items():
        runs = []
        for _ in range(5):
            began_s = time.perf_counter()
            assert question(), f"nothing found: {name}"
            runs.append(time.perf_counter() - began_s)
        print(f"  {name:<36} {statistics.median(runs) * 1e3:8.2f} ms")
        slowest_s = max(slowest_s, statistics.median(runs))
    return slowest_s


def export_all(reader: JournalReader, folder: Path) -> float:
    """Rows a second out, in the slower format."""
    rates = []
    for suffix in ("jsonl", "parquet"):
        path = folder / f"events.{suffix}"
        began_s = time.perf_counter()
        rows = export(reader, EventFilter(), path)
        rates.append(rows / (time.perf_counter() - began_s))
        assert rows == EVENTS
        print(f"  {suffix:<8} {rates[-1]:10.0f} rows/s, {path.stat().st_size / 1e6:.1f} MB")
    return min(rates)


def expire(path: Path) -> tuple[float, float]:
    """Delete what is there while messages come in; the 99th of their writes in seconds, and deleted rows a second."""
    clock = SetAhead()
    clock.ahead = timedelta(days=100)
    journal = Journal(path, retention=RetentionSettings(days=90), clock=clock)
    journal.open(lambda _stored: None)
    waits, seq = [], EVENTS
    before = rows_in(path)
    size_before = path.stat().st_size
    began_s = time.perf_counter()
    while (now_s := time.perf_counter() - began_s) < LIVE_S:
        due = EVENTS + int(now_s * LIVE_PER_S)
        if due > seq:
            written_s = time.perf_counter()
            journal.write([event(number) for number in range(seq + 1, due + 1)])
            waits.append(time.perf_counter() - written_s)
            seq = due
        time.sleep(0.01)
    took_s = time.perf_counter() - began_s
    deleted = before + seq - EVENTS - rows_in(path)
    wait_until(lambda: rows_in(path) == seq - EVENTS, timeout_s=TIMEOUT_S, what="every old row to go")
    wait_until(lambda: path.stat().st_size < size_before / 2, timeout_s=TIMEOUT_S, what="the space")
    journal.close()
    ordered = sorted(waits)
    p99_s = ordered[int(len(ordered) * 0.99)]
    print(
        f"  {deleted} rows deleted in {took_s:.1f} s beside {LIVE_PER_S} new ones a second, whose writes took "
        f"{statistics.median(ordered) * 1e3:.1f} ms (p50), {p99_s * 1e3:.1f} ms (p99), {ordered[-1] * 1e3:.1f} ms "
        f"(most); the rest in {time.perf_counter() - began_s - took_s:.1f} s; the file went from "
        f"{size_before / 1e6:.0f} to {path.stat().st_size / 1e6:.0f} MB"
    )
    return p99_s, deleted / took_s


def rows_in(path: Path) -> int:
    """How many rows there are."""
    with closing(JournalReader(path)) as reader:
        return reader.count(EventFilter()) + reader.count(EscalationFilter())


def main() -> int:
    """Fill, ask, export, expire, judge."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "journal.db"
        journal = Journal(path)
        journal.open(lambda _stored: None)
        in_per_s = fill(journal)
        journal.close()
        print(f"{EVENTS + ESCALATIONS} rows in: {in_per_s:.0f} rows/s, {path.stat().st_size / 1e6:.0f} MB")
        with closing(JournalReader(path)) as reader:
            print("questions:")
            asked_s = ask(reader)
            print("exports:")
            out_per_s = export_all(reader, Path(place))
        print("retention:")
        p99_s, deleted_per_s = expire(path)
    print(
        f"in {in_per_s:.0f} rows/s (target {IN_MIN_PER_S}), slowest question {asked_s * 1e3:.1f} ms (target "
        f"{ASK_MAX_S * 1e3:.0f}), out {out_per_s:.0f} rows/s (target {OUT_MIN_PER_S}), writes beside retention "
        f"{p99_s * 1e3:.0f} ms p99 (target {LIVE_P99_MAX_S * 1e3:.0f}), deleted {deleted_per_s:.0f} rows/s "
        f"(target {LIVE_PER_S})"
    )
    good = in_per_s >= IN_MIN_PER_S and asked_s <= ASK_MAX_S and out_per_s >= OUT_MIN_PER_S
    return 0 if good and p99_s <= LIVE_P99_MAX_S and deleted_per_s >= LIVE_PER_S else 1


if __name__ == "__main__":
    sys.exit(main())
