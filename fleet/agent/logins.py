"""The logins of this node's cameras: fetched now and then from the authority's door, kept where the edge reads them."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

from broker.identity import identity_folder
from broker.members import PERSON_CERTIFICATE
from broker.messages import NodeProblem
from config import Supervised, VigilError, get_logger
from config.logins import logins_file, read_logins, write_logins
from config.settings import Settings
from fleet.agent.agent import Agent
from fleet.desk import Order

__all__ = ["LoginsOfCameras"]

INTERVAL_S = 180.0
"""Between two fetches where nothing has changed: a new password reaches the node within this."""


class LoginsOfCameras:
    """Fetches them at the start, when the site's word on this node or its cameras changes, and every few minutes.

    Concurrency: a thread of its own; it never stops anything else, and says in the node's report when it fails.

    Args:
        agent: not yet started.
        settings: this node's own.
    """

    def __init__(self, agent: Agent, settings: Settings) -> None:
        self._settings = settings
        self._identity = identity_folder(settings)
        self._problem: NodeProblem | None = None
        self._due = threading.Event()
        self._stop = threading.Event()
        self._thread = Supervised("logins", self._fetch_and_wait, stop=self._stop)
        agent.on_document(lambda _document: self._due.set())
        agent.on_index(self._due.set)

    @property
    def orders(self) -> Mapping[str, Order]:
        """None of its own."""
        return {}

    def start(self) -> None:
        """Begin, where this machine has joined a secure site as a node."""
        if self._settings.bus.url.startswith("mqtts://") and set(self._identity.roles()) - {PERSON_CERTIFICATE}:
            self._thread.start()

    def close(self) -> None:
        """End; a fetch that is under way is left to its timeout."""
        self._stop.set()
        self._due.set()
        self._thread.join(1.0)

    def problems(self) -> Sequence[NodeProblem]:
        """Why the logins are not here, or are those of before."""
        problem = self._problem
        return () if problem is None else (problem,)

    def _fetch_and_wait(self) -> None:
        # Here, not above: only a node of a secure site needs the library for certificates.
        from fleet.nodes.logins import fetch_logins

        self._due.clear()
        path = logins_file(self._settings)
        try:
            logins = fetch_logins(self._identity)
            if logins != read_logins(path):
                write_logins(path, logins)
                get_logger().info("agent.logins", cameras=sorted(logins))
            self._problem = None
        except VigilError as error:
            self._problem = NodeProblem(part="logins", reason=str(error)[:4096])
        except OSError as error:
            self._problem = NodeProblem(part="logins", reason=f"{path} cannot be written ({error.strerror})")
        self._due.wait(INTERVAL_S)
