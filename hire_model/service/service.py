"""What every server does, without a server: requests in as JSON, answers out as JSON, each with its own status.

Nothing here raises after intake: a request that is malformed, too large or unlucky gets a `Fault`, and the good ones
that came with it are scored together as if it were not there.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from pydantic import BaseModel

from hire_model.batch import EncodedImages, EncodedTexts
from hire_model.data.store import ImageRegions
from hire_model.errors import HireError
from hire_model.gallery.search import search, search_captions
from hire_model.model import artifact
from hire_model.scoring.blocks import score_pairs
from hire_model.scoring.scorer import Scorer
from hire_model.service.contract import (
    ExplanationAnswer,
    Fault,
    Found,
    Hit,
    MatrixAnswer,
    MatrixRequest,
    ModelFacts,
    PairExplanation,
    PairsAnswer,
    PairsRequest,
    RankedAnswer,
    RequestFault,
    SearchAnswer,
    SearchRequest,
    SearchResult,
)
from hire_model.service.encoding import CachedEncoder, Counts
from hire_model.service.galleries import Galleries
from hire_model.service.parsing import Ask, Intake, Limits, Taken

log = logging.getLogger(__name__)
DEFAULTS = Limits()


class RequestLog(Protocol):
    """Receives every scored request; see hire_model.monitoring.journal."""

    def note(self, taken: Taken, scores: np.ndarray | None) -> None:
        """Record the request and its scores [K]; None for a search. Must not raise or block."""


@dataclass(frozen=True)
class Reply:
    """An HTTP status and a JSON body."""

    status: int
    body: str


@dataclass
class Spent:
    """What a call of `Service.answer` took: milliseconds by stage, and counts for the metrics."""

    ms: dict[str, float] = field(default_factory=lambda: dict.fromkeys(("decode", "encode", "score"), 0.0))
    images: Counts = field(default_factory=Counts)
    texts: Counts = field(default_factory=Counts)
    pairs: int = 0
    refused: int = 0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time of the block to stage `name`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.ms[name] += (time.perf_counter() - start) * 1000


@dataclass(frozen=True)
class _Job:
    """A good request with its items encoded."""

    taken: Taken
    images: list[EncodedImages]
    texts: list[EncodedTexts]


class Service:
    """A model that answers the requests of hire_model.service.contract."""

    def __init__(self, scorer: Scorer, facts: ModelFacts, galleries: Path | None, limits: Limits = DEFAULTS) -> None:
        """facts: which model it is, told in every answer; galleries: the folder of galleries by name, if any."""
        self.scorer, self.facts = scorer, facts
        self.intake = Intake(scorer, Galleries(galleries, scorer), limits)
        self.encoder = CachedEncoder(scorer)
        self.journal: RequestLog | None = None

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
        """The model in `folder`, its digests checked. Raises HireError if it is missing or damaged."""
        scorer, digests = Scorer.load(folder), artifact.read_config(folder)["sha256"]
        facts = ModelFacts(name=name, version=version, run_id=run_id, weights_sha256=digests[artifact.WEIGHTS])
        return cls(scorer, facts, galleries, limits)

    def answer(self, asks: Sequence[Ask]) -> tuple[list[Reply], Spent]:
        """A reply per request, in order, and what they took. Never raises."""
        spent = Spent()
        begun = [self._begin(ask, spent) for ask in asks]
        finished = iter(self._finish([job for job in begun if isinstance(job, _Job)], spent))
        answers = [next(finished) if isinstance(one, _Job) else one for one in begun]
        replies = [Reply(one.status if isinstance(one, Fault) else 200, one.model_dump_json()) for one in answers]
        spent.refused = sum(reply.status != 200 for reply in replies)
        return replies, spent

    def scores(self, request: object) -> list[float]:
        """The scores of a pairs request, for checks of the server itself. Raises HireError where it is refused."""
        reply = self.answer([Ask(json.dumps(request))])[0][0]
        if reply.status != 200:
            raise HireError(f"The request was refused: {reply.body}")
        return json.loads(reply.body)["scores"]

    def _begin(self, ask: Ask, spent: Spent) -> _Job | BaseModel:
        """Check a request and encode what it sends. Searches and explanations are answered at once, alone."""
        try:
            with spent.stage("decode"):
                taken = self.intake.take(ask)
            if isinstance(taken.request, SearchRequest):
                with spent.stage("score"):
                    return self._search(taken.request, taken, spent)
            with spent.stage("encode"):
                job = _Job(taken, self._images(taken, spent), self.encoder.texts(taken.texts, spent.texts))
            if not ask.explain:
                return job
            with spent.stage("score"):
                return self._explain(job)
        except Exception as error:
            return self._fault(error)

    def _images(self, taken: Taken, spent: Spent) -> list[EncodedImages]:
        sent = [picture.content for picture in taken.images if isinstance(picture.content, ImageRegions)]
        encoded = iter(self.encoder.images(sent, spent.images))
        return [one.content if isinstance(one.content, EncodedImages) else next(encoded) for one in taken.images]

    def _finish(self, jobs: list[_Job], spent: Spent) -> list[BaseModel]:
        """Score the pairs of all jobs together; where that fails, each job alone, so that only the unlucky fail."""
        try:
            with spent.stage("score"):
                scores = self._scores(jobs)
            spent.pairs += len(scores)
            bounds = np.cumsum([0, *(len(job.taken.image_index) for job in jobs)])
            return [self._answer(job, scores[bounds[i] : bounds[i + 1]]) for i, job in enumerate(jobs)]
        except Exception as error:
            if len(jobs) == 1:
                return [self._fault(error)]
            return [answer for job in jobs for answer in self._finish([job], spent)]

    def _scores(self, jobs: list[_Job]) -> np.ndarray:
        """[all pairs] float32, those of the first job first."""
        if not jobs:
            return np.empty(0, np.float32)
        images = [image for job in jobs for image in job.images]
        texts = [text for job in jobs for text in job.texts]
        first_image = np.cumsum([0, *(len(job.images) for job in jobs)])
        first_text = np.cumsum([0, *(len(job.texts) for job in jobs)])
        image_index = np.concatenate([job.taken.image_index + first_image[i] for i, job in enumerate(jobs)])
        text_index = np.concatenate([job.taken.text_index + first_text[i] for i, job in enumerate(jobs)])
        return score_pairs(self.scorer, images, texts, image_index, text_index)

    def _answer(self, job: _Job, scores: np.ndarray) -> BaseModel:
        request = job.taken.request
        if not np.isfinite(scores).all():
            place = int(np.flatnonzero(~np.isfinite(scores))[0])
            image = int(job.taken.image_index[place])
            path = f"pairs[{image}].image" if isinstance(request, PairsRequest) else f"images[{image}]"
            return self._fault(_unscorable(path))
        self._note(job.taken, scores)
        if isinstance(request, PairsRequest):
            return PairsAnswer(model=self.facts, scores=scores.tolist())
        assert isinstance(request, MatrixRequest)
        matrix = scores.reshape(len(job.images), len(job.texts))
        if request.top_k is None:
            return MatrixAnswer(model=self.facts, scores=matrix.tolist())
        queries = matrix.T if request.rank == "images" else matrix
        return RankedAnswer(model=self.facts, results=[_best(row, request.top_k) for row in queries])

    def _search(self, request: SearchRequest, taken: Taken, spent: Spent) -> SearchAnswer:
        gallery, shortlist = self.intake.gallery_for(request)
        if request.images is None:
            found = search(self.scorer, gallery, taken.texts, request.top_k, shortlist)
        else:
            queries = EncodedImages.concatenate(self._images(taken, spent))
            _check_finite(queries.summary.numpy(force=True))  # no neighbour of NaN can be looked up
            found = search_captions(self.scorer, gallery, queries, request.top_k, shortlist)
            _check_finite(np.array([[hit.score for hit in answer.hits] for answer in found]))
        spent.pairs += sum(answer.reranked for answer in found)
        results = [
            SearchResult(
                hits=[Found(id=hit.id, score=hit.score, place=hit.place) for hit in answer.hits],
                reranked=answer.reranked,
                note=answer.note,
            )
            for answer in found
        ]
        self._note(taken, None)
        shelf = gallery.images if request.images is None else gallery.captions
        return SearchAnswer(model=self.facts, gallery=request.gallery, size=len(shelf or ()), results=results)

    def _explain(self, job: _Job) -> ExplanationAnswer:
        explanations = []
        for place, (picture, image, text) in enumerate(zip(job.taken.images, job.images, job.taken.texts, strict=True)):
            why = self.scorer.explain_encoded(image, text)
            if not np.isfinite([why.score, *why.contributions, *why.weights.ravel()]).all():
                raise _unscorable(f"pairs[{place}].image")
            boxes = [None if np.isnan(box).any() else box.tolist() for box in picture.boxes]
            explanations.append(
                PairExplanation(
                    words=why.words,
                    weights=why.weights.tolist(),
                    contributions=why.contributions.tolist(),
                    boxes=boxes,
                    score=why.score,
                )
            )
        self._note(job.taken, np.array([one.score for one in explanations]))
        return ExplanationAnswer(model=self.facts, explanations=explanations)

    def _note(self, taken: Taken, scores: np.ndarray | None) -> None:
        if self.journal is not None:
            self.journal.note(taken, scores)

    def _fault(self, error: Exception) -> Fault:
        if not isinstance(error, RequestFault):
            log.error("A request failed inside the server", exc_info=error)
            error = RequestFault(500, "", "the server failed on this request; its log says why.")
        return Fault(status=error.status, path=error.path, message=error.message, model=self.facts)


def _check_finite(queries: np.ndarray) -> None:
    """Of images that search a gallery: [images, values]. Raises RequestFault naming the first that is not finite."""
    wrong = np.flatnonzero(~np.isfinite(queries).all(axis=1))
    if len(wrong):
        raise _unscorable(f"images[{wrong[0]}]")


def _unscorable(path: str) -> RequestFault:
    return RequestFault(400, path, "its features are too large to score.")


def _best(scores: np.ndarray, top_k: int) -> list[Hit]:
    """The best first; equal scores keep their order."""
    order = np.argsort(-scores, kind="stable")[:top_k]
    return [Hit(index=int(place), score=float(scores[place])) for place in order]
