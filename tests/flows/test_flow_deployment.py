"""From prefect.yaml to a champion, with real servers and a worker; then a worse model, and bad data."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from prefect.blocks.webhook import Webhook
from real_servers import SMALL, WORSE, Servers, await_that, command

from flows.prefect_support import WEBHOOK_BLOCK

pytestmark = pytest.mark.live


def _run(servers: Servers, project: Path, deployment: str, **parameters: object) -> str:
    given = [word for key, value in parameters.items() for word in ("-p", f"{key}={json.dumps(value)}")]
    done = command(servers, project, "prefect", "deployment", "run", deployment, "--watch", *given)
    assert done.returncode == 0, done.stdout + done.stderr + (project / "worker.log").read_text()
    return done.stdout


def _aliases() -> dict[str, str]:
    from mlflow import MlflowClient

    return {alias: str(number) for alias, number in MlflowClient().get_registered_model("hire").aliases.items()}


@pytest.fixture(scope="module")
def retrained(deployed: Servers, project: Path, scenes: Path) -> str:
    """What `prefect deployment run hire/retrain --watch` says."""
    return _run(deployed, project, "hire/retrain", data=str(scenes), overrides=SMALL)


def test_a_deployed_retrain_ends_as_champion(retrained: str, deployed: Servers, here: Servers, project: Path) -> None:
    run = deployed.runs("hire")[0]
    assert run["state_type"] == "COMPLETED" and "Version 1 is the champion" in run["state"]["message"], retrained
    assert _aliases() == {"challenger": "1", "champion": "1"}
    assert (project / "runs/archives/1/hire.mar").is_file()
    assert (project / "runs/latest/report.html").is_file(), "it runs in the folder that it was deployed from"


def test_what_the_retrain_shows_in_prefect(retrained: str, deployed: Servers) -> None:
    assert len(json.loads(deployed.artifacts("validation")[0]["data"])) > 10
    [row] = json.loads(deployed.artifacts("recall")[0]["data"])
    assert row["model"] == "version 1" and "–" in row["rSum"]
    assert deployed.artifacts("recall-curve")[0]["data"].startswith("data:image/png;base64,")
    assert "passed" in deployed.artifacts("gate")[0]["data"]
    assert deployed.artifacts("training")[0]["data"] == 100
    assert "SHA-256" in deployed.artifacts("package")[0]["data"]
    assert "report.html" in deployed.artifacts("training-report")[0]["data"]
    logs = deployed.logs(deployed.runs("train")[0])
    assert "epoch 2/2" in logs, "progress lines"
    assert "Tracking in" in logs, "the loggers of hire_model"


def test_the_nightly_evaluation_is_off_and_runs_when_asked(
    retrained: str, deployed: Servers, project: Path, scenes: Path
) -> None:
    [deployment] = deployed.ask("deployments/filter", {"deployments": {"name": {"any_": ["evaluate"]}}})
    assert [schedule["active"] for schedule in deployment["schedules"]] == [False]
    _run(deployed, project, "hire/evaluate", data=str(scenes), overrides=SMALL)
    assert deployed.runs("hire")[0]["state_type"] == "COMPLETED"


def test_one_retrain_at_a_time(deployed: Servers) -> None:
    [deployment] = deployed.ask("deployments/filter", {"deployments": {"name": {"any_": ["retrain"]}}})
    assert deployment["global_concurrency_limit"]["limit"] == 1
    assert deployment["concurrency_options"]["collision_strategy"] == "ENQUEUE"


def test_the_same_again_trains_nothing(retrained: str, here: Servers, scenes: Path) -> None:
    from flows.train import train

    assert train(data=str(scenes), overrides=SMALL) == "1"
    assert "nothing to train" in here.logs(here.runs("train")[0])


def test_a_worse_model_is_rejected(retrained: str, here: Servers, project: Path, scenes: Path) -> None:
    from flows.retrain import hire

    state = hire(data=str(scenes), overrides=[*WORSE, "train.out=runs/worse"], return_state=True)
    assert (state.name, state.type.value) == ("Rejected", "COMPLETED")
    worse = _aliases()["challenger"]
    assert worse != "1" == _aliases()["champion"]
    assert not (project / f"runs/archives/{worse}").exists()
    rows = json.loads(here.artifacts("recall")[0]["data"])
    assert [row["model"] for row in rows] == [f"version {worse}", "champion 1"]
    assert (
        "failed 1 of" in state.message
        and "\nno worse than the champion: " in state.message
        and "against version 1" in state.message
    )
    assert "champion" in here.artifacts("gate")[0]["data"]


def test_bad_data_stop_before_training(here: Servers, project: Path, scenes: Path, tmp_path: Path) -> None:
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
    shown = json.loads(here.artifacts("validation")[0]["data"])
    assert shown[0]["result"] == "failed"


def test_a_webhook_hears_of_a_run_that_was_killed(
    deployed: Servers, here: Servers, heard: tuple[str, list[dict[str, str]]], project: Path, scenes: Path
) -> None:
    url, words = heard
    asyncio.run(Webhook(url=url).asave(WEBHOOK_BLOCK, overwrite=True))
    try:
        long = json.dumps([*SMALL, "train.epochs=1000", "train.out=runs/killed"])
        given = ("-p", f"data={json.dumps(str(scenes))}", "-p", f"overrides={long}")
        done = command(deployed, project, "prefect", "deployment", "run", "hire/retrain", *given)
        run = re.findall(r"UUID: (\S+)", done.stdout)[0]
        await_that(lambda: deployed.ask(f"flow_runs/{run}")["state"]["name"] == "Running")
        engines = [one for one in psutil.process_iter(["cmdline"]) if "prefect.engine" in (one.info["cmdline"] or [])]
        for engine in engines:
            if engine.environ().get("PREFECT__FLOW_RUN_ID") == run:
                engine.kill()
        await_that(lambda: bool(words))
    finally:
        asyncio.run(Webhook.adelete(WEBHOOK_BLOCK))
    assert (words[0]["flow"], words[0]["state"]) == ("hire", "Crashed")
