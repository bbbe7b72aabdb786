"""Flows send Prefect's spans if a collector is named, and leave a provider of others alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from collectors import run_collector
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from real_servers import Servers

from flows import prefect_support
from hire_model import telemetry

FLOW = """
from prefect import flow, task
import flows.prefect_support

@task(task_run_name="step")
def step(): ...

@flow(flow_run_name="retrain-of-a-test")
def run(): step()

run()
"""


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> list[TracerProvider]:
    """The providers that are installed during a test, instead of the one of this process."""
    providers: list[TracerProvider] = []
    for name in telemetry.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(trace, "set_tracer_provider", providers.append)
    monkeypatch.setattr(trace, "get_tracer_provider", trace.ProxyTracerProvider)
    return providers


def test_traces_of_flows_are_off_without_a_collector(installed: list[TracerProvider]) -> None:
    prefect_support.send_traces()
    assert not installed


def test_a_collector_that_cannot_be_used_is_a_warning(
    installed: list[TracerProvider], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4317")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    prefect_support.send_traces()
    assert not installed and "No traces are sent" in caplog.text


def test_with_a_collector_a_provider_is_installed_unless_there_is_one(
    installed: list[TracerProvider], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    prefect_support.send_traces()
    [provider] = installed
    assert provider.resource.attributes["service.name"] == "hire-flows"
    provider.shutdown()
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)  # as opentelemetry-instrument does
    prefect_support.send_traces()
    assert installed == [provider]


@pytest.mark.live
def test_a_run_of_a_flow_is_one_trace_with_its_tasks(servers: Servers, tmp_path: Path) -> None:
    with run_collector() as collector:
        env = dict(servers.env) | {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.address, "OTEL_BSP_SCHEDULE_DELAY": "100"}
        done = subprocess.run(
            [sys.executable, "-c", FLOW], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
        spans = [collector.wait_for(name) for name in ("step", "retrain-of-a-test")]
    assert spans[0].trace_id == spans[1].trace_id
