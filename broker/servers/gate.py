"""Whom a secure broker lets in: the authority's folder, read again when it changes."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from broker.acl import Access, AccessList, Right
from broker.members import CaFolder, Kind, Roster, ca_folder, load_roster, rights_of
from config.errors import ConfigError, PermanentError
from config.files import hold_lock
from config.log import get_logger
from config.settings import Settings

__all__ = ["Gate", "authority_folder"]


def authority_folder(settings: Settings) -> CaFolder | None:
    """What a secure broker runs with; None where it is not to be secure.

    Raises:
        ConfigError: there is no authority on this machine.
    """
    if not settings.broker.secure:
        return None
    folder = ca_folder(settings)
    if not folder.exists:
        raise ConfigError(
            f"a secure broker runs on the machine with the site's authority, and {folder.path} has none: make it with "
            "`vigil ca init`",
            field="broker.secure",
        )
    return folder


@dataclass(frozen=True, slots=True)
class _Rules:
    """What decides who gets in.

    The lists of revoked certificates are signed anew at each change of any kind, and a renewed certificate changes
    nothing for a broker, so neither is looked at.
    """

    rights: tuple[Right, ...]
    revoked: frozenset[int]
    processes: frozenset[str]
    server: bytes


class Gate:
    """Whom to let in, and what they may do.

    Concurrency: owned by one thread.

    Args:
        folder: the authority's.

    Raises:
        ConfigError, PermanentError: it cannot be read.
    """

    def __init__(self, folder: CaFolder) -> None:
        self._folder = folder
        self._contexts: dict[Kind, ssl.SSLContext] = {}
        self._seen: object = None
        self._rules = self._read()
        self._access = AccessList(self._rules.rights)

    def refreshed(self) -> bool:
        """Read the rules again when the folder was written to; whether they have changed.

        When they cannot be read any more, those known stay in force.
        """
        if self._look() == self._seen:
            return False
        try:
            rules = self._read()
            if rules == self._rules:
                return False
            for kind, context in self._contexts.items():
                self._load(kind, context)
        except (ConfigError, PermanentError) as error:
            get_logger().error("broker.membership_unreadable", error=str(error))
            return False
        self._rules = rules
        self._access = AccessList(rules.rights)
        return True

    def _look(self) -> object:
        folder = self._folder
        return tuple(_state(file) for file in (folder.members, folder.server, folder.ca_list, folder.people_list))

    def _read(self) -> _Rules:
        # Whoever changes the folder holds this lock until all of its files fit together again.
        try:
            with hold_lock(self._folder.lock):
                self._seen = self._look()
                roster = load_roster(self._folder)
                server = self._folder.server.read_bytes()
        except OSError as error:
            raise PermanentError(
                f"{error.filename or self._folder.path} cannot be read: {error.strerror}; run this as its owner"
            ) from error
        return _Rules(rights_of(roster.site, roster.members), _revoked(roster), _processes(roster), server)

    def context(self, kind: Kind) -> ssl.SSLContext:
        """TLS of the port for nodes or for people: 1.2 or later, and only with a certificate of their authority.

        It follows later changes by itself.

        Raises:
            ConfigError: the authority's files cannot be used.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.verify_mode = ssl.CERT_REQUIRED
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
        # A session that is resumed is not checked against the list of revoked certificates.
        context.num_tickets = 0
        context.sslobject_class = _Teller
        context.options |= ssl.OP_NO_TICKET
        self._load(kind, context)
        self._contexts[kind] = context
        return context

    def _load(self, kind: Kind, context: ssl.SSLContext) -> None:
        folder = self._folder
        own = (folder.ca, folder.ca_list) if kind == "node" else (folder.people, folder.people_list)
        try:
            context.load_cert_chain(folder.server, folder.server_key)
            for file in own:
                context.load_verify_locations(file)
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"the certificates in {folder.path} cannot be used ({error}): restore the folder from a backup",
                field="broker.secure",
            ) from error

    def allows(self, username: str | None, access: Access, topic: str) -> bool:
        """Whether a user may do this with a topic."""
        return self._access.allows(username or "", access, topic)

    def is_process(self, name: str) -> bool:
        """Whether a process of the site is called so."""
        return name in self._rules.processes

    def is_revoked(self, serial: int) -> bool:
        """Whether the certificate with this serial number was taken back."""
        return serial in self._rules.revoked


_NOT_TLS = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST"})
"""OpenSSL's reasons for a client that would not understand an alert."""


class _Teller(ssl.SSLObject):
    """The server's side of a handshake, which tells a client why it is refused.

    asyncio throws away the alert that OpenSSL has written when a handshake fails. Asked to read on, it sends it first;
    then the client closes, says something, or is cut off after asyncio's timeout for handshakes.
    """

    _refused: ssl.SSLError | None = None

    def do_handshake(self) -> None:
        if self._refused is not None:
            raise self._refused
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            self._refused = error
            if error.reason in _NOT_TLS:
                raise
            raise ssl.SSLWantReadError from error


def _state(file: Path) -> tuple[int, int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _revoked(roster: Roster) -> frozenset[int]:
    return frozenset(
        int(certificate.serial, 16)
        for member in roster.members
        for certificate in member.certificates
        if certificate.revoked_at is not None
    )


def _processes(roster: Roster) -> frozenset[str]:
    return frozenset(
        member.common_name(role)
        for member in roster.members
        if member.kind == "node"
        for role in member.certificate_roles
    )
