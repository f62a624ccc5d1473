"""Registration as Confluent's API documents it, against a server that speaks that API and is no registry."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest

from bridge.schema_registry import SchemaRegistration, subject_of
from broker.messages import Escalation
from broker.schemas import message_kinds, schema_text
from config.clock import ManualClock
from config.errors import ConfigError
from config.outside import SchemaRegistrySettings
from tests.support.ports import free_port
from tests.support.schema_registry import RegistryServer, running_registry
from tests.support.waiting import wait_until


@pytest.fixture
def registry() -> Iterator[RegistryServer]:
    with running_registry() as server:
        yield server


def register(**settings: object) -> SchemaRegistration:
    made = SchemaRegistration(SchemaRegistrySettings.model_validate(settings), clock=ManualClock())
    made.start()
    return made


def test_every_schema_has_a_subject_of_its_own(registry: RegistryServer, capsys: pytest.CaptureFixture[str]) -> None:
    registration = register(url=registry.url)
    assert registration.wait_ended(60)
    assert set(registry.subjects) == {f"io.vigil.v1.{kind.__name__}" for kind in message_kinds()}
    told = registry.subjects[subject_of(Escalation)]
    assert told["schemaType"] == "JSON"
    schema = json.loads(str(told["schema"]))
    assert told["schema"] == schema_text(Escalation)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert f"count={len(message_kinds())}" in capsys.readouterr().out


def test_one_that_is_away_for_a_while_gets_them_all(
    registry: RegistryServer, capsys: pytest.CaptureFixture[str]
) -> None:
    registry.answers = [503, 500, 429]
    registration = register(url=registry.url)
    assert registration.wait_ended(60)
    assert len(registry.subjects) == len(message_kinds())
    assert registry.asked == len(message_kinds()) + 3
    assert "answered 503" in capsys.readouterr().out


def test_one_that_never_answers_is_asked_on_and_left_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    registration = register(url=f"http://127.0.0.1:{free_port()}")
    said: list[str] = []

    def has_said_so() -> bool:
        said.append(capsys.readouterr().out)
        return "".join(said).count("no schema registry answers") > 1

    wait_until(has_said_so, timeout_s=60, what="two complaints")
    assert not registration.wait_ended(0.0)
    registration.close()
    assert registration.wait_ended(30)


def test_one_schema_that_is_refused_does_not_keep_the_others_out(
    registry: RegistryServer, capsys: pytest.CaptureFixture[str]
) -> None:
    registry.answers = [409]
    assert register(url=registry.url).wait_ended(60)
    assert len(registry.subjects) == len(message_kinds()) - 1
    said = capsys.readouterr().out
    assert "schemas.refused" in said
    assert "compatibility to NONE" in said


def test_a_login_is_shown_and_a_wrong_one_said_once_without_it(
    registry: RegistryServer, capsys: pytest.CaptureFixture[str]
) -> None:
    registry.login = "vigil:hunter2"
    assert register(url=registry.url, username="vigil", password="hunter3").wait_ended(60)
    assert registry.subjects == {}
    assert registry.asked == 1
    said = capsys.readouterr().out
    assert "check username and password in bridge.kafka.schema_registry" in said
    assert "hunter" not in said
    assert register(url=registry.url, username="vigil", password="hunter2").wait_ended(60)
    assert len(registry.subjects) == len(message_kinds())


def test_certificates_that_are_not_there_are_a_setting_that_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"schema_registry\.ca_file"):
        register(url="https://registry.local", ca_file=tmp_path / "nowhere.crt")
