"""Where clips go: folders, and an object store behind real HTTP."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from config.clock import ManualClock
from config.errors import ConfigError, TransientError
from edge.footage.stores import ClipStore, open_store
from tests.support.bucket import Bucket, running_bucket

_CONTENT = bytes(range(256)) * 4096
_NAME = "yard/2026-03-01/20260301T120000.000Z_yard_abc_01234567.mp4"


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "clip.mp4"
    path.write_bytes(_CONTENT)
    return path


def _open(to: str | None, default: Path, clock: ManualClock | None = None) -> ClipStore:
    return open_store(to, default, bytes_per_s=100_000, clock=clock or ManualClock(), stop=threading.Event())


def test_without_a_place_clips_are_moved_beside_the_recordings(tmp_path: Path, clip: Path) -> None:
    uri = _open(None, tmp_path / "clips").deliver(clip, _NAME)
    assert uri == (tmp_path / "clips" / _NAME).as_uri()
    assert (tmp_path / "clips" / _NAME).read_bytes() == _CONTENT
    assert not clip.exists()


def test_another_folder_gets_a_copy_and_nothing_half(tmp_path: Path, clip: Path) -> None:
    clock = ManualClock()
    uri = _open(str(tmp_path / "nas"), tmp_path / "clips", clock).deliver(clip, _NAME)
    assert uri == (tmp_path / "nas" / _NAME).as_uri()
    assert [path.read_bytes() for path in (tmp_path / "nas").rglob("*") if path.is_file()] == [_CONTENT]
    # 1 MiB at 100,000 bytes a second; the first chunk goes at once.
    assert 7 < clock.monotonic_s() < 11


def test_a_folder_that_takes_nothing_is_tried_again_later(tmp_path: Path, clip: Path) -> None:
    (tmp_path / "nas").write_bytes(b"a file where the folder should be")
    with pytest.raises(TransientError, match="nas"):
        _open(str(tmp_path / "nas"), tmp_path / "clips").deliver(clip, _NAME)


@pytest.mark.parametrize("place", ["ftp://host/clips", "s3://key:secret@bucket/clips", "s3://"])
def test_what_is_no_place_is_refused_without_repeating_a_login(place: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"edge\.footage\.deliver_to") as refused:
        _open(place, tmp_path)
    assert "secret" not in str(refused.value)


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    pytest.importorskip("obstore", reason="no obstore: pip install 'vigil-mesh[store]'")
    with running_bucket(monkeypatch) as server:
        yield server


def test_an_object_store_gets_the_clip_signed_with_the_login_of_the_environment(
    bucket: Bucket, tmp_path: Path, clip: Path
) -> None:
    uri = _open("s3://footage/site", tmp_path).deliver(clip, _NAME)
    assert uri == f"s3://footage/site/{_NAME}"
    assert bucket.objects == {f"/footage/site/{_NAME}": _CONTENT}
    assert "the-key" in bucket.signed[0]


def test_a_large_clip_goes_in_parts(bucket: Bucket, tmp_path: Path) -> None:
    clip, content = tmp_path / "long.mp4", _CONTENT * 7
    clip.write_bytes(content)
    _open("s3://footage", tmp_path).deliver(clip, _NAME)
    assert bucket.objects == {f"/footage/{_NAME}": content}
    assert len(bucket.signed) == 2


def test_an_object_store_that_refuses_is_tried_again_later_and_the_secret_is_not_told(
    bucket: Bucket, tmp_path: Path, clip: Path
) -> None:
    bucket.refuses = True
    with pytest.raises(TransientError, match="s3://footage") as refused:
        _open("s3://footage", tmp_path).deliver(clip, _NAME)
    assert "the-secret" not in str(refused.value)
    assert clip.exists()
