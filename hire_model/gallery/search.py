"""Search in a gallery: the global head makes a shortlist, the pairwise score ranks it.

The two stages disagree where an item that the pairwise score would put on top is not on the shortlist. docs/search.md
measures how often, and the default length of the shortlist comes from there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hire_model.batch import EncodedImages, EncodedTexts
from hire_model.errors import HireError
from hire_model.gallery.format import Gallery
from hire_model.gallery.store import Items, Shelf
from hire_model.scoring.matrix import score_matrix
from hire_model.scoring.scorer import Scorer, check_text

SHORTLIST = 1000
"""Loses no recall on any of our data sets (docs/search.md says what a shorter one loses, and where)."""

DOUBT = 0.5
"""A hit from beyond this share of the shortlist is a sign that a longer one might answer otherwise."""

NO_HEAD = "The model has no global head to make a shortlist with: every item was scored."
_QUERIES = 128  # encoded together
_ROWS = 1024  # items of the gallery in memory at once
_BUDGET = 512 << 20  # bytes that scoring them may take on a GPU; on a CPU it is less


@dataclass(frozen=True)
class GalleryHit:
    """One item found.

    row    in the gallery
    id     the image's id, or the caption
    score  what `Scorer.predict` says
    place  1-based place in the shortlist, None where every item was scored
    """

    row: int
    id: str
    score: float
    place: int | None


@dataclass(frozen=True)
class Answer:
    """What one query found, best first; equal scores in the order of the gallery.

    reranked: items that got the pairwise score; note: what one should know of the answer, mostly empty
    """

    hits: list[GalleryHit]
    reranked: int
    note: str


@torch.inference_mode()
def search(
    scorer: Scorer, gallery: Gallery, texts: Sequence[str], top_k: int = 10, shortlist: int = SHORTLIST
) -> list[Answer]:
    """The `top_k` images of the gallery that fit each sentence best; an answer per sentence.

    shortlist: images that get the pairwise score; as many as the gallery has give the exact answer. Raises HireError
    for numbers below 1, a shortlist shorter than `top_k`, a sentence that is no text, or another model.
    """
    for row, text in enumerate(texts):
        check_text(text, f"text {row}")
    _check(scorer, gallery, top_k, shortlist)
    answers = []
    for start in range(0, len(texts), _QUERIES):
        block = scorer.encode_texts(texts[start : start + _QUERIES])
        for row, rows in enumerate(_shortlists(scorer, gallery.images, block.summary, shortlist)):
            one = block.extract(row)

            def against(images: EncodedImages, one: EncodedTexts = one) -> np.ndarray:
                return score_matrix(scorer.model, images.to(scorer.device), one, _BUDGET)[:, 0]

            scores = _scores(gallery.images, rows, against)
            answers.append(_answer(scorer, gallery.images, rows, scores, gallery.ids, top_k))
    return answers


@torch.inference_mode()
def search_captions(
    scorer: Scorer, gallery: Gallery, images: EncodedImages, top_k: int = 10, shortlist: int = SHORTLIST
) -> list[Answer]:
    """The `top_k` captions of the gallery that fit each image best; an answer per image.

    images: from `Scorer.encode_images`, or from a gallery of the same model. Raises HireError as `search` does, and for
    a gallery that was built without captions.
    """
    _check(scorer, gallery, top_k, shortlist)
    if gallery.captions is None:
        raise HireError(
            f"{gallery.folder}: this gallery has no captions. Build it with them: hire gallery build DATASET "
            "--captions --overwrite."
        )
    answers, images = [], images.to(scorer.device)
    for row, rows in enumerate(_shortlists(scorer, gallery.captions, images.summary, shortlist)):
        one = images.extract(row)

        def against(texts: EncodedTexts, one: EncodedImages = one) -> np.ndarray:
            return score_matrix(scorer.model, one, texts.to(scorer.device), _BUDGET)[0]

        scores = _scores(gallery.captions, rows, against)
        answers.append(_answer(scorer, gallery.captions, rows, scores, gallery.caption_texts, top_k))
    return answers


def _check(scorer: Scorer, gallery: Gallery, top_k: int, shortlist: int) -> None:
    if top_k < 1:
        raise HireError(f"top_k is {top_k}, expected 1 or more.")
    if shortlist < top_k:
        raise HireError(f"A shortlist of {shortlist} cannot give the best {top_k}: expected {top_k} or more.")
    gallery.check_model(scorer.model)


def _shortlists(scorer: Scorer, shelf: Shelf, queries: Tensor, count: int) -> list[np.ndarray]:
    """For each query [Q, D] the rows to score, the nearest by the global head first; all rows where that is exact."""
    if _exact(scorer, shelf, count):
        return [np.arange(len(shelf))] * len(queries)
    return shelf.index.nearest(queries.float().cpu().numpy(), count)


def _exact(scorer: Scorer, shelf: Shelf, count: int) -> bool:
    return count >= len(shelf) or not scorer.model.settings.global_head


def _scores(shelf: Shelf[Items], rows: np.ndarray, against: Callable[[Items], np.ndarray]) -> np.ndarray:
    """Scores [n] of the items `rows` against one query; only some of the items are in memory at a time."""
    return np.concatenate([against(shelf.rows(rows[start : start + _ROWS])) for start in range(0, len(rows), _ROWS)])


def _answer(scorer: Scorer, shelf: Shelf, rows: np.ndarray, scores: np.ndarray, ids: np.ndarray, top_k: int) -> Answer:
    best = np.lexsort((rows, -scores))[:top_k]
    exact = len(rows) == len(shelf)
    hits = [GalleryHit(int(rows[i]), str(ids[rows[i]]), float(scores[i]), None if exact else int(i) + 1) for i in best]
    note = "" if scorer.model.settings.global_head else NO_HEAD
    if not exact:
        note = _doubt(int(best.max()) + 1, len(rows))
    return Answer(hits, len(rows), note)


def _doubt(deepest: int, count: int) -> str:
    """What to say where a hit comes from far down the shortlist: one from beyond its end might belong here too."""
    if deepest <= DOUBT * count:
        return ""
    return (
        f"A hit stood at place {deepest} of the {count} that the global head chose: a longer shortlist might change "
        "the answer."
    )
