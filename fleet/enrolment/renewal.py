"""New certificates for a machine that has some."""

from __future__ import annotations

from datetime import datetime

from broker.certs import expires_at
from broker.identity import Admission, IdentityFolder
from broker.members import PERSON_CERTIFICATE
from config.errors import PermanentError
from fleet.enrolment.client import AuthorityAddress, renew

__all__ = ["days_left", "renew_identity"]


def days_left(identity: IdentityFolder, now: datetime) -> int:
    """Whole days until the first of this machine's certificates ends; it has one at least."""
    return min((expires_at(identity.certificate(role)) - now).days for role in identity.roles())


def renew_identity(identity: IdentityFolder, place: AuthorityAddress) -> list[Admission]:
    """Get new certificates for everybody who has some here, and put them in place; with them roles granted since.

    Args:
        identity: this machine's.
        place: where the authority answers.

    Raises:
        TransientError: nobody answers there.
        PermanentError: it refuses, or a key is missing here.
    """
    admissions = []
    for kind in identity.kinds():
        roles = [role for role in identity.roles() if (role == PERSON_CERTIFICATE) == (kind == "person")]
        credentials = identity.credentials(_latest(identity, roles))
        if credentials is None:
            raise PermanentError(f"{identity.key(kind)} is missing: join again with a new token of `vigil enrol`")
        admission = renew(place, identity.ca.read_bytes(), credentials)
        identity.renew(admission)
        admissions.append(admission)
    return admissions


def _latest(identity: IdentityFolder, roles: list[str]) -> str:
    """The role whose certificate ends last: one of an early end may be over."""
    ends: dict[str, datetime] = {role: expires_at(identity.certificate(role)) for role in roles}
    return max(ends, key=lambda role: ends[role])
