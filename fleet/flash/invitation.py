"""The token on a card: made here where the site's authority is, else brought by whoever writes the card."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from broker.authority import Authority
from broker.certs import read_certificate
from broker.members import CaFolder, ca_folder
from config.errors import ConfigError
from config.settings import Settings
from fleet.enrolment.client import AuthorityAddress
from fleet.enrolment.membership import reachable_name
from fleet.enrolment.server import announced_port
from fleet.enrolment.token import JoinToken
from fleet.enrolment.wire import DEFAULT_PORT

__all__ = ["Inviter", "find_inviter"]

_TOKEN_VARIABLE = "VIGIL_TOKEN"  # noqa: S105 - the variable's name
_TOKEN_CHARACTERS_MAX = 256


@dataclass(frozen=True, slots=True)
class Inviter:
    """Who lets the node in.

    Attributes:
        site: the site's name.
        address: where the node enrols.
        broker: where its bus is.
        authority: on this machine; None: elsewhere.
        brought: the token of an authority elsewhere.
        valid_s: seconds that a token from here holds.
    """

    site: str
    address: str
    broker: str
    authority: Authority | None
    brought: JoinToken | None
    valid_s: float

    @property
    def is_open(self) -> bool:
        """Whether nodes can enrol right now, as far as this machine can tell."""
        return self.authority is None or announced_port(self.authority.folder) is not None

    @property
    def certificate(self) -> bytes | None:
        """Of the authority, PEM, where it is on this machine."""
        return self.authority.folder.ca.read_bytes() if self.authority is not None else None

    @contextmanager
    def token(self, node: str, roles: Sequence[str], cameras: Sequence[str]) -> Iterator[str]:
        """The token of a node; where it was made here and the card was not, it is taken back.

        Raises:
            ConfigError: a name or role cannot be, or the name is a person's.
        """
        if self.authority is None:
            yield self.brought.text() if self.brought is not None else ""
            return
        secret = self.authority.invite(node, "node", roles, cameras, valid_s=self.valid_s)
        with ExitStack() as unfinished:
            unfinished.callback(self.authority.withdraw, node)
            yield JoinToken.of(secret, self.authority.folder.ca.read_bytes()).text()
            unfinished.pop_all()


def find_inviter(
    settings: Settings,
    *,
    site: str | None,
    address: str | None,
    broker: str | None,
    token_file: Path | None,
    valid_s: float,
    environment: Mapping[str, str] = os.environ,
) -> Inviter:
    """Find out who lets the node in.

    Args:
        settings: of this machine.
        site: the site's name; default the authority's, or this machine's.
        address: of the authority; default this machine's own.
        broker: URL; default the secure port of the authority's machine.
        token_file: a file with a token; default the variable VIGIL_TOKEN; without either it is made here.
        valid_s: how long one that is made here holds.
        environment: where the variable is.

    Raises:
        ConfigError: nobody can, and how that is cured.
    """
    brought = _brought(token_file, environment)
    folder = ca_folder(settings)
    if brought is None and folder.exists:
        _check_owner(folder)
    authority = Authority(folder) if brought is None and folder.exists else None
    if authority is None and brought is None:
        raise ConfigError(
            f"a node needs a token, and the site's authority is not on this machine ({folder.path}): run this there, "
            "or give one of `vigil enrol NODE` with --token-file or VIGIL_TOKEN",
            field="--token-file",
        )
    if authority is not None:
        own = reachable_name(read_certificate(folder.server.read_bytes()).names)
        reached = AuthorityAddress.read(address or str(AuthorityAddress(own, announced_port(folder) or DEFAULT_PORT)))
        named = authority.site
    elif address is None:
        raise ConfigError("say where the authority of the token is: --authority HOST", field="--authority")
    else:
        reached, named = AuthorityAddress.read(address), settings.site
    if authority is not None and site not in {None, named}:
        raise ConfigError(f"the authority on this machine is that of the site {named!r}, not {site!r}", field="--site")
    host = f"[{reached.host}]" if ":" in reached.host else reached.host
    return Inviter(
        site=site or named,
        address=str(reached),
        broker=broker or f"mqtts://{host}:{settings.broker.secure_port}",
        authority=authority,
        brought=brought,
        valid_s=valid_s,
    )


def _check_owner(folder: CaFolder) -> None:
    """Root would leave files there that their owner cannot read.

    Raises:
        ConfigError: the authority is another's.
    """
    owner = folder.path.stat().st_uid
    if os.geteuid() == 0 and owner != 0:
        raise ConfigError(
            f"the site's authority in {folder.path} belongs to another user (number {owner}): as that one, write a "
            "file with --out, and that onto the disk with `sudo vigil flash --image FILE --as-is --device PATH`",
            field="--device",
        )


def _brought(token_file: Path | None, environment: Mapping[str, str]) -> JoinToken | None:
    if token_file is None:
        text = environment.get(_TOKEN_VARIABLE, "").strip()
        return JoinToken.read(text) if text else None
    try:
        with token_file.open() as file:
            return JoinToken.read(file.read(_TOKEN_CHARACTERS_MAX).strip())
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "no text"
        raise ConfigError(f"{token_file} cannot be read: {why}", field="--token-file") from error
