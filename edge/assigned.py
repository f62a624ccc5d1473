"""Which cameras this node watches, and how: its own settings, and over them the site's documents. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from broker.camera_documents import check_document
from broker.messages import CameraDocument
from config import BadPayloadError, ConfigError
from config.cameras import CameraSettings
from config.registry import Login
from edge.registry import apply_document

__all__ = ["Assigned"]

_FOREIGN_MAX = 1000
"""Cameras of pools that are not this node's, in case they become its; anybody with access to the bus may invent
names."""


@dataclass(slots=True)
class Assigned:
    """The cameras of a node.

    Attributes:
        node: this machine's name.
        adopts: whether a camera that the node's own settings do not name comes here when a document says so.
        own: the node's own settings.
        documents: the site's last usable word on each camera.
        pools: pools of cameras in which this node takes part.
        logins: of cameras, as the site has sent them.
        refused: words of the site that cannot be used, and why; newer than those in `documents`.
    """

    node: str
    adopts: bool
    own: Mapping[str, CameraSettings]
    documents: dict[str, CameraDocument] = field(default_factory=dict)
    pools: tuple[str, ...] = ()
    logins: Mapping[str, Login] = field(default_factory=dict)
    refused: dict[str, tuple[CameraDocument, str]] = field(default_factory=dict)

    def cameras(self, shared: Collection[str] = ()) -> dict[str, CameraSettings]:
        """What is to be watched here. A document that no longer fits to the node's own settings is left out.

        Args:
            shared: cameras of its pools that have fallen to this node.
        """
        found = dict(self.own)
        for name, document in self.documents.items():
            if not self._is_ours(name, document, shared):
                found.pop(name, None)
                continue
            try:
                found[name] = self._applied(name, document)
            except ConfigError:
                continue
        return found

    def troubles(self, shared: Collection[str] = ()) -> dict[str, str]:
        """What is wrong with the site's newest word on cameras that are this node's by it, or were before."""
        found = {}
        for name, document in self.documents.items():
            if self._is_ours(name, document, shared):
                try:
                    self._applied(name, document)
                except ConfigError as error:
                    found[name] = f"revision {document.revision}: {error}"
        for name, (document, reason) in self.refused.items():
            known = self.documents.get(name)
            if self._is_ours(name, document, shared) or (known and self._is_ours(name, known, shared)):
                found[name] = reason
        return found

    def pooled(self) -> dict[str, str]:
        """The pool of each camera that this node shares with others, also of one that it could not watch now."""
        if not self.adopts:
            return {}
        newest = {name: document for name, (document, _) in self.refused.items()} | self.documents
        return {
            name: document.pool
            for name, document in newest.items()
            if document.pool is not None and document.pool in self.pools and not document.excluded
        }

    def kept(self) -> dict[str, CameraDocument]:
        """What must still be known after a restart without a broker."""
        return {
            name: document
            for name, document in self.documents.items()
            if name in self.own or document.pool is None or document.pool in self.pools
        }

    def take(self, name: str, document: CameraDocument | None) -> bool:
        """Take the site's word on a camera; None: it says nothing any more.

        Returns:
            Whether it is news to this node.

        Raises:
            BadPayloadError: it cannot be used; the last usable one stays.
        """
        known = self.documents.get(name)
        if document is None:
            was_refused = self.refused.pop(name, None) is not None
            return self.documents.pop(name, None) is not None or was_refused
        check_document(name, document, known)
        if not document.excluded and self._may_be_ours(name, document):
            try:
                self._applied(name, document)
            except ConfigError as error:
                reason = f"revision {document.revision}: {error}"
                self.refused[name] = (document, reason)
                raise BadPayloadError(reason) from error
        elif name not in self.own and known is None and not self._is_kept_in_case(document):
            return self.refused.pop(name, None) is not None
        was_refused = self.refused.pop(name, None) is not None
        self.documents[name] = document
        return was_refused or document != known

    def forget(self, names: Iterable[str]) -> None:
        """The site took its word on these back while nobody listened."""
        for name in names:
            self.take(name, None)

    def _applied(self, name: str, document: CameraDocument) -> CameraSettings:
        return apply_document(name, document, self.own.get(name), self.logins.get(name))

    def _may_be_ours(self, name: str, document: CameraDocument) -> bool:
        return self._is_ours(name, document, (name,))

    def _is_ours(self, name: str, document: CameraDocument, shared: Collection[str]) -> bool:
        if document.excluded:
            return False
        if document.pool is not None:
            return self.adopts and document.pool in self.pools and name in shared
        if document.node is None:
            return name in self.own
        return document.node == self.node and (self.adopts or name in self.own)

    def _is_kept_in_case(self, document: CameraDocument) -> bool:
        """This node may learn of its pools after it has learned of their cameras."""
        return self.adopts and document.pool is not None and len(self.documents) < _FOREIGN_MAX
