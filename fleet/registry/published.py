"""What this site's fleet has published last, on disk.

With it a document that somebody else has published while nobody looked is told from an old one of our own, and his
change from the rest of what he published. Without it, which does no harm, the folder's word goes over both.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from broker.messages import CameraDocument, NodeDocument, decode_json, encode_json
from broker.messages.base import Message
from config import BadPayloadError, TransientError, get_logger
from config.files import make_private_folder, write_atomically

__all__ = ["Published"]

_BYTES_MAX = 256 * 1024 * 1024


class _Kept(Message, frozen=True, kw_only=True):
    cameras: dict[str, CameraDocument]
    nodes: dict[str, NodeDocument]


class Published:
    """Documents by name, as they were published last.

    Concurrency: one thread.

    Args:
        file: where they are kept.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        kept = _read(file)
        self._cameras, self._nodes = dict(kept.cameras), dict(kept.nodes)
        self._is_saved = True

    @property
    def cameras(self) -> Mapping[str, CameraDocument]:
        """Those of cameras."""
        return self._cameras

    @property
    def nodes(self) -> Mapping[str, NodeDocument]:
        """Those of nodes."""
        return self._nodes

    def keep_camera(self, name: str, document: CameraDocument | None) -> None:
        """Remember a camera's; None forgets it."""
        if self._cameras.get(name) != document:
            self._is_saved = False
            if document is None:
                del self._cameras[name]
            else:
                self._cameras[name] = document

    def keep_node(self, name: str, document: NodeDocument | None) -> None:
        """Remember a node's; None forgets it."""
        if self._nodes.get(name) != document:
            self._is_saved = False
            if document is None:
                del self._nodes[name]
            else:
                self._nodes[name] = document

    def save(self) -> None:
        """Put what has changed on disk.

        Raises:
            TransientError: the state folder cannot be written.
        """
        if self._is_saved:
            return
        try:
            make_private_folder(self._file.parent)
            write_atomically(self._file, encode_json(_Kept(cameras=self._cameras, nodes=self._nodes)))
        except OSError as error:
            raise TransientError(f"{self._file}: cannot be written ({error.strerror}): check its folder") from error
        self._is_saved = True


def _read(file: Path) -> _Kept:
    try:
        return decode_json(_Kept, file.read_bytes(), max_bytes=_BYTES_MAX)
    except FileNotFoundError:
        return _Kept(cameras={}, nodes={})
    except (OSError, BadPayloadError) as error:
        get_logger().info("registry.memory_lost", file=str(file), error=str(error))
        return _Kept(cameras={}, nodes={})
