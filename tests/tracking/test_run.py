"""A run against a real SQLite store, and what happens where there is none."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pytest

from hire_model.errors import TrainingStopped
from hire_model.settings import Settings, TrackingSettings, flatten
from hire_model.tracking.connection import (
    DEFAULT_URI,
    UPLOAD_SECONDS,
    TrackingError,
    connect,
    limit_waiting,
    tracking_uri,
)
from hire_model.tracking.run import TrackedRun, explain_failed_upload, start_run


def test_everything_that_is_told_is_kept(tracking: TrackingSettings, tmp_path: Path) -> None:
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
    kept = mlflow.get_run(run.run_id)
    assert kept.info.status == "FINISHED" and kept.info.run_name == "one"
    assert kept.data.params["train.epochs"] == "10" and len(kept.data.params) > 60
    steps = mlflow.MlflowClient().get_metric_history(run.run_id, "dev/rsum")
    assert [(figure.step, figure.value) for figure in steps] == [(1, 100), (2, 200)]
    assert kept.data.tags["git.commit"] == "abc" and kept.data.tags["dataset.training.digest"] == digest
    found = kept.inputs.dataset_inputs[0]
    assert found.dataset.name == "scenes" and digest.startswith(found.dataset.digest)
    assert found.tags[0].value == "training" and str(tmp_path) in json.loads(found.dataset.source)["uri"]
    assert mlflow.artifacts.load_text(f"{kept.info.artifact_uri}/evaluation/report.html") == "<html>"
    assert mlflow.artifacts.load_text(f"{kept.info.artifact_uri}/folder/report.html") == "<html>"


def test_a_failure_ends_the_run_as_failed(tracking: TrackingSettings) -> None:
    with pytest.raises(ZeroDivisionError), start_run(tracking, "fails") as run:
        raise ZeroDivisionError
    assert mlflow.get_run(run.run_id).info.status == "FAILED"


def test_a_training_that_goes_on_joins_its_run(tracking: TrackingSettings) -> None:
    with start_run(tracking, "first") as first:
        first.log_params({"train.epochs": 5})
    with start_run(tracking, "again", first.run_id) as again:
        again.log_params({"train.epochs": 9, "train.lr": 1})
    assert again.run_id == first.run_id
    assert mlflow.get_run(first.run_id).data.params == {"train.epochs": "5", "train.lr": "1"}


def test_a_run_that_is_gone_is_opened_anew(tracking: TrackingSettings) -> None:
    with start_run(tracking, "anew", "0" * 32) as run:
        pass
    assert run.run_id != "0" * 32


def test_inside_mlflow_run_the_opened_run_is_joined(
    tracking: TrackingSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect(tracking)
    opened = mlflow.MlflowClient().create_run(experiment_id="0", run_name="opened by mlflow run")
    monkeypatch.setenv("MLFLOW_RUN_ID", opened.info.run_id)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking.uri)
    elsewhere = tracking.model_copy(update={"uri": "sqlite:////nowhere/at/all.db"})
    with start_run(elsewhere, "ignored", run_id="f" * 32) as run:
        pass
    assert run.run_id == opened.info.run_id
    assert mlflow.get_run(run.run_id).info.run_name == "opened by mlflow run"


def test_where_runs_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_RUN_ID", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    assert tracking_uri(TrackingSettings()) == DEFAULT_URI
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://environment")
    assert tracking_uri(TrackingSettings()) == "http://environment"
    assert tracking_uri(TrackingSettings(uri="http://settings")) == "http://settings"
    monkeypatch.setenv("MLFLOW_RUN_ID", "1")
    assert tracking_uri(TrackingSettings(uri="http://settings")) == "http://environment"


def _refusing() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


def test_no_server_is_one_clear_error_within_seconds(tracking: TrackingSettings) -> None:
    uri, start = _refusing(), time.monotonic()
    nowhere = tracking.model_copy(update={"uri": uri})
    with pytest.raises(TrackingError, match="does not answer") as caught, start_run(nowhere, "never"):
        pytest.fail("training would have begun")
    assert uri in str(caught.value) and "tracking.enabled=false" in str(caught.value)
    assert time.monotonic() - start < 20


def test_a_server_that_says_nothing_is_not_waited_for(tracking: TrackingSettings) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        start = time.monotonic()
        with pytest.raises(TrackingError, match="does not answer"):
            connect(tracking.model_copy(update={"uri": uri}))
        assert time.monotonic() - start < 30


def test_the_bounds_of_the_first_question_are_lifted_again(
    tracking: TrackingSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "77")
    connect(tracking)
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "77"
    assert "MLFLOW_HTTP_REQUEST_MAX_RETRIES" not in os.environ


def test_metrics_outlast_a_server_that_restarts(tracking: TrackingSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    real, down = mlflow.log_metrics, [True]

    def flaky(*arguments: Any, **named: Any) -> None:
        if down[0]:
            raise ConnectionError("the server restarts")
        real(*arguments, **named)

    monkeypatch.setattr(mlflow, "log_metrics", flaky)
    with start_run(tracking, "flaky") as run:
        run.log_metrics({"dev/rsum": 1}, step=1)
        run.log_metrics({"dev/rsum": 2}, step=2)
        with pytest.raises(TrackingError, match="did not take the run's metrics"):
            run.flush()
        down[0] = False
        run.log_metrics({"dev/rsum": 3}, step=3)
        run.flush()
    steps = mlflow.MlflowClient().get_metric_history(run.run_id, "dev/rsum")
    assert [figure.step for figure in steps] == [1, 2, 3]


def test_a_server_that_is_away_in_the_end_hides_no_message(tracking: TrackingSettings, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("<html>")
    words = r"training is complete.*--resume.*-P resume=yes"
    with pytest.raises(TrackingError, match=words), start_run(tracking, "away") as run:
        mlflow.set_tracking_uri(_refusing())
        with limit_waiting(), explain_failed_upload(tmp_path):
            run.log_artifact(tmp_path / "report.html", "evaluation")
    assert mlflow.active_run() is None


@pytest.mark.parametrize("error", [TrainingStopped("The checkpoint is last.pt"), ZeroDivisionError()])
def test_a_server_that_is_away_in_the_end_is_not_waited_for(tracking: TrackingSettings, error: Exception) -> None:
    with pytest.raises(type(error)) as caught, start_run(tracking, "away"):
        mlflow.set_tracking_uri(_refusing())
        start = time.monotonic()
        raise error
    assert caught.value is error and time.monotonic() - start < 30


def test_a_run_that_cannot_be_closed_is_warned_of(tracking: TrackingSettings, caplog: pytest.LogCaptureFixture) -> None:
    with start_run(tracking, "away") as run:
        mlflow.set_tracking_uri(_refusing())
    assert f"did not take the end of run {run.run_id}" in caplog.text
    mlflow.set_tracking_uri(tracking.uri)
    assert mlflow.get_run(run.run_id).info.status == "RUNNING"


def test_what_a_store_does_not_take_is_one_clear_error_within_seconds(
    tracking: TrackingSettings, tmp_path: Path
) -> None:
    (tmp_path / "page.html").write_text("<html>")
    orders: dict[str, Callable[[TrackedRun], None]] = {
        "settings": lambda run: run.log_params({"a": 1}),
        "tags": lambda run: run.set_tags({"a": "b"}),
        "data set": lambda run: run.log_dataset(tmp_path, "a", "b", "c"),
        "page.html": lambda run: run.log_artifact(tmp_path / "page.html"),
    }
    with start_run(tracking, "away") as run:
        mlflow.set_tracking_uri(_refusing())
        for what, order in orders.items():
            start = time.monotonic()
            with pytest.raises(TrackingError, match=rf"store http.* did not take .*{what}: .*Look whether it is up"):
                order(run)
            assert time.monotonic() - start < 60, what
        mlflow.set_tracking_uri(tracking.uri)


def test_a_server_that_answers_no_upload_is_not_waited_for_long(tracking: TrackingSettings) -> None:
    import os

    with explain_failed_upload(Path("run")):
        assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "1"
        assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == str(UPLOAD_SECONDS)
    assert "MLFLOW_HTTP_REQUEST_MAX_RETRIES" not in os.environ


def test_tracking_that_is_off_asks_nothing_of_mlflow(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    with start_run(TrackingSettings(enabled=False, uri=_refusing()), "off") as run:
        run.log_params({"a": 1})
        run.log_metrics({"a": 1.0})
        run.set_tags({"a": "b"})
        run.log_dataset(tmp_path, "a", "b", "c")
        run.log_artifact(tmp_path)
    assert not run.enabled and run.run_id == ""
    assert list(tmp_path.iterdir()) == []
