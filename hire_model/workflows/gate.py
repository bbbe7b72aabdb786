"""`hire gate` end to end: measure a version and the champion on the same data, decide, and record the decision."""

from __future__ import annotations

import contextlib
import logging
import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from hire_model.data.splits import open_dataset
from hire_model.data.store import Split
from hire_model.errors import DataError, HireError
from hire_model.evaluation import protocols
from hire_model.evaluation.behaviour import measure_behaviour
from hire_model.evaluation.bootstrap import bootstrap_differences
from hire_model.evaluation.calibration import measure_calibration
from hire_model.evaluation.protocols import Protocol, Ranks
from hire_model.evaluation.provenance import collect_facts
from hire_model.evaluation.speed import measure_speed
from hire_model.files import write_text
from hire_model.gate import Comparison, Conditions, Decision, Evidence, decide
from hire_model.model import artifact
from hire_model.model_card import card
from hire_model.scoring.kept_scores import KeptScores
from hire_model.scoring.matrix import check_features
from hire_model.scoring.scorer import Scorer
from hire_model.settings import Settings
from hire_model.tracking import registry, trust, versions
from hire_model.tracking.versions import Version
from hire_model.training.distributed import pick_device
from hire_model.workflows.evaluate import load_model, score_split
from hire_model.workflows.evaluation_data import describe_evaluation, use_training_data

log = logging.getLogger(__name__)
_NUMBERED = re.compile(r"decision-(\d+)\.json")
_SEED = 0  # of the bootstrap
_DRAWS = 1000  # number of bootstrap samples if evaluate.bootstrap is 0


@dataclass(frozen=True)
class GateOutcome:
    """A gate decision, the version that it is about, and the champion at that time, if any.

    decision: None if the version is the champion; then nothing was measured and nothing was written.
    """

    decision: Decision | None
    version: Version
    champion: Version | None

    def summary(self) -> str:
        """Return the decision in a sentence."""
        if self.decision is not None:
            return self.decision.summary()
        return f"Version {self.version.number} of '{self.version.name}' is already the champion; nothing was measured."


class _StoredRanks(BaseModel):
    """The ranks of a version under `ground`, stored in its run so that the next gate need not score it again."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: str
    ground: Conditions
    i2t: list[int]
    t2i: list[int]


def gate(
    settings: Settings,
    version: str = versions.CHALLENGER,
    split: str = "",
    limit: int = 0,
    announce: Callable[[str], None] = log.info,
) -> GateOutcome:
    """Check a version against the rules of the settings. A failed gate is a result, not an error.

    The champion is not checked again: the outcome has no decision, and nothing is written.

    The decision is written to the version's tags, its run, and its model card, which is the version's description.
    The tag gate.decision is 'running' until everything is written, and 'stopped' after an error or Ctrl-C. A version
    with one of these values cannot be promoted.

    Args:
        settings: name the store, the data set and the rules. Without data.path, the data set is the one that the
            version was trained on.
        version: alias or number.
        split: split to measure on; if empty, the evaluation split of the settings (data.test, else data.dev), or of the
            version's training if its data set has no such split.
        limit: number of images to use, from the first; 0 for all, or for data.dev_images if `split` is empty.
        announce: called before the measurement, with a line that names version, data set, digest, split and images.

    Raises:
        HireError: no such version, split or protocol, or the store does not answer.
    """
    challenger = versions.find(settings.tracking, version)
    champion = versions.find_champion(settings.tracking)
    if champion is not None and champion.number == challenger.number:
        return GateOutcome(None, challenger, champion)
    used_settings = use_training_data(settings, challenger)
    dataset = open_dataset(used_settings.data)
    if not split:
        split, default_limit = settings.data.evaluation_split
        limit = limit or default_limit
        if used_settings is not settings and split not in dataset.manifest.splits:
            split = challenger.tags.get(versions.DATA_SPLIT, split)
    settings, chosen = used_settings, dataset.split(split, limit)
    names = dict.fromkeys([settings.evaluate.protocol, *(key.split("/")[0] for key in settings.gate.minimums)])
    used = [protocols.check_fit(chosen.owner, len(chosen.images), name) for name in names]
    announce(describe_evaluation(f"version {challenger.number} of '{challenger.name}'", chosen, [challenger]))
    versions.set_tags(settings.tracking, challenger, {versions.DECISION: versions.RUNNING})
    try:
        return GateOutcome(_run_gate(challenger, champion, chosen, used, settings), challenger, champion)
    except BaseException:
        with contextlib.suppress(HireError):  # the store itself may have failed
            versions.set_tags(settings.tracking, challenger, {versions.DECISION: versions.STOPPED})
        raise


def _run_gate(
    challenger: Version, champion: Version | None, split: Split, used: Sequence[Protocol], settings: Settings
) -> Decision:
    """Measure, compare, decide, and record the decision."""
    folder = registry.fetch(challenger.uri, settings.tracking)
    trust.record(folder, challenger, settings.tracking)
    with KeptScores() as kept:
        evidence, ranks = _measure(challenger, folder, split, used, settings, kept)
        comparison = None
        if champion is not None:
            comparison = _compare(evidence, ranks, champion, split, settings, kept)
        decision = decide(evidence, comparison, settings.gate)
        _record(decision, ranks, challenger, folder, settings)
    return decision


def _measure(
    version: Version, folder: Path, split: Split, used: Sequence[Protocol], settings: Settings, kept: KeptScores
) -> tuple[Evidence, Ranks]:
    """Measure all figures that the rules need. Return them, and the ranks under the first protocol of `used`."""
    model, manifest = load_model(folder, settings), split.dataset.manifest
    matrix = score_split(model, split, settings.evaluate, kept)
    ranks = protocols.rank_under_protocol(matrix, split.owner, used[0])
    results = [protocols.evaluate_matrix(matrix, split.owner, protocol, bootstrap=0) for protocol in used]
    scorer = Scorer(model, pick_device(settings.train), manifest.predicates, manifest.classes)
    evidence = Evidence(
        version=version.number,
        ground=Conditions(
            data=manifest.name,
            digest=manifest.digest,
            split=split.name,
            images=len(split.images),
            protocol=used[0].name,
        ),
        figures={key: value for result in results for key, value in result.metrics().items()},
        behaviour=measure_behaviour(scorer, split),
        calibration=measure_calibration(matrix, split.owner),
        speed=measure_speed(scorer, split),
        megabytes=sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6,
        facts=collect_facts() | {versions.ARTIFACT_SHA256: artifact.digest_table(artifact.hash_files(folder))},
    )
    return evidence, ranks


def _compare(
    evidence: Evidence, ranks: Ranks, champion: Version, split: Split, settings: Settings, kept: KeptScores
) -> Comparison:
    """Compare with the champion. Its ranks were stored by an earlier gate, or are computed now."""
    theirs = _load_ranks(champion, evidence.ground, ranks.fold, settings)
    champion_scored = theirs is None
    if theirs is None:
        log.info("Scoring the champion, version %s, on the same data", champion.number)
        model = load_model(registry.fetch(champion.uri, settings.tracking), settings)
        try:
            check_features(model, split)
        except DataError as error:
            raise DataError(
                f"The champion, version {champion.number}, cannot be compared on this data. {error} To replace it "
                f"without a comparison: hire promote --version {evidence.version} --force REASON."
            ) from error
        matrix = score_split(model, split, settings.evaluate, kept)
        theirs = protocols.rank_under_protocol(matrix, split.owner, evidence.ground.protocol)
    draws = settings.evaluate.bootstrap or _DRAWS
    return Comparison(
        champion=champion.number,
        ground=evidence.ground,
        challenger_rsum=protocols.compute_rsum(ranks, split.owner),
        champion_rsum=protocols.compute_rsum(theirs, split.owner),
        interval=bootstrap_differences(
            (ranks.i2t, ranks.t2i), (theirs.i2t, theirs.t2i), split.owner, ranks.fold, draws, _SEED
        )["rsum"],
        champion_scored=champion_scored,
    )


def _load_ranks(champion: Version, ground: Conditions, fold: np.ndarray, settings: Settings) -> Ranks | None:
    """Load the champion's ranks if an earlier gate stored them for the same data and protocol."""
    text = versions.read_artifact(settings.tracking, champion, f"{versions.gate_folder(champion)}/ranks.json")
    try:
        stored = _StoredRanks.model_validate_json(text) if text else None
    except ValidationError:
        return None  # stored by another release: score again
    if stored is None or stored.version != champion.number or stored.ground != ground:
        return None
    return Ranks(np.array(stored.i2t, np.int64), np.array(stored.t2i, np.int64), fold)


def _record(decision: Decision, ranks: Ranks, version: Version, folder: Path, settings: Settings) -> None:
    """Write the model card and the files, then the tags, and last the tag that `promote` reads.

    decision.json is the current decision. Each gate also writes decision-1.json, decision-2.json, ..., so that earlier
    decisions stay readable.
    """
    ground = decision.evidence.ground
    stored = _StoredRanks(version=version.number, ground=ground, i2t=ranks.i2t.tolist(), t2i=ranks.t2i.tolist())
    texts = {
        versions.DECISION_FILE: decision.model_dump_json(indent=1) + "\n",
        _name_numbered_decision(version, settings): decision.model_dump_json(indent=1) + "\n",
        "decision.md": decision.markdown(),
        "ranks.json": stored.model_dump_json() + "\n",
    }
    if card.read_card_facts(folder) is not None:
        texts[card.CARD] = card.render_card(folder, version.name, version.uri, decision)
        versions.set_description(settings.tracking, version, texts[card.CARD])
    with tempfile.TemporaryDirectory() as temporary:
        for name, text in texts.items():
            path = write_text(text, Path(temporary) / name)
            versions.log_artifact(settings.tracking, version, path, versions.gate_folder(version))
    versions.record_decision(settings.tracking, version, decision)


def _name_numbered_decision(version: Version, settings: Settings) -> str:
    names = versions.list_artifacts(settings.tracking, version, versions.gate_folder(version))
    numbers = [int(match[1]) for name in names if (match := _NUMBERED.fullmatch(name))]
    return f"decision-{max(numbers, default=0) + 1}.json"
