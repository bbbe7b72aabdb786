"""The templates of work pools and their image, as far as they can be checked without Docker or a cluster."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from real_servers import ROOT, Servers

from flows.plugin import POOL

POOLS = ROOT / "flows" / "pools"


def read_template(name: str) -> dict[str, Any]:
    return json.loads((POOLS / f"{name}.json").read_text("utf-8"))


def read_yaml(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text("utf-8"))


@pytest.mark.parametrize("name", ["docker", "kubernetes"])
def test_each_variable_of_a_template_is_declared_and_used(name: str) -> None:
    template = read_template(name)
    used = set(re.findall(r"\{\{ (\w+) \}\}", json.dumps(template["job_configuration"])))
    properties = template["variables"]["properties"]
    assert used == set(properties)
    assert {"image", "gpus", "memory", "runs", "datasets", "env"} <= used
    assert all("default" in spec for key, spec in properties.items() if key in ("image", "gpus", "memory", "runs"))


def test_the_container_gets_a_gpu_and_keeps_its_checkpoints() -> None:
    job = read_template("docker")["job_configuration"]
    assert job["container_create_kwargs"]["device_requests"] == [{"count": "{{ gpus }}", "capabilities": [["gpu"]]}]
    assert "{{ runs }}:/opt/hire/runs" in job["volumes"]
    assert job["container_create_kwargs"]["cap_drop"] == ["ALL"]


def test_the_pod_gets_a_gpu_and_keeps_its_checkpoints() -> None:
    job = read_template("kubernetes")["job_configuration"]["job_manifest"]
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
    pod = job["spec"]["template"]["spec"]
    [container] = pod["containers"]
    assert pod["restartPolicy"] == "Never" and pod["securityContext"]["runAsNonRoot"] is True
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "{{ gpus }}"
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert set(mounts) == {volume["name"] for volume in pod["volumes"]} and mounts["runs"] == "/opt/hire/runs"


def test_the_deployments_for_containers_differ_only_in_their_pool() -> None:
    local, containers = read_yaml(ROOT / "prefect.yaml"), read_yaml(POOLS / "containers.yaml")
    pools = [deployment.pop("work_pool")["name"] for deployment in local["deployments"]]
    assert set(pools) == {POOL}
    for deployment in containers["deployments"]:
        del deployment["work_pool"]
    assert local["deployments"] == containers["deployments"]
    [step] = containers["pull"]
    directory = step["prefect.deployments.steps.set_working_directory"]["directory"]
    assert f"WORKDIR {directory}\n" in (POOLS / "Dockerfile").read_text()


def test_the_image_copies_the_code_and_nothing_else() -> None:
    """`COPY . .` would also copy datasets, .git, mlflow.db, and the keys in runs/serve."""
    lines = [line.split()[1:-1] for line in (POOLS / "Dockerfile").read_text().splitlines() if line.startswith("COPY")]
    copied = {name.strip("/") for names in lines for name in names}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    patterns = project["tool"]["setuptools"]["packages"]["find"]["include"]
    packages = {pattern.split(".")[0].rstrip("*") for pattern in patterns}
    files = {"requirements.lock", "pyproject.toml", "prefect.toml", project["project"]["readme"], "LICENSE"}
    assert copied == packages | files
    assert all((ROOT / name).exists() for name in copied)
    entrypoints = [deployment["entrypoint"] for deployment in read_yaml(POOLS / "containers.yaml")["deployments"]]
    assert {entrypoint.split("/")[0] for entrypoint in entrypoints} <= copied


def test_the_local_deployments_have_no_pull_step() -> None:
    """A pull step would name a folder of one machine; without it, runs work in the folder that was deployed."""
    assert "pull" not in read_yaml(ROOT / "prefect.yaml")


@pytest.mark.live
@pytest.mark.parametrize("name", ["docker", "kubernetes"])
def test_a_server_accepts_the_template(name: str, servers: Servers) -> None:
    template = read_template(name)
    servers.call("work_pools/", {"name": f"try-{name}", "type": name, "base_job_template": template})
    assert servers.call(f"work_pools/try-{name}")["base_job_template"] == template
