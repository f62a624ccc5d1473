"""The picture of `vigil motion tune`: where it moved, what moved most, when, and what each sensitivity made of it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFont

from config.section import Polygon
from edge.motion.tune import Advice, Seen, Trial, Tuning

__all__ = ["paint_tuning"]

_WIDTH_PX = 1200
_MARGIN_PX = 16
_LEFT_PX, _RIGHT_PX = 92, 176
"""Room beside the timeline for names and numbers."""
_CURVE_PX, _LANE_PX = 150, 20
_GRID = (58, 62, 70)
_HOT_MIN, _HOT_PERCENTILE = 0.03, 97
"""What is red: the most restless places, but never less than what changes for this part of the time."""
_LARGEST = 6
_BACK, _PANEL, _INK, _DIM = (24, 26, 30), (34, 37, 43), (232, 234, 237), (142, 148, 158)
_LASTING, _BRIEF, _ZONE, _MASK, _ADVISED = (
    (94, 170, 255),
    (255, 138, 76),
    (110, 220, 130),
    (150, 155, 165),
    (255, 90, 200),
)
_BOXES = ((94, 170, 255), (255, 208, 80), (150, 240, 150), (255, 140, 160), (190, 150, 255), (120, 230, 230))
_SCORE_MIN = 1e-4
"""The foot of the timeline, which is logarithmic: a hundredth of a percent of the picture."""

_STEPS_S = (1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)


def paint_tuning(tuning: Tuning, background: Image.Image, advice: Advice, title: str) -> Image.Image:
    """Paint it.

    Args:
        tuning: what was seen.
        background: a picture of the camera, as others may see it.
        advice: what is suggested.
        title: the first line.
    """
    height_px = round(background.height * _WIDTH_PX / background.width)
    street = background.convert("RGB").resize((_WIDTH_PX, height_px), Image.Resampling.BICUBIC)
    street = _lay_heat(street, tuning)
    largest = sorted(tuning.current.movements, key=lambda seen: -seen.score)[:_LARGEST]
    _draw_areas(street, tuning, advice)
    _draw_boxes(street, largest)
    lanes_px = len(tuning.trials) * _LANE_PX
    foot_px = 40 + _CURVE_PX + 26 + lanes_px + 34
    canvas = Image.new("RGB", (_WIDTH_PX + 2 * _MARGIN_PX, 48 + height_px + foot_px + _MARGIN_PX), _BACK)
    canvas.paste(street, (_MARGIN_PX, 48))
    draw = ImageDraw.Draw(canvas)
    draw.text((_MARGIN_PX, 24), title, _INK, _font(20), anchor="lm")
    _draw_legend(draw, (_WIDTH_PX + _MARGIN_PX, 24))
    _draw_timeline(draw, tuning, advice, largest, 48 + height_px + 40)
    return canvas


def _font(size_px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size_px)


def _lay_heat(street: Image.Image, tuning: Tuning) -> Image.Image:
    """Yellow where it moved now and then, red where it moved much; the picture is greyed a little below it."""
    hottest = max(_HOT_MIN, float(np.percentile(tuning.heat, _HOT_PERCENTILE)))
    share = np.clip(tuning.heat / hottest, 0, 1) ** 0.7
    size = street.size
    hot = Image.fromarray((share * 255).astype(np.uint8)).resize(size, Image.Resampling.BILINEAR)
    colour = Image.merge(
        "RGB",
        (Image.new("L", size, 255), hot.point([round(225 - 0.8 * k) for k in range(256)]), Image.new("L", size, 20)),
    )
    grey = Image.blend(street, street.convert("L").convert("RGB"), 0.6)
    return Image.composite(colour, grey, hot.point([round(min(170.0, 1.1 * k)) for k in range(256)]))


def _draw_areas(street: Image.Image, tuning: Tuning, advice: Advice) -> None:
    _hatch(street, tuning.settings.masks.values())
    draw = ImageDraw.Draw(street)
    for areas, colour, kind in (
        (tuning.settings.masks, _MASK, "mask"),
        (tuning.settings.zones, _ZONE, "zone"),
        (advice.masks, _ADVISED, "suggested mask"),
    ):
        for name, polygon in areas.items():
            corners = _corners(polygon, street.size)
            draw.line([*corners, corners[0], corners[1]], colour, 3, joint="curve")
            _label(draw, min(corners, key=lambda corner: corner[1] + corner[0]), f"{kind} {name}", colour)


def _hatch(street: Image.Image, polygons: Iterable[Polygon]) -> None:
    """Stripes over what does not count."""
    inside = Image.new("L", street.size, 0)
    for polygon in polygons:
        ImageDraw.Draw(inside).polygon(_corners(polygon, street.size), fill=255)
    stripes = Image.new("L", street.size, 0)
    draw = ImageDraw.Draw(stripes)
    for x in range(-street.height, street.width, 14):
        draw.line((x, street.height, x + street.height, 0), fill=150, width=4)
    street.paste(_MASK, mask=ImageChops.multiply(inside, stripes))


def _corners(polygon: Polygon, size: tuple[int, int]) -> list[tuple[float, float]]:
    return [(x * (size[0] - 1), y * (size[1] - 1)) for x, y in polygon]


def _draw_boxes(street: Image.Image, largest: Sequence[Seen]) -> None:
    draw = ImageDraw.Draw(street)
    wide, high = street.size
    for k, seen in reversed(list(enumerate(largest))):
        for number, (left, top, right, bottom) in enumerate(seen.boxes_xyxy):
            box = (left * wide, top * high, right * wide - 1, bottom * high - 1)
            draw.rectangle(box, outline=_BOXES[k], width=3 if number == 0 else 1)
            if number == 0:
                _label(draw, (box[0], box[1]), f"{k + 1}  {_minutes(seen.peak_s)}  {_percent(seen.score)}", _BOXES[k])


def _label(draw: ImageDraw.ImageDraw, at: tuple[float, float], text: str, colour: tuple[int, int, int]) -> None:
    """A word on a plate of its colour, above the point where there is room."""
    width = draw.textlength(text, _font(14)) + 10
    x = max(0.0, min(at[0], _WIDTH_PX - width))
    y = at[1] - 20 if at[1] >= 20 else at[1]
    draw.rectangle((x, y, x + width, y + 20), fill=colour)
    draw.text((x + 5, y + 10), text, (16, 18, 20), _font(14), anchor="lm")


def _draw_legend(draw: ImageDraw.ImageDraw, right: tuple[float, float]) -> None:
    x, y = right
    for text, colour in (("brief movement", _BRIEF), ("lasting movement", _LASTING), ("moves often", (255, 70, 20))):
        x -= draw.textlength(text, _font(14))
        draw.text((x, y), text, _DIM, _font(14), anchor="lm")
        draw.rectangle((x - 18, y - 6, x - 6, y + 6), fill=colour)
        x -= 36


@dataclass(frozen=True, slots=True)
class _Axis:
    """Time from left to right."""

    left_px: float
    right_px: float
    start_s: float
    length_s: float

    def x(self, at_s: float) -> float:
        return self.left_px + (at_s - self.start_s) / self.length_s * (self.right_px - self.left_px)


def _draw_timeline(
    draw: ImageDraw.ImageDraw, tuning: Tuning, advice: Advice, largest: Sequence[Seen], top: float
) -> None:
    start_s = tuning.times_s[0] if tuning.times_s else 0.0
    left, right = _MARGIN_PX + _LEFT_PX, _MARGIN_PX + _WIDTH_PX - _RIGHT_PX
    axis = _Axis(left, right, start_s, max(tuning.length_s, 1e-3))
    lanes = top + _CURVE_PX + 26
    bottom = lanes + len(tuning.trials) * _LANE_PX
    draw.rectangle((left, top, right, top + _CURVE_PX), fill=_PANEL)
    _draw_clock(draw, axis, (top, bottom))
    _draw_curve(draw, tuning, axis, (top, top + _CURVE_PX))
    for k, seen in reversed(list(enumerate(largest))):
        draw.text((axis.x(seen.peak_s), top - 10), str(k + 1), _BOXES[k], _font(14), anchor="mm")
    draw.text((_MARGIN_PX, lanes - 10), "sensitivity", _DIM, _font(13), anchor="lm")
    draw.text((right + 12, lanes - 10), "lasting / brief", _DIM, _font(13), anchor="lm")
    for k, trial in enumerate(tuning.trials):
        notes = [
            note
            for note, level in (("now", tuning.settings.sensitivity), ("suggested", advice.sensitivity))
            if trial.sensitivity == level
        ]
        _draw_lane(draw, trial, axis, lanes + k * _LANE_PX, ", ".join(notes))


def _draw_clock(draw: ImageDraw.ImageDraw, axis: _Axis, rows: tuple[float, float]) -> None:
    """A line every so often, with its time below."""
    step_s = next((step for step in _STEPS_S if axis.length_s / step <= 12), _STEPS_S[-1])
    for k in range(int(axis.length_s / step_s) + 1):
        x = axis.x(axis.start_s + k * step_s)
        draw.line((x, rows[0], x, rows[1]), _GRID)
        draw.text((x, rows[1] + 12), _minutes(k * step_s), _DIM, _font(13), anchor="mm")


def _draw_curve(draw: ImageDraw.ImageDraw, tuning: Tuning, axis: _Axis, rows: tuple[float, float]) -> None:
    """How much moved, logarithmic, with the least that counts."""
    top, foot = rows
    highest = max(0.01, *tuning.current.scores) if tuning.times_s else 0.01
    decades = math.log10(highest / _SCORE_MIN)

    def y_of(score: float) -> float:
        return foot - (foot - top - 6) * math.log10(max(score, _SCORE_MIN) / _SCORE_MIN) / decades

    for share in (0.001, 0.01, 0.1, 1.0):
        if share <= highest:
            draw.line((axis.left_px, y_of(share), axis.right_px, y_of(share)), _GRID)
            draw.text((axis.left_px - 8, y_of(share)), _percent(share), _DIM, _font(13), anchor="rm")
    for x, score in _thin(tuning.times_s, tuning.current.scores, axis):
        draw.rectangle((x, y_of(score), x + 1, foot), fill=_LASTING)
    least = y_of(tuning.size_min)
    for x in range(int(axis.left_px), int(axis.right_px), 10):
        draw.line((x, least, x + 5, least), _INK)
    draw.text((axis.right_px + 12, least), f"least {_percent(tuning.size_min)}", _INK, _font(13), anchor="lm")
    draw.text((_MARGIN_PX, top - 10), "moves", _DIM, _font(13), anchor="lm")


def _thin(times_s: Sequence[float], scores: Sequence[float], axis: _Axis) -> Iterable[tuple[int, float]]:
    """The largest score of every other column of pixels; a slow camera's frame lasts to the next one."""
    columns = range(int(axis.left_px), int(axis.right_px), 2)
    begins = [axis.start_s + (x - axis.left_px) / (axis.right_px - axis.left_px) * axis.length_s for x in columns]
    places = np.searchsorted(np.asarray(times_s), begins)
    for x, first, end in zip(columns, places, [*places[1:], len(times_s)], strict=True):
        shown = scores[first:end] or scores[max(0, first - 1) : first]
        if max(shown, default=0.0) > 0:
            yield x, max(shown)


def _draw_lane(draw: ImageDraw.ImageDraw, trial: Trial, axis: _Axis, top: float, note: str) -> None:
    """What one sensitivity saw: a bar a movement."""
    middle = top + _LANE_PX / 2
    draw.rectangle((axis.left_px, top + 2, axis.right_px, top + _LANE_PX - 2), fill=_PANEL)
    draw.text((_MARGIN_PX, middle), f"{trial.sensitivity:g}", _INK if note else _DIM, _font(14), anchor="lm")
    for seen in trial.movements:
        begin, end = axis.x(seen.began_s), max(axis.x(seen.moved_s), axis.x(seen.began_s) + 2)
        draw.rectangle((begin, top + 4, end, top + _LANE_PX - 4), fill=_BRIEF if seen.brief else _LASTING)
    counts = f"{len(trial.lasting)} / {trial.brief}"
    draw.text((axis.right_px + 12, middle), counts, _INK if note else _DIM, _font(14), anchor="lm")
    draw.text((axis.right_px + 74, middle), note, _INK, _font(13), anchor="lm")


def _minutes(at_s: float) -> str:
    return f"{int(at_s) // 60}:{int(at_s) % 60:02d}"


def _percent(share: float) -> str:
    return f"{share * 100:.2g} %"
