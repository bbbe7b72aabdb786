"""Place labels on a picture so that none covers another."""

from __future__ import annotations

from collections.abc import Iterable

FONT = 12  # size of a label's font
_LETTER = 7  # width of an average letter of this font


class LabelPlacer:
    """Reserves rectangles on a picture of `width` x `height` for labels of one line.

    A label has the same size on every picture when all are shown in the same frame; `unit` is its scale.
    """

    def __init__(self, width: float, height: float, unit: float) -> None:
        self.width, self.height, self.unit = width, height, unit
        self.high = round(15 * unit, 1)
        self._taken: list[tuple[float, float, float]] = []

    def measure(self, text: str) -> float:
        """Return the width of a label, estimated: the reader's font is not known. The page fits the text into it."""
        return round((_LETTER * len(text) + 6) * self.unit, 1)

    def reserve(self, places: Iterable[tuple[float, float]], wide: float) -> tuple[float, float] | None:
        """Reserve the first of `places` (left, top) that is free, moved into the picture; None if none is free."""
        for left, top in places:
            x = round(max(0.0, min(left, self.width - wide)), 1)
            y = round(max(0.0, min(top, self.height - self.high)), 1)
            if all(x >= a + w or x + wide <= a or abs(y - b) >= self.high for a, b, w in self._taken):
                self._taken.append((x, y, wide))
                return x, y
        return None
