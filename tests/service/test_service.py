"""The service answers each request separately, with the scores of `Scorer`, and one bad request affects no other."""

from __future__ import annotations

import gc
import json
from pathlib import Path
from typing import Any

import gallery_examples
import numpy as np
import pytest
import torch
from service_examples import GALLERY, image, make_service, pairs, stored

from hire_model.data.store import Dataset, Split
from hire_model.data.synthetic import generate
from hire_model.gallery.building import build
from hire_model.gallery.search import search_captions, search_images
from hire_model.model.hubs import HubBank
from hire_model.service.contract import SearchAnswer
from hire_model.service.encoding import CacheCounts, CachedEncoder
from hire_model.service.parsing import Limits, Request
from hire_model.service.payload import ArrayPayload
from hire_model.service.service import Service


@pytest.fixture(scope="module")
def split(tiny_dataset: Path) -> Split:
    return gallery_examples.open_split(tiny_dataset)


@pytest.fixture(scope="module")
def service(split: Split, tmp_path_factory: pytest.TempPathFactory) -> Service:
    return make_service(tmp_path_factory.mktemp("service"), split)


def _send(service: Service, *requests: object, explain: bool = False) -> list[tuple[int, dict[str, Any]]]:
    bodies = [request if isinstance(request, bytes) else json.dumps(request) for request in requests]
    replies, _ = service.answer([Request(body, explain) for body in bodies])
    assert len(replies) == len(requests)
    return [(reply.status, json.loads(reply.body)) for reply in replies]


def _get_answer(service: Service, request: object, explain: bool = False) -> dict[str, Any]:
    [(status, answer)] = _send(service, request, explain=explain)
    assert status == 200, answer
    return answer


def _predict_matrix(service: Service, split: Split, images: list[int], texts: list[str]) -> np.ndarray:
    scores = service.scorer.predict([(split.regions(i), text) for i in images for text in texts])
    return scores.reshape(len(images), len(texts))


def test_pairs_get_the_scores_of_the_scorer(service: Service, split: Split) -> None:
    answer = _get_answer(service, pairs(split, 6))
    expected = service.scorer.predict([(split.regions(i), split.texts[i]) for i in range(6)])
    np.testing.assert_allclose(answer["scores"], expected, atol=1e-5)
    assert len(set(answer["scores"])) > 1
    assert answer["model"]["version"] == "7" and answer["model"]["run_id"] == "abc"
    assert answer["model"]["weights_sha256"] == service.facts.weights_sha256 != ""


@pytest.mark.parametrize("from_gallery", [False, True])
def test_a_matrix_and_its_rankings_equal_the_scorer(service: Service, split: Split, from_gallery: bool) -> None:
    texts = split.texts[:5]
    images = [stored(split, i) if from_gallery else image(split.regions(i)) for i in range(4)]
    expected = _predict_matrix(service, split, [0, 1, 2, 3], texts)
    atol = 1e-3 if from_gallery else 1e-5  # a gallery has half precision
    request = {"images": images, "texts": texts}
    np.testing.assert_allclose(_get_answer(service, request)["scores"], expected, atol=atol)
    for rank, queries in (("images", expected.T), ("texts", expected)):
        results = _get_answer(service, request | {"top_k": 2, "rank": rank})["results"]
        assert len(results) == len(queries)
        for hits, row in zip(results, queries, strict=True):
            np.testing.assert_allclose([hit["score"] for hit in hits], np.sort(row)[::-1][:2], atol=atol)
            np.testing.assert_allclose([row[hit["index"]] for hit in hits], [hit["score"] for hit in hits], atol=atol)


def test_requests_in_a_batch_do_not_affect_each_other(service: Service, split: Split) -> None:
    first, third = pairs(split, 3), {"images": [stored(split, 1)], "texts": split.texts[:7]}
    broken = pairs(split, 2)
    broken["pairs"][1]["image"]["features"]["shape"] = [1, 2]
    unknown = {"gallery": "nowhere", "texts": ["a"]}
    answers = _send(service, first, broken, b"\xff", third, unknown, first)
    assert [status for status, _ in answers] == [200, 400, 400, 200, 404, 200]
    assert answers[1][1]["path"] == "pairs[1].image.features"
    assert answers[4][1]["path"] == "gallery" and answers[4][1]["model"]["version"] == "7"
    for position, request in ((0, first), (3, third), (5, first)):
        np.testing.assert_allclose(answers[position][1]["scores"], _get_answer(service, request)["scores"], atol=1e-5)


def test_a_search_request_returns_the_hits_of_the_gallery_search(service: Service, split: Split) -> None:
    gallery, texts = service.galleries.open(GALLERY, ""), split.texts[:2]
    answer = _get_answer(service, {"gallery": GALLERY, "texts": texts, "top_k": 3, "shortlist": 5})
    assert answer["size"] == len(split.images) and answer["gallery"] == GALLERY
    for result, expected in zip(answer["results"], search_images(service.scorer, gallery, texts, 3, 5), strict=True):
        assert [hit["id"] for hit in result["hits"]] == [hit.id for hit in expected.hits]
        assert [hit["place"] for hit in result["hits"]] == [hit.place for hit in expected.hits]
        assert result["reranked"] == 5 and result["note"] == expected.note
    sent, reference = image(split.regions(2)), stored(split, 2)
    expected = search_captions(service.scorer, gallery, gallery.read_images([gallery.find(split.image_id(2))]), 4)
    for query in (sent, reference):
        [result] = _get_answer(service, {"gallery": GALLERY, "images": [query], "top_k": 4})["results"]
        np.testing.assert_allclose(
            [hit["score"] for hit in result["hits"]], [h.score for h in expected[0].hits], atol=1e-3
        )
    filtered = {"gallery": GALLERY, "where": {"year": 2020}}
    for query in ({"texts": texts}, {"images": [reference]}):
        answer = _get_answer(service, filtered | query)  # no image has metadata
        assert all(result["hits"] == [] and result["reranked"] == 0 for result in answer["results"])
    [(status, fault)] = _send(service, filtered | {"texts": texts, "where": {"year": [2020]}})
    assert status == 400 and fault["path"].startswith("where.year")


def test_a_search_is_corrected_for_hubs_only_if_asked(
    service: Service, split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = {"gallery": GALLERY, "texts": split.texts[:2], "top_k": 3}
    [(status, fault)] = _send(service, request | {"hub_correction": True})
    assert status == 400 and fault["path"] == "hub_correction" and "no bank" in fault["message"]
    plain = _get_answer(service, request)
    gallery = service.galleries.open(GALLERY, "")
    bank = HubBank(gallery.images.read_summary(range(4)), torch.eye(gallery.manifest.dim)[:4], 0.07)
    monkeypatch.setattr(service.scorer.model, "hubs", bank)
    assert _get_answer(service, request) == plain and plain["hub_correction"] is False
    corrected = _get_answer(service, request | {"hub_correction": True})
    assert corrected["hub_correction"] is True
    expected = search_images(service.scorer, gallery, split.texts[:2], 3, hub_correction=True)
    for result, found in zip(corrected["results"], expected, strict=True):
        np.testing.assert_allclose(
            [hit["score"] for hit in result["hits"]], [hit.score for hit in found.hits], atol=1e-5
        )
    assert corrected["results"] != plain["results"]


def test_answers_list_unknown_words_only_if_there_are_some(service: Service, split: Split) -> None:
    known, reference = split.texts[0], stored(split, 0)
    texts = [known, f"Zebra {known}"]
    requests: list[dict[str, Any]] = [
        {"pairs": [{"image": reference, "text": text} for text in texts]},
        {"images": [reference], "texts": texts},
        {"images": [reference], "texts": texts, "top_k": 1},
    ]
    for request in requests:
        assert _get_answer(service, request)["unknown"] == [[], ["Zebra"]]
    assert "unknown" not in _get_answer(service, {"images": [reference], "texts": [known]})
    explained = _get_answer(service, requests[0], explain=True)["explanations"]
    assert "unknown" not in explained[0] and explained[1]["unknown"] == ["Zebra"]
    found = _get_answer(service, {"gallery": GALLERY, "texts": [known, "zebra saxophone"]})["results"]
    assert "unknown" not in found[0] and found[0]["note"] == ""
    assert found[1]["unknown"] == ["zebra", "saxophone"] and found[1]["note"].startswith("No word of the text")
    SearchAnswer.model_validate(_get_answer(service, {"gallery": GALLERY, "texts": ["zebra"]}))


def test_the_contributions_of_an_explanation_sum_to_the_score(service: Service, split: Split) -> None:
    request = pairs(split, 2)
    request["pairs"].append({"image": stored(split, 0), "text": split.texts[0]})
    answer, scores = _get_answer(service, request, explain=True), _get_answer(service, request)["scores"]
    for explanation, score in zip(answer["explanations"], scores, strict=True):
        contributions, weights = explanation["contributions"], explanation["weights"]
        assert sum(contributions) == pytest.approx(explanation["score"], abs=1e-5) == pytest.approx(score, abs=1e-5)
        assert len(explanation["words"]) == len(contributions) == len(weights)
        np.testing.assert_allclose(np.sum(weights, axis=1), 1, atol=1e-4)
        assert {len(row) for row in weights} == {len(explanation["boxes"])}
    assert answer["explanations"][0]["boxes"] == answer["explanations"][2]["boxes"]


def test_a_request_over_a_limit_is_refused_with_its_path(split: Split, tmp_path: Path) -> None:
    limits = Limits(pairs=40, images=3, texts=12, regions=10, relations=4, characters=100, explained=2)
    service = make_service(tmp_path, split, limits)
    sent, reference = image(split.regions(0)), stored(split, 0)
    wide = {"features": json.loads(ArrayPayload.from_array(np.ones((11, 3), np.float32)).model_dump_json())}
    relations = sent | {"relations": [[0, 0, 0, 1.0]] * 5}
    cases = [
        ({"pairs": [{"image": reference, "text": "a"}] * 41}, "pairs", "41 pairs"),
        ({"images": [reference] * 5, "texts": ["a"] * 9}, "", "45 pairs"),
        ({"images": [reference] * 20_000, "texts": ["a"] * 20_000}, "", "400000000 pairs"),
        ({"images": [reference] * 30_000, "texts": ["a"]}, "", "60002 keys"),
        ({"images": [reference], "texts": ["a"] * 500_000}, "", "500005 items"),
        ({"images": [sent] * 4, "texts": ["a"]}, "", "4 images sent"),
        ({"images": [reference], "texts": [str(i) for i in range(13)]}, "", "13 texts"),
        ({"images": [reference], "texts": ["b" * 101]}, "texts[0]", "101 characters"),
        ({"images": [relations], "texts": ["a"]}, "images[0].relations", "5 relations"),
        ({"images": [wide], "texts": ["a"]}, "images[0].features", "11 regions"),
        ({"gallery": GALLERY, "texts": ["a", "b"], "shortlist": 30}, "", "60 pairs to score"),
    ]
    for request, path, message in cases:
        [(status, fault)] = _send(service, request)
        assert (status, fault["path"]) == (413, path) and message in fault["message"], fault
    [(status, fault)] = _send(service, {"pairs": [{"image": reference, "text": "a"}] * 3}, explain=True)
    assert status == 413 and "at most 2" in fault["message"]


def test_an_image_that_does_not_fit_the_model_is_refused(service: Service, split: Split) -> None:
    valid = image(split.regions(0))
    huge = np.full((3, service.scorer.model.feature_dim), 1e38, "f4")
    narrow = {"features": json.loads(ArrayPayload.from_array(np.ones((2, 3), np.float32)).model_dump_json())}
    unknown = valid | {"relations": [[0, 999, 0, 1.0]]}
    too_large = {"features": json.loads(ArrayPayload.from_array(huge).model_dump_json())}
    for invalid, message in ((narrow, "features have shape"), (unknown, "predicate 999"), (too_large, "too large")):
        (status, fault), other = _send(service, {"images": [valid, invalid], "texts": ["a"]}, pairs(split, 1))
        assert status == 400 and fault["path"] == "images[1]" and message in fault["message"]
        assert other[0] == 200


def test_an_unknown_image_and_a_short_shortlist_are_refused(service: Service, split: Split) -> None:
    [(status, fault)] = _send(service, {"pairs": [{"image": {"gallery": GALLERY, "id": "unknown"}, "text": "a"}]})
    assert (status, fault["path"]) == (404, "pairs[0].image.id")
    [(status, fault)] = _send(service, {"gallery": GALLERY, "texts": ["a"], "top_k": 5, "shortlist": 2})
    assert (status, fault["path"]) == (400, "shortlist")


def test_a_request_that_cannot_be_scored_fails_alone(
    service: Service, split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    score = service.scorer.score

    def fail_for_some(images: Any, texts: Any, image_index: np.ndarray, text_index: np.ndarray) -> np.ndarray:
        if len(text_index) in (2, 5):  # the second request alone, and both requests together
            raise RuntimeError("internal details")
        return score(images, texts, image_index, text_index)

    monkeypatch.setattr(service.scorer, "score", fail_for_some)
    answers = _send(service, pairs(split, 3), pairs(split, 2))
    assert [status for status, _ in answers] == [200, 500]
    assert "internal details" not in answers[1][1]["message"], "details are only in the log"


def test_a_repeated_request_is_answered_from_the_cache(split: Split, service: Service) -> None:
    service.encoder = CachedEncoder(service.scorer)
    request = json.dumps(pairs(split, 4))
    first, second = (service.answer([Request(request)])[1] for _ in range(2))
    assert (first.images.items, first.images.hits, first.texts.hits, first.pairs) == (4, 0, 0, 4)
    assert (second.images.items, second.images.hits, second.texts.hits, second.pairs) == (4, 4, 4, 4)


def test_the_cache_is_bounded_and_drops_the_oldest_image(service: Service, split: Split) -> None:
    size = service.scorer.encode_images([split.regions(0)]).nbytes
    encoder, counts = CachedEncoder(service.scorer, image_bytes=4 * size), CacheCounts()
    for index in range(12):
        encoder.encode_images([split.regions(index)], counts)
    assert encoder._images.currsize <= 4 * size and counts.hits == 0
    encoder.encode_images([split.regions(11)], counts)
    encoder.encode_images([split.regions(0)], counts)
    assert (counts.items, counts.hits) == (14, 1)


def test_the_body_of_infinitys_client_is_answered_with_the_fields_that_it_requires(
    service: Service, split: Split
) -> None:
    body = {
        "query": split.texts[0], "documents": [f"{GALLERY}/{split.image_id(row)}" for row in range(3)],
        "return_documents": False, "raw_scores": False, "model": "hire", "top_n": 2,
    }  # fmt: skip
    answer = _get_answer(service, body)
    pieces = len(service.scorer.model.vocabulary.encode([split.texts[0]])[0])
    assert answer["usage"] == {"prompt_tokens": pieces, "total_tokens": pieces}
    assert len(answer["results"]) == 2 and set(answer["results"][0]) == {"index", "relevance_score"}


def test_an_image_of_a_rebuilt_gallery_gets_its_new_score(split: Split, tmp_path: Path) -> None:
    """Gallery images are kept in memory; those of an older generation must not be used."""
    service = make_service(tmp_path, split)
    generate(tmp_path / "others", train=len(split.images), dev=0, test=0, seed=9)
    others = Dataset.open(tmp_path / "others").split("train")
    rows = {others.image_id(row): row for row in range(len(others.images))}
    row = next(row for row in range(len(split.images)) if split.image_id(row) in rows)
    request = {"pairs": [{"image": stored(split, row), "text": split.texts[0]}]}
    first = _get_answer(service, request)["scores"]
    assert _get_answer(service, request)["scores"] == first
    folder = tmp_path / "galleries" / GALLERY
    build(service.scorer.model, others, folder, captions=False, overwrite=True)
    expected = service.scorer.predict([(others.regions(rows[split.image_id(row)]), split.texts[0])])
    assert abs(first[0] - expected[0]) > 1e-3
    assert _get_answer(service, request)["scores"] == pytest.approx(expected.tolist(), abs=1e-3)
    gc.collect()
    assert len(service.parser._stored) == 1, "images of the old generation are no longer in memory"
