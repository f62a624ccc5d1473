"""What a Home Assistant finds on its disk: a configuration, an owner, a broker, and nobody is asked anything."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import time
from pathlib import Path
from typing import Any

__all__ = ["access_token", "write_storage"]

_USER, _TOKEN = "0" * 31 + "1", "0" * 31 + "2"
_YEARS_10_S = 315_360_000
_CONFIGURATION = """\
homeassistant:
  name: Home
  latitude: 52.0
  longitude: 5.0
  elevation: 0
  unit_system: metric
  time_zone: UTC
  currency: EUR
http:
  server_host: 127.0.0.1
  server_port: {port}
api:
websocket_api:
auth:
config:
logger:
  default: warning
  logs:
    homeassistant.bootstrap: error  # it warns of this Python, and that it installs nothing
    homeassistant.components.http: info
    aiohttp_fast_zlib: error
"""


def write_storage(folder: Path, *, port: int, broker_port: int, prefix: str, more: str) -> str:
    """Write the configuration of a Home Assistant that is set up and has a broker.

    Args:
        folder: its folder; what it keeps there besides stays.
        port: where it listens.
        broker_port: the broker's, on loopback.
        prefix: of MQTT discovery.
        more: further lines of its configuration.

    Returns:
        The key that access tokens are signed with.
    """
    (folder / "configuration.yaml").write_text(_CONFIGURATION.format(port=port) + more)
    storage = folder / ".storage"
    storage.mkdir(exist_ok=True)
    key = secrets.token_hex(64)
    parts: dict[str, tuple[int, dict[str, Any]]] = {
        "auth": (1, _auth(key)),
        "onboarding": (4, {"done": ["user", "core_config", "analytics", "integration"]}),
        "core.config_entries": (1, {"entries": [_broker_entry(broker_port, prefix)]}),
    }
    for name, (version, content) in parts.items():
        document = {"version": version, "minor_version": 1, "key": name, "data": content}
        (storage / name).write_text(json.dumps(document))
    return key


def _auth(key: str) -> dict[str, Any]:
    user = {
        "id": _USER,
        "name": "Owner",
        "group_ids": ["system-admin"],
        "is_owner": True,
        "is_active": True,
        "system_generated": False,
        "local_only": False,
    }
    token = {
        "id": _TOKEN,
        "user_id": _USER,
        "client_id": None,
        "client_name": "tests",
        "client_icon": None,
        "token_type": "long_lived_access_token",
        "created_at": "2024-01-01T00:00:00+00:00",
        "access_token_expiration": _YEARS_10_S,
        "token": secrets.token_hex(64),
        "jwt_key": key,
        "last_used_at": None,
        "last_used_ip": None,
        "credential_id": None,
        "version": None,
    }
    groups = [{"id": f"system-{name}", "name": name} for name in ("admin", "users", "read-only")]
    return {"users": [user], "groups": groups, "credentials": [], "refresh_tokens": [token]}


def _broker_entry(port: int, prefix: str) -> dict[str, Any]:
    broker = {"broker": "127.0.0.1", "port": port, "discovery": True, "discovery_prefix": prefix}
    return {
        "entry_id": "0" * 31 + "3",
        "version": 1,
        "minor_version": 1,
        "domain": "mqtt",
        "title": "Broker",
        "data": broker,
        "options": {},
        "pref_disable_new_entities": False,
        "pref_disable_polling": False,
        "source": "user",
        "unique_id": None,
        "disabled_by": None,
    }


def access_token(key: str) -> str:
    """A token that the API takes: a JWT of the stored refresh token.

    Args:
        key: what :func:`write_storage` gave.
    """
    now_s = int(time.time())
    claims = {"iss": _TOKEN, "iat": now_s, "exp": now_s + _YEARS_10_S}
    parts = ({"alg": "HS256", "typ": "JWT"}, claims)
    signed = ".".join(_base64(json.dumps(part, separators=(",", ":")).encode()) for part in parts)
    return f"{signed}.{_base64(hmac.digest(key.encode(), signed.encode(), hashlib.sha256))}"


def _base64(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()
