"""The model, read first: what is done once per image, once per caption, and once per pair.

    encode_image   1 projection -> 3 implicit relations -> 4 explicit relations -> 5 summary
    encode_text    2 text encoder -> 3 implicit relations -> 5 summary
    score          6 object-word attention -> 7 cross-level interaction -> 8 score

Everything is masked: a score does not depend on padding, on the other members of a batch, or on region order.
Shapes and letters are those of hire_model/batch.py; P is model.pair_dim, or D where that is 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from hire_model.batch import EncodedImages, EncodedTexts, Regions, Scores, Tokens
from hire_model.model.graph import ExplicitRelations
from hire_model.model.interaction import Interaction, Side, in_blocks
from hire_model.model.layers import ImplicitRelations, linear, masked_mean, unit
from hire_model.model.regions import RegionProjection
from hire_model.model.relations import RelationRoles
from hire_model.model.text import BiGRU, Pretrained
from hire_model.model.vocabulary import Vocabulary
from hire_model.settings import ModelSettings


class Hire(nn.Module):
    """Hybrid-modal interaction with multiple relational enhancements: a re-implementation from the paper's description.

    feature_dim  F of the region features it takes
    predicates   names of the relations it knows, in the order of its labels
    vocabulary   its tokenizer
    encoder_config  config of a pretrained text encoder whose weights will be loaded afterwards
    """

    def __init__(
        self,
        settings: ModelSettings,
        feature_dim: int,
        predicates: Sequence[str],
        vocabulary: Vocabulary,
        encoder_config: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.settings, self.feature_dim, self.predicates = settings, feature_dim, tuple(predicates)
        self.vocabulary = vocabulary
        dim, pair = settings.dim, settings.pair_dim or settings.dim
        self.regions = RegionProjection(settings, feature_dim)
        self.text: BiGRU | Pretrained
        if settings.text.kind == "bert":
            self.text = Pretrained(settings, encoder_config)
        else:
            self.text = BiGRU(settings, len(vocabulary))
        heads, dropout = settings.implicit_heads, settings.dropout
        implicit_text = settings.text_implicit == "on" or (
            settings.text_implicit == "auto" and settings.text.kind == "bigru"
        )
        self.implicit_regions = (
            ImplicitRelations(dim, heads, dropout, settings.residual) if settings.image_implicit else None
        )
        self.implicit_words = ImplicitRelations(dim, heads, dropout, settings.residual) if implicit_text else None
        self.explicit = ExplicitRelations(settings, len(self.predicates)) if settings.graphs != "none" else None
        self.to_pair_regions = linear(dim, pair) if settings.pair_dim else None
        self.to_pair_words = linear(dim, pair) if settings.pair_dim else None
        for layer in (self.to_pair_regions, self.to_pair_words):
            if layer is not None and settings.residual:  # the strongest directions of a warm start come first
                nn.init.eye_(layer.weight)
        kinds = self.explicit.kinds if self.explicit is not None and settings.relation_match else 0
        self.roles = RelationRoles(self.text.width, kinds) if kinds else None
        self.interaction = Interaction(settings, kinds)

    def encode_image(self, regions: Regions) -> EncodedImages:
        """Stages 1 and 3 to 5, once per image."""
        v, edges = self.regions(regions), None  # V0 [B, R, D]
        if self.implicit_regions is not None:
            v = self.implicit_regions(v, regions.mask)  # V1
        if self.explicit is not None:
            v, edges = self.explicit(v, regions)  # V2, [B, K, R, R]
        v = v * regions.mask[..., None]
        summary = unit(masked_mean(v, regions.mask))  # g_I [B, D]
        return EncodedImages(
            _through(self.to_pair_regions, v), regions.mask, summary, None if self.roles is None else edges
        )

    def encode_text(self, tokens: Tokens) -> EncodedTexts:
        """Stages 2, 3 and 5, once per caption."""
        t, states = self.words(tokens)
        summary = unit(masked_mean(t, tokens.mask))  # g_T [C, D]
        roles = None if self.roles is None else self.roles(states)
        return EncodedTexts(_through(self.to_pair_words, t), tokens.mask, summary, roles)

    def words(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """Stages 2 and 3: T [C, L, D], zero where padded, and the text encoder's states [C, L, H]."""
        t, states = self.text(tokens)
        if self.implicit_words is not None:
            t = self.implicit_words(t, tokens.mask)
        return t * tokens.mask[..., None], states

    def score(self, images: EncodedImages, texts: EncodedTexts) -> Scores:
        """Stages 6 to 8 for each of B images against each of C captions -> [B, C]."""
        v, t = self.sides(images, texts)
        return self._scores(in_blocks(self.interaction, v, t), images.summary @ texts.summary.T)

    def score_pairs(self, images: EncodedImages, texts: EncodedTexts, image: Tensor, text: Tensor) -> Scores:
        """Stages 6 to 8 for K pairs only, given as indices image [K] and text [K] -> [K]."""
        v, t = self.sides(images, texts)
        pair = self.interaction(v[image[:, None]], t[text[:, None]])[:, 0, 0]
        return self._scores(pair, (images.summary[image] * texts.summary[text]).sum(dim=-1))

    def sides(self, images: EncodedImages, texts: EncodedTexts) -> tuple[Side, Side]:
        """Both sides, prepared for the pair stages."""
        return self.interaction.image_side(images), self.interaction.text_side(texts)

    def _scores(self, pair: Tensor, globals_: Tensor) -> Scores:
        if not self.settings.global_head:
            return Scores(pair, pair, None)
        weight = self.settings.global_weight
        return Scores((1 - weight) * pair + weight * globals_, pair, globals_)


def _through(layer: nn.Linear | None, x: Tensor) -> Tensor:
    return x if layer is None else layer(x)
