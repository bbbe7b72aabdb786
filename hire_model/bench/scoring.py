"""Measure exact scoring: pairs per second against a loop over captions, share of the machine's rate, re-ranking."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import torch

from hire_model.batch import EncodedImages, EncodedTexts
from hire_model.bench.cost import Sizes, count_flop
from hire_model.bench.timing import alternate, measure_peak
from hire_model.model.fused import library
from hire_model.model.hire import Hire
from hire_model.scoring.matrix import score_matrix

BLOCK = 128  # captions
RERANKED = 1000
_BUDGET = 512 << 20


@contextlib.contextmanager
def use_torch() -> Iterator[None]:
    """Score without the compiled kernel inside the block."""
    before = os.environ.get(library.SWITCH)
    os.environ[library.SWITCH] = "0"
    try:
        yield
    finally:
        if before is None:
            del os.environ[library.SWITCH]
        else:
            os.environ[library.SWITCH] = before


def score_in_loop(model: Hire, images: EncodedImages, texts: EncodedTexts) -> torch.Tensor:
    """Score one caption after the other with torch, each without padding: scores [B, C]."""
    with use_torch():
        return torch.cat([model.score(images, texts.extract(row)).total for row in range(len(texts))], dim=1)


def score_in_blocks(model: Hire, images: EncodedImages, texts: EncodedTexts) -> torch.Tensor:
    """Score like `compute_similarity`, captions of similar length in one block: scores [B, C]."""
    scores, lengths = torch.empty(len(images), len(texts)), texts.mask.sum(dim=1)
    for rows in lengths.argsort().split(BLOCK):
        block, longest = texts[rows], int(lengths[rows].max())
        roles = None if block.roles is None else block.roles[:, :longest]
        block = EncodedTexts(block.words[:, :longest], block.mask[:, :longest], block.summary, roles)
        scores[:, rows] = torch.from_numpy(score_matrix(model, images, block, _BUDGET))
    return scores


@torch.inference_mode()
def measure_scoring(model: Hire, images: EncodedImages, texts: EncodedTexts, runs: int) -> dict[str, float]:
    """Measure the matrix of all pairs: pairs per CPU second, `ratio_to_loop`, `share_of_peak`, and the peak used."""
    torch.testing.assert_close(
        score_in_blocks(model, images, texts), score_in_loop(model, images, texts), atol=1e-4, rtol=1e-4
    )
    seconds = alternate(
        {
            "loop": lambda: score_in_loop(model, images, texts),
            "blocks": lambda: score_in_blocks(model, images, texts),
        },
        runs,
    )
    pairs, peak = len(images) * len(texts), measure_peak()
    kinds = 0 if model.interaction.relations is None else model.interaction.relations.kinds
    regions, words = (float(side.mask.sum(dim=1).float().mean()) for side in (images, texts))
    flop = count_flop(model.settings, Sizes.of(model.settings, regions, words, kinds))
    rate = pairs / seconds["blocks"]
    return {
        "ratio_to_loop": seconds["loop"] / seconds["blocks"],
        "share_of_peak": rate * flop / peak,
        "pairs_per_second": rate,
        "gflop_per_second": rate * flop / 1e9,
        "peak_gflop_per_second": peak / 1e9,
    }


@torch.inference_mode()
def measure_rerank(model: Hire, images: EncodedImages, texts: EncodedTexts, runs: int) -> dict[str, float]:
    """Measure the CPU milliseconds that scoring one caption against `RERANKED` encoded images takes."""
    chosen = images[torch.arange(RERANKED) % len(images)]
    captions = iter(range(10**9))

    def rerank() -> None:
        score_matrix(model, chosen, texts.extract(next(captions) % len(texts)), _BUDGET)

    return {"ms_per_1000": 1000 * alternate({"rerank": rerank}, runs, warm=2)["rerank"]}
