"""The page of `hire demo` in a headless Chromium, with the command in a subprocess."""

from __future__ import annotations

import base64
import http.client
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from browser import Tab
from demo_examples import Example, make_example, make_picture_example

from hire_model.service.parsing import Limits, Request
from serving import demo

pytestmark = pytest.mark.live

SENTENCE = "a man rides a horse"
READY = "document.querySelector('.tile[data-id]') && !document.querySelector('.busy')"
FOUND = f"{READY} && document.querySelector('#hits').innerText.includes('score')"
PREDICATES = "[...document.querySelectorAll('#stage .predicate')].map(text => text.textContent)"
PATHS = "[...document.querySelectorAll('#stage .arrow .line')].map(line => line.getAttribute('d'))"
LAYOUT_SHIFTS = """new Promise(done => {
  new PerformanceObserver(list => done(list.getEntries().map(entry => entry.value)))
    .observe({type: 'layout-shift', buffered: true});
  setTimeout(() => done([]), 500);
})"""
COUNT_LOW_CONTROLS = """[...document.querySelectorAll('button, input:not([type=checkbox]), textarea')]
  .filter(each => each.offsetHeight && each.offsetHeight < 24).length"""
COLOURS = """Object.fromEntries(['paper', 'panel', 'ink', 'soft', 'fault', 'accent', 'on-accent'].map(
  name => [name, getComputedStyle(document.documentElement).getPropertyValue('--' + name).trim()]))"""
OVERLAPS = """(() => {
  const labels = [...document.querySelectorAll('#stage .name, #stage .predicate')];
  const boxes = labels.map(each => [each.textContent, each.getBBox()]);
  return boxes.flatMap(([one, a], i) => boxes.slice(i + 1).filter(([, b]) => a.x + 0.5 < b.x + b.width
    && b.x + 0.5 < a.x + a.width && a.y + 0.5 < b.y + b.height && b.y + 0.5 < a.y + a.height)
    .map(([other]) => `${one} / ${other}`));
})()"""
LIT = "document.querySelectorAll('{} .lit').length"


@pytest.fixture(scope="module")
def example(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Example:
    return make_example(tmp_path_factory.mktemp("page"), tiny_dataset)


@dataclass(frozen=True)
class Demo:
    """The process of `hire demo` and the address that it printed."""

    process: subprocess.Popen[str]
    address: str


@pytest.fixture(scope="module")
def demo_server(example: Example) -> Iterator[Demo]:
    with run_demo(example) as server:
        yield server


@contextmanager
def run_demo(example: Example) -> Iterator[Demo]:
    """Run `hire demo` until the block ends."""
    command = [sys.executable, "-m", "hire_model", "demo", "--gallery", str(example.folder), "--port", "0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout
        lines = [process.stdout.readline(), process.stdout.readline()]
        address = re.search(r"http://127\.0\.0\.1:\d+/[\w-]{20,}/", lines[1])
        assert address, lines
        yield Demo(process, address[0])
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def page(tab: Tab, demo_server: Demo) -> Tab:
    """The page after loading, in a desktop window."""
    tab.open(demo_server.address)
    tab.wait_until(READY)
    return tab


def search(page: Tab, text: str = SENTENCE) -> None:
    page.point_at("#query", click=True)
    page.type_text(text)
    page.press_key("Enter", 13, "\r")
    page.wait_until(FOUND)


def answer_directly(example: Example, request: dict[str, object], explain: bool = False) -> dict[str, object]:
    [reply], _ = example.service.answer([Request(json.dumps(request), explain)])
    assert reply.status == 200, reply.body
    return json.loads(reply.body)


def make_stored_image(name: str) -> dict[str, str]:
    return {"gallery": demo.GALLERY, "id": name}


def explain(example: Example, name: str, text: str = SENTENCE) -> dict:
    return answer_directly(example, {"pairs": [{"image": make_stored_image(name), "text": text}]}, explain=True)[
        "explanations"
    ][0]


def get_chosen_id(page: Tab) -> str:
    """Return the id of the chosen picture."""
    return page.evaluate("document.querySelector('.tile[aria-pressed=true]').dataset.id")


def test_the_page_starts_with_a_sample_of_pictures(page: Tab, example: Example) -> None:
    assert page.evaluate("document.querySelectorAll('#hits svg image').length") == demo.SAMPLE
    assert "40 pictures" in page.read_text("#facts") and get_chosen_id(page) == example.gallery.ids[0]
    page.wait_until("[...document.querySelectorAll('svg image')].length === 13")
    assert not page.list_errors()


def test_unknown_words_are_marked(page: Tab) -> None:
    search(page, "zebra saxophone")
    titles = "[...document.querySelectorAll('#sentence .word.unknown')].map(word => word.title)"
    assert page.evaluate(titles) == ["zebra: not in the vocabulary", "saxophone: not in the vocabulary"]
    assert "No word of the text" in page.read_text("#search-state")


def test_a_search_shows_the_hits_in_the_order_of_the_service(page: Tab, example: Example) -> None:
    search(page)
    answer = answer_directly(example, {"gallery": demo.GALLERY, "texts": [SENTENCE], "top_k": 12})
    hits = answer["results"][0]["hits"]
    assert page.evaluate("[...document.querySelectorAll('.tile')].map(tile => tile.dataset.id)") == [
        hit["id"] for hit in hits
    ]
    shown = page.evaluate("[...document.querySelectorAll('.tile')].map(tile => tile.innerText.trim())")
    assert shown == [f"{place}. score {hit['score']:.3f}".replace("-", "−") for place, hit in enumerate(hits, 1)]
    assert get_chosen_id(page) == hits[0]["id"] and "all 40 compared" in page.read_text("#search-state")
    assert page.evaluate("decodeURIComponent(location.hash)") == f"#q={SENTENCE.replace(' ', '+')}&id={hits[0]['id']}"
    assert not page.list_errors()


def test_pointing_at_a_word_highlights_the_regions_it_attends_to(page: Tab, example: Example) -> None:
    search(page)
    assert page.evaluate(LIT.format("svg")) == 0
    page.point_at("#sentence .word:nth-child(5)")
    page.wait_until(f"{LIT.format('#stage')} > 0")
    for selector, name in [
        ("#stage", get_chosen_id(page)),
        (".tile[data-id='{0}']", page.evaluate("document.querySelectorAll('.tile')[4].dataset.id")),
    ]:
        weights = explain(example, name)["weights"][4]
        shares = [weight / max(weights) for weight in weights]
        lit = page.evaluate(
            f'[...document.querySelectorAll("{selector.format(name)} .lit")].map(box => Number(box.style.opacity))'
        )
        assert lit == pytest.approx([share**1.5 for share in shares if share >= 0.25], abs=1e-3)
    first = max(explain(example, get_chosen_id(page))["weights"][4])
    assert "“horse” attends to" in page.read_text("#looks") and f"({100 * first:.0f} %)" in page.read_text("#looks")
    page.point_at("h1")
    page.wait_until(f"{LIT.format('svg')} === 0")


def test_a_click_keeps_the_highlight_and_escape_removes_it(page: Tab) -> None:
    search(page)
    page.point_at("#why .word:nth-child(2)", click=True)
    page.point_at("h1")
    assert page.evaluate(LIT.format("#stage")) > 0
    assert (
        page.evaluate("document.querySelectorAll('.word[aria-pressed=true]').length") == 2
    )  # in the search result and in the explanation
    page.press_key("Escape", 27)
    page.wait_until(f"{LIT.format('svg')} === 0 && !document.querySelector('.word[aria-pressed=true]')")


def test_relations_are_drawn_as_arrows_between_box_centres(page: Tab, example: Example) -> None:
    gallery = example.gallery
    row = max(range(len(gallery)), key=lambda row: len(gallery.layout(row).relations))
    facts = demo.describe_image(gallery, row)
    page.open(f"{urlsplit(page.evaluate('location.href'))._replace(fragment='').geturl()}#id={facts.id}")
    page.wait_until(f"{READY} && document.querySelector('#picked-title').innerText === 'Picture {facts.id}'")
    drawn = sorted(facts.relations, key=lambda relation: -relation.score)[:12]
    arrows: dict[tuple[int, int], list[str]] = {}
    for relation in drawn:
        arrows.setdefault((relation.subject, relation.object), []).append(relation.predicate)
    assert len(arrows) > 2 and page.evaluate(PREDICATES) == [", ".join(names) for names in arrows.values()]
    for path, regions in zip(page.evaluate(PATHS), arrows, strict=True):
        x1, y1, _, _, x2, y2 = map(float, re.findall(r"-?[\d.]+(?:e-?\d+)?", path))
        for point, region in zip(((x1, y1), (x2, y2)), regions, strict=True):
            box = facts.boxes[region]
            assert box is not None
            middle = ((box[0] + box[2]) / 2 * facts.width, (box[1] + box[3]) / 2 * facts.height)
            assert point == pytest.approx(middle, abs=1e-3)
    assert page.evaluate("document.querySelectorAll('.relation').length") == len(drawn)
    page.point_at("#relations .relation")
    page.wait_until(f"document.querySelectorAll('#stage .arrow.faded').length === {len(arrows) - 1}")
    page.point_at("#show-arrows", click=True)
    page.wait_until("!document.querySelector('#stage .arrow')")


def test_sentences_are_ranked_with_their_contributions(page: Tab, example: Example) -> None:
    texts = ["a dog under a table", SENTENCE, "two cars"]
    page.point_at("#sentences", click=True)
    page.type_text("\n".join(["", texts[0], texts[1], f"  {texts[0]} ", texts[2]]))
    page.point_at("#rank button", click=True)
    page.wait_until("document.querySelectorAll('#ranked > li').length === 3")
    request = {"images": [make_stored_image(get_chosen_id(page))], "texts": texts, "top_k": 3, "rank": "texts"}
    ranked = [texts[hit["index"]] for hit in answer_directly(example, request)["results"][0]]
    for place, text in enumerate(ranked, 1):
        item = f"document.querySelector('#ranked > li:nth-child({place})')"
        parts = [
            float(part.replace("−", "-"))
            for part in page.evaluate(f"[...{item}.querySelectorAll('small')].map(s => s.innerText)")
        ]
        why = explain(example, get_chosen_id(page), text)
        assert parts == pytest.approx(why["contributions"], abs=6e-4)
        assert float(page.evaluate(f"{item}.querySelector('b').innerText").replace("−", "-")) == pytest.approx(
            sum(parts), abs=0.01
        )
        words = page.evaluate(f"[...{item}.querySelectorAll('.word > span:first-child')].map(s => s.innerText)")
        assert words == [*why["words"][:-1], "start and end"]
    page.point_at("#ranked li:nth-child(2) .word")
    page.wait_until(f"{LIT.format('#stage')} > 0")


def test_the_best_captions_of_the_gallery_are_shown(page: Tab, example: Example) -> None:
    page.point_at("#captions", click=True)
    page.wait_until("document.querySelectorAll('#ranked > li').length === 12")
    answer = answer_directly(
        example, {"gallery": demo.GALLERY, "images": [make_stored_image(get_chosen_id(page))], "top_k": 12}
    )
    assert page.evaluate("[...document.querySelectorAll('#ranked b')].map(b => b.innerText)") == [
        f"{hit['score']:.3f}".replace("-", "−") for hit in answer["results"][0]["hits"]
    ]


def test_every_control_can_be_reached_by_keyboard(page: Tab) -> None:
    search(page)
    page.press_key("Tab", 9)  # the button
    page.press_key("Tab", 9)
    assert page.evaluate("document.activeElement.className") == "word" and page.evaluate(LIT.format("#stage")) > 0
    seen = set()
    for _ in range(60):
        seen.add(
            page.evaluate(
                "document.activeElement.id || document.activeElement.className || document.activeElement.tagName"
            )
        )
        page.press_key("Tab", 9)
    assert {"word", "tile", "show-boxes", "show-arrows", "sentences", "captions"} <= seen
    page.evaluate("document.querySelectorAll('.tile')[2].focus()")
    page.press_key("Enter", 13, "\r")
    page.wait_until("document.querySelectorAll('.tile')[2].getAttribute('aria-pressed') === 'true'")


def test_every_control_has_an_accessible_name(page: Tab) -> None:
    search(page)
    page.call("Accessibility.enable")
    nodes = page.call("Accessibility.getFullAXTree")["nodes"]
    roles = ("button", "textbox", "image", "checkbox", "searchbox", "list")
    all_names = [
        (node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node.get("ignored")
    ]
    names = [(role, name) for role, name in all_names if role in roles]
    assert len(names) > 40 and not [role for role, name in names if not name.strip()]
    assert any("Picture" in name and "horse" in name for role, name in names if role == "image")


def test_an_invalid_input_is_explained(page: Tab) -> None:
    page.point_at("#search button:not([type])", click=True)
    assert page.read_text("#search-state") == "Type a sentence first."
    assert page.evaluate("document.activeElement.id") == "query"
    page.point_at("#rank button", click=True)
    assert "Type a sentence, or several" in page.read_text("#rank-state")
    page.point_at("#query", click=True)
    page.type_text("a" * 2001)
    page.press_key("Enter", 13, "\r")
    page.wait_until("document.querySelector('#search-state').innerText.includes('at most 2000')")
    assert page.evaluate("document.querySelectorAll('.tile').length") == demo.SAMPLE  # the previous result stays


def test_html_in_a_sentence_is_shown_as_text(page: Tab) -> None:
    search(page, "<img src=x onerror=alert(1)> <b>dog</b>")
    assert page.evaluate("document.querySelectorAll('#sentence img, #sentence b, #why b').length") == 0
    assert not page.list_errors()


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
@pytest.mark.parametrize("dark", [False, True])
def test_the_layout_fits_and_has_contrast(tab: Tab, demo_server: Demo, width: int, dark: bool) -> None:
    tab.open(f"{demo_server.address}#q={SENTENCE}", width=width, dark=dark)
    tab.wait_until(FOUND)
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert sum(tab.evaluate(LAYOUT_SHIFTS)) < 0.02
    assert tab.evaluate(COUNT_LOW_CONTROLS) == 0
    colours = tab.evaluate(COLOURS)
    for foreground, background in [
        ("ink", "paper"),
        ("ink", "panel"),
        ("soft", "paper"),
        ("fault", "paper"),
        ("accent", "paper"),
        ("on-accent", "accent"),
    ]:
        assert measure_contrast(colours[foreground], colours[background]) >= 4.5, (foreground, background)
    assert (measure_luminance(colours["paper"]) < 0.1) == dark


DROP = """((text, name) => {{
  const bytes = Uint8Array.from(atob(text), one => one.charCodeAt(0)), data = new DataTransfer();
  data.items.add(new File([bytes], name));
  for (const kind of ['dragover', 'drop'])
    document.querySelector('#query').dispatchEvent(
      new DragEvent(kind, {{dataTransfer: data, bubbles: true, cancelable: true}}));
}})({text}, {name})"""
OWN = "document.querySelector('#picked-title').innerText.startsWith('Your picture {}')"


def drop(page: Tab, content: bytes, name: str) -> None:
    page.evaluate(DROP.format(text=json.dumps(base64.b64encode(content).decode()), name=json.dumps(name)))


@pytest.mark.parametrize("width", [390, 1280])
def test_a_dropped_picture_is_shown_and_ranked_like_the_same_picture_of_the_gallery(
    tab: Tab, tmp_path: Path, width: int
) -> None:
    example = make_picture_example(tmp_path)
    path, texts = example.gallery.picture(3), ["a large yellow box", "blue paint"]
    assert path is not None
    with run_demo(example) as server:
        tab.open(server.address, width=width, height=844)
        tab.wait_until(READY)
        assert sum(tab.evaluate(LAYOUT_SHIFTS)) < 0.02
        drop(tab, path.read_bytes(), "<b>mine</b>.jpg")
        tab.wait_until(OWN.format("<b>mine</b>.jpg"))
        tab.wait_until(READY)
        assert tab.evaluate("document.querySelector('#stage image').getAttribute('href')").startswith("data:")
        assert "id=" not in tab.evaluate("location.hash") and not tab.evaluate("document.body.classList.length")
        tab.point_at("#sentences", click=True)
        tab.type_text("\n".join(texts))
        tab.point_at("#rank button", click=True)
        tab.wait_until("document.querySelectorAll('#ranked > li').length === 2")
        image = make_stored_image(str(example.gallery.ids[3]))
        hits = answer_directly(example, {"images": [image], "texts": texts, "top_k": 2, "rank": "texts"})["results"][0]
        shown = tab.evaluate("[...document.querySelectorAll('#ranked b')].map(b => b.innerText)")
        assert shown == [f"{hit['score']:.3f}".replace("-", "−") for hit in hits]
        assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert tab.evaluate(COUNT_LOW_CONTROLS) == 0 and not tab.list_errors()
        drop(tab, b"no picture", "notes.txt")
        tab.wait_until("document.querySelector('#search-state').innerText.includes('not a picture in a known format')")
        assert tab.evaluate(OWN.format("<b>mine</b>.jpg")), "the picture before is still shown"
        tab.evaluate("document.querySelector('#choose').focus()")
        assert tab.evaluate("document.activeElement.id") == "choose"
        chosen = tab.call("Runtime.evaluate", expression="document.querySelector('#file')")["result"]["objectId"]
        tab.call("DOM.setFileInputFiles", files=[str(path)], objectId=chosen)
        tab.wait_until(OWN.format(path.name))


def measure_luminance(colour: str) -> float:
    """Return the relative luminance of #rrggbb (WCAG 2.2)."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def measure_contrast(one: str, other: str) -> float:
    """Return the contrast ratio of two colours (WCAG 2.2)."""
    low, high = sorted((measure_luminance(one), measure_luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize(("tile", "last_of_row"), [(1, 2), (4, 4), (7, 8)])
def test_a_phone_shows_the_chosen_picture_below_the_row_of_its_tile(
    tab: Tab, demo_server: Demo, tile: int, last_of_row: int
) -> None:
    tab.open(f"{demo_server.address}#q={SENTENCE}", width=390, height=844)
    tab.wait_until(FOUND)
    tab.point_at(f"#hits > li:not(.below):nth-child({tile if tile < 3 else tile + 1}) .tile", click=True)
    number = f"{tile}. score"
    tab.wait_until(f"document.querySelector('.tile[aria-pressed=true]').innerText.includes('{number}')")
    assert tab.evaluate("[...document.querySelectorAll('#hits > li')].findIndex(li => li.matches('.below'))") == (
        last_of_row
    )
    tab.wait_until("document.querySelector('.tile[aria-pressed=true]').getBoundingClientRect().top < 30")
    stage = tab.evaluate("(box => [box.top, box.bottom])(document.querySelector('#stage').getBoundingClientRect())")
    assert 0 < stage[0] < stage[1] < 844, "tile and picture are in the window together"
    assert not tab.list_errors()


def test_turning_a_phone_moves_the_chosen_picture_beside_the_tiles(tab: Tab, demo_server: Demo) -> None:
    tab.open(demo_server.address, width=390, height=900)
    tab.wait_until(READY)
    assert tab.evaluate("Boolean(document.querySelector('#hits #picked')) && !document.querySelector('#more').open")
    tab.call("Emulation.setDeviceMetricsOverride", width=900, height=390, deviceScaleFactor=1, mobile=True)
    tab.wait_until("Boolean(document.querySelector('main > #picked')) && document.querySelector('#more').open")


@pytest.mark.parametrize("width", [390, 1280])
def test_labels_do_not_overlap(tab: Tab, demo_server: Demo, example: Example, width: int) -> None:
    counts = []
    for row in range(0, len(example.gallery), 4):
        tab.open(f"{demo_server.address}#id={example.gallery.ids[row]}", width=width)
        tab.wait_until(
            f"{READY} && document.querySelector('#picked-title').innerText.endsWith('{example.gallery.ids[row]}')"
        )
        assert tab.evaluate(OVERLAPS) == []
        counts.append(tab.evaluate("document.querySelectorAll('#stage .name, #stage .predicate').length"))
    assert max(counts) > 8


def test_thumbnails_show_the_whole_picture(page: Tab) -> None:
    """The picture has the proportions of its viewBox, and the viewBox is fitted into the thumbnail, not cut."""
    cut = """[...document.querySelectorAll('.tile svg')].filter(svg => {
      const [inner, outer] = [svg.querySelector('image'), svg].map(each => each.getBoundingClientRect());
      return inner.left < outer.left - 1 || inner.right > outer.right + 1
        || inner.top < outer.top - 1 || inner.bottom > outer.bottom + 1;
    }).length"""
    assert page.evaluate(cut) == 0


def test_boxes_are_drawn_if_there_are_no_pictures(tab: Tab, demo_server: Demo, example: Example) -> None:
    pictures, hidden = example.gallery.picture_folder(0), example.folder / "hidden"
    pictures.rename(hidden)
    try:
        tab.open(demo_server.address)
        tab.wait_until(READY)
        assert tab.evaluate("document.querySelectorAll('svg image').length") == 0
        assert tab.evaluate("[...document.querySelectorAll('.tile svg')].every(svg => svg.querySelector('.box'))")
        assert tab.evaluate("document.querySelectorAll('#stage .name').length") > 0
    finally:
        hidden.rename(pictures)


def test_the_page_requests_as_many_explanations_as_the_service_allows() -> None:
    assert f"const EXPLAINED = {Limits().explained};" in (demo.PAGE / "api.js").read_text("utf-8")


def test_every_request_goes_to_the_demo(page: Tab, demo_server: Demo) -> None:
    search(page)
    addresses = [address for address in page.list_requested_addresses() if not address.startswith(("data:", "about:"))]
    assert len(addresses) > 20 and all(address.startswith(demo_server.address) for address in addresses)


def test_a_body_above_the_limit_is_refused_before_its_end(demo_server: Demo) -> None:
    url = urlsplit(demo_server.address)
    connection = http.client.HTTPConnection(url.netloc, timeout=60)
    connection.putrequest("POST", f"{url.path}predictions/hire")
    connection.putheader("Content-Length", str(1 << 40))
    connection.endheaders()
    connection.send(b" " * (demo.BODY_BYTES + 1))
    assert connection.getresponse().status == 413


@pytest.mark.parametrize("path", ["../../etc/passwd", "page/../../../etc/passwd", "page/..%2f..%2fdemo.py", "page/%00"])
def test_a_path_that_leaves_the_page_folder_is_404(demo_server: Demo, path: str) -> None:
    url = urlsplit(demo_server.address)
    connection = http.client.HTTPConnection(url.netloc, timeout=60)
    connection.request("GET", url.path + path)
    assert connection.getresponse().status == 404


def test_an_ended_server_is_reported(page: Tab, demo_server: Demo) -> None:
    """Keep this test the last one: it stops the server, as Ctrl+C does."""
    demo_server.process.send_signal(2)
    demo_server.process.wait(timeout=60)
    page.point_at("#query", click=True)
    page.type_text(SENTENCE)
    page.press_key("Enter", 13, "\r")
    page.wait_until("document.querySelector('#search-state').innerText.includes('does not answer')")
    assert page.evaluate("document.querySelector('#search-state').classList.contains('fault')")
