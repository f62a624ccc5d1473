"""Certificates, with the openssl command as an independent judge."""

from __future__ import annotations

import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509 import CertificateSigningRequestBuilder, DNSName, Name, NameAttribute, SubjectAlternativeName
from cryptography.x509.oid import NameOID

from broker.certs import (
    Issuer,
    expires_at,
    fingerprint,
    key_fits,
    make_issuer,
    make_key,
    make_request,
    read_certificate,
    request_key,
)
from config.errors import BadPayloadError, PermanentError

NOW = datetime.now(UTC)
needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl: sudo apt-get install openssl")


def openssl(*arguments: str | Path) -> tuple[int, str]:
    """Exit status and all that it says."""
    run = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True, check=False, timeout=30)
    return run.returncode, run.stdout + run.stderr


@pytest.fixture
def issuer() -> Issuer:
    return make_issuer("Vigil home processes", "home", NOW)


def issue(issuer: Issuer, key: bytes, name: str = "porch.edge", days: int = 30) -> bytes:
    return issuer.sign(request_key(make_request(key)), name, "client", days=days, now=NOW).pem


@needs_openssl
def test_openssl_takes_a_client_as_a_client_and_not_as_a_server(issuer: Issuer, tmp_path: Path) -> None:
    ca, client, server = tmp_path / "ca.crt", tmp_path / "client.crt", tmp_path / "server.crt"
    ca.write_bytes(issuer.pem)
    client.write_bytes(issue(issuer, make_key()))
    public_key = request_key(make_request(make_key()))
    server.write_bytes(
        issuer.sign(public_key, "vigil broker", "server", days=9, now=NOW, names=("hub.local", "10.0.0.2", "::1")).pem
    )
    strict = ("verify", "-x509_strict", "-CAfile", ca)
    assert openssl(*strict, "-purpose", "sslclient", client)[0] == 0
    assert openssl(*strict, "-purpose", "sslserver", client)[0] != 0
    assert openssl(*strict, "-purpose", "sslserver", "-verify_hostname", "hub.local", server)[0] == 0
    assert openssl(*strict, "-purpose", "sslserver", "-verify_ip", "10.0.0.2", server)[0] == 0
    assert openssl(*strict, "-purpose", "sslserver", "-verify_hostname", "other.local", server)[0] != 0
    assert openssl(*strict, "-purpose", "sslclient", server)[0] != 0


@needs_openssl
def test_openssl_sees_the_profile_of_rfc_5280(issuer: Issuer, tmp_path: Path) -> None:
    ca, client = tmp_path / "ca.crt", tmp_path / "client.crt"
    ca.write_bytes(issuer.pem)
    client.write_bytes(issue(issuer, make_key()))
    _, authority = openssl("x509", "-in", ca, "-noout", "-text")
    _, leaf = openssl("x509", "-in", client, "-noout", "-text")
    for words in ("CA:TRUE, pathlen:0", "Certificate Sign, CRL Sign", "Subject Key Identifier", "prime256v1"):
        assert words in authority
    for words in ("CA:FALSE", "Digital Signature", "Web Client Authentication", "Authority Key Identifier"):
        assert words in leaf
    assert "CN = porch.edge" in leaf
    assert "Certificate Sign" not in leaf


@needs_openssl
def test_a_member_cannot_sign_for_another(issuer: Issuer, tmp_path: Path) -> None:
    stolen_key = make_key()
    stolen = issue(issuer, stolen_key)
    forged = issue(Issuer.load(stolen, stolen_key, "home"), make_key(), "gate.edge")
    ca, chain, leaf = tmp_path / "ca.crt", tmp_path / "chain.crt", tmp_path / "forged.crt"
    ca.write_bytes(issuer.pem)
    chain.write_bytes(stolen)
    leaf.write_bytes(forged)
    assert openssl("verify", "-CAfile", ca, "-untrusted", chain, leaf)[0] != 0


@needs_openssl
def test_openssl_honours_the_list_of_what_is_taken_back(issuer: Issuer, tmp_path: Path) -> None:
    ca, good, bad, revoked = (tmp_path / name for name in ("ca.crt", "good.crt", "bad.crt", "ca.crl"))
    ca.write_bytes(issuer.pem)
    good.write_bytes(issue(issuer, make_key()))
    bad.write_bytes(issue(issuer, make_key()))
    revoked.write_bytes(issuer.revocations([(read_certificate(bad.read_bytes()).serial, NOW)], NOW))
    check = ("verify", "-crl_check", "-CAfile", ca, "-CRLfile", revoked)
    assert openssl(*check, good)[0] == 0
    status, said = openssl(*check, bad)
    assert status != 0
    assert "certificate revoked" in said
    assert openssl("crl", "-in", revoked, "-CAfile", ca, "-noout")[1].strip() == "verify OK"


@needs_openssl
def test_a_list_and_a_certificate_hold_for_a_clock_that_is_hours_behind_and_a_list_for_years(
    issuer: Issuer, tmp_path: Path
) -> None:
    ca, leaf, revoked = tmp_path / "ca.crt", tmp_path / "leaf.crt", tmp_path / "ca.crl"
    ca.write_bytes(issuer.pem)
    leaf.write_bytes(issue(issuer, make_key(), days=9 * 365))
    revoked.write_bytes(issuer.revocations([], NOW))
    for moment in (NOW - timedelta(hours=23), NOW + timedelta(days=8 * 365)):
        at = ("-attime", str(int(moment.timestamp())))
        status, said = openssl("verify", "-crl_check", *at, "-CAfile", ca, "-CRLfile", revoked, leaf)
        assert status == 0, said


def test_nothing_but_the_key_is_taken_from_a_request(issuer: Issuer) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    greedy = (
        CertificateSigningRequestBuilder()
        .subject_name(Name([NameAttribute(NameOID.COMMON_NAME, "hub.fleet")]))
        .add_extension(SubjectAlternativeName([DNSName("hub.local")]), critical=False)
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )
    facts = read_certificate(issuer.sign(request_key(greedy), "porch.edge", "client", days=1, now=NOW).pem)
    assert (facts.common_name, facts.names) == ("porch.edge", ())


def test_a_request_must_be_signed_by_its_key_and_of_our_kind() -> None:
    request = make_request(make_key())
    middle = len(request) - 60
    broken = request[:middle] + bytes([request[middle] ^ 1]) + request[middle + 1 :]
    rsa_key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    other = CertificateSigningRequestBuilder().subject_name(Name([])).sign(rsa_key, hashes.SHA256())
    for bad in (broken, b"", b"garbage", make_key(), other.public_bytes(serialization.Encoding.PEM)):
        with pytest.raises(BadPayloadError):
            request_key(bad)


def test_a_certificate_ends_with_its_authority_at_the_latest(issuer: Issuer) -> None:
    end = read_certificate(issuer.pem).not_after
    assert read_certificate(issue(issuer, make_key(), days=100 * 365)).not_after == end


def test_a_key_fits_its_own_certificate_only(issuer: Issuer) -> None:
    key = make_key()
    assert key_fits(key, issue(issuer, key))
    assert not key_fits(make_key(), issue(issuer, key))


def test_two_authorities_of_one_name_are_told_apart(issuer: Issuer) -> None:
    assert fingerprint(issuer.pem) != fingerprint(make_issuer("Vigil home processes", "home", NOW).pem)
    with pytest.raises(PermanentError, match="do not belong together"):
        Issuer.load(issuer.pem, make_key(), "home")


def test_when_a_file_ends(issuer: Issuer, tmp_path: Path) -> None:
    path = tmp_path / "edge.crt"
    path.write_bytes(issue(issuer, make_key(), days=30))
    assert abs(expires_at(path) - NOW - timedelta(days=30)) < timedelta(seconds=2)
    path.write_bytes(b"garbage")
    with pytest.raises(PermanentError, match=r"edge\.crt holds no certificate"):
        expires_at(path)
    with pytest.raises(PermanentError, match=r"other\.crt cannot be read"):
        expires_at(tmp_path / "other.crt")
