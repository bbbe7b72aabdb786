"""A brush that draws inside a box: coordinates run from 0 to 1, and are mirrored for things that face left."""

from __future__ import annotations

from collections.abc import Sequence
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
    """Draws shapes given in fractions of `box` (u to the facing side, v downwards)."""

    pen: ImageDraw.ImageDraw
    box: Box
    mirrored: bool = False
    line: int = 2

    def at(self, u: float, v: float) -> Point:
        """The pixel of a point in the box."""
        x1, y1, x2, y2 = self.box
        u = 1 - u if self.mirrored else u
        return x1 + u * (x2 - x1), y1 + v * (y2 - y1)

    def _corners(self, u1: float, v1: float, u2: float, v2: float) -> tuple[float, float, float, float]:
        (xa, ya), (xb, yb) = self.at(u1, v1), self.at(u2, v2)
        return min(xa, xb), min(ya, yb), max(xa, xb), max(ya, yb)

    def oval(self, u1: float, v1: float, u2: float, v2: float, fill: str, outline: str | None = OUTLINE) -> None:
        """An ellipse between two corners."""
        self.pen.ellipse(self._corners(u1, v1, u2, v2), fill, outline, self.line)

    def ring(self, u1: float, v1: float, u2: float, v2: float) -> None:
        """An empty dark ellipse with a thick line."""
        self.pen.ellipse(self._corners(u1, v1, u2, v2), None, OUTLINE, 2 * self.line)

    def slice(self, u1: float, v1: float, u2: float, v2: float, fill: str) -> None:
        """The upper half of an ellipse."""
        self.pen.pieslice(self._corners(u1, v1, u2, v2), 180, 360, fill, OUTLINE, self.line)

    def rect(self, u1: float, v1: float, u2: float, v2: float, fill: str, outline: str | None = OUTLINE) -> None:
        """A rectangle between two corners."""
        self.pen.rectangle(self._corners(u1, v1, u2, v2), fill, outline, self.line)

    def poly(self, points: Sequence[Point], fill: str, outline: str | None = OUTLINE) -> None:
        """A filled polygon."""
        self.pen.polygon([self.at(*point) for point in points], fill, outline, self.line)

    def stroke(self, points: Sequence[Point], fill: str = OUTLINE, width: float = 0.0) -> None:
        """A line through points; `width` as a fraction of the box's height, 0 for a thin one."""
        pixels = max(self.line, round(width * (self.box[3] - self.box[1])))
        self.pen.line([self.at(*point) for point in points], fill, pixels, joint="curve")

    def inner(self, u1: float, v1: float, u2: float, v2: float) -> Brush:
        """A brush for a part of the box."""
        return Brush(self.pen, self._corners(u1, v1, u2, v2), self.mirrored, self.line)
