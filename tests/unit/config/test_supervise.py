from __future__ import annotations

import random
import subprocess
import sys
import threading

import pytest

from config.backoff import Backoff
from config.clock import ManualClock
from config.errors import PermanentError, TransientError
from config.supervise import Supervised


def test_back_off_grows_to_its_bound_with_full_jitter() -> None:
    backoff = Backoff(first_s=1.0, last_s=8.0, floor_s=0.0, rng=random.Random(7))
    delays = [backoff.delay_s() for _ in range(2000)]
    assert all(0 <= delay <= 8 for delay in delays)
    assert delays[0] <= 1
    assert max(delays) > 7.5
    assert min(delays[4:]) < 0.5
    backoff.reset()
    assert backoff.delay_s() <= 1


def test_a_loop_that_fails_is_run_again_until_it_is_stopped() -> None:
    stop = threading.Event()
    calls: list[int] = []

    def run_once() -> None:
        calls.append(len(calls))
        if len(calls) == 5:
            stop.set()
        elif len(calls) % 2:
            raise TransientError("away")
        else:
            raise KeyError("a bug")

    thread = Supervised("t", run_once, stop=stop, clock=ManualClock())
    thread.start()
    assert thread.join(5)
    assert len(calls) == 5


def test_a_permanent_error_ends_the_loop_and_is_handed_on() -> None:
    told: list[Exception] = []

    def run_once() -> None:
        raise PermanentError("wrong password")

    thread = Supervised("t", run_once, stop=threading.Event(), on_fatal=told.append, clock=ManualClock())
    thread.start()
    assert thread.join(5)
    assert [str(error) for error in told] == ["wrong password"]


_WAITER = """
import signal, sys, threading
from config import stop_on_signals
stop = threading.Event()
stop_on_signals(stop)
threading.Timer(0.1, lambda: signal.pthread_kill(threading.get_ident(), signal.SIGTERM)).start()
stop.wait()
print("stopped", flush=True)
if sys.argv[1:] == ["again"]:
    signal.raise_signal(signal.SIGTERM)
    threading.Event().wait()
"""


@pytest.mark.parametrize(("arguments", "status"), [([], 0), (["again"], 128 + 15)])
def test_a_signal_is_heard_whichever_thread_gets_it_and_a_second_ends_all(arguments: list[str], status: int) -> None:
    command = [sys.executable, "-c", _WAITER, *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout) == (status, "stopped\n")
