"""Scene graphs are matched with regions by the overlap of boxes."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hire_model.data.importers.base import Notes, Source, Target, write_dataset
from hire_model.data.importers.files import iterate_json
from hire_model.data.importers.graph import (
    GraphOptions,
    Graphs,
    add_graphs,
    compute_resized_size,
    match_boxes,
    read_sgb,
    read_vg,
)
from hire_model.data.schema import hash_file
from hire_model.data.store import Dataset
from hire_model.data.writer import ImageRecord
from hire_model.errors import DataError

WIDTH, HEIGHT = 640, 480
BOXES = np.array([[0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1], [0.1, 0.6, 0.4, 0.9]], np.float32)


def make_source(boxes: np.ndarray | None = BOXES, size: tuple[int, int] = (WIDTH, HEIGHT)) -> Source:
    def records(notes: Notes) -> Iterator[ImageRecord]:
        for name in ("000000000042.jpg", "000000000043.jpg"):
            features = np.ones((3, 2), np.float32)
            yield ImageRecord(name, "dev", features, ["a dog"], *size, boxes=boxes)

    return Source("test", 2, 2, records)


def import_graphs(graphs: Graphs, out: Path, **changed: Any) -> tuple[Dataset, str]:
    source = add_graphs(make_source(**changed), graphs)
    write_dataset(source, Target(out))
    return Dataset.open(out), "\n".join(source.notes.sentences())


def write_sgb(folder: Path, frame: tuple[int, int] = (800, 600), **changed: Any) -> Path:
    """Write a prediction for image 42. Its boxes are slightly shifted and in a different order than the regions."""
    boxes = (BOXES[[1, 0, 2]] * np.array([*frame, *frame]) + 3).tolist()
    prediction = {
        "bbox": [*boxes, [700, 0, 790, 50]],
        "bbox_labels": [1, 2, 3, 4],
        "bbox_scores": [0.9, 0.8, 0.7, 0.6],
        "rel_pairs": [[1, 0], [0, 3], [2, 1], [1, 0], [2, 1]],
        "rel_labels": [2, 1, 1, 2, 2],
        "rel_scores": [0.5, 0.9, 0.4, 0.6, 0.3],
    }
    info = {
        "ind_to_classes": ["__background__", "a", "b", "c", "d"],
        "ind_to_predicates": ["__background__", "on", "wears"],
        "idx_to_files": ["/somewhere/else/000000000042.jpg"],
    }
    (folder / "custom_data_info.json").write_text(json.dumps(info), "utf-8")
    path = folder / "custom_prediction.json"
    path.write_text(json.dumps({"0": prediction | changed}), "utf-8")
    return path


def test_relations_of_scene_graph_benchmark_are_matched_with_regions(tmp_path: Path) -> None:
    data, notes = import_graphs(read_sgb(write_sgb(tmp_path), GraphOptions()), tmp_path / "out")
    regions = data.split("dev").regions(0)
    assert data.manifest.predicates == ("on", "wears")
    # Highest score first. (0 wears 1) was predicted twice and has the higher score. Box 3 matches no region.
    assert regions.relations.tolist() == [[0, 1, 1], [2, 0, 0], [2, 1, 0]]
    np.testing.assert_allclose(regions.relation_scores, [0.6, 0.4, 0.3], rtol=1e-6)
    assert len(data.split("dev").regions(1).relations) == 0
    assert "1 images without a graph" in notes and "1 relations dropped" in notes


def test_a_source_without_image_names_is_refused(tmp_path: Path) -> None:
    unnamed = dataclasses.replace(make_source(), named=False)
    with pytest.raises(DataError, match=r"the source has no image names.*_names\.txt"):
        add_graphs(unnamed, read_sgb(write_sgb(tmp_path), GraphOptions()))


def test_top_limits_the_relations_of_an_image(tmp_path: Path) -> None:
    data, _ = import_graphs(read_sgb(write_sgb(tmp_path), GraphOptions(top=1)), tmp_path / "out")
    assert data.split("dev").regions(0).relations.tolist() == [[0, 1, 1]]


def test_boxes_in_the_wrong_frame_match_no_region(tmp_path: Path) -> None:
    path = write_sgb(tmp_path, frame=(WIDTH, HEIGHT))
    data, _ = import_graphs(read_sgb(path, GraphOptions(frame="original")), tmp_path / "out")
    assert len(data.relations) == 3
    with pytest.raises(DataError, match=r"no relation matches the regions.*--graph-frame"):
        import_graphs(read_sgb(path, GraphOptions(iou=0.9)), tmp_path / "other")


def test_regions_without_boxes_or_sizes_are_refused(tmp_path: Path) -> None:
    graphs = read_sgb(write_sgb(tmp_path), GraphOptions())
    with pytest.raises(DataError, match="the regions have no boxes"):
        import_graphs(graphs, tmp_path / "out", boxes=None)
    with pytest.raises(DataError, match="width and height are unknown"):
        import_graphs(graphs, tmp_path / "out", size=(0, 0))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"bbox": [[0, 0, 1]]}, r"custom_prediction\.json: image '0': field 'bbox' is missing or has the wrong shape"),
        ({"rel_pairs": [[0, 9]] * 5}, r"image '0': rel_pairs names box 9. Expected 0 to 3"),
        ({"rel_labels": [3] * 5}, r"image '0': unknown predicate 3. Expected 1 to 2"),
        ({"rel_labels": [0] * 5}, r"image '0': unknown predicate 0. Expected 1 to 2"),
        ({"rel_pairs": [[0, 2**40]] * 5}, r"image '0': rel_pairs names box 1099511627776. Expected 0 to 3"),
        (
            {"rel_pairs": [[0, 2**70]] * 5},
            r"image '0': field 'rel_pairs' has dtype .*. Expected a list of integers",
        ),
        ({"rel_pairs": [[0, -1]] * 5}, r"image '0': rel_pairs names box -1. Expected 0 to 3"),
        ({"rel_pairs": [[0.9, 1]] * 5}, r"field 'rel_pairs' has dtype .*. Expected a list of integers"),
        ({"rel_labels": [1, 1, 1, 1, 1.5]}, r"field 'rel_labels' has dtype .*. Expected a list of integers"),
        ({"rel_labels": [2**40] * 5}, r"image '0': unknown predicate 1099511627776. Expected 1 to 2"),
        ({"rel_scores": [0.5, 0.5, 0.5, 0.5, math.nan]}, r"image '0': rel_scores holds nan. Expected 0 to 1"),
        ({"rel_scores": [0.5, 0.5, 0.5, 0.5, 1.01]}, r"image '0': rel_scores holds 1.01. Expected 0 to 1"),
        ({"rel_scores": [0.5, 0.5, 0.5, 0.5, -0.01]}, r"image '0': rel_scores holds -0.01. Expected 0 to 1"),
        ({"rel_scores": ["0.5"] * 5}, r"field 'rel_scores' has dtype .*. Expected a list of numbers"),
        ({"rel_scores": [0.1]}, r"image '0': 5 rel_pairs, 5 rel_labels, 1 rel_scores"),
    ],
)
def test_a_wrong_field_of_a_prediction_is_a_data_error(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_sgb(write_sgb(tmp_path, **changed), GraphOptions())


def test_scores_outside_0_to_1_by_rounding_are_clipped(tmp_path: Path) -> None:
    path = write_sgb(tmp_path, rel_scores=[1.0005, 0.9, 0.4, 0.6, -0.0005])
    assert read_sgb(path, GraphOptions()).images["42"].scores.tolist() == pytest.approx([1, 0.9, 0.6, 0.4, 0])


def test_a_prediction_without_relations_is_an_empty_graph(tmp_path: Path) -> None:
    path = write_sgb(tmp_path, bbox=[], rel_pairs=[], rel_labels=[], rel_scores=[])
    graph = read_sgb(path, GraphOptions()).images["42"]
    assert graph.boxes.shape == (0, 4) and graph.edges.shape == (0, 3) and graph.edges.dtype == np.int32


def test_a_repeated_predicate_name_is_refused(tmp_path: Path) -> None:
    path, info = write_sgb(tmp_path), tmp_path / "custom_data_info.json"
    info.write_text(info.read_text("utf-8").replace('"wears"', '"wears", "on"'), "utf-8")
    with pytest.raises(
        DataError, match=r"custom_data_info\.json: ind_to_predicates: the name 'on' at 3 is already at 1"
    ):
        read_sgb(path, GraphOptions())


def test_predictions_without_their_file_names_are_refused(tmp_path: Path) -> None:
    path = write_sgb(tmp_path)
    path.write_text(path.read_text("utf-8").replace('{"0"', '{"1"'), "utf-8")
    with pytest.raises(DataError, match=r"image '1': no file name in custom_data_info\.json, which names 1 files"):
        read_sgb(path, GraphOptions())
    (tmp_path / "custom_data_info.json").write_text("{}", "utf-8")
    with pytest.raises(DataError, match="Expected an object with the lists ind_to_predicates and idx_to_files"):
        read_sgb(path, GraphOptions())
    (tmp_path / "custom_data_info.json").unlink()
    with pytest.raises(DataError, match=r"custom_data_info\.json: cannot be read"):
        read_sgb(path, GraphOptions())


def write_vg(folder: Path, name: int = 42) -> Path:
    def make_end(box: np.ndarray) -> dict[str, Any]:
        x1, y1, x2, y2 = (box * np.array([WIDTH, HEIGHT, WIDTH, HEIGHT])).tolist()
        return {"x": x1, "y": y1, "w": x2 - x1, "h": y2 - y1, "names": ["thing"]}

    edges = [("ON", 0, 1), ("on ", 2, 1), ("has", 1, 0)]
    relationships = [{"predicate": p, "subject": make_end(BOXES[s]), "object": make_end(BOXES[o])} for p, s, o in edges]
    path = folder / "relationships.json"
    path.write_text(json.dumps([{"image_id": name, "relationships": relationships}]), "utf-8")
    return path


def test_relations_of_visual_genome_are_matched_with_regions(tmp_path: Path) -> None:
    data, _ = import_graphs(read_vg(write_vg(tmp_path), GraphOptions()), tmp_path / "out")
    assert data.manifest.predicates == ("on", "has")
    assert data.split("dev").regions(0).relations.tolist() == [[0, 0, 1], [2, 0, 1], [1, 1, 0]]
    data, _ = import_graphs(read_vg(write_vg(tmp_path), GraphOptions(vocabulary=1)), tmp_path / "small")
    assert data.manifest.predicates == ("on",) and len(data.relations) == 2


def test_the_file_of_imported_relations_is_recorded(tmp_path: Path) -> None:
    path = write_sgb(tmp_path)
    facts = import_graphs(read_sgb(path, GraphOptions()), tmp_path / "out")[0].manifest.relation_maker
    assert facts is not None and (facts.kind, facts.name) == ("file", f"Scene-Graph-Benchmark, {path.name}")
    assert facts.digest == hash_file(path).sha256 and facts.options["top"] == 50


def test_visual_genome_images_are_found_by_coco_id_and_use_their_own_picture_size(tmp_path: Path) -> None:
    images = [
        {"image_id": 1, "coco_id": 42, "width": WIDTH, "height": HEIGHT},
        {"image_id": 2, "coco_id": None, "width": 1, "height": 1},
    ]
    (tmp_path / "image_data.json").write_text(json.dumps(images), "utf-8")
    graphs = read_vg(write_vg(tmp_path, 1), GraphOptions(images=tmp_path / "image_data.json"))
    data, _ = import_graphs(graphs, tmp_path / "out", size=(WIDTH // 2, HEIGHT // 2))
    assert len(data.split("dev").regions(0).relations) == 3


BEYOND_FLOAT = json.dumps({"predicate": "on", "subject": {"x": 10**400}})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"relationships\.json: not JSON. Expected one list or one object"),
        ("[{]", r"relationships\.json: not JSON, or truncated, after 0 complete items"),
        ('[{"image_id": 1, "relationships": []}', r"relationships\.json: not JSON, or truncated, after 0 complete"),
        ("[" * 100_000, r"relationships\.json: lists or objects nested too deeply"),
        (f"[{'9' * 5000}]", r"relationships\.json: not JSON"),
        ('[{"a": [0, "\\ud83d"]}]', r"relationships\.json: item 0: a\[1\]: half a character"),
        (
            f'[{{"image_id": 1, "relationships": [{BEYOND_FLOAT}]}}]',
            r"entry 0, relationship 0: wrong layout. Expected predicate",
        ),
        ("[{}]", r"entry 0: wrong layout. Expected an object with image_id and the list relationships"),
        (
            '[{"image_id": 1, "relationships": [{"predicate": "on"}]}]',
            r"entry 0, relationship 0: wrong layout. Expected predicate",
        ),
    ],
)
def test_a_fault_in_relationships_json_is_a_data_error(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "relationships.json"
    path.write_text(content, "utf-8")
    with pytest.raises(DataError, match=message):
        read_vg(path, GraphOptions())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@given(st.lists(JSON, max_size=5) | st.dictionaries(st.text(max_size=3), JSON, max_size=5), st.integers(1, 9))
def test_iterate_json_equals_json_load_at_any_block_size(
    tmp_path_factory: pytest.TempPathFactory, value: list[Any] | dict[str, Any], block: int
) -> None:
    path = tmp_path_factory.mktemp("json") / "a.json"
    path.write_text(json.dumps(value, indent=block % 2 or None), "utf-8")
    expected = [(str(i), v) for i, v in enumerate(value)] if isinstance(value, list) else list(value.items())
    assert list(iterate_json(path, block)) == expected


@given(st.integers(0, 5), st.integers(1, 5), st.integers(0, 99), st.floats(0.05, 0.95))
def test_match_boxes_equals_a_plain_loop(count: int, regions: int, seed: int, min_iou: float) -> None:
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 0.5, (count + regions, 2))
    boxes = np.concatenate([low, low + rng.uniform(0.1, 0.5, low.shape)], axis=1)

    def iou(a: np.ndarray, b: np.ndarray) -> float:
        w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
        area: Callable[[np.ndarray], float] = lambda x: (x[2] - x[0]) * (x[3] - x[1])  # noqa: E731
        shared = max(w, 0) * max(h, 0)
        return shared / (area(a) + area(b) - shared)

    expected = []
    for box in boxes[:count]:
        overlaps = [iou(box, region) for region in boxes[count:]]
        expected.append(int(np.argmax(overlaps)) if max(overlaps) >= min_iou else -1)
    assert match_boxes(boxes[:count], boxes[count:], min_iou).tolist() == expected


@pytest.mark.parametrize(
    ("size", "expected"),
    [((640, 480), (800, 600)), ((480, 640), (600, 800)), ((1000, 300), (1000, 300)), ((500, 100), (1000, 200))],
)
def test_compute_resized_size_keeps_the_aspect_ratio_and_the_limits(
    size: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert compute_resized_size(*size) == expected


def test_a_missing_prediction_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing\.json: no such file"):
        read_sgb(tmp_path / "nothing.json", GraphOptions())
