"""The model as MLflow serves it: MLflow runs this file to get the model ("models from code"), so nothing is pickled.

A row of the table is a pair: `text` is a caption, `image` the JSON of hire_model.scoring.payload. The answer has one
column, `score`: higher is a better match.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel

from hire_model.errors import DataError

COLUMNS = ("text", "image")
SCORE = "score"
FOLDER = "hire"  # the artifact's name: the model folder of hire_model.model.artifact


class HirePyfunc(PythonModel):
    """Scores (image, text) pairs with `Scorer`."""

    def load_context(self, context: Any) -> None:
        """Load the model folder that was logged as an artifact."""
        from hire_model.scoring.scorer import Scorer

        self.scorer = Scorer.load(Path(context.artifacts[FOLDER]))

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """One score per row. Raises DataError naming the row and the field of a malformed image."""
        from hire_model.scoring.payload import decode_image

        missing = [column for column in COLUMNS if column not in model_input.columns]
        if missing:
            raise DataError(f"column '{missing[0]}' is missing; expected {COLUMNS[0]} and {COLUMNS[1]}.")
        images = {}  # an image that recurs is decoded, and then encoded, once
        for row, image in enumerate(model_input["image"]):
            if image not in images:
                images[image] = decode_image(image, f"row {row}: image")
        rows = zip(model_input["image"], model_input["text"], strict=True)
        scores = self.scorer.predict([(images[image], text) for image, text in rows])
        return pd.DataFrame({SCORE: scores}, index=model_input.index)


set_model(HirePyfunc())
