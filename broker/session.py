"""How a process joins the bus: its identity, its will, its outbox, its birth and its health."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import secrets
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Literal

import psutil

from broker._paho import paho_transports
from broker.bus import Bus, BusStatistics, Delivery
from broker.identity import identity_folder
from broker.machine import Machine, MachineFigures
from broker.messages import CameraHealth, NodeHealth, NodeStatus
from broker.outbox import Outbox
from broker.overrides import check_overrides
from broker.tls import ExpiryWatch, client_context
from broker.topics import NODE_HEALTH, NODE_STATUS, origin_of
from config.clock import Clock, SystemClock
from config.log import get_logger
from config.settings import Settings
from config.supervise import Supervised

__all__ = ["Figures", "Presence", "connect", "find_outboxes", "listen", "outbox_path"]

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
        clock=time,
        on_fatal=on_fatal,
    )


def listen(settings: Settings, role: str, *, on_fatal: Callable[[Exception], None] | None = None) -> Bus:
    """A bus for somebody who only looks: no will, no outbox, and any number of them at one time."""
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
        versions={"vigil": _version(), "python": platform.python_version()},
    )


def _version() -> str:
    try:
        return importlib.metadata.version("vigil-mesh")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


@dataclass(slots=True)
class Figures:
    """What a role adds to its health.

    Attributes:
        queues: messages that wait now, by queue.
        drops: messages dropped since the start, by queue.
        counts: everything else that is counted since the start.
        cameras: how each camera is doing.
    """

    queues: dict[str, int] = field(default_factory=dict)
    drops: dict[str, int] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    cameras: dict[str, CameraHealth] = field(default_factory=dict)


class Presence:
    """Birth, health every 5 s, and goodbye of a process.

    Args:
        bus: started or not.
        settings: the site's settings.
        role: the process's role.
        capacity: what it can do.
        figures: called for each report.
        machine: tells how the machine is, where the role looks at that by itself.
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
        self._stop = threading.Event()
        self._thread = Supervised("health", self._report_and_wait, stop=self._stop, clock=self._clock)

    def start(self) -> None:
        """Publish the birth and begin to report."""
        self._bus.subscribe(NODE_STATUS, self._on_own_status, node=self._settings.node, role=self._role)
        self._publish_status("online")
        self._process.cpu_percent()
        self._thread.start()

    def close(self) -> None:
        """Publish the last report and the goodbye."""
        self._stop.set()
        self._thread.join(1.0)
        self.report()
        self._publish_status("offline")

    def _publish_status(self, state: Literal["online", "offline"]) -> None:
        settings, role = self._settings, self._role
        status = _status(
            settings, role, state, at=self._clock.now(), started_at=self._started_at, capacity=self._capacity
        )
        self._bus.publish(NODE_STATUS.at(settings.site, node=settings.node, role=role), status)

    def _on_own_status(self, delivery: Delivery) -> None:
        """A will that a broker sent late, such as that of a connection before this one, is put right at once."""
        status = delivery.content
        if delivery.retained or self._stop.is_set():  # what was kept is written over by the birth that follows
            return
        if isinstance(status, NodeStatus) and status.state == "offline":
            get_logger().info("bus.reborn", origin=self._bus.origin)
            self._publish_status("online")

    def _report_and_wait(self) -> None:
        # A report without a connection would be dropped, and counted as a drop.
        if self._bus.wait_connected(_CONNECT_CHECK_S):
            self.report()
            self._clock.wait(self._stop, HEALTH_INTERVAL_S)

    def report(self) -> None:
        """Publish one health report now."""
        figures, machine = self._figures(), self._machine()
        numbers = self._bus.statistics()
        certificate_days = self._expiry.days_left(self._clock.now())
        certificate = {} if certificate_days is None else {"certificate_days": certificate_days}
        health = NodeHealth(
            node=self._settings.node,
            role=self._role,
            at=self._clock.now(),
            uptime_s=round(self._clock.monotonic_s() - self._started_s, 3),
            cpu_percent=self._process.cpu_percent(),
            memory_bytes=self._process.memory_info().rss,
            disk_free_bytes=_disk_free_bytes(self._settings.state_dir),
            temperature_c=machine.temperature_c,
            throttled=machine.throttled,
            wifi_dbm=machine.wifi_dbm,
            clock_synchronised=machine.clock_synchronised,
            cameras=figures.cameras,
            queues={**_queues(numbers), **figures.queues},
            drops={**_drops(numbers), **figures.drops},
            counts={**_counts(numbers), **certificate, **figures.counts},
        )
        self._bus.publish(NODE_HEALTH.at(self._settings.site, node=self._settings.node, role=self._role), health)


def _queues(numbers: BusStatistics) -> dict[str, int]:
    return {
        "outbox": numbers.outbox_rows,
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
