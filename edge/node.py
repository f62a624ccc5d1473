"""The edge as a role: every camera of this node, each on its own."""

from __future__ import annotations

import threading
from collections.abc import Callable

from broker import Bus, Delivery, Distribution, Figures
from broker.messages import CameraHealth, CameraState, Command, CommandValue
from broker.standing import STANDING_ORDERS
from broker.topics import CAMERA_STATE
from config import BadPayloadError, ConfigError, PermanentError, Supervised, VigilError, get_logger
from config.cameras import CameraSettings
from config.settings import Settings
from edge.camera import Camera, Surroundings
from edge.orders import Answer, Order, OrderBook
from edge.pool import PoolShare
from edge.settings_file import SettingsFile
from edge.site_word import SiteWord
from edge.state import StateReport
from edge.wishes import read_wish

__all__ = ["Node"]

_TICK_S = 0.2
"""How soon a lease that is over, or a schedule's hour, is noticed."""
_LEAVE_S = 10.0
_DRAIN_S = 3.0
"""For others to take the cameras of pools when this node ends: what takes longer they take when it is gone."""
_RETRY_S = 60.0
"""How often a camera of the site's that a person must cure is tried again: here nobody restarts the process for it."""
COMMANDS = ("ping", "reload", "restart", "set", "snapshot")


class Node:
    """The cameras of one machine. The trouble of one never touches another.

    Its own thread carries out orders, applies documents and files that have changed, and tends the cameras: what
    a schedule or a lease wants changes with time alone.

    Concurrency: `start`, `close` and `wait_ended` belong to one thread; `figures` and `health` to another.

    Args:
        around: what the cameras have in common.
        role: this process's role.
        on_fatal: called when no camera is left and each of them needs a person.
        on_left: called with a camera that is not watched here any more, before anybody else begins to.
        file: the settings on disk; None: they never change.
        adopts: whether the site may give cameras to this node that its own settings do not name.
    """

    def __init__(
        self,
        around: Surroundings,
        *,
        role: str,
        on_fatal: Callable[[Exception], None],
        on_left: Callable[[str], None] | None = None,
        file: SettingsFile | None = None,
        adopts: bool = False,
    ) -> None:
        self._around = around
        self._bus: Bus = around.bus
        self._settings: Settings = around.settings
        self._on_fatal = on_fatal
        self._on_left = on_left
        self._file = file
        self._log = get_logger()
        self._site = SiteWord(around, adopts=adopts)
        self._assigned = self._site.assigned
        self._pool = PoolShare(
            self._bus,
            clock=around.clock,
            on_overtaken=self._on_overtaken,
            cameras_max=self._settings.edge.cameras_max,
        )
        self._overtaken: set[str] = set()
        self._shared = frozenset[str]()
        self._unwatched: dict[str, StateReport] = {}
        self._retry_s = around.clock.monotonic_s() + _RETRY_S
        self._orders = OrderBook(self._bus, node=self._settings.node, role=role)
        self._lock = threading.Lock()
        self._ended: dict[str, Exception | None] = {}
        self._all_ended = threading.Event()
        self._cameras: dict[str, Camera] = {}
        self._stop = threading.Event()
        self._thread = Supervised("node", self._tend_once, stop=self._stop, vital="alone")

    def start(self) -> None:
        """Begin to watch; before the bus connects, so that nothing retained is missed."""
        self._reconcile()
        self._orders.start()
        self._site.start()
        self._thread.start()

    def close(self) -> None:
        """Stop watching: movements end, cameras go offline, one that failed stays in error.

        Cameras of pools go to others first.
        """
        self._pool.drain(_DRAIN_S)
        self._stop.set()
        if not self._thread.join(_LEAVE_S):
            self._log.error("node.stuck", waited_s=_LEAVE_S)
        cameras = list(self._cameras.values())
        for camera in cameras:
            camera.ask_to_end()
        for camera in cameras:
            camera.end()
        self._pool.close()

    def wait_ended(self, timeout_s: float) -> bool:
        """Wait at most `timeout_s` until no camera is left; True when none is."""
        return self._all_ended.wait(timeout_s)

    def figures(self) -> Figures:
        """What this node adds to its health."""
        cameras = list(self._cameras.values())
        figures = [camera.figures for camera in cameras]
        voices = [camera.voice for camera in cameras]
        pool = self._pool.figures()
        return Figures(
            queues=pool.queues,
            drops={
                "frames_late": sum(f.late for f in figures),
                "frames_unsent_here": sum(v.frames.unsent for v in voices),
                "motion_refused": sum(v.motion.events_refused for v in voices),
            },
            counts={
                "cameras": len(cameras),
                "cameras_ended": len(self._ended),
                "frames_captured": sum(f.captured for f in figures),
                "frames_percent": round(100 * self._around.vitals.pace),
                "frames_sent": sum(v.frames.sent for v in voices),
                "frames_reduced": sum(v.frames.reduced for v in voices),
                "movements": sum(f.movements for f in figures),
                "orders": self._orders.taken,
                "sources_opened": sum(f.opened for f in figures),
                **pool.counts,
            },
            distributions={"capture_to_publish": Distribution.sum(v.frames.published for v in voices)},
        )

    def health(self) -> dict[str, CameraHealth]:
        """How each camera is doing; rates are since the last time that this was asked."""
        return {name: camera.health() for name, camera in list(self._cameras.items())}

    # --- the cameras that there are ------------------------------------------------------------------------------

    def _add(self, name: str, settings: CameraSettings) -> None:
        if (report := self._unwatched.pop(name, None)) is not None:
            report.leave()
        camera = Camera(name, settings, self._around, on_end=self._on_end)
        self._cameras[name] = camera
        camera.begin()
        self._orders.watch(name)
        if name in self._shared:
            self._bus.subscribe(CAMERA_STATE, self._on_state, camera=name)

    def _remove(self, name: str) -> None:
        self._orders.unwatch(name)
        self._bus.unsubscribe(CAMERA_STATE, camera=name)
        self._forget_end(name)
        self._cameras[name].leave()
        del self._cameras[name]
        if self._on_left is not None:
            self._on_left(name)

    def _reconcile(self) -> list[str]:
        """Make the cameras those that are assigned; returns the names of those that this touched."""
        self._pool.offer(self._assigned.pools, self._assigned.pooled(), drained=self._site.drained)
        self._shared = self._pool.mine()
        wanted = self._assigned.cameras(self._shared)
        touched = []
        with self._lock:
            overtaken, self._overtaken = self._overtaken, set()
        leaving = [name for name in self._cameras if name not in wanted or name in overtaken]
        for name in leaving:
            self._cameras[name].ask_to_leave()
        for name in leaving:
            self._log.info("camera.removed", camera=name)
            self._remove(name)
            touched.append(name)
        for name, settings in wanted.items():
            camera = self._cameras.get(name)
            if camera is not None and camera.settings == settings:
                continue
            touched.append(name)
            if camera is None:
                self._log.info("camera.added", camera=name)
                self._add(name, settings)
            else:
                self._log.info("camera.changed", camera=name)
                self._forget_end(name)
                camera.change(settings)
        self._pool.watches(self._shared)
        self._tell_troubles()
        return touched

    def _tell_troubles(self) -> None:
        """Say what of the site's word cannot be used, under the name of each camera that it is about."""
        troubles = {
            name: f"what the site says of it cannot be used: {reason}"
            for name, reason in self._assigned.troubles(self._shared).items()
        }
        for name, camera in self._cameras.items():
            camera.note_registry(troubles.get(name))
        for name in troubles.keys() - self._cameras.keys() - self._unwatched.keys():
            self._unwatched[name] = StateReport(self._bus, name, node=self._settings.node, clock=self._around.clock)
        for name, report in list(self._unwatched.items()):
            report.note("registry", troubles.get(name))
            if name in troubles:
                report.say(state="error")
                continue
            if name not in self._assigned.documents:  # else whoever watches it says how it is
                report.say(state="offline")
            del self._unwatched[name]
            report.leave()

    def _on_overtaken(self, name: str) -> None:
        """Runs on the bus's thread."""
        camera = self._cameras.get(name)
        if camera is not None:
            camera.ask_to_leave(is_overtaken=True)
            with self._lock:
                self._overtaken.add(name)

    def _on_state(self, delivery: Delivery) -> None:
        """Runs on the bus's thread."""
        camera = self._cameras.get(delivery.topic.camera)
        if camera is not None and isinstance(delivery.content, CameraState) and not delivery.retained:
            camera.voice.state.insist(delivery.content)

    def _on_end(self, name: str, error: Exception | None) -> None:
        """Runs on the camera's thread."""
        with self._lock:
            self._ended[name] = error
            if len(self._ended) < len(self._cameras):
                return
            errors = [f"camera {name}: {error}" for name, error in self._ended.items() if error is not None]
            is_own = all(name in self._assigned.own for name in self._ended)
        self._all_ended.set()
        if len(errors) == len(self._cameras) and is_own:
            self._on_fatal(PermanentError("; ".join(errors)))

    def _retry_failed(self) -> None:
        """Open again what a person had to cure, where the site gave it to this node."""
        if self._around.clock.monotonic_s() < self._retry_s:
            return
        self._retry_s = self._around.clock.monotonic_s() + _RETRY_S
        with self._lock:
            failed = [name for name, error in self._ended.items() if error is not None]
        for name in failed:
            if name in self._cameras and name not in self._assigned.own:
                self._forget_end(name)
                self._cameras[name].restart()

    def _forget_end(self, name: str) -> None:
        with self._lock:
            self._ended.pop(name, None)

    # --- the node's own thread -------------------------------------------------------------------------------------

    def _tend_once(self) -> None:
        order = self._orders.take(_TICK_S)
        if order is not None:
            self._carry_out(order)
        if self._site.take() or self._overtaken or self._pool.mine() != self._shared:
            self._reconcile()
        if self._file is not None and self._file.has_changed(self._around.clock.monotonic_s()):
            self._reload()
        self._retry_failed()
        self._tend_cameras()

    def _tend_cameras(self) -> None:
        """Tend every camera, whatever the trouble of one.

        Raises:
            VigilError: the first trouble, once all were tended.
        """
        troubles = []
        for camera in self._cameras.values():
            try:
                camera.tend()
            except VigilError as error:
                troubles.append(error)
        if troubles:
            raise troubles[0]

    def _carry_out(self, order: Order) -> None:
        try:
            if isinstance(order.content, CommandValue):
                self._set(order, order.camera, order.property, order.content)
            else:
                self._obey(order, order.content)
        except BadPayloadError as error:
            order.answer(Answer({}, error.reason))

    def _set(self, order: Order, camera: str, name: str, value: CommandValue) -> None:
        wish = read_wish(name, value.value, self._around.clock.now())
        self._find(camera).fulfil(wish, order.correlation_id, order.answer)

    def _obey(self, order: Order, command: Command) -> None:
        """Carry out an order to this process."""
        arguments = command.arguments
        match command.name:
            case "ping":
                order.answer(Answer({"cameras": ", ".join(self._cameras), "at": self._around.clock.now().isoformat()}))
            case "reload":
                order.answer(self._reload())
            case "restart":
                self._restart(order, self._find(arguments.get("camera")))
            case "snapshot":
                self._set(order, arguments.get("camera", ""), "snapshot", CommandValue(value="now"))
            case "set":
                value = CommandValue(value=arguments.get("value", ""))
                self._set(order, arguments.get("camera", ""), arguments.get("property", ""), value)
            case _:
                raise BadPayloadError(
                    f"there is no order {command.name[:64]!r}; known are {', '.join((*COMMANDS, *STANDING_ORDERS))}"
                )

    def _find(self, name: str | None) -> Camera:
        camera = self._cameras.get(name or "")
        if camera is None:
            raise BadPayloadError(
                f"this node has no camera {(name or '')[:64]!r}; name one in `camera`: {', '.join(self._cameras)}"
            )
        return camera

    def _restart(self, order: Order, camera: Camera) -> None:
        self._forget_end(camera.name)
        trouble = camera.restart()
        order.answer(Answer({} if trouble else camera.properties(), trouble))

    def _reload(self) -> Answer:
        """Read the settings again, and apply what has changed of the cameras."""
        if self._file is None:
            return Answer({}, "this process was started without settings that can change")
        try:
            settings = self._file.read()
        except ConfigError as error:
            self._log.error("edge.settings_refused", error=str(error))
            return Answer({}, f"{error}; the cameras go on as they were")
        self._assigned.own = settings.cameras
        touched = self._reconcile()
        others = [
            name
            for name in type(settings).model_fields
            if name != "cameras" and getattr(settings, name) != getattr(self._settings, name)
        ]
        if others:
            self._log.warning("edge.restart_needed", sections=others)
        self._log.info("edge.reloaded", changed=touched)
        return Answer({"changed": ", ".join(touched), "restart_needed_for": ", ".join(others)})
