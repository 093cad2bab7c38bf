"""The encoder: BERT, layer by layer.

Devlin et al. 2018, "BERT: Pre-training of Deep Bidirectional Transformers"
(https://arxiv.org/abs/1810.04805); attention from Vaswani et al. 2017, "Attention Is All You Need"
(https://arxiv.org/abs/1706.03762). The reference implementation is transformers' ``BertModel``:
in the padded layout every operation here gives its bits, which is why the order of additions and
the three separate projections must stay as they are.

Dimensions (all-MiniLM-L6-v2's values in brackets):
    B  texts in a batch                  D  hidden size [384]
    T  tokens in the longest text        H  attention heads [12]
    N  tokens in a packed batch          d  head size, D / H [32]
    F  feed-forward size [1536]          V  vocabulary [30522]
``[..., D]`` is ``[B, T, D]`` in the padded layout and ``[N, D]`` in the packed one (layouts.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minilm.config import EncoderConfig
from minilm.errors import InputError, check_choice
from minilm.layouts import Batch

Attention: TypeAlias = Literal["sdpa", "eager"]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,  # the exact one, x · Φ(x), through erf
    "gelu_python": lambda x: x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0))),
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_new": lambda x: 0.5 * x * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * torch.pow(x, 3.0)))),
    "relu": F.relu,
    "silu": F.silu,
    "swish": F.silu,
    "tanh": torch.tanh,
}


@dataclass(frozen=True)
class EncoderOutput:
    """What the encoder computed, in the batch's layout.

    Attributes:
        last_hidden_state: ``[..., D]``, one vector for each token.
        hidden_states: on request, the embeddings and the output of each layer, each ``[..., D]``.
        attentions: on request, the attention probabilities of each layer: for each block of the
            batch ``[rows, H, tokens, tokens]`` (a padded batch is one block, ``[B, H, T, T]``).
    """

    last_hidden_state: Tensor
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[list[Tensor], ...] | None = None


class Embeddings(nn.Module):
    """Token ids → vectors: word + token type + position, normalised."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        D = config.hidden_size
        self.word = nn.Embedding(config.vocab_size, D, padding_idx=config.pad_token_id)
        self.position = nn.Embedding(config.max_position_embeddings, D)
        self.token_type = nn.Embedding(config.type_vocab_size, D)
        self.norm = nn.LayerNorm(D, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, batch: Batch) -> Tensor:
        """Ids ``[...]`` → ``[..., D]``."""
        token_type_ids = torch.zeros_like(batch.input_ids)  # a sentence encoder sees one segment
        hidden = self.word(batch.input_ids) + self.token_type(token_type_ids)  # [..., D]
        hidden = hidden + self.position(batch.position_ids)
        return self.dropout(self.norm(hidden))  # type: ignore[no-any-return]


class SelfAttention(nn.Module):
    """Multi-head self-attention: each token gathers from the tokens of its own text."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        D = config.hidden_size
        self.heads = (config.num_attention_heads, config.head_size)  # H, d
        self.query = nn.Linear(D, D)
        self.key = nn.Linear(D, D)
        self.value = nn.Linear(D, D)
        self.output = nn.Linear(D, D)
        self.dropout = nn.Dropout(config.attention_probs_dropout_prob)

    def forward(self, hidden: Tensor, batch: Batch, attention: Attention) -> tuple[Tensor, list[Tensor]]:
        """``[..., D]`` → ``[..., D]``, and each block's probabilities when written out by hand."""
        query = self.query(hidden).unflatten(-1, self.heads)  # [..., D] → [..., H, d]
        key = self.key(hidden).unflatten(-1, self.heads)
        value = self.value(hidden).unflatten(-1, self.heads)
        dropout = self.dropout.p if self.training else 0.0

        contexts, probabilities = [], []
        for block, mask in batch.blocks(query, key, value):  # rectangles of whole texts
            q, k, v = (x.transpose(1, 2) for x in block)  # [B, T, H, d] → [B, H, T, d]
            if mask is not None:
                mask = mask[:, None, None, :]  # [B, T] → [B, 1, 1, T]: of the keys, for every query
            if attention == "eager":
                context, p = attend_by_hand(q, k, v, mask, self.dropout)
                probabilities.append(p)
            else:
                # The scale is stated because the kernel's own, 1 / √d, is another float64 number.
                context = F.scaled_dot_product_attention(q, k, v, mask, dropout, scale=self.heads[1] ** -0.5)
            contexts.append(context.transpose(1, 2))  # [B, H, T, d] → [B, T, H, d]
        context = batch.join(contexts).flatten(-2)  # [..., H, d] → [..., D]
        return self.output(context), probabilities


def attend_by_hand(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    dropout: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Scaled dot-product attention written out: softmax(q kᵀ / √d) v (Vaswani et al. 2017, eq. 1).

    The same function as ``torch.nn.functional.scaled_dot_product_attention``, to rounding, and
    slower; unlike it, this one shows its probabilities.

    Args:
        query, key, value: ``[B, H, T, d]``.
        mask: bool, broadcast to ``[B, H, T, T]``; False where a query may not look. None: all may.
        dropout: sets some of the probabilities to zero while training, such as ``nn.Dropout(0.1)``.

    Returns:
        The context ``[B, H, T, d]`` and the probabilities ``[B, H, T, T]``; each row of these sums
        to 1 before dropout.
    """
    scores = query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5  # [B, H, T, T]
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    probabilities = scores.softmax(dim=-1)
    kept = probabilities if dropout is None else dropout(probabilities)
    return kept @ value, probabilities


class FeedForward(nn.Module):
    """Each token by itself: up to F dimensions, a non-linearity, and down again."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.up = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = ACTIVATIONS[config.hidden_act]
        self.down = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden: Tensor) -> Tensor:
        """``[..., D]`` → ``[..., F]`` → ``[..., D]``."""
        return self.down(self.activation(self.up(hidden)))  # type: ignore[no-any-return]


class EncoderLayer(nn.Module):
    """Attention, then feed-forward, each added to its input and normalised (post-norm)."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        # The order of these four is the checkpoint's; sums over all parameters depend on it.
        self.attention = SelfAttention(config)
        self.attention_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.feed_forward = FeedForward(config)
        self.feed_forward_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, hidden: Tensor, batch: Batch, attention: Attention) -> tuple[Tensor, list[Tensor]]:
        """``[..., D]`` → ``[..., D]``, and the attention's probabilities."""
        context, probabilities = self.attention(hidden, batch, attention)
        hidden = self.attention_norm(self.dropout(context) + hidden)
        hidden = self.feed_forward_norm(self.dropout(self.feed_forward(hidden)) + hidden)
        return hidden, probabilities


class Encoder(nn.Module):
    """The whole encoder: embeddings, then the layers one after the other.

    A new encoder is random, initialised as BERT is: normal weights with ``initializer_range`` as
    standard deviation, biases 0, LayerNorm 1 and 0. ``checkpoint.load_encoder`` fills in trained ones.
    """

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(config)
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.num_hidden_layers))
        self.apply(self._initialise)

    def forward(
        self,
        batch: Batch,
        attention: Attention = "sdpa",
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> EncoderOutput:
        """Runs the encoder over a batch in either layout.

        Args:
            batch: token ids, on the encoder's device.
            attention: ``"sdpa"``, torch's kernel, or ``"eager"``, written out by hand.
            output_hidden_states: keep the embeddings and every layer's output.
            output_attentions: keep every layer's attention probabilities; needs ``"eager"``, since
                the kernel never forms them.

        Raises:
            InputError: an attention that does not exist or cannot give probabilities, an empty
                batch or text, or a text longer than the position table.
        """
        self._check(batch, attention, output_attentions)
        hidden = self.embeddings(batch)
        hidden_states, attentions = [hidden], []
        for layer in self.layers:
            hidden, probabilities = layer(hidden, batch, attention)
            if output_hidden_states:
                hidden_states.append(hidden)
            if output_attentions:
                attentions.append(probabilities)
        return EncoderOutput(
            last_hidden_state=hidden,
            hidden_states=tuple(hidden_states) if output_hidden_states else None,
            attentions=tuple(attentions) if output_attentions else None,
        )

    def _check(self, batch: Batch, attention: str, output_attentions: bool) -> None:
        check_choice("attention", attention, ("sdpa", "eager"))
        if output_attentions and attention != "eager":
            raise InputError('output_attentions needs attention="eager": sdpa never forms the probabilities')
        check_lengths(batch.lengths, self.config.max_position_embeddings)

    def _initialise(self, module: nn.Module) -> None:
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
        if isinstance(module, nn.Embedding) and module.padding_idx is not None:
            with torch.no_grad():
                module.weight[module.padding_idx].zero_()


def check_lengths(lengths: Sequence[int], positions: int) -> None:
    """Raises an :class:`InputError` for a batch without texts, or with one of no tokens or of too many."""
    if not lengths or min(lengths) == 0:
        raise InputError("the batch is empty or has a text without tokens; an empty text is [CLS] [SEP]")
    if max(lengths) > positions:
        raise InputError(
            f"a text has {max(lengths)} tokens, but there are positions for {positions}; "
            "cut it, as SentenceEncoder.tokenize does"
        )
