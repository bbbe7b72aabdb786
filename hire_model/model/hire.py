"""The model. Read this file first; each stage has its own file.

    encode_image   once per image:    1 projection   -> 3 implicit relations -> 4 explicit relations -> 5 summary
    encode_text    once per caption:  2 text encoder -> 3 implicit relations -> 5 summary
    score          once per pair:     6 object-word attention -> 7 cross-level interaction -> 8 score

Padding is masked everywhere: a score does not depend on padding, on other items of the batch, or on region order.
Letters in shapes are explained in hire_model/batch.py. docs/model.md lists the source of each stage.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from hire_model.batch import EncodedImages, EncodedTexts, Regions, Scores, Tokens
from hire_model.model.fused import scoring as fused
from hire_model.model.fused import training as fused_training
from hire_model.model.graph import ExplicitRelations
from hire_model.model.hubs import HubBank
from hire_model.model.implicit_edges import ImplicitEdges, PredictedEdges
from hire_model.model.interaction import Interaction, Side, score_in_blocks
from hire_model.model.layers import ImplicitRelations, make_linear, masked_mean, normalize
from hire_model.model.regions import RegionProjection
from hire_model.model.relations import RelationRoles
from hire_model.model.text import BiGRU, PretrainedEncoder
from hire_model.model.towers import TextTower, TowerHead
from hire_model.model.vocabulary import Vocabulary
from hire_model.settings import ModelSettings


class Hire(nn.Module):
    """Score images against captions: hybrid-modal interaction with multiple relational enhancements.

    A re-implementation from the paper's description. Create an untrained model with `build_model`, and load a trained
    one with `hire_model.model.artifact.load`. Use `Scorer` to score raw images and captions.

    Args:
        settings: the stages to build, and their sizes.
        feature_dim: F, size of the region features.
        predicates: names of the relations, in the order of their labels.
        vocabulary: the tokenizer.
        encoder_config: configuration of a pretrained text encoder whose weights are loaded later. Without it the
            encoder is loaded from `model.text.checkpoint`.
        classes: names of the regions' classes, in the order of their ids; kept only with model.class_vectors.

    Examples:
        >>> from hire_model import Dataset
        >>> from hire_model.data.loading import collate_regions
        >>> from hire_model.model.build import build_model
        >>> from hire_model.model.captions import build_caption_bank
        >>> from hire_model.settings import resolve
        >>> split = Dataset.open("datasets/scenes").split("train")
        >>> model = build_model(resolve("synthetic").settings.model, split).eval()
        >>> images = model.encode_image(collate_regions([split.regions(0), split.regions(1)]))
        >>> texts = model.encode_text(build_caption_bank(model, ["a dog near a fence"]).tokens([0]))
        >>> model.score(images, texts).total.shape
        torch.Size([2, 1])
    """

    def __init__(
        self,
        settings: ModelSettings,
        feature_dim: int,
        predicates: Sequence[str],
        vocabulary: Vocabulary,
        encoder_config: dict[str, Any] | None = None,
        classes: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.settings, self.feature_dim, self.predicates = settings, feature_dim, tuple(predicates)
        self.classes = tuple(classes) if settings.class_vectors else ()
        self.vocabulary = vocabulary
        self.hubs: HubBank | None = None  # for the hub correction; no part of the weights
        self.feature_extractor = ""  # of the training data; empty if it is not known
        dim, pair_dim, bigru = settings.dim, settings.pair_dim or settings.dim, settings.text.kind == "bigru"

        # Stage 1 for images, stage 2 for captions. With towers, the last features are the vision tower's embedding.
        tower = TextTower(settings, encoder_config) if settings.text.is_tower else None
        embedding_dim = 0 if tower is None else tower.embedding_dim
        self.regions = RegionProjection(settings, feature_dim - embedding_dim, len(self.classes))
        self.text: BiGRU | PretrainedEncoder
        if tower is not None:
            self.text = tower
        else:
            self.text = BiGRU(settings, len(vocabulary)) if bigru else PretrainedEncoder(settings, encoder_config)

        # Stage 3, implicit relations.
        implicit_text = settings.text_implicit == "on" or (settings.text_implicit == "auto" and bigru)
        self.implicit_regions = ImplicitRelations(settings) if settings.image_implicit else None
        self.implicit_words = ImplicitRelations(settings) if implicit_text else None

        # Stage 4, explicit relations.
        self.explicit = ExplicitRelations(settings, len(self.predicates)) if settings.graphs != "none" else None

        # From D to P, the smaller size of the pair stages.
        self.to_pair_regions = make_linear(dim, pair_dim) if settings.pair_dim else nn.Identity()
        self.to_pair_words = make_linear(dim, pair_dim) if settings.pair_dim else nn.Identity()
        for layer in (self.to_pair_regions, self.to_pair_words):
            if isinstance(layer, nn.Linear) and settings.residual:
                nn.init.eye_(layer.weight)  # keep the first P directions: the strongest ones after a warm start

        # Stages 6 to 8. `roles` is the caption part of the relation match in stage 8; kinds is K, or 0 without it.
        kinds = self.explicit.kinds if self.explicit is not None and settings.relation_match else 0
        self.roles = RelationRoles(self.text.width, kinds) if kinds else None
        self.interaction = Interaction(settings, kinds)

        # Stage 5 and the share of the pair score with towers.
        self.towers = None if tower is None else TowerHead(dim, tower)
        self.summary_dim = embedding_dim or dim

        # Predicts edges for stage 4. The last module, so that it does not change how the others are initialised.
        implicit = settings.implicit_edges and self.explicit is not None and settings.edge_labels != "none"
        self.implicit_edges = ImplicitEdges(dim, len(self.predicates)) if implicit else None

    def encode_image(self, regions: Regions) -> EncodedImages:
        """Run stages 1, 3, 4 and 5, once per image."""
        v, edges = self.encode_regions(regions), None  # features [B, R, F] -> V1 [B, R, D]
        if self.explicit is not None:
            predicted = self.implicit_edges(v, regions) if self.implicit_edges is not None else None
            v, edges = self.explicit(v, regions, predicted)  # V2 [B, R, D], edges [B, K, R, R]
        v = v * regions.mask[..., None]
        shares = self.regions.compute_shares(regions)  # [B, R]
        mean = masked_mean(v, regions.mask, shares)
        summary = normalize(mean) if self.towers is None else self.towers.summarize_image(mean, regions)  # g_I [B, D]
        v = self.to_pair_regions(v)  # [B, R, P]
        return EncodedImages(v, regions.mask, summary, edges if self.roles is not None else None, shares)

    def predict_edges(self, regions: Regions) -> PredictedEdges:
        """Return the relations that stage 4 assumes where it has no explicit edge; requires model.implicit_edges."""
        assert self.implicit_edges is not None
        return self.implicit_edges(self.encode_regions(regions), regions)

    def encode_regions(self, regions: Regions) -> Tensor:
        """Run stages 1 and 3: return V1 [B, R, D]."""
        v = self.regions(regions)  # features [B, R, F] -> V0 [B, R, D]
        return v if self.implicit_regions is None else self.implicit_regions(v, regions.mask)

    def encode_text(self, tokens: Tokens) -> EncodedTexts:
        """Run stages 2, 3 and 5, once per caption."""
        t, states = self.encode_words(tokens)  # T [C, L, D], states [C, L, H]
        mean = masked_mean(t, tokens.mask)
        summary = normalize(mean) if self.towers is None else self.towers.summarize_text(mean, states, tokens.mask)
        roles = self.roles(states) if self.roles is not None else None  # [C, L, 2Kd]
        return EncodedTexts(self.to_pair_words(t), tokens.mask, summary, roles)  # words [C, L, P]

    def encode_words(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """Run stages 2 and 3: return T [C, L, D], zero where padded, and the text encoder's states [C, L, H]."""
        t, states = self.text(tokens)  # [C, L, D], [C, L, H]
        if self.implicit_words is not None:
            t = self.implicit_words(t, tokens.mask)
        return t * tokens.mask[..., None], states

    def score(self, images: EncodedImages, texts: EncodedTexts) -> Scores:
        """Run stages 6 to 8 for each of B images against each of C captions; scores are [B, C]."""
        pair = fused.score(self.interaction, images, texts)
        if pair is None:
            sides = self.prepare_sides(images, texts)
            pair = fused_training.score(self.interaction, images, texts, *sides)
            if pair is None:
                pair = score_in_blocks(self.interaction, *sides)
        return self._combine(pair, images.summary @ texts.summary.T)

    def score_pairs(self, images: EncodedImages, texts: EncodedTexts, image: Tensor, text: Tensor) -> Scores:
        """Run stages 6 to 8 for N pairs, given as indices image [N] and text [N]; scores are [N]."""
        pair = fused.score(self.interaction, images, texts, (image, text))
        if pair is None:
            v, t = self.prepare_sides(images, texts)
            pair = self.interaction(v[image[:, None]], t[text[:, None]])[:, 0, 0]  # a group per pair: [N, 1, 1] -> [N]
        return self._combine(pair, (images.summary[image] * texts.summary[text]).sum(dim=-1))

    def prepare_sides(self, images: EncodedImages, texts: EncodedTexts) -> tuple[Side, Side]:
        """Return the inputs of the pair stages, computed once per image and once per caption."""
        return self.interaction.prepare_images(images), self.interaction.prepare_texts(texts)

    def _combine(self, pair: Tensor, globals_: Tensor) -> Scores:
        """Return the weighted mean of the pair score and the global score, with its parts."""
        if not self.settings.global_head:
            return Scores(pair, pair, None)
        weight = self.settings.global_weight
        if self.towers is not None:
            pair = pair * self.towers.pair_gain
        return Scores((1 - weight) * pair + weight * globals_, pair, globals_)
