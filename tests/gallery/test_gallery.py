"""A gallery holds what the model encodes, whatever the shards and interruptions, and opens only if it is whole."""

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
from hire_model.gallery.store import Gallery
from hire_model.model import artifact
from hire_model.scoring import matrix
from hire_model.scoring.scorer import Scorer
from hire_model.service.contract import RequestFault
from hire_model.service.galleries import Galleries


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


@pytest.fixture
def copy(built, tmp_path):
    """A copy that a test may harm."""
    return shutil.copytree(built.folder, tmp_path / "copy", symlinks=True)


@pytest.fixture(scope="module")
def encoded(model, split):
    with torch.inference_mode():
        return matrix.encode_images(model, split)


def test_rows_in_any_order_are_what_the_model_encodes(built, encoded):
    assert len(built) == len(encoded) == 40 and len(list(built.folder.glob("images-0*.npy"))) == 3
    for rows in ([3], [39, 0, 17, 0], list(range(40))):
        found = built.encoded(rows)
        width = found.mask.shape[1]
        assert width == max(built.images.lengths[rows])
        mask = encoded.mask[rows, :width]
        torch.testing.assert_close(found.mask, mask)
        torch.testing.assert_close(found.regions[mask], encoded.regions[rows, :width][mask], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(found.summary, encoded.summary[rows], atol=1e-6, rtol=1e-5)
        both = (mask[:, None, :, None] & mask[:, None, None, :]).expand_as(found.edges)
        torch.testing.assert_close(found.edges[both], encoded.edges[rows][:, :, :width, :width][both])


def test_captions_are_what_the_model_encodes(built, model, split):
    from hire_model.scoring.scorer import Scorer

    rows = [5, 77, 2]
    found, expected = built.captions.rows(rows), Scorer(model).encode_texts([split.texts[row] for row in rows])
    torch.testing.assert_close(found.mask, expected.mask)
    torch.testing.assert_close(found.words[found.mask], expected.words[found.mask], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.roles[found.mask], expected.roles[found.mask], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.summary, expected.summary, atol=1e-6, rtol=1e-5)
    assert [built.caption_texts[row] for row in rows] == [split.texts[row] for row in rows]


def test_all_that_scoring_needs_of_an_item_is_kept():
    """A new field of an encoded item has to find its place in the records, or scores go wrong without a word."""
    assert [field.name for field in dataclasses.fields(EncodedImages)] == ["regions", "mask", "summary", "edges"]
    assert [field.name for field in dataclasses.fields(EncodedTexts)] == ["words", "mask", "summary", "roles"]


@pytest.mark.parametrize("name", ["", "dev"])
def test_ids_and_what_is_drawn_come_with_each_image(model, tiny_dataset, name, tmp_path):
    split = gallery_examples.open_split(tiny_dataset, name)
    gallery = gallery_examples.make_gallery(model, split, tmp_path / "g")
    ids = [split.image_id(row) for row in range(len(split.images))]
    assert gallery.ids.tolist() == ids
    assert [gallery.find(name) for name in ids] == list(range(len(ids))) and gallery.find(ids[0] + "x") is None
    for row in range(len(ids)):
        here, there = gallery.layout(row), split.regions(row)
        assert here.features.shape == (len(there.boxes), 0)
        for field in ("boxes", "classes", "scores", "relations", "relation_scores"):
            np.testing.assert_array_equal(getattr(here, field), getattr(there, field))
        assert gallery.picture(row).read_bytes() == split.picture(row).read_bytes()
        assert gallery.size(row) == tuple(split.dataset.image_sizes[split.images[row]])


def test_one_build_at_a_time(model, split, tmp_path):
    with FileLock(tmp_path / ".g.lock"), pytest.raises(HireError, match="another process is building it"):
        gallery_examples.make_gallery(model, split, tmp_path / "g")
    assert len(gallery_examples.make_gallery(model, split, tmp_path / "g")) == len(split.images)


@settings(max_examples=12, deadline=None)
@given(shard=st.integers(1, 50), block=st.integers(1, 50), stop=st.integers(0, 60))
def test_neither_shards_nor_interruptions_change_anything(model, tiny_dataset, built, shard, block, stop):
    split = gallery_examples.open_split(tiny_dataset)
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(matrix, "_ENCODE_BLOCK", block)
        out, calls = Path(name) / "g", []
        encode = model.encode_image

        def stopping(regions):
            if len(calls) == stop:
                raise KeyboardInterrupt
            calls.append(len(regions))
            return encode(regions)

        patch.setattr(model, "encode_image", stopping)
        try:
            build(model, split, out, shard=shard)
        except KeyboardInterrupt:
            assert not out.exists()
            patch.setattr(model, "encode_image", encode)
            again = build(model, split, out, shard=shard)
            assert again.encoded == 40 - sum(calls) // shard * shard  # whole shards are kept
        found, expected = Gallery.open(out).encoded(range(40)), built.encoded(range(40))
        torch.testing.assert_close(found.regions, expected.regions, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(found.summary, expected.summary, atol=1e-6, rtol=1e-5)
        assert {path.name for path in Path(name).iterdir()} == {"g", ".g.lock"}
        assert not (out / "parts").exists() and not (out / "key.json").exists()


def test_the_same_build_again_does_nothing(model, split, copy, monkeypatch):
    monkeypatch.setattr(model, "encode_image", None)
    before = {path.name: path.stat().st_mtime_ns for path in copy.iterdir()}
    assert build(model, split, copy, captions=True, shard=7).encoded == 0
    assert {path.name: path.stat().st_mtime_ns for path in copy.iterdir()} == before


def test_another_build_is_refused_with_what_differs(model, split, tiny_dataset, copy):
    with pytest.raises(HireError, match=r"another gallery: captions yes there, no asked for\. --overwrite replaces it"):
        build(model, split, copy)
    with pytest.raises(HireError, match="split all there, dev asked for"):
        build(model, gallery_examples.open_split(tiny_dataset, "dev"), copy, captions=True)
    other = gallery_examples.make_model(split, seed=1)
    with pytest.raises(HireError, match=f"model {artifact.digest(model)[:12]} there, {artifact.digest(other)[:12]}"):
        build(other, split, copy, captions=True)
    assert build(other, split, copy, overwrite=True).encoded == 40
    Gallery.open(copy).check_model(other)


def test_only_a_gallery_is_ever_replaced(model, split, tmp_path, tiny_dataset):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    for folder in (tmp_path / "mine", tiny_dataset):
        with pytest.raises(HireError, match="is no gallery; it is left alone"):
            build(model, split, folder, overwrite=True)
    assert (tmp_path / "mine" / "letter.txt").read_text() == "dear"
    Dataset.open(tiny_dataset)


def test_an_interrupted_build_of_another_model_is_not_gone_on_with(model, split, tmp_path, monkeypatch):
    other = gallery_examples.make_model(split, seed=1)
    with monkeypatch.context() as patch:
        patch.setattr(building, "_write_tables", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            build(other, split, tmp_path / "g", shard=8)
    assert build(model, split, tmp_path / "g", shard=8).encoded == 40
    Gallery.open(tmp_path / "g").check_model(model)


@pytest.mark.parametrize("name", ["images-00001.npy", "images-summary.npy", "images.parquet", "captions-lengths.npy"])
def test_open_refuses_a_changed_and_a_missing_file(copy, name):
    path = copy / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(HireError, match=rf"{name}: its SHA-256 is not the one in manifest.json"):
        Gallery.open(copy)
    path.unlink()
    with pytest.raises(HireError, match=rf"{name}: missing from the gallery"):
        Gallery.open(copy)


def test_open_refuses_what_is_no_gallery(tmp_path, tiny_dataset, copy):
    with pytest.raises(HireError, match=r"no gallery here .* 'hire gallery build DATASET"):
        Gallery.open(tmp_path / "nowhere")
    with pytest.raises(HireError, match="not the manifest of a gallery"):
        Gallery.open(tiny_dataset)


def test_a_file_that_the_manifest_does_not_vouch_for_is_not_opened(copy):
    manifest = json.loads((copy / "manifest.json").read_text())
    for names in (set(manifest["files"]) - {"images-00001.npy"}, {*manifest["files"], "../outside.npy"}):
        files = {name: manifest["files"].get(name, {"bytes": 1, "sha256": "0"}) for name in names}
        (copy / "manifest.json").write_text(json.dumps(manifest | {"files": files}))
        with pytest.raises(HireError, match="not the manifest of a gallery"):
            Gallery.open(copy)


def test_another_model_is_refused_and_a_saved_one_is_the_same(built, model, split, tmp_path):
    built.check_model(artifact.load(artifact.save(model, tmp_path)))
    other = gallery_examples.make_model(split)
    with torch.no_grad():
        next(other.parameters()).flatten()[0] += 1e-3
    with pytest.raises(HireError, match=r"encoded by model \w{12} .* but this one is \w{12}"):
        built.check_model(other)


def test_a_full_disk_is_one_message_and_the_build_goes_on(model, split, tmp_path, monkeypatch):
    save, saved = np.save, []

    def full(path, array):
        if len(saved) == 4:
            raise OSError(28, "No space left on device")
        saved.append(path)
        save(path, array)

    with monkeypatch.context() as patch:
        patch.setattr(np, "save", full)
        with pytest.raises(HireError, match=r"No space left on device.*the same command goes on"):
            build(model, split, tmp_path / "g", shard=16)
    assert build(model, split, tmp_path / "g", shard=16).encoded == 40 - 16


def test_captions_of_a_split_without_any_are_refused(model, split, tmp_path):
    bare = dataclasses.replace(split, captions=split.captions[:0], owner=split.owner[:0])
    with pytest.raises(HireError, match="has no captions to encode"):
        build(model, bare, tmp_path / "g", captions=True)


def test_a_gallery_that_cannot_be_used_is_opened_once(model, split, tmp_path, monkeypatch):
    gallery_examples.make_gallery(model, split, tmp_path / "g")
    (tmp_path / "g" / "images-lengths.npy").write_bytes(b"damaged")
    opened = []
    kept = Gallery.open
    monkeypatch.setattr(Gallery, "open", lambda folder: opened.append(folder) or kept(folder))
    galleries = Galleries(tmp_path, Scorer(model))
    for _ in range(3):
        with pytest.raises(RequestFault, match="build it again"):
            galleries.open("g", "gallery")
    assert len(opened) == 1
