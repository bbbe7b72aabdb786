"""The report in a headless Chromium: every table fits into the window of a phone, a tablet and a desktop."""

from __future__ import annotations

import pytest
from browser import Tab
from test_report import HISTORY, make_split, render

pytestmark = pytest.mark.live

READY = "document.readyState === 'complete' && Boolean(document.querySelector('.wide'))"
CUT_TABLES = """[...document.querySelectorAll('.wide')]
  .filter(each => each.scrollWidth > each.clientWidth).map(each => each.innerText.slice(0, 40))"""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("report")
    page = folder / "report.html"
    page.write_text(render(make_split(folder / "data"), history=HISTORY), "utf-8")
    return page.as_uri()


@pytest.mark.parametrize("width", [320, 390, 768, 1280, 1440])
def test_no_table_of_the_report_is_cut_off(tab: Tab, address: str, width: int) -> None:
    tab.open(address, width=width)
    tab.wait_until(READY)
    assert tab.evaluate(CUT_TABLES) == []
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_the_report_uses_the_width_of_a_desktop(tab: Tab, address: str) -> None:
    tab.open(address, width=1440)
    tab.wait_until(READY)
    table, facts = (
        tab.evaluate(
            f"(box => [box.left, box.top, box.right])(document.querySelector('{each}').getBoundingClientRect())"
        )
        for each in (".wide", ".facts")
    )
    assert facts[0] > table[2] and facts[2] > 1300, "the facts are beside the table"
