"""The deployments of prefect.yaml: a retrain that ends with a champion, a worse model, invalid data, a killed run."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from prefect.blocks.webhook import Webhook
from real_servers import SMALL, WORSE, Servers, wait_until

from flows.prefect_support import WEBHOOK_BLOCK

pytestmark = pytest.mark.live


def read_aliases() -> dict[str, str]:
    from mlflow import MlflowClient

    return {alias: str(number) for alias, number in MlflowClient().get_registered_model("hire").aliases.items()}


@pytest.fixture(scope="module")
def evaluation(retrained: dict[str, Any], deployed: Servers, scenes: Path) -> str:
    """The id of a run of hire/evaluate, which the worker executes while the tests go on."""
    return deployed.start_run("hire/evaluate", data=str(scenes), overrides=SMALL)


def test_a_deployed_retrain_makes_version_1_the_champion(
    retrained: dict[str, Any], in_project: Servers, project: Path
) -> None:
    assert retrained["state_type"] == "COMPLETED"
    assert "Version 1 is the champion" in retrained["state"]["message"]
    assert read_aliases() == {"challenger": "1", "champion": "1"}
    assert (project / "runs/archives/1/hire.mar").is_file()
    page = project / "runs/latest/report.html"
    assert page.is_file(), "the run works in the folder that was deployed"
    assert "<dt>command</dt><dd>deployment hire/retrain</dd>" in page.read_text("utf-8")


def test_a_retrain_shows_artifacts_and_logs_in_prefect(retrained: dict[str, Any], deployed: Servers) -> None:
    data = {
        key: deployed.list_artifacts(key)[0]["data"]
        for key in ("validation", "recall", "recall-curve", "gate", "training", "package", "training-report")
    }
    assert len(json.loads(data["validation"])) > 10
    [row] = json.loads(data["recall"])
    assert row["model"] == "version 1" and "–" in row["rSum"]
    assert data["recall-curve"].startswith("data:image/png;base64,")
    assert "passed" in data["gate"]
    assert data["training"] == 100
    assert "SHA-256" in data["package"]
    assert "report.html" in data["training-report"]
    address = data["training-report"].partition("](")[2].partition(")")[0]
    assert address.startswith(f"{deployed.mlflow}/#/experiments/") and address.endswith("/evaluation/report.html")
    assert "file:///" in deployed.list_artifacts("validation-report")[0]["data"]
    for key in ("validation", "recall", "recall-curve", "gate", "package", "promotion", "training-report"):
        runs = {artifact["flow_run_id"] for artifact in deployed.list_artifacts(key)[:2]}
        assert len(runs) == 2 and retrained["id"] in runs, f"{key}: in the run of its step, and in that of the retrain"
    assert deployed.call(f"flow_runs/{retrained['id']}")["name"] == "retrain synthetic on scenes"
    assert deployed.list_runs("gate")[0]["name"] == "gate synthetic version 1 on scenes"
    progress, logger = "epoch 3/3", "Tracking in"  # printed, and logged by hire_model
    deployed.wait_for_log(deployed.list_runs("train")[0], progress, logger)


def test_retrains_queue_and_the_scheduled_evaluation_is_off(deployed: Servers) -> None:
    retrain, evaluate = (deployed.call(f"deployments/name/hire/{name}") for name in ("retrain", "evaluate"))
    assert retrain["global_concurrency_limit"]["limit"] == 1
    assert retrain["concurrency_options"]["collision_strategy"] == "ENQUEUE"
    assert [schedule["active"] for schedule in evaluate["schedules"]] == [False]


def test_the_same_training_is_not_repeated(retrained: dict[str, Any], in_project: Servers, scenes: Path) -> None:
    from flows.train import train

    assert train(data=str(scenes), overrides=SMALL) == "1"
    in_project.wait_for_log(in_project.list_runs("train")[0], "nothing to train")


def test_a_worse_model_is_rejected(retrained: dict[str, Any], in_project: Servers, project: Path, scenes: Path) -> None:
    from flows.retrain import hire

    state = hire(data=str(scenes), overrides=[*WORSE, "train.out=runs/worse"], return_state=True)
    assert (state.name, state.type.value) == ("Rejected", "COMPLETED")
    worse = read_aliases()["challenger"]
    assert worse != "1" == read_aliases()["champion"]
    assert not (project / f"runs/archives/{worse}").exists()
    rows = json.loads(in_project.list_artifacts("recall")[0]["data"])
    assert [row["model"] for row in rows] == [f"version {worse}", "champion 1"]
    for text in ("failed 1 of", "\nno worse than the champion: ", "against version 1"):
        assert text in state.message
    assert "champion" in in_project.list_artifacts("gate")[0]["data"]


def test_invalid_data_fail_the_run_before_training(
    evaluation: str, in_project: Servers, project: Path, scenes: Path, tmp_path: Path
) -> None:
    from flows.retrain import hire

    bad = tmp_path / "bad"
    shutil.copytree(scenes, bad, symlinks=True)
    captions = pq.read_table(bad / "captions.parquet")
    texts = captions["text"].to_pylist()
    texts[7] = ""
    column = captions.schema.get_field_index("text")
    pq.write_table(
        captions.set_column(column, captions.schema.field("text"), pa.array(texts)), bad / "captions.parquet"
    )
    state = hire(data=str(bad), overrides=[*SMALL, "train.out=runs/bad"], return_state=True)
    assert state.is_failed() and "nothing was trained" in state.message and "captions.parquet" in state.message
    assert not (project / "runs/bad").exists()
    rows = json.loads(in_project.list_artifacts("validation")[0]["data"])
    assert rows[0]["result"] == "error"


def test_the_webhook_is_called_for_a_run_whose_process_was_killed(
    deployed: Servers, in_project: Servers, webhook: tuple[str, list[dict[str, str]]], scenes: Path
) -> None:
    url, received = webhook
    asyncio.run(Webhook(url=url).asave(WEBHOOK_BLOCK, overwrite=True))
    try:
        overrides = [*SMALL, "train.epochs=1000", "train.out=runs/killed"]
        run = deployed.start_run("hire/retrain", data=str(scenes), overrides=overrides)
        wait_until(lambda: deployed.call(f"flow_runs/{run}")["state"]["name"] == "Running")
        for process in psutil.process_iter(["cmdline"]):
            engine = "prefect.engine" in (process.info["cmdline"] or [])
            if engine and process.environ().get("PREFECT__FLOW_RUN_ID") == run:
                process.kill()
        wait_until(lambda: ("hire", "Crashed") in [(body["flow"], body["state"]) for body in received])
    finally:
        asyncio.run(Webhook.adelete(WEBHOOK_BLOCK))


def test_a_deployed_evaluation_completes(evaluation: str, deployed: Servers) -> None:
    waiting = ("SCHEDULED", "PENDING", "RUNNING")
    wait_until(lambda: deployed.call(f"flow_runs/{evaluation}")["state_type"] not in waiting)
    assert deployed.call(f"flow_runs/{evaluation}")["state_type"] == "COMPLETED"
