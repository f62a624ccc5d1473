"""The first message of a kind, on several threads at once."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

_PROGRAM = textwrap.dedent(
    """
    import sys, threading
    import msgspec
    from broker.messages import Message, decode_json

    sys.setswitchinterval(1e-6)

    def kind(number):
        fields = [(f"a{i}", int | None, None) for i in range(12)]
        inner = msgspec.defstruct(f"Inner{number}", fields)
        fields = [("x", tuple[inner, ...], ()), *[(f"b{i}", str | None, None) for i in range(12)]]
        return msgspec.defstruct(f"Outer{number}", fields, bases=(Message,), kw_only=True)

    kinds = [kind(number) for number in range(200)]
    together = threading.Barrier(4)

    def decode_all():
        for kind in kinds:
            together.wait()
            decode_json(kind, b'{"v": 1, "x": [{"a0": 1, "a5": 2}], "b3": "y", "b11": "z"}', max_bytes=1000)

    threads = [threading.Thread(target=decode_all) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    """
)


def test_threads_that_see_the_first_of_a_kind_at_once_do_not_crash() -> None:
    """Without a lock around it msgspec 0.22 ends each such process with a segmentation fault."""
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", _PROGRAM], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
