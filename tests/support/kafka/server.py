"""One Kafka node, broker and controller in one, that a test may kill."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from confluent_kafka.admin import (  # type: ignore[attr-defined] # its stubs forget them
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from tests.support.kafka.client import Kafka
from tests.support.kafka.jars import jars_folder, java_program, why_no_kafka
from tests.support.kafka.security import Security
from tests.support.ports import free_port
from tests.support.server import Server, ServerProcess, start_on_free_port

__all__ = ["KafkaServer"]

_CLUSTER_ID = "vigil-test-cluster-id0"  # 16 bytes in base64, as the storage tool wants it
_READY = "Kafka Server started"
_JAVA_TIMEOUT_S = 60.0
_RIGHTS_TIMEOUT_S = 30.0

# Beyond the addresses, the settings of a single node (no replication), of a test (no wait for a second consumer) and
# of a quick restart: by default a killed node waits 9 s until the controller believes in its death.
_SETTINGS = """\
process.roles=broker,controller
node.id=1
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT{protocols}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}{listeners}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}{listeners}
controller.quorum.bootstrap.servers=127.0.0.1:{controller_port}
controller.quorum.election.timeout.ms=200
broker.session.timeout.ms=2000
broker.heartbeat.interval.ms=500
log.dirs={folder}/records
auto.create.topics.enable=false
group.initial.rebalance.delay.ms=0
offsets.topic.num.partitions=1
offsets.topic.replication.factor=1
share.coordinator.state.topic.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
transaction.state.log.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
"""


class KafkaServer(Server, Kafka):
    """A Kafka of the test's own: `acks=all` survives `kill()`, though not a power loss (one node, no fsync).

    A topic needs a moment before that holds: killed within 0.2 s of creating one, Kafka 4.3 brings it back empty in
    half the cases, while 0.3 s later none of 14 did.

    Args:
        folder: an empty folder for its configuration, log and records.
        port: the port to listen on; without it any that is free, known after `start()`.
        secured: open doors that ask who comes as well, and look at rights; see `security`.
    """

    def __init__(self, folder: Path, *, port: int | None = None, secured: bool = False) -> None:
        super().__init__()
        self._folder = folder
        self._port = port
        self._secured = secured
        self._security: Security | None = None

    @property
    def security(self) -> Security:
        """Its other doors, once it runs."""
        assert self._security is not None, "started without secured=True"
        return self._security

    def start(self) -> None:
        """Start it, after the first time on the same port, and wait until it answers.

        Raises:
            ServerDiedError: it ended before; the message carries the end of its log.
            JarsError: its jars cannot be fetched.
        """
        if self._process is not None:
            self._process.start()
        elif self._port is not None:
            self._process = self._on_port(self._port)
            self._process.start()
        else:
            self._process, self._port = start_on_free_port(self._on_port)
        self.bootstrap = f"127.0.0.1:{self._port}"
        self.topics()

    def deny(self, topic: str, *, operation: AclOperation = AclOperation.WRITE) -> None:
        """Take a right to a topic away from the user of `security`, who keeps all others; soon, not at once."""
        rules = [(AclOperation.ALL, AclPermissionType.ALLOW), (operation, AclPermissionType.DENY)]
        self._with_rules(topic, rules)

    def allow(self, topic: str) -> None:
        """Give everything back that was denied; soon, not at once."""
        admin = AdminClient(self._client_settings())
        anybody = cast("str", None)  # as librdkafka has it, which its stubs forget
        every = AclBindingFilter(
            ResourceType.TOPIC,
            topic,
            ResourcePatternType.LITERAL,
            anybody,
            anybody,
            AclOperation.ANY,
            AclPermissionType.ANY,
        )
        for deleted in admin.delete_acls([every]).values():
            deleted.result(_RIGHTS_TIMEOUT_S)

    def _with_rules(self, topic: str, rules: Sequence[tuple[AclOperation, AclPermissionType]]) -> None:
        who = f"User:{self.security.user}"
        bindings = [
            AclBinding(ResourceType.TOPIC, topic, ResourcePatternType.LITERAL, who, "*", operation, permission)
            for operation, permission in rules
        ]
        admin = AdminClient(self._client_settings())
        for created in admin.create_acls(bindings).values():
            created.result(_RIGHTS_TIMEOUT_S)

    def _on_port(self, port: int) -> ServerProcess:
        self._security = security = Security(self._folder) if self._secured else None
        settings = self._folder / "server.properties"
        settings.write_text(
            _SETTINGS.format(
                port=port,
                controller_port=free_port(),
                folder=self._folder,
                listeners=security.listeners() if security else "",
                protocols=security.protocols() if security else "",
            )
            + (security.properties() if security else "")
        )
        if not (self._folder / "records").exists():
            self._format(settings)
        return ServerProcess(
            self._java("kafka.Kafka", str(settings)),
            log=self._folder / "kafka.log",
            ready=_READY,
            start_timeout_s=_JAVA_TIMEOUT_S,
        )

    def _format(self, settings: Path) -> None:
        arguments = ["format", "--cluster-id", _CLUSTER_ID, "--standalone", "--config", str(settings)]
        arguments += self._security.scram() if self._security else ()
        tool = subprocess.run(
            self._java("kafka.tools.StorageTool", *arguments),
            capture_output=True,
            text=True,
            check=False,
            timeout=_JAVA_TIMEOUT_S,
        )
        assert tool.returncode == 0, f"Kafka's storage was not formatted:\n{tool.stdout[-2000:]}{tool.stderr[-2000:]}"

    def _java(self, main_class: str, *arguments: str) -> list[str]:
        java = java_program()
        assert java is not None, why_no_kafka()
        return [
            java,
            "-Xms128m",
            "-Xmx512m",
            "-XX:TieredStopAtLevel=1",  # up in 2.2 s instead of 3.6 s
            f"-Djava.io.tmpdir={self._folder}",  # a killed one leaves its native libraries there
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
            "-Dorg.slf4j.simpleLogger.log.kafka.server.KafkaRaftServer=info",  # says `_READY`
            "-Dorg.slf4j.simpleLogger.showDateTime=true",
            *("-cp", f"{jars_folder()}/*"),
            main_class,
            *arguments,
        ]
