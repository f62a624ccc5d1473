"""An arm64 Debian on this machine: its root file system, and processes in it under QEMU's emulation of one program.

A process in a user namespace of its own has a `binfmt_misc` of its own (Linux 6.7), so that the kernel starts programs
of arm64 with qemu-aarch64-static there, and nowhere else on the machine.

As a script it is the way in: ``python bench/_arm64.py ROOT COMMAND...``
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import platformdirs

__all__ = ["Arm64Root", "check_machine", "debian_root"]

_NEWUSER, _NEWNS, _NEWPID = 0x1000_0000, 0x2_0000, 0x2000_0000
_RECURSIVE_BIND, _PRIVATE = 0x1000 | 0x4000, 0x4_0000 | 0x4000
_QEMU = "/usr/bin/qemu-aarch64-static"
_IDS = "0 0 65536\n"
_FORMAT = (
    rb":qemu-aarch64:M::\x7f\x45\x4c\x46\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00"
    rb":\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff:" + _QEMU.encode() + b":FP"
)
"""What an ELF file of aarch64 begins with; F: the interpreter is opened now, so no root has to have it."""
_INCLUDED = "ca-certificates,python3,adduser"
_BOOTSTRAP_S = 3600.0
_SECOND_STAGE = """\
set -e
export DEBIAN_FRONTEND=noninteractive PATH=/usr/sbin:/usr/bin:/sbin:/bin
cd /var/cache/apt/archives
: >> /var/lib/dpkg/status
: >> /var/lib/dpkg/available
ln -sf mawk /usr/bin/awk
for package in base-passwd base-files dpkg libc6 perl-base debconf; do
    dpkg --force-depends --force-confold --install "$package"_*.deb || dpkg --force-depends --configure -a
done
dpkg --force-depends --force-overwrite --force-confold --skip-same-version --unpack ./*.deb
dpkg --force-confold --configure -a
rm -rf /debootstrap ./*.deb
"""


def check_machine() -> str:
    """Why an arm64 root cannot run here; empty where it can."""
    missing = [name for name in ("debootstrap", "qemu-aarch64-static", "mke2fs") if shutil.which(name) is None]
    if missing:
        return f"missing: {', '.join(missing)} (sudo apt-get install debootstrap qemu-user-static e2fsprogs)"
    if os.geteuid():
        return "it takes root, for a root file system with owners"
    if "binfmt_misc" not in Path("/proc/filesystems").read_text():
        return "this kernel has no binfmt_misc"
    probe = subprocess.run([sys.executable, __file__, "/", "true"], capture_output=True, text=True, check=False)
    return f"no binfmt_misc of one's own in a user namespace: {probe.stderr[-300:]}" if probe.returncode else ""


class Arm64Root:
    """A root file system, and the way in.

    Args:
        path: where it is.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def command(self, *command: str) -> list[str]:
        """A command in it, as a command here."""
        return [sys.executable, __file__, str(self.path), *command]

    def start(self, *command: str, log: Path, environment: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        """Start a process in it."""
        with log.open("ab") as written:
            return subprocess.Popen(
                self.command(*command),
                stdin=subprocess.DEVNULL,
                stdout=written,
                stderr=subprocess.STDOUT,
                env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", **(environment or {})},
            )


def debian_root(family: str, path: Path) -> Arm64Root:
    """A fresh minimal Debian of arm64; made once and kept in the user's cache.

    Args:
        family: its release.
        path: is made.
    """
    kept = platformdirs.user_cache_path("vigil") / f"arm64-{family}.tar"
    if not kept.is_file():
        draft = path.with_name(f"{path.name}.new")
        _bootstrap(family, draft)
        kept.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["tar", "-C", str(draft), "-cf", f"{kept}.new", "."], check=True)
        Path(f"{kept}.new").replace(kept)
        shutil.rmtree(draft)
    path.mkdir()
    subprocess.run(["tar", "-C", str(path), "-xpf", str(kept)], check=True)
    return Arm64Root(path)


def _bootstrap(family: str, root: Path) -> None:
    # Here, not above: the way in is run for every command, and needs none of it.
    from fleet.bundle.packages import debian_mirrors

    first = ["debootstrap", "--foreign", "--arch=arm64", "--variant=minbase", f"--include={_INCLUDED}", family]
    subprocess.run(
        [*first, str(root), debian_mirrors()[0]], check=True, stdout=subprocess.DEVNULL, timeout=_BOOTSTRAP_S
    )
    # Not its own second stage: that looks packages up with programs of arm64, which takes longer than installing them.
    second = Arm64Root(root).command("/bin/sh", "-c", _SECOND_STAGE)
    subprocess.run(second, check=True, stdout=subprocess.DEVNULL, timeout=_BOOTSTRAP_S)


# --- the way in -----------------------------------------------------------------------------------------------


def _enter(root: str, command: list[str]) -> int:
    """Run a command in it; a signal to this process ends all that it started."""
    libc = ctypes.CDLL(None, use_errno=True)
    ready, told = os.pipe()
    mapped, go = os.pipe()
    child = os.fork()
    if child == 0:
        libc.prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL
        if libc.unshare(_NEWUSER | _NEWNS | _NEWPID):
            os._exit(125)
        os.write(told, b"x")
        os.read(mapped, 1)
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
        first = os.fork()
        if first == 0:
            libc.prctl(1, 9)
            _become(libc, root, command)
        os._exit(os.waitstatus_to_exitcode(os.waitpid(first, 0)[1]) & 255)
    os.read(ready, 1)
    for name in ("uid_map", "gid_map"):
        Path(f"/proc/{child}/{name}").write_text(_IDS)
    os.write(go, b"x")
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _become(libc: ctypes.CDLL, root: str, command: list[str]) -> None:
    def mount(source: str, target: str, kind: str, flags: int = 0) -> None:
        if libc.mount(source.encode(), target.encode(), kind.encode(), flags, None):
            raise OSError(ctypes.get_errno(), f"mount {kind or source} on {target}")

    mount("none", "/", "", _PRIVATE)
    mount("binfmt_misc", "/proc/sys/fs/binfmt_misc", "binfmt_misc")
    Path("/proc/sys/fs/binfmt_misc/register").write_bytes(_FORMAT)
    if root != "/":
        mount("proc", f"{root}/proc", "proc")
        mount("/dev", f"{root}/dev", "", _RECURSIVE_BIND)
        os.chroot(root)
        os.chdir("/")
    os.execvp(command[0], command)  # noqa: S606 - no shell


if __name__ == "__main__":
    raise SystemExit(_enter(sys.argv[1], sys.argv[2:]))
