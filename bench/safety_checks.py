"""Safety checks: does one find a covered, black, turned, blurred or frozen camera, and pass a normal one at night?

First the looks alone: pictures of three scenes (a street filmed at different times, a drawn street, a drawn room) under
many conditions in which all is well, and many in which something is not, compared with one reference picture by day;
nights with one lamp also with one of such a night. Then the whole way: a real edge with a camera for each kind of
trouble, Mosquitto and `vigil fleet` as processes, references taken and checks made with `vigil camera check`, and what
was escalated counted. Targets: no false alarm, no miss, and an escalation with its picture for each camera that is not
well.

    python bench/safety_checks.py
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import msgspec
import numpy as np
from PIL import Image

from bench._site import DATA, SITE, running_site
from broker import Bus, Delivery
from broker.messages import CameraCheck, CameraState, Escalation
from broker.topics import CAMERA_ESCALATION, CAMERA_STATE
from edge.synthetic.scenes import open_scene
from edge.uris import SyntheticUri
from fleet.schedules.checks import Look, judge, judge_frozen
from tests.support.troubles import LAMP, TROUBLES, WELL, Change, Grey, read_greys, write_film
from tests.support.waiting import wait_until

SEED = 7
PICTURES = 24
"""Of each scene under each condition."""
SENSITIVITY = 0.5
FILM_PICTURES = 60
FILMED: Mapping[str, tuple[str | None, str]] = {
    "yard": (None, "as it is"),
    "yard-night": (None, "night"),
    "yard-lamp": (None, "night, one lamp"),
    "capped": ("black", "lens cap"),
    "covered": ("covered", "hand before it"),
    "turned": ("turned", "turned 25 degrees"),
    "blurred": ("blurred", "out of focus"),
    "frozen": ("frozen", "as it is"),
}
"""Cameras of the whole way: which check is to say so, None where all is well, and how their pictures look."""


@dataclass
class Tally:
    """What came of the checks."""

    made: int = 0
    wrong: int = 0

    def add(self, *, wrong: bool) -> None:
        """One more."""
        self.made += 1
        self.wrong += wrong


def scenes() -> Iterator[tuple[str, list[Grey]]]:
    """Pictures of each scene at different times, the first a reference."""
    yield "filmed street", read_greys(DATA / "pedestrians.avi", every=795 // PICTURES)
    for scene in ("street", "room"):
        drawn = open_scene(SyntheticUri(SEED, 10.0, 640, 360, "max", scene), 640, 360)
        times = np.arange(PICTURES + 1) * 3.3
        yield f"drawn {scene}", [np.asarray(Image.fromarray(drawn.picture(float(s))).convert("L")) for s in times]


def coded(picture: Grey) -> Look:
    """As it arrives: a JPEG, decoded."""
    made = BytesIO()
    Image.fromarray(picture).save(made, "JPEG", quality=80)
    return Look(np.asarray(Image.open(made).convert("L")))


def failed(picture: Grey, references: Sequence[Look]) -> tuple[str, ...]:
    """The checks that say that a picture is not well."""
    return tuple(finding.check for finding in judge(coded(picture), references, SENSITIVITY) if not finding.ok)


def run_well(pictures: Sequence[Grey], name: str, tally: Tally) -> str:
    """Check pictures in which all is well."""
    rng, told, references = np.random.default_rng(SEED), Counter[str](), [coded(pictures[0])]
    condition, before = WELL[name], None
    if name == LAMP:
        references.append(coded(condition(pictures[0], rng)))
    for picture in pictures[1:]:
        shown = condition(picture, rng)
        found = failed(shown, references)
        if before is not None and not judge_frozen(coded(before), coded(shown)).ok:
            found += ("frozen",)
        tally.add(wrong=bool(found))
        told.update(found)
        before = shown
    return ", ".join(f"{check} {count}" for check, count in told.items())


def run_trouble(pictures: Sequence[Grey], check: str, condition: Change, tally: Tally) -> str:
    """Check pictures in which something is not well."""
    rng, told, reference = np.random.default_rng(SEED), Counter[str](), coded(pictures[0])
    for picture in pictures[1:]:
        found = failed(condition(picture, rng), [reference])
        tally.add(wrong=not found)
        told.update(found)
    others = ", ".join(f"{name} {count}" for name, count in told.items() if name != check)
    return f"{check} {told[check]}" + (f" ({others})" if others else "")


def run_looks() -> tuple[Tally, Tally]:
    """The table of all conditions."""
    well, ill = Tally(), Tally()
    print(f"{'scene':<14} {'condition':<20} {'pictures':>8}  told")
    for scene, pictures in scenes():
        for name in WELL:
            wrong = run_well(pictures, name, well)
            print(f"{scene:<14} {name:<20} {len(pictures) - 1:>8}  {'FALSE ALARM: ' + wrong if wrong else 'well'}")
        for name, (check, change) in TROUBLES.items():
            missed = ill.wrong
            told = run_trouble(pictures, check, change, ill)
            print(f"{scene:<14} {name:<20} {len(pictures) - 1:>8}  {told}" + ("  MISSED" * (ill.wrong > missed)))
        still = [judge_frozen(coded(picture), coded(picture)).ok for picture in pictures]
        for ok in still:
            ill.add(wrong=ok)
        print(f"{scene:<14} {'frozen':<20} {len(still):>8}  frozen {len(still) - sum(still)}")
    return well, ill


# --- the whole way ---------------------------------------------------------------------------------------------------


def make_films(folder: Path) -> None:
    """The films that the cameras show: first ``day.avi`` all of them, then each its own."""
    pictures = read_greys(DATA / "pedestrians.avi", every=4, count=FILM_PICTURES)
    write_film(folder / "day.avi", pictures)
    rng = np.random.default_rng(SEED)
    for name, (_check, condition) in FILMED.items():
        change = WELL.get(condition) or TROUBLES[condition][1]
        shown = pictures[30:31] * FILM_PICTURES if name == "frozen" else pictures
        write_film(folder / f"{name}.avi", [change(picture, rng) for picture in shown])


def point(folder: Path, films: Mapping[str, str]) -> None:
    """Let each camera show a film."""
    cameras = folder / "registry" / "cameras"
    cameras.mkdir(parents=True, exist_ok=True)
    for camera, film in films.items():
        (cameras / f"{camera}.yaml").write_text(f"source: file:{folder / film}\nnode: bench\ndetection: false\n")


def vigil(folder: Path, url: str, *words: str) -> subprocess.CompletedProcess[str]:
    """A command of the site."""
    command = [sys.executable, "-m", "console", "--config", str(folder / "vigil.yaml"), "--bus", url]
    command += ["--state", str(folder / "state"), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def wait_cameras(bus: Bus, film: Mapping[str, str]) -> None:
    """Wait until every camera shows what it is to show."""
    shown: dict[str, str] = {}

    def on_state(delivery: Delivery) -> None:
        state = delivery.content
        if isinstance(state, CameraState):
            shown[state.camera] = state.source if state.state == "online" else ""

    bus.subscribe(CAMERA_STATE, on_state)
    wait_until(
        lambda: all(shown.get(camera, "").endswith(name) for camera, name in film.items()),
        timeout_s=60,
        what="every camera's film",
    )
    bus.unsubscribe(CAMERA_STATE)


def run_whole_way(folder: Path) -> int:
    """Take references by day, change what the cameras show, check; returns how many cameras were judged wrongly."""
    make_films(folder)
    point(folder, dict.fromkeys(FILMED, "day.avi"))
    raised: dict[str, Escalation] = {}

    def on_escalation(delivery: Delivery) -> None:
        if isinstance(delivery.content, Escalation):
            raised[delivery.content.camera] = delivery.content

    site_file = f"fleet: {{registry: {folder / 'registry'}}}\n"
    with running_site(folder, site_file, ("edge",), ("fleet",)) as bus:
        bus.subscribe(CAMERA_ESCALATION, on_escalation)
        url = f"mqtt://127.0.0.1:{(folder / 'mosquitto' / 'mosquitto.conf').read_text().split()[1]}"
        wait_cameras(bus, dict.fromkeys(FILMED, "day.avi"))
        taken = vigil(folder, url, "camera", "check", "--all", "--take-reference")
        assert taken.returncode == 0, taken.stdout + taken.stderr
        films = {camera: f"{camera}.avi" for camera in FILMED}
        point(folder, films)
        wait_cameras(bus, films)
        done = vigil(folder, url, "camera", "check", "--all", "--json")
        checks = {
            (check := msgspec.json.decode(line, type=CameraCheck)).camera: check for line in done.stdout.splitlines()
        }
        ill = {camera for camera, (kind, _condition) in FILMED.items() if kind}
        with contextlib.suppress(AssertionError):  # what is missing is told below
            wait_until(lambda: ill <= raised.keys(), timeout_s=15, what="the escalations")
    return sum(not told_right(camera, checks[camera], raised.get(camera)) for camera in FILMED)


def told_right(camera: str, check: CameraCheck, escalation: Escalation | None) -> bool:
    """Print what was said of a camera; whether it is so, and was escalated with its picture."""
    expected = FILMED[camera][0]
    found = [finding.check for finding in check.findings if not finding.ok]
    pictured = escalation is not None and bool(escalation.evidence)
    right = found == ([expected] if expected else []) and pictured is (expected is not None)
    said = ", ".join(found) or "well"
    print(
        f"{camera:<12} {FILMED[camera][1]:<20} {said:<10} escalated with its picture: {pictured}"
        + "  WRONG" * (not right)
    )
    return right


def main() -> int:
    """Run everything."""
    well, ill = run_looks()
    print("\nthe whole way: edge, Mosquitto, `vigil fleet`, `vigil camera check` …")
    with tempfile.TemporaryDirectory() as folder:
        wrong = run_whole_way(Path(folder))
    print(f"\nfalse alarms {well.wrong} of {well.made}  target 0")
    print(f"misses       {ill.wrong} of {ill.made}  target 0")
    print(f"cameras judged wrongly over the bus {wrong} of {len(FILMED)}  target 0  (site {SITE})")
    return 0 if well.wrong == ill.wrong == wrong == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
