"""The distribution's packages of a bundle: those that a node lacks, fetched by apt in a folder of its own.

apt is asked for another machine than this one: with that machine's sources, its architecture, and what is installed
there. Of this machine's own apt only its mirror of Debian is asked for; nothing is changed, and no root is needed.
"""

from __future__ import annotations

import lzma
import os
import re
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from config.errors import ConfigError, PermanentError, TransientError
from fleet.bundle.manifest import Architecture, FamilyName

__all__ = ["base_of_image", "debian_mirrors", "download_packages", "plain_base", "run_packages"]

_ARCHIVE_KEYS = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_APT_S = 1800.0
_MIRRORS_S = 60.0
_DEBUGFS_S = 120.0
_LINUX = 0x83
"""Type of a partition. Source: the MBR of every Raspberry Pi OS image: FAT first, then Linux."""
_SECTOR_BYTES = 512
_CHUNK_BYTES = 1 << 22
_STATUS = "var/lib/dpkg/status"
_SOURCES = """\
Types: deb
URIs: {archive}
Suites: {family} {family}-updates
Components: main
Signed-By: {keys}

Types: deb
URIs: {security}
Suites: {family}-security
Components: main
Signed-By: {keys}
"""
_CONFIGURATION = """\
Dir "{base}";
Dir::State::status "{base}/{status}";
Dir::Bin::Methods "/usr/lib/apt/methods";
APT::Architecture "{architecture}";
APT::Architectures {{ "{architecture}"; }};
APT::Install-Recommends "false";
APT::Sandbox::User "";
Acquire::Languages "none";
Acquire::Retries "3";
Debug::NoLocking "true";
"""


def run_packages(listed: str) -> tuple[str, ...]:
    """What Vigil runs on.

    Args:
        listed: the text of ``deploy/packages.txt``.
    """
    part = listed.partition("[run]")[2].partition("\n[")[0]
    return tuple(line.partition("#")[0].strip() for line in part.splitlines() if line.partition("#")[0].strip())


def debian_mirrors() -> tuple[str, str]:
    """Where this machine gets Debian's packages from, and their security updates.

    Raises:
        ConfigError: it is no Debian or Raspberry Pi OS, or its apt has no such source.
    """
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE)", "Created-By: Packages"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_MIRRORS_S).stdout
    except OSError:
        told = ""
    uris = [line.partition(" ")[0].rstrip("/") for line in told.splitlines()]
    archive = next((uri for uri in uris if uri.endswith("/debian")), None)
    security = next((uri for uri in uris if uri.endswith("/debian-security")), None)
    if archive is None or security is None:
        raise ConfigError(
            "the apt of this machine has no sources of Debian and its security updates, where packages could come "
            "from: give the card's own image, which names them, or build on Debian or Raspberry Pi OS",
            field="--image",
        )
    return archive, security


# --- what is there already ------------------------------------------------------------------------------------


def plain_base(family: FamilyName, folder: Path) -> None:
    """The sources of a plain Debian, with nothing installed yet.

    Args:
        family: its release.
        folder: is made like the root of such a system, as far as apt reads it.

    Raises:
        ConfigError: the keys that its packages are signed with are not on this machine, or it knows no mirror.
    """
    archive, security = debian_mirrors()
    if not _ARCHIVE_KEYS.is_file():
        raise ConfigError(
            f"{_ARCHIVE_KEYS} is missing, by which packages are known to be Debian's: sudo apt-get install "
            "debian-archive-keyring, or give --image, which brings its own"
        )
    _make_tree(folder)
    (folder / "etc/apt/sources.list.d/debian.sources").write_text(
        _SOURCES.format(family=family, keys=_ARCHIVE_KEYS, archive=archive, security=security), encoding="utf-8"
    )
    (folder / _STATUS).write_bytes(b"")


def base_of_image(image: Path, folder: Path) -> None:
    """The sources, keys and installed packages of an image, read out of its Linux partition without mounting it.

    Args:
        image: of a card; may be compressed (``.xz``).
        folder: is made like its root, as far as apt reads it.

    Raises:
        ConfigError: it cannot be read, or has no such partition, or this machine has no debugfs.
    """
    # Debian keeps it out of an ordinary user's PATH.
    debugfs = shutil.which("debugfs", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    if debugfs is None:
        raise ConfigError("reading an image takes debugfs: sudo apt-get install e2fsprogs", field="--image")
    folder.mkdir()
    plain = _plain_image(image, folder)
    try:
        source = f"{plain}?offset={_linux_offset(plain, image)}"
        for place in (_STATUS, "etc/apt", "usr/share/keyrings"):
            into = (folder / place).parent
            into.mkdir(parents=True)
            run = [debugfs, "-R", f"rdump /{place} {into}", source]
            subprocess.run(run, capture_output=True, check=False, timeout=_DEBUGFS_S)
    finally:
        if plain != image:
            plain.unlink()
    if not (folder / _STATUS).is_file() or not (folder / _STATUS).stat().st_size:
        raise ConfigError("no packages are installed in it: is it an image of Raspberry Pi OS or Debian?", file=image)
    _move_references(folder)
    _make_tree(folder)


def _make_tree(folder: Path) -> None:
    for place in (
        "etc/apt/sources.list.d",
        "etc/apt/apt.conf.d",
        "etc/apt/preferences.d",
        "etc/apt/trusted.gpg.d",
        "usr/share",
        "var/lib/apt/lists/partial",
        "var/cache/apt/archives/partial",
        "var/lib/dpkg",
    ):
        (folder / place).mkdir(parents=True, exist_ok=True)


def _plain_image(image: Path, folder: Path) -> Path:
    if image.suffix != ".xz":
        return image
    plain = folder / "image"
    try:
        with lzma.open(image) as packed, plain.open("wb") as written:
            while chunk := packed.read(_CHUNK_BYTES):
                # Most of an image is empty, and takes no space where it is skipped.
                written.seek(len(chunk), os.SEEK_CUR) if not chunk.strip(b"\0") else written.write(chunk)
            written.truncate()
    except (OSError, lzma.LZMAError) as error:
        raise ConfigError(f"cannot be read: {error}", file=image) from error
    return plain


def _linux_offset(plain: Path, image: Path) -> int:
    """Where its Linux partition begins, in bytes."""
    try:
        with plain.open("rb") as opened:
            table = opened.read(_SECTOR_BYTES)
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", file=image) from error
    if len(table) == _SECTOR_BYTES and table[510:] == b"\x55\xaa":
        for entry in range(446, 510, 16):
            if table[entry + 4] == _LINUX:
                return int(struct.unpack_from("<I", table, entry + 8)[0]) * _SECTOR_BYTES
    raise ConfigError("no Linux partition: is it an image of Raspberry Pi OS?", file=image)


def _move_references(folder: Path) -> None:
    """Let its sources name its keys where they are now; and leave its own apt settings out of it."""
    shutil.rmtree(folder / "etc/apt/apt.conf.d", ignore_errors=True)
    (folder / "etc/apt/apt.conf").unlink(missing_ok=True)
    for file in (folder / "etc/apt").rglob("*.*"):
        if file.is_file() and file.suffix in (".list", ".sources"):
            text = file.read_text(encoding="utf-8", errors="replace")
            moved = re.sub(r"(?i)(signed-by\s*[=:]\s*)/", rf"\g<1>{folder}/", text)
            file.write_text(moved, encoding="utf-8")


# --- what is missing ------------------------------------------------------------------------------------------


def download_packages(
    base: Path, architecture: Architecture, wanted: Sequence[str], folder: Path, tell: Callable[[int, int], None]
) -> None:
    """Fetch what these packages come to on a system, beyond what it has.

    Args:
        base: the system, as `plain_base` or `base_of_image` makes it. One with nothing installed counts as one with
            the packages that every Debian has.
        architecture: the machine's.
        wanted: names.
        folder: where the packages are written.
        tell: is told how many of how many are there.

    Raises:
        ConfigError: there is no apt on this machine.
        PermanentError: the system's sources do not have them.
        TransientError: they cannot be reached.
    """
    if shutil.which("apt-get") is None:
        raise ConfigError(
            "distribution packages are fetched with apt-get, which this machine does not have: build the bundle on "
            "Debian, Ubuntu or a Raspberry Pi, or with --online, and the node fetches them itself",
            field="--online",
        )
    apt = _Apt(base, architecture)
    apt.run("apt-get", "update", "-o", "APT::Get::List-Cleanup=false")
    if not (base / _STATUS).stat().st_size:
        (base / _STATUS).write_text(_usual_status(apt), encoding="utf-8")
    total = len(apt.chosen(wanted))
    tell(0, total)
    done = 0
    for line in apt.lines("apt-get", "install", "-y", "--download-only", *wanted):
        if line.startswith("Get:"):
            done = min(done + 1, total)
            tell(done, total)
    for package in (base / "var/cache/apt/archives").glob("*.deb"):
        package.replace(folder / package.name)


class _Apt:
    """apt for another machine.

    Args:
        base: like the root of its system.
        architecture: its.
    """

    def __init__(self, base: Path, architecture: Architecture) -> None:
        configuration = base / "apt.conf"
        text = _CONFIGURATION.format(base=base, status=_STATUS, architecture=architecture)
        configuration.write_text(text + _proxies(), encoding="utf-8")
        self._environment = {**os.environ, "APT_CONFIG": str(configuration), "LC_ALL": "C"}

    def run(self, *command: str) -> str:
        """What a command prints."""
        return "".join(self.lines(*command))

    def lines(self, *command: str) -> Iterable[str]:
        """What a command prints, as it comes.

        Raises:
            PermanentError: it failed.
            TransientError: it failed because the network did.
        """
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=self._environment
        ) as process:
            printed = []
            for line in process.stdout or ():
                printed.append(line)
                yield line
        complaints = [line.strip() for line in printed if line.startswith(("E:", "W:", "Err:"))]
        # `update` ends well also where it has reached nobody.
        if process.returncode or any("Failed to fetch" in line for line in complaints):
            _refuse(complaints)

    def chosen(self, wanted: Sequence[str]) -> list[str]:
        """What installing these packages would bring."""
        text = self.run("apt-get", "install", "-s", "-y", *wanted)
        return re.findall(r"^Inst (\S+)", text, re.MULTILINE)


def _refuse(complaints: Sequence[str]) -> None:
    told = " | ".join(complaints[:6])
    if any(sign in told for sign in ("Temporary failure", "Could not connect", "Could not resolve", "timed out")):
        raise TransientError(f"apt reaches none of the system's sources: {told}")
    raise PermanentError(f"apt cannot fetch the packages: {told}")


def _proxies() -> str:
    """This machine's own way out."""
    run = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=False, timeout=_DEBUGFS_S)
    return "".join(f"{line}\n" for line in run.stdout.splitlines() if re.match(r"Acquire::https?::", line))


def _usual_status(apt: _Apt) -> str:
    """As if the packages were installed that every Debian has, and what they need."""
    stanzas = {}
    usual = []
    for stanza in apt.run("apt-cache", "dumpavail").split("\n\n"):
        fields = dict(re.findall(r"^(Package|Priority|Essential): (\S+)", stanza, re.MULTILINE))
        stanzas[fields.get("Package", "")] = stanza
        if fields.get("Priority") in ("required", "important", "standard") or fields.get("Essential") == "yes":
            usual.append(fields["Package"])
    there = apt.chosen([*usual, "python3", "ca-certificates"])
    return "".join(f"{stanzas[name].strip()}\nStatus: install ok installed\n\n" for name in there if name in stanzas)
