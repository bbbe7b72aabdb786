"""`hire gate` from end to end: measure a version and its champion on the same data, decide, and write it down."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from hire_model.data.chosen import open_dataset
from hire_model.data.store import Split
from hire_model.errors import HireError
from hire_model.evaluation import protocols
from hire_model.evaluation.behaviour import behaviours
from hire_model.evaluation.bootstrap import paired_interval
from hire_model.evaluation.calibration import calibration
from hire_model.evaluation.protocols import Protocol, Ranks
from hire_model.evaluation.provenance import collect_facts
from hire_model.evaluation.speed import speed
from hire_model.files import write_text
from hire_model.gate import Comparison, Conditions, Decision, Evidence, decide
from hire_model.model import artifact
from hire_model.model.hire import Hire
from hire_model.model_card import card
from hire_model.scoring.scorer import Scorer
from hire_model.settings import Settings
from hire_model.tracking import registry, versions
from hire_model.tracking.versions import Version
from hire_model.training.distributed import pick_device
from hire_model.workflows.fit import matrix_of

log = logging.getLogger(__name__)
_SEED, _DRAWS = 0, 1000  # of the comparison, where evaluate.bootstrap is 0


@dataclass(frozen=True)
class Judged:
    """A decision, whom it is about, and whom that was compared with."""

    decision: Decision
    version: Version
    champion: Version | None


class _KeptRanks(BaseModel):
    """A version's ranks on one ground, kept with its run so that the next challenger need not score it again."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: str
    ground: Conditions
    i2t: list[int]
    t2i: list[int]


def gate(settings: Settings, version: str = versions.CHALLENGER, split: str = "test", limit: int = 0) -> Judged:
    """Judge a version, by alias or number, by the rules of the settings; a failed gate is an answer and no error.

    limit: only the split's first images, 0 for all. The decision and its reasons go to tags of the version and to its
    run, and into its model card, which is the version's description. Until all of it is written the tag gate.decision
    says 'running', and 'stopped' after an error or Ctrl-C; nobody promotes the version then.
    Raises HireError: no such version, split or protocol, or a store that does not answer.
    """
    challenger = versions.find(settings.tracking, version)
    champion = versions.find_champion(settings.tracking)
    chosen = open_dataset(settings.data).split(split, limit)
    named = [settings.evaluate.protocol, *(key.split("/")[0] for key in settings.gate.minimums)]
    judged_by = [protocols.check_fit(chosen.owner, len(chosen.images), name) for name in dict.fromkeys(named)]
    versions.set_tags(settings.tracking, challenger, {versions.DECISION: versions.RUNNING})
    try:
        return Judged(_decided(challenger, champion, chosen, judged_by, settings), challenger, champion)
    except BaseException:
        with contextlib.suppress(HireError):  # where the store is what failed
            versions.set_tags(settings.tracking, challenger, {versions.DECISION: versions.STOPPED})
        raise


def _decided(
    challenger: Version, champion: Version | None, split: Split, judged_by: Sequence[Protocol], settings: Settings
) -> Decision:
    """Measure, compare, decide, and write it all down."""
    folder = registry.fetch(challenger.uri, settings.tracking)
    evidence, ranks = _measured(challenger, folder, split, judged_by, settings)
    comparison = None
    if champion is not None:
        own = ranks if champion.number == challenger.number else None
        comparison = _compared(evidence, ranks, champion, own, split, settings)
    decision = decide(evidence, comparison, settings.gate)
    _write_down(decision, ranks, challenger, folder, settings)
    return decision


def _measured(
    version: Version, folder: Path, split: Split, judged_by: Sequence[Protocol], settings: Settings
) -> tuple[Evidence, Ranks]:
    """All that the rules ask about, and the ranks under the first protocol."""
    model, manifest = _loaded(folder, settings), split.dataset.manifest
    matrix = matrix_of(model, split, settings.evaluate)
    ranks = protocols.protocol_ranks(matrix, split.owner, judged_by[0])
    results = [protocols.judge(matrix, split.owner, protocol, bootstrap=0) for protocol in judged_by]
    scorer = Scorer(model, pick_device(settings.train), manifest.predicates)
    evidence = Evidence(
        version=version.number,
        ground=Conditions(
            data=manifest.name,
            digest=manifest.digest,
            split=split.name,
            images=len(split.images),
            protocol=judged_by[0].name,
        ),
        figures={key: value for result in results for key, value in result.metrics().items()},
        behaviour=behaviours(scorer, split),
        calibration=calibration(matrix, split.owner),
        speed=speed(scorer, split),
        megabytes=sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6,
        facts=collect_facts(),
    )
    return evidence, ranks


def _compared(
    evidence: Evidence, ranks: Ranks, champion: Version, known: Ranks | None, split: Split, settings: Settings
) -> Comparison:
    """The challenger against the champion, whose ranks are `known`, or kept on the same ground, or made now."""
    theirs = known or _kept(champion, evidence.ground, ranks.fold, settings)
    scored = theirs is None
    if theirs is None:
        log.info("Scoring the champion, version %s, on the same data", champion.number)
        model = _loaded(registry.fetch(champion.uri, settings.tracking), settings)
        matrix = matrix_of(model, split, settings.evaluate)
        theirs = protocols.protocol_ranks(matrix, split.owner, evidence.ground.protocol)
    ours, other = (ranks.i2t, ranks.t2i), (theirs.i2t, theirs.t2i)
    draws = settings.evaluate.bootstrap or _DRAWS
    return Comparison(
        champion=champion.number,
        ground=evidence.ground,
        challenger_rsum=protocols.rsum(ranks, split.owner),
        champion_rsum=protocols.rsum(theirs, split.owner),
        interval=paired_interval(ours, other, split.owner, ranks.fold, draws, _SEED),
        champion_scored=scored,
    )


def _kept(champion: Version, ground: Conditions, fold: np.ndarray, settings: Settings) -> Ranks | None:
    """The champion's ranks if an earlier gate kept them on this very ground."""
    text = versions.read_artifact(settings.tracking, champion, f"{versions.gate_folder(champion)}/ranks.json")
    try:
        kept = _KeptRanks.model_validate_json(text) if text else None
    except ValidationError:
        return None  # of another release; scoring again is always right
    if kept is None or kept.version != champion.number or kept.ground != ground:
        return None
    return Ranks(np.array(kept.i2t, np.int64), np.array(kept.t2i, np.int64), fold)


def _write_down(decision: Decision, ranks: Ranks, version: Version, folder: Path, settings: Settings) -> None:
    """Files, then the card, then the tags; the tag that `promote` looks at comes last."""
    ground = decision.evidence.ground
    kept = _KeptRanks(version=version.number, ground=ground, i2t=ranks.i2t.tolist(), t2i=ranks.t2i.tolist())
    texts = {
        versions.DECISION_FILE: decision.model_dump_json(indent=1) + "\n",
        "decision.md": decision.markdown(),
        "ranks.json": kept.model_dump_json() + "\n",
    }
    if card.read_card_facts(folder) is not None:
        texts[card.CARD] = card.render_card(folder, version.name, version.uri, decision)
        versions.set_description(settings.tracking, version, texts[card.CARD])
    with tempfile.TemporaryDirectory() as scratch:
        for name, text in texts.items():
            versions.log_artifact(
                settings.tracking, version, write_text(text, Path(scratch) / name), versions.gate_folder(version)
            )
    versions.record_decision(settings.tracking, version, decision)


def _loaded(folder: Path, settings: Settings) -> Hire:
    return artifact.load(folder).to(torch.device(pick_device(settings.train)))
