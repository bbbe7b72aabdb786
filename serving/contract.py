"""The contract over HTTP: the models of hire_model.service.contract, the paths, and openapi.json made of both.

`python -m serving.contract` writes the file anew; a test fails where it is stale.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, TypeAdapter

from hire_model.files import write_text
from hire_model.service.contract import (
    EXPLANATION_BODY,
    PREDICTION_BODY,
    ExplanationAnswer,
    Fault,
    MatrixAnswer,
    PairsAnswer,
    RankedAnswer,
    SearchAnswer,
)

PREDICTIONS, EXPLANATIONS = "/predictions/hire", "/explanations/hire"
OPENAPI = Path(__file__).with_name("openapi.json")
_REF = "#/components/schemas/{model}"
_Answers = PairsAnswer | MatrixAnswer | RankedAnswer | SearchAnswer
_MEANINGS = {
    "400": "malformed: the JSON path says where; or, from the server before the model, no valid token",
    "404": "no such gallery, gallery image or model version",
    "413": "more than a request may ask for; where the body itself is too large, without a body",
    "500": "the request met a worker that ended; try again",
    "503": "too many requests are waiting, or the request took too long; try again later",
    "507": "the worker is gone or out of memory; try again",
}


class ServerFault(BaseModel):
    """What the server says where a request never reached the model."""

    code: int
    type: str
    message: str = Field(description="in words")


def openapi() -> dict[str, Any]:
    """The OpenAPI 3.1 document."""
    adapters: list[tuple[str, Literal["validation", "serialization"], TypeAdapter[Any]]] = [
        ("prediction", "validation", PREDICTION_BODY),
        ("explanation", "validation", EXPLANATION_BODY),
        ("answer", "serialization", TypeAdapter(_Answers)),
        ("explained", "serialization", TypeAdapter(ExplanationAnswer)),
        ("fault", "serialization", TypeAdapter(Fault | ServerFault)),
    ]
    found, rest = TypeAdapter.json_schemas(adapters, ref_template=_REF)
    schemas = {key: schema for (key, _), schema in found.items()}
    faults = {status: {"description": words, "content": _json(schemas["fault"])} for status, words in _MEANINGS.items()}
    score = _operation("score", "Scores, rankings or a search", schemas["prediction"], schemas["answer"], faults)
    explain = _operation("explain", "Why pairs score as they do", schemas["explanation"], schemas["explained"], faults)
    version = {"name": "version", "in": "path", "required": True, "schema": {"type": "string"}}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "HIRE: image-text matching over regions",
            "version": "1",
            "description": "An image is its regions, or one of a gallery. Higher scores are better matches.",
        },
        "security": [{"token": []}],
        "paths": {
            PREDICTIONS: {"post": score},
            f"{PREDICTIONS}/{{version}}": {
                "post": score | {"operationId": "scoreWithVersion", "parameters": [version]},
            },
            EXPLANATIONS: {"post": explain},
        },
        "components": {
            "schemas": rest["$defs"],
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(name: str, summary: str, request: object, answer: object, faults: dict[str, Any]) -> dict[str, Any]:
    return {
        "operationId": name,
        "summary": summary,
        "requestBody": {"required": True, "content": _json(request)},
        "responses": {"200": {"description": "An answer", "content": _json(answer)}, **faults},
    }


def _json(schema: object) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def text() -> str:
    """The document as it lies in openapi.json."""
    return json.dumps(openapi(), indent=1) + "\n"


if __name__ == "__main__":
    write_text(text(), OPENAPI)
