"""Fake alarms that somebody orders of a camera: through the outbox, marked, with a picture where one may be seen."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from broker import Frame
from broker.messages import Escalation
from broker.topics import CAMERA_ESCALATION, CAMERA_EVIDENCE
from config import PermanentError
from tests.support.waiting import wait_until
from tests.unit.edge.scripted import Shot, Street, live, still


def lives(count: int = 4) -> list[Iterator[Shot]]:
    return [live() for _ in range(count)]


def raised(street: Street, camera: str = "yard") -> list[Escalation]:
    return [d.content for d in street.heard(CAMERA_ESCALATION, camera) if isinstance(d.content, Escalation)]


def test_it_goes_through_the_outbox_marked_and_with_the_next_picture(tmp_path: Path) -> None:
    with Street(tmp_path, {"yard": lives()}) as street:
        wait_until(lambda: street.states()[-1:] and street.states()[-1].state == "online")
        street.tell("drill", "critical", about="d")
        event_id = street.reply("d").result["event_id"]
        wait_until(lambda: raised(street))
        wait_until(lambda: list(street.heard(CAMERA_EVIDENCE, "yard")))
    (drill,) = raised(street)
    assert (drill.id, drill.drill, drill.severity, drill.kind) == (event_id, True, "critical", "drill")
    assert event_id.startswith("node-1.edge:")
    (picture,) = drill.evidence
    assert hashlib.sha256(picture.data).hexdigest() == picture.sha256
    kept = next(street.heard(CAMERA_EVIDENCE, "yard")).content
    assert isinstance(kept, Frame)
    assert (kept.meta.camera, kept.meta.seq) == ("yard", drill.frame_seq)


def test_with_privacy_on_it_goes_without_a_picture_and_none_is_kept(tmp_path: Path) -> None:
    with Street(tmp_path, {"yard": lives()}) as street:
        street.tell("privacy", "ON", about="p")
        assert street.reply("p").ok
        street.tell("drill", "now", about="d")
        assert street.reply("d").ok
        wait_until(lambda: raised(street))
    (drill,) = raised(street)
    assert (drill.evidence, drill.severity) == ((), "info")
    assert list(street.heard(CAMERA_EVIDENCE, "yard")) == []


def test_a_camera_that_gives_no_pictures_raises_it_all_the_same(tmp_path: Path) -> None:
    with Street(tmp_path, {"yard": [still(1)], "door": [PermanentError("no way to it")]}) as street:
        wait_until(lambda: street.states("door")[-1:] and street.states("door")[-1].state == "error")
        street.tell("drill", "now", camera="door", about="door")
        assert street.reply("door").ok
        wait_until(lambda: street.looked_at == 10)
        street.tell("drill", "now", about="yard")
        wait_until(lambda: street.node.figures().counts["orders"] == 2)
        street.clock.advance(6)
        assert street.reply("yard").ok
        wait_until(lambda: raised(street) and raised(street, "door"))
    assert [escalation.evidence for escalation in (*raised(street), *raised(street, "door"))] == [(), ()]
