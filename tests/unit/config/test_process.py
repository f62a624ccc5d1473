from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from config import Backoff
from config import process as process_module
from config.process import Departure, RoleProcess, role_command, stop_in_order
from tests.support.waiting import wait_until

Starter = Callable[..., RoleProcess]


@pytest.fixture
def role(tmp_path: Path) -> Iterator[Starter]:
    made: list[RoleProcess] = []

    def start(code: str, name: str = "edge") -> RoleProcess:
        process = RoleProcess(
            name,
            [sys.executable, "-c", code],
            log_file=tmp_path / "logs" / f"{name}.log",
            environment=dict(os.environ),
            backoff=Backoff(1.0, 8.0, floor_s=0.5, rng=random.Random(1)),
        )
        process.start(0.0)
        made.append(process)
        return process

    yield start
    stop_in_order(made, 0.0)


def depart(process: RoleProcess, now_s: float = 0.0) -> Departure:
    found: list[Departure] = []

    def ended() -> bool:
        departure = process.tend(now_s)
        if departure is not None:
            found.append(departure)
        return bool(found)

    wait_until(ended, what="the end of the role")
    return found[0]


def wait_said(process: RoleProcess, text: str) -> None:
    wait_until(lambda: text in process.log_file.read_text(), what=f"{process.name}'s {text!r}")


FOREVER = "import time; time.sleep(600)"


def test_a_killed_role_is_started_again_after_its_back_off(role: Starter) -> None:
    process = role(FOREVER)
    first = process.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    departure = depart(process, 100.0)
    assert (departure.reason, departure.for_good) == ("killed by SIGKILL", False)
    assert 0.5 <= departure.retry_s <= 1.0
    pids = []
    for share in (0.5, 1.0):
        assert process.tend(100.0 + departure.retry_s * share) is None
        pids.append(process.pid)
    assert pids[0] is None
    assert pids[1] not in {None, first}
    assert process.restarts == 1


def test_a_crash_is_retried_and_its_last_line_told(role: Starter) -> None:
    departure = depart(role("raise RuntimeError('out of luck')"))
    assert (departure.status, departure.words, departure.for_good) == (1, "RuntimeError: out of luck", False)


def test_a_log_line_is_no_reason(role: Starter) -> None:
    departure = depart(role('import sys; print(\'{"event": "bus.connected"}\'); sys.exit(3)'))
    assert (departure.reason, departure.words) == ("ended with status 3", "")


@pytest.mark.parametrize("status", [1, 69, 78])
def test_a_role_that_says_why_gives_up_unless_a_service_is_away(role: Starter, status: int) -> None:
    departure = depart(role(f"import sys; print('noise'); print('vigil: no such model'); sys.exit({status})"))
    assert (departure.words, departure.for_good) == ("no such model", status != 69)


def test_wrong_usage_is_no_reason_to_try_again(role: Starter) -> None:
    departure = depart(role("import sys; print('Usage: vigil'); print('Error: No such option'); sys.exit(2)"))
    assert (departure.words, departure.for_good) == ("No such option", True)


def test_a_role_that_has_worked_never_gives_up(role: Starter) -> None:
    process = role("import sys; print('vigil: port taken'); sys.exit(78)")
    process.has_worked = True
    assert not depart(process).for_good


def test_words_of_an_earlier_run_are_not_taken_for_this_ones(role: Starter) -> None:
    code = "import sys; print('vigil: first'); sys.exit(69)"
    process = role(code)
    departure = depart(process)
    process._command[-1] = "import os; os._exit(3)"
    process.tend(departure.retry_s)
    assert depart(process, 50.0).words == ""


def test_what_a_role_said_is_of_this_run(role: Starter) -> None:
    process = role("print('broker.listening')")
    departure = depart(process)
    assert process.has_said("broker.listening")
    process._command[-1] = "pass"
    process.tend(departure.retry_s)
    assert not process.has_said("broker.listening")


def test_failures_are_forgotten_once_it_works(role: Starter) -> None:
    process = role("raise SystemExit(1)")
    departure = depart(process)
    process._command[-1] = FOREVER
    process.tend(departure.retry_s)
    assert process.failures == 1
    process.tend(departure.retry_s + 60)
    assert process.failures == 0


def test_a_log_of_an_earlier_start_is_set_aside(tmp_path: Path, role: Starter) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "edge.log").write_text("older\n")
    depart(role("print('newer')"))
    assert (tmp_path / "logs" / "edge.log").read_text() == "newer\n"
    assert (tmp_path / "logs" / "edge.log.1").read_text() == "older\n"


def test_a_log_that_grows_is_cut_while_the_role_writes(
    tmp_path: Path, role: Starter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_module, "LOG_BYTES_MAX", 1000)
    process = role("import sys, time\nprint('x' * 2000, flush=True)\nsys.stdin.read()\nprint('end', flush=True)")
    log = tmp_path / "logs" / "edge.log"
    wait_until(lambda: log.stat().st_size > 1000, what="a long log")
    process.tend(1.0)
    assert log.stat().st_size == 0
    assert log.with_suffix(".log.1").stat().st_size == 2001
    assert process._process is not None
    assert process._process.stdin is not None
    process._process.stdin.close()
    wait_until(lambda: log.read_text() == "end\n", what="the end of the log")


def test_roles_stop_in_the_order_given_and_the_deaf_are_killed(role: Starter, tmp_path: Path) -> None:
    said = (
        "import signal, sys, time\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(print('bye', time.time_ns())))\n"
    )
    edge = role(said + "print('up', flush=True)\ntime.sleep(600)", "edge")
    broker = role(said + "print('up', flush=True)\ntime.sleep(600)", "broker")
    deaf = role(
        "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('up', flush=True)\n" + FOREVER,
        "deaf",
    )
    for process in (edge, broker, deaf):
        wait_said(process, "up")
    assert stop_in_order([edge, broker, deaf], 2.0) == ["deaf"]
    left_at = [int(process.log_file.read_text().split()[-1]) for process in (edge, broker)]
    assert left_at == sorted(left_at)
    assert not any(process.running for process in (edge, broker, deaf))


def test_children_leave_when_their_parent_is_killed(tmp_path: Path) -> None:
    role = [sys.executable, "-P", "-m", "console", "--until-stdin-closes", "watch", "--help"]
    assert role_command(tmp_path / "f", ["watch"])[:5] == role[:5]
    child = (
        "from console.loading import leave_with_stdin; import time; leave_with_stdin(); "
        "print('up', flush=True); time.sleep(600)"
    )
    parent = (
        "import subprocess, sys, time\n"
        f"child = subprocess.Popen([sys.executable, '-c', {child!r}], stdin=subprocess.PIPE, process_group=0)\n"
        "print(child.pid, flush=True)\ntime.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = {process.stdout.readline().strip() for _ in range(2)}
        pid = next(int(line) for line in said if line.isdigit())
        process.kill()
        wait_until(lambda: not _is_alive(pid), timeout_s=10, what="the child's end")


def _is_alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"
