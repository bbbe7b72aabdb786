"""Measure a shortlist by anchors: how often vectors made of exact scores find the results of full scoring.

    python benchmarks/anchor_vectors.py TRAINED_ON MODEL SCENES [--anchors 512 1000] [--dims 64 128 256]

An image is described by its scores with training captions, the anchors, and its summary; a caption by its scores with
training images and its summary (CUR decomposition: Yadav et al. 2022). Two linear maps, solved in closed form on other
training items, make vectors of D numbers whose products approximate the score. A gallery would store the image's
vector; a query costs one score per anchor image, in addition to those of the shortlist.

The gallery and the queries are the images and captions of split `test` of SCENES. The lines `best of rank D` say what
D numbers can do: they are the decomposition of the test scores themselves. `global head` is the shortlist of today.

    same    share of queries, in %, with the same ten best images as full scoring
    lost    loss of R@10 of the caption's own image, in points
    needed  length that contains the ten best images of 95 % of queries, by size of the gallery
"""

from __future__ import annotations

import argparse
import sys

import numpy as np
import torch
from shortlist import compare_lengths, draw_queries, find_needed_lengths

from hire_model.batch import EncodedImages, EncodedTexts
from hire_model.data.store import Dataset, Split
from hire_model.model.captions import build_caption_bank
from hire_model.model.hire import Hire
from hire_model.scoring import matrix
from hire_model.scoring.scorer import Scorer

LENGTHS = (50, 100, 200, 500, 1000)
RIDGE = 1e-3  # in mean variances; 1e-5 to 1e-3 make no difference


def encode(model: Hire, split: Split, captions: list[str]) -> tuple[EncodedImages, EncodedTexts]:
    """Encode the images of `split`, and `captions`."""
    bank = build_caption_bank(model, captions)
    blocks = matrix.encode_text_blocks(model, bank, matrix.split_into_blocks(range(len(captions))))
    return matrix.encode_images(model, split), EncodedTexts.concatenate(list(blocks))


def score(model: Hire, images: EncodedImages, texts: EncodedTexts) -> np.ndarray:
    """Return the scores [texts, images]."""
    return np.ascontiguousarray(matrix.score_matrix(model, images, texts, 512 << 20).T)


def fit_maps(texts: np.ndarray, images: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return maps [a, D] and [b, D] with texts @ map @ (images @ map).T near `scores`, strongest numbers first.

    Reduced-rank ridge regression. texts: [C, a]; images: [N, b]; scores: [C, N]; D is the smaller of a and b.
    """
    roots = []
    for x in (texts, images):
        gram = (x.T @ x).astype(np.float64)
        roots.append(np.linalg.cholesky(gram + RIDGE * np.trace(gram) / len(gram) * np.eye(len(gram))))
    core = np.linalg.solve(roots[0], (texts.T @ scores @ images).astype(np.float64))
    left, strength, right = np.linalg.svd(np.linalg.solve(roots[1], core.T).T, full_matrices=False)
    return tuple(
        np.linalg.solve(root.T, side * np.sqrt(strength)) for root, side in zip(roots, (left, right.T), strict=True)
    )


def describe(scores: np.ndarray, summary: torch.Tensor) -> np.ndarray:
    """Return what the maps read of each item: scores with the anchors, summary, and 1."""
    return np.hstack([scores, summary.numpy(), np.ones((len(scores), 1), np.float32)])


def report(name: str, full: np.ndarray, near: np.ndarray, own: np.ndarray) -> None:
    """Print one line: agreement and lost recall of each length."""
    rows = [row for row in compare_lengths(full, near, own) if row["length"] in LENGTHS]
    cells = [f"{row['length']}: same {row['top10']:5.1f} lost {row['lost10']:5.2f}" for row in rows]
    needed = ", ".join(f"{row['images']}: {row['top10 of 95 %']}" for row in find_needed_lengths(full, near, own))
    print(f"{name:34}", "  ".join(cells), f"  needed {needed}", flush=True)


@torch.inference_mode()
def measure(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    model = Scorer.load(args.model).model
    split, train = Dataset.open(args.scenes).split("test"), Dataset.open(args.trained_on).split("train")
    queries, own = draw_queries(split, split, args.queries)
    images, texts = encode(model, split, queries)
    full = score(model, images, texts)
    report("global head", full, (texts.summary @ images.summary.T).numpy(), own)
    centred = full - full.mean(axis=1, keepdims=True)
    left = np.linalg.svd(centred, full_matrices=False)[0]
    for size in args.dims:
        best = left[:, :size] @ (left[:, :size].T @ centred)
        report(f"best of rank {size}, {len(queries)} queries", full, best, own)

    random = np.random.default_rng(args.seed)
    captions = [train.texts[i] for i in random.permutation(len(train.texts))[: args.captions]]
    train_images, train_texts = encode(model, train, captions)
    known = score(model, train_images, train_texts)
    columns = random.permutation(len(train_images))
    for count in args.anchors:
        anchors, others = columns[:count], columns[count:]  # captions are in random order already
        from_anchors = score(model, train_images[torch.from_numpy(anchors)], texts)
        to_anchors = score(model, images, train_texts[slice(0, count)]).T
        maps = fit_maps(
            describe(known[count:][:, anchors], train_texts.summary[count:]),
            describe(known[:count, others].T, train_images.summary[torch.from_numpy(others)]),
            known[count:][:, others],
        )
        query, item = describe(from_anchors, texts.summary) @ maps[0], describe(to_anchors, images.summary) @ maps[1]
        for size in args.dims:
            report(f"{count} anchors, {size} numbers", full, query[:, :size] @ item[:, :size].T, own)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("trained_on", "model", "scenes"):
        parser.add_argument(name)
    parser.add_argument("--anchors", type=int, nargs="+", default=[128, 256, 512, 1000])
    parser.add_argument("--dims", type=int, nargs="+", default=[64, 128, 256])
    for name, default in (("queries", 400), ("captions", 3000), ("seed", 0), ("threads", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    measure(parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
