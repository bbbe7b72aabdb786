"""Operations and bytes of the pair stages, counted from the shapes. docs/performance.md shows them."""

from __future__ import annotations

from dataclasses import dataclass

from hire_model.settings import ModelSettings

_FLOAT = 4  # bytes


@dataclass(frozen=True)
class Cost:
    """The cost of one stage for one pair.

    Attributes:
        flop: operations of its matrix products; a multiplication with an addition counts as two.
        bytes: size of the float32 tensors that the plain path writes.
    """

    flop: float
    bytes: float


@dataclass(frozen=True)
class Sizes:
    """Sizes of a pair: regions R, words L, P, and K edge maps of the relation match (0: none)."""

    regions: float
    words: float
    size: int
    kinds: int = 0

    @classmethod
    def of(cls, settings: ModelSettings, regions: float, words: float, kinds: int = 0) -> Sizes:
        """Return the sizes for a model's settings; `regions` and `words` may be means."""
        return cls(regions, words, settings.pair_dim or settings.dim, kinds)


def count_cost(settings: ModelSettings, sizes: Sizes) -> dict[str, Cost]:
    """Count the cost of each enabled pair stage for one pair, in order. Costs per image or caption are left out."""
    r, n, p, k = sizes.regions, sizes.words, sizes.size, sizes.kinds
    i2t, t2i = settings.direction != "t2i", settings.direction != "i2t"
    refined = (r if i2t else 0) + (n if t2i else 0)  # fragments
    maps = n * r * ((1 if i2t else 0) + 1)
    costs = {"cosines": Cost(2 * n * r * p, _FLOAT * n * r)}
    if settings.object_word:
        directions = (1 if i2t else 0) + (1 if t2i else 0)
        costs["attention"] = Cost(4 * n * r * p * directions, _FLOAT * (4 * maps + 2 * refined * p))
        costs["refinement"] = Cost(4 * refined * p * p, _FLOAT * 6 * refined * p)
        if settings.alignment:
            costs["alignment"] = Cost(2 * n * r * r, _FLOAT * 4 * n * r)
    crossed = (r if i2t and settings.object_sentence else 0) + (n if t2i and settings.word_image else 0)
    if crossed:
        costs["cross-level"] = Cost(4 * crossed * p * p, _FLOAT * 7 * crossed * p)
    costs["pooling"] = Cost(0, _FLOAT * 2 * refined * p)
    if k:
        costs["relation match"] = Cost(2 * k * n * r * (n + r), _FLOAT * n * r * (2 * k + 4))
    return costs


def count_flop(settings: ModelSettings, sizes: Sizes) -> float:
    """Count the operations of all pair stages for one pair."""
    return sum(cost.flop for cost in count_cost(settings, sizes).values())
