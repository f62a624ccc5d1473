from __future__ import annotations

import random
import subprocess
import sys
import threading

import pytest

from config.backoff import Backoff
from config.clock import ManualClock
from config.errors import PermanentError, TransientError
from config.supervise import Supervised, beat, frozen_threads
from tests.support.waiting import wait_until


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
    assert thread.join(30)
    assert len(calls) == 5


def test_a_permanent_error_ends_the_loop_and_is_handed_on() -> None:
    told: list[Exception] = []

    def run_once() -> None:
        raise PermanentError("wrong password")

    thread = Supervised("t", run_once, stop=threading.Event(), on_fatal=told.append, clock=ManualClock())
    thread.start()
    assert thread.join(30)
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


def test_a_hang_up_asks_to_read_again_and_ends_nothing() -> None:
    script = (
        "import signal, threading\n"
        "from config import stop_on_signals\n"
        "stop, asked = threading.Event(), threading.Event()\n"
        "stop_on_signals(stop, hang_up=asked)\n"
        "for _ in range(2):\n"
        "    signal.raise_signal(signal.SIGHUP)\n"
        "    print(asked.wait(20), stop.is_set(), flush=True)\n"
        "    asked.clear()\n"
        "signal.raise_signal(signal.SIGTERM)\n"
        "print(stop.wait(20), flush=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "True False\nTrue False\nTrue\n"), done.stderr


class TestFrozenThreads:
    def test_a_vital_thread_that_hangs_is_named_and_others_are_not(self) -> None:
        clock, stop, let_go = ManualClock(), threading.Event(), threading.Event()

        def hang() -> None:
            let_go.wait()

        threads = [
            Supervised("hangs", hang, stop=stop, clock=clock, vital="alone"),
            Supervised("hangs-too", hang, stop=stop, clock=clock),
        ]
        for thread in threads:
            thread.start()
        clock.advance(60)
        assert "hangs" not in frozen_threads(60)
        clock.advance(1)
        assert [name for name in frozen_threads(60) if name.startswith("hangs")] == ["hangs"]
        stop.set()
        let_go.set()
        assert all(thread.join(30) for thread in threads)
        assert "hangs" not in frozen_threads(60)

    def test_threads_that_are_vital_together_are_named_once_all_of_them_hang(self) -> None:
        clock, stop = ManualClock(), threading.Event()
        let_go = threading.Event()
        rounds = threading.Semaphore(0)

        def hang() -> None:
            let_go.wait()

        def go_on() -> None:
            rounds.acquire()

        threads = [
            Supervised("one-hangs", hang, stop=stop, clock=clock, vital="together"),
            Supervised("other-goes-on", go_on, stop=stop, clock=clock, vital="together"),
        ]
        for thread in threads:
            thread.start()
        clock.advance(61)
        rounds.release()
        wait_until(lambda: threads[1].overdue_s() <= 0)
        assert frozen_threads(60) == []
        clock.advance(61)
        assert frozen_threads(60) == ["one-hangs", "other-goes-on"]
        stop.set()
        let_go.set()
        rounds.release()
        assert all(thread.join(30) for thread in threads)

    def test_a_beat_counts_for_the_thread_that_beats_and_for_as_long_as_it_says(self) -> None:
        clock, stop, beaten, let_go = ManualClock(), threading.Event(), threading.Event(), threading.Event()

        def run_once() -> None:
            beat(100)
            beaten.set()
            let_go.wait()

        thread = Supervised("slow", run_once, stop=stop, clock=clock, vital="alone")
        thread.start()
        assert beaten.wait(30)
        beat()  # this thread is not supervised: nothing happens
        clock.advance(159)
        assert "slow" not in frozen_threads(60)
        clock.advance(2)
        assert "slow" in frozen_threads(60)
        stop.set()
        let_go.set()
        assert thread.join(30)

    def test_one_that_waits_before_it_tries_again_does_not_hang(self) -> None:
        stop, tried = threading.Event(), threading.Event()

        def run_once() -> None:
            tried.set()
            raise TransientError("the broker is away", retry_after_s=1000)

        thread = Supervised("patient", run_once, stop=stop, vital="alone")
        thread.start()
        assert tried.wait(30)
        wait_until(lambda: thread.overdue_s() < -900)
        assert "patient" not in frozen_threads(0)
        stop.set()
        assert thread.join(30)
