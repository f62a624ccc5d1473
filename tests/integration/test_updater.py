"""A node that changes its version, beside an agent that runs nothing: what it fetches, and what it leaves alone."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from broker.authority import Authority
from broker.identity import IdentityFolder
from broker.members import CaFolder
from broker.messages import NodeDocument, UpdateReport
from config import SystemClock
from config.settings import BusSettings, Settings
from fleet.agent.agent import Agent
from fleet.updates import rollout, updater
from fleet.updates.installed import Installed
from tests.integration.test_members_door import Hub
from tests.support.node_bundle import write_bundle
from tests.support.waiting import wait_until

BUNDLE = "vigil-2.0-trixie-arm64.tar"


class Changing:
    """A node that is asked for version 2.0.

    Attributes:
        told: what it says of that.
    """

    def __init__(self, folder: Path, identity: IdentityFolder) -> None:
        self.home = folder / "opt"
        self.put("1.0")
        (self.home / "current").symlink_to("versions/1.0")
        self.told: list[UpdateReport] = []
        self.document = NodeDocument(node="porch", revision=1, version="2.0")
        agent: Any = SimpleNamespace(
            document=self.document, on_document=self._on_document, tell_update=self._tell, report=None
        )
        settings = Settings(state_dir=folder / "porch-state", bus=BusSettings(identity=identity.path))
        self.fetched = settings.state_dir / "updates"
        self.updater = updater.Updater(cast("Agent", agent), settings, Installed(self.home))

    def put(self, version: str) -> None:
        place = self.home / "versions" / version
        place.mkdir(parents=True)
        (place / "complete").touch()

    def _on_document(self, callback: Callable[[NodeDocument | None], None]) -> None:
        self.take = callback

    def _tell(self, report: UpdateReport | None) -> None:
        if report is not None:
            self.told.append(report)

    def run(self, *orders: str) -> str:
        """Why it refuses, after some orders."""
        self.updater.start()
        for order in orders:
            self.updater.orders[order]({})
        wait_until(lambda: bool(self.told) and self.told[-1].state == "refused", timeout_s=30, what="a refusal")
        return self.told[-1].error


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    opened = Hub(tmp_path)
    yield opened
    opened.server.close()


@pytest.fixture
def porch(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Changing]:
    monkeypatch.setattr(updater, "this_system", lambda: ("trixie", "arm64"))
    made = Changing(tmp_path, hub.member("porch"))
    yield made
    made.updater.close()


def test_a_bundle_that_would_fill_the_disk_is_not_fetched(
    hub: Hub, porch: Changing, monkeypatch: pytest.MonkeyPatch
) -> None:
    (hub.bundles / BUNDLE).write_bytes(bytes(2_000_000))
    porch.fetched.mkdir(parents=True)
    (porch.fetched / "vigil-1.5-trixie-arm64.tar.part").touch()
    monkeypatch.setattr(shutil, "disk_usage", lambda _place: SimpleNamespace(free=201_000_000))
    assert "has 201 MB free, too few for a bundle of 2 MB" in porch.run()
    assert not [file.name for file in porch.fetched.iterdir() if file.name != "report.json"]


def test_a_version_that_has_not_passed_is_fetched_anew(hub: Hub, porch: Changing) -> None:
    (hub.bundles / BUNDLE).write_bytes(b"another build")
    porch.put("2.0")
    (porch.home / "failed").write_text("version=2.0\nreason=it ended\n")
    assert "no bundle" in porch.run("update")
    assert not Installed(porch.home).has("2.0")
    assert Installed(porch.home).version == "1.0"


def test_an_order_that_overtakes_its_document_is_taken(hub: Hub, porch: Changing) -> None:
    (hub.bundles / BUNDLE).write_bytes(b"no bundle at all")
    assert porch.run()
    before = len(porch.told)
    porch.take(None)
    assert porch.updater.orders["update"]({"version": "2.0"}) == {"version": "2.0"}
    porch.take(porch.document)
    wait_until(lambda: len(porch.told) > before and porch.told[-1].state == "refused", timeout_s=30, what="a refusal")


def test_a_bundle_that_another_site_has_signed_is_refused_by_the_node_itself(
    hub: Hub, porch: Changing, tmp_path: Path
) -> None:
    other = Authority.create(CaFolder(tmp_path / "other"), "other", ["127.0.0.1"])
    write_bundle(hub.bundles / BUNDLE, other.sign_content, version="2.0")
    assert "is not signed by this site's authority" in porch.run()
    assert not Installed(porch.home).has("2.0")
    assert not (porch.fetched / BUNDLE).exists(), "it is fetched anew next time"


def test_going_back_to_what_runs_after_one_that_did_not_pass_takes_no_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollout, "settle", lambda _settings: None)
    update = UpdateReport(version="2.0", previous="1.0", state="rolled-back", at=SystemClock().now())
    roll: Any = SimpleNamespace(reports={"porch": SimpleNamespace(version="1.0", update=update)})
    written: list[tuple[str, object]] = []
    folder: Any = SimpleNamespace(change_node=lambda *one: written.append(one))
    said: list[str] = []
    asker: Any = SimpleNamespace()
    settings = Settings(state_dir=tmp_path)
    rollout.Rollout(settings, folder, roll, asker, wait_s=1, tell=said.append).change("porch", "1.0", told="1/1")
    assert said == ["1/1 porch: runs 1.0 already"]
    assert written == [("porch", {"version": "1.0"})]
