"""Camera documents out of a compacted topic, onto the bus as the site's registry.

What the topic has holds; what it never named is somebody else's and stays. Each document is published once and then
left alone, so that who changes it on the bus with a higher revision is not overruled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bridge.commands.answered import Answered
from bridge.commands.messages import CommandReply, Received
from broker import Bus, Figures
from broker.camera_documents import check_document, lay_over
from broker.messages import CameraDocument, decode_json, encode_json
from broker.topics import REGISTRY_CAMERA
from config import BadPayloadError, Clock, ConfigError, SystemClock, get_logger
from config.names import check_name
from config.secrets import has_secret

__all__ = ["Registry", "read_document"]

_AGAIN_S = 5.0
"""A document that does not come back from the broker is published again."""
_FACTS_S = 2.0
"""What is retained has come by then on a new connection."""


def read_document(received: Received) -> tuple[str, CameraDocument | None]:
    """The camera that a record is about, and what it says; None takes the camera away.

    Raises:
        BadPayloadError: it cannot be used; the message says why.
    """
    name = (received.key or b"").decode("utf-8", "replace")
    try:
        check_name(name)
    except ValueError as error:
        raise BadPayloadError(f"the record's key must be the camera's name: {error}") from error
    if not received.value:
        return name, None
    document = decode_json(CameraDocument, received.value, max_bytes=REGISTRY_CAMERA.max_bytes)
    check_document(name, document, None)
    if has_secret(document.source):
        raise BadPayloadError("its source has a login in it: leave that to the settings of the camera's node")
    try:
        lay_over(name, document, None, document.source)
    except ConfigError as error:
        raise BadPayloadError(str(error)) from error
    return name, document


@dataclass(slots=True)
class _Wish:
    """What a camera's document is to be.

    Attributes:
        document: None where it is to go.
        received: the record that says so; None where the topic forgot the camera while nobody looked.
        sent_s: when it was published.
    """

    document: CameraDocument | None
    received: Received | None
    sent_s: float = float("-inf")


class Registry:
    """Publishes documents.

    Concurrency: one thread.

    Args:
        bus: where they go.
        known: what is retained of a camera now.
        answered: remembers which cameras the topic has named.
        on_refused: told of a record that cannot be used, with the answer to it.
        clock: time.
    """

    def __init__(
        self,
        bus: Bus,
        known: Callable[[str], CameraDocument | None],
        answered: Answered,
        *,
        on_refused: Callable[[Received, str, bytes], None],
        clock: Clock | None = None,
    ) -> None:
        self._bus = bus
        self._known = known
        self._answered = answered
        self._on_refused = on_refused
        self._clock: Clock = clock or SystemClock()
        self._log = get_logger()
        self._wishes: dict[str, _Wish] = {}
        self._named: set[str] = set()
        self._is_read = False
        self._connection = 0
        self._connected_s = 0.0
        self._published = self._refused = 0

    def take(self, received: Received) -> None:
        """Take one record of the topic."""
        try:
            name, document = read_document(received)
        except BadPayloadError as error:
            self._refuse(received, error.reason)
            return
        self._wishes[name] = _Wish(document, received)
        if document is None:
            self._named.discard(name)
        else:
            self._named.add(name)

    def read_through(self) -> None:
        """The topic was read to its end: what it had once and has no more is to go.

        Raises:
            TransientError: the disk fails.
        """
        if not self._is_read:
            gone = self._answered.cameras() - self._named - self._wishes.keys()
            self._wishes.update({name: _Wish(None, None) for name in gone})
            self._is_read = True

    def tend(self) -> None:
        """Publish what is not on the bus yet.

        Raises:
            TransientError: the disk fails; nothing is forgotten.
        """
        now_s = self._clock.monotonic_s()
        if self._bus.connections != self._connection:
            self._connection, self._connected_s = self._bus.connections, now_s
        if not self._is_read or not self._bus.connected or now_s - self._connected_s < _FACTS_S:
            return
        settled = [name for name, wish in self._wishes.items() if self._known(name) == wish.document]
        self._settle(settled)
        for name, wish in list(self._wishes.items()):
            self._tend(name, wish, now_s)

    def figures(self) -> Figures:
        """What was published."""
        return Figures(
            queues={"documents": len(self._wishes)},
            counts={"documents_published": self._published, "documents_refused": self._refused},
        )

    def _settle(self, names: Sequence[str]) -> None:
        """Remember what the bus has as the topic wants it."""
        if not names:
            return
        kept = [name for name in names if self._wishes[name].document is not None]
        self._answered.keep_cameras(add=kept, remove=set(names).difference(kept))
        for name in names:
            del self._wishes[name]

    def _tend(self, name: str, wish: _Wish, now_s: float) -> None:
        if wish.document is not None and wish.received is not None:
            try:
                check_document(name, wish.document, self._known(name))
            except BadPayloadError as error:
                del self._wishes[name]
                self._refuse(wish.received, error.reason)
                return
        if now_s - wish.sent_s > _AGAIN_S:
            wish.sent_s = now_s
            self._publish(name, wish.document)

    def _publish(self, name: str, document: CameraDocument | None) -> None:
        topic = REGISTRY_CAMERA.at(self._bus.site, camera=name)
        self._bus.publish(topic, b"" if document is None else document)
        # From here on whoever changes it says what it is, not we after our next reconnect.
        self._bus.disown(topic)
        self._published += 1
        self._log.info("commands.document_published", camera=name, revision=document and document.revision)

    def _refuse(self, received: Received, reason: str) -> None:
        self._refused += 1
        self._log.warning("commands.document_refused", record=received.location, reason=reason)
        reply = CommandReply(
            id=received.location, ok=False, by=self._bus.origin, at=self._clock.now(), reason=reason[:4_000]
        )
        self._on_refused(received, received.location, encode_json(reply))
