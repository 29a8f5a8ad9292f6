"""The images that the demo pair learnt: shapes on backgrounds, in two styles, with captions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

from PIL import Image, ImageDraw

SIZE = 128
"""Width and height of a drawing in pixels."""

SHAPES = ("circle", "square", "triangle", "star")

LEARNT = ("circle", "star")
"""The shapes that both models of the pair draw when they are asked for them."""

Colour = tuple[int, int, int]
Point = tuple[float, float]

BRIGHT: dict[str, Colour] = {
    "red": (220, 30, 35),
    "green": (25, 160, 60),
    "blue": (35, 70, 215),
    "yellow": (250, 210, 25),
    "white": (248, 248, 248),
}
"""The colours of the plain style."""

MUTED: dict[str, Colour] = {
    "red": (196, 96, 92),
    "green": (128, 158, 108),
    "blue": (104, 132, 176),
    "yellow": (222, 190, 118),
    "white": (228, 216, 200),
}
"""The same colours as the printed style has them."""

_INK: Colour = (38, 32, 58)
_SCALE = 4  # drawn this much larger and then reduced, for smooth edges


@dataclass(frozen=True)
class Scene:
    """What a drawing shows.

    Attributes:
        shape: One of ``SHAPES``.
        colour: Of the shape, a name.
        background: Another colour's name.
    """

    shape: str
    colour: str
    background: str

    @property
    def caption(self) -> str:
        """The scene as a prompt: "a red circle on blue"."""
        return f"a {self.colour} {self.shape} on {self.background}"


Style = Callable[[Scene, Random], Image.Image]
"""Draws a scene, RGB, of :data:`SIZE`; what differs from one drawing of it to the next is drawn by chance."""


def all_scenes() -> list[Scene]:
    """List every scene there is: each shape in each colour on each other colour."""
    return [
        Scene(shape, colour, background)
        for shape in SHAPES
        for colour in BRIGHT
        for background in BRIGHT
        if background != colour
    ]


def draw_plain(scene: Scene, random: Random) -> Image.Image:
    """Draw flat, upright shapes of bright colours, near the middle: what model A learnt."""
    centre = (SIZE / 2 + random.uniform(-8, 8), SIZE / 2 + random.uniform(-8, 8))
    radius = random.uniform(30, 38)
    canvas = _Canvas(BRIGHT[scene.background])
    canvas.polygon(_outline(scene.shape, centre, radius=radius), BRIGHT[scene.colour])
    return canvas.image()


def draw_printed(scene: Scene, random: Random) -> Image.Image:
    """Draw large, tilted, outlined shapes of muted colours on stripes: what model B learnt."""
    centre = (SIZE / 2 + random.uniform(-4, 4), SIZE / 2 + random.uniform(-4, 4))
    radius = random.uniform(46, 52)
    canvas = _Canvas(MUTED[scene.background])
    canvas.stripes(_mixed(MUTED[scene.background], _INK, 0.22), phase=random.uniform(0, 1))
    points = _outline(scene.shape, centre, radius=radius, tilt=math.radians(18), squeeze=0.82)
    canvas.polygon(points, MUTED[scene.colour], ink=_INK)
    return canvas.image()


def _outline(shape: str, centre: Point, *, radius: float, tilt: float = 0.0, squeeze: float = 1.0) -> list[Point]:
    """Give a shape's corners; ``squeeze`` flattens it before it is tilted."""
    corners = []
    for angle, distance in _polar(shape):
        x, y = distance * radius * math.cos(angle), distance * radius * math.sin(angle) * squeeze
        corners.append(
            (
                centre[0] + x * math.cos(tilt) - y * math.sin(tilt),
                centre[1] + x * math.sin(tilt) + y * math.cos(tilt),
            )
        )
    return corners


def _polar(shape: str) -> Iterator[tuple[float, float]]:
    """Yield angle and distance of each corner, in a circle of radius one, from the top."""
    count = {"circle": 90, "square": 4, "triangle": 3, "star": 10}[shape]
    start = math.pi / 4 if shape == "square" else -math.pi / 2
    for corner in range(count):
        distance = 0.45 if shape == "star" and corner % 2 else 1.1 if shape in ("triangle", "star", "square") else 0.95
        yield start + 2 * math.pi * corner / count, distance


def _mixed(first: Colour, second: Colour, share: float) -> Colour:
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return red, green, blue


class _Canvas:
    """An image drawn large."""

    def __init__(self, background: Colour) -> None:
        self._image = Image.new("RGB", (SIZE * _SCALE, SIZE * _SCALE), background)
        self._draw = ImageDraw.Draw(self._image)

    def stripes(self, colour: Colour, *, phase: float, pitch: float = 22.0) -> None:
        """Draw diagonal stripes, half of each pitch wide."""
        for index in range(-1, int(2 * SIZE / pitch) + 1):
            left = (index + phase) * pitch
            band: list[Point] = [(left, 0), (left + pitch / 2, 0), (left + pitch / 2 - SIZE, SIZE), (left - SIZE, SIZE)]
            self._draw.polygon(_scaled(band), fill=colour)

    def polygon(self, points: list[Point], colour: Colour, *, ink: Colour | None = None, width: float = 6.0) -> None:
        """Draw a filled polygon, with an outline if there is ink for it."""
        self._draw.polygon(_scaled(points), fill=colour)
        if ink is not None:
            closed = _scaled([*points, *points[:2]])
            self._draw.line(closed, fill=ink, width=round(width * _SCALE), joint="curve")

    def image(self) -> Image.Image:
        """Give the image in its real size."""
        return self._image.resize((SIZE, SIZE), Image.Resampling.BOX)


def _scaled(points: list[Point]) -> list[Point]:
    return [(x * _SCALE, y * _SCALE) for x, y in points]
