"""Measure shortlists by anchors: how often they contain the best images, by number of anchors and size of the vectors.

    python benchmarks/anchor_vectors.py TRAINED_ON MODEL SCENES [--anchors 500 1000] [--dims 64 128 256]

The vectors are those of a gallery that was built with --anchors TRAINED_ON, float16: see hire_model/gallery/anchors.py.
The gallery and the queries are the images and captions of split `test` of SCENES. The lines `best of rank D` say what
D numbers can do: they are the decomposition of the test scores themselves. `global head` is the shortlist of a gallery
without anchors.

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
from hire_model.data.store import Dataset
from hire_model.gallery.anchors import draw_captions, encode_captions, encode_sample, solve_maps
from hire_model.model.hire import Hire
from hire_model.scoring import matrix
from hire_model.scoring.scorer import Scorer

LENGTHS = (50, 100, 200, 500, 1000)


def score(model: Hire, images: EncodedImages, texts: EncodedTexts) -> np.ndarray:
    """Return the scores [images, texts]."""
    return matrix.score_matrix(model, images, texts, 512 << 20)


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
    split, captions = Dataset.open(args.scenes).split("test"), Dataset.open(args.trained_on).split("train").texts
    queries, own = draw_queries(split, split, args.queries)
    images, texts = matrix.encode_images(model, split), encode_captions(model, queries)
    full = np.ascontiguousarray(score(model, images, texts).T)
    report("global head", full, (texts.summary @ images.summary.T).numpy(), own)
    centred = full - full.mean(axis=1, keepdims=True)
    left = np.linalg.svd(centred, full_matrices=False)[0]
    for size in args.dims:
        best = left[:, :size] @ (left[:, :size].T @ centred)
        report(f"best of rank {size}, {len(queries)} queries", full, best, own)

    known = draw_captions(captions)
    encoded = encode_captions(model, known)
    sample = score(model, encode_sample(model, split), encoded).astype(np.float64)
    from_anchors = score(model, images, encoded[slice(0, max(args.anchors))])
    for count in args.anchors:
        for size in args.dims:
            anchors = solve_maps(known, encoded, sample, count, size)
            vectors = torch.from_numpy(from_anchors[:, :count]) @ anchors.image_map + anchors.image_bias
            near = anchors.embed_texts(texts) @ vectors.half().float().T
            report(f"{count} anchors, {anchors.dim} numbers", full, near.numpy(), own)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("trained_on", "model", "scenes"):
        parser.add_argument(name)
    parser.add_argument("--anchors", type=int, nargs="+", default=[250, 500, 1000])
    parser.add_argument("--dims", type=int, nargs="+", default=[64, 128, 256])
    for name, default in (("queries", 400), ("threads", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    measure(parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
