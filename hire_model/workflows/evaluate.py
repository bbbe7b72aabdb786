"""Evaluate one model, or an ensemble, on a split."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from hire_model.data.chosen import open_dataset
from hire_model.data.loading import collate_regions
from hire_model.data.store import Split
from hire_model.errors import HireError
from hire_model.evaluation import protocols, report
from hire_model.evaluation.result import Result, write_json
from hire_model.files import write_text
from hire_model.model import artifact
from hire_model.model.captions import caption_bank
from hire_model.model.hire import Hire
from hire_model.scoring.explain import Explanation, explain
from hire_model.scoring.matrix import map_predicates
from hire_model.settings import Settings
from hire_model.tracking import registry
from hire_model.tracking.facts import facts
from hire_model.tracking.run import inside_mlflow_run, track
from hire_model.training.distributed import pick_device
from hire_model.workflows.fit import matrix_of


@dataclass(frozen=True)
class Evaluated:
    """What an evaluation leaves."""

    result: Result
    split: str
    report: Path | None
    figures: Path | None


def evaluate(
    models: Sequence[str],
    settings: Settings,
    split: str,
    figures: Path | None = None,
    page: Path | None = None,
    limit: int = 0,
) -> Evaluated:
    """Judge a model, or the mean of several models' matrices, on one split; write JSON and report where asked.

    models: addresses (models:/hire@challenger) or folders; limit: only the first images, 0 for all. The figures go to
    MLflow inside `mlflow run`.
    Raises HireError: no such model, split or protocol, or features of another size than the model's.
    """
    if not split:  # which would take them all, those it was trained on among them
        raise HireError("split: no name is given; 'hire data show' lists those of a data set.")
    chosen = open_dataset(settings.data).split(split, limit)
    protocol = protocols.check_fit(chosen.owner, len(chosen.images), settings.evaluate.protocol)
    folders = [registry.fetch(model, settings.tracking) for model in models]
    with track(
        settings.tracking.model_copy(update={"enabled": settings.tracking.enabled and inside_mlflow_run()}), "evaluate"
    ) as run:
        manifest = chosen.dataset.manifest
        run.dataset(chosen.dataset.folder, manifest.name, manifest.digest, split)
        loaded = [artifact.load(folder).to(torch.device(pick_device(settings.train))) for folder in folders]
        matrices = [matrix_of(model, chosen, settings.evaluate) for model in loaded]
        matrix = matrices[0] if len(matrices) == 1 else protocols.ensemble(*matrices)
        result = protocols.judge(matrix, chosen.owner, protocol, settings.evaluate.bootstrap)
        result = with_facts(result, chosen, {"model": ", ".join(models)})
        if figures:
            write_json(result, figures)
        if page:
            why = explain_pairs(loaded[0], chosen) if len(loaded) == 1 else None  # a mean of models has no attention
            write_text(report.render(result, matrix, chosen, explain=why, examples=settings.evaluate.examples), page)
        run.metrics(result.metrics())
        for path in filter(None, (figures, page)):
            run.artifact(path, "evaluation")
    return Evaluated(result, split, page, figures)


def explain_pairs(model: Hire, split: Split) -> Callable[[int, int], Explanation]:
    """For the report: (image, caption) of `split` -> why that pair has its score."""
    bank, device = caption_bank(model, split.texts), next(model.parameters()).device
    mapping = map_predicates(model.predicates, split.dataset.manifest.predicates)

    def why(image: int, caption: int) -> Explanation:
        regions = collate_regions([split.regions(image)], mapping).to(device)
        return explain(model, regions, bank.tokens([caption]).to(device), split.texts[caption])

    return why


def with_facts(result: Result, split: Split, more: dict[str, str]) -> Result:
    """Return `result` with the facts of the code, the data and the split, and `more`."""
    manifest = split.dataset.manifest
    data = {
        "data": manifest.name,
        "data digest": manifest.digest,
        "split": split.name,
        "images": str(len(split.images)),
    }
    return result.model_copy(update={"facts": facts() | data | more})
