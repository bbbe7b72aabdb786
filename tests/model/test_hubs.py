"""The hub correction: its formula, its file in the model folder, and models that cannot correct."""

from __future__ import annotations

from pathlib import Path

import gallery_examples
import numpy as np
import pytest
import torch
from scipy.special import logsumexp

from hire_model.data.loading import collate_regions
from hire_model.errors import HireError
from hire_model.evaluation.protocols import evaluate_matrix
from hire_model.model import artifact
from hire_model.model.hire import Hire
from hire_model.model.hubs import WEIGHT, HubBank, find_bank
from hire_model.scoring.hub_correction import collect_bank, correct_matrix
from hire_model.scoring.matrix import CaptionBank, compute_similarity
from hire_model.settings import ModelSettings


def make_bank(size: int = 5, dim: int = 16, temperature: float = 0.07) -> HubBank:
    random = torch.Generator().manual_seed(0)
    images, captions = (torch.nn.functional.normalize(torch.randn(size, dim, generator=random)) for _ in range(2))
    return HubBank(images, captions, temperature)


@pytest.fixture(scope="module")
def model(tiny_dataset: Path) -> Hire:
    return gallery_examples.make_model(gallery_examples.open_split(tiny_dataset, "train"))


@pytest.fixture(scope="module")
def bank(model: Hire, tiny_dataset: Path) -> HubBank:
    train = gallery_examples.open_split(tiny_dataset, "train")
    found = collect_bank(model, train, 10, 0.07)
    assert found is not None
    return found


def test_popularity_is_a_soft_maximum_over_the_other_side_of_the_bank() -> None:
    bank, queries = make_bank(), make_bank(7).images
    for rated, side in ((bank.rate_images(queries), bank.captions), (bank.rate_texts(queries), bank.images)):
        logits = (queries @ side.T).numpy() / 0.07
        expected = WEIGHT * 0.07 * (logsumexp(logits, axis=1) - np.log(5))
        np.testing.assert_allclose(rated.numpy(), expected, atol=1e-6)


def test_the_bank_has_one_caption_of_each_image_and_depends_only_on_the_seed(
    model: Hire, bank: HubBank, tiny_dataset: Path
) -> None:
    train = gallery_examples.open_split(tiny_dataset, "train")
    captions = CaptionBank.from_lists(model.vocabulary.encode(train.texts))
    again, other = (collect_bank(model, train, 10, 0.07, seed) for seed in (0, 1))
    assert len(bank) == 10 == len(bank.captions)
    assert again is not None and torch.equal(again.images, bank.images) and torch.equal(again.captions, bank.captions)
    assert other is not None and not torch.equal(other.images, bank.images)
    with torch.inference_mode():
        all_texts = model.encode_text(captions.tokens(range(len(captions)))).summary
    for image, text in zip(bank.images, bank.captions, strict=True):
        caption = int((all_texts @ text).argmax())
        regions = train.regions(int(train.owner[caption]))
        with torch.inference_mode():
            owner = model.encode_image(collate_regions([regions])).summary[0]
        torch.testing.assert_close(owner, image, atol=1e-5, rtol=1e-5)


def test_a_bank_is_not_larger_than_the_split_and_size_0_gives_none(model: Hire, tiny_dataset: Path) -> None:
    train = gallery_examples.open_split(tiny_dataset, "train")
    largest = collect_bank(model, train, 1000, 0.07)
    assert largest is not None and len(largest) == len(np.unique(train.owner))
    assert collect_bank(model, train, 0, 0.07) is None


def test_the_corrected_matrix_subtracts_one_number_per_image_and_one_per_caption(
    model: Hire, bank: HubBank, tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dev = gallery_examples.open_split(tiny_dataset, "dev")
    captions = CaptionBank.from_lists(model.vocabulary.encode(dev.texts))
    matrix = compute_similarity(model, dev, captions)
    monkeypatch.setattr(model, "hubs", bank)
    difference = matrix - correct_matrix(model, dev, captions, matrix)
    image, caption = difference.mean(axis=1, keepdims=True), difference.mean(axis=0, keepdims=True)
    np.testing.assert_allclose(difference, image + caption - difference.mean(), atol=1e-5)
    assert np.ptp(image) > 1e-4 and np.ptp(caption) > 1e-4


def test_an_image_that_matches_every_query_no_longer_hides_the_right_ones() -> None:
    """Four images on their own axes, and a hub: an image near the mean of all captions."""
    captions = torch.nn.functional.normalize(torch.eye(5)[:4] + 0.6)
    images = torch.nn.functional.normalize(torch.cat([torch.eye(5)[:4], torch.full((1, 5), 0.6)]))
    owner, scores = np.arange(4), images @ captions.T
    bank = HubBank(images[:4], captions, 0.07)
    corrected = scores - bank.rate_images(images)[:, None] - bank.rate_texts(captions)
    plain, better = (evaluate_matrix(matrix.numpy(), owner, bootstrap=0).t2i.r1 for matrix in (scores, corrected))
    assert plain == 0 and better == 100


def test_a_saved_bank_is_loaded_and_does_not_change_the_models_digest(
    model: Hire, bank: HubBank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = artifact.digest(model)
    monkeypatch.setattr(model, "hubs", bank)
    loaded = artifact.load(artifact.save(model, tmp_path))
    assert loaded.hubs is not None and loaded.hubs.temperature == pytest.approx(0.07)
    assert torch.equal(loaded.hubs.images, bank.images) and torch.equal(loaded.hubs.captions, bank.captions)
    assert artifact.digest(loaded) == before, "galleries stay valid"


def test_a_flipped_bit_in_the_bank_or_a_missing_bank_is_refused(
    model: Hire, bank: HubBank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "hubs", bank)
    artifact.save(model, tmp_path)
    content = bytearray((tmp_path / artifact.HUBS).read_bytes())
    content[-10] ^= 1
    (tmp_path / artifact.HUBS).write_bytes(content)
    with pytest.raises(HireError, match=r"hubs\.safetensors.*SHA-256"):
        artifact.load(tmp_path)
    (tmp_path / artifact.HUBS).unlink()
    with pytest.raises(HireError, match=r"hubs\.safetensors: missing"):
        artifact.load(tmp_path)


def test_saving_a_model_without_a_bank_removes_an_earlier_one(
    model: Hire, bank: HubBank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(model, "hubs", bank)
        artifact.save(model, tmp_path)
    artifact.save(model, tmp_path)
    assert artifact.load(tmp_path).hubs is None and not (tmp_path / artifact.HUBS).exists()


def test_a_model_without_bank_or_global_head_cannot_correct() -> None:
    with pytest.raises(HireError, match="has no bank of training items"):
        find_bank(None, ModelSettings())
    with pytest.raises(HireError, match="models:/hire@champion has no global head"):
        find_bank(make_bank(), ModelSettings(global_head=False, global_weight=0), "models:/hire@champion")
