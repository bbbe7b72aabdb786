"""The model as MLflow serves it: MLflow runs this file to get the model ("models from code"), so nothing is pickled.

A row of the table is a request of hire_model.service.contract as JSON text, in the column `request`. Its answer has the
columns `status` and `body`, as of every other server: a row that is refused, as one is that is empty or a number, says
so and harms no other. The parameter `explain` asks for explanations instead of scores. Galleries are found in the
folder that HIRE_GALLERIES names.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from mlflow.models import Model, set_model
from mlflow.pyfunc.model import PythonModel

REQUEST, STATUS, BODY, EXPLAIN = "request", "status", "body", "explain"
FOLDER = "hire"  # the artifact's name: the model folder of hire_model.model.artifact
_REGISTERED = "registered_model_meta"  # MLflow's note beside a model that it fetched from the registry


class HirePyfunc(PythonModel):
    """Answers requests with `Service`."""

    def load_context(self, context: Any) -> None:
        """Load the model folder that was logged as an artifact, its digests checked."""
        from hire_model.service.galleries import find_galleries_folder
        from hire_model.service.service import Service

        folder = Path(context.artifacts[FOLDER])
        version, run_id = _origin(folder.parent.parent)
        self.service = Service.load(folder, version=version, run_id=run_id, galleries=find_galleries_folder())

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """The status and the body of the answer to each row's request; a faulty one raises nothing."""
        from hire_model.service.parsing import Request

        explain = bool((params or {}).get(EXPLAIN))
        replies, _ = self.service.answer([Request(request, explain) for request in model_input[REQUEST]])
        answers = {STATUS: [reply.status for reply in replies], BODY: [reply.body for reply in replies]}
        return pd.DataFrame(answers, index=model_input.index)


def _origin(folder: Path) -> tuple[str, str]:
    """The registry version, empty for a model that was not fetched from a registry, and the run id."""
    note = folder / _REGISTERED
    version = yaml.safe_load(note.read_text("utf-8"))["model_version"] if note.is_file() else ""
    return str(version), str(Model.load(folder).run_id or "")


set_model(HirePyfunc())
