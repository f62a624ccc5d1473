"""Doors of a Kafka that ask who comes, beside the plain one: TLS, SASL, and rights by user."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from broker.certs import Issuer, make_issuer, make_key, make_request, request_key
from tests.support.ports import free_port

__all__ = ["Security"]

_DOORS = ("SSL", "SASL_PLAINTEXT", "SASL_SSL")
_LOGINS = "org.apache.kafka.common.security"
_MECHANISMS = {
    "PLAIN": '{logins}.plain.PlainLoginModule required user_{user}="{password}";',
    "SCRAM-SHA-256": "{logins}.scram.ScramLoginModule required;",
    "SCRAM-SHA-512": "{logins}.scram.ScramLoginModule required;",
    # Without a validator of its own it takes tokens that nobody signed: what a test's server hands out.
    "OAUTHBEARER": '{logins}.oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="kafka";',
}
_SHARED = """\
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS
allow.everyone.if.no.acl.found=true
ssl.keystore.type=PEM
ssl.keystore.location={folder}/server.pem
ssl.truststore.type=PEM
ssl.truststore.location={folder}/ca.crt
ssl.principal.mapping.rules=RULE:^.*CN=([^,]+).*$/$1/
listener.name.ssl.ssl.client.auth=required
"""


class Security:
    """One more door for each way in. Who comes through the plain one may do everything.

    There is one user, `user` with `password`, for PLAIN and SCRAM; a client's certificate (`certificate`, `key`) names
    the same one, and so does the token of whoever hands out tokens. A topic is everybody's until it has a rule; then
    it is only those users' whom a rule lets in.

    Args:
        folder: where the certificates go.
    """

    user = "vigil"
    password = "s3cret with = and +"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ports = {door: free_port() for door in _DOORS}
        self._issuer = make_issuer("Kafka's own", "tests", datetime.now(UTC))
        self.ca_file = folder / "ca.crt"
        self.certificate = folder / "client.crt"
        self.key = folder / "client.key"
        self._write()

    def bootstrap(self, protocol: str) -> str:
        """The door of a `bridge.kafka.security.protocol`."""
        return f"127.0.0.1:{self._ports[protocol.upper()]}"

    def scram(self) -> Iterator[str]:
        """Arguments of the storage tool that make the user known."""
        for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-512"):
            yield from ("--add-scram", f'{mechanism}=[name={self.user},password="{self.password}"]')

    def listeners(self) -> str:
        """What follows the plain listener's address in the server's list of listeners."""
        return "".join(f",{door}://127.0.0.1:{port}" for door, port in self._ports.items())

    def protocols(self) -> str:
        """The same for the list of protocols."""
        return "".join(f",{door}:{door}" for door in _DOORS)

    def properties(self) -> str:
        """The server's other settings."""
        lines = [_SHARED.format(folder=self._folder)]
        for door in ("sasl_plaintext", "sasl_ssl"):
            prefix = f"listener.name.{door}"
            lines.append(f"{prefix}.sasl.enabled.mechanisms={','.join(_MECHANISMS)}")
            for mechanism, login in _MECHANISMS.items():
                config = login.format(logins=_LOGINS, user=self.user, password=self.password)
                lines.append(f"{prefix}.{mechanism.lower()}.sasl.jaas.config={config}")
        return "\n".join(lines) + "\n"

    def stranger(self) -> tuple[Path, Path]:
        """Certificate and key that another authority has signed."""
        other = make_issuer("Somebody else's", "tests", datetime.now(UTC))
        return self._sign(other, "stranger")

    def _write(self) -> None:
        self.ca_file.write_bytes(self._issuer.pem)
        self._sign(self._issuer, "client", self.user)
        key = make_key()
        server = self._issuer.sign(
            request_key(make_request(key)),
            "kafka",
            "server",
            days=30,
            now=datetime.now(UTC),
            names=("127.0.0.1", "localhost"),
        )
        (self._folder / "server.pem").write_bytes(key + server.pem + self._issuer.pem)

    def _sign(self, issuer: Issuer, file: str, name: str = "") -> tuple[Path, Path]:
        key = make_key()
        issued = issuer.sign(request_key(make_request(key)), name or file, "client", days=30, now=datetime.now(UTC))
        certificate_file, key_file = self._folder / f"{file}.crt", self._folder / f"{file}.key"
        certificate_file.write_bytes(issued.pem)
        key_file.write_bytes(key)
        return certificate_file, key_file
