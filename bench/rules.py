"""Each rule, who is where, and the seconds at which it fires: as promised, and as it does.

    python bench/rules.py

The scenes of the table are objects as a tracker tells them, at five frames a second where nothing else is said; no
picture and no model is in it. Then the drawn room (`synthetic:room`) from pictures to rules: with the drawing's own
boxes, which tremble, for three people; and with those of YOLOX-nano, which is as unsure of one who lies in a drawing as
of real people who lie: what it finds then is below the default `min_score`. Exits 1 when anything differs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from bench._site import DATA
from edge.synthetic.room import PERIOD_S, SyntheticRoom
from tests.support.room import Eye, drawn_eye, fired, model_eye
from tests.support.rule_cases import CASES, RuleCase, fired_at

ROOM_S = {"still": (29.0, 81.0), "fall": (70.7,)}
"""Somebody sits from second 9 to 39, bends over from 44 to 50, falls at 60 and lies until 95; `for_s` is 20 and 10."""
ROOM_WITHIN_S = 1.5


def main() -> int:
    """Print the table; 1 when a rule fires at another time."""
    print("| rule | who is where | fires at, s | fired at, s | |")
    print("|---|---|---|---|---|")
    wrong = sum(_line(case) for case in CASES)
    print("\n| drawn room | rule | fires at, s | fired at, s | |")
    print("|---|---|---|---|---|")
    for seed in (1, 2, 3):
        wrong += _room(f"drawing's boxes, person {seed}", drawn_eye(SyntheticRoom(seed)), 5, ROOM_S)
    sits = {"still": ROOM_S["still"][:1], "fall": ()}
    seen = model_eye(SyntheticRoom(1), DATA / "yolox_nano.onnx")
    wrong += _room("YOLOX-nano's boxes, person 1, until the fall", seen, 2, sits, until_s=60)
    lines = len(CASES) + 8
    print(f"\n{lines - wrong} of {lines} as promised, target: all of them")
    return 1 if wrong else 0


def _room(what: str, see: Eye, fps: float, expected: Mapping[str, tuple[float, ...]], until_s: float = PERIOD_S) -> int:
    told = list(fired(see, 0, until_s, fps))
    wrong = 0
    for rule, times in expected.items():
        got = [second for name, second in told if name == rule]
        right = len(got) == len(times) and all(
            abs(one - other) <= ROOM_WITHIN_S for one, other in zip(got, times, strict=True)
        )
        print(f"| {what} | {rule} | {_times(times)} | {_times(got)} | {'yes' if right else 'NO'} |")
        wrong += not right
    return wrong


def _line(case: RuleCase) -> bool:
    got = fired_at(case)
    right = len(got) == len(case.fires_s) and all(
        math.isclose(one, other, abs_tol=1e-6) for one, other in zip(got, case.fires_s, strict=True)
    )
    print(f"| {case.kind} | {case.what} | {_times(case.fires_s)} | {_times(got)} | {'yes' if right else 'NO'} |")
    return not right


def _times(seconds: Sequence[float]) -> str:
    return ", ".join(f"{second:.1f}" for second in seconds) or "never"


if __name__ == "__main__":
    raise SystemExit(main())
