"""The processes of a node: what runs is made to be what is wanted, one step at each look."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from broker.messages import NodeProblem, RoleReport
from config import Clock, get_logger
from config.process import STEADY_S, Departure, RoleProcess
from fleet.agent.pulse import Pulse
from fleet.agent.wanted import WantedRole, stop_rank

__all__ = ["Crew", "MakeProcess"]

STOP_S = 8.0
"""Seconds for the orderly end of one role: a detector drains its outbox for 2 s and finishes a batch."""
RETRY_S = 300.0
"""Seconds after which a role that gave up is tried again: nobody is there to do it, and a package or a model may have
come by then."""

RoleState = Literal["running", "starting", "waiting", "stopped", "failed"]
AGAIN_S = 10.0
"""Seconds after which one that could not even be started is tried again."""

MakeProcess = Callable[[WantedRole, Pulse], RoleProcess]
"""Makes the process of a role, not yet started."""


@dataclass(slots=True)
class _Post:
    """One role: what is wanted of it, and what runs.

    Attributes:
        wanted: None: it is to go.
        of: what `process` was made of.
        restart: somebody ordered another start.
        has_hung: its process was killed because it hung.
        kill_at_s: when an end that was asked for has taken too long.
        retry_at_s: when one that gave up is tried again.
    """

    pulse: Pulse
    wanted: WantedRole | None = None
    of: WantedRole | None = None
    process: RoleProcess | None = None
    pid: int | None = None
    since: datetime | None = None
    restart: bool = False
    has_hung: bool = False
    kill_at_s: float | None = None
    retry_at_s: float | None = None
    restarts: int = 0
    error: str = ""


class Crew:
    """The processes of a node.

    Concurrency: one thread.

    Args:
        make: makes a process.
        sockets: a folder for their notify sockets.
        patience_s: seconds of silence after which one hangs.
        clock: time.

    Attributes:
        resting: nothing is to run for now.
        hung: how many processes were killed because they hung.
    """

    def __init__(self, make: MakeProcess, sockets: Path, patience_s: float, clock: Clock) -> None:
        self._make = make
        self._sockets = sockets
        self._patience_s = patience_s
        self._clock = clock
        self._log = get_logger()
        self._posts: dict[str, _Post] = {}
        self.resting = False
        self.hung = 0

    def want(self, wanted: Mapping[str, WantedRole]) -> None:
        """Say what is to run from now on, in the order of starting."""
        gone = {name: post for name, post in self._posts.items() if name not in wanted}
        for post in gone.values():
            post.wanted = None
        posts: dict[str, _Post] = {}
        for name, role in wanted.items():
            post = self._posts.get(name) or _Post(Pulse(self._sockets / name, self._patience_s))
            if post.wanted != role:
                post.wanted, post.retry_at_s, post.error = role, None, ""
            posts[name] = post
        self._posts = posts | gone

    def restart(self, name: str | None) -> list[str]:
        """Start a role again, or all of them; returns which."""
        names = [role for role, post in self._posts.items() if post.wanted and name in (None, role)]
        for role in names:
            self._posts[role].restart = True
            self._posts[role].retry_at_s = None
        return names

    @property
    def names(self) -> tuple[str, ...]:
        """Every role that is wanted, or still runs."""
        return tuple(self._posts)

    @property
    def is_idle(self) -> bool:
        """Whether nothing runs."""
        return all(post.process is None for post in self._posts.values())

    def tend(self) -> None:
        """Take one step from what runs to what is wanted, and look after what runs."""
        now_s = self._clock.monotonic_s()
        ending = [name for name, post in self._posts.items() if self._is_to_end(post)]
        for name, post in list(self._posts.items()):
            if name in ending:
                # One after the other, along the data's way.
                if stop_rank(name) == min(stop_rank(other) for other in ending):
                    self._end(name, post, now_s)
                continue
            try:
                self._tend_post(name, post, now_s)
            except OSError as error:  # no disk for its log, no such program: the others go on
                self._give_up(post, f"it cannot be started: {error}", now_s + AGAIN_S)

    def _tend_post(self, name: str, post: _Post, now_s: float) -> None:
        if post.process is not None:
            self._look_after(name, post, post.process, now_s)
        elif post.wanted is None:
            post.pulse.close()
            del self._posts[name]
        elif not self.resting and (post.retry_at_s is None or now_s >= post.retry_at_s):
            self._begin(name, post, post.wanted, now_s)

    def _give_up(self, post: _Post, error: str, retry_at_s: float) -> None:
        if post.process is not None:
            post.restarts += post.process.restarts
            post.process.wait_stopped(0.0)
        post.process = post.of = post.pid = post.since = None
        post.error, post.retry_at_s = error, retry_at_s

    def _is_to_end(self, post: _Post) -> bool:
        return post.process is not None and (self.resting or post.restart or post.wanted != post.of)

    def _begin(self, name: str, post: _Post, wanted: WantedRole, now_s: float) -> None:
        post.process, post.of = self._make(wanted, post.pulse), wanted
        post.restart, post.retry_at_s, post.error = False, None, ""
        self._log.info("agent.role_started", role=name)
        post.process.start(now_s)
        self._note_start(post, post.process)

    def _note_start(self, post: _Post, process: RoleProcess) -> None:
        post.pulse.begin()
        post.has_hung = False
        post.pid, post.since = process.pid, self._clock.now()

    def _end(self, name: str, post: _Post, now_s: float) -> None:
        process = post.process
        if process is None:
            return
        if post.kill_at_s is None:
            post.kill_at_s = now_s + STOP_S
            process.ask_to_stop()
        elif not process.running or now_s >= post.kill_at_s:
            ended = process.wait_stopped(0.0)
            self._log.info("agent.role_stopped", role=name, killed=not ended)
            post.restarts += process.restarts + (1 if post.restart else 0)
            post.process = post.of = post.pid = post.since = post.kill_at_s = None

    def _look_after(self, name: str, post: _Post, process: RoleProcess, now_s: float) -> None:
        departure = process.tend(now_s)
        if departure is not None:
            self._note_departure(name, post, departure, now_s)
            return
        if process.pid is not None and process.pid != post.pid:
            self._note_start(post, process)
        post.pulse.listen(now_s)
        if post.pulse.ready:
            process.has_worked, post.error = True, ""
        if post.pulse.hangs(now_s) and not post.has_hung:
            post.has_hung = True
            self.hung += 1
            self._log.error("agent.role_hung", role=name, pid=process.pid, silent_s=self._patience_s)
            process.kill()

    def _note_departure(self, name: str, post: _Post, departure: Departure, now_s: float) -> None:
        post.error = "it hung, and was killed" if post.has_hung else departure.words or departure.reason
        post.pid = post.since = None
        post.pulse.begin()
        self._log.warning(
            "agent.role_ended", role=name, reason=departure.reason, error=departure.words, for_good=departure.for_good
        )
        if departure.for_good:
            self._give_up(post, post.error, now_s + RETRY_S)

    def reports(self) -> dict[str, RoleReport]:
        """How each role is."""
        return {name: self._report(post) for name, post in self._posts.items()}

    def _report(self, post: _Post) -> RoleReport:
        process = post.process
        running = process is not None and process.running
        of = post.of or post.wanted
        return RoleReport(
            state=self._state(post, running=running),
            runtime="container" if of is not None and of.image else "process",
            pid=process.pid if running and process is not None and not (of and of.image) else None,
            since=post.since,
            restarts=post.restarts + (process.restarts if process is not None else 0),
            error=post.error[:4096],
        )

    def _state(self, post: _Post, *, running: bool) -> RoleState:
        if post.process is None:
            return "failed" if post.retry_at_s is not None else "stopped" if self.resting else "waiting"
        if not running or self._is_to_end(post):
            return "waiting"
        steady = self._clock.monotonic_s() - post.process.started_s > STEADY_S
        return "running" if post.pulse.ready or steady else "starting"

    def problems(self) -> list[NodeProblem]:
        """Roles that do not run, in their own words."""
        return [
            NodeProblem(part=f"roles.{name}", reason=post.error[:4096])
            for name, post in self._posts.items()
            if post.error and (post.process is None or post.process.failures > 1) and not self.resting
        ]

    def close(self) -> None:
        """Kill what still runs, and listen no more."""
        for post in self._posts.values():
            if post.process is not None:
                post.process.wait_stopped(0.0)
            post.pulse.close()
        self._posts.clear()
