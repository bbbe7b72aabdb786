"""Drawing a scene with Pillow: far things first, each in its colour, faces turned to what they look at."""

from __future__ import annotations

from PIL import Image, ImageDraw

from hire_model.data.synthetic.brush import PAINT, Brush
from hire_model.data.synthetic.people import person
from hire_model.data.synthetic.shapes import SHAPES
from hire_model.data.synthetic.vocabulary import PEOPLE
from hire_model.data.synthetic.world import HEIGHT, WIDTH, Scene

_FINER = 2  # drawn at so many times the size and averaged down, for smooth edges
_MOODS = (("#cfe8ff", "#b8d89a"), ("#e6f2fb", "#c9dfae"), ("#fdebd3", "#d8cfa0"), ("#d9f0ee", "#e3d9c0"))
_HORIZON = 138


def draw(scene: Scene) -> Image.Image:
    """The scene as a 320 x 240 RGB picture."""
    sky, ground = _MOODS[scene.mood]
    image = Image.new("RGB", (WIDTH * _FINER, HEIGHT * _FINER), sky)
    pen = ImageDraw.Draw(image)
    pen.rectangle((0, _HORIZON * _FINER, WIDTH * _FINER, HEIGHT * _FINER), fill=ground)
    for i in sorted(scene.present, key=lambda i: _order(scene, i)):
        _draw_slot(pen, scene, i)
    return image.reduce(_FINER)


def _order(scene: Scene, i: int) -> tuple[float, int, int, bool]:
    """Far before near, column by column, hosts before what they carry, and what is held last."""
    slot, nesting = scene.slots[i], 0
    held = slot.kind == "hand"
    while slot.host is not None:
        slot, nesting = scene.slots[slot.host], nesting + 1
    return scene.depths[i], slot.column, nesting, held


def _draw_slot(pen: ImageDraw.ImageDraw, scene: Scene, i: int) -> None:
    entity, facing, slot = scene.entity(i), scene.facing(i), scene.slots[i]
    x1, y1, x2, y2 = (_FINER * value for value in scene.boxes[i])
    held_left = slot.kind == "hand" and slot.host is not None and scene.facing(slot.host) == "left"
    brush = Brush(pen, (x1, y1, x2, y2), facing == "left" or held_left)
    paint = PAINT[entity.colour]
    if entity.cls in PEOPLE:
        pose = slot.kind if slot.kind in ("seat", "saddle") else "stand"
        holding = any(scene.slots[j].kind == "hand" and scene.slots[j].host == i for j in scene.present)
        person(brush, entity.cls, paint, profile=facing != "front", pose=pose, holding=holding)
        return
    SHAPES[entity.cls](brush, paint, slot.kind == "runner")
