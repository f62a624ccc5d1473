"""`vigil node update` on a node that was installed from bundles: a version that does, and one that dies."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import yaml

from config.settings import Settings
from tests.e2e.vigil_process import run_vigil
from tests.support.kept_running import kept_running
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / "fleet" / "bundle" / "on_node" / "launch"
NODE = "porch"
VIGIL = f'exec "{sys.executable}" -P -m console "$@"'
DIES = 'case " $* " in *" node run "*) exit 1 ;; esac\n' + VIGIL
TRIAL_S = 10


def put_version(home: Path, version: str, script: str) -> None:
    """A version as the installer leaves it behind; what it runs is the Vigil under test, or worse."""
    place = home / "versions" / version
    (place / "bin").mkdir(parents=True)
    program = place / "bin" / "vigil"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    shutil.copy(LAUNCH, place / "launch")
    (place / "complete").touch()


class Node:
    """An installed node, and the site that it belongs to."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.home = folder / "opt"
        self.file = folder / "node.yaml"
        self.site_file = folder / "site.yaml"
        self.registry = folder / "registry"
        common = {"bus": {"url": settings.bus.url}, "log": {"style": "json"}}
        own = {"node": NODE, "state_dir": str(folder / "node"), "fleet": {"trial_s": TRIAL_S}}
        camera = {"source": "synthetic:street?width=160&height=120&fps=5"}
        self.file.write_text(yaml.safe_dump({**common, **own, "cameras": {"yard": camera}}))
        hub = {"node": "hub", "state_dir": str(folder / "hub"), "fleet": {"registry": str(self.registry)}}
        self.site_file.write_text(yaml.safe_dump({**common, **hub}))
        for version, script in (("0.1.0", VIGIL), ("0.2.0", VIGIL), ("0.3.0", DIES)):
            put_version(self.home, version, script)
        shutil.copy(LAUNCH, self.home / "launch")
        (self.home / "launch").chmod(0o755)
        (self.home / "current").symlink_to("versions/0.1.0")

    @property
    def current(self) -> str:
        return (self.home / "current").resolve().name

    @property
    def asked(self) -> str:
        content = yaml.safe_load((self.registry / "nodes" / f"{NODE}.yaml").read_text())
        return str(content.get("version", ""))

    def service(self) -> AbstractContextManager[None]:
        """What systemd does with the node's unit."""
        command = [str(self.home / "launch"), "--config", str(self.file), "node", "run"]
        return kept_running(command, self.home / "log", environment={"PYTHONPATH": str(ROOT)})

    def run(self, *arguments: str) -> tuple[int, str, str]:
        return run_vigil("--config", str(self.site_file), *arguments, timeout_s=110)


@pytest.fixture
def node(tmp_path: Path, settings: Settings) -> Iterator[Node]:
    made = Node(tmp_path, settings)
    with made.service():
        wait_until(lambda: made.run("node", "accept", NODE)[0] == 0, timeout_s=60, what="a greeting node")
        wait_until(lambda: "edge 1/1" in made.run("node", "list")[1], timeout_s=60, what="its edge")
        yield made


def test_a_version_that_does_stays_and_one_that_dies_is_left_again(node: Node) -> None:
    status, out, errors = node.run("node", "update", NODE, "--version", "0.2.0")
    assert status == 0, out + errors
    assert "trying 0.2.0" in out
    assert "done 0.2.0" in out
    assert "runs 0.2.0, 1 cameras online as before" in out
    assert (node.current, node.asked) == ("0.2.0", "0.2.0")
    assert not (node.home / "trial").exists()
    assert not (node.home / "versions" / "0.3.0").exists(), "versions before the previous one go"

    put_version(node.home, "0.3.0", DIES)
    status, out, errors = node.run("node", "update", NODE, "--version", "0.3.0")
    assert status == 1, out + errors
    assert "rolled-back 0.3.0" in out
    assert "went back to 0.2.0: it ended 3 times without saying that all is well" in errors
    assert (node.current, node.asked) == ("0.2.0", "0.2.0")

    wait_until(lambda: "edge 1/1" in node.run("node", "list")[1], timeout_s=60, what="its edge, as before")
