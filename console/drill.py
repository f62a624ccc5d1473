"""`vigil drill`: fake alarms through the whole chain, marked as such end to end.

Everything that it raises is in an outbox of its own before its id is printed, so a run that is killed has lost nothing:
what it printed is sent by the next one.
"""

from __future__ import annotations

import contextlib
import hashlib
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

import click
import msgspec

from broker import Bus, Presence, connect
from broker.messages import Escalation, Evidence, Message, MotionEvent
from broker.topics import CAMERA_ESCALATION, CAMERA_MOTION
from config import (
    BacklogFullError,
    Clock,
    SystemClock,
    TransientError,
    configure_logging,
    get_logger,
    stop_on_signals,
)
from config.durations import DURATION, format_duration
from config.names import check_name
from config.options import role_option
from console.loading import SettingsLoader

__all__ = ["Alarm", "Drill", "drill", "raise_alarms", "read_camera"]

_PICTURE = Path(__file__).parent / "static" / "drill.jpg"
_PICTURE_SIZE_PX = (320, 180)
_BEHIND_S = 1.0
"""One that was held up for longer goes on at its rate, and does not make up for it in a burst."""
_POLL_S = 0.05
_TRY_AGAIN_S = 0.2
_ENDING_S = 5.0
"""Seconds for which the end of a movement is tried when the disk does not take it."""

Severity = Literal["info", "warning", "critical"]
Progress = Callable[[int], None]
"""Gets how much there is in all."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """What a fake alarm looks like.

    Attributes:
        rule: that seems to have fired.
        kind: of that rule.
        label: of what it seems to have seen.
        zones: in which it seems to have been.
    """

    rule: str
    severity: Severity
    kind: str = "drill"
    label: str = "drill"
    zones: tuple[str, ...] = ()


def read_camera(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    """A camera's name, as an option; it needs not be of the site file."""
    try:
        return check_name(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


@click.command()
@click.option("--camera", default="drill", show_default=True, callback=read_camera, help="The camera that raises it.")
@click.option("--count", type=click.IntRange(1), help="How many escalations.  [default: 1, or no end with --for]")
@click.option("--rate", type=click.FloatRange(0.01, 10_000), default=1.0, show_default=True, help="How many a second.")
@click.option("--for", "duration_s", type=DURATION, metavar="DURATION", help="Go on for so long: 60s, 5m, 1h.")
@click.option("--severity", type=click.Choice(["info", "warning", "critical"]), default="info", show_default=True)
@click.option("--rule", default="drill", show_default=True, help="The rule that seems to have fired.")
@click.option("--motion", is_flag=True, help="Also movements: one starts with an escalation and ends with the next.")
@click.option(
    "--wait", "wait_s", type=DURATION, metavar="DURATION", default="30s", help="For receipts.  [default: 30s]"
)
@click.option("--no-wait", is_flag=True, help="Leave once everything is on disk.")
@role_option("drill")
@click.pass_obj
def drill(
    load: SettingsLoader,
    *,
    camera: str,
    count: int | None,
    rate: float,
    duration_s: float | None,
    severity: Severity,
    rule: str,
    motion: bool,
    wait_s: float,
    no_wait: bool,
    role: str,
) -> None:
    """Raise fake alarms and see whether they arrive: from here over the broker and the bridge into the sink.

    Each carries `drill: true` and a picture that says so. Its id is printed once it is on disk, one a line; then this
    command waits until the sink has everything. Ctrl-C ends the raising, a second one the waiting too.

    \b
    Examples:
      vigil drill
      vigil drill --camera yard --count 100 --rate 20
      vigil drill --motion --rate 5 --for 10m > ids.txt
      vigil drill --count 3 --no-wait; vigil outbox show

    Exit status: 0 everything has its receipt (with --no-wait: is on disk), 1 something still waits in the outbox; the
    next drill of the same role sends it.
    """
    stop = threading.Event()
    stop_on_signals(stop)
    count = 1 if count is None and duration_s is None else count
    raise_alarms(
        load,
        role,
        lambda bus: Drill(bus, camera, Alarm(rule, severity), motion=motion),
        lambda drilling, progress: drilling.run(stop, rate=rate, count=count, duration_s=duration_s, progress=progress),
        stop=stop,
        length=count or round(duration_s or 0),
        wait_s=None if no_wait else wait_s,
    )


def raise_alarms(
    load: SettingsLoader,
    role: str,
    make: Callable[[Bus], Drill],
    run: Callable[[Drill, Progress], None],
    *,
    stop: threading.Event,
    length: int,
    wait_s: float | None,
) -> None:
    """Raise fake alarms over the bus, and see whether they arrive.

    Args:
        load: reads the settings.
        role: of this process.
        make: makes what raises them.
        run: raises them, and tells how far it is.
        stop: set when the bus fails for good.
        length: at how much it is through.
        wait_s: seconds to wait for receipts; None leaves once everything is on disk.

    Raises:
        VigilError: the bus failed for good.
        SystemExit: 1, when something has no receipt yet.
    """
    settings = load.read()
    # Ids go to standard output; who looks on needs no word of each connection, unless by a flag of his own.
    level = settings.log.level if "level" in load.flags.get("log", {}) else "warning"
    configure_logging(level, settings.log.style, stream=sys.stderr)
    fatal: list[Exception] = []

    def on_fatal(error: Exception) -> None:
        fatal.append(error)
        stop.set()

    bus = connect(settings, role, with_outbox=True, on_fatal=on_fatal)
    presence = Presence(bus, settings, role)
    drilling = make(bus)
    bus.start()
    presence.start()
    try:
        with _bar("raising", length) as progress:
            run(drilling, progress)
        waiting = 0 if wait_s is None or fatal else _wait_receipts(bus, wait_s, fatal)
    finally:
        presence.close()
        bus.close(0.0 if wait_s is None else 2.0)
    if fatal:
        raise fatal[0]
    click.echo(_verdict(drilling, waiting, waited_s=wait_s), err=True)
    if waiting:
        raise SystemExit(1)


class Drill:
    """Raises escalations, and movements where wanted.

    Args:
        bus: with an outbox.
        camera: the camera's name.
        alarm: what the escalations look like.
        motion: raise movements too.
        clock: time.
        tell: gets each id once it is on disk.

    Attributes:
        escalations: how many are on disk.
        events: how many motion events are on disk.
    """

    def __init__(
        self,
        bus: Bus,
        camera: str,
        alarm: Alarm,
        *,
        motion: bool = False,
        clock: Clock | None = None,
        tell: Callable[[str], None] = click.echo,
    ) -> None:
        self._bus = bus
        self._camera = camera
        self._alarm = alarm
        self._motion = motion
        self._clock: Clock = clock or SystemClock()
        self._tell = tell
        self._log = get_logger(origin=bus.origin)
        self._start: MotionEvent | None = None
        self._evidence = _evidence()
        self.escalations = 0
        self.events = 0

    def run(
        self,
        stop: threading.Event,
        *,
        rate: float,
        count: int | None = None,
        duration_s: float | None = None,
        progress: Progress = lambda _done: None,
    ) -> None:
        """Raise until `count` is reached, `duration_s` is over, or `stop` is set; what the disk refuses is tried again.

        Args:
            stop: ends it.
            rate: escalations a second.
            count: how many escalations; None is no bound.
            duration_s: for how long; None is no bound.
            progress: gets the escalations so far or, without `count`, the seconds.
        """
        self._end_left_open()
        begin_s = due_s = self._clock.monotonic_s()
        while (count is None or self.escalations < count) and not self._clock.wait(
            stop, due_s - self._clock.monotonic_s()
        ):
            now_s = self._clock.monotonic_s()
            if duration_s is not None and now_s - begin_s >= duration_s:
                break
            raised = self._raise()
            progress(self.escalations if count is not None else int(now_s - begin_s))
            due_s = max(due_s + 1.0 / rate, now_s - _BEHIND_S) if raised else now_s + _TRY_AGAIN_S
        self._end_left_open()

    def _raise(self) -> bool:
        try:
            self._escalate()
            if self._motion:
                self._move()
        except (BacklogFullError, TransientError) as error:
            self._log.warning("drill.refused", error=str(error))
            return False
        return True

    def _escalate(self) -> None:
        topic = CAMERA_ESCALATION.at(self._bus.site, camera=self._camera, origin=self._bus.origin)
        now = self._clock.now()
        identity = self._bus.publish_event(topic, lambda event_id: self._escalation(event_id, now))
        self.escalations += 1
        self._tell(identity)

    def _escalation(self, event_id: str, now: datetime) -> Escalation:
        alarm = self._alarm
        return Escalation(
            id=event_id,
            camera=self._camera,
            rule=alarm.rule,
            kind=alarm.kind,
            severity=alarm.severity,
            summary=f"Drill at {self._camera}: a fake alarm, nothing has happened",
            label=alarm.label,
            score=1.0,
            captured_at=now,
            raised_at=now,
            frame_seq=0,
            worker=self._bus.origin,
            evidence=(self._evidence,),
            zones=alarm.zones,
            drill=True,
        )

    def _move(self) -> None:
        if self._start is None:
            self._start = self._publish(self._step("start"))
        else:
            self._publish(self._step("end", self._start))
            self._start = None

    def _step(self, step: Literal["start", "end"], start: MotionEvent | None = None) -> MotionEvent:
        now = self._clock.now()
        return MotionEvent(
            id="",
            motion_id=start.motion_id if start else "",
            camera=start.camera if start else self._camera,
            type=step,
            started_at=start.at if start else now,
            at=now,
            score=1.0,
            ended="quiet" if start else None,
        )

    def _publish(self, event: MotionEvent) -> MotionEvent:
        def named(event_id: str) -> MotionEvent:
            return msgspec.structs.replace(event, id=event_id, motion_id=event.motion_id or event_id)

        topic = CAMERA_MOTION.at(self._bus.site, camera=event.camera)
        identity = self._bus.publish_event(topic, named, opens=event.type == "start", closes=event.motion_id or None)
        self.events += 1
        self._tell(identity)
        return named(identity)

    def _end_left_open(self) -> None:
        """End every movement that stands open in the outbox: this one's last, and those of one that was killed."""
        pause = threading.Event()
        deadline_s = self._clock.monotonic_s() + _ENDING_S
        while True:
            try:
                for identity, start in self._bus.open_events(CAMERA_MOTION):
                    self._end(identity, start)
            except (BacklogFullError, TransientError) as error:
                self._log.warning("drill.refused", error=str(error))
                if self._clock.monotonic_s() > deadline_s:
                    return  # the outbox remembers it for the next drill
                self._clock.wait(pause, _TRY_AGAIN_S)
            else:
                return

    def _end(self, identity: str, start: Message) -> None:
        if not isinstance(start, MotionEvent):
            return
        own = self._start is not None and self._start.id == identity
        self._publish(msgspec.structs.replace(self._step("end", start), ended="quiet" if own else "interrupted"))
        self._start = None if own else self._start


def _evidence() -> Evidence:
    content = _PICTURE.read_bytes()
    width, height = _PICTURE_SIZE_PX
    digest = hashlib.sha256(content).hexdigest()
    return Evidence(content_type="image/jpeg", sha256=digest, width=width, height=height, data=content)


@contextlib.contextmanager
def _bar(label: str, length: int) -> Iterator[Progress]:
    """A progress bar on standard error where a person looks at it, and ids do not run through it."""
    if not sys.stderr.isatty() or sys.stdout.isatty() or length <= 1:
        yield lambda _done: None
        return
    with click.progressbar(length=length, label=label, file=sys.stderr) as bar:
        yield lambda done: bar.update(done - bar.pos)


def _wait_receipts(bus: Bus, timeout_s: float, fatal: Sequence[Exception]) -> int:
    """Wait until the outbox is empty; how many messages still wait when it is not."""
    clock, pause = SystemClock(), threading.Event()
    deadline_s = clock.monotonic_s() + timeout_s
    begin = bus.statistics().outbox_rows
    with _bar("receipts", begin) as progress:
        while (rows := bus.statistics().outbox_rows) and clock.monotonic_s() < deadline_s and not fatal:
            progress(max(0, begin - rows))
            clock.wait(pause, _POLL_S)
    return rows


def _verdict(drilling: Drill, waiting: int, *, waited_s: float | None) -> str:
    raised = f"{drilling.escalations} escalation{'' if drilling.escalations == 1 else 's'}"
    if drilling.events:
        raised += f" and {drilling.events} motion events"
    if waited_s is None:
        return f"{raised} raised; they are on disk"
    if waiting:
        return (
            f"{raised} raised; {waiting} messages have no receipt after {format_duration(waited_s)}: they wait in the "
            "outbox, and the next drill of this role sends them (`vigil doctor` looks at the broker)"
        )
    return f"{raised} raised, every one of them in the sink"
