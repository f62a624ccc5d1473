from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
import structlog.testing

from broker import Bus
from broker.memory import MemoryBroker
from broker.messages import ModelFile, ModelManifest, ModelRef
from broker.topics import MODEL
from config import ConfigError, ManualClock, PermanentError, TransientError
from config.settings import DetectorSettings
from detector import rollout as rolling
from detector.backends import Backend
from detector.rollout import Rollout, wanted_by
from detector.rollout_note import RolloutNote, read_note
from detector.warmup import WarmUp
from tests.support.file_server import FileServer, Served
from tests.support.waiting import wait_until
from tests.unit.detector.stand_ins import BrightBackend, picture

ME = "node-1.detector"
FIRST, SECOND, THIRD = b"the first model", b"the second model", b"the third model"


class Model(BrightBackend):
    """A model whose file is its content; what is in `Worker.broken` cannot be opened."""

    def __init__(self, content: bytes, name: str) -> None:
        super().__init__()
        self.model = ModelRef(name=name, sha256=hashlib.sha256(content).hexdigest())
        self.closed = False

    def close(self) -> None:
        self.closed = True


class Worker:
    """A worker with stand-ins for models, its bus in memory, and a clock that this test moves on.

    Attributes:
        crashes: models whose warm-up fails, with the reason.
        broken: models that cannot be opened in the worker's own process.
        opened: every model that was opened.
    """

    def __init__(self, folder: Path, server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.server = server
        self.broker = MemoryBroker()
        self.clock = ManualClock()
        self.settings = DetectorSettings(models_folder=folder / "models")
        self.crashes: dict[str, Exception] = {}
        self.broken: dict[str, Exception] = {}
        self.opened: list[Model] = []
        self.fatal: list[Exception] = []
        self.buses: list[Bus] = []
        self._version = 0
        monkeypatch.setattr(rolling, "open_backend", lambda _: self._opened(FIRST, "first"))
        monkeypatch.setattr(rolling, "open_model", self._open_model)
        self.fleet = self._bus("node-2.fleet")
        self.start()

    def start(self) -> None:
        """As after a crash, when it has run before."""
        self.rollout = Rollout(
            self.settings, ME, self.note, clock=self.clock, on_fatal=self.fatal.append, try_out=self._try_out
        )
        bus = self._bus(ME)
        bus.subscribe(MODEL, self.rollout._on_manifest)
        self.heard = 0

    @property
    def note(self) -> Path:
        return self.folder / "state" / "note.json"

    def _bus(self, origin: str) -> Bus:
        bus = Bus(site="home", origin=origin, transports=self.broker.transports(origin))
        bus.start()
        assert bus.wait_connected(30)
        self.buses.append(bus)
        return bus

    def _opened(self, content: bytes, name: str) -> Backend:
        model = Model(content, name)
        self.opened.append(model)
        return model

    def _open_model(self, model: ModelFile, path: Path | None, _settings: DetectorSettings) -> Backend:
        if model.name in self.broken:
            raise self.broken[model.name]
        assert path is not None
        return self._opened(path.read_bytes(), model.name)

    def _try_out(
        self, model: ModelFile, _path: Path | None, _settings: DetectorSettings, /, *, stop: threading.Event
    ) -> WarmUp:
        if model.name in self.crashes:
            raise self.crashes[model.name]
        return WarmUp(labels=1, picture_ms=1.0)

    def describe(self, name: str, content: bytes) -> ModelFile:
        return ModelFile(
            name=name,
            sha256=hashlib.sha256(content).hexdigest(),
            size_bytes=len(content),
            url=self.server.url(f"{name}.onnx"),
        )

    def wants(self, name: str, content: bytes, *, canary: str = "", previous: ModelFile | None = None) -> None:
        """The site says so, and the worker has heard it."""
        self._version += 1
        manifest = ModelManifest(
            name="default",
            version=self._version,
            at=self.clock.now(),
            model=self.describe(name, content),
            canary=canary,
            previous=previous,
        )
        self.fleet.publish(MODEL.at("home", name="default"), manifest)
        wait_until(lambda: self.rollout._heard.manifests.get("default") == manifest)

    def looks(self, seconds: float, *, frames: int = 0) -> None:
        """Time goes by, and so many frames a look are scored."""
        for _ in range(round(seconds / 0.25)):
            self.rollout._look_once()
            self.scores(frames)

    def scores(self, frames: int) -> None:
        backend = self.rollout.slot.current
        for _ in range(frames):
            self.rollout.slot.infer(backend, [backend.prepare(picture())])

    @property
    def uses(self) -> str:
        return self.rollout.state.model.name


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Worker]:
    files = {"second.onnx": Served(SECOND), "third.onnx": Served(THIRD)}
    with FileServer(files) as server, structlog.testing.capture_logs():
        made = Worker(tmp_path, server, monkeypatch)
        yield made
        for bus in made.buses:
            bus.close(0)


def test_a_worker_changes_to_what_the_site_wants_and_tells_when_it_is_sure(worker: Worker) -> None:
    worker.wants("second", SECOND)
    worker.looks(1.5)
    state = worker.rollout.state
    assert (worker.uses, state.wanted and state.wanted.name, state.error) == ("second", "second", "")
    assert read_note(worker.note).trying is not None
    worker.looks(11, frames=1)
    assert worker.rollout.state.wanted is None
    assert worker.rollout.state.version == 1
    note = read_note(worker.note)
    assert note.serving is not None
    assert (note.serving.name, note.trying) == ("second", None)


def test_the_model_before_is_kept_until_the_verdict_and_then_closed(worker: Worker) -> None:
    first = worker.opened[0]
    worker.wants("second", SECOND)
    worker.looks(9, frames=4)
    assert not first.closed
    worker.looks(5, frames=1)
    assert first.closed


def test_a_trial_without_frames_has_no_verdict(worker: Worker) -> None:
    worker.wants("second", SECOND)
    worker.looks(60)
    assert worker.rollout.state.wanted is not None
    worker.looks(6, frames=1)
    assert worker.rollout.state.wanted is None


def test_a_model_that_fails_on_trial_goes_back_and_is_not_tried_again(worker: Worker) -> None:
    worker.wants("second", SECOND)
    worker.looks(1.5)
    second = worker.opened[-1]
    second.failures = 3
    for _ in range(3):
        with pytest.raises(TransientError):
            worker.scores(1)
    worker.looks(60, frames=1)
    assert worker.uses == "first"
    assert "3 of its 3 inferences failed" in worker.rollout.state.error
    assert worker.rollout.state.wanted is None
    assert second.closed
    assert len(worker.opened) == 2
    worker.wants("second", SECOND)  # said again: tried again
    worker.looks(15, frames=4)
    assert (worker.uses, worker.rollout.state.error) == ("second", "")


def test_a_refusal_is_remembered_over_a_restart(worker: Worker) -> None:
    worker.crashes["second"] = PermanentError("second crashed (SIGSEGV) while it was warmed up")
    worker.wants("second", SECOND)
    worker.looks(3)
    assert worker.uses == "first"
    worker.crashes.clear()
    worker.start()
    wait_until(lambda: worker.rollout._heard.manifests)
    worker.looks(3)
    assert worker.uses == "first"
    assert "SIGSEGV" in worker.rollout.state.error


def test_a_process_that_died_of_a_model_does_not_begin_with_it(worker: Worker) -> None:
    worker.wants("second", SECOND)
    worker.looks(20, frames=1)
    worker.wants("third", THIRD)
    worker.looks(1.5)
    assert worker.uses == "third"
    worker.start()  # the trial had no verdict
    assert worker.uses == "second"
    wait_until(lambda: worker.rollout._heard.manifests)
    worker.looks(3)
    assert worker.uses == "second"
    assert "process ended while this model was on trial" in worker.rollout.state.error


def test_a_process_that_is_stopped_in_a_trial_begins_the_trial_anew(worker: Worker) -> None:
    worker.wants("second", SECOND)
    worker.looks(1.5)
    worker.rollout.close()
    worker.start()
    assert worker.uses == "first"
    wait_until(lambda: worker.rollout._heard.manifests)
    worker.looks(15, frames=1)
    assert (worker.uses, worker.rollout.state.error) == ("second", "")


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        pytest.param(lambda w: w.server.files.pop("second.onnx"), "the server says 404", id="not there"),
        pytest.param(
            lambda w: setattr(w.server.files["second.onnx"], "content", b"the secund model"), "is not second", id="hash"
        ),
        pytest.param(
            lambda w: setattr(w.server.files["second.onnx"], "content", SECOND[:5]), "has 5 bytes", id="wrong size"
        ),
        pytest.param(
            lambda w: w.crashes.update(second=PermanentError("it crashed (SIGSEGV)")), "SIGSEGV", id="crashes"
        ),
        pytest.param(
            lambda w: w.broken.update(second=ConfigError("unknown layout [1, 7]")), "unknown layout", id="unknown"
        ),
    ],
)
def test_what_cannot_be_used_changes_nothing_and_is_told(
    harm: Callable[[Worker], object], reason: str, worker: Worker
) -> None:
    harm(worker)
    worker.wants("second", SECOND)
    worker.looks(600, frames=1)
    assert worker.uses == "first"
    assert reason in worker.rollout.state.error
    assert worker.rollout.state.wanted is None
    assert len(worker.server.asked) == 1


def test_what_may_pass_is_told_and_tried_again(worker: Worker) -> None:
    worker.server.files["second.onnx"].status = 503
    worker.wants("second", SECOND)
    worker.looks(1.5)
    assert "the server says 503" in worker.rollout.state.error
    assert worker.rollout.state.wanted is not None
    worker.looks(3600)
    tries = len(worker.server.asked)
    assert 10 < tries < 60
    worker.server.files["second.onnx"].status = 200
    worker.looks(310)
    assert (worker.uses, worker.rollout.state.error) == ("second", "")


def test_a_download_that_breaks_off_is_gone_on_with(worker: Worker) -> None:
    worker.server.files["second.onnx"].cut_after = 7
    worker.wants("second", SECOND)
    worker.looks(60)
    assert worker.uses == "second"
    assert worker.server.asked[1]["Range"] == "bytes=7-"


def test_a_disk_that_takes_no_note_starts_no_trial(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    full = TransientError("note.json cannot be written: No space left on device")

    def refuse(_path: Path, _note: RolloutNote) -> None:
        raise full

    with monkeypatch.context() as patched:
        patched.setattr(rolling, "write_note", refuse)
        worker.wants("second", SECOND)
        worker.looks(5)
        assert worker.uses == "first"
        assert "No space left" in worker.rollout.state.error
    worker.looks(310)
    assert worker.uses == "second"


def test_only_the_canary_tries(worker: Worker) -> None:
    worker.wants("second", SECOND, canary="node-9.detector")
    worker.looks(5)
    assert worker.uses == "first"
    worker.wants("second", SECOND, canary=ME)
    worker.looks(15, frames=1)
    assert worker.uses == "second"
    worker.wants("second", SECOND)
    worker.looks(2)
    assert (worker.rollout.state.version, worker.rollout.state.wanted) == (3, None)
    assert len(worker.opened) == 2


def test_a_rollback_in_the_middle_of_a_trial_is_at_once(worker: Worker) -> None:
    worker.wants("second", SECOND)
    worker.looks(1.5)
    worker.wants("first", FIRST)
    worker.looks(1)
    state = worker.rollout.state
    assert (worker.uses, state.wanted, state.error) == ("first", None, "")
    assert len(worker.opened) == 2
    assert read_note(worker.note).trying is None


def test_a_worker_whose_settings_name_a_model_keeps_it_and_says_so(worker: Worker, tmp_path: Path) -> None:
    worker.settings = worker.settings.model_copy(update={"model": tmp_path / "own.onnx"})
    worker.start()
    worker.wants("second", SECOND)
    worker.looks(3)
    assert worker.uses == "first"
    assert worker.rollout.state.error == "detector.model of its settings says own.onnx"


def test_a_model_that_hangs_on_trial_ends_the_process_and_is_refused(worker: Worker) -> None:
    worker.wants("second", SECOND)
    worker.looks(1.5)
    second = worker.opened[-1]
    second.open.clear()
    thread = threading.Thread(target=worker.scores, args=(1,))
    second.waiting.clear()
    thread.start()
    wait_until(second.waiting.is_set)
    with pytest.raises(PermanentError, match="second does not return"):
        worker.looks(60)
    second.open.set()
    thread.join(30)
    refused = read_note(worker.note).refused
    assert refused is not None
    assert "has not ended for 3" in refused.reason


def test_a_model_of_another_speed_changes_what_the_worker_can_do(worker: Worker) -> None:
    slow = worker.rollout.slot.current
    infer = slow.infer

    def slowly(batch: object) -> object:
        worker.clock.wait(threading.Event(), 0.25)
        return infer(batch)  # type: ignore[arg-type]

    slow.infer = slowly  # type: ignore[method-assign, assignment]
    worker.scores(3)
    worker.wants("second", SECOND)
    worker.looks(1.5)
    second = worker.rollout.slot.current
    quick = second.infer

    def quickly(batch: object) -> object:
        worker.clock.wait(threading.Event(), 0.125)
        return quick(batch)  # type: ignore[arg-type]

    second.infer = quickly  # type: ignore[method-assign, assignment]
    worker.looks(11, frames=1)
    assert worker.rollout.state.speed == 2.0


def test_the_first_class_that_has_a_manifest_decides_and_a_canary_is_alone(worker: Worker) -> None:
    stable, new = worker.describe("first", FIRST), worker.describe("second", SECOND)
    default = ModelManifest(name="default", version=4, at=worker.clock.now(), model=stable)
    gpu = msgspec.structs.replace(default, name="gpu", version=7, model=new)
    known = {"default": default, "gpu": gpu}

    def wanted(classes: tuple[str, ...], manifests: dict[str, ModelManifest] = known) -> tuple[str, int] | None:
        found = wanted_by(manifests, classes, ME)
        return (found.model.name, found.version) if found is not None else None

    assert wanted(()) == ("first", 4)
    assert wanted(("gpu",)) == ("second", 7)
    assert wanted(("large", "gpu")) == ("second", 7)
    assert wanted((), {}) is None
    canary = msgspec.structs.replace(gpu, canary="node-2.detector", previous=stable)
    assert wanted(("gpu",), {"gpu": canary}) == ("first", 7)
    assert wanted(("gpu",), {"gpu": msgspec.structs.replace(canary, previous=None)}) is None
    assert wanted(("gpu",), {"gpu": msgspec.structs.replace(canary, canary=ME)}) == ("second", 7)
