"""Twins told apart: no speed, but how often a caption's own picture scores above one that differs in nothing but a
relation or a binding. Chance is 50 %; a tie counts against the model.

    python benchmarks/twins.py --model runs/latest/model --data datasets/relational-scenes [--split test] [--seed 0]

Only captions that are false of the twin are asked. What they claim is drawn again from the seed of the data set.
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
    """A caption (column), its own picture and the twin (rows), and what sets the two apart."""

    caption: int
    own: int
    twin: int
    kind: str


def questions(split: Split, seed: int) -> Iterator[Question]:
    """All that the split has. Raises SystemExit where the data set was drawn from another seed."""
    sizes = {name: counts.images for name, counts in split.dataset.manifest.splits.items()}
    drawn = [scene for scene in generate_scenes(sizes, seed) if scene[0] == split.name]
    columns = {(row, text): column for column, (row, text) in enumerate(zip(split.owner, split.texts, strict=True))}
    rows = {name: row for row, (_, name, *_) in enumerate(drawn)}
    for row, (_, name, scene, captions, _) in enumerate(drawn):
        if split.image_id(row) != name or any((row, caption.text) not in columns for caption in captions):
            raise SystemExit(f"{split.dataset.folder}: image {row} was not drawn from seed {seed}.")
        if name[-1] not in "ab":
            continue
        other = rows[name[:-1] + ("b" if name[-1] == "a" else "a")]
        for caption in captions:
            if not is_true(caption.claim, drawn[other][2]):
                yield Question(columns[row, caption.text], row, other, _kind(scene, drawn[other][2]))


def _kind(scene: Scene, twin: Scene) -> str:
    things = [Counter((thing.cls, thing.colour) for thing in one.entities if thing) for one in (scene, twin)]
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
    asked = list(questions(split, args.seed))
    scores = score_split(artifact.load(args.model), split, EvaluateSettings())
    right = np.array([scores[one.own, one.caption] > scores[one.twin, one.caption] for one in asked])
    for kind in ("roles", "sides", "colours"):
        chosen = right[[one.kind == kind for one in asked]]
        print(f"{kind:8} {100 * chosen.mean():5.1f} % of {len(chosen)} captions")
    print(f"{'all':8} {100 * right.mean():5.1f} % of {len(right)} captions")


if __name__ == "__main__":
    main()
