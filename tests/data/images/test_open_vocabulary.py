"""OWLv2 and Grounding DINO as extractors, compared with the library's own results on random networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_checkpoints as tiny
import torch
import transformers as hf
from picture_examples import save_model, write_pictures
from picture_files import scene
from PIL import Image
from typer.testing import CliRunner

from hire_model.cli.main import app
from hire_model.data.images.checkpoint_detectors import open_detector
from hire_model.data.images.extractors import MAX_REGIONS, WHOLE_IMAGE, CheckpointExtractor
from hire_model.data.images.open_vocabulary import read_classes
from hire_model.data.images.recorded import describe_extractor, open_recorded
from hire_model.data.schema import ExtractorFacts
from hire_model.data.store import Dataset
from hire_model.errors import DataError
from hire_model.scoring.pictures import PictureReader

NAMES = ("dog", "red ball", "large green tree")
WIDE, HIGH = (90, 50), (50, 90)


@pytest.fixture(scope="module")
def owlv2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_owlv2(tmp_path_factory.mktemp("owlv2"))


@pytest.fixture(scope="module")
def grounding(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_grounding_dino(tmp_path_factory.mktemp("grounding"))


@pytest.mark.parametrize("size", [WIDE, HIGH])
def test_owlv2_finds_the_boxes_scores_and_names_of_the_library_in_a_picture_that_is_not_square(
    owlv2: Path, size: tuple[int, int]
) -> None:
    picture = scene(width=size[0], height=size[1])
    found = open_detector(str(owlv2), NAMES).detect(picture)
    processor = hf.Owlv2Processor(
        hf.Owlv2ImageProcessorPil.from_pretrained(owlv2), hf.AutoTokenizer.from_pretrained(owlv2)
    )
    model = hf.Owlv2ForObjectDetection.from_pretrained(owlv2).eval()
    inputs = processor(text=[list(NAMES)], images=picture, return_tensors="pt", text_kwargs={"max_length": 8})
    with torch.inference_mode():
        output = model(**inputs)
    (library,) = processor.post_process_grounded_object_detection(
        output, threshold=0, target_sizes=[(size[1], size[0])], text_labels=[list(NAMES)]
    )
    order = torch.argsort(library["scores"], descending=True, stable=True)
    assert np.allclose(found.scores, library["scores"][order], atol=1e-6)
    assert [NAMES[index] for index in found.classes] == [library["text_labels"][index] for index in order]
    assert len(set(found.classes.tolist())) > 1 and np.ptp(found.scores) > 0.01
    pixels = np.array([*size, *size])
    expected = library["boxes"][order].numpy().clip(0, pixels)
    assert np.allclose(found.boxes * pixels, expected, atol=1e-3)
    assert np.ptp(expected[:, 0]) > 10 and np.ptp(expected[:, 1]) > 10
    assert found.features is not None and np.allclose(found.features, output.class_embeds[0, order], atol=1e-5)


def test_a_patch_of_owlv2_lies_where_the_picture_is_and_not_in_the_padding(owlv2: Path) -> None:
    detector = open_detector(str(owlv2), NAMES)
    found = detector.detect(scene(width=90, height=50))
    assert found.patches is not None and found.patches.cells.shape == (8, 8, 16)
    assert found.patches.covered == (1, 50 / 90)
    halves = np.array([[0, 0, 1, 0.45], [0, 0.45, 1, 0.9]], np.float32)  # of the picture: rows 0 and 1, rows 2 and 3
    cells = found.patches.cells.numpy()
    assert np.allclose(found.patches.pool(halves), [cells[:2].mean((0, 1)), cells[2:4].mean((0, 1))], atol=1e-5)


def test_owlv2_alone_gives_the_whole_image_its_objects_and_cells_of_mean_embeddings(owlv2: Path) -> None:
    extractor = CheckpointExtractor(str(owlv2), "", classes=NAMES)
    regions = extractor.extract(scene(width=90, height=50))
    assert extractor.classes == (*NAMES, WHOLE_IMAGE) and extractor.name.endswith("patches, 3 named classes")
    assert regions.boxes[0].tolist() == [0, 0, 1, 1] and regions.classes[0] == 3
    assert 10 < len(regions.boxes) <= MAX_REGIONS and regions.features.shape[1] == extractor.feature_dim == 16
    objects, cells = (regions.classes >= 0) & (regions.classes < 3), regions.classes == -1
    assert objects.sum() > 2 and cells.any() and objects.sum() + cells.sum() + 1 == len(regions.boxes)
    lengths = np.linalg.norm(regions.features.astype(np.float32), axis=1)
    assert np.allclose(lengths[objects], 1, atol=0.01) and (lengths[~objects] < 1).all()
    assert (regions.boxes[:, 2:] - regions.boxes[:, :2] >= 0.01).all()


def test_a_large_picture_is_reduced_before_the_library_blurs_it(owlv2: Path) -> None:
    detector: Any = open_detector(str(owlv2), NAMES)
    seen, process = [], detector.processor

    def record(images: Image.Image, **options: Any) -> Any:
        seen.append(images.size)
        return process(images=images, **options)

    detector.processor = record
    found = detector.detect(scene(width=600, height=200))
    assert seen == [(128, 43)] and found.patches is not None
    assert found.boxes.min() == 0 and found.boxes.max() == 1


@pytest.mark.parametrize("size", [WIDE, HIGH])
def test_grounding_dino_finds_the_boxes_scores_and_names_of_the_library(grounding: Path, size: tuple[int, int]) -> None:
    picture = scene(width=size[0], height=size[1])
    detector = open_detector(str(grounding), ("Dog", *NAMES[1:]))
    found = detector.detect(picture)
    processor = hf.GroundingDinoProcessor(
        hf.GroundingDinoImageProcessorPil.from_pretrained(grounding), hf.AutoTokenizer.from_pretrained(grounding)
    )
    model = hf.GroundingDinoForObjectDetection.from_pretrained(grounding).eval()
    inputs = processor(images=picture, text=[list(NAMES)], return_tensors="pt")
    assert inputs["input_ids"].equal(detector.text["input_ids"])  # type: ignore[attr-defined]
    with torch.no_grad():
        output = model(**inputs)
    words = processor.tokenizer.convert_ids_to_tokens(inputs["input_ids"][0])
    marks = [index for index, word in enumerate(words) if word in ("[CLS]", "[SEP]", ".")]
    output.logits[..., marks] = -torch.inf  # a trained network gives them no score, a random one does
    (library,) = processor.post_process_grounded_object_detection(
        output, threshold=0, text_threshold=0, target_sizes=[(size[1], size[0])]
    )
    order = torch.argsort(library["scores"], descending=True, stable=True)
    assert np.allclose(found.scores, library["scores"][order], atol=1e-6) and np.ptp(found.scores) > 0.001
    pixels = np.array([*size, *size])
    expected = library["boxes"][order].numpy().clip(0, pixels)
    large = (expected[:, 2:] - expected[:, :2] > 2).all(axis=1)
    assert np.allclose((found.boxes * pixels)[large], expected[large], atol=1e-3) and large.any()
    assert found.features is not None and np.allclose(found.features, output.last_hidden_state[0, order], atol=1e-5)
    for row, index in zip(order.tolist(), found.classes, strict=True):
        best = processor.tokenizer.decode([inputs["input_ids"][0, output.logits[0, row].argmax()]])
        assert best in NAMES[index]
    assert len(set(found.classes.tolist())) > 1


def test_grounding_dino_alone_gives_its_36_best_queries(grounding: Path) -> None:
    extractor = CheckpointExtractor(str(grounding), "", classes=NAMES)
    regions = extractor.extract(scene(width=90, height=50))
    assert extractor.classes == NAMES and regions.features.shape == (MAX_REGIONS, 32)
    assert extractor.name.endswith("queries, 3 named classes") and np.isfinite(regions.scores).all()


def test_named_boxes_get_the_patches_of_a_backbone(owlv2: Path, grounding: Path, tmp_path: Path) -> None:
    clip = str(tiny.make_clip(tmp_path / "clip"))
    for detector in (owlv2, grounding):
        extractor = CheckpointExtractor(str(detector), clip, classes=NAMES)
        regions = extractor.extract(scene(width=90, height=50))
        assert regions.features.shape == (len(regions.boxes), tiny.HIDDEN)
        assert extractor.classes == (*NAMES, WHOLE_IMAGE) and (regions.classes[1:] >= 0).any()


def test_names_and_checkpoint_are_part_of_the_digest_and_are_recorded(
    owlv2: Path, grounding: Path, tmp_path: Path
) -> None:
    other = tiny.make_owlv2(tmp_path / "other", seed=1)
    made = [(owlv2, NAMES), (owlv2, NAMES[:2]), (owlv2, NAMES[::-1]), (other, NAMES), (grounding, NAMES)]
    extractors = [CheckpointExtractor(str(folder), "", classes=names) for folder, names in made]
    assert len({extractor.digest for extractor in extractors}) == len(made)
    for extractor in (extractors[0], extractors[-1]):
        facts = describe_extractor(extractor)
        assert facts is not None
        again = open_recorded(ExtractorFacts.model_validate_json(facts.model_dump_json()), tmp_path)
        first, second = extractor.extract(scene(width=90, height=50)), again.extract(scene(width=90, height=50))
        assert np.array_equal(first.features, second.features) and again.classes == extractor.classes
        fewer = facts.model_copy(update={"options": facts.options | {"classes": ["dog"]}})
        with pytest.raises(DataError, match="other weights or settings"):
            open_recorded(fewer, tmp_path)


def test_names_come_from_a_file_or_from_the_option(tmp_path: Path) -> None:
    file = tmp_path / "names.txt"
    file.write_text("dog\n  red   ball\nstop, or yield sign\n")
    assert read_classes(str(file)) == ("dog", "red ball", "stop, or yield sign")
    assert read_classes("dog, red ball") == ("dog", "red ball") and read_classes("dog") == ("dog",)
    many = tuple(f"object number {number}" for number in range(80))  # longer than a file name may be
    assert read_classes(", ".join(many)) == many
    for option, message in (
        ("nams.txt", "no such file"),
        ("dog,,cat", "'' is empty"),
        ("dog, Dog", "is there twice"),
        ("dog, Whole image", "whole picture"),
    ):
        with pytest.raises(DataError, match=message):
            read_classes(option)


def test_names_that_a_detector_cannot_use_are_refused(owlv2: Path, grounding: Path, tmp_path: Path) -> None:
    dfine = str(tiny.make_dfine(tmp_path / "dfine"))
    for folder, names, message in (
        (owlv2, (), "Add --classes"),
        (dfine, NAMES, "has classes of its own"),
        (owlv2, ("dog " * 7,), "is 9 word pieces, but .* reads 8"),
        (grounding, ("dog " * 40,), "1 names are 43 word pieces, but .* reads 40"),
        (grounding, ("st. bernard",), "full stop"),
        (grounding, ("dog", "\u200b"), "reads no word"),
    ):
        with pytest.raises(DataError, match=message):
            open_detector(str(folder), names)


def test_a_model_of_pictures_imported_with_names_reads_new_pictures_in_the_same_way(
    owlv2: Path, tmp_path: Path
) -> None:
    captions = write_pictures(tmp_path / "in", 8)
    arguments = ["data", "import", "images", str(captions.parent / "pictures"), "--captions", str(captions)]
    arguments += ["--detector", str(owlv2), "--classes", "dog, red ball", "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, [*arguments, "--workers", "1"])
    assert result.exit_code == 0, result.output
    data = Dataset.open(tmp_path / "out")
    assert data.manifest.classes == ("dog", "red ball", WHOLE_IMAGE)
    assert data.manifest.extractor is not None and data.manifest.extractor.options["classes"] == ["dog", "red ball"]
    reader = PictureReader.load(save_model(data, tmp_path / "model"))
    split = data.split("train")
    file = split.picture(0)
    assert file is not None
    picture = reader.read_file(file)
    assert np.array_equal(picture.regions.features, split.regions(0).features)
    assert np.array_equal(picture.regions.classes, split.regions(0).classes)
