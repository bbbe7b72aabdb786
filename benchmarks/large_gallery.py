"""Measure a gallery of made-up images: build time, bytes per image, latency of a search, recall against full scoring.

    python benchmarks/large_gallery.py build DATASET MODEL OUT --images 1000000 [--anchors TRAINED_ON]
    python benchmarks/large_gallery.py measure DATASET MODEL OUT [--queries 200] [--exhaustive 30] [--json FILE]

The images are made of encoded ones of DATASET, which are the first rows of the gallery: each has the edges of a random
image, half of its regions from other images, and noise of a tenth of a region's deviation. Its summary is that of its
regions, so the model must have model.pair_dim=0. Queries are captions of the split `--queries-of`, one at a time.

With --anchors, shortlists are made by anchors: captions of the data set TRAINED_ON. `measure` then compares both kinds
of shortlist by length: share of queries with the same ten images, and R@10 lost, as in shortlist.py.

"Cold" drops the pages of the gallery's files from memory before each query. The index of summaries is in the memory of
the process. CPU times are those of all threads. "R@10" is the recall of the caption's own image among all images.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from shortlist import compare_lengths

from hire_model.batch import EncodedImages
from hire_model.data.schema import TABLES
from hire_model.data.store import Dataset
from hire_model.gallery import search
from hire_model.gallery.anchors import Anchors, draw_captions, fit_anchors, hash_captions
from hire_model.gallery.building import install, lock_gallery, name_partial, name_segment
from hire_model.gallery.format import ANCHORS, IMAGES, GalleryManifest
from hire_model.gallery.segment import get_sizes
from hire_model.gallery.store import Gallery
from hire_model.gallery.writing import StoreSource, open_partial, write_segment
from hire_model.model import artifact
from hire_model.model.layers import masked_mean, normalize
from hire_model.progress import show_progress
from hire_model.scoring.matrix import encode_images, score_matrix, split_into_blocks
from hire_model.scoring.scorer import Scorer

SWAPPED, NOISE = 0.5, 0.1
ROWS = 1024
PAUSE_S = 0.005  # between queries: a process with real-time priority must leave time to others


def make_blocks(real: EncodedImages, blocks: Iterable[range]) -> Iterator[EncodedImages]:
    """Yield the real images, then made-up ones. A row does not depend on the other blocks."""
    pool = real.regions[real.mask]
    deviation = NOISE * pool.std(dim=0)
    for block in blocks:
        random = torch.Generator().manual_seed(block.start)
        rows = torch.arange(block.start, block.stop)
        made = rows >= len(real)
        base = torch.where(
            made, torch.randint(len(real), (len(rows),), generator=random), rows.clamp(max=len(real) - 1)
        )
        mask, regions = real.mask[base], real.regions[base]
        others = pool[torch.randint(len(pool), mask.shape, generator=random)]
        swapped = (torch.rand(mask.shape, generator=random) < SWAPPED) & made[:, None]
        regions = torch.where(swapped[..., None], others, regions)
        regions = regions + made[:, None, None] * deviation * torch.randn(regions.shape, generator=random)
        regions = regions * mask[..., None]
        edges = None if real.edges is None else real.edges[base]
        shares = None if real.shares is None else real.shares[base]
        yield EncodedImages(regions, mask, normalize(masked_mean(regions, mask, shares)), edges, shares)


def take_sample(real: EncodedImages, images: int) -> EncodedImages:
    """Return about 1,000 of the images that `make_blocks` makes, from all parts of the gallery."""
    blocks = split_into_blocks(range(images))
    return EncodedImages.concatenate(list(make_blocks(real, blocks[:: max(1, len(blocks) // 8)][:8])))


def make_tables(real: EncodedImages, images: int) -> tuple[dict[str, pa.Table], list[str]]:
    """Return tables with ids and boxes, and metadata: a year of 20 and one of 1,000 sources."""
    lengths = np.concatenate([block.mask.sum(dim=1).numpy() for block in _count_regions(real, images)])
    random, total = np.random.default_rng(0), int(lengths.sum())
    zeros = np.zeros(images, np.int64)
    columns = [
        pa.array([f"image-{row:07d}" for row in range(images)]), pa.array(["made"] * images), zeros, zeros,
        np.cumsum(lengths) - lengths, lengths, zeros, zeros, pa.nulls(images),
    ]  # fmt: skip
    tables = {IMAGES: _make_table(IMAGES, columns)}
    corners = random.random((2, total, 2), np.float32)
    boxes = np.concatenate([corners.min(axis=0), corners.max(axis=0)], axis=1)
    columns = [*boxes.T, np.full(total, -1), random.random(total, np.float32)]
    tables["regions"] = _make_table("regions", columns)
    tables["relations"] = TABLES["relations"].empty_table()
    return tables, [f'{{"year":{2000 + row % 20},"source":"s{row % 1000}"}}' for row in range(images)]


def _count_regions(real: EncodedImages, images: int) -> Iterator[EncodedImages]:
    yield from make_blocks(real, split_into_blocks(range(images)))


def _make_table(name: str, columns: list) -> pa.Table:
    arrays = [
        column.cast(field.type) if isinstance(column, pa.Array) else pa.array(column).cast(field.type)
        for column, field in zip(columns, TABLES[name], strict=True)
    ]
    return pa.Table.from_arrays(arrays, schema=TABLES[name])


@torch.inference_mode()
def build(args: argparse.Namespace) -> None:
    scorer, split = Scorer.load(args.model), Dataset.open(args.dataset).split("")
    model, out = scorer.model, Path(args.out)
    if model.settings.pair_dim:
        raise SystemExit("The model has model.pair_dim; expected one with pair_dim=0.")
    real = encode_images(model, split)
    tables, metadata = make_tables(real, args.images)
    with lock_gallery(out):
        work, name = name_partial(out), name_segment(1)
        open_partial(work, {"made up": str(args.images)})
        encode, sizes = partial(make_blocks, real), get_sizes(model, IMAGES)
        captions = Dataset.open(args.anchors).split("train").texts if args.anchors else None
        anchor_file = work / ANCHORS if captions is not None else None
        if captions is not None and anchor_file and not anchor_file.is_file():
            fit_anchors(model, take_sample(real, args.images), draw_captions(captions)).save(anchor_file)
        embed = Anchors.load(anchor_file).make_embedder(model) if anchor_file else None
        source = StoreSource(IMAGES, args.images, sizes, encode, lambda: source, embed)
        start, cpu = time.perf_counter(), time.process_time()
        folder, facts, _ = write_segment(work, name, [source], tables, [], metadata, anchor_file=anchor_file)
        manifest = GalleryManifest(
            model=artifact.digest(model), address=str(args.model), data=split.dataset.manifest, split="",
            anchor_digest=hash_captions(captions), dim=model.settings.dim, captioned=False, segments=(facts,),
        )  # fmt: skip
        install(folder, out, manifest)
        shutil.rmtree(work)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    size = manifest.bytes / args.images
    print(f"{args.images:,} images in {seconds:.0f} s ({cpu:.0f} s of CPU), {size:,.0f} bytes per image")


def drop_cache(gallery: Gallery) -> None:
    """Drop the pages of the gallery's files from memory."""
    for segment in gallery.segments:
        segment.images.records._mmap.madvise(mmap.MADV_DONTNEED)  # type: ignore[attr-defined]
        for name in segment.facts.files:
            descriptor = os.open(segment.folder / name, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def measure_latency(
    run: Callable[[str], object], texts: list[str], prepare: Callable[[], object] = lambda: None
) -> dict:
    """Return percentiles of wall and CPU milliseconds of run(text)."""
    wall, cpu = [], []
    for text in texts:
        prepare()
        time.sleep(PAUSE_S)
        before = time.perf_counter(), time.process_time()
        run(text)
        wall.append(1000 * (time.perf_counter() - before[0]))
        cpu.append(1000 * (time.process_time() - before[1]))
    return {
        **{f"p{q}_ms": float(np.percentile(wall, q)) for q in (50, 95, 99)},
        **{f"cpu_p{q}_ms": float(np.percentile(cpu, q)) for q in (50, 99)},
    }


@torch.inference_mode()
def measure_recall(scorer: Scorer, gallery: Gallery, texts: list[str], own: np.ndarray, shortlist: int) -> dict:
    """Compare the ten best images of a search with those of full scoring. With anchors, print a table by length."""
    encoded = scorer.encode_texts(texts)
    scores = np.empty((len(gallery), len(texts)), np.float32)
    for start in show_progress(range(0, len(gallery), ROWS), "score every image"):
        rows = np.arange(start, min(start + ROWS, len(gallery)))
        scores[rows] = score_matrix(scorer.model, gallery.read_images(rows), encoded, 1 << 29)
    if gallery.anchors:
        images = gallery.images
        both = {
            "head": (encoded.summary, images.summaries),
            "anchors": (gallery.anchors.embed_texts(encoded), images.index.vectors),
        }
        for name, (queries, vectors) in both.items():
            near = queries.numpy() @ vectors.astype(np.float32).T
            for row in compare_lengths(scores.T, near, own):
                print(f"{name:8}{row['length']:>9,}: same ten {row['top10']:5.1f} %, R@10 lost {row['lost10']:.2f}")
    best = np.argsort(-scores, axis=0, kind="stable")[:10].T
    found = [[hit.row for hit in r.hits] for r in search.search_images(scorer, gallery, texts, 10, shortlist)]
    pairs = list(zip(found, best, strict=True))
    full, two = (
        np.mean([o in b for o, b in zip(own, best, strict=True)]),
        np.mean([o in f for o, f in zip(own, found, strict=True)]),
    )
    return {
        "queries": len(texts),
        "same_ten_%": 100 * float(np.mean([set(a) == set(b.tolist()) for a, b in pairs])),
        "of_ten_%": 10 * float(np.mean([len(set(a) & set(b.tolist())) for a, b in pairs])),
        "r10_full_%": 100 * float(full),
        "r10_search_%": 100 * float(two),
    }


def measure(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    scorer, data = Scorer.load(args.model), Dataset.open(args.dataset)
    start = time.perf_counter()
    gallery = Gallery.open(args.out)
    opened = time.perf_counter() - start
    split = data.split(args.queries_of)
    chosen = np.random.default_rng(0).permutation(len(split.captions))[: args.queries]
    texts, own = [split.texts[row] for row in chosen], split.images[split.owner[chosen]]

    def run(text: str, **options: object) -> object:
        return search.search_images(scorer, gallery, [text], 10, args.shortlist, **options)

    def encode(text: str) -> torch.Tensor:
        with torch.inference_mode():
            encoded = scorer.encode_texts([text])
            return gallery.anchors.embed_texts(encoded) if gallery.anchors else encoded.summary

    vectors = {text: encode(text).numpy() for text in texts}
    shortlists = {text: gallery.images.index.find_nearest(vectors[text], args.shortlist)[0] for text in texts}
    run(texts[0])
    found: dict = {"images": len(gallery), "bytes_per_image": gallery.manifest.bytes / len(gallery), "open_s": opened}
    found["load"] = os.getloadavg()[0]
    found["warm"] = measure_latency(run, texts)
    found["cold"] = measure_latency(run, texts[: args.cold], lambda: drop_cache(gallery))
    found["encode"] = measure_latency(encode, texts)
    found["shortlist"] = measure_latency(
        lambda text: gallery.images.index.find_nearest(vectors[text], args.shortlist), texts
    )
    found["read"] = measure_latency(lambda text: gallery.read_images(shortlists[text]), texts)
    if gallery.metadata(0):
        start = time.perf_counter()
        gallery.filter({"year": 2001})
        found["filter_first_s"] = time.perf_counter() - start
        found["filtered"] = measure_latency(lambda text: run(text, where={"year": 2001}), texts)
    if args.exhaustive:
        found["recall"] = measure_recall(
            scorer, gallery, texts[: args.exhaustive], own[: args.exhaustive], args.shortlist
        )
    for name, value in found.items():
        print(
            name,
            {key: round(number, 1) for key, number in value.items()} if isinstance(value, dict) else round(value, 2),
        )
    if args.json:
        Path(args.json).write_text(json.dumps(found, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    build_parser, measure_parser = commands.add_parser("build"), commands.add_parser("measure")
    for command in (build_parser, measure_parser):
        for name in ("dataset", "model", "out"):
            command.add_argument(name)
    build_parser.add_argument("--images", type=int, default=100_000)
    build_parser.add_argument("--anchors", default="")
    build_parser.set_defaults(run=build)
    for name, default in (("queries", 200), ("cold", 100), ("exhaustive", 30), ("shortlist", 1000), ("threads", 2)):
        measure_parser.add_argument(f"--{name}", type=int, default=default)
    measure_parser.add_argument("--queries-of", default="test")
    measure_parser.add_argument("--json")
    measure_parser.set_defaults(run=measure)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
