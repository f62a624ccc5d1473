"""An image onto a disk, and back from it to see whether it arrived.

The first block, with the partition table, is written last: a card that was not written to its end does not boot, and
does not look like one that does.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import mmap
import os
import stat
from collections.abc import Callable
from pathlib import Path

from config.errors import ConfigError, PermanentError

__all__ = ["write"]

_CHUNK_BYTES = 4 << 20
_FIRST_BYTES = 1 << 20
_LAST_BYTES = 1 << 20
"""A partition table of the kind GPT has a copy in the last 33 blocks, which a Linux would find and believe."""
_BLOCK_BYTES = 4_096
_FLUSH_BUFFERS = 0x1261
"""Source: linux/fs.h, BLKFLSBUF."""

Progress = Callable[[int], None]
"""Called with the bytes that were done since the last call."""


def write(image: Path, target: Path, on_written: Progress, on_verified: Progress) -> str:
    """Write an image over a disk, or a file of a disk's size, and read it back past all caches of this machine.

    Args:
        image: what is written.
        target: where; all that is there is lost.
        on_written: see there.
        on_verified: the same, for reading back.

    Returns:
        The SHA-256 of what is there now.

    Raises:
        ConfigError: it is in use, or too small.
        PermanentError: it cannot be written or read, or holds something else then, and where.
    """
    descriptor = _opened(target, os.O_RDWR | os.O_EXCL)
    try:
        size_bytes, room_bytes = image.stat().st_size, os.lseek(descriptor, 0, os.SEEK_END)
        if room_bytes < size_bytes:
            raise ConfigError(
                f"{target} has {room_bytes:,} bytes, and the image needs {size_bytes:,}", field="--device"
            )
        first_bytes = min(_FIRST_BYTES, size_bytes)
        _wipe_ends(descriptor, room_bytes)
        _copy(image, descriptor, first_bytes, size_bytes, on_written)
        _settle(descriptor)
        _compare(image, target, first_bytes, size_bytes, on_verified)
        _copy(image, descriptor, 0, first_bytes, on_written)
        _settle(descriptor)
        _compare(image, target, 0, first_bytes, on_verified)
    except OSError as error:
        raise PermanentError(
            f"{target} cannot be written and read back ({error.strerror}): it is no good card, or was taken out. It "
            "will not boot now"
        ) from error
    finally:
        os.close(descriptor)
    with image.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _settle(descriptor: int) -> None:
    """Wait until it is on the medium, from which it is read then."""
    os.fsync(descriptor)
    if stat.S_ISBLK(os.fstat(descriptor).st_mode):
        fcntl.ioctl(descriptor, _FLUSH_BUFFERS)


def _compare(image: Path, target: Path, start: int, end: int, on_verified: Progress) -> None:
    descriptor = _opened_past_caches(target)
    try:
        with image.open("rb") as file, mmap.mmap(-1, _CHUNK_BYTES) as buffer:
            file.seek(start)
            while start < end:
                wanted = file.read(min(_CHUNK_BYTES, end - start))
                _read_into(descriptor, buffer, start, len(wanted))
                if buffer[: len(wanted)] != wanted:
                    at = start + _first_difference(buffer[: len(wanted)], wanted)
                    raise PermanentError(
                        f"{target} does not hold what was written: the first difference is at byte {at:,} (block "
                        f"{at // 512:,}). The card is worn out or false, or its reader is: take another one"
                    )
                start += len(wanted)
                on_verified(len(wanted))
    finally:
        os.close(descriptor)


def _wipe_ends(descriptor: int, room_bytes: int) -> None:
    for offset, length in ((0, _FIRST_BYTES), (max(0, room_bytes - _LAST_BYTES), _LAST_BYTES)):
        os.lseek(descriptor, offset, os.SEEK_SET)
        _write_all(descriptor, bytes(min(length, room_bytes)))
    os.fsync(descriptor)


def _copy(image: Path, descriptor: int, start: int, end: int, on_progress: Progress) -> None:
    os.lseek(descriptor, start, os.SEEK_SET)
    with image.open("rb") as file:
        file.seek(start)
        while start < end:
            block = file.read(min(_CHUNK_BYTES, end - start))
            if not block:
                raise PermanentError(f"{image} has become shorter while it was written")
            _write_all(descriptor, block)
            start += len(block)
            on_progress(len(block))


def _write_all(descriptor: int, block: bytes) -> None:
    rest = memoryview(block)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _read_into(descriptor: int, buffer: mmap.mmap, offset: int, count: int) -> None:
    """Read at least so many bytes; whole blocks, as such a read must be."""
    wanted = -(-count // _BLOCK_BYTES) * _BLOCK_BYTES
    done = os.preadv(descriptor, [memoryview(buffer)[:wanted]], offset)
    if done < count:
        raise OSError(errno.EIO, "it ends too early")


def _first_difference(found: bytes, wanted: bytes) -> int:
    return next(at for at, pair in enumerate(zip(found, wanted, strict=True)) if pair[0] != pair[1])


def _opened(target: Path, flags: int) -> int:
    try:
        return os.open(target, flags | os.O_CLOEXEC)
    except OSError as error:
        why = {
            errno.EBUSY: "something uses it: unmount it",
            errno.EACCES: "only root may: run this with sudo, or write a file with --out",
            errno.EPERM: "only root may, or something uses it",
            errno.ENOMEDIUM: "there is no card in it",
            errno.EROFS: "it cannot be written: is its lock switch closed?",
        }.get(error.errno or 0, str(error.strerror))
        raise ConfigError(f"{target} cannot be opened: {why}", field="--device") from error


def _opened_past_caches(target: Path) -> int:
    try:
        return os.open(target, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise PermanentError(f"{target} cannot be read back ({error.strerror})") from error
    # A file system without direct reading, as those in memory are: nothing is between us and it.
    return _opened(target, os.O_RDONLY)
