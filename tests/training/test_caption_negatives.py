"""False captions: the rules, the bank, and the draw of a batch."""

from __future__ import annotations

import inspect
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from training_examples import TrainingExample  # type: ignore[import-not-found]

from hire_model.data.loading import CaptionBank
from hire_model.evaluation import behaviour, phrases
from hire_model.training import caption_negatives
from hire_model.training.batches import Augment, BatchPlan, PlannedBatches
from hire_model.training.caption_negatives import CaptionNegatives, find_noun_phrases, learn_words
from hire_model.training.distributed import Peers, launch_fabric
from hire_model.training.losses import BatchShare, Objective
from hire_model.training.negative_bank import NegativeBank, build_negative_bank

SUBJECTS = ["a black dog", "the small cat", "a man", "two boys", "the horse"]
RELATIONS = ["on", "running behind", "jumping over", "walking toward"]
CAPTIONS = [f"{s} {r} {o}" for s in SUBJECTS for r in RELATIONS for o in SUBJECTS if s != o]


@pytest.fixture(scope="module")
def maker() -> CaptionNegatives:
    return learn_words(CAPTIONS)


def make_all(maker: CaptionNegatives, text: str) -> set[str]:
    made = {maker.make(text, np.random.default_rng(seed)) for seed in range(200)}
    assert None not in made
    return {text for text in made if text is not None}


def test_nouns_modifiers_and_relations_are_learned_from_the_captions(maker: CaptionNegatives) -> None:
    assert maker.nouns == {"dog", "cat", "man", "boys", "horse"}
    assert maker.modifiers == {"black", "small"}
    assert {" ".join(relation) for relation in maker.relations} == set(RELATIONS)
    words = ["the", "small", "cat", "running", "behind", "two", "boys"]
    assert [" ".join(words[p.first : p.last + 1]) for p in find_noun_phrases(words, maker)] == [
        "the small cat",
        "two boys",
    ]


def test_each_rule_makes_its_kind_of_false_caption(maker: CaptionNegatives) -> None:
    made = make_all(maker, "a black dog on the horse")
    assert "the horse on a black dog" in made  # exchange
    assert "a dog on the black horse" in made  # attribute
    assert "a black dog jumping over the horse" in made  # relation
    assert "a black dog on the horse" not in made


def test_a_caption_keeps_its_capital_at_the_start(maker: CaptionNegatives) -> None:
    made = make_all(maker, "A man on the horse .")
    assert "The horse on a man ." in made
    assert all(text[0].isupper() and text[1:] == text[1:].lower() for text in made)


def test_a_caption_without_two_phrases_has_no_false_caption(maker: CaptionNegatives) -> None:
    assert maker.make("a black dog", np.random.default_rng(0)) is None
    assert maker.make("", np.random.default_rng(0)) is None


def test_training_and_evaluation_share_no_code() -> None:
    source = Path(inspect.getfile(caption_negatives)).read_text("utf-8")
    assert "import hire_model.evaluation" not in source
    assert "from hire_model.evaluation" not in source
    for module in (phrases, behaviour):
        assert "caption_negatives import" not in Path(inspect.getfile(module)).read_text("utf-8")


def test_kinds_of_the_evaluation_are_never_made_for_training(maker: CaptionNegatives) -> None:
    text = "a black dog on the small cat"
    made = make_all(maker, text)
    assert "a small dog on the black cat" not in made  # two modifiers exchanged
    assert behaviour.negate(text) not in made
    same_words = {one for one in made if sorted(one.split()) == sorted(text.split())}
    assert same_words == {"the small cat on a black dog"}  # only the exchange of two phrases moves words


def test_a_draw_depends_only_on_seed_epoch_and_caption(training: TrainingExample) -> None:
    settings = training.settings(negatives=0.5)
    model = training.model(settings)
    texts = [CAPTIONS[row % len(CAPTIONS)] for row in range(len(training.split().texts))]
    bank = build_negative_bank(model, texts, settings.train)
    again = build_negative_bank(model, texts, settings.train)
    assert bank is not None and again is not None
    assert np.array_equal(bank.bank.ids, again.bank.ids)
    together, alone = bank.draw(3, [5, 7, 9, 11]), [again.draw(3, [row]) for row in (5, 7, 9, 11)]
    assert together is not None
    assert together.caption.tolist() == [place for place, one in enumerate(alone) if one is not None]
    drawn = {tuple(one.caption.tolist()) if (one := bank.draw(epoch, range(20))) else () for epoch in range(5)}
    assert len(drawn) > 1  # other epochs draw others


def test_the_share_is_that_of_the_setting(training: TrainingExample) -> None:
    settings = training.settings()
    assert build_negative_bank(training.model(settings), CAPTIONS, settings.train) is None
    bank = build_negative_bank(training.model(settings), CAPTIONS, training.settings(negatives=1).train)
    assert bank is not None
    draw = NegativeBank(bank.bank, bank.rows, 0.25, 0).draw(0, range(len(CAPTIONS)))
    assert draw is not None
    assert 0.1 < len(draw) / len(CAPTIONS) < 0.4


def test_captions_to_which_no_rule_applies_are_reported(
    training: TrainingExample, caplog: pytest.LogCaptureFixture
) -> None:
    settings = training.settings(negatives=1)
    assert build_negative_bank(training.model(settings), ["hello", "good morning"], settings.train) is None
    assert "no rule applies" in caplog.text


def test_the_loss_compares_the_own_image_with_the_next_one_of_the_batch(training: TrainingExample) -> None:
    settings = training.settings(negatives=1, negative_loss=2, loss="infonce", dropout=0.0)
    model, split = training.model(settings).eval(), training.split()
    false = ["dog and tree", "cat and ball", "house and car"]
    rows = np.full(len(split.texts), -1)
    rows[[0, 3, 6]] = [0, 1, 2]  # captions of three images
    bank = NegativeBank(CaptionBank.from_lists(model.vocabulary.encode(false)), rows, 1.0, 0)
    batches = PlannedBatches(split, training.bank(model), Augment(0), bank)
    batch = batches[BatchPlan(0, 0, np.array([0, 3, 6, 9]), (4,))]
    assert batch.negatives is not None and batch.negatives.caption.tolist() == [0, 1, 2]
    fabric = launch_fabric(settings.train)
    with torch.no_grad():
        loss, score_loss, global_loss = Objective(model, settings.train, Peers(fabric))(BatchShare(batch, (4,)), False)
        images = model.encode_image(batch.regions)
        true = model.score(images, model.encode_text(batch.tokens)).total
        changed = model.score(images, model.encode_text(batch.negatives.tokens)).total
    expected = 0.0
    for caption in range(3):
        gap = true[caption, caption] - changed[caption, caption]
        other_gap = true[caption + 1, caption] - changed[caption + 1, caption]
        expected += math.log1p(math.exp(-float(gap - other_gap) / settings.train.temperature)) / 4
    extra = float(loss - score_loss - settings.train.global_loss * global_loss)
    assert extra == pytest.approx(2 * expected, rel=1e-4)


def test_words_of_false_captions_are_dropped_too_and_other_draws_stay_the_same(training: TrainingExample) -> None:
    settings = training.settings(negatives=1)
    model, split = training.model(settings), training.split()
    rows = np.arange(len(split.texts))
    bank = NegativeBank(CaptionBank.from_lists([[1] * 30] * len(rows)), rows, 1.0, 0)
    plan = BatchPlan(2, 0, np.array([0, 3, 6, 9]), (4,))
    augment = Augment(0, 0.2, 0.5)
    with_negatives = PlannedBatches(split, training.bank(model), augment, bank)[plan]
    without = PlannedBatches(split, training.bank(model), augment)[plan]
    assert torch.equal(with_negatives.tokens.ids, without.tokens.ids)
    assert torch.equal(with_negatives.regions.mask, without.regions.mask)
    assert with_negatives.negatives is not None
    kept = with_negatives.negatives.tokens.mask.sum(dim=1)
    assert ((kept > 5) & (kept < 25)).all() and len(set(kept.tolist())) > 1


def test_false_captions_change_the_training_and_their_draws_repeat(training: TrainingExample) -> None:
    def fit(share: float, out: str) -> list[float]:
        settings = training.settings(negatives=share, epochs=2, out=training.out / out)
        model = training.model(settings)
        rows = np.arange(len(training.split().texts))[::-1].copy()
        bank = NegativeBank(training.bank(model), rows, share, 0) if share else None
        return [record.loss for record in training.fit(settings, model, negatives=bank).history]

    assert fit(0.7, "one") == fit(0.7, "two") != fit(0, "three")
