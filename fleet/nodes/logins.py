"""The logins of a node's own cameras: fetched from the authority's door, for they never go over the bus."""

from __future__ import annotations

from pydantic import TypeAdapter, ValidationError

from broker.identity import IdentityFolder
from broker.members import PERSON_CERTIFICATE
from config.errors import ConfigError, PermanentError
from config.registry import Login
from fleet.enrolment.client import AuthorityAddress, fetch
from fleet.enrolment.wire import LOGINS_PATH

__all__ = ["fetch_logins"]

_LOGINS: TypeAdapter[dict[str, Login]] = TypeAdapter(dict[str, Login])


def fetch_logins(identity: IdentityFolder, address: AuthorityAddress | None = None) -> dict[str, Login]:
    """The logins of this node's cameras, by camera, as the site's registry has them now.

    Args:
        identity: this machine's certificates.
        address: where the authority answers; default where this machine has joined.

    Raises:
        ConfigError: this machine has not joined a site as a node.
        TransientError: nobody answers there; those that were fetched before still hold.
        PermanentError: it refuses, for this node was shut out, or it is no authority of this site.
    """
    roles = [role for role in identity.roles() if role != PERSON_CERTIFICATE]
    credentials = identity.credentials("agent" if "agent" in roles else roles[0]) if roles else None
    if credentials is None:
        raise ConfigError(f"there is no node's certificate in {identity.path}: `vigil join` with a token")
    content = fetch(address or AuthorityAddress.of(identity), identity.ca.read_bytes(), credentials, LOGINS_PATH)
    try:
        return _LOGINS.validate_json(content)
    except ValidationError:
        # What is wrong is not said: it would repeat a password.
        raise PermanentError("the authority's logins cannot be read: is its Vigil of another version?") from None
