"""Schemas of all messages, made known to a schema registry, for tools that look them up there.

A subject is the record's name (RecordNameStrategy), since several kinds of message share a topic: a registry's usual
subject, the topic's name, would have room for one. Values in Kafka are plain JSON, without the five bytes that a
registry's own serialisers put before them; `ce_dataschema` names the schema.

Source: Confluent Schema Registry API, "Register a new schema under the specified subject".
"""

from __future__ import annotations

import base64
import json
import ssl
import threading
import urllib.error
import urllib.request
from collections import deque
from http import HTTPStatus
from urllib.parse import quote

from broker.messages import Message
from broker.schemas import message_kinds, schema_text
from config import Clock, ConfigError, Supervised, TransientError, get_logger
from config.outside import SchemaRegistrySettings

__all__ = ["SchemaRegistration", "subject_of"]

_TIMEOUT_S = 10.0
_ANSWER_BYTES_MAX = 65_536
_TYPE = "application/vnd.schemaregistry.v1+json"
_STRANGER = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN})
_AGAIN = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS})


def subject_of(kind: type[Message]) -> str:
    """The subject of a message's schema; of another `v` it would be another."""
    return f"io.vigil.v1.{kind.__name__}"


class SchemaRegistration:
    """Registers all schemas once, beside everything else: no escalation waits for it.

    Concurrency: one thread of its own, which ends when all is said.

    Args:
        settings: where the registry is.
        clock: time.
    """

    def __init__(self, settings: SchemaRegistrySettings, *, clock: Clock | None = None) -> None:
        self._settings = settings
        self._left = deque(message_kinds())
        self._registered = 0
        self._opener = urllib.request.build_opener()
        self._log = get_logger(registry=settings.url)
        self._stop = threading.Event()
        self._thread = Supervised("schemas", self._register_next, stop=self._stop, clock=clock)

    def start(self) -> None:
        """Begin; what is away is asked again until it answers.

        Raises:
            ConfigError: the file with its certificates cannot be read.
        """
        self._opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=self._context()))
        self._thread.start()

    def close(self) -> None:
        """End it, whatever is left."""
        self._stop.set()
        self._thread.join(1.0)

    def wait_ended(self, timeout_s: float) -> bool:
        """Wait at most `timeout_s` until all is said; True when it is."""
        return self._thread.join(timeout_s)

    def _context(self) -> ssl.SSLContext:
        file = self._settings.ca_file
        try:
            return ssl.create_default_context(cafile=file)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"{file}: {error}", field="bridge.kafka.schema_registry.ca_file") from error

    def _register_next(self) -> None:
        if not self._left:
            self._log.info("schemas.registered", count=self._registered)
            self._stop.set()
            return
        kind = self._left[0]
        status, answer = self._post(kind)
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in _AGAIN:
            raise TransientError(f"the schema registry at {self._settings.url} answered {status}: {answer}")
        if status == HTTPStatus.OK:
            self._registered += 1
        else:
            cure = _cure(status)
            self._log.error("schemas.refused", subject=subject_of(kind), status=status, answer=answer, cure=cure)
        if status in _STRANGER:
            self._stop.set()
        self._left.popleft()

    def _post(self, kind: type[Message]) -> tuple[int, str]:
        """Status and beginning of the answer."""
        body = json.dumps({"schemaType": "JSON", "schema": schema_text(kind)}).encode()
        url = f"{self._settings.url}/subjects/{quote(subject_of(kind), safe='')}/versions"
        request = urllib.request.Request(url, body, self._headers(), method="POST")  # noqa: S310 - http(s), as checked
        try:
            with self._opener.open(request, timeout=_TIMEOUT_S) as response:
                return response.status, response.read(_ANSWER_BYTES_MAX).decode("utf-8", "replace")
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read(_ANSWER_BYTES_MAX).decode("utf-8", "replace")[:500]
        except OSError as error:
            reason = getattr(error, "reason", error)
            raise TransientError(
                f"no schema registry answers at {self._settings.url} ({reason}): check "
                "bridge.kafka.schema_registry, and that it is up; escalations do not wait for it"
            ) from error

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": _TYPE, "Accept": _TYPE}
        if self._settings.username is not None:
            secret = self._settings.password.get_secret_value() if self._settings.password else ""
            login = base64.b64encode(f"{self._settings.username}:{secret}".encode()).decode()
            headers["Authorization"] = f"Basic {login}"
        return headers


def _cure(status: int) -> str:
    if status in _STRANGER:
        return "check username and password in bridge.kafka.schema_registry, and its rights there"
    if status == HTTPStatus.CONFLICT:
        return (
            "the registry holds an older schema and takes only what it calls compatible: set the subject's "
            "compatibility to NONE there; Vigil only ever adds fields that may be missing"
        )
    return "see the registry's own log"
