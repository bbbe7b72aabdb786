"""The bill of materials of an archive follows CycloneDX's schema and names the model, its data and its libraries."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path
from typing import Any

import cyclonedx.schema
import pytest
from jsonschema import Draft7Validator
from referencing import Registry, Resource
from registered import RegisteredModel

from hire_model.model.artifact import hash_files
from hire_model.packaging.bom import make_bom
from hire_model.tracking import registry, versions

SCHEMAS = Path(cyclonedx.schema.__file__).parent / "_res"


@pytest.fixture(scope="module")
def model(registered_model: RegisteredModel) -> Path:
    return registry.fetch("models:/hire/1", registered_model.settings.tracking)


@pytest.fixture(scope="module")
def bom(model: Path, registered_model: RegisteredModel) -> dict[str, Any]:
    return json.loads(make_bom(model, versions.find(registered_model.settings.tracking, "1")))


def test_it_follows_the_schema(bom: dict[str, Any]) -> None:
    names = ("bom-1.6", "spdx", "jsf-0.82")
    schema, *others = (json.loads((SCHEMAS / f"{name}.SNAPSHOT.schema.json").read_text("utf-8")) for name in names)
    resources = [(each["$id"], Resource.from_contents(each)) for each in (schema, *others)]
    validator = Draft7Validator(schema, registry=Registry().with_resources(resources))
    assert [error.message for error in validator.iter_errors(bom)] == []
    bom_without_name = json.loads(json.dumps(bom))
    del bom_without_name["metadata"]["component"]["name"]
    assert list(validator.iter_errors(bom_without_name)), "the schema is applied"


def test_it_names_the_model_its_files_its_data_and_its_figures(bom: dict[str, Any], model: Path) -> None:
    component = bom["metadata"]["component"]
    assert (component["type"], component["name"], component["version"]) == ("machine-learning-model", "hire", "1")
    files = {each["name"]: each["hashes"][0]["content"] for each in bom["components"] if each["type"] == "file"}
    assert files == hash_files(model)
    card = component["modelCard"]
    about = card["modelParameters"]["datasets"][0]["contents"]["properties"]
    assert {"name": "hire:digest", "value": read_data_digest(model)} in about
    figures = {each["type"]: each["value"] for each in card["quantitativeAnalysis"]["performanceMetrics"]}
    assert 0 <= float(figures["full/rsum"]) <= 600


def test_it_names_the_libraries_that_run_the_model(bom: dict[str, Any]) -> None:
    libraries = {each["name"]: each for each in bom["components"] if each["type"] == "library"}
    for name in ("torch", "safetensors", "torchserve", "numpy", "pydantic-core"):
        assert libraries[name]["version"] == metadata.version(name)
    assert not {"pytest", "prefect"} & set(libraries), "a server does not need them"
    assert [part["name"] for part in libraries["torchserve"]["components"]] == ["model-server.jar"]
    assert set(bom["dependencies"][0]["dependsOn"]) == {each["bom-ref"] for each in libraries.values()}


def test_the_same_version_gives_the_same_bytes(model: Path, registered_model: RegisteredModel) -> None:
    version = versions.find(registered_model.settings.tracking, "1")
    assert make_bom(model, version) == make_bom(model, version)


def read_data_digest(model: Path) -> str:
    return json.loads((model / "config.json").read_text("utf-8"))["facts"]["card"]["data"]["digest"]
