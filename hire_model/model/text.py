"""Stage 2, the text encoder: word pieces [C, L] -> T [C, L, D]."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv1d
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from hire_model.batch import Tokens
from hire_model.errors import SettingsError
from hire_model.model.layers import Dropout, make_linear
from hire_model.model.vocabulary import describe_missing_checkpoint, find_checkpoint_folder
from hire_model.settings import ModelSettings

CONTEXT_WORDS = 2  # on either side
INITIAL_SHARE = 0.8  # of the neighbours' mean that is added to a word before training


class BiGRU(nn.Module):
    """Word embeddings and a bidirectional GRU whose directions are averaged (SCAN, Lee et al. 2018, section 3.2).

    With model.residual the word embeddings pass through a Linear and `Context`, and a Linear initialised to zero adds
    the GRU's output.

    Attributes:
        width: H, size of the states of both directions.
    """

    def __init__(self, settings: ModelSettings, vocabulary_size: int) -> None:
        super().__init__()
        self.width = 2 * settings.dim
        self.embedding = nn.Embedding(vocabulary_size, settings.text.embedding, padding_idx=0)
        self.dropout = Dropout(settings.input_dropout)
        self.gru = nn.GRU(settings.text.embedding, settings.dim, batch_first=True, bidirectional=True)
        self.skip = make_linear(settings.text.embedding, settings.dim) if settings.residual else None
        self.out = make_linear(settings.dim, settings.dim, gain=0) if settings.residual else None
        self.context = Context(settings.dim) if settings.residual else None
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)

    def forward(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """Return T [C, L, D] and states [C, L, H].

        The sequences are packed, so that the backward direction starts at the last real word.
        """
        words = self.dropout(self.embedding(tokens.ids))  # [C, L, text.embedding]
        lengths = tokens.mask.sum(dim=1).cpu()
        with torch.autocast(words.device.type, enabled=False):  # cuDNN would run the GRU in fp16: gradients vanish
            packed = pack_padded_sequence(words.float(), lengths, batch_first=True, enforce_sorted=False)
            states, _ = pad_packed_sequence(self.gru(packed)[0], batch_first=True, total_length=tokens.ids.shape[1])
        forward, backward = states.chunk(2, dim=-1)
        t = (forward + backward) / 2
        if self.skip is None or self.out is None or self.context is None:
            return t, states
        return self.context(self.skip(words), tokens.mask) + self.out(t), states


class Context(nn.Module):
    """Add to each word a weighted sum of the `CONTEXT_WORDS` words on either side.

    A depthwise convolution, initialised to `INITIAL_SHARE` of the neighbours' mean. It does for words what stage 4 does
    for regions.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((dim, 1, 2 * CONTEXT_WORDS + 1), INITIAL_SHARE / (2 * CONTEXT_WORDS)))
        self.weight.data[:, :, CONTEXT_WORDS] = 0

    def forward(self, t: Tensor, mask: Tensor) -> Tensor:
        """Map t [C, L, D] with mask [C, L] to [C, L, D]."""
        masked = (t * mask[..., None]).transpose(1, 2)
        return t + conv1d(masked, self.weight, padding=CONTEXT_WORDS, groups=t.shape[-1]).transpose(1, 2)


class PretrainedEncoder(nn.Module):
    """A BERT-family encoder, tuned or frozen, and a Linear on its token states.

    With model.text.lexical a learned vector per word piece, initialised to zero, is added (ours). It holds what a word
    means in these captions beyond the general encoder.

    Attributes:
        width: H, size of the token states.
    """

    def __init__(self, settings: ModelSettings, encoder_config: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.tuned = settings.text.tuned
        self.encoder = self.load_encoder(settings.text.checkpoint, encoder_config)
        self.encoder.requires_grad_(self.tuned)
        self.dropout = Dropout(settings.input_dropout)
        self.width = int(self.encoder.config.hidden_size)
        self.project = make_linear(self.width, settings.dim)
        self.words = None
        if settings.text.lexical:
            self.words = nn.Embedding(int(self.encoder.config.vocab_size), settings.dim)
            nn.init.zeros_(self.words.weight)

    def load_encoder(self, checkpoint: str, config: dict[str, Any] | None) -> Any:
        """Load the encoder of `checkpoint`, or build one from `config` whose weights are loaded later."""
        return _load_encoder(checkpoint, config)

    def train(self, mode: bool = True) -> PretrainedEncoder:
        """Set the mode. A frozen encoder stays in evaluation mode: dropout must not change its states."""
        super().train(mode)
        if not self.tuned:
            self.encoder.eval()
        return self

    def encode(self, tokens: Tokens) -> Tensor:
        """Return the encoder's last hidden states [C, L, H], without gradient if it is frozen."""
        with contextlib.nullcontext() if self.tuned else torch.no_grad():
            return self.encoder(input_ids=tokens.ids, attention_mask=tokens.mask.long()).last_hidden_state

    def forward(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """Return T [C, L, D] and states [C, L, H]. Precomputed states of `tokens` are used if present."""
        states = self.dropout(self.encode(tokens) if tokens.states is None else tokens.states)
        t = self.project(states)
        return (t if self.words is None else t + self.words(tokens.ids)), states


def _load_encoder(checkpoint: str, config: dict[str, Any] | None) -> Any:
    """Load the checkpoint, or build an encoder from `config` whose weights are loaded later.

    The pooler over the first token is removed, as no score uses it.
    """
    from transformers import AutoConfig, AutoModel
    from transformers.utils import logging

    logging.disable_progress_bar()  # loading takes a second; a bar clutters the log
    if config is not None:
        encoder = AutoModel.from_config(AutoConfig.for_model(**config)).float()
    else:
        try:
            encoder = AutoModel.from_pretrained(
                find_checkpoint_folder(checkpoint), use_safetensors=True, dtype=torch.float32
            )
        except (OSError, ValueError) as error:
            raise SettingsError(describe_missing_checkpoint(checkpoint)) from error
    if getattr(encoder, "pooler", None) is not None:
        encoder.pooler = None
    return encoder
