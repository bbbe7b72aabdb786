"""Measure how many captions mention relations: an upper bound, without a model, of the gain from relations.

    python benchmarks/spoken_relations.py DATASET [--split test] [--images 500]

Prints the share of captions that name two objects of their image, two that an edge joins, such an edge in words, and
absolute positions or sizes. For captions with two joined objects it prints how many images have all named objects, and
how many of these have the same edges between them (geometric means). An object counts as named if the caption contains
the last word of its class.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import numpy as np

from hire_model.data.store import Dataset

POSITIONS = re.compile(
    r"\b(left|right|top|bottom|middle|cent(er|re)|corner|upper|lower|side|edge|horizon|size|small|big|large|medium|fac\w+)\b"
)
WORDING = {  # predicate: regular expression of its wording in captions; default: the predicate's name
    "wears": r"wear|head|\bhas\b",
    "holds": r"hold|hand|carr|\bhas\b|grab",
    "above": r"above|over|top",
    "in front of": r"front|before|cover|overlap|block",
    "behind": r"behind|back",
    "next to": r"next|beside|near|left|right|side",
    "rides": r"rid(e|ing)",
    "sits on": r"s(i|a)t",
    "looks at": r"look|watch|gaz",
    "chases": r"chas|after",
    "under": r"under|below|beneath",
    "on": r"\bon\b|top",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--split", default="test")
    parser.add_argument("--images", type=int, default=0, help="use only this many images of the split; 0: all")
    args = parser.parse_args()
    split = Dataset.open(args.dataset).split(args.split, args.images)
    names, predicates = split.dataset.manifest.classes, split.dataset.manifest.predicates
    present, edges = list[set[str]](), list[set[tuple[str, str, str]]]()
    for row in range(len(split.images)):
        image = split.regions(row)
        classes = [names[k] if k >= 0 else "" for k in image.classes]
        present.append(set(classes) - {""})
        edges.append({(classes[s], predicates[p], classes[o]) for s, p, o in image.relations})
    named = joined = worded = positioned = 0
    fits: list[tuple[int, int]] = []
    for text, owner in zip(split.texts, split.owner, strict=True):
        words = set(re.findall(r"[a-z]+", text.lower()))
        objects = {name for name in present[owner] if {name.split()[-1], name.split()[-1] + "s"} & words}
        between = {edge for edge in edges[owner] if edge[0] in objects and edge[2] in objects}
        positioned += bool(POSITIONS.search(text.lower()))
        named += len(objects) > 1
        joined += bool(between)
        worded += any(re.search(WORDING.get(predicate, predicate), text.lower()) for _, predicate, _ in between)
        if between:
            fitting = [row for row, classes in enumerate(present) if objects <= classes]
            fits.append((len(fitting), sum(between <= edges[row] for row in fitting)))
    total = len(split.texts)
    counts = {"two objects named": named, "joined by an edge": joined, "the edge in words": worded}
    counts |= {"absolute positions or sizes": positioned}
    shares = [f"{name} {count / total:.0%}" for name, count in counts.items()]
    print(f"{total:,} captions of {len(present):,} images", *shares, sep=", ")
    before, after = np.exp(np.log(np.array(fits)).mean(axis=0))
    print(f"captions with two joined objects: {before:.1f} images have all named objects, {after:.1f} also the edges")


if __name__ == "__main__":
    main()
