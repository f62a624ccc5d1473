"""Whatever reads, writes or encodes is wholly gone when it is closed: a node runs for months."""

from __future__ import annotations

import gc
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import psutil
import pytest

from edge.picture import Packet
from tests.support.coded import START, coded_pictures, numbered_picture
from tests.support.waiting import wait_until

pytest.importorskip("edge.gst.graph", reason="no GStreamer: see deploy/packages.txt")

ROUNDS = 8


def write(folder: Path) -> Path:
    """A file, written to its end."""
    from edge.gst.writer import SegmentWriter

    packets = coded_pictures(10)
    path = folder / f"{len(list(folder.iterdir()))}.mp4"
    writer = SegmentWriter(path, packets[0])
    for packet in packets:
        writer.write(packet)
    writer.finish(durable=False)
    return path


def read(folder: Path) -> None:
    """A file, read to its end."""
    from edge.gst.reader import read_packets

    path = next(folder.glob("*.mp4"), None) or write(folder)
    assert len(list(read_packets(path, START))) == 10


def encode(_folder: Path) -> None:
    """Pictures into packets."""
    from edge.gst.recode import Recoder

    packets: list[Packet] = []
    recoder = Recoder(numbered_picture(0), packets.append)
    for number in range(10):
        recoder.take(numbered_picture(number), at=START + timedelta(seconds=number), at_s=float(number))
    wait_until(lambda: packets, what="a packet")
    recoder.close()


@pytest.mark.parametrize("work", [write, read, encode])
def test_nothing_of_it_stays_open(work: Callable[[Path], object], tmp_path: Path) -> None:
    def descriptors() -> int:
        gc.collect()
        return psutil.Process().num_fds()

    work(tmp_path)
    before = descriptors()
    for _ in range(ROUNDS):
        work(tmp_path)
    # GStreamer's threads let go of theirs a little later; a leak would be two for each round.
    wait_until(lambda: descriptors() < before + ROUNDS, timeout_s=10, what=f"about {before} descriptors")
