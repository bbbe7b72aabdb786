"""The report's examples: queries that were answered best and worst, what was found for them, and why."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hire_model.evaluation.protocols import Ranks
from hire_model.evaluation.ranks import NO_QUERY
from hire_model.scoring.explain import MARKS, Explanation

if TYPE_CHECKING:
    from hire_model.data.store import Split

SIDE = 420  # pixels of the longer side: enough to see, and about 30 kB each
TOP = 3
_CANDIDATES = 200
_LINKS = 8
Explain = Callable[[int, int], Explanation]


@dataclass(frozen=True)
class Box:
    """A region's box in the picture's pixels, and its name: class and number."""

    region: int
    label: str
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Scene:
    """What is drawn of one image. `uri` is its picture as a data: address, None for an empty canvas."""

    image: int
    name: str
    uri: str | None
    width: int
    height: int
    boxes: tuple[Box, ...]


@dataclass(frozen=True)
class Word:
    """A word, what it adds to the score (`strength` 0-1 of the pair's strongest), its regions as 'region:weight'."""

    text: str
    contribution: float
    strength: float
    regions: str


@dataclass(frozen=True)
class Link:
    """The static form of a word's attention: its strongest region and the weight in percent."""

    word: str
    region: str
    percent: int


@dataclass(frozen=True)
class Match:
    """One result: caption `text` with its place in the query's list."""

    text: str
    place: int
    score: float
    relevant: bool
    words: tuple[Word, ...] = ()
    links: tuple[Link, ...] = ()


@dataclass(frozen=True)
class Panel:
    """A scene and the results shown beside it: several captions for an image query, one for a caption query."""

    scene: Scene
    matches: tuple[Match, ...]


@dataclass(frozen=True)
class Example:
    """One query. `query` is the caption, or the image's name."""

    direction: str
    verdict: str
    query: str
    rank: int
    gallery: int
    panels: tuple[Panel, ...]


def choose_examples(
    similarity: np.ndarray, split: Split, ranks: Ranks, explain: Explain | None, count: int
) -> Iterator[Example]:
    """`count` examples: best and worst of both directions, alike in number, one per image in each group.

    Best: lowest rank, then the largest lead over the best wrong item (sought among 200 queries, not all). Worst:
    highest rank, and never rank 1, so a perfect model has none.
    """
    found = _Finder(similarity, split, ranks, explain)
    shares = [(count + 3 - i) // 4 for i in range(4)]
    for (direction, verdict), share in zip(
        (("t2i", "worst"), ("i2t", "worst"), ("t2i", "best"), ("i2t", "best")), shares, strict=True
    ):
        for query in found.choose_queries(direction, verdict)[:share]:
            yield found.build_example(direction, verdict, query)


@dataclass(frozen=True)
class _Finder:
    similarity: np.ndarray
    split: Split
    ranks: Ranks
    explain: Explain | None

    def choose_queries(self, direction: str, verdict: str) -> list[int]:
        """The queries of that kind, the most telling first, one per image."""
        ranks, owner = getattr(self.ranks, direction), self.split.owner
        if verdict == "worst":
            order = [int(query) for query in np.argsort(-ranks, kind="stable") if ranks[query] > 1]
        else:
            asked = np.flatnonzero(ranks != NO_QUERY)
            first = asked[np.argsort(ranks[asked], kind="stable")]
            low = first[ranks[first] == ranks[first[0]]]
            some = low[np.linspace(0, len(low) - 1, min(len(low), _CANDIDATES)).astype(int)]
            order = sorted((int(query) for query in some), key=lambda query: -self._measure_lead(direction, query))
        first_of_image = {query if direction == "i2t" else int(owner[query]): query for query in reversed(order)}
        chosen = set(first_of_image.values())
        return [query for query in order if query in chosen]

    def rank_items(self, direction: str, query: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Items in the query's fold from best to worst, ties with irrelevant ones first, their scores and relevance."""
        owner, fold = self.split.owner, self.ranks.fold
        if direction == "i2t":
            items = np.flatnonzero(fold[owner] == fold[query])
            scores, relevant = np.asarray(self.similarity[query])[items], owner[items] == query
        else:
            items = np.flatnonzero(fold == fold[owner[query]])
            scores, relevant = np.asarray(self.similarity[:, query])[items], items == owner[query]
        order = np.lexsort((relevant, -scores))
        return items[order], scores[order], relevant[order]

    def _measure_lead(self, direction: str, query: int) -> float:
        _, scores, relevant = self.rank_items(direction, query)
        return float(scores[relevant][0] - scores[~relevant][0]) if (~relevant).any() else 0.0

    def build_example(self, direction: str, verdict: str, query: int) -> Example:
        items, scores, relevant = self.rank_items(direction, query)
        best = int(np.argmax(relevant))
        places = [*range(min(TOP, len(items))), *([best] if best >= TOP else [])]
        pairs = [(query, int(items[p])) if direction == "i2t" else (int(items[p]), query) for p in places]
        matches = [
            self.build_match(image, caption, place + 1, float(scores[place]), bool(relevant[place]))
            for place, (image, caption) in zip(places, pairs, strict=True)
        ]
        if direction == "i2t":
            panels = [Panel(load_scene(self.split, query), tuple(matches))]
            text = self.split.image_id(query)
        else:
            panels = [Panel(load_scene(self.split, pair[0]), (m,)) for pair, m in zip(pairs, matches, strict=True)]
            text = self.split.texts[query]
        return Example(direction, verdict, text, best + 1, len(items), tuple(panels))

    def build_match(self, image: int, caption: int, place: int, score: float, relevant: bool) -> Match:
        text = self.split.texts[caption]
        if self.explain is None:
            return Match(text, place, score, relevant)
        why = self.explain(image, caption)
        links = find_strongest_links(why, label_regions(self.split, image))
        return Match(text, place, score, relevant, tuple(explain_words(why)), tuple(links))


def explain_words(why: Explanation) -> Iterator[Word]:
    """The words for display, without the tokenizer's own marks."""
    strongest = float(np.abs(why.contributions).max()) or 1.0
    for text, weights, contribution in zip(why.words, why.weights, why.contributions, strict=True):
        if text == MARKS:
            continue
        top = [int(region) for region in np.argsort(-weights)[:5]]
        regions = " ".join(f"{region}:{weights[region]:.3f}" for region in top if weights[region] >= 0.001)
        share = abs(float(contribution)) / strongest
        yield Word(text, float(contribution), share, regions)


def find_strongest_links(why: Explanation, labels: Sequence[str]) -> Iterator[Link]:
    """For the words that contribute most, in the caption's order: the region each attends to most."""
    telling = [i for i in np.argsort(-np.abs(why.contributions)) if why.words[i] != MARKS][:_LINKS]
    for i in sorted(telling):
        region = int(np.argmax(why.weights[i]))
        yield Link(why.words[i], labels[region], round(100 * float(why.weights[i][region])))


def load_scene(split: Split, image: int) -> Scene:
    """The split's image `image`; a picture that cannot be read becomes a canvas, as a report must not fail for it."""
    path = split.picture(image)
    found = _shrink_to_jpeg(path) if path else None
    uri, width, height = found or (None, *_fit_canvas(split, image))
    labels, boxes = label_regions(split, image), []
    for i, (x1, y1, x2, y2) in enumerate(split.regions(image).boxes):
        if np.isfinite([x1, y1, x2, y2]).all():
            corner = round(float(x1 * width), 1), round(float(y1 * height), 1)
            size = round(float((x2 - x1) * width), 1), round(float((y2 - y1) * height), 1)
            boxes.append(Box(i, labels[i], *corner, *size))
    boxes.sort(key=lambda box: -box.width * box.height)  # small boxes above large ones, so that each can be pointed at
    return Scene(image, split.image_id(image), uri, width, height, tuple(boxes))


def label_regions(split: Split, image: int) -> list[str]:
    """A name for each region of an image: its class, if known, and its number."""
    names = split.dataset.manifest.classes
    kinds = split.regions(image).classes
    return [f"{names[kind]} {i}" if 0 <= kind < len(names) else f"region {i}" for i, kind in enumerate(kinds)]


def _shrink_to_jpeg(path: Path) -> tuple[str, int, int] | None:
    from PIL import Image

    try:
        with Image.open(path) as picture:
            picture.draft("RGB", (SIDE, SIDE))
            small = picture.convert("RGB")
            small.thumbnail((SIDE, SIDE))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=82, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode(), small.width, small.height


def _fit_canvas(split: Split, image: int) -> tuple[int, int]:
    width, height = (int(side) for side in split.dataset.image_sizes[split.images[image]])
    if width <= 0 or height <= 0:
        return SIDE, SIDE * 3 // 4
    scale = SIDE / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))
