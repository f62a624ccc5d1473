"""Pictures and videos as files, good and bad ones."""

from __future__ import annotations

import shutil
import wave
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from config import PermanentError
from detector import films
from detector.films import Shot, is_picture, open_film, open_video, read_image, write_image
from tests.unit.detector.walks import HEIGHT_PX, WIDTH_PX, save_video, scene, walk

HAS_H264 = bool(shutil.which("gst-launch-1.0")) and films._h264_encoder() is not None


def shots(path: Path, fps: float) -> list[Shot]:
    with open_video(path) as video:
        return list(video.shots(fps))


@pytest.mark.parametrize("name", ["a.jpg", "a.JPEG", "a.png"])
def test_a_picture_is_written_and_read(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    write_image(path, scene(40))
    assert is_picture(path)
    assert np.abs(read_image(path).astype(int) - scene(40)).max() < 40


def test_a_video_is_no_picture_and_its_pictures_come_in_order(tmp_path: Path) -> None:
    path = save_video(tmp_path / "walk.avi", walk(10), fps=10)
    assert not is_picture(path)
    seen = shots(path, 100)
    assert [shot.seq for shot in seen] == list(range(10))
    assert [round(shot.at_s, 3) for shot in seen] == [round(number / 10, 3) for number in range(10)]
    bright = [int(np.nonzero(shot.picture[100, :, 0] > 180)[0].min()) for shot in seen]
    assert bright == sorted(bright)
    assert bright[-1] - bright[0] == pytest.approx(36, abs=3)


@pytest.mark.parametrize(
    ("fps", "expected"),
    [(5, [0, 2, 4, 6, 8]), (2, [0, 5]), (3, [0, 3, 7]), (10, list(range(10))), (30, list(range(10)))],
)
def test_fewer_pictures_a_second_are_spread_evenly(tmp_path: Path, fps: float, expected: list[int]) -> None:
    path = save_video(tmp_path / "walk.avi", walk(10), fps=10)
    assert [shot.seq for shot in shots(path, fps)] == expected


def write_text(path: Path) -> None:
    path.write_text("milk, bread\n" * 300)


def write_noise(path: Path) -> None:
    path.write_bytes(bytes(8) + np.random.default_rng(1).bytes(5000))


def write_nothing(path: Path) -> None:
    path.write_bytes(b"")


def write_sound(path: Path) -> None:
    with wave.open(str(path), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(bytes(16_000))


@pytest.mark.parametrize("write", [write_text, write_noise, write_nothing, write_sound])
def test_what_is_neither_is_refused_with_its_name(
    tmp_path: Path, write: object, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "street.mp4"
    assert callable(write)
    write(path)
    assert not is_picture(path)
    with pytest.raises(PermanentError, match=r"street\.mp4 is neither a picture nor a video"):
        shots(path, 5)
    assert capfd.readouterr().err == ""


def test_a_file_that_is_not_there_says_so(tmp_path: Path) -> None:
    for read in (is_picture, read_image, lambda path: shots(path, 5)):
        with pytest.raises(PermanentError, match="No such file"):
            read(tmp_path / "street.jpg")


def test_a_picture_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    write_image(path, scene(40))
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(PermanentError, match="damaged"):
        read_image(path)


@pytest.mark.parametrize("name", ["a.gif", "a", "a.mp4"])
def test_a_picture_with_another_ending_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(PermanentError, match=r"written as \.jpg or"):
        write_image(tmp_path / name, scene(None))


@pytest.mark.parametrize("name", ["a.avi", "a.jpg", "a"])
def test_a_video_with_another_ending_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(PermanentError, match=r"written as \.mp4"):
        open_film(tmp_path / name, scene(None), 5)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(PermanentError, match=r"nowhere/a\.mp4 cannot be written: No such file"):
        open_film(tmp_path / "nowhere" / "a.mp4", scene(None), 5)
    with pytest.raises(PermanentError, match=r"nowhere/a\.jpg cannot be written: No such file"):
        write_image(tmp_path / "nowhere" / "a.jpg", scene(None))


def written(path: Path, pictures: Sequence[np.ndarray[tuple[int, ...], np.dtype[np.uint8]]]) -> str:
    with closing(open_film(path, pictures[0], 5)) as film:
        for picture in pictures:
            film.write(picture)
    return film.codec


@pytest.mark.skipif(not HAS_H264, reason="no GStreamer with an H.264 encoder")
@pytest.mark.parametrize("size_px", [(WIDTH_PX, HEIGHT_PX), (WIDTH_PX - 1, HEIGHT_PX - 1)])
def test_a_film_is_h264_where_gstreamer_is_there(tmp_path: Path, size_px: tuple[int, int]) -> None:
    path = tmp_path / "the walk!.mp4"
    width, height = size_px
    assert written(path, [picture[:height, :width] for picture in walk(10)]) == "H.264"
    assert b"avc1" in path.read_bytes()
    seen = shots(path, 100)
    assert len(seen) == 10
    assert seen[5].at_s == pytest.approx(1.0, abs=0.01)
    assert seen[9].picture.shape == (height // 2 * 2, width // 4 * 4, 3)
    assert (
        np.abs(seen[9].picture[::8, ::8].astype(int) - walk(10)[9][::8, ::8][:30, : -(-(width // 4 * 4) // 8)]).mean()
        < 8
    )


def test_without_gstreamer_it_is_mpeg4(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(films, "_h264_encoder", lambda: None)
    path = tmp_path / "walk.mp4"
    assert written(path, walk(10)) == "MPEG-4"
    assert len(shots(path, 100)) == 10


@pytest.mark.skipif(not HAS_H264, reason="no GStreamer with an H.264 encoder")
def test_an_encoder_that_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(films, "_ENCODERS", (("x264enc", "speed-preset=nonsense"),))
    with pytest.raises(PermanentError, match=r"walk\.mp4 cannot be written: .*nonsense"):
        written(tmp_path / "walk.mp4", walk(50))
