"""Plots show the right values, and SVGs are self-contained and reproducible."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from hire_model.evaluation import plots
from hire_model.evaluation.protocols import Ranks

RANKS = Ranks(np.array([1, 2, 9, 0]), np.array([1, 1, 3, 4]), np.zeros(4, np.int64))
OWNER = np.array([0, 1, 2, 2])
HISTORY = [{"epoch": i, "loss": 3.0 - i, "dev": {"rsum": rsum}} for i, rsum in enumerate([90.0, 210.0, 150.0])]
LINES = {f"{name}, {what}": {0.0: [400.0, 410.0], 1.0: [300.0, 320.0]} for name in "ab" for what in ("drop", "mix")}


def test_the_recall_curve_shows_recall_and_chance() -> None:
    axes = plots.plot_recall(RANKS, OWNER).axes[0]
    lines = {line.get_label(): line.get_ydata().tolist() for line in axes.lines}
    assert lines["image → text"] == pytest.approx([100 / 3, 200 / 3, 200 / 3, 200 / 3])
    assert lines["text → image"] == pytest.approx([50, 50, 75, 100])
    assert lines["chance, text → image"] == pytest.approx([25, 50, 75, 100])


def test_the_training_curve_counts_epochs_from_one_and_marks_the_best() -> None:
    upper, lower = plots.plot_training(HISTORY).axes
    assert upper.lines[0].get_xdata().tolist() == [1, 2, 3]
    assert [text.get_text() for text in lower.texts] == ["best 210.0"]


def test_lines_of_the_robustness_plot_share_colours_and_dashes_by_name() -> None:
    lines = plots.plot_robustness(LINES).axes[0].lines
    colours, dashes = [line.get_color() for line in lines], [line.get_linestyle() for line in lines]
    assert colours[0] == colours[1] != colours[2] == colours[3]
    assert dashes[0] == dashes[2] != dashes[1] == dashes[3]
    assert lines[0].get_ydata().tolist() == [405.0, 310.0]


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_an_inline_svg_is_one_element_without_urls() -> None:
    svg = plots.render_svg(plots.plot_training(HISTORY), 'loss "<b>')
    parser = _Tags()
    parser.feed(svg)
    assert parser.tags[0][0] == "svg"
    assert parser.tags[0][1]["aria-label"] == 'loss "<b>'
    assert "viewbox" in parser.tags[0][1]
    assert "width" not in parser.tags[0][1]
    assert "://" not in svg
    assert "currentColor" in svg
    assert plots.INK not in svg
    uses = [attrs for tag, attrs in parser.tags if tag == "use"]
    ids = {attrs.get("id") for _, attrs in parser.tags}
    assert uses
    assert all((attrs["href"] or "")[1:] in ids for attrs in uses)


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_the_same_figure_gives_the_same_bytes(suffix: str, tmp_path: Path) -> None:
    for name in ("a", "b"):
        plots.save_plot(plots.plot_robustness(LINES), tmp_path / f"{name}.{suffix}")
    assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()
