"""Answer JSON requests, independent of the server.

`Service.answer` parses each request, encodes its items, scores the pairs of all requests together, and builds one
answer per request. It never raises: a request that is malformed, too large or fails gets a `Fault`, and does not affect
the other requests.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from pydantic import BaseModel

from hire_model.batch import EncodedImages, EncodedTexts
from hire_model.data.store import ImageRegions
from hire_model.errors import HireError
from hire_model.gallery.search import search_captions, search_images
from hire_model.model import artifact
from hire_model.scoring.pictures import NO_EXTRACTOR, PictureReader
from hire_model.scoring.scorer import Scorer
from hire_model.service.contract import (
    ExplanationAnswer,
    Fault,
    Hit,
    MatrixAnswer,
    MatrixRequest,
    ModelFacts,
    PairExplanation,
    PairsAnswer,
    PairsRequest,
    RankedAnswer,
    RequestFault,
    RerankAnswer,
    RerankDocument,
    RerankRequest,
    RerankResult,
    RerankUsage,
    SearchAnswer,
    SearchHit,
    SearchRequest,
    SearchResult,
)
from hire_model.service.encoding import CachedEncoder, CachedText
from hire_model.service.galleries import Galleries
from hire_model.service.parsing import Limits, ParsedRequest, Request, RequestParser
from hire_model.service.pictures import Pictures, open_reader
from hire_model.service.timings import Timings
from hire_model.service.tracing import Tracing

log = logging.getLogger(__name__)
DEFAULTS = Limits()


class RequestLog(Protocol):
    """Receives every scored request; see hire_model.monitoring.journal."""

    def note(self, request: ParsedRequest, scores: np.ndarray | None) -> None:
        """Record the request and its scores [K], or None for a search. Must not raise or block."""


@dataclass(frozen=True)
class Reply:
    """An HTTP status and a JSON body."""

    status: int
    body: str


@dataclass(frozen=True)
class EncodedRequest:
    """A valid request with its items encoded, ready to be scored, and what was measured of it."""

    parsed: ParsedRequest
    images: list[EncodedImages]
    texts: list[CachedText]
    timings: Timings

    def list_unknown_words(self) -> list[list[str]]:
        """Return the unknown words of each text; an empty list if all words are known."""
        unknown = [text.unknown for text in self.texts]
        return unknown if any(unknown) else []


class Service:
    """A model that answers the requests of hire_model.service.contract.

    Args:
        scorer: the loaded model.
        facts: name and version of the model; part of every answer.
        galleries: the folder with the galleries, or None.
        limits: maximum sizes of a request.
        reader: reads picture files, or the reason why requests with pictures are refused.
    """

    def __init__(
        self,
        scorer: Scorer,
        facts: ModelFacts,
        galleries: Path | None,
        limits: Limits = DEFAULTS,
        reader: PictureReader | str = NO_EXTRACTOR,
    ) -> None:
        self.scorer, self.facts = scorer, facts
        address = f"models:/{facts.name}/{facts.version}" if facts.version else "MODEL"
        self.galleries = Galleries(galleries, scorer, address)
        self.pictures = Pictures(reader, limits.picture_bytes, limits.picture_pixels)
        self.parser = RequestParser(scorer, self.galleries, self.pictures, limits, facts)
        self.encoder = CachedEncoder(scorer)
        self.journal: RequestLog | None = None
        self.tracing: Tracing | None = None

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        name: str = "hire",
        version: str = "",
        run_id: str = "",
        galleries: Path | None = None,
        limits: Limits = DEFAULTS,
    ) -> Service:
        """Load the model in `folder` and check its digests. Raises HireError if it is missing or damaged."""
        scorer, digests = Scorer.load(folder), artifact.read_config(folder)["sha256"]
        facts = ModelFacts(name=name, version=version, run_id=run_id, weights_sha256=digests[artifact.WEIGHTS])
        return cls(scorer, facts, galleries, limits, open_reader(folder))

    def answer(self, requests: Sequence[Request]) -> tuple[list[Reply], Timings]:
        """Return one reply per request, in order, and the timings. Never raises."""
        start, own, joint = time.time_ns(), [Timings() for _ in requests], Timings()
        prepared = [self._prepare(*item) for item in zip(requests, own, strict=True)]
        scored = iter(self._score([item for item in prepared if isinstance(item, EncodedRequest)], joint))
        answers = [next(scored) if isinstance(item, EncodedRequest) else item for item in prepared]
        replies = [
            Reply(answer.status if isinstance(answer, Fault) else 200, answer.model_dump_json()) for answer in answers
        ]
        total = Timings(refused=sum(reply.status != 200 for reply in replies))
        for each in (*own, joint):
            total.add(each)
        if self.tracing is not None:
            for request, item, reply, timings in zip(requests, prepared, replies, own, strict=True):
                shared = joint.stages if isinstance(item, EncodedRequest) else []
                self.tracing.record(request, reply.status, start, timings, [*timings.stages, *shared])
        return replies, total

    def score_pairs(self, body: object) -> list[float]:
        """Return the scores of a pairs request, for a check of the server. Raises HireError if it is rejected."""
        reply = self.answer([Request(json.dumps(body))])[0][0]
        if reply.status != 200:
            raise HireError(f"The request was rejected: {reply.body}")
        return json.loads(reply.body)["scores"]

    def _prepare(self, request: Request, timings: Timings) -> EncodedRequest | BaseModel:
        """Parse a request and encode its items for scoring.

        A search, an explanation and a fault are returned as finished answers.
        """
        try:
            with timings.measure("decode"):
                parsed = self.parser.parse(request, timings)
            if isinstance(parsed.body, SearchRequest):
                with timings.measure("score"):
                    return self._search(parsed.body, parsed, timings)
            with timings.measure("encode"):
                texts = self.encoder.encode_texts(parsed.texts, timings.texts)
                encoded = EncodedRequest(parsed, self._encode_images(parsed, timings), texts, timings)
            if not request.explain:
                return encoded
            with timings.measure("score"):
                return self._explain(encoded)
        except Exception as error:
            return self._make_fault(error)

    def _encode_images(self, parsed: ParsedRequest, timings: Timings) -> list[EncodedImages]:
        sent = [image.content for image in parsed.images if isinstance(image.content, ImageRegions)]
        encoded = iter(self.encoder.encode_images(sent, timings.images) if sent else ())
        contents = [image.content for image in parsed.images]
        return [content if isinstance(content, EncodedImages) else next(encoded) for content in contents]

    def _score(self, requests: list[EncodedRequest], timings: Timings) -> list[BaseModel]:
        """Score the pairs of all requests together. If this fails, score each request alone, so that only one fails."""
        if not requests:
            return []
        try:
            with timings.measure("score"):
                scores = self._score_together(requests)
            answers, end = list[BaseModel](), 0
            for request in requests:
                count = len(request.parsed.image_index)
                request.timings.pairs += count
                end += count
                answers.append(self._make_answer(request, scores[end - count : end]))
            return answers
        except Exception as error:
            if len(requests) == 1:
                return [self._make_fault(error)]
            return [answer for request in requests for answer in self._score([request], timings)]

    def _score_together(self, requests: list[EncodedRequest]) -> np.ndarray:
        """Return the scores [all pairs] float32, in the order of the requests."""
        if len(requests) == 1:
            [one] = requests
            encoded = [text.encoded for text in one.texts]
            return self.scorer.score_items(one.images, encoded, one.parsed.image_index, one.parsed.text_index)
        images: list[EncodedImages] = []
        texts: list[EncodedTexts] = []
        image_index, text_index = [], []
        for request in requests:
            image_index.append(request.parsed.image_index + len(images))
            text_index.append(request.parsed.text_index + len(texts))
            images += request.images
            texts += [text.encoded for text in request.texts]
        return self.scorer.score_items(images, texts, np.concatenate(image_index), np.concatenate(text_index))

    def _make_answer(self, request: EncodedRequest, scores: np.ndarray) -> BaseModel:
        parsed, body = request.parsed, request.parsed.body
        if not np.isfinite(scores).all():
            image = int(parsed.image_index[np.flatnonzero(~np.isfinite(scores))[0]])
            return self._make_fault(_make_score_fault(parsed.image_path.format(image)))
        self._log(parsed, scores)
        unknown = request.list_unknown_words()
        if isinstance(body, PairsRequest):
            per_pair = [unknown[text] for text in parsed.text_index] if unknown else []
            return PairsAnswer(model=self.facts, scores=scores.tolist(), unknown=per_pair)
        if isinstance(body, RerankRequest):
            pieces = sum(text.encoded.mask.shape[1] for text in request.texts)
            return self._rerank(body, scores, unknown, pieces)
        assert isinstance(body, MatrixRequest)
        matrix = scores.reshape(len(request.images), len(request.texts))
        if body.top_k is None:
            return MatrixAnswer(model=self.facts, scores=matrix.tolist(), unknown=unknown)
        queries = matrix.T if body.rank == "images" else matrix
        results = [_rank(row, body.top_k) for row in queries]
        return RankedAnswer(model=self.facts, results=results, unknown=unknown)

    def _rerank(self, body: RerankRequest, scores: np.ndarray, unknown: list[list[str]], pieces: int) -> RerankAnswer:
        results = []
        for hit in _rank(scores, body.top_n or len(scores)):
            document = body.documents[hit.index] if body.return_documents else None
            sent = RerankDocument(text=document) if isinstance(document, str) else document
            results.append(RerankResult(index=hit.index, relevance_score=hit.score, document=sent))
        model = f"{self.facts.name}/{self.facts.version}"
        usage = RerankUsage(prompt_tokens=pieces, total_tokens=pieces)
        return RerankAnswer(model=model, facts=self.facts, results=results, usage=usage, unknown=unknown)

    def _search(self, body: SearchRequest, parsed: ParsedRequest, timings: Timings) -> SearchAnswer:
        gallery, shortlist = self.parser.prepare_search(body)
        corrected = bool(body.hub_correction)
        if body.images is None:
            results = search_images(self.scorer, gallery, parsed.texts, body.top_k, shortlist, corrected, body.where)
        else:
            queries = EncodedImages.concatenate(self._encode_images(parsed, timings))
            _check_finite(queries.summary.numpy(force=True))  # the index cannot find neighbours of NaN
            results = search_captions(self.scorer, gallery, queries, body.top_k, shortlist, corrected, body.where)
            _check_finite(np.array([[hit.score for hit in result.hits] for result in results]))
        timings.pairs += sum(result.reranked for result in results)
        answers = [
            SearchResult(
                hits=[SearchHit(id=hit.id, score=hit.score, place=hit.place) for hit in result.hits],
                reranked=result.reranked,
                note=result.note,
                unknown=list(result.unknown),
            )
            for result in results
        ]
        self._log(parsed, None)
        store = gallery.images if body.images is None else gallery.captions
        return SearchAnswer(
            model=self.facts,
            gallery=body.gallery,
            size=len(store or ()),
            hub_correction=corrected,
            results=answers,
        )

    def _explain(self, request: EncodedRequest) -> ExplanationAnswer:
        parsed, explanations = request.parsed, []
        items = zip(parsed.images, request.images, parsed.texts, request.texts, strict=True)
        for position, (image, encoded, text, cached) in enumerate(items):
            explanation = self.scorer.explain_encoded(encoded, text)
            if not np.isfinite([explanation.score, *explanation.contributions, *explanation.weights.ravel()]).all():
                raise _make_score_fault(f"pairs[{position}].image")
            explanations.append(
                PairExplanation(
                    words=explanation.words,
                    weights=explanation.weights.tolist(),
                    contributions=explanation.contributions.tolist(),
                    boxes=[None if np.isnan(box).any() else box.tolist() for box in image.boxes],
                    score=explanation.score,
                    unknown=cached.unknown,
                )
            )
        self._log(parsed, np.array([explanation.score for explanation in explanations]))
        return ExplanationAnswer(model=self.facts, explanations=explanations)

    def _log(self, parsed: ParsedRequest, scores: np.ndarray | None) -> None:
        if self.journal is not None:
            self.journal.note(parsed, scores)

    def _make_fault(self, error: Exception) -> Fault:
        if not isinstance(error, RequestFault):
            log.error("A request failed inside the server", exc_info=error)
            error = RequestFault(500, "", "error in the server; see its log.")
        return Fault(status=error.status, path=error.path, message=error.message, model=self.facts)


def _check_finite(values: np.ndarray) -> None:
    """Check the values [images, values] of query images. Raises RequestFault naming the first image that fails."""
    wrong = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(wrong):
        raise _make_score_fault(f"images[{wrong[0]}]")


def _make_score_fault(path: str) -> RequestFault:
    return RequestFault(400, path, "the features are too large to score.")


def _rank(scores: np.ndarray, top_k: int) -> list[Hit]:
    """Return the best items first; equal scores keep their order."""
    order = np.argsort(-scores, kind="stable")[:top_k]
    return [Hit(index=int(row), score=float(scores[row])) for row in order]
