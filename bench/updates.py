"""A node is given versions of Vigil while it raises escalations: good ones stay, bad ones are left within their window.

A secure site: Mosquitto, `vigil fleet` with the authority's door, a bridge with its journal. The node `porch` watches a
synthetic street and scores it, installed side by side by the bundles' own installer and started by their launcher, as
systemd starts it. Each bundle is signed, offered, fetched, checked and installed for real; what differs between the
versions is how they behave: one works, one dies at its start, one never says that all is well, one was tampered with.

    python bench/updates.py
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import AbstractContextManager, ExitStack
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import yaml

from bench._site import SITE
from fleet.bundle.build import BundleOrder, build_bundle
from fleet.bundle.verify import read_manifest, unpack_bundle
from fleet.updates.naming import name_of
from tests.e2e.vigil_process import run_vigil
from tests.support.bundles import local_order, make_wheel
from tests.support.kept_running import kept_running
from tests.support.population import Population
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[1]
WINDOW_S = 30
RESTART_S = 2.0
"""RestartSec= of the unit."""
SLACK_S = 60.0
"""What fetching, installing, stopping, starting and telling take besides, on two busy cores."""
GOOD, DIES, HANGS, TAMPERED = "9.2.0", "9.3.0", "9.4.0", "9.5.0"
FIRST = "9.1.0"
_BEHAVIOUR = {
    DIES: "if 'node' in sys.argv and 'run' in sys.argv: sys.exit(1)",
    HANGS: "if 'node' in sys.argv and 'run' in sys.argv: import time; time.sleep(3600)",
}
_CODE = """\
import os, sys

def main():
    if "--version" in sys.argv:
        print("vigil {version}")
        return 0
    {behaviour}
    return os.execv(os.environ["VIGIL_REAL"], [os.environ["VIGIL_REAL"], "-P", "-m", "console", *sys.argv[1:]])
"""


class Porch:
    """The node: its installation, and what starts it again whenever it ends."""

    def __init__(self, site: Population) -> None:
        self.site = site
        self.home = site.folder / "opt"
        self.options = site.machine(
            "porch", detector={"rules": {"presence": {"cooldown_s": 1}}}, fleet={"trial_s": WINDOW_S}
        )

    @property
    def version(self) -> str:
        """The one in force."""
        return (self.home / "current").resolve().name

    def install(self, bundle: Path) -> None:
        """As the first boot does."""
        folder = self.site.folder / "first"
        unpack_bundle(bundle, None, folder)
        command = [sys.executable, str(folder / "install.py"), "install", str(folder), "--home", str(self.home)]
        subprocess.run([*command, "--activate"], check=True, capture_output=True, timeout=300)

    def service(self) -> AbstractContextManager[None]:
        """What systemd does with the node's unit."""
        command = [str(self.home / "launch"), *self.options, "node", "run"]
        environment = {"VIGIL_REAL": sys.executable, "PYTHONPATH": str(ROOT)}
        return kept_running(command, self.site.folder / "porch.log", environment=environment, pause_s=RESTART_S)


def build(site: Population, order: BundleOrder, version: str, folder: Path) -> Path:
    """A signed bundle of a version that behaves in its way."""
    code = _CODE.format(version=version, behaviour=_BEHAVIOUR.get(version, "pass"))
    place = folder / version
    place.mkdir()
    metadata = "Requires-Dist: small>=1\n"
    wheel = make_wheel(place, "vigil-mesh", version, code, metadata=metadata, script="vigil")
    out = folder / f"{version}.tar"
    build_bundle(dataclasses.replace(order, wheel=wheel), out, datetime.now(UTC), sign=site.authority().sign_content)
    return out


def tamper(bundle: Path) -> Path:
    """The same with one byte of a file changed."""
    content = bytearray(bundle.read_bytes())
    place = content.rindex(b"exec ")
    content[place] ^= 1
    bundle.write_bytes(content)
    return bundle


def update(site: Population, version: str, *more: str) -> tuple[int, float, str]:
    """`vigil node update`: status, seconds, the last line that it said."""
    begun_s = time.monotonic()
    status, out, errors = run_vigil(*site.hub, "node", "update", "porch", "--version", version, *more, timeout_s=300)
    lines = (out + errors).strip().splitlines()
    return status, time.monotonic() - begun_s, lines[-1] if lines else ""


def offered(site: Population, version: str, bundle: Path) -> tuple[str, ...]:
    """What the command is told of a bundle; one that was tampered with has come past it to where nodes find it."""
    if version != TAMPERED:
        return "--bundle", str(bundle)
    shutil.copy(bundle, site.folder / "hub" / "bundles" / name_of(read_manifest(bundle)))
    return ()


def escalations(site: Population) -> int:
    """How many the journal has."""
    out = run_vigil(*site.hub, "audit", "--json")[1]
    return int(msgspec.json.decode(out)["escalations"]["present"]) if out else 0


def main() -> int:
    """Run, print, judge."""
    failed = 0
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        site = Population(folder, SITE)
        site.says("ca", "init")
        site.admit("hub", "hub", "node", "fleet", "bridge")
        site.admit("hub", "alice", "person", "dashboard")
        site.admit("porch", "porch", "node", "edge", "detector")
        (site.registry / "cameras").mkdir(parents=True)
        camera = {"source": "synthetic:street", "node": "porch", "motion_fps": 2}
        (site.registry / "cameras" / "yard.yaml").write_text(yaml.safe_dump(camera))
        os.environ["PIP_FIND_LINKS"] = str(folder / "small" / "wheels")
        order = local_order(folder / "small")
        bundles = {version: build(site, order, version, folder) for version in (FIRST, GOOD, DIES, HANGS, TAMPERED)}
        tamper(bundles[TAMPERED])
        porch = Porch(site)
        porch.install(bundles[FIRST])
        print(f"installed {porch.version} of a bundle of {bundles[FIRST].stat().st_size} bytes", flush=True)
        for role, says in (
            ("broker run", "broker.listening"),
            ("fleet", "fleet.started"),
            ("bridge", "bridge.started"),
        ):
            stack.enter_context(site.running(*site.hub, *role.split(), says=says))
        stack.enter_context(porch.service())
        wait_until(lambda: escalations(site) > 0, timeout_s=120, what="the first escalation")

        cases = (
            (GOOD, 0, GOOD, "works"),
            (DIES, 1, GOOD, "dies at its start"),
            (HANGS, 1, GOOD, "hangs"),
            (TAMPERED, 1, GOOD, "was tampered with"),
        )
        for version, status_wanted, version_wanted, what in cases:
            before = escalations(site)
            status, took_s, said = update(site, version, *offered(site, version, bundles[version]))
            wait_until(lambda: escalations(site) > before, timeout_s=120, what="escalations after it")  # noqa: B023
            is_well = (status, porch.version) == (status_wanted, version_wanted) and took_s <= WINDOW_S + SLACK_S
            failed += not is_well
            print(
                f"{'ok' if is_well else 'FAILED':<7} {version} {what}: {took_s:.0f} s, runs {porch.version}, "
                f"{escalations(site)} escalations so far: {said}",
                flush=True,
            )
        stack.close()  # everything ends in order
        found = msgspec.json.decode(run_vigil(*site.hub, "audit", "--json")[1])["escalations"]
    print(
        f"{len(cases) - failed} of {len(cases)} as they should be, within {WINDOW_S} s + {SLACK_S:.0f} s; "
        f"{found['expected']} escalations raised across them, {found['present']} in the journal, "
        f"{found['missing']} missing, {found['repeated']} repeated "
        "(target: all, missing 0, repeated 0)"
    )
    return 0 if not failed and found["expected"] and not found["missing"] and not found["repeated"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
