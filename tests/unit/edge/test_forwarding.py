from __future__ import annotations

from typing import Literal

import pytest

from broker import Frame, decode_frame, encode_frame
from edge.forwarding import forwarding
from tests.support.messages import frame_meta, jpeg

Policy = Literal["all", "moving", "zoom"]


def frame(**changes: object) -> Frame:
    return decode_frame(encode_frame(jpeg(), frame_meta("yard", 4, **changes)))


@pytest.mark.parametrize(
    ("policy", "sent"),
    [
        ("all", ["still", "moving", "zoomed"]),
        ("moving", ["moving", "zoomed"]),
        ("zoom", ["zoomed"]),
    ],
)
def test_the_setting_says_which_frames_leave_the_node(policy: Policy, sent: list[str]) -> None:
    frames = {"still": frame(), "moving": frame(moving=True), "zoomed": frame(mode="zoom")}
    forward = forwarding(policy)
    assert [name for name, one in frames.items() if forward(one) is not None] == sent


def test_what_leaves_says_that_it_is_scored_already() -> None:
    one = frame(moving=True)
    forwarded = forwarding("all")(one)
    assert forwarded is not None
    meta = decode_frame(forwarded).meta
    assert (one.meta.detect, meta.detect) == (True, False)
    assert (meta.seq, meta.moving) == (4, True)
