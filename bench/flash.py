"""Cards of both families in their real geometry, flashed, and then read by everybody else's tools.

Images are built as pi-gen lays them out: MBR, 512 MiB of FAT32 with clusters of one sector at 8 MiB, ext4 behind it;
packed as .xz, flashed by `vigil flash` with a bundle of 60 MB. Then:

- fsck.vfat finds the boot partition sound, mtools read every file back, what is not ours has not changed, and the root
  partition is the same to the last byte;
- cloud-init of the distribution takes user-data, and makes of network-config what was meant;
- bash -n and shellcheck have nothing to say of the scripts, systemd-analyze nothing of the units;
- a disk (loop device; needs root) is unmounted, written and read back, a byte that flips is noticed, and disks of this
  machine that may not be written over are refused, by the command.

Target: every check passes. Needs mtools, dosfstools, e2fsprogs, shellcheck, cloud-init and systemd.

    python bench/flash.py
"""

from __future__ import annotations

import hashlib
import lzma
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import yaml

from broker.authority import Authority
from broker.members import CaFolder
from config.errors import PermanentError
from fleet.flash.writer import write
from tests.support.node_bundle import write_bundle
from tests.support.pi_image import BOOKWORM, REAL_BOOT_BYTES, TRIXIE, PiImage, fsck_fat, read_fat_file

BUNDLE_BYTES = 60_000_000
ROOT_OFFSET_BYTES = (8 << 20) + REAL_BOOT_BYTES
TOOLS = ("mkfs.vfat", "fsck.vfat", "mtype", "mke2fs", "shellcheck", "cloud-init", "systemd-analyze", "losetup", "lsblk")
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINkXdEZtzhzl8EaJGIquDmgSAddU9FFRSuUENMMxQCOx al'ex $(x) `y`"
SSID = "Gar'd\"en $x;1\\"
ROOT = Path(__file__).resolve().parents[1]


class Table:
    """Checks, each said when it is done."""

    def __init__(self) -> None:
        self.failed = 0

    def row(self, what: str, said: str) -> None:
        """One check.

        Args:
            what: was looked at.
            said: what was wrong; empty: nothing.
        """
        self.failed += bool(said)
        print(f"  {'FAILED' if said else 'ok    '}  {what}{f': {said.strip()[:600]}' if said else ''}", flush=True)


def run(
    *command: object, environment: Mapping[str, str] | None = None, typed: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run something to its end."""
    return subprocess.run(
        [str(one) for one in command], capture_output=True, text=True, timeout=300, check=False, input=typed,
        env={**os.environ, "NO_COLOR": "1", **(environment or {})},
    )  # fmt: skip


def complaint(*command: object) -> str:
    """What a tool has to say against something; empty: nothing."""
    done = run(*command)
    return "" if done.returncode == 0 else f"{done.returncode} {done.stdout}{done.stderr}"


def sha256_from(path: Path, start: int) -> str:
    """Of a file's end."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        file.seek(start)
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def pack(image: Path) -> Path:
    """As .xz."""
    packed = Path(f"{image}.xz")
    packer = lzma.LZMACompressor(preset=0)
    with image.open("rb") as file, packed.open("wb") as out:
        while block := file.read(8 << 20):
            out.write(packer.compress(block))
        out.write(packer.flush())
    Path(f"{packed}.sha256").write_text(f"{hashlib.sha256(packed.read_bytes()).hexdigest()}  {packed.name}\n")
    return packed


class Desk:
    """A machine with an authority, on which cards are made."""

    def __init__(self, folder: Path, table: Table) -> None:
        self.folder = folder
        self.table = table
        self.state = folder / "state"
        self.authority = Authority.create(CaFolder(self.state / "ca"), "home", ["10.0.0.2"])
        self.bundles = {
            family: write_bundle(folder / f"{family}.tar", self.authority.sign_content, BUNDLE_BYTES, family=family)
            for family in ("trixie", "bookworm")
        }
        self.key = folder / "id.pub"
        self.key.write_text(f"{KEY}\n")

    def flash(self, image: Path, *more: object, typed: str = "") -> subprocess.CompletedProcess[str]:
        """`vigil flash`, as a person runs it."""
        command = [sys.executable, "-m", "console", "--state", self.state, "flash", "--image", image, "--node", "porch"]
        return run(*command, *more, typed=typed, environment={"VIGIL_WIFI_PASSWORD": "PlainWifiSecret",
                   "VIGIL_USER_PASSWORD": "PlainUserSecret", "PYTHONPATH": str(ROOT)})  # fmt: skip

    def card(self, family: str, files: Mapping[str, bytes]) -> Path:
        """Flash an image of a family, and look at it from all sides."""
        image = PiImage(files, boot_bytes=REAL_BOOT_BYTES, has_root=True).build(self.folder / f"{family}.img")
        packed, out = pack(image), self.folder / f"{family}-node.img"
        bundle = self.bundles[family]
        started_s = time.monotonic()
        done = self.flash(
            packed, "--out", out, "--bundle", bundle, "--wifi", SSID, "--country", "DE", "--user", "alex",
            "--password", "--ssh-key", self.key, "--camera", "yard", "--time-zone", "Europe/Berlin", "--keymap", "de",
            "--locale", "de_DE.UTF-8", "--config-txt", "dtparam=i2c_arm=on",
        )  # fmt: skip
        took_s = time.monotonic() - started_s
        self.table.row(f"{family}: flashed in {took_s:.1f} s", "" if done.returncode == 0 else done.stderr)
        if done.returncode:
            return out
        self.table.row(f"{family}: fsck.vfat", fsck_fat(out, self.folder))
        self.table.row(f"{family}: what is not ours is unchanged", self._changed(out, files))
        same = sha256_from(image, ROOT_OFFSET_BYTES) == sha256_from(out, ROOT_OFFSET_BYTES)
        self.table.row(f"{family}: the root partition is the same", "" if same else "it is another")
        on_card = hashlib.sha256(read_fat_file(out, "vigil/bundle.tar")).digest()
        same = on_card == hashlib.sha256(bundle.read_bytes()).digest()
        self.table.row(
            f"{family}: mtools read the bundle of {BUNDLE_BYTES // 10**6} MB back", "" if same else "it is another"
        )
        self.table.row(
            f"{family}: cmdline.txt is one line", "" if read_fat_file(out, "cmdline.txt").count(b"\n") == 1 else "no"
        )
        self.table.row(f"{family}: no password on it", self._secrets(out))
        image.unlink()
        return out

    @staticmethod
    def _changed(out: Path, files: Mapping[str, bytes]) -> str:
        ours = {"cmdline.txt", "config.txt", "user-data", "meta-data", "network-config"}
        return ", ".join(
            name for name, content in files.items() if name not in ours and read_fat_file(out, name) != content
        )

    @staticmethod
    def _secrets(out: Path) -> str:
        rest = b""
        with out.open("rb") as file:
            while block := file.read(1 << 20):
                if b"PlainWifiSecret" in rest + block or b"PlainUserSecret" in rest + block:
                    return "there is one"
                rest = block[-32:]
        return ""


def check_cloud_init(desk: Desk, card: Path) -> None:
    """What the distribution's cloud-init makes of it."""
    folder = desk.folder / "seed"
    folder.mkdir()
    for name in ("user-data", "network-config", "meta-data"):
        (folder / name).write_bytes(read_fat_file(card, name))
    desk.table.row(
        "trixie: cloud-init schema", complaint("cloud-init", "schema", "--config-file", folder / "user-data")
    )
    said = complaint("cloud-init", "devel", "net-convert", "--network-data", folder / "network-config",
                     "--kind", "yaml", "--directory", folder / "out", "--distro", "debian",
                     "--output-kind", "netplan")  # fmt: skip
    desk.table.row("trixie: cloud-init takes network-config", said)
    made = next((folder / "out").rglob("*.yaml"), None)
    points = yaml.safe_load(made.read_text())["network"]["wifis"]["wlan0"]["access-points"] if made else {}
    key = hashlib.pbkdf2_hmac("sha1", b"PlainWifiSecret", SSID.encode(), 4096, 32).hex()
    desk.table.row(
        "trixie: netplan has the network and its key", "" if points == {SSID: {"password": key}} else str(points)
    )


def check_scripts(desk: Desk, card: Path) -> None:
    """Shell scripts, and the units that they write."""
    for name in ("firstrun.sh", "vigil/firstboot.sh"):
        script = desk.folder / Path(name).name
        script.write_bytes(read_fat_file(card, name))
        desk.table.row(f"bookworm: bash -n {name}", complaint("bash", "-n", script))
        desk.table.row(f"bookworm: shellcheck {name}", complaint("shellcheck", script))
    root, tools = desk.folder / "root", desk.folder / "tools"
    (root / "proc").mkdir(parents=True)
    (root / "proc" / "cmdline").write_text("systemd.run=x\n")
    tools.mkdir()
    (tools / "systemctl").symlink_to("/bin/true")
    done = run("bash", desk.folder / "firstboot.sh", "install", "--root", root,
               environment={"PATH": f"{tools}:{os.environ['PATH']}"})  # fmt: skip
    unit = root / "etc/systemd/system/vigil-firstboot.service"
    if not unit.exists():
        desk.table.row("bookworm: firstboot.sh writes its unit", done.stderr or "it does not")
        return
    desk.table.row(
        "bookworm: systemd-analyze verify vigil-firstboot.service", complaint("systemd-analyze", "verify", unit)
    )


@contextmanager
def loop(file: Path, *options: str) -> Iterator[Path]:
    """A file as a disk."""
    done = run("losetup", "--find", "--show", *options, file)
    if done.returncode:
        raise SystemExit(f"a loop device is needed, so run this as root: {done.stderr}")
    try:
        yield Path(done.stdout.strip())
    finally:
        run("losetup", "--detach", done.stdout.strip())


def check_disk(desk: Desk, packed: Path) -> None:
    """A disk is written by the command, and a byte that flips on it is noticed."""
    medium = desk.folder / "medium"
    with medium.open("wb") as file:
        file.truncate(700 << 20)
    run("mke2fs", "-q", "-t", "ext4", medium)
    place = Path(tempfile.mkdtemp(prefix="vigil-flash-", dir="/mnt"))
    with loop(medium) as disk:
        run("mount", disk, place)
        was_mounted = place.is_mount()
        started_s = time.monotonic()
        done = desk.flash(packed, "--device", disk, "--work", desk.folder, typed=f"{disk.name}\n")
        took_s = time.monotonic() - started_s
        is_unmounted = was_mounted and not place.is_mount()
        desk.table.row("disk: what a desktop has mounted is unmounted", "" if is_unmounted else "it is not")
        run("umount", place)
        place.rmdir()
        is_there = done.returncode == 0 and read_fat_file(medium, "vigil/card.env").startswith(b"NODE=porch")
        desk.table.row(f"disk: written and read back in {took_s:.1f} s", "" if is_there else done.stderr)
        done = desk.flash(packed, "--device", disk, "--work", desk.folder, typed="sda\n")
        desk.table.row("disk: not written when another name is typed", _refused(done, "nothing was written"))
    desk.table.row("disk: fsck.vfat", fsck_fat(medium, desk.folder))
    with loop(medium) as disk:
        desk.table.row(
            "disk: a byte that flips is noticed, and where", _flip(medium, disk, desk.folder / "trixie-node.img")
        )
    medium.unlink()


def _flip(medium: Path, disk: Path, image: Path) -> str:
    at, flipped = 400_000_000, False

    def flip(_bytes: int) -> None:
        nonlocal flipped
        if flipped:
            return
        flipped = True
        with medium.open("r+b") as file:
            file.seek(at)
            byte = file.read(1)[0]
            file.seek(at)
            file.write(bytes([byte ^ 4]))
            file.flush()
            os.fsync(file.fileno())

    try:
        write(image, disk, lambda _bytes: None, flip)
    except PermanentError as error:
        return "" if f"byte {at:,}" in str(error) else str(error)
    return "it is not"


def check_guard(desk: Desk, packed: Path) -> None:
    """Disks of this machine, refused by the command. Those that it does not have, the tests show."""
    small, mounted = desk.folder / "small", desk.folder / "mounted"
    small.write_bytes(bytes(1 << 20))
    mounted.write_bytes(bytes(8 << 20))
    run("mke2fs", "-q", "-t", "ext4", mounted)
    place = desk.folder / "place"
    place.mkdir()
    with ExitStack() as stack:
        kinds = (("small", small, ()), ("mounted", mounted, ()), ("read-only", small, ("--read-only",)))
        disks = {name: stack.enter_context(loop(file, *more)) for name, file, more in kinds}
        stack.callback(run, "umount", place)
        run("mount", disks["mounted"], place)
        root = run("findmnt", "-n", "-o", "SOURCE", "/").stdout.strip()
        for what, path, words in (
            ("the disk of /", root, "inside this machine|in use|is a partition|of the kind"),
            ("a disk that is too small", disks["small"], "and the image needs"),
            ("a disk that cannot be written", disks["read-only"], "cannot be written"),
            ("a disk with a file system in use", disks["mounted"], "is in use"),
            ("a file", packed, "is no disk of this machine"),
            ("what is not there", "/dev/nothing", "No such file"),
        ):
            done = desk.flash(packed, "--device", path, "--work", desk.folder, typed=f"{Path(path).name}\n")
            desk.table.row(f"refused: {what} ({Path(path).name})", _refused(done, words))


def _refused(done: subprocess.CompletedProcess[str], words: str) -> str:
    is_so = done.returncode != 0 and any(one in done.stderr for one in words.split("|"))
    return "" if is_so else f"{done.returncode} {done.stderr}"


def main() -> int:
    """Run it; returns 1 when a check fails."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        print(f"needed and not here: {', '.join(missing)}")
        return 1
    table = Table()
    with tempfile.TemporaryDirectory(prefix="vigil-flash-") as name:
        desk = Desk(Path(name), table)
        steps: tuple[Callable[[], object], ...] = (
            lambda: check_cloud_init(desk, desk.card("trixie", TRIXIE)),
            lambda: check_scripts(desk, desk.card("bookworm", BOOKWORM)),
            lambda: check_guard(desk, desk.folder / "trixie.img.xz"),
            lambda: check_disk(desk, desk.folder / "trixie.img.xz"),
        )
        for step in steps:
            step()
    print(f"{table.failed} checks failed (target 0)")
    return int(table.failed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
