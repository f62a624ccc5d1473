"""Who takes what: capacity-bounded rendezvous hashing over facts that everybody has.

Every worker computes the same answer from the same facts, in whatever order they came. Each demand ranks the workers
by a hash of both names, weighted by capacity: its highest is where it belongs. Present owners are facts like any
other, and a demand that has a place is moved for three reasons only: its worker is gone, or can no longer serve it, or
has no room for it any more; a worker that it ranks higher has room; or its place is needed by a demand that can go to
fewer workers than it can.

What follows, where the present owners are an earlier answer (proofs are in the properties that the tests check):

- Losing a worker moves what that worker had, and beyond that only what makes room for a demand with fewer places to
  go. Demands of unequal size change nothing in that: nobody else gains room, so nobody else can move up.
- Adding one moves demands to workers that they rank higher, or that now have room for an orphan; while no worker was
  full, that is the new one alone.
- An orphan is a demand that no worker which could serve it has room for.

Where there is no room for all, those that are left are squeezed in: everybody then counts with the least that it can do
with. That is a worse place and no better one, so it moves nobody who has a place: a camera that is looked at now and
then beats one that nobody looks at, and the workers share their time among those that they have.

Source: Thaler and Ravishankar, "Using name-based mappings to increase hit rates", 1998; the weights are Schindelhauer
and Schomaker, "Weighted distributed hash tables", 2005.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

__all__ = ["Assignment", "Demand", "Worker", "assign", "obstacle"]

_PARTS = 1000
"""Rates are counted in whole thousandths: sums of floats would depend on their order."""
_ROUNDS_MAX = 10
"""Of squeezing in; one or two is what it takes."""
_HASH_BYTES = 8
_HASHES_KEPT = 1 << 16
"""Of a thousand demands on sixty workers; the rest is computed again."""


@dataclass(frozen=True, slots=True)
class Worker:
    """Somebody who takes demands on.

    Attributes:
        name: unique.
        capacity: how much it takes on, in the unit of the demands' rates.
        classes: what kind of worker it is.
        labels: what it can tell.
    """

    name: str
    capacity: float
    classes: frozenset[str] = frozenset()
    labels: frozenset[str] = frozenset()

    def serves(self, demand: Demand) -> bool:
        """Whether it is what a demand asks for."""
        return (not demand.worker_class or demand.worker_class in self.classes) and demand.labels <= self.labels


@dataclass(frozen=True, slots=True)
class Demand:
    """Something that one worker is to take on.

    Attributes:
        name: unique.
        rate: how much it asks of a worker. Where it is more than a worker has, it takes the whole of it.
        worker_class: the class of worker that it asks for; empty means any.
        labels: what its worker must be able to tell.
        least: how much it can do with where there is no room for all; None: it takes no less.
        owner: who has it now; empty where nobody does.
    """

    name: str
    rate: float
    worker_class: str = ""
    labels: frozenset[str] = frozenset()
    owner: str = ""
    least: float | None = None

    @property
    def floor(self) -> float:
        """How much it takes of a worker at least."""
        return self.rate if self.least is None else min(self.least, self.rate)


@dataclass(frozen=True, slots=True)
class Assignment:
    """Who takes what.

    Attributes:
        owners: the worker of each demand that has one.
        orphans: demands that nobody has room for, sorted.
        squeezed: demands that were squeezed in, sorted.
    """

    owners: dict[str, str]
    orphans: tuple[str, ...]
    squeezed: tuple[str, ...] = ()


def assign(workers: Iterable[Worker], demands: Iterable[Demand]) -> Assignment:
    """Find a worker for every demand, as far as there is room; see the module's text."""
    there, asked = tuple(workers), tuple(demands)
    answer = _assign_once(there, asked)
    if not answer.squeezed:
        return answer
    # Who was squeezed in is a present owner the next time, and as good as any: go on until that changes nothing.
    for _ in range(_ROUNDS_MAX):
        asked = tuple(replace(demand, owner=answer.owners.get(demand.name, "")) for demand in asked)
        before, answer = answer, _assign_once(there, asked)
        if answer.owners == before.owners:
            break
    return answer


def _assign_once(workers: tuple[Worker, ...], demands: tuple[Demand, ...]) -> Assignment:
    answer = _Seating(workers, demands, {}).settled()
    left = tuple(replace(demand, rate=demand.floor) for demand in demands if demand.name in set(answer.orphans))
    if all(demand.least is None for demand in left):
        return answer
    used: Counter[str] = Counter()
    for demand in demands:
        if demand.name in answer.owners:
            used[answer.owners[demand.name]] += math.ceil(demand.floor * _PARTS)
    squeezed = _Seating(workers, left, used).settled()
    owners = dict(sorted({**answer.owners, **squeezed.owners}.items()))
    return Assignment(owners, squeezed.orphans, tuple(squeezed.owners))


def obstacle(demand: Demand, workers: Iterable[Worker]) -> str:
    """Why a demand is an orphan, in words."""
    there = tuple(workers)
    if not there:
        return "no worker"
    of_class = [worker for worker in there if not demand.worker_class or demand.worker_class in worker.classes]
    if not of_class:
        return f"no worker of class {demand.worker_class}"
    if any(demand.labels <= worker.labels for worker in of_class):
        return "no room"
    known = frozenset[str]().union(*(worker.labels for worker in of_class))
    unknown = sorted(demand.labels - known)
    return (
        f"no worker knows {', '.join(unknown)}"
        if unknown
        else f"no one worker knows {', '.join(sorted(demand.labels))}"
    )


@dataclass(frozen=True, slots=True)
class _Seat:
    """A demand, and a worker that could serve it.

    Attributes:
        weight: how high the demand ranks the worker.
        choices: how many workers could serve the demand.
        rate: what it takes of the worker.
    """

    demand: str
    worker: str
    weight: float
    choices: int
    rate: int

    @property
    def rank(self) -> tuple[int, float, str, str]:
        """Sorts seats: those of demands with few places to go first, and then the best."""
        return self.choices, -self.weight, self.demand, self.worker


class _Seating:
    """An assignment in the making.

    Every step but `keep` says whether it changed something. They come to an end: of the demands with the fewest
    choices none loses its place and each move is to a better one, so these settle; then those with the next fewest do.
    """

    def __init__(self, workers: tuple[Worker, ...], demands: tuple[Demand, ...], used: Mapping[str, int]) -> None:
        self._room = {worker.name: _parts(worker) - used.get(worker.name, 0) for worker in workers}
        self._owners = {demand.name: demand.owner for demand in demands}
        self._taken: dict[str, _Seat] = {}
        self._seats = sorted((seat for demand in demands for seat in _seats(demand, workers)), key=_rank)

    def settled(self) -> Assignment:
        """Everything in its place."""
        self.keep()
        while self.place() or self.make_room() or self.improve():
            pass
        return self.result()

    def keep(self) -> None:
        """Leave everything where it is, as far as it can be there."""
        for seat in self._seats:
            if self._owners[seat.demand] == seat.worker:
                self._take(seat)

    def place(self) -> bool:
        """Give what has no place the best one with room."""
        return sum(self._take(seat) for seat in self._seats if seat.demand not in self._taken) > 0

    def improve(self) -> bool:
        """Move what has a place to a better one with room."""
        return sum(self._take(seat) for seat in self._seats if self._is_better(seat)) > 0

    def make_room(self) -> bool:
        """Give one demand that has no place that of others with more places to go."""
        for seat in self._seats:
            if seat.demand in self._taken:
                continue
            leaving = self._leaving_for(seat)
            if leaving:
                for other in leaving:
                    self._leave(other)
                return self._take(seat)
        return False

    def result(self) -> Assignment:
        """As it stands."""
        owners = {demand: self._taken[demand].worker for demand in sorted(self._taken)}
        return Assignment(owners, tuple(sorted(self._owners.keys() - self._taken.keys())))

    def _is_better(self, seat: _Seat) -> bool:
        taken = self._taken.get(seat.demand)
        return taken is not None and (-seat.weight, seat.worker) < (-taken.weight, taken.worker)

    def _take(self, seat: _Seat) -> bool:
        if seat.rate > self._room[seat.worker]:
            return False
        before = self._taken.get(seat.demand)
        if before is not None:
            self._leave(before)
        self._room[seat.worker] -= seat.rate
        self._taken[seat.demand] = seat
        return True

    def _leave(self, seat: _Seat) -> None:
        self._room[seat.worker] += seat.rate
        del self._taken[seat.demand]

    def _leaving_for(self, seat: _Seat) -> list[_Seat]:
        """Who would have to go, those with the most choices first; empty where that is not enough."""
        others = (other for other in self._taken.values() if other.worker == seat.worker)
        room, leaving = self._room[seat.worker], list[_Seat]()
        for other in sorted((other for other in others if other.choices > seat.choices), key=_rank, reverse=True):
            if room >= seat.rate:
                break
            leaving.append(other)
            room += other.rate
        return leaving if room >= seat.rate else []


def _rank(seat: _Seat) -> tuple[int, float, str, str]:
    return seat.rank


def _seats(demand: Demand, workers: tuple[Worker, ...]) -> list[_Seat]:
    able = [worker for worker in workers if worker.serves(demand) and _parts(worker) > 0]
    asked = math.ceil(demand.rate * _PARTS)
    return [
        _Seat(demand.name, worker.name, _weight(demand, worker), len(able), min(asked, _parts(worker)))
        for worker in able
    ]


def _parts(worker: Worker) -> int:
    return math.floor(worker.capacity * _PARTS)


def _weight(demand: Demand, worker: Worker) -> float:
    """How high a demand ranks a worker: below 0 where it asks for more than the worker has, the larger ones first."""
    if demand.rate > worker.capacity:
        return -1.0 / worker.capacity
    return worker.capacity / _rarity(demand.name, worker.name)


@lru_cache(maxsize=_HASHES_KEPT)
def _rarity(demand: str, worker: str) -> float:
    """A number above 0 for two names, exponentially distributed."""
    digest = hashlib.blake2b(f"{demand}\0{worker}".encode(), digest_size=_HASH_BYTES).digest()
    return -math.log((int.from_bytes(digest) + 1) / (2 ** (8 * _HASH_BYTES) + 1))
