"""The registry on the bus: what the folder says, retained, and nothing else.

What is on the bus is compared with the folder about once a second, and put right where it differs. So it does not
matter what was lost: the broker's database, this process's state, or a change that was made while it did not run.
A document that somebody else has published with a higher revision, such as Kafka's commands, goes into the folder as an
edit; what cannot stand there is published over.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from broker import Bus, Figures, Topic
from broker.messages import CameraDocument, NodeDocument, RegistryIndex
from broker.topics import REGISTRY_CAMERA, REGISTRY_INDEX, REGISTRY_NODE
from config import BadPayloadError, Clock, ConfigError, PermanentError, SystemClock, TransientError, get_logger
from config.files import make_private_folder
from config.logins import logins_file, read_logins, write_logins
from config.registry import CameraEntry, NodeEntry
from config.settings import Settings
from config.supervise import Supervised
from fleet.desk import Order
from fleet.registry.compare import compare
from fleet.registry.documents import camera_changes, camera_document, node_document, says_the_same
from fleet.registry.facts import Facts
from fleet.registry.folder import Held, Registry, RegistryFolder, Trouble
from fleet.registry.published import Published

__all__ = ["Publisher"]

_LOOK_EVERY_S = 1.0
_AGAIN_S = 5.0
"""A document that does not come back from the broker is published again."""
_GONE_S = 0.5
"""For so long a file must be away, or empty, before that counts: editors and git replace one by way of neither."""


Document = CameraDocument | NodeDocument
E = TypeVar("E", CameraEntry, NodeEntry)


@dataclass(frozen=True, slots=True)
class _Sent:
    """What was published last on a topic, and over what; None takes it away."""

    at_s: float
    document: Document | None
    over: Document | None


class Publisher:
    """Keeps the bus as the folder is; a part of the fleet.

    Attributes:
        folder: where people write.
        facts: what the bus has.

    Concurrency: looks on a thread of its own, which also calls who asked for changes.

    Args:
        bus: where documents go; `start` asks for topics there.
        settings: name the folder, and where the state is.
        clock: time.
    """

    def __init__(self, bus: Bus, settings: Settings, clock: Clock | None = None) -> None:
        self.folder = RegistryFolder(settings.fleet.registry)
        self._bus = bus
        self._clock: Clock = clock or SystemClock()
        self._log = get_logger()
        self._wake = threading.Event()
        self._stop = threading.Event()
        self.facts = Facts(bus, self._clock, self._wake.set)
        self._published = Published(settings.state_dir / "fleet" / f"{settings.site}.json")
        self._logins_file = logins_file(settings)
        self._registry = Registry()
        self._callbacks: list[Callable[[Registry], None]] = []
        self._told: dict[str, str] = {}
        self._broken: set[str] = set()
        self._away_s: dict[Path, float] = {}
        self._sent: dict[str, _Sent] = {}
        self._settled = False
        self._version = -1
        self._counts = {"documents_published": 0, "documents_cleared": 0, "documents_taken": 0, "documents_refused": 0}
        self._thread = Supervised("registry", self._look_and_wait, stop=self._stop, clock=self._clock)

    @property
    def registry(self) -> Registry:
        """What the folder says; of a broken file what it said before it broke."""
        return self._registry

    @property
    def settled(self) -> bool:
        """Whether the bus says what the folder says, as of the last look."""
        return self._settled

    @property
    def orders(self) -> Mapping[str, Order]:
        """``sync``: look at the folder now."""
        return {"sync": self._order_sync}

    def on_change(self, callback: Callable[[Registry], None]) -> None:
        """Call `callback` with what the folder says, first when it was read and then whenever that is different."""
        self._callbacks.append(callback)

    def start(self) -> None:
        """Begin to look."""
        self.listen()
        self._thread.start()

    def listen(self) -> None:
        """Ask for what is retained; who looks by himself needs no more."""
        self.facts.start()

    def close(self) -> None:
        """End."""
        self._stop.set()
        self._wake.set()
        self._thread.join(5.0)

    def figures(self) -> Figures:
        """How many documents there are, and what became of them."""
        registry = self._registry
        return Figures(
            counts={
                **self._counts,
                "registry_cameras": len(registry.cameras),
                "registry_nodes": len(registry.nodes),
                "registry_broken": len(registry.troubles),
            }
        )

    def look(self) -> None:
        """Compare folder and bus once, and put right what differs.

        Concurrency: one thread.

        Raises:
            PermanentError: the folder cannot be made.
            TransientError: the state folder cannot be written.
        """
        if not self._is_there():
            return
        changed = self._read()
        complete, version = self.facts.complete, self.facts.version
        if complete and version != self._version and self._take_others():
            changed |= self._read()
        self._keep_logins()
        if changed:
            self._settled = False
            for callback in self._callbacks:
                callback(self._registry)
        if not complete or (self._settled and not changed and version == self._version):
            return
        self._version = version
        self._put_right()

    def _look_and_wait(self) -> None:
        self.look()
        self._wake.wait(_GONE_S if self._away_s else _LOOK_EVERY_S)
        self._wake.clear()

    def _order_sync(self, _arguments: Mapping[str, str]) -> Mapping[str, str]:
        self._wake.set()
        return {kind: str(count) for kind, count in self.figures().counts.items()}

    # --- the folder ------------------------------------------------------------------------------------------------

    def _is_there(self) -> bool:
        """Whether there is a folder. Where its disk is away, what was published of it stays."""
        path = self.folder.path
        if path.is_dir():
            self._told.pop("folder", None)
            return True
        if self._published.cameras or self._published.nodes:
            if self._is_news("folder", str(path)):
                self._log.warning("registry.folder_missing", folder=str(path))
            return False
        try:
            make_private_folder(path)
        except OSError as error:
            raise PermanentError(
                f"{path}: cannot be made ({error.strerror}): name another in fleet.registry"
            ) from error
        return True

    def _read(self) -> bool:
        """Read the folder; whether it says something else than before."""
        read = self.folder.read()
        self._tell_troubles(read.troubles)
        before = self._registry
        cameras, nodes, site = dict(read.cameras), dict(read.nodes), read.site
        for trouble in read.troubles:
            if trouble.kind == "camera" and trouble.name in before.cameras:
                cameras[trouble.name] = before.cameras[trouble.name]
            elif trouble.kind == "node" and trouble.name in before.nodes:
                nodes[trouble.name] = before.nodes[trouble.name]
            elif trouble.kind == "site":
                site = before.site
        self._keep_away(before.cameras, cameras)
        self._keep_away(before.nodes, nodes)
        self._registry = Registry(cameras, nodes, site, read.troubles)
        return self._registry != before

    def _keep_away(self, before: Mapping[str, Held[E]], read: dict[str, Held[E]]) -> None:
        """What files said that are away or empty, but only just: it holds until they are so for longer."""
        now_s = self._clock.monotonic_s()
        for name, held in before.items():
            found = read.get(name)
            if found is not None and (found.text.strip() or not held.text.strip()):
                self._away_s.pop(held.file, None)
            elif now_s - self._away_s.setdefault(held.file, now_s) < _GONE_S:
                read[name] = held
            else:
                del self._away_s[held.file]

    def _tell_troubles(self, troubles: tuple[Trouble, ...]) -> None:
        broken = {str(trouble.file): str(trouble.error) for trouble in troubles}
        for file in self._broken - broken.keys():
            self._told.pop(file, None)
            self._log.info("registry.file_mended", file=file)
        self._broken = set(broken)
        for file, error in broken.items():
            if self._is_news(file, error):
                self._log.warning("registry.file_broken", error=error)

    def _is_news(self, about: str, fault: str) -> bool:
        """Whether this was not said yet: a fault is logged once for as long as it stays the same."""
        if self._told.get(about) == fault:
            return False
        self._told[about] = fault
        return True

    def _keep_logins(self) -> None:
        """The logins where the cameras' processes of this machine read them."""
        try:
            logins = dict(self.folder.logins())
        except ConfigError:
            return  # told among the troubles; what it said before holds
        try:
            known = read_logins(self._logins_file)
        except ConfigError:
            known = None
        if known == logins:
            return
        try:
            write_logins(self._logins_file, logins)
        except OSError as error:
            raise TransientError(f"{self._logins_file}: cannot be written ({error.strerror})") from error

    # --- what others say ---------------------------------------------------------------------------------------------

    def _take_others(self) -> bool:
        """Write into the folder what others have said of cameras; whether anything was."""
        taken = False
        if self.facts.take_kept():
            self._log.error("registry.another", registry=str(self.folder.path))
        for name in self.facts.take_gone():
            if name in self._registry.cameras and name in self._published.cameras:
                self._remove(name)
                taken = True
        for name, document in self.facts.cameras.items():
            if self._is_of_another(name, document):
                taken |= self._take(name, document)
        return taken

    def _is_of_another(self, name: str, document: CameraDocument) -> bool:
        ours, index = self._published.cameras.get(name), self.facts.index
        if self._is_broken("camera", name) or (ours is not None and document.revision <= ours.revision):
            return False
        file = self.folder.camera_file(name)
        if not file.exists():
            return ours is not None or index is None or name not in index.cameras
        try:  # anew: a command may have written it and published it since it was read
            said = camera_document(name, self.folder.camera(name).entry, 0)
        except (ConfigError, PermanentError):
            return False
        return ours is not None and not says_the_same(said, document)

    def _is_broken(self, kind: str, name: str) -> bool:
        return any(trouble.kind == kind and trouble.name == name for trouble in self._registry.troubles)

    def _take(self, name: str, document: CameraDocument) -> bool:
        try:
            self.folder.change_camera(name, camera_changes(self._published.cameras.get(name), document))
        except (ConfigError, PermanentError) as error:
            self._counts["documents_refused"] += 1
            self._log.warning("registry.document_refused", camera=name, revision=document.revision, error=str(error))
            self._published.keep_camera(name, document)  # seen: from here on the folder's word goes over it
            return False
        self._counts["documents_taken"] += 1
        self._log.info("registry.document_taken", camera=name, revision=document.revision)
        self._published.keep_camera(name, document)
        return True

    def _remove(self, name: str) -> None:
        self._published.keep_camera(name, None)
        self._away_s[self.folder.camera_file(name)] = float("-inf")
        try:
            self.folder.remove_camera(name)
        except (ConfigError, PermanentError) as error:
            self._log.warning("registry.document_refused", camera=name, revision=None, error=str(error))
            return
        self._log.info("registry.camera_removed", camera=name)

    # --- the bus -----------------------------------------------------------------------------------------------------

    def _put_right(self) -> None:
        site, published = self._bus.site, self._published
        self._publish_index()
        cameras, nodes = self.facts.cameras, self.facts.nodes
        for name, held in self._registry.cameras.items():
            known = cameras.get(name)
            wanted = camera_document(name, held.entry, self._revision(known, published.cameras.get(name)))
            if self._put(REGISTRY_CAMERA.at(site, camera=name), wanted, known):
                published.keep_camera(name, wanted)
            elif known is not None and says_the_same(wanted, known):
                published.keep_camera(name, known)
        for name, node in self._registry.nodes.items():
            asked = node_document(name, node.entry, self._revision(nodes.get(name), published.nodes.get(name)))
            if self._put(REGISTRY_NODE.at(site, node=name), asked, nodes.get(name)):
                published.keep_node(name, asked)
        self._clear_gone(cameras, nodes)
        published.save()
        self._settled = self._is_settled()

    def _revision(self, *known: Document | None) -> int:
        """One that is larger than every one before, also where all that remembers them is lost."""
        before = max((document.revision for document in known if document is not None), default=0)
        return max(before + 1, int(self._clock.now().timestamp() * 1000))

    def _put(self, topic: Topic, wanted: Document, known: Document | None) -> bool:
        """Publish a document that the bus does not have; whether it was published."""
        if says_the_same(wanted, known):
            self._sent.pop(str(topic), None)
            return False
        if not self._is_due(topic, known, wanted):
            return False
        try:
            self._bus.publish(topic, wanted)
        except BadPayloadError as error:
            if self._is_news(str(topic), error.reason):
                self._log.warning("registry.document_too_large", topic=str(topic), error=error.reason)
            return False
        # What is told again after a reconnect is what the folder says then.
        self._bus.disown(topic)
        self._counts["documents_published"] += 1
        self._log.info("registry.published", topic=str(topic), revision=wanted.revision)
        return True

    def _clear_gone(self, cameras: Mapping[str, Document], nodes: Mapping[str, Document]) -> None:
        """Take away what there is no file of. A broken file is one."""
        for name in cameras.keys() | self._published.cameras.keys():
            if name not in self._registry.cameras and not self._is_broken("camera", name):
                self._published.keep_camera(name, None)
                if name in cameras:
                    self._clear(REGISTRY_CAMERA.at(self._bus.site, camera=name), cameras[name])
        for name in nodes.keys() | self._published.nodes.keys():
            if name not in self._registry.nodes and not self._is_broken("node", name):
                self._published.keep_node(name, None)
                if name in nodes:
                    self._clear(REGISTRY_NODE.at(self._bus.site, node=name), nodes[name])

    def _clear(self, topic: Topic, known: Document) -> None:
        if not self._is_due(topic, known, None):
            return
        if topic.spec is REGISTRY_CAMERA:
            self.facts.will_clear(topic.camera)
        self._bus.publish(topic, b"")
        self._bus.disown(topic)
        self._counts["documents_cleared"] += 1
        self._log.info("registry.cleared", topic=str(topic))

    def _is_due(self, topic: Topic, known: Document | None, wanted: Document | None) -> bool:
        """Whether something is to be published, or was and has not come back for long; then it counts as published."""
        now_s = self._clock.monotonic_s()
        sent = self._sent.get(str(topic))
        if sent is not None and now_s - sent.at_s < _AGAIN_S and sent.over == known:
            same = says_the_same(wanted, sent.document) if wanted is not None else sent.document is None
            if same:
                return False
        self._sent[str(topic)] = _Sent(now_s, wanted, known)
        return True

    def _publish_index(self) -> None:
        """Say what there is, before its documents: nobody forgets what is about to come."""
        cameras, nodes = self._names()
        index = self.facts.index
        if index is None or (index.cameras, index.nodes) != (cameras, nodes):
            before = 0 if index is None else index.revision
            now = self._clock.now()
            revision = max(before + 1, int(now.timestamp() * 1000))
            topic = REGISTRY_INDEX.at(self._bus.site)
            self.facts.will_index(revision)
            self._bus.publish(topic, RegistryIndex(revision=revision, at=now, cameras=cameras, nodes=nodes))
            self._bus.disown(topic)

    def _names(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The cameras and nodes that have a file, broken or not."""
        cameras, nodes = set(self._registry.cameras), set(self._registry.nodes)
        cameras |= {trouble.name for trouble in self._registry.troubles if trouble.kind == "camera"}
        nodes |= {trouble.name for trouble in self._registry.troubles if trouble.kind == "node"}
        return tuple(sorted(cameras)), tuple(sorted(nodes))

    def _is_settled(self) -> bool:
        index = self.facts.index
        if index is None or (index.cameras, index.nodes) != self._names():
            return False
        return not compare(self._registry, self.facts.cameras, self.facts.nodes)
