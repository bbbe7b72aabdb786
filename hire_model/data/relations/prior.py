"""A learned prior: the likeliest predicate for two classes and the geometry of their boxes.

`fitting.py` makes it. The file relation_prior.safetensors has, for each of n ordered pairs of classes that were
related in the training data, and for each of the 15 cells of `geometry.number_cells`:

    pairs      [n, 2] int32, classes of subject and object, sorted
    predicate  [n, 15] int32, the likeliest predicate
    score      [n, 15] float32, its probability if the two are related
    related    [n, 15] float32, relations per pair of regions; 0 where they are fewer than those of an average pair

and as metadata "facts": `PriorFacts` as JSON.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from hire_model.data.relations.geometry import CELLS, mark_related_pairs, measure_pairs, number_cells
from hire_model.data.relations.maker import RegionBlock, Triplets, select_triplets
from hire_model.errors import DataError

TABLES = {"pairs": np.int32, "predicate": np.int32, "score": np.float32, "related": np.float32}


class PriorFacts(BaseModel):
    """What a prior was fitted on.

    source      for people, such as "captions of split train of flickr8k"
    top         relations in which a region is the subject
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    top: int
    classes: tuple[str, ...]
    predicates: tuple[str, ...]


class RelationPrior:
    """Relate pairs of regions whose classes are often related in this position, by their likeliest predicate.

    Args:
        facts: what it was fitted on.
        tables: by the names of TABLES; see the module.
    """

    kind = "prior"

    def __init__(self, facts: PriorFacts, tables: dict[str, np.ndarray]) -> None:
        self.facts = facts
        self.tables = {name: np.ascontiguousarray(tables[name], kind) for name, kind in TABLES.items()}
        self.weights: bytes | None = save(self.tables, {"facts": facts.model_dump_json()})
        self.digest = hashlib.sha256(self.weights).hexdigest()
        self.options: dict[str, JsonValue] = {"source": facts.source, "top": facts.top}
        self.name = f"prior from {facts.source}, {facts.top} per region"
        self.predicates, self.classes = facts.predicates, facts.classes
        self._keys = self.tables["pairs"].astype(np.int64) @ [len(facts.classes), 1]

    @classmethod
    def load(cls, path: Path) -> RelationPrior:
        """Read the file that has `weights`. Raise DataError if it is missing or no prior."""
        try:
            with safe_open(path, "numpy") as file:
                facts = PriorFacts.model_validate_json((file.metadata() or {}).get("facts", ""))
                tables = {name: file.get_tensor(name) for name in TABLES}
        except (OSError, SafetensorError, ValidationError) as error:
            reason = " ".join(str(error).split())[:200]
            raise DataError(f"{path}: no relation prior: {reason}. Make the relations again.") from error
        shapes = {name: table.shape for name, table in tables.items()}
        count = len(tables["pairs"])
        if shapes != {name: (count, 2 if name == "pairs" else CELLS) for name in TABLES}:
            raise DataError(f"{path}: tables of shapes {shapes}. Expected {CELLS} columns. Make the relations again.")
        return cls(facts, tables)

    def relate(self, regions: RegionBlock) -> Triplets:
        """Return the relations; their score is the probability of the predicate times the lower region score."""
        cells, classes = number_cells(measure_pairs(regions.boxes)), regions.classes
        keys = classes[:, :, None] * len(self.facts.classes) + classes[:, None]
        places = np.minimum(np.searchsorted(self._keys, keys), max(len(self._keys) - 1, 0))
        known = mark_related_pairs(regions) & (np.minimum(classes[:, :, None], classes[:, None]) >= 0)
        if not len(self._keys):
            return select_triplets(np.zeros(keys.shape), places, np.zeros(keys.shape), self.facts.top)
        known &= self._keys[places] == keys
        certain = np.minimum(regions.scores[:, :, None], regions.scores[:, None])
        return select_triplets(
            np.where(known, self.tables["related"][places, cells] * certain, 0.0),
            self.tables["predicate"][places, cells],
            self.tables["score"][places, cells] * certain,
            self.facts.top,
        )
