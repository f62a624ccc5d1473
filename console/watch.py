"""`vigil watch`: a readable live tail of the bus."""

from __future__ import annotations

import functools
import queue
import sys
import threading
import time
from collections.abc import Callable, Sequence

import click
import msgspec

from broker import CONTRACT, Bus, Delivery, Frame, TopicSpec, listen
from broker.messages import (
    CameraDocument,
    CameraOwner,
    CameraState,
    ClipEvent,
    Command,
    CommandValue,
    Detection,
    Detections,
    Escalation,
    MotionEvent,
    MotionTrend,
    NodeHealth,
    NodeStatus,
    Receipt,
    Receipts,
    Reject,
    Reply,
    WorkerBeat,
    WorkerStatus,
)
from broker.topics import everything
from config import TransientError, VigilError, configure_logging, stop_on_signals
from config.durations import DURATION, format_duration
from config.names import check_name
from config.text import printable
from console.loading import SettingsLoader

__all__ = ["KINDS", "describe", "json_line", "text_line", "watch"]

QUEUE_MAX = 500
"""Messages that wait for the terminal; frames hold their picture, so 500 of 50 kB are 25 MB."""
CONNECT_WAIT_S = 5.0
_COLOURS = {
    "escalation": "bright_red",
    "reject": "red",
    "motion": "yellow",
    "motion/active": "yellow",
    "detections": "cyan",
    "receipt": "green",
    "state": "blue",
    "status": "blue",
}


def kind_of(spec: TopicSpec) -> str:
    """What people call a line of the contract: ``frame``, ``motion/active``, ``status``.

    The pattern without its placeholders and without the level that says whose it is.
    """
    levels = [level for level in spec.pattern.split("/") if not level.startswith("{")]
    return "/".join(levels[1:] or levels)


KINDS: dict[str, TopicSpec] = {kind_of(spec): spec for spec in CONTRACT}
"""Every line of the contract by what people call it."""


def describe(delivery: Delivery) -> str:
    """The essence of a message in words."""
    content = delivery.content
    if isinstance(content, Frame):
        meta = content.meta
        motion = f" {len(meta.motion)} moving" if meta.motion else ""
        return f"{meta.width}x{meta.height} {len(content.jpeg) / 1000:.0f} kB seq {meta.seq} {meta.mode}{motion}"
    if isinstance(content, str):
        return content
    if content is None:
        return "taken back"
    return _words(content) or delivery.payload.decode(errors="replace")


@functools.singledispatch
def _words(_message: object) -> str:
    """Nothing for a message that has no words of its own: it is shown as it came."""
    return ""


@_words.register
def _(message: CameraState) -> str:
    shown = f"{message.state} on {message.node}, {message.mode} {message.fps:g} fps {message.width}x{message.height}"
    words = {
        "moving": message.moving,
        "private": message.privacy,
        "not scored": not message.detection,
        "recording": message.recording == "on",
        "recording failed": message.recording == "failed",
    }
    shown = ", ".join([shown, *(word for word, holds in words.items() if holds)])
    return f"{shown}: {message.error}" if message.error else shown


@_words.register
def _(message: MotionEvent) -> str:
    ended = f" ({message.ended})" if message.ended else ""
    return f"{message.type}{ended} {message.score:.1%} in {_count(len(message.boxes), 'box', 'boxes')}"


@_words.register
def _(message: MotionTrend) -> str:
    movements = sum(hour.movements for hour in message.hours)
    watched_s, moving_s = (sum(getattr(hour, name) for hour in message.hours) for name in ("watched_s", "moving_s"))
    return (
        f"{_count(movements, 'movement', 'movements')} and {moving_s:.0f} s of motion in "
        f"{format_duration(watched_s)} of watching"
    )


@_words.register
def _(message: ClipEvent) -> str:
    drill = "DRILL " if message.drill else ""
    if message.error is not None:
        return f"{drill}no clip of {message.reason} {message.about}: {message.error}"
    lasts_s = (message.ends_at - message.starts_at).total_seconds()
    missing = f", {message.missing_s:.1f} s missing" if message.missing_s else ""
    return (
        f"{drill}{lasts_s:.1f} s of {message.reason} {message.about}, {message.size_bytes / 1e6:.1f} MB{missing}: "
        f"{message.uri}"
    )


@_words.register
def _(message: CommandValue) -> str:
    return f"{message.value}"


@_words.register
def _(message: Command) -> str:
    arguments = "".join(f" {name}={value}" for name, value in message.arguments.items())
    return f"{message.name}{arguments} [{message.correlation_id}]"


@_words.register
def _(message: Reply) -> str:
    result = ", ".join(f"{name} {value}" for name, value in message.result.items())
    return f"{result or 'done' if message.ok else f'refused: {message.reason}'} [{message.correlation_id}]"


@_words.register
def _(message: CameraDocument) -> str:
    where = f" on {message.node}" if message.node else ""
    return f"revision {message.revision}{where}, {message.source}"


@_words.register
def _(message: Detections) -> str:
    took_ms = (message.published_at - message.captured_at).total_seconds() * 1e3
    return (
        f"{_objects(message.detections)}, {took_ms:.0f} ms (inference {message.infer_ms:.0f} ms of "
        f"{message.batch}) seq {message.frame_seq} by {message.model.name}"
    )


def _objects(found: Sequence[Detection]) -> str:
    best = sorted(found, key=lambda detection: -detection.score)
    named = ", ".join(f"{detection.label} {detection.score:.2f}" for detection in best[:4])
    return f"{named}, {_count(len(found), 'box', 'boxes')}" if found else "nothing"


@_words.register
def _(message: Escalation) -> str:
    drill = "DRILL " if message.drill else ""
    return f"{drill}{message.severity} {message.rule}: {message.summary} [{message.id}]"


@_words.register
def _(message: Receipts) -> str:
    return ", ".join(_receipt_words(receipt) for receipt in message.receipts)


def _receipt_words(receipt: Receipt) -> str:
    again = ", again" if receipt.repeated else ""
    return f"{receipt.event_id} in {receipt.location} after {receipt.latency_ms:.1f} ms{again}"


@_words.register
def _(message: NodeHealth) -> str:
    waiting = _count(sum(message.queues.values()), "message waits", "messages wait")
    return (
        f"up {message.uptime_s:.0f} s, CPU {message.cpu_percent:.0f}%, {message.memory_bytes / 1e6:.0f} MB, "
        f"{waiting}, {sum(message.drops.values())} dropped"
    )


@_words.register
def _(message: NodeStatus) -> str:
    return ", ".join([message.state, *(f"{name} {value:g}" for name, value in message.capacity.items())])


@_words.register
def _(message: CameraOwner) -> str:
    return f"{message.worker or 'nobody: an orphan'}, epoch {message.epoch}"


@_words.register
def _(message: WorkerStatus) -> str:
    model = f", {message.model.name}" if message.model else ""
    return f"{message.state}, takes {message.capacity_fps:g} fps{model}"


@_words.register
def _(message: WorkerBeat) -> str:
    scored_fps = sum(camera.fps for camera in message.cameras.values())
    return f"{_count(len(message.cameras), 'camera', 'cameras')}, scored {scored_fps:.1f} fps"


@_words.register
def _(message: Reject) -> str:
    return f"{message.topic} ({message.size_bytes} bytes, number {message.count}): {message.reason}"


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def text_line(delivery: Delivery) -> str:
    """One aligned line: time, whose, kind, essence."""
    topic = delivery.topic
    kind = kind_of(topic.spec)
    params = topic.params
    whose = topic.camera or params.get("origin") or f"{params.get('node', '')}.{params.get('role', '')}".strip(".")
    at = delivery.received_at.astimezone()
    words = printable(describe(delivery), 300) + (" (retained)" if delivery.retained else "")
    return f"{at:%H:%M:%S}.{at.microsecond // 1000:03d} {whose:<18} {kind:<13} {words}"


def json_line(delivery: Delivery) -> bytes:
    """One JSON object: the topic, when it came, and the payload as it is; of a picture its metadata and size."""
    content = delivery.content
    payload: object
    if isinstance(content, Frame):
        payload = {**msgspec.to_builtins(content.meta), "size_bytes": len(content.jpeg)}
    elif isinstance(content, str | None):
        payload = content
    else:
        # Decoded and encoded again, so that it is one line however it was written, and unknown fields stay.
        payload = msgspec.json.decode(delivery.payload)
    return msgspec.json.encode(
        {
            "topic": str(delivery.topic),
            "received_at": delivery.received_at,
            "retained": delivery.retained,
            "payload": payload,
        }
    )


def _parse_camera(_ctx: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    try:
        return None if value is None else check_name(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


@click.command()
@click.option("--camera", metavar="NAME", callback=_parse_camera, help="Only this camera.")
@click.option(
    "--kind",
    "kinds",
    type=click.Choice(sorted(KINDS)),
    metavar="KIND",
    multiple=True,
    help=f"Only this kind; may be given again. One of: {', '.join(sorted(KINDS))}.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line; pictures as their metadata.")
@click.option("--for", "duration_s", type=DURATION, metavar="DURATION", help="End after this time: 60s, 5m, 1h.")
@click.option("--count", type=click.IntRange(min=1), help="End after this many messages.")
@click.pass_context
def watch(
    ctx: click.Context,
    *,
    camera: str | None,
    kinds: Sequence[str],
    as_json: bool,
    duration_s: float | None,
    count: int | None,
) -> None:
    """Follow the bus live, a line a message.

    A message that cannot be read is shown as what it is: a reject, with the reason.

    \b
    vigil watch                                        everything
    vigil watch --camera street --kind detections      the scores of one camera
    vigil watch --kind escalation --json | jq .payload.summary
    vigil watch --kind frame --count 1 --json          metadata of the next frame
    """
    load: SettingsLoader = ctx.obj
    settings = load.read()
    # What this command prints is its result, so logs go elsewhere, and only where they were asked for.
    level = "error" if settings.log.level == "info" else settings.log.level
    configure_logging(level, settings.log.style, stream=sys.stderr)
    stop = threading.Event()
    stop_on_signals(stop)
    fatal: list[Exception] = []

    def on_fatal(error: Exception) -> None:
        fatal.append(error)
        stop.set()

    bus = listen(settings, "watch", on_fatal=on_fatal)
    waiting: queue.Queue[Delivery] = queue.Queue(QUEUE_MAX)
    overflow = _Overflow(waiting)
    _subscribe(bus, camera, kinds, overflow.offer)
    bus.start()
    try:
        if not bus.wait_connected(CONNECT_WAIT_S) and not fatal:
            raise TransientError(f"no broker at {settings.bus.url}: start one, or name another with --bus URL")
        _follow(bus, waiting, stop, as_json=as_json, duration_s=duration_s, count=count)
    finally:
        bus.close()
    if overflow.dropped:
        click.echo(f"vigil: {overflow.dropped} messages came faster than they could be shown", err=True)
    if fatal and isinstance(fatal[0], VigilError):
        raise fatal[0]


class _Overflow:
    """The way into a bounded queue: what finds no room is dropped and counted."""

    def __init__(self, waiting: queue.Queue[Delivery]) -> None:
        self._waiting = waiting
        self.dropped = 0

    def offer(self, delivery: Delivery) -> None:
        try:
            self._waiting.put_nowait(delivery)
        except queue.Full:
            self.dropped += 1


def _subscribe(bus: Bus, camera: str | None, kinds: Sequence[str], offer: Callable[[Delivery], None]) -> None:
    if camera is None and not kinds:
        # Everything, also what is not in the contract: that is how a stray publisher is found.
        bus.subscribe_filter(everything(bus.site), offer)
        return
    wanted = [KINDS[kind] for kind in kinds] or list(CONTRACT)
    for spec in wanted:
        if camera is None:
            bus.subscribe(spec, offer)
        elif "camera" in spec.placeholders:
            bus.subscribe(spec, offer, camera=camera)


def _follow(
    bus: Bus,
    waiting: queue.Queue[Delivery],
    stop: threading.Event,
    *,
    as_json: bool,
    duration_s: float | None,
    count: int | None,
) -> None:
    end_s = float("inf") if duration_s is None else time.monotonic() + duration_s
    shown = 0
    connected = True
    while not stop.is_set() and time.monotonic() < end_s and (count is None or shown < count):
        if connected is not bus.connected:
            connected = bus.connected
            click.echo(f"vigil: {'connected again' if connected else 'connection lost, trying again'}", err=True)
        try:
            delivery = waiting.get(timeout=min(0.2, max(0.0, end_s - time.monotonic())))
        except queue.Empty:
            continue
        shown += 1
        _show(delivery, as_json=as_json)


def _show(delivery: Delivery, *, as_json: bool) -> None:
    if as_json:
        click.echo(json_line(delivery))
        return
    colour = _COLOURS.get(kind_of(delivery.topic.spec))
    click.echo(click.style(text_line(delivery), fg=colour) if colour else text_line(delivery))
