"""Describe the relation maker of a data set, and open the same one again for new pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from hire_model.data.relations.geometry import GeometryRules
from hire_model.data.relations.maker import RelationMaker
from hire_model.data.relations.prior import RelationPrior
from hire_model.data.schema import FROM_FILE, RELATION_PRIOR, MakerFacts
from hire_model.errors import DataError

KINDS: Final[dict[str, Callable[[MakerFacts, Path], RelationMaker]]] = {
    "geometry": lambda facts, folder: GeometryRules(int(str(facts.options["top"]))),
    "prior": lambda facts, folder: RelationPrior.load(folder / RELATION_PRIOR),
}
"""By `RelationMaker.kind`: a function of the recorded facts and the folder that has relation_prior.safetensors."""


def record_maker(maker: RelationMaker) -> MakerFacts:
    """Return what `open_maker` needs to open the maker again."""
    return MakerFacts.record(maker, maker.weights is not None)


def open_maker(facts: MakerFacts, folder: Path) -> RelationMaker:
    """Open the maker that `facts`, in the manifest or the config of `folder`, describe.

    Raises:
        DataError: the relations were imported, this release does not have the maker, or its file or rules differ.
    """
    if facts.kind not in KINDS:
        reason = (
            "cannot be made for other pictures"
            if facts.kind == FROM_FILE
            else f"are of kind '{facts.kind}', which this release does not have. Expected one of {', '.join(KINDS)}"
        )
        raise DataError(
            f"{folder}: its relations, by '{facts.name}', {reason}. Make relations with 'hire data relations', and "
            "train on them."
        )
    maker = KINDS[facts.kind](facts, folder)
    if maker.digest != facts.digest:
        raise DataError(
            f"{folder}: its relations were made by '{facts.name}' with digest {facts.digest[:16]}, but the one here "
            f"has {maker.digest[:16]}: a changed file or other rules. Make the relations again, and train on them."
        )
    return maker
