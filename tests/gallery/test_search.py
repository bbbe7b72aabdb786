"""A search with a full shortlist equals full scoring, and with a short one it re-ranks the nearest items."""

from __future__ import annotations

import gallery_examples
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hire_model.errors import HireError
from hire_model.gallery import search
from hire_model.model.hubs import HubBank
from hire_model.scoring import matrix
from hire_model.scoring.scorer import Scorer

HALF = 1e-3  # scores of records in half precision, for weights far larger than trained ones


@pytest.fixture(scope="module")
def split(tiny_dataset):
    return gallery_examples.open_split(tiny_dataset)


@pytest.fixture(scope="module")
def scorer(split):
    return Scorer(gallery_examples.make_model(split))


@pytest.fixture(scope="module")
def gallery(scorer, split, tmp_path_factory):
    out = tmp_path_factory.mktemp("g") / "all"
    return gallery_examples.make_gallery(scorer.model, split, out, captions=True, shard=16)


@pytest.fixture(scope="module")
def full(scorer, split):
    """The scores [images, captions] of every pair, computed as in evaluation."""
    bank = matrix.CaptionBank.from_lists(scorer.model.vocabulary.encode(split.texts))
    return matrix.compute_similarity(scorer.model, split, bank)


def test_a_full_shortlist_gives_the_order_of_full_scoring(scorer, gallery, split, full):
    columns = range(0, len(split.texts), 4)
    texts = [split.texts[column] for column in columns]
    results = search.search_images(scorer, gallery, texts, top_k=40, shortlist=40)
    for column, result in zip(columns, results, strict=True):
        assert result.reranked == 40 and result.note == "" and all(hit.place is None for hit in result.hits)
        rows = [hit.row for hit in result.hits]
        assert sorted(rows) == list(range(40)) and [hit.id for hit in result.hits] == gallery.ids[rows].tolist()
        np.testing.assert_allclose([hit.score for hit in result.hits], full[rows, column], atol=HALF)
        assert (np.diff([hit.score for hit in result.hits]) <= 0).all()


def test_unknown_words_are_listed_and_a_text_without_known_words_gets_a_note(scorer, gallery, split):
    known = split.texts[0]
    results = search.search_images(scorer, gallery, [known, f"{known} zebra", "zebra saxophone!"], top_k=3)
    assert [list(result.unknown) for result in results] == [[], ["zebra"], ["zebra", "saxophone"]]
    assert [result.note for result in results] == ["", "", search.NO_KNOWN_WORD]


@settings(max_examples=25, deadline=None)
@given(
    shortlist=st.integers(1, 45),
    data=st.data(),
    picks=st.lists(st.integers(0, 119), min_size=1, max_size=3),
    budget=st.sampled_from([1, 60_000, 24 << 20]),
    rows=st.integers(1, 50),
    together=st.integers(1, 2),
)
def test_the_result_is_the_best_of_the_shortlist(
    scorer, gallery, split, full, shortlist, data, picks, budget, rows, together
):
    """For any length and block size: the nearest items by the global head, in the order of full scoring."""
    top_k = data.draw(st.integers(1, shortlist))
    texts = [split.texts[pick] for pick in picks]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matrix, "_CACHE_BYTES", budget)
        patch.setattr(search, "_ROWS", rows)
        patch.setattr(search, "_QUERIES", together)
        results = search.search_images(scorer, gallery, texts, top_k, shortlist)
    summaries = scorer.encode_texts(texts).summary.numpy() @ gallery.images.index.vectors.astype(np.float32).T
    for pick, near, result in zip(picks, summaries, results, strict=True):
        assert result.reranked == min(shortlist, 40) and len(result.hits) == min(top_k, 40)
        scores = np.array([hit.score for hit in result.hits])
        rows = [hit.row for hit in result.hits]
        np.testing.assert_allclose(scores, full[rows, pick], atol=HALF)
        within = near >= np.sort(near)[::-1][result.reranked - 1] - 1e-6
        assert within[rows].all()
        np.testing.assert_allclose(scores, np.sort(full[within, pick])[::-1][: len(scores)], atol=HALF)
        if result.reranked < 40:
            places = [1 + int((near > near[row] + 1e-6).sum()) for row in rows]
            assert [hit.place for hit in result.hits] == places


def test_the_scores_equal_those_of_predict(scorer, gallery, split):
    for text, result in zip(
        split.texts[:3], search.search_images(scorer, gallery, split.texts[:3], 5, 20), strict=True
    ):
        pairs = [(split.regions(hit.row), text) for hit in result.hits]
        np.testing.assert_allclose([hit.score for hit in result.hits], scorer.predict(pairs), atol=HALF)


def test_captions_are_found_for_images_from_regions_and_from_a_gallery(scorer, gallery, split, full):
    images = scorer.encode_images([split.regions(row) for row in (0, 33)])
    for count in (200, 60):
        for row, result in zip((0, 33), search.search_captions(scorer, gallery, images, 7, count), strict=True):
            rows = [hit.row for hit in result.hits]
            assert [hit.id for hit in result.hits] == [split.texts[column] for column in rows]
            np.testing.assert_allclose([hit.score for hit in result.hits], full[row, rows], atol=HALF)
            assert result.reranked == count
            if count == 200:
                np.testing.assert_allclose(full[row, rows], np.sort(full[row])[::-1][:7], atol=HALF)
    stored = search.search_captions(scorer, gallery, gallery.read_images([33]), 7, 200)[0]
    sent = search.search_captions(scorer, gallery, images[slice(1, 2)], 7, 200)[0]
    np.testing.assert_allclose([hit.score for hit in stored.hits], [hit.score for hit in sent.hits], atol=HALF)


def test_equal_scores_keep_the_order_of_the_gallery(scorer, gallery, split, monkeypatch):
    monkeypatch.setattr(search, "_score_rows", lambda _, rows, score: (rows % 3 == 0).astype(np.float32))
    [result] = search.search_images(scorer, gallery, split.texts[:1], 40, 40)
    assert [hit.row for hit in result.hits] == [*range(0, 40, 3), *(row for row in range(40) if row % 3)]
    [result] = search.search_images(scorer, gallery, split.texts[:1], 9, 9)
    rows = [hit.row for hit in result.hits]
    assert rows == sorted(rows, key=lambda row: (row % 3 != 0, row))


def test_a_search_encodes_each_text_once_and_no_image(scorer, gallery, split, monkeypatch):
    encoded = []
    encode = scorer.model.encode_text
    monkeypatch.setattr(scorer.model, "encode_text", lambda tokens: encoded.append(len(tokens)) or encode(tokens))
    monkeypatch.setattr(scorer.model, "encode_image", None)
    search.search_images(scorer, gallery, split.texts[:9], 3, 10)
    assert sum(encoded) == 9


def test_a_hit_from_the_second_half_of_the_shortlist_adds_a_note(scorer, gallery, split):
    noted = []
    for top_k, shortlist in ((1, 20), (4, 8)):
        for result in search.search_images(scorer, gallery, split.texts[:40], top_k, shortlist):
            deepest = max(hit.place for hit in result.hits)
            assert bool(result.note) == (deepest > search.DEEP_SHARE * shortlist)
            noted.append(f"place {deepest} of the {shortlist}" in result.note and "longer shortlist" in result.note)
    assert any(noted) and not all(noted)


def test_without_a_global_head_every_image_is_scored(split, tmp_path):
    scorer = Scorer(gallery_examples.make_model(split, global_head=False, global_weight=0))
    gallery = gallery_examples.make_gallery(scorer.model, split, tmp_path / "g")
    [result] = search.search_images(scorer, gallery, split.texts[:1], 3, 5)
    assert result.reranked == 40 and "no global head" in result.note
    scores = scorer.predict([(split.regions(row), split.texts[0]) for row in range(40)])
    np.testing.assert_allclose([hit.score for hit in result.hits], np.sort(scores)[::-1][:3], atol=HALF)


def test_the_index_finds_the_nearest_of_all_and_of_a_choice_of_rows(scorer, gallery, split):
    queries = scorer.encode_texts(split.texts[:5]).summary.numpy()
    near = queries @ gallery.images.index.vectors.astype(np.float32).T
    for rows in (None, np.array([3, 8, 9, 20, 39]), np.arange(1, 40, 2)):
        choice = np.arange(40) if rows is None else rows
        for query, found in enumerate(gallery.images.index.find_nearest(queries, 4, rows)):
            best = choice[np.argsort(-near[query, choice])[:4]]
            np.testing.assert_allclose(near[query, found], near[query, best], atol=1e-5)
            assert set(found) <= set(choice.tolist()) and len(found) == 4


@pytest.mark.parametrize(
    ("texts", "top_k", "shortlist", "message"),
    [
        (["a dog"], 0, 5, "top_k is 0, expected 1 or more"),
        (["a dog"], 6, 5, "A shortlist of 5 cannot give 6 results"),
        (["a dog", 3], 1, 5, "text 1: the text is int, expected str"),
        (["a \ud800"], 1, 5, "text 0: the text contains half a character, expected Unicode"),
    ],
)
def test_invalid_arguments_are_refused(scorer, gallery, texts, top_k, shortlist, message):
    with pytest.raises(HireError, match=message):
        search.search_images(scorer, gallery, texts, top_k, shortlist)


def test_a_gallery_of_another_model_and_one_without_captions_are_refused(scorer, gallery, split, tmp_path):
    other = Scorer(gallery_examples.make_model(split, seed=1))
    with pytest.raises(HireError, match="encoded by model"):
        search.search_images(other, gallery, ["a dog"])
    bare = gallery_examples.make_gallery(scorer.model, split, tmp_path / "g")
    with pytest.raises(HireError, match=r"has no captions\. Build it with them: hire gallery build DATASET --captions"):
        search.search_captions(scorer, bare, bare.read_images([0]))


def test_no_texts_give_no_results_and_a_large_top_k_gives_every_image(scorer, gallery):
    assert search.search_images(scorer, gallery, []) == []
    [result] = search.search_images(scorer, gallery, ["zebra!"], top_k=500, shortlist=500)
    assert len(result.hits) == 40


def test_the_encodings_are_mapped_from_disk_and_not_loaded(gallery):
    assert isinstance(gallery.segments[0].images.records, np.memmap)
    assert torch.is_tensor(gallery.read_images([0]).regions)


def test_hub_correction_subtracts_both_popularities_and_is_refused_without_a_bank(
    scorer, gallery, split, full, monkeypatch
):
    texts, images = split.texts[:3], gallery.read_images([4, 2])
    for query, find in ((texts, search.search_images), (images, search.search_captions)):
        with pytest.raises(HireError, match="no bank of training items"):
            find(scorer, gallery, query, hub_correction=True)
    bank = HubBank(gallery.images.read_summary(range(9)), scorer.encode_texts(split.texts[:9]).summary, 0.1)
    monkeypatch.setattr(scorer.model, "hubs", bank)
    image = bank.rate_images(gallery.images.read_summary(range(40))).numpy()
    caption = bank.rate_texts(scorer.encode_texts(split.texts).summary).numpy()
    corrected = full - image[:, None] - caption
    for column, result in enumerate(search.search_images(scorer, gallery, texts, 40, 40, hub_correction=True)):
        rows = [hit.row for hit in result.hits]
        np.testing.assert_allclose([hit.score for hit in result.hits], corrected[rows, column], atol=HALF)
        assert (np.diff(corrected[rows, column]) <= HALF).all()
    found = search.search_captions(scorer, gallery, images, 5, 200, hub_correction=True)
    for row, result in zip((4, 2), found, strict=True):
        rows = [hit.row for hit in result.hits]
        np.testing.assert_allclose([hit.score for hit in result.hits], corrected[row, rows], atol=HALF)
    plain = search.search_images(scorer, gallery, texts, 40, 40)
    np.testing.assert_allclose(plain[0].hits[0].score, full[:, 0].max(), atol=HALF, err_msg="never silently on")
