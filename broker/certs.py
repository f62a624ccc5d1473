"""Keys, certificates and revocation lists, as bytes in and out. The only file that imports cryptography.

Elliptic-curve keys (P-256) and SHA-256 throughout: what every TLS 1.2 library takes, and small for a camera node.
What a certificate grants is decided by who calls :meth:`Issuer.sign`; nothing but the public key is taken from a
request.

Source: RFC 5280 for the profile of certificates and lists.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from config.errors import BadPayloadError, PermanentError

__all__ = [
    "CertificateFacts",
    "Issued",
    "Issuer",
    "Purpose",
    "expires_at",
    "fingerprint",
    "is_signed_by",
    "key_fits",
    "make_issuer",
    "make_key",
    "make_request",
    "read_certificate",
    "request_key",
]

Purpose = Literal["client", "server"]

AUTHORITY_DAYS = 20 * 365
"""A new authority means a visit to every node, so it outlives the hardware."""
_BACKDATED = timedelta(days=1)
"""A node without a battery for its clock is behind after a power cut, until the network tells it the time."""
_LIST_DAYS = 10 * 365
"""A broker with an overdue list refuses everybody, and a list is written anew at each change: overdue helps no one."""
_USAGES = {"client": ExtendedKeyUsageOID.CLIENT_AUTH, "server": ExtendedKeyUsageOID.SERVER_AUTH}


@dataclass(frozen=True, slots=True)
class Issued:
    """A new certificate.

    Attributes:
        pem: the certificate.
        serial: lower-case hexadecimal.
        not_after: when it ends.
    """

    pem: bytes
    serial: str
    not_after: datetime


@dataclass(frozen=True, slots=True)
class CertificateFacts:
    """What stands in a certificate.

    Attributes:
        common_name: the user name at the broker.
        serial: lower-case hexadecimal.
        not_after: when it ends.
        public_key: DER, SubjectPublicKeyInfo.
        names: host names and addresses of a server's.
    """

    common_name: str
    serial: str
    not_after: datetime
    public_key: bytes
    names: tuple[str, ...]


def make_key() -> bytes:
    """A new private key: PEM, PKCS #8, not encrypted."""
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def make_request(key: bytes) -> bytes:
    """A certificate request (PEM) that proves that its sender has this private key, and asks for nothing.

    Raises:
        PermanentError: `key` is no private key of ours.
    """
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(_private_key(key), hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def request_key(request: bytes) -> bytes:
    """The public key of a request (PEM), as DER; everything else in it is ignored.

    Raises:
        BadPayloadError: it is no request, not signed by its key, or of another kind of key.
    """
    try:
        csr = x509.load_pem_x509_csr(request)
        key = csr.public_key()
        is_signed = csr.is_signature_valid
    except (ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature) as error:
        raise BadPayloadError("not a certificate request (PEM)", size_bytes=len(request)) from error
    if not is_signed:
        raise BadPayloadError("the certificate request is not signed by its key", size_bytes=len(request))
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise BadPayloadError("the key of a certificate request must be on the curve P-256", size_bytes=len(request))
    return _der(key)


def key_fits(key: bytes, certificate: bytes) -> bool:
    """Whether a private key (PEM) is the one of a certificate (PEM).

    Raises:
        PermanentError: one of them cannot be read.
    """
    return _der(_private_key(key).public_key()) == read_certificate(certificate).public_key


def fingerprint(certificate: bytes) -> bytes:
    """SHA-256 of a certificate (PEM).

    Raises:
        PermanentError: it is none.
    """
    return _certificate(certificate).fingerprint(hashes.SHA256())


def is_signed_by(certificate: bytes, content: bytes, signature: bytes) -> bool:
    """Whether the holder of this certificate (PEM) has signed the content, as `Issuer.sign_content` does.

    Raises:
        PermanentError: that is no certificate of ours.
    """
    key = _public_key(read_certificate(certificate).public_key)
    try:
        key.verify(signature, content, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True


def read_certificate(certificate: bytes) -> CertificateFacts:
    """What stands in a certificate (PEM or DER).

    Raises:
        PermanentError: it is none.
    """
    found = _certificate(certificate)
    names = found.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return CertificateFacts(
        common_name=str(names[0].value) if names else "",
        serial=f"{found.serial_number:x}",
        not_after=found.not_valid_after_utc,
        public_key=found.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        ),
        names=_alternative_names(found),
    )


def expires_at(path: Path) -> datetime:
    """When the certificate in a file ends.

    Raises:
        PermanentError: the file cannot be read, or holds no certificate.
    """
    try:
        return read_certificate(path.read_bytes()).not_after
    except OSError as error:
        raise PermanentError(f"{path} cannot be read: {error.strerror}") from error
    except PermanentError as error:
        raise PermanentError(f"{path} holds no certificate; `vigil renew` or `vigil join` writes it anew") from error


def make_issuer(common_name: str, site: str, now: datetime) -> Issuer:
    """A new authority with a key of its own."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(common_name, site)
    builder = _builder(name, name, key.public_key(), now, now + timedelta(days=AUTHORITY_DAYS))
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_key_usage(authority=True), critical=True)
    return Issuer(builder.sign(key, hashes.SHA256()), key, site)


class Issuer:
    """An authority: it signs what its caller has decided.

    Args:
        certificate: its own.
        key: its private key.
        site: stands in every certificate as the organization.
    """

    def __init__(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey, site: str) -> None:
        self._certificate = certificate
        self._key = key
        self._site = site

    @classmethod
    def load(cls, certificate: bytes, key: bytes, site: str) -> Issuer:
        """From PEM.

        Raises:
            PermanentError: one of them cannot be read, or they do not belong together.
        """
        if not key_fits(key, certificate):
            raise PermanentError("the certificate and the key of an authority do not belong together")
        return cls(_certificate(certificate), _private_key(key), site)

    @property
    def pem(self) -> bytes:
        """Its certificate."""
        return self._certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        """Its private key; for its file only."""
        return self._key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    def sign(
        self,
        public_key: bytes,
        common_name: str,
        purpose: Purpose,
        *,
        days: int,
        now: datetime,
        names: Collection[str] = (),
    ) -> Issued:
        """A certificate for somebody else's key.

        Args:
            public_key: DER, SubjectPublicKeyInfo.
            common_name: the user name at the broker.
            purpose: a client's certificate never serves as a server's, and the other way round.
            days: how long it holds, at most as long as the authority.
            now: the time.
            names: host names and addresses of a server.

        Raises:
            PermanentError: it is no key of ours.
        """
        key = _public_key(public_key)
        not_after = min(now + timedelta(days=days), self._certificate.not_valid_after_utc)
        builder = _builder(_name(common_name, self._site), self._certificate.subject, key, now, not_after)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(_key_usage(authority=False), critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage([_USAGES[purpose]]), critical=False)
        builder = builder.add_extension(self._authority_key(), critical=False)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(map(_general_name, names)), critical=False)
        signed = builder.sign(self._key, hashes.SHA256())
        return Issued(
            signed.public_bytes(serialization.Encoding.PEM),
            f"{signed.serial_number:x}",
            signed.not_valid_after_utc,
        )

    def sign_content(self, content: bytes) -> bytes:
        """A signature (ECDSA with SHA-256, DER) by which anybody with its certificate knows that it stands for this."""
        return self._key.sign(content, ec.ECDSA(hashes.SHA256()))

    def revocations(self, revoked: Iterable[tuple[str, datetime]], now: datetime) -> bytes:
        """The list (PEM) of what this authority has taken back.

        Args:
            revoked: serial and moment of each.
            now: the time.
        """
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self._certificate.subject)
            .last_update(now - _BACKDATED)
            .next_update(now + timedelta(days=_LIST_DAYS))
            .add_extension(self._authority_key(), critical=False)
            .add_extension(x509.CRLNumber(int(now.timestamp() * 1_000)), critical=False)
        )
        for serial, moment in revoked:
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder().serial_number(int(serial, 16)).revocation_date(moment).build()
            )
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def _authority_key(self) -> x509.AuthorityKeyIdentifier:
        own = self._certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
        return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own.value)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    now: datetime,
    not_after: datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(not_after)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _key_usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common_name: str, site: str) -> x509.Name:
    return x509.Name(
        [x509.NameAttribute(NameOID.COMMON_NAME, common_name), x509.NameAttribute(NameOID.ORGANIZATION_NAME, site)]
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _alternative_names(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    return tuple(str(name.value) for name in names)


def _certificate(content: bytes) -> x509.Certificate:
    try:
        if content.lstrip().startswith(b"-----"):
            return x509.load_pem_x509_certificate(content)
        return x509.load_der_x509_certificate(content)
    except ValueError as error:
        raise PermanentError("not a certificate") from error


def _private_key(content: bytes) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(content, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise PermanentError("not a private key (PEM)") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise PermanentError("a private key must be on the curve P-256")
    return key


def _public_key(der: bytes) -> ec.EllipticCurvePublicKey:
    try:
        key = serialization.load_der_public_key(der)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise PermanentError("not a public key (DER)") from error
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise PermanentError("a public key must be on the curve P-256")
    return key


def _der(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
