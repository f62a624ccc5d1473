from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from config import PermanentError
from console.machine import PortClaims, answers, hold_state


def test_a_port_that_somebody_listens_on_cannot_be_taken() -> None:
    with PortClaims() as ports, socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert not ports.take("127.0.0.1", port)
        assert answers("127.0.0.1", port)
        server.close()
        assert ports.take("127.0.0.1", port)
        assert not answers("127.0.0.1", port)


def test_a_port_is_taken_once_until_its_owner_lets_go() -> None:
    with PortClaims() as second:
        with PortClaims() as first:
            port = first.take_any("127.0.0.1")
            assert not second.take("127.0.0.1", port)
        assert second.take("127.0.0.1", port)


def test_an_address_of_another_machine_cannot_be_taken() -> None:
    with PortClaims() as ports:
        assert not ports.take("192.0.2.1", 1883)


def test_a_second_one_on_the_same_state_folder_is_told_who_has_it_and_the_cure(tmp_path: Path) -> None:
    with (
        hold_state(tmp_path / "state"),
        pytest.raises(PermanentError, match=rf"process {os.getpid()}.*vigil --state DIR up"),
        hold_state(tmp_path / "state"),
    ):
        pass
    with hold_state(tmp_path / "state"):
        pass


def test_a_killed_one_leaves_no_lock(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from console.machine import hold_state\n"
        "with hold_state(Path(sys.argv[1])): os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], timeout=30, check=False)
    with hold_state(tmp_path):
        pass


def test_a_state_folder_that_cannot_be_made_is_told_with_the_cure(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(PermanentError, match=r"state folder .* cannot be used \(.*\): choose another with --state DIR"),
        hold_state(tmp_path / "file" / "state"),
    ):
        pass
