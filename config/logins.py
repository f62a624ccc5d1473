"""The logins of a node's cameras: a file of its own beside the node's state, for its owner's eyes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote, unquote

from pydantic import SecretStr, TypeAdapter, ValidationError

from config.errors import ConfigError
from config.files import write_atomically
from config.registry import Login
from config.settings import Settings

__all__ = ["logins_file", "read_logins", "split_login", "with_login", "write_logins"]

_NETWORK = ("rtsp", "rtsps", "http", "https")
_LOGINS = TypeAdapter(dict[str, Login])


def logins_file(settings: Settings) -> Path:
    """Where a node keeps the logins of its cameras."""
    return settings.state_dir / "logins.json"


def read_logins(path: Path) -> dict[str, Login]:
    """Logins by camera; none where there is no file.

    Raises:
        ConfigError: it cannot be read, or is not what `write_logins` wrote. Nothing of what it holds is repeated.
    """
    try:
        return _LOGINS.validate_json(path.read_bytes())
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ConfigError(f"the logins of cameras cannot be read: {error.strerror}", file=path) from None
    except ValidationError:
        raise ConfigError(
            "these are not the logins of cameras: remove the file, the site sends it again", file=path
        ) from None


def write_logins(path: Path, logins: Mapping[str, Login]) -> None:
    """Replace the file in one step; only its owner may read it.

    Raises:
        OSError: the folder cannot be written.
    """
    plain = {
        camera: {"username": login.username, "password": login.password.get_secret_value()}
        for camera, login in sorted(logins.items())
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(plain, indent=2) + "\n")


def with_login(uri: str, login: Login) -> str:
    """A source with this login, in place of whichever it has; one that is not in the network stays as it is."""
    scheme, separator, rest = uri.partition("://")
    if not separator or scheme not in _NETWORK:
        return uri
    authority, slash, path = rest.partition("/")
    user, password = quote(login.username, safe=""), quote(login.password.get_secret_value(), safe="")
    return f"{scheme}://{user}:{password}@{authority.rpartition('@')[2]}{slash}{path}"


def split_login(uri: str) -> tuple[str, Login | None]:
    """A source without its login, and the login that it had."""
    scheme, separator, rest = uri.partition("://")
    authority, slash, path = rest.partition("/")
    written, at, host = authority.rpartition("@")
    user, _, password = written.partition(":")
    if not separator or scheme not in _NETWORK or not at or not user:
        return uri, None
    login = Login(username=unquote(user), password=SecretStr(unquote(password)))
    return f"{scheme}://{host}{slash}{path}", login
