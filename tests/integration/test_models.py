"""`vigil models` on a real broker, with a web server, and workers whose models are stand-ins."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from broker import listen
from broker.acl import mosquitto_acl, node_rights
from broker.messages import ModelFile, ModelRef, WorkerStatus
from broker.topics import NODE_WORKER
from config import PermanentError, SystemClock, TransientError
from config.settings import BusSettings, DetectorSettings, Settings
from detector import model_site, models_cli
from detector import rollout as rolling
from detector.backends import Backend
from detector.models_cli import models
from detector.rollout import Rollout
from detector.warmup import WarmUp
from tests.support.file_server import FileServer, Served
from tests.support.mosquitto import Mosquitto
from tests.support.waiting import wait_until
from tests.unit.detector.stand_ins import BrightBackend, picture

FIRST, SECOND = b"the first model", b"the second model"


class QuickClock(SystemClock):
    """Time that goes forty times as fast, so that no test waits for a trial."""

    def monotonic_s(self) -> float:
        return time.monotonic() * 40

    def wait(self, stop: threading.Event, timeout_s: float) -> bool:
        return stop.wait(max(0.0, timeout_s) / 40)


class Worker:
    """A rollout on the bus, that scores all the time and says of itself what a worker says."""

    def __init__(self, site: Site, node: str, classes: tuple[str, ...] = ()) -> None:
        origin = f"{node}.detector"
        detector = DetectorSettings(models_folder=site.folder / node / "models", classes=classes)
        self.rollout = Rollout(
            detector, origin, site.folder / node / "note.json", clock=QuickClock(), try_out=site.try_out
        )
        self._bus = listen(site.settings(node), "detector")
        self._place = {"node": node, "role": "detector"}
        self._classes = classes
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.rollout.start(self._bus)
        self._bus.start()
        self._thread.start()

    def _run(self) -> None:
        said = None
        while not self._stop.wait(0.005):
            slot = self.rollout.slot
            backend = slot.current
            with suppress(TransientError):
                slot.infer(backend, [backend.prepare(picture())])
            state = self.rollout.state
            if state != said:
                said = state
                status = WorkerStatus(
                    worker=self._bus.origin, state="online", at=datetime.now(UTC), capacity_fps=10.0,
                    classes=self._classes, labels=state.labels, model=state.model, model_wanted=state.wanted,
                    model_error=state.error, model_version=state.version,
                )  # fmt: skip
                self._bus.publish(NODE_WORKER.at("home", **self._place), status)

    @property
    def uses(self) -> str:
        return self.rollout.state.model.name

    def close(self) -> None:
        self._stop.set()
        self._thread.join(30)
        self.rollout.close()
        self._bus.close(0)


class Site:
    """A site with a broker, and a machine with the command."""

    def __init__(self, folder: Path, url: str, server: FileServer, stack: ExitStack) -> None:
        self.folder = folder
        self.url = url
        self.server = server
        self.failing: set[str] = set()
        self._stack = stack

    def settings(self, node: str) -> Settings:
        detector = DetectorSettings(models_folder=self.folder / node / "models")
        return Settings(site="home", node=node, bus=BusSettings(url=self.url), detector=detector)

    def worker(self, node: str, classes: tuple[str, ...] = ()) -> Worker:
        worker = Worker(self, node, classes)
        self._stack.callback(worker.close)
        return worker

    def try_out(
        self, model: ModelFile, _path: Path | None, _settings: DetectorSettings, /, *, stop: threading.Event
    ) -> WarmUp:
        return WarmUp(labels=1)

    def opened(self, content: bytes, name: str) -> Backend:
        backend = BrightBackend()
        backend.model = ModelRef(name=name, sha256=hashlib.sha256(content).hexdigest())
        backend.failures = 1_000_000 if name in self.failing else 0
        return backend

    def vigil(self, *arguments: str) -> Result:
        """`vigil models …` on a machine of its own."""

        def load(_overrides: Mapping[str, Any]) -> Settings:
            return self.settings("desk")

        return CliRunner().invoke(models, arguments, obj=load)

    def listed(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.vigil("list", "--json").stdout)
        return found


@pytest.fixture
def site(tmp_path: Path, mosquitto: Mosquitto, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    with ExitStack() as stack:
        server = stack.enter_context(FileServer({"second.onnx": Served(SECOND)}))
        made = Site(tmp_path, mosquitto.url, server, stack)

        def open_model(model: ModelFile, path: Path | None, _settings: DetectorSettings) -> Backend:
            return made.opened(path.read_bytes() if path is not None else FIRST, model.name)

        monkeypatch.setattr(rolling, "open_backend", lambda _: made.opened(FIRST, "first"))
        monkeypatch.setattr(rolling, "open_model", open_model)
        monkeypatch.setattr(rolling, "trial_pictures", list)
        hog = ModelFile(name="first", sha256=hashlib.sha256(FIRST).hexdigest(), size_bytes=0, kind="hog")
        monkeypatch.setattr(models_cli, "_hog", lambda: hog)
        yield made


def pull(site: Site) -> None:
    sha256 = hashlib.sha256(SECOND).hexdigest()
    pulled = site.vigil("pull", site.server.url("second.onnx"), "--sha256", sha256)
    assert pulled.exit_code == 0, pulled.output
    assert sha256 in pulled.output


def test_a_canary_tries_it_and_all_others_follow_and_go_back(site: Site) -> None:
    canary, other = site.worker("node-1"), site.worker("node-2")
    pull(site)
    used = site.vigil("use", "second", "--canary", "auto")
    assert used.exit_code == 0, used.output
    assert "node-1.detector tries second" in used.output
    assert "2 workers are to use second" in used.output
    assert "(version 2)" in used.output
    wait_until(lambda: other.uses == "second" and other.rollout.state.wanted is None)
    assert canary.uses == "second"
    wanted = site.listed()["wanted"]["default"]
    assert (wanted["model"]["name"], wanted["previous"]["name"], wanted["canary"]) == ("second", "first", "")
    back = site.vigil("rollback")
    assert back.exit_code == 0, back.output
    wait_until(lambda: canary.uses == other.uses == "first")
    again = site.vigil("rollback")
    assert isinstance(again.exception, PermanentError)
    assert "no model to go back to" in str(again.exception)


@pytest.mark.parametrize("how", ["fails", "is damaged"])
def test_a_canary_that_does_badly_keeps_everybody_at_the_model_before(site: Site, how: str) -> None:
    canary, other = site.worker("node-1"), site.worker("node-2")
    pull(site)
    if how == "fails":
        site.failing.add("second")
    else:
        site.server.files["second.onnx"].content = b"the secund model"
    used = site.vigil("use", "second", "--canary", "node-1.detector")
    assert isinstance(used.exception, PermanentError), used.output
    assert "node-1.detector does not use second, and nobody else does" in str(used.exception)
    assert canary.uses == other.uses == "first"
    reason = {"fails": "inferences failed", "is damaged": "is not second"}[how]
    assert reason in site.listed()["workers"]["node-1.detector"]["model_error"]
    assert reason in site.vigil("list").output
    assert site.listed()["workers"]["node-2.detector"]["model_error"] == ""


def test_only_workers_of_the_class_follow(site: Site) -> None:
    plain, gpu = site.worker("node-1"), site.worker("node-2", ("gpu",))
    pull(site)
    refused = site.vigil("use", "second", "--class", "gpu", "--canary", "node-1.detector")
    assert "node-1.detector is no worker of class gpu that is online; there are node-2.detector" in str(
        refused.exception
    )
    used = site.vigil("use", "second", "--class", "gpu")
    assert "1 worker is to use second" in used.output
    wait_until(lambda: gpu.uses == "second" and gpu.rollout.state.wanted is None)
    assert plain.uses == "first"


def test_without_a_worker_a_canary_cannot_be_chosen(site: Site) -> None:
    pull(site)
    refused = site.vigil("use", "second", "--canary", "auto")
    assert "no worker of class default is online" in str(refused.exception)
    assert site.listed()["wanted"] == {}


def test_who_has_no_right_to_say_it_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, site: Site) -> None:
    folder = tmp_path / "guarded"
    folder.mkdir()
    acl = folder / "acl"
    acl.write_text(mosquitto_acl(node_rights("home", "desk", ["fleet", "console"])))
    acl.chmod(0o700)
    pull(site)
    with Mosquitto(folder, settings=[f"acl_file {acl}"]) as guarded:

        def run(username: str) -> Result:
            settings = site.settings("desk")
            bus = settings.bus.model_copy(update={"url": guarded.url, "username": username})
            return CliRunner().invoke(models, ["use", "second"], obj=lambda _: settings.model_copy(update={"bus": bus}))

        refused = run("desk.console")
        assert "only the role fleet says which model is used" in str(refused.exception)
        assert "vigil grant desk --role fleet" in str(refused.exception)
        assert run("desk.fleet").exit_code == 0


def test_a_login_never_goes_onto_the_bus(site: Site) -> None:
    sha256 = hashlib.sha256(SECOND).hexdigest()
    url = site.server.url("second.onnx", "bob:s3cret@")
    pulled = site.vigil("pull", url, "--sha256", sha256)
    assert pulled.exit_code == 0
    used = site.vigil("use", "second")
    assert "came from an address with a login" in str(used.exception)
    given = site.vigil("use", "second", "--url", url)
    assert "came from an address with a login" in str(given.exception)
    assert "s3cret" not in f"{pulled.output}{used.output}{given.output}{used.exception}{given.exception}"
    assert site.vigil("use", "second", "--url", "https://files.example.org/second.onnx").exit_code == 0
    assert site.listed()["wanted"]["default"]["model"]["url"] == "https://files.example.org/second.onnx"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["pull", "nothing-like-it"], "is no file, no address and not in the catalogue (yolox_nano"),
        (["pull", "http://a.example/m.onnx"], "what comes over http:// may be anybody's"),
        (["pull", "https://a.example/m.zip"], "its name must end in .onnx or .tflite"),
        (["use", "nothing-like-it"], "there is no model 'nothing-like-it'"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_asked(arguments: list[str], said: str, site: Site) -> None:
    assert said in str(site.vigil(*arguments).exception)
    assert site.server.asked == []


def test_without_a_broker_what_is_here_is_listed(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_site, "_CONNECT_WAIT_S", 0.1)
    pull(site)
    site.url = "mqtt://127.0.0.1:9"
    shown = site.vigil("list")
    assert shown.exit_code == 0
    assert "second" in shown.output
    assert "What the site wants is not known: no broker" in shown.output


def test_the_file_of_another_machine_is_waited_for(site: Site) -> None:
    worker = site.worker("node-1")
    own = site.folder / "second.onnx"
    own.write_bytes(SECOND)
    assert site.vigil("pull", str(own)).exit_code == 0
    used = site.vigil("use", "second")
    assert "workers on other machines find second only if it is at" in used.output
    wait_until(lambda: worker.uses == "second")
