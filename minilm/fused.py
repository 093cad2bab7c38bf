"""The encoder once more, for speed: encoder.py's functions over weights that are laid out for the CPU.

:class:`FusedEncoder` is built from the plain modules and tested against them. It takes packed batches, for
inference on the CPU, and is what ``SentenceEncoder.encode`` runs there. What it does differently:

* Query, key and value are one matrix product, and weights lie in the order in which oneDNN's kernels read
  them. Bias, activation and residual are added inside the product instead of in passes of their own.
* Attention runs over windows. torch's kernel is two to three times slower for a number of keys that is no
  multiple of 16, so each text is seen through a window that is: an overlapping view of the line of tokens,
  with the keys behind the text's end masked. Nothing is copied and no product has rows of padding.
* Whether it may be used is asked before every use: it must have been made from what the encoder is (guard.py), and
  when it is made, both run over a small batch and must agree.
* Batch invariance: a text's vector has the same bits whatever else is in the batch. Attention has it by
  construction, as each text is a problem of its own, of a shape that depends on its length alone (but for
  short texts in bfloat16, see :meth:`FusedEncoder._windows`). Everything else works row by row, and all that
  is needed is a matrix product whose rows do not depend on how many there are, nor on their place. oneDNN's
  have that but for one case, see :class:`_Prepacked`; elsewhere :class:`_Blocked` makes all products alike.
  ``minilm verify`` looks whether it holds on a given machine (invariance.py).

Dimensions as in encoder.py.
"""

from __future__ import annotations

import itertools
import math
import os
import platform
import threading
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minilm.encoder import ACTIVATIONS, Encoder, EncoderOutput, check_lengths
from minilm.errors import EngineWarning, MinilmError, caller_level
from minilm.guard import Guard, obstacle
from minilm.layouts import PackedBatch
from minilm.tolerances import ENGINE, ENGINE_INT8

if TYPE_CHECKING:
    from minilm.int8 import _Int8Linear

# The number of keys that torch's attention kernel likes to be divided by: a vector of float32.
KEYS = 16

# Rows of the matrix products that are the same in every batch, see _Prepacked and _Blocked.
ROWS = 32

# Weights are laid out for a product of this many rows; other numbers work as well.
_TYPICAL_ROWS = 2048

# What oneDNN calls the activations: name, arguments, algorithm.
_ACTIVATIONS: dict[Callable[[Tensor], Tensor], tuple[str, list[float], str]] = {
    ACTIVATIONS["gelu"]: ("gelu", [], "none"),
    ACTIVATIONS["gelu_pytorch_tanh"]: ("gelu", [], "tanh"),
    ACTIVATIONS["gelu_new"]: ("gelu", [], "tanh"),
    ACTIVATIONS["gelu_python"]: ("gelu", [], "none"),
    ACTIVATIONS["relu"]: ("relu", [], ""),
    ACTIVATIONS["silu"]: ("swish", [], ""),
    ACTIVATIONS["swish"]: ("swish", [], ""),
    ACTIVATIONS["tanh"]: ("tanh", [], ""),
}

# What an engine is compared with the plain encoder on: texts of these many tokens.
_PROOF = (2, 2, 3, 7, 7, 16, 17, 33)


class _Prepacked:
    """A linear map whose weight lies as oneDNN's kernels read it, through operators of torch's compiler.

    The kernels give a row the same bits for any number of rows, but for one case: in bfloat16, a long inner
    dimension is cut and summed in parts where the rows are more than one tile and too few to keep the
    processor busy (found for 33 … 511 rows of 1,536). Those run in blocks of ROWS, as one tile would.
    """

    few = range(ROWS + 1, 1024)
    long = 1024

    def __init__(self, weight: Tensor, bias: Tensor, activation: Callable[[Tensor], Tensor] | None = None):
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), _TYPICAL_ROWS)
        self.bias = bias
        self.activation = ("none", [], "") if activation is None else _ACTIVATIONS[activation]
        self.product = torch.ops.mkldnn._linear_pointwise.default
        self.sum = torch.ops.mkldnn._linear_pointwise.binary
        self.in_blocks = weight.dtype == torch.bfloat16 and weight.shape[1] >= self.long

    def __call__(self, x: Tensor) -> Tensor:
        """``[N, in]`` → ``[N, out]``: activation(x Wᵀ + b)."""
        if self.in_blocks and x.shape[0] in self.few:
            return torch.cat([self(block) for block in x.split(ROWS)])
        return self.product(x, self.weight, self.bias, *self.activation)  # type: ignore[no-any-return]

    def plus(self, x: Tensor, residual: Tensor) -> Tensor:
        """``[N, in]``, ``[N, out]`` → ``[N, out]``: x Wᵀ + b + residual."""
        if self.in_blocks and x.shape[0] in self.few:
            return torch.cat([self.plus(*block) for block in zip(x.split(ROWS), residual.split(ROWS), strict=True)])
        return self.sum(x, residual, self.weight, self.bias, "add")  # type: ignore[no-any-return]


class _Blocked:
    """A linear map in blocks of exactly ROWS rows, so that every product has the same shape: for types
    and processors without prepacked weights. (float64 with AVX2 alone was found to round differently at different
    places of a block.)"""

    def __init__(self, weight: Tensor, bias: Tensor, activation: Callable[[Tensor], Tensor] | None = None):
        self.weight, self.bias = weight, bias
        self.activation = activation

    def __call__(self, x: Tensor) -> Tensor:
        """``[N, in]`` → ``[N, out]``: activation(x Wᵀ + b)."""
        filled = F.pad(x, (0, 0, 0, -len(x) % ROWS))
        y = torch.cat([F.linear(block, self.weight, self.bias) for block in filled.split(ROWS)])[: len(x)]
        return y if self.activation is None else self.activation(y)

    def plus(self, x: Tensor, residual: Tensor) -> Tensor:
        """``[N, in]``, ``[N, out]`` → ``[N, out]``: x Wᵀ + b + residual."""
        return self(x).add_(residual)


_Linear: TypeAlias = "_Prepacked | _Blocked | _Int8Linear"


@dataclass(frozen=True)
class _Windows:
    """Neighbouring texts of one length, as attention sees them.

    Attributes:
        start: where in the line of tokens the first of them begins.
        tokens: how many tokens they have in all.
        count: the number of windows.
        queries: tokens from one window's start to the next one's: those of the texts in it.
        keys: tokens that one window spans, a multiple of KEYS.
        mask: ``[queries, keys]``, added to the scores: -inf outside a query's own text; None where
            the window is one text.
    """

    start: int
    tokens: int
    count: int
    queries: int
    keys: int
    mask: Tensor | None

    @property
    def end(self) -> int:
        """Where the last window ends, which may be behind the line's end."""
        return self.start + (self.count - 1) * self.queries + self.keys


class _FusedLayer:
    """One EncoderLayer."""

    def __init__(self, layer: Any, products: Sequence[_Linear], attention: torch.dtype):
        self.query_key_value, self.output, self.up, self.down = products
        self.attention_norm, self.feed_forward_norm = _norm(layer.attention_norm), _norm(layer.feed_forward_norm)
        self.heads, self.head_size = layer.attention.heads
        # What the last window may look at behind the line of tokens.
        self.zeros = self.query_key_value.bias.new_zeros(2 * KEYS, 3 * self.heads * self.head_size, dtype=attention)

    def __call__(self, hidden: Tensor, windows: list[_Windows]) -> Tensor:
        """``[N, D]`` → ``[N, D]``."""
        context = self.attend(self.query_key_value(hidden), windows)
        hidden = self.attention_norm(self.output.plus(context, hidden))
        return self.feed_forward_norm(self.down.plus(self.up(hidden), hidden))

    def attend(self, query_key_value: Tensor, windows: list[_Windows]) -> Tensor:
        """``[N, 3 · H · d]`` → the heads' contexts ``[N, D]``; zeros behind the last window's tokens."""
        H, d = self.heads, self.head_size
        token = 3 * H * d  # numbers from one token to the next
        rows, seen = len(query_key_value), max(w.end for w in windows)
        if seen > rows:  # masked, but these must be numbers
            query_key_value = torch.cat((query_key_value, self.zeros[: seen - rows]))
        contexts = []
        for w in windows:
            strides = (w.queries * token, d, token, 1)
            q, k, v = (
                # [windows, H, tokens, d]: overlapping views, nothing is copied.
                query_key_value.as_strided((w.count, H, tokens, d), strides, w.start * token + part * H * d)
                for part, tokens in enumerate((w.queries, w.keys, w.keys))
            )
            attended = F.scaled_dot_product_attention(q, k, v, w.mask, scale=d**-0.5)
            contexts.append(attended.transpose(1, 2).reshape(-1, H * d)[: w.tokens])
            rows -= w.tokens
        if rows:
            contexts.append(query_key_value.new_zeros(rows, H * d))
        return torch.cat(contexts) if len(contexts) > 1 else contexts[0]


def joined_projections(attention: Any) -> tuple[Tensor, Tensor]:
    """Query, key and value of a :class:`SelfAttention` as one linear map: weight ``[3 · D, D]`` and bias."""
    projections = (attention.query, attention.key, attention.value)
    return torch.cat([p.weight.detach() for p in projections]), torch.cat([p.bias.detach() for p in projections])


def _products(layer: Any, linear: type[_Prepacked | _Blocked]) -> list[_Linear]:
    attention, feed_forward = layer.attention, layer.feed_forward
    return [
        linear(*joined_projections(attention)),
        linear(attention.output.weight, attention.output.bias),
        linear(feed_forward.up.weight, feed_forward.up.bias, feed_forward.activation),
        linear(feed_forward.down.weight, feed_forward.down.bias),
    ]


class FusedEncoder:
    """The encoder of encoder.py over prepacked weights: inference on the CPU, packed batches.

    It holds copies of the layers' matrices, as much memory again as they take, and reads everything else from the
    encoder's parameters. :func:`fused` makes it and keeps it, and makes another one when the encoder has changed.

    Args:
        encoder: a plain encoder, in evaluation mode, see :func:`minilm.guard.obstacle`.
        calibration: for weights in int8, the tokens that their activations' sizes are found on (int8.py).
    """

    def __init__(self, encoder: Encoder, calibration: PackedBatch | None = None):
        embeddings = encoder.embeddings
        dtype = embeddings.word.weight.dtype
        # The encoder's own objects: another tensor in their .data is seen without being asked for.
        self._word, self._position = embeddings.word.weight, embeddings.position.weight
        self._token_type = embeddings.token_type.weight
        self._norm = _norm(embeddings.norm)
        if calibration is None:
            linear = _Prepacked if can_prepack(dtype) else _Blocked
            self._layers = [_FusedLayer(x, _products(x, linear), dtype) for x in encoder.layers]
        else:
            from minilm.int8 import check_can_quantise, input_sizes, int8_products

            check_can_quantise(encoder)
            sizes = input_sizes(encoder, calibration)
            dtype = torch.bfloat16 if has_fast_bfloat16() else dtype
            self._layers = [_FusedLayer(x, int8_products(x, sizes, dtype), dtype) for x in encoder.layers]
        self._attention = dtype
        self._masks: dict[int, Tensor] = {}
        _keep_memory()

    def __call__(self, batch: PackedBatch) -> EncoderOutput:
        """The last hidden state ``[N, D]`` of a batch of texts that have at least one token each."""
        check_lengths(batch.lengths, len(self._position))
        hidden = self._run(batch)
        if len(batch.lengths) > 1 and not hidden.sum().isfinite():
            # A NaN is not kept out by a mask, since 0 · NaN is NaN: texts that share a window are run one by one.
            texts = zip(batch.texts(batch.input_ids), batch.lengths, strict=True)
            hidden = torch.cat([self._run(PackedBatch(ids, (length,))) for ids, length in texts])
        return EncoderOutput(hidden)

    def _run(self, batch: PackedBatch) -> Tensor:
        windows = self._windows(batch.lengths)
        tokens, ids, positions = len(batch.input_ids), batch.input_ids, batch.position_ids
        if spare := -tokens % _multiple(tokens):
            ids, positions = F.pad(ids, (0, spare)), F.pad(positions, (0, spare))
        hidden = F.embedding(ids, self._word)
        hidden += self._token_type[0]
        hidden += F.embedding(positions, self._position)
        hidden = self._norm(hidden)
        for layer in self._layers:
            hidden = layer(hidden, windows)
        return hidden[:tokens]

    def _windows(self, lengths: tuple[int, ...]) -> list[_Windows]:
        windows, start = [], 0
        for length, run in itertools.groupby(lengths):
            texts = len(list(run))
            # Short texts share a window of 2 · KEYS in bfloat16, where the kernel's cost is by the window. It
            # gives a text the same bits at any place of so small a window; beyond, it does not.
            share = 2 * KEYS // length if self._attention == torch.bfloat16 and length < KEYS else 1
            keys = -(-share * length // KEYS) * KEYS
            mask = None if length == keys else self._mask(length, share, keys)
            windows.append(_Windows(start, texts * length, -(-texts // share), share * length, keys, mask))
            start += texts * length
        return windows

    def _mask(self, length: int, share: int, keys: int) -> Tensor:
        if length not in self._masks:
            mask = self._word.new_full((share, 1, keys), -math.inf, dtype=self._attention)
            for text in range(share):
                mask[text, :, text * length : (text + 1) * length] = 0
            # All queries of a text have one row, which then stays close at hand.
            self._masks[length] = mask.expand(share, length, keys).flatten(0, 1)
        return self._masks[length]


def _multiple(rows: int) -> int:
    """What the rows of a product are rounded up to a multiple of: a quarter of them at most, and 64. oneDNN
    keeps a kernel of half a megabyte for each number of rows, and all numbers would take a gigabyte."""
    return min(64, max(1, (1 << rows.bit_length()) >> 3))


@dataclass(frozen=True)
class _Made:
    """What was made of an encoder: an engine, or the reason why there is none."""

    calibration: PackedBatch | None
    guard: Guard
    engine: FusedEncoder | None
    reason: str | None


def fused(encoder: Encoder, calibration: PackedBatch | None = None) -> FusedEncoder | None:
    """The engine that computes what ``encoder(batch)`` computes; None where the plain one has to run.

    It is made on first use, and again after the encoder has changed. Threads take turns at this.
    """
    return _made(encoder, calibration)[0]


def why_plain(encoder: Encoder, calibration: PackedBatch | None = None) -> str | None:
    """Why :func:`fused` gives None, in words; None where it gives an engine."""
    return _made(encoder, calibration)[1]


def _made(encoder: Encoder, calibration: PackedBatch | None) -> tuple[FusedEncoder | None, str | None]:
    with _lock:
        made = _MADE.get(encoder)
        if made is None or made.calibration is not calibration or not made.guard.holds(encoder):
            if reason := obstacle(encoder):
                return None, reason
            _MADE.pop(encoder, None)
            _MADE[encoder] = made = _make(encoder, calibration)
        return made.engine, made.reason


_MADE: WeakKeyDictionary[Encoder, _Made] = WeakKeyDictionary()
_lock = threading.RLock()


def _make(encoder: Encoder, calibration: PackedBatch | None) -> _Made:
    guard = Guard(encoder, copied(encoder, calibration))  # before anything is copied
    engine, reason = None, None
    try:
        engine = FusedEncoder(encoder, calibration)
        difference = _difference(encoder, engine)
        tolerance = ENGINE_INT8 if calibration else ENGINE[encoder.embeddings.word.weight.dtype]
        if difference > tolerance:
            reason = (
                f"the fast engine disagrees with the plain encoder: their token vectors differ by {difference:.1e} "
                f"of their length, and rounding by at most {tolerance:.0e}"
            )
    except MinilmError:
        raise
    except Exception as error:
        reason = f"the fast engine cannot be made from it: {type(error).__name__}: {error}"
    if reason is not None:
        engine = None
        warnings.warn(EngineWarning(f"encode runs the plain encoder: {reason}"), stacklevel=caller_level())
    return _Made(calibration, guard, engine, reason)


def copied(encoder: Encoder, calibration: PackedBatch | None = None) -> list[Tensor]:
    """The parameters that an engine copies: all matrices of the layers, and the biases that it joins or scales."""
    weights = encoder.layers.named_parameters()
    biases = ("query.bias", "key.bias", "value.bias") if calibration is None else ("bias",)
    return [w for name, w in weights if w.ndim > 1 or (name.endswith(biases) and "norm" not in name)]


def _difference(encoder: Encoder, engine: FusedEncoder) -> float:
    """The length of the difference of their token vectors on a small fixed batch, relative to the plain one's."""
    most, pieces = encoder.config.max_position_embeddings, encoder.config.vocab_size
    lengths = tuple(min(length, most) for length in _PROOF)
    ids = torch.arange(sum(lengths)) * 7919 % pieces  # a prime as stride: pieces from all over the vocabulary
    with torch.inference_mode():
        batch = PackedBatch(ids, lengths)
        plain, fast = (run(batch).last_hidden_state.double().nan_to_num(0, 0, 0) for run in (encoder, engine))
    return float((fast - plain).norm() / plain.norm().clamp(min=1e-9))


def _new_lock() -> None:
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_new_lock)  # another thread of the parent may have held it


def can_prepack(dtype: torch.dtype) -> bool:
    """Whether this torch has the operators for prepacked weights. They are torch's compiler's own, and private:
    where they are missing or have changed, the same work is done without them."""
    if dtype not in (torch.float32, torch.bfloat16) or not torch.backends.mkldnn.is_available():
        return False
    x = torch.zeros(2, KEYS, dtype=dtype)
    try:
        return bool(_Prepacked(x, x[:, 0]).plus(x, x[:, :2]).shape == (2, 2))
    except (AttributeError, RuntimeError, TypeError):
        return False


def has_fast_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 by instructions of its own. An x86 without them emulates it, a
    hundred times slower."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return True
    # Forcing a lesser instruction set on oneDNN takes them away as well.
    forced = os.environ.get("ONEDNN_MAX_CPU_ISA", "DEFAULT").upper()
    if not any(name in forced for name in ("DEFAULT", "ALL", "AMX", "BF16")):
        return False
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()


def _norm(norm: nn.LayerNorm) -> Callable[[Tensor], Tensor]:
    shape, weight, bias, eps = list(norm.normalized_shape), norm.weight, norm.bias, norm.eps
    return lambda hidden: torch.layer_norm(hidden, shape, weight, bias, eps)


def _keep_memory() -> None:
    """Lets the C library keep freed memory of up to 32 MB a piece for the next batch, in place of giving it back
    and asking again, page by page, which took 13 % of the time. Its limit adapts to the largest piece that was
    freed, so one is."""
    torch.empty(31 << 20, dtype=torch.uint8)
