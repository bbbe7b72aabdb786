"""The result of an evaluation: immutable, stored as JSON, and always with the name of its protocol."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from hire_model.evaluation.contrast_result import ContrastResult
from hire_model.evaluation.judgement_result import JudgementResult
from hire_model.files import write_text

KS = (1, 5, 10)
Interval = tuple[float, float]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Direction(_Frozen):
    """One direction of retrieval: recalls in 0-100, ranks from 1, and 95 % bootstrap intervals by name such as 'r1'."""

    queries: int
    r1: float
    r5: float
    r10: float
    median: float
    mean: float
    intervals: dict[str, Interval] = {}


class EccvResult(_Frozen):
    """Metrics (0-100) by name, in both directions: eccv_map_at_r, eccv_rprecision, eccv_r1, cxc_r1, cxc_r5, cxc_r10."""

    i2t: dict[str, float]
    t2i: dict[str, float]


class Result(_Frozen):
    """The metrics under one protocol. `models`: number of averaged similarity matrices; more than 1 for an ensemble."""

    protocol: str
    images: int
    captions: int
    folds: int = 1
    models: int = 1
    hub_correction: bool = Field(default=False, description="whether the scores were corrected for hubs")
    bootstrap: int = 0
    seed: int = 0
    i2t: Direction
    t2i: Direction
    rsum: float = Field(description="sum of the six recalls, 0-600")
    rsum_interval: Interval | None = None
    contrasts: ContrastResult | None = None
    judgements: JudgementResult | None = None
    eccv: EccvResult | None = None
    facts: dict[str, str] = Field(default={}, description="provenance: model, data digest, command, machine")

    @property
    def title(self) -> str:
        """The protocol, and whether it is a mean of folds, an ensemble, or corrected for hubs."""
        folds = f", mean of {self.folds} folds" if self.folds > 1 else ""
        models = f", ensemble of {self.models} models" if self.models > 1 else ""
        hubs = ", with hub correction" if self.hub_correction else ""
        return f"{self.protocol}{folds}{models}{hubs}"

    def metrics(self) -> dict[str, float]:
        """Return the metrics by MLflow name: 'full/i2t_r1', 'full/rsum', and '_low' and '_high' of intervals.

        Contrast sets are 'contrasts/KIND/model', '.../blind' and '.../no_relations', human judgements
        'judgements/FILE/tau_c' and '.../tau_b'. An ensemble of two has names like 'full/ensemble2/i2t_r1', and a
        result with hub correction 'full/hub-corrected/i2t_r1', so that neither is confused with a plain result.
        """
        prefix = self._name_metric(self.protocol, "hub-corrected" if self.hub_correction else "")
        flat = {f"{prefix}/rsum": self.rsum}
        intervals = {f"{prefix}/rsum": self.rsum_interval} if self.rsum_interval else {}
        for name, direction in (("i2t", self.i2t), ("t2i", self.t2i)):
            for field in (*(f"r{k}" for k in KS), "median", "mean"):
                flat[f"{prefix}/{name}_{field}"] = getattr(direction, field)
            intervals |= {f"{prefix}/{name}_{field}": interval for field, interval in direction.intervals.items()}
        for kind, row in (self.contrasts.kinds if self.contrasts else {}).items():
            for field, figure in (("model", row.model), ("blind", row.blind), ("no_relations", row.no_relations)):
                if figure is not None:
                    key = self._name_metric("contrasts", kind) + f"/{field}"
                    flat[key] = figure.accuracy
                    intervals |= {key: figure.interval} if figure.interval else {}
        for file, agreement in (self.judgements.sets if self.judgements else {}).items():
            key = self._name_metric("judgements", file)
            flat |= {f"{key}/tau_c": agreement.tau_c, f"{key}/tau_b": agreement.tau_b}
            intervals |= {f"{key}/tau_c": agreement.interval} if agreement.interval else {}
        for name, values in (("i2t", self.eccv.i2t), ("t2i", self.eccv.t2i)) if self.eccv else ():
            flat |= {f"{prefix}/{name}_{field}": value for field, value in values.items()}
        for key, (low, high) in intervals.items():
            flat |= {f"{key}_low": low, f"{key}_high": high}
        return flat

    def _name_metric(self, group: str, name: str = "") -> str:
        """Return 'group', or 'group/name', with the mark of an ensemble and without characters that MLflow refuses."""
        ensemble = [] if self.models == 1 else [f"ensemble{self.models}"]
        return re.sub(r"[^\w\-. /]", "_", "/".join([group, *ensemble, *([name] if name else [])]))


def write_json(result: Result, path: str | Path) -> Path:
    """Write `result` to `path` atomically and create its folder. `Result.model_validate_json` reads it."""
    return write_text(result.model_dump_json(indent=1) + "\n", path)
