"""Search a gallery: the global head or anchors make a shortlist, the pairwise score re-ranks it.

The result is not exact if an item with a high pairwise score is not in the shortlist. docs/search.md measures how often
this happens; the default length of the shortlist comes from there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hire_model.batch import EncodedImages, EncodedTexts
from hire_model.errors import HireError
from hire_model.gallery.store import EncodedStore, Gallery, Items
from hire_model.model.hubs import find_bank
from hire_model.scoring.matrix import score_matrix
from hire_model.scoring.scorer import Scorer, check_text

SHORTLIST = 1000
"""This length loses no recall on our data sets; docs/search.md has the figures for shorter ones."""

DEEP_SHARE = 0.5
"""A hit beyond this share of the shortlist is deep: a longer shortlist might change the result."""

NO_KNOWN_WORD = "No word of the text is in the model's vocabulary, so the order of the hits has no meaning."
NO_HEAD = "The model has no global head for a shortlist, so every item was scored."
_QUERIES = 128  # texts encoded together
_ROWS = 1024  # items of the gallery in memory at the same time
_BUDGET = 512 << 20  # bytes for scoring these items on a GPU; a CPU uses less


@dataclass(frozen=True)
class GalleryHit:
    """An item that a search returned.

    Args:
        row: row in the gallery.
        id: the image's id, or the caption.
        score: the score of `Scorer.predict`, minus both popularities if corrected for hubs.
        place: 1-based place in the shortlist, None if every item was scored.
    """

    row: int
    id: str
    score: float
    place: int | None


@dataclass(frozen=True)
class GalleryResult:
    """The hits of one query, best first; equal scores in the order of the gallery.

    Args:
        hits: the best items.
        reranked: number of items with a pairwise score.
        note: a warning if a longer shortlist might change the result, or no word of the text is known; usually empty.
        unknown: the words of the text that are not in the model's vocabulary.
    """

    hits: list[GalleryHit]
    reranked: int
    note: str
    unknown: Sequence[str] = ()


@torch.inference_mode()
def search_images(
    scorer: Scorer,
    gallery: Gallery,
    texts: Sequence[str],
    top_k: int = 10,
    shortlist: int = SHORTLIST,
    hub_correction: bool = False,
    where: Mapping[str, Any] | None = None,
) -> list[GalleryResult]:
    """Find the `top_k` images of the gallery that match each text best.

    Args:
        scorer: the model that encoded the gallery.
        gallery: the gallery to search.
        texts: the queries.
        top_k: number of hits per query.
        shortlist: number of images to score pairwise; the size of the gallery gives the exact result.
        hub_correction: correct the scores of the shortlist for hubs (see `hire_model.model.hubs`). The shortlist
            itself is chosen without it.
        where: search only images whose metadata has these values (see `Gallery.filter`).

    Returns:
        One result per text.

    Raises:
        HireError: if a number is below 1, the shortlist is shorter than `top_k`, a text is not valid, another model
            encoded the gallery, or the model cannot correct for hubs.
    """
    bank = find_bank(scorer.model.hubs, scorer.model.settings) if hub_correction else None
    for row, text in enumerate(texts):
        check_text(text, f"text {row}")
    _check_arguments(scorer, gallery, top_k, shortlist)
    allowed = gallery.filter(where) if where else None
    results = []
    for start in range(0, len(texts), _QUERIES):
        queries = texts[start : start + _QUERIES]
        block, unknown = scorer.encode_texts(queries), scorer.find_unknown_words(queries)
        vectors = gallery.anchors.embed_texts(block) if gallery.anchors else block.summary
        for row, rows in enumerate(_make_shortlists(scorer, gallery.images, vectors, shortlist, allowed)):
            query = block.extract(row)

            def score(images: EncodedImages, query: EncodedTexts = query) -> np.ndarray:
                return score_matrix(scorer.model, images.to(scorer.device), query, _BUDGET)[:, 0]

            scores = _score_rows(gallery.images, rows, score)
            if bank is not None:
                hubs = bank.rate_images(gallery.images.read_summary(rows)) + bank.rate_texts(query).cpu()
                scores = scores - hubs.numpy()
            exact = len(rows) == len(gallery if allowed is None else allowed)
            result = _make_result(scorer, rows, scores, gallery.ids, top_k, exact)
            results.append(_add_unknown_words(scorer, result, queries[row], unknown[row]))
    return results


@torch.inference_mode()
def search_captions(
    scorer: Scorer,
    gallery: Gallery,
    images: EncodedImages,
    top_k: int = 10,
    shortlist: int = SHORTLIST,
    hub_correction: bool = False,
    where: Mapping[str, Any] | None = None,
) -> list[GalleryResult]:
    """Find the `top_k` captions of the gallery that match each image best.

    Args:
        scorer, gallery, top_k, shortlist, hub_correction: as in `search_images`.
        where: search only captions of images whose metadata has these values.
        images: from `Scorer.encode_images`, or from a gallery of the same model.

    Returns:
        One result per image.

    Raises:
        HireError: as in `search_images`, and if the gallery was built without captions.
    """
    bank = find_bank(scorer.model.hubs, scorer.model.settings) if hub_correction else None
    _check_arguments(scorer, gallery, top_k, shortlist)
    if gallery.captions is None:
        raise HireError(
            f"{gallery.folder}: this gallery has no captions. Build it with them: hire gallery build DATASET "
            "--captions --overwrite."
        )
    allowed = np.flatnonzero(np.isin(gallery.caption_images, gallery.filter(where))) if where else None
    results, images = [], images.to(scorer.device)
    for row, rows in enumerate(_make_shortlists(scorer, gallery.captions, images.summary, shortlist, allowed)):
        query = images.extract(row)

        def score(texts: EncodedTexts, query: EncodedImages = query) -> np.ndarray:
            return score_matrix(scorer.model, query, texts.to(scorer.device), _BUDGET)[0]

        scores = _score_rows(gallery.captions, rows, score)
        if bank is not None:
            hubs = bank.rate_texts(gallery.captions.read_summary(rows)) + bank.rate_images(query).cpu()
            scores = scores - hubs.numpy()
        exact = len(rows) == len(gallery.captions if allowed is None else allowed)
        results.append(_make_result(scorer, rows, scores, gallery.caption_texts, top_k, exact))
    return results


def _check_arguments(scorer: Scorer, gallery: Gallery, top_k: int, shortlist: int) -> None:
    if top_k < 1:
        raise HireError(f"top_k is {top_k}, expected 1 or more.")
    if shortlist < top_k:
        raise HireError(f"A shortlist of {shortlist} cannot give {top_k} results: expected {top_k} or more.")
    gallery.check_model(scorer.model)


def _make_shortlists(
    scorer: Scorer, store: EncodedStore, queries: Tensor, count: int, allowed: np.ndarray | None
) -> list[np.ndarray]:
    """Return the rows to score for each query [Q, D]: the nearest, nearest first, or all in order.

    allowed: the rows to choose from; None for all.
    """
    choice = np.arange(len(store)) if allowed is None else allowed
    if count >= len(choice) or not scorer.model.settings.global_head:
        return [choice] * len(queries)
    return store.index.find_nearest(queries.float().cpu().numpy(), count, allowed)


def _score_rows(store: EncodedStore[Items], rows: np.ndarray, score: Callable[[Items], np.ndarray]) -> np.ndarray:
    """Score the items `rows` against one query; return [n]. Only one block of items is in memory at a time."""
    starts = range(0, len(rows), _ROWS)
    found: list[np.ndarray] = [score(store.read_rows(rows[start : start + _ROWS])) for start in starts]
    return np.concatenate([np.empty(0, np.float32), *found])


def _make_result(
    scorer: Scorer, rows: np.ndarray, scores: np.ndarray, ids: np.ndarray, top_k: int, exact: bool
) -> GalleryResult:
    best = np.lexsort((rows, -scores))[:top_k]
    hits = [GalleryHit(int(rows[i]), str(ids[rows[i]]), float(scores[i]), None if exact else int(i) + 1) for i in best]
    note = "" if scorer.model.settings.global_head else NO_HEAD
    if not exact:
        note = _note_deep_hit(int(best.max()) + 1, len(rows))
    return GalleryResult(hits, len(rows), note)


def _add_unknown_words(scorer: Scorer, result: GalleryResult, text: str, unknown: list[str]) -> GalleryResult:
    if not unknown:
        return result
    note = result.note if scorer.model.vocabulary.has_known_word(text) else f"{NO_KNOWN_WORD} {result.note}".rstrip()
    return replace(result, unknown=unknown, note=note)


def _note_deep_hit(deepest: int, count: int) -> str:
    """Return a note if a hit is deep in the shortlist, because items after its end might also be hits."""
    if deepest <= DEEP_SHARE * count:
        return ""
    return f"A hit is at place {deepest} of the {count} in the shortlist: a longer shortlist might change the result."
