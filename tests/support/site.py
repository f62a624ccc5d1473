"""A site with an authority, members, and brokers that let only them in."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from broker.authority import Authority
from broker.certs import Issuer, make_key, make_request, request_key
from broker.identity import IdentityFolder
from broker.members import CaFolder
from tests.support.ports import free_port
from tests.support.server import ServerProcess, start_on_free_port
from tests.support.waiting import wait_until

__all__ = ["Engine", "SecureBroker", "Site", "Subscriber", "days_ago", "publish", "tls_options"]

Engine = Literal["mosquitto", "embedded"]


class Site:
    """An authority in a folder, and the identities of its members beside it.

    Args:
        folder: an empty folder; its ``state`` is the state folder of the machine with the authority.
        names: of the broker.
    """

    def __init__(self, folder: Path, names: Sequence[str] = ("127.0.0.1", "localhost")) -> None:
        self.folder = folder
        self.state = folder / "state"
        self.authority = Authority.create(CaFolder(self.state / "ca"), "home", names)

    def node(self, name: str, *roles: str, cameras: Sequence[str] = ()) -> IdentityFolder:
        """Let a node in."""
        key = make_key()
        identity = IdentityFolder(self.folder / name)
        identity.install(self.authority.admit(name, "node", roles, cameras, make_request(key)), key)
        return identity

    def person(self, name: str, role: str) -> IdentityFolder:
        """Let a person in."""
        key = make_key()
        identity = IdentityFolder(self.folder / name)
        identity.install(self.authority.admit(name, "person", [role], (), make_request(key)), key)
        return identity

    def forged(self, common_name: str, role: str, *, issued: datetime, days: int) -> IdentityFolder:
        """A certificate of the site's own authority with other dates than it would give."""
        return self._with_certificate(CaFolder(self.state / "ca"), common_name, role, issued=issued, days=days)

    def foreign(self, common_name: str, role: str) -> IdentityFolder:
        """A certificate of another authority that calls itself the same."""
        ca = CaFolder(self.folder / "foreign" / "ca")
        if not ca.exists:
            Authority.create(ca, "home", ["127.0.0.1"])
        return self._with_certificate(ca, common_name, role, issued=datetime.now(UTC), days=10)

    def _with_certificate(
        self, ca: CaFolder, common_name: str, role: str, *, issued: datetime, days: int
    ) -> IdentityFolder:
        issuer = Issuer.load(ca.ca.read_bytes(), ca.ca_key.read_bytes(), "home")
        key = make_key()
        made = issuer.sign(request_key(make_request(key)), common_name, "client", days=days, now=issued)
        identity = IdentityFolder(self.folder / f"{common_name}-{issued:%Y%m%d%H%M%S%f}-{ca.path.parent.name}")
        identity.path.mkdir()
        identity.ca.write_bytes(self.authority.folder.ca.read_bytes())
        identity.certificate(role).write_bytes(made.pem)
        identity.key("node").write_bytes(key)
        identity.key("node").chmod(0o600)
        return identity


def days_ago(days: float) -> datetime:
    """A moment in the past."""
    return datetime.now(UTC) - timedelta(days=days)


class SecureBroker:
    """`vigil broker run --secure` on free ports of loopback.

    Args:
        site: whose members it lets in.
        engine: which broker.
    """

    host = "127.0.0.1"

    def __init__(self, site: Site, engine: Engine) -> None:
        self.engine = engine
        self.port = 0
        self.people_port = 0
        self._site = site
        self._server: ServerProcess | None = None

    @property
    def url(self) -> str:
        """For processes."""
        return f"mqtts://{self.host}:{self.port}"

    @property
    def people_url(self) -> str:
        """For people."""
        return f"mqtts://{self.host}:{self.people_port}"

    @property
    def pid(self) -> int:
        """Of the supervising process."""
        assert self._server is not None
        return self._server.pid

    def said(self) -> str:
        """Its log."""
        assert self._server is not None
        return self._server.said()

    def __enter__(self) -> Self:
        """Start it."""
        self._server, self.port = start_on_free_port(self._on_port)
        return self

    def _on_port(self, port: int) -> ServerProcess:
        self.people_port = free_port()
        command = [sys.executable, "-m", "console", "--log-format", "json", "--state", str(self._site.state)]
        command += ["broker", "run", "--secure", "--engine", self.engine]
        command += ["--secure-port", str(port), "--people-port", str(self.people_port)]
        log = self._site.folder / f"{self.engine}.log"
        return ServerProcess(command, log=log, ready="broker.listening", start_timeout_s=30)

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """End it."""
        if self._server is not None:
            self._server.stop()


def tls_options(port: int, identity: IdentityFolder, role: str) -> list[str]:
    """Options of mosquitto_pub and mosquitto_sub."""
    own = identity.credentials(role)
    assert own is not None
    files = ["--cafile", str(identity.ca), "--cert", str(own.certificate), "--key", str(own.key)]
    return ["-h", SecureBroker.host, "-p", str(port), *files]


def publish(options: Sequence[str], topic: str, payload: str, *more: str) -> subprocess.CompletedProcess[str]:
    """`mosquitto_pub` with QoS 1."""
    command = ["mosquitto_pub", *options, "-q", "1", "-t", topic, "-m", payload, *more]
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)


class Subscriber:
    """`mosquitto_sub` in the background.

    Args:
        options: as :func:`tls_options` makes them.
        topic_filter: what it asks for.
        log: its output.
        more: further options.
    """

    def __init__(self, options: Sequence[str], topic_filter: str, log: Path, *more: str) -> None:
        # Into a file it would otherwise write in blocks.
        command = ["stdbuf", "-oL", "mosquitto_sub", *options, "-t", topic_filter, "-q", "1", "-d"]
        self._command = [*command, "-F", "GOT %t %p", *more]
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Start it, and wait until the broker has granted the subscription, or it has ended.

        Again, when nothing happens: on a starved machine, with a Mosquitto that had just started anew, one was seen to
        wait for half a minute.
        """
        for patience_s in (5.0, 10.0, 30.0):
            with self._log.open("wb") as log:
                self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            with suppress(AssertionError):
                wait_until(lambda: "Subscribed (mid" in self._said() or self.has_ended, timeout_s=patience_s)
                return self
            self._end()
        raise AssertionError(f"no subscription:\n{self._said()}")

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """End it."""
        self._end()

    def _said(self) -> str:
        return self._log.read_text(errors="replace")

    @property
    def has_ended(self) -> bool:
        """Whether it has left, or was thrown out."""
        return self._process is not None and self._process.poll() is not None

    @property
    def is_connected(self) -> bool:
        """Whether the broker let it in, and it has been connected since."""
        return "Subscribed (mid" in self._said() and not self.has_ended

    @property
    def connections(self) -> int:
        """How often the broker let it in; it connects again by itself."""
        return self._said().count("received CONNACK (0)")

    @property
    def attempts(self) -> int:
        """How often it tried."""
        return self._said().count("sending CONNECT")

    @property
    def got(self) -> list[str]:
        """Topic and payload of each message, so far."""
        return [line[4:] for line in self._said().splitlines() if line.startswith("GOT ")]

    def wait_for(self, message: str) -> list[str]:
        """Wait for a message; everything so far."""
        wait_until(lambda: message in self.got, what=f"{message!r}")
        return self.got
