"""Recording as a person has it: a camera in the network, a node that dies, and a clip of before and after."""

from __future__ import annotations

import json
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import unquote

import pytest

from broker import Delivery, listen
from broker.messages import ClipEvent, CommandValue, Reply
from broker.topics import CAMERA_SET, everything
from config.settings import BusSettings, Settings
from edge.footage.layout import FootageFolder, Segment
from edge.footage.segments import find_segments
from tests.e2e.vigil_process import Vigil, run_vigil
from tests.support.camera import MockCamera, small_film
from tests.support.coded import picture_count
from tests.support.mosquitto import Mosquitto
from tests.support.waiting import wait_until

pytest.importorskip("edge.gst.writer", reason="no GStreamer: see deploy/packages.txt")


def _segments(state: Path) -> list[Segment]:
    now = datetime.now(UTC)
    return list(find_segments(FootageFolder(state / "footage"), "yard", now - timedelta(hours=1), now))


def test_a_node_that_is_killed_loses_a_second_and_delivers_a_clip_of_before_and_after(
    mosquitto: Mosquitto, tmp_path: Path
) -> None:
    site, state = tmp_path / "vigil.yaml", tmp_path / "state"
    replies: list[Reply] = []
    clips: list[ClipEvent] = []

    def on_message(delivery: Delivery) -> None:
        match delivery.content:
            case Reply() as reply:
                replies.append(reply)
            case ClipEvent() as clip:
                clips.append(clip)

    with ExitStack() as stack:
        camera = stack.enter_context(MockCamera(tmp_path, small_film(tmp_path)))
        recording = {"mode": "continuous", "segment_s": 2}
        cameras = {"yard": {"source": camera.rtsp_url, "recording": recording}}
        site.write_text(json.dumps({"site": "home", "node": "node-1", "cameras": cameras}))
        root = ("--config", str(site), "--bus", mosquitto.url, "--state", str(state))
        bus = listen(Settings(bus=BusSettings(url=mosquitto.url)), "test")
        bus.subscribe_filter(everything("home"), on_message)
        bus.start()
        stack.callback(bus.close)

        with Vigil(*root, "edge", folder=tmp_path) as edge:
            wait_until(lambda: sum(one.duration_s for one in _segments(state)) >= 3, what="three seconds of footage")
            edge.process.kill()
            edge.wait_end()
        killed_at = datetime.now(UTC)
        before = _segments(state)
        with Vigil(*root, "edge", folder=tmp_path):
            wait_until(lambda: _segments(state)[-1].starts_at > killed_at, what="new footage")
            wait_until(lambda: _segments(state)[-1].duration_s >= 1.5, what="new pictures")
            start = before[-1].starts_at + timedelta(seconds=0.5)
            end = _segments(state)[-1].starts_at + timedelta(seconds=1)
            wish = CommandValue(value=f"{start.isoformat()}/{end.isoformat()}", correlation_id="../wish")
            bus.publish(CAMERA_SET.at("home", camera="yard", property="clip"), wish)
            wait_until(lambda: clips and replies, what="the clip")
            listed = run_vigil(*root, "footage", "list", "--json")
            cut = run_vigil(
                *root, "footage", "get", "yard", "--from", start.isoformat(), "--to", end.isoformat(),
                "--out", str(tmp_path / "own.mp4"),
            )  # fmt: skip

    assert all(one.name.id in {again.name.id for again in _segments(state)} for one in before)
    (clip,), (reply,) = clips, replies
    assert (reply.ok, reply.correlation_id, clip.about, clip.error) == (True, "../wish", "../wish", None)
    delivered = Path(unquote(clip.uri.removeprefix("file://")))
    assert delivered.is_relative_to(state / "footage" / "clips")
    # From its keyframe to its end, less what the node was away: ten pictures a second.
    away_s = clip.missing_s
    expected = 10 * ((clip.ends_at - clip.starts_at).total_seconds() - away_s)
    assert abs(picture_count(delivered) - expected) <= 5
    assert clip.starts_at <= start < clip.starts_at + timedelta(seconds=1)
    assert listed[0] == 0
    assert [json.loads(line)["gap_before_s"] > 0 for line in listed[1].splitlines()].count(True) >= 1
    assert cut[0] == 0, cut[2]
    assert abs(picture_count(tmp_path / "own.mp4") - expected) <= 5
