"""Extracting and concatenating encoded items does not change scores."""

from __future__ import annotations

import model_examples
import numpy as np
import pytest
import torch

from hire_model.batch import EncodedImages, EncodedTexts
from hire_model.scoring.scorer import Scorer


@pytest.mark.parametrize("relation_match", [True, False])
def test_extracted_and_concatenated_items_score_as_before(relation_match: bool) -> None:
    random = np.random.default_rng(0)
    scorer = Scorer(model_examples.make_model(relation_match=relation_match))
    images = scorer.encode_images([model_examples.make_image(random) for _ in range(5)])
    texts = scorer.encode_texts([model_examples.make_caption(random) for _ in range(4)])
    assert (images.edges is not None) == (texts.roles is not None) == relation_match
    order = torch.tensor([3, 0, 4, 1, 2])
    rebuilt = (
        EncodedImages.concatenate([images.extract(int(i)) for i in order]),
        EncodedTexts.concatenate([texts.extract(j) for j in range(4)]),
    )
    with torch.inference_mode():
        expected = scorer.model.score(images, texts).total
        scores = scorer.model.score(*rebuilt).total
    torch.testing.assert_close(scores, expected[order], atol=1e-6, rtol=0)
    single = images.extract(0)
    assert single.nbytes < images.nbytes
    assert single.regions.untyped_storage().nbytes() == single.regions.nbytes, "it shares memory with the batch"
