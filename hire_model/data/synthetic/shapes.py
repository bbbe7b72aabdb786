"""Draw animals and things, each inside its box."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import ImageDraw

from hire_model.data.synthetic.world import Box

Point = tuple[float, float]
OUTLINE = "#2b2b2b"
SKIN = "#f2c9a0"
PAINT = {
    "red": "#d62828",
    "blue": "#2563eb",
    "green": "#2e9e3f",
    "yellow": "#ffd60a",
    "orange": "#f77f00",
    "purple": "#7b2cbf",
    "pink": "#ff8fc7",
    "white": "#ffffff",
    "brown": "#8a5a33",
    "black": "#33333a",
    "grey": "#9a9aa2",
}


@dataclass(frozen=True)
class Brush:
    """Draw shapes in coordinates relative to `box`: u towards the facing side, v downwards, both 0-1."""

    pen: ImageDraw.ImageDraw
    box: Box
    mirrored: bool = False
    line: int = 2

    def at(self, u: float, v: float) -> Point:
        """Return the pixel of a point in the box."""
        x1, y1, x2, y2 = self.box
        u = 1 - u if self.mirrored else u
        return x1 + u * (x2 - x1), y1 + v * (y2 - y1)

    def _corners(self, u1: float, v1: float, u2: float, v2: float) -> tuple[float, float, float, float]:
        (xa, ya), (xb, yb) = self.at(u1, v1), self.at(u2, v2)
        return min(xa, xb), min(ya, yb), max(xa, xb), max(ya, yb)

    def oval(self, u1: float, v1: float, u2: float, v2: float, fill: str, outline: str | None = OUTLINE) -> None:
        """Draw an ellipse between two corners."""
        self.pen.ellipse(self._corners(u1, v1, u2, v2), fill, outline, self.line)

    def ring(self, u1: float, v1: float, u2: float, v2: float) -> None:
        """Draw a dark ellipse with a thick line and no fill."""
        self.pen.ellipse(self._corners(u1, v1, u2, v2), None, OUTLINE, 2 * self.line)

    def slice(self, u1: float, v1: float, u2: float, v2: float, fill: str) -> None:
        """Draw the upper half of an ellipse."""
        self.pen.pieslice(self._corners(u1, v1, u2, v2), 180, 360, fill, OUTLINE, self.line)

    def rect(self, u1: float, v1: float, u2: float, v2: float, fill: str, outline: str | None = OUTLINE) -> None:
        """Draw a rectangle between two corners."""
        self.pen.rectangle(self._corners(u1, v1, u2, v2), fill, outline, self.line)

    def poly(self, points: Sequence[Point], fill: str, outline: str | None = OUTLINE) -> None:
        """Draw a filled polygon."""
        self.pen.polygon([self.at(*point) for point in points], fill, outline, self.line)

    def stroke(self, points: Sequence[Point], fill: str = OUTLINE, width: float = 0.0) -> None:
        """Draw a line through points. `width`: fraction of the box height, 0 for a thin line."""
        pixels = max(self.line, round(width * (self.box[3] - self.box[1])))
        self.pen.line([self.at(*point) for point in points], fill, pixels, joint="curve")

    def inner(self, u1: float, v1: float, u2: float, v2: float) -> Brush:
        """Return a brush for a part of the box."""
        return Brush(self.pen, self._corners(u1, v1, u2, v2), self.mirrored, self.line)


_POLE = "#7a5230"


def _draw_legs(b: Brush, fill: str, tops: tuple[float, ...], top: float, run: bool, width: float) -> None:
    """Draw the four legs of an animal, straight, or spread if it runs."""
    for i, u in enumerate(tops):
        foot = u + (0 if not run else -0.12 if i < 2 else 0.12)
        b.stroke([(u, top), (foot, 0.99)], OUTLINE, width + 0.04)
        b.stroke([(u, top), (foot, 0.98)], fill, width)


def draw_dog(b: Brush, fill: str, run: bool) -> None:
    """Draw a dog from the side: hanging ear, long snout, tail up."""
    b.stroke([(0.12, 0.5), (0.02, 0.14)], OUTLINE, 0.13)
    b.stroke([(0.12, 0.5), (0.02, 0.15)], fill, 0.09)
    _draw_legs(b, fill, (0.17, 0.27, 0.56, 0.66), 0.65, run, 0.09)
    b.oval(0.08, 0.36, 0.74, 0.78, fill)
    b.oval(0.58, 0.08, 0.86, 0.54, fill)
    b.oval(0.74, 0.26, 1.0, 0.5, fill)
    b.oval(0.94, 0.28, 1.0, 0.38, "black", None)
    b.oval(0.58, 0.1, 0.68, 0.5, "#4a3524")
    b.oval(0.75, 0.18, 0.81, 0.28, "white", None)
    b.oval(0.77, 0.2, 0.81, 0.28, "black", None)


def draw_cat(b: Brush, fill: str, run: bool) -> None:
    """Draw a cat from the side: round head, pointed ears, whiskers, a long curved tail."""
    b.stroke([(0.14, 0.6), (0.02, 0.45), (0.04, 0.15), (0.12, 0.04)], OUTLINE, 0.12)
    b.stroke([(0.14, 0.6), (0.02, 0.45), (0.04, 0.15), (0.12, 0.06)], fill, 0.07)
    _draw_legs(b, fill, (0.18, 0.28, 0.54, 0.64), 0.7, run, 0.08)
    b.oval(0.1, 0.45, 0.72, 0.84, fill)
    b.poly([(0.6, 0.3), (0.62, 0.0), (0.74, 0.18)], fill)
    b.poly([(0.82, 0.18), (0.94, 0.0), (0.96, 0.3)], fill)
    b.oval(0.56, 0.12, 1.0, 0.62, fill)
    for u in (0.74, 0.9):
        b.oval(u - 0.05, 0.25, u + 0.05, 0.4, "#d8f26e", None)
        b.oval(u, 0.26, u + 0.04, 0.39, "black", None)
    b.poly([(0.82, 0.42), (0.9, 0.42), (0.86, 0.48)], "#e88b9c", None)
    b.stroke([(0.68, 0.48), (0.84, 0.46)])
    b.stroke([(0.9, 0.46), (1.04, 0.5)])


def draw_horse(b: Brush, fill: str, run: bool) -> None:
    """Draw a horse from the side: long neck with a mane, tail down."""
    mane = "#2a2018" if fill != "#33333a" else "#8c8c94"
    b.stroke([(0.1, 0.42), (0.02, 0.55), (0.03, 0.8)], mane, 0.08)
    _draw_legs(b, fill, (0.16, 0.25, 0.58, 0.67), 0.6, run, 0.07)
    b.poly([(0.56, 0.46), (0.76, 0.06), (0.88, 0.12), (0.74, 0.6)], fill)
    b.oval(0.08, 0.34, 0.76, 0.7, fill)
    b.poly([(0.6, 0.4), (0.6, 0.56), (0.73, 0.5), (0.81, 0.2)], fill, None)
    b.poly([(0.74, 0.06), (0.86, 0.04), (1.0, 0.24), (0.95, 0.32), (0.8, 0.24)], fill)
    b.poly([(0.76, 0.06), (0.78, -0.02), (0.82, 0.05)], fill)
    b.stroke([(0.75, 0.06), (0.66, 0.22), (0.57, 0.4)], mane, 0.07)
    b.oval(0.85, 0.1, 0.89, 0.15, "black", None)


def draw_bird(b: Brush, fill: str, run: bool) -> None:
    """Draw a flying bird with a raised wing."""
    b.poly([(0.2, 0.6), (0.0, 0.45), (0.0, 0.75)], fill)
    b.oval(0.14, 0.42, 0.76, 0.86, fill)
    b.oval(0.62, 0.26, 0.92, 0.64, fill)
    b.poly([(0.9, 0.38), (1.02, 0.46), (0.9, 0.52)], "#f5a300")
    b.poly([(0.3, 0.58), (0.28, 0.0), (0.6, 0.56)], fill)
    b.oval(0.76, 0.36, 0.83, 0.46, "black", None)


def draw_hat(b: Brush, fill: str, run: bool) -> None:
    """Draw a hat with a brim and a band."""
    b.rect(0.24, 0.02, 0.76, 0.8, fill)
    b.oval(0.0, 0.66, 1.0, 1.0, fill)
    b.stroke([(0.25, 0.62), (0.75, 0.62)], OUTLINE, 0.12)


def draw_scarf(b: Brush, fill: str, run: bool) -> None:
    """Draw a scarf round the neck with one end hanging down."""
    b.rect(0.55, 0.3, 0.82, 1.0, fill)
    for v in (0.7, 0.85):
        b.stroke([(0.57, v), (0.8, v)])
    b.oval(0.0, 0.0, 1.0, 0.45, fill)


def draw_ball(b: Brush, fill: str, run: bool) -> None:
    """Draw a ball with two seams."""
    b.oval(0.0, 0.0, 1.0, 1.0, fill)
    b.stroke([(0.06, 0.38), (0.5, 0.52), (0.94, 0.38)])
    b.stroke([(0.5, 0.52), (0.5, 0.98)])


def draw_umbrella(b: Brush, fill: str, run: bool) -> None:
    """Draw an open umbrella on its stick, which leans to the hand."""
    b.stroke([(0.5, 0.4), (0.2, 0.98)], OUTLINE, 0.05)
    b.slice(0.0, 0.02, 1.0, 0.88, fill)
    b.stroke([(0.5, 0.03), (0.33, 0.45)])
    b.stroke([(0.5, 0.03), (0.67, 0.45)])


def draw_balloon(b: Brush, fill: str, run: bool) -> None:
    """Draw a balloon on its string."""
    b.stroke([(0.5, 0.5), (0.42, 0.7), (0.55, 0.85), (0.5, 1.0)])
    b.oval(0.0, 0.0, 1.0, 0.52, fill)
    b.poly([(0.38, 0.57), (0.5, 0.5), (0.62, 0.57)], fill)
    b.oval(0.2, 0.08, 0.4, 0.2, "white", None)


def draw_cup(b: Brush, fill: str, run: bool) -> None:
    """Draw a cup with its handle."""
    b.ring(0.55, 0.25, 1.0, 0.8)
    b.poly([(0.0, 0.1), (0.75, 0.1), (0.66, 1.0), (0.1, 1.0)], fill)
    b.oval(0.0, 0.0, 0.75, 0.22, "#e9e2d8")


def draw_book(b: Brush, fill: str, run: bool) -> None:
    """Draw a closed book with its pages to be seen."""
    b.rect(0.0, 0.0, 1.0, 1.0, fill)
    b.rect(0.06, 0.8, 1.0, 0.95, "#fffbe8")
    b.rect(0.25, 0.2, 0.75, 0.45, "#fffbe8")
    b.stroke([(0.1, 0.0), (0.1, 0.8)])


def draw_flag(b: Brush, fill: str, run: bool) -> None:
    """Draw a flag on its pole."""
    b.stroke([(0.1, 0.0), (0.1, 1.0)], _POLE, 0.06)
    b.poly([(0.14, 0.02), (0.55, 0.08), (1.0, 0.02), (1.0, 0.42), (0.55, 0.48), (0.14, 0.42)], fill)


def draw_bag(b: Brush, fill: str, run: bool) -> None:
    """Draw a handbag with its handle."""
    b.ring(0.2, 0.0, 0.8, 0.7)
    b.poly([(0.06, 0.35), (0.94, 0.35), (1.0, 1.0), (0.0, 1.0)], fill)
    b.stroke([(0.05, 0.55), (0.95, 0.55)])
    b.oval(0.43, 0.48, 0.57, 0.62, "#f5d76e")


def draw_kite(b: Brush, fill: str, run: bool) -> None:
    """Draw a kite with its tail."""
    b.stroke([(0.5, 0.7), (0.4, 0.8), (0.6, 0.9), (0.5, 1.0)])
    b.poly([(0.5, 0.0), (1.0, 0.3), (0.5, 0.75), (0.0, 0.3)], fill)
    b.stroke([(0.5, 0.0), (0.5, 0.75)])
    b.stroke([(0.0, 0.3), (1.0, 0.3)])


def draw_table(b: Brush, fill: str, run: bool) -> None:
    """Draw a table: a board on two pairs of legs, open below."""
    for u in (0.05, 0.87):
        b.rect(u, 0.12, u + 0.08, 1.0, fill)
    b.rect(0.0, 0.0, 1.0, 0.18, fill)


def draw_bench(b: Brush, fill: str, run: bool) -> None:
    """Draw a garden bench: two boards for the back, a seat, legs."""
    for u in (0.06, 0.86):
        b.rect(u, 0.0, u + 0.07, 1.0, fill)
    for v in (0.04, 0.26):
        b.rect(0.0, v, 1.0, v + 0.14, fill)
    b.rect(0.0, 0.54, 1.0, 0.7, fill)


def draw_box(b: Brush, fill: str, run: bool) -> None:
    """Draw a crate with slats."""
    b.rect(0.0, 0.0, 1.0, 1.0, fill)
    for v in (0.33, 0.66):
        b.stroke([(0.0, v), (1.0, v)])
    b.stroke([(0.0, 1.0), (1.0, 0.0)], OUTLINE, 0.05)


def draw_car(b: Brush, fill: str, run: bool) -> None:
    """Draw a car from the side, its bonnet in front."""
    b.poly([(0.16, 0.48), (0.28, 0.04), (0.6, 0.04), (0.76, 0.48)], fill)
    b.poly([(0.22, 0.45), (0.31, 0.13), (0.43, 0.13), (0.43, 0.45)], "#d6f0fb")
    b.poly([(0.47, 0.45), (0.47, 0.13), (0.58, 0.13), (0.69, 0.45)], "#d6f0fb")
    b.poly([(0.0, 0.46), (0.82, 0.46), (1.0, 0.56), (1.0, 0.84), (0.0, 0.84)], fill)
    b.oval(0.94, 0.55, 1.0, 0.68, "#fff3a6")
    _draw_wheels(b, (0.2, 0.78), 0.64, "#2f2f35")


def _draw_wheels(b: Brush, centres: tuple[float, ...], top: float, fill: str) -> None:
    width, height = b.box[2] - b.box[0], b.box[3] - b.box[1]
    half = (1 - top) / 2 * height / width
    for u in centres:
        b.oval(u - half, top, u + half, 1.0, fill)
        b.oval(u - half / 2.5, top + (1 - top) * 0.3, u + half / 2.5, 1 - (1 - top) * 0.3, "#c9c9d1")


def draw_bike(b: Brush, fill: str, run: bool) -> None:
    """Draw a bicycle from the side, its frame in colour."""
    width, height = b.box[2] - b.box[0], b.box[3] - b.box[1]
    half = 0.31 * height / width
    for u in (0.02 + half, 0.98 - half):
        b.ring(u - half, 0.38, u + half, 1.0)
    frame = [(0.2, 0.69), (0.38, 0.3), (0.7, 0.28), (0.48, 0.69), (0.2, 0.69)]
    b.stroke(frame, OUTLINE, 0.11)
    b.stroke([(0.38, 0.3), (0.48, 0.69)], OUTLINE, 0.11)
    b.stroke([(0.8, 0.69), (0.68, 0.1)], OUTLINE, 0.11)
    for points in (frame, [(0.38, 0.3), (0.48, 0.69)], [(0.8, 0.69), (0.68, 0.1)]):
        b.stroke(points, fill, 0.07)
    b.stroke([(0.36, 0.3), (0.34, 0.16)], OUTLINE, 0.05)
    b.rect(0.26, 0.1, 0.44, 0.18, "#2f2f35")
    b.stroke([(0.6, 0.04), (0.68, 0.1), (0.76, 0.08)], OUTLINE, 0.06)


def draw_tree(b: Brush, fill: str, run: bool) -> None:
    """Draw a tree with a round crown."""
    b.rect(0.42, 0.5, 0.58, 1.0, _POLE)
    for u1, v1, u2, v2 in ((0.0, 0.25, 0.6, 0.62), (0.4, 0.25, 1.0, 0.62), (0.16, 0.0, 0.84, 0.45)):
        b.oval(u1, v1, u2, v2, fill)
    b.oval(0.15, 0.2, 0.85, 0.56, fill, None)


SHAPES: dict[str, Callable[[Brush, str, bool], None]] = {
    shape.__name__.removeprefix("draw_"): shape
    for shape in (
        draw_dog, draw_cat, draw_horse, draw_bird, draw_hat, draw_scarf, draw_ball, draw_umbrella, draw_balloon,
        draw_cup, draw_book, draw_flag, draw_bag, draw_kite, draw_table, draw_bench, draw_box, draw_car, draw_bike,
        draw_tree,
    )
}  # fmt: skip
