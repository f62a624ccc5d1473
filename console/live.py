"""What the web page shows, kept in memory and handed to every open page: never more than a page can take.

No web framework here: the bus's thread puts in, each page's connection takes out.
"""

from __future__ import annotations

import functools
import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Literal, NamedTuple

import msgspec

from broker import Delivery, Frame
from broker.messages import CameraState, Detections, Escalation, MotionEvent, Receipt, Receipts
from broker.topics import CAMERA_FRAME, CAMERA_MOTION_ACTIVE

__all__ = ["EscalationCard", "LiveFeed", "Missed", "PageMailbox"]

EVENTS_WAITING_MAX = 256
"""Small messages that wait for one page: several seconds of a busy mesh."""
ESCALATIONS_KEPT = 100
EVIDENCE_BYTES_MAX = 16_000_000
"""Pictures of escalations kept in memory, all together: a hundred of the usual 100 kB and some."""
CAMERAS_KEPT = 256
FRAME_BYTES_MAX = 64_000_000
"""Pictures of cameras kept in memory, all together. Names come from topics, which anybody on the bus may invent."""


class EscalationCard(msgspec.Struct, kw_only=True):
    """An escalation as the page lists it.

    Attributes:
        pictures: how many pictures of it can be asked for.
        stored: where a sink has it, in words; None until its receipt came.
    """

    id: str
    camera: str
    rule: str
    severity: str
    summary: str
    label: str
    score: float
    captured_at: str
    raised_at: str
    drill: bool
    pictures: int
    stored: str | None = None


class _LatestPictures:
    """The latest picture of each camera, bounded in number and bytes; the one renewed longest ago makes way."""

    def __init__(self) -> None:
        self._pictures: OrderedDict[str, bytes] = OrderedDict()
        self._bytes = 0

    def put(self, camera: str, jpeg: bytes) -> int:
        """Keep a picture; how many others made way for it."""
        gone = int(self.forget(camera))
        self._pictures[camera] = jpeg
        self._bytes += len(jpeg)
        while len(self._pictures) > CAMERAS_KEPT or self._bytes > FRAME_BYTES_MAX:
            gone += self.forget(next(iter(self._pictures)))
        return gone

    def get(self, camera: str) -> bytes | None:
        return self._pictures.get(camera)

    def items(self) -> list[tuple[str, bytes]]:
        return list(self._pictures.items())

    def clear(self) -> None:
        self._pictures.clear()
        self._bytes = 0

    def forget(self, camera: str) -> bool:
        """Keep none of this camera; whether there was one."""
        jpeg = self._pictures.pop(camera, None)
        self._bytes -= len(jpeg or b"")
        return jpeg is not None


class PageMailbox:
    """What waits for one page: of each camera the latest picture, and a bounded number of small messages.

    Concurrency: `offer_*` may be called from any thread, `take` from one.

    Args:
        wake: called when something waits that the page does not know of yet.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._lock = threading.Lock()
        self._events: deque[str] = deque()
        self._frames = _LatestPictures()
        self._woken = False
        self.frames_replaced = 0
        self.events_dropped = 0

    def offer_event(self, text: str) -> None:
        """A small message; when too many wait, the oldest makes way and is counted."""
        with self._lock:
            self._events.append(text)
            if len(self._events) > EVENTS_WAITING_MAX:
                self._events.popleft()
                self.events_dropped += 1
        self._wake_once()

    def offer_frame(self, camera: str, jpeg: bytes) -> None:
        """A picture; one of the same camera that still waits makes way and is counted."""
        with self._lock:
            self.frames_replaced += self._frames.put(camera, jpeg)
        self._wake_once()

    def take(self) -> list[str | bytes]:
        """Everything that waits: messages in order, then pictures."""
        with self._lock:
            self._woken = False
            waiting: list[str | bytes] = [*self._events, *(jpeg for _, jpeg in self._frames.items())]
            self._events.clear()
            self._frames.clear()
            return waiting

    def _wake_once(self) -> None:
        with self._lock:
            if self._woken:
                return
            self._woken = True
        self._wake()


class Missed(NamedTuple):
    """What pages were too slow for."""

    frames: int = 0
    events: int = 0

    def plus(self, page: PageMailbox) -> Missed:
        """With what one page missed."""
        return Missed(self.frames + page.frames_replaced, self.events + page.events_dropped)


class LiveFeed:
    """Spreads the bus to the pages, and remembers what a page that opens now must know.

    Concurrency: `on_delivery` is called from the bus's thread, everything else from any.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pages: set[PageMailbox] = set()
        self._frames = _LatestPictures()
        self._left = Missed()
        self._cards: OrderedDict[str, EscalationCard] = OrderedDict()
        self._pictures: OrderedDict[str, list[bytes]] = OrderedDict()
        self._pictures_bytes = 0

    def join(self, page: PageMailbox) -> None:
        """A page opened: it gets the escalations so far and the last picture of each camera first."""
        with self._lock:
            cards = list(self._cards.values())
            frames = self._frames.items()
            self._pages.add(page)
        page.offer_event(_event("escalations", items=cards))
        for camera, jpeg in frames:
            page.offer_frame(camera, jpeg)

    def leave(self, page: PageMailbox) -> None:
        """A page closed."""
        with self._lock:
            self._pages.discard(page)
            self._left = self._left.plus(page)

    @property
    def pages(self) -> int:
        """How many pages are open."""
        return len(self._pages)

    def missed(self) -> Missed:
        """What all pages so far were too slow for."""
        with self._lock:
            return functools.reduce(Missed.plus, self._pages, self._left)

    def spread(self, kind: str, **fields: object) -> None:
        """Send one message to every page."""
        text = _event(kind, **fields)
        for page in self._open_pages():
            page.offer_event(text)

    def on_delivery(self, delivery: Delivery) -> None:
        """Take in one message of the bus."""
        content = delivery.content
        if isinstance(content, Frame):
            # The page knows a picture by its metadata, so a picture that claims to be another camera's is left out.
            if delivery.topic.spec is CAMERA_FRAME and content.meta.camera == delivery.topic.camera:
                self._on_frame(delivery.topic.camera, content.jpeg)
        elif isinstance(content, CameraState):
            if content.privacy:
                with self._lock:
                    self._frames.forget(delivery.topic.camera)
        elif isinstance(content, Detections | MotionEvent):
            kind: Literal["detections", "motion"] = "detections" if isinstance(content, Detections) else "motion"
            self.spread(kind, camera=delivery.topic.camera, message=content)
        elif isinstance(content, str) and delivery.topic.spec is CAMERA_MOTION_ACTIVE:
            self.spread("motion_active", camera=delivery.topic.camera, active=content == "ON")
        elif isinstance(content, Escalation):
            self._on_escalation(delivery.topic.camera, content)
        elif isinstance(content, Receipts):
            for receipt in content.receipts:
                self._on_receipt(receipt)

    def frame(self, camera: str) -> bytes | None:
        """The last picture of a camera."""
        with self._lock:
            return self._frames.get(camera)

    def escalations(self) -> list[EscalationCard]:
        """The escalations that are remembered, the newest first."""
        with self._lock:
            return list(reversed(self._cards.values()))

    def picture(self, event_id: str, number: int = 0) -> bytes | None:
        """One picture of an escalation, while it is remembered."""
        with self._lock:
            pictures = self._pictures.get(event_id, [])
            return pictures[number] if number < len(pictures) else None

    def _open_pages(self) -> list[PageMailbox]:
        with self._lock:
            return list(self._pages)

    def _on_frame(self, camera: str, jpeg: bytes) -> None:
        with self._lock:
            self._frames.put(camera, jpeg)
            pages = list(self._pages)
        for page in pages:
            page.offer_frame(camera, jpeg)

    def _on_escalation(self, camera: str, escalation: Escalation) -> None:
        pictures = [evidence.data for evidence in escalation.evidence if evidence.content_type == "image/jpeg"]
        card = EscalationCard(
            id=escalation.id,
            camera=camera,
            rule=escalation.rule,
            severity=escalation.severity,
            summary=escalation.summary,
            label=escalation.label,
            score=escalation.score,
            captured_at=escalation.captured_at.isoformat(),
            raised_at=escalation.raised_at.isoformat(),
            drill=escalation.drill,
            pictures=len(pictures),
        )
        with self._lock:
            if card.id in self._cards:
                return
            self._cards[card.id] = card
            self._pictures[card.id] = pictures
            self._pictures_bytes += _size(pictures)
            self._forget_oldest()
        self.spread("escalation", item=card)

    def _forget_oldest(self) -> None:
        while len(self._cards) > ESCALATIONS_KEPT:
            self._cards.popitem(last=False)
        while self._pictures and (len(self._pictures) > ESCALATIONS_KEPT or self._pictures_bytes > EVIDENCE_BYTES_MAX):
            event_id, pictures = self._pictures.popitem(last=False)
            self._pictures_bytes -= _size(pictures)
            if event_id in self._cards:
                self._cards[event_id].pictures = 0

    def _on_receipt(self, receipt: Receipt) -> None:
        with self._lock:
            card = self._cards.get(receipt.event_id)
            if card is None or card.stored is not None:
                return
            card.stored = receipt.location
        self.spread("stored", id=receipt.event_id, location=receipt.location)


def _event(kind: str, **fields: object) -> str:
    return msgspec.json.encode({"kind": kind, **fields}).decode()


def _size(pictures: list[bytes]) -> int:
    return sum(len(picture) for picture in pictures)
