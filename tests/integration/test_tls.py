"""What a process says when TLS stands between it and its broker: the cause and the cure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import structlog

from broker._paho import paho_transports
from broker.certs import Issuer, make_request, request_key
from broker.identity import IdentityFolder
from broker.tls import ExpiryWatch, client_context
from broker.transport import TransportEvents
from config.errors import ConfigError, PermanentError, TransientError, VigilError
from config.settings import BusSettings, Settings
from tests.support.mosquitto import Mosquitto
from tests.support.server import ServerProcess, start_on_free_port
from tests.support.site import SecureBroker, Site, days_ago

NOTHING = TransportEvents(lambda _message: None, lambda _number, _refusal: None)
NOBODY = Path("/nonexistent")


def refusal(url: str, identity: Path, role: str, **bus: object) -> VigilError:
    """What opening a connection raises."""
    settings = BusSettings(url=url, connect_timeout_s=5, **bus)
    transports = paho_transports(
        settings, client_id="vigil-test", persistent=False, tls=lambda: client_context(settings, identity, role)
    )
    with pytest.raises(VigilError) as raised:
        transports(NOTHING, None).open()
    return raised.value


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    made = Site(tmp_path_factory.mktemp("site"))
    made.node("porch", "edge", cameras=["porch"])
    made.node("gone", "edge")
    made.person("alice", "dashboard")
    made.authority.revoke("gone")
    return made


@pytest.fixture(scope="module", params=["mosquitto", "embedded"])
def broker(request: pytest.FixtureRequest, site: Site) -> Iterator[SecureBroker]:
    with SecureBroker(site, request.param) as running:
        yield running


Who = Callable[[Site], IdentityFolder]
REFUSED: dict[str, tuple[Who, str, str]] = {
    "expired": (
        lambda site: site.forged("porch.edge", "edge", issued=days_ago(10), days=9),
        "edge",
        "this process's certificate has expired, or one of the two clocks is wrong: check `timedatectl`",
    ),
    "not yet": (
        lambda site: site.forged("porch.edge", "edge", issued=days_ago(-3), days=9),
        "edge",
        "it does not hold yet, or one of the two clocks is wrong",
    ),
    "revoked": (lambda site: IdentityFolder(site.folder / "gone"), "edge", "was revoked; renew it with"),
    "another site's": (
        lambda site: site.foreign("porch.edge", "edge"),
        "edge",
        "does not know the authority of this process's certificate",
    ),
    "a person's": (
        lambda site: IdentityFolder(site.folder / "alice"),
        "edge",
        "processes use the broker's secure_port (8883), people its people_port (8884)",
    ),
}


@pytest.mark.parametrize("who", REFUSED)
def test_a_refused_certificate_is_told_why(broker: SecureBroker, site: Site, who: str) -> None:
    identity, role, words = REFUSED[who]
    folder = identity(site).path
    # Again and again: with TLS 1.3 the refusal races with the client's first packet.
    for _ in range(5):
        error = refusal(broker.url, folder, role)
        assert words in str(error)
        assert isinstance(error, PermanentError)


def test_a_process_without_a_certificate(broker: SecureBroker, site: Site) -> None:
    for _ in range(5):
        error = refusal(broker.url, NOBODY, "edge", ca_file=site.authority.folder.ca)
        assert "asks for a certificate, and this process has none to show: `vigil join`" in str(error)
        assert isinstance(error, PermanentError)


def test_a_broker_that_is_not_trusted(broker: SecureBroker) -> None:
    error = refusal(broker.url, NOBODY, "edge")
    assert "shows a certificate of an authority that this machine does not know" in str(error)
    assert isinstance(error, PermanentError)


def test_plain_text_at_a_port_with_tls_and_the_reverse(broker: SecureBroker, mosquitto: Mosquitto) -> None:
    plain = refusal(broker.url.replace("mqtts", "mqtt"), NOBODY, "edge")
    assert "where it speaks TLS there, write mqtts:// in bus.url" in str(plain)
    assert isinstance(plain, TransientError)
    tls = refusal(mosquitto.url.replace("mqtt", "mqtts"), NOBODY, "edge")
    assert f"{mosquitto.host}:{mosquitto.port}" in str(tls)
    assert "does it speak TLS there?" in str(tls) or "does not speak TLS" in str(tls)


def server(folder: Path, certificate: Path, key: Path, *options: str) -> tuple[ServerProcess, int]:
    """`openssl s_server`."""

    def make(port: int) -> ServerProcess:
        command = ["openssl", "s_server", "-accept", f"127.0.0.1:{port}", "-cert", str(certificate), "-www"]
        command += ["-key", str(key), "-cipher", "DEFAULT:@SECLEVEL=0", *options]
        return ServerProcess(command, log=folder / "s_server.log", ready="ACCEPT", start_timeout_s=20)

    return start_on_free_port(make)


def test_a_broker_with_an_old_version_of_tls(site: Site, tmp_path: Path) -> None:
    ca = site.authority.folder
    old, port = server(tmp_path, ca.server, ca.server_key, "-tls1_1")
    try:
        error = refusal(f"mqtts://127.0.0.1:{port}", site.folder / "porch", "edge")
    finally:
        old.kill()
    assert "does not speak TLS 1.2 or later" in str(error)
    assert isinstance(error, PermanentError)


def test_a_broker_by_a_name_that_is_not_in_its_certificate(tmp_path: Path) -> None:
    elsewhere = Site(tmp_path / "site", ["hub.example.org"])
    elsewhere.node("porch", "edge")
    ca = elsewhere.authority.folder
    named, port = server(tmp_path, ca.server, ca.server_key)
    try:
        address = refusal(f"mqtts://127.0.0.1:{port}", elsewhere.folder / "porch", "edge")
        name = refusal(f"mqtts://localhost:{port}", elsewhere.folder / "porch", "edge")
    finally:
        named.kill()
    for error in (address, name):
        assert "the broker's certificate is for another host" in str(error)
        assert isinstance(error, PermanentError)


@pytest.mark.parametrize(("issued", "words"), [(days_ago(10), "has expired"), (days_ago(-3), "does not hold yet")])
def test_a_clock_that_is_wrong_may_come_right_by_itself(
    site: Site, tmp_path: Path, issued: datetime, words: str
) -> None:
    ca = site.authority.folder
    issuer = Issuer.load(ca.ca.read_bytes(), ca.ca_key.read_bytes(), "home")
    public_key = request_key(make_request(ca.server_key.read_bytes()))
    certificate = tmp_path / "server.crt"
    made = issuer.sign(public_key, "broker", "server", days=9, now=issued, names=["127.0.0.1"])
    certificate.write_bytes(made.pem)
    wrong, port = server(tmp_path, certificate, ca.server_key)
    try:
        error = refusal(f"mqtts://127.0.0.1:{port}", site.folder / "porch", "edge")
    finally:
        wrong.kill()
    assert f"the broker's certificate {words}, or one of the two clocks is wrong" in str(error)
    assert isinstance(error, TransientError)


def test_a_certificate_that_ends_soon_is_told_once_a_day(site: Site) -> None:
    now = datetime.now(UTC)
    identity = site.forged("porch.edge", "edge", issued=now, days=31)
    settings = Settings(node="porch", bus=BusSettings(url="mqtts://127.0.0.1", identity=identity.path))
    watch = ExpiryWatch(settings, "edge")
    with structlog.testing.capture_logs() as logs:
        assert watch.days_left(now) == 30
        assert logs == []
        assert [watch.days_left(now + timedelta(days=2, hours=hours)) for hours in (0, 5, 23)] == [28, 28, 28]
        assert watch.days_left(now + timedelta(days=32, hours=1)) == -2
    assert [(log["event"], log["role"], log["days_left"]) for log in logs] == [
        ("bus.certificate_expires", "edge", 29.0),
        ("bus.certificate_expires", "edge", -1.0),
    ]
    plain = Settings(node="porch", bus=BusSettings(identity=identity.path))
    assert ExpiryWatch(plain, "edge").days_left(now) is None


def test_what_is_wrong_with_the_files_is_said_before_anybody_is_called(site: Site, tmp_path: Path) -> None:
    porch = site.folder / "porch"
    settings = BusSettings(url="mqtts://127.0.0.1:1")
    with pytest.raises(
        ConfigError, match=r"has no certificate with a key for the role 'bridge' \(it has: agent, doctor"
    ):
        client_context(settings, porch, "bridge")
    with pytest.raises(ConfigError, match=r"`vigil enrol NODE --role bridge`"):
        client_context(settings, porch, "bridge")
    with pytest.raises(ConfigError, match=r"bus\.identity: there is no folder .*/none: `vigil join` makes it"):
        client_context(settings.model_copy(update={"identity": tmp_path / "none"}), tmp_path / "none", "edge")

    copied = IdentityFolder(tmp_path / "copied")
    copied.path.mkdir()
    for name in ("ca.crt", "edge.crt", "node.key"):
        (copied.path / name).write_bytes((porch / name).read_bytes())
    copied.key("node").chmod(0o640)
    with pytest.raises(ConfigError, match=r"may be read by others, .* chmod 600 .*node\.key"):
        client_context(settings, copied.path, "edge")
    copied.key("node").chmod(0o600)
    assert client_context(settings, copied.path, "edge").minimum_version.name == "TLSv1_2"
    copied.certificate("edge").write_bytes((site.folder / "alice" / "person.crt").read_bytes())
    with pytest.raises(ConfigError, match=r"cannot be used together"):
        client_context(settings, copied.path, "edge")
    copied.ca.write_text("nothing")
    with pytest.raises(ConfigError, match=r"ca\.crt holds no certificates"):
        client_context(settings, copied.path, "edge")
