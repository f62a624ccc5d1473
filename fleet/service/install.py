"""Putting a service in place, and taking it away: what is done, one step after the other, so that it can be shown."""

from __future__ import annotations

import grp
import os
import pwd
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from config import PermanentError, TransientError
from config.files import write_atomically
from config.settings import Settings, default_registry, default_state_dir
from fleet.service.units import STANDARD, Place, unit_name, unit_text

__all__ = ["Step", "install_steps", "place_of", "systemctl", "uninstall_steps", "unit_folder"]

_TIMEOUT_S = 120.0
_READABLE = 0o644


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that is done.

    Attributes:
        about: in words.
        do: does it. Raises VigilError.
        text: of the file that it writes.
    """

    about: str
    do: Callable[[], object]
    text: str = ""


def place_of(settings: Settings, config: Path, root: Path) -> Place:
    """Where this very installation is, as its services are to run it.

    Args:
        settings: of this machine.
        config: its site file; in the usual place one is written where there is none.
        root: of the system that the services are for: ``/``, or a folder with another system.
    """
    launch = root / "opt/vigil/launch"
    state = settings.state_dir if settings.state_dir != default_state_dir() else STANDARD.state
    registry = settings.fleet.registry if settings.fleet.registry != default_registry() else STANDARD.registry
    footage = settings.edge.footage.folder
    return Place(
        program=STANDARD.program if launch.exists() else _own_program(),
        config=config.absolute(),
        state=state.absolute(),
        home=STANDARD.home if launch.exists() else None,
        registry=registry.absolute(),
        others=() if footage is None else (footage.absolute(),),
        groups=_groups_in(root),
        systemd=_version_of_systemd(),
    )


def _own_program() -> tuple[str, ...]:
    script = Path(sys.executable).parent / "vigil"
    return (str(script),) if script.exists() else (sys.executable, "-P", "-m", "console")


def _groups_in(root: Path) -> frozenset[str]:
    try:
        lines = (root / "etc/group").read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    return frozenset(line.partition(":")[0] for line in lines)


def _version_of_systemd() -> int:
    try:
        said = _run(["systemctl", "--version"])
    except TransientError:
        return 0
    found = re.match(r"systemd (\d+)", said)
    return int(found.group(1)) if found else 0


def unit_folder(root: Path) -> Path:
    """Where the units of a system are that its administrator has put there."""
    return root / "etc/systemd/system"


def install_steps(service: str, place: Place, *, root: Path, now: bool) -> Iterator[Step]:
    """What `vigil service install` does.

    Args:
        service: one of :data:`fleet.service.units.SERVICES`.
        place: where Vigil is.
        root: ``/``, or the folder of another system, where nothing is started.
        now: start it at once.

    Raises:
        PermanentError: the services' user could not run this installation.
    """
    here = root == Path("/")
    if here:
        _check_reach(place)
    if place.user not in _users_in(root):
        yield _user_step(place, root)
    yield from _folder_steps(service, place, root)
    if service == "node" and place.home is not None:
        home = _below(root, place.home)
        yield Step(
            f"give {home} and all that is in it to {place.user}: the agent puts updates there",
            lambda: _give(home, _ids(root, place.user, place.user)),
        )
    unit, text = unit_folder(root) / unit_name(service), unit_text(service, place)
    yield Step(f"write {unit}", lambda: _write(unit, text, _READABLE), text)
    if not here:
        # As `systemctl enable` does, for which the other system may have no program that runs here.
        link = _wanted_link(service, root)
        yield Step(f"link {link}", lambda: _link(link, Path("/") / unit.relative_to(root)))
        return
    yield _systemctl_step("daemon-reload")
    yield _systemctl_step("enable", unit_name(service))
    if now:
        # Restart: one that runs already is to run by what was just written.
        yield _systemctl_step("restart", unit_name(service))


def _systemctl_step(*arguments: str) -> Step:
    return Step(f"systemctl {' '.join(arguments)}", lambda: systemctl(*arguments))


def _wanted_link(service: str, root: Path) -> Path:
    """What makes a service start with a system."""
    return unit_folder(root) / "multi-user.target.wants" / unit_name(service)


def _check_reach(place: Place) -> None:
    """A program below a folder that only its owner enters, such as /root, would never start."""
    program = Path(place.program[0])
    closed = next((folder for folder in program.parents if folder.exists() and not folder.stat().st_mode & 0o001), None)
    if closed is not None:
        raise PermanentError(
            f"{program}: the service runs as user {place.user}, who cannot enter {closed}: install Vigil in a folder "
            "that everybody can read, such as /opt/vigil"
        )


def _users_in(root: Path) -> set[str]:
    try:
        return {line.partition(":")[0] for line in (root / "etc/passwd").read_text(encoding="utf-8").splitlines()}
    except OSError:
        return set()


def _user_step(place: Place, root: Path) -> Step:
    groups = sorted({"video", "render"} & (place.groups or frozenset()))
    command = ["useradd", "--system", "--user-group", "--no-create-home", "--home-dir", str(place.state)]
    command += ["--shell", "/usr/sbin/nologin", *(["--groups", ",".join(groups)] if groups else [])]
    command += [*([] if root == Path("/") else ["--prefix", str(root)]), place.user]
    return Step(" ".join(command), lambda: _run(command))


def _folder_steps(service: str, place: Place, root: Path) -> Iterator[Step]:
    config = _below(root, place.config)
    if place.config == STANDARD.config:
        yield _folder_step(config.parent, 0o750, place.user, root, owner="root")
    if not config.exists():
        text = _first_config(place)
        yield Step(f"write {config}", lambda: _write(config, text, 0o640, _ids(root, "root", place.user)), text)
    wanted = [(place.state, 0o700), *([(place.registry, 0o750)] if service == "fleet" else [])]
    for folder, mode in wanted:
        # One that is there stays as it is: systemd gives the whole of a state folder to the service's user.
        if not _below(root, folder).exists():
            yield _folder_step(_below(root, folder), mode, place.user, root)


def _folder_step(folder: Path, mode: int, user: str, root: Path, *, owner: str = "") -> Step:
    return Step(
        f"folder {folder}, mode {mode:04o}, of {owner or user}",
        lambda: _make_folder(folder, mode, _ids(root, owner or user, user)),
    )


def _first_config(place: Place) -> str:
    return (
        "# This machine's own settings; `vigil config show` lists what there is. What the site says of a node goes "
        "above them.\n"
        f"state_dir: {place.state}\n"
        f"fleet:\n  registry: {place.registry}\n"
    )


def uninstall_steps(service: str, *, root: Path) -> Iterator[Step]:
    """What `vigil service uninstall` does: state and configuration stay."""
    here = root == Path("/")
    unit = unit_folder(root) / unit_name(service)
    if here:
        yield _systemctl_step("disable", "--now", unit_name(service))
    else:
        link = _wanted_link(service, root)
        yield Step(f"remove {link}", lambda: link.unlink(missing_ok=True))
    yield Step(f"remove {unit}", lambda: unit.unlink(missing_ok=True))
    if here:
        yield _systemctl_step("daemon-reload")


def systemctl(*arguments: str) -> str:
    """Give systemd an order; what it says.

    Raises:
        TransientError: it refuses, or does not run this machine.
    """
    return _run(["systemctl", *arguments])


def _below(root: Path, place: Path) -> Path:
    return root / place.relative_to("/")


def _ids(root: Path, user: str, group: str) -> tuple[int, int] | None:
    """Numbers of a user and a group in a system; None where this process may give files to nobody else."""
    if os.geteuid():
        return None
    if root == Path("/"):
        return pwd.getpwnam(user).pw_uid, grp.getgrnam(group).gr_gid
    found: list[int] = []
    for file, name in (("etc/passwd", user), ("etc/group", group)):
        lines = [line.split(":") for line in (root / file).read_text(encoding="utf-8").splitlines()]
        found.append(next((int(fields[2]) for fields in lines if fields[0] == name), 0))
    return found[0], found[1]


def _make_folder(folder: Path, mode: int, ids: tuple[int, int] | None) -> None:
    try:
        _make_parents(folder)
        folder.mkdir(exist_ok=True)
        folder.chmod(mode)
        if ids is not None:
            os.chown(folder, *ids)
    except OSError as error:
        raise PermanentError(f"{folder} cannot be made ({error.strerror})") from error


def _give(folder: Path, ids: tuple[int, int] | None) -> None:
    if ids is None:
        return
    try:
        for place in (folder, *folder.rglob("*")):
            os.chown(place, *ids, follow_symlinks=False)
    except OSError as error:
        raise PermanentError(f"{error.filename or folder} cannot be given away ({error.strerror})") from error


def _make_parents(place: Path) -> None:
    """The folders above, open to everybody as a system's are, whatever the umask."""
    for folder in reversed(place.parents):
        if not folder.exists():
            folder.mkdir()
            folder.chmod(0o755)


def _link(link: Path, target: Path) -> None:
    try:
        _make_parents(link)
        link.unlink(missing_ok=True)
        link.symlink_to(target)
    except OSError as error:
        raise PermanentError(f"{link} cannot be made ({error.strerror})") from error


def _write(file: Path, text: str, mode: int, ids: tuple[int, int] | None = None) -> None:
    try:
        _make_parents(file)
        write_atomically(file, text, mode=mode)
        file.chmod(mode)  # whatever the umask took away
        if ids is not None:
            os.chown(file, *ids)
    except OSError as error:
        raise PermanentError(f"{file} cannot be written ({error.strerror})") from error


def _run(command: Sequence[str]) -> str:
    program = shutil.which(command[0], path=f"{os.defpath}:/usr/sbin:/sbin:/usr/local/sbin")
    found = shutil.which(command[0]) or program
    if found is None:
        raise TransientError(f"there is no {command[0]} here: this needs a system that systemd runs")
    try:
        done = subprocess.run(
            [found, *command[1:]],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise TransientError(f"`{' '.join(command[:2])}` did not come to an end: {error}") from error
    if done.returncode:
        words = (done.stderr.strip() or done.stdout.strip() or f"status {done.returncode}").splitlines()
        raise TransientError(f"`{' '.join(command[:2])}` failed: {words[-1]}")
    return done.stdout
