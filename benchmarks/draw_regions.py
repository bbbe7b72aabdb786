"""Draw how the boxes of a YOLOX detector become regions: all certain boxes, after suppression, with grid cells.

python benchmarks/draw_regions.py PICTURE --detector yolox_nano_coco80.onnx --out docs/images/regions.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from hire_model.data.images.detector import YoloxDetector, select_objects
from hire_model.data.images.extractors import MAX_REGIONS, WHOLE_IMAGE, lay_out_regions
from hire_model.data.images.pictures import decode_picture

CERTAIN = 0.03  # the detector's smallest score


def draw(axes: Axes, title: str, boxes: np.ndarray, colours: list[str], ratio: float) -> None:
    """Draw boxes [n, 4], given as fractions, on an empty picture of this height / width."""
    axes.set(xlim=(-0.01, 1.01), ylim=(1.01, -0.01), aspect=ratio, xticks=[], yticks=[])
    axes.set_title(title, fontsize=10)
    for (x1, y1, x2, y2), colour in zip(boxes, colours, strict=True):
        axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=colour, linewidth=1.2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("picture", type=Path)
    parser.add_argument("--detector", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    detector = YoloxDetector(arguments.detector)
    image = decode_picture(arguments.picture.read_bytes()).image
    proposed = detector.propose(image)
    certain = proposed.boxes[proposed.scores >= CERTAIN]
    found = select_objects(proposed, MAX_REGIONS - 1)
    boxes, classes, _ = lay_out_regions(found, (*detector.classes, WHOLE_IMAGE))
    palette = ["tab:grey" if name < 0 else "tab:blue" if name < len(detector.classes) else "black" for name in classes]
    _, panels = plt.subplots(1, 3, figsize=(10, 3), layout="constrained")
    ratio = image.height / image.width
    draw(panels[0], f"{len(certain)} certain boxes", certain, ["tab:blue"] * len(certain), ratio)
    draw(panels[1], f"{len(found.boxes)} after suppression", found.boxes, ["tab:blue"] * len(found.boxes), ratio)
    draw(panels[2], f"{len(boxes)} regions, with whole image and cells", boxes, palette, ratio)
    plt.savefig(arguments.out, dpi=110)


if __name__ == "__main__":
    main()
