"""Which cameras this node watches, and how: its own settings, and over them the site's documents. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from broker.camera_documents import check_document
from broker.messages import CameraDocument
from config import BadPayloadError, ConfigError
from config.cameras import CameraSettings
from edge.registry import apply_document

__all__ = ["Assigned"]


@dataclass(slots=True)
class Assigned:
    """The cameras of a node.

    Attributes:
        node: this machine's name.
        adopts: whether a camera that the node's own settings do not name comes here when a document says so.
        own: the node's own settings.
        documents: the site's last usable word on each camera.
    """

    node: str
    adopts: bool
    own: Mapping[str, CameraSettings]
    documents: dict[str, CameraDocument] = field(default_factory=dict)

    def cameras(self) -> dict[str, CameraSettings]:
        """What is to be watched here. A document that no longer fits to the node's own settings is left out."""
        found = dict(self.own)
        for name, document in self.documents.items():
            if not self._is_ours(name, document):
                found.pop(name, None)
                continue
            try:
                found[name] = apply_document(name, document, self.own.get(name))
            except ConfigError:
                continue
        return found

    def take(self, name: str, document: CameraDocument | None) -> bool:
        """Take the site's word on a camera; None: it says nothing any more.

        Returns:
            Whether it is news to this node.

        Raises:
            BadPayloadError: it cannot be used; the last usable one stays.
        """
        known = self.documents.get(name)
        if document is None:
            return self.documents.pop(name, None) is not None
        check_document(name, document, known)
        if self._is_ours(name, document):
            try:
                apply_document(name, document, self.own.get(name))
            except ConfigError as error:
                raise BadPayloadError(f"revision {document.revision}: {error}") from error
        elif name not in self.own and known is None:
            return False
        self.documents[name] = document
        return document != known

    def _is_ours(self, name: str, document: CameraDocument) -> bool:
        if document.node is None:
            return name in self.own
        return document.node == self.node and (self.adopts or name in self.own)
