"""Measure the accuracy on a contrast set: how often do all true texts of an item score above all false ones?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from hire_model.batch import EncodedImages
from hire_model.data.store import ImageRegions, Split
from hire_model.errors import HireError
from hire_model.evaluation.behaviour import TIE
from hire_model.evaluation.bootstrap import bootstrap_share
from hire_model.evaluation.contrast_result import Accuracy, ContrastKind, ContrastResult
from hire_model.evaluation.contrast_sets import MatchedItems
from hire_model.progress import show_progress
from hire_model.scoring.scorer import Scorer, deduplicate

_IMAGES = 256  # images of an encoded block
_TEXTS = 256  # texts that are encoded together, at least


@dataclass(frozen=True)
class _Texts:
    """The T texts of all items in one list: the true texts of an item, then its false texts.

    text    T texts
    image   [T] position of the item's image among the images of the set
    true    [I] position of each item's first true text
    false   [I] position of each item's first false text
    """

    text: list[str]
    image: np.ndarray
    true: np.ndarray
    false: np.ndarray


def measure_contrasts(
    scorers: Sequence[Scorer],
    split: Split,
    matched: MatchedItems,
    files: Sequence[Path] = (),
    draws: int = 1000,
    seed: int = 0,
) -> ContrastResult:
    """Measure the accuracy of each kind of `matched`, with a blind row and a row without relations.

    An item counts if every true text scores above every false text by more than TIE, so a tie counts against the
    model. Each image is encoded once, and once without relations; each text of an image is encoded once.

    Args:
        scorers: one, or several whose scores are averaged. Their predicates must be those of the data set.
        split: the split that the items are matched with.
        matched: items and their images.
        files: files of the contrast set, for the record.
        draws: bootstrap resamplings of images; 0 for no intervals.
        seed: seed of the blind images and of the bootstrap.

    Raises:
        HireError: a score is NaN.
    """
    images, image = np.unique(matched.images, return_inverse=True)
    texts = _flatten(matched, image)
    rows = {"model": texts.image}
    if len(images) > 1:
        rows["blind"] = _draw_other_images(texts, image, len(images), seed)
    if split.relation_counts[images].any():
        rows["no_relations"] = texts.image
    scores: dict[str, np.ndarray] = {}
    for scorer in scorers:
        for name, values in _score(scorer, split, images, texts, rows).items():
            scores[name] = scores.get(name, 0) + values / len(scorers)
    wins = {name: _find_wins(values, texts, matched) for name, values in scores.items()}
    kinds = {}
    for kind in matched.kinds:
        chosen = np.array([item.kind == kind for item in matched.items])
        accuracy = {name: _summarise(won[chosen], image[chosen], draws, seed) for name, won in wins.items()}
        kinds[kind] = ContrastKind(
            items=int(chosen.sum()),
            images=len(np.unique(image[chosen])),
            model=accuracy["model"],
            blind=accuracy.get("blind"),
            no_relations=accuracy.get("no_relations"),
        )
    return ContrastResult(
        kinds=kinds,
        files=[str(path) for path in files],
        missing_images=matched.missing,
        items_left_out=matched.left_out,
        bootstrap=draws,
        seed=seed,
    )


def _flatten(matched: MatchedItems, image: np.ndarray) -> _Texts:
    counts = np.array([(len(item.true), len(item.false)) for item in matched.items])
    starts = np.concatenate([[0], np.cumsum(counts.sum(axis=1))])[:-1]
    return _Texts(
        text=[text for item in matched.items for text in (*item.true, *item.false)],
        image=np.repeat(image, counts.sum(axis=1)),
        true=starts,
        false=starts + counts[:, 0],
    )


def _draw_other_images(texts: _Texts, image: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Draw for each item one of the `count` images that is not its own, and return it for each text [T]."""
    other = (image + np.random.default_rng(seed).integers(1, count, len(image))) % count
    return np.repeat(other, np.diff([*texts.true, len(texts.text)]))


def _score(
    scorer: Scorer, split: Split, images: np.ndarray, texts: _Texts, rows: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Score each text with the image that each of `rows` gives: {row: [T] scores}."""
    encoded = {False: _encode_images(scorer, split, images, relations=True)}
    if "no_relations" in rows:
        encoded[True] = _encode_images(scorer, split, images, relations=False)
    scores = {name: np.empty(len(texts.text), np.float64) for name in rows}
    for chunk in show_progress(list(_split_texts(texts.image)), "contrast sets"):
        distinct, text_index = deduplicate(texts.text[chunk], str)
        encoded_texts = scorer.encode_texts(distinct)
        for name, image in rows.items():
            used, image_index = np.unique(image[chunk], return_inverse=True)
            selected = _select_images(encoded[name == "no_relations"], used)
            scores[name][chunk] = scorer.score(selected, encoded_texts, image_index, text_index)
    return scores


def _encode_images(scorer: Scorer, split: Split, images: np.ndarray, relations: bool) -> list[EncodedImages]:
    """Encode `images` of the split in blocks."""
    blocks = []
    for start in range(0, len(images), _IMAGES):
        block = [split.regions(int(row)) for row in images[start : start + _IMAGES]]
        for row, regions in zip(images[start : start + _IMAGES], block, strict=True):
            scorer.check(regions, "", f"image '{split.image_id(int(row))}'")
        blocks.append(scorer.encode_images(block if relations else [_remove_relations(one) for one in block]))
    return blocks


def _remove_relations(regions: ImageRegions) -> ImageRegions:
    return replace(regions, relations=regions.relations[:0], relation_scores=regions.relation_scores[:0])


def _split_texts(image: np.ndarray) -> Iterator[slice]:
    """Split texts, sorted by image, into slices of at least _TEXTS texts; the texts of an image stay together."""
    start = 0
    for end in [*(np.flatnonzero(np.diff(image)) + 1).tolist(), len(image)]:
        if end - start >= _TEXTS or end == len(image):
            yield slice(start, end)
            start = end


def _select_images(blocks: Sequence[EncodedImages], rows: np.ndarray) -> EncodedImages:
    """Join the images `rows`, ascending, of encoded blocks."""
    parts = []
    for number in np.unique(rows // _IMAGES):
        inside = torch.from_numpy(rows[rows // _IMAGES == number] % _IMAGES)
        parts.append(blocks[number][inside.to(blocks[number].mask.device)])
    return EncodedImages.concatenate(parts)


def _find_wins(scores: np.ndarray, texts: _Texts, matched: MatchedItems) -> np.ndarray:
    """Return [I] bool, whether every true text of an item scores above every false one."""
    wrong = np.flatnonzero(np.isnan(scores))
    if len(wrong):
        item = matched.items[int(np.searchsorted(texts.true, wrong[0], side="right")) - 1]
        raise HireError(
            f"The score of image '{item.image}' and text '{texts.text[wrong[0]]}' is NaN ({len(wrong)} in all). Look "
            "for NaN in the features or the weights."
        )
    starts = np.stack([texts.true, texts.false], axis=1).ravel()
    lowest_true = np.minimum.reduceat(scores, starts)[::2]
    highest_false = np.maximum.reduceat(scores, starts)[1::2]
    return lowest_true > highest_false + TIE


def _summarise(won: np.ndarray, image: np.ndarray, draws: int, seed: int) -> Accuracy:
    """Compute the share of wins and its interval; the items of an image are drawn together."""
    images, index = np.unique(image, return_inverse=True)
    wins, totals = (np.bincount(index, weights, len(images)) for weights in (won.astype(float), None))
    interval = bootstrap_share(wins, totals, draws, seed) if draws else None
    return Accuracy(accuracy=100 * float(won.mean()), interval=interval)
