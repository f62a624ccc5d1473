from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from config.sources import check_settings

SCRAM = {"protocol": "sasl_ssl", "username": "vigil"}
OIDC = {"protocol": "sasl_ssl", "mechanism": "OAUTHBEARER", "oidc_url": "https://id/token", "client_id": "bridge"}


def complaints(security: Mapping[str, str]) -> list[str]:
    settings = {"bridge": {"kafka": {"bootstrap": "kafka-1:9093", "security": security}}}
    return [str(error) for error in check_settings(None, settings)[1]]


@pytest.mark.parametrize(
    ("security", "field", "cure"),
    [
        ({"username": "vigil"}, "username", "protocol sasl_plaintext or sasl_ssl"),
        ({"protocol": "ssl", "password": "hunter2"}, "password", "protocol sasl_plaintext or sasl_ssl"),
        ({"protocol": "ssl", "mechanism": "PLAIN"}, "mechanism", "protocol sasl_plaintext or sasl_ssl"),
        ({"ca_file": "ca.crt"}, "ca_file", "protocol ssl or sasl_ssl"),
        (SCRAM | {"protocol": "sasl_plaintext", "certificate": "a", "key": "b"}, "certificate, key", "sasl_ssl"),
        ({"protocol": "ssl", "certificate": "a"}, "certificate", "needs key"),
        ({"protocol": "ssl", "key": "a"}, "key", "needs certificate"),
        ({"protocol": "ssl", "key_password": "hunter2"}, "key_password", "needs key"),
        ({"protocol": "sasl_ssl"}, "mechanism", "needs username"),
        (SCRAM | {"client_secret": "hunter2"}, "client_secret", "mechanism OAUTHBEARER"),
        (OIDC | {"password": "hunter2"}, "password", "PLAIN or SCRAM"),
        ({"protocol": "sasl_ssl", "mechanism": "OAUTHBEARER"}, "OAUTHBEARER", "needs client_id and oidc_url"),
        ({"protocol": "tls"}, "protocol", "'ssl'"),
    ],
)
def test_what_does_not_belong_together_is_refused_with_its_cure(
    security: Mapping[str, str], field: str, cure: str
) -> None:
    (complaint,) = complaints(security)
    assert complaint.startswith("bridge.kafka.security")
    assert field in complaint
    assert cure in complaint
    assert "hunter2" not in complaint


@pytest.mark.parametrize(
    "security",
    [
        {},
        {"protocol": "ssl"},
        {"protocol": "ssl", "ca_file": "ca", "certificate": "a", "key": "b", "key_password": "c"},
        SCRAM,
        SCRAM | {"protocol": "sasl_plaintext", "mechanism": "PLAIN", "password": "hunter2"},
        OIDC | {"client_secret": "hunter2", "scope": "kafka", "oidc_ca_file": "ca", "ca_file": "ca"},
    ],
)
def test_what_belongs_together_is_taken(security: Mapping[str, str]) -> None:
    assert complaints(security) == []


def test_a_secret_of_the_environment_goes_with_a_site_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site_file = tmp_path / "site.yaml"
    site_file.write_text(
        "bridge:\n  kafka:\n    bootstrap: kafka-1:9093\n    security: {protocol: sasl_ssl, username: vigil}\n"
    )
    monkeypatch.setenv("VIGIL_BRIDGE__KAFKA__SECURITY__PASSWORD", "hunter2")
    settings, errors = check_settings(site_file)
    assert errors == []
    assert settings is not None
    assert settings.bridge.kafka is not None
    assert settings.bridge.kafka.security.password is not None
    assert settings.bridge.kafka.security.password.get_secret_value() == "hunter2"
    assert "hunter2" not in f"{settings!r} {settings.model_dump(mode='json')}"


@pytest.mark.parametrize("url", ["registry:8081", "https://user:hunter2@registry", "https://registry/?x=1", "ftp://x"])
def test_the_address_of_a_registry_is_one_and_holds_no_login(url: str) -> None:
    settings = {"bridge": {"kafka": {"bootstrap": "kafka-1:9093", "schema_registry": {"url": url}}}}
    (error,) = check_settings(None, settings)[1]
    assert str(error).startswith("bridge.kafka.schema_registry.url")
    assert "hunter2" not in str(error)
