"""A secure site as people set it up: a hub with the authority, Mosquitto and the registry, and nodes that join it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from broker.authority import Authority
from broker.certs import make_key, make_request
from broker.identity import IdentityFolder
from broker.members import CaFolder, Kind
from fleet.enrolment.token import JoinToken
from tests.e2e.vigil_process import Vigil, run_vigil
from tests.support.ports import free_port
from tests.support.site import Subscriber, tls_options
from tests.support.waiting import wait_until

__all__ = ["Population"]

_TOKEN = re.compile(r"^ +(vigil-\S+)$", re.MULTILINE)
_JOIN = re.compile(r"^ +vigil .*join.* (\S+)$", re.MULTILINE)


class Population:
    """Machines of one site on loopback, each with a folder and a site file of its own.

    Args:
        folder: an empty folder.
        site: the site's name.
    """

    def __init__(self, folder: Path, site: str = "home") -> None:
        self.folder = folder
        self.site = site
        self.port, self.people_port, self.door_port = free_port(), free_port(), free_port()
        self.registry = folder / "registry"
        self._logs = 0
        self.hub = self.machine(
            "hub",
            broker={
                "engine": "mosquitto",
                "secure": True,
                "secure_port": self.port,
                "people_port": self.people_port,
            },
            fleet={"registry": str(self.registry), "door_port": self.door_port},
        )

    @property
    def door(self) -> str:
        """Where `vigil fleet` of the hub lets nodes in."""
        return f"127.0.0.1:{self.door_port}"

    def machine(self, node: str, **settings: object) -> tuple[str, str]:
        """The options with which a command is one of this machine."""
        file = self.folder / f"{node}.yaml"
        url = f"mqtts://127.0.0.1:{self.port}"
        content = {"site": self.site, "node": node, "state_dir": str(self.folder / node), "bus": {"url": url}}
        file.write_text(yaml.safe_dump({**content, **settings}))
        return "--config", str(file)

    def identity(self, node: str) -> IdentityFolder:
        """The certificates of a machine."""
        return IdentityFolder(self.folder / node / "identity")

    def authority(self) -> Authority:
        """The site's; made with the first call."""
        folder = CaFolder(self.folder / "hub" / "ca")
        return Authority(folder) if folder.exists else Authority.create(folder, self.site, ["127.0.0.1", "localhost"])

    def admit(self, machine: str, name: str, kind: Kind, *roles: str) -> None:
        """Let somebody of a machine in, without the network."""
        key = make_key()
        admission = self.authority().admit(name, kind, roles, (), make_request(key))
        identity = self.identity(machine)
        identity.path.parent.mkdir(parents=True, exist_ok=True)
        identity.install(admission, key)
        identity.authority.write_text(self.door)

    def token(self, node: str, *roles: str) -> str:
        """A one-time token, as `vigil enrol` prints it."""
        authority = self.authority()
        return JoinToken.of(authority.invite(node, "node", roles), authority.folder.ca.read_bytes()).text()

    def says(self, *command: str) -> str:
        """A command of the hub that has to succeed; its output."""
        status, out, errors = run_vigil(*self.hub, *command)
        assert status == 0, f"vigil {' '.join(command)}: {status}\n{out}\n{errors}"
        return out

    @contextmanager
    def running(self, *command: str, says: str) -> Iterator[Vigil]:
        """A command that goes on running, from the moment when it says something."""
        with self._logged(*command) as process:
            process.wait_said(says)
            yield process
            process.interrupt()
            process.wait_end()

    @contextmanager
    def invited(self, *who: str) -> Iterator[tuple[str, str]]:
        """`vigil enrol` of the hub: the token, and where it is taken; it has to end well when it was used."""
        with self._logged(*self.hub, "enrol", *who) as enrol:
            wait_until(lambda: bool(_TOKEN.findall(enrol.output)), what="a token")
            (token,), (address,) = _TOKEN.findall(enrol.output), _JOIN.findall(enrol.output)
            host, colon, port = str(address).rpartition(":")
            yield str(token), f"127.0.0.1:{port}" if colon and host else "127.0.0.1"
            assert enrol.wait_end() == 0, enrol.errors

    @contextmanager
    def _logged(self, *command: str) -> Iterator[Vigil]:
        self._logs += 1
        folder = self.folder / "logs" / str(self._logs)
        folder.mkdir(parents=True)
        with Vigil(*command, folder=folder) as process:
            yield process

    def options(self, node: str, role: str) -> list[str]:
        """With which `mosquitto_pub` and `mosquitto_sub` are a process of a node, or a person."""
        return tls_options(self.people_port if role == "person" else self.port, self.identity(node), role)

    def watching(self, topic_filter: str, log: Path) -> Subscriber:
        """What the hub's person hears."""
        return Subscriber(self.options("hub", "person"), topic_filter, log)
