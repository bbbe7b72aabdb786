"""From a folder of pictures and a CSV to a data set that validates, trains, evaluates and can be searched."""

from __future__ import annotations

from pathlib import Path

import pytest
from picture_files import encode, rotated, scene

from expectations.check import validate
from hire_model.data.images.importing import ImageImport, import_images
from hire_model.data.importers.base import Target
from hire_model.data.schema import Manifest
from hire_model.data.splits import open_splits
from hire_model.data.store import Dataset
from hire_model.evaluation import protocols
from hire_model.gallery.building import build
from hire_model.gallery.search import search_images
from hire_model.gallery.store import Gallery
from hire_model.model.captions import build_caption_bank
from hire_model.scoring.matrix import compute_similarity
from hire_model.scoring.scorer import Scorer
from hire_model.settings import resolve
from hire_model.workflows.train import fit_model

COLOURS = ("red", "green", "blue", "yellow", "black", "white")
PICTURES = 18


@pytest.mark.slow
def test_a_folder_of_pictures_becomes_a_searchable_model(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    lines = ["image,caption"]
    for seed in range(PICTURES):
        image = scene(seed, 96, 64)
        colour = COLOURS[seed % len(COLOURS)]
        image.paste(colour, (30, 20, 80, 60))
        (tmp_path / "pictures" / f"{seed}.jpg").write_bytes(rotated(6) if seed == 7 else encode(image))
        lines += [
            f"{seed}.jpg,a large {colour} box number {seed}",
            f"{seed}.jpg,there is {colour} paint on the picture {seed}",
        ]
    (tmp_path / "captions.csv").write_text("\n".join(lines), "utf-8")
    job = ImageImport(tmp_path / "pictures", tmp_path / "captions.csv")
    manifest, _ = import_images(job, Target(tmp_path / "set"))
    assert manifest.feature_extractor.startswith("grid regions, EfficientNet-Lite0, sha256 ")
    assert manifest == Manifest.read(tmp_path / "set") and manifest.classes == ("whole image",)
    assert manifest.extractor is not None and manifest.extractor.kind == "grid"
    assert manifest.extractor.digest[:16] == manifest.feature_extractor[-16:]
    validation = validate(tmp_path / "set")
    assert validation.ok, validation.summary()

    overrides = {
        "model.preset": "tiny",
        "model.text.kind": "bigru",
        "data.path": str(tmp_path / "set"),
        "data.test": "test",
        "train.epochs": "1",
        "train.threads": "1",
    }
    settings = resolve("flickr8k_mini", overrides, environ={}).settings
    model, _ = fit_model(settings, open_splits(Dataset.open(tmp_path / "set"), settings.data), tmp_path / "run")
    test = Dataset.open(tmp_path / "set").split("test")
    matrix = compute_similarity(model, test, build_caption_bank(model, test.texts), 1 << 26)
    assert "full/rsum" in protocols.evaluate_matrix(matrix, test.owner, bootstrap=0).metrics()

    build(model, Dataset.open(tmp_path / "set").split(""), tmp_path / "gallery")
    gallery = Gallery.open(tmp_path / "gallery")
    (answer,) = search_images(Scorer(model), gallery, ["a large red box"], 3)
    picture = gallery.picture(answer.hits[0].row)
    assert len(gallery) == PICTURES and picture is not None and picture.is_file()
