"""A supervised Mosquitto with a generated configuration."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import threading
from pathlib import Path

from broker.servers.ports import LOOPBACK, check_port_free
from config.backoff import Backoff
from config.errors import ConfigError, TransientError
from config.log import get_logger
from config.settings import BrokerSettings
from config.supervise import Supervised

__all__ = ["mosquitto_config", "run_mosquitto"]

_STOP_TIMEOUT_S = 10.0
_POLL_S = 0.2


def mosquitto_config(settings: BrokerSettings, data_dir: Path) -> str:
    """The configuration file for these settings.

    The limits are those that Debian's 2.0.11 needs: over `max_queued_messages` (1000) it drops the newest message
    and still answers Success, 0 for "no limit" is broken in some 2.0 releases, and without persistence a kill -9
    loses every queued message.
    """
    return "\n".join(
        (
            "# Written by `vigil broker run`; changes are overwritten.",
            f"listener {settings.port} {settings.host}",
            "allow_anonymous true",
            "persistence true",
            f"persistence_location {data_dir}/",
            "autosave_interval 1",
            "max_queued_messages 1000000",
            "max_queued_bytes 1000000000",
            "max_inflight_messages 1000",
            "max_packet_size 20000000",
            "log_dest stderr",
            "log_type error",
            "log_type warning",
            "log_type notice",
            "connection_messages false",
            # Started by root it would become the user `mosquitto`, who cannot write into this folder.
            *([f"user {pwd.getpwuid(os.geteuid()).pw_name}"] if os.geteuid() == 0 else []),
            "",
        )
    )


def run_mosquitto(settings: BrokerSettings, data_dir: Path, stop: threading.Event) -> None:
    """Run Mosquitto until `stop` is set; start it again when it dies.

    Raises:
        ConfigError: it is not installed, the port is taken, or it would be open to the network without a login.
    """
    program = _find_mosquitto()
    if settings.host not in LOOPBACK:
        raise ConfigError(
            f"the generated configuration has no logins yet, so it listens on loopback only, not on {settings.host}; "
            "run a Mosquitto of your own and point bus.url at it",
            field="broker.host",
        )
    check_port_free(settings.host, settings.port)
    data_dir.mkdir(parents=True, exist_ok=True)
    file = data_dir / "mosquitto.conf"
    file.write_text(mosquitto_config(settings, data_dir), encoding="utf-8")
    runner = Supervised("mosquitto", lambda: _run_once(program, file, stop), stop=stop, backoff=Backoff(0.2, 5.0))
    get_logger().info("broker.listening", engine="mosquitto", host=settings.host, port=settings.port)
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


def _run_once(program: str, file: Path, stop: threading.Event) -> None:
    # setpriv: when this process is killed the hard way, Mosquitto must not stay behind on the port.
    setpriv = shutil.which("setpriv")
    guard = [setpriv, "--pdeathsig", "TERM", "--"] if setpriv else []
    process = subprocess.Popen([*guard, program, "-c", str(file)], stderr=subprocess.PIPE, text=True, errors="replace")
    reader = threading.Thread(target=_relay, args=(process,), name="mosquitto-log", daemon=True)
    reader.start()
    while process.poll() is None and not stop.wait(_POLL_S):
        pass
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    reader.join(1.0)
    if not stop.is_set():
        raise TransientError(f"mosquitto ended with status {process.returncode}")


def _relay(process: subprocess.Popen[str]) -> None:
    log = get_logger()
    for line in process.stderr or ():
        log.info("mosquitto.said", line=line.split(": ", 1)[-1].strip())
