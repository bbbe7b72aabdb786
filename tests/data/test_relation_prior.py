"""The learned prior: what it learns, what it leaves out, and its file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hire_model.data.relations.fitting import Evidence
from hire_model.data.relations.geometry import CELLS, measure_pairs, number_cells
from hire_model.data.relations.maker import RegionBlock, make_block
from hire_model.data.relations.nouns import ClassFinder, make_singular
from hire_model.data.relations.prior import RelationPrior
from hire_model.data.relations.recorded import open_maker, record_maker
from hire_model.data.schema import RELATION_PRIOR, MakerFacts
from hire_model.errors import DataError

CLASSES = ("person", "bicycle", "dog")
ON, BESIDE = [[0.3, 0.1, 0.5, 0.7], [0.2, 0.5, 0.6, 0.9]], [[0.1, 0.3, 0.2, 0.8], [0.6, 0.4, 0.9, 0.8]]


def block(*images: tuple[list[list[float]], list[int]], score: float = 1.0) -> RegionBlock:
    parts = [(np.array(boxes), np.array(classes), np.full(len(classes), score)) for boxes, classes in images]
    return make_block(parts, np.full((len(parts), 2), 100))


def learn(evidence: Evidence, boxes: list[list[float]], classes: list[int], predicate: str, fold: int = 0) -> None:
    rows = [(0, 0, 1)] if predicate else []
    evidence.add(block((boxes, classes)), np.array(rows), [predicate] * len(rows), np.ones(len(rows)), np.array([fold]))


def make_evidence() -> Evidence:
    """20 people on a bicycle ride it, 20 beside one stand next to it; 20 people beside a dog have no relation."""
    evidence = Evidence(CLASSES)
    for _ in range(20):
        learn(evidence, ON, [0, 1], "riding")
        learn(evidence, BESIDE, [0, 1], "next to")
        learn(evidence, BESIDE, [0, 2], "")
    return evidence


def relate(prior: RelationPrior, regions: RegionBlock) -> list[tuple[int, str, int]]:
    return [(s, prior.predicates[p], o) for _, s, p, o in prior.relate(regions).rows.tolist()]


def test_the_predicate_depends_on_the_geometry() -> None:
    prior = make_evidence().fit("test")
    assert relate(prior, block((ON, [0, 1]))) == [(0, "riding", 1)]
    assert relate(prior, block((BESIDE, [0, 1]))) == [(0, "next to", 1)]
    assert relate(prior, block((ON[::-1], [1, 0]))) == [(1, "riding", 0)]


def test_classes_that_are_never_or_rarely_related_get_no_relation() -> None:
    evidence = make_evidence()
    for _ in range(20):
        learn(evidence, BESIDE, [2, 1], "")
    learn(evidence, BESIDE, [2, 1], "near")
    assert relate(evidence.fit("test"), block((BESIDE, [0, 2]), (BESIDE, [2, 1]), (ON, [-1, 1]))) == []


def test_an_unseen_position_gets_the_usual_predicate_of_the_classes() -> None:
    evidence = Evidence(CLASSES)
    for _ in range(9):
        learn(evidence, ON, [0, 1], "riding")
        learn(evidence, BESIDE, [0, 2], "walking")
    far_above = [[0.45, 0.0, 0.5, 0.05], [0.4, 0.9, 0.5, 0.99]]
    assert relate(evidence.fit("test"), block((far_above, [0, 1]))) == [(0, "riding", 1)]


def test_the_score_is_the_smoothed_share_of_the_predicate_times_the_lower_region_score() -> None:
    evidence = Evidence(CLASSES)
    for predicate in ("riding",) * 9 + ("on",) * 3:
        learn(evidence, ON, [0, 1], predicate)
    prior = evidence.fit("test")
    # Every general case is (9, 3) of 12 too, so smoothing changes only p(cell | predicate): (9 + 4/15) / 13 and
    # (3 + 4/15) / 7 for this cell.
    riding, on = 0.75 * (9 + 4 / CELLS) / 13, 0.25 * (3 + 4 / CELLS) / 7
    expected = (9 + 4 * riding / (riding + on)) / 16
    assert prior.relate(block((ON, [0, 1]))).scores == pytest.approx([expected], rel=1e-5)
    assert prior.relate(block((ON, [0, 1]), score=0.5)).scores == pytest.approx([expected / 2], rel=1e-5)


def test_a_fold_that_is_left_out_teaches_nothing() -> None:
    evidence = make_evidence()
    for _ in range(20):
        learn(evidence, ON, [2, 1], "chasing", fold=1)
    assert relate(evidence.fit("test"), block((ON, [2, 1]))) == [(0, "chasing", 1)]
    without = evidence.fit("test", without=1)
    assert relate(without, block((ON, [2, 1]))) == [] and without.predicates == evidence.fit("test").predicates


def test_a_prior_is_the_same_after_saving_and_a_damaged_file_is_refused(tmp_path: Path) -> None:
    prior = make_evidence().fit("captions of split train")
    path = tmp_path / RELATION_PRIOR
    path.write_bytes(prior.weights or b"")
    facts = MakerFacts.model_validate_json(record_maker(prior).model_dump_json())
    again = open_maker(facts, tmp_path)
    assert again.digest == prior.digest == make_evidence().fit("captions of split train").digest
    assert relate(prior, block((ON, [0, 1]))) == relate(again, block((ON, [0, 1])))  # type: ignore[arg-type]
    path.write_bytes(make_evidence().fit("other captions").weights or b"")
    with pytest.raises(DataError, match="a changed file or other rules"):
        open_maker(facts, tmp_path)
    path.write_bytes((prior.weights or b"")[:-8])
    with pytest.raises(DataError, match=rf"{RELATION_PRIOR}: no relation prior"):
        open_maker(facts, tmp_path)


def test_relations_from_a_file_or_of_a_newer_release_cannot_be_made() -> None:
    for kind, reason in (("file", "cannot be made for other pictures"), ("newer", "this release does not have")):
        with pytest.raises(DataError, match=reason):
            open_maker(MakerFacts(kind=kind, name="x", digest="0"), Path("model"))


@given(st.integers(0, 10_000))
def test_swapping_two_boxes_mirrors_their_cell(seed: int) -> None:
    corners = np.random.default_rng(seed).random((1, 6, 2, 2))
    boxes = np.concatenate([corners.min(axis=2), corners.max(axis=2)], axis=2)
    cells = number_cells(measure_pairs(boxes))[0]
    mirrored = {0: 1, 1: 0}
    for i in range(6):
        for j in range(i):
            kind, level = divmod(int(cells[i, j]), 3)
            assert divmod(int(cells[j, i]), 3) == (mirrored.get(kind, kind), 2 - level)


@pytest.mark.parametrize(
    ("phrase", "found"),
    [
        ("a dog", ["dog"]),
        ("two dogs", ["dog"]),
        ("a hot dog", ["hot dog"]),
        ("the red ball", ["sports ball"]),
        ("a little girl", ["person"]),
        ("three men", ["person"]),
        ("a tennis racket", ["tennis racket"]),
        ("the grass", []),
        ("", []),
    ],
)
def test_nouns_name_classes(phrase: str, found: list[str]) -> None:
    classes = ("person", "dog", "hot dog", "sports ball", "tennis racket")
    assert [classes[i] for i in ClassFinder(classes).find(phrase.split())] == found


def test_a_class_of_its_own_is_preferred_to_person() -> None:
    assert ClassFinder(("person", "girl")).find(["girls"]) == (1,)


def test_singular_and_plural_classes_are_both_named() -> None:
    assert ClassFinder(("dogs", "dog")).find(["dog"]) == (0, 1)


def test_singulars() -> None:
    plurals = "horses benches boxes ladies glasses buses children dogs bus grass tennis"
    singulars = "horse bench box lady glass bus child dog bus grass tennis"
    assert [make_singular(noun) for noun in plurals.split()] == singulars.split()
