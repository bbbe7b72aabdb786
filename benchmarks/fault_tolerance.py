"""Make the whole table of fault tolerance: `hire ablate edges` on large scenes and, if given, on a second data set.

    python benchmarks/fault_tolerance.py --out runs/faults [--scene-seeds 0,1,2,3,4] [--scenes 1200 200 1000]
        [--data DATASET --recipe RECIPE]

The large scenes are generated into the folder first. Each data set is one call of `hire ablate edges`, with one thread;
the seeds are shared among two processes. Run the same line again to continue. To stay within three hours of two cores,
the pair stages 6 and 7 are off, as they read no edges.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

HIRE = [sys.executable, "-m", "hire_model"]
SETTINGS = "model.object_word=false model.word_image=false train.batch=32 train.epochs=3 train.threads=1"
VARIANTS = (
    "no-graphs,graphs,graphs+stage,match,match+stage,match+edges,match+damage,match+stage+damage,match+edges+damage"
)
DAMAGES = "relations dropped,relations shuffled,edges dropped,boxes dropped,objects dropped"
PROCESSES = 2


def run_seeds(data: Path, recipe: str, settings: str, seeds: list[str], out: Path) -> None:
    """Run the seeds in two processes at once, then once more together to write the table."""
    command = [*HIRE, "ablate", "edges", "--recipe", recipe, "--data", str(data), "--out", str(out), "--set", settings]
    command += ["--only", VARIANTS, "--damage", DAMAGES, "--shares", "100"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    shares = [seeds[start::PROCESSES] for start in range(PROCESSES)]
    running = [subprocess.Popen([*command, "--seeds", ",".join(s)], env=environment) for s in shares if s]
    if any([process.wait() for process in running]):
        raise SystemExit("A process failed; its message is above. Run the same line again to continue.")
    subprocess.run([*command, "--seeds", ",".join(seeds)], env=environment, check=True)


def main() -> None:
    """Parse the options, generate the scenes, and make the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/faults"))
    parser.add_argument("--scene-seeds", default="0,1,2,3,4", help="seeds on the large scenes; empty: skip them")
    parser.add_argument("--scenes", nargs=3, default=["1200", "200", "1000"], help="for training, dev and test")
    parser.add_argument("--data", type=Path, help="a second data set with boxes and relations")
    parser.add_argument("--recipe", default="flickr8k_mini", help="its recipe")
    parser.add_argument("--seeds", default="0,1,2", help="seeds on the second data set")
    parser.add_argument("--set", default="", help="more settings for the second data set, such as data.dev=val")
    arguments = parser.parse_args()
    if arguments.scene_seeds:
        scenes = arguments.out / "large-scenes"
        if not (scenes / "manifest.json").is_file():
            sizes = zip(("--train", "--dev", "--test"), arguments.scenes, strict=True)
            options = [part for size in sizes for part in size]
            subprocess.run([*HIRE, "data", "synth", "--large", "--out", str(scenes), *options], check=True)
        run_seeds(scenes, "synthetic", SETTINGS, arguments.scene_seeds.split(","), arguments.out / "scenes")
    if arguments.data:
        settings = f"{SETTINGS} model.graphs=both model.relation_match=true {arguments.set}"
        run_seeds(arguments.data, arguments.recipe, settings, arguments.seeds.split(","), arguments.out / "data")


if __name__ == "__main__":
    main()
