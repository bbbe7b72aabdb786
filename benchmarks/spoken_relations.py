"""How much a data set's captions can gain from its relations: an upper bound that needs no model.

    python benchmarks/spoken_relations.py DATASET [--split test] [--images 500]

Of the captions: how many name two objects of their picture, two that an edge joins, and such an edge in words; how many
speak of absolute places and sizes. Of those with two joined objects: how many pictures hold all named objects, and how
many of these the same edges between them (geometric means). Objects are found by the last word of their class.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import numpy as np

from hire_model.data.store import Dataset

PLACES = re.compile(
    r"\b(left|right|top|bottom|middle|cent(er|re)|corner|upper|lower|side|edge|horizon|size|small|big|large|medium|fac\w+)\b"
)
SAID = {  # by predicate, what a caption may call it; of one that is not here, its own name
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
    parser.add_argument("--images", type=int, default=0, help="only the split's first images")
    args = parser.parse_args()
    split = Dataset.open(args.dataset).split(args.split, args.images)
    names, predicates = split.dataset.manifest.classes, split.dataset.manifest.predicates
    held, edges = list[set[str]](), list[set[tuple[str, str, str]]]()
    for row in range(len(split.images)):
        image = split.regions(row)
        classes = [names[kind] if kind >= 0 else "" for kind in image.classes]
        held.append(set(classes) - {""})
        edges.append({(classes[s], predicates[p], classes[o]) for s, p, o in image.relations})
    named = joined = spoken = placed = 0
    narrowed: list[tuple[int, int]] = []
    for text, owner in zip(split.texts, split.owner, strict=True):
        words = set(re.findall(r"[a-z]+", text.lower()))
        objects = {name for name in held[owner] if {name.split()[-1], name.split()[-1] + "s"} & words}
        between = {edge for edge in edges[owner] if edge[0] in objects and edge[2] in objects}
        placed += bool(PLACES.search(text.lower()))
        named += len(objects) > 1
        joined += bool(between)
        spoken += any(re.search(SAID.get(predicate, predicate), text.lower()) for _, predicate, _ in between)
        if between:
            fitting = [row for row, classes in enumerate(held) if objects <= classes]
            narrowed.append((len(fitting), sum(between <= edges[row] for row in fitting)))
    total = len(split.texts)
    shares = {"two objects named": named, "joined by an edge": joined, "the edge in words": spoken}
    shares |= {"absolute places or sizes": placed}
    print(
        f"{total:,} captions of {len(held):,} pictures", *(f"{k} {v / total:.0%}" for k, v in shares.items()), sep=", "
    )
    before, after = np.exp(np.log(np.array(narrowed)).mean(axis=0))
    print(f"of two joined objects: {before:.1f} pictures hold all that is named, {after:.1f} the edges too")


if __name__ == "__main__":
    main()
