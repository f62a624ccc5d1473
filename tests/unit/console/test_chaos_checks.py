"""A check that cannot fail is no check: each is shown what it is there to find.

The evidence is made by the code that makes it in a mesh, outbox, journal and `vigil audit`, and then spoilt.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from bridge.cli import audit
from bridge.journal import Journal
from bridge.sink import Record
from broker.messages import Message, encode_json
from broker.outbox import Outbox
from broker.session import outbox_path
from config.settings import Settings
from console.chaos.checks import check_audit, check_journal, check_promises, read_journal, split
from console.chaos.logbook import Logbook
from console.verdict import AuditReport
from tests.support.messages import escalation, motion
from tests.unit.bridge.records import delivery

ORIGIN = "chaos.drill"


class Site:
    """What is left of a run: an outbox, a journal, and the ids that were promised."""

    def __init__(self, folder: Path) -> None:
        self.settings = Settings(site="chaos", node="chaos", state_dir=folder)
        self.journal = folder / "journal.db"
        self.outbox = Outbox(outbox_path(self.settings, "drill"), origin=ORIGIN)
        self.promised: list[str] = []
        self.messages: list[Message] = []
        for _ in range(10):
            self.escalate()
            start = self.move("start")
            self.move("end", start)

    def escalate(self) -> None:
        self._put("camera_escalation", lambda identity: escalation(identity, "gate"), durable=True)

    def move(self, step: str, start: str | None = None) -> str:
        def build(identity: str) -> Message:
            return motion(identity, "gate", type=step, motion_id=start or identity)

        return self._put("camera_motion", build, durable=False, opens=step == "start", closes=start)

    def _put(
        self,
        stream: str,
        build: Callable[[str], Message],
        *,
        durable: bool,
        opens: bool = False,
        closes: str | None = None,
    ) -> str:
        made: list[Message] = []

        def encoded(identity: str) -> bytes:
            made.append(build(identity))
            return encode_json(made[-1])

        topic = f"{stream}/gate"
        identity = self.outbox.put(stream, topic, encoded, priority=0, durable=durable, opens=opens, closes=closes)
        self.promised.append(identity)
        self.messages.append(made[-1])
        return identity

    def deliver(self) -> None:
        """Everything so far into the sink, and its receipts back."""
        journal = Journal(self.journal)
        journal.open(lambda _stored: None)
        records = [
            Record.of(delivery(message, camera="gate", origin=ORIGIN), received_s=0.0)  # type: ignore[arg-type]
            for message in self.messages
        ]
        journal.write(records)
        journal.close()
        self.outbox.settle([(record.event_id, record.digest) for record in records])
        self.outbox.flush()

    def spoil(self, statement: str) -> None:
        with closing(sqlite3.connect(self.journal)) as db:
            assert db.execute(statement).rowcount == 1
            db.commit()

    def audited(self) -> AuditReport:
        done = CliRunner().invoke(audit, ["--json"], obj=lambda _overrides: self.settings)
        return msgspec.json.decode(done.output, type=AuditReport)

    def findings(self) -> list[str]:
        report = self.audited()
        return [
            *check_audit(report, may_repeat=False),
            *check_promises(report, self.promised),
            *check_journal(read_journal(self.journal), self.promised),
        ]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_a_run_that_held(site: Site) -> None:
    site.deliver()
    assert site.findings() == []
    escalations, events = split(site.audited())
    assert (escalations.raised, escalations.present, events.raised, events.present) == (10, 10, 20, 20)


def test_an_escalation_that_is_gone_is_found_by_three_checks(site: Site) -> None:
    site.deliver()
    site.spoil("DELETE FROM escalation WHERE seq = 4")
    findings = site.findings()
    assert findings[0] == "1 missing: camera_escalation of chaos.drill, (4, 4)"
    assert findings[1].startswith("1 that were promised are not in the sink: chaos.drill:")
    assert findings[2].startswith("1 that were promised are not in the journal: chaos.drill:")


def test_the_newest_one_is_missed_too(site: Site) -> None:
    site.deliver()
    site.spoil("DELETE FROM escalation WHERE seq = 10")
    assert "1 missing: camera_escalation of chaos.drill, (10, 10)" in site.findings()


def test_an_event_that_is_gone(site: Site) -> None:
    site.deliver()
    site.spoil("DELETE FROM event WHERE seq = 2")
    findings = site.findings()
    assert findings[0] == "1 missing: camera_motion of chaos.drill, (2, 2)"
    assert any(finding.startswith("1 began and have no end: chaos.drill:") for finding in findings)


def test_one_that_is_there_twice(site: Site) -> None:
    site.deliver()
    site.spoil(
        "INSERT INTO escalation SELECT 1000 + id, event_id, x'00', origin, epoch, seq, site, camera, rule, kind, "
        "severity, summary, label, zones, score, captured_at, raised_at, stored_at, drill, payload FROM escalation "
        "WHERE seq = 3"
    )
    findings = site.findings()
    assert findings[0] == "1 repeated in the journal: camera_escalation of chaos.drill"
    assert findings[1].startswith("1 are in the journal more than once: chaos.drill:")
    assert check_audit(site.audited(), may_repeat=True) == []


def test_one_that_nobody_has_sent(site: Site) -> None:
    site.deliver()
    site.escalate()
    findings = site.findings()
    assert findings[0] == "1 still waiting in an outbox: camera_escalation of chaos.drill"
    assert findings[1].startswith("1 that were promised are not in the journal: chaos.drill:")


def test_a_movement_may_not_stand_open(site: Site) -> None:
    start = site.move("start")
    site.deliver()
    assert site.findings() == [f"1 began and have no end: {start}"]


def test_a_movement_ends_once(site: Site) -> None:
    start = site.move("start")
    site.move("end", start)
    site.move("end", start)
    site.deliver()
    assert site.findings() == [f"1 ended more than once: {start}"]


def test_an_end_needs_a_start(site: Site) -> None:
    site.move("end", "chaos.drill:e1:99")
    site.deliver()
    assert site.findings() == ["1 have an end and never began: chaos.drill:e1:99"]


def test_what_a_sink_has_and_nobody_raised(site: Site) -> None:
    site.deliver()
    site.outbox.close()
    outbox_path(site.settings, "drill").unlink()
    findings = check_audit(site.audited(), may_repeat=False)
    assert "nobody has raised camera_escalation of chaos.drill, yet the sink has some" in findings
    assert "no escalation was raised" in findings


def logged(**entry: object) -> str:
    return json.dumps({"level": "info", **entry})


@pytest.mark.parametrize(
    ("line", "finding"),
    [
        (logged(event="bus.connected"), None),
        (logged(event="bus.disconnected", level="warning"), None),
        (logged(event="motion.refused", level="error", error="disk I/O error"), None),
        (logged(event="thread.ended", level="error", error="no"), "edge: thread.ended no"),
        (
            logged(event="thread.retrying", level="warning", exception="Traceback\n  File\nKeyError: 3"),
            "edge: thread.retrying with a traceback: KeyError: 3",
        ),
        ("Segmentation fault", "edge: Segmentation fault"),
        ("vigil: no broker answers", None),
        ("3 escalations raised; they are on disk", None),
    ],
)
def test_what_a_log_may_not_say(tmp_path: Path, line: str, finding: str | None) -> None:
    logbook = Logbook(tmp_path)
    logbook.listener("edge")("stdout", line)
    logbook.close()
    assert logbook.faults() == ([] if finding is None else [finding])
    assert (tmp_path / "edge.log").read_text() == f"{line}\n"


def test_a_log_is_counted_and_remembers_last_words(tmp_path: Path) -> None:
    logbook = Logbook(tmp_path)
    logbook.add("edge", logged(event="bus.connected"))
    logbook.add("edge", logged(event="bus.connected"))
    logbook.add("edge", "vigil: the disk is full")
    logbook.close()
    assert logbook.count("edge", "bus.connected") == 2
    assert logbook.take_last_words("edge") == "the disk is full"
    assert logbook.take_last_words("edge") == ""
