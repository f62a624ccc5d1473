from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from broker import decode_frame
from broker.messages import Evidence
from broker.topics import CAMERA_STATE
from console import live as live_module
from console.live import CAMERAS_KEPT, ESCALATIONS_KEPT, EVENTS_WAITING_MAX, LiveFeed, PageMailbox
from tests.support.messages import camera_state, jpeg
from tests.unit.console.deliveries import delivery, detections, escalated, frame, motion_active, receipt


class Page(PageMailbox):
    def __init__(self) -> None:
        self.woken = 0
        super().__init__(self._on_wake)

    def _on_wake(self) -> None:
        self.woken += 1

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(item) for item in self.take() if isinstance(item, str)]


def evidence(picture: bytes) -> Evidence:
    return Evidence(
        content_type="image/jpeg", sha256=hashlib.sha256(picture).hexdigest(), width=64, height=48, data=picture
    )


def test_a_slow_page_gets_the_latest_picture_of_each_camera_and_every_other_is_counted() -> None:
    page = Page()
    for number in range(5):
        page.offer_frame("yard", b"yard %d" % number)
        page.offer_frame("gate", b"gate %d" % number)
    assert page.take() == [b"yard 4", b"gate 4"]
    assert page.frames_replaced == 8
    assert page.take() == []


def test_a_slow_page_loses_the_oldest_messages_and_they_are_counted() -> None:
    page = Page()
    for number in range(EVENTS_WAITING_MAX + 3):
        page.offer_event(str(number))
    waiting = page.take()
    assert (waiting[0], len(waiting), page.events_dropped) == ("3", EVENTS_WAITING_MAX, 3)


def test_a_page_is_woken_once_until_it_looks() -> None:
    page = Page()
    for _ in range(3):
        page.offer_event("x")
    assert page.woken == 1
    page.take()
    page.offer_frame("yard", b"x")
    assert page.woken == 2


def test_pictures_that_wait_are_bounded_in_number_and_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    page = Page()
    for number in range(CAMERAS_KEPT + 2):
        page.offer_frame(f"c{number}", b"x")
    assert len(page.take()) == CAMERAS_KEPT
    monkeypatch.setattr(live_module, "FRAME_BYTES_MAX", 100)
    for name in ("a", "b", "c"):
        page.offer_frame(name, name.encode() * 40)
    assert page.take() == [b"b" * 40, b"c" * 40]


def test_pictures_go_out_as_the_bytes_that_came() -> None:
    feed, page = LiveFeed(), Page()
    feed.join(page)
    page.take()
    came = frame(seq=7)
    feed.on_delivery(came)
    (picture,) = page.take()
    assert isinstance(picture, bytes)
    assert picture == came.payload
    assert decode_frame(picture).meta.seq == 7
    assert feed.frame("yard") == came.payload


def test_a_picture_that_claims_to_be_another_cameras_is_left_out() -> None:
    feed = LiveFeed()
    feed.on_delivery(frame("yard", claims="gate"))
    assert feed.frame("yard") is None
    assert feed.frame("gate") is None


def test_scores_and_motion_go_out_with_the_camera_of_their_topic() -> None:
    feed, page = LiveFeed(), Page()
    feed.join(page)
    page.take()
    feed.on_delivery(detections(seq=7))
    feed.on_delivery(motion_active("ON"))
    scores, motion = page.events()
    assert (scores["kind"], scores["camera"], scores["message"]["frame_seq"]) == ("detections", "yard", 7)
    assert motion == {"kind": "motion_active", "camera": "yard", "active": True}


def test_an_escalation_is_listed_once_with_its_picture_and_then_where_it_is() -> None:
    feed, page = LiveFeed(), Page()
    feed.join(page)
    page.take()
    picture = jpeg()
    for _ in range(2):
        feed.on_delivery(escalated(1, evidence=(evidence(picture),)))
    feed.on_delivery(receipt(1))
    feed.on_delivery(receipt(1))
    raised, stored = page.events()
    identity = raised["item"]["id"]
    assert (raised["kind"], raised["item"]["pictures"], raised["item"]["stored"]) == ("escalation", 1, None)
    assert "data" not in json.dumps(raised)
    assert stored == {"kind": "stored", "id": identity, "location": "journal/1"}
    assert feed.picture(identity) == picture
    assert feed.picture(identity, 1) is None
    assert [card.stored for card in feed.escalations()] == ["journal/1"]


def test_a_page_that_opens_gets_what_was_before() -> None:
    feed, page = LiveFeed(), Page()
    feed.on_delivery(escalated(1))
    feed.on_delivery(escalated(2))
    feed.on_delivery(frame())
    feed.join(page)
    greeting, picture = page.take()
    assert [item["summary"] for item in json.loads(greeting)["items"]] == ["person at yard"] * 2
    assert isinstance(picture, bytes)


def test_remembered_escalations_and_their_pictures_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_module, "EVIDENCE_BYTES_MAX", 2500)
    feed = LiveFeed()
    for number in range(1, ESCALATIONS_KEPT + 11):
        feed.on_delivery(escalated(number, evidence=(evidence(jpeg() + bytes(1000 - len(jpeg()))),)))
    cards = feed.escalations()
    assert (len(cards), cards[0].id.split(":")[-1]) == (ESCALATIONS_KEPT, str(ESCALATIONS_KEPT + 10))
    assert [card.pictures for card in cards[:4]] == [1, 1, 0, 0]
    assert feed.picture(cards[2].id) is None


def test_what_closed_pages_missed_is_still_counted() -> None:
    feed, first, second = LiveFeed(), Page(), Page()
    for page in (first, second):
        feed.join(page)
    for number in range(3):
        feed.on_delivery(frame(seq=number))
    feed.leave(first)
    assert feed.pages == 1
    assert feed.missed().frames == 4


def test_a_page_that_opens_while_privacy_is_on_sees_no_picture_from_before() -> None:
    feed = LiveFeed()
    feed.on_delivery(frame("yard"))
    feed.on_delivery(frame("gate"))
    feed.on_delivery(delivery(CAMERA_STATE.at("home", camera="yard"), camera_state(privacy=True)))
    page = Page()
    feed.join(page)
    assert feed.frame("yard") is None
    assert len([item for item in page.take() if isinstance(item, bytes)]) == 1
