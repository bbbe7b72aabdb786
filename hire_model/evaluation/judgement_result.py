"""The agreement with human judgements, as stored in the JSON of an evaluation."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Agreement(_Frozen):
    """Kendall's tau-c and tau-b times 100 between the scores and all grades of one file.

    Each grade counts as one observation, so a pair with three grades counts three times. interval: 95 % bootstrap
    interval of tau_c over images, None without draws. missing_images: ids that are not in the split; their pairs are
    left out. own_captions: pairs of a published file that are left out because the caption belongs to the image.
    """

    file: str
    pairs: int
    images: int
    grades: int
    tau_c: float
    tau_b: float
    interval: tuple[float, float] | None
    missing_images: list[str]
    pairs_left_out: int
    own_captions: int


class JudgementResult(_Frozen):
    """The agreement with each file, by the file's name without suffix."""

    sets: dict[str, Agreement]
    bootstrap: int
    seed: int
