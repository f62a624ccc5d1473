"""What is retained of the registry on the bus, as one process has heard it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping

from broker import Bus, Delivery
from broker.messages import CameraDocument, NodeDocument, RegistryIndex
from broker.topics import REGISTRY_CAMERA, REGISTRY_INDEX, REGISTRY_NODE
from config import Clock

__all__ = ["Facts"]

_FACTS_S = 2.0
"""What is retained has come by then on a new connection, where no index says when that is."""
_ANOTHERS_S = 5.0
"""Who publishes a registry of his own says what it has, and clears what it has not within this."""
_INDEXES_MAX = 16


class Facts:
    """What is retained on the bus of the registry.

    Concurrency: any thread asks; the bus's tells.

    Args:
        bus: asked for the topics by `start`.
        clock: time.
        on_change: called on the bus's thread when something came.

    Attributes:
        version: another one whenever something came.
    """

    def __init__(self, bus: Bus, clock: Clock, on_change: Callable[[], None] = lambda: None) -> None:
        self._bus = bus
        self._clock = clock
        self._on_change = on_change
        self.version = 0
        self._lock = threading.Lock()
        self._connection = -1
        self._connected_s = 0.0
        self._cameras: dict[str, CameraDocument] = {}
        self._nodes: dict[str, NodeDocument] = {}
        self._index: RegistryIndex | None = None
        self._gone: set[str] = set()
        self._clears: dict[str, int] = {}
        self._indexes: deque[int] = deque(maxlen=_INDEXES_MAX)
        self._another_s = float("-inf")
        self._kept = False

    def start(self) -> None:
        """Ask for what is retained; before the bus starts."""
        self._bus.subscribe(REGISTRY_CAMERA, self._on_camera)
        self._bus.subscribe(REGISTRY_NODE, self._on_node)
        self._bus.subscribe(REGISTRY_INDEX, self._on_index)

    @property
    def complete(self) -> bool:
        """Whether everything that is retained has come, as far as one can tell."""
        with self._lock:
            self._look()
            if not self._bus.connected:
                return False
            index = self._index
            if index and self._cameras.keys() >= set(index.cameras) and self._nodes.keys() >= set(index.nodes):
                return True
            return self._clock.monotonic_s() - self._connected_s >= _FACTS_S

    @property
    def cameras(self) -> Mapping[str, CameraDocument]:
        """Documents of cameras, by name."""
        with self._lock:
            return dict(self._cameras)

    @property
    def nodes(self) -> Mapping[str, NodeDocument]:
        """Documents of nodes, by name."""
        with self._lock:
            return dict(self._nodes)

    @property
    def index(self) -> RegistryIndex | None:
        """What there is of both."""
        with self._lock:
            return self._index

    def take_gone(self) -> set[str]:
        """Cameras whose documents somebody else has cleared since the last call."""
        with self._lock:
            gone, self._gone = self._gone, set()
        return gone

    def take_kept(self) -> bool:
        """Whether another registry than this has cleared documents since the last call; they count as not gone."""
        with self._lock:
            kept, self._kept = self._kept, False
        return kept

    def will_index(self, revision: int) -> None:
        """This process is about to say what there is."""
        with self._lock:
            self._indexes.append(revision)

    def will_clear(self, camera: str) -> None:
        """This process is about to clear a camera's document: what comes back of that is not somebody else's."""
        with self._lock:
            self._clears[camera] = self._clears.get(camera, 0) + 1

    def _look(self) -> None:
        """On a new connection nothing is known: the broker may have lost everything."""
        if self._bus.connections != self._connection:
            self.version += 1
            self._connection, self._connected_s = self._bus.connections, self._clock.monotonic_s()
            self._index = None
            for known in (self._cameras, self._nodes, self._gone, self._clears):
                known.clear()

    def _on_camera(self, delivery: Delivery) -> None:
        name, content = delivery.topic.camera, delivery.content
        with self._lock:
            self._look()
            self.version += 1
            if isinstance(content, CameraDocument):
                self._cameras[name] = content
                self._gone.discard(name)
            elif content is None:
                self._cameras.pop(name, None)
                if self._clears.get(name, 0):
                    self._clears[name] -= 1
                elif self._clock.monotonic_s() - self._another_s < _ANOTHERS_S:
                    self._kept = True
                else:
                    self._gone.add(name)
        self._on_change()

    def _on_node(self, delivery: Delivery) -> None:
        name, content = delivery.topic.params["node"], delivery.content
        with self._lock:
            self._look()
            self.version += 1
            if isinstance(content, NodeDocument):
                self._nodes[name] = content
            elif content is None:
                self._nodes.pop(name, None)
        self._on_change()

    def _on_index(self, delivery: Delivery) -> None:
        with self._lock:
            self._look()
            self.version += 1
            index = delivery.content
            if isinstance(index, RegistryIndex | None):
                self._index = index
            if isinstance(index, RegistryIndex) and not delivery.retained and index.revision not in self._indexes:
                self._another_s = self._clock.monotonic_s()
        self._on_change()
