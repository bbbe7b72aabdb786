"""The clients with real servers: every method, blocking and asyncio, tokens, and killed workers."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psutil
import pytest
from processes import find_endpoint
from registered import RegisteredModel

from hire_model.data.store import ImageRegions, Split
from hire_model.scoring.scorer import Scorer
from serving.client import (
    AsyncHireClient,
    HireClient,
    NotFound,
    StoredImage,
    Unauthorized,
)
from serving.process import Server

pytestmark = pytest.mark.live


@pytest.fixture(scope="module", params=["torchserve", "gunicorn"])
def hire(request: pytest.FixtureRequest) -> Iterator[HireClient]:
    """A client of TorchServe by the folder of `hire serve`, and one of gunicorn by address and key file."""
    running: Server = request.getfixturevalue(request.param)
    endpoint = find_endpoint(running)
    by_folder = request.param == "torchserve"
    with HireClient(running.folder.parent) if by_folder else HireClient(endpoint.address, endpoint.keys) as hire:
        yield hire


def _take_images(split: Split) -> list[ImageRegions]:
    return [split.regions(i) for i in range(4)]


def test_every_method_works_with_a_real_server(
    hire: HireClient, registered_model: RegisteredModel, scenes: Split
) -> None:
    scorer, images, texts = Scorer.load(registered_model.folder), _take_images(scenes), list(scenes.texts[:4])
    expected = scorer.predict(list(zip(images, texts, strict=True)))
    np.testing.assert_allclose(hire.score(zip(images, texts, strict=True)).scores, expected, atol=1e-5)
    stored = [StoredImage(gallery="scenes", id=scenes.image_id(i)) for i in range(4)]
    matrix = np.array(hire.matrix([*images[:2], *stored[2:]], texts).scores)
    np.testing.assert_allclose(np.diag(matrix), expected, atol=1e-3)  # a gallery has half precision
    ranked = hire.rank(images, texts, top_k=1).results
    assert [hits[0].index for hits in ranked] == matrix.argmax(axis=0).tolist()
    ranked = hire.rank(images, texts, top_k=1, rank="texts").results
    assert [hits[0].index for hits in ranked] == matrix.argmax(axis=1).tolist()
    answer = hire.search("scenes", texts[:1], top_k=2)
    assert answer.size == 8 and len(answer.results[0].hits) == 2
    assert hire.search("scenes", images=stored[:1], top_k=1).results[0].hits[0].id in scenes.texts
    reranked = hire.rerank(texts[0], ["scenes/" + scenes.image_id(1), images[0]], top_n=1, return_documents=True)
    column = [matrix[1, 0], matrix[0, 0]]
    assert reranked.results[0].index == np.argmax(column) and reranked.facts.version == "1"
    assert reranked.results[0].relevance_score == pytest.approx(max(column), abs=1e-5)
    assert [result.index for result in hire.rerank(images[0], texts).results] == np.argsort(-matrix[0]).tolist()
    [explanation] = hire.explain([(images[0], texts[0])]).explanations
    assert sum(explanation.contributions) == pytest.approx(expected[0], abs=1e-5)
    assert hire.health() and hire.model() == answer.model and answer.model.version == "1"
    with pytest.raises(NotFound, match="gallery"):
        hire.search("nowhere", texts)


def test_a_wrong_token_is_unauthorized(torchserve: Server, gunicorn: Server) -> None:
    front = find_endpoint(gunicorn)
    for address, get_token in ((torchserve.address, torchserve.get_token), (front.address, front.get_token)):
        with HireClient(address, lambda: "wrong") as hire, pytest.raises(Unauthorized):
            hire.model()
        tokens = iter(["expired", get_token()])
        with HireClient(address, lambda tokens=tokens: next(tokens)) as hire:  # type: ignore[misc]
            assert hire.model().version == "1"


def test_the_asyncio_client_scores_as_the_blocking_one(torchserve: Server, scenes: Split) -> None:
    pairs = [(StoredImage(gallery="scenes", id=scenes.image_id(i)), scenes.texts[i]) for i in range(8)]

    async def score_concurrently() -> list[float]:
        async with AsyncHireClient(torchserve.folder.parent, connections=4) as hire:
            answers = await asyncio.gather(*(hire.score([pair]) for pair in pairs * 3))
        return [answer.scores[0] for answer in answers]

    with HireClient(torchserve.folder.parent) as hire:
        expected = hire.score(pairs).scores
    np.testing.assert_allclose(asyncio.run(score_concurrently()), expected * 3, atol=1e-5)


def test_no_request_is_lost_while_workers_are_killed(torchserve: Server, scenes: Split) -> None:
    pairs = [(StoredImage(gallery="scenes", id=scenes.image_id(0)), scenes.texts[0])]
    done = threading.Event()
    killed = []

    def kill_workers() -> None:
        java = torchserve.find_process()
        assert java is not None
        while not done.wait(1.5) and len(killed) < 2:
            for worker in java.children(recursive=True):
                if "model_service_worker" in " ".join(worker.cmdline()):
                    worker.kill()
                    killed.append(worker.pid)

    with HireClient(torchserve.folder.parent, deadline=300) as hire, ThreadPoolExecutor(4) as pool:
        [expected] = hire.score(pairs).scores
        killer = threading.Thread(target=kill_workers)
        killer.start()
        end = time.monotonic() + 12
        scores: list[float] = []
        while time.monotonic() < end:
            scores += [answer.scores[0] for answer in pool.map(lambda _: hire.score(pairs), range(8))]
        done.set()
        killer.join()
    assert len(killed) == 2 and len(scores) > 20
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    assert psutil.pid_exists(torchserve.pid)
