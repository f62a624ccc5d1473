"""`vigil up`: the whole mesh of one machine, started, watched and stopped by one command."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import click

from broker import Delivery, listen
from broker.topics import CONTRACT
from config import ConfigError, PermanentError, configure_logging, stop_on_signals
from config.durations import DURATION, format_duration
from config.errors import EXIT_CONFIG
from config.files import FileWatch
from config.options import camera_option
from config.process import Departure, RoleProcess, role_command, stop_in_order
from config.settings import CameraSettings, Settings
from config.site_file import role_environment, write_site_file
from console.compose import FLEET, Machine, Plan, RoleSpec, choose_cameras, compose
from console.loading import EXPOSED, SettingsLoader
from console.logtail import LogTail
from console.machine import PortClaims, answers, hold_state
from console.mesh import MeshSnapshot, MeshView
from console.status import PlainScreen, Screen, TerminalScreen
from console.verdict import Marks, read_marks, run_audit

__all__ = ["up"]

TICK_S = 0.1
BROKER_START_S = 30.0
"""Seconds for the broker to take connections; after that the others start and look for it by themselves."""
BROKER_LISTENS = "broker.listening"
"""The event that a broker logs once it has its port."""
STOP_S = 8.0
"""Seconds for the orderly end of one role: a detector drains its outbox for 2 s and finishes a batch."""
STOP_ORDER = ("commands", "fleet", "edge", "detector", "bridge", "homeassistant", "console", "broker")
"""Along the data's way, so that what is under way still arrives."""
KEPT_FAILING = 3
"""Failures in a row after which a role counts as one that does not work."""


@click.command()
@camera_option("A camera; may be given again. Without any: those of the site file, else street=synthetic:street.")
@click.option("--model", metavar="FILE", help="A YOLOX model (.onnx, .tflite); without one the model cache, else HOG.")
@click.option("--kafka", metavar="HOST:PORT", help="Send escalations to Kafka instead of the journal.")
@click.option("--homeassistant", is_flag=True, default=None, help="Let Home Assistant find every camera and node.")
@click.option(
    "--metrics", metavar="PORT", type=click.IntRange(1, 65_000), help="Figures for Prometheus, from this port."
)
@click.option("--engine", type=click.Choice(["embedded", "mosquitto"]), help="Which broker to run.")
@click.option("--broker-port", type=click.IntRange(1, 65535), help="The broker's port; default 1883 or a free one.")
@click.option("--secure", is_flag=True, default=None, help="TLS, and only with certificates; made where missing.")
@click.option("--port", type=click.IntRange(1, 65535), help="The web page's port; default 8126 or a free one.")
@click.option("--for", "duration_s", type=DURATION, metavar="DURATION", help="End by itself: 60s, 5m, 1h.")
@click.pass_context
def up(
    ctx: click.Context,
    *,
    cameras: dict[str, dict[str, str]],
    model: str | None,
    kafka: str | None,
    homeassistant: bool | None,
    metrics: int | None,
    engine: str | None,
    broker_port: int | None,
    secure: bool | None,
    port: int | None,
    duration_s: float | None,
) -> None:
    """Run the whole mesh on this machine: broker, cameras, detector, bridge and web page.

    Without arguments: an embedded broker on loopback, a synthetic street camera, the HOG people detector, the journal.
    Ends with Ctrl-C and says whether every escalation raised has arrived. What changes in the site file's cameras is
    applied while it runs.

    \b
    vigil up
    vigil up --for 60s
    vigil up --secure --engine mosquitto              nobody comes in without a certificate
    vigil up --camera yard=file:yard.mp4 --model yolox_nano.onnx --kafka 127.0.0.1:9092
    vigil up --homeassistant --engine mosquitto       for Home Assistant's own MQTT integration
    vigil --bus mqtt://broker.local up                use a broker that runs already
    vigil --state /tmp/second up                      a second mesh beside the first

    Exit status: 0 every escalation arrived, 1 something is missing, a camera is in error or a role kept failing.
    """
    load: SettingsLoader = ctx.obj
    overrides = {
        "cameras": cameras,
        "detector": {"model": model},
        "bridge": {"kafka": {"bootstrap": kafka}},
        "broker": {"engine": engine, "port": broker_port, "secure_port": broker_port, "secure": secure},
        "homeassistant": {"enabled": homeassistant},
        "console": {"port": port},
        "metrics": {"port": metrics},
    }
    settings = load.read(overrides)
    _check_model(settings)
    given = {"broker": broker_port, "console": port}
    with hold_state(settings.state_dir), PortClaims() as ports:
        plan = compose(
            settings,
            Machine(ports.take, ports.take_any),
            cameras=list(cameras),
            foreign_bus="url" in load.flags.get("bus", {}),
            fixed_ports=[section for section, wanted in given.items() if wanted is not None],
        )
        if plan.is_secure:
            plan = replace(plan, notices=(*plan.notices, *_let_in(plan)))
        if load.exposed:
            plan = replace(plan, notices=(*plan.notices, EXPOSED.format(file=load.file)))
        site_file = SiteFile(load.file, lambda: choose_cameras(load.read(overrides), list(cameras)))
        ctx.exit(_run(plan, site_file, duration_s))


def _check_model(settings: Settings) -> None:
    model = settings.detector.model
    if model is not None and not model.is_file():
        raise ConfigError(f"there is no file {str(model)!r}", field="detector.model")


def _let_in(plan: Plan) -> tuple[str, ...]:
    # Here, not above: only a secure mesh needs the library for certificates.
    from console.enrolment import enrol_machine

    return enrol_machine(plan)


def _run(plan: Plan, site_file: SiteFile, duration_s: float | None) -> int:
    settings = plan.settings
    logs = settings.state_dir / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    stop = threading.Event()
    stop_on_signals(stop)
    with (logs / "up.log").open("w", encoding="utf-8") as log:
        configure_logging(settings.log.level, "json", stream=log)
        screen: Screen = TerminalScreen() if sys.stdout.isatty() else PlainScreen()
        try:
            return Mesh(plan, screen, stop, site_file).run(duration_s)
        finally:
            screen.close()


class SiteFile:
    """The cameras of the file that a person writes, as it is now.

    Args:
        path: the file; None where there is none.
        read_cameras: reads them as at the start.
    """

    def __init__(self, path: Path | None, read_cameras: Callable[[], dict[str, CameraSettings]]) -> None:
        self.path = path
        self.read_cameras = read_cameras
        self.has_changed = FileWatch(path).has_changed


class Mesh:
    """The mesh of this machine while it runs.

    Concurrency: everything but `_on_delivery` is called from one thread.

    Args:
        plan: what runs.
        screen: where to say it.
        stop: set when a person wants it to end.
        source: the file that a person writes: its cameras are followed.
    """

    def __init__(self, plan: Plan, screen: Screen, stop: threading.Event, source: SiteFile) -> None:
        self._plan = plan
        self._source = source
        self._screen = screen
        self._stop = stop
        self._view = MeshView()
        self._site_file = plan.settings.state_dir / "up" / "vigil.yaml"
        self._environment = role_environment(plan.settings)
        self._roles = {spec.name: self._made(spec) for spec in plan.roles}
        self._tails = {name: LogTail(role.log_file) for name, role in self._roles.items()}
        self._needed = {spec.name for spec in plan.roles if spec.needed}
        self._given_up: dict[str, str] = {}
        self._departures: dict[str, Departure] = {}
        self._milestones: dict[str, float] = {}
        self._seen: set[str] = set()
        self._bus = listen(plan.settings, "up")
        self._started_s = time.monotonic()

    def _made(self, spec: RoleSpec) -> RoleProcess:
        return RoleProcess(
            spec.name,
            role_command(self._site_file, spec.arguments),
            log_file=self._plan.settings.state_dir / "logs" / f"{spec.name}.log",
            environment=self._environment,
        )

    def run(self, duration_s: float | None) -> int:
        """Run until a person stops it, `duration_s` is over, or a role that is needed gives up.

        Returns:
            The exit status.

        Raises:
            ConfigError, PermanentError: what the role that gave up said.
        """
        write_site_file(self._plan.settings, self._site_file, written_by="vigil up")
        before = read_marks(self._plan.settings)
        self._say_hello()
        try:
            self._start_all()
            self._tend_until(None if duration_s is None else self._started_s + duration_s)
            mesh = self._view.snapshot(time.monotonic())
        finally:
            self._stop_all()
        return self._say_goodbye(mesh, before)

    # --- start ------------------------------------------------------------------------------------------------

    def _say_hello(self) -> None:
        settings = self._plan.settings
        own = "broker" in self._roles
        for line in (
            f"web page   {self._plan.page_url}",
            f"broker     {settings.bus.url} ({settings.broker.engine if own else 'not started by this command'})",
            *([f"follow     {self._plan.watch_example}"] if self._plan.is_secure else []),
            f"one frame  {self._plan.frame_example}",
            *_told_outside(settings, self._roles),
            f"state      {settings.state_dir} (logs in {settings.state_dir / 'logs'})",
            *self._plan.notices,
        ):
            self._screen.note(line)

    def _start_all(self) -> None:
        for spec in self._plan.roles:
            self._roles[spec.name].start(time.monotonic())
            if spec.name == "broker":
                self._wait_broker()
        for line in CONTRACT:
            self._bus.subscribe(line, self._on_delivery)
        self._bus.start()

    def _wait_broker(self) -> None:
        """Nobody else starts before our broker has its port: they would join whoever was quicker there.

        Its log says so, and not the port alone, which may be somebody else's.
        """
        host, port = self._plan.settings.broker.host, self._plan.broker_port
        broker = self._roles["broker"]
        deadline_s = time.monotonic() + BROKER_START_S
        while time.monotonic() < deadline_s and not self._stop.wait(TICK_S / 4):
            self._tend_roles(time.monotonic())
            if broker.has_said(BROKER_LISTENS) and answers(host, port):
                broker.has_worked = True
                self._seen.add("broker")
                self._reach("broker")
                return

    def _on_delivery(self, delivery: Delivery) -> None:
        self._view.fold(delivery, time.monotonic())

    # --- while it runs ----------------------------------------------------------------------------------------

    def _tend_until(self, end_s: float | None) -> None:
        while not self._stop.wait(TICK_S):
            now_s = time.monotonic()
            self._tend_roles(now_s)
            if self._source.has_changed(now_s):
                self._follow_source()
            self._follow_registry(now_s)
            mesh = self._view.snapshot(now_s)
            self._mark_progress(mesh)
            self._screen.show(mesh, self._absent(), now_s)
            if end_s is not None and now_s >= end_s:
                return

    def _follow_source(self) -> None:
        """Hand changed cameras on; what else has changed needs another start."""
        try:
            cameras = self._source.read_cameras()
        except ConfigError as error:
            self._screen.note(f"{error}; the cameras go on as they were")
            return
        settings = self._plan.settings
        if cameras != settings.cameras:
            self._plan = replace(self._plan, settings=settings.model_copy(update={"cameras": cameras}))
            for notice in _let_in(self._plan) if self._plan.is_secure else ():
                self._screen.note(notice)
            write_site_file(self._plan.settings, self._site_file, written_by="vigil up")
            self._screen.note(f"{self._source.path} has changed: the cameras are {', '.join(cameras)}")

    def _follow_registry(self, now_s: float) -> None:
        """Somebody has made a registry: from now on there is one to keep."""
        if FLEET.name in self._roles or not self._plan.settings.fleet.registry.is_dir():
            return
        fleet = self._roles[FLEET.name] = self._made(FLEET)
        self._tails[FLEET.name] = LogTail(fleet.log_file)
        fleet.start(now_s)
        self._screen.note(f"there is a registry now, {self._plan.settings.fleet.registry}: `vigil fleet` keeps it")

    def _tend_roles(self, now_s: float) -> None:
        for role in list(self._roles.values()):
            for words in self._tails[role.name].words():
                self._screen.note(f"{role.name}: {words}")
            departure = role.tend(now_s)
            if departure is None:
                continue
            if not departure.for_good:
                self._departures[role.name] = departure
                words = f": {departure.words}" if departure.words else ""
                self._screen.note(f"{role.name} {departure.reason}; starts again in {departure.retry_s:.1f} s{words}")
            elif role.name in self._needed:
                raise _as_error(departure)
            else:
                self._given_up[role.name] = departure.words
                self._screen.note(f"no {role.name}: {departure.words}")

    def _mark_progress(self, mesh: MeshSnapshot) -> None:
        self._seen |= {figures.role for figures in mesh.roles if figures.state == "online"}
        if "page" not in self._milestones and self._roles["console"].running:
            place = urlsplit(self._plan.page_url)
            if answers(place.hostname or "127.0.0.1", place.port or 80, TICK_S):
                self._reach("page")
        for name, reached in (
            ("frame", any(camera.frames for camera in mesh.cameras)),
            ("score", any(camera.scored for camera in mesh.cameras)),
            ("escalation", any(camera.escalations for camera in mesh.cameras)),
        ):
            if reached:
                self._reach(name)

    def _reach(self, milestone: str) -> None:
        self._milestones.setdefault(milestone, time.monotonic() - self._started_s)

    def _absent(self) -> list[str]:
        absent = [
            f"{name} ({self._departures[name].words or self._departures[name].reason})"
            for name, role in self._roles.items()
            if not role.running and name in self._departures
        ]
        if not self._bus.connected:
            absent.append(f"no connection to the broker at {self._plan.settings.bus.url}")
        return absent

    # --- the end ----------------------------------------------------------------------------------------------

    def _stop_all(self) -> None:
        self._screen.note("stopping")
        self._bus.close()
        started = [self._roles[name] for name in STOP_ORDER if name in self._roles]
        for name in stop_in_order(started, STOP_S):
            self._screen.note(f"{name} did not end within {STOP_S:.0f} s and was killed")

    def _say_goodbye(self, mesh: MeshSnapshot, before: Marks) -> int:
        self._screen.close()
        faults = self._faults(mesh)
        for line in self._summary(mesh):
            click.echo(line)
        verdict = run_audit(self._plan.settings, self._site_file, self._environment, before)
        for fault in faults:
            click.echo(f"vigil: {fault}", err=True)
        for line in verdict.lines:
            click.echo(line)
        return 0 if verdict.complete and not faults else 1

    def _faults(self, mesh: MeshSnapshot) -> list[str]:
        faults = [f"{camera.name} is in error: {camera.error}" for camera in mesh.cameras if camera.state == "error"]
        for name, role in self._roles.items():
            said = self._departures.get(name)
            why = (said.words or said.reason) if said else f"see {role.log_file}"
            if role.failures >= KEPT_FAILING:
                faults.append(f"{name} kept failing: {why}")
            elif name not in self._seen | self._given_up.keys() and not self._stop.is_set():
                faults.append(f"{name} did not get to work in this time: {why}")
        return faults

    def _summary(self, mesh: MeshSnapshot) -> list[str]:
        lines = [f"ran for {format_duration(time.monotonic() - self._started_s)}"]
        if self._milestones:
            reached = ", ".join(f"{name} {after_s:.1f} s" for name, after_s in self._milestones.items())
            lines.append(f"first after the start: {reached}")
        lines += [
            f"{camera.name}: {camera.frames} frames, {camera.scored} scored by {camera.model or 'nobody'}"
            for camera in mesh.cameras
        ]
        restarts = {name: role.restarts for name, role in self._roles.items() if role.restarts}
        if restarts:
            lines.append("started again: " + ", ".join(f"{name} {count} times" for name, count in restarts.items()))
        return lines


def _told_outside(settings: Settings, roles: Collection[str]) -> Iterator[str]:
    """What goes out of the mesh, and where."""
    kafka = settings.bridge.kafka
    if kafka is not None:
        yield f"Kafka      {kafka.bootstrap}, {kafka.mode}" + (", takes commands" if "commands" in roles else "")
    if "homeassistant" in roles:
        yield "Home Assistant finds every camera once its MQTT integration is at this broker (docs/homeassistant.md)"
    if settings.metrics.port is not None:
        yield "figures    `vigil metrics` lists where each role has them"


def _as_error(departure: Departure) -> ConfigError | PermanentError:
    message = f"{departure.role}: {departure.words or departure.reason}"
    return ConfigError(message) if departure.status == EXIT_CONFIG else PermanentError(message)
