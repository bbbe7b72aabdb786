"""The page of the monitor in a headless Chromium."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from browser import Tab
from test_drift import CLASSES, draw, draw_drifted, run_plainly

from hire_model.monitoring.drift import measure_drift
from hire_model.monitoring.page import render
from hire_model.monitoring.reference import Reference

pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(99)
    reference = Reference(draw(rng, 500), rng.normal(0.8, 0.15, 500), rng.normal(0.1, 0.2, 500), 500)
    drift = measure_drift(draw_drifted("longer texts", 150), reference, CLASSES, run_plainly)
    path = tmp_path_factory.mktemp("drift") / "drift.html"
    path.write_text(render(drift, {"model": "version 1"}), "utf-8")
    return path


@pytest.mark.parametrize("width", [320, 390, 768, 1000, 1440])
def test_the_table_of_the_monitor_is_not_cut_off(tab: Tab, page: Path, width: int) -> None:
    tab.open(page.as_uri(), width=width)
    tab.wait_until("document.readyState === 'complete' && Boolean(document.querySelector('.stacked'))")
    assert tab.evaluate("(each => each.scrollWidth <= each.clientWidth)(document.querySelector('.wide'))")
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert "drift" in tab.read_text("table") and "words of the text" in tab.read_text("table")
