"""Making the mesh of one machine secure: its authority, its processes' certificates, and one for whoever sits there."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from broker.acl import NODE_ROLES
from broker.authority import Authority, enrol_here, names_of_this_machine
from broker.certs import make_key, make_request, read_certificate
from broker.identity import IdentityFolder, identity_folder
from broker.members import CaFolder, ca_folder
from broker.tls import EXPIRES_SOON_DAYS
from config import ConfigError
from console.compose import Plan, reachable

__all__ = ["OPERATOR", "enrol_machine"]

OPERATOR = "operator"
"""The person on the authority's own machine, for `vigil watch` and plain tools there."""
_ROLES = ("edge", "detector", "bridge", "fleet", "console", "up", "drill")


def enrol_machine(plan: Plan) -> tuple[str, ...]:
    """Let the processes of a plan in, and the person who starts them; make the authority where there is none.

    Does nothing to what is there and still holds.

    Returns:
        What a person should know.

    Raises:
        ConfigError: the authority is another site's, or a name cannot be a member's.
        PermanentError: this machine was revoked, or a folder cannot be written.
    """
    settings = plan.settings
    folder, identity = ca_folder(settings), identity_folder(settings)
    notices: tuple[str, ...] = ()
    if not folder.exists:
        Authority.create(folder, settings.site, names_of_this_machine())
        notices = (f"made a certificate authority in {folder.path}: whoever can read it can let anybody in",)
    authority = Authority(folder)
    if authority.site != settings.site:
        raise ConfigError(f"the authority in {folder.path} is of site {authority.site!r}", field="site")
    _name_broker(authority, folder, reachable(settings.broker.host).strip("[]"))
    asked_for = (role.name for role in plan.roles if role.name in NODE_ROLES)
    roles = tuple(dict.fromkeys((*_ROLES, *asked_for)))
    enrol_here(folder, identity, settings.node, roles=roles, cameras=list(settings.cameras))
    if _needs_person(identity):
        key = make_key()
        identity.install(authority.admit(OPERATOR, "person", ["dashboard"], (), make_request(key)), key)
    return notices


def _needs_person(identity: IdentityFolder) -> bool:
    """Somebody else who has joined on this machine is not our business."""
    try:
        found = read_certificate(identity.certificate("person").read_bytes())
    except FileNotFoundError:
        return True
    left = found.not_after - datetime.now(UTC)
    return found.common_name == OPERATOR and left < timedelta(days=EXPIRES_SOON_DAYS)


def _name_broker(authority: Authority, folder: CaFolder, host: str) -> None:
    """Roles reach the broker by this name or address, so it must stand in its certificate."""
    if host not in read_certificate(folder.server.read_bytes()).names:
        authority.name_server([host])
