"""A gallery with anchors has shortlists that agree with the pair score, and changes like any other gallery."""

from __future__ import annotations

import json
import pickle
import shutil

import gallery_examples
import numpy as np
import pytest
import torch

from hire_model.data.store import Split
from hire_model.errors import DataError, HireError
from hire_model.gallery import anchors, search
from hire_model.gallery.building import build
from hire_model.gallery.changing import add, remove
from hire_model.gallery.format import ANCHORS, VECTORS, GalleryManifest, format_rebuild_command
from hire_model.gallery.store import Gallery
from hire_model.gallery.writing import list_sources
from hire_model.scoring.scorer import Scorer

LENGTH = 6  # of the shortlist, to find the five best images


@pytest.fixture(scope="module")
def split(tiny_dataset):
    return gallery_examples.open_split(tiny_dataset)


@pytest.fixture(scope="module")
def model(split):
    return gallery_examples.make_model(split)


@pytest.fixture(scope="module")
def galleries(model, split, tmp_path_factory):
    """A gallery without anchors, and one with anchors."""
    folder = tmp_path_factory.mktemp("anchors")
    return [
        gallery_examples.make_gallery(model, split, folder / name, anchor_captions=texts)
        for name, texts in (("without", None), ("with", split.texts))
    ]


def check_vectors(model, gallery: Gallery) -> None:
    """Check that each image has the vector of its scores with the anchors."""
    expected = gallery.anchors.make_embedder(model)(gallery.read_images(range(len(gallery))))
    np.testing.assert_allclose(gallery.images.index.vectors, expected, atol=0.05)


def change_manifest(folder, change) -> None:
    path = folder / "manifest.json"
    facts = json.loads(path.read_text())
    change(facts)
    path.write_text(json.dumps(facts))


def test_shortlists_by_anchors_agree_better_than_those_of_the_global_head(model, split, galleries):
    scorer = Scorer(model)
    exact = search.search_images(scorer, galleries[0], split.texts, 5, len(galleries[0]))
    shares = []
    for gallery in galleries:
        found = search.search_images(scorer, gallery, split.texts, 5, LENGTH)
        pairs = [({hit.row for hit in a.hits}, {hit.row for hit in b.hits}) for a, b in zip(exact, found, strict=True)]
        shares.append(np.mean([a == b for a, b in pairs]))
    assert shares[1] > shares[0] + 0.3, shares


def test_hits_have_the_scores_of_a_gallery_without_anchors(model, split, galleries):
    scorer, texts = Scorer(model), split.texts[:5]
    exact, found = (search.search_images(scorer, g, texts, n, n) for g, n in zip(galleries, (40, LENGTH), strict=True))
    for one, other in zip(exact, found, strict=True):
        scores = {hit.id: hit.score for hit in one.hits}
        np.testing.assert_allclose([h.score for h in other.hits], [scores[h.id] for h in other.hits], atol=1e-6)


def test_added_images_get_the_vectors_of_their_scores_and_removed_ones_leave(model, tiny_dataset, tmp_path):
    splits = {name: gallery_examples.open_split(tiny_dataset, name) for name in ("train", "dev", "test")}
    build(model, splits["train"], tmp_path / "g", anchor_captions=splits["train"].texts)
    for name in ("dev", "test"):
        add(model, splits[name], tmp_path / "g", shard=3)
    gallery = Gallery.open(tmp_path / "g")
    assert len(gallery) == 40 and len(gallery.segments) < 3  # some were merged
    check_vectors(model, gallery)
    remove(tmp_path / "g", gallery.ids[::3].tolist())
    gallery = Gallery.open(tmp_path / "g")
    check_vectors(model, gallery)
    assert gallery.anchors is not None and set(gallery.anchors.captions) <= set(splits["train"].texts)
    [found] = search.search_images(Scorer(model), gallery, splits["train"].texts[:1], 3, 5)
    assert {hit.id for hit in found.hits} <= set(gallery.ids)


def test_a_gallery_without_anchors_does_not_name_them_so_that_earlier_versions_open_it(galleries):
    facts = json.loads((galleries[0].folder / "manifest.json").read_text("utf-8"))
    assert "anchor_digest" not in facts and "vector_size" not in facts["segments"][0]
    assert galleries[0].anchors is None


@pytest.mark.parametrize("name", [ANCHORS, VECTORS])
def test_a_torn_file_of_the_anchors_is_refused(galleries, tmp_path, name):
    shutil.copytree(galleries[1].folder, tmp_path / "g", symlinks=True)
    path = tmp_path / "g" / "segments" / "000001" / name
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(HireError, match=f"{name}.*SHA-256"):
        Gallery.open(tmp_path / "g")


def test_segments_with_other_anchors_are_refused(galleries, tmp_path):
    shutil.copytree(galleries[1].folder, tmp_path / "g", symlinks=True)

    def mix(facts: dict) -> None:
        other = json.loads(json.dumps(facts["segments"][0])) | {"name": "000002"}
        other["files"][ANCHORS]["sha256"] = "0" * 64
        facts["segments"].append(other)

    change_manifest(tmp_path / "g", mix)
    with pytest.raises(HireError, match="not the manifest"):
        GalleryManifest.read(tmp_path / "g")


def test_a_gallery_with_other_or_no_anchors_is_another_gallery(model, split, galleries):
    folder = galleries[1].folder
    assert build(model, split, folder, anchor_captions=split.texts).encoded == 0
    for captions in (None, [text + " again" for text in split.texts]):
        with pytest.raises(HireError, match="another gallery: anchors is"):
            build(model, split, folder, anchor_captions=captions)
    assert "--anchors CAPTIONED_DATASET" in format_rebuild_command(folder, "model")


def test_captions_of_an_image_are_found_as_without_anchors(model, split, tmp_path):
    found = []
    for name, captions in (("without", None), ("with", split.texts)):
        gallery = gallery_examples.make_gallery(model, split, tmp_path / name, captions=True, anchor_captions=captions)
        images = gallery.read_images(range(2))
        results = search.search_captions(Scorer(model), gallery, images, 3, 10)
        found.append([[hit.id for hit in result.hits] for result in results])
    assert found[0] == found[1]


def test_a_data_set_without_captions_or_equal_images_give_no_anchors(model, split, tmp_path):
    with pytest.raises(DataError, match="at least 100 different captions, and there are 0"):
        build(model, split, tmp_path / "g", anchor_captions=[])
    one = Split(split.dataset, "", split.images[:1], split.captions[:0], split.owner[:0])
    with pytest.raises(DataError, match="All 1 images of the sample have the same scores"):
        build(model, one, tmp_path / "g", anchor_captions=split.texts)


def test_few_captions_give_no_anchors(model, split, tmp_path):
    with pytest.raises(DataError, match="at least 100 different captions, and there are 7"):
        build(model, split, tmp_path / "g", anchor_captions=split.texts[:7] * 20)


def test_a_pickled_source_makes_the_same_vectors(model, split, galleries):
    path = galleries[1].segments[0].folder / ANCHORS
    here = list_sources(model, split, False, path)[0]
    there = pickle.loads(pickle.dumps(here.reopen))()
    [images] = here.encode([range(4)])
    assert here.embed is not None and there.embed is not None
    np.testing.assert_array_equal(there.embed(images), here.embed(images))


def test_a_model_that_scores_every_image_is_refused(split, tmp_path):
    model = gallery_examples.make_model(split, global_head=False, global_weight=0)
    with pytest.raises(HireError, match="no global head"):
        build(model, split, tmp_path / "g", anchor_captions=split.texts)


def test_an_interrupted_build_continues_with_the_anchors_that_it_has(model, split, tmp_path, monkeypatch):
    from hire_model.gallery import writing

    whole = gallery_examples.make_gallery(model, split, tmp_path / "whole", anchor_captions=split.texts)
    write, calls = writing._write_shard, []

    def die(*arguments: object) -> None:
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(write(*arguments))

    monkeypatch.setattr(writing, "_write_shard", die)
    with pytest.raises(KeyboardInterrupt):
        build(model, split, tmp_path / "g", anchor_captions=split.texts, shard=10)
    monkeypatch.setattr(writing, "_write_shard", write)
    monkeypatch.setattr("hire_model.gallery.building.fit_anchors", lambda *_: pytest.fail("computed again"))
    assert build(model, split, tmp_path / "g", anchor_captions=split.texts, shard=10).encoded == 20
    gallery = Gallery.open(tmp_path / "g")
    np.testing.assert_allclose(gallery.images.index.vectors, whole.images.index.vectors, atol=0.02)


def test_a_model_without_roles_gets_vectors_from_its_words(split, tmp_path):
    model = gallery_examples.make_model(split, relation_match=False)
    gallery = gallery_examples.make_gallery(model, split, tmp_path / "g", anchor_captions=split.texts)
    check_vectors(model, gallery)
    [found] = search.search_images(Scorer(model), gallery, split.texts[:1], 3, 6)
    assert all(np.isfinite(hit.score) for hit in found.hits)


def test_a_query_gets_the_vector_whose_products_are_near_the_scores():
    """Scores of rank 3 that are linear in the summaries are reproduced, up to a constant of the query."""
    random = torch.Generator().manual_seed(0)
    count, size = 150, 4
    words = torch.randn(count, 5, size, generator=random)
    mask = torch.ones(count, 5, dtype=torch.bool)
    texts = anchors.EncodedTexts(words, mask, words.mean(dim=1), None)
    images = torch.randn(60, size, generator=random)
    images[:, 3] = 0
    scores = (images @ texts.summary.T).double().numpy()
    found = anchors.solve_maps([str(row) for row in range(count)], texts, scores, count=40)
    assert found.dim == 3
    vectors = torch.from_numpy(scores[:, :40]).float() @ found.image_map + found.image_bias
    near = (found.embed_texts(texts) @ vectors.T).numpy()
    expected = scores.T - scores.T.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(near, expected, atol=0.05)
