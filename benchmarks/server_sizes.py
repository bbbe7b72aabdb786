"""Compare numbers of workers and of threads per worker of the gunicorn server.

    python benchmarks/server_sizes.py DATASET --version champion [--split test] [--seconds 2] [--rounds 3]

All servers run at the same time and take turns, so that a busy machine slows down all of them. Eight clients send one
pair, 64 pairs with gallery ids, or a search that re-ranks all images.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from contextlib import ExitStack
from pathlib import Path

from serving_load import Options, draw_pairs, make_body, measure, start_server

from hire_model.data.store import Dataset, Split
from hire_model.gallery.building import build
from hire_model.packaging.verify import extract
from hire_model.scoring.scorer import Scorer
from hire_model.settings import resolve
from hire_model.tracking.versions import Archive, find_archive

SIZES = ((1, 1), (2, 1), (4, 1), (1, 2), (2, 2))  # workers, threads
CLIENTS = 8


def run(split: Split, archive: Archive, seconds: float, rounds: int) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        root = Path(name)
        extract(archive.path, root / "unpacked")
        build(Scorer.load(root / "unpacked" / "model").model, split, root / "galleries" / "load", captions=False)
        servers = {}
        for workers, threads in SIZES:
            folder = root / f"{workers}-{threads}"
            folder.mkdir()
            options = Options("gunicorn", (), (), seconds, rounds, workers, threads, batch=1)
            starting = start_server(options, archive.path, archive.sha256, folder, root / "galleries")
            servers[f"{workers} x {threads}, "] = stack.enter_context(starting)
        pairs, ids = draw_pairs(split), [split.image_id(i) for i in range(min(64, len(split.images)))]
        search = json.dumps({"gallery": "load", "texts": [pairs[0][1]], "top_k": 10}).encode()
        bodies = {("ids", count): make_body("ids", pairs[:count], ids) for count in (1, 64)}
        for (kind, count), body in (bodies | {("search", len(split.images)): lambda: search}).items():
            measure(servers, kind, count, body, CLIENTS, seconds, rounds)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--split", default="test")
    parser.add_argument("--version", default="champion")
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    found = find_archive(args.version, resolve(None).settings.tracking)
    run(Dataset.open(args.dataset).split(args.split), found, args.seconds, args.rounds)
