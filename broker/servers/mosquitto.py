"""A supervised Mosquitto with a generated configuration."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from broker.acl import CLIENT_ID_PREFIX
from broker.members import CaFolder
from broker.servers.gate import Gate
from broker.servers.ports import LOOPBACK, check_port_free
from config.backoff import Backoff
from config.errors import ConfigError, TransientError
from config.log import get_logger
from config.settings import BrokerSettings
from config.supervise import Supervised

__all__ = ["mosquitto_config", "run_mosquitto"]

_STOP_TIMEOUT_S = 10.0
_POLL_S = 0.2
_LISTENING_POLL_S = 0.02


def mosquitto_config(settings: BrokerSettings, data_dir: Path, authority: CaFolder | None = None) -> str:
    """The configuration file for these settings.

    The limits are those that Debian's 2.0.11 needs: over `max_queued_messages` (1000) it drops the newest message
    and still answers Success, 0 for "no limit" is broken in some 2.0 releases, and without persistence a kill -9
    loses every queued message.

    Args:
        settings: ports, address, limits.
        data_dir: where Mosquitto keeps its sessions.
        authority: whom it lets in; None lets everybody in who reaches the port.
    """
    return "\n".join(
        (
            "# Written by `vigil broker run`; changes are overwritten.",
            "persistence true",
            f"persistence_location {data_dir}/",
            "autosave_interval 1",
            # As long as Vigil's own sessions; a 3.1.1 client that never comes back would otherwise fill the memory.
            "persistent_client_expiration 7d",
            "max_queued_messages 1000000",
            "max_queued_bytes 1000000000",
            "max_inflight_messages 1000",
            f"max_packet_size {settings.packet_bytes_max}",
            # Else a small message waits up to 40 ms for the acknowledgement of the one before it.
            "set_tcp_nodelay true",
            "log_dest stderr",
            "log_type error",
            "log_type warning",
            "log_type notice",
            "connection_messages false",
            # Started by root it would become the user `mosquitto`, who cannot write into this folder.
            *([f"user {pwd.getpwuid(os.geteuid()).pw_name}"] if os.geteuid() == 0 else []),
            *(_open_listener(settings) if authority is None else _secure_listeners(settings, authority)),
            "",
        )
    )


def _open_listener(settings: BrokerSettings) -> list[str]:
    return ["allow_anonymous true", f"listener {settings.port} {settings.host}"]


def _secure_listeners(settings: BrokerSettings, authority: CaFolder) -> list[str]:
    """Everybody shows a certificate, whose name is their user name; a process's is its client id too."""
    lines = [
        "allow_anonymous false",
        f"acl_file {authority.acl}",
        # Looked at before the name of a certificate takes its place: nobody can come as `porch.edge` who is not.
        f"clientid_prefixes {CLIENT_ID_PREFIX}",
        f"auto_id_prefix {CLIENT_ID_PREFIX}",
    ]
    for port, ca, revoked, is_process in (
        (settings.secure_port, authority.ca, authority.ca_list, True),
        (settings.people_port, authority.people, authority.people_list, False),
    ):
        lines += [
            f"listener {port} {settings.host}",
            f"cafile {ca}",
            f"crlfile {revoked}",
            f"certfile {authority.server}",
            f"keyfile {authority.server_key}",
            "tls_version tlsv1.2",  # or later
            "require_certificate true",
            "use_identity_as_username true",
            *(["use_username_as_clientid true"] if is_process else []),
        ]
    return lines


def run_mosquitto(
    settings: BrokerSettings, data_dir: Path, stop: threading.Event, authority: CaFolder | None = None
) -> None:
    """Run Mosquitto until `stop` is set; start it again when it dies, and when the membership has changed.

    Raises:
        ConfigError: it is not installed, a port is taken, or it would be open to the network without certificates.
        PermanentError: the authority's folder cannot be read.
    """
    program = _find_mosquitto()
    if authority is None and settings.host not in LOOPBACK:
        raise ConfigError(
            f"without certificates it listens on loopback only, not on {settings.host}: `vigil ca init`, then "
            "--secure; or run a Mosquitto of your own and point bus.url at it",
            field="broker.host",
        )
    ports = [settings.port] if authority is None else [settings.secure_port, settings.people_port]
    for port in ports:
        check_port_free(settings.host, port)
    gate = None if authority is None else Gate(authority)
    data_dir.mkdir(parents=True, exist_ok=True)
    file = data_dir / "mosquitto.conf"
    file.write_text(mosquitto_config(settings, data_dir, authority), encoding="utf-8")

    def run_once() -> None:
        with _running(program, file) as process:
            if _wait_listening(process, ports, stop):
                is_secure = authority is not None
                get_logger().info(
                    "broker.listening", engine="mosquitto", host=settings.host, ports=ports, secure=is_secure
                )
            _wait_reason_to_end(process, gate, stop)
            died = process.poll() is not None
        if died and not stop.is_set():
            raise TransientError(f"mosquitto ended with status {process.returncode}")

    runner = Supervised("mosquitto", run_once, stop=stop, backoff=Backoff(0.2, 5.0))
    runner.start()
    stop.wait()
    runner.join(_STOP_TIMEOUT_S + 1)
    get_logger().info("broker.stopped")


def _find_mosquitto() -> str:
    program = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
    if program is None:
        raise ConfigError(
            "mosquitto is not installed: sudo apt-get install mosquitto, or use --engine embedded",
            field="broker.engine",
        )
    return program


@contextmanager
def _running(program: str, file: Path) -> Iterator[subprocess.Popen[str]]:
    """A Mosquitto whose words go to the log; it is ended on the way out, if it has not ended before."""
    # setpriv: when this process is killed the hard way, Mosquitto must not stay behind on the port.
    setpriv = shutil.which("setpriv")
    guard = [setpriv, "--pdeathsig", "TERM", "--"] if setpriv else []
    process = subprocess.Popen([*guard, program, "-c", str(file)], stderr=subprocess.PIPE, text=True, errors="replace")
    reader = threading.Thread(target=_relay, args=(process,), name="mosquitto-log", daemon=True)
    reader.start()
    try:
        yield process
    finally:
        if process.poll() is None:
            _end(process)
        reader.join(1.0)


def _wait_listening(process: subprocess.Popen[str], ports: Collection[int], stop: threading.Event) -> bool:
    """Until it listens on all of them (True), or has ended or is to end.

    Its sockets are looked at, because a connection to a port with TLS would leave an error in its log.
    """
    while process.poll() is None and not stop.wait(_LISTENING_POLL_S):
        with contextlib.suppress(psutil.Error):
            sockets = psutil.Process(process.pid).net_connections("tcp")
            if {socket.laddr.port for socket in sockets if socket.status == psutil.CONN_LISTEN}.issuperset(ports):
                return True
    return False


def _wait_reason_to_end(process: subprocess.Popen[str], gate: Gate | None, stop: threading.Event) -> None:
    """Until it has died, is to stop, or is to start again because the membership has changed.

    SIGHUP would make Mosquitto read its files again, but its connections would stay, those of a revoked member too;
    and 2.0.11 takes the rights of every client that is away just then: what is sent to its session is dropped. With a
    restart every session is kept (persistence), and every client shows its certificate again.
    """
    while process.poll() is None and not stop.wait(_POLL_S):
        if gate is not None and gate.refreshed():
            get_logger().info("broker.membership_changed", effect="mosquitto starts again, everybody connects again")
            return


def _end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _relay(process: subprocess.Popen[str]) -> None:
    log = get_logger()
    for line in process.stderr or ():
        log.info("mosquitto.said", line=line.split(": ", 1)[-1].strip())
