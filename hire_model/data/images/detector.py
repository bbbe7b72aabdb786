"""Detect objects with any detector of the YOLOX type (Ge et al. 2021) in an ONNX file."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from hire_model.data.images.patches import PatchMap
from hire_model.errors import DataError

_STRIDES = (8, 16, 32)
_PADDING = 114  # grey level beside the picture, as in YOLOX's training
_MIN_SCORE = 0.03  # low: an uncertain box is still a better region than a grid cell
_MAX_IOU = 0.5  # two boxes of one class that overlap more are one object
WHOLE_IMAGE = "whole image"  # class of the region that is the picture itself
MIN_SIDE = 0.01  # of the picture; thinner boxes are dropped
_LOG_LIMIT = 20.0  # widths are logarithms of cells; a larger number means pixels, that is, decoded output
_ADVICE = "Expected a YOLOX detector as its export_onnx.py writes it, without --decode_in_inference."

COCO_CLASSES = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow", "elephant",
    "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard",
    "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle",
    "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange", "broccoli",
    "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant", "bed", "dining table", "toilet",
    "tv", "laptop", "mouse", "remote", "keyboard", "cell phone", "microwave", "oven", "toaster", "sink", "refrigerator",
    "book", "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush",
)  # fmt: skip


@dataclass(frozen=True)
class Found:
    """Detections, best first.

    boxes [n, 4] float32 as fractions, classes [n] int32, scores [n] float32; features [n, F] float32 if the detector
    has its own, else None; patches: features of the picture's patches, if the detector has them
    """

    boxes: np.ndarray
    classes: np.ndarray
    scores: np.ndarray
    features: np.ndarray | None = None
    patches: PatchMap | None = None


class YoloxDetector:
    """A YOLOX detector that runs on one CPU thread.

    digest: SHA-256 of the file; classes: COCO's names if there are 80, else "class 0", "class 1" ...
    Raises DataError if the file is no such detector, or if onnxruntime is not installed.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, path.stem
        try:
            data = path.read_bytes()
        except OSError as error:
            raise DataError(f"--detector {path}: cannot be read: {error.strerror}.") from error
        self.digest = hashlib.sha256(data).hexdigest()
        self.session = _open_session(data, path)
        inputs, outputs = self.session.get_inputs(), self.session.get_outputs()
        shape = inputs[0].shape
        if len(inputs) != 1 or len(shape) != 4 or shape[1] != 3 or not all(type(n) is int for n in shape[2:]):
            raise DataError(f"--detector {path}: input of shape {shape}, not [1, 3, height, width]. {_ADVICE}")
        self.input, (self.height, self.width) = inputs[0].name, shape[2:]
        self.origins, self.cells = _make_anchors(self.height, self.width)
        shape = outputs[0].shape
        if len(shape) != 3 or shape[1] != len(self.cells) or type(shape[2]) is not int or shape[2] < 6:
            raise DataError(
                f"--detector {path}: output of shape {shape}, not [1, {len(self.cells)}, 5 + classes]. {_ADVICE}"
            )
        count = shape[2] - 5
        self.classes = COCO_CLASSES if count == len(COCO_CLASSES) else tuple(f"class {i}" for i in range(count))

    def detect(self, image: Image.Image, limit: int | None = None) -> Found:
        """Return at most `limit` objects of an RGB picture, after non-maximum suppression within each class."""
        return select_objects(self.propose(image), limit)

    def propose(self, image: Image.Image) -> Found:
        """Return a box for each anchor of the network, in the network's order."""
        scale = min(self.width / image.width, self.height / image.height)
        size = max(round(image.width * scale), 1), max(round(image.height * scale), 1)
        canvas = np.full((self.height, self.width, 3), _PADDING, np.float32)
        canvas[: size[1], : size[0]] = np.asarray(image.resize(size, Image.Resampling.BILINEAR))[..., ::-1]  # BGR
        (output,) = self.session.run(None, {self.input: np.ascontiguousarray(canvas.transpose(2, 0, 1)[None])})
        raw = output[0]  # [anchors, 5 + classes]: offset x y, log width height, objectness, class scores
        if raw[:, 2:4].max() > _LOG_LIMIT:
            raise DataError(f"--detector {self.path}: its output is decoded already. {_ADVICE}")
        scores = raw[:, 4:5] * raw[:, 5:]
        classes = scores.argmax(axis=1)
        best = scores[np.arange(len(raw)), classes]
        centres = (raw[:, :2] + self.origins) * self.cells[:, None]
        halves = np.exp(raw[:, 2:4]) * self.cells[:, None] / 2
        boxes = np.concatenate([centres - halves, centres + halves], axis=1) / np.tile(size, 2)
        boxes = boxes.clip(0, 1).astype(np.float32)
        return Found(boxes, classes.astype(np.int32), best.clip(0, 1).astype(np.float32))


def select_objects(found: Found, limit: int | None) -> Found:
    """Return at most `limit` detections that are certain and large enough, after suppression within each class."""
    certain = (found.scores >= _MIN_SCORE) & (found.boxes[:, 2:] - found.boxes[:, :2] >= MIN_SIDE).all(axis=1)
    usable = np.flatnonzero(certain)
    boxes, classes, scores = found.boxes[usable], found.classes[usable], found.scores[usable]
    kept = suppress_overlaps(boxes, classes, scores, _MAX_IOU)[:limit]
    features = None if found.features is None else found.features[usable][kept]
    return Found(boxes[kept], classes[kept], scores[kept], features, found.patches)


def suppress_overlaps(boxes: np.ndarray, classes: np.ndarray, scores: np.ndarray, max_iou: float) -> np.ndarray:
    """Return the indices that non-maximum suppression keeps, best score first.

    A box is dropped if it overlaps a better one of its class with an intersection over union above `max_iou`.
    """
    order = np.argsort(-scores, kind="stable")
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    kept = []
    while len(order):
        best, others = order[0], order[1:]
        kept.append(best)
        low = np.maximum(boxes[best, :2], boxes[others, :2])
        high = np.minimum(boxes[best, 2:], boxes[others, 2:])
        both = (high - low).clip(0).prod(axis=1)
        iou = both / (areas[best] + areas[others] - both)
        order = others[(iou <= max_iou) | (classes[others] != classes[best])]
    return np.array(kept, np.int64)


def _make_anchors(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return column and row [anchors, 2] and cell size in pixels [anchors] of each row of the output."""
    origins, cells = [], []
    for stride in _STRIDES:
        rows, columns = np.mgrid[: height // stride, : width // stride]
        origins.append(np.stack([columns.ravel(), rows.ravel()], axis=1))
        cells.append(np.full(rows.size, stride))
    return np.concatenate(origins).astype(np.float32), np.concatenate(cells).astype(np.float32)


def _open_session(data: bytes, path: Path):  # type: ignore[no-untyped-def]  # onnxruntime has no types
    try:
        import onnxruntime
    except ImportError as error:
        raise DataError(
            "--detector needs the package onnxruntime. Install it: pip install 'hire-model[images]'."
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has an exception class for each status, without a common base
        raise DataError(
            f"--detector {path}: not a usable ONNX file: {str(error).splitlines()[0]}. {_ADVICE}"
        ) from error
