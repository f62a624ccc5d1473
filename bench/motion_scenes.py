"""What a camera sees in bad hours, drawn by code: night, rain, snow, lamps, clouds, headlights, infrared, wind.

One street with or without people who walk through it, as brightness pictures 100 px high, which is what motion looks
at. Everything is drawn in the pixels of a 640x360 camera and then reduced by averaging areas; sensor noise is added
after that, with the spread that averaging leaves of it. The same seed gives the same pictures.

What is not here: insects near the lens, spiders, swaying trees, passing cars, steam. They move, and are motion.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.synthetic.scenery import Viewpoint, paint_scenery

__all__ = ["SCENES", "Shot", "shoot"]

Luma = NDArray[np.uint8]
Field = NDArray[np.float32]
Box = tuple[float, float, float, float]

WIDTH_PX, HEIGHT_PX = 640, 360
THUMBNAIL = 178, 100
SCALE = HEIGHT_PX / THUMBNAIL[1]
"""Camera pixels a thumbnail's pixel is high: noise of one pixel loses this factor by averaging."""
NOISE_MARGIN_PX = 64
CURTAINS, DROPS = 60, 5
"""Rain is drawn once, as so many layers of so many drops, and layers are laid over each other at random places."""


@dataclass(frozen=True, slots=True)
class Shot:
    """One picture.

    Attributes:
        luma: brightness, shape (100, 178).
        at_s: its time.
        people: boxes of those who are wholly in the picture, as fractions, by the number of their walk.
    """

    luma: Luma
    at_s: float
    people: dict[int, Box]


@dataclass(frozen=True, slots=True)
class Walker:
    """Somebody who walks through the picture once.

    Attributes:
        starts_s: when the first of them shows at one side.
        height_px: of the person, 360 px being the picture.
        feet_px: row of the feet.
        speed_px_s: to the right where positive.
        levels: brightness of head, coat and legs in daylight.
    """

    starts_s: float
    height_px: float
    feet_px: float
    speed_px_s: float
    levels: tuple[int, int, int]

    @property
    def ends_s(self) -> float:
        """When the last of them is gone."""
        return self.starts_s + (WIDTH_PX + self.height_px) / abs(self.speed_px_s)

    def draw(self, picture: Luma, at_s: float) -> Box | None:
        """Paint them; their box where they are wholly in the picture."""
        gone_px = (at_s - self.starts_s) * abs(self.speed_px_s) - self.height_px / 2
        x = gone_px if self.speed_px_s > 0 else WIDTH_PX - gone_px
        tall, feet = self.height_px, self.feet_px
        swing = 0.13 * tall * math.sin(at_s * 5.5)
        head, coat, legs = self.levels
        hip = (round(x), round(feet - 0.47 * tall))
        for step in (swing, -swing):
            cv2.line(picture, hip, (round(x + step), round(feet)), legs, max(2, round(0.085 * tall)))
            cv2.line(
                picture,
                (round(x), round(feet - 0.8 * tall)),
                (round(x - 0.8 * step), round(feet - 0.45 * tall)),
                coat,
                max(2, round(0.06 * tall)),
            )
        middle = (round(x), round(feet - 0.65 * tall))
        cv2.ellipse(picture, middle, (round(0.105 * tall), round(0.21 * tall)), 0, 0, 360, coat, -1)
        cv2.circle(picture, (round(x), round(feet - 0.93 * tall)), max(1, round(0.065 * tall)), head, -1)
        half = 0.14 * tall
        if x - half < 0 or x + half > WIDTH_PX:
            return None
        return (x - half) / WIDTH_PX, (feet - tall) / HEIGHT_PX, (x + half) / WIDTH_PX, feet / HEIGHT_PX


def walkers(rng: np.random.Generator, length_s: float) -> list[Walker]:
    """People who come every few seconds, near and far, in clothes of any brightness."""
    people, at_s = [], 12.0
    while at_s < length_s:
        height_px = float(rng.uniform(55, 190))
        speed_px_s = float(rng.uniform(0.9, 1.8)) * height_px / 1.7 * rng.choice((-1, 1))
        levels = (int(rng.integers(110, 190)), int(rng.integers(15, 235)), int(rng.integers(15, 130)))
        people.append(Walker(at_s, height_px, float(165 + height_px * rng.uniform(0.85, 1.0)), speed_px_s, levels))
        at_s += float(rng.uniform(3, 9))
    return people


@functools.cache
def street() -> tuple[Luma, Luma]:
    """The empty street by day, and as infrared sees it: leaves and cloth bright, glass and sky dark."""
    rgb = np.asarray(paint_scenery(Viewpoint(WIDTH_PX, HEIGHT_PX), np.random.default_rng(7)), np.float32)
    red, green, blue = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    day = 0.299 * red + 0.587 * green + 0.114 * blue
    infrared = 40 + 0.55 * (1.2 * red + 1.6 * (green - red).clip(0) - 0.5 * blue)
    return day.clip(0, 255).astype(np.uint8), infrared.clip(0, 255).astype(np.uint8)


def reduce(picture: Luma) -> Field:
    """To the height that motion looks at, as float."""
    return np.asarray(cv2.resize(picture, THUMBNAIL, interpolation=cv2.INTER_AREA), np.float32)


class Sensor:
    """Noise: photons and amplifier, plus blotches that a video codec makes of it, new with each group of pictures.

    Args:
        rng: randomness.
        gop_s: seconds between keyframes.
    """

    def __init__(self, rng: np.random.Generator, gop_s: float = 2.0) -> None:
        width, height = THUMBNAIL[0] + NOISE_MARGIN_PX, THUMBNAIL[1] + NOISE_MARGIN_PX
        self._rng = rng
        self._gop_s = gop_s
        self._white = rng.normal(0, 1 / SCALE, (height, width)).astype(np.float32)
        blotches = cv2.GaussianBlur(rng.normal(0, 1, (height, width)).astype(np.float32), (0, 0), 2.0)
        self._blotches = np.asarray(blotches / blotches.std(), np.float32)
        self._gop = -1
        self._blotch = self._window(self._blotches)

    def _window(self, bank: Field) -> Field:
        top, left = self._rng.integers(0, NOISE_MARGIN_PX, 2)
        return bank[top : top + THUMBNAIL[1], left : left + THUMBNAIL[0]]

    def take(self, light: Field, at_s: float, *, gain: float, blotches: float) -> Luma:
        """The picture as the camera gives it.

        Args:
            light: what falls on the sensor, in levels.
            at_s: its time.
            gain: spread of one camera pixel's noise in mid grey, levels.
            blotches: spread of the codec's, levels.
        """
        if int(at_s / self._gop_s) != self._gop:
            self._gop, self._blotch = int(at_s / self._gop_s), self._window(self._blotches)
        spread = gain * np.sqrt(0.3 + light * np.float32(0.7 / 128))
        noisy = light + self._window(self._white) * spread + self._blotch * np.float32(blotches)
        return np.asarray((noisy + 0.5).clip(0, 255), np.uint8)


@dataclass(slots=True)
class Weather:
    """What a scene does to the street in one frame.

    Attributes:
        light: factor on each thumbnail pixel, or one for all.
        added: brightness added to it, such as rain.
        shift_px: how far the camera looks away, camera pixels right and down.
        infrared: whether the camera sees infrared.
        gain: spread of the sensor's noise.
        blotches: spread of the codec's.
    """

    light: Field | float = 1.0
    added: Field | float = 0.0
    shift_px: tuple[float, float] = (0.0, 0.0)
    infrared: bool = False
    gain: float = 3.0
    blotches: float = 0.5


Scene = Callable[[np.random.Generator, float], Iterator[Weather]]
"""Makes a frame's weather after another; the second argument is the time between two."""


def calm(rng: np.random.Generator, dt_s: float) -> Iterator[Weather]:
    """A dull day."""
    del rng, dt_s
    while True:
        yield Weather()


def night(rng: np.random.Generator, dt_s: float) -> Iterator[Weather]:
    """A dark street: little light, and a gain that the camera changes every minute or so, with its noise."""
    at_s, next_s, gain, wanted = 0.0, 0.0, 12.0, 12.0
    while True:
        if at_s >= next_s:
            next_s, wanted = at_s + rng.uniform(30, 90), rng.uniform(6, 22)
        gain += (wanted - gain) * min(1.0, dt_s / 2)
        pumping = 1 + 0.03 * math.sin(at_s * 0.7) + 0.02 * math.sin(at_s * 2.1)
        yield Weather(light=0.4 * pumping, added=10.0, gain=gain, blotches=gain / 10)
        at_s += dt_s


def falling(rng: np.random.Generator, dt_s: float, *, snow: bool) -> Iterator[Weather]:
    """Rain or snow in the light of the camera's lamp, in showers that swell and fade within minutes."""
    curtains = [_paint_curtain(rng, snow=snow) for _ in range(CURTAINS)]
    phase, at_s = rng.uniform(0, 6), 0.0
    while True:
        shower = max(0.0, math.sin(phase + at_s / 40) * 0.6 + math.sin(at_s / 111) * 0.4 + 0.2)
        overlay = np.zeros(THUMBNAIL[::-1], np.float32)
        for _ in range(rng.poisson((12 if snow else 18) * shower)):
            curtain = curtains[rng.integers(CURTAINS)]
            overlay += np.roll(curtain, int(rng.integers(curtain.size)))
        yield Weather(light=0.55, added=overlay, gain=9.0, blotches=0.8)
        at_s += dt_s


def _paint_curtain(rng: np.random.Generator, *, snow: bool) -> Field:
    """A few drops, each fast enough to be a line, or flakes; the nearer, the larger, fainter and rarer."""
    overlay = np.zeros((HEIGHT_PX, WIDTH_PX), np.uint8)
    for _ in range(DROPS):
        x, y = int(rng.integers(WIDTH_PX)), int(rng.integers(HEIGHT_PX))
        near = rng.pareto(2.5)
        if snow:
            level = int(rng.uniform(30, 110) / (1 + 0.3 * near))
            cv2.circle(overlay, (x, y), round(min(1 + 1.5 * near, 9)), level, -1)
        else:
            level = int(rng.uniform(15, 60) / (1 + 0.3 * near))
            length = min(14 + 14 * near, 90)
            end = round(x + 0.12 * length), round(y + length)
            cv2.line(overlay, (x, y), end, level, max(1, round(min(near, 4))))
    return reduce(overlay)


def rain(rng: np.random.Generator, dt_s: float) -> Iterator[Weather]:
    """Rain at night."""
    return falling(rng, dt_s, snow=False)


def snow(rng: np.random.Generator, dt_s: float) -> Iterator[Weather]:
    """Snow at night."""
    return falling(rng, dt_s, snow=True)


def _glow(x: float, y: float, wide: float, high: float) -> Field:
    """Light that falls off from a point, 1 there; fractions of the picture's height."""
    across = (np.arange(THUMBNAIL[0], dtype=np.float32) / THUMBNAIL[1] - x) / wide
    down = (np.arange(THUMBNAIL[1], dtype=np.float32)[:, None] / THUMBNAIL[1] - y) / high
    return np.asarray(1 / (1 + across**2 + down**2) ** 1.5, np.float32)


def lamps(rng: np.random.Generator, dt_s: float) -> Iterator[Weather]:
    """Dusk, with two lamps that are switched every minute or so; the camera's exposure follows within seconds."""
    glows = (_glow(0.4, 0.4, 0.5, 0.7), _glow(1.3, 0.3, 0.6, 0.6))
    powers, next_s, at_s, exposure = [0.0, 0.0], [float(rng.uniform(15, 40)) for _ in glows], 0.0, 1.0
    while True:
        for k in range(len(glows)):
            if at_s >= next_s[k]:
                powers[k] = 0.0 if powers[k] else float(rng.uniform(0.5, 1.4))
                next_s[k] = at_s + rng.uniform(20, 90)
        light = 0.5 + 0.6 * (powers[0] * glows[0] + powers[1] * glows[1])
        exposure += (float(0.62 / (0.3 + 0.6 * light.mean())) - exposure) * min(1.0, dt_s / 0.8)
        yield Weather(light=np.asarray(light * exposure, np.float32), gain=6.0, blotches=0.7)
        at_s += dt_s


def clouds(rng: np.random.Generator, dt_s: float) -> Iterator[Weather]:
    """Sun and clouds: edges of shadow, metres wide, that drift over the street within seconds."""
    at_s, next_s, edge, darkness, speed = 0.0, 10.0, -9.0, 0.4, 0.5
    across = np.arange(THUMBNAIL[0], dtype=np.float32) / THUMBNAIL[1]
    shaded = False
    while True:
        if at_s >= next_s:
            shaded, edge = not shaded, -0.5
            next_s = at_s + rng.uniform(15, 60)
            if shaded:
                darkness = rng.uniform(0.2, 0.5)
            speed = rng.uniform(0.3, 1.2)
        edge += speed * dt_s
        covered = 1 / (1 + np.exp((across - edge) / 0.15))
        shade = covered if shaded else 1 - covered
        light = np.broadcast_to(np.asarray(1.05 - darkness * shade, np.float32), THUMBNAIL[::-1])
        yield Weather(light=light)
        at_s += dt_s


def headlights(rng: np.random.Generator, dt_s: float) -> Iterator[Weather]:
    """Night; beams of cars that turn somewhere outside sweep over the wall within two seconds or so."""
    at_s, starts_s, lasts_s, side, power = 0.0, 15.0, 2.0, 1, 1.2
    while True:
        if at_s > starts_s + lasts_s:
            starts_s, lasts_s = at_s + rng.uniform(15, 90), rng.uniform(1.2, 3.5)
            side, power = int(rng.choice((-1, 1))), rng.uniform(0.6, 2.0)
        light: Field | float = 0.45
        if at_s >= starts_s:
            gone = (at_s - starts_s) / lasts_s
            x = 0.89 + side * (gone - 0.5) * 2.6
            light = np.asarray(0.45 * (1 + power * math.sin(math.pi * gone) * _glow(x, 0.55, 0.45, 0.35)), np.float32)
        yield Weather(light=light, added=8.0, gain=10.0, blotches=0.8)
        at_s += dt_s


def infrared(rng: np.random.Generator, dt_s: float) -> Iterator[Weather]:
    """A camera at dusk that switches between colour and infrared, and needs seconds to find its exposure each time."""
    at_s, next_s, seen, since_s = 0.0, 40.0, False, -100.0
    while True:
        if at_s >= next_s:
            seen, since_s, next_s = not seen, at_s, at_s + rng.uniform(60, 200)
        gone_s = at_s - since_s
        exposure = 0.1 if gone_s < 0.3 else 1 + (0.8 if seen else -0.5) * math.exp(-(gone_s - 0.3) / 1.0)
        yield Weather(light=(0.85 if seen else 0.6) * exposure, infrared=seen, gain=6.0, blotches=0.7)
        at_s += dt_s


def shake(rng: np.random.Generator, dt_s: float) -> Iterator[Weather]:
    """A camera on a pole: gusts of up to 20 s, in which it swings by 1 to 5 pixels once or twice a second."""
    at_s, next_s, wanted, reach, phase = 0.0, 12.0, 0.0, 0.0, 0.0
    while True:
        if at_s >= next_s:
            wanted = 0.0 if wanted else float(rng.uniform(1, 5))
            next_s = at_s + (rng.uniform(5, 20) if wanted else rng.uniform(10, 40))
        reach += (wanted - reach) * min(1.0, dt_s / 0.7)
        phase += dt_s * 2 * math.pi * rng.uniform(0.9, 2.0)
        x = reach * (math.sin(phase) + 0.3 * rng.normal()) / 1.2
        y = 0.5 * reach * (math.sin(1.37 * phase + 1) + 0.3 * rng.normal()) / 1.2
        yield Weather(shift_px=(x, y))
        at_s += dt_s


SCENES: dict[str, Scene] = {
    scene.__name__: scene for scene in (calm, night, rain, snow, lamps, clouds, headlights, infrared, shake)
}


def shoot(name: str, *, seed: int, fps: float, length_s: float, people: bool) -> Iterator[Shot]:
    """A scene's pictures.

    Args:
        name: one of `SCENES`.
        seed: of all its randomness.
        fps: pictures a second.
        length_s: how long it goes.
        people: whether people walk through it.
    """
    rng = np.random.default_rng(seed)
    sensor = Sensor(rng)
    crowd = walkers(np.random.default_rng(seed + 1), length_s) if people else []
    weathers = SCENES[name](rng, 1 / fps)
    empty = [reduce(picture) for picture in street()]
    for number in range(round(length_s * fps)):
        at_s, weather = number / fps, next(weathers)
        boxes: dict[int, Box] = {}
        reflected = empty[weather.infrared]
        present = {k: walker for k, walker in enumerate(crowd) if walker.starts_s <= at_s <= walker.ends_s}
        if present or weather.shift_px != (0.0, 0.0):
            picture = street()[weather.infrared].copy()
            boxes = {k: box for k, walker in present.items() if (box := walker.draw(picture, at_s)) is not None}
            if weather.shift_px != (0.0, 0.0):
                middle = (WIDTH_PX - 1) / 2 - weather.shift_px[0], (HEIGHT_PX - 1) / 2 - weather.shift_px[1]
                picture = np.asarray(cv2.getRectSubPix(picture, (WIDTH_PX, HEIGHT_PX), middle), np.uint8)
            reflected = reduce(picture)
        light = np.asarray(reflected * weather.light + weather.added, np.float32)
        luma = sensor.take(light, at_s, gain=weather.gain, blotches=weather.blotches)
        yield Shot(luma, at_s, boxes)
