"""Start from two towers: the text tower of CLIP or SigLIP, and a global head that starts as the towers' cosine.

The vision tower is not part of the model: `hire data import images --tower` stores its patches, averaged in boxes, as
the features of the regions, and appends its embedding of the picture (data/images/patches.py).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from hire_model.batch import Regions, Tokens
from hire_model.data.images.checkpoints import load_model, load_tokenizer, open_checkpoint
from hire_model.errors import SettingsError
from hire_model.model.layers import make_linear, masked_mean, normalize
from hire_model.model.text import PretrainedEncoder
from hire_model.settings import ModelSettings


class TextTower(PretrainedEncoder):
    """The text tower of a CLIP or SigLIP checkpoint.

    Its token states are those of stage 2. The state of the last word piece, the end mark, is the one that the tower
    pools: CLIP's own, and with SigLIP the state of the last of all positions, which are padded as in its training.

    Attributes:
        embedding_dim: E, size of the tower's embedding.
    """

    def __init__(self, settings: ModelSettings, encoder_config: dict[str, Any] | None = None) -> None:
        self.siglip = settings.text.kind == "siglip"
        super().__init__(settings, encoder_config)
        config = self.encoder.config
        self.pad_id, self.positions = int(config.pad_token_id), int(config.max_position_embeddings)
        self.embedding_dim = int(config.projection_size if self.siglip else config.projection_dim)
        if settings.text.max_words > self.positions:
            raise SettingsError(
                f"model.text.max_words={settings.text.max_words}: the tower has {self.positions} positions. Set "
                f"model.text.max_words={self.positions}."
            )

    def load_encoder(self, checkpoint: str, config: dict[str, Any] | None) -> Any:
        """Load the text tower of `checkpoint`, or build one from `config` whose weights are loaded later."""
        import transformers as hf

        if config is not None:
            if self.siglip:
                return hf.SiglipTextModel(hf.SiglipTextConfig(**config)).float()
            return hf.CLIPTextModelWithProjection(hf.CLIPTextConfig(**config)).float()
        kind = "siglip" if self.siglip else "clip"
        opened = open_checkpoint(checkpoint)
        if opened.model_type != kind:
            raise SettingsError(
                f"model.text.kind={kind}: {checkpoint} is a checkpoint of type '{opened.model_type}'. Expected the one "
                "that made the region features, of the same kind."
            )
        both = load_model(opened, hf.SiglipModel if self.siglip else hf.CLIPModel)
        text_config = both.config.text_config
        text_config.pad_token_id = load_tokenizer(opened.folder, "model.text.checkpoint").pad_token_id or 0
        if self.siglip:
            return both.text_model
        text_config.projection_dim = both.config.projection_dim
        tower = hf.CLIPTextModelWithProjection(text_config).eval()
        tower.text_model, tower.text_projection = both.text_model, both.text_projection
        return tower

    def encode(self, tokens: Tokens) -> Tensor:
        """Return the states [C, L, H]; that of each caption's last word piece is the one that the tower pools."""
        with torch.set_grad_enabled(self.tuned and torch.is_grad_enabled()):
            ids = tokens.ids.masked_fill(~tokens.mask, self.pad_id)
            if not self.siglip:  # attention is causal, so padding has no effect
                return self.encoder.text_model(input_ids=ids).last_hidden_state
            length = ids.shape[1]
            ids = nn.functional.pad(ids, (0, self.positions - length), value=self.pad_id)
            states = self.encoder(input_ids=ids).last_hidden_state
            last = mark_last(tokens.mask)[..., None]
            return torch.where(last, states[:, -1:], states[:, :length])

    def forward(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """Return T [C, L, D] and the states [C, L, H], which keep the tower's embedding: without dropout."""
        states = self.encode(tokens) if tokens.states is None else tokens.states
        t = self.project(self.dropout(states))
        return (t if self.words is None else t + self.words(tokens.ids)), states

    def embed(self, states: Tensor, mask: Tensor) -> Tensor:
        """Return the tower's embeddings [C, E] of captions with states [C, L, H] and mask [C, L]."""
        pooled = (states * mark_last(mask)[..., None]).sum(dim=1)
        return self.encoder.head(pooled) if self.siglip else self.encoder.text_projection(pooled)


class TowerHead(nn.Module):
    """Stage 5 with towers: embedding of the tower + a Linear on the mean of the stages, initialised to zero.

    `pair_gain`, also zero at first, is a factor on the pair score. So all scores start as global_weight times the
    towers' cosine, and the stages only add to it.
    """

    def __init__(self, dim: int, text: TextTower) -> None:
        super().__init__()
        self.embed_text, self.size = text.embed, text.embedding_dim  # a method: the weights stay those of `text`
        self.image = make_linear(dim, self.size, gain=0)
        self.text = make_linear(dim, self.size, gain=0)
        self.pair_gain = nn.Parameter(torch.zeros(()))

    def summarize_image(self, mean: Tensor, regions: Regions) -> Tensor:
        """Return g_I [B, E] from the mean [B, D] of V2 and the embedding, which is the same in all regions."""
        embedding = masked_mean(regions.features[..., -self.size :], regions.mask)
        return normalize(normalize(embedding) + self.image(mean))

    def summarize_text(self, mean: Tensor, states: Tensor, mask: Tensor) -> Tensor:
        """Return g_T [C, E] from the mean [C, D] of T and the states [C, L, H] of the tower."""
        return normalize(normalize(self.embed_text(states, mask)) + self.text(mean))

    def split_summary(self, t: Tensor, states: Tensor, mask: Tensor, against: Tensor) -> Tensor:
        """Split <g_T, against> of one caption, t [L, D] and states [L, H], over its word pieces: [L].

        The tower's embedding counts for the last one, the end mark.
        """
        embedding = normalize(self.embed_text(states[None], mask[None]))[0]
        parts = (self.text(t) * mask[:, None] / mask.sum()) @ against
        length = (embedding + self.text(masked_mean(t, mask))).square().sum().rsqrt()
        return (parts + mark_last(mask[None])[0] * (embedding @ against)) * length


def mark_last(mask: Tensor) -> Tensor:
    """Return [C, L] bool, True only at the last True of each row of `mask`, which has no gaps."""
    return mask & ~nn.functional.pad(mask[:, 1:], (0, 1))
