"""Who belongs to the site: one file in the folder of its certificate authority.

The folder is the site's most precious one: who can read it can let anybody in. It lives on one machine and is read by
the commands that change the membership, and by the broker where that runs on the same machine.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec.structs import replace

from broker.acl import Right, mosquitto_acl, node_rights, person_rights
from broker.topics import origin_of
from config.errors import ConfigError, PermanentError
from config.files import write_atomically
from config.settings import Settings

__all__ = [
    "PERSON_CERTIFICATE",
    "CaFolder",
    "Certificate",
    "Invitation",
    "Kind",
    "Member",
    "Roster",
    "ca_folder",
    "load_members",
    "load_roster",
    "rights_of",
    "save_roster",
]

Kind = Literal["node", "person"]
PERSON_CERTIFICATE = "person"
"""Stands for the role in the name of a person's certificate."""
Moment = Annotated[datetime, msgspec.Meta(tz=True)]


class Certificate(msgspec.Struct, frozen=True, kw_only=True):
    """A certificate that was handed out.

    Attributes:
        serial: lower-case hexadecimal.
        role: of the process that uses it; ``person`` for a person's.
        not_after: when it ends by itself.
        revoked_at: when it was taken back.
    """

    serial: str
    role: str
    not_after: Moment
    revoked_at: Moment | None = None


class Invitation(msgspec.Struct, frozen=True, kw_only=True):
    """A one-time token that was handed out: who may join with it, and as what.

    Attributes:
        token_sha256: of the token's secret; the secret itself is nowhere.
        expires_at: after this it is worth nothing.
    """

    name: str
    kind: Kind
    roles: tuple[str, ...]
    cameras: tuple[str, ...]
    token_sha256: str
    expires_at: Moment


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """A node with its processes, or a person.

    Attributes:
        name: of the node or person.
        roles: of a node's processes; of a person, ``dashboard`` or ``viewer``. A member without roles has no rights.
        cameras: those that the node watches.
        certificates: all that still count: in force, or revoked and not yet expired.
    """

    name: str
    kind: Kind
    roles: tuple[str, ...] = ()
    cameras: tuple[str, ...] = ()
    certificates: tuple[Certificate, ...] = ()

    @property
    def is_revoked(self) -> bool:
        """Whether it was shut out."""
        return not self.roles

    def in_force(self, now: datetime) -> tuple[Certificate, ...]:
        """Its certificates that a broker takes."""
        return tuple(one for one in self.certificates if one.revoked_at is None and one.not_after > now)

    def expires_at(self, now: datetime) -> datetime | None:
        """When the first of its roles has no certificate any more; None without any in force."""
        last = [
            max((one.not_after for one in self.in_force(now) if one.role == role), default=None)
            for role in self.certificate_roles
        ]
        ends = [moment for moment in last if moment is not None]
        return min(ends, default=None)

    @property
    def certificate_roles(self) -> tuple[str, ...]:
        """One certificate each: its roles, or the one of a person."""
        return self.roles if self.kind == "node" else (PERSON_CERTIFICATE,) if self.roles else ()

    def common_name(self, role: str) -> str:
        """What stands in the certificate of a role, and is the user name at the broker."""
        return origin_of(self.name, role) if self.kind == "node" else self.name


class Roster(msgspec.Struct, frozen=True, kw_only=True):
    """The file's content.

    Attributes:
        v: version of its form.
        site: the site; it is in every right.
    """

    site: str
    v: Literal[1] = 1
    members: tuple[Member, ...] = ()
    invitations: tuple[Invitation, ...] = ()

    def member(self, name: str) -> Member | None:
        """The member of that name."""
        return next((one for one in self.members if one.name == name), None)

    def with_member(self, member: Member) -> Roster:
        """The same with this member, in place of the one of its name, and without an invitation of that name."""
        others = [one for one in self.members if one.name != member.name]
        members = tuple(sorted((*others, member), key=lambda one: (one.kind, one.name)))
        return replace(self.without_invitation(member.name), members=members)

    def without_invitation(self, name: str) -> Roster:
        """The same without what was promised to that name."""
        return replace(self, invitations=tuple(one for one in self.invitations if one.name != name))


@dataclass(frozen=True, slots=True)
class CaFolder:
    """Where the site's certificate authority lives: nobody but its owner can enter.

    Attributes:
        path: the folder.
    """

    path: Path

    @property
    def ca(self) -> Path:
        """Certificate of the authority for processes; it signs the broker's too, so everybody trusts it."""
        return self.path / "ca.crt"

    @property
    def ca_key(self) -> Path:
        """Its private key."""
        return self.path / "ca.key"

    @property
    def ca_list(self) -> Path:
        """What it has taken back."""
        return self.path / "ca.crl"

    @property
    def people(self) -> Path:
        """Certificate of the authority for people."""
        return self.path / "people.crt"

    @property
    def people_key(self) -> Path:
        """Its private key."""
        return self.path / "people.key"

    @property
    def people_list(self) -> Path:
        """What it has taken back."""
        return self.path / "people.crl"

    @property
    def server(self) -> Path:
        """The broker's certificate."""
        return self.path / "server.crt"

    @property
    def server_key(self) -> Path:
        """Its private key."""
        return self.path / "server.key"

    @property
    def acl(self) -> Path:
        """Everybody's rights, as Mosquitto reads them."""
        return self.path / "acl"

    @property
    def members(self) -> Path:
        """Who belongs to the site."""
        return self.path / "members.json"

    @property
    def lock(self) -> Path:
        """Held by whoever changes anything here."""
        return self.path / "lock"

    @property
    def exists(self) -> bool:
        """Whether there is an authority here."""
        return self.members.is_file()


def ca_folder(settings: Settings) -> CaFolder:
    """Where this machine keeps the site's authority, if it is the one that has it."""
    return CaFolder(settings.state_dir / "ca")


def load_roster(folder: CaFolder) -> Roster:
    """Who belongs to the site.

    Raises:
        ConfigError: there is no authority on this machine.
        PermanentError: the file cannot be read.
    """
    try:
        content = folder.members.read_bytes()
    except FileNotFoundError as error:
        raise ConfigError(
            f"there is no certificate authority in {folder.path}: make one with `vigil ca init`, or run this on the "
            "machine that has it (--state DIR)"
        ) from error
    except OSError as error:
        raise PermanentError(f"{folder.members} cannot be read: {error.strerror}; run this as its owner") from error
    try:
        return msgspec.json.decode(content, type=Roster)
    except msgspec.MsgspecError as error:
        raise PermanentError(
            f"{folder.members} is damaged ({error}): restore it from a backup; without it nobody can be revoked"
        ) from error


def save_roster(folder: CaFolder, roster: Roster) -> None:
    """Write who belongs to the site, and with it everybody's rights; the caller holds the lock."""
    write_atomically(folder.members, msgspec.json.format(msgspec.json.encode(roster), indent=2))
    write_atomically(folder.acl, mosquitto_acl(rights_of(roster.site, roster.members)))


def load_members(folder: CaFolder) -> tuple[Member, ...]:
    """The members of the site.

    Raises:
        ConfigError: there is no authority on this machine.
        PermanentError: the file cannot be read.
    """
    return load_roster(folder).members


def rights_of(site: str, members: Iterable[Member]) -> tuple[Right, ...]:
    """Everybody's rights; one that is revoked has none."""
    return tuple(right for member in members for right in _rights(site, member))


def _rights(site: str, member: Member) -> tuple[Right, ...]:
    if member.kind == "node":
        return node_rights(site, member.name, member.roles, member.cameras)
    return tuple(right for role in member.roles for right in person_rights(site, member.name, role))
