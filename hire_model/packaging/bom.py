"""A bill of materials of an archive: CycloneDX 1.6 in JSON, with the model, its data and the libraries that run it.

It has no time, and its serial number is derived from its content, so packaging a version twice in one environment gives
the same bytes. `cyclonedx-python-lib` has no model cards yet, so the document is written here and tested against the
schema.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from hire_model.data.schema import hash_file
from hire_model.model.artifact import digest_table, hash_files
from hire_model.model_card.card import CardFacts, read_card_facts
from hire_model.tracking.versions import Version

_PROJECT, _EXTRA = "hire-model", "serving"  # what a server installs
_MODEL = "model"  # reference of the model inside the document


def make_bom(model: Path, version: Version) -> str:
    """Return the bill of materials of the model folder `model`, registered as `version`, as JSON text."""
    table = hash_files(model)
    libraries = list(_list_libraries())
    component = {
        "type": "machine-learning-model",
        "bom-ref": _MODEL,
        "name": version.name,
        "version": version.number,
        "hashes": _list_hashes(digest_table(table)),
        "modelCard": _describe_model(read_card_facts(model)),
        "properties": [{"name": "hire:run", "value": version.run_id}],
    }
    files = [{"type": "file", "name": name, "hashes": _list_hashes(digest)} for name, digest in sorted(table.items())]
    document: dict[str, Any] = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": component},
        "components": [*files, *libraries],
        "dependencies": [{"ref": _MODEL, "dependsOn": [library["bom-ref"] for library in libraries]}],
    }
    serial = uuid.uuid5(uuid.NAMESPACE_OID, json.dumps(document, sort_keys=True))
    return json.dumps(document | {"serialNumber": f"urn:uuid:{serial}"}, indent=1, sort_keys=True) + "\n"


def _list_hashes(sha256: str) -> list[dict[str, str]]:
    return [{"alg": "SHA-256", "content": sha256}]


def _describe_model(facts: CardFacts | None) -> dict[str, Any]:
    """Return CycloneDX's model card: task, data set and figures; {} for a model that `hire train` did not make."""
    if facts is None:
        return {}
    data = facts.data
    about = {"source": data.source, "licence": data.licence, "digest": data.digest, "extractor": data.extractor}
    dataset = {
        "type": "dataset",
        "name": data.name,
        "contents": {"properties": [{"name": f"hire:{key}", "value": value} for key, value in about.items() if value]},
    }
    split = facts.result.facts.get("split", "")
    figures = [
        {"type": name, "value": f"{value:.1f}", "slice": f"{data.name}: {split}"}
        for name, value in facts.result.metrics().items()
    ]
    return {
        "modelParameters": {
            "task": "image-text matching",
            "architectureFamily": "Hybrid-modal Interaction with multiple Relational Enhancements",
            "datasets": [dataset],
        },
        "quantitativeAnalysis": {"performanceMetrics": figures},
    }


def _list_libraries() -> Iterator[dict[str, Any]]:
    """Yield the installed distributions that the project and its servers need, and the Java part of TorchServe."""
    for name, found in sorted(_find_distributions().items()):
        library: dict[str, Any] = {
            "type": "library",
            "bom-ref": f"pkg:pypi/{name}@{found.version}",
            "name": name,
            "version": found.version,
            "purl": f"pkg:pypi/{name}@{found.version}",
        }
        jars = [Path(str(file.locate())) for file in found.files or () if file.suffix == ".jar"]
        if jars:  # upstream names no versions of the libraries inside
            library["components"] = [
                {"type": "library", "name": jar.name, "hashes": _list_hashes(hash_file(jar).sha256)}
                for jar in sorted(jars)
            ]
        yield library


def _find_distributions() -> Mapping[str, metadata.Distribution]:
    """Return the installed requirements of the project with its extra for servers, and theirs, by canonical name."""
    found: dict[str, metadata.Distribution] = {}
    waiting = [(_PROJECT, frozenset({_EXTRA}))]
    seen = set(waiting)
    while waiting:
        name, extras = waiting.pop()
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:  # optional, or the project is run from its sources
            continue
        found[canonicalize_name(name)] = distribution
        for requirement in map(Requirement, distribution.requires or ()):
            marker = requirement.marker
            if marker and not any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
                continue
            step = (canonicalize_name(requirement.name), frozenset(requirement.extras))
            if step not in seen:
                seen.add(step)
                waiting.append(step)
    return found
