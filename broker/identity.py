"""The folder with this machine's certificates: what `vigil join` writes and a connection with TLS reads."""

from __future__ import annotations

import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path

import msgspec

from broker.members import PERSON_CERTIFICATE, Kind
from config.errors import PermanentError
from config.files import make_private_folder, write_atomically
from config.names import check_role
from config.settings import Settings

__all__ = ["Admission", "Credentials", "IdentityFolder", "identity_folder"]


class Admission(msgspec.Struct, frozen=True, kw_only=True):
    """What the authority hands to a member; nothing in it is secret.

    Attributes:
        site: the site.
        name: the member's.
        ca: certificate of the authority that signed the broker's, PEM.
        certificates: one for each role, PEM; ``person`` for a person's.
        port: of the broker, for members of this kind.
    """

    site: str
    name: str
    kind: Kind
    ca: str
    certificates: dict[str, str]
    port: int = 0


@dataclass(frozen=True, slots=True)
class Credentials:
    """With what a process shows who it is.

    Attributes:
        certificate: file of its certificate.
        key: file of its private key.
    """

    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class IdentityFolder:
    """The certificates and keys of one machine; a node's and a person's may lie in one folder.

    Attributes:
        path: the folder.
    """

    path: Path

    @property
    def ca(self) -> Path:
        """What the broker's certificate is checked against."""
        return self.path / "ca.crt"

    def key(self, kind: Kind) -> Path:
        """The private key of the node, or of the person."""
        return self.path / f"{kind}.key"

    def certificate(self, role: str) -> Path:
        """The certificate of a role, or of the ``person``."""
        return self.path / f"{role}.crt"

    @property
    def authority(self) -> Path:
        """Says where the authority answers, as HOST:PORT."""
        return self.path / "authority"

    @property
    def pending_key(self) -> Path:
        """The private key of a request that is on its way by hand; beside the folder, which it becomes part of."""
        return self.path.with_name(f"{self.path.name}.pending.key")

    def kinds(self) -> tuple[Kind, ...]:
        """Of whom there are certificates here."""
        roles = set(self.roles())
        kinds: tuple[tuple[Kind, set[str]], ...] = (
            ("node", roles - {PERSON_CERTIFICATE}),
            ("person", roles & {PERSON_CERTIFICATE}),
        )
        return tuple(kind for kind, certificates in kinds if certificates)

    def credentials(self, role: str) -> Credentials | None:
        """Those of the role, else the person's; None where there are neither."""
        pairs = [Credentials(self.certificate(PERSON_CERTIFICATE), self.key("person"))]
        if role != PERSON_CERTIFICATE:
            pairs.insert(0, Credentials(self.certificate(role), self.key("node")))
        return next((pair for pair in pairs if pair.certificate.is_file() and pair.key.is_file()), None)

    def roles(self) -> tuple[str, ...]:
        """Whose certificates are here; ``person`` for a person's."""
        return tuple(sorted(path.stem for path in self.path.glob("*.crt") if path != self.ca))

    def check_writable(self) -> None:
        """Find out before a token is spent whether `install` will work.

        Raises:
            PermanentError: the folder cannot be written.
        """
        try:
            self._draft().rmdir()
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def _draft(self) -> Path:
        draft = self.path.with_name(f".{self.path.name}.{secrets.token_hex(4)}")
        make_private_folder(draft)
        return draft

    def install(self, admission: Admission, key: bytes) -> None:
        """Put a new member's files in place, all at once; what another kind of member has here stays.

        Raises:
            PermanentError: the folder cannot be written.
        """
        try:
            draft = self._draft()
        except OSError as error:
            raise _unwritable(self.path, error) from error
        try:
            for file in self._kept(admission.kind):
                shutil.copy2(file, draft / file.name)
            write_atomically(draft / f"{admission.kind}.key", key)
            _write_certificates(draft, admission)
            self._exchange(draft)
        except OSError as error:
            raise _unwritable(self.path, error) from error
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    def renew(self, admission: Admission) -> None:
        """Put new certificates of the same key in place of the old ones.

        A running process reads them when it connects again.

        Raises:
            PermanentError: the folder cannot be written.
        """
        try:
            _write_certificates(self.path, admission)
            for role in self.roles():
                mine = (role == PERSON_CERTIFICATE) == (admission.kind == "person")
                if mine and role not in admission.certificates:
                    self.certificate(role).unlink(missing_ok=True)
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def _kept(self, kind: Kind) -> list[Path]:
        if not self.path.is_dir():
            return []
        others = [self.key("person"), self.certificate(PERSON_CERTIFICATE)]
        if kind == "person":
            others = [
                self.key("node"),
                *(self.certificate(role) for role in self.roles() if role != PERSON_CERTIFICATE),
            ]
        return [file for file in (self.authority, *others) if file.is_file()]

    def _exchange(self, draft: Path) -> None:
        # Not one step: there is no portable exchange of two folders. A process that starts in between finds nothing
        # and is started again.
        old = self.path.with_name(f"{draft.name}.old")
        if self.path.exists():
            self.path.rename(old)
        draft.rename(self.path)
        shutil.rmtree(old, ignore_errors=True)


def _unwritable(folder: Path, error: OSError) -> PermanentError:
    place = error.filename or folder
    return PermanentError(f"{place} cannot be written ({error.strerror}): choose another folder with --state DIR")


def _write_certificates(folder: Path, admission: Admission) -> None:
    write_atomically(folder / "ca.crt", admission.ca)
    for role, certificate in admission.certificates.items():
        write_atomically(folder / f"{check_role(role)}.crt", certificate)


def identity_folder(settings: Settings) -> IdentityFolder:
    """Where this machine's certificates are."""
    return IdentityFolder(settings.bus.identity or settings.state_dir / "identity")
