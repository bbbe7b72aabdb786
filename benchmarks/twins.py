"""Measure how often a caption scores its own image above the twin image, which differs only in a relation or a colour.

    python benchmarks/twins.py --model runs/latest/model --data datasets/relational-scenes [--split test] [--seed 0]

Chance is 50 %; a tie counts against the model. Only captions that are false for the twin are used. The scenes are drawn
again from the seed of the data set to check this.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hire_model.data.store import Dataset, Split
from hire_model.data.synthetic import generate_scenes
from hire_model.data.synthetic.relations import is_true
from hire_model.data.synthetic.world import Scene
from hire_model.model import artifact
from hire_model.settings import EvaluateSettings
from hire_model.workflows.evaluate import score_split


@dataclass(frozen=True)
class Question:
    """A caption (column), its own image and the twin (rows), and the kind of difference between the images."""

    caption: int
    own: int
    twin: int
    kind: str


def find_questions(split: Split, seed: int) -> Iterator[Question]:
    """Yield all questions of the split. Raises SystemExit if the data set was drawn from another seed."""
    sizes = {name: counts.images for name, counts in split.dataset.manifest.splits.items()}
    drawn = [scene for scene in generate_scenes(sizes, seed) if scene[0] == split.name]
    columns = {(row, text): column for column, (row, text) in enumerate(zip(split.owner, split.texts, strict=True))}
    rows = {name: row for row, (_, name, *_) in enumerate(drawn)}
    for row, (_, name, scene, captions, _) in enumerate(drawn):
        if split.image_id(row) != name or any((row, caption.text) not in columns for caption in captions):
            raise SystemExit(f"{split.dataset.folder}: image {row} was not drawn from seed {seed}.")
        if name[-1] not in "ab":
            continue
        twin = rows[name[:-1] + ("b" if name[-1] == "a" else "a")]
        for caption in captions:
            if not is_true(caption.claim, drawn[twin][2]):
                yield Question(columns[row, caption.text], row, twin, _name_difference(scene, drawn[twin][2]))


def _name_difference(scene: Scene, twin: Scene) -> str:
    things = [Counter((thing.cls, thing.colour) for thing in image.entities if thing) for image in (scene, twin)]
    if things[0] != things[1]:
        return "colours"
    return "sides" if scene.slots != twin.slots else "roles"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", default="test")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    split = Dataset.open(args.data).split(args.split)
    questions = list(find_questions(split, args.seed))
    scores = score_split(artifact.load(args.model), split, EvaluateSettings())
    right = np.array([scores[q.own, q.caption] > scores[q.twin, q.caption] for q in questions])
    for kind in ("roles", "sides", "colours"):
        chosen = right[[question.kind == kind for question in questions]]
        print(f"{kind:8} {100 * chosen.mean():5.1f} % of {len(chosen)} captions")
    print(f"{'all':8} {100 * right.mean():5.1f} % of {len(right)} captions")


if __name__ == "__main__":
    main()
