"""The report: self-contained, safe with hostile captions, and complete without pictures, boxes or explanations."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hire_model.data.store import Dataset, Split
from hire_model.data.writer import DatasetWriter, ImageRecord
from hire_model.evaluation import protocols, report
from hire_model.scoring.explain import MARKS

HOSTILE = "<script>alert('x')</script> a \"dog\" & <img src=x onerror=alert(1)>"
HISTORY = [{"epoch": i, "loss": 2.0 - i, "dev": {"rsum": 100.0 + i}} for i in range(2)]


@dataclass
class FixedExplanation:
    words: list[str]
    weights: np.ndarray
    contributions: np.ndarray
    score: float


def make_split(folder: Path, pictures: str = "all", boxes: bool = True, caption: str = "a dog beside a tree") -> Split:
    """Make twelve images with three regions; pictures: all, none, or broken."""
    random = np.random.default_rng(0)
    with DatasetWriter(
        folder, name="t", feature_dim=4, feature_extractor="none", classes=["dog", "<b>tree"], predicates=["on"]
    ) as out:
        for i in range(12):
            name = f"{i}.png" if pictures != "none" else None
            if pictures == "all":
                Image.new("RGB", (900, 600), (20 * i, 90, 60)).save(out.pictures / f"{i}.png")
            elif pictures == "broken":
                (out.pictures / f"{i}.png").write_bytes(b"\x89PNG\r\n\x1a\n truncated")
            out.add(
                ImageRecord(
                    f"im{i}",
                    "test",
                    random.standard_normal((3, 4)).astype(np.float32),
                    [f"{caption} {i}", "two dogs run on the grass"],
                    width=900,
                    height=600,
                    boxes=np.array([[0, 0, 0.5, 0.5], [0.2, 0.3, 0.9, 1], [np.nan] * 4], np.float32) if boxes else None,
                    classes=np.array([0, 1, -1]),
                    relations=[(0, 0, 1, 0.9)] * (i % 3),
                    picture=name,
                )
            )
    return Dataset.open(folder).split("test")


def render(split: Split, explained: bool = True, protocol: str | protocols.Protocol = "full", **more: object) -> str:
    random = np.random.default_rng(1)
    scores = random.standard_normal((len(split.images), len(split.captions))).astype(np.float32)
    scores[split.owner, np.arange(len(split.owner))] += 1.5

    def explain(image: int, caption: int) -> FixedExplanation:
        words = [*split.texts[caption].split(), MARKS]
        parts = np.linspace(-0.02, 0.05, len(words))
        return FixedExplanation(words, random.dirichlet([0.3] * 3, len(words)), parts, float(parts.sum()))

    result = protocols.evaluate_matrix(scores, split.owner, protocol, bootstrap=20)
    result = result.model_copy(update={"facts": {"date": "today", "model": "m <1>", "data digest": "abc"}})
    return report.render(result, scores, split, explain=explain if explained else None, **more)  # type: ignore[arg-type]


class Page(HTMLParser):
    """Collects elements with their attributes, and checks that they are nested correctly."""

    VOID = frozenset({"meta", "br", "link", "img", "input"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {key: value or "" for key, value in attrs}))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {key: value or "" for key, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def all(self, tag: str, kind: str = "") -> list[dict[str, str]]:
        return [attrs for name, attrs in self.found if name == tag and (not kind or kind in attrs.get("class", ""))]


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> str:
    return render(make_split(tmp_path_factory.mktemp("r") / "d", caption=HOSTILE), history=HISTORY)


def test_the_page_loads_nothing_from_the_network(full: str) -> None:
    assert "://" not in full
    for tag, attrs in Page(full).found:
        for name in ("src", "href", "xlink:href", "srcset", "action", "poster", "data"):
            assert attrs.get(name, "#").startswith(("#", "data:image/jpeg;base64,")), (tag, name)
    assert not re.search(r"@import|url\((?!#)", full)
    assert not Page(full).all("link")


def test_html_in_a_caption_is_escaped(full: str) -> None:
    parsed = Page(full)
    assert len(parsed.all("script")) == 1
    assert not parsed.all("img")
    assert not any(name.startswith("on") for _, attrs in parsed.found for name in attrs)
    assert "&lt;script&gt;" in full
    assert "&lt;b&gt;tree" in full


def test_the_policy_allows_only_the_script_of_the_page(full: str) -> None:
    script = re.search(r"<script>(.*?)</script>", full, re.S)
    assert script
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in full
    assert "default-src 'none'" in full


def test_pictures_are_small_jpegs_embedded_once(full: str) -> None:
    parsed = Page(full)
    uris = [attrs["href"] for attrs in parsed.all("image")]
    assert uris
    assert len(uris) == len(set(uris))
    for uri in uris:
        with Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))) as picture:
            assert (picture.format, picture.size) == ("JPEG", (420, 280))
    ids = {attrs.get("id") for _, attrs in parsed.found}
    uses = [attrs["href"] for attrs in parsed.all("use") if "picture" in attrs["href"]]
    assert uses
    assert all(use[1:] in ids for use in uses)


def test_words_refer_to_regions(full: str) -> None:
    parsed = Page(full)
    words = [attrs for attrs in parsed.all("button", "word")]
    pairs = [pair.split(":") for word in words for pair in word["data-regions"].split()]
    assert {region for region, _ in pairs} == {"0", "1", "2"}
    assert all(0 < float(weight) <= 1 for _, weight in pairs)
    assert {attrs["data-region"] for attrs in parsed.all("g", "region")} == {"0", "1"}  # region 2 has no box
    assert MARKS not in full
    assert re.search(r"<li>dogs → (dog 0|&lt;b&gt;tree 1|region 2) \(\d+ %\)</li>", full)


def test_the_page_has_facts_tables_curves_and_examples(full: str) -> None:
    parsed = Page(full)
    facts = re.findall(r"<dt>(.*?)</dt>", full)
    assert facts == ["model", "data digest", "date"]
    assert "m &lt;1&gt;" in full
    assert len(parsed.all("figure")) == 2
    assert all("scope" in attrs for attrs in parsed.all("th"))
    assert all(attrs.get("aria-label") for attrs in parsed.all("svg") if attrs.get("role") == "img")
    assert len(parsed.all("article")) == 8


def test_each_example_shows_the_right_item_and_its_rank(full: str) -> None:
    for article in re.findall(r"<article.*?</article>", full, re.S):
        rank = int(re.search(r"at rank ([\d,]+) of", article)[1])  # type: ignore[index]
        results = [(int(n), mark) for n, mark in re.findall(r"(\d+)\. (?:✓|✗) (right|wrong)", article)]
        assert [n for n, _ in results][:3] == [1, 2, 3]
        assert next(n for n, mark in results if mark == "right") == rank


@pytest.mark.parametrize("pictures", ["none", "broken"])
def test_without_readable_pictures_boxes_are_drawn_on_a_canvas(tmp_path: Path, pictures: str) -> None:
    html = render(make_split(tmp_path / "d", pictures), explained=False)
    parsed = Page(html)
    assert not parsed.all("image")
    canvases = parsed.all("svg", "bare")
    assert canvases
    assert all(attrs["viewbox"] == "0 0 420 280" for attrs in canvases)
    assert parsed.all("g", "region")
    assert not parsed.all("button", "word")
    assert len(parsed.all("figure")) == 1  # no history, no training curve


def test_words_are_explained_without_boxes(tmp_path: Path) -> None:
    html = render(make_split(tmp_path / "d", "none", boxes=False))
    assert not Page(html).all("g", "region")
    assert "no boxes" in html
    assert "word → region" in html


def test_an_ensemble_is_named_and_examples_can_be_omitted(tmp_path: Path) -> None:
    split = make_split(tmp_path / "d", "none")
    scores = np.random.default_rng(0).standard_normal((12, 24)).astype(np.float32)
    both = protocols.average_matrices(scores, scores + 1)
    result = protocols.evaluate_matrix(both, split.owner, bootstrap=0)
    html = report.render(result, both, split, examples=0)
    assert "ensemble of 2 models" in html
    assert "<article" not in html
