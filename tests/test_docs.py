"""The documentation: relative links resolve, and the site builds without warnings and external assets."""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from hire_model.data.synthetic import generate_scenes
from hire_model.settings import Settings, flatten

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "benchmarks" / "README.md"])
ON_THE_SITE_ONLY = {"settings.md": r"\.?\w+"}
_FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)
_EXTERNAL = re.compile(
    r"<(?:script|link|img|iframe|source)\b[^>]*(?:src|href)=[\"']?(?:https?:)?//|url\([\"']?(?:https?:)?//|@import"
)


def _anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub and the site create for the headings of a page."""
    headings = _HEADING.findall(_FENCE.sub("", page.read_text("utf-8")))
    plain = (re.sub(r"[^\w\s-]", "", heading.lower()).strip() for heading in headings)
    return {re.sub(r"\s+", "-", heading) for heading in plain}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_resolves(page: Path) -> None:
    for link in _LINK.findall(_FENCE.sub("", page.read_text("utf-8"))):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if anchor and not re.fullmatch(ON_THE_SITE_ONLY.get(target.name, ""), anchor):
            assert anchor in _anchors(target), link


def _make_page(path: str) -> SimpleNamespace:
    return SimpleNamespace(file=SimpleNamespace(src_uri=path))


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_hooks", ROOT / "scripts" / "docs_hooks.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_settings_page_lists_every_key(hooks: ModuleType) -> None:
    listed = re.findall(r"^\| `([\w.]+)`", hooks.settings_tables(), re.MULTILINE)
    assert sorted(listed) == sorted(flatten(Settings().model_dump(mode="json")))


def test_the_contract_page_lists_every_message_once(hooks: ModuleType) -> None:
    messages = json.loads((ROOT / "serving" / "openapi.json").read_text("utf-8"))["components"]["schemas"]
    listed = re.findall(r"^### (\w+)", hooks.contract_tables(), re.MULTILINE)
    assert sorted(listed) == sorted(messages)


@pytest.mark.parametrize(
    ("page", "link", "expected"),
    [
        ("adr/001.md", "[a](../data.md#the-format)", "[a](../data.md#the-format)"),
        ("data.md", "[a](../CONTRIBUTING.md)", "[a](contributing.md)"),
        ("contributing.md", "[a](docs/data.md)", "[a](data.md)"),
        ("data.md", "[a](../hire_model/batch.py)", "a"),
        ("data.md", "[a](https://arxiv.org)", "[a](https://arxiv.org)"),
    ],
)
def test_links_are_changed_to_the_pages_of_the_site(hooks: ModuleType, page: str, link: str, expected: str) -> None:
    assert hooks.on_page_markdown(link, page=_make_page(page)) == expected


def test_a_list_directly_below_a_sentence_becomes_a_list(hooks: ModuleType) -> None:
    assert hooks.on_page_markdown("Files:\n- a\n- b", page=_make_page("data.md")) == "Files:\n\n- a\n- b"


@pytest.mark.live
def test_the_site_builds_strictly_and_loads_nothing_external(tmp_path: Path) -> None:
    environ = os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    for file in [*tmp_path.rglob("*.html"), *tmp_path.rglob("*.css")]:
        text = file.read_text("utf-8")
        assert not (found := _EXTERNAL.search(text)), f"{file.relative_to(tmp_path)}: {found}"
        assert 'class="mermaid"' not in text, "the theme loads mermaid from a CDN; use a text diagram"
    assert (tmp_path / "search" / "search_index.js").is_file()


def _find_example_sentences() -> list[tuple[str, str]]:
    """Return (page, sentence) of the queries in the README and the docs: quoted phrases that begin with an article."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    pages.remove(ROOT / "docs" / "validation-faults.md")  # its phrases are captions of faulty data sets
    phrases = re.compile(r"[\"']((?:an?|the) [a-z ]+)[\"']", re.IGNORECASE)
    return [(page.name, sentence) for page in pages for sentence in phrases.findall(page.read_text("utf-8"))]


def test_the_example_sentences_consist_of_words_that_the_default_model_knows() -> None:
    """The vocabulary of the default model has every word of the training captions of the default scenes."""
    scenes = itertools.islice(generate_scenes({"train": 4000}, seed=0), 400)
    known = {word for _, _, _, captions, _ in scenes for caption in captions for word in caption.text.lower().split()}
    examples = _find_example_sentences()
    assert len(examples) >= 10 and ("README.md", "a dog in front of a tree") in examples
    unknown = {
        (page, sentence): words for page, sentence in examples if (words := set(sentence.lower().split()) - known)
    }
    assert unknown == {}
