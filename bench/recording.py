"""Kill -9 while it records, a disk that is full and free again, a clip across three segments: what is lost?

Coded pictures carry their number, so that a picture that is missing, twice or in the wrong place is seen. What is in a
file is decoded and counted by FFmpeg, which wrote none of it.

- Kills: a process records in real time, 10 pictures a second, a keyframe every 2 s, segments of 2 s; it is killed 20
  times at any moment. Every closed segment must hold all of its pictures; what the last one lost, from the last
  picture that the process was given, is at most a group of pictures and a second (3 s).
- Full disk: a file system of 24 MB in memory (tmpfs; needs root) is filled to the last byte by a file that is not the
  recorder's. The recorder must say that it failed, resume when the file goes, and every segment must play. Without root
  this part is left out, and said.
- Clip: every picture from the keyframe before the start to the end, once.

Target: 0 closed segments that do not play, at most 3 s lost, 0 pictures wrong in clips.

    python bench/recording.py [--kills N]
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from broker.messages import ClipEvent
from config.cameras import FootageSettings, RecordingSettings
from config.clock import SystemClock
from config.log import configure_logging
from edge.footage import CameraRecorder, Footage
from edge.footage.clips import cut_clip
from edge.footage.layout import FootageFolder, Segment
from edge.footage.segments import find_segments
from tests.support.coded import START, coded_pictures, read_numbers
from tests.support.waiting import wait_until

FPS = 10
GROUP = 20
SEGMENT_S = 4.0
KILLED_SEGMENT_S = GROUP / FPS
"""As short as a group of pictures: as many closed segments as can be."""
LOST_MAX_S = GROUP / FPS + 1.0
TMPFS_MB = 24
FREE_MIN_BYTES = 2_000_000
PICTURES = 1_200


@contextlib.contextmanager
def running(
    folder: Path, *, segment_s: float = SEGMENT_S, free_min: int = 0
) -> Iterator[tuple[Footage, CameraRecorder]]:
    """Footage with one camera that is to be recorded."""

    def publish(event: ClipEvent) -> ClipEvent:
        return event

    footage = Footage(folder, FootageSettings(disk_free_min_bytes=free_min), publish=publish, clock=SystemClock())
    footage.start()
    recorder = footage.camera("yard", RecordingSettings(segment_s=segment_s), masked=False)
    recorder.want("continuous", private=False)
    try:
        yield footage, recorder
    finally:
        recorder.close()
        footage.close()


def everything(folder: Path) -> list[Segment]:
    """All segments, in order."""
    always = timedelta(days=3650)
    return list(find_segments(FootageFolder(folder), "yard", START - always, datetime.now(UTC) + always))


# --- kill -9 -----------------------------------------------------------------------------------------------------


def record_for_ever(folder: Path, first: int) -> None:
    """The process that is killed; it says on standard output which picture it has been given."""
    configure_logging("error", "text", stream=sys.stderr)
    packets = coded_pictures(PICTURES, group=GROUP, first=first)
    with running(folder, segment_s=KILLED_SEGMENT_S) as (_, recorder):
        begun_s = time.monotonic()
        for number, packet in enumerate(packets):
            time.sleep(max(0.0, begun_s + number / FPS - time.monotonic()))
            recorder.on_packet(
                type(packet)(packet.sample, datetime.now(UTC), number / FPS, packet.keyframe, packet.size_bytes)
            )
            sys.stdout.write(f"{first + number}\n")
            sys.stdout.flush()


def kill_once(folder: Path, first: int, after_s: float) -> int:
    """Record, and be killed; returns the last picture that it was given."""
    command = [sys.executable, "-P", __file__, "--child", str(folder), "--first", str(first)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    try:
        last = int(child.stdout.readline())
        deadline_s = time.monotonic() + after_s
        while time.monotonic() < deadline_s:
            last = int(child.stdout.readline())
        child.send_signal(signal.SIGKILL)
        rest = child.stdout.read().splitlines()
    finally:
        child.kill()
        child.wait(timeout=10)
    return int(rest[-1]) if rest and rest[-1].isdigit() else last


def check_kills(root: Path, kills: int, rng: random.Random) -> tuple[int, float]:
    """Kill as often as wanted; returns how many closed segments are not whole, and the most that was lost, seconds."""
    broken, lost_s = 0, 0.0
    for kill in range(kills):
        folder = root / f"kill-{kill}"
        first = kill * 2_000
        last = kill_once(folder, first, rng.uniform(0.2, 7.0))
        closed_before = {segment.name.id for segment in everything(folder) if segment.closed}
        with running(folder):
            pass  # as the next process of this node: it closes what was left
        pieces = [(segment.name.id in closed_before, read_numbers(segment.path)) for segment in everything(folder)]
        numbers = [number for _, piece in pieces for number in piece]
        whole = [piece for closed, piece in pieces if closed]
        broken += sum(piece != list(range(piece[0], piece[0] + GROUP)) for piece in whole)
        broken += numbers != list(range(first, first + len(numbers)))
        this_s = (last + 1 - first - len(numbers)) / FPS
        lost_s = max(lost_s, this_s)
        print(
            f"  kill {kill + 1:2}: given {last + 1 - first:3} pictures, {len(numbers):3} play, "
            f"{len(whole)} segments were closed, lost {this_s:.1f} s",
            flush=True,
        )
    return broken, lost_s


# --- the full disk -----------------------------------------------------------------------------------------------


def check_full_disk(mount: Path) -> int | None:
    """Fill the disk and free it again; returns how many things went wrong, or None where nothing can be mounted."""
    mount.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={TMPFS_MB}m", "tmpfs", str(mount)], capture_output=True, check=False
    )
    if mounted.returncode:
        return None
    try:
        return _fill_and_free(mount, 0) + _fill_and_free(mount, FREE_MIN_BYTES)
    finally:
        subprocess.run(["umount", str(mount)], check=True)


def _fill_and_free(mount: Path, free_min: int) -> int:
    folder, ballast = mount / f"footage-{free_min}", mount / "ballast"
    wrong = 0
    with running(folder, segment_s=2, free_min=free_min) as (_, recorder):
        feed = _feeder(recorder)
        for _ in range(30):
            next(feed)
        _fill(ballast)
        _until(feed, lambda: recorder.state[0] == "failed")
        state, error = recorder.state
        wrong += state != "failed"
        print(f"  full ({free_min} B kept free): {state}, {error}")
        for _ in range(50):
            next(feed)
        wrong += recorder.state[0] != "failed"
        ballast.unlink()
        freed_s = time.monotonic()
        before = recorder.figures().recorded_bytes
        _until(feed, lambda: recorder.state[0] == "on" and recorder.figures().recorded_bytes > before)
        wrong += recorder.state[0] != "on"
        print(f"  free again: {recorder.state[0]} after {time.monotonic() - freed_s:.1f} s")
        for _ in range(30):
            next(feed)
    counts = [len(read_numbers(segment.path)) for segment in everything(folder)]
    unplayed = sum(count == 0 for count in counts) + len(list((folder / "unreadable").glob("*")))
    print(f"  {len(counts)} segments, {unplayed} of them do not play, {sum(counts)} pictures")
    return wrong + unplayed


def _feeder(recorder: CameraRecorder) -> Iterator[None]:
    """Ten times as fast as a camera, and large enough to fill what is free."""
    packets = coded_pictures(200, group=10)
    for number in itertools.count():
        packet = packets[number % len(packets)]
        recorder.on_packet(
            type(packet)(packet.sample, datetime.now(UTC), number / FPS, packet.keyframe, packet.size_bytes)
        )
        time.sleep(0.1 / FPS)
        yield


def _fill(ballast: Path) -> None:
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(65_536))
    with contextlib.suppress(OSError), ballast.open("ab", buffering=0) as file:
        while True:
            file.write(b"x")


def _until(feed: Iterator[None], condition: Callable[[], bool], limit_s: float = 60.0) -> None:
    deadline_s = time.monotonic() + limit_s
    while not condition() and time.monotonic() < deadline_s:
        next(feed)


# --- clips -------------------------------------------------------------------------------------------------------


def check_clips(root: Path, count: int, rng: random.Random) -> int:
    """Cut clips across three segments and more; returns how many are not exactly what was asked for."""
    packets = coded_pictures(600, group=GROUP)
    with running(root, segment_s=SEGMENT_S) as (_, recorder):
        for packet in packets:
            recorder.on_packet(packet)
        recorder.flush(30)
        wait_until(lambda: recorder.figures().segments >= 14)
    wrong = 0
    for number in range(count):
        start_s = rng.uniform(0.0, 40.0)
        end_s = start_s + rng.uniform(2 * SEGMENT_S + 0.5, 15.0)
        start, end = START + timedelta(seconds=start_s), START + timedelta(seconds=end_s)
        segments = list(find_segments(FootageFolder(root), "yard", start, end))
        assert len(segments) >= 3, "a clip that lies in fewer shows nothing"
        path = root / f"clip-{number}.mp4"
        clip = cut_clip(segments, start, end, path)
        keyframe = int(start_s * FPS) // GROUP * GROUP
        wrong += read_numbers(path) != list(range(keyframe, int(end_s * FPS) + 1)) or clip.missing_s > 0
    return wrong


def main() -> int:
    """Run it; returns 1 when a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--first", type=int, default=0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child is not None:
        record_for_ever(arguments.child, arguments.first)
        return 0
    configure_logging("error", "text", stream=open(os.devnull, "w"))  # noqa: PTH123, SIM115 - what is said is counted
    rng = random.Random(7)
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        clips = 20
        clips_wrong = check_clips(root / "clips", clips, rng)
        full_wrong = check_full_disk(root / "disk")
        broken, lost_s = check_kills(root, arguments.kills, rng)
    full = "left out: no tmpfs without root" if full_wrong is None else f"{full_wrong} things wrong (target 0)"
    print(f"clips across three segments or more: {clips_wrong} of {clips} wrong (target 0)")
    print(f"full disk and back, twice: {full}")
    print(
        f"{arguments.kills} kills: {broken} closed segments do not play (target 0), "
        f"{lost_s:.1f} s lost at most (target {LOST_MAX_S:g} s)"
    )
    return int(bool(clips_wrong or full_wrong or broken or lost_s > LOST_MAX_S))


if __name__ == "__main__":
    raise SystemExit(main())
