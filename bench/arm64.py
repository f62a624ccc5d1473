"""Does a node really run on arm64? A card's first boot, its bundle and its camera, in a Debian of arm64 under QEMU.

A minimal Debian of arm64; a bundle built for just that system and signed by the site; the files of a card; the first
boot, without a network but the site's, and with a power cut in its middle; enrolment at a real authority; then `vigil
edge` with a synthetic camera, whose motion and frames arrive at a real Mosquitto with TLS outside. systemd does not run
there: what would be asked of it is written down.

Prints each step with its time. Target: each of them works. Emulated code is some ten times slower than a machine's own.

    python bench/arm64.py [--family bookworm|trixie]
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench._arm64 import Arm64Root, check_machine, debian_root
from broker import Bus, Delivery, listen
from broker.topics import CAMERA_FRAME, CAMERA_MOTION, CAMERA_STATE
from config import configure_logging
from config.settings import BusSettings, Settings
from fleet.bundle.firstboot import first_boot_files
from fleet.bundle.packages import debian_mirrors
from fleet.bundle.verify import read_manifest, verify_bundle
from fleet.enrolment.token import JoinToken
from fleet.flash.card import NodeCard
from tests.support.ports import free_port
from tests.support.server import ServerProcess
from tests.support.site import SecureBroker, Site
from tests.support.waiting import wait_until

NODE = "porch"
CAMERA = "yard"
STEP_S = 2400.0
FIRST_SECTOR = 2048
SYSTEMCTL = '#!/bin/sh\necho "$@" >>/var/log/systemctl.asked\n'
"""systemd's place is taken by this."""


class Steps:
    """Says what was done, and how long it took."""

    def __init__(self) -> None:
        self.begun_s = time.monotonic()

    @contextlib.contextmanager
    def step(self, what: str) -> Iterator[None]:
        """Time one."""
        begun_s = time.monotonic()
        yield
        print(f"{time.monotonic() - begun_s:7.1f} s  {what}", flush=True)


def image_of(root: Path, family: str, folder: Path) -> Path:
    """What `vigil bundle build --image` reads of a card's image: this root's packages, Debian's sources and keys."""
    content = folder / "content"
    for place in ("var/lib/dpkg", "etc/apt", "usr/share/keyrings"):
        (content / place).parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cp", "-a", str(root / place), str(content / place)], check=True)
    keys = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
    archive, security = debian_mirrors()
    (content / "usr/share/keyrings" / keys.name).write_bytes(keys.read_bytes())
    (content / "etc/apt/sources.list").write_text(
        f"deb [signed-by={keys}] {archive} {family} main\ndeb [signed-by={keys}] {security} {family}-security main\n"
    )
    image = folder / "card.img"
    with image.open("wb") as file:
        file.truncate((FIRST_SECTOR << 9) + (64 << 20))
        entry = struct.pack("<B3sB3sII", 0, b"", 0x83, b"", FIRST_SECTOR, (64 << 20) >> 9)
        file.seek(446)
        file.write(entry + bytes(48) + b"\x55\xaa")
    make = ["mke2fs", "-q", "-t", "ext4", "-d", str(content), "-E", f"offset={FIRST_SECTOR << 9}", str(image), "64M"]
    subprocess.run(make, check=True)
    return image


def write_card(root: Path, card: NodeCard) -> Path:
    """Put what lies on a card where its FAT partition would be."""
    folder = root / "boot" / "firmware" / "vigil"
    folder.mkdir(parents=True)
    for name, content in first_boot_files(card).items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.read_bytes())
    return folder


def boot(debian: Arm64Root, log: Path, *, until: str = "") -> int:
    """Run what systemd would run at a boot; kill it, as a power cut does, when these files (a pattern) are there."""
    process = debian.start("/bin/bash", "/var/lib/vigil-firstboot/firstboot.sh", "run", log=log)
    if until:
        wait_until(lambda: process.poll() is not None or any(debian.path.glob(until)), timeout_s=STEP_S, what=until)
        process.send_signal(signal.SIGKILL)
    return process.wait(STEP_S)


@contextlib.contextmanager
def running_door(site: Site) -> Iterator[int]:
    """`vigil ca serve`."""
    port = free_port()
    command = [sys.executable, "-m", "console", "--state", str(site.state), "ca", "serve", "--host", "127.0.0.1"]
    door = ServerProcess(
        [*command, "--port", str(port)], log=site.folder / "door.log", ready=str(port), start_timeout_s=60
    )
    door.start()
    try:
        yield port
    finally:
        door.stop()


def watch(site: Site, broker: SecureBroker, seen: dict[str, int]) -> Bus:
    """Count what arrives from the node, with a person's certificate."""
    identity = site.person("alice", "viewer")
    settings = Settings(site="home", node="desk", bus=BusSettings(url=broker.people_url, identity=identity.path))
    bus = listen(settings, "console")

    def count(delivery: Delivery) -> None:
        kind = type(delivery.content).__name__
        seen[kind] = seen.get(kind, 0) + 1

    for topic in (CAMERA_STATE, CAMERA_MOTION, CAMERA_FRAME):
        bus.subscribe(topic, count)
    bus.start()
    return bus


def prove(family: str, folder: Path) -> None:
    """Do it all; an exception says what did not work."""
    steps = Steps()
    (folder / "site").mkdir()
    site = Site(folder / "site")
    bundle, root = folder / "bundle.tar", folder / "root"
    with steps.step(f"a minimal Debian {family} of arm64 (kept for the next run)"):
        debian = debian_root(family, root)
        (root / "etc/resolv.conf").unlink(missing_ok=True)
        (root / "usr/local/bin/systemctl").write_text(SYSTEMCTL)
        (root / "usr/local/bin/systemctl").chmod(0o755)
    with steps.step("vigil bundle build, with the image's packages and sources"):
        build = [sys.executable, "-m", "console", "--state", str(site.state), "bundle", "build", "--for", family]
        build += ["--image", str(image_of(root, family, folder)), "--out", str(bundle)]
        subprocess.run(build, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=STEP_S)
    manifest = read_manifest(bundle)
    with steps.step(f"its signature and {len(manifest.files)} files checked, {bundle.stat().st_size / 1e6:.0f} MB"):
        verify_bundle(bundle, site.authority.folder.ca.read_bytes())
    with SecureBroker(site, "mosquitto") as broker, running_door(site) as port:
        first_boot(steps, site, debian, folder, (bundle, broker.url, port))
        with steps.step("vigil edge starts; the state, motion and frames of its camera arrive outside"):
            run_edge(site, broker, debian, folder)
    print(f"{time.monotonic() - steps.begun_s:7.1f} s  all of it")


def first_boot(steps: Steps, site: Site, debian: Arm64Root, folder: Path, place: tuple[Path, str, int]) -> None:
    """Flash, boot, cut the power, boot again."""
    bundle, broker, port = place
    secret = site.authority.invite(NODE, "node", ["edge"], [CAMERA], valid_s=2 * STEP_S)
    token = JoinToken.of(secret, site.authority.folder.ca.read_bytes()).text()
    card = NodeCard(
        node=NODE,
        site="home",
        authority=f"127.0.0.1:{port}",
        token=token,
        broker=broker,
        cameras={CAMERA: "synthetic:street"},
        bundle=bundle,
    )
    on_card = write_card(debian.path, card)
    log = folder / "firstboot.log"
    with steps.step("firstboot.sh makes itself a service"):
        started = debian.start("/bin/bash", "/boot/firmware/vigil/firstboot.sh", log=log)
        assert started.wait(STEP_S) == 0, log.read_text()
        assert "enable vigil-firstboot.service" in (debian.path / "var/log/systemctl.asked").read_text()
    with steps.step("first boot: bundle unpacked, packages installed; the power is cut while Vigil is installed"):
        boot(debian, log, until="opt/vigil/versions/*/bin/python3")
    assert not list(debian.path.glob("opt/vigil/versions/*/complete")), "the power was cut too late"
    with steps.step("second boot: Vigil installed, enrolled, its service asked for"):
        status = boot(debian, log)
    told = (on_card / "firstboot.log").read_text()
    print("".join(f"           card: {line}\n" for line in told.splitlines()), end="")
    assert status == 0, log.read_text()[-3000:]
    assert "DONE" in told.splitlines()[-1]
    assert not (on_card / "token").exists(), "the token is still on the card"
    assert token not in told + log.read_text(), "the token is in a log"
    assert "vigil-node.service" in (debian.path / "var/log/systemctl.asked").read_text()


def run_edge(site: Site, broker: SecureBroker, debian: Arm64Root, folder: Path) -> None:
    """Run the camera of the node, until somebody outside has seen all that it says."""
    seen: dict[str, int] = {}
    bus = watch(site, broker, seen)
    log = folder / "edge.log"
    command = ["runuser", "-u", "vigil", "--", "/opt/vigil/launch", "--config", "/etc/vigil/vigil.yaml", "edge"]
    edge = debian.start(*command, log=log)
    try:
        wait_until(lambda: len(seen) == 3 or edge.poll() is not None, timeout_s=STEP_S, what="a camera's messages")
        assert len(seen) == 3, f"{seen}: {log.read_text()[-3000:]}"
    finally:
        edge.kill()
        edge.wait()
        bus.close(0)
    print(f"           arrived: {seen}")


def main() -> int:
    """Run, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--family", choices=["bookworm", "trixie"], default="bookworm")
    options = parser.parse_args()
    why_not = check_machine()
    if why_not:
        print(f"FAIL: an arm64 root cannot run here: {why_not}")
        return 1
    os.umask(0o022)
    configure_logging("error", "text", stream=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="vigil-arm64-") as folder:
        Path(folder).chmod(0o755)
        try:
            prove(options.family, Path(folder))
        except (AssertionError, OSError, subprocess.SubprocessError) as error:
            told = getattr(error, "stderr", None)
            print(f"FAIL: {error}\n{told.decode()[-2000:] if isinstance(told, bytes) else ''}")
            return 1
    print(f"PASS: a node of {options.family} on arm64, from its card to its camera's messages (target: every step)")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
