"""Take the pictures of docs/images again: demo page, report and contact sheet, in a headless Chromium.

hire train && hire gallery build datasets/relational-scenes --split test --captions --model models:/hire@challenger
hire demo                                                  # in another terminal; prints ADDRESS
python scripts/take_screenshots.py ADDRESS runs/latest/report.html datasets/relational-scenes

For demo-own.png, the demo of a model trained on imported pictures (docs/photos.md), and a picture to drop:

python scripts/take_screenshots.py ADDRESS --own photos/1.jpg
"""

from __future__ import annotations

import argparse
import base64
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
IMAGES = ROOT / "docs" / "images"
sys.path.insert(0, str(ROOT / "tests" / "support"))

from browser import Tab, find_chromium, run_browser  # noqa: E402

FOUND = """Boolean(document.querySelector('.tile[data-id]') && !document.querySelector('.busy')
  && document.querySelector('#hits').innerText.includes('score'))"""
WORD = "a cat sits on a bench", 2
RANKED = "a woman rides a horse next to a boy on a horse"
SENTENCES = "a boy in a hat rides a horse\na horse next to a car\na man and a horse\na dog chases a cat"


def save(tab: Tab, name: str, box: tuple[float, float, float, float] | None = None) -> None:
    """Save the window, or the part `box` (left, top, width, height) of the page."""
    time.sleep(1)  # transitions and scrolling
    clip = {"clip": dict(zip(("x", "y", "width", "height", "scale"), (*box, 1), strict=True))} if box else {}
    data = tab.call("Page.captureScreenshot", format="png", captureBeyondViewport=bool(box), **clip)["data"]
    (IMAGES / name).write_bytes(base64.b64decode(data))


def find_box(tab: Tab, selector: str, margin: int = 12) -> tuple[float, float, float, float]:
    """Return left, top, width and height of an element on the page, with a margin."""
    box = f"document.querySelector({selector!r}).getBoundingClientRect()"
    left, top, width, height = tab.evaluate(f"(b => [b.left, b.top + scrollY, b.width, b.height])({box})")
    return left - margin, top - margin, width + 2 * margin, height + 2 * margin


def search(tab: Tab, address: str, text: str, width: int, height: int, dark: bool = False) -> None:
    """Open the demo page with the results of a search."""
    tab.open(f"{address}#q={text.replace(' ', '+')}", width, height, dark)
    tab.wait_until(FOUND)


def take_demo(tab: Tab, address: str) -> None:
    """Take the three pictures of the demo page."""
    text, word = WORD
    search(tab, address, text, 1280, 960)
    tab.point_at(f"#sentence .word:nth-child({word})")
    tab.evaluate("scrollTo(0, 0)")
    save(tab, "demo-word.png")
    search(tab, address, RANKED, 1280, 960)
    tab.point_at("#sentences", click=True)
    tab.type_text(SENTENCES)
    tab.point_at("#rank button", click=True)
    tab.wait_until("document.querySelectorAll('#ranked > li').length === 4")
    tab.evaluate("document.querySelector('#view').style.position = 'static'; scrollTo(0, 0)")
    tab.point_at("h1")
    save(tab, "demo-rank.png", find_box(tab, "#picked"))
    search(tab, address, text, 390, 844, dark=True)
    tab.evaluate("document.querySelectorAll('.tile')[2].click()")
    save(tab, "demo-phone.png")


def take_own(tab: Tab, address: str, picture: Path) -> None:
    """Take the picture of the demo page with a picture of the user."""
    tab.open(address, 1280, 960)
    tab.wait_until("document.querySelector('.tile[data-id]') && !document.querySelector('.busy')")
    chosen = tab.call("Runtime.evaluate", expression="document.querySelector('#file')")["result"]["objectId"]
    tab.call("DOM.setFileInputFiles", files=[str(picture.resolve())], objectId=chosen)
    tab.wait_until("document.querySelector('#picked-title').innerText.startsWith('Your picture')")
    tab.wait_until("!document.querySelector('.busy')")
    save(tab, "demo-own.png")


def main() -> None:
    """Take all pictures, or with --own only that one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address")
    parser.add_argument("report", nargs="?")
    parser.add_argument("dataset", nargs="?")
    parser.add_argument("--own", type=Path, metavar="PICTURE")
    options = parser.parse_args()
    if not options.own and not options.dataset:
        parser.error("expected REPORT and DATASET, or --own PICTURE")
    program = find_chromium()
    if program is None:
        sys.exit("Chromium is not installed: sudo apt-get install -y chromium")
    with tempfile.TemporaryDirectory() as folder, run_browser(program, Path(folder, "profile")) as tab:
        if options.own:
            take_own(tab, options.address, options.own)
            return
        take_demo(tab, options.address)
        tab.open(Path(options.report).resolve().as_uri(), width=1000)
        tab.wait_until("Boolean(document.querySelector('.example'))")
        save(tab, "report.png", find_box(tab, ".example"))
        sheet = Path(folder, "sheet.html")
        command = [sys.executable, "-m", "hire_model", "data", "show", options.dataset, "--limit", "24", "--out", sheet]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        tab.open(sheet.as_uri(), width=1440)
        tab.wait_until("Boolean(document.querySelector('.card'))")
        _, top, _, height = find_box(tab, ".card", 0)
        save(tab, "contact-sheet.png", (0, top - 8, 1440, height + 16))


if __name__ == "__main__":
    main()
