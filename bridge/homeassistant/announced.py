"""What stands at the broker of a site's discovery, for whoever looks or tidies up."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self

from bridge.homeassistant.names import is_of_site, split
from broker import Delivery, Topic, listen
from broker.messages import Probe
from broker.topics import CAMERA_MODEL, HOMEASSISTANT_DEVICE, HOMEASSISTANT_ENTITY, PROBE
from config import Clock, PermanentError, SystemClock, TransientError
from config.settings import Settings

__all__ = ["Announced"]

_CONNECT_S = 5.0
_LOOK_S = 0.5
_PATIENCE_S = 10.0


class Announced:
    """Reads it, and takes it back; to be used with ``with``.

    Args:
        settings: the site's settings.
        role: with whose rights.
        clock: time.
    """

    def __init__(self, settings: Settings, role: str, *, clock: Clock | None = None) -> None:
        self._settings = settings
        self._clock: Clock = clock or SystemClock()
        self._bus = listen(settings, role)
        self._found: dict[str, tuple[Topic, bytes]] = {}
        self._complete = threading.Event()
        self._news = threading.Event()

    def __enter__(self) -> Self:
        """Read everything that is there.

        Raises:
            TransientError: there is no broker, or it does not tell.
        """
        for spec in (HOMEASSISTANT_DEVICE, HOMEASSISTANT_ENTITY):
            self._bus.subscribe(spec, self._on_kept, prefix=self._settings.homeassistant.prefix)
        self._bus.subscribe(PROBE, lambda _delivery: self._complete.set(), origin=self._bus.origin)
        self._bus.start()
        if not self._bus.wait_connected(_CONNECT_S):
            self._bus.close(0)
            raise TransientError(f"no broker at {self._settings.bus.url}: start one, or name another with --bus URL")
        # A broker sends what it keeps in the order in which it was asked, so this comes after it.
        self._bus.publish(PROBE.at(self._settings.site, origin=self._bus.origin), Probe(number=1))
        if not self._complete.wait(_PATIENCE_S):
            self._bus.close(0)
            raise TransientError(f"the broker at {self._settings.bus.url} does not tell what it keeps: try again")
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """Leave."""
        self._bus.close(0)

    def devices(self) -> dict[str, list[bytes]]:
        """The payloads of each device, by the name of the camera or node."""
        found: dict[str, list[bytes]] = {}
        for _, (topic, payload) in sorted(self._found.items()):
            found.setdefault(split(topic.params["id"])[-1], []).append(payload)
        return found

    def take_back(self) -> int:
        """Take it all back; returns how many topics that were.

        Raises:
            PermanentError: the broker keeps it all the same.
        """
        topics = [topic for topic, _ in self._found.values()]
        for topic in topics:
            self._bus.publish(topic, b"")
            _, _, kind, name = split(topic.params["id"])
            if kind == "camera":
                self._bus.publish(CAMERA_MODEL.at(self._settings.site, camera=name), b"")
        until_s = self._clock.monotonic_s() + _PATIENCE_S
        while self._found and self._clock.monotonic_s() < until_s:
            self._news.clear()
            self._news.wait(_LOOK_S)
        if self._found:
            raise PermanentError(
                f"the broker still keeps {len(self._found)} of {len(topics)} topics: has this node the role "
                "homeassistant (`vigil grant`), or does one of its processes run and publish them again?"
            )
        return len(topics)

    def _on_kept(self, delivery: Delivery) -> None:
        """Runs on the bus's thread; what is taken back comes in as well, and as nothing."""
        topic, payload = delivery.topic, delivery.content
        if is_of_site(topic.params["id"], self._settings.site):
            if isinstance(payload, bytes):
                self._found[str(topic)] = topic, payload
            else:
                self._found.pop(str(topic), None)
        self._news.set()
