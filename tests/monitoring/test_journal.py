"""The journal records measurements of scored pairs, and never delays or fails a request."""

from __future__ import annotations

import json
import os
import stat
import time
from pathlib import Path

import numpy as np
import pytest
import service_examples
from hypothesis import given
from hypothesis import strategies as st

from hire_model.data.store import Dataset, Split
from hire_model.errors import HireError
from hire_model.monitoring import journal
from hire_model.monitoring.journal import Journal, JournalSettings, Line, read_lines
from hire_model.service.galleries import GALLERIES_VARIABLE
from hire_model.service.parsing import Request
from hire_model.service.service import Service
from hire_model.settings import resolve


@pytest.fixture(scope="module")
def split(tiny_dataset: Path) -> Split:
    return Dataset.open(tiny_dataset).split("test")


@pytest.fixture(scope="module")
def plain(split: Split, tmp_path_factory: pytest.TempPathFactory) -> Service:
    return service_examples.make_service(tmp_path_factory.mktemp("served"), split)


@pytest.fixture
def service(plain: Service, tmp_path: Path) -> Service:
    """Return a service that records every request in tmp_path/j."""
    plain.journal = Journal(JournalSettings(tmp_path / "j", 1.0), plain.facts, plain.scorer.model.vocabulary)
    return plain


def send(service: Service, request: object, explain: bool = False, probe: bool = False) -> dict:
    [reply], _ = service.answer([Request(json.dumps(request), explain, probe)])
    assert reply.status == 200, reply.body
    return json.loads(reply.body)


def close_and_read(service: Service) -> list[Line]:
    assert service.journal is not None
    service.journal.close()
    return list(read_lines(service.journal.settings.folder))


def test_a_pair_is_recorded_as_measurements_without_its_text(service: Service, split: Split) -> None:
    answer = send(service, service_examples.pairs(split, 1))
    [line] = close_and_read(service)
    regions, text = split.regions(0), split.texts[0]
    norms = np.linalg.norm(regions.features.astype(float), axis=1)
    ids, counts = np.unique(regions.classes, return_counts=True)
    assert line.score == pytest.approx(answer["scores"][0])
    assert (line.kind, line.source, line.version) == ("pairs", "upload", "7")
    assert line.weights == service.facts.weights_sha256
    assert (line.words, line.regions) == (len(text.split()), len(norms))
    assert line.norm == pytest.approx(norms.mean(), rel=0.005)
    assert line.norm_low == pytest.approx(np.quantile(norms, 0.1), rel=0.005)
    assert line.norm_high == pytest.approx(np.quantile(norms, 0.9), rel=0.005)
    assert line.classes == dict(zip(ids.tolist(), counts.tolist(), strict=True))
    assert line.unknown == 0.0
    assert line.text is None
    [part] = journal.list_parts(service.journal.settings.folder)
    assert text not in part.read_text()
    assert stat.S_IMODE(part.stat().st_mode) == 0o600
    assert stat.S_IMODE(part.parent.stat().st_mode) == 0o700


def test_the_text_is_recorded_if_enabled(service: Service, split: Split, tmp_path: Path) -> None:
    service.journal = Journal(
        JournalSettings(tmp_path / "t", 1.0, text=True), service.facts, service.scorer.model.vocabulary
    )
    send(service, {"pairs": [{"image": service_examples.image(split.regions(0)), "text": "a qqqq zzzz"}]})
    [line] = close_and_read(service)
    assert line.text == "a qqqq zzzz"
    assert line.unknown == pytest.approx(2 / 3)


def test_the_pairs_of_a_matrix_have_different_images_and_texts(service: Service, split: Split) -> None:
    images = [service_examples.stored(split, i) for i in range(3)]
    texts = list(dict.fromkeys(split.texts))[:6]
    answer = send(service, {"images": images, "texts": texts})
    lines = close_and_read(service)
    scores = np.array(answer["scores"])
    assert 1 <= len(lines) <= 3
    cells = [np.argwhere(np.isclose(scores, line.score, atol=1e-6))[0] for line in lines]
    assert len({row for row, _ in cells}) == len({column for _, column in cells}) == len(lines)
    assert {line.source for line in lines} == {"gallery"}
    assert {line.kind for line in lines} == {"matrix"}
    assert {line.norm for line in lines} == {None}  # a gallery stores no features
    assert all(sum(line.classes.values()) == line.regions for line in lines if line.classes)


def test_a_large_request_gives_a_limited_number_of_lines(service: Service, split: Split) -> None:
    image = service_examples.stored
    texts = [f"{text} {i}" for i, text in enumerate(split.texts[:20])]
    send(service, {"pairs": [{"image": image(split, i % 8), "text": text} for i, text in enumerate(texts)]})
    assert len(close_and_read(service)) == journal.PAIRS


def test_a_search_records_its_query_and_an_explanation_its_pair(service: Service, split: Split) -> None:
    send(service, {"gallery": service_examples.GALLERY, "texts": ["a red ball", "a cube"]})
    send(service, {"gallery": service_examples.GALLERY, "images": [service_examples.image(split.regions(1))]})
    answer = send(service, service_examples.pairs(split, 1), explain=True)
    texts, images, pair = [], [], []
    for line in close_and_read(service):
        (pair if line.kind == "pairs" else texts if line.words else images).append(line)
    assert [line.words for line in sorted(texts, key=lambda line: -(line.words or 0))] == [3, 2]
    assert all(line.score is None and line.regions is None for line in texts)
    assert [line.regions for line in images] == [len(split.regions(1).features)]
    assert [line.score for line in pair] == [pytest.approx(answer["explanations"][0]["score"])]


def test_probes_and_refused_requests_are_not_recorded(service: Service, split: Split) -> None:
    send(service, service_examples.pairs(split, 2), probe=True)
    service.answer([Request("{"), Request('{"pairs": []}')])
    send(service, service_examples.pairs(split, 1))
    assert len(close_and_read(service)) == 1


def test_only_the_given_share_of_the_requests_is_recorded(service: Service, split: Split, tmp_path: Path) -> None:
    service.journal = Journal(JournalSettings(tmp_path / "s", 0.25), service.facts, service.scorer.model.vocabulary)
    request = {"pairs": [{"image": service_examples.stored(split, 0), "text": "a cube"}]}
    for _ in range(400):
        send(service, request)
        while not service.journal._queue.empty():
            time.sleep(0.001)
    assert 60 <= len(close_and_read(service)) <= 140  # 100 +- 4.6 standard deviations


@pytest.mark.parametrize("fault", ["the folder is a file", "no permission", "disk full", "measuring fails"])
def test_requests_are_answered_if_writing_fails(
    fault: str, service: Service, split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    if fault == "the folder is a file":
        (tmp_path / "j").write_text("")
    elif fault == "no permission":
        monkeypatch.setattr(os, "open", fail)
    elif fault == "disk full":
        monkeypatch.setattr(journal._Parts, "write", fail)
    else:
        monkeypatch.setattr(journal, "measure_image", lambda _: 1 / 0)
    for _ in range(3):
        assert len(send(service, service_examples.pairs(split, 2))["scores"]) == 2
    assert service.journal is not None
    service.journal.close()
    assert service.journal._paused_until > time.monotonic()


def test_a_slow_disk_does_not_delay_requests(service: Service, split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal._Parts, "write", lambda *_: time.sleep(0.4))
    request = {"pairs": [{"image": service_examples.stored(split, 0), "text": "a cube"}]}
    send(service, request)  # from now on the image is cached
    start = time.monotonic()
    for _ in range(30):
        send(service, request)
    assert time.monotonic() - start < 6  # 30 writes would take 12 s; 9 are queued and the rest is not recorded


def test_a_full_part_is_followed_by_a_new_one_and_the_oldest_is_deleted(
    service: Service, split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "PART_BYTES", 600)
    monkeypatch.setattr(journal, "PARTS", 3)
    folder = service.journal.settings.folder
    for _ in range(12):
        send(service, service_examples.pairs(split, 1))
        while not service.journal._queue.empty():
            time.sleep(0.001)
    lines = close_and_read(service)
    assert len(journal.list_parts(folder)) == 3
    assert 3 <= len(lines) < 12
    assert max(part.stat().st_size for part in journal.list_parts(folder)) < 600 + 500


def test_a_part_that_was_deleted_is_replaced(service: Service, split: Split) -> None:
    send(service, service_examples.pairs(split, 1))
    while not journal.list_parts(service.journal.settings.folder):
        time.sleep(0.01)
    time.sleep(0.1)
    for part in journal.list_parts(service.journal.settings.folder):
        part.unlink()
    send(service, service_examples.pairs(split, 1))
    assert len(close_and_read(service)) == 1


def test_incomplete_and_invalid_lines_are_skipped(tmp_path: Path) -> None:
    good = Line(score=0.5).model_dump_json()
    (tmp_path / "journal-1-1.jsonl").write_bytes(f'{good}\n{{"half": '.encode() + b"\xff\x00\n[]\n\n")
    (tmp_path / "journal-2-1.jsonl").write_text(f"{good}\n{good[:40]}")
    assert list(read_lines(tmp_path)) == [Line(score=0.5)] * 2


def test_a_missing_journal_names_the_command_that_writes_one(tmp_path: Path) -> None:
    with pytest.raises(HireError, match="hire serve --journal"):
        list(read_lines(tmp_path))


@given(st.floats(1e-4, 1), st.booleans())
def test_settings_survive_the_environment(share: float, text: bool) -> None:
    settings = JournalSettings(Path("/some/where"), share, text)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.to_environment().items():
            patch.setenv(name, value)
        assert JournalSettings.from_environment() == settings


@pytest.mark.parametrize("share", ["0", "1.5", "often", "nan"])
def test_an_invalid_share_is_refused(share: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(journal.FOLDER, "somewhere")
    monkeypatch.setenv(journal.SHARE, share)
    with pytest.raises(HireError, match="HIRE_JOURNAL_SHARE"):
        JournalSettings.from_environment()


def test_there_is_no_journal_without_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(journal.FOLDER, raising=False)
    assert JournalSettings.from_environment() is None


def test_the_environment_variables_of_a_server_do_not_change_the_settings(tmp_path: Path) -> None:
    variables = JournalSettings(tmp_path).to_environment() | {GALLERIES_VARIABLE: str(tmp_path)}
    assert resolve("synthetic", environ=variables).settings == resolve("synthetic", environ={}).settings
