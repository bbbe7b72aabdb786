"""Human judgements: reading three formats, matching images, and Kendall's tau."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import kendalltau

from hire_model.data.store import Dataset, ImageRegions, Split
from hire_model.data.writer import DatasetWriter, ImageRecord
from hire_model.errors import DataError, HireError
from hire_model.evaluation.judgement_sets import MatchedJudgements, match_judgements, read_judgements
from hire_model.evaluation.judgements import measure_judgements

IMAGES = 6


@pytest.fixture
def split(tmp_path: Path) -> Split:
    """Six images im0.jpg to im5.jpg with five captions each: 'im0 text 0' to 'im5 text 4'."""
    with DatasetWriter(tmp_path / "data", name="t", feature_dim=2, feature_extractor="none") as out:
        for i in range(IMAGES):
            features, captions = np.full((1, 2), i, np.float32), [f"im{i} text {k}" for k in range(5)]
            out.add(ImageRecord(f"im{i}.jpg", "test", features, captions))
    return Dataset.open(tmp_path / "data").split("test")


class FixedScorer:
    """Score an image with feature i and a text 'imJ text K' by a table."""

    def __init__(self, table: np.ndarray) -> None:
        self.table = table

    def predict(self, pairs: list[tuple[ImageRegions, str]]) -> np.ndarray:
        return np.array([self.table[int(image.features[0, 0]), int(text[2])] for image, text in pairs], np.float32)


def write(folder: Path, name: str, *lines: object) -> Path:
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    (folder / name).write_text(text + "\n", "utf-8")
    return folder / name


def test_expert_annotations_give_three_grades_and_the_text_of_the_caption(split: Split, tmp_path: Path) -> None:
    path = write(tmp_path, "ExpertAnnotations.txt", "im0.jpg\tim3.jpg#2\t1\t2\t1", "im0.jpg\tim0.jpg#4\t4\t4\t4")
    first, own = read_judgements(path, split.dataset)
    assert (first.image, first.text, first.grades, first.own) == ("im0.jpg", "im3 text 2", (1, 2, 1), False)
    assert own.own and own.text == "im0 text 4"


def test_crowdflower_annotations_give_the_share_of_yes(split: Split, tmp_path: Path) -> None:
    lines = ["im0.jpg\tim3.jpg#2\t0.33\t1\t2", "im1.jpg\tim2.jpg#0\t1\t3\t0", "im2.jpg\tim1.jpg#0\t0\t0\t3"]
    judgements = read_judgements(write(tmp_path, "cf.txt", *lines), split.dataset)
    assert [one.grades for one in judgements] == [(0.33,), (1.0,), (0.0,)]


def test_the_token_file_beside_the_annotations_comes_first(split: Split, tmp_path: Path) -> None:
    write(tmp_path, "Flickr8k.token.txt", "im3.jpg#2\tfrom the token file")
    path = write(tmp_path, "e.txt", "im0.jpg\tim3.jpg#2\t1\t2\t1")
    assert read_judgements(path, split.dataset)[0].text == "from the token file"


def test_the_second_column_and_the_json_field_can_hold_a_text(split: Split, tmp_path: Path) -> None:
    table = write(tmp_path, "e.txt", "im0.jpg\ta dog on a box\t1\t2\t1")
    lines = [
        {"image": "im0", "text": "a dog", "grades": [3.5]},
        {"image": "im0", "caption": "im0.jpg#1", "grades": [4]},
    ]
    own = write(tmp_path, "own.jsonl", *lines)
    assert read_judgements(table, split.dataset)[0].text == "a dog on a box"
    assert [(one.text, one.grades, one.own) for one in read_judgements(own, split.dataset)] == [
        ("a dog", (3.5,), False),
        ("im0 text 1", (4,), False),
    ]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("im0.jpg\tim1.jpg#0\t1\t2", "line 1: 4 columns"),
        ("im0.jpg\tim1.jpg#0\t1\t2\tx", "line 1: could not convert"),
        ("im0.jpg\tim1.jpg#0\t1\t2\t7", r"line 1: numbers \[1.0, 2.0, 7.0\]"),
        ("im0.jpg\tim1.jpg#9\t1\t2\t3", "line 1: no caption 'im1.jpg#9'"),
        ('{"image": "im0.jpg", "text": "", "grades": [1]}', "line 1: field 'text'"),
        ('{"image": "im0.jpg", "text": "a", "grades": []}', "line 1: field 'grades'"),
        ('{"image": "im0.jpg", "text": "a", "grades": [NaN]}', "line 1: field 'grades'"),
        ('{"image": 3, "text": "a", "grades": [1]}', "line 1: field 'image'"),
        ("{", "line 1: is not JSON"),
        ("", "no judgements"),
    ],
)
def test_a_faulty_line_is_refused_with_its_place(line: str, words: str, split: Split, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=words):
        read_judgements(write(tmp_path, "f.txt", line), split.dataset)


def test_images_match_without_suffix_and_the_missing_ones_are_counted(split: Split, tmp_path: Path) -> None:
    lines = ["im5\tim3.jpg#2\t1\t2\t1", "gone.jpg\tim3.jpg#2\t1\t2\t1", "im1.jpg\tim1.jpg#0\t4\t4\t4"]
    matched = match_judgements(write(tmp_path, "e.txt", *lines), split)
    assert matched.images.tolist() == [5]
    assert (matched.missing, matched.left_out, matched.own_captions) == (["gone.jpg"], 1, 1)


def test_a_file_about_other_images_is_refused(split: Split, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no graded image is in split 'test'"):
        match_judgements(write(tmp_path, "e.txt", "gone.jpg\tim3.jpg#2\t1\t2\t1"), split)


def match_all(split: Split, folder: Path, grades: np.ndarray) -> MatchedJudgements:
    """Match three grades of each image with each caption 'imJ text 0', as in `grades` [images, images, 3]."""
    lines = [
        {"image": f"im{i}.jpg", "text": f"im{j} text 0", "grades": grades[i, j].tolist()}
        for i in range(IMAGES)
        for j in range(IMAGES)
    ]
    return match_judgements(write(folder, "all.jsonl", *lines), split)


def test_tau_counts_every_grade_as_one_observation(split: Split, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    grades = random.integers(1, 5, (IMAGES, IMAGES, 3))
    table = grades.mean(axis=2) + random.normal(0, 1, (IMAGES, IMAGES))
    matched = match_all(split, tmp_path, grades)
    agreement = measure_judgements([FixedScorer(table)], split, [matched], draws=50).sets["all"]
    expected = kendalltau(np.repeat(table.astype(np.float32).ravel(), 3), grades.ravel(), variant="c").statistic
    assert agreement.tau_c == pytest.approx(100 * expected)
    assert (agreement.pairs, agreement.grades, agreement.images) == (36, 108, 6)
    assert agreement.interval is not None and agreement.interval[0] < agreement.tau_c < agreement.interval[1]


def test_scores_in_the_order_of_the_grades_have_a_larger_tau_than_the_reverse(split: Split, tmp_path: Path) -> None:
    grades = np.repeat(np.random.default_rng(1).integers(1, 5, (IMAGES, IMAGES, 1)), 3, axis=2)
    matched, table = match_all(split, tmp_path, grades), grades[..., 0].astype(float)
    best, worst = (measure_judgements([FixedScorer(t)], split, [matched], 0).sets["all"] for t in (table, -table))
    assert best.tau_b == pytest.approx(100) and worst.tau_b == pytest.approx(-100)
    assert best.tau_c == -worst.tau_c > 90


def test_the_scores_of_an_ensemble_are_averaged(split: Split, tmp_path: Path) -> None:
    grades = np.repeat(np.arange(36).reshape(IMAGES, IMAGES, 1), 3, axis=2)
    matched, table = match_all(split, tmp_path, grades), grades[..., 0].astype(float)
    noise = np.random.default_rng(2).normal(0, 100, table.shape)
    result = measure_judgements([FixedScorer(table + noise), FixedScorer(table - noise)], split, [matched], 0)
    assert result.sets["all"].tau_b == pytest.approx(100, abs=1)


def test_equal_grades_and_nan_scores_are_errors(split: Split, tmp_path: Path) -> None:
    equal = match_all(split, tmp_path, np.full((IMAGES, IMAGES, 3), 2))
    with pytest.raises(HireError, match="all grades are 2"):
        measure_judgements([FixedScorer(np.zeros((IMAGES, IMAGES)))], split, [equal])
    table = np.zeros((IMAGES, IMAGES))
    table[2, 3] = np.nan
    matched = match_all(split, tmp_path, np.arange(108).reshape(IMAGES, IMAGES, 3))
    with pytest.raises(HireError, match=r"image 'im2.jpg' and text 'im3 text 0' is NaN \(1 in all\)"):
        measure_judgements([FixedScorer(table)], split, [matched])
