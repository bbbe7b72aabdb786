"""`hire evaluate` end to end: evaluate a model or an ensemble on a split. Training and the gate share the steps."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hire_model.data.loading import collate_regions
from hire_model.data.splits import open_dataset
from hire_model.data.store import Split
from hire_model.errors import HireError
from hire_model.evaluation import protocols, report
from hire_model.evaluation.contrast_accuracy import measure_contrasts
from hire_model.evaluation.contrast_sets import MatchedItems, match_images, read_contrasts
from hire_model.evaluation.eccv import find_coco_ids, load_metrics, measure_eccv
from hire_model.evaluation.judgement_sets import MatchedJudgements, match_judgements
from hire_model.evaluation.judgements import measure_judgements
from hire_model.evaluation.protocols import Ensemble, Ranks
from hire_model.evaluation.provenance import collect_facts
from hire_model.evaluation.result import Result, write_json
from hire_model.files import write_text
from hire_model.model import artifact
from hire_model.model.captions import build_caption_bank
from hire_model.model.hire import Hire
from hire_model.model.hubs import find_bank
from hire_model.scoring.explain import Explanation, explain
from hire_model.scoring.hub_correction import correct_matrix
from hire_model.scoring.kept_scores import KeptScores
from hire_model.scoring.matrix import check_features, compute_similarity, map_classes, map_predicates
from hire_model.scoring.scorer import Scorer
from hire_model.settings import EvaluateSettings, Settings, flatten
from hire_model.tracking import registry, versions
from hire_model.tracking.connection import inside_mlflow_run
from hire_model.tracking.run import start_run
from hire_model.training.distributed import pick_device
from hire_model.workers import Workers
from hire_model.workflows.evaluation_data import describe_evaluation, name_model, use_common_data

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EvaluationOutcome:
    """The figures of an evaluation on `split`, and the files written; None for a file that was not requested."""

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
    announce: Callable[[str], None] = log.info,
    contrasts: Sequence[Path] = (),
    judgements: Sequence[Path] = (),
    hub_correction: bool = False,
    eccv: bool = False,
) -> EvaluationOutcome:
    """Evaluate a model, or the mean of the similarity matrices of several models. Inside `mlflow run`, log the figures.

    Args:
        models: addresses (models:/hire@challenger) or folders.
        settings: name the data set and the protocol. Without data.path, a registered version is evaluated on the data
            set that it was trained on.
        split: name of the split.
        figures: JSON file to write.
        page: HTML report to write.
        limit: number of images to use, from the first; 0 for all.
        announce: called before the evaluation, with a line that names model, data set, digest, split and images.
        contrasts: files of contrast sets (see `contrast_sets`) whose images are in the split.
        judgements: files of human judgements (see `judgement_sets`) whose images are in the split.
        hub_correction: correct the similarity matrix for hubs (see `hire_model.model.hubs`). Contrast sets and
            judgements are measured without it.
        eccv: also compute ECCV Caption and CxC; the split must be COCO's 5,000 test images.

    If it is interrupted, the same call continues: see `KeptScores`.

    Raises:
        HireError: no such model, split or protocol, or the features are not those that the model was trained on.
    """
    if not split:  # `split("")` would open all splits, including the training split
        raise HireError("split: the name is empty; 'hire data show' lists the splits of a data set.")
    found = [versions.find_by_address(settings.tracking, model) for model in models]
    settings = use_common_data(settings, found)
    chosen = open_dataset(settings.data).split(split, limit)
    protocols.check_fit(chosen.owner, len(chosen.images), settings.evaluate.protocol)
    more = _read_more_protocols(chosen, contrasts, judgements, eccv)
    folders = [registry.fetch(model, settings.tracking) for model in models]
    names = [name_model(*each) for each in zip(models, found, strict=True)]
    announce(describe_evaluation(", ".join(names), chosen, found))
    tracking = settings.tracking.model_copy(update={"enabled": settings.tracking.enabled and inside_mlflow_run()})
    with KeptScores() as kept, start_run(tracking, "evaluate") as run:
        manifest = chosen.dataset.manifest
        run.log_dataset(chosen.dataset.folder, f"{manifest.name}: {split}", manifest.digest, split)
        run.log_params(
            {"models": ", ".join(names), "data.path": str(chosen.dataset.folder), "images": len(chosen.images)}
        )
        run.log_params(flatten(settings.model_dump(mode="json", include={"evaluate"})))
        run.set_tags(collect_facts())
        loaded = dict(zip(names, (load_model(folder, settings) for folder in folders), strict=True))
        result, matrix = _measure(loaded, chosen, settings, more, hub_correction, kept)
        explained = next(iter(loaded.values())) if len(loaded) == 1 else None  # an ensemble has no attention to show
        with tempfile.TemporaryDirectory() as temporary:  # a run gets both files, also if the user names none
            files = (figures, page)
            if run.enabled:
                files = (figures or Path(temporary, "figures.json"), page or Path(temporary, "report.html"))
            if files[0]:
                run.log_artifact(write_json(result, files[0]), "evaluation")
            if files[1]:
                report_file = write_report(files[1], result, matrix, chosen, settings.evaluate, explained)
                run.log_artifact(report_file, "evaluation")
        model_id = found[0].model_id if len(found) == 1 and found[0] is not None else ""
        name = f"{manifest.name}: {split}"
        run.log_model_metrics(result.metrics(), model_id, chosen.dataset.folder, name, manifest.digest)
    return EvaluationOutcome(result, split, page, figures)


def _measure(
    models: Mapping[str, Hire],
    split: Split,
    settings: Settings,
    more: _MoreProtocols,
    hub_correction: bool,
    kept: KeptScores,
) -> tuple[Result, np.ndarray | Ensemble]:
    """Compute the similarity matrix of the models by name, averaged over them, and all figures."""
    facts = {"model": ", ".join(models), "hub correction": "off"}
    if hub_correction:  # before scoring: a model without a bank is refused
        banks = [find_bank(model.hubs, model.settings, name) for name, model in models.items()]
        facts["hub correction"] = "; ".join(dict.fromkeys(bank.describe() for bank in banks))
    matrices = [score_split(model, split, settings.evaluate, kept, hub_correction) for model in models.values()]
    matrix = matrices[0] if len(matrices) == 1 else protocols.average_matrices(*matrices)
    manifest = split.dataset.manifest
    device = pick_device(settings.train)
    scorers = [Scorer(model, device, manifest.predicates, manifest.classes) for model in models.values()]
    tables = _measure_more_protocols(more, scorers, split, matrix, settings.evaluate.bootstrap)
    result = make_result(matrix, split, settings.evaluate, facts)
    return result.model_copy(update={"hub_correction": hub_correction, **tables}), matrix


@dataclass(frozen=True)
class _MoreProtocols:
    """The inputs of the protocols besides recall, read and matched with the split before anything is scored.

    coco: the metrics of ECCV Caption, and COCO's ids of the images and captions of the split.
    """

    files: Sequence[Path]
    contrasts: MatchedItems | None
    judgements: list[MatchedJudgements]
    coco: tuple[Any, list[int], list[int]] | None


def _read_more_protocols(
    split: Split, contrasts: Sequence[Path], judgements: Sequence[Path], eccv: bool
) -> _MoreProtocols:
    items = [item for path in contrasts for item in read_contrasts(path)]
    return _MoreProtocols(
        files=contrasts,
        contrasts=match_images(items, split) if contrasts else None,
        judgements=[match_judgements(path, split) for path in judgements],
        coco=(metrics := load_metrics(), *find_coco_ids(metrics, split)) if eccv else None,
    )


def _measure_more_protocols(
    more: _MoreProtocols, scorers: Sequence[Scorer], split: Split, matrix: np.ndarray | Ensemble, bootstrap: int
) -> dict[str, object]:
    """Measure the protocols that were asked for; return them by field of `Result`."""
    tables: dict[str, object] = {}
    if more.coco:
        metrics, images, captions = more.coco
        scores = matrix.matrix if isinstance(matrix, Ensemble) else matrix
        tables["eccv"] = measure_eccv(metrics, scores, images, captions)
    if more.contrasts:
        tables["contrasts"] = measure_contrasts(scorers, split, more.contrasts, more.files, bootstrap)
    if more.judgements:
        tables["judgements"] = measure_judgements(scorers, split, more.judgements, bootstrap)
    return tables


def load_model(folder: Path, settings: Settings) -> Hire:
    """Load the model in `folder` to the device of the settings."""
    return artifact.load(folder).to(torch.device(pick_device(settings.train)))


def score_split(
    model: Hire,
    split: Split,
    settings: EvaluateSettings,
    kept: KeptScores | None = None,
    hub_correction: bool = False,
) -> np.ndarray:
    """Compute the similarity matrix [N, M] of the images and captions of `split`, corrected for hubs or not.

    kept: keeps the scores of a large matrix, so that an interrupted evaluation can continue.
    """
    check_features(model, split)  # before the captions, whose states take minutes
    bank = build_caption_bank(model, split.texts)
    workers = Workers(ray=settings.ray)
    matrix = compute_similarity(model, split, bank, settings.budget_mb << 20, workers=workers, kept=kept)
    return correct_matrix(model, split, bank, matrix) if hub_correction else matrix


def make_result(
    matrix: np.ndarray | Ensemble,
    split: Split,
    settings: EvaluateSettings,
    more_facts: Mapping[str, str],
    ranks: Ranks | None = None,
) -> Result:
    """Compute the figures of a similarity matrix [N, M], and add facts about the code, the data and `more_facts`.

    ranks: ranks of the same matrix under the same protocol, if already computed.
    """
    result = protocols.evaluate_matrix(matrix, split.owner, settings.protocol, settings.bootstrap, ranks=ranks)
    manifest = split.dataset.manifest
    data = {
        "data": manifest.name,
        "data digest": manifest.digest,
        "split": split.name,
        "images": str(len(split.images)),
    }
    return result.model_copy(update={"facts": collect_facts() | data | dict(more_facts)})


def write_report(
    path: Path,
    result: Result,
    matrix: np.ndarray | Ensemble,
    split: Split,
    settings: EvaluateSettings,
    model: Hire | None,
    history: Sequence[Mapping[str, Any]] = (),
) -> Path:
    """Write the HTML report. model: to explain the examples, or None; history: one row per epoch of a training."""
    explained = _make_explainer(model, split) if model is not None else None
    html = report.render(result, matrix, split, history=history, explain=explained, examples=settings.examples)
    return write_text(html, path)


def _make_explainer(model: Hire, split: Split) -> Callable[[int, int], Explanation]:
    """Return a function that explains the score of a pair: (image, caption) of `split` -> explanation."""
    bank, device = build_caption_bank(model, split.texts), next(model.parameters()).device
    manifest = split.dataset.manifest
    maps = map_predicates(model.predicates, manifest.predicates), map_classes(model.classes, manifest.classes)

    def explain_pair(image: int, caption: int) -> Explanation:
        regions = collate_regions([split.regions(image)], *maps).to(device)
        return explain(model, regions, bank.tokens([caption]).to(device), split.texts[caption])

    return explain_pair
