"""The HTTP contract: paths, and openapi.json, generated from the models of hire_model.service.contract.

Run `python -m serving.contract` after a change of the models. A test fails if openapi.json is out of date.
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
    RerankAnswer,
    RerankRequest,
    SearchAnswer,
)

PREDICTIONS, EXPLANATIONS, RERANK = "/predictions/hire", "/explanations/hire", "/rerank"
OPENAPI = Path(__file__).with_name("openapi.json")
_REF = "#/components/schemas/{model}"
_Answers = PairsAnswer | MatrixAnswer | RankedAnswer | SearchAnswer | RerankAnswer
_MEANINGS = {
    "400": "malformed request, with the JSON path of the error; or an invalid token, in the form of the server",
    "404": "no such gallery, gallery image or model version",
    "413": "above a limit; the answer has no body if the request body itself is too large",
    "500": "the worker ended during the request; retry",
    "503": "too many requests are waiting, or the request took too long; retry later",
    "507": "the worker has ended or is out of memory; retry",
}


class ServerFault(BaseModel):
    """Error of the server for a request that did not reach the model."""

    code: int
    type: str
    message: str = Field(description="for the user")


def build_openapi() -> dict[str, Any]:
    """Build the OpenAPI 3.1 document."""
    adapters: list[tuple[str, Literal["validation", "serialization"], TypeAdapter[Any]]] = [
        ("prediction", "validation", PREDICTION_BODY),
        ("explanation", "validation", EXPLANATION_BODY),
        ("answer", "serialization", TypeAdapter(_Answers)),
        ("explained", "serialization", TypeAdapter(ExplanationAnswer)),
        ("rerank", "validation", TypeAdapter(RerankRequest)),
        ("reranked", "serialization", TypeAdapter(RerankAnswer)),
        ("fault", "serialization", TypeAdapter(Fault | ServerFault)),
    ]
    by_key, definitions = TypeAdapter.json_schemas(adapters, ref_template=_REF)
    schemas = {key: schema for (key, _), schema in by_key.items()}
    faults = {
        status: {"description": meaning, "content": _describe_json(schemas["fault"])}
        for status, meaning in _MEANINGS.items()
    }
    score = _describe_operation(
        "score", "Score pairs, rank, search a gallery, or rerank", schemas["prediction"], schemas["answer"], faults
    )
    explain = _describe_operation(
        "explain", "Explain the scores of pairs", schemas["explanation"], schemas["explained"], faults
    )
    rerank = _describe_operation(
        "rerank",
        "Rank documents in the shape of rerank services; also /v1/rerank, /v2/rerank and /predictions/hire",
        schemas["rerank"],
        schemas["reranked"],
        faults,
    )
    version = {"name": "version", "in": "path", "required": True, "schema": {"type": "string"}}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "HIRE: image-text matching over regions",
            "version": "1",
            "description": "An image is regions, a picture or an image of a gallery. A higher score is a better match.",
        },
        "security": [{"token": []}],
        "paths": {
            PREDICTIONS: {"post": score},
            f"{PREDICTIONS}/{{version}}": {
                "post": score | {"operationId": "scoreWithVersion", "parameters": [version]},
            },
            EXPLANATIONS: {"post": explain},
            RERANK: {"post": rerank},
        },
        "components": {
            "schemas": definitions["$defs"],
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _describe_operation(
    name: str, summary: str, request: object, answer: object, faults: dict[str, Any]
) -> dict[str, Any]:
    return {
        "operationId": name,
        "summary": summary,
        "requestBody": {"required": True, "content": _describe_json(request)},
        "responses": {"200": {"description": "The answer", "content": _describe_json(answer)}, **faults},
    }


def _describe_json(schema: object) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def format_openapi() -> str:
    """Return the text of openapi.json."""
    return json.dumps(build_openapi(), indent=1) + "\n"


if __name__ == "__main__":
    write_text(format_openapi(), OPENAPI)
