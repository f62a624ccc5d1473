"""What systemd does with a unit that says `Restart=always`: its command is started again whenever it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["kept_running"]


@contextmanager
def kept_running(
    command: Sequence[str], log: Path, *, environment: Mapping[str, str], pause_s: float = 0.2
) -> Iterator[None]:
    """Run a command, again and again, until the end of the block; then it is asked to end, and what is left is killed.

    Args:
        command: what is run.
        log: its output.
        environment: on top of this process's own, without what Vigil would read of that.
        pause_s: before it is started again.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith("VIGIL_")}
    stop = threading.Event()
    running: list[subprocess.Popen[bytes]] = []

    def keep() -> None:
        with log.open("ab") as out:
            while not stop.is_set():
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=out,
                    start_new_session=True,
                    env={**kept, **environment},
                )
                running[:] = [process]
                process.wait()
                stop.wait(pause_s)

    thread = threading.Thread(target=keep)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        while thread.is_alive():
            for process in running:
                process.terminate()
            thread.join(0.5)
        for process in running:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
