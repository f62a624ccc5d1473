"""One node after the other gets another version; the first that does not do ends it."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime

from broker.asking import Asker
from broker.messages import UpdateReport
from config import PermanentError, TransientError
from config.durations import format_duration
from config.settings import Settings
from config.text import printable
from fleet.nodes.roll import AGENT, Roll
from fleet.registry.folder import RegistryFolder
from fleet.registry.settling import settle

__all__ = ["Rollout"]

_LOOK_S = 0.2
_ORDER_S = 10.0
_CAMERAS_S = 60.0
"""How long cameras that were online may take to be so again."""


class Rollout:
    """Changes versions in the registry, and watches what becomes of it.

    Concurrency: one thread.

    Args:
        settings: the site's.
        folder: its registry.
        roll: what the bus says of nodes; it is kept up to date.
        asker: connected.
        wait_s: seconds for each node.
        tell: gets what a person should see.
    """

    def __init__(
        self,
        settings: Settings,
        folder: RegistryFolder,
        roll: Roll,
        asker: Asker,
        *,
        wait_s: float,
        tell: Callable[[str], None],
    ) -> None:
        self._settings = settings
        self._folder = folder
        self._roll = roll
        self._asker = asker
        self._wait_s = wait_s
        self._tell = tell

    def change(self, node: str, version: str, *, told: str) -> None:
        """Give a node a version, and wait until it runs, with its cameras online.

        Args:
            node: its name.
            version: which one.
            told: stands before what is told of it: ``2/7``.

        Raises:
            PermanentError: it could not, and runs the version from before; its file says that one again.
            TransientError: nothing was heard of it in time.
        """
        before = self._roll.reports[node]
        if before.version == version and (before.update is None or before.update.state != "trying"):
            self._write(node, version)  # its file may ask for one that it could not take
            self._tell(f"{told} {node}: runs {version} already")
            return
        online = self._online(node)
        asked_at = before.at
        self._write(node, version)
        # It may have refused this version before, and would not try it again by itself.
        self._asker.order(node, AGENT, "update", {"version": version}, _ORDER_S)
        self._follow(node, version, asked_at, told)
        lost = self._wait_online(online)
        if lost:
            self._write(node, before.version)
            raise PermanentError(
                f"{node} runs {version}, but {', '.join(lost)} was not online again within "
                f"{format_duration(_CAMERAS_S)}: it goes back to {before.version}; `vigil camera show {lost[0]}` says "
                "why"
            )
        self._tell(f"{told} {node}: runs {version}, {len(online)} cameras online as before")

    def _write(self, node: str, version: str) -> None:
        self._folder.change_node(node, {"version": version})
        settle(self._settings)

    def _follow(self, node: str, version: str, asked_at: datetime, told: str) -> None:
        """Wait for the end of the change.

        Raises:
            PermanentError: it did not do.
            TransientError: nothing was heard in time.
        """
        end_s = time.monotonic() + self._wait_s
        said = ""
        while time.monotonic() < end_s:
            report = self._roll.reports.get(node)
            update = None if report is None else report.update
            if update is None or update.version != version or update.at < asked_at:
                time.sleep(_LOOK_S)
                continue
            if update.state != said:
                said = update.state
                self._tell(f"{told} {node}: {said} {version}")
            if update.state == "done" and report is not None and report.state != "offline":
                return
            if update.state in {"refused", "rolled-back"}:
                self._give_up(node, update)
            time.sleep(_LOOK_S)
        raise TransientError(
            f"{node} is not done within {format_duration(self._wait_s)} and goes on: `vigil node show {node}` says how "
            "far"
        )

    def _give_up(self, node: str, update: UpdateReport) -> None:
        current = update.previous or self._roll.reports[node].version
        self._write(node, current)
        words = "went back to" if update.state == "rolled-back" else "stays at"
        raise PermanentError(
            f"{node} {words} {current}: {printable(update.error, 2000)}. No other node was changed after it"
        )

    def _online(self, node: str) -> tuple[str, ...]:
        return tuple(
            name for name, state in dict(self._roll.states).items() if state.node == node and state.state == "online"
        )

    def _wait_online(self, cameras: tuple[str, ...]) -> list[str]:
        """Those that are not online again in time."""
        end_s = time.monotonic() + _CAMERAS_S
        while True:
            lost = [
                name for name in cameras if (state := self._roll.states.get(name)) is None or state.state != "online"
            ]
            if not lost or time.monotonic() > end_s:
                return lost
            time.sleep(_LOOK_S)
