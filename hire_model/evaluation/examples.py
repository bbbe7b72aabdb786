"""Choose example queries for the report, best and worst, with their results and explanations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hire_model.evaluation.protocols import Ranks
from hire_model.evaluation.ranks import NO_QUERY
from hire_model.evaluation.scenes import Scene, label_regions, load_scene
from hire_model.scoring.explain import MARKS, Explanation

if TYPE_CHECKING:
    from hire_model.data.store import Split

TOP = 3  # results per query
_CANDIDATES = 200
_LINKS = 8
Explain = Callable[[int, int], Explanation]


@dataclass(frozen=True)
class Word:
    """A word of an explained caption.

    contribution  what the word adds to the score
    strength      0-1, relative to the pair's strongest word
    regions       the regions it attends to, as 'region:weight' separated by spaces
    """

    text: str
    contribution: float
    strength: float
    regions: str


@dataclass(frozen=True)
class Link:
    """A word, the region it attends to most, and the weight in percent; shown without scripts."""

    word: str
    region: str
    percent: int


@dataclass(frozen=True)
class Match:
    """One result of a query: a caption or an image's caption, with its rank."""

    text: str
    rank: int
    score: float
    relevant: bool
    words: tuple[Word, ...] = ()
    links: tuple[Link, ...] = ()


@dataclass(frozen=True)
class Panel:
    """A scene and the results shown with it: several captions for an image query, one for a caption query."""

    scene: Scene
    matches: tuple[Match, ...]


@dataclass(frozen=True)
class Example:
    """One query with its results.

    direction  'i2t' or 't2i'
    verdict    'best' or 'worst'
    query      the caption, or the image's name
    rank       rank of the best relevant item
    gallery    number of items searched
    """

    direction: str
    verdict: str
    query: str
    rank: int
    gallery: int
    panels: tuple[Panel, ...]


def choose_examples(
    similarity: np.ndarray, split: Split, ranks: Ranks, explain: Explain | None, count: int
) -> Iterator[Example]:
    """Yield `count` examples: about equally many of best and worst in both directions, one per image in each group.

    Best: lowest rank, then the largest lead over the best wrong item (among 200 candidates). Worst: highest rank, but
    never rank 1, so a perfect model has none.
    """
    builder = _ExampleBuilder(similarity, split, ranks, explain)
    shares = [(count + 3 - i) // 4 for i in range(4)]
    for (direction, verdict), share in zip(
        (("t2i", "worst"), ("i2t", "worst"), ("t2i", "best"), ("i2t", "best")), shares, strict=True
    ):
        for query in builder.choose_queries(direction, verdict)[:share]:
            yield builder.build_example(direction, verdict, query)


@dataclass(frozen=True)
class _ExampleBuilder:
    similarity: np.ndarray
    split: Split
    ranks: Ranks
    explain: Explain | None

    def choose_queries(self, direction: str, verdict: str) -> list[int]:
        """Return the best or worst queries in order, one per image."""
        ranks, owner = getattr(self.ranks, direction), self.split.owner
        if verdict == "worst":
            order = [int(query) for query in np.argsort(-ranks, kind="stable") if ranks[query] > 1]
        else:
            queries = np.flatnonzero(ranks != NO_QUERY)
            lowest = queries[ranks[queries] == ranks[queries].min()]
            candidates = lowest[np.linspace(0, len(lowest) - 1, min(len(lowest), _CANDIDATES)).astype(int)]
            order = sorted(map(int, candidates), key=lambda query: -self._measure_lead(direction, query))
        first_of_image = {query if direction == "i2t" else int(owner[query]): query for query in reversed(order)}
        chosen = set(first_of_image.values())
        return [query for query in order if query in chosen]

    def rank_items(self, direction: str, query: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the items of the query's fold from best to worst (ties: irrelevant first), scores and relevance."""
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
        shown = [*range(min(TOP, len(items))), *([best] if best >= TOP else [])]
        pairs = [(query, int(items[k])) if direction == "i2t" else (int(items[k]), query) for k in shown]
        matches = [
            self.build_match(image, caption, k + 1, float(scores[k]), bool(relevant[k]))
            for k, (image, caption) in zip(shown, pairs, strict=True)
        ]
        if direction == "i2t":
            panels = [Panel(load_scene(self.split, query), tuple(matches))]
            text = self.split.image_id(query)
        else:
            panels = [Panel(load_scene(self.split, pair[0]), (m,)) for pair, m in zip(pairs, matches, strict=True)]
            text = self.split.texts[query]
        return Example(direction, verdict, text, best + 1, len(items), tuple(panels))

    def build_match(self, image: int, caption: int, rank: int, score: float, relevant: bool) -> Match:
        text = self.split.texts[caption]
        if self.explain is None:
            return Match(text, rank, score, relevant)
        explanation = self.explain(image, caption)
        links = find_strongest_links(explanation, label_regions(self.split, image))
        return Match(text, rank, score, relevant, tuple(explain_words(explanation)), tuple(links))


def explain_words(explanation: Explanation) -> Iterator[Word]:
    """Yield the words for display, without the start and end token."""
    strongest = float(np.abs(explanation.contributions).max()) or 1.0
    columns = (explanation.words, explanation.weights, explanation.contributions)
    for text, weights, contribution in zip(*columns, strict=True):
        if text == MARKS:
            continue
        top = [int(region) for region in np.argsort(-weights)[:5]]
        regions = " ".join(f"{region}:{weights[region]:.3f}" for region in top if weights[region] >= 0.001)
        strength = abs(float(contribution)) / strongest
        yield Word(text, float(contribution), strength, regions)


def find_strongest_links(explanation: Explanation, labels: Sequence[str]) -> Iterator[Link]:
    """Yield the region that each of the most contributing words attends to most, in the caption's order."""
    words = explanation.words
    strongest = [i for i in np.argsort(-np.abs(explanation.contributions)) if words[i] != MARKS][:_LINKS]
    for i in sorted(strongest):
        weights = explanation.weights[i]
        region = int(np.argmax(weights))
        yield Link(words[i], labels[region], round(100 * float(weights[region])))
