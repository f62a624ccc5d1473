"""How a process joins the bus: its identity, its will, its outbox, its birth and its health."""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import psutil

from broker._paho import paho_transports
from broker.bus import Bus, BusStatistics, Delivery
from broker.figures import Distribution, Figures, own_versions
from broker.identity import identity_folder
from broker.machine import Machine, MachineFigures
from broker.members import PERSON_CERTIFICATE
from broker.messages import NodeHealth, NodeStatus, encode_json
from broker.outbox import Outbox
from broker.overrides import check_overrides
from broker.scrape import ScrapePoint
from broker.spans import Tracer
from broker.standing import StandingOrders
from broker.tls import ExpiryWatch, client_context
from broker.topics import NODE_HEALTH, NODE_STATUS, origin_of
from config.clock import Clock, SystemClock
from config.errors import TransientError
from config.log import get_logger
from config.service import Service
from config.settings import Settings
from config.supervise import Supervised

if TYPE_CHECKING:
    from broker.series import Reading

__all__ = ["Presence", "connect", "find_outboxes", "listen", "outbox_path"]

HEALTH_INTERVAL_S = 5.0
"""Seconds between two health reports. Source: the design, coordinator and agents ("status every 5 s")."""
_CONNECT_CHECK_S = 0.5


def outbox_path(settings: Settings, role: str) -> Path:
    """Where a role of this machine keeps its outbox."""
    return settings.state_dir / "outbox" / settings.site / f"{origin_of(settings.node, role)}.db"


def find_outboxes(settings: Settings) -> dict[str, Path]:
    """The outboxes of this site on this machine, by origin."""
    return {file.stem: file for file in sorted((settings.state_dir / "outbox" / settings.site).glob("*.db"))}


def connect(
    settings: Settings,
    role: str,
    *,
    persistent: bool = False,
    with_outbox: bool = False,
    outbox_file: Path | None = None,
    clock: Clock | None = None,
    on_fatal: Callable[[Exception], None] | None = None,
    make: Callable[..., Bus] = Bus,
) -> Bus:
    """The bus for one process of this machine; call `start` on it.

    Args:
        settings: the site's settings.
        role: ``edge``, ``detector.2`` ...: with the node it must be unique at the broker.
        persistent: let the broker keep messages while this process is away.
        with_outbox: open the outbox, so that events can be published.
        outbox_file: where it is, when not in its place in the state folder.
        clock: time.
        on_fatal: called when the broker refuses us for good.
        make: the kind of bus: :class:`Bus`, or :class:`broker.local.LocalBus`.

    Raises:
        ConfigError: a delivery override names no topic or breaks its promise, or the broker's address is unusable.
        PermanentError: the outbox cannot be opened.
    """
    check_overrides(settings.bus.delivery)
    time = clock or SystemClock()
    origin = origin_of(settings.node, role)
    limits = settings.bus.outbox
    outbox = None
    if with_outbox:
        outbox = Outbox(
            outbox_file or outbox_path(settings, role),
            origin=origin,
            rows_max=limits.rows_max,
            bytes_max=limits.bytes_max,
            event_hold_s=limits.event_hold_s,
            clock=time,
        )
    status = NODE_STATUS.at(settings.site, node=settings.node, role=role)
    return make(
        site=settings.site,
        origin=origin,
        transports=paho_transports(
            settings.bus,
            client_id=f"vigil-{settings.site}-{settings.node}-{role}",
            persistent=persistent,
            window=limits.window * 2,
            tls=lambda: client_context(settings.bus, identity_folder(settings).path, role),
        ),
        settings=settings.bus,
        outbox=outbox,
        will=(status, _status(settings, role, "offline", at=time.now(), started_at=time.now())),
        tracer=Tracer.of(settings, role, time),
        clock=time,
        on_fatal=on_fatal,
    )


def listen(settings: Settings, role: str, *, on_fatal: Callable[[Exception], None] | None = None) -> Bus:
    """A bus for somebody who only looks: no will, no outbox, and any number of them at one time.

    On the machine that runs the secure broker a person comes in by the port for people, whichever the settings name.
    """
    settings = _for_people(settings, role)
    client_id = f"vigil-{settings.site}-{role}-{secrets.token_hex(4)}"
    return Bus(
        site=settings.site,
        origin=origin_of(settings.node, role),
        transports=paho_transports(
            settings.bus,
            client_id=client_id,
            persistent=False,
            tls=lambda: client_context(settings.bus, identity_folder(settings).path, role),
        ),
        settings=settings.bus,
        on_fatal=on_fatal,
    )


def _for_people(settings: Settings, role: str) -> Settings:
    own, broker = identity_folder(settings), settings.broker
    shown, processes = own.credentials(role), f":{broker.secure_port}"
    is_person = shown is not None and shown.certificate == own.certificate(PERSON_CERTIFICATE)
    if not (is_person and broker.secure and settings.bus.url.endswith(processes)):
        return settings
    url = f"{settings.bus.url.removesuffix(processes)}:{broker.people_port}"
    return settings.model_copy(update={"bus": settings.bus.model_copy(update={"url": url})})


def _status(
    settings: Settings,
    role: str,
    state: Literal["online", "offline"],
    *,
    at: datetime,
    started_at: datetime,
    capacity: Mapping[str, float] | None = None,
) -> NodeStatus:
    return NodeStatus(
        node=settings.node,
        role=role,
        state=state,
        at=at,
        started_at=started_at,
        capacity=dict(capacity or {}),
        versions=own_versions(),
    )


class Presence:
    """Birth, health every 5 s, and goodbye of a process; and a sign of life for the service that started it.

    Whoever scrapes it gets the figures of its health.

    The bus gets them while there is one, `/metrics` also without: rates are since the last look, so that there is one
    look every 5 s and not one for each asker.

    Args:
        bus: started or not.
        settings: the site's settings.
        role: the process's role.
        capacity: what it can do.
        figures: called for each report.
        machine: tells how the machine is, where the role looks at that by itself.
        takes_orders: the role has orders of its own, and refuses those that nobody knows.
        describe: how the process is, in a line, besides whether the broker is there.
        clock: time.
    """

    def __init__(
        self,
        bus: Bus,
        settings: Settings,
        role: str,
        *,
        capacity: Mapping[str, float] | None = None,
        figures: Callable[[], Figures] = Figures,
        machine: Callable[[], MachineFigures] | None = None,
        takes_orders: bool = False,
        describe: Callable[[], str] | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._bus = bus
        self._settings = settings
        self._role = role
        self._capacity = dict(capacity or {})
        self._figures = figures
        self._machine = machine or Machine().read
        self._clock: Clock = clock or SystemClock()
        self._started_at = self._clock.now()
        self._started_s = self._clock.monotonic_s()
        self._process = psutil.Process(os.getpid())
        self._expiry = ExpiryWatch(settings, role)
        self._looked_s = float("-inf")
        self._health: NodeHealth | None = None
        self._distributions: Mapping[str, Distribution] = {}
        self._scrape_point = ScrapePoint(settings, role, self._reading)
        self._orders = StandingOrders(bus, tell=self._tell, refresh=self._refresh, is_alone=not takes_orders)
        self._describe = describe
        self._service = Service(self._in_a_line, clock=self._clock)
        self._stop = threading.Event()
        self._thread = Supervised("health", self._report_and_wait, stop=self._stop, clock=self._clock)

    def start(self) -> None:
        """Publish the birth and begin to report."""
        self._bus.subscribe(NODE_STATUS, self._on_own_status, node=self._settings.node, role=self._role)
        self._orders.start()
        self._publish_status("online")
        self._process.cpu_percent()
        self._bus.tracer.start()
        self._thread.start()
        self._service.ready()

    def close(self) -> None:
        """Publish the last report and the goodbye."""
        self._service.stopping()
        self._stop.set()
        self._thread.join(1.0)
        self._scrape_point.close()
        self._bus.tracer.close()
        self.report()
        self._publish_status("offline")

    def _in_a_line(self) -> str:
        broker = f"broker {'connected' if self._bus.connected else 'away'}"
        return broker if self._describe is None else f"{self._describe()}; {broker}"

    def _publish_status(self, state: Literal["online", "offline"]) -> None:
        self._bus.publish(
            NODE_STATUS.at(self._settings.site, node=self._settings.node, role=self._role), self._now(state)
        )

    def _now(self, state: Literal["online", "offline"]) -> NodeStatus:
        settings, role = self._settings, self._role
        return _status(
            settings, role, state, at=self._clock.now(), started_at=self._started_at, capacity=self._capacity
        )

    def _tell(self) -> Mapping[str, str]:
        """For who asks; the health is that of the last look."""
        health = {} if self._health is None else {"health": encode_json(self._health).decode()}
        return {"status": encode_json(self._now("online")).decode(), **health}

    def _refresh(self) -> None:
        """Say everything again that is to be said of this process; its birth is among what the bus keeps."""
        with suppress(TransientError):  # then the next connection gets it
            self._bus.republish()
        if self._health is not None:
            self._bus.publish(
                NODE_HEALTH.at(self._settings.site, node=self._settings.node, role=self._role), self._health
            )

    def _on_own_status(self, delivery: Delivery) -> None:
        """A will that a broker sent late, such as that of a connection before this one, is put right at once."""
        status = delivery.content
        if delivery.retained or self._stop.is_set():  # what was kept is written over by the birth that follows
            return
        if isinstance(status, NodeStatus) and status.state == "offline":
            get_logger().info("bus.reborn", origin=self._bus.origin)
            self._publish_status("online")

    def _report_and_wait(self) -> None:
        self._scrape_point.open()
        # A report without a connection would be dropped, and counted as a drop.
        if self._bus.wait_connected(_CONNECT_CHECK_S):
            self.report()
            self._clock.wait(self._stop, HEALTH_INTERVAL_S)
        elif self._clock.monotonic_s() - self._looked_s >= HEALTH_INTERVAL_S:
            self._look()

    def report(self) -> None:
        """Publish one health report now."""
        topic = NODE_HEALTH.at(self._settings.site, node=self._settings.node, role=self._role)
        self._bus.publish(topic, self._look())

    def _look(self) -> NodeHealth:
        figures, traced, machine = self._figures(), self._bus.tracer.figures(), self._machine()
        numbers = self._bus.statistics()
        certificate_days = self._expiry.days_left(self._clock.now())
        certificate = {} if certificate_days is None else {"certificate_days": certificate_days}
        self._looked_s = self._clock.monotonic_s()
        self._distributions = {**numbers.distributions, **figures.distributions}
        self._health = NodeHealth(
            node=self._settings.node,
            role=self._role,
            at=self._clock.now(),
            uptime_s=round(self._looked_s - self._started_s, 3),
            cpu_percent=self._process.cpu_percent(),
            memory_bytes=self._process.memory_info().rss,
            disk_free_bytes=_disk_free_bytes(self._settings.state_dir),
            temperature_c=machine.temperature_c,
            throttled=machine.throttled,
            wifi_dbm=machine.wifi_dbm,
            clock_synchronised=machine.clock_synchronised,
            cameras=figures.cameras,
            queues={**_queues(numbers), **traced.queues, **figures.queues},
            drops={**_drops(numbers), **traced.drops, **figures.drops},
            counts={**_counts(numbers), **traced.counts, **certificate, **figures.counts},
        )
        return self._health

    def _reading(self) -> Reading | None:
        """As of the last look."""
        from broker.series import Reading

        health = self._health
        return None if health is None else Reading(health, self._bus.connected, self._distributions)


def _queues(numbers: BusStatistics) -> dict[str, int]:
    return {
        "outbox": numbers.outbox_rows,
        "outbox_bytes": numbers.outbox_bytes,
        "awaiting_receipt": numbers.awaiting_receipt,
        "outbox_too_large": numbers.too_large,
        "unacknowledged": numbers.link.unacknowledged,
        "frame_bytes_in_flight": numbers.frame_bytes_in_flight,
    }


def _drops(numbers: BusStatistics) -> dict[str, int]:
    return {
        "frames_unsent": numbers.frames_dropped,
        "frames_expired": numbers.frames_expired,
        "frames_stale": numbers.frames_stale,
        "states_unsent": numbers.states_unsent,
        "rejected": numbers.rejected,
        "refused": numbers.link.refused,
        "released": numbers.released,
        "acks_ignored": numbers.link.acks_ignored,
        "local_replaced": numbers.local_replaced,
        "local_missed": numbers.local_missed,
    }


def _counts(numbers: BusStatistics) -> dict[str, int]:
    link = numbers.link
    return {
        "connections": link.connections,
        "mqtt_version": 0 if link.limits is None else int(link.limits.version[0]),
        "packet_bytes_max": link.packet_bytes_max or 0,
        "packet_limit_learned": int(link.packet_limit_learned),
        "received": numbers.received,
        "resent": numbers.resent,
        "states_republished": numbers.states_republished,
        "local_handed_over": numbers.local_handed_over,
        "frames_kept_back": numbers.frames_kept_back,
        **{f"lost_{cause}": count for cause, count in link.losses.items()},
        **{f"published_{name}": count for name, count in numbers.published.items()},
    }


def _disk_free_bytes(folder: Path) -> int:
    place = next((p for p in (folder, *folder.parents) if p.exists()), Path("/"))
    return psutil.disk_usage(str(place)).free
