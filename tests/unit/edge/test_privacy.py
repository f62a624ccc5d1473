"""No way to a picture of a frame but through the camera's masks, and none at all when that is in doubt."""

from __future__ import annotations

import ast
import io
import threading
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from broker.messages import FoundPeople, FoundPerson, ModelRef
from config.cameras import PrivacySettings
from config.clock import ManualClock
from config.errors import TransientError
from edge.capture import open_source
from edge.picture import Picture, Retouch
from edge.privacy import FindPeople, Privacy, WithheldError
from edge.source import CapturedFrame
from tests.support.waiting import wait_until
from tests.unit.edge.scripted import Street, still, walk

Box = tuple[float, float, float, float]

HEIGHT, WIDTH = 240, 320
SQUARE = ((0.25, 0.25), (0.5, 0.25), (0.5, 0.5), (0.25, 0.5))
INSIDE = np.s_[60:120, 80:160]
ROOT = Path(__file__).parents[3]


def noise(seed: int = 0) -> Picture:
    rng = np.random.default_rng(seed)
    y, u, v = (rng.integers(0, 256, (HEIGHT // part, WIDTH // part), np.uint8) for part in (1, 2, 2))
    return Picture(y, u, v)


class Taken:
    """A frame of noise, and what was made of it."""

    def __init__(self, at_s: float = 0.0, seed: int = 0) -> None:
        self.seed = seed
        self.pictures: list[Picture] = []
        luma = np.zeros((100, 133), np.uint8)
        self.frame = CapturedFrame(7, datetime.now(UTC), at_s, luma, WIDTH, HEIGHT, self._encode, self._picture)

    def _encode(self, quality: int, *, height_px: int | None = None, retouch: Retouch | None = None) -> bytes:
        picture = noise(self.seed)
        if retouch is not None:
            retouch(picture)
        self.pictures.append(picture)
        return b"jpeg"

    def _picture(self) -> Picture:
        return noise(self.seed)


def masked(style: str = "black") -> PrivacySettings:
    return PrivacySettings.model_validate({"masks": {"door": {"points": SQUARE, "style": style}}})


BLUR = PrivacySettings(blur="people")


def found(*boxes: Box) -> FoundPeople:
    """As a finder says it, the first one best."""
    model = ModelRef(name="bright", sha256="ab" * 32)
    scored = [FoundPerson(score=0.9 - place / 10, box=box) for place, box in enumerate(boxes)]
    return FoundPeople(model=model, people=tuple(scored))


@pytest.mark.parametrize("style", ["black", "pixels", "blur"])
def test_every_picture_of_a_frame_is_masked(style: str) -> None:
    taken = Taken()
    shown = Privacy(masked(style)).show(taken.frame)
    shown.encode(80)
    shown.encode(50, height_px=120)
    for picture in (*taken.pictures, shown.picture()):
        assert (picture.y[INSIDE] == noise().y[INSIDE]).mean() < 0.1
        assert np.array_equal(picture.y[:59], noise().y[:59])
        assert np.array_equal(picture.y, taken.pictures[0].y)
    assert len(taken.pictures) == 2
    assert (shown.seq, shown.at_s, shown.width_px, shown.height_px) == (7, 0.0, WIDTH, HEIGHT)
    assert shown.captured_at == taken.frame.captured_at
    assert shown.luma is taken.frame.luma


def test_black_wins_over_what_is_coarse_and_over_people() -> None:
    both = {"a": {"points": SQUARE, "style": "black"}, "b": {"points": ((0, 0), (1, 0), (1, 1)), "style": "blur"}}
    settings = PrivacySettings.model_validate({"masks": both, "blur": "people"})
    picture = Privacy(settings, find_people=lambda _picture: found((0.0, 0.0, 1.0, 1.0))).show(Taken().frame).picture()
    assert (picture.y[INSIDE] == 16).all()
    assert (picture.u[30:60, 40:80] == 128).all()


def test_without_masks_the_picture_is_not_even_copied() -> None:
    taken = Taken()
    privacy = Privacy(PrivacySettings())
    assert not privacy.alters
    assert privacy.show(taken.frame).encode(80) == b"jpeg"
    assert np.array_equal(taken.pictures[0].y, noise().y)
    assert Privacy(masked()).alters
    assert Privacy(BLUR).alters


@pytest.mark.parametrize("settings", [PrivacySettings(), masked(), BLUR])
def test_while_privacy_is_on_there_is_no_picture_of_earlier_frames_either(settings: PrivacySettings) -> None:
    privacy = Privacy(settings, find_people=lambda _picture: found())
    taken = Taken()
    shown = privacy.show(taken.frame)
    shown.encode(80)
    privacy.enabled = True
    for make in (lambda: shown.encode(80), shown.picture, lambda: privacy.show(taken.frame).encode(80)):
        with pytest.raises(WithheldError, match="privacy is on"):
            make()
    assert len(taken.pictures) == 1
    privacy.enabled = False
    shown.encode(80)
    assert Privacy(PrivacySettings(enabled=True)).enabled


def test_masks_follow_a_picture_that_changes_its_size() -> None:
    privacy = Privacy(masked())
    for height, width in ((240, 320), (480, 640), (241, 321), (240, 320)):
        half = ((height + 1) // 2, (width + 1) // 2)
        y, u, v = (np.full(shape, 77, np.uint8) for shape in ((height, width), half, half))
        picture = Picture(y, u, v)
        privacy.hide(picture, ())
        assert (picture.y[height // 4 : height // 2, width // 4 : width // 2] == 16).all()
        assert (picture.y == 77).mean() > 0.9


class TestPeople:
    def test_a_box_is_hidden_with_a_margin(self) -> None:
        shown = Privacy(BLUR, find_people=lambda _picture: found((0.25, 0.25, 0.5, 0.5))).show(Taken().frame).picture()
        same = shown.y == noise().y
        assert same[52:128, 70:170].mean() < 0.05
        assert same[:50].all()

    def test_they_are_looked_for_once_a_frame(self) -> None:
        seen: list[NDArray[np.uint8]] = []

        def find(picture: Picture) -> FoundPeople:
            seen.append(picture.y.copy())
            return found((0.1, 0.1, 0.2, 0.4))

        settings = PrivacySettings.model_validate({"masks": masked().masks, "blur": "people"})
        privacy = Privacy(settings, find_people=find)
        shown = privacy.show(Taken().frame)
        assert not seen
        shown.encode(80)
        shown.encode(40)
        shown.picture()
        assert len(seen) == 1
        assert np.array_equal(seen[0], noise().y), "it sees the picture as it is"

    def test_somebody_who_is_missed_once_stays_hidden_and_wider_each_time(self) -> None:
        answers = iter([found((0.4, 0.4, 0.5, 0.6)), found(), found(), found()])
        privacy = Privacy(BLUR, find_people=lambda _picture: next(answers))
        hidden = []
        for at_s in (0.0, 0.2, 0.4, 1.5):
            picture = privacy.show(Taken(at_s).frame).picture()
            hidden.append(float((picture.y[96:144] != noise().y[96:144]).mean()))
        assert 0.05 < hidden[0] < hidden[1] < hidden[2]
        assert hidden[3] == 0

    def test_where_pictures_are_few_two_of_them_are_remembered(self) -> None:
        answers = iter([found((0.4, 0.4, 0.5, 0.6)), found(), found(), found()])
        privacy = Privacy(BLUR, find_people=lambda _picture: next(answers))
        changed = [
            bool((privacy.show(Taken(at_s).frame).picture().y != noise().y).any()) for at_s in (0.0, 2.0, 4.0, 6.0)
        ]
        assert changed == [True, True, True, False]

    def test_a_source_that_starts_over_forgets(self) -> None:
        answers = iter([found((0.4, 0.4, 0.5, 0.6)), found()])
        privacy = Privacy(BLUR, find_people=lambda _picture: next(answers))
        privacy.show(Taken(50.0).frame).picture()
        assert np.array_equal(privacy.show(Taken(0.0).frame).picture().y, noise().y)

    def test_workers_are_told_of_those_whom_it_finds_now_and_it_looks_no_more_often(self) -> None:
        looks: list[None] = []

        def find(_picture: Picture) -> FoundPeople:
            looks.append(None)
            return found((0.4, 0.4, 0.5, 0.6)) if len(looks) == 1 else found()

        privacy = Privacy(BLUR, find_people=find)
        shown = privacy.show(Taken(0.0).frame)
        assert shown.people() == found((0.4, 0.4, 0.5, 0.6))
        shown.encode(80)
        assert shown.people() == found((0.4, 0.4, 0.5, 0.6))
        assert len(looks) == 1
        later = privacy.show(Taken(0.2).frame)
        assert later.people() == found(), "whom it remembers it hides, and tells nobody"

    def test_nobody_is_told_of_who_is_behind_a_mask(self) -> None:
        behind, half, beside = (0.3, 0.3, 0.4, 0.5), (0.45, 0.3, 0.6, 0.5), (0.7, 0.3, 0.8, 0.5)
        for style in ("black", "pixels", "blur"):
            settings = PrivacySettings.model_validate({"masks": masked(style).masks, "blur": "people"})
            told = (
                Privacy(settings, find_people=lambda _picture: found(behind, half, beside)).show(Taken().frame).people()
            )
            assert told is not None
            assert [person.box for person in told.people] == [half, beside]

    def test_without_blurring_nobody_is_told_of_anybody(self) -> None:
        assert Privacy(masked(), find_people=lambda _picture: found((0, 0, 1, 1))).show(Taken().frame).people() is None

    def test_nothing_is_told_while_privacy_is_on(self) -> None:
        privacy = Privacy(BLUR, find_people=lambda _picture: found((0.4, 0.4, 0.5, 0.6)))
        shown = privacy.show(Taken().frame)
        shown.encode(80)
        privacy.enabled = True
        with pytest.raises(WithheldError, match="privacy is on"):
            shown.people()

    def test_without_a_model_there_is_no_picture(self) -> None:
        taken = Taken()
        shown = Privacy(BLUR).show(taken.frame)
        for make in (lambda: shown.encode(80), shown.picture):
            with pytest.raises(WithheldError, match=r"no model that finds them: set edge\.detector"):
                make()
        assert not taken.pictures

    def test_a_finder_that_fails_shows_nothing_and_says_why(self) -> None:
        def fail(_picture: Picture) -> FoundPeople:
            raise TransientError("the model is gone")

        find: FindPeople = fail
        taken = Taken()
        shown = Privacy(BLUR, find_people=find).show(taken.frame)
        with pytest.raises(WithheldError, match="cannot be found: the model is gone"):
            shown.encode(80)
        with pytest.raises(WithheldError):
            shown.picture()
        assert not taken.pictures


def test_a_node_that_cannot_find_people_sends_no_picture_and_says_why(tmp_path: Path) -> None:
    with Street(tmp_path, {"yard": [[*still(3), *walk(2)]]}, privacy={"blur": "people"}) as street:
        wait_until(lambda: street.looked_at == 50)
        wait_until(lambda: any("set edge.detector" in str(state.error) for state in street.states()))
        wait_until(street.motions, what="motion, which is told all the same")
    assert street.frames() == []
    assert {state.state for state in street.states()} <= {"online", "offline"}


def test_a_frame_tells_workers_whom_its_node_blurred(tmp_path: Path) -> None:
    people = found((0.1, 0.2, 0.3, 0.9))
    cameras = {"yard": [[*still(2)]]}
    with Street(tmp_path, cameras, privacy={"blur": "people"}, find_people=lambda _picture: people) as street:
        wait_until(lambda: street.looked_at == 20)
        wait_until(street.frames)
        assert {frame.meta.people for frame in street.frames()} == {people}


@pytest.mark.parametrize("height_px", [None, 90])
def test_the_synthetic_street_is_masked_at_full_size(height_px: int | None) -> None:
    source = open_source("synthetic:street?seed=3&width=320&height=240", clock=ManualClock())
    frame = next(source.frames(threading.Event()))
    shown = Privacy(masked()).show(frame)
    with Image.open(io.BytesIO(shown.encode(90, height_px=height_px))) as image:
        y, *colours = (np.asarray(plane) for plane in image.convert("YCbCr").split())
        assert image.info.keys() <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}
        assert not image.getexif()
    height = height_px or 240
    assert y.shape == (height, 320 * height // 240)
    inside = np.s_[height // 4 + 4 : height // 2 - 4, y.shape[1] // 4 + 4 : y.shape[1] // 2 - 4]
    assert y[inside].max() <= 2
    assert all(np.abs(plane[inside].astype(int) - 128).max() <= 2 for plane in colours)
    assert (shown.picture().y[INSIDE] == 0).all()
    assert frame.picture().y[INSIDE].min() > 5


def test_only_privacy_reaches_the_pictures_of_a_raw_frame() -> None:
    """Types see to it that frames are sent and recorded as `ShownFrame`; this, that nobody goes around them."""
    reached: dict[str, set[str]] = {}
    for path in sorted((ROOT / "edge").rglob("*.py")):
        where = path.relative_to(ROOT).as_posix()
        tree = list(ast.walk(ast.parse(path.read_text())))
        names_raw = any(isinstance(node, ast.Name) and node.id == "CapturedFrame" for node in tree)
        for node in tree:
            if isinstance(node, ast.keyword) and node.arg == "retouch":
                reached.setdefault(where, set()).add("retouch=")
            if names_raw and isinstance(node, ast.Attribute) and node.attr in {"encode", "picture"}:
                reached.setdefault(where, set()).add(ast.unparse(node))
    sources = {"edge/synthetic/source.py"}
    outside = {where: how for where, how in reached.items() if where not in sources and "/gst/" not in where}
    assert outside.pop("edge/privacy.py") == {"retouch=", "frame.encode", "frame.picture"}
    assert all(how <= {"shown.encode", "shown.picture"} for how in outside.values()), outside
