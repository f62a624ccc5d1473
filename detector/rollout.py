"""A worker follows the site's choice of model: fetches it, warms it up, swaps, and goes back by itself.

The model in use keeps serving until the next one is warm, and stays in memory until that one has passed its trial. What
fails, at whichever step, is said in the worker's status and changes nothing else.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import msgspec

from broker import Bus, Delivery
from broker.messages import ModelFile, ModelManifest, ModelRef
from broker.topics import MODEL
from config import Backoff, Clock, ConfigError, PermanentError, Supervised, SystemClock, TransientError, get_logger
from config.settings import DetectorSettings
from detector.backends import Backend
from detector.model_store import ModelStore, models_folder
from detector.models import open_backend, open_model
from detector.rollout_note import Refusal, Wanted, read_note, write_note
from detector.slot import BackendSlot, Performance
from detector.trial import HANGS_S, TRIAL_BATCHES, TRIAL_S, why_not
from detector.warmup import WarmUp, trial_pictures, warm_up

__all__ = ["ModelState", "Rollout", "wanted_by"]

DEFAULT_CLASS = "default"
_LOOK_S = 0.25
_SETTLE_S = 0.5
"""Silence on the manifests after which they are taken for complete: retained ones come one by one."""
_JOIN_S = 5.0


class TryOut(Protocol):
    """Runs a model in a process of its own; see :func:`detector.warmup.warm_up`."""

    def __call__(
        self, model: ModelFile, path: Path | None, settings: DetectorSettings, /, *, stop: threading.Event
    ) -> WarmUp:
        """Run it."""
        ...


@dataclass(frozen=True, slots=True)
class ModelState:
    """What a worker says of its model; see :class:`broker.messages.WorkerStatus`.

    Attributes:
        model: in use.
        labels: what it can say.
        wanted: what it changes to, until the trial is over.
        error: why it does not use what the site wants; empty while it does.
        version: of the manifest that this is about; 0 before there is one.
        speed: how many times as fast it is as the model with which the process began, as far as that is known.
    """

    model: ModelRef
    labels: tuple[str, ...]
    wanted: ModelRef | None = None
    error: str = ""
    version: int = 0
    speed: float = 1.0


@dataclass(frozen=True, slots=True)
class _Trial:
    """A model on trial.

    Attributes:
        before: in use until then, warm and ready.
        before_did: how it did.
    """

    wanted: Wanted
    backend: Backend
    before: Backend
    before_did: Performance
    started_s: float


@dataclass(slots=True)
class _Retired:
    """A backend that no new frame begins with."""

    backend: Backend
    close_s: float


@dataclass(slots=True)
class _Heard:
    """What the bus says, and when it said the last of it."""

    manifests: dict[str, ModelManifest] = field(default_factory=dict)
    at_s: float = 0.0


def wanted_by(manifests: Mapping[str, ModelManifest], classes: tuple[str, ...], worker: str) -> Wanted | None:
    """What the site wants a worker to use: the word for the first of its classes that has one, else the default's.

    Args:
        manifests: by class.
        classes: the worker's, the most important first.
        worker: its origin.

    Returns:
        None where nobody says anything, or only that another worker tries something.
    """
    manifest = next((manifests[name] for name in (*classes, DEFAULT_CLASS) if name in manifests), None)
    if manifest is None:
        return None
    model = manifest.model if manifest.canary in ("", worker) else manifest.previous
    if model is None:
        return None
    return Wanted(manifest=manifest.name, version=manifest.version, at=manifest.at, model=model)


class Rollout:
    """Keeps a slot filled with the model that the site wants.

    It begins with the model that served last, else with what the settings choose.

    Concurrency: `start` and `close` belong to one thread; `state` may be read from any.

    Args:
        settings: of the worker; with a `model` in it, that one is used whatever the site wants.
        origin: the worker's.
        note: file in which it remembers; its folder is made.
        clock: time.
        on_fatal: called when a model on trial hangs, and only an end of the process frees the threads that wait for it.
        try_out: runs a model in a process of its own.

    Attributes:
        slot: the model in use.
        state: what to say of it.

    Raises:
        ConfigError: as :func:`detector.models.open_backend`.
    """

    def __init__(
        self,
        settings: DetectorSettings,
        origin: str,
        note: Path,
        *,
        clock: Clock | None = None,
        on_fatal: Callable[[Exception], None] | None = None,
        try_out: TryOut = warm_up,
    ) -> None:
        self._settings = settings
        self._origin = origin
        self._file = note
        self._clock: Clock = clock or SystemClock()
        self._log = get_logger(origin=origin)
        self._store = ModelStore(models_folder(settings))
        self._try_out = try_out
        self._note = read_note(note)
        self._lock = threading.Lock()
        self._heard = _Heard()
        self._trial: _Trial | None = None
        self._retired: list[_Retired] = []
        self._backoff = Backoff(2.0, 300.0, floor_s=1.0)
        self._tried: Wanted | None = None
        self._version = 0
        self._again_s = 0.0
        self._stop = threading.Event()
        self._thread = Supervised("models", self._look_once, stop=self._stop, on_fatal=on_fatal, clock=self._clock)
        self._own_up()
        backend = self._open_served() or open_backend(settings)
        self.slot = BackendSlot(backend, clock=self._clock)
        self.state = ModelState(backend.model, backend.labels)

    def start(self, bus: Bus) -> None:
        """Follow the site's choice, as this bus says it; before the bus is started."""
        bus.subscribe(MODEL, self._on_manifest)
        self._thread.start()

    def close(self) -> None:
        """Follow nothing any more. A trial that is under way has no verdict, and begins anew with the next start."""
        self._stop.set()
        self._thread.join(_JOIN_S)
        if self._note.trying is not None:
            self._remember(trying=None)

    # --- at the start ------------------------------------------------------------------------------------------------

    def _own_up(self) -> None:
        """A trial without a verdict is one that this process did not survive."""
        if self._note.trying is not None:
            self._log_refusal(self._note.trying, "the worker's process ended while this model was on trial")

    def _open_served(self) -> Backend | None:
        served = self._note.serving
        if self._settings.model is not None or served is None:
            return None
        stored = self._store.find(served.sha256)
        if stored is None and served.kind != "hog":
            self._log.warning("model.unusable", model=served.name, reason=f"it is not in {self._store.folder} any more")
            return None
        try:
            return open_model(served, stored.path if stored else None, self._settings)
        except ConfigError as error:
            self._log.warning("model.unusable", model=served.name, reason=str(error))
            return None

    def _on_manifest(self, delivery: Delivery) -> None:
        manifest = delivery.content
        if isinstance(manifest, ModelManifest) and manifest.name == delivery.topic.params["name"]:
            with self._lock:
                self._heard.manifests[manifest.name] = manifest
                self._heard.at_s = self._clock.monotonic_s()

    # --- on the rollout's own thread ---------------------------------------------------------------------------------

    def _look_once(self) -> None:
        self._clock.wait(self._stop, _LOOK_S)
        now_s = self._clock.monotonic_s()
        with self._lock:
            manifests, silent_s = dict(self._heard.manifests), now_s - self._heard.at_s
        wanted = wanted_by(manifests, self._settings.classes, self._origin)
        if wanted is not None and silent_s >= _SETTLE_S:
            self._version = wanted.version
            self._follow(wanted, now_s)
        if self._trial is not None:
            self._judge(self._trial, now_s)
        self._close_retired(now_s)

    def _follow(self, wanted: Wanted, now_s: float) -> None:
        if self._trial is not None:
            if self._trial.wanted.model.sha256 == wanted.model.sha256:
                self._trial = replace(self._trial, wanted=wanted)
                self._say(wanted=_ref(wanted.model), error="")
                return
            self._break_off(self._trial)
        if wanted.model.sha256 == self.slot.current.model.sha256:
            self._say(wanted=None, error="")
        elif self._settings.model is not None:
            self._say(wanted=None, error=f"detector.model of its settings says {self._settings.model.name}")
        elif self._note.refused is not None and self._note.refused.wanted == wanted:
            self._say(wanted=None, error=self._note.refused.reason)
        elif wanted != self._tried or now_s >= self._again_s:
            self._change(wanted)

    def _change(self, wanted: Wanted) -> None:
        if wanted != self._tried:
            self._backoff.reset()
        self._tried = wanted
        self._say(wanted=_ref(wanted.model), error="")
        try:
            backend = self._warm(wanted.model)
            self._remember_served()
            self._write(trying=wanted)
        except (ConfigError, PermanentError) as error:
            self._refuse(wanted, str(error))
            return
        except TransientError as error:
            delay_s = self._backoff.delay_s()
            self._again_s = self._clock.monotonic_s() + delay_s
            if not self._stop.is_set():
                self._log.warning("model.delayed", model=wanted.model.name, error=str(error), delay_s=round(delay_s, 1))
                self._say(wanted=_ref(wanted.model), error=str(error))
            return
        self._begin_trial(wanted, backend)

    def _warm(self, model: ModelFile) -> Backend:
        """The model, fetched, tried out in a process of its own, and loaded and warm in this one."""
        path = self._store.fetch(model, on_progress=self._go_on) if model.kind != "hog" else None
        told = self._try_out(model, path, self._settings, stop=self._stop)
        self._log.info(
            "model.warm", model=model.name, picture_ms=told.picture_ms, memory_mb=told.memory_bytes // 1_000_000
        )
        backend = open_model(model, path, self._settings)
        for picture in trial_pictures():
            backend.infer([backend.prepare(picture)])
        return backend

    def _go_on(self, _bytes: int, _of: int | None) -> None:
        if self._stop.is_set():
            raise TransientError("the worker ends before its next model is here")

    def _begin_trial(self, wanted: Wanted, backend: Backend) -> None:
        before_did = self.slot.performance(self.slot.current)
        before = self.slot.swap(backend)
        self._trial = _Trial(wanted, backend, before, before_did, self._clock.monotonic_s())
        self._log.info("model.on_trial", model=backend.model.name, sha256=backend.model.sha256)
        self._say(wanted=backend.model, error="")

    def _judge(self, trial: _Trial, now_s: float) -> None:
        did, elapsed_s = self.slot.performance(trial.backend), now_s - trial.started_s
        reason = why_not(trial.before_did, did, elapsed_s)
        if reason:
            self._go_back(trial)
            self._refuse(trial.wanted, reason)
            if did.running_s > HANGS_S:
                raise PermanentError(f"{trial.wanted.model.name} does not return: begin again with the model before it")
        elif elapsed_s >= TRIAL_S and did.batches >= TRIAL_BATCHES:
            self._trial = None
            self._retire(trial.before, trial.started_s)
            self._remember(serving=trial.wanted.model, trying=None)
            self._store.mark(trial.wanted.model.sha256, refused=None)
            self._log.info("model.in_use", model=trial.backend.model.name, sha256=trial.backend.model.sha256)
            before_s = trial.before_did.picture_s
            speed = self.state.speed * (before_s / did.picture_s if before_s and did.picture_s else 1.0)
            self._say(wanted=None, error="", speed=round(speed, 3))

    def _break_off(self, trial: _Trial) -> None:
        """The site wants something else before there is a verdict."""
        self._go_back(trial)
        self._remember(trying=None)

    def _go_back(self, trial: _Trial) -> None:
        self.slot.swap(trial.before)
        self._trial = None
        self._retire(trial.backend, self._clock.monotonic_s())

    def _refuse(self, wanted: Wanted, reason: str) -> None:
        self._log_refusal(wanted, reason)
        self._say(wanted=None, error=reason)

    def _log_refusal(self, wanted: Wanted, reason: str) -> None:
        self._log.error("model.refused", model=wanted.model.name, sha256=wanted.model.sha256, reason=reason)
        self._remember(refused=Refusal(wanted=wanted, reason=reason), trying=None)
        self._store.mark(wanted.model.sha256, refused=reason)

    def _remember_served(self) -> None:
        """What serves now is what to begin with, should the next one end the process."""
        if self._note.serving is None:
            self._write(serving=self._describe(self.slot.current.model))

    def _describe(self, model: ModelRef) -> ModelFile | None:
        stored = self._store.find(model.sha256)
        if stored is not None:
            return stored.about
        is_hog = model.name == "hog-people"
        return ModelFile(name=model.name, sha256=model.sha256, size_bytes=0, kind="hog") if is_hog else None

    def _retire(self, backend: Backend, since_s: float) -> None:
        # A frame that began with it is scored before it is too old, or not at all.
        self._retired.append(_Retired(backend, since_s + self._settings.frame_age_max_s + 1.0))

    def _close_retired(self, now_s: float) -> None:
        due = [one for one in self._retired if now_s >= one.close_s]
        self._retired = [one for one in self._retired if now_s < one.close_s]
        for one in due:
            one.backend.close()

    def _say(self, *, wanted: ModelRef | None, error: str, speed: float | None = None) -> None:
        backend, before = self.slot.current, self.state
        speed = before.speed if speed is None else speed
        self.state = ModelState(backend.model, backend.labels, wanted, error, self._version, speed)

    def _write(self, **changes: object) -> None:
        note = msgspec.structs.replace(self._note, **changes)
        write_note(self._file, note)
        self._note = note

    def _remember(self, **changes: object) -> None:
        """Write it down; where the disk takes nothing, it holds until this process ends."""
        try:
            self._write(**changes)
        except TransientError as error:
            self._note = msgspec.structs.replace(self._note, **changes)
            self._log.warning("model.note_unwritten", error=str(error))


def _ref(model: ModelFile) -> ModelRef:
    return ModelRef(name=model.name, sha256=model.sha256)
