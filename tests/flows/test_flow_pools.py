"""The templates of work pools are what they say, as far as that can be seen without Docker or a cluster."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from real_servers import Servers

from flows.plugin import POOL

ROOT = Path(__file__).parents[2]
POOLS = ROOT / "flows" / "pools"


def _template(name: str) -> dict[str, Any]:
    return json.loads((POOLS / f"{name}.json").read_text("utf-8"))


@pytest.mark.parametrize("name", ["docker", "kubernetes"])
def test_each_variable_is_described_and_used(name: str) -> None:
    template = _template(name)
    used = set(re.findall(r"\{\{ (\w+) \}\}", json.dumps(template["job_configuration"])))
    properties = template["variables"]["properties"]
    assert used == set(properties)
    assert {"image", "gpus", "memory", "runs", "datasets", "env"} <= used
    assert all("default" in spec for key, spec in properties.items() if key in ("image", "gpus", "memory", "runs"))


def test_the_container_gets_a_gpu_and_keeps_its_checkpoints() -> None:
    job = _template("docker")["job_configuration"]
    assert job["container_create_kwargs"]["device_requests"] == [{"count": "{{ gpus }}", "capabilities": [["gpu"]]}]
    assert "{{ runs }}:/opt/hire/runs" in job["volumes"]
    assert job["container_create_kwargs"]["cap_drop"] == ["ALL"]


def test_the_pod_gets_a_gpu_and_keeps_its_checkpoints() -> None:
    job = _template("kubernetes")["job_configuration"]["job_manifest"]
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
    pod = job["spec"]["template"]["spec"]
    [container] = pod["containers"]
    assert pod["restartPolicy"] == "Never" and pod["securityContext"]["runAsNonRoot"] is True
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "{{ gpus }}"
    mounts, volumes = (
        {m["name"]: m["mountPath"] for m in container["volumeMounts"]},
        {v["name"] for v in pod["volumes"]},
    )
    assert set(mounts) == volumes and mounts["runs"] == "/opt/hire/runs"


def test_deployments_in_containers_are_those_of_the_project() -> None:
    ours, theirs = (yaml.safe_load(path.read_text()) for path in (ROOT / "prefect.yaml", POOLS / "containers.yaml"))
    assert {deployment["work_pool"]["name"] for deployment in ours["deployments"]} == {POOL}
    for one, other in zip(ours["deployments"], theirs["deployments"], strict=True):
        assert {k: v for k, v in one.items() if k != "work_pool"} == {
            k: v for k, v in other.items() if k != "work_pool"
        }
    [step] = theirs["pull"]
    directory = step["prefect.deployments.steps.set_working_directory"]["directory"]
    assert f"WORKDIR {directory}\n" in (POOLS / "Dockerfile").read_text()


def test_the_image_takes_what_runs_and_nothing_else_of_the_folder() -> None:
    """`COPY . .` would take datasets, .git, mlflow.db, and the keys below runs/serve."""
    copied = [line.split()[1:-1] for line in (POOLS / "Dockerfile").read_text().splitlines() if line.startswith("COPY")]
    taken = {name.strip("/") for names in copied for name in names}
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    packages = {
        name.split(".")[0].rstrip("*") for name in settings["tool"]["setuptools"]["packages"]["find"]["include"]
    }
    files = {"requirements.lock", "pyproject.toml", "prefect.toml", settings["project"]["readme"], "LICENSE"}
    assert taken == packages | files
    assert all((ROOT / name).exists() for name in taken)
    entries = [one["entrypoint"] for one in yaml.safe_load((POOLS / "containers.yaml").read_text())["deployments"]]
    assert {entry.split("/")[0] for entry in entries} <= taken


def test_no_deployment_names_a_machines_folder() -> None:
    assert "pull" not in yaml.safe_load((ROOT / "prefect.yaml").read_text())


@pytest.mark.live
@pytest.mark.parametrize("name", ["docker", "kubernetes"])
def test_a_server_takes_the_template(name: str, servers: Servers) -> None:
    template = _template(name)
    servers.ask("work_pools/", {"name": f"try-{name}", "type": name, "base_job_template": template})
    assert servers.ask(f"work_pools/try-{name}")["base_job_template"] == template
