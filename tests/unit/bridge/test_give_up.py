"""A bridge that loses cameras while their messages wait holds up nobody, and answers for nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge.forward import Forwarder
from tests.support.messages import escalation
from tests.support.waiting import wait_until
from tests.unit.bridge.records import FakeSink
from tests.unit.bridge.street import Street, identity


@pytest.fixture
def street(tmp_path: Path) -> Iterator[Street]:
    made = Street(tmp_path)
    yield made
    made.close()


def serve_only(forwarder: Forwarder, served: set[str]) -> None:
    forwarder._serves = lambda camera: camera in served


def test_what_the_sink_has_taken_of_a_lost_camera_is_acknowledged_without_a_receipt(street: Street) -> None:
    sink = FakeSink(at_once=False)
    forwarder, _ = street.bridge(sink)
    street.say(escalation(identity(1), camera="yard"), camera="yard")
    street.say(escalation(identity(2), camera="door"), camera="door")
    wait_until(lambda: len(sink.taken) == 2, what="both")
    forwarder.give_up(lambda camera: camera == "yard")
    wait_until(lambda: street.unacknowledged() == 1, what="the acknowledgement")
    sink.report(sink.taken)
    wait_until(lambda: street.unacknowledged() == 0 and street.receipts, what="the other and its receipt")
    assert street.receipted() == [identity(2)]
    assert forwarder.figures().counts["foreign"] == 1


def test_a_lost_camera_at_the_head_of_what_waits_lets_the_others_pass(street: Street) -> None:
    sink = FakeSink()
    sink.room = 0
    served = {"yard", "door"}
    forwarder, _ = street.bridge(sink)
    serve_only(forwarder, served)
    for seq, camera in ((1, "yard"), (2, "door"), (3, "yard")):
        street.say(escalation(identity(seq), camera=camera), camera=camera)
    wait_until(lambda: street.unacknowledged() == 3 and sink.writes, what="all three")
    served.remove("yard")
    wait_until(lambda: street.unacknowledged() == 2, what="the first; acknowledgements keep the order of arrival")
    sink.room = 10
    wait_until(lambda: street.unacknowledged() == 0, what="the other")
    assert [taken.event_id for taken in sink.taken] == [identity(2)]
    wait_until(lambda: street.receipts, what="its receipt")
    assert street.receipted() == [identity(2)]


def test_a_camera_that_comes_back_is_written_when_it_is_sent_again(street: Street) -> None:
    sink = FakeSink(at_once=False)
    forwarder, _ = street.bridge(sink)
    street.say(escalation(identity(1)))
    wait_until(lambda: sink.taken, what="the first")
    forwarder.give_up(lambda _camera: True)
    wait_until(lambda: street.unacknowledged() == 0, what="the acknowledgement")
    street.say(escalation(identity(1)))
    wait_until(lambda: len(sink.taken) == 2, what="the same once more")
    sink.report(sink.taken[1:])
    wait_until(lambda: street.receipts, what="its receipt")
    assert street.unacknowledged() == 0
