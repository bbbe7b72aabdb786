"""How many pictures per second does an extractor read, and how much memory does it need?

Each extractor runs in a process of its own, on one thread. Checkpoints have random weights of the published sizes, as
speed and memory do not depend on the values.

    python benchmarks/extractors.py PICTURES --detector yolox_nano_coco80.onnx
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from pathlib import Path

import torch
import transformers as hf

from hire_model.data.images.extractors import open_extractor
from hire_model.data.images.pictures import decode_picture


def measure(name: str, options: tuple[str, str], pictures: list[Path]) -> None:
    """Print the figures of one extractor; the first picture is not counted."""
    torch.set_num_threads(1)
    extractor = open_extractor(*options)
    images = [decode_picture(path.read_bytes()).image for path in pictures]
    extractor.extract(images[0])
    start = time.process_time()
    for image in images[1:]:
        extractor.extract(image)
    rate = (len(images) - 1) / (time.process_time() - start)
    peak = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024  # ru_maxrss has the parent's
    print(f"| {name} | {extractor.feature_dim} | {rate:.1f} | {peak:.0f} MB |", flush=True)


def save_checkpoint(model: hf.PreTrainedModel, processor: object, folder: Path) -> str:
    """Save a model with random weights as a checkpoint and return its folder."""
    model.save_pretrained(folder)
    processor.save_pretrained(folder)  # type: ignore[attr-defined]
    return str(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pictures", type=Path, help="folder of JPEG files")
    parser.add_argument("--detector", default="", help="ONNX file of a YOLOX detector")
    parser.add_argument("--limit", type=int, default=41, help="number of pictures, the first ones")
    arguments = parser.parse_args()
    pictures = sorted(arguments.pictures.glob("*.jpg"))[: arguments.limit]
    with tempfile.TemporaryDirectory() as scratch:
        clip = save_checkpoint(hf.CLIPModel(hf.CLIPConfig()), hf.CLIPImageProcessorPil(), Path(scratch, "clip"))
        siglip = save_checkpoint(
            hf.SiglipModel(hf.SiglipConfig()), hf.SiglipImageProcessorPil(), Path(scratch, "siglip")
        )
        choices = {
            "grid, EfficientNet-Lite0": ("", ""),
            "YOLOX, EfficientNet-Lite0": (arguments.detector, ""),
            "grid, CLIP ViT-B/32": ("", clip),
            "grid, SigLIP ViT-B/16": ("", siglip),
        }
        print("| Extractor | Features | Pictures per second of CPU time | Memory |\n|---|---|---|---|")
        for name, options in choices.items():
            if name.startswith("YOLOX") and not arguments.detector:
                continue
            process = multiprocessing.get_context("spawn").Process(target=measure, args=(name, options, pictures))
            process.start()
            process.join()


if __name__ == "__main__":
    main()
