"""The edge as a role: every camera of this node, each on its own."""

from __future__ import annotations

import threading
from collections.abc import Callable

from broker import Bus, Delivery, Distribution, Figures
from broker.messages import CameraDocument, CameraHealth, Command, CommandValue
from broker.standing import STANDING_ORDERS
from broker.topics import REGISTRY_CAMERA
from config import BadPayloadError, ConfigError, PermanentError, Supervised, VigilError, get_logger
from config.cameras import CameraSettings
from config.settings import Settings
from edge.assigned import Assigned
from edge.camera import Camera, Surroundings
from edge.orders import Answer, Order, OrderBook
from edge.settings_file import SettingsFile
from edge.wishes import read_wish

__all__ = ["Node"]

_TICK_S = 0.2
"""How soon a lease that is over, or a schedule's hour, is noticed."""
_LEAVE_S = 10.0
_INBOX_MAX = 1000
"""Cameras whose documents wait to be looked at; anybody with access to the bus may invent names."""
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
        file: the settings on disk; None: they never change.
        adopts: whether the site may give cameras to this node that its own settings do not name.
    """

    def __init__(
        self,
        around: Surroundings,
        *,
        role: str,
        on_fatal: Callable[[Exception], None],
        file: SettingsFile | None = None,
        adopts: bool = False,
    ) -> None:
        self._around = around
        self._bus: Bus = around.bus
        self._settings: Settings = around.settings
        self._on_fatal = on_fatal
        self._file = file
        self._log = get_logger()
        self._assigned = Assigned(self._settings.node, adopts, self._settings.cameras, around.remembered.documents())
        self._orders = OrderBook(self._bus, node=self._settings.node, role=role)
        self._lock = threading.Lock()
        self._inbox: dict[str, Delivery] = {}
        self._ended: dict[str, Exception | None] = {}
        self._all_ended = threading.Event()
        self._cameras: dict[str, Camera] = {}
        self._stop = threading.Event()
        self._thread = Supervised("node", self._tend_once, stop=self._stop, vital="alone")

    def start(self) -> None:
        """Begin to watch; before the bus connects, so that nothing retained is missed."""
        for name, settings in self._assigned.cameras().items():
            self._add(name, settings)
        self._orders.start()
        self._bus.subscribe(REGISTRY_CAMERA, self._on_document)
        self._thread.start()

    def close(self) -> None:
        """Stop watching: movements end, cameras go offline, one that failed stays in error."""
        self._stop.set()
        if not self._thread.join(_LEAVE_S):
            self._log.error("node.stuck", waited_s=_LEAVE_S)
        cameras = list(self._cameras.values())
        for camera in cameras:
            camera.ask_to_end()
        for camera in cameras:
            camera.end()

    def wait_ended(self, timeout_s: float) -> bool:
        """Wait at most `timeout_s` until no camera is left; True when none is."""
        return self._all_ended.wait(timeout_s)

    def figures(self) -> Figures:
        """What this node adds to its health."""
        cameras = list(self._cameras.values())
        figures = [camera.figures for camera in cameras]
        voices = [camera.voice for camera in cameras]
        return Figures(
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
            },
            distributions={"capture_to_publish": Distribution.sum(v.frames.published for v in voices)},
        )

    def health(self) -> dict[str, CameraHealth]:
        """How each camera is doing; rates are since the last time that this was asked."""
        return {name: camera.health() for name, camera in list(self._cameras.items())}

    # --- the cameras that there are ------------------------------------------------------------------------------

    def _add(self, name: str, settings: CameraSettings) -> None:
        camera = Camera(name, settings, self._around, on_end=self._on_end)
        self._cameras[name] = camera
        camera.begin()
        self._orders.watch(name)

    def _remove(self, name: str) -> None:
        self._orders.unwatch(name)
        self._forget_end(name)
        self._cameras[name].leave()
        del self._cameras[name]

    def _reconcile(self) -> list[str]:
        """Make the cameras those that are assigned; returns the names of those that this touched."""
        wanted = self._assigned.cameras()
        touched = []
        for name in [name for name in self._cameras if name not in wanted]:
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
        return touched

    def _on_end(self, name: str, error: Exception | None) -> None:
        """Runs on the camera's thread."""
        with self._lock:
            self._ended[name] = error
            if len(self._ended) < len(self._cameras):
                return
            errors = [f"camera {name}: {error}" for name, error in self._ended.items() if error is not None]
        self._all_ended.set()
        if len(errors) == len(self._cameras):
            self._on_fatal(PermanentError("; ".join(errors)))

    def _forget_end(self, name: str) -> None:
        with self._lock:
            self._ended.pop(name, None)

    # --- the node's own thread -------------------------------------------------------------------------------------

    def _tend_once(self) -> None:
        order = self._orders.take(_TICK_S)
        if order is not None:
            self._carry_out(order)
        self._take_documents()
        if self._file is not None and self._file.has_changed(self._around.clock.monotonic_s()):
            self._reload()
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

    # --- the site's documents --------------------------------------------------------------------------------------

    def _on_document(self, delivery: Delivery) -> None:
        """Runs on the bus's thread."""
        if not isinstance(delivery.content, CameraDocument | None):
            return
        with self._lock:
            name = delivery.topic.camera
            if name in self._inbox or len(self._inbox) < _INBOX_MAX:
                self._inbox[name] = delivery

    def _take_documents(self) -> None:
        with self._lock:
            inbox, self._inbox = self._inbox, {}
        for name, delivery in inbox.items():
            self._take_document(name, delivery)
        if inbox:
            self._reconcile()

    def _take_document(self, name: str, delivery: Delivery) -> None:
        document = delivery.content if isinstance(delivery.content, CameraDocument) else None
        trouble = None
        try:
            if self._assigned.take(name, document):
                self._around.remembered.keep_document(name, document)
        except BadPayloadError as error:
            trouble = f"what the site says of it cannot be used: {error.reason}"
            self._bus.reject(str(delivery.topic), error.reason, len(delivery.payload))
        if name in self._cameras:
            self._cameras[name].note_registry(trouble)
