"""The page of `hire demo` in headless Chromium, against the command as typed."""

from __future__ import annotations

import http.client
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from browser import Tab, browser, chromium
from demo_examples import Example, example_in

from hire_model.service.parsing import Limits, Request
from serving import demo

pytestmark = pytest.mark.live

SENTENCE = "a man rides a horse"
READY = "document.querySelector('.tile[data-id]') && !document.querySelector('.busy')"
FOUND = f"{READY} && document.querySelector('#hits').innerText.includes('score')"
PREDICATES = "[...document.querySelectorAll('#stage .predicate')].map(text => text.textContent)"
PATHS = "[...document.querySelectorAll('#stage .arrow .line')].map(line => line.getAttribute('d'))"
SHIFTS = """new Promise(done => {
  new PerformanceObserver(list => done(list.getEntries().map(entry => entry.value)))
    .observe({type: 'layout-shift', buffered: true});
  setTimeout(() => done([]), 500);
})"""
LOW = """[...document.querySelectorAll('button, input:not([type=checkbox]), textarea')]
  .filter(each => each.offsetHeight && each.offsetHeight < 24).length"""
COLOURS = """Object.fromEntries(['paper', 'panel', 'ink', 'soft', 'fault', 'accent', 'on-accent'].map(
  name => [name, getComputedStyle(document.documentElement).getPropertyValue('--' + name).trim()]))"""
LIT = "document.querySelectorAll('{} .lit').length"


@pytest.fixture(scope="module")
def example(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Example:
    return example_in(tmp_path_factory.mktemp("page"), tiny_dataset)


@dataclass(frozen=True)
class Running:
    process: subprocess.Popen[str]
    address: str


@pytest.fixture(scope="module")
def running(example: Example) -> Iterator[Running]:
    line = [sys.executable, "-m", "hire_model", "demo", "--gallery", str(example.folder), "--port", "0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(line, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout
        said = [process.stdout.readline(), process.stdout.readline()]
        found = re.search(r"http://127\.0\.0\.1:\d+/[\w-]{20,}/", said[1])
        assert found, said
        yield Running(process, found[0])
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    program = chromium()
    if program is None:
        pytest.skip("no Chromium; install it with: sudo apt-get install -y chromium")
    with browser(program, tmp_path_factory.mktemp("profile")) as tab:
        yield tab


@pytest.fixture
def page(tab: Tab, running: Running) -> Tab:
    """The page as it opens, in a window of a desktop."""
    tab.events.clear()
    tab.open(running.address)
    tab.wait(READY)
    return tab


def search(page: Tab, text: str = SENTENCE) -> None:
    page.point_at("#query", click=True)
    page.type(text)
    page.press("Enter", 13, "\r")
    page.wait(FOUND)


def ask(example: Example, request: dict[str, object], explain: bool = False) -> dict[str, object]:
    [reply], _ = example.service.answer([Request(json.dumps(request), explain)])
    assert reply.status == 200, reply.body
    return json.loads(reply.body)


def stored(name: str) -> dict[str, str]:
    return {"gallery": demo.GALLERY, "id": name}


def explained(example: Example, name: str, text: str = SENTENCE) -> dict:
    return ask(example, {"pairs": [{"image": stored(name), "text": text}]}, explain=True)["explanations"][0]


def chosen(page: Tab) -> str:
    return page.value("document.querySelector('.tile[aria-pressed=true]').dataset.id")


def test_it_begins_with_a_few_pictures(page: Tab, example: Example) -> None:
    assert page.value("document.querySelectorAll('#hits svg image').length") == demo.SAMPLE
    assert "40 pictures" in page.text("#facts") and chosen(page) == example.gallery.ids[0]
    page.wait("[...document.querySelectorAll('svg image')].length === 13")
    assert not page.complaints()


def test_pictures_are_found_in_the_service_s_order(page: Tab, example: Example) -> None:
    search(page)
    answer = ask(example, {"gallery": demo.GALLERY, "texts": [SENTENCE], "top_k": 12})
    hits = answer["results"][0]["hits"]
    assert page.value("[...document.querySelectorAll('.tile')].map(tile => tile.dataset.id)") == [
        hit["id"] for hit in hits
    ]
    shown = page.value("[...document.querySelectorAll('.tile')].map(tile => tile.innerText.trim())")
    assert shown == [f"{place}. score {hit['score']:.3f}".replace("-", "−") for place, hit in enumerate(hits, 1)]
    assert chosen(page) == hits[0]["id"] and "all 40 compared" in page.text("#search-state")
    assert page.value("decodeURIComponent(location.hash)") == f"#q={SENTENCE.replace(' ', '+')}&id={hits[0]['id']}"
    assert not page.complaints()


def test_a_word_lights_the_regions_it_looked_at(page: Tab, example: Example) -> None:
    search(page)
    assert page.value(LIT.format("svg")) == 0
    page.point_at("#sentence .word:nth-child(5)")
    page.wait(f"{LIT.format('#stage')} > 0")
    for selector, name in [
        ("#stage", chosen(page)),
        (".tile[data-id='{0}']", page.value("document.querySelectorAll('.tile')[4].dataset.id")),
    ]:
        weights = explained(example, name)["weights"][4]
        shares = [weight / max(weights) for weight in weights]
        lit = page.value(
            f'[...document.querySelectorAll("{selector.format(name)} .lit")].map(box => Number(box.style.opacity))'
        )
        assert lit == pytest.approx([share**1.5 for share in shares if share >= 0.25], abs=1e-3)
    first = max(explained(example, chosen(page))["weights"][4])
    assert "“horse” attends to" in page.text("#looks") and f"({100 * first:.0f} %)" in page.text("#looks")
    page.point_at("h1")
    page.wait(f"{LIT.format('svg')} === 0")


def test_a_click_keeps_the_light_and_escape_ends_it(page: Tab) -> None:
    search(page)
    page.point_at("#why .word:nth-child(2)", click=True)
    page.point_at("h1")
    assert page.value(LIT.format("#stage")) > 0
    assert page.value("document.querySelectorAll('.word[aria-pressed=true]').length") == 2  # above and below
    page.press("Escape", 27)
    page.wait(f"{LIT.format('svg')} === 0 && !document.querySelector('.word[aria-pressed=true]')")


def test_relations_are_arrows_between_centres(page: Tab, example: Example) -> None:
    gallery = example.gallery
    row = max(range(len(gallery)), key=lambda row: len(gallery.layout(row).relations))
    facts = demo.image_facts(gallery, row)
    page.open(f"{urlsplit(page.value('location.href'))._replace(fragment='').geturl()}#id={facts.id}")
    page.wait(f"{READY} && document.querySelector('#picked-title').innerText === 'Picture {facts.id}'")
    surest = sorted(facts.relations, key=lambda relation: -relation.score)[:12]
    arrows: dict[tuple[int, int], list[str]] = {}
    for relation in surest:
        arrows.setdefault((relation.subject, relation.object), []).append(relation.predicate)
    assert len(arrows) > 2 and page.value(PREDICATES) == [", ".join(names) for names in arrows.values()]
    for path, regions in zip(page.value(PATHS), arrows, strict=True):
        x1, y1, _, _, x2, y2 = map(float, re.findall(r"-?[\d.]+(?:e-?\d+)?", path))
        for point, region in zip(((x1, y1), (x2, y2)), regions, strict=True):
            box = facts.boxes[region]
            assert box is not None
            middle = ((box[0] + box[2]) / 2 * facts.width, (box[1] + box[3]) / 2 * facts.height)
            assert point == pytest.approx(middle, abs=1e-3)
    assert page.value("document.querySelectorAll('.relation').length") == len(surest)
    page.point_at("#relations .relation")
    page.wait(f"document.querySelectorAll('#stage .arrow.faded').length === {len(arrows) - 1}")
    page.point_at("#show-arrows", click=True)
    page.wait("!document.querySelector('#stage .arrow')")


def test_sentences_are_ranked(page: Tab, example: Example) -> None:
    texts = ["a dog under a table", SENTENCE, "two cars"]
    page.point_at("#sentences", click=True)
    page.type("\n".join(["", texts[0], texts[1], f"  {texts[0]} ", texts[2]]))
    page.point_at("#rank button", click=True)
    page.wait("document.querySelectorAll('#ranked > li').length === 3")
    request = {"images": [stored(chosen(page))], "texts": texts, "top_k": 3, "rank": "texts"}
    ranked = [texts[hit["index"]] for hit in ask(example, request)["results"][0]]
    for place, text in enumerate(ranked, 1):
        item = f"document.querySelector('#ranked > li:nth-child({place})')"
        parts = [
            float(part.replace("−", "-"))
            for part in page.value(f"[...{item}.querySelectorAll('small')].map(s => s.innerText)")
        ]
        why = explained(example, chosen(page), text)
        assert parts == pytest.approx(why["contributions"], abs=6e-4)
        assert float(page.value(f"{item}.querySelector('b').innerText").replace("−", "-")) == pytest.approx(
            sum(parts), abs=0.01
        )
        words = page.value(f"[...{item}.querySelectorAll('.word > span:first-child')].map(s => s.innerText)")
        assert words == [*why["words"][:-1], "start and end"]
    page.point_at("#ranked li:nth-child(2) .word")
    page.wait(f"{LIT.format('#stage')} > 0")


def test_captions_of_the_gallery(page: Tab, example: Example) -> None:
    page.point_at("#captions", click=True)
    page.wait("document.querySelectorAll('#ranked > li').length === 12")
    answer = ask(example, {"gallery": demo.GALLERY, "images": [stored(chosen(page))], "top_k": 12})
    assert page.value("[...document.querySelectorAll('#ranked b')].map(b => b.innerText)") == [
        f"{hit['score']:.3f}".replace("-", "−") for hit in answer["results"][0]["hits"]
    ]


def test_the_keyboard_reaches_all(page: Tab) -> None:
    search(page)
    page.press("Tab", 9)  # the button
    page.press("Tab", 9)
    assert page.value("document.activeElement.className") == "word" and page.value(LIT.format("#stage")) > 0
    seen = set()
    for _ in range(60):
        seen.add(
            page.value(
                "document.activeElement.id || document.activeElement.className || document.activeElement.tagName"
            )
        )
        page.press("Tab", 9)
    assert {"word", "tile", "show-boxes", "show-arrows", "sentences", "captions"} <= seen
    page.value("document.querySelectorAll('.tile')[2].focus()")
    page.press("Enter", 13, "\r")
    page.wait("document.querySelectorAll('.tile')[2].getAttribute('aria-pressed') === 'true'")


def test_all_has_a_name(page: Tab) -> None:
    search(page)
    page.call("Accessibility.enable")
    nodes = page.call("Accessibility.getFullAXTree")["nodes"]
    roles = ("button", "textbox", "image", "checkbox", "searchbox", "list")
    named = [
        (node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node.get("ignored")
    ]
    found = [(role, name) for role, name in named if role in roles]
    assert len(found) > 40 and not [role for role, name in found if not name.strip()]
    assert any("Picture" in name and "horse" in name for role, name in found if role == "image")


def test_what_is_wrong_is_said(page: Tab) -> None:
    page.point_at("#search button", click=True)
    assert page.text("#search-state") == "Type a sentence first."
    assert page.value("document.activeElement.id") == "query"
    page.point_at("#rank button", click=True)
    assert "Type a sentence, or several" in page.text("#rank-state")
    page.point_at("#query", click=True)
    page.type("a" * 2001)
    page.press("Enter", 13, "\r")
    page.wait("document.querySelector('#search-state').innerText.includes('at most 2000')")
    assert page.value("document.querySelectorAll('.tile').length") == demo.SAMPLE  # what was found before stays


def test_text_stays_text(page: Tab) -> None:
    search(page, "<img src=x onerror=alert(1)> <b>dog</b>")
    assert page.value("document.querySelectorAll('#sentence img, #sentence b, #why b').length") == 0
    assert not page.complaints()


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
@pytest.mark.parametrize("dark", [False, True])
def test_any_width_light_and_dark(tab: Tab, running: Running, width: int, dark: bool) -> None:
    tab.open(f"{running.address}#q={SENTENCE}", width=width, dark=dark)
    tab.wait(FOUND)
    assert tab.value("document.documentElement.scrollWidth <= innerWidth")
    assert sum(tab.value(SHIFTS)) < 0.02
    assert tab.value(LOW) == 0
    colours = tab.value(COLOURS)
    for one, other in [
        ("ink", "paper"),
        ("ink", "panel"),
        ("soft", "paper"),
        ("fault", "paper"),
        ("accent", "paper"),
        ("on-accent", "accent"),
    ]:
        assert contrast(colours[one], colours[other]) >= 4.5, (one, other)
    assert (luminance(colours["paper"]) < 0.1) == dark


def luminance(colour: str) -> float:
    """WCAG 2.2, relative luminance of #rrggbb."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_a_picture_below_on_a_phone(tab: Tab, running: Running) -> None:
    tab.open(f"{running.address}#q={SENTENCE}", width=390, height=844)
    tab.wait(FOUND)
    tab.point_at(".tile", click=True)
    tab.wait("document.querySelector('#picked').getBoundingClientRect().top < 100")


def test_without_pictures_there_are_boxes(tab: Tab, running: Running, example: Example) -> None:
    link, aside = example.folder / "pictures", example.folder / "aside"
    link.rename(aside)
    try:
        tab.open(running.address)
        tab.wait(READY)
        assert tab.value("document.querySelectorAll('svg image').length") == 0
        assert tab.value("[...document.querySelectorAll('.tile svg')].every(svg => svg.querySelector('.box'))")
        assert tab.value("document.querySelectorAll('#stage .name').length") > 0
    finally:
        aside.rename(link)


def test_what_a_page_asks_for_is_allowed() -> None:
    """The page asks for explanations in portions of the size that the service takes."""
    assert f"const EXPLAINED = {Limits().explained};" in (demo.PAGE / "api.js").read_text("utf-8")


def test_all_it_asks_for_is_below_its_own_address(page: Tab, running: Running) -> None:
    search(page)
    asked = [address for address in page.addresses() if not address.startswith(("data:", "about:"))]
    assert len(asked) > 20 and all(address.startswith(running.address) for address in asked)


def test_a_huge_body_is_not_read_to_its_end(running: Running) -> None:
    place = urlsplit(running.address)
    connection = http.client.HTTPConnection(place.netloc, timeout=60)
    connection.putrequest("POST", f"{place.path}predictions/hire")
    connection.putheader("Content-Length", str(1 << 40))
    connection.endheaders()
    connection.send(b" " * (demo.BODY_BYTES + 1))
    assert connection.getresponse().status == 413


@pytest.mark.parametrize("path", ["../../etc/passwd", "page/../../../etc/passwd", "page/..%2f..%2fdemo.py", "page/%00"])
def test_a_path_as_it_is_sent(running: Running, path: str) -> None:
    place = urlsplit(running.address)
    connection = http.client.HTTPConnection(place.netloc, timeout=60)
    connection.request("GET", place.path + path)
    assert connection.getresponse().status == 404


def test_the_server_gone(page: Tab, running: Running) -> None:
    """The last one: it ends the server, as Ctrl+C does."""
    running.process.send_signal(2)
    running.process.wait(timeout=60)
    page.point_at("#query", click=True)
    page.type(SENTENCE)
    page.press("Enter", 13, "\r")
    page.wait("document.querySelector('#search-state').innerText.includes('does not answer')")
    assert page.value("document.querySelector('#search-state').classList.contains('fault')")
