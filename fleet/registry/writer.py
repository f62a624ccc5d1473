"""Who publishes the registry: one process of a machine at a time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from config import PermanentError
from config.files import hold_lock_if_free, make_private_folder
from config.settings import Settings

__all__ = ["take_writer"]

_AGAIN_S = 0.1


@contextmanager
def take_writer(settings: Settings, *, wait_s: float = 0.0) -> Iterator[bool]:
    """Be the one that publishes, where nobody is; whether that is so.

    The system lets go also when the process is killed.

    Args:
        settings: name the state folder.
        wait_s: for how long somebody else may still be it: a command is so for a moment.

    Raises:
        PermanentError: the state folder cannot be used.
    """
    folder = settings.state_dir / "fleet"
    with ExitStack() as stack:
        try:
            make_private_folder(folder)
            end_s = time.monotonic() + wait_s
            while not (is_ours := stack.enter_context(hold_lock_if_free(folder / f"{settings.site}.lock"))):
                stack.close()
                if time.monotonic() >= end_s:
                    break
                time.sleep(_AGAIN_S)
        except OSError as error:
            raise PermanentError(
                f"{error.filename or folder}: cannot be used ({error.strerror}): check its rights, or give another "
                "with --state"
            ) from error
        yield is_ours
