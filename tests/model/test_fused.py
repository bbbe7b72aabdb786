"""The compiled kernel gives the scores that torch gives, on every variant of the model and every processor level."""

from __future__ import annotations

import logging
import platform
import subprocess

import model_examples
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from test_hire import VARIANTS

from hire_model.batch import EncodedImages, EncodedTexts
from hire_model.model.fused import library, scoring
from hire_model.settings import resolve

MODELS = {name: model_examples.make_model(**changes) for name, changes in VARIANTS.items()}
MODELS["both at an odd size"] = model_examples.make_model(dim=36, pair_dim=13)
MODELS["stage 6 only"] = model_examples.make_model(object_sentence=False, word_image=False)
MODELS["stage 7 only"] = model_examples.make_model(object_word=False)
MODELS["larger than a vector"] = model_examples.make_model(dim=72, pair_dim=40)
variants = st.sampled_from(sorted(MODELS))
few = hypothesis_settings(max_examples=25, deadline=None)
needs_kernel = pytest.mark.skipif(library.load() is None, reason="no C++ compiler, or HIRE_FUSED=0")


@st.composite
def encoded_items(draw, name):
    """Draw encoded images and captions of any shape. Padding may be anywhere, and its values are not zero."""
    model = MODELS[name]
    g = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    size, dim = model.settings.pair_dim or model.settings.dim, model.settings.dim
    images, captions = draw(st.integers(1, 5)), draw(st.integers(1, 9))
    regions, words = draw(st.sampled_from([1, 2, 7, 20, 37])), draw(st.sampled_from([1, 2, 13, 30, 50]))
    share = draw(st.sampled_from([0.1, 0.6, 1.0]))

    def draw_mask(count: int, longest: int) -> torch.Tensor:
        mask = torch.rand(count, longest, generator=g) < share
        mask[torch.arange(count), torch.randint(longest, (count,), generator=g)] = True
        return mask

    edges = roles = None
    if model.roles is not None:
        kinds = model.interaction.relations.kinds
        edges = torch.randn(images, kinds, regions, regions, generator=g)
        roles = torch.randn(captions, words, model.roles.width, generator=g)
    v_mask = draw_mask(images, regions)
    if edges is not None:
        edges = edges * (v_mask[:, None, :, None] & v_mask[:, None, None])
    shares = None
    if draw(st.booleans()):
        shares = (torch.rand(images, regions, generator=g) + 0.01) * v_mask
        shares = shares / shares.sum(dim=1, keepdim=True)
    return (
        EncodedImages(
            torch.randn(images, regions, size, generator=g) * v_mask[..., None], v_mask,
            torch.randn(images, dim, generator=g), edges, shares,
        ),
        EncodedTexts(
            torch.randn(captions, words, size, generator=g), draw_mask(captions, words),
            torch.randn(captions, dim, generator=g), roles,
        ),
    )  # fmt: skip


def score_with_torch(model, images, texts):
    return scoring_off(lambda: model.score(images, texts).pair)


def scoring_off(compute):
    with pytest.MonkeyPatch.context() as patch, torch.inference_mode():
        patch.setenv(library.SWITCH, "0")
        return compute()


@needs_kernel
@few
@given(variants, st.data())
def test_the_kernel_gives_the_scores_of_torch(name, data):
    model = MODELS[name]
    images, texts = data.draw(encoded_items(name))
    with torch.inference_mode():
        scores = scoring.score(model.interaction, images, texts)
    torch.testing.assert_close(scores, score_with_torch(model, images, texts), atol=1e-5, rtol=1e-5)


@needs_kernel
@few
@given(variants, st.data())
def test_the_kernel_scores_pairs_in_any_order(name, data):
    model = MODELS[name]
    images, texts = data.draw(encoded_items(name))
    count = data.draw(st.integers(1, 20))
    image, text = (
        torch.tensor(data.draw(st.lists(st.integers(0, len(side) - 1), min_size=count, max_size=count)))
        for side in (images, texts)
    )
    with torch.inference_mode():
        scores = scoring.score(model.interaction, images, texts, (image, text))
    torch.testing.assert_close(scores, score_with_torch(model, images, texts)[image, text], atol=1e-5, rtol=1e-5)


def encode(model, images: int, captions: int):
    random = np.random.default_rng(0)
    regions = model_examples.make_regions([model_examples.make_image(random) for _ in range(images)])
    tokens = model_examples.make_tokens(model, [model_examples.make_caption(random) for _ in range(captions)])
    return model.encode_image(regions), model.encode_text(tokens)


@needs_kernel
def test_a_long_list_fills_several_tiles_in_several_threads(monkeypatch):
    model = MODELS["full"]
    monkeypatch.setattr(scoring, "_WORK_PER_THREAD", 1)
    with torch.inference_mode():
        images, texts = encode(model, images=90, captions=150)
        scores = scoring.score(model.interaction, images, texts)
    torch.testing.assert_close(scores, score_with_torch(model, images, texts), atol=1e-5, rtol=1e-5)


@needs_kernel
@pytest.mark.parametrize("level", sorted(library.LEVELS))
def test_each_instruction_set_gives_the_same_scores(level, monkeypatch):
    order = ("DEFAULT", "AVX2", "AVX512")
    if order.index(level) > order.index(torch.backends.cpu.get_cpu_capability()):
        pytest.skip(f"this processor has no {level}")
    model = model_examples.make_model(dim=72, pair_dim=40)
    kernel = library.Kernel(library.compile_kernel(level))
    monkeypatch.setattr(scoring, "load", lambda: kernel)
    with torch.inference_mode():
        images, texts = encode(model, images=5, captions=30)
        scores = scoring.score(model.interaction, images, texts)
    torch.testing.assert_close(scores, score_with_torch(model, images, texts), atol=1e-5, rtol=1e-5)


@needs_kernel
def test_changed_weights_are_packed_again():
    model = model_examples.make_model()
    random = np.random.default_rng(0)
    with torch.inference_mode():
        images = model.encode_image(model_examples.make_regions([model_examples.make_image(random)]))
        texts = model.encode_text(model_examples.make_tokens(model, ["a red dog"]))
        before = scoring.score(model.interaction, images, texts)
    with torch.no_grad():
        for weight in model.interaction.parameters():
            weight.add_(0.1)
    with torch.inference_mode():
        after = scoring.score(model.interaction, images, texts)
    assert (before - after).abs() > 1e-4
    torch.testing.assert_close(after, score_with_torch(model, images, texts), atol=1e-5, rtol=1e-5)
    refine = model.interaction.on_words
    refine.second = torch.nn.Linear(refine.second.in_features, refine.second.out_features)
    with torch.inference_mode():
        replaced = scoring.score(model.interaction, images, texts)
    assert (replaced - after).abs() > 1e-4
    torch.testing.assert_close(replaced, score_with_torch(model, images, texts), atol=1e-5, rtol=1e-5)


@needs_kernel
def test_a_wrong_index_or_another_models_items_are_errors():
    model, larger = model_examples.make_model(), MODELS["larger than a vector"]
    random = np.random.default_rng(0)
    with torch.inference_mode():
        images = model.encode_image(model_examples.make_regions([model_examples.make_image(random)]))
        texts = model.encode_text(model_examples.make_tokens(model, ["a red dog"]))
        for wrong in (-1, 1):
            with pytest.raises(IndexError, match="not in 0 to 0"):
                model.score_pairs(images, texts, torch.tensor([0, wrong]), torch.tensor([0, 0]))
        with pytest.raises(RuntimeError, match="shapes"):
            larger.score(images, texts)


def test_torch_scores_with_gradients_dropout_other_types_and_when_disabled(monkeypatch):
    model = model_examples.make_model()
    random = np.random.default_rng(0)
    with torch.no_grad():
        images = model.encode_image(model_examples.make_regions([model_examples.make_image(random)]))
        texts = model.encode_text(model_examples.make_tokens(model, ["a red dog"]))

        def score():
            return scoring.score(model.interaction, images, texts)

        with torch.enable_grad():
            assert score() is None
        model.train()
        assert score() is None
        model.eval()
        with torch.autocast("cpu", torch.bfloat16):
            assert score() is None
        model.double()
        assert scoring.score(model.interaction, images, texts) is None
        model.float()
        monkeypatch.setenv(library.SWITCH, "0")
        assert score() is None


def test_the_switch_is_no_unknown_setting():
    assert resolve(None, {}, {library.SWITCH: "0"}).settings == resolve(None, {}, {}).settings


def test_without_a_compiler_torch_scores_and_one_debug_line_says_so(monkeypatch, caplog, tmp_path):
    monkeypatch.setenv(library.SWITCH, "1")
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr("sys.pycache_prefix", str(tmp_path))
    library._load.cache_clear()
    try:
        with caplog.at_level(logging.DEBUG, "hire_model"):
            assert library.load() is None and library.load() is None
        assert [record.levelname for record in caplog.records] == ["DEBUG"]
        assert "no C++ compiler" in caplog.text
    finally:
        library._load.cache_clear()


def test_a_failing_compiler_is_no_error(monkeypatch, caplog, tmp_path):
    monkeypatch.setenv(library.SWITCH, "1")
    monkeypatch.setenv("CXX", "false")
    monkeypatch.setattr("sys.pycache_prefix", str(tmp_path))
    library._load.cache_clear()
    try:
        assert library.load() is None
        assert not list(tmp_path.rglob("*.so"))
    finally:
        library._load.cache_clear()


@needs_kernel
@pytest.mark.parametrize("level", ["AVX512", "DEFAULT"])
def test_the_sources_compile_without_warnings(level):
    if platform.machine() not in ("x86_64", "AMD64") and level != "DEFAULT":
        pytest.skip(f"{level} needs an x86 compiler")
    flags = [
        *library.LEVELS[level],
        "-std=c++17",
        "-fsyntax-only",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-Wno-unknown-pragmas",
    ]
    source = library._FOLDER / "kernel.cpp"
    done = subprocess.run([*library._find_compiler(), *flags, source], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@needs_kernel
def test_another_source_gets_another_library(monkeypatch, tmp_path):
    first = library.compile_kernel("DEFAULT")
    assert library.compile_kernel("DEFAULT") == first
    for name in library._SOURCES:
        (tmp_path / name).write_bytes((library._FOLDER / name).read_bytes())
    (tmp_path / "kernel.cpp").write_text("int x;\n")
    monkeypatch.setattr(library, "_FOLDER", tmp_path)
    assert library.compile_kernel("DEFAULT").name != first.name
