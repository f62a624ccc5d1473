"""What is private is in nothing that leaves a node: films with a secret, real encoders, a decoder that is not ours."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from broker import Bus, Delivery, listen
from broker.messages import CameraState, CommandValue
from broker.topics import CAMERA_FRAME, CAMERA_SET, CAMERA_SNAPSHOT, CAMERA_STATE, TopicSpec, everything
from config.cameras import PrivacySettings
from config.clock import ManualClock
from config.settings import BusSettings, Settings
from edge.capture import SourceOptions, open_source
from edge.picture import Picture
from edge.privacy import Privacy
from tests.support.leaks import Leak, pictures_of_delivery, pictures_of_folder
from tests.support.mosquitto import Mosquitto
from tests.support.secrecy import FOUND, POLYGON, SecretFilm, interior, pictures_in, pictures_of_video, resemblance
from tests.support.server import ServerProcess
from tests.support.waiting import wait_until

pytest.importorskip("edge.gst.graph", reason="no GStreamer: see deploy/packages.txt")

FRAMES = 20
"""Each film's length: all of its codes."""


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> tuple[SecretFilm, SecretFilm]:
    """Two films that differ in nothing but their secret."""
    folder = tmp_path_factory.mktemp("films")
    return SecretFilm.make(folder, 1, lossless=True), SecretFilm.make(folder, 2, lossless=True)


@dataclass(frozen=True, slots=True)
class Seen:
    """What was made of a frame."""

    full: bytes
    small: bytes
    picture: Picture

    @property
    def is_like(self) -> tuple[bytes, ...]:
        """Everything that others may see of it."""
        return self.full, self.small, *(plane.tobytes() for plane in (self.picture.y, self.picture.u, self.picture.v))


def watch(film: SecretFilm, style: str | None) -> Iterator[Seen]:
    """A picture of each code, through a camera's masks."""
    masks = {"door": {"points": POLYGON, "style": style}} if style else {}
    privacy = Privacy(PrivacySettings.model_validate({"masks": masks}))
    with closing(open_source(f"file:{film.path}?pace=max", clock=ManualClock(), options=SourceOptions())) as source:
        for frame in islice(source.frames(threading.Event()), 2, FRAMES, 5):
            shown = privacy.show(frame)
            yield Seen(shown.encode(80), shown.encode(50, height_px=180), shown.picture())


def test_a_black_mask_leaves_two_films_with_other_secrets_the_same_to_the_last_byte(
    films: tuple[SecretFilm, SecretFilm],
) -> None:
    count = 0
    for one, other in zip(watch(films[0], "black"), watch(films[1], "black"), strict=True):
        # Not compared as a whole: pytest would take minutes to explain a difference of megabytes.
        assert [a == b for a, b in zip(one.is_like, other.is_like, strict=True)] == [True] * 5
        (shown,) = pictures_in(one.full)
        assert len(np.unique(interior(shown), axis=0)) == 1
        count += 1
    assert count == 4


@pytest.mark.parametrize("style", ["pixels", "blur"])
def test_a_coarse_mask_shows_nothing_of_what_is_finer_than_its_cells(
    films: tuple[SecretFilm, SecretFilm], style: str
) -> None:
    for seen in watch(films[0], style):
        for jpeg in (seen.full, seen.small):
            assert resemblance(next(pictures_in(jpeg)), films[0].codes) < FOUND


def test_without_a_mask_the_search_finds_the_secret(films: tuple[SecretFilm, SecretFilm]) -> None:
    looks = list(watch(films[0], None))
    for seen in looks:
        assert resemblance(next(pictures_in(seen.full)), films[0].codes) > 2 * FOUND
        assert resemblance(next(pictures_in(seen.small)), films[0].codes) > 2 * FOUND
    assert resemblance(next(pictures_in(looks[0].full)), films[1].codes) < FOUND / 2
    assert len({seen.full for seen in looks}) == len(looks)


class Site:
    """A node with a masked camera and one without masks, as a process; this end hears everything."""

    def __init__(self, folder: Path, url: str, films: tuple[SecretFilm, SecretFilm]) -> None:
        self.folder = folder
        self.url = url
        self.heard: list[Delivery] = []
        corners = ", ".join(f"[{x}, {y}]" for x, y in POLYGON)
        recording = "recording: {mode: continuous, segment_s: 2}\n"
        (folder / "site.yaml").write_text(
            "site: home\nnode: node-1\ncameras:\n"
            f"  masked:\n    source: file:{films[0].path}\n    {recording}"
            f"    privacy: {{masks: {{door: {{points: [{corners}]}}}}}}\n"
            f"  bare:\n    source: file:{films[1].path}\n    {recording}"
        )
        options = ["--config", str(folder / "site.yaml"), "--state", str(folder / "state"), "--bus", url]
        command = [sys.executable, "-m", "console", *options, "--log-format", "json", "edge"]
        self.edge = ServerProcess(command, log=folder / "edge.log", ready="edge.started", start_timeout_s=30)
        self.bus = hear(url, self.heard)

    def of(self, spec: TopicSpec, camera: str) -> list[Delivery]:
        return [d for d in list(self.heard) if d.topic.spec is spec and d.topic.camera == camera]

    def set(self, camera: str, name: str, value: str) -> None:
        topic = CAMERA_SET.at("home", camera=camera, property=name)
        self.bus.publish(topic, CommandValue(value=value, correlation_id=f"{camera}-{name}-{len(self.heard)}"))

    def recordings(self, camera: str) -> list[Path]:
        return sorted((self.folder / "state" / "footage" / "recordings" / camera).rglob("*.mp4"))

    def has(self, spec: TopicSpec, camera: str, count: int) -> bool:
        return len(self.of(spec, camera)) >= count

    def has_recordings(self, camera: str, count: int) -> bool:
        return len(self.recordings(camera)) >= count

    def is_private(self, camera: str) -> bool:
        states = [d.content for d in self.of(CAMERA_STATE, camera) if isinstance(d.content, CameraState)]
        return bool(states) and states[-1].privacy


def hear(url: str, heard: list[Delivery]) -> Bus:
    """A bus on which everything is heard."""
    bus = listen(Settings(site="home", node="node-2", bus=BusSettings(url=url)), "test")
    bus.subscribe_filter(everything("home"), heard.append)
    bus.start()
    assert bus.wait_connected(30)
    return bus


@pytest.fixture
def site(tmp_path: Path, mosquitto: Mosquitto, films: tuple[SecretFilm, SecretFilm]) -> Iterator[Site]:
    site = Site(tmp_path, mosquitto.url, films)
    site.edge.start()
    wait_until(lambda: site.has(CAMERA_FRAME, "masked", 1) and site.has(CAMERA_FRAME, "bare", 1), timeout_s=60)
    yield site
    site.edge.kill()
    site.bus.close(0)


def test_a_masked_secret_is_in_no_message_and_in_no_file(site: Site, films: tuple[SecretFilm, SecretFilm]) -> None:
    for camera in ("masked", "bare"):
        site.set(camera, "snapshot", "now")
        wait_until(partial(site.has, CAMERA_FRAME, camera, 4), timeout_s=60, what="frames")
        wait_until(partial(site.has, CAMERA_SNAPSHOT, camera, 1), timeout_s=60, what="a snapshot")
        wait_until(partial(site.has_recordings, camera, 1), timeout_s=60, what="a recording")
    site.edge.stop()
    kinds: dict[str, list[Leak]] = {}
    for leak in (*(leak for d in site.heard for leak in pictures_of_delivery(d)), *pictures_of_folder(site.folder)):
        kinds.setdefault(leak.where, []).append(leak)
    shown = set()
    for where, leaks in kinds.items():
        chosen = leaks[:: 1 + len(leaks) // 6]
        assert max(resemblance(leak.picture, films[0].codes) for leak in chosen) < FOUND, where
        if any(resemblance(leak.picture, films[1].codes) > 2 * FOUND for leak in leaks):
            shown.add(where.split("/")[-2] if "/" in where else where)
    assert shown == {"camera_frame", "camera_snapshot", "bare"}, "the camera without a mask shows its secret"
    for path in site.recordings("masked"):
        for picture in pictures_of_video(path):
            assert np.ptp(interior(picture), axis=0).max() <= 2


def test_privacy_takes_the_snapshot_back_ends_the_recording_and_survives_a_kill(site: Site) -> None:
    site.set("bare", "snapshot", "now")
    wait_until(partial(site.has, CAMERA_SNAPSHOT, "bare", 1), timeout_s=60, what="a snapshot")
    wait_until(partial(site.has_recordings, "bare", 1), timeout_s=60, what="a recording")
    site.set("bare", "privacy", "on")
    wait_until(lambda: site.is_private("bare"), timeout_s=60, what="privacy")
    wait_until(lambda: not site.of(CAMERA_SNAPSHOT, "bare")[-1].payload, timeout_s=60, what="the snapshot's end")
    frames, recordings = len(site.of(CAMERA_FRAME, "bare")), site.recordings("bare")
    site.edge.kill()
    site.edge.start()
    wait_until(partial(site.has, CAMERA_FRAME, "masked", len(site.of(CAMERA_FRAME, "masked")) + 4), timeout_s=60)
    wait_until(partial(site.has_recordings, "masked", len(site.recordings("masked")) + 1), timeout_s=60)
    assert site.is_private("bare")
    assert len(site.of(CAMERA_FRAME, "bare")) == frames
    # None is new; one that had begun within the last second may have held no whole fragment when the kill came.
    assert {path.stem.partition(".")[0] for path in site.recordings("bare")} <= {
        path.stem.partition(".")[0] for path in recordings
    }
    late: list[Delivery] = []
    with closing(hear(site.url, late)):
        wait_until(lambda: [d for d in late if d.topic.spec is CAMERA_STATE and d.topic.camera == "bare"])
        wait_until(lambda: [d for d in late if d.topic.spec is CAMERA_FRAME])
    assert not [d for d in late if d.topic.spec in (CAMERA_FRAME, CAMERA_SNAPSHOT) and d.topic.camera == "bare"]
