"""Detectors and vision transformers of transformers as extractors, compared with the library's own results."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny_checkpoints as tiny
import torch
import transformers as hf
from picture_files import encode, scene

from hire_model.data.images.checkpoints import open_checkpoint
from hire_model.data.images.extractors import (
    MAX_REGIONS,
    WHOLE_IMAGE,
    CheckpointExtractor,
    open_detector,
    open_extractor,
)
from hire_model.data.images.importing import ImageImport, import_images
from hire_model.data.images.patches import PatchBackbone, average_cells
from hire_model.data.images.recorded import describe_extractor, open_recorded
from hire_model.data.importers.base import Target
from hire_model.data.schema import ExtractorFacts, Manifest
from hire_model.data.verify import verify
from hire_model.errors import DataError

WHOLE = np.array([[0, 0, 1, 1]], np.float32)
COMMIT = "0123456789abcdef0123456789abcdef01234567"
Make = Callable[[Path], Path]


@pytest.mark.parametrize(
    ("make", "model_class"),
    [(tiny.make_dfine, hf.DFineForObjectDetection), (tiny.make_rt_detr, hf.RTDetrV2ForObjectDetection)],
)
def test_the_best_queries_have_the_boxes_scores_and_states_of_the_library(
    tmp_path: Path, make: Make, model_class: type
) -> None:
    folder, picture = make(tmp_path / "detector"), scene()
    found = open_detector(str(folder)).detect(picture, MAX_REGIONS)
    model, processor = model_class.from_pretrained(folder).eval(), hf.RTDetrImageProcessorPil.from_pretrained(folder)
    with torch.inference_mode():
        output = model(**processor(images=picture, return_tensors="pt"))
    (library,) = processor.post_process_object_detection(output, threshold=0)
    states = output.last_hidden_state[0].numpy()
    assert found.features is not None and found.features.shape == (MAX_REGIONS, states.shape[1])
    assert (np.diff(found.scores) <= 0).all() and len(np.unique(found.scores)) > MAX_REGIONS // 2
    # The library lists (query, class) pairs: the first one of a box is its best class, and its row tells the query.
    best: dict[tuple[float, ...], tuple[float, int]] = {}
    for box, score, label in zip(*(library[key].tolist() for key in ("boxes", "scores", "labels")), strict=True):
        best.setdefault(tuple(box), (score, label))
    ranked = list(best.values())[:20]
    assert np.allclose(found.scores[:20], [score for score, _ in ranked])
    assert found.classes[:20].tolist() == [label for _, label in ranked]
    expected = np.array(list(best))[:20].clip(0, 1)
    inside = (expected[:, 2:] - expected[:, :2] > 0.02).all(axis=1)
    assert np.allclose(found.boxes[:20][inside], expected[inside], atol=1e-6) and inside.any()
    rows = [int(np.abs(states - feature).sum(axis=1).argmin()) for feature in found.features]
    assert len(set(rows)) == MAX_REGIONS
    assert np.allclose(output.logits[0].sigmoid().amax(dim=1).numpy()[rows], found.scores)


def test_a_detector_alone_gives_its_36_best_queries_as_regions(tmp_path: Path) -> None:
    extractor = open_extractor(str(tiny.make_dfine(tmp_path / "detector")))
    regions = extractor.extract(scene())
    assert regions.features.shape == (MAX_REGIONS, 32) and regions.features.dtype == np.float16
    assert extractor.classes == ("dog", "box", "ball") and extractor.feature_dim == 32
    assert (regions.boxes[:, 2:] > regions.boxes[:, :2]).all() and np.isfinite(regions.scores).all()
    assert regions.boxes.min() >= 0 and regions.boxes.max() <= 1


def test_the_mean_inside_a_box_weights_each_cell_by_its_share() -> None:
    cells = torch.arange(12, dtype=torch.float32).view(3, 4, 1)  # 3 rows, 4 columns
    boxes = torch.tensor([[0, 0, 1, 1], [0, 0, 0.25, 1 / 3], [0.125, 0, 0.5, 1 / 3], [0.3, 0.4, 0.31, 0.41]])
    # the third box: half of cell 0 and all of cell 1
    assert average_cells(cells, boxes)[:, 0].tolist() == pytest.approx([5.5, 0, (0.5 * 0 + 1) / 1.5, 5])


@pytest.mark.parametrize("make", [tiny.make_clip, tiny.make_siglip, tiny.make_siglip2, tiny.make_dinov2])
def test_patches_are_those_of_the_library(tmp_path: Path, make: Make) -> None:
    folder, picture = make(tmp_path / "backbone"), scene(width=tiny.SIDE, height=tiny.SIDE)
    backbone = PatchBackbone(str(folder))
    cell = np.array([[0.25, 0.5, 0.5, 0.75]], np.float32)  # column 1, row 2 of the 4 x 4 patches
    features = backbone.pool(picture, np.concatenate([WHOLE, cell]))
    model = hf.AutoModel.from_pretrained(folder).eval()
    vision = getattr(model, "vision_model", model)
    processor = hf.AutoImageProcessor.from_pretrained(folder, backend="pil")
    with torch.inference_mode():
        patches = vision(**processor(images=picture, return_tensors="pt")).last_hidden_state[0, -16:]
    assert backbone.feature_dim == tiny.HIDDEN and features.shape == (2, tiny.HIDDEN)
    assert np.allclose(features[0], patches.mean(dim=0), atol=1e-5)
    assert np.allclose(features[1], patches[2 * 4 + 1], atol=1e-5)
    assert patches.std(dim=0).mean() > 0.05  # else all patches would do


def test_every_box_of_a_wide_picture_has_patches_also_where_the_library_would_crop(tmp_path: Path) -> None:
    backbone = PatchBackbone(str(tiny.make_clip(tmp_path / "clip")))
    wide, edge = scene(width=200, height=40), np.array([[0, 0, 0.1, 1]], np.float32)
    before = backbone.pool(wide, edge)
    wide.paste((255, 0, 0), (0, 0, 20, 40))
    assert np.abs(backbone.pool(wide, edge) - before).max() > 0.01


def test_flexible_resolution_leaves_padding_out(tmp_path: Path) -> None:
    backbone = PatchBackbone(str(tiny.make_siglip2(tmp_path / "siglip2")))
    wide = scene(width=80, height=48)  # 3 x 5 patches of 16
    inputs = backbone.processor(images=wide, return_tensors="pt")
    assert inputs["spatial_shapes"].tolist() == [[3, 5]]
    with torch.inference_mode():
        patches = backbone.vision(**inputs).last_hidden_state[0, :15]
    assert np.allclose(backbone.pool(wide, WHOLE)[0], patches.mean(dim=0), atol=1e-5)


@pytest.mark.parametrize("make", [tiny.make_clip, tiny.make_siglip])
def test_a_tower_appends_the_embedding_that_the_library_computes(tmp_path: Path, make: Make) -> None:
    folder, picture = make(tmp_path / "tower"), scene(width=90, height=50)
    backbone, plain = PatchBackbone(str(folder), tower=True), PatchBackbone(str(folder))
    cells = np.array([[0, 0, 1, 1], [0, 0, 0.5, 0.5]], np.float32)
    features = backbone.pool(picture, cells)
    processor = hf.AutoImageProcessor.from_pretrained(folder, backend="pil")
    with torch.inference_mode():
        model = hf.AutoModel.from_pretrained(folder).eval()
        expected = model.get_image_features(**processor(images=picture, return_tensors="pt")).pooler_output[0]
    expected = (expected / expected.norm()).numpy()
    assert backbone.feature_dim == features.shape[1] == tiny.HIDDEN + len(expected)
    assert np.allclose(features[:, tiny.HIDDEN :], [expected, expected], atol=1e-6)
    assert np.array_equal(features[:, : tiny.HIDDEN], plain.pool(picture, cells))


def test_boxes_of_a_detector_get_patches_of_a_backbone_and_cells_fill_up(tmp_path: Path) -> None:
    detector, backbone = tiny.make_dfine(tmp_path / "detector"), tiny.make_siglip(tmp_path / "backbone")
    extractor = CheckpointExtractor(str(detector), str(backbone))
    regions = extractor.extract(scene())
    assert extractor.classes[regions.classes[0]] == WHOLE_IMAGE and regions.boxes[0].tolist() == [0, 0, 1, 1]
    assert len(regions.boxes) <= MAX_REGIONS and regions.features.shape[1] == tiny.HIDDEN
    detected = regions.classes[1:] >= 0
    assert detected.any() and np.isnan(regions.scores[1:][~detected]).all()
    grid = CheckpointExtractor("", str(backbone))
    assert grid.extract(scene()).boxes.shape == (30, 4) and grid.classes == (WHOLE_IMAGE,)


def test_the_digest_depends_on_weights_settings_and_options(tmp_path: Path) -> None:
    clip, other = tiny.make_clip(tmp_path / "clip"), tiny.make_clip(tmp_path / "other", seed=1)
    resized = shutil.copytree(clip, tmp_path / "resized")
    settings = resized / "preprocessor_config.json"
    settings.write_text(settings.read_text().replace('"do_normalize": true', '"do_normalize": false'))
    detector = str(tiny.make_dfine(tmp_path / "detector"))
    options = [("", clip, False), ("", other, False), ("", resized, False), ("", clip, True), (detector, clip, False)]
    digests = {CheckpointExtractor(boxes, str(folder), tower).digest for boxes, folder, tower in options}
    assert len(digests | {CheckpointExtractor(detector, "").digest}) == len(options) + 1
    copy = shutil.copytree(clip, tmp_path / "copy")
    assert open_checkpoint(str(copy)).digest == open_checkpoint(str(clip)).digest


def test_a_recorded_extractor_is_opened_again_and_one_with_other_weights_is_refused(tmp_path: Path) -> None:
    clip, detector = tiny.make_clip(tmp_path / "clip"), tiny.make_dfine(tmp_path / "detector")
    extractor = CheckpointExtractor(str(detector), str(clip), tower=True)
    facts = describe_extractor(extractor)
    assert facts is not None and not facts.file
    again = open_recorded(ExtractorFacts.model_validate_json(facts.model_dump_json()), tmp_path)
    first, second = extractor.extract(scene()), again.extract(scene())
    assert again.name == extractor.name and np.array_equal(first.boxes, second.boxes)
    assert np.array_equal(first.features, second.features)
    shutil.rmtree(clip)
    tiny.make_clip(clip, seed=1)
    with pytest.raises(DataError, match="other weights or settings"):
        open_recorded(facts, tmp_path)


def test_pickled_weights_code_and_incomplete_checkpoints_are_refused(tmp_path: Path) -> None:
    pickled = tiny.make_clip(tmp_path / "pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    remote = tiny.make_clip(tmp_path / "remote")
    config = (remote / "config.json").read_text()
    (remote / "config.json").write_text(config.replace('"model_type": "clip",', '"model_type": "clip_with_code",'))
    damaged = tiny.make_clip(tmp_path / "damaged")
    (damaged / "model.safetensors").write_bytes(b"not weights")
    partial = tiny.make_clip(tmp_path / "partial")
    hf.CLIPModel.from_pretrained(partial).vision_model.save_pretrained(tmp_path / "vision")
    shutil.copy(tmp_path / "vision" / "model.safetensors", partial / "model.safetensors")
    for folder, message in (
        (pickled, "no weights in safetensors"),
        (remote, "type 'clip_with_code'"),
        (damaged, "cannot be loaded as CLIPModel"),
        (partial, "weights of CLIPModel are missing"),
        (tiny.make_dfine(tmp_path / "dfine"), "type 'd_fine'. Expected one of clip, siglip"),
        (tmp_path, "not the configuration of a checkpoint"),
    ):
        with pytest.raises(DataError, match=message):
            PatchBackbone(str(folder))
    with pytest.raises(DataError, match="--tower needs --backbone"):
        open_extractor(None, tower=True)


def test_a_hub_name_needs_a_commit_and_is_read_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="all 40 digits"):
        open_checkpoint("owner/clip@main")
    seen = []

    def snapshot_download(repo: str, *, revision: str, local_files_only: bool = False, **options: object) -> str:
        seen.append((repo, revision, local_files_only))
        assert not any(str(pattern).endswith((".bin", ".py", "*")) for pattern in options["allow_patterns"])  # type: ignore[attr-defined]
        return str(tmp_path / "snapshot")

    tiny.make_clip(tmp_path / "snapshot")
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    checkpoint = open_checkpoint(f"owner/clip@{COMMIT}")
    assert seen == [("owner/clip", COMMIT, True)] and checkpoint.name == "owner/clip"
    (tmp_path / "snapshot" / "model.safetensors").unlink()  # an incomplete cache is completed
    with pytest.raises(DataError, match="no weights"):
        open_checkpoint(f"owner/clip@{COMMIT}")
    assert seen[-1] == ("owner/clip", COMMIT, False)


def test_offline_a_checkpoint_that_is_not_cached_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match="cannot be downloaded"):
        open_checkpoint(f"owner/nothing-that-exists@{COMMIT}")


def test_pictures_are_imported_with_a_checkpoint_and_its_digest_is_in_the_manifest(tmp_path: Path) -> None:
    clip = tiny.make_clip(tmp_path / "clip")
    (tmp_path / "pictures").mkdir()
    for seed in range(4):
        (tmp_path / "pictures" / f"{seed}.jpg").write_bytes(encode(scene(seed)))
    lines = [f"{seed}.jpg,{split},scene {seed}" for seed, split in enumerate(("train", "train", "dev", "test"))]
    (tmp_path / "captions.csv").write_text("\n".join(["image,split,caption", *lines]))
    job = ImageImport(
        tmp_path / "pictures", tmp_path / "captions.csv", backbone=str(clip), tower=True
    )  # fmt: skip
    manifest, _ = import_images(job, Target(tmp_path / "out"))
    assert verify(tmp_path / "out") == [] and manifest == Manifest.read(tmp_path / "out")
    assert manifest.feature_dim == tiny.HIDDEN + tiny.PROJECTED
    extractor = CheckpointExtractor("", str(clip), tower=True)
    assert open_checkpoint(str(clip)).digest[:16] in manifest.feature_extractor
    assert manifest.feature_extractor == f"grid boxes, clip patches, tower {open_checkpoint(str(clip)).digest[:16]}" + (
        f", sha256 {extractor.digest[:16]}"
    )
