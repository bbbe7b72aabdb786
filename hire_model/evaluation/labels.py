"""Place labels on a picture so that none covers another."""

from __future__ import annotations

from collections.abc import Iterable

_LETTER = 6.6  # width of an average letter of a 12 pixel font


class LabelPlacer:
    """Reserves rectangles on a picture of `width` x `height` pixels for labels of one line."""

    high = 15.0

    def __init__(self, width: float, height: float) -> None:
        self.width, self.height = width, height
        self._taken: list[tuple[float, float, float]] = []

    def measure(self, text: str) -> float:
        """Return the width of a label, estimated: the reader's font is not known."""
        return round(_LETTER * len(text) + 6, 1)

    def reserve(self, places: Iterable[tuple[float, float]], wide: float) -> tuple[float, float] | None:
        """Reserve the first of `places` (left, top) that is free, moved into the picture; None if none is free."""
        for left, top in places:
            x = round(max(0.0, min(left, self.width - wide)), 1)
            y = round(max(0.0, min(top, self.height - self.high)), 1)
            if all(x >= l + w or x + wide <= l or abs(y - t) >= self.high for l, t, w in self._taken):
                self._taken.append((x, y, wide))
                return x, y
        return None
