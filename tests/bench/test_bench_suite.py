"""`hire bench` measures every figure that it names, and says why one is missing."""

from __future__ import annotations

import json
from pathlib import Path

import model_examples
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

from hire_model.batch import EncodedImages, EncodedTexts
from hire_model.bench import report, suite
from hire_model.bench.cost import Sizes, count_cost, count_flop
from hire_model.bench.timing import alternate, measure_peak
from hire_model.cli.main import app
from hire_model.errors import DataError

TINY = {"scenes": 24, "images": 5, "captions": 6, "runs": 1, "steps": 1, "queries": 3}


def test_the_command_prints_all_figures_and_writes_them_with_a_plot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suite, "_SHORT", TINY)
    out = tmp_path / "bench.json"
    overrides = "model.dim=8 model.text.embedding=8 train.batch=4 train.warm_start=false"
    result = CliRunner().invoke(app, ["bench", "--short", "--json", str(out), "--set", overrides])
    assert result.exit_code == 0, result.output
    figures = json.loads(out.read_text())
    assert figures["recipe"] == "synthetic" and out.with_suffix(".png").stat().st_size > 1000
    for name, _, _ in report._ROWS:
        assert name in result.output
        value = report.get_figure(figures, name)
        assert value is None if name == "serving.share_of_ceiling" else value is not None and value > 0
    assert "Java" in figures["serving"]["reason"]


def test_the_serving_figure_is_read_from_the_load_test(tmp_path: Path) -> None:
    path = tmp_path / "load.json"
    rows = [
        {"what": "ids", "pairs": 1, "clients": 1, "per_second": 300.0},
        {"what": "nothing, ids", "pairs": 1, "clients": 1, "per_second": 1200.0},
        {"what": "ids", "pairs": 16, "clients": 1, "per_second": 9.0},
    ]
    path.write_text(json.dumps({"rows": rows}))
    assert suite.read_share_of_ceiling(path) == 0.25
    path.write_text("{}")
    with pytest.raises(DataError, match="serving_load"):
        suite.read_share_of_ceiling(path)


@pytest.mark.parametrize(
    "changes",
    [
        {"graphs": "none"},
        {"direction": "t2i", "graphs": "semantic"},
        {"direction": "i2t", "alignment": False, "graphs": "none"},
        {"object_word": False, "graphs": "none"},
    ],
)
def test_the_counted_operations_equal_those_that_torch_counts(changes: dict[str, object]) -> None:
    model = model_examples.make_model(**changes)
    b, c, r, n = 6, 5, 4, 7
    size = model.settings.pair_dim or model.settings.dim
    kinds = 0 if model.interaction.relations is None else model.interaction.relations.kinds
    edges = torch.randn(b, kinds, r, r) if kinds else None
    roles = torch.randn(c, n, model.roles.width) if model.roles is not None else None
    images = EncodedImages(torch.randn(b, r, size), torch.ones(b, r).bool(), torch.randn(b, size), edges)
    texts = EncodedTexts(torch.randn(c, n, size), torch.ones(c, n).bool(), torch.randn(c, size), roles)
    sides = [side[None] for side in model.prepare_sides(images, texts)]
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model.interaction(*sides)
    per_item = 0
    if model.interaction.alignment:
        per_item += b * 2 * r * r * size  # products of an image's regions
    if kinds:
        per_item += c * 2 * kinds * n * n * 16  # products of a caption's roles
    counted = b * c * count_flop(model.settings, Sizes(r, n, size, kinds)) + per_item
    assert counter.get_total_flops() == pytest.approx(counted, rel=1e-6)


def test_disabled_stages_cost_nothing() -> None:
    settings = model_examples.make_settings(object_word=False, object_sentence=False, word_image=False, graphs="none")
    assert set(count_cost(settings, Sizes(4, 5, 8))) == {"cosines", "pooling"}


def test_methods_run_in_turn() -> None:
    order: list[str] = []
    alternate({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, runs=2, warm=1)
    assert "".join(order) == "ababab"
    assert measure_peak(runs=1) > 0
