"""What takes longer than an order may: begun by one order, and asked after by another."""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping

from config import BadPayloadError, TransientError, VigilError

__all__ = ["Jobs"]

_AT_ONCE = 4
_REMEMBERED_MAX = 256


class Jobs:
    """Work that was asked for.

    Concurrency: may be used from any thread; at most four pieces of work are done at one time.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._room = threading.Semaphore(_AT_ONCE)
        self._found: OrderedDict[str, Mapping[str, str]] = OrderedDict()
        self._threads: list[threading.Thread] = []

    def begin(self, work: Callable[[], Mapping[str, str]]) -> Mapping[str, str]:
        """Begin with something.

        Args:
            work: does it, and returns what to tell; a :class:`VigilError` is told too.

        Returns:
            For the answer: ``job``, by which one asks after it.

        Raises:
            TransientError: too much waits already.
        """
        job = secrets.token_hex(6)
        with self._lock:
            self._threads = [thread for thread in self._threads if thread.is_alive()]
            if len(self._threads) >= _REMEMBERED_MAX:
                raise TransientError(f"{_REMEMBERED_MAX} jobs wait here already: ask again later")
            self._found[job] = {"state": "running"}
            if len(self._found) > _REMEMBERED_MAX:
                self._found.popitem(last=False)
            thread = threading.Thread(target=self._do, args=(job, work), name="schedules-job", daemon=True)
            self._threads.append(thread)
            thread.start()
        return {"job": job}

    def tell(self, job: str) -> Mapping[str, str]:
        """How something is: ``state`` is running, done, or failed with a ``reason``.

        Raises:
            BadPayloadError: there is no such job here; this process may have been started anew.
        """
        found = self._found.get(job)
        if found is None:
            raise BadPayloadError("there is no such job here: the fleet's process was started anew; ask again")
        return found

    def close(self, timeout_s: float) -> None:
        """Wait for what is under way."""
        for thread in self._threads:
            thread.join(timeout_s)

    def _do(self, job: str, work: Callable[[], Mapping[str, str]]) -> None:
        found: Mapping[str, str] = {"state": "failed", "reason": "it ended with a fault: see the fleet's log"}
        try:
            with self._room:
                found = {"state": "done", **work()}
        except VigilError as error:
            found = {"state": "failed", "reason": str(error)}
        finally:
            with self._lock:
                if job in self._found:
                    self._found[job] = found
