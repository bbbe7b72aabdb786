"""Boxes, pooling, and the two extractors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from picture_files import encode, scene
from PIL import Image

from hire_model.data.images import detector as detector_module
from hire_model.data.images.backbone import FEATURE_DIM, Backbone, pool_boxes
from hire_model.data.images.detector import COCO_CLASSES, YoloxDetector, suppress_overlaps
from hire_model.data.images.extractors import MAX_REGIONS, WHOLE_IMAGE, DetectorExtractor, GridExtractor, make_cells
from hire_model.data.images.pictures import decode_picture
from hire_model.errors import DataError

SIDE = 64  # input of the fake detector: 8 x 8, 4 x 4 and 2 x 2 cells
ANCHORS = 64 + 16 + 4
MakeDetector = Callable[..., Path]
YOLOX = "detector/yolox_nano_coco80.onnx"


class FakeSession:
    """Answers every picture with the same raw output [anchors, 5 + classes]."""

    def __init__(self, raw: np.ndarray, side: int | str = SIDE) -> None:
        self.raw, self.side, self.seen = raw, side, np.zeros(0)

    def get_inputs(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(name="images", shape=[1, 3, self.side, self.side])]

    def get_outputs(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(name="output", shape=[1, *self.raw.shape])]

    def run(self, _: None, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        self.seen = inputs["images"]
        return [self.raw[None]]


@pytest.fixture
def fake_detector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeDetector:
    def make(raw: np.ndarray, side: int | str = SIDE) -> Path:
        session = FakeSession(raw, side)
        monkeypatch.setattr(detector_module, "_open_session", lambda data, path: session)
        (tmp_path / "fake.onnx").write_bytes(raw.tobytes())
        return tmp_path / "fake.onnx"

    return make


def raw_output(count: int, classes: int = 3) -> np.ndarray:
    """Return raw output with `count` objects of 8 x 8 pixels, one per cell, in the order of the anchors."""
    raw = np.zeros((ANCHORS, 5 + classes), np.float32)
    raw[:count, :2] = 0.5
    raw[:count, 4] = np.linspace(0.9, 0.5, count)
    raw[:count, 5] = 1
    return raw


def test_pooling_gives_the_mean_inside_the_box() -> None:
    columns = torch.linspace(0, 1, 21)[:-1] + 0.025  # the value of a pixel is where its centre is
    level = torch.stack([columns.expand(20, 20), columns[:, None].expand(20, 20), torch.ones(20, 20)])[None]
    boxes = torch.tensor([[0.0, 0, 1, 1], [0.1, 0.2, 0.5, 0.4], [0.5, 0.5, 0.52, 0.9]])
    expected = torch.stack([(boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2, torch.ones(3)], dim=1)
    assert torch.allclose(pool_boxes(level, boxes), expected, atol=1e-5)


def test_suppression_keeps_the_best_of_overlapping_boxes_of_one_class() -> None:
    boxes = np.array([[0, 0, 0.5, 0.5], [0.05, 0, 0.5, 0.5], [0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1]], np.float32)
    scores = np.array([0.8, 0.9, 0.7, 0.1], np.float32)
    assert suppress_overlaps(boxes, np.array([0, 0, 1, 0]), scores, 0.5).tolist() == [1, 2, 3]
    assert suppress_overlaps(boxes[:0], np.zeros(0), scores[:0], 0.5).tolist() == []


def test_the_detector_decodes_boxes_of_a_padded_picture(fake_detector: MakeDetector) -> None:
    raw = np.zeros((ANCHORS, 7), np.float32)
    raw[64 + 4 + 1] = [
        0.5,
        0.5,
        np.log(2),
        0,
        0.8,
        0.1,
        1,
    ]  # stride 16, column 1, row 1: centre (24, 24), size (32, 16)
    raw[0] = [0, 0, 0, 0, 0.02, 1, 0]  # too uncertain
    detector = YoloxDetector(fake_detector(raw))
    found = detector.detect(Image.new("RGB", (200, 100), (10, 20, 30)), 5)  # scaled to 64 x 32
    assert np.allclose(found.boxes, [[8 / 64, 16 / 32, 40 / 64, 32 / 32]])
    assert found.classes.tolist() == [1] and found.scores == pytest.approx([0.8])
    assert detector.classes == ("class 0", "class 1")
    seen = detector.session.seen
    assert seen.shape == (1, 3, SIDE, SIDE) and seen[0, :, 0, 0].tolist() == [30, 20, 10]  # blue, green, red
    assert (seen[0, :, 32:] == 114).all() and not (seen[0, :, :32] == 114).any()


@pytest.mark.parametrize(("found", "regions"), [(0, 30), (6, 36), (7, 21), (10, 24), (22, 36), (23, 28), (60, 36)])
def test_whole_grids_fill_up_what_the_detector_leaves(fake_detector: MakeDetector, found: int, regions: int) -> None:
    extractor = DetectorExtractor(fake_detector(raw_output(found)))
    got = extractor.extract(scene())
    detected = min(found, MAX_REGIONS - 1)
    assert len(got.boxes) == regions and got.features.shape == (regions, FEATURE_DIM)
    assert got.classes.tolist() == [3] + [0] * detected + [-1] * (regions - 1 - detected)
    assert extractor.classes[3] == WHOLE_IMAGE
    assert np.isnan(got.scores[[0, *range(1 + detected, regions)]]).all()
    assert (np.diff(got.scores[1 : 1 + detected]) <= 0).all()
    assert np.isfinite(got.features).all()


def test_a_file_that_is_no_yolox_detector_is_refused(fake_detector: MakeDetector, tmp_path: Path) -> None:
    for raw, side, message in (
        (np.zeros((100, 85), np.float32), SIDE, "output of shape"),
        (raw_output(1), "height", "input of shape"),
    ):
        with pytest.raises(DataError, match=message):
            YoloxDetector(fake_detector(raw, side))
    decoded = raw_output(1)
    decoded[:, 2:4] = 40
    with pytest.raises(DataError, match="decoded already"):
        YoloxDetector(fake_detector(decoded)).detect(scene(), 5)
    with pytest.raises(DataError, match="cannot be read"):
        YoloxDetector(tmp_path / "missing.onnx")


def test_a_file_that_is_not_onnx_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("not a network")
    with pytest.raises(DataError, match="not a usable ONNX file"):
        YoloxDetector(tmp_path / "text.onnx")


def test_grid_regions_cover_the_picture_and_depend_on_what_is_inside_them() -> None:
    extractor = GridExtractor()
    assert make_cells(2).tolist() == [[0, 0, 0.5, 0.5], [0.5, 0, 1, 0.5], [0, 0.5, 0.5, 1], [0.5, 0.5, 1, 1]]
    regions = extractor.extract(scene())
    assert regions.boxes.shape == (30, 4) and regions.classes.tolist() == [0] + [-1] * 29
    assert (regions.boxes[:, 2:] > regions.boxes[:, :2]).all()
    changed = scene()
    changed.paste((0, 0, 0), (0, 0, 10, 10))  # in the cell at the top left
    difference = np.abs(regions.features - extractor.extract(changed).features).astype(float).mean(axis=1)
    assert difference[14] > 3 * difference[29]  # the first and the last cell of 4 x 4


def test_the_digest_of_an_extractor_depends_on_the_detector(fake_detector: MakeDetector) -> None:
    digests = {DetectorExtractor(fake_detector(raw_output(count))).digest for count in (1, 2, 2)}
    assert len({*digests, GridExtractor().digest}) == 3


def test_features_and_boxes_agree_with_the_published_ones(shared_data: Path) -> None:
    folder, images = shared_data / "coco_mini", 4
    names = (folder / "train_ids.txt").read_text().split()[:images]
    sizes = np.load(folder / "train_image_wh.npy")[:images]
    boxes = np.load(folder / "train_boxes.npy")[:images] / np.tile(sizes, 2)[:, None]
    published = np.load(folder / "train_ims_int8.npy", mmap_mode="r")[:images] * np.load(folder / "feature_scale.npy")
    backbone, detector = Backbone(448), YoloxDetector(shared_data / YOLOX)
    pictures = [decode_picture((folder / "images_train" / name).read_bytes()).image for name in names]
    ours = np.concatenate([backbone.pool(*pair) for pair in zip(pictures, boxes, strict=True)])
    a, b = ours - ours.mean(axis=0), np.concatenate(list(published)).astype(float)
    b -= b.mean(axis=0)
    correlation = (a * b).sum(axis=0) / np.maximum(np.linalg.norm(a, axis=0) * np.linalg.norm(b, axis=0), 1e-9)
    assert np.median(correlation) > 0.98
    for index, picture in enumerate(pictures):
        found = detector.detect(picture, 3)
        assert found.classes.tolist() == np.load(folder / "train_classes.npy")[index, :3].tolist()
        assert np.abs(found.boxes - boxes[index, :3]).max() < 0.03
    assert COCO_CLASSES[60] == "dining table"


def test_the_size_of_a_jpeg_hardly_changes_its_features() -> None:
    extractor = GridExtractor()
    large, small = (scene(width=width, height=width * 3 // 4) for width in (3000, 900))
    a, b = (extractor.extract(decode_picture(encode(image)).image).features.astype(float) for image in (large, small))
    assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.9
