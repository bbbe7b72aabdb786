"""Evaluate a similarity matrix under a named protocol, which states the number of images, captions and folds."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

import numpy as np

from hire_model.errors import HireError
from hire_model.evaluation.bootstrap import bootstrap_intervals
from hire_model.evaluation.ranks import NO_QUERY, compute_recall, rank_matrix
from hire_model.evaluation.result import KS, Direction, Interval, Result


@dataclass(frozen=True)
class Protocol:
    """How a matrix is evaluated. 0 images or captions per image: as many as the split has."""

    name: str
    images: int = 0
    captions_per_image: int = 0
    folds: int = 1


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol("full"),
        Protocol("f30k-1k", images=1_000, captions_per_image=5),
        Protocol("coco-5k", images=5_000, captions_per_image=5),
        Protocol("coco-1k-5fold", images=5_000, captions_per_image=5, folds=5),
    )
}


@dataclass(frozen=True)
class Ensemble:
    """The mean of the similarity matrices of `models` models."""

    matrix: np.ndarray
    models: int


@dataclass(frozen=True)
class Ranks:
    """Ranks under a protocol, each within the fold of the query.

    i2t   [N] int64, see `rank_matrix`
    t2i   [M] int64
    fold  [N] int64, the fold of each image
    """

    i2t: np.ndarray
    t2i: np.ndarray
    fold: np.ndarray


def average_matrices(*matrices: np.ndarray) -> Ensemble:
    """Average two or more similarity matrices [N, M] of different models. Raises HireError if shapes differ."""
    if len(matrices) < 2:
        raise HireError(f"An ensemble of {len(matrices)}: expected the matrices of two models or more.")
    shapes = {matrix.shape for matrix in matrices}
    if len(shapes) > 1:
        raise HireError(f"An ensemble of matrices of shapes {sorted(shapes)}: all must be of the same split.")
    mean = np.zeros(matrices[0].shape, np.float32)
    for matrix in matrices:
        mean += matrix
    mean /= len(matrices)
    return Ensemble(mean, len(matrices))


def find_protocol(protocol: str | Protocol) -> Protocol:
    """Return the protocol of that name. Raises HireError with the known names and the most similar one."""
    if isinstance(protocol, Protocol):
        return protocol
    if protocol not in PROTOCOLS:
        near = difflib.get_close_matches(protocol, PROTOCOLS, 1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        raise HireError(f"No protocol '{protocol}'. Known: {', '.join(PROTOCOLS)}.{hint}")
    return PROTOCOLS[protocol]


def check_fit(owner: np.ndarray, images: int, protocol: str | Protocol) -> Protocol:
    """Return the protocol if a split of `images` images with captions `owner` [M] fits it. Call it before scoring.

    Raises HireError with what the split has, what the protocol expects, and which protocol accepts any split.
    """
    protocol = find_protocol(protocol)
    each = protocol.captions_per_image
    if not len(owner):
        raise HireError(
            f"Protocol '{protocol.name}' needs captions, but the split has {images} images and no captions. Choose "
            "another split."
        )
    counts = np.bincount(owner, minlength=images)
    fault = ""
    if protocol.images and images != protocol.images:
        fault = f"the split has {images} images with {len(owner)} captions"
    elif each and (counts != each).any():
        image = int(np.flatnonzero(counts != each)[0])
        fault = f"image {image} has {counts[image]} captions, and the split {len(owner)} in all"
    if fault:
        raise HireError(
            f"Protocol '{protocol.name}' expects {protocol.images} images with {each} captions each "
            f"({protocol.images * each} in all), but {fault}. Choose the split it is defined for, import it with "
            f"--captions-per-image {each}, or use protocol 'full', which accepts any split."
        )
    if images % protocol.folds:
        raise HireError(f"Protocol '{protocol.name}' has {protocol.folds} folds, which do not divide {images} images.")
    return protocol


def rank_under_protocol(similarity: np.ndarray, owner: np.ndarray, protocol: str | Protocol) -> Ranks:
    """Compute ranks of the matrix [N, M] under a protocol. A fold is a contiguous block of images with its captions."""
    images, owner = len(similarity), np.asarray(owner)
    protocol = check_fit(owner, images, protocol)
    if protocol.folds == 1:
        return Ranks(*rank_matrix(similarity, owner), np.zeros(images, np.int64))
    size = images // protocol.folds
    i2t, t2i = np.empty(images, np.int64), np.empty(len(owner), np.int64)
    for start in range(0, images, size):
        rows = slice(start, start + size)
        columns = np.flatnonzero((owner >= start) & (owner < start + size))
        i2t[rows], t2i[columns] = rank_matrix(np.asarray(similarity[rows])[:, columns], owner[columns] - start)
    return Ranks(i2t, t2i, np.arange(images) // size)


def evaluate_matrix(
    similarity: np.ndarray | Ensemble,
    owner: np.ndarray,
    protocol: str | Protocol = "full",
    bootstrap: int = 1000,
    seed: int = 0,
    ranks: Ranks | None = None,
) -> Result:
    """Compute R@1, R@5, R@10 (0-100), median and mean rank of both directions, rSum, and 95 % bootstrap intervals.

    Folds are averaged.

    Args:
        similarity: [N, M], rows images, columns captions.
        owner: [M] row of each caption's image.
        protocol: A protocol or its name.
        bootstrap: Number of resamplings of images with their captions; 0 for no intervals.
        seed: Seed of the resampling.
        ranks: Result of `rank_under_protocol` for the same arguments, if already computed.

    Raises:
        HireError: The split does not fit the protocol, shapes are wrong, or the matrix contains NaN.
    """
    matrix, models = (similarity.matrix, similarity.models) if isinstance(similarity, Ensemble) else (similarity, 1)
    protocol, owner = find_protocol(protocol), np.asarray(owner)
    ranks = ranks or rank_under_protocol(matrix, owner, protocol)
    i2t, t2i = _summarise_direction(ranks.i2t, ranks.fold), _summarise_direction(ranks.t2i, ranks.fold[owner])
    rsum_interval: Interval | None = None
    if bootstrap:
        intervals = bootstrap_intervals(ranks.i2t, ranks.t2i, owner, ranks.fold, bootstrap, seed)
        i2t = i2t.model_copy(update={"intervals": {f"r{k}": intervals[f"i2t_r{k}"] for k in KS}})
        t2i = t2i.model_copy(update={"intervals": {f"r{k}": intervals[f"t2i_r{k}"] for k in KS}})
        rsum_interval = intervals["rsum"]
    return Result(
        protocol=protocol.name,
        images=matrix.shape[0],
        captions=matrix.shape[1],
        folds=protocol.folds,
        models=models,
        bootstrap=bootstrap,
        seed=seed,
        i2t=i2t,
        t2i=t2i,
        rsum=_sum_recalls(i2t, t2i),
        rsum_interval=rsum_interval,
    )


def compute_rsum(ranks: Ranks, owner: np.ndarray) -> float:
    """Compute rSum (0-600), the sum of the six recalls; owner: [M] row of each caption's image."""
    return _sum_recalls(_summarise_direction(ranks.i2t, ranks.fold), _summarise_direction(ranks.t2i, ranks.fold[owner]))


def _sum_recalls(i2t: Direction, t2i: Direction) -> float:
    return i2t.r1 + i2t.r5 + i2t.r10 + t2i.r1 + t2i.r5 + t2i.r10


def _summarise_direction(ranks: np.ndarray, fold: np.ndarray) -> Direction:
    """Compute the metrics of one direction, averaged over folds; ranks [Q] and each query's fold [Q]."""
    is_query = ranks != NO_QUERY
    parts = [ranks[is_query & (fold == f)] for f in range(int(fold.max()) + 1)]
    r1, r5, r10 = (float(np.mean([compute_recall(part, k) for part in parts])) for k in KS)
    return Direction(
        queries=int(is_query.sum()),
        r1=r1,
        r5=r5,
        r10=r10,
        median=float(np.mean([np.median(part) for part in parts])),
        mean=float(np.mean([part.mean() for part in parts])),
    )
