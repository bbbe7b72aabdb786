"""The model as MLflow serves it. MLflow runs this file to create the model ("models from code"); nothing is pickled.

Each row of the input table is a request of hire_model.service.contract as JSON text, in the column `request`. Its
answer is a row with the columns `status` and `body`, with the same content as the answer of every other server. A
faulty row (for example empty or a number) gets an error as its answer and does not affect other rows. The parameter
`explain` requests explanations instead of scores. Galleries are read from the folder in HIRE_GALLERIES.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from mlflow.models import Model, set_model
from mlflow.pyfunc.model import PythonModel

REQUEST, STATUS, BODY, EXPLAIN = "request", "status", "body", "explain"
SHA256 = "artifact.sha256"  # key in the metadata of MLmodel
FOLDER = "hire"  # name of the artifact that holds the model folder of hire_model.model.artifact
_REGISTERED = "registered_model_meta"  # file that MLflow writes into a model that it fetched from the registry


class HirePyfunc(PythonModel):
    """Answer requests with `Service`."""

    def load_context(self, context: Any) -> None:
        """Load the model folder that was logged as an artifact, and check its digests."""
        from hire_model.service.galleries import find_galleries_folder
        from hire_model.service.service import Service

        folder = Path(context.artifacts[FOLDER])
        logged = Model.load(folder.parent.parent)
        _check_digest(folder, (logged.metadata or {}).get(SHA256))
        version, run_id = _read_version(folder.parent.parent), str(logged.run_id or "")
        self.service = Service.load(folder, version=version, run_id=run_id, galleries=find_galleries_folder())

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Return the status and the body of the answer to each row's request. A faulty row raises nothing."""
        from hire_model.service.parsing import Request

        explain = bool((params or {}).get(EXPLAIN))
        replies, _ = self.service.answer([Request(request, explain) for request in model_input[REQUEST]])
        answers = {STATUS: [reply.status for reply in replies], BODY: [reply.body for reply in replies]}
        return pd.DataFrame(answers, index=model_input.index)


def _check_digest(folder: Path, recorded: str | None) -> None:
    """Raise HireError if the model folder differs from the digest in MLmodel; older models have none."""
    from hire_model.errors import HireError
    from hire_model.model.artifact import digest_table, hash_files

    if recorded is not None and digest_table(hash_files(folder)) != recorded:
        raise HireError(
            f"{folder}: the SHA-256 of the model differs from the one in MLmodel: the files were damaged or replaced. "
            "Fetch the model again."
        )


def _read_version(folder: Path) -> str:
    """Return the model's version; "" if it was not fetched from a registry."""
    note = folder / _REGISTERED
    return str(yaml.safe_load(note.read_text("utf-8"))["model_version"]) if note.is_file() else ""


set_model(HirePyfunc())
