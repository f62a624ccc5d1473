"""A JSON list of cameras, as inventories and other systems keep them, as cameras of the registry. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import SecretStr

from config.logins import split_login
from config.registry import Login
from fleet.registry.imported import Imported, Section, free_name

__all__ = ["read_camera_list"]

_SOURCE = ("rtspUrl", "rtsp_url", "url", "uri", "source", "stream", "streamUrl")
_SUB_SOURCE = ("subUrl", "subRtspUrl", "sub_url", "sub_source", "subStream", "substream")
_AREA = ("area", "location", "room", "zone")
_EXCLUDED = ("excluded", "disabled")
_USERNAME = ("username", "user", "login")


def read_camera_list(content: object) -> Imported:
    """Take over a list of objects with `id`, `name`, `rtspUrl`, `excluded` and the like.

    Args:
        content: the list; or an object with it under ``cameras``; or an object of cameras by id.

    Returns:
        Cameras, logins, and what was left. Nothing was checked against the settings' limits yet.
    """
    imported = Imported()
    for number, (key, camera) in enumerate(_cameras(content)):
        _read_camera(Section(camera, f"{number}"), key, imported)
    return imported


def _cameras(content: object) -> Iterable[tuple[str, object]]:
    if isinstance(content, Mapping):
        inner = content.get("cameras")
        return _cameras(inner) if isinstance(inner, list | Mapping) else content.items()
    return (("", camera) for camera in content) if isinstance(content, list) else ()


def _read_camera(camera: Section, key: str, imported: Imported) -> None:
    identity, friendly = camera.take("id"), camera.take("name")
    wanted = str(identity if identity not in {None, ""} else key or friendly or "camera")
    name = free_name(wanted, imported.cameras)
    if name != wanted:
        imported.note(camera.place("id"), f"{wanted[:60]!r} is called {name!r} here")
    source, login = split_login(str(_first(camera, _SOURCE) or ""))
    if not source:
        imported.leave(camera.place("rtspUrl"), f"camera {name!r} says no address and was left out")
        camera.whole()
        return
    sub, _ = split_login(str(_first(camera, _SUB_SOURCE) or ""))
    mac = camera.take("mac")
    is_off = bool(_first(camera, _EXCLUDED)) or camera.take("enabled", default=True) is False
    said: dict[str, Any] = {
        "name": str(friendly) if friendly and str(friendly) != name else None,
        "area": _text(_first(camera, _AREA)),
        "source": source,
        "sub_source": sub or None,
        "excluded": True if is_off else None,
        "device": {"mac": str(mac)} if mac else None,
    }
    imported.cameras[name] = {field: value for field, value in said.items() if value is not None}
    username, password = _first(camera, _USERNAME), camera.take("password")
    login = Login(username=str(username), password=SecretStr(str(password or ""))) if username else login
    if login is not None:
        imported.logins[name] = login
    for place in camera.left():
        imported.leave(place, "no counterpart")


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _first(camera: Section, keys: Iterable[str]) -> Any:  # noqa: ANN401 - as the file has it
    """The first of several spellings that says something; all of them count as looked at."""
    values = [camera.take(key) for key in keys]
    return next((value for value in values if value not in {None, ""}), None)
