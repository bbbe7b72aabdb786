"""Images are added, replaced and removed; readers see the old or the new gallery, and filters find its metadata."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path

import gallery_examples
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hire_model.data.schema import name_with_digest
from hire_model.data.store import Dataset
from hire_model.errors import DataError, HireError
from hire_model.gallery import changing, search
from hire_model.gallery.building import build
from hire_model.gallery.changing import add, remove
from hire_model.gallery.metadata import load_metadata
from hire_model.gallery.store import Gallery
from hire_model.scoring.scorer import Scorer
from hire_model.service.galleries import Galleries


@pytest.fixture(scope="module")
def splits(tiny_dataset):
    return {name: gallery_examples.open_split(tiny_dataset, name) for name in ("", "train", "dev", "test")}


@pytest.fixture(scope="module")
def model(splits):
    return gallery_examples.make_model(splits[""])


def list_ids(split) -> list[str]:
    return [split.image_id(row) for row in range(len(split.images))]


def write_lines(path: Path, facts: list) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in facts))
    return path


def check_equal(gallery: Gallery, split, rows: dict[str, int]) -> None:
    """Check the images of a gallery against a gallery of all images, by id."""
    assert sorted(gallery.ids) == sorted(rows) and len(gallery) == len(rows)
    for row, name in enumerate(gallery.ids.tolist()):
        expected = split.regions(rows[name])
        np.testing.assert_array_equal(gallery.layout(row).boxes, expected.boxes)
        np.testing.assert_array_equal(gallery.layout(row).relations, expected.relations)
        assert gallery.picture(row).read_bytes() == split.picture(rows[name]).read_bytes()
        assert gallery.find(name) == row and gallery.images.lengths[row] == len(expected.boxes)


@pytest.mark.parametrize("captions", [False, True])
def test_an_added_gallery_gives_the_hits_of_one_that_was_built_whole(model, splits, captions, tmp_path):
    scorer, whole = Scorer(model), splits[""]
    built = gallery_examples.make_gallery(model, whole, tmp_path / "whole", captions=captions)
    build(model, splits["train"], tmp_path / "g", captions=captions)
    for name in ("dev", "test"):
        result = add(model, splits[name], tmp_path / "g", shard=3)
        assert (result.added, result.replaced, result.removed) == (len(splits[name].images), 0, 0)
    gallery = Gallery.open(tmp_path / "g")
    check_equal(gallery, whole, {name: row for row, name in enumerate(list_ids(whole))})
    texts = whole.texts[:4]
    for one, other in zip(*(search.search_images(scorer, g, texts, 9, 20) for g in (built, gallery)), strict=True):
        assert {hit.id for hit in one.hits} == {hit.id for hit in other.hits}
        np.testing.assert_allclose([h.score for h in one.hits], [h.score for h in other.hits], atol=1e-5)
    if captions:
        images = built.read_images([3, 30])
        found = [search.search_captions(scorer, g, images, 5, 200) for g in (built, gallery)]
        for one, other in zip(*found, strict=True):
            np.testing.assert_allclose([h.score for h in one.hits], [h.score for h in other.hits], atol=1e-5)
        owners = [gallery.ids[row] for row in gallery.caption_images]
        assert dict(zip(gallery.caption_texts, owners, strict=True)) == dict(
            zip(whole.texts, (whole.image_id(row) for row in whole.owner), strict=True)
        )


@settings(max_examples=6, deadline=None)
@given(data=st.data())
def test_any_order_of_changes_leaves_the_images_that_it_should(model, splits, tmp_path_factory, data):
    folder, whole = tmp_path_factory.mktemp("g") / "g", splits[""]
    rows, present = {name: row for row, name in enumerate(list_ids(whole))}, set(list_ids(splits["dev"]))
    build(model, splits["dev"], folder)
    for generation in range(2, 7):
        if data.draw(st.booleans()) and len(present) > 1:
            gone = data.draw(st.sets(st.sampled_from(sorted(present)), min_size=1, max_size=len(present) - 1))
            remove(folder, sorted(gone))
            present -= gone
        else:
            name = data.draw(st.sampled_from(["dev", "test"]))
            add(model, splits[name], folder, replace=True)
            present |= set(list_ids(splits[name]))
        gallery = Gallery.open(folder)
        assert gallery.manifest.generation == generation and gallery.manifest.images == len(present)
        check_equal(gallery, whole, {name: rows[name] for name in present})
        assert len(list((folder / "segments").iterdir())) <= len(gallery.segments) + 1
        sizes = [segment.kept for segment in gallery.manifest.segments]
        assert all(sum(sizes[i + 1 :]) * 2 <= sizes[i] for i in range(len(sizes) - 1))


def test_a_gallery_without_picture_folders_as_after_a_download_can_be_changed(model, splits, tmp_path):
    build(model, splits["dev"], tmp_path / "g")
    for pictures in (tmp_path / "g" / "segments").glob("*/pictures"):
        shutil.rmtree(pictures)
    add(model, splits["test"], tmp_path / "g")  # as large as the gallery, so the segments are merged
    remove(tmp_path / "g", list_ids(splits["dev"])[:3])
    assert sorted(Gallery.open(tmp_path / "g").ids) == sorted(list_ids(splits["dev"])[3:] + list_ids(splits["test"]))


def test_an_existing_id_an_unknown_id_and_the_last_image_are_refused(model, splits, tmp_path):
    gallery_examples.make_gallery(model, splits["dev"], tmp_path / "g")
    names = list_ids(splits["dev"])
    before = (tmp_path / "g/manifest.json").read_bytes()
    with pytest.raises(HireError, match=rf"contains '{names[0]}', .* and 3 more already. Replace with --replace"):
        add(model, splits["dev"], tmp_path / "g")
    with pytest.raises(HireError, match=r"contains no 'nowhere'\. Nothing was removed"):
        remove(tmp_path / "g", [names[0], "nowhere"])
    with pytest.raises(HireError, match="no image would be left"):
        remove(tmp_path / "g", names)
    with pytest.raises(HireError, match="encoded by model"):
        add(gallery_examples.make_model(splits[""], seed=1), splits["test"], tmp_path / "g")
    assert remove(tmp_path / "g", ["nowhere"], missing_ok=True).removed == 0
    assert (tmp_path / "g/manifest.json").read_bytes() == before


def test_a_data_set_with_other_regions_is_refused(model, splits, tiny_dataset, tmp_path):
    gallery_examples.make_gallery(model, splits["dev"], tmp_path / "g")
    data = Dataset.open(tiny_dataset)
    for change, message in (
        ({"feature_extractor": "other"}, r"feature extractor .*\(other, expected"),
        ({"classes": ("a",)}, "classes"),
    ):
        other = Dataset(data.folder, data.manifest.model_copy(update=change)).split("test")
        with pytest.raises(DataError, match=f"The {message}"):
            add(model, other, tmp_path / "g")


def test_an_extractor_with_the_same_digest_and_another_name_is_the_same(model, tiny_dataset, tmp_path):
    data = Dataset.open(tiny_dataset)
    first, second = (
        Dataset(data.folder, data.manifest.model_copy(update={"feature_extractor": name_with_digest(name, "ab" * 32)}))
        for name in ("owl", "copy of owl")
    )
    build(model, first.split("dev"), tmp_path / "g")
    split = second.split("test")
    assert add(model, split, tmp_path / "g").added == len(split.images)


def test_a_changed_gallery_is_not_taken_for_a_built_one(model, splits, tmp_path):
    build(model, splits["dev"], tmp_path / "g")
    remove(tmp_path / "g", list_ids(splits["dev"])[:1])
    with pytest.raises(
        HireError, match=r"changes is images were added or removed, expected none\. Replace it with --over"
    ):
        build(model, splits["dev"], tmp_path / "g")
    assert build(model, splits["dev"], tmp_path / "g", overwrite=True).manifest.generation == 3
    assert len(Gallery.open(tmp_path / "g")) == 8


def test_a_reader_keeps_its_generation_and_refresh_reads_only_new_segments(model, splits, tmp_path, monkeypatch):
    old = gallery_examples.make_gallery(model, splits["train"], tmp_path / "g")
    assert old.refresh() is old
    add(model, splits["dev"], tmp_path / "g")
    kept, new = old.segments[0], old.refresh()
    assert new.segments[0] is kept and len(new) == len(old) + 8
    build(model, splits["test"], tmp_path / "g", overwrite=True)  # drops both segments
    check_equal(old, splits["train"], {name: row for row, name in enumerate(list_ids(splits["train"]))})
    assert sorted(path.name for path in (tmp_path / "g/segments").iterdir()) == ["000001", "000002", "000003"]
    del old, new, kept
    remove(tmp_path / "g", list_ids(splits["test"])[:1])
    assert [path.name for path in (tmp_path / "g/segments").iterdir()] == ["000003"]


def test_readers_never_see_a_mixture_while_a_gallery_changes(model, splits, tmp_path, monkeypatch):
    monkeypatch.setattr(changing, "_GROWTH", 100)  # each change merges and drops the segments before
    names = {name: set(list_ids(splits[name])) for name in ("dev", "test")}
    build(model, splits["dev"], tmp_path / "g")
    failures, seen, stop = [], set(), threading.Event()

    def read() -> None:
        while not stop.is_set():
            try:
                gallery = Gallery.open(tmp_path / "g")
                found = frozenset(gallery.ids)
                assert found in (names["dev"], names["dev"] | names["test"]), found
                gallery.read_images(range(len(gallery)))
                seen.add(len(found))
            except Exception as error:
                failures.append(error)

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(4):
        add(model, splits["test"], tmp_path / "g")
        remove(tmp_path / "g", sorted(names["test"]))
    stop.set()
    for thread in threads:
        thread.join()
    assert not failures and seen


def test_a_server_answers_from_the_new_generation(model, splits, tmp_path):
    build(model, splits["dev"], tmp_path / "g")
    galleries = Galleries(tmp_path, Scorer(model))
    first = galleries.open("g", "gallery")
    assert galleries.open("g", "gallery") is first
    add(model, splits["test"], tmp_path / "g")
    assert len(galleries.open("g", "gallery")) == 8 + len(splits["test"].images)


def test_filters_find_metadata_and_a_filtered_search_scores_only_these_images(model, splits, tmp_path):
    scorer, names = Scorer(model), list_ids(splits[""])
    facts = [
        {"id": name, "year": 2000 + row % 4, "tags": ["even"] if row % 2 == 0 else [], "ok": row == 5}
        for row, name in enumerate(names)
    ]
    lines = write_lines(tmp_path / "m.jsonl", facts[:-1])
    build(model, splits["dev"], tmp_path / "g", metadata=lines, captions=True)
    for name in ("train", "test"):
        add(model, splits[name], tmp_path / "g", metadata=lines)
    gallery = Gallery.open(tmp_path / "g")
    rows = {name: row for row, name in enumerate(names)}
    for where, matches in (
        ({"year": 2001}, lambda row: row % 4 == 1),
        ({"year": "2001"}, lambda row: row % 4 == 1),
        ({"tags": "even", "year": 2002}, lambda row: row % 4 == 2),
        ({"ok": True}, lambda row: row == 5),
        ({"ok": "true", "year": 2000}, lambda row: False),
        ({"nothing": 1}, lambda row: False),
    ):
        expected = {name for name in names[:-1] if matches(rows[name])}
        assert {gallery.ids[row] for row in gallery.filter(where)} == expected
        for shortlist in (6, 50):
            [result] = search.search_images(scorer, gallery, splits[""].texts[:1], 6, shortlist, where=where)
            assert {hit.id for hit in result.hits} <= expected and len(result.hits) == min(6, len(expected))
    assert gallery.metadata(gallery.find(names[3])) == {"year": 2003, "tags": [], "ok": False}
    assert gallery.metadata(gallery.find(names[-1])) == {}
    [result] = search.search_captions(scorer, gallery, gallery.read_images([0]), 5, where={"ok": True})
    own = {text for text, owner in zip(splits[""].texts, splits[""].owner, strict=True) if owner == 5}
    assert {hit.id for hit in result.hits} == own
    assert remove(tmp_path / "g", where={"year": 2001}).removed == 10 and not len(
        gallery.refresh().filter({"year": 2001})
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "line 1: not valid JSON"),
        ("[1]", "line 1: expected a JSON object with the image's id"),
        ('{"year": 1}', "line 1: expected a JSON object with"),
        ('{"id": "a", "x": NaN}', "line 1: not valid JSON: NaN is not a JSON number"),
        ('{"id": "a"}\n\n{"id": "a"}', "line 3: image 'a' already has metadata"),
        ('{"id": "a", "x": "' + 70_000 * "y" + '"}', "at most 65,536 per image"),
    ],
)
def test_a_metadata_file_that_is_not_valid_is_refused_with_its_line(text, message, tmp_path):
    (tmp_path / "m.jsonl").write_text(text)
    with pytest.raises(DataError, match=message):
        load_metadata(tmp_path / "m.jsonl", ["a"])


def test_a_gallery_of_format_1_is_refused_and_overwritten(model, splits, tmp_path):
    (tmp_path / "g").mkdir()
    (tmp_path / "g/manifest.json").write_text(json.dumps({"format": 1, "model": "m", "dim": 8, "images": {}}))
    with pytest.raises(HireError, match=r"a gallery of format 1\. This release reads format 2\. Build it again"):
        Gallery.open(tmp_path / "g")
    with pytest.raises(HireError, match="a gallery of format 1"):
        build(model, splits["dev"], tmp_path / "g")
    build(model, splits["dev"], tmp_path / "g", overwrite=True)
    assert len(Gallery.open(tmp_path / "g")) == 8
