"""Ways into a real Kafka that asks who comes: each is let in as it should, and refused with a word on why."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from bridge.kafka import KafkaSink, cluster_id
from bridge.ledger import Ledger
from bridge.sink import Record, StoredAt
from config.errors import ConfigError, PermanentError, TransientError
from config.outside import KafkaSecurity, KafkaTopics
from config.settings import KafkaSettings
from tests.support.kafka import KafkaServer, Security, TokenServer
from tests.support.ports import free_port
from tests.support.waiting import wait_until
from tests.unit.bridge.records import record

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(180)]
PATIENCE_S = 60.0
Way = dict[str, object]


@pytest.fixture
def doors(kafka_server: KafkaServer) -> Security:
    return kafka_server.security


@pytest.fixture(scope="module")
def tokens() -> Iterator[TokenServer]:
    with TokenServer() as server:
        yield server


def settings_for(doors: Security, security: Way, *, patience_s: float = PATIENCE_S) -> KafkaSettings:
    name = f"test.{uuid.uuid4().hex}"
    return KafkaSettings(
        bootstrap=doors.bootstrap(str(security["protocol"])),
        topics=KafkaTopics(escalation=name, motion=name, track=name, clip=name, dead_letters=f"{name}.dead"),
        security=KafkaSecurity.model_validate(security),
        connect_timeout_s=patience_s,
    )


def ways(doors: Security, tokens: TokenServer) -> dict[str, Way]:
    """What a settings file says for each way in."""
    login = {"username": doors.user, "password": doors.password}
    tls = {"ca_file": doors.ca_file}
    token = {"oidc_url": tokens.url, "client_id": tokens.client_id, "client_secret": tokens.client_secret}
    return {
        "certificate": {"protocol": "ssl", **tls, "certificate": doors.certificate, "key": doors.key},
        "plain": {"protocol": "sasl_plaintext", "mechanism": "PLAIN", **login},
        "scram-256": {"protocol": "sasl_ssl", "mechanism": "SCRAM-SHA-256", **login, **tls},
        "scram-512": {"protocol": "sasl_ssl", **login, **tls},
        "token": {"protocol": "sasl_ssl", "mechanism": "OAUTHBEARER", **token, **tls, "scope": "kafka"},
    }


@pytest.mark.parametrize("way", ["certificate", "plain", "scram-256", "scram-512", "token"])
def test_an_escalation_goes_every_way(
    way: str, doors: Security, tokens: TokenServer, kafka_server: KafkaServer, tmp_path: Path
) -> None:
    settings = settings_for(doors, ways(doors, tokens)[way])
    sink = KafkaSink(settings, site="home", ledger=Ledger(tmp_path / "ledger.db"))
    stored: list[StoredAt] = []

    def note(reported: Sequence[tuple[Record, StoredAt]]) -> None:
        stored.extend(place for _, place in reported)

    sink.open(note)
    try:
        wait_until(lambda: sink.write([record(1)]) == 1, timeout_s=60, what="room")
        wait_until(lambda: stored, timeout_s=60, what="a report")
    finally:
        sink.close(1.0)
    (found,) = kafka_server.consume(settings.topics.escalation)
    assert json.loads(found.payload or b"")["id"] == record(1).event_id
    assert way != "token" or tokens.asked[-1]["scope"] == ["kafka"]


@pytest.mark.parametrize(
    ("way", "changes", "words"),
    [
        ("plain", {"password": "wr0ng"}, "Authentication failed.*check the user and its password"),
        ("scram-512", {"password": "wr0ng"}, "Authentication failed.*check the user and its password"),
        ("token", {"client_secret": "wr0ng"}, "invalid_client.*the client and its secret"),
        ("certificate", {"certificate": None, "key": None}, "alert.*check ca_file, certificate and key"),
        ("certificate", {"ca_file": None}, "certificate verify failed.*check ca_file, certificate and key"),
    ],
)
def test_who_is_not_let_in_is_told_so_at_once_and_for_good(
    way: str, changes: Way, words: str, doors: Security, tokens: TokenServer
) -> None:
    settings = settings_for(doors, ways(doors, tokens)[way] | changes)
    with pytest.raises(PermanentError, match=f"does not let us in.*{words}") as refused:
        cluster_id(settings)
    assert "wr0ng" not in str(refused.value)


def test_a_certificate_of_somebody_else_is_refused(doors: Security, tokens: TokenServer) -> None:
    certificate, key = doors.stranger()
    settings = settings_for(doors, ways(doors, tokens)["certificate"] | {"certificate": certificate, "key": key})
    with pytest.raises(PermanentError, match="does not let us in"):
        cluster_id(settings)


def test_a_server_of_tokens_that_is_away_may_come_back(doors: Security, tokens: TokenServer) -> None:
    away = {"oidc_url": f"http://127.0.0.1:{free_port()}/token"}
    with pytest.raises(TransientError, match="Failed to acquire SASL OAUTHBEARER token"):
        cluster_id(settings_for(doors, ways(doors, tokens)["token"] | away, patience_s=1.0))


def test_a_door_of_another_kind_is_named(doors: Security) -> None:
    settings = settings_for(doors, {"protocol": "ssl"}, patience_s=1.0).model_copy(
        update={"security": KafkaSecurity()}  # plain text to a TLS door
    )
    with pytest.raises(TransientError, match=r"check .* bridge\.kafka\.security\.protocol"):
        cluster_id(settings)


def test_a_file_that_is_not_there_is_a_setting_that_is_wrong(doors: Security, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"bridge\.kafka\.security.*check ca_file"):
        cluster_id(settings_for(doors, {"protocol": "ssl", "ca_file": tmp_path / "nowhere.crt"}))


@pytest.mark.parametrize(
    ("way", "missing", "variable"),
    [("scram-512", "password", "SECURITY__PASSWORD"), ("token", "client_secret", "SECURITY__CLIENT_SECRET")],
)
def test_a_missing_secret_is_asked_for_by_its_variable(
    way: str, missing: str, variable: str, doors: Security, tokens: TokenServer
) -> None:
    with pytest.raises(ConfigError, match=f"{missing}.*VIGIL_BRIDGE__KAFKA__{variable}"):
        cluster_id(settings_for(doors, ways(doors, tokens)[way] | {missing: None}))
