"""Traces of requests: off by default, one span per request in the trace of its client, and nothing private in it."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import gallery_examples
import pytest
from collectors import run_collector
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from service_examples import GALLERY, make_service, pairs, stored

from hire_model import telemetry
from hire_model.data.store import Split
from hire_model.service.counters import Counters
from hire_model.service.parsing import Request
from hire_model.service.service import Service
from hire_model.service.tracing import Tracing, open_tracing
from serving.contract import PREDICTIONS
from serving.handler import HireHandler
from serving.process import inherit_variables
from serving.wsgi import HireApp

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"
SECRET = "a secret of the collector"


@pytest.fixture(scope="module")
def split(tiny_dataset: Path) -> Split:
    return gallery_examples.open_split(tiny_dataset)


@pytest.fixture(scope="module")
def plain(split: Split, tmp_path_factory: pytest.TempPathFactory) -> Service:
    return make_service(tmp_path_factory.mktemp("service"), split)


@pytest.fixture
def exporter(plain: Service) -> Iterator[InMemorySpanExporter]:
    """The spans of the service `plain`, which is traced during a test."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    plain.tracing = Tracing(provider)
    yield exporter
    plain.tracing = None


@pytest.fixture(autouse=True)
def no_collector(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in telemetry.VARIABLES:
        monkeypatch.delenv(name, raising=False)


def by_parent(exporter: InMemorySpanExporter) -> list[tuple[ReadableSpan, list[ReadableSpan]]]:
    """Return each span of a request, in order, with the spans below it."""
    spans = exporter.get_finished_spans()
    roots = sorted((s for s in spans if s.name in ("predict", "explain")), key=lambda s: s.end_time)
    return [(root, [s for s in spans if s.parent and s.parent.span_id == root.context.span_id]) for root in roots]


def test_a_request_is_a_span_with_its_stages_status_and_counts(
    plain: Service, split: Split, exporter: InMemorySpanExporter
) -> None:
    search = {"gallery": GALLERY, "texts": ["a dog", "a cat"]}
    bodies = [pairs(split, 3), search, {"images": [stored(split, 0)], "texts": ["a"]}, {"texts": 1}]
    plain.answer([Request(json.dumps(body)) for body in bodies])
    plain.answer([Request(json.dumps(pairs(split, 2)), explain=True, traceparent="00-nonsense")])
    found = by_parent(exporter)
    kinds = [(root.attributes["hire.request"], root.attributes["http.response.status_code"]) for root, _ in found]
    assert kinds == [("pairs", 200), ("search", 200), ("matrix", 200), ("", 400), ("pairs", 200)]
    stages = [sorted(span.name for span in below) for _, below in found]
    scored = ["decode", "encode", "score"]
    assert stages == [scored, ["decode", "score"], scored, ["decode"], scored]
    counts = ("hire.pairs", "hire.images", "hire.texts")
    first, second = ([root.attributes[name] for name in counts] for root, _ in (found[0], found[2]))
    assert (first, second) == ([3, 3, 3], [1, 0, 1]), "each has its own counts, although both were scored together"
    assert found[1][0].attributes["hire.pairs"] > 0
    assert [root.name for root, _ in found] == ["predict"] * 4 + ["explain"]
    for root, below in found:
        assert root.parent is None and root.kind.name == "SERVER" and root.status.is_unset
        assert all(root.start_time <= span.start_time <= span.end_time <= root.end_time for span in below)
        assert sum(span.end_time - span.start_time for span in below) > 0


def test_a_span_has_no_text_no_id_and_no_token(plain: Service, split: Split, exporter: InMemorySpanExporter) -> None:
    secrets = ["a very private sentence", split.image_id(0), GALLERY]
    plain.answer([Request(json.dumps({"images": [stored(split, 0)], "texts": secrets[:1]}))])
    plain.answer([Request(json.dumps({"gallery": GALLERY, "texts": secrets[:1], "nonsense": secrets[0]}))])
    text = "".join(span.to_json() for span in exporter.get_finished_spans())
    assert "predict" in text and not [secret for secret in secrets if f'"{secret}"' in text or " private " in text]


def test_a_failed_request_is_an_error_and_a_probe_is_no_span(
    plain: Service, split: Split, exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = json.dumps(pairs(split, 1))
    plain.answer([Request(body, probe=True)])
    assert not exporter.get_finished_spans()
    monkeypatch.setattr(plain.scorer, "score_items", lambda *_: 1 / 0)
    plain.answer([Request(body)])
    [(root, _)] = by_parent(exporter)
    assert root.status.status_code.name == "ERROR" and root.attributes["http.response.status_code"] == 500


def test_a_broken_exporter_does_not_fail_the_request(plain: Service, split: Split) -> None:
    plain.tracing = Tracing(TracerProvider())
    plain.tracing._tracer = None  # type: ignore[assignment]
    try:
        [reply], _ = plain.answer([Request(json.dumps(pairs(split, 1)))])
    finally:
        plain.tracing = None
    assert reply.status == 200


class Metrics:
    """Stand for `serving.metrics.Metrics`."""

    def count_request(self, *_: object) -> None: ...


class Context:
    """Stand for TorchServe's context."""

    metrics = None

    def get_request_header(self, _: int, key: str) -> str | None:
        return {"traceparent": TRACEPARENT}.get(key)

    def set_response_status(self, *_: object) -> None: ...

    def set_response_content_type(self, *_: object) -> None: ...


@pytest.mark.parametrize("kind", ["gunicorn", "torchserve"])
def test_both_servers_continue_the_trace_of_the_client(
    kind: str, plain: Service, split: Split, exporter: InMemorySpanExporter
) -> None:
    body = json.dumps(pairs(split, 1)).encode()
    if kind == "gunicorn":
        app = HireApp(plain, "token", Metrics())  # type: ignore[arg-type]
        environ: dict[str, Any] = {
            "PATH_INFO": PREDICTIONS, "REQUEST_METHOD": "POST", "HTTP_AUTHORIZATION": "Bearer token",
            "CONTENT_LENGTH": str(len(body)), "wsgi.input": BytesIO(body), "HTTP_TRACEPARENT": TRACEPARENT,
        }  # fmt: skip
        app(environ, lambda *_: None)
    else:
        handler = HireHandler()
        handler.service, handler.counters = plain, Counters(lambda _: None)
        handler.handle([{"body": body}], Context())
    [(root, below)] = by_parent(exporter)
    assert root.parent is not None and root.parent.is_remote
    assert (f"{root.context.trace_id:032x}", f"{root.parent.span_id:016x}") == (TRACE, PARENT)
    assert {f"{span.context.trace_id:032x}" for span in below} == {TRACE}


def test_traces_are_off_and_opentelemetry_is_not_imported_without_a_collector(plain: Service) -> None:
    assert open_tracing(plain.facts) is None
    code = "import sys, hire_model.packaging.opening as o; assert 'opentelemetry' not in sys.modules, 'imported'"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("variables", "wanted", "problem"),
    [
        ({}, False, ""),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}, True, ""),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:4318/v1/traces"}, True, ""),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a", "OTEL_SDK_DISABLED": "true"}, False, ""),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a", "OTEL_TRACES_EXPORTER": "none"}, False, ""),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, True, "grpc"),
    ],
)
def test_the_standard_variables_switch_traces_on(
    variables: dict[str, str], wanted: bool, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert telemetry.is_wanted() is wanted
    assert problem in telemetry.find_problem() and bool(problem) == bool(telemetry.find_problem())


def test_a_missing_exporter_is_reported_and_the_service_runs_without_traces(
    plain: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    monkeypatch.setattr(telemetry, "find_spec", lambda _: None)
    with caplog.at_level(logging.WARNING):
        assert open_tracing(plain.facts) is None
    assert "pip install 'hire-model[telemetry]'" in caplog.text


def test_spans_reach_the_collector_with_its_headers_and_the_names_of_the_environment(
    plain: Service, split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    with run_collector() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.address)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", f"x-key={SECRET}")
        monkeypatch.setenv("OTEL_SERVICE_NAME", "matching")
        provider = telemetry.make_provider("hire", {"hire.model.version": "7"})
        Tracing(provider).record(Request(""), 200, 1, plain.answer([Request("")])[1], [])
        assert provider.force_flush()
        assert collector.wait_for("predict").start_time_unix_nano == 1
        assert collector.headers[0]["x-key"] == SECRET
    assert dict(provider.resource.attributes)["service.name"] == "matching"
    assert dict(provider.resource.attributes)["hire.model.version"] == "7"
    provider.shutdown()


def test_a_server_inherits_the_variables_of_traces_only_when_they_are_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", f"x-key={SECRET}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_HEADERS", f"x-key={SECRET}")
    assert SECRET not in str(inherit_variables())
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    inherited = {name for name in inherit_variables() if name.startswith("OTEL")}
    assert inherited == {"OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_HEADERS"}
