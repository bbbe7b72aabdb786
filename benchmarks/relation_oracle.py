"""How often do the stored relations decide which of two captions with exchanged phrases is the true one?

    hire data contrasts datasets/flickr8k_entities --split dev --out contrasts.jsonl
    python benchmarks/relation_oracle.py --data datasets/flickr8k_entities --contrasts contrasts.jsonl

A rule, not a model: the phrases of a caption are matched with the classes of the regions by their nouns. The caption
gets a point for each pair of phrases that a stored relation connects in this order, and loses one for each pair in the
other order. "usual order" does the same with all relations of the training split, without an image or only for
classes that the image has. A model that reads only relations cannot be better than the first rule, apart from synonyms
that the rule misses.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

import numpy as np

from hire_model.data.store import Dataset, Split
from hire_model.evaluation.contrast_sets import match_images, read_contrasts
from hire_model.evaluation.phrases import find_phrases


def _make_set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_PEOPLE = _make_set(
    "<people> adult adults audience baby band biker bikers bicyclist bicyclists boy boys bystanders child children"
    " class climber climbers couple crowd cyclist cyclists family fans females friends girl girls goalie group guy"
    " guys hiker hikers jockeys kid kids ladies lady man males male men members onlookers one others parents"
    " pedestrians people person player players racer rider riders runners schoolgirls skateboarder skier skiers"
    " snowboarder someone spectators students surfer team teams teenagers toddler woman women workers"
)
Pair = tuple[str, str]


def main() -> None:
    """Print the share of items that each rule decides, and its accuracy; a tie counts half."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--contrasts", type=Path, required=True)
    parser.add_argument("--split", default="dev")
    parser.add_argument("--kind", default="phrases")
    arguments = parser.parse_args()
    dataset = Dataset.open(arguments.data)
    split, usual = dataset.split(arguments.split), count_usual_order(dataset.split("train"))
    matched = match_images(read_contrasts(arguments.contrasts), split)
    chosen = [k for k, item in enumerate(matched.items) if item.kind == arguments.kind]
    other = np.random.default_rng(0).permutation(matched.images)
    rules: dict[str, list[float]] = {}
    for k in chosen:
        item = matched.items[k]
        texts = [list_pairs(item.true[0]), list_pairs(item.false[0])]
        images = {"": int(matched.images[k]), ", wrong image": int(other[k])}
        for ending, image in images.items():
            present = [keep_present(pairs, split, image) for pairs in texts]
            relations = compute_gap(texts, list_relations(split, image))
            order = compute_gap(present, usual)
            rules.setdefault(f"relations{ending}", []).append(relations)
            rules.setdefault(f"usual order of its classes{ending}", []).append(order)
            rules.setdefault(f"relations, else usual order{ending}", []).append(relations or order)
        rules.setdefault("usual order, no image", []).append(compute_gap(texts, usual))
    print(f"{len(chosen):,} items of kind '{arguments.kind}'")
    for name, values in rules.items():
        signs = np.sign(values)
        print(f"  {name:<42} decides {100 * (signs != 0).mean():5.1f} %   accuracy {50 * (1 + signs.mean()):5.1f} %")


def list_pairs(text: str) -> list[Pair]:
    """Return the nouns of every two phrases of a caption, in their order."""
    nouns = [simplify(phrase.text.split()[-1]) for phrase in find_phrases(text)]
    return [(one, two) for number, one in enumerate(nouns) for two in nouns[number + 1 :] if one != two]


def simplify(noun: str) -> str:
    """Return one name for all people, and the singular of other nouns."""
    noun = noun.lower()
    if noun in _PEOPLE:
        return "<people>"
    return noun[:-1] if noun.endswith("s") and not noun.endswith("ss") and len(noun) > 3 else noun


def keep_present(pairs: list[Pair], split: Split, image: int) -> list[Pair]:
    """Return the pairs of which the image has both classes."""
    names = split.dataset.manifest.classes
    present = {simplify(names[number]) for number in split.regions(image).classes if number >= 0}
    return [pair for pair in pairs if present.issuperset(pair)]


def list_relations(split: Split, image: int) -> Counter[Pair]:
    """Return the class names (subject, object) of the relations of an image."""
    regions, names = split.regions(image), split.dataset.manifest.classes
    named = [simplify(names[number]) if number >= 0 else "" for number in regions.classes]
    return Counter((named[subject], named[object_]) for subject, _, object_ in regions.relations.tolist())


def count_usual_order(split: Split) -> Counter[Pair]:
    """Count the class pairs of all relations of a split."""
    return sum((list_relations(split, image) for image in range(len(split.images))), Counter[Pair]())


def compute_gap(texts: list[list[Pair]], relations: Counter[Pair]) -> float:
    """Return the points of the first text minus those of the second."""
    points = [sum(np.sign(relations[pair] - relations[pair[::-1]]) for pair in pairs) for pairs in texts]
    return float(points[0] - points[1])


if __name__ == "__main__":
    main()
