"""`hire train` end to end: train a model, evaluate it, write the report, log and register the model."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from hire_model.data.loading import CaptionBank
from hire_model.data.splits import Splits, open_dataset, open_splits
from hire_model.data.store import Dataset, ImageRegions, Split
from hire_model.errors import RESUME_COMMAND, TrainingStopped
from hire_model.evaluation import protocols
from hire_model.evaluation.provenance import collect_facts
from hire_model.evaluation.result import Result, write_json
from hire_model.evaluation.slices import compute_slices
from hire_model.files import write_text
from hire_model.model import artifact
from hire_model.model.build import build_model
from hire_model.model.captions import add_states, build_caption_bank
from hire_model.model.hire import Hire
from hire_model.model.warm_start import warm_start
from hire_model.model_card import card
from hire_model.scoring.hub_correction import collect_bank
from hire_model.scoring.kept_scores import KeptScores
from hire_model.scoring.matrix import compute_similarity
from hire_model.settings import ResolvedSettings, Settings, flatten
from hire_model.tracking import registry
from hire_model.tracking.connection import connect
from hire_model.tracking.run import TrackedRun, explain_failed_upload, start_run
from hire_model.tracking.versions import CHALLENGER, TRAINED_RSUM
from hire_model.training.checkpoint import LAST, Checkpoint, lock_folder, set_aside_previous
from hire_model.training.distributed import pick_local_device, read_job_id, seed_everything
from hire_model.training.loop import fit
from hire_model.training.negative_bank import build_negative_bank
from hire_model.training.record import EpochRecord, FitResult
from hire_model.training.run_folder import choose_run_folder, find_run_folder
from hire_model.workflows.evaluate import make_result, score_split, write_report

log = logging.getLogger(__name__)
EXAMPLE_PAIRS = 2  # in the input example that is logged with the model
RUN_FILE = "mlflow-run"  # in the folder of the training; holds the id of its MLflow run
JOB_FILE = "torchrun-job"  # in the folder of a training that torchrun started and that has not ended; holds its job id
_LOCK_WAIT_S = 30  # after a process was killed, its loader workers hold the folder for some seconds


@dataclass(frozen=True)
class TrainOutcome:
    """The figures of a training, and the files that it wrote.

    Attributes:
        result: figures on `split`.
        limit: number of images used of the split; 0 for all.
        data: folder of the data set.
        registered: address that loads the model from MLflow, and version: its number; "" if it is not registered.
        best_epoch: counts from 0.
        tracking_uri: address of the MLflow store, and experiment: id of its experiment; "" without MLflow.
    """

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
    experiment: str


def train(
    resolved: ResolvedSettings,
    name: str = "train",
    resume: bool = False,
    on_epoch: Callable[[EpochRecord], None] = lambda record: None,
) -> TrainOutcome | None:
    """Train, evaluate on data.test (else on the dev split), write the report, and log and register the model.

    If several processes train together, each one calls this function, and only the first one returns an outcome. A
    training that torchrun has restarted resumes from its checkpoint, if it has one.

    Args:
        resolved: the settings and where each one comes from.
        name: start of the name of the MLflow run; the data set's folder follows.
        resume: resume from the checkpoint in train.out.
        on_epoch: called after each epoch.

    Raises:
        HireError: the data cannot be read, the MLflow store does not answer, or the training was stopped.
    """
    settings = resolved.settings
    uri = connect(settings.tracking) if settings.tracking.enabled and is_first_process() else ""
    dataset = open_dataset(settings.data)
    splits = open_splits(dataset, settings.data)
    protocols.check_fit(splits.test.owner, len(splits.test.images), settings.evaluate.protocol)
    job = read_job_id()
    if job:
        resume = resume or _has_checkpoint_of_job(find_run_folder(settings.train.out), job)
    if resume:  # before the run is joined: an error here must not mark the earlier run as failed
        last = settings.train.out / LAST
        Checkpoint.load(last).check(settings, dataset.manifest.digest, last)
    if is_first_process():
        resolved = choose_run_folder(resolved, resume)
        settings = resolved.settings
    out = settings.train.out
    tracking = settings.tracking if is_first_process() else settings.tracking.model_copy(update={"enabled": False})
    lock = lock_folder(out, _LOCK_WAIT_S if job else 0) if is_first_process() else contextlib.nullcontext()
    with (
        lock,
        start_run(tracking, f"{name} on {dataset.folder.resolve().name}", _read_run_id(out) if resume else None) as run,
    ):
        if is_first_process():
            _log_inputs(run, resolved, dataset, splits)
            _mark_job(out, job, resume)
        model, fitted = fit_model(settings, splits, out, resume, _make_epoch_logger(run, on_epoch))
        if not is_first_process():
            return None
        train = settings.train
        model.hubs = collect_bank(model, splits.train, train.hub_bank, train.temperature, train.seed)
        try:
            with KeptScores() as kept:
                outcome = _finish(model, fitted, splits, settings, run, uri, kept)
            (out / JOB_FILE).unlink(missing_ok=True)
            return outcome
        except KeyboardInterrupt as stopped:
            raise TrainingStopped(
                f"Stopped by Ctrl-C after the last epoch. The training is complete and stored in {out}. "
                f"Run {RESUME_COMMAND}: it repeats only the evaluation."
            ) from stopped


def fit_model(
    settings: Settings,
    splits: Splits,
    out: Path,
    resume: bool = False,
    on_epoch: Callable[[EpochRecord], None] = lambda record: None,
) -> tuple[Hire, FitResult]:
    """Build and train a model. Return it with the weights of its best dev epoch. Raise as `training.loop.fit`."""
    model, train_bank = prepare_model(settings, splits.train, warm=settings.train.warm_start and not resume)
    dev_bank = build_caption_bank(model, splits.dev.texts)

    def evaluate_dev(candidate: Hire) -> dict[str, float]:
        matrix = compute_similarity(candidate, splits.dev, dev_bank, settings.evaluate.budget_mb << 20)
        metrics = protocols.evaluate_matrix(matrix, splits.dev.owner, bootstrap=0).metrics()
        return {name.removeprefix("full/"): value for name, value in metrics.items()}

    digest = splits.train.dataset.manifest.digest
    result = fit(
        model, splits.train, train_bank, settings,
        dev=evaluate_dev, out=out, digest=digest, resume=resume, on_epoch=on_epoch,
        negatives=build_negative_bank(model, splits.train.texts, settings.train),
    )  # fmt: skip
    return model.eval(), result


def prepare_model(settings: Settings, train_split: Split, warm: bool) -> tuple[Hire, CaptionBank]:
    """Build an untrained model and tokenise the captions. warm: initialise the model with the closed-form start."""
    seed_everything(settings.train.seed)
    model = build_model(settings.model, train_split).to(pick_local_device(settings.train))
    bank = build_caption_bank(model, train_split.texts)
    if warm:
        warm_start(model, train_split, add_states(model, bank), settings.train)
    return model, bank


def is_first_process() -> bool:
    """Return whether this is the first process of a training (or the only one)."""
    return int(os.environ.get("RANK", 0)) == 0


def _has_checkpoint_of_job(out: Path, job: str) -> bool:
    """Return whether `out` has a checkpoint of the unfinished torchrun job `job`."""
    path = out / JOB_FILE
    return path.is_file() and path.read_text("utf-8").strip() == job and (out / LAST).is_file()


def _mark_job(out: Path, job: str, resume: bool) -> None:
    """Write the id of the torchrun job into `out`; without a job, delete that of an earlier one."""
    if not job:
        (out / JOB_FILE).unlink(missing_ok=True)
        return
    if not resume:
        set_aside_previous(out)  # before the id: a restart must not take an earlier checkpoint for its own
    write_text(job + "\n", out / JOB_FILE)


def _read_run_id(out: Path) -> str | None:
    """Return the id of the MLflow run of an earlier training in `out`, or None."""
    path = out / RUN_FILE
    return path.read_text("utf-8").strip() if path.is_file() else None


def _log_inputs(run: TrackedRun, resolved: ResolvedSettings, dataset: Dataset, splits: Splits) -> None:
    """Log the settings and their origins, the version of the code, and the data sets."""
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
    else:  # the id is that of an earlier training in this folder
        (out / RUN_FILE).unlink(missing_ok=True)


def _make_epoch_logger(run: TrackedRun, on_epoch: Callable[[EpochRecord], None]) -> Callable[[EpochRecord], None]:
    """Return a callback that logs the metrics of an epoch and then calls `on_epoch`."""

    def log_epoch(record: EpochRecord) -> None:
        metrics = {f"train/{key}": value for key, value in asdict(record).items() if key not in ("epoch", "dev")}
        metrics |= {f"dev/{key}": value for key, value in record.dev.items()}
        run.log_metrics(metrics, step=record.epoch + 1)
        on_epoch(record)

    return log_epoch


def _finish(
    model: Hire,
    fitted: FitResult,
    splits: Splits,
    settings: Settings,
    run: TrackedRun,
    uri: str,
    kept: KeptScores,
) -> TrainOutcome:
    """Evaluate on data.test (else on dev), write figures, report and model folder, and log and register them."""
    out, test = settings.train.out, splits.test
    history = [asdict(record) for record in fitted.history]
    matrix = score_split(model, test, settings.evaluate, kept)
    ranks = protocols.rank_under_protocol(matrix, test.owner, settings.evaluate.protocol)
    origin = {"seed": str(settings.train.seed)} | ({"mlflow run": run.run_id} if run.enabled else {})
    result = make_result(matrix, test, settings.evaluate, origin, ranks)
    figures = write_json(result, out / "figures.json")
    page = write_report(out / "report.html", result, matrix, test, settings.evaluate, model, history)
    folder, model_card = _save_model(model, fitted, result, ranks, splits, settings)
    history_file = write_text(json.dumps(history, indent=1) + "\n", out / "history.json")
    registered = _register(run, settings, test, result, folder, model_card, (figures, page, history_file))
    return TrainOutcome(
        result=result,
        split=test.name,
        limit=settings.data.evaluation_split.limit,
        data=test.dataset.folder,
        report=page,
        figures=figures,
        model=folder,
        registered=registered.uri,
        version=registered.version,
        best_epoch=fitted.best_epoch,
        epochs=len(history),
        tracking_uri=uri,
        experiment=run.experiment_id,
    )


def _save_model(
    model: Hire, fitted: FitResult, result: Result, ranks: protocols.Ranks, splits: Splits, settings: Settings
) -> tuple[Path, str]:
    """Save the model folder with its facts and its model card; return the folder and the text of the card."""
    test, manifest = splits.test, splits.train.dataset.manifest
    slices = compute_slices(test, ranks)
    size = sum(weight.numel() for weight in model.parameters())
    facts = card.collect_card_facts(result, manifest, settings, slices, size, len(fitted.history), fitted.best_epoch)
    stored = dict(result.facts) | {"metrics": result.metrics(), card.FACT: facts.model_dump(mode="json")}
    folder = artifact.save(model, settings.train.out / "model", stored, splits.train.dataset)
    name = settings.tracking.model_name
    text = card.render_card(folder, name, f"models:/{name}@{CHALLENGER}")
    write_text(text, folder / card.CARD)
    return folder, text


def _register(
    run: TrackedRun,
    settings: Settings,
    test: Split,
    result: Result,
    folder: Path,
    model_card: str,
    files: Sequence[Path],
) -> registry.LoggedModel:
    """Log `files` and the model folder to the run, and register the model if tracking.register_model is set."""
    if not run.enabled:
        return registry.LoggedModel("")
    tags = {
        TRAINED_RSUM: f"{result.rsum:.2f}",
        "run": run.run_id,
        "data.digest": result.facts["data digest"],
        "split": result.facts["split"],
    }
    with explain_failed_upload(settings.train.out):
        run.flush()
        for path in files:
            run.log_artifact(path, "evaluation")
        run.log_artifact(folder / card.CARD)
        registered = None
        if settings.tracking.register_model:  # a resumed run may have registered its model before
            registered = registry.find_registered(folder, run.run_id, settings.tracking)
            if registered is not None:
                log.warning(
                    "Version %s of '%s' already has these weights; they are not registered again.",
                    registered.version,
                    settings.tracking.model_name,
                )
        manifest = test.dataset.manifest
        if registered is None:
            pairs = _pick_examples(test)
            registered = registry.log_model(
                folder, pairs, settings.tracking, tags, manifest.predicates, model_card, manifest.classes
            )
        name = f"{manifest.name}: {test.name}"
        run.log_model_metrics(result.metrics(), registered.model_id, test.dataset.folder, name, manifest.digest)
        return registered


def _pick_examples(split: Split) -> list[tuple[ImageRegions, str]]:
    """Return the first pairs (image, caption) of `split`."""
    captions = range(min(EXAMPLE_PAIRS, len(split.captions)))
    return [(split.regions(int(split.owner[caption])), split.texts[caption]) for caption in captions]
