"""Contrast sets: the reader and its formats, image ids, and the accuracy of scorers with a known answer."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import model_examples
import numpy as np
import pytest

from hire_model.batch import EncodedImages, EncodedTexts
from hire_model.data.store import Dataset, ImageRegions, Split
from hire_model.errors import DataError, HireError
from hire_model.evaluation import contrast_accuracy
from hire_model.evaluation.behaviour import TIE
from hire_model.evaluation.contrast_accuracy import measure_contrasts
from hire_model.evaluation.contrast_result import ContrastResult
from hire_model.evaluation.contrast_sets import (
    RULES,
    ContrastItem,
    make_contrasts,
    match_images,
    read_contrasts,
    write_contrasts,
)
from hire_model.model.hire import Hire
from hire_model.model.vocabulary import learn_vocabulary
from hire_model.scoring.scorer import Scorer

ITEM = {"image": "a.jpg", "true": ["a dog"], "false": ["a cat"], "kind": "nouns"}


@pytest.fixture(scope="module")
def split(tiny_dataset: Path) -> Split:
    return Dataset.open(tiny_dataset).split("train")


@pytest.fixture(scope="module")
def model(split: Split) -> Hire:
    chosen, manifest = model_examples.make_settings(), split.dataset.manifest
    built = Hire(chosen, manifest.feature_dim, manifest.predicates, learn_vocabulary(split.texts, chosen.text), None)
    return built.eval()


class RuleScorer(Scorer):
    """Scores by `rule` (image id, text), and records what is encoded. The summary identifies an encoded image."""

    def __init__(self, model: Hire, split: Split, rule: Callable[[str, str], float]) -> None:
        super().__init__(model, "cpu", split.dataset.manifest.predicates)
        self.rule = rule
        self.encoded: list[tuple[str, bool]] = []  # image id, whether it has relations
        self.texts: list[str] = []
        self.regions = {split.regions(row).features.tobytes(): split.image_id(row) for row in range(len(split.images))}
        self.names: dict[bytes, str] = {}
        self.block: Sequence[str] = ()

    def encode_images(self, images: Sequence[ImageRegions]) -> EncodedImages:
        encoded = super().encode_images(images)
        for row, image in enumerate(images):
            name = self.regions[image.features.tobytes()]
            self.encoded.append((name, bool(len(image.relations))))
            self.names[encoded.summary[row].numpy().tobytes()] = name
        return encoded

    def encode_texts(self, texts: Sequence[str]) -> EncodedTexts:
        self.texts += texts
        self.block = texts
        return super().encode_texts(texts)

    def score(
        self, images: EncodedImages, texts: EncodedTexts, image_index: np.ndarray, text_index: np.ndarray
    ) -> np.ndarray:
        names = [self.names[images.summary[k].numpy().tobytes()] for k in range(len(images))]
        pairs = zip(image_index, text_index, strict=True)
        return np.array([self.rule(names[image], self.block[text]) for image, text in pairs], np.float32)


def measure(
    model: Hire, split: Split, rule: Callable[[str, str], float], items: Sequence[ContrastItem] | None = None
) -> ContrastResult:
    items = make_contrasts(split) if items is None else items
    return measure_contrasts([RuleScorer(model, split, rule)], split, match_images(items, split), draws=50)


def write(path: Path, value: object) -> Path:
    path.write_text(value if isinstance(value, str) else json.dumps(value), "utf-8")
    return path


@pytest.mark.parametrize("pretty", [False, True])
def test_our_format_is_read_as_written(pretty: bool, tmp_path: Path) -> None:
    items = [ContrastItem("1", ("a dog", "ein Hündchen"), ("a cat",), "x"), ContrastItem("2", ("b",), ("c", "d"), "y")]
    path = write_contrasts(items, tmp_path / "set.jsonl")
    if pretty:  # as one JSON list
        write(path, json.dumps([json.loads(line) for line in path.read_text("utf-8").splitlines()], indent=1))
    assert read_contrasts(path) == items


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        (
            "swap_att.json",
            {"0": {"filename": "000000000009.jpg", "caption": "a red hat", "negative_caption": "a blue hat"}},
            [ContrastItem("000000000009.jpg", ("a red hat",), ("a blue hat",), "sugarcrepe/swap_att")],
        ),
        (
            "swap_obj.json",
            [{"id": 0, "filename": "9.jpg", "caption": "a", "caption2": "b", "negative_caption": "c"}],
            [ContrastItem("9.jpg", ("a", "b"), ("c",), "sugarcrepe++/swap_obj")],
        ),
        (
            "visual_genome_relation.json",
            [
                {"image_path": "7.jpg", "true_caption": "a", "false_caption": "b", "relation_name": "on"},
            ],
            [ContrastItem("7.jpg", ("a",), ("b",), "aro/relation")],
        ),
        (
            "visual_genome_attribution.json",
            [{"image_path": "7.jpg", "true_caption": "a", "false_caption": "b", "attributes": ["red", "big"]}],
            [ContrastItem("7.jpg", ("a",), ("b",), "aro/attribution")],
        ),
        (
            "order.json",
            [{"image": "val2014/COCO_val2014_000000000009.jpg", "caption_options": ["a b", "b a", "c"]}],
            [ContrastItem("val2014/COCO_val2014_000000000009.jpg", ("a b",), ("b a", "c"), "aro/order")],
        ),
        (
            "actant-swap.json",
            {
                "actions_0": {"image_file": "x.jpg", "caption": "a", "foil": "b", "mturk": {"caption": 2, "foil": 1}},
                "actions_1": {"image_file": "y.jpg", "caption": "a", "foil": "b", "mturk": {"caption": 1, "foil": 2}},
            },
            [ContrastItem("x.jpg", ("a",), ("b",), "valse/actant-swap")],
        ),
        (
            "examples.jsonl",
            {
                "id": 0, "image_0": "ex_0_img_0", "image_1": "ex_0_img_1", "caption_0": "a", "caption_1": "b",
                "collapsed_tag": "Relation",
            },
            [
                ContrastItem("ex_0_img_0", ("a",), ("b",), "winoground/Relation"),
                ContrastItem("ex_0_img_1", ("b",), ("a",), "winoground/Relation"),
            ],
        ),
    ],
    ids=["sugarcrepe", "sugarcrepe++", "aro relation", "aro attribution", "aro order", "valse", "winoground"],
)  # fmt: skip
def test_a_published_file_is_recognised_and_converted(
    name: str, content: object, expected: list[ContrastItem], tmp_path: Path
) -> None:
    assert read_contrasts(write(tmp_path / name, content)) == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {k: v for k, v in ITEM.items() if k != "image"},
            r"line 1: field 'image' is missing\. Expected our JSON lines",
        ),
        ({k: v for k, v in ITEM.items() if k != "false"}, r"line 1: field 'false' is missing\. Expected a list"),
        ({**ITEM, "true": "a dog"}, r"line 1: field 'true' is \"a dog\"\. Expected a list of one or more texts"),
        ({**ITEM, "true": []}, r"line 1: field 'true' is \[\]"),
        ({**ITEM, "false": ["a cat", " "]}, r"line 1: field 'false\[1\]' is \" \"\. Expected a text that is not empty"),
        ({**ITEM, "false": ["\ud800"]}, r"line 1: field 'false\[0\]' holds half a character"),
        ({**ITEM, "kind": 3}, r"line 1: field 'kind' is 3"),
        (json.dumps(ITEM) + "\n\n{", r"line 3: is not JSON"),
        (json.dumps(ITEM) + "\n[1]", r"line 2: is \[1\]\. Expected an object"),
        ([ITEM, 5], r"item 1: is 5"),
        ({"7": {"filename": "x", "caption": 1, "negative_caption": "b"}}, r"item '7': field 'caption' is 1"),
        ({"7": {"image_file": "x", "caption": "a", "foil": "b"}}, r"item '7': field 'mturk.caption' is null"),
        ([{"image": "x", "caption_options": ["a"]}], r"item 0: field 'caption_options' has one text"),
        ("", r"no items"),
    ],
)
def test_a_faulty_file_is_refused_with_item_and_field(content: object, message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "faulty.json", content)
    with pytest.raises(DataError, match=message) as caught:
        read_contrasts(path)
    assert str(caught.value).startswith(str(path))


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.json: cannot be read: No such file"):
        read_contrasts(tmp_path / "none.json")
    (tmp_path / "latin.json").write_bytes(b'"\xe9"')
    with pytest.raises(DataError, match="is not UTF-8"):
        read_contrasts(tmp_path / "latin.json")


def test_images_match_by_id_or_by_name_without_folder_and_suffix(split: Split) -> None:
    exact, other = split.image_id(1), split.image_id(0)
    names = [exact, f"images/{other}.jpg", "unknown.jpg", "unknown.jpg"]
    matched = match_images([ContrastItem(name, ("a",), ("b",), "k") for name in names], split)
    assert matched.images.tolist() == [0, 1]
    assert (matched.missing, matched.left_out) == (["unknown.jpg"], 2)


def test_no_matching_image_is_an_error(split: Split) -> None:
    with pytest.raises(DataError, match=r"has no image of the contrast set.*'unknown\.jpg'"):
        match_images([ContrastItem("unknown.jpg", ("a",), ("b",), "k")], split)


def test_made_contrasts_differ_from_all_captions_of_their_image(split: Split) -> None:
    items = make_contrasts(split)
    assert {item.kind for item in items} == set(RULES)
    captions: dict[str, set[str]] = {}
    for text, row in zip(split.texts, split.owner.tolist(), strict=True):
        captions.setdefault(split.image_id(row), set()).add(text.lower())
    for item in items:
        assert item.true[0].lower() in captions[item.image]
        assert item.false[0].lower() not in captions[item.image]


def test_a_constant_scorer_gets_zero(model: Hire, split: Split) -> None:
    result = measure(model, split, lambda image, text: 0.5)
    assert list(result.kinds) == list(RULES), "in the order of the file"
    for kind in result.kinds.values():
        assert kind.blind is not None and kind.no_relations is not None
        for row in (kind.model, kind.blind, kind.no_relations):
            assert (row.accuracy, row.interval) == (0, (0, 0))


def test_a_perfect_scorer_gets_100_and_not_with_other_images(model: Hire, split: Split) -> None:
    pairs = {(split.image_id(row), text) for row, text in zip(split.owner.tolist(), split.texts, strict=True)}
    result = measure(model, split, lambda image, text: float((image, text) in pairs))
    for kind in result.kinds.values():
        assert kind.blind is not None
        assert (kind.model.accuracy, kind.model.interval) == (100, (100, 100))
        assert kind.blind.accuracy < 20  # another image may have the same caption


def test_every_true_text_must_score_above_every_false_text(model: Hire, split: Split) -> None:
    image = split.image_id(0)
    scores = {"t1": 1.0, "t2": 0.5, "f1": 0.4, "f2": 0.6, "f3": 0.5, "f4": 0.5 - TIE / 2}
    items = [
        ContrastItem(image, ("t1", "t2"), ("f1",), "won"),
        ContrastItem(image, ("t1",), ("f1", "f2"), "won"),
        ContrastItem(image, ("t1", "t2"), ("f2",), "second true text below"),
        ContrastItem(image, ("t2",), ("f1", "f2"), "second false text above"),
        ContrastItem(image, ("t2",), ("f3",), "tie"),
        ContrastItem(image, ("t2",), ("f4",), "tie up to rounding"),
    ]
    result = measure(model, split, lambda _, text: scores[text], items)
    accuracy = {kind: row.model.accuracy for kind, row in result.kinds.items()}
    assert accuracy.pop("won") == 100
    assert set(accuracy.values()) == {0.0}
    assert all(row.blind is None for row in result.kinds.values()), "one image: there is no other"


def test_a_nan_is_an_error_that_names_the_text(model: Hire, split: Split) -> None:
    image = split.image_id(0)
    items = [ContrastItem(image, ("t",), ("f",), "k"), ContrastItem(image, ("t",), ("bad",), "k")]
    with pytest.raises(HireError, match=rf"image '{image}' and text 'bad' is NaN \(1 in all\)"):
        measure(model, split, lambda _, text: np.nan if text == "bad" else 0.0, items)


def test_images_are_encoded_once_with_and_once_without_relations(
    model: Hire, split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contrast_accuracy, "_IMAGES", 5)
    monkeypatch.setattr(contrast_accuracy, "_TEXTS", 7)
    scorer = RuleScorer(model, split, lambda image, text: 0.0)
    items = make_contrasts(split)
    measure_contrasts([scorer], split, match_images(items, split), draws=0)
    images = {item.image for item in items}
    related = {split.image_id(row) for row in np.flatnonzero(split.relation_counts).tolist()} & images
    assert sorted(scorer.encoded) == sorted([(i, i in related) for i in images] + [(i, False) for i in images])
    assert len(scorer.texts) == len({(item.image, text) for item in items for text in (*item.true, *item.false)})


def test_blocks_do_not_change_the_accuracy(model: Hire, split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer, matched = (
        Scorer(model, "cpu", split.dataset.manifest.predicates),
        match_images(make_contrasts(split), split),
    )
    whole = measure_contrasts([scorer], split, matched, draws=20)
    monkeypatch.setattr(contrast_accuracy, "_IMAGES", 5)
    monkeypatch.setattr(contrast_accuracy, "_TEXTS", 7)
    assert measure_contrasts([scorer, scorer], split, matched, draws=20) == whole, "the mean of a model and itself"


def test_the_scores_are_those_of_predict(model: Hire, split: Split) -> None:
    scorer, items = Scorer(model, "cpu", split.dataset.manifest.predicates), make_contrasts(split)
    matched = match_images(items, split)
    regions = [split.regions(row) for row in range(len(split.images))]
    pairs = [
        (regions[k], text) for k, i in zip(matched.images, matched.items, strict=True) for text in i.true + i.false
    ]
    scores = scorer.predict(pairs).reshape(-1, 2)
    won = scores[:, 0] > scores[:, 1] + TIE
    result = measure_contrasts([scorer], split, matched, draws=0)
    for kind, row in result.kinds.items():
        of_kind = np.array([item.kind == kind for item in matched.items])
        assert row.model.accuracy == pytest.approx(100 * won[of_kind].mean())
        assert row.model.interval is None
