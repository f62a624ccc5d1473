"""Joining a site, on the node or a person's machine: the key is made here, and stays here."""

from __future__ import annotations

from broker.certs import key_fits, make_key, make_request, read_certificate
from broker.identity import Admission, IdentityFolder
from broker.members import PERSON_CERTIFICATE
from broker.topics import origin_of
from config.errors import PermanentError
from config.files import write_atomically
from fleet.enrolment.client import AuthorityAddress, join
from fleet.enrolment.token import JoinToken

__all__ = ["install_checked", "join_as"]


def join_as(identity: IdentityFolder, address: AuthorityAddress, token: JoinToken, name: str) -> Admission:
    """Join with a token, and put the certificates in place.

    Args:
        identity: where they go; what another kind of member has there stays.
        address: where the authority answers.
        token: from `vigil enrol`.
        name: as who; the token's.

    Raises:
        TransientError: nobody answers there.
        PermanentError: it refuses, is another authority, or the folder cannot be written.
    """
    identity.check_writable()
    key = make_key()
    admission = join(address, token, name, make_request(key))
    install_checked(identity, admission, key, name)
    write_atomically(identity.authority, str(address))
    return admission


def install_checked(identity: IdentityFolder, admission: Admission, key: bytes, name: str) -> None:
    """Look whether an answer is for us before it takes the place of what is here.

    Raises:
        PermanentError: it is not, or the folder cannot be written.
    """
    if admission.name != name or not admission.certificates:
        raise PermanentError(f"the answer is for {admission.name!r}, not for {name!r}")
    for role, certificate in admission.certificates.items():
        wanted = name if role == PERSON_CERTIFICATE else origin_of(name, role)
        content = certificate.encode()
        if read_certificate(content).common_name != wanted or not key_fits(key, content):
            raise PermanentError(f"the certificate for {role!r} is not for {wanted} with this machine's key")
    identity.install(admission, key)
