"""Draw a scene with Pillow: distant things first, people face what they look at."""

from __future__ import annotations

from PIL import Image, ImageDraw

from hire_model.data.synthetic.shapes import OUTLINE, PAINT, SHAPES, SKIN, Brush
from hire_model.data.synthetic.world import ADULTS, HEIGHT, PEOPLE, WIDTH, Scene

_FINER = 2  # draw at this multiple of the size, then reduce, for smooth edges
_BACKDROPS = (("#cfe8ff", "#b8d89a"), ("#e6f2fb", "#c9dfae"), ("#fdebd3", "#d8cfa0"), ("#d9f0ee", "#e3d9c0"))
_HORIZON, _LARGE_HORIZON = 138, 84


def draw_scene(scene: Scene) -> Image.Image:
    """Return the scene as a 320 x 240 RGB picture."""
    sky, ground = _BACKDROPS[scene.backdrop]
    image = Image.new("RGB", (WIDTH * _FINER, HEIGHT * _FINER), sky)
    pen = ImageDraw.Draw(image)
    horizon = _HORIZON if scene.zoom == 1 else _LARGE_HORIZON
    pen.rectangle((0, horizon * _FINER, WIDTH * _FINER, HEIGHT * _FINER), fill=ground)
    for i in sorted(scene.present, key=lambda i: _rank_by_depth(scene, i)):
        _draw_slot(pen, scene, i)
    return image.reduce(_FINER)


def _rank_by_depth(scene: Scene, i: int) -> tuple[float, int, int, bool]:
    """Return a sort key: distant before near, column by column, hosts before their parts, held things last."""
    slot, nesting = scene.slots[i], 0
    held = slot.kind == "hand"
    while slot.host is not None:
        slot, nesting = scene.slots[slot.host], nesting + 1
    return scene.depths[i], slot.column, nesting, held


def _draw_slot(pen: ImageDraw.ImageDraw, scene: Scene, i: int) -> None:
    entity, facing, slot = scene.get_entity(i), scene.find_facing(i), scene.slots[i]
    x1, y1, x2, y2 = (_FINER * value for value in scene.boxes[i])
    held_left = slot.kind == "hand" and slot.host is not None and scene.find_facing(slot.host) == "left"
    brush = Brush(pen, (x1, y1, x2, y2), facing == "left" or held_left)
    paint = PAINT[entity.colour]
    if entity.cls in PEOPLE:
        pose = slot.kind if slot.kind in ("seat", "saddle") else "stand"
        holding = any(scene.slots[j].kind == "hand" and scene.slots[j].host == i for j in scene.present)
        draw_person(brush, entity.cls, paint, profile=facing != "front", pose=pose, holding=holding)
        return
    SHAPES[entity.cls](brush, paint, slot.kind == "runner")


_HAIR = {"man": "#3d2b1f", "woman": "#6b3a1e", "boy": "#b5803c", "girl": "#d9a441"}
_TROUSERS, _SHOES = "#3f4a5f", "#26262b"
_IN_SKIRTS = ("woman", "girl")


def draw_person(brush: Brush, cls: str, fill: str, *, profile: bool, pose: str, holding: bool) -> None:
    """Draw a person that fills the box of the brush. `pose` is stand, seat or saddle; `profile` draws a side view."""
    head = 0.22 if cls in ADULTS else 0.3  # fraction of the standing height, as in world.compute_head_size
    _LEGS[pose](brush, cls, fill, profile)
    hip = 0.64 if pose == "stand" else 0.78
    _draw_torso(brush, cls, fill, head, hip)
    shoulder = head + 0.06
    arm = (hip - head) * 0.9
    hang = (0.2, shoulder + arm * 0.95)
    brush.stroke([(0.24, shoulder), hang], OUTLINE, 0.075)
    brush.stroke([(0.24, shoulder), hang], fill, 0.055)
    _draw_hand(brush, *hang)
    hand = (0.97, 0.5) if holding else (0.95, shoulder + 0.05) if pose == "saddle" else (0.8, shoulder + arm * 0.95)
    brush.stroke([(0.74, shoulder), hand], OUTLINE, 0.075)
    brush.stroke([(0.74, shoulder), hand], fill, 0.055)
    _draw_hand(brush, *hand)
    _draw_head(brush, cls, head, profile)


def _draw_hand(brush: Brush, u: float, v: float) -> None:
    width, height = brush.box[2] - brush.box[0], brush.box[3] - brush.box[1]
    radius = 0.035
    brush.oval(u - radius * height / width, v - radius, u + radius * height / width, v + radius, SKIN)


def _draw_torso(brush: Brush, cls: str, fill: str, head: float, hip: float) -> None:
    if cls in _IN_SKIRTS:
        brush.poly(
            [
                (0.32, head - 0.01),
                (0.68, head - 0.01),
                (0.64, hip - 0.14),
                (0.86, hip + 0.1),
                (0.14, hip + 0.1),
                (0.36, hip - 0.14),
            ],
            fill,
        )
    else:
        brush.poly([(0.22, head), (0.78, head), (0.74, hip), (0.26, hip)], fill)


def _draw_standing_legs(brush: Brush, cls: str, fill: str, profile: bool) -> None:
    leg = SKIN if cls in _IN_SKIRTS else _TROUSERS
    for u in (0.28, 0.53):
        brush.rect(u, 0.6, u + 0.19, 0.97, leg)
        brush.oval(u - 0.02, 0.94, u + (0.28 if profile else 0.22), 1.0, _SHOES)


def _draw_seated_legs(brush: Brush, cls: str, fill: str, profile: bool) -> None:
    leg = SKIN if cls in _IN_SKIRTS else _TROUSERS
    for u in (0.26, 0.55):
        brush.rect(u, 0.72, u + 0.2, 0.97, leg)
        brush.oval(u - 0.02, 0.93, u + 0.24, 1.0, _SHOES)


def _draw_riding_leg(brush: Brush, cls: str, fill: str, profile: bool) -> None:
    leg = SKIN if cls in _IN_SKIRTS else _TROUSERS
    brush.stroke([(0.45, 0.74), (0.72, 0.82), (0.62, 0.98)], OUTLINE, 0.13)
    brush.stroke([(0.45, 0.74), (0.72, 0.82), (0.62, 0.98)], leg, 0.1)
    brush.oval(0.52, 0.94, 0.88, 1.01, _SHOES)


_LEGS = {"stand": _draw_standing_legs, "seat": _draw_seated_legs, "saddle": _draw_riding_leg}


def _draw_head(brush: Brush, cls: str, size: float, profile: bool) -> None:
    """Draw a head at the top of the box, as wide as high. `size`: fraction of the height."""
    width, height = brush.box[2] - brush.box[0], brush.box[3] - brush.box[1]
    half = size * height / width / 2
    face = brush.inner(0.5 - half, 0.0, 0.5 + half, size)
    hair = _HAIR[cls]
    if cls in _IN_SKIRTS:
        _draw_long_hair(face, cls, hair)
    face.oval(0.06, 0.02, 0.94, 0.98, SKIN)
    if profile:
        face.poly([(0.88, 0.45), (1.1, 0.62), (0.88, 0.68)], SKIN)
    face.poly(_outline_fringe(profile), hair, None)
    _draw_eyes(face, profile)
    mouth = [(0.6, 0.8), (0.84, 0.77)] if profile else [(0.36, 0.76), (0.5, 0.82), (0.64, 0.76)]
    face.stroke(mouth, "#a33b3b", 0.06)
    if cls == "man":
        whiskers = [(0.55, 0.7), (0.92, 0.68)] if profile else [(0.3, 0.69), (0.7, 0.69)]
        face.stroke(whiskers, hair, 0.1)


def _draw_long_hair(face: Brush, cls: str, hair: str) -> None:
    if cls == "woman":
        face.poly([(0.0, 0.35), (0.5, -0.05), (1.0, 0.35), (1.04, 1.3), (-0.04, 1.3)], hair)
    else:
        face.oval(-0.28, 0.4, 0.14, 1.05, hair)
        face.oval(0.86, 0.4, 1.28, 1.05, hair)


def _outline_fringe(profile: bool) -> list[tuple[float, float]]:
    if profile:
        return [(0.05, 0.6), (0.06, 0.3), (0.3, 0.04), (0.7, 0.04), (0.92, 0.28), (0.45, 0.32), (0.3, 0.6)]
    return [(0.06, 0.4), (0.14, 0.18), (0.35, 0.03), (0.65, 0.03), (0.86, 0.18), (0.94, 0.4), (0.5, 0.26)]


def _draw_eyes(face: Brush, profile: bool) -> None:
    for u in (0.72,) if profile else (0.32, 0.68):
        face.oval(u - 0.12, 0.38, u + 0.12, 0.6, "white", None)
        pupil = u + 0.05 if profile else u
        face.oval(pupil - 0.07, 0.41, pupil + 0.07, 0.57, "black", None)
