"""Train end to end: fit, evaluate, write the report, log and register the model."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hire_model.data.chosen import Splits, open_dataset
from hire_model.data.store import Dataset, Split
from hire_model.errors import GO_ON, TrainingStopped
from hire_model.evaluation import protocols, report
from hire_model.evaluation.provenance import collect_facts
from hire_model.evaluation.result import Result, write_json
from hire_model.evaluation.slices import standard_slices
from hire_model.files import write_text
from hire_model.model import artifact
from hire_model.model.hire import Hire
from hire_model.model_card import card
from hire_model.settings import Resolved, Settings, flatten
from hire_model.tracking import registry
from hire_model.tracking.connection import connect
from hire_model.tracking.run import TrackedRun, explain_failed_upload, start_run
from hire_model.tracking.versions import CHALLENGER
from hire_model.training.checkpoint import LAST, Checkpoint, alone_in
from hire_model.training.record import EpochRecord, FitResult
from hire_model.workflows.evaluate import explain_pairs, with_facts
from hire_model.workflows.fit import fitted, matrix_of

log = logging.getLogger(__name__)
EXAMPLE_PAIRS = 2  # rows of the input example that travels with the model
RUN_FILE = "mlflow-run"


@dataclass(frozen=True)
class Trained:
    """What a training leaves: figures of `split`, and where things lie."""

    result: Result
    split: str
    limit: int
    data: Path
    report: Path
    figures: Path
    model: Path
    registered: str
    version: str
    best_epoch: int
    epochs: int
    tracking_uri: str


def train(
    resolved: Resolved,
    name: str = "train",
    resume: bool = False,
    on_epoch: Callable[[EpochRecord], None] = lambda record: None,
) -> Trained | None:
    """Train, evaluate on the test split, write the report, and log and register the model.

    name: of the run; on_epoch: is told of each epoch as it ends. With several processes every one calls this, and only
    the first returns something.
    Raises HireError: data that cannot be read, an MLflow store that does not answer, training that was stopped.
    """
    settings, out = resolved.settings, resolved.settings.train.out
    uri = connect(settings.tracking) if settings.tracking.enabled and is_first() else ""
    dataset = open_dataset(settings.data)
    splits = Splits.of(dataset, settings.data)
    protocols.check_fit(splits.test.owner, len(splits.test.images), settings.evaluate.protocol)
    if resume:  # before anything is written, or the run that it would join is marked as failed
        Checkpoint.load(out / LAST).check(settings, dataset.manifest.digest, out / LAST)
    tracking = settings.tracking if is_first() else settings.tracking.model_copy(update={"enabled": False})
    alone = alone_in(out) if is_first() else contextlib.nullcontext()
    with alone, start_run(tracking, name, _earlier_run(out) if resume else None) as run:
        _describe(run, resolved, dataset, splits)
        model, found = fitted(settings, splits, out, resume, _logs_epochs(run, on_epoch))
        if not is_first():
            return None
        try:
            return _finish(model, found, splits, settings, run, uri)
        except KeyboardInterrupt as stopped:
            raise TrainingStopped(
                f"Stopped by Ctrl-C after the last epoch. The training is complete and lies in {out}; run {GO_ON}: it "
                "goes straight to the evaluation."
            ) from stopped


def is_first() -> bool:
    """Whether this is the only or the first process of a run."""
    return int(os.environ.get("RANK", 0)) == 0


def _describe(run: TrackedRun, resolved: Resolved, dataset: Dataset, splits: Splits) -> None:
    """Settings, their origins, the code and the data, before the first step."""
    out, flat = resolved.settings.train.out, flatten(resolved.settings.model_dump(mode="json"))
    table = {key: {"value": value, "from": resolved.origins[key]} for key, value in flat.items()}
    path = write_text(json.dumps(table, indent=1) + "\n", out / "settings.json")
    run.log_params(flat)
    run.set_tags(collect_facts() | {"dataset.digest": dataset.manifest.digest})
    for context, split in (("training", splits.train), ("dev", splits.dev), ("test", splits.test)):
        run.log_dataset(dataset.folder, f"{dataset.manifest.name}: {split.name}", dataset.manifest.digest, context)
    run.log_artifact(path)
    if run.enabled:
        write_text(run.run_id + "\n", out / RUN_FILE)
    elif is_first():  # what an earlier training left here is not this one's
        (out / RUN_FILE).unlink(missing_ok=True)


def _logs_epochs(run: TrackedRun, then: Callable[[EpochRecord], None]) -> Callable[[EpochRecord], None]:
    def on_epoch(record: EpochRecord) -> None:
        figures = {key: value for key, value in dataclasses.asdict(record).items() if key not in ("epoch", "dev")}
        named = {f"train/{key}": value for key, value in figures.items()}
        run.log_metrics(named | {f"dev/{key}": value for key, value in record.dev.items()}, step=record.epoch + 1)
        then(record)

    return on_epoch


def _finish(model: Hire, found: FitResult, splits: Splits, settings: Settings, run: TrackedRun, uri: str) -> Trained:
    """Test figures, report, model folder; then all of it to MLflow."""
    out, test = settings.train.out, splits.test
    history = [dataclasses.asdict(record) for record in found.history]
    matrix = matrix_of(model, test, settings.evaluate)
    ranks = protocols.protocol_ranks(matrix, test.owner, settings.evaluate.protocol)
    result = protocols.judge(matrix, test.owner, settings.evaluate.protocol, settings.evaluate.bootstrap, ranks=ranks)
    origin = {"seed": str(settings.train.seed)} | ({"mlflow run": run.run_id} if run.enabled else {})
    result = with_facts(result, test, origin)
    figures = write_json(result, out / "figures.json")
    html = report.render(
        result, matrix, test, history=history, explain=explain_pairs(model, test), examples=settings.evaluate.examples
    )
    page = write_text(html, out / "report.html")
    saved, about = _saved(model, found, result, ranks, splits, settings)
    registered = registry.LoggedModel("")
    run.log_metrics(result.metrics())
    write_text(json.dumps(history, indent=1) + "\n", out / "history.json")
    if run.enabled:
        with explain_failed_upload(out):
            run.flush()
            for path in (figures, page, out / "history.json"):
                run.log_artifact(path, "evaluation")
            run.log_artifact(saved / card.CARD)
            predicates = test.dataset.manifest.predicates
            tags = _version_tags(result, run)
            registered = registry.log_model(saved, _examples(test), settings.tracking, tags, predicates, about)
    limit = settings.data.dev_images if test is splits.dev else 0
    return Trained(
        result, test.name, limit, test.dataset.folder, page, figures, saved, registered.uri,
        registered.version, found.best_epoch, len(found.history), uri,
    )  # fmt: skip


def _saved(
    model: Hire, found: FitResult, result: Result, ranks: protocols.Ranks, splits: Splits, settings: Settings
) -> tuple[Path, str]:
    """The model folder, with the facts that travel with it and the card that says them; and the card's text."""
    test, manifest = splits.test, splits.train.dataset.manifest
    slices = standard_slices(test, ranks)
    weights = sum(weight.numel() for weight in model.parameters())
    known = card.collect_card_facts(result, manifest, settings, slices, weights, len(found.history), found.best_epoch)
    facts = dict(result.facts) | {"metrics": result.metrics(), card.FACT: known.model_dump(mode="json")}
    folder, name = artifact.save(model, settings.train.out / "model", facts), settings.tracking.model_name
    about = card.render_card(folder, name, f"models:/{name}@{CHALLENGER}")
    write_text(about, folder / card.CARD)
    return folder, about


def _version_tags(result: Result, run: TrackedRun) -> dict[str, str]:
    figures = {key.replace("/", "."): f"{value:.2f}" for key, value in result.metrics().items()}
    return figures | {"run": run.run_id, "data.digest": result.facts["data digest"], "split": result.facts["split"]}


def _examples(split: Split) -> list[Any]:
    captions = range(min(EXAMPLE_PAIRS, len(split.captions)))
    return [(split.regions(int(split.owner[caption])), split.texts[caption]) for caption in captions]


def _earlier_run(out: Path) -> str | None:
    path = out / RUN_FILE
    return path.read_text("utf-8").strip() if path.is_file() else None
