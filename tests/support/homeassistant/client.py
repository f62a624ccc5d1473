"""What tests ask of a Home Assistant, as its own apps do: over REST and a WebSocket."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
from websockets.sync.client import connect
from websockets.sync.connection import Connection

from tests.support.waiting import wait_until

__all__ = ["Entity", "HomeAssistant", "State"]

_ANSWER_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class State:
    """How an entity does."""

    state: str
    attributes: Mapping[str, Any]


@dataclass(frozen=True)
class Entity:
    """An entity of the registry.

    Attributes:
        entity_id: such as ``switch.porch_privacy``.
        unique_id: what its integration calls it.
        device: name of its device.
        category: ``config``, ``diagnostic`` or None.
        is_enabled: whether it has a state.
    """

    entity_id: str
    unique_id: str
    device: str
    category: str | None
    is_enabled: bool


class HomeAssistant:
    """A Home Assistant at an address."""

    url: str
    token: str

    def _client(self) -> httpx.Client:
        headers = {"Authorization": f"Bearer {self.token}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=_ANSWER_TIMEOUT_S, trust_env=False)

    def _get(self, path: str) -> httpx.Response:
        with self._client() as client:
            return client.get(path)

    def is_running(self) -> bool:
        """Whether it has started everything."""
        answer = self._get("/api/config")
        return answer.status_code == httpx.codes.OK and answer.json()["state"] == "RUNNING"

    def states(self) -> dict[str, State]:
        """All states by entity id."""
        answer = self._get("/api/states").raise_for_status()
        return {told["entity_id"]: State(told["state"], told["attributes"]) for told in answer.json()}

    def state(self, entity_id: str) -> State | None:
        """An entity's state; None where there is no such entity."""
        answer = self._get(f"/api/states/{entity_id}")
        if answer.status_code == httpx.codes.NOT_FOUND:
            return None
        told = answer.raise_for_status().json()
        return State(told["state"], told["attributes"])

    def wait_for_state(self, entity_id: str, *states: str, timeout_s: float = 120.0) -> State:
        """Wait until an entity is in one of these states."""
        seen: list[State | None] = [None]

        def is_so() -> bool:
            seen[0] = self.state(entity_id)
            return seen[0] is not None and seen[0].state in states

        try:
            wait_until(is_so, timeout_s=timeout_s, what=f"{entity_id} {' or '.join(states)}")
        except AssertionError as error:
            raise AssertionError(f"{error}: it is {seen[0]}") from None
        assert seen[0] is not None
        return seen[0]

    def call_service(self, name: str, *, entity_id: str | None = None, **fields: object) -> None:
        """Call a service, such as ``switch.turn_on``."""
        body = fields | ({} if entity_id is None else {"entity_id": entity_id})
        with self._client() as client:
            client.post(f"/api/services/{name.replace('.', '/')}", json=body).raise_for_status()

    def picture(self, entity_id: str) -> bytes:
        """The picture of a camera or an image entity; empty while there is none."""
        kind = entity_id.partition(".")[0]
        answer = self._get(f"/api/{kind}_proxy/{entity_id}")
        return answer.content if answer.status_code == httpx.codes.OK else b""

    def ask(self, kind: str, **fields: object) -> dict[str, Any]:
        """Send one command over the WebSocket; the answer, which has its `result`.

        Raises:
            AssertionError: it was refused.
        """
        with self._socket() as socket:
            return _ask(socket, 1, kind, fields)

    def devices(self) -> dict[str, dict[str, Any]]:
        """MQTT's devices by name, as the registry has them."""
        ids = {entity["device_id"] for entity in self._registered()}
        found = self.ask("config/device_registry/list")["result"]
        return {device["name"]: device for device in found if device["id"] in ids}

    def entities(self) -> dict[str, Entity]:
        """MQTT's entities by unique id, as the registry has them."""
        names = {device["id"]: device["name"] for device in self.ask("config/device_registry/list")["result"]}
        return {
            told["unique_id"]: Entity(
                told["entity_id"],
                told["unique_id"],
                names.get(told["device_id"], ""),
                told["entity_category"],
                told["disabled_by"] is None,
            )
            for told in self._registered()
        }

    def _registered(self) -> list[dict[str, Any]]:
        return [told for told in self.ask("config/entity_registry/list")["result"] if told["platform"] == "mqtt"]

    @contextmanager
    def events(self, kind: str) -> Iterator[Iterator[dict[str, Any]]]:
        """What happens from here on, of one kind, such as ``state_changed``; it ends when nothing comes for a time."""
        with self._socket() as socket:
            _ask(socket, 1, "subscribe_events", {"event_type": kind})
            yield _events(socket)

    @contextmanager
    def _socket(self) -> Iterator[Connection]:
        url = f"{self.url.replace('http', 'ws', 1)}/api/websocket"
        with connect(url, open_timeout=_ANSWER_TIMEOUT_S, max_size=None, proxy=None) as socket:
            _receive(socket, "auth_required")
            socket.send(json.dumps({"type": "auth", "access_token": self.token}))
            _receive(socket, "auth_ok")
            yield socket


def _receive(socket: Connection, kind: str) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(socket.recv(_ANSWER_TIMEOUT_S))
    assert told["type"] == kind, told
    return told


def _ask(socket: Connection, number: int, kind: str, fields: Mapping[str, object]) -> dict[str, Any]:
    socket.send(json.dumps({"id": number, "type": kind, **fields}))
    told = _receive(socket, "result")
    assert told["success"], told
    return told


def _events(socket: Connection) -> Iterator[dict[str, Any]]:
    while True:
        yield _receive(socket, "event")["event"]
