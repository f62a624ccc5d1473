"""Home Assistant's discovery as a process: what the bus tells in, discovery out, from the first second to the last."""

from __future__ import annotations

import ipaddress
import random
import threading
from collections.abc import Callable, Mapping

from bridge.homeassistant.announcer import Announcer
from bridge.homeassistant.census import CENSUS_TOPICS, Census
from bridge.homeassistant.memory import Known, Published, known_path, read_known, write_known
from broker import Bus, Delivery, Presence, connect
from broker.figures import Figures, own_versions
from broker.messages import CameraModel, Probe
from broker.topics import (
    CAMERA_MODEL,
    HOMEASSISTANT_DEVICE,
    HOMEASSISTANT_ENTITY,
    HOMEASSISTANT_PREFIX,
    HOMEASSISTANT_STATUS,
    PROBE,
    origin_of,
)
from config import Clock, ConfigError, Supervised, SystemClock, get_logger, stop_on_signals
from config.settings import Settings

__all__ = ["Discovery", "check_prefix", "origin_block", "run_homeassistant"]

_SETTLE_S = 1.0
"""After the connection, for the births of a site that starts as a whole: each of them changes a device."""
_TICK_S = 0.25


def run_homeassistant(settings: Settings, role: str) -> None:
    """Keep Home Assistant told of every camera and node until the process is asked to stop.

    Args:
        settings: the site's settings.
        role: the process's role.

    Raises:
        ConfigError: a secure broker does not let it publish below this prefix.
        PermanentError: the broker refuses us for good.
    """
    check_prefix(settings)
    stop = threading.Event()
    ends: list[Exception] = []

    def on_fatal(error: Exception) -> None:
        ends.append(error)
        stop.set()

    bus = connect(settings, role, on_fatal=on_fatal)
    discovery = Discovery(bus, settings, role, rng=random.Random(), on_fatal=on_fatal)
    presence = Presence(bus, settings, role, figures=discovery.figures)
    stop_on_signals(stop)
    discovery.start()
    bus.start()
    presence.start()
    get_logger().info("homeassistant.started", prefix=settings.homeassistant.prefix, bus=settings.bus.url)
    stop.wait()
    discovery.close()
    presence.close()
    bus.close()
    get_logger().info("homeassistant.stopped", **discovery.figures().counts)
    if ends:
        raise ends[0]


def check_prefix(settings: Settings) -> None:
    """Refuse a prefix that a secure broker would refuse without a word.

    Raises:
        ConfigError: the broker is secure, and the prefix another than Home Assistant's own.
    """
    if settings.bus.url.startswith("mqtts:") and settings.homeassistant.prefix != HOMEASSISTANT_PREFIX:
        raise ConfigError(
            f"the rights on a secure bus extend to {HOMEASSISTANT_PREFIX!r} only: use it here and in Home Assistant",
            field="homeassistant.prefix",
        )


def origin_block() -> dict[str, str]:
    """Who tells it, for Home Assistant's log and pages."""
    return {"name": "Vigil", "sw_version": own_versions()["vigil"]}


class Discovery:
    """Keeps what Home Assistant is told the same as what the bus tells.

    Concurrency: `start` and `close` belong to one thread, `figures` may be called from any. What comes in is folded on
    the bus's thread; a thread of its own publishes.

    Args:
        bus: not started yet.
        settings: the site's settings.
        role: this process's role.
        rng: draws the pause before everything is told again.
        on_fatal: called when it cannot go on.
        clock: time.
        settle_s: seconds after the first connection before anything is published.
    """

    def __init__(
        self,
        bus: Bus,
        settings: Settings,
        role: str,
        *,
        rng: random.Random,
        on_fatal: Callable[[Exception], None] | None = None,
        clock: Clock | None = None,
        settle_s: float = _SETTLE_S,
    ) -> None:
        self._bus = bus
        self._settings = settings.homeassistant
        self._rng = rng
        self._clock: Clock = clock or SystemClock()
        self._settle_s = settle_s
        self._path = known_path(settings.state_dir, settings.site, origin_of(settings.node, role))
        known = read_known(self._path)
        has_moved = known.prefix not in ("", self._settings.prefix)
        self._census = Census(
            settings.site,
            labels=self._settings.labels,
            zones=_zones_of(settings),
            cameras=known.cameras,
            nodes=known.nodes,
            url=_page_of(settings),
        )

        def announcer(prefix: str, published: dict[str, Published], keep: Callable[[], None]) -> Announcer:
            form = self._settings.discovery
            origin = origin_block()
            return Announcer(
                settings.site,
                prefix=prefix,
                form=form,
                origin=origin,
                publish=bus.publish,
                keep=keep,
                published=published,
            )

        self._announcer = announcer(self._settings.prefix, {} if has_moved else known.published, self._keep)
        self._elsewhere = announcer(known.prefix, known.published if has_moved else {}, lambda: None)
        self._lock = threading.Lock()
        self._at_broker: set[str] = set()
        self._told: dict[str, CameraModel] = {}
        self._asked_on = 0
        self._settled_at_s = float("inf")
        self._is_complete = threading.Event()
        self._is_settled = False
        self._again_at_s: float | None = None
        self._births = 0
        self._stop = threading.Event()
        self._thread = Supervised("homeassistant", self._tend, stop=self._stop, clock=self._clock, on_fatal=on_fatal)

    def start(self) -> None:
        """Ask for everything; before the bus connects, so that nothing retained is missed."""
        prefix = self._settings.prefix
        for spec in CENSUS_TOPICS:
            self._bus.subscribe(spec, self._on_fact)
        self._bus.subscribe(HOMEASSISTANT_DEVICE, self._on_kept, prefix=prefix)
        self._bus.subscribe(HOMEASSISTANT_ENTITY, self._on_kept, prefix=prefix)
        self._bus.subscribe(PROBE, lambda _delivery: self._is_complete.set(), origin=self._bus.origin)
        self._bus.subscribe(HOMEASSISTANT_STATUS, self._on_birth, prefix=prefix)
        self._thread.start()

    def close(self) -> None:
        """End; what was published stays, and goes on to be right."""
        self._stop.set()
        self._thread.join(3.0)

    def figures(self) -> Figures:
        """What it adds to its health."""
        with self._lock:
            cameras, nodes = len(self._census.cameras), len(self._census.nodes)
        published = list(self._announcer.published.values())
        entities = sum(len(device.components) for device in published)
        return Figures(counts={"cameras": cameras, "nodes": nodes, "entities": entities, "births": self._births})

    # --- on the bus's thread -------------------------------------------------------------------------------------

    def _on_fact(self, delivery: Delivery) -> None:
        with self._lock:
            self._census.fold(delivery, self._bus.connections)

    def _on_kept(self, delivery: Delivery) -> None:
        with self._lock:
            device_id = self._announcer.recover(delivery) if delivery.retained and not self._is_settled else None
            if device_id is not None:
                self._at_broker.add(device_id)

    def _on_birth(self, delivery: Delivery) -> None:
        # One that the broker keeps says nothing of a start; everything is published after a connection anyway.
        if delivery.content == "online" and not delivery.retained:
            with self._lock:
                self._births += 1
                self._again_at_s = self._clock.monotonic_s() + self._rng.uniform(0, self._settings.rediscover_within_s)

    # --- on its own thread ---------------------------------------------------------------------------------------

    def _tend(self) -> None:
        self._clock.wait(self._stop, _TICK_S)
        if self._stop.is_set() or not (self._is_settled or self._settle()):
            return
        now_s = self._clock.monotonic_s()
        with self._lock:
            devices = self._census.devices()
            models = self._census.models(self._clock.now())
            is_asked = self._again_at_s is not None and now_s >= self._again_at_s
            if is_asked:
                self._again_at_s = None
        if is_asked:
            get_logger().info("homeassistant.born", devices=len(devices))
            self._announcer.repeat()
            self._told.clear()
        for device_id in [found for found in self._announcer.published if found not in devices]:
            self._announcer.withdraw(device_id)
        for device in devices.values():
            self._announcer.announce(device)
        self._tell_models(models)

    def _settle(self) -> bool:
        """Wait until all that the broker keeps has come in; then see what of it nobody speaks of any more."""
        now_s = self._clock.monotonic_s()
        if now_s < self._settled_at_s or not self._is_complete.is_set():
            if self._bus.connections != self._asked_on and self._bus.connected:
                self._settled_at_s = now_s + self._settle_s
                self._asked_on = self._bus.connections
                # A broker sends what it keeps in the order in which it was asked, so this comes after it.
                self._bus.publish(PROBE.at(self._bus.site, origin=self._bus.origin), Probe(number=self._asked_on))
            return False
        for spec in (HOMEASSISTANT_DEVICE, HOMEASSISTANT_ENTITY):
            self._bus.unsubscribe(spec, prefix=self._settings.prefix)
        self._bus.unsubscribe(PROBE, origin=self._bus.origin)
        with self._lock:
            self._is_settled = True
            for device_id in self._at_broker:
                self._census.remember(device_id, self._announcer.published[device_id].components)
            # The broker kept their discovery, and not their state: somebody took that back while we were away.
            self._census.forget(self._at_broker.intersection(self._census.unheard()))
        for device_id in list(self._elsewhere.published):
            self._elsewhere.withdraw(device_id)
        return True

    def _tell_models(self, models: Mapping[str, CameraModel]) -> None:
        for camera in self._told.keys() - models.keys():
            self._bus.publish(CAMERA_MODEL.at(self._bus.site, camera=camera), b"")
            del self._told[camera]
        for camera, model in models.items():
            if self._told.get(camera) != model:
                self._told[camera] = model
                self._bus.publish(CAMERA_MODEL.at(self._bus.site, camera=camera), model)

    def _keep(self) -> None:
        with self._lock:
            known = Known(
                prefix=self._settings.prefix,
                published=dict(self._announcer.published),
                cameras=dict(self._census.cameras),
                nodes=dict(self._census.nodes),
            )
        write_known(self._path, known)


def _zones_of(settings: Settings) -> dict[str, tuple[str, ...]]:
    return {
        camera: tuple(sorted(name for name, zone in own.zones.items() if zone.kind == "include"))
        for camera, own in settings.cameras.items()
    }


def _page_of(settings: Settings) -> str:
    """The web page, where others than this machine can reach it."""
    host = settings.console.host
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return "" if host == "localhost" else f"http://{host}:{settings.console.port}"
    if address.is_loopback or address.is_unspecified:
        return ""
    return f"http://{f'[{host}]' if address.version == 6 else host}:{settings.console.port}"
