"""Requests with pictures get the scores of the imported data set; every unusable picture gets a reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from picture_examples import FLOAT16, import_pictures, pair, picture, save_model
from picture_files import DAMAGED, READABLE, encode, png_claiming, rotated, scene

from hire_model.data.images import recorded
from hire_model.data.store import Dataset
from hire_model.errors import DataError
from hire_model.model import artifact
from hire_model.monitoring.journal import measure_image
from hire_model.scoring.pictures import NO_EXTRACTOR, PictureReader
from hire_model.scoring.scorer import Scorer
from hire_model.service.parsing import Limits, Request
from hire_model.service.service import Service
from hire_model.service.timings import Timings

OTHER_FORMATS = ("bmp", "tiff", "animated gif")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return import_pictures(tmp_path_factory.mktemp("pictures"), 4)


@pytest.fixture(scope="module")
def model(data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(data, tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def service(model: Path) -> Service:
    return Service.load(model)


def content(data: Dataset, index: int) -> bytes:
    path = data.picture(index)
    assert path is not None
    return path.read_bytes()


def send(service: Service, request: object, explain: bool = False) -> tuple[int, dict[str, Any]]:
    [reply], _ = service.answer([Request(json.dumps(request), explain)])
    return reply.status, json.loads(reply.body)


def test_a_picture_gets_the_scores_of_its_imported_regions(service: Service, data: Dataset) -> None:
    texts = ["a red box", "green paint"]
    status, answer = send(service, {"images": [picture(content(data, i)) for i in range(4)], "texts": texts})
    expected = service.scorer.predict([(data.regions(i), text) for i in range(4) for text in texts])
    assert status == 200
    np.testing.assert_allclose(np.ravel(answer["scores"]), expected, atol=FLOAT16)
    assert np.ptp(expected) > 10 * FLOAT16


def test_a_picture_is_explained_with_the_boxes_of_its_regions(service: Service, data: Dataset) -> None:
    status, answer = send(service, pair(content(data, 1)), explain=True)
    explanation = answer["explanations"][0]
    assert status == 200 and explanation["boxes"] == data.regions(1).boxes.tolist()
    assert sum(explanation["contributions"]) == pytest.approx(explanation["score"], abs=1e-4)


def test_a_picture_is_extracted_once(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(service.pictures.reader, PictureReader)
    extractor, seen = service.pictures.reader.extractor, []
    extract = extractor.extract
    monkeypatch.setattr(extractor, "extract", lambda image: seen.append(image) or extract(image))
    photo = encode(scene(77))
    first = send(service, {"images": [picture(photo)] * 3, "texts": ["a red box"]})
    assert first[0] == 200 and send(service, {"images": [picture(photo)] * 3, "texts": ["a red box"]}) == first
    assert len(seen) == 1


def test_the_journal_counts_a_picture_as_an_upload(service: Service, data: Dataset) -> None:
    parsed = service.parser.parse(Request(json.dumps(pair(content(data, 0)))), Timings())
    assert measure_image(parsed.images[0])["source"] == "upload"


@pytest.mark.parametrize("kind", READABLE)
def test_an_odd_picture_is_scored_if_it_is_a_jpeg_png_or_webp(service: Service, kind: str) -> None:
    status, answer = send(service, pair(READABLE[kind]()))
    if kind in OTHER_FORMATS:
        assert status == 400 and "not a picture in a known format (JPEG, PNG, WebP)" in answer["message"]
    else:
        assert status == 200 and np.isfinite(answer["scores"]).all()


@pytest.mark.parametrize("orientation", [3, 6])
def test_a_rotated_picture_gets_the_score_of_the_upright_one(service: Service, orientation: int) -> None:
    scores = [send(service, pair(rotated(number, "PNG")))[1]["scores"] for number in (1, orientation)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-5)


@pytest.mark.parametrize("explain", [False, True])
@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_picture_is_refused_with_the_reason(service: Service, kind: str, explain: bool) -> None:
    make, _ = DAMAGED[kind]
    status, answer = send(service, pair(make()), explain)
    assert status == 400 and answer["path"] == "pairs[0].image.picture" and len(answer["message"]) > 10
    good = READABLE["jpeg"]()
    assert send(service, pair(good), explain)[0] == 200, "the next request is answered"


@pytest.mark.parametrize(
    ("limits", "request_", "status", "path", "message"),
    [
        ({"pictures": 2}, {"images": [picture(b"x")] * 3, "texts": ["a"]}, 413, "", "3 pictures"),
        ({"picture_bytes": 500}, pair(encode(scene())), 413, "pairs[0].image.picture", "at most 500"),
        ({"picture_pixels": 9_999}, pair(png_claiming(100, 100)), 400, "pairs[0].image.picture", "100 x 100 pixels"),
        ({"picture_seconds": 0.0}, pair(encode(scene())), 413, "pairs[0].image.picture", "take too long"),
    ],
)  # fmt: skip
def test_a_picture_over_a_limit_is_refused(
    model: Path, limits: dict[str, Any], request_: object, status: int, path: str, message: str
) -> None:
    answered, answer = send(Service.load(model, limits=Limits(**limits)), request_)
    assert (answered, answer["path"]) == (status, path) and message in answer["message"]


def test_base64_with_a_data_prefix_is_refused_with_a_hint(service: Service) -> None:
    request = pair(b"x")
    request["pairs"][0]["image"]["picture"] = "data:image/jpeg;base64,/9j/"
    status, answer = send(service, request)
    assert status == 400 and "Leave out 'data:" in answer["message"]


def test_a_model_without_an_extractor_refuses_pictures_and_says_what_to_send(data: Dataset, tmp_path: Path) -> None:
    folder = artifact.save(artifact.load(save_model(data, tmp_path / "with")), tmp_path / "without")
    status, answer = send(Service.load(folder), pair(content(data, 0)))
    assert status == 400 and answer["path"] == "pairs[0].image.picture"
    assert NO_EXTRACTOR in answer["message"] and "features" in answer["message"]
    with pytest.raises(DataError, match="not trained on a data set imported from pictures"):
        PictureReader.load(folder)


def test_other_weights_than_those_of_the_training_are_refused_but_regions_are_scored(
    model: Path, data: Dataset, tmp_path: Path
) -> None:
    config = json.loads((model / "config.json").read_text())
    config["extractor"]["digest"] = "0" * 64
    for name in ("model.safetensors", "tokenizer.json"):
        (tmp_path / name).symlink_to(model / name)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(DataError, match="other weights or settings"):
        PictureReader.load(tmp_path)
    service = Service.load(tmp_path)
    status, answer = send(service, pair(content(data, 0)))
    assert status == 400 and "its log has the reason" in answer["message"] and str(tmp_path) not in answer["message"]
    assert service.scorer.predict([(data.regions(0), "a red box")]).shape == (1,)


def test_an_extractor_of_a_newer_release_is_refused_by_name(model: Path) -> None:
    facts = artifact.read_extractor(model)
    assert facts is not None and facts.kind == "grid" and not facts.file
    with pytest.raises(DataError, match=r"'new' .*, which this release does not"):
        recorded.open_recorded(facts.model_copy(update={"name": "new", "kind": "newer"}), model)


def test_a_detector_travels_with_data_set_and_model(shared_data: Path, tmp_path: Path) -> None:
    detector = tmp_path / "detector.onnx"
    detector.write_bytes((shared_data / "detector" / "yolox_nano_coco80.onnx").read_bytes())
    data = import_pictures(tmp_path / "data", 3, detector)
    detector.unlink()
    folder = save_model(data, tmp_path / "model", class_vectors=True)
    reader, scorer = PictureReader.load(folder), Scorer.load(folder)
    path = data.picture(2)
    assert path is not None
    read = reader.read_file(path)
    np.testing.assert_allclose(read.regions.features, data.regions(2).features, rtol=2e-3, atol=2e-3)
    pairs = [(read.regions, "a red box"), (data.regions(2), "a red box")]
    imported = Scorer(scorer.model, classes=data.manifest.classes)
    assert scorer.predict(pairs[:1]) == pytest.approx(imported.predict(pairs[1:]), abs=FLOAT16)
    (data.folder / "extractor.onnx").write_bytes(b"x" * data.manifest.files["extractor.onnx"].bytes)
    with pytest.raises(DataError, match=r"extractor.onnx: its SHA-256 differs"):
        Dataset.open(data.folder)
    (folder / "extractor.onnx").write_bytes(b"x")
    with pytest.raises(Exception, match=r"extractor.onnx: its SHA-256 differs"):
        artifact.load(folder)
