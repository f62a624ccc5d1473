"""The site's word on a camera, laid over what a site file says of it. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from broker.messages import CameraDocument
from config.cameras import CameraSettings
from config.errors import BadPayloadError, ConfigError
from config.sources import explain_camera

__all__ = ["Brought", "check_document", "lay_over"]


def lay_over(name: str, document: CameraDocument, own: CameraSettings | None, source: str | None) -> CameraSettings:
    """A camera's settings as the site wants them.

    Args:
        name: the camera's name.
        document: what the site says.
        own: what the process's own settings say of the camera; None where they do not name it.
        source: where its pictures come from; None leaves what `own` says, for who does not look there.

    Raises:
        ConfigError: something in the document cannot be used; names the field and the cure.
    """
    if "source" in document.settings:
        raise ConfigError("write it beside `settings`, not in it", field=f"cameras.{name}.source")
    wanted = _laid_over(own, document.settings) if own is not None else dict(document.settings)
    if source is not None:
        wanted["source"] = source
    try:
        return CameraSettings.model_validate(wanted)
    except ValidationError as error:
        raise explain_camera(name, error)[0] from None


def check_document(name: str, document: CameraDocument, known: CameraDocument | None) -> None:
    """Refuse a document that belongs elsewhere, or that is older than the one that holds.

    Args:
        name: the camera whose topic it came on.
        document: what came.
        known: the last usable one.

    Raises:
        BadPayloadError: it cannot be used.
    """
    if document.camera != name:
        raise BadPayloadError(f"the document is of camera {document.camera[:64]!r}, its topic of {name!r}")
    if known is not None and document.revision < known.revision:
        raise BadPayloadError(f"revision {document.revision} is older than {known.revision}, which holds here")


_BROUGHT_MAX = 10_000
"""Anybody with access to the bus may invent names."""


class Brought:
    """Which documents the present connection to the broker has brought.

    Those are there, whatever an index says that is older than they are. A document that is remembered from before, and
    that an index does not name, was taken back while nobody listened.
    """

    def __init__(self) -> None:
        self._connection = 0
        self._names: set[str] = set()

    def note(self, name: str, connection: int) -> None:
        """A document came, or was taken back."""
        self._begin(connection)
        if len(self._names) < _BROUGHT_MAX:
            self._names.add(name)

    def gone(self, known: Iterable[str], index: Collection[str], connection: int) -> list[str]:
        """Which of the known documents are no more.

        Args:
            known: names of documents that are remembered.
            index: what the site names.
            connection: number of the connection that brought the index.
        """
        self._begin(connection)
        return [name for name in known if name not in index and name not in self._names]

    def _begin(self, connection: int) -> None:
        if connection != self._connection:
            self._connection = connection
            self._names.clear()


def _laid_over(below: BaseModel, above: Mapping[str, Any]) -> dict[str, Any]:
    """One section over another. What has names of its own, such as masks, is replaced as a whole."""
    merged: dict[str, Any] = {field: getattr(below, field) for field in type(below).model_fields}
    for field, value in above.items():
        lower = merged.get(field)
        merged[field] = (
            _laid_over(lower, value) if isinstance(lower, BaseModel) and isinstance(value, Mapping) else value
        )
    return merged
