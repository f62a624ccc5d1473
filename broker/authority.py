"""The site's certificate authority: who is let in, for how long, and who is shut out.

Two authorities in one folder, one for processes and one for people, so that a broker can tell them apart by the port
they come in on. Every change of membership goes through :class:`Authority`: it holds the folder's lock, writes the
members first, and derives the rights and the lists of revoked certificates from them.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import socket
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime, timedelta
from typing import TypeVar

import psutil
from msgspec.structs import replace

from broker.acl import ALWAYS_ROLES, CLIENT_ID_PREFIX, PERSON_ROLES, check_node_role
from broker.certs import (
    CertificateFacts,
    Issuer,
    key_fits,
    make_issuer,
    make_key,
    make_request,
    read_certificate,
    request_key,
)
from broker.identity import Admission, IdentityFolder
from broker.members import (
    CaFolder,
    Certificate,
    Invitation,
    Kind,
    Member,
    Roster,
    load_roster,
    save_roster,
)
from config.clock import Clock, SystemClock
from config.errors import ConfigError, PermanentError
from config.files import hold_lock, make_private_folder, write_atomically
from config.names import check_name

__all__ = ["INVITATION_S", "Authority", "RefusedError", "enrol_here", "names_of_this_machine"]

T = TypeVar("T")

INVITATION_S = 900
"""Seconds that a token holds: long enough to walk to the node, too short to be found later."""
MEMBER_DAYS = 397
"""A certificate's life: a year and a month, so that a yearly renewal is never late."""
SERVER_DAYS = 825
"""The broker's: the most that Apple's systems take. Source: https://support.apple.com/en-us/103769."""
_SERVER_RENEWED_DAYS = 90
"""The broker's is written anew, at any change of membership, when it has fewer days left."""
_HERE_DAYS = 30
"""On the authority's own machine a certificate is renewed when it has fewer days left."""
_REMEMBERED_AFTER = timedelta(days=365)
"""How long a certificate that has ended stays on record: were it forgotten at once, a clock that once ran far ahead
would leave a revoked one in force."""
_CERTIFICATES_MAX = 200
"""In force, of one member: a stolen node that renews for ever must not fill the disk."""
_COMMON_NAME_MAX = 64
"""Source: RFC 5280, ub-common-name."""
_SECRET_BYTES = 16


class RefusedError(PermanentError):
    """Somebody is not let in; the reason is for the site's own log, not for them."""


class Authority:
    """The certificate authority of one site.

    Concurrency: any number of processes and threads; each change holds the folder's lock.

    Args:
        folder: where it is.
        clock: time.

    Raises:
        ConfigError: there is none.
        PermanentError: it cannot be read, or its files do not belong together.
    """

    def __init__(self, folder: CaFolder, clock: Clock | None = None) -> None:
        self.folder = folder
        self._clock: Clock = clock or SystemClock()
        site = load_roster(folder).site
        self._processes = _load(folder, "ca", site)
        self._people = _load(folder, "people", site)

    @classmethod
    def create(cls, folder: CaFolder, site: str, names: Collection[str], clock: Clock | None = None) -> Authority:
        """Make the authority of a site, and the broker's first certificate.

        Args:
            folder: where; it may be there, without an authority in it.
            site: the site's name.
            names: host names and addresses by which the broker will be reached.
            clock: time.

        Raises:
            ConfigError: there is one already.
            PermanentError: the folder cannot be written.
        """
        now = (clock or SystemClock()).now()
        issuers = {"ca": make_issuer(f"Vigil {site} processes"[:_COMMON_NAME_MAX], site, now)}
        issuers["people"] = make_issuer(f"Vigil {site} people"[:_COMMON_NAME_MAX], site, now)
        with _writing(folder), _locked(folder):
            if folder.exists:
                raise ConfigError(f"there is a certificate authority in {folder.path} already, and it is kept")
            for name, issuer in issuers.items():
                write_atomically(folder.path / f"{name}.key", issuer.key_pem)
                write_atomically(folder.path / f"{name}.crt", issuer.pem)
                write_atomically(folder.path / f"{name}.crl", issuer.revocations((), now))
            write_atomically(folder.server_key, make_key())
            _write_server(folder, issuers["ca"], names, now)
            # Last of all: its presence says that everything else is there.
            save_roster(folder, Roster(site=site))
        return cls(folder, clock)

    @property
    def site(self) -> str:
        """The site's name."""
        return self.roster().site

    def sign_content(self, content: bytes) -> bytes:
        """Its signature, which everybody with the authority's certificate can check (`broker.certs.is_signed_by`)."""
        return self._processes.sign_content(content)

    def roster(self) -> Roster:
        """Who belongs to the site now.

        Raises:
            PermanentError: the file cannot be read.
        """
        return load_roster(self.folder)

    def invite(
        self,
        name: str,
        kind: Kind,
        roles: Iterable[str],
        cameras: Iterable[str] = (),
        *,
        valid_s: float = INVITATION_S,
    ) -> bytes:
        """Promise somebody a place, in place of an earlier promise.

        Args:
            name: of the node or person.
            kind: which of them.
            roles: of the node's processes; of a person, one of :data:`broker.acl.PERSON_ROLES`.
            cameras: those that the node watches.
            valid_s: seconds that the promise holds; a card is carried further than a token that is read aloud.

        Returns:
            The secret that lets whoever has it in, once. It is nowhere else.

        Raises:
            ConfigError: a name or role cannot be, or the name is another kind's.
        """
        roles, cameras = _checked(name, kind, roles, cameras)
        secret = secrets.token_bytes(_SECRET_BYTES)

        def change(roster: Roster, now: datetime) -> tuple[Roster, bytes]:
            _check_kind(roster, name, kind)
            promise = Invitation(
                name=name,
                kind=kind,
                roles=roles,
                cameras=cameras,
                token_sha256=hashlib.sha256(secret).hexdigest(),
                expires_at=now + timedelta(seconds=valid_s),
            )
            roster = roster.without_invitation(name)
            return replace(roster, invitations=(*roster.invitations, promise)), secret

        return self._change(change)

    def withdraw(self, name: str) -> None:
        """Take back what was promised to somebody who has not joined yet."""
        self._change(lambda roster, _now: (roster.without_invitation(name), None))

    def redeem(self, secret: bytes, name: str, request: bytes) -> Admission:
        """Let somebody in who has the secret of an invitation; it is worth nothing afterwards.

        Args:
            secret: as :meth:`invite` gave it.
            name: as who they come; the invitation's, or nobody's.
            request: certificate request, PEM.

        Raises:
            RefusedError: no such secret, or it is used, expired, or another's.
            BadPayloadError: the request is none; the secret stays good.
        """
        public_key = request_key(request)
        digest = hashlib.sha256(secret).hexdigest()

        def change(roster: Roster, now: datetime) -> tuple[Roster, Admission]:
            promise = next((one for one in roster.invitations if hmac.compare_digest(one.token_sha256, digest)), None)
            if promise is None or promise.expires_at <= now:
                raise RefusedError("the token is unknown, used or expired")
            if promise.name != name:
                raise RefusedError(f"the token is for {promise.name}, not for {name[:80]!r}")
            return self._join(roster, _member_of(promise), public_key, now)

        return self._change(change)

    def admit(self, name: str, kind: Kind, roles: Iterable[str], cameras: Iterable[str], request: bytes) -> Admission:
        """Let somebody in whose request came by hand; the arguments are those of :meth:`invite` and :meth:`redeem`.

        Raises:
            ConfigError: a name or role cannot be, or the name is another kind's.
            BadPayloadError: the request is none.
        """
        roles, cameras = _checked(name, kind, roles, cameras)
        public_key = request_key(request)

        def change(roster: Roster, now: datetime) -> tuple[Roster, Admission]:
            _check_kind(roster, name, kind)
            member = Member(name=name, kind=kind, roles=roles, cameras=cameras)
            return self._join(roster, member, public_key, now)

        return self._change(change)

    def renew(self, certificate: bytes) -> Admission:
        """New certificates for a member, for the key of one that is in force; with them come roles granted since.

        Args:
            certificate: PEM or DER; its owner has proved to have the key.

        Raises:
            RefusedError: it is nobody's, revoked or expired, or the member has renewed too often.
        """
        facts = read_certificate(certificate)

        def change(roster: Roster, now: datetime) -> tuple[Roster, Admission]:
            return self._issue(roster, _owner(roster, facts, now), facts.public_key, now)

        return self._change(change)

    def owner(self, certificate: bytes) -> Member:
        """The member to whom a certificate belongs.

        Args:
            certificate: PEM or DER; its owner has proved to have the key.

        Raises:
            RefusedError: it is nobody's, revoked or expired.
        """
        return _owner(self.roster(), read_certificate(certificate), self._clock.now())

    def grant(
        self,
        name: str,
        *,
        roles: Collection[str] = (),
        cameras: Collection[str] = (),
        without_roles: Collection[str] = (),
        without_cameras: Collection[str] = (),
    ) -> Member:
        """Change what a member may do; the certificates of a role that it loses are revoked.

        Raises:
            ConfigError: no such member, it was revoked, or a name or role cannot be.
        """

        def change(roster: Roster, now: datetime) -> tuple[Roster, Member]:
            member = _known(roster, name)
            if member.is_revoked:
                raise ConfigError(f"{name} was revoked: let it in again with `vigil enrol {name}`")
            left = [role for role in dict.fromkeys((*member.roles, *roles)) if role not in without_roles]
            if member.kind == "person" and roles:
                left = list(roles)
            seen = [camera for camera in dict.fromkeys((*member.cameras, *cameras)) if camera not in without_cameras]
            new_roles, new_cameras = _checked(name, member.kind, left, seen)
            member = replace(member, roles=new_roles, cameras=new_cameras)
            member = _revoked(member, now, lambda one: one.role not in member.certificate_roles)
            return roster.with_member(member), member

        return self._change(change)

    def revoke(self, name: str) -> Member:
        """Shut a member out: all its certificates, all its rights, and what it was promised.

        Raises:
            ConfigError: no such member.
        """

        def change(roster: Roster, now: datetime) -> tuple[Roster, Member]:
            promise = next((one for one in roster.invitations if one.name == name), None)
            if promise is not None and roster.member(name) is None:
                return roster.without_invitation(name), replace(_member_of(promise), roles=(), cameras=())
            member = replace(_revoked(_known(roster, name), now), roles=(), cameras=())
            return roster.with_member(member), member

        return self._change(change)

    def name_server(self, names: Iterable[str] = ()) -> tuple[str, ...]:
        """Write the broker's certificate anew, with further names.

        Returns:
            All names it has now.

        Raises:
            PermanentError: the folder cannot be written.
        """
        with _writing(self.folder), _locked(self.folder):
            known = read_certificate(self.folder.server.read_bytes()).names
            all_names = tuple(dict.fromkeys((*known, *names)))
            _write_server(self.folder, self._processes, all_names, self._clock.now())
            return all_names

    def _join(self, roster: Roster, member: Member, public_key: bytes, now: datetime) -> tuple[Roster, Admission]:
        before = roster.member(member.name)
        if before is not None:
            # Whoever joins anew has a new key; the old one may be on a lost card.
            member = replace(member, certificates=_revoked(before, now).certificates)
        return self._issue(roster, member, public_key, now)

    def _issue(self, roster: Roster, member: Member, public_key: bytes, now: datetime) -> tuple[Roster, Admission]:
        if len(member.in_force(now)) + len(member.certificate_roles) > _CERTIFICATES_MAX:
            raise RefusedError(f"{member.name} has {len(member.in_force(now))} certificates in force: enrol it anew")
        issuer = self._processes if member.kind == "node" else self._people
        issued = {
            role: issuer.sign(public_key, member.common_name(role), "client", days=MEMBER_DAYS, now=now)
            for role in member.certificate_roles
        }
        new = [Certificate(serial=one.serial, role=role, not_after=one.not_after) for role, one in issued.items()]
        member = replace(member, certificates=(*member.certificates, *new))
        admission = Admission(
            site=roster.site,
            name=member.name,
            kind=member.kind,
            ca=self._processes.pem.decode(),
            certificates={role: one.pem.decode() for role, one in issued.items()},
        )
        return roster.with_member(member), admission

    def _change(self, change: Callable[[Roster, datetime], tuple[Roster, T]]) -> T:
        with _writing(self.folder), _locked(self.folder):
            now = self._clock.now()
            roster, result = change(load_roster(self.folder), now)
            self._save(_without_expired(roster, now), now)
        return result

    def _save(self, roster: Roster, now: datetime) -> None:
        save_roster(self.folder, roster)
        for kind, issuer, path in (
            ("node", self._processes, self.folder.ca_list),
            ("person", self._people, self.folder.people_list),
        ):
            revoked = [
                (one.serial, one.revoked_at)
                for member in roster.members
                if member.kind == kind
                for one in member.certificates
                if one.revoked_at is not None
            ]
            write_atomically(path, issuer.revocations(revoked, now))
        server = read_certificate(self.folder.server.read_bytes())
        if server.not_after < now + timedelta(days=_SERVER_RENEWED_DAYS):
            _write_server(self.folder, self._processes, server.names, now)


def enrol_here(
    folder: CaFolder,
    identity: IdentityFolder,
    node: str,
    *,
    roles: Iterable[str],
    cameras: Iterable[str],
    clock: Clock | None = None,
) -> None:
    """Make the authority's own machine a node, without a token; does nothing where it is one already.

    Its cameras become these; roles that it has beside these stay.

    Raises:
        ConfigError: there is no authority here, or a name or role cannot be.
        PermanentError: the node was revoked, or a folder cannot be written.
    """
    authority = Authority(folder, clock)
    now = (clock or SystemClock()).now()
    member = authority.roster().member(node)
    if member is not None and member.is_revoked:
        raise PermanentError(f"{node} was revoked: let it in again with `vigil enrol {node}`")
    earlier = member.roles if member is not None else ()
    wanted, seen = _checked(node, "node", (*earlier, *roles), cameras)
    if member is None or not _is_installed(identity, member, wanted, now):
        key = make_key()
        identity.install(authority.admit(node, "node", wanted, seen, make_request(key)), key)
    elif set(member.cameras) != set(seen):
        lost = [camera for camera in member.cameras if camera not in seen]
        authority.grant(node, cameras=seen, without_cameras=lost)


def _is_installed(identity: IdentityFolder, member: Member, roles: Iterable[str], now: datetime) -> bool:
    """Whether there is a certificate in force for each role, with its key, and for some weeks more."""
    soon = now + timedelta(days=_HERE_DAYS)
    lasting = {one.serial for one in member.in_force(soon)}
    try:
        key = identity.key("node").read_bytes()
        found = [identity.certificate(role).read_bytes() for role in roles]
    except OSError:
        return False
    return all(key_fits(key, one) and read_certificate(one).serial in lasting for one in found)


@contextmanager
def _writing(folder: CaFolder) -> Iterator[None]:
    try:
        make_private_folder(folder.path)
        yield
    except OSError as error:
        raise PermanentError(f"{error.filename or folder.path} cannot be used: {error.strerror}") from error


def _locked(folder: CaFolder) -> AbstractContextManager[None]:
    return hold_lock(folder.lock)


def _load(folder: CaFolder, name: str, site: str) -> Issuer:
    try:
        certificate, key = (folder.path / f"{name}.crt").read_bytes(), (folder.path / f"{name}.key").read_bytes()
    except OSError as error:
        raise PermanentError(f"{error.filename} cannot be read: {error.strerror}; run this as its owner") from error
    try:
        return Issuer.load(certificate, key, site)
    except PermanentError as error:
        raise PermanentError(f"{folder.path}/{name}.crt and {name}.key: {error}; restore them from a backup") from error


def _write_server(folder: CaFolder, issuer: Issuer, names: Iterable[str], now: datetime) -> None:
    public_key = request_key(make_request(folder.server_key.read_bytes()))
    issued = issuer.sign(public_key, "vigil broker", "server", days=SERVER_DAYS, now=now, names=tuple(names))
    write_atomically(folder.server, issued.pem)


def _checked(
    name: str, kind: Kind, roles: Iterable[str], cameras: Iterable[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The roles and cameras of a member, each once."""
    seen = tuple(dict.fromkeys(cameras))
    wanted = tuple(dict.fromkeys((*roles, *(ALWAYS_ROLES if kind == "node" else ()))))
    try:
        for one in (name, *seen):
            check_name(one)
        if kind == "node":
            if name.startswith(CLIENT_ID_PREFIX):
                raise ValueError(
                    f"{name!r} begins as client ids do, so others could take its place at the broker: give the node a "
                    f"name that does not begin with {CLIENT_ID_PREFIX!r}"
                )
            for role in wanted:
                check_node_role(role)
        elif len(wanted) != 1 or wanted[0] not in PERSON_ROLES:
            raise ValueError(f"a person is one of {', '.join(PERSON_ROLES)}")
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if kind == "node":
        longest = max(wanted, key=len)
        if len(name) + 1 + len(longest) > _COMMON_NAME_MAX:
            raise ConfigError(
                f"{name}.{longest} is too long for a certificate, which takes {_COMMON_NAME_MAX} characters: "
                "give the node a shorter name"
            )
    return wanted, seen


def _check_kind(roster: Roster, name: str, kind: Kind) -> None:
    member = roster.member(name)
    if member is not None and member.kind != kind:
        raise ConfigError(f"{name} is a {member.kind} of this site: choose another name for a {kind}")


def _known(roster: Roster, name: str) -> Member:
    member = roster.member(name)
    if member is None:
        names = ", ".join(one.name for one in roster.members) or "nobody yet"
        raise ConfigError(f"there is no member {name[:80]!r}; `vigil members` lists them: {names}")
    return member


def _owner(roster: Roster, facts: CertificateFacts, now: datetime) -> Member:
    for member in roster.members:
        for known in member.in_force(now):
            if known.serial == facts.serial and member.common_name(known.role) == facts.common_name:
                return member
    raise RefusedError(f"the certificate {facts.serial} of {facts.common_name!r} is not in force")


def _member_of(promise: Invitation) -> Member:
    return Member(name=promise.name, kind=promise.kind, roles=promise.roles, cameras=promise.cameras)


def _revoked(member: Member, now: datetime, chosen: Callable[[Certificate], bool] = lambda _one: True) -> Member:
    """The member with the chosen certificates taken back."""
    certificates = [
        replace(one, revoked_at=now) if one.revoked_at is None and chosen(one) else one for one in member.certificates
    ]
    return replace(member, certificates=tuple(certificates))


def _without_expired(roster: Roster, now: datetime) -> Roster:
    """What time has settled is forgotten: a list of revoked certificates need not name those that have ended."""
    oldest = now - _REMEMBERED_AFTER
    members = tuple(
        replace(member, certificates=tuple(one for one in member.certificates if one.not_after > oldest))
        for member in roster.members
    )
    promises = tuple(one for one in roster.invitations if one.expires_at > now)
    return replace(roster, members=members, invitations=promises)


def names_of_this_machine() -> tuple[str, ...]:
    """Names and addresses by which this machine may be reached, the most useful first."""
    host = socket.gethostname()
    addresses = [
        one.address
        for interface in psutil.net_if_addrs().values()
        for one in interface
        if one.family in (socket.AF_INET, socket.AF_INET6) and "%" not in one.address
    ]
    outward = sorted(set(addresses) - {"127.0.0.1", "::1"}, key=lambda address: (":" in address, address))
    names = (host, f"{host.partition('.')[0]}.local", *outward, "localhost", "127.0.0.1", "::1")
    return tuple(dict.fromkeys(names))
