"""The result of a contrast set, as stored in the JSON of an evaluation."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Accuracy(_Frozen):
    """Share of items (0-100) in which every true text scores above every false text; 95 % bootstrap interval."""

    accuracy: float
    interval: tuple[float, float] | None


class ContrastKind(_Frozen):
    """The accuracy of one kind of contrast.

    model: each text with its image. blind: the same texts with another image of the set; None if there is only one.
    no_relations: each text with its image without relations; None if the images have no relations.
    """

    items: int
    images: int
    model: Accuracy
    blind: Accuracy | None
    no_relations: Accuracy | None


class ContrastResult(_Frozen):
    """The accuracy of each kind. missing_images: ids that are not in the split; their items are left out."""

    kinds: dict[str, ContrastKind]
    files: list[str]
    missing_images: list[str]
    items_left_out: int
    bootstrap: int
    seed: int
