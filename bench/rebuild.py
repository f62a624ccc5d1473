"""A site loses everything but the folder of its registry: the broker's database, every state folder, every process.

Everything is real: Mosquitto, `vigil fleet`, two `vigil edge`, a `vigil detector` and `vigil homeassistant`, each a
process of its own. Four cameras that play a video of people are written down in the registry, with zones, masks, names,
areas and a rule of their own. Once they run, and each camera's own rule has raised an escalation, all processes are
killed, all databases deleted, and the same commands started again.

Targets: documents, index, nodes, cameras' states and what Home Assistant is told (names, areas) are the same to the
letter, but for revisions and times; each camera's own rule raises escalations again; and that within a minute.

    python bench/rebuild.py
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from bench._site import DATA
from tests.support.rebuilding import WrittenSite, camera
from tests.support.waiting import wait_until

NODES = ("porch", "attic")
SOURCE = f"file:{DATA / 'pedestrians.avi'}"
CAMERAS = {f"camera-{number}": camera(number, NODES[number % 2]) | {"source": SOURCE} for number in range(1, 5)}
RULES = {f"{name}: {rule}" for name, content in CAMERAS.items() for rule in content["rules"]}
ROLES = (("edge", "porch"), ("edge", "attic"), ("detector", "hub"), ("homeassistant", "hub"))
SETTINGS = f"detector: {{model: {DATA / 'yolox_nano.onnx'}, regions: {{per_frame_max: 0}}, rules: {{}}}}\n"
REBUILT_MAX_S = 60.0
TIMEOUT_S = 180.0


def main() -> int:
    """Build the site, take everything away, build it again, judge."""
    with tempfile.TemporaryDirectory() as place, WrittenSite(Path(place), ROLES, SETTINGS) as site:
        for name, content in CAMERAS.items():
            site.registry.change_camera(name, content)
        for node in NODES:
            site.registry.change_node(node, {"name": f"The {node}", "area": "House"})
        site.registry.change_site({"time_zone": "Europe/Berlin"})
        print(f"{len(CAMERAS)} cameras on {len(NODES)} nodes: begins")
        first_s = begin(site)
        before = site.word()
        print(f"all run after {first_s:.1f} s, each rule has fired; everything is killed and deleted")
        site.end()
        for gone in site.forget():
            print(f"  deleted {gone}")
        site.broker.start()
        rebuilt_s = begin(site)
        after = site.word()
    differences = 0
    for kind in sorted(before.keys() | after.keys()):
        was, now = before.get(kind, {}), after.get(kind, {})
        other = [name for name in was.keys() | now.keys() if was.get(name) != now.get(name)]
        differences += len(other)
        print(f"{kind:<16} {len(was):4} before, {len(now):4} after, {len(other)} different {' '.join(sorted(other))}")
    print(f"different after everything was deleted {differences:8} (target: 0)")
    print(f"all as before, and each rule fired     {rebuilt_s:8.1f} s (target: at most {REBUILT_MAX_S:g})")
    return 0 if differences == 0 and rebuilt_s <= REBUILT_MAX_S else 1


def begin(site: WrittenSite) -> float:
    """Start everything; seconds until it runs, and each rule has fired."""
    begun_s = time.monotonic()
    site.begin()
    site.wait_running(tuple(CAMERAS), NODES, timeout_s=TIMEOUT_S)
    wait_until(lambda: len(site.word().get("Home Assistant", {})) >= len(CAMERAS) + len(NODES), timeout_s=TIMEOUT_S)
    try:
        wait_until(lambda: site.escalations >= RULES, timeout_s=TIMEOUT_S)
    except AssertionError:
        print(f"no escalation of {', '.join(sorted(RULES - site.escalations))} within {TIMEOUT_S:g} s")
        raise
    return time.monotonic() - begun_s


if __name__ == "__main__":
    raise SystemExit(main())
