"""A picture of a stream, from the command that opens cameras: this component has no video of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from config import PermanentError, TransientError
from config.logins import with_login
from config.registry import Login

__all__ = ["stream_picture"]

_HEIGHT_PX = 360
_WAIT_S = 8
_TIMEOUT_S = 25.0


def stream_picture(uri: str, login: Login | None) -> bytes:
    """The first picture of a stream, as a JPEG.

    Args:
        uri: where it is, without a login.
        login: how to log in; it goes through standard input, where nobody else reads it.

    Raises:
        TransientError: it gives none.
        PermanentError: this machine cannot open streams.
    """
    whole = uri if login is None else with_login(uri, login)
    with tempfile.TemporaryDirectory(prefix="vigil-discover-") as folder:
        file = Path(folder) / "picture.jpg"
        command = [sys.executable, "-P", "-m", "console", "camera", "test", "-", "--json", "--picture", str(file)]
        command += ["--height", str(_HEIGHT_PX), "--wait", f"{_WAIT_S}s"]
        try:
            done = subprocess.run(
                command, input=f"{whole}\n", text=True, capture_output=True, timeout=_TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise TransientError(f"{uri} gave no picture within {_TIMEOUT_S:.0f} s") from error
        if file.exists():
            return file.read_bytes()
    raise (TransientError if done.returncode == TransientError.exit_code else PermanentError)(_said(done.stdout, uri))


def _said(output: str, uri: str) -> str:
    try:
        return str(json.loads(output)["error"])
    except (ValueError, KeyError, TypeError):
        return f"{uri} gave no picture: `vigil camera test` says why"
