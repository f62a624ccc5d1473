"""What the site wants of models, and what its workers say of theirs: over the bus, as the fleet."""

from __future__ import annotations

import queue
import secrets
import threading
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from broker import Bus, Delivery, listen
from broker.messages import Command, ModelFile, ModelManifest, NodeStatus, Reply, WorkerStatus, encode_json
from broker.topics import MODEL, NODE_COMMAND, NODE_REPLY, NODE_STATUS, NODE_WORKER
from config import PermanentError, SystemClock, TransientError
from config.durations import format_duration
from config.settings import Settings

__all__ = ["ROLE", "SiteModels"]

ROLE = "fleet"
"""The role that may say which model a site uses."""
_CONNECT_WAIT_S = 5.0
_QUIET_S = 0.5
"""Silence after which what the broker keeps has all come."""
_COMPLETE_MAX_S = 5.0
_ECHO_WAIT_S = 5.0
_LOOK_S = 0.25
_OFFER_WAIT_S = 5.0


class SiteModels:
    """A short visit to the bus.

    Concurrency: one thread; the bus's own fills `manifests` and `workers`, whole values in place of others.

    Args:
        settings: the site's.

    Attributes:
        manifests: what is wanted, by class of worker.
        workers: what they say, by origin.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._bus: Bus = listen(settings, ROLE, on_fatal=self._on_fatal)
        self._clock = SystemClock()
        self._news = threading.Condition()
        self._heard_s = 0.0
        self._keeper = ""
        self._replies: queue.SimpleQueue[Reply] = queue.SimpleQueue()
        self._fatal: Exception | None = None
        self.manifests: dict[str, ModelManifest] = {}
        self.workers: dict[str, WorkerStatus] = {}

    def __enter__(self) -> Self:
        """Connect, and hear what the broker keeps.

        Raises:
            ConfigError: this machine has no certificate for that.
            TransientError: there is no broker.
        """
        with ExitStack() as stack:
            stack.callback(self._bus.close, 0)
            for spec in (MODEL, NODE_WORKER):
                self._bus.subscribe(spec, self._on_message)
            self._bus.subscribe(NODE_STATUS, self._on_message, role=ROLE)
            self._bus.subscribe(NODE_REPLY, self._on_message, role=ROLE)
            self._bus.start()
            if not self._bus.wait_connected(_CONNECT_WAIT_S):
                raise self._fatal or TransientError(
                    f"no broker at {self._settings.bus.url}: start one, or name another with --bus URL"
                )
            self._wait_complete()
            stack.pop_all()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """Leave."""
        self._bus.close(0)

    def online(self, class_name: str) -> list[str]:
        """The workers of a class that are there, by name; of ``default``, those that follow no other's manifest."""
        return sorted(
            origin
            for origin, status in self.workers.items()
            if status.state == "online" and self._class_of(status, class_name) == class_name
        )

    def say(self, class_name: str, model: ModelFile, *, canary: str = "", previous: ModelFile | None) -> ModelManifest:
        """Say which model a class of workers is to use.

        Raises:
            PermanentError: the broker does not take it from us.
        """
        manifest = self._manifest(class_name, model, canary, previous)
        self._bus.publish(MODEL.at(self._bus.site, name=class_name), manifest)
        if not self._came_back(manifest):
            raise PermanentError(
                f"the broker did not take it: on a secure bus only the role {ROLE} says which model is used: "
                f"`vigil grant {self._settings.node} --role {ROLE}` at the authority, then `vigil renew` here"
            )
        return manifest

    def offer(self, class_name: str, model: ModelFile, *, previous: ModelFile | None, stage: bool) -> str:
        """Ask whoever keeps the site's schedules whether models may be changed now.

        Args:
            class_name: of workers.
            model: that they are to use.
            previous: that they use.
            stage: let it wait there until they may.

        Returns:
            When they may; empty when it is now, or when nobody keeps schedules.

        Raises:
            PermanentError: it does not take it.
            TransientError: it does not answer.
        """
        if not self._keeper:
            return ""
        manifest = encode_json(self._manifest(class_name, model, "", previous)).decode()
        order = Command(
            correlation_id=f"models-{secrets.token_hex(8)}",
            name="stage-model",
            arguments={"manifest": manifest, "stage": "yes" if stage else "no"},
        )
        self._bus.publish(NODE_COMMAND.at(self._bus.site, node=self._keeper, role=ROLE), order)
        reply = self._answer(order.correlation_id)
        if not reply.ok:
            raise PermanentError(reply.reason)
        return reply.result.get("opens", "")

    def _manifest(self, class_name: str, model: ModelFile, canary: str, previous: ModelFile | None) -> ModelManifest:
        before = self.manifests.get(class_name)
        return ModelManifest(
            name=class_name,
            version=before.version + 1 if before else 1,
            at=self._clock.now(),
            model=model,
            canary=canary,
            previous=previous,
        )

    def _answer(self, correlation_id: str) -> Reply:
        deadline_s = self._clock.monotonic_s() + _OFFER_WAIT_S
        while (left_s := deadline_s - self._clock.monotonic_s()) > 0:
            try:
                reply = self._replies.get(timeout=left_s)
            except queue.Empty:
                break
            if reply.correlation_id == correlation_id:
                return reply
        raise TransientError(
            f"{self._keeper}.{ROLE} has not said whether models may be changed now: try again, or use --now"
        )

    def wait_verdict(self, worker: str, manifest: ModelManifest, timeout_s: float, told: Callable[[str], None]) -> str:
        """Wait until a worker has taken the model of a manifest for good, or refused it.

        Args:
            worker: its origin.
            manifest: as `say` returned it.
            timeout_s: how long.
            told: called with each thing that it says on the way.

        Returns:
            Why it refused; empty when it uses it.

        Raises:
            TransientError: it said neither.
        """
        deadline_s, last = self._clock.monotonic_s() + timeout_s, ""
        while self._clock.monotonic_s() < deadline_s:
            status = self.workers.get(worker)
            if status is not None and status.model_version == manifest.version:
                step = _step(status, manifest.model)
                if step != last:
                    told(step)
                if status.model_wanted is None and (status.model_error or _uses(status, manifest.model)):
                    return status.model_error
                last = step
            with self._news:
                self._news.wait(_LOOK_S)
        raise TransientError(
            f"{worker} has not said within {format_duration(timeout_s)} how {manifest.model.name} does"
            + (f" (it says: {last})" if last else ": is it running?")
            + "; `vigil models list` shows when it has"
        )

    # --- on the bus's thread -----------------------------------------------------------------------------------------

    def _on_message(self, delivery: Delivery) -> None:
        content = delivery.content
        with self._news:
            match content:
                case ModelManifest():
                    self.manifests[delivery.topic.params["name"]] = content
                case WorkerStatus():
                    self.workers[content.worker] = content
                case NodeStatus(state="online"):
                    self._keeper = content.node
                case NodeStatus() if content.node == self._keeper:
                    self._keeper = ""
                case Reply():
                    self._replies.put(content)
            self._heard_s = self._clock.monotonic_s()
            self._news.notify_all()

    def _on_fatal(self, error: Exception) -> None:
        self._fatal = error

    # --- waiting -----------------------------------------------------------------------------------------------------

    def _came_back(self, manifest: ModelManifest) -> bool:
        deadline_s = self._clock.monotonic_s() + _ECHO_WAIT_S
        with self._news:
            while self.manifests.get(manifest.name) != manifest:
                refused = self._bus.statistics().link.refused > 0
                if refused or self._clock.monotonic_s() > deadline_s:
                    return False
                self._news.wait(_LOOK_S)
        return True

    def _wait_complete(self) -> None:
        begun_s = self._heard_s = self._clock.monotonic_s()
        with self._news:
            while self._clock.monotonic_s() < min(self._heard_s + _QUIET_S, begun_s + _COMPLETE_MAX_S):
                self._news.wait(_LOOK_S)

    def _class_of(self, status: WorkerStatus, asked: str) -> str:
        """The class whose manifest a worker follows, once there is one for the class that is asked for."""
        known = {*self.manifests, asked}
        return next((name for name in (*status.classes, "default") if name in known), "default")


def _step(status: WorkerStatus, model: ModelFile) -> str:
    if status.model_error:
        return status.model_error
    if status.model_wanted is None:
        return "in use"
    return "on trial" if _uses(status, model) else "fetching it and warming it up"


def _uses(status: WorkerStatus, model: ModelFile) -> bool:
    return status.model is not None and status.model.sha256 == model.sha256
