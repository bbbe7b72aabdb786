"""Drawing a scene at random: two or three columns, each with a unit (a person, a table ...) and what belongs to it."""

from __future__ import annotations

from hire_model.data.synthetic.vocabulary import ACCEPTS, CLASSES, PEOPLE, SIZES
from hire_model.data.synthetic.world import WIDTH, Column, Entity, Rng, Scene, Slot

_UNITS = {"person": 0.38, "mount": 0.13, "table": 0.16, "bench": 0.12, "animal": 0.11, "big": 0.1}
_PARTS: dict[str, tuple[tuple[str, float, float], ...]] = {  # kind, chance of being filled, offset in pixels
    "person": (("hand", 0.65, 0), ("head", 0.32, 0), ("neck", 0.2, 0)),
    "saddle": (("head", 0.3, 0),),
    "mount": (("saddle", 1.0, 0),),
    "table": (("top", 0.8, -20), ("top", 0.4, 20), ("under", 0.4, 0)),
    "bench": (("seat", 0.85, -16), ("under", 0.25, 18)),
    "big": (("front", 0.5, 16), ("behind", 0.5, -32)),
}


def sample(rng: Rng) -> Scene:
    """Draw one scene of two or three columns; it may hold as little as one object in each."""
    count = 2 if rng.random() < 0.35 else 3
    chase = int(rng.integers(count - 1)) if rng.random() < 0.2 else None
    columns = _columns(rng, count, chase)
    frame = _Frame(rng)
    for c in range(count):
        kind = str(rng.choice(list(_UNITS), p=list(_UNITS.values())))
        frame.grow("runner" if chase is not None and c in (chase, chase + 1) else kind, c)
    if rng.random() < 0.3:
        frame.grow("sky", int(rng.integers(count)), dx=float(rng.uniform(-12, 12)))
    return Scene(columns, tuple(frame.slots), tuple(frame.filling), int(rng.integers(4)))


def _columns(rng: Rng, count: int, chase: int | None) -> tuple[Column, ...]:
    facings = [str(rng.choice(["front", "left", "right"], p=[0.3, 0.35, 0.35])) for _ in range(count)]
    if chase is not None:
        facings[chase] = facings[chase + 1] = str(rng.choice(["left", "right"]))
    width = WIDTH / count
    columns = []
    for c in range(count):
        x, base = width * (c + 0.5) + rng.uniform(-8, 8), rng.uniform(192, 206)
        columns.append(Column(float(x), float(base), facings[c]))
    return tuple(columns)


class _Frame:
    """Slots and their filling while they are drawn; no two things share class and colour."""

    def __init__(self, rng: Rng) -> None:
        self.rng = rng
        self.slots: list[Slot] = []
        self.filling: list[Entity | None] = []
        self.taken: set[tuple[str, str]] = set()

    def grow(self, kind: str, column: int, host: int | None = None, chance: float = 1.0, dx: float = 0.0) -> None:
        """Append a slot, fill it with that chance, and do the same for the slots that belong to what is in it."""
        me = len(self.slots)
        self.slots.append(Slot(kind, column, host, dx))
        entity = self._entity(kind) if self.rng.random() < chance else None
        self.filling.append(entity)
        if entity is None:
            return
        parts = _PARTS.get(kind, ())
        if kind in ("seat", "behind") and entity.cls in PEOPLE:
            parts = _PARTS["person"][1:]  # dressed, but with nothing in hand, which would hide the bench or be hidden
        for part, odds, offset in parts:
            self.grow(part, column, me, odds, offset * float(self.rng.uniform(0.8, 1.2)))

    def _entity(self, kind: str) -> Entity | None:
        """Something that the slot takes and that is not there yet; None if its class has no colour left."""
        cls = str(self.rng.choice(ACCEPTS[kind]))
        free = [colour for colour in CLASSES[cls].palette if (cls, colour) not in self.taken]
        if not free:
            return None
        colour = str(self.rng.choice(free))
        self.taken.add((cls, colour))
        return Entity(cls, colour, str(self.rng.choice(SIZES, p=[0.6, 0.2, 0.2])))
