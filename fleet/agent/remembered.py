"""What an agent must still know after a restart without a broker: the site's word on its node, and whether to rest."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from broker.messages import NodeDocument
from config import get_logger
from config.files import write_atomically

__all__ = ["Remembered"]


class _Content(msgspec.Struct, kw_only=True, omit_defaults=True):
    v: Literal[1] = 1
    document: NodeDocument | None = None
    drained: bool | None = None


class Remembered:
    """A small file in the state folder, replaced in one step.

    Concurrency: one thread.

    Args:
        path: the file; its folder is made when something is kept.

    Attributes:
        document: the site's last usable word on this node.
        drained: what somebody ordered since the site said whether it is to rest; None: what that says holds.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        content = self._read()
        self.document = content.document
        self.drained = content.drained

    def _read(self) -> _Content:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=_Content)
        except FileNotFoundError:
            return _Content()
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            get_logger().error("agent.memory_unreadable", file=str(self._path), error=str(error))
            return _Content()

    def keep(self, document: NodeDocument | None, *, drained: bool | None) -> None:
        """Write down what holds from now on; a disk that refuses is told in the log."""
        self.document, self.drained = document, drained
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            content = msgspec.json.encode(_Content(document=document, drained=drained))
            write_atomically(self._path, msgspec.json.format(content, indent=1))
        except OSError as error:
            get_logger().error("agent.memory_unwritten", file=str(self._path), error=str(error))
