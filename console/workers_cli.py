"""`vigil workers`: who scores which camera, since when and at what rate; and which cameras nobody takes."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime

import click
import msgspec

from broker import Delivery, listen
from broker.assignment import Assignment, Worker, assign, obstacle
from broker.messages import CameraState, ScoredCamera, WorkerBeat, WorkerStatus
from broker.peers import BEAT_INTERVAL_S
from broker.pool import POOL_TOPICS, Pool, WorkerPeer, demand_of, is_wanted
from config import TransientError, configure_logging
from config.durations import format_duration
from config.text import printable
from console.loading import SettingsLoader

__all__ = ["CameraRow", "PoolReport", "WorkerRow", "report", "workers"]

_CONNECT_WAIT_S = 5.0
_BEATS_S = 2.5 * BEAT_INTERVAL_S
"""How long to listen for the beats of those that say they are there: two of them, and some."""
_FACTS_S = 0.5
"""How long to listen at least: for what is retained."""
_LOOK_S = 0.05


class WorkerRow(msgspec.Struct, frozen=True, kw_only=True):
    """One worker.

    Attributes:
        state: ``silent`` is one that says it is there, and does not beat.
        load_fps: frames a second that its cameras ask for.
        scored_fps: frames a second that it scored in the last second.
    """

    worker: str
    state: str
    classes: tuple[str, ...]
    labels: tuple[str, ...]
    model: str
    model_wanted: str
    model_error: str
    capacity_fps: float
    load_fps: float
    scored_fps: float
    cameras: int


class CameraRow(msgspec.Struct, frozen=True, kw_only=True):
    """One camera.

    Attributes:
        worker: empty where nobody scores it.
        since: since when that one does; None where it has not said.
        reason: why nobody scores it.
    """

    camera: str
    worker: str
    epoch: int
    since: datetime | None
    demand_fps: float
    scored_fps: float
    age_ms: float
    dropped: int
    late: int
    reason: str


class PoolReport(msgspec.Struct, frozen=True, kw_only=True):
    """Everything of a site's workers at one moment."""

    workers: tuple[WorkerRow, ...]
    cameras: tuple[CameraRow, ...]


def report(pool: Pool, now: datetime) -> PoolReport:
    """What a pool says, for people.

    Args:
        pool: of an onlooker.
        now: aware.
    """
    there = pool.workers()
    answer = assign(there, pool.demands(now))
    return PoolReport(
        workers=tuple(
            _worker_row(name, peer.status, peer, pool, now)
            for name, peer in sorted(pool.peers.items())
            if peer.status is not None
        ),
        cameras=tuple(
            _camera_row(camera, state, pool, _unwanted(state, now) or _unserved(camera, state, pool, there, answer))
            for camera, state in sorted(pool.cameras.items())
        ),
    )


def _worker_row(name: str, status: WorkerStatus, peer: WorkerPeer, pool: Pool, now: datetime) -> WorkerRow:
    state: str = status.state
    if state != "offline" and (peer.away or peer.beat is None):
        state = "offline" if peer.away else "silent"
    own = [demand for demand in pool.demands(now) if demand.owner == name]
    scored = _scored(peer.beat) if peer.is_there else {}
    return WorkerRow(
        worker=name,
        state=state,
        classes=status.classes,
        labels=status.labels,
        model=status.model.name if status.model else "",
        model_wanted=status.model_wanted.name if status.model_wanted else "",
        model_error=status.model_error,
        capacity_fps=status.capacity_fps,
        load_fps=round(sum(demand.rate for demand in own), 2),
        scored_fps=round(sum(camera.fps for camera in scored.values()), 2),
        cameras=len(own),
    )


def _camera_row(camera: str, state: CameraState, pool: Pool, reason: str) -> CameraRow:
    demand = demand_of(camera, state, pool.owner(camera))
    peer = pool.peers.get(demand.owner)
    scored = None if peer is None or reason else _scored(peer.beat).get(camera)
    owner = pool.owners.get(camera)
    return CameraRow(
        camera=camera,
        worker="" if reason else demand.owner,
        epoch=0 if owner is None else owner.epoch,
        since=None if scored is None else scored.since,
        demand_fps=demand.rate,
        scored_fps=0.0 if scored is None else scored.fps,
        age_ms=0.0 if scored is None else scored.age_ms,
        dropped=0 if scored is None else scored.dropped,
        late=0 if scored is None else scored.late,
        reason=reason,
    )


def _scored(beat: WorkerBeat | None) -> dict[str, ScoredCamera]:
    return {} if beat is None else beat.cameras


def _unwanted(state: CameraState, now: datetime) -> str:
    """Why a camera is not for the site's workers; empty when it is."""
    if is_wanted(state, now):
        return ""
    reasons = {
        f"scored by its node {state.node}": state.scored_by == "node",
        "privacy is on": state.privacy,
        "detection is off": not state.detection,
        "its mode is off": state.mode == "off",
    }
    return next((reason for reason, holds in reasons.items() if holds), f"the camera is {state.state}")


def _unserved(camera: str, state: CameraState, pool: Pool, workers: Sequence[Worker], answer: Assignment) -> str:
    """Why nobody scores a camera that is to be scored; empty when somebody does."""
    owner = pool.owner(camera)
    if owner in pool.peers and pool.peers[owner].is_there:
        return ""
    if camera in answer.orphans:
        return f"orphan: {obstacle(demand_of(camera, state, owner), workers)}"
    return f"about to be taken over from {owner}" if owner else "about to be taken"


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_obj
def workers(load: SettingsLoader, *, as_json: bool) -> None:
    """Show the workers, and for each camera who scores it, since when and at what rate.

    A camera without a worker has the reason beside it: no room (start another worker, or raise detector.capacity_fps),
    no worker of its class, no worker whose model knows its labels; or it is not to be scored. A worker that is asked
    for more than it can do scores fewer frames of each of its cameras.

    \b
    vigil workers
    vigil workers --json | jq -r '.cameras[] | select(.reason | startswith("orphan")) | .camera'

    Exit status: 0 all cameras have a worker or want none, 1 some are orphans, 69 no broker.
    """
    settings = load.read()
    configure_logging("error" if settings.log.level == "info" else settings.log.level, stream=sys.stderr)
    pool, lock = Pool(), threading.Lock()

    def on_delivery(delivery: Delivery) -> None:
        with lock:
            pool.fold(delivery, time.monotonic())

    bus = listen(settings, "workers")
    for spec in POOL_TOPICS:
        bus.subscribe(spec, on_delivery)
    bus.start()
    try:
        if not bus.wait_connected(_CONNECT_WAIT_S):
            raise TransientError(f"no broker at {settings.bus.url}: start one, or name another with --bus URL")
        _listen(pool, lock)
    finally:
        bus.close()
    found = report(pool, datetime.now(UTC))
    if as_json:
        click.echo(msgspec.json.encode(found))
    else:
        _show(found)
    if any(row.reason.startswith("orphan") for row in found.cameras):
        raise click.exceptions.Exit(1)


def _listen(pool: Pool, lock: threading.Lock) -> None:
    """Until everybody has beaten who says that it is there, and what is retained has come."""
    begun_s = time.monotonic()
    while (waited_s := time.monotonic() - begun_s) < _BEATS_S:
        with lock:
            peers = [peer for peer in pool.peers.values() if peer.is_there]
        if waited_s > _FACTS_S and all(peer.beat is not None for peer in peers):
            return
        time.sleep(_LOOK_S)


def _show(found: PoolReport) -> None:
    if not found.workers:
        click.echo("no worker has reported: start one with `vigil detector`")
    for row in found.workers:
        click.echo(_worker_line(row))
    width = max((len(row.camera) for row in found.cameras), default=0)
    for camera in found.cameras:
        click.echo(f"  {camera.camera:<{width}}  {_camera_words(camera)}")


def _worker_line(row: WorkerRow) -> str:
    words = [
        row.state,
        f"{row.cameras} camera{'' if row.cameras == 1 else 's'}",
        f"asked for {row.load_fps:g} of {row.capacity_fps:g} fps"
        + (", too much" if row.load_fps > row.capacity_fps else ""),
        f"scored {row.scored_fps:.1f} fps",
        f"model {row.model}" if row.model else "",
        f"changing to {row.model_wanted}" if row.model_wanted not in ("", row.model) else "",
        f"classes {', '.join(row.classes)}" if row.classes else "",
        row.model_error,
    ]
    return printable(f"{row.worker}: " + "; ".join(word for word in words if word), 500)


def _camera_words(row: CameraRow) -> str:
    if row.reason:
        return printable(row.reason, 300)
    since = "" if row.since is None else f" for {format_duration((datetime.now(UTC) - row.since).total_seconds())}"
    return printable(
        f"{row.worker}{since} (epoch {row.epoch}): {row.scored_fps:.1f} of {row.demand_fps:g} fps, "
        f"{row.age_ms:.0f} ms old, {row.dropped} replaced, {row.late} late",
        300,
    )
