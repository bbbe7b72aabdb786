"""A gallery contains the encodings of the model, builds resume, and a damaged gallery does not open."""

from __future__ import annotations

import dataclasses
import json
import shutil
import tempfile
from pathlib import Path

import gallery_examples
import numpy as np
import pytest
import torch
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st

from hire_model.batch import EncodedImages, EncodedTexts
from hire_model.data.store import Dataset
from hire_model.errors import HireError
from hire_model.gallery import building
from hire_model.gallery.building import build
from hire_model.gallery.format import format_rebuild_command
from hire_model.gallery.store import Gallery
from hire_model.model import artifact
from hire_model.scoring import matrix
from hire_model.scoring.scorer import Scorer
from hire_model.service.contract import RequestFault
from hire_model.service.galleries import Galleries

HALF = {"atol": 1e-3, "rtol": 1e-3}  # half precision has 11 bits


@pytest.fixture(scope="module")
def split(tiny_dataset):
    return gallery_examples.open_split(tiny_dataset)


@pytest.fixture(scope="module")
def model(split):
    return gallery_examples.make_model(split)


@pytest.fixture(scope="module")
def built(model, split, tmp_path_factory):
    """A gallery with captions that no test changes."""
    return gallery_examples.make_gallery(model, split, tmp_path_factory.mktemp("g") / "all", captions=True, shard=16)


@pytest.fixture(scope="module")
def small(model, tiny_dataset, tmp_path_factory):
    """A gallery of the dev split, 8 images, that no test changes."""
    split = gallery_examples.open_split(tiny_dataset, "dev")
    return gallery_examples.make_gallery(model, split, tmp_path_factory.mktemp("g") / "dev")


@pytest.fixture
def copy(built, tmp_path):
    """A copy of the gallery that a test may change."""
    return shutil.copytree(built.folder, tmp_path / "copy", symlinks=True)


@pytest.fixture(scope="module")
def encoded(model, split):
    with torch.inference_mode():
        return matrix.encode_images(model, split)


def test_images_read_in_any_order_equal_the_encodings_of_the_model(built, encoded):
    assert len(built) == len(encoded) == 40
    for rows in ([3], [39, 0, 17, 0], list(range(40))):
        read = built.read_images(rows)
        width = read.mask.shape[1]
        assert width == max(built.images.lengths[rows])
        mask = encoded.mask[rows, :width]
        torch.testing.assert_close(read.mask, mask)
        torch.testing.assert_close(read.regions[mask], encoded.regions[rows, :width][mask], **HALF)
        torch.testing.assert_close(read.summary, encoded.summary[rows], **HALF)
        both = (mask[:, None, :, None] & mask[:, None, None, :]).expand_as(read.edges)
        torch.testing.assert_close(read.edges[both], encoded.edges[rows][:, :, :width, :width][both], **HALF)


def test_captions_equal_the_encodings_of_the_model(built, model, split):
    rows = [5, 77, 2]
    read, expected = built.captions.read_rows(rows), Scorer(model).encode_texts([split.texts[row] for row in rows])
    torch.testing.assert_close(read.mask, expected.mask)
    torch.testing.assert_close(read.words[read.mask], expected.words[read.mask], **HALF)
    torch.testing.assert_close(read.roles[read.mask], expected.roles[read.mask], **HALF)
    torch.testing.assert_close(read.summary, expected.summary, **HALF)
    assert [built.caption_texts[row] for row in rows] == [split.texts[row] for row in rows]


def test_the_records_contain_every_field_of_an_encoded_item():
    """A field that is added to an encoded item must also be added to the records; otherwise scores are wrong."""
    names = [field.name for field in dataclasses.fields(EncodedImages)]
    assert names == ["regions", "mask", "summary", "edges", "shares"]
    assert [field.name for field in dataclasses.fields(EncodedTexts)] == ["words", "mask", "summary", "roles"]


def test_a_gallery_scores_with_the_shares_of_the_regions(tiny_dataset, tmp_path):
    split = gallery_examples.open_split(tiny_dataset, "dev")
    model = gallery_examples.make_model(split, region_weights="area", direction="i2t")
    gallery = gallery_examples.make_gallery(model, split, tmp_path / "g", captions=True)
    rows = range(len(split.images))
    with torch.inference_mode():
        expected = matrix.encode_images(model, split)
        scores = model.score(gallery.read_images(rows), gallery.captions.read_rows(rows)).pair
        torch.testing.assert_close(scores, model.score(expected, gallery.captions.read_rows(rows)).pair, **HALF)
        torch.testing.assert_close(
            gallery.read_images([3]).shares, expected.shares[3:4, : gallery.images.lengths[3]], **HALF
        )
        equal = dataclasses.replace(gallery.read_images(rows), shares=None)
        assert (model.score(equal, gallery.captions.read_rows(rows)).pair - scores).abs().max() > 0.01


@pytest.mark.parametrize("name", ["", "dev"])
def test_a_gallery_has_the_ids_boxes_relations_and_pictures_of_its_images(model, tiny_dataset, name, tmp_path):
    split = gallery_examples.open_split(tiny_dataset, name)
    gallery = gallery_examples.make_gallery(model, split, tmp_path / "g")
    ids = [split.image_id(row) for row in range(len(split.images))]
    assert gallery.ids.tolist() == ids
    assert [gallery.find(name) for name in ids] == list(range(len(ids))) and gallery.find(ids[0] + "x") is None
    for row in range(len(ids)):
        layout, expected = gallery.layout(row), split.regions(row)
        assert layout.features.shape == (len(expected.boxes), 0)
        for field in ("boxes", "classes", "scores", "relations", "relation_scores"):
            np.testing.assert_array_equal(getattr(layout, field), getattr(expected, field))
        assert gallery.picture(row).read_bytes() == split.picture(row).read_bytes()
        assert gallery.size(row) == tuple(split.dataset.image_sizes[split.images[row]])


def test_a_second_build_of_the_same_folder_is_refused(model, split, tmp_path):
    with (
        FileLock(tmp_path / ".g.lock"),
        pytest.raises(HireError, match="another process is building or changing this gallery"),
    ):
        gallery_examples.make_gallery(model, split, tmp_path / "g")
    assert len(gallery_examples.make_gallery(model, split, tmp_path / "g")) == len(split.images)


@settings(max_examples=12, deadline=None)
@given(shard=st.integers(1, 10), block=st.integers(1, 10), stop=st.integers(0, 12))
def test_shards_and_interruptions_do_not_change_the_gallery(model, tiny_dataset, small, shard, block, stop):
    split = gallery_examples.open_split(tiny_dataset, "dev")
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(matrix, "_ENCODE_BLOCK", block)
        out, calls = Path(name) / "g", []
        encode = model.encode_image

        def encode_until_stop(regions):
            if len(calls) == stop:
                raise KeyboardInterrupt
            calls.append(len(regions))
            return encode(regions)

        patch.setattr(model, "encode_image", encode_until_stop)
        try:
            build(model, split, out, shard=shard)
        except KeyboardInterrupt:
            assert not out.exists()
            patch.setattr(model, "encode_image", encode)
            resumed = build(model, split, out, shard=shard)
            assert resumed.encoded == 8 - sum(calls) // shard * shard  # complete shards are reused
        read, expected = Gallery.open(out).read_images(range(8)), small.read_images(range(8))
        torch.testing.assert_close(read.regions, expected.regions, **HALF)
        torch.testing.assert_close(read.summary, expected.summary, **HALF)
        assert {path.name for path in Path(name).iterdir()} == {"g", ".g.lock"}
        assert not (out / "parts").exists() and not (out / "key.json").exists()


def test_a_repeated_build_changes_no_file(model, split, copy, monkeypatch):
    monkeypatch.setattr(model, "encode_image", None)
    before = {path.name: path.stat().st_mtime_ns for path in copy.iterdir()}
    assert build(model, split, copy, captions=True, shard=7).encoded == 0
    assert {path.name: path.stat().st_mtime_ns for path in copy.iterdir()} == before


def test_another_gallery_in_the_folder_is_refused_with_the_differences(model, split, tiny_dataset, copy):
    with pytest.raises(HireError, match=r"another gallery: captions is yes, expected no\. Replace it with --overwrite"):
        build(model, split, copy)
    with pytest.raises(HireError, match="split is all, expected dev"):
        build(model, gallery_examples.open_split(tiny_dataset, "dev"), copy, captions=True)
    other = gallery_examples.make_model(split, seed=1)
    with pytest.raises(
        HireError, match=f"model is {artifact.digest(model)[:12]}, expected {artifact.digest(other)[:12]}"
    ):
        build(other, split, copy, captions=True)
    assert build(other, split, copy, overwrite=True).encoded == 40
    Gallery.open(copy).check_model(other)


def test_overwrite_does_not_replace_a_folder_that_is_not_a_gallery(model, split, tmp_path, tiny_dataset):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("text")
    for folder in (tmp_path / "mine", tiny_dataset):
        with pytest.raises(HireError, match=r"is not a gallery\. Nothing was changed"):
            build(model, split, folder, overwrite=True)
    assert (tmp_path / "mine" / "letter.txt").read_text() == "text"
    Dataset.open(tiny_dataset)


def test_an_interrupted_build_of_another_model_is_not_reused(model, split, tmp_path, monkeypatch):
    other = gallery_examples.make_model(split, seed=1)
    with monkeypatch.context() as patch:
        patch.setattr(building, "install", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            build(other, split, tmp_path / "g", shard=8)
    assert build(model, split, tmp_path / "g", shard=8).encoded == 40
    Gallery.open(tmp_path / "g").check_model(model)


@pytest.mark.parametrize(
    "name", ["images.npy", "images-summary.npy", "images.parquet", "captions-lengths.npy", "metadata.parquet"]
)
def test_a_gallery_with_a_changed_or_missing_file_does_not_open(copy, name):
    path = copy / "segments" / "000001" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(HireError, match=rf"{name}: its SHA-256 differs from manifest.json"):
        Gallery.open(copy)
    path.unlink()
    with pytest.raises(HireError, match=rf"{name}: missing from the gallery"):
        Gallery.open(copy)


def test_a_folder_that_is_not_a_gallery_does_not_open(tmp_path, tiny_dataset, copy):
    with pytest.raises(HireError, match=r"no gallery here .* 'hire gallery build DATASET"):
        Gallery.open(tmp_path / "nowhere")
    with pytest.raises(HireError, match="not the manifest of a gallery"):
        Gallery.open(tiny_dataset)


def test_a_manifest_with_a_missing_or_additional_file_is_refused(copy):
    manifest = json.loads((copy / "manifest.json").read_text())
    [segment] = manifest["segments"]
    for names in (set(segment["files"]) - {"images.npy"}, {*segment["files"], "../outside.npy"}):
        files = {name: segment["files"].get(name, {"bytes": 1, "sha256": "0"}) for name in names}
        (copy / "manifest.json").write_text(json.dumps(manifest | {"segments": [segment | {"files": files}]}))
        with pytest.raises(HireError, match="not the manifest of a gallery"):
            Gallery.open(copy)


def test_another_model_is_refused_and_the_same_model_loaded_again_is_accepted(built, model, split, tmp_path):
    built.check_model(artifact.load(artifact.save(model, tmp_path)))
    other = gallery_examples.make_model(split)
    with torch.no_grad():
        next(other.parameters()).flatten()[0] += 1e-3
    with pytest.raises(HireError, match=r"encoded by model \w{12} .* but this model is \w{12}.*--model MODEL --out"):
        built.check_model(other)


def test_a_full_disk_is_an_error_and_the_next_build_continues(model, split, tmp_path, monkeypatch):
    save, saved = np.save, []

    def save_until_full(path, array):
        if len(saved) == 4:
            raise OSError(28, "No space left on device")
        saved.append(path)
        save(path, array)

    with monkeypatch.context() as patch:
        patch.setattr(np, "save", save_until_full)
        with pytest.raises(HireError, match=r"No space left on device.*repeat the command; it continues"):
            build(model, split, tmp_path / "g", shard=16)
    assert build(model, split, tmp_path / "g", shard=16).encoded == 40 - 16


def test_captions_of_a_split_without_captions_are_refused(model, split, tmp_path):
    bare = dataclasses.replace(split, captions=split.captions[:0], owner=split.owner[:0])
    with pytest.raises(HireError, match="has no captions to encode"):
        build(model, bare, tmp_path / "g", captions=True)


def test_a_damaged_gallery_is_opened_only_once(model, split, tmp_path, monkeypatch):
    gallery_examples.make_gallery(model, split, tmp_path / "g")
    (tmp_path / "g/segments/000001/images-lengths.npy").write_bytes(b"damaged")
    opened, open_gallery = [], Gallery.open
    monkeypatch.setattr(Gallery, "open", lambda folder, previous=None: opened.append(folder) or open_gallery(folder))
    galleries = Galleries(tmp_path, Scorer(model))
    for _ in range(3):
        with pytest.raises(RequestFault, match=r"it is damaged\. Build it again: hire gallery build"):
            galleries.open("g", "gallery")
    assert len(opened) == 1


def test_a_gallery_of_another_model_is_refused_until_it_is_built_again(model, split, tmp_path):
    gallery_examples.make_gallery(gallery_examples.make_model(split, seed=5), split, tmp_path / "g")
    galleries = Galleries(tmp_path, Scorer(model), "models:/hire/3")
    galleries.open_all()
    with pytest.raises(RequestFault, match=r"another model encoded it.*build DATASET --model models:/hire/3") as error:
        galleries.open("g", "gallery")
    assert error.value.status == 404 and str(tmp_path) not in error.value.message
    build(model, split, tmp_path / "g", overwrite=True)
    assert len(galleries.open("g", "gallery")) == len(split.images)


def test_the_rebuild_command_names_data_set_split_and_captions(model, tiny_dataset, tmp_path):
    build(model, gallery_examples.open_split(tiny_dataset, "dev"), tmp_path / "a b", captions=True)
    more = f"--model M --out '{tmp_path}/a b' --overwrite --split dev --captions"
    assert format_rebuild_command(tmp_path / "a b", "M") == f"hire gallery build {tiny_dataset} {more}"
    shutil.rmtree(tmp_path / "a b" / "segments" / "000001" / "pictures")
    assert format_rebuild_command(tmp_path / "a b", "M") == f"hire gallery build DATASET {more}"
    assert format_rebuild_command(tmp_path / "none", "M").startswith("hire gallery build DATASET --model M --out")
