"""Sample large scenes: streets, rooms and shelves of 15 to 36 objects, in two or three rows of columns.

A row is what a small scene is, at a smaller size. All else is shared with small scenes: slots, facts, captions, faults.
"""

from __future__ import annotations

from dataclasses import dataclass

from hire_model.data.synthetic.sampling import KINDS, TWINS, Pair, SceneBuilder, is_twin
from hire_model.data.synthetic.world import WIDTH, Column, Rng, Scene

FEWEST, MOST = 15, 36  # objects of a scene
ZOOM = 0.5
_CHASES = 0.25  # share of rows with a chase


@dataclass(frozen=True)
class _Layout:
    """How the rows of a kind of scene are filled.

    rows   base line of each row in pixels, from the back to the front
    main   probability of each kind of main slot
    sky    largest number of things in the air
    """

    rows: tuple[float, ...]
    main: dict[str, float]
    sky: int


_STREET = {"person": 0.4, "mount": 0.15, "animal": 0.15, "big": 0.2, "bench": 0.1}
_ROOM = {"person": 0.35, "table": 0.35, "bench": 0.2, "animal": 0.1}
_SHELVES = {"table": 0.8, "person": 0.15, "animal": 0.05}
_LAYOUTS = (
    _Layout((125.0, 168.0, 214.0), _STREET, sky=3),
    _Layout((140.0, 205.0), _ROOM, sky=1),
    _Layout((104.0, 156.0, 212.0), _SHELVES, sky=0),
)


def sample_large_pair(rng: Rng, twin: bool) -> Pair:
    """Sample a large scene, with a twin if `twin` is True."""
    while True:
        scene = sample_large_scene(rng)
        if not twin:
            return Pair(scene)
        kind = str(rng.choice(list(KINDS), p=list(KINDS.values())))
        options = TWINS[kind](scene)
        for index in rng.permutation(len(options)):  # the check is slow here, so stop at the first twin
            if is_twin(scene, options[index], kind):
                return Pair(scene, options[index], kind)


def sample_large_scene(rng: Rng) -> Scene:
    """Sample a scene of `FEWEST` to `MOST` objects."""
    while True:
        layout = _LAYOUTS[int(rng.integers(len(_LAYOUTS)))]
        columns: list[Column] = []
        builder = SceneBuilder(rng, ZOOM)
        for base in layout.rows:
            _fill_row(rng, builder, columns, base, layout.main)
        for _ in range(int(rng.integers(layout.sky + 1))):
            builder.add_slot("sky", int(rng.integers(len(columns))), dx=float(rng.uniform(-12, 12)))
        scene = Scene(tuple(columns), tuple(builder.slots), tuple(builder.entities), int(rng.integers(4)), ZOOM)
        if FEWEST <= len(scene.present) <= MOST:
            return scene


def _fill_row(rng: Rng, builder: SceneBuilder, columns: list[Column], base: float, main: dict[str, float]) -> None:
    """Append three to five columns on one base line, each with a main slot and the slots that belong to it."""
    count = int(rng.integers(3, 6))
    facings = [str(rng.choice(["front", "left", "right"], p=[0.3, 0.35, 0.35])) for _ in range(count)]
    chase = int(rng.integers(count - 1)) if rng.random() < _CHASES else None
    if chase is not None:
        facings[chase] = facings[chase + 1] = str(rng.choice(["left", "right"]))
    for c in range(count):
        x = WIDTH * (c + 0.5) / count + rng.uniform(-8, 8)
        columns.append(Column(float(x), float(base + rng.uniform(-5, 5)), facings[c]))
        kind = str(rng.choice(list(main), p=list(main.values())))
        runs = chase is not None and c in (chase, chase + 1)
        builder.add_slot("runner" if runs else kind, len(columns) - 1)
