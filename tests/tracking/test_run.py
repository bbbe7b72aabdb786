"""MLflow runs in a real SQLite store, and with a store that fails or does not exist."""

from __future__ import annotations

import functools
import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pytest

from hire_model.errors import TrainingStopped
from hire_model.settings import Settings, TrackingSettings, flatten
from hire_model.tracking import connection
from hire_model.tracking.connection import (
    DEFAULT_URI,
    UPLOAD_SECONDS,
    TrackingError,
    connect,
    limit_waiting,
    tracking_uri,
)
from hire_model.tracking.run import TrackedRun, explain_failed_upload, start_run


def test_a_run_stores_settings_metrics_tags_data_sets_and_artifacts(tracking: TrackingSettings, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("<html>")
    digest = "0123456789abcdef" * 4
    with start_run(tracking, "one") as run:
        run.log_params(flatten(Settings().model_dump(mode="json")))
        run.log_metrics({"dev/rsum": 100}, step=1)
        run.log_metrics({"dev/rsum": 200}, step=2)
        run.set_tags({"git.commit": "abc"})
        run.log_dataset(tmp_path, "scenes", digest, "training")
        run.log_artifact(tmp_path / "report.html", "evaluation")
        run.log_artifact(tmp_path, "folder")
    stored = mlflow.get_run(run.run_id)
    assert stored.info.status == "FINISHED" and stored.info.run_name == "one"
    assert stored.data.params["train.epochs"] == "10" and len(stored.data.params) > 60
    steps = mlflow.MlflowClient().get_metric_history(run.run_id, "dev/rsum")
    assert [(metric.step, metric.value) for metric in steps] == [(1, 100), (2, 200)]
    assert stored.data.tags["git.commit"] == "abc" and stored.data.tags["dataset.training.digest"] == digest
    logged = stored.inputs.dataset_inputs[0]
    assert logged.dataset.name == "scenes" and digest.startswith(logged.dataset.digest)
    assert logged.tags[0].value == "training" and str(tmp_path) in json.loads(logged.dataset.source)["uri"]
    assert mlflow.artifacts.load_text(f"{stored.info.artifact_uri}/evaluation/report.html") == "<html>"
    assert mlflow.artifacts.load_text(f"{stored.info.artifact_uri}/folder/report.html") == "<html>"


def test_an_exception_ends_the_run_as_failed(tracking: TrackingSettings) -> None:
    with pytest.raises(ZeroDivisionError), start_run(tracking, "fails") as run:
        raise ZeroDivisionError
    assert mlflow.get_run(run.run_id).info.status == "FAILED"


def test_a_resumed_training_joins_its_run_and_keeps_old_settings(tracking: TrackingSettings) -> None:
    with start_run(tracking, "first") as first:
        first.log_params({"train.epochs": 5})
    with start_run(tracking, "again", first.run_id) as again:
        again.log_params({"train.epochs": 9, "train.lr": 1})
    assert again.run_id == first.run_id
    assert mlflow.get_run(first.run_id).data.params == {"train.epochs": "5", "train.lr": "1"}


def test_an_unknown_run_id_starts_a_new_run(tracking: TrackingSettings) -> None:
    with start_run(tracking, "new", "0" * 32) as run:
        pass
    assert run.run_id != "0" * 32


@pytest.mark.parametrize(("given", "name"), [("opened by mlflow run", "opened by mlflow run"), (None, "validate")])
def test_inside_mlflow_run_its_run_is_joined_and_named_if_the_user_gave_no_name(
    tracking: TrackingSettings, monkeypatch: pytest.MonkeyPatch, given: str | None, name: str
) -> None:
    connect(tracking)
    opened = mlflow.MlflowClient().create_run(experiment_id="0", run_name=given)
    monkeypatch.setenv("MLFLOW_RUN_ID", opened.info.run_id)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking.uri)
    elsewhere = tracking.model_copy(update={"uri": "sqlite:////nowhere/at/all.db"})
    with start_run(elsewhere, "validate", run_id="f" * 32) as run:
        pass
    assert run.run_id == opened.info.run_id
    assert mlflow.get_run(run.run_id).info.run_name == name


def test_the_address_comes_from_settings_environment_or_default_in_this_order(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_RUN_ID", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    assert tracking_uri(TrackingSettings()) == DEFAULT_URI
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://environment")
    assert tracking_uri(TrackingSettings()) == "http://environment"
    assert tracking_uri(TrackingSettings(uri="http://settings")) == "http://settings"
    monkeypatch.setenv("MLFLOW_RUN_ID", "1")
    assert tracking_uri(TrackingSettings(uri="http://settings")) == "http://environment"


def _make_refusing_address() -> str:
    """Return the address of a port at which no server listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


@pytest.mark.parametrize("uri", ["foo://bar", "localhost:5000"])
def test_an_address_with_an_unknown_scheme_is_refused_with_the_valid_ones(tracking: TrackingSettings, uri: str) -> None:
    scheme = uri.partition(":")[0]
    with pytest.raises(
        TrackingError, match=rf"{uri} has the unknown scheme '{scheme}'\. Valid schemes: .*http, .*sqlite"
    ):
        connect(tracking.model_copy(update={"uri": uri}))


def test_a_store_that_is_down_fails_before_the_training_within_seconds(
    tracking: TrackingSettings, caplog: pytest.LogCaptureFixture
) -> None:
    uri, start = _make_refusing_address(), time.monotonic()
    down = tracking.model_copy(update={"uri": uri})
    with pytest.raises(TrackingError, match="does not answer") as caught, start_run(down, "never"):
        pytest.fail("the training started")
    assert str(caught.value).startswith(f"MLflow's store {uri} does not answer: Connection refused. Start the server")
    assert "tracking.enabled=false" in str(caught.value)
    assert [record.name for record in caplog.records if "urllib3" in record.name] == [], "no lines about retries"
    assert time.monotonic() - start < 20


def test_a_server_that_never_answers_fails_within_seconds(
    tracking: TrackingSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "limit_waiting", functools.partial(limit_waiting, 1))
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        start = time.monotonic()
        with pytest.raises(TrackingError, match="does not answer"):
            connect(tracking.model_copy(update={"uri": uri}))
        assert time.monotonic() - start < 30


def test_connecting_restores_the_time_limits_of_the_environment(
    tracking: TrackingSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "77")
    connect(tracking)
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "77"
    assert "MLFLOW_HTTP_REQUEST_MAX_RETRIES" not in os.environ


def test_metrics_are_sent_again_after_a_server_restart(
    tracking: TrackingSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, down = mlflow.log_metrics, [True]

    def fail_while_down(*arguments: Any, **options: Any) -> None:
        if down[0]:
            raise ConnectionError("the server restarts")
        real(*arguments, **options)

    monkeypatch.setattr(mlflow, "log_metrics", fail_while_down)
    with start_run(tracking, "flaky") as run:
        run.log_metrics({"dev/rsum": 1}, step=1)
        run.log_metrics({"dev/rsum": 2}, step=2)
        with pytest.raises(TrackingError, match="failed to store the run's metrics"):
            run.flush()
        down[0] = False
        run.log_metrics({"dev/rsum": 3}, step=3)
        run.flush()
    steps = mlflow.MlflowClient().get_metric_history(run.run_id, "dev/rsum")
    assert [metric.step for metric in steps] == [1, 2, 3]


def test_a_failed_upload_after_training_says_how_to_repeat_it(tracking: TrackingSettings, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("<html>")
    message = r"training is complete.*--resume.*-P resume=yes"
    with pytest.raises(TrackingError, match=message), start_run(tracking, "down") as run:
        mlflow.set_tracking_uri(_make_refusing_address())
        with limit_waiting(), explain_failed_upload(tmp_path):
            run.log_artifact(tmp_path / "report.html", "evaluation")
    assert mlflow.active_run() is None


@pytest.mark.parametrize("error", [TrainingStopped("The checkpoint is last.pt"), ZeroDivisionError()])
def test_a_store_that_fails_at_the_end_does_not_replace_the_exception(
    tracking: TrackingSettings, error: Exception
) -> None:
    with pytest.raises(type(error)) as caught, start_run(tracking, "down"):
        mlflow.set_tracking_uri(_make_refusing_address())
        start = time.monotonic()
        raise error
    assert caught.value is error and time.monotonic() - start < 30


def test_a_run_that_cannot_be_ended_is_logged_as_a_warning(
    tracking: TrackingSettings, caplog: pytest.LogCaptureFixture
) -> None:
    with start_run(tracking, "down") as run:
        mlflow.set_tracking_uri(_make_refusing_address())
    assert f"MLflow run {run.run_id} could not be ended" in caplog.text
    mlflow.set_tracking_uri(tracking.uri)
    assert mlflow.get_run(run.run_id).info.status == "RUNNING"


def test_each_call_to_a_store_that_is_down_raises_tracking_error_within_seconds(
    tracking: TrackingSettings, tmp_path: Path
) -> None:
    (tmp_path / "page.html").write_text("<html>")
    calls: dict[str, Callable[[TrackedRun], None]] = {
        "settings": lambda run: run.log_params({"a": 1}),
        "tags": lambda run: run.set_tags({"a": "b"}),
        "data set": lambda run: run.log_dataset(tmp_path, "a", "b", "c"),
        "page.html": lambda run: run.log_artifact(tmp_path / "page.html"),
    }
    with start_run(tracking, "down") as run:
        mlflow.set_tracking_uri(_make_refusing_address())
        for what, call in calls.items():
            start = time.monotonic()
            with pytest.raises(
                TrackingError, match=rf"store http.* failed to store .*{what}: .*Check that it is running"
            ):
                call(run)
            assert time.monotonic() - start < 60, what
        mlflow.set_tracking_uri(tracking.uri)


def test_uploads_have_a_time_limit(tracking: TrackingSettings) -> None:
    with explain_failed_upload(Path("run")):
        assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "1"
        assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == str(UPLOAD_SECONDS)
    assert "MLFLOW_HTTP_REQUEST_MAX_RETRIES" not in os.environ


def test_a_run_with_tracking_off_sends_and_writes_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    with start_run(TrackingSettings(enabled=False, uri=_make_refusing_address()), "off") as run:
        run.log_params({"a": 1})
        run.log_metrics({"a": 1.0})
        run.set_tags({"a": "b"})
        run.log_dataset(tmp_path, "a", "b", "c")
        run.log_artifact(tmp_path)
    assert not run.enabled and run.run_id == ""
    assert list(tmp_path.iterdir()) == []
