"""A frozen encoder's states are computed once, by one process, and read from a cache on disk."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from types import SimpleNamespace

import model_examples
import numpy as np
import psutil
import pytest
import torch
from torch import nn

from hire_model.errors import HireError
from hire_model.model import captions
from hire_model.model.captions import build_caption_bank
from hire_model.model.text import PretrainedEncoder

TEXTS = [model_examples.make_caption(np.random.default_rng(seed)) for seed in range(50)]
HIDDEN = 4


def compute_states(ids: torch.Tensor) -> torch.Tensor:
    position = torch.arange(ids.shape[1]).expand_as(ids)
    return torch.stack([ids, position, position * 0, position * 0 + 1], -1).float()


class Encoder(nn.Module):
    """Return [id, position, 0, 1] as the state of each token; write the number of captions of each call to a file."""

    def __init__(self, calls: Path) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.config = SimpleNamespace(hidden_size=HIDDEN)
        self.calls = calls

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> SimpleNamespace:
        with self.calls.open("a") as file:
            file.write(f"{len(input_ids)}\n")
        return SimpleNamespace(last_hidden_state=compute_states(input_ids))


@pytest.fixture
def frozen(tmp_path: Path):
    """A tiny model whose text encoder is frozen."""
    model = model_examples.make_model()
    text = PretrainedEncoder.__new__(PretrainedEncoder)
    nn.Module.__init__(text)
    text.encoder, text.tuned = Encoder(tmp_path / "calls"), False
    model.text = text
    return model


def count_encoded(tmp_path: Path) -> int:
    return sum(map(int, (tmp_path / "calls").read_text().split()))


def test_captions_of_different_blocks_get_their_own_states(frozen, tmp_path, monkeypatch):
    monkeypatch.setattr(captions, "_ENCODE_BLOCK", 7)
    bank = build_caption_bank(frozen, TEXTS, tmp_path / "cache")
    rows = np.random.default_rng(0).permutation(len(TEXTS))
    tokens = bank.tokens(rows)
    torch.testing.assert_close(tokens.states, compute_states(tokens.ids) * tokens.mask[..., None])


def test_states_are_computed_once_per_encoder_weights(frozen, tmp_path):
    build_caption_bank(frozen, TEXTS, tmp_path / "cache")
    build_caption_bank(frozen, TEXTS, tmp_path / "cache")
    assert count_encoded(tmp_path) == len(TEXTS)
    with torch.no_grad():
        frozen.text.encoder.weight += 1
    build_caption_bank(frozen, TEXTS, tmp_path / "cache")
    assert count_encoded(tmp_path) == 2 * len(TEXTS)


def test_only_one_of_several_processes_computes_the_states(frozen, tmp_path):
    context = multiprocessing.get_context("fork")
    torch.set_num_threads(1)
    workers = [context.Process(target=build_caption_bank, args=(frozen, TEXTS, tmp_path / "cache")) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert count_encoded(tmp_path) == len(TEXTS)


def test_reading_all_states_does_not_keep_the_file_in_memory(frozen, tmp_path):
    many = TEXTS * 400
    bank = build_caption_bank(frozen, many, tmp_path / "cache")
    path = next((tmp_path / "cache").glob("*.npy"))
    for start in range(0, len(bank), 64):
        bank.tokens(range(start, min(start + 64, len(bank))))
    mapped = [entry for entry in psutil.Process().memory_maps() if entry.path == str(path)]
    assert mapped and sum(entry.rss for entry in mapped) < 0.1 * path.stat().st_size


def test_a_cache_folder_that_cannot_be_written_is_named(frozen, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HIRE_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(HireError, match=r"states.*MB\) cannot be written.*HIRE_CACHE"):
        build_caption_bank(frozen, TEXTS)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_disk_leaves_no_states_file(frozen, tmp_path, monkeypatch):
    """Write the partial file to a device that is always full."""
    cache = tmp_path / "cache"
    cache.mkdir()
    real_open = Path.open

    def open_full_device(path: Path, *args, **options):
        return real_open(Path("/dev/full") if path.name.startswith(".states-") else path, *args, **options)

    monkeypatch.setattr(Path, "open", open_full_device)
    with pytest.raises(HireError, match=r"No space left.*HIRE_CACHE"):
        build_caption_bank(frozen, TEXTS, cache)
    assert not list(cache.glob("*.npy"))


def test_a_truncated_states_file_is_refused(frozen, tmp_path):
    cache = tmp_path / "cache"
    build_caption_bank(frozen, TEXTS, cache)
    path = next(cache.glob("*.npy"))
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(HireError, match=r"not a complete npy file.*Delete it"):
        build_caption_bank(frozen, TEXTS, cache)


def test_tokenising_in_blocks_gives_the_same_bank(monkeypatch):
    whole = build_caption_bank(model_examples.make_model(), TEXTS)
    monkeypatch.setattr(captions, "_TOKENIZE_BLOCK", 7)
    parts = build_caption_bank(model_examples.make_model(), TEXTS)
    np.testing.assert_array_equal(parts.ids, whole.ids)
    np.testing.assert_array_equal(parts.offsets, whole.offsets)
