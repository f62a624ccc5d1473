"""The folder in which a site's cameras and nodes are written down: read as a whole, changed one file at a time.

Every change is checked before it is written, and a change may carry the etag of the text that it was made for: where
somebody else was quicker it is refused, and nothing is lost of either.
"""

from __future__ import annotations

import difflib
import hashlib
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from pydantic import RootModel

from config import BrokenFileError, ConfigError, ConflictError, PermanentError
from config.files import PRIVATE, hold_lock, make_private_folder, write_atomically
from config.names import Name, check_name
from config.registry import CameraEntry, Login, NodeEntry, SiteEntry
from config.sources import check_section, explain_unknown_zones
from fleet.registry.roundtrip import changed_text, read_mapping

__all__ = ["Held", "Kind", "Registry", "RegistryFolder", "Trouble"]

Kind = Literal["camera", "node", "site", "logins"]
E = TypeVar("E", CameraEntry, NodeEntry, SiteEntry)

_SEEN_MAX = 512
"""Texts that are remembered by etag, so that a conflict can show what the other has changed."""
_SETTLED_S = 2.0
"""A file that was written more recently may be written again and look the same: clocks of file systems are coarse."""
_GITIGNORE = "logins.yaml\nlogins.yaml~\n.logins.yaml.*\n.lock\n*.mine\n"


@dataclass(frozen=True, slots=True)
class Held(Generic[E]):
    """One file of the registry.

    Attributes:
        name: of the camera or node; ``site`` for the site's file.
        entry: what it says.
        etag: stands for this very text; empty where there is no file.
        text: the file as it is.
        file: where it is.
    """

    name: str
    entry: E
    etag: str
    text: str
    file: Path


@dataclass(frozen=True, slots=True)
class Trouble:
    """A file that cannot be used.

    Attributes:
        kind: what it is of.
        name: of the camera or node.
        file: where it is.
        error: what is wrong with it.
    """

    kind: Kind
    name: str
    file: Path
    error: ConfigError


@dataclass(frozen=True, slots=True)
class Registry:
    """What all files together say; a broken one is missing here, and among the troubles."""

    cameras: Mapping[str, Held[CameraEntry]] = field(default_factory=dict)
    nodes: Mapping[str, Held[NodeEntry]] = field(default_factory=dict)
    site: Held[SiteEntry] | None = None
    troubles: tuple[Trouble, ...] = ()


def _check_camera(text: str, file: Path) -> CameraEntry:
    entry, errors = check_section(CameraEntry, read_mapping(text, file), text=text, file=file)
    if entry is not None:
        errors = explain_unknown_zones(entry, text=text, file=file)
    if entry is None or errors:
        raise BrokenFileError(errors)
    return entry


def _check_node(text: str, file: Path) -> NodeEntry:
    entry, errors = check_section(NodeEntry, read_mapping(text, file), text=text, file=file)
    if entry is None:
        raise BrokenFileError(errors)
    return entry


def _check_site(text: str, file: Path) -> SiteEntry:
    entry, errors = check_section(SiteEntry, read_mapping(text, file), text=text, file=file)
    if entry is None:
        raise BrokenFileError(errors)
    return entry


@dataclass(frozen=True, slots=True)
class _Place(Generic[E]):
    """Where one entry is written down, and who reads it."""

    kind: Kind
    name: str
    file: Path
    check: Callable[[str, Path], E]


@dataclass(frozen=True, slots=True)
class _Parsed:
    """What a file said when it was read last; without a signature it is read again."""

    signature: tuple[int, int, int] | None
    etag: str
    found: Any


class _Logins(RootModel[dict[Name, Login]]):
    """The whole of ``logins.yaml``."""


class RegistryFolder:
    """The files of a site's registry.

    Concurrency: from any thread, and from any number of processes: who changes a file holds the folder's lock.

    Args:
        path: the folder; made with the first change.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._seen: OrderedDict[str, str] = OrderedDict()
        self._parsed: dict[Path, _Parsed] = {}

    # --- reading -------------------------------------------------------------------------------------------------

    def read(self) -> Registry:
        """Everything that can be used, and what cannot.

        Raises:
            PermanentError: the folder itself cannot be read.
        """
        cameras, camera_troubles = self._read_all("camera", self.path / "cameras", _check_camera)
        nodes, node_troubles = self._read_all("node", self.path / "nodes", _check_node)
        site = self._parse(self._site())
        troubles = [*camera_troubles, *node_troubles]
        if isinstance(site, Trouble):
            troubles.append(site)
        try:
            self.logins()
        except ConfigError as error:
            troubles.append(Trouble("logins", "logins", self.logins_file, error))
        return Registry(cameras, nodes, None if isinstance(site, Trouble) else site, tuple(troubles))

    def camera(self, name: str) -> Held[CameraEntry]:
        """One camera.

        Raises:
            ConfigError: its file is broken.
            PermanentError: there is none of that name.
        """
        return self._existing(self._camera(name))

    def node(self, name: str) -> Held[NodeEntry]:
        """One node.

        Raises:
            ConfigError: its file is broken.
            PermanentError: there is none of that name.
        """
        return self._existing(self._node(name))

    def site(self) -> Held[SiteEntry]:
        """The site's file; what holds without one, where there is none.

        Raises:
            ConfigError: it is broken.
        """
        held = self._parse(self._site())
        if isinstance(held, Trouble):
            raise held.error
        return held

    def camera_file(self, name: str) -> Path:
        """Where a camera's file is, or would be.

        Raises:
            ConfigError: nothing can be called so.
        """
        return self._file("cameras", name)

    def node_file(self, name: str) -> Path:
        """Where a node's file is, or would be.

        Raises:
            ConfigError: nothing can be called so.
        """
        return self._file("nodes", name)

    @property
    def logins_file(self) -> Path:
        """Where the logins are."""
        return self.path / "logins.yaml"

    def logins(self) -> Mapping[str, Login]:
        """The logins, by camera.

        Raises:
            ConfigError: the file is broken. Nothing of what it holds is repeated.
        """
        text = self._text(self.logins_file)
        if not text:
            return {}
        content = read_mapping(text, self.logins_file)
        try:
            return _Logins.model_validate(content).root
        except ValueError as error:
            # Nothing of the file is repeated: whatever stands at the wrong place may be a password.
            raise ConfigError(
                f"{error.error_count() if hasattr(error, 'error_count') else 1} of these are no logins: write "
                "`CAMERA: {username: NAME, password: PASSWORD}`",
                file=self.logins_file,
            ) from None

    # --- changing ------------------------------------------------------------------------------------------------

    def change_camera(self, name: str, changes: Mapping[str, Any], *, etag: str | None = None) -> Held[CameraEntry]:
        """Change some of what a camera's file says, or make the file.

        Args:
            name: the camera.
            changes: nested like the file; None takes a key away. Comments and order are kept.
            etag: of the text that the change is made for, empty for a camera that is not there yet; None for
                whichever text there is.

        Raises:
            ConfigError: the file would be broken; nothing is written.
            ConflictError: it is not that text any more; nothing is written.
        """
        return self._change(self._camera(name), changes, etag)

    def change_node(self, name: str, changes: Mapping[str, Any], *, etag: str | None = None) -> Held[NodeEntry]:
        """The same for a node."""
        return self._change(self._node(name), changes, etag)

    def change_site(self, changes: Mapping[str, Any], *, etag: str | None = None) -> Held[SiteEntry]:
        """The same for the site's file."""
        return self._change(self._site(), changes, etag)

    def replace_camera(self, name: str, text: str, *, etag: str) -> Held[CameraEntry]:
        """Write a camera's file as somebody has edited it.

        Args:
            name: the camera.
            text: the whole file.
            etag: of the text that was edited.

        Raises:
            ConfigError: the text is broken; nothing is written.
            ConflictError: the file was changed meanwhile; nothing is written, `text` is kept beside it.
        """
        file = self.camera_file(name)
        with self._changing(file):
            _check_camera(text, file)
            self._expect(file, etag, lambda _base: text)
            self._write(file, text)
        return self.camera(name)

    def remove_camera(self, name: str, *, etag: str | None = None) -> None:
        """Take a camera and its login away.

        Raises:
            ConflictError: its file is not the one that `etag` stands for.
            PermanentError: there is none of that name.
        """
        self._remove(self._camera(name), etag)
        if name in self.logins():
            self.set_login(name, None)

    def remove_node(self, name: str, *, etag: str | None = None) -> None:
        """Take a node away; raises as `remove_camera` does."""
        self._remove(self._node(name), etag)

    def set_login(self, camera: str, login: Login | None) -> None:
        """Write down how one logs in to a camera; None forgets it.

        Raises:
            ConfigError: the file of logins is broken; nothing is written.
        """
        file = self.logins_file
        plain = login and {"username": login.username, "password": login.password.get_secret_value()}
        with self._changing(file):
            self.logins()
            self._write(file, changed_text(self._text(file) or "", {camera: plain}))

    def text(self, file: Path) -> tuple[str, str]:
        """A file's text, checked or not, and its etag; both empty where there is none.

        Raises:
            ConfigError: it cannot be read.
        """
        text = self._text(file)
        return text or "", self._etag(text)

    def keep_beside(self, camera: str, text: str) -> Path:
        """Keep a text that cannot be a camera's file beside it, under a name that nobody reads."""
        return _keep_beside(self.camera_file(camera), text)

    # --- inside --------------------------------------------------------------------------------------------------

    def _camera(self, name: str) -> _Place[CameraEntry]:
        return _Place("camera", name, self.camera_file(name), _check_camera)

    def _node(self, name: str) -> _Place[NodeEntry]:
        return _Place("node", name, self.node_file(name), _check_node)

    def _site(self) -> _Place[SiteEntry]:
        return _Place("site", "site", self.path / "site.yaml", _check_site)

    def _file(self, folder: str, name: str) -> Path:
        try:
            return self.path / folder / f"{check_name(name)}.yaml"
        except ValueError as error:
            raise ConfigError(str(error), field=folder) from None

    def _read_all(
        self, kind: Kind, folder: Path, check: Callable[[str, Path], E]
    ) -> tuple[dict[str, Held[E]], list[Trouble]]:
        held: dict[str, Held[E]] = {}
        troubles: list[Trouble] = []
        for file in sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")]):
            try:
                check_name(file.stem)
                if file.suffix != ".yaml":
                    raise ValueError(f"nobody reads it: rename it to {file.stem}.yaml")
            except ValueError as error:
                troubles.append(Trouble(kind, file.stem, file, ConfigError(str(error), file=file)))
                continue
            found = self._parse(_Place(kind, file.stem, file, check))
            if isinstance(found, Trouble):
                troubles.append(found)
            elif found.etag:  # or it was removed since the folder was listed
                held[file.stem] = found
        return held, troubles

    def _parse(self, place: _Place[E]) -> Held[E] | Trouble:
        """One file: read again once it has changed, and parsed again once its text has."""
        signature = _signature(place.file)
        with self._lock:
            known = self._parsed.get(place.file)
        if known is not None and signature is not None and known.signature == signature:
            same: Held[E] | Trouble = known.found
            return same
        try:
            text = self._text(place.file)
        except ConfigError as error:
            return Trouble(place.kind, place.name, place.file, error)
        etag = self._etag(text)
        if known is not None and known.etag == etag:
            found: Held[E] | Trouble = known.found
        else:
            found = _checked(place, text or "", etag)
        with self._lock:
            self._parsed[place.file] = _Parsed(signature, etag, found)
        return found

    def _existing(self, place: _Place[E]) -> Held[E]:
        if not place.file.exists():
            raise self._none(place)
        found = self._parse(place)
        if isinstance(found, Trouble):
            raise found.error
        return found

    def _none(self, place: _Place[E]) -> PermanentError:
        return PermanentError(
            f"there is no {place.kind} {place.name!r} in {self.path}: `vigil {place.kind} list` lists them"
        )

    def _change(self, place: _Place[E], changes: Mapping[str, Any], etag: str | None) -> Held[E]:
        file = place.file
        with self._changing(file):
            if etag is not None:
                self._expect(file, etag, lambda base: changed_text(base, changes))
            before = self._text(file)
            if before:
                read_mapping(before, file)
            text = changed_text(before or "", changes)
            place.check(text, file)
            if text != before:
                self._write(file, text)
        return self._existing(place)

    def _remove(self, place: _Place[E], etag: str | None) -> None:
        with self._changing(place.file):
            if not place.file.exists():
                raise self._none(place)
            if etag is not None:
                self._expect(place.file, etag, None)
            place.file.unlink()

    def _expect(self, file: Path, etag: str, mine: Callable[[str], str] | None) -> None:
        """Refuse a change that was made for another text than the one that is there.

        Raises:
            ConflictError: it was.
        """
        text = self._text(file)
        if self._etag(text) == etag:
            return
        with self._lock:
            base = self._seen.get(etag) if etag else ""
        kept = None
        if mine is not None and base is not None:
            kept = _keep_beside(file, mine(base))
        raise ConflictError(file, changed=_diff(base, text), mine=kept)

    @contextmanager
    def _changing(self, file: Path) -> Iterator[None]:
        try:
            if not self.path.exists():
                make_private_folder(self.path)
            file.parent.mkdir(exist_ok=True)
            ignore = self.path / ".gitignore"
            written = ignore.read_text() if ignore.exists() else ""
            if "logins.yaml" not in written:  # one that names it says what somebody wants
                write_atomically(ignore, f"{written.rstrip()}\n{_GITIGNORE}".lstrip())
            with hold_lock(self.path / ".lock"):
                yield
        except OSError as error:
            raise PermanentError(
                f"{error.filename or file}: cannot be written ({error.strerror}): check the rights of {self.path}"
            ) from error

    def _write(self, file: Path, text: str) -> None:
        is_secret = file == self.logins_file or not file.exists()
        mode = PRIVATE if is_secret else file.stat().st_mode & 0o777
        write_atomically(file, text)
        file.chmod(mode)

    def _text(self, file: Path) -> str | None:
        try:
            return file.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise ConfigError(f"cannot be read: {reason}", file=file) from None

    def _etag(self, text: str | None) -> str:
        if text is None:
            return ""
        etag = hashlib.sha256(text.encode()).hexdigest()[:16]
        with self._lock:
            self._seen[etag] = text
            self._seen.move_to_end(etag)
            while len(self._seen) > _SEEN_MAX:
                self._seen.popitem(last=False)
        return etag


def _signature(file: Path) -> tuple[int, int, int] | None:
    """What is different once a file was written; None where one cannot tell: it is away, or was written just now."""
    try:
        found = file.stat()
    except OSError:
        return None
    if abs(time.time() - found.st_mtime) < _SETTLED_S:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _checked(place: _Place[E], text: str, etag: str) -> Held[E] | Trouble:
    try:
        return Held(place.name, place.check(text, place.file), etag, text, place.file)
    except ConfigError as error:
        return Trouble(place.kind, place.name, place.file, error)


def _keep_beside(file: Path, text: str) -> Path:
    kept = file.with_name(f"{file.name}.{secrets.token_hex(3)}.mine")
    write_atomically(kept, text)
    return kept


def _diff(before: str | None, after: str | None) -> str:
    """What somebody has changed, as lines; the whole file where it is not known what was there."""
    if after is None:
        return "  the file was removed"
    if before is None:
        return after.rstrip("\n")
    lines = list(difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=1))[2:]
    return "\n".join(f"  {line}" for line in lines)
