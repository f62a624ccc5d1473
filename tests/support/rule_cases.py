"""What each rule does: who is where, and the exact seconds at which it fires."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import TypeAdapter

from config.rules import Rule
from detector.rules import RuleWatch, open_rules
from tests.support.scenes import Actor, Stage, bending, lying, play, sitting, upright

__all__ = ["CASES", "RuleCase", "fired_at", "open_case"]

_RULE: TypeAdapter[Rule] = TypeAdapter(Rule)
BED = ((0.0, 0.5), (0.3, 0.5), (0.3, 1.0), (0.0, 1.0))
DOOR = ((0.6, 0.0), (1.0, 0.0), (1.0, 1.0), (0.6, 1.0))
NIGHT = {"start": "22:00", "end": "06:00"}
TEN_PM_S = 22 * 3600.0
GATE = [[0.5, 0.2], [0.5, 1.0]]
"""Walked from its first end to its second: downwards, so that its left is the picture's right."""


@dataclass(frozen=True)
class RuleCase:
    """One line of the table.

    Attributes:
        what: what happens, for a person.
        rule: the settings, as in a site file.
        stage: who is where.
        fires_s: the seconds at which it fires.
    """

    what: str
    rule: Mapping[str, object]
    stage: Stage
    fires_s: tuple[float, ...]

    @property
    def kind(self) -> str:
        """The kind of rule."""
        return str(self.rule["kind"])


def open_case(case: RuleCase) -> RuleWatch:
    """The rule of a case, with nothing seen yet."""
    (watch,) = open_rules({case.kind: _RULE.validate_python(case.rule)}, "room", tuple(case.stage.zones))
    return watch


def fired_at(case: RuleCase) -> tuple[float, ...]:
    """The seconds at which the rule fires."""
    watch = open_case(case)
    return tuple(play_s for play_s, scene in play(case.stage) if watch.look(scene) is not None)


def _there(start_s: float, end_s: float, x: float = 0.5, **about: float | str) -> Actor:
    return Actor(((start_s, upright(x)), (end_s, upright(x))), **about)  # type: ignore[arg-type]


def _case(kind: str, what: str, stage: Stage, fires_s: tuple[float, ...], **rule: object) -> RuleCase:
    return RuleCase(what, {"kind": kind, **rule}, stage, fires_s)


def _walk(*keys: tuple[float, float], jitter: float = 0.0) -> Actor:
    """Somebody who is at some x at some second."""
    return Actor(tuple((at_s, upright(x)) for at_s, x in keys), jitter=jitter)


_PRESENCE = (
    _case("presence", "somebody for 8 s", Stage((_there(2, 10),), 15), (3.0,), for_s=1),
    _case("presence", "somebody for 0.8 s", Stage((_there(2, 2.8),), 15), (), for_s=1),
    _case("presence", "somebody for 28 s: again after each cooldown", Stage((_there(2, 30),), 40), (3.0, 13.0, 23.0)),
    _case("presence", "one after the other, within the cooldown", Stage((_there(2, 6), _there(7, 9)), 20), (3.0,)),
    _case("presence", "a dog", Stage((_there(2, 10, label="dog"),), 15), ()),
    _case("presence", "somebody with a score of 0.4", Stage((_there(2, 10, score=0.4),), 15), ()),
    _case(
        "presence", "not seen just when it would fire",
        Stage((Actor(((2, upright(0.5)), (10, upright(0.5))), hidden=((2.8, 4.0),)),), 15), (4.0,),
    ),
    _case(
        "presence", "walks into the door's zone at 6 s",
        Stage((_walk((0, 0.0), (10, 1.0)),), 12, zones={"door": DOOR}), (7.0,), zones=["door"],
    ),
    _case(
        "presence", "there before the hours begin at 22:00",
        Stage((_there(TEN_PM_S - 60, TEN_PM_S + 8),), TEN_PM_S + 20, begin_s=TEN_PM_S - 60), (TEN_PM_S + 1,),
        hours=[NIGHT],
    ),
    _case("presence", "there by day", Stage((_there(43200, 43220),), 43230, begin_s=43200), (), hours=[NIGHT]),
    _case(
        "presence", "the camera's clock is set back by an hour: starts over",
        Stage((_there(2, 8), _there(12, 20)), 20, set_back=(11, 3600)), (3.0, 13.0), cooldown_s=600,
    ),
)  # fmt: skip

_DWELL = (
    _case("dwell", "stays for 100 s: once", Stage((_there(5, 105),), 110), (35.0,)),
    _case("dwell", "leaves after 29 s", Stage((_there(5, 34),), 40), ()),
    _case(
        "dwell", "comes into the zone, leaves and comes back: once a stay",
        Stage((_walk((0, 0.8), (50, 0.8), (52, 0.2), (60, 0.2), (62, 0.8), (100, 0.8)),), 100, zones={"door": DOOR}),
        (30.0, 91.4), zones=["door"],
    ),
    _case(
        "dwell", "a foot on the zone's border, now in, now out",
        Stage((_walk((0, 0.605), (60, 0.605), jitter=0.02),), 60, zones={"door": DOOR}), (30.0,), zones=["door"],
    ),
    _case("dwell", "two of them, the second 3 s later: after the cooldown", Stage((_there(0, 60), _there(3, 60, x=0.8)),
          60), (30.0, 40.0)),
    _case("dwell", "two of them at once: one firing", Stage((_there(0, 60), _there(0, 60, x=0.8)), 60), (30.0,)),
    _case(
        "dwell", "there 20 s before the hours begin",
        Stage((_there(TEN_PM_S - 20, TEN_PM_S + 60),), TEN_PM_S + 60, begin_s=TEN_PM_S - 30), (TEN_PM_S + 30,),
        hours=[NIGHT],
    ),
)  # fmt: skip

_LINE_CROSS = (
    _case("line-cross", "from left to right", Stage((_walk((0, 0.3), (4, 0.7)),), 6), (2.2,), line=GATE),
    _case("line-cross", "there and back", Stage((_walk((0, 0.3), (4, 0.7), (8, 0.3)),), 9), (2.2, 6.2), line=GATE),
    _case(
        "line-cross", "there and back, leftwards only", Stage((_walk((0, 0.3), (4, 0.7), (8, 0.3)),), 9), (2.2,),
        line=GATE, direction="leftwards",
    ),
    _case(
        "line-cross", "there and back, rightwards only", Stage((_walk((0, 0.3), (4, 0.7), (8, 0.3)),), 9), (6.2,),
        line=GATE, direction="rightwards",
    ),
    _case(
        "line-cross", "stands on the line and trembles for a minute, then goes on",
        Stage((_walk((0, 0.4), (2, 0.5), (62, 0.5), (64, 0.6), jitter=0.02),), 64), (62.4,), line=GATE,
    ),
    _case(
        "line-cross", "comes up to the line and turns round", Stage((_walk((0, 0.3), (2, 0.5), (4, 0.3)),), 5), (),
        line=GATE,
    ),
    _case("line-cross", "runs past at 2 frames a second",
          Stage((_walk((0, 0.1), (1.5, 0.9)),), 3, fps=2), (1.0,), line=GATE),
    _case(
        "line-cross", "passes beyond the line's end",
        Stage((Actor(((0, upright(0.3, 0.19, 0.15)), (4, upright(0.7, 0.19, 0.15)))),), 6), (), line=GATE,
    ),
    _case(
        "line-cross", "hidden while crossing, for 1.5 s",
        Stage((Actor(((0, upright(0.3)), (4, upright(0.7))), hidden=((1.5, 3.0),)),), 6), (3.0,), line=GATE,
    ),
    _case("line-cross", "begins on the line: comes out of a door in it",
          Stage((_walk((0, 0.5), (4, 0.7)),), 6), (), line=GATE),
    _case(
        "line-cross", "two of them, 2 s apart, within a cooldown of 5 s",
        Stage((_walk((0, 0.3), (4, 0.7)), _walk((2, 0.3), (6, 0.7))), 8), (2.2,), line=GATE, cooldown_s=5,
    ),
    _case(
        "line-cross", "two of them, 2 s apart",
        Stage((_walk((0, 0.3), (4, 0.7)), _walk((2, 0.3), (6, 0.7))), 8), (2.2, 4.2), line=GATE,
    ),
)  # fmt: skip

_ABSENCE = (
    _case("absence", "nobody for 150 s: once", Stage((), 150, fps=1), (60.0,), for_s=60),
    _case("absence", "somebody at 50 s", Stage((_there(50, 52),), 130, fps=1), (115.0,), for_s=60),
    _case(
        "absence", "nobody, somebody, nobody: once each",
        Stage((_there(100, 110),), 200, fps=1), (60.0, 173.0), for_s=60,
    ),
    _case("absence", "a dog is nobody", Stage((_there(10, 50, label="dog"),), 70, fps=1), (60.0,), for_s=60),
    _case("absence", "not watched for 100 s in between", Stage((), 200, fps=1, gaps=((30, 130),)), (161.0,), for_s=60),
    _case("absence", "a frame every 10 s is watching", Stage((), 100, fps=0.1), (60.0,), for_s=60),
    _case(
        "absence", "in the hours only", Stage((), TEN_PM_S + 100, fps=1, begin_s=TEN_PM_S - 300), (TEN_PM_S + 60,),
        for_s=60, hours=[NIGHT],
    ),
    _case(
        "absence", "somebody, but not in bed", Stage((_there(0, 100, x=0.5),), 100, fps=1, zones={"bed": BED}), (60.0,),
        for_s=60, zones=["bed"],
    ),
    _case(
        "absence", "the clock is set back by an hour: starts over",
        Stage((), 150, fps=1, set_back=(50, 3600)), (110.0,), for_s=60,
    ),
)  # fmt: skip

_SITS = Actor(((0, sitting(0.5)), (200, sitting(0.5))), jitter=0.03)
_STILL = (
    _case("long-time-still", "sits, and the box trembles", Stage((_SITS,), 130), (60.0,), for_s=60),
    _case(
        "long-time-still", "lies, and the box trembles: once",
        Stage((Actor(((0, lying(0.5)), (200, lying(0.5))), jitter=0.03),), 130), (60.0,), for_s=60,
    ),
    _case("long-time-still", "walks slowly through the picture",
          Stage((_walk((0, 0.1), (100, 0.9)),), 100), (), for_s=60),
    _case(
        "long-time-still", "stands up at 50 s and sits down again at 55 s",
        Stage((Actor(((0, sitting(0.5)), (50, sitting(0.5)), (50.4, upright(0.5)), (54.6, upright(0.5)),
                      (55, sitting(0.5)), (200, sitting(0.5)))),), 200), (115.0,), for_s=60,
    ),
    _case(
        "long-time-still", "hidden for 10 s: another track, the same person",
        Stage((Actor(_SITS.keys, hidden=((30, 40),), jitter=0.03),), 130), (60.0,), for_s=60,
    ),
    _case(
        "long-time-still", "away for 40 s",
        Stage((Actor(_SITS.keys, hidden=((30, 70),), jitter=0.03),), 200), (130.0,), for_s=60,
    ),
    _case(
        "long-time-still", "for 10 s only the upper half is seen",
        Stage((Actor(((0, upright(0.5)), (30, upright(0.5)), (30.2, upright(0.5, 0.65, 0.25)),
                      (40, upright(0.5, 0.65, 0.25)), (40.2, upright(0.5)), (130, upright(0.5)))),), 130), (60.0,),
        for_s=60,
    ),
    _case(
        "long-time-still", "one box goes wrong",
        Stage((Actor(((0, sitting(0.5)), (30, sitting(0.5)), (30.2, upright(0.7)), (30.4, sitting(0.5)),
                      (130, sitting(0.5)))),), 130), (60.0,), for_s=60,
    ),
    _case(
        "long-time-still", "moves after it fired, and is still again",
        Stage((_walk((0, 0.3), (90, 0.3), (92, 0.6), (200, 0.6)),), 200), (60.0, 151.8), for_s=60,
    ),
)  # fmt: skip


def _falls(at_s: float, up_s: float | None = None, *, hidden: tuple[tuple[float, float], ...] = ()) -> Actor:
    """Stands, falls within 0.8 s, and gets up again or not."""
    keys = [(0.0, upright(0.5)), (at_s, upright(0.5)), (at_s + 0.8, lying(0.55)), (100.0, lying(0.55))]
    if up_s is not None:
        keys[3:] = [(up_s, lying(0.55)), (up_s + 1, upright(0.5)), (100.0, upright(0.5))]
    return Actor(tuple(keys), hidden=hidden)


def _posture(at_s: float, end_s: float, posture: Actor) -> Actor:
    """Stands, is in another posture for some time, and stands again."""
    box = posture.keys[0][1]
    return Actor(((0, upright(0.5)), (at_s, upright(0.5)), (at_s + 1, box), (end_s, box), (end_s + 1, upright(0.5)),
                  (100, upright(0.5))))  # fmt: skip


_BENT = Actor(((0, bending(0.5)),))
_SEATED = Actor(((0, sitting(0.5)),))
_LEGS_OUT = Actor(((0, (*sitting(0.5)[:2], 0.7, sitting(0.5)[3])),))
_GROUND = (
    _case("on-the-ground", "falls at 20 s and stays: once", Stage((_falls(20),), 100), (30.6,)),
    _case("on-the-ground", "falls and is up again after 8 s", Stage((_falls(20, 28),), 100), ()),
    _case("on-the-ground", "bends over for 6 s", Stage((_posture(20, 26, _BENT),), 100), ()),
    _case("on-the-ground", "bends over for 40 s, as wide as high", Stage((_posture(20, 60, _BENT),), 100), ()),
    _case("on-the-ground", "sits down on a chair for 40 s", Stage((_posture(20, 60, _SEATED),), 100), ()),
    _case("on-the-ground", "sits with the legs stretched out", Stage((_posture(20, 60, _LEGS_OUT),), 100), ()),
    _case(
        "on-the-ground", "lies when first seen",
        Stage((Actor(((5, lying(0.5)), (100, lying(0.5)))),), 100), (15.0,),
    ),
    _case(
        "on-the-ground", "goes to bed",
        Stage((Actor(((0, upright(0.2)), (20, upright(0.2)), (22, lying(0.15)), (100, lying(0.15)))),), 100,
              zones={"bed": BED}), (), beds=["bed"],
    ),
    _case(
        "on-the-ground", "falls out of bed at 40 s",
        Stage((Actor(((0, lying(0.15)), (40, lying(0.15)), (41, lying(0.55)), (100, lying(0.55)))),), 100,
              zones={"bed": BED}), (50.4,), beds=["bed"],
    ),
    _case(
        "on-the-ground", "stands so near that the picture cuts all but head and shoulders",
        Stage((Actor(((0, (0.3, 0.7, 0.6, 1.0)), (100, (0.3, 0.7, 0.6, 1.0)))),), 100), (),
    ),
    _case(
        "on-the-ground", "walks away from the camera: smaller, but not low",
        Stage((Actor(((0, upright(0.5, 0.95, 0.8)), (60, upright(0.5, 0.5, 0.15)))),), 60), (),
    ),
    _case(
        "on-the-ground", "falls far away, where people are small",
        Stage((Actor(((0, upright(0.5, 0.95, 0.8)), (20, upright(0.5, 0.5, 0.2)), (21, lying(0.5, 0.5, 0.2)),
                      (60, lying(0.5, 0.5, 0.2)))),), 60), (30.8,),
    ),
    _case(
        "on-the-ground", "the tracker loses who falls, for 5 s",
        Stage((_falls(20, hidden=((20.2, 25.2),)),), 100), (35.2,),
    ),
    _case(
        "on-the-ground", "seen for a moment every 5 s only, while lying",
        Stage((_falls(20, hidden=tuple((22 + 5 * k, 26.8 + 5 * k) for k in range(8))),), 60), (31.8,),
    ),
    _case(
        "on-the-ground", "the box is upright for one frame while lying",
        Stage((Actor(((0, lying(0.5)), (5, lying(0.5)), (5.2, upright(0.5)), (5.4, lying(0.5)), (60, lying(0.5)))),),
              60), (10.0,),
    ),
    _case(
        "on-the-ground", "crawls through the picture on all fours, faster than its length in 10 s",
        Stage((Actor(((0, lying(0.2)), (14, lying(0.8)))),), 14), (),
    ),
    _case(
        "on-the-ground", "falls, gets up, and falls again: once each",
        Stage((Actor(((0, upright(0.5)), (5, upright(0.5)), (5.8, lying(0.55)), (25, lying(0.55)), (26, upright(0.5)),
                      (40, upright(0.5)), (40.8, lying(0.55)), (60, lying(0.55)))),), 60), (15.6, 50.6),
    ),
    _case("on-the-ground", "falls within 22:00 to 06:00 only, but by day",
          Stage((Actor(((43200, upright(0.5)), (43205, upright(0.5)), (43206, lying(0.5)), (43260, lying(0.5)))),),
                43260, begin_s=43200), (), hours=[NIGHT]),
)  # fmt: skip

_CROWD = (_there(0, 60, x=0.2), _there(5, 60, x=0.5), _there(10, 40, x=0.8))
_COUNT = (
    _case("count", "three from 10 s to 40 s: once", Stage(_CROWD, 60), (12.0,), at_least=3),
    _case("count", "three for 1 s only", Stage((*_CROWD[:2], _there(10, 11, x=0.8)), 60), (), at_least=3, for_s=4),
    _case(
        "count", "one of them is not found for 1.5 s",
        Stage((*_CROWD[:2], Actor(((10, upright(0.8)), (40, upright(0.8))), hidden=((11, 12.5),))), 60), (15.0,),
        at_least=3, for_s=5,
    ),
    _case("count", "fewer than two, from 42 s on", Stage((_CROWD[1], _CROWD[2]), 60), (2.0, 44.2), at_most=1),
    _case("count", "nobody in bed", Stage((_there(0, 60),), 60, zones={"bed": BED}), (2.0,), at_most=0, zones=["bed"]),
    _case("count", "not watched for 100 s", Stage((), 200, fps=1, gaps=((5, 105),)), (111.0,), at_most=0, for_s=10),
)  # fmt: skip

CASES = (*_PRESENCE, *_DWELL, *_LINE_CROSS, *_ABSENCE, *_STILL, *_GROUND, *_COUNT)
