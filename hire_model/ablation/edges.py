"""Test the paper's claim: a model with implicit relations loses less when explicit edges are missing or wrong.

Variants of a recipe are trained with and without implicit relations, the relation match, and damage in training. Each
is then evaluated on images that lose relations, boxes or objects.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from hire_model.ablation.edge_tables import RANKS, EdgeRecord, EdgeTable, Point, build_table, write_files
from hire_model.ablation.perturb import perturb_images
from hire_model.ablation.stages import Variant, select_variants
from hire_model.ablation.study import RecordFile, Study, Trial, train_trial
from hire_model.data.store import Split
from hire_model.errors import SettingsError
from hire_model.evaluation import protocols
from hire_model.evaluation.provenance import collect_facts
from hire_model.model import artifact
from hire_model.model.captions import build_caption_bank
from hire_model.model.hire import Hire
from hire_model.scoring.matrix import compute_similarity
from hire_model.settings import Settings
from hire_model.training.damage import DAMAGES, Damage
from hire_model.workflows.evaluate import load_model

log = logging.getLogger(__name__)

SHARES = (0.5, 1.0)
TRAINING_DAMAGE = 0.75  # train.edge_damage of the variants +damage
DAMAGE_SEED = 0


def _list_variants() -> tuple[Variant, ...]:
    """Return every combination of implicit relations, relation match and damage in training that makes sense."""
    none = {"model.image_implicit": "false", "model.relation_match": "false", "model.implicit_edges": "false"}
    none |= {"train.edge_damage": "0"}
    stage, match = {"model.image_implicit": "true"}, {"model.relation_match": "true"}
    edges = {"model.implicit_edges": "true"}
    clean = (
        Variant("graphs", none),
        Variant("graphs+stage", none | stage, "graphs"),
        Variant("graphs+edges", none | edges, "graphs"),
        Variant("graphs+stage+edges", none | stage | edges, "graphs+stage"),
        Variant("match", none | match),
        Variant("match+stage", none | match | stage, "match"),
        Variant("match+edges", none | match | edges, "match"),
        Variant("match+stage+edges", none | match | stage | edges, "match+stage"),
    )
    damage = {"train.edge_damage": str(TRAINING_DAMAGE)}
    damaged = tuple(
        Variant(f"{v.name}+damage", v.overrides | damage, f"{v.reference}+damage" if v.reference else v.name)
        for v in clean
    )
    return (Variant("no-graphs", none | {"model.graphs": "none"}), *clean, *damaged)


VARIANTS = _list_variants()


def run(
    study: Study, only: Sequence[str] = (), damages: Sequence[Damage] = DAMAGES, shares: Sequence[float] = SHARES
) -> EdgeTable:
    """Train and evaluate what is not yet in edges.jsonl; write edges.md, edges.json and the plots after each model.

    Trained models are stored in models/, ranks in ranks/.

    Args:
        study: recipe, data, seeds and folder.
        only: names of variants, default all.
        damages: how images are damaged.
        shares: which shares (0-1) of damage to evaluate; 0 is always evaluated.

    Raises:
        HireError: wrong settings, such as a model without graphs, before anything is trained.
        TrainingStopped: after Ctrl-C; the same call continues.
    """
    variants = select_variants(only, VARIANTS)
    trials = study.plan([(variant.name, variant.overrides) for variant in variants])
    if all(trial.settings.model.graphs == "none" for trial in trials):
        raise SettingsError("model.graphs=none: there are no edges to drop. Set model.graphs=both.")
    split = study.open_split(trials[0].settings)
    wanted: list[tuple[Damage, float]] = [(damages[0], 0.0), *((d, s) for d in damages for s in shares if s)]
    file = RecordFile(study.out / "edges.jsonl", EdgeRecord)
    records = file.read()

    def write() -> EdgeTable:
        table = build_table(study, variants, [records[t.key] for t in trials if t.key in records], wanted, split.owner)
        write_files(table, study.out)
        return table

    for number, trial in enumerate(trials, 1):
        points = records[trial.key].points if trial.key in records else []
        done = {(point.damage, point.share) if point.share else "clean" for point in points}
        missing = [(damage, share) for damage, share in wanted if ((damage, share) if share else "clean") not in done]
        if missing:
            log.info("Model %d of %d: %s, seed %d", number, len(trials), trial.variant, trial.seed)
            model, dev_rsum = _load_or_train(trial, study)
            points = points + evaluate_points(model, split, trial.settings, missing, study.out / RANKS / trial.key)
            records[trial.key] = EdgeRecord(
                key=trial.key,
                variant=trial.variant,
                seed=trial.seed,
                dev_rsum=dev_rsum,
                parameters=sum(weight.numel() for weight in model.parameters()),
                points=points,
            )
            file.append(records[trial.key])
            write()
    return write()


def evaluate_points(
    model: Hire, split: Split, settings: Settings, points: Sequence[tuple[Damage, float]], ranks: Path
) -> list[Point]:
    """Evaluate `model` on `split` with each damage and share, and write the ranks into the folder `ranks`.

    The damage is the same for all models: it depends only on the position of the image, and on the damage.
    """
    evaluated: list[Point] = []
    ranks.mkdir(parents=True, exist_ok=True)
    with torch.inference_mode():
        bank = build_caption_bank(model, split.texts)
        for damage, share in points:
            log.info("%.0f %% of %s", 100 * share, damage)
            with perturb_images(model, damage, share, DAMAGE_SEED) as tally:
                matrix = compute_similarity(model, split, bank, settings.evaluate.budget_mb << 20)
            found = protocols.rank_under_protocol(matrix, split.owner, settings.evaluate.protocol)
            protocol = settings.evaluate.protocol
            result = protocols.evaluate_matrix(matrix, split.owner, protocol, bootstrap=0, ranks=found)
            result = result.model_copy(update={"facts": collect_facts()})
            relations, pairs = tally.shares
            point = Point(damage=damage, share=share, relations=relations, pairs=pairs, result=result)
            np.savez_compressed(ranks / point.file_name, i2t=found.i2t, t2i=found.t2i, fold=found.fold)
            evaluated.append(point)
    return evaluated


def _load_or_train(trial: Trial, study: Study) -> tuple[Hire, float]:
    """Return the trial's model and its dev rSum. Load the model if an earlier call trained it, else train it."""
    folder = study.out / "models" / trial.key
    if (folder / artifact.CONFIG).is_file():
        dev_rsum = artifact.read_config(folder)["facts"]["dev_rsum"]
        return load_model(folder, trial.settings), dev_rsum
    unfinished = study.out / "unfinished" / trial.key
    model, fitted = train_trial(trial, study.dataset, unfinished)
    dev_rsum = fitted.best_metrics["rsum"]
    artifact.save(model, folder, {"variant": trial.variant, "seed": trial.seed, "dev_rsum": dev_rsum} | collect_facts())
    shutil.rmtree(unfinished)
    return model, dev_rsum
