"""The contact sheet: self-contained, safe with hostile names, and complete with and without pictures."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_report import HOSTILE, Page, make_split

from hire_model.data.store import Dataset
from hire_model.data.writer import DatasetWriter, ImageRecord
from hire_model.evaluation.contact_sheet import render
from hire_model.evaluation.labels import LabelPlacer


@pytest.fixture(scope="module")
def sheet(tmp_path_factory: pytest.TempPathFactory) -> str:
    return render(make_split(tmp_path_factory.mktemp("s") / "d", caption=HOSTILE), limit=6)


def read_cards(page: str) -> list[str]:
    return page.split('<li class="card">')[1:]


def test_the_sheet_loads_nothing_and_runs_no_script(sheet: str) -> None:
    parsed = Page(sheet)
    assert "://" not in sheet and not parsed.all("script") and not parsed.all("link")
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'\"" in sheet
    assert all(attrs["href"].startswith("data:image/jpeg;base64,") for attrs in parsed.all("image"))
    assert len(parsed.all("image")) == 6


def test_html_in_captions_and_class_names_is_escaped(sheet: str) -> None:
    parsed = Page(sheet)
    assert not parsed.all("img") and not any(name.startswith("on") for _, attrs in parsed.found for name in attrs)
    assert "&lt;script&gt;" in sheet and "&lt;b&gt;tree" in sheet


def test_the_images_are_spread_over_the_split(sheet: str) -> None:
    shown = [re.findall(r"im\d+", card)[0] for card in read_cards(sheet)]
    assert shown == ["im0", "im2", "im4", "im7", "im9", "im11"]
    assert "6 of 12 images" in sheet


def test_a_card_has_boxes_classes_relations_and_all_captions(sheet: str) -> None:
    card = read_cards(sheet)[1]  # image 2: three regions, one without a box, and the same relation twice
    assert card.count('<rect class="box') == 2 and card.count('class="line"') == 2
    assert card.count("<span>dog on &lt;b&gt;tree</span>") == 2
    for text in (" 2</li>", "two dogs run on the grass</li>", "<span>no class</span>", ">dog</text>", "split test"):
        assert text in card, text


def test_the_figures_count_the_whole_split_and_not_only_the_shown_images(sheet: str) -> None:
    figures = sheet[sheet.index("<h2>Figures</h2>") :]
    rows = re.findall(r'<th scope="row">([^<]*)</th>.*?<td>([\d,]+)</td>', figures)
    assert ("dog", "12") in rows and ("two", "12") in rows and ("&lt;b&gt;tree", "12") in rows
    relations = figures[figures.index("Relations per image") :]
    assert re.findall(r'<th scope="row">(\d)</th>.*?<td>(\d)</td>', relations) == [("0", "4"), ("1", "4"), ("2", "4")]
    assert "<dt>captions per image</dt><dd>2</dd>" in sheet and "0 to 2, median 1" in sheet


def test_without_pictures_the_boxes_are_drawn_alone(tmp_path: Path) -> None:
    page = render(make_split(tmp_path / "d", pictures="none"), limit=3)
    assert not Page(page).all("image") and page.count("drawn-only") > 6
    assert "without a picture on 3 of them" in page


def test_pictures_are_found_in_another_folder_by_name(tmp_path: Path) -> None:
    split = make_split(tmp_path / "d", pictures="none")
    (tmp_path / "pictures" / "some").mkdir(parents=True)
    Image.new("RGB", (90, 60), "red").save(tmp_path / "pictures" / "some" / "im0.jpg")
    page = render(split, limit=2, pictures=tmp_path / "pictures")
    assert len(Page(page).all("image")) == 1 and "without a picture on 1 of them" in page


def test_a_data_set_without_boxes_classes_and_relations_has_a_sheet(tmp_path: Path) -> None:
    with DatasetWriter(tmp_path / "d", name="bare", feature_dim=3, feature_extractor="none") as writer:
        writer.add(ImageRecord("a", "train", np.ones((2, 3), np.float32), ["a dog"]))
    page = render(Dataset.open(tmp_path / "d").split(""), limit=5)
    Page(page)
    assert "1 of 1 images" in page and "a dog</li>" in page and "Predicates" not in page and "Relations per" not in page


def test_labels_stay_inside_and_do_not_overlap() -> None:
    placer, random = LabelPlacer(200, 100, 1.0), np.random.default_rng(0)
    wide = placer.measure("umbrella")
    placed = [placer.reserve([tuple(random.uniform(-20, 220, 2))], wide) for _ in range(200)]
    found = [place for place in placed if place]
    assert 5 < len(found) < 200, "some have no free space"
    for i, (x, y) in enumerate(found):
        assert 0 <= x <= 200 - wide and 0 <= y <= 100 - placer.high
        assert all(abs(x - a) >= wide or abs(y - b) >= placer.high for a, b in found[:i])
