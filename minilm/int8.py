"""Weights and activations as 8-bit integers, for :class:`~minilm.fused.FusedEncoder`: a choice, and one that costs.

Sums of products of such integers are exact, and processors with VNNI form them three times faster than float32's. What
is lost is lost where numbers are rounded to 256 steps. Three things keep that small:

* A weight matrix has a step for each output.
* Some channels of the hidden states are twenty times larger than others, and one step for all of them would
  leave the others a few levels. So activations are divided by a size for each channel, and the weights' columns
  multiplied by it (SmoothQuant, Xiao et al. 2022, https://arxiv.org/abs/2211.10438, equation 4).
* Behind GELU that cannot be done, as GELU(x / s) is not GELU(x) / s. There a large channel is split into several
  that go up to c, as GELU(x) is nearly min(GELU(x), c) + GELU(x - c) (after outlier channel splitting, Zhao et
  al. 2019, https://arxiv.org/abs/1901.09504).

The sizes are found once, by a pass in float over :func:`calibration`, and do not change with the texts that are
encoded: a text's vector does not depend on its batch, as in float. LayerNorm, residuals and the tables of embeddings
stay in float32; so does attention, or it runs in bfloat16 where the processor has instructions for that, which is
faster and changes the vectors far less than int8 does.

Dimensions as in encoder.py; F is the inner dimension of the feed-forward part.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from minilm.encoder import ACTIVATIONS, Encoder
from minilm.errors import InputError
from minilm.fused import joined_projections
from minilm.layouts import PackedBatch
from minilm.tokens import Tokenizer

# How much of a channel's size is taken from the activations (1: all of it) and put into the weights.
SMOOTHING = 0.75

# Sizes behind GELU and attention are taken larger than they were found; what is larger still is cut off.
MARGIN = 1.25

# One further channel for each so many of the feed-forward part's F, for splitting.
CHANNELS_PER_SPLIT = 24

_GELU_LEAST = 0.17  # the minimum of GELU is -0.16997
_ZERO = 128  # the integer that stands for 0, so that negative numbers have one


class _Int8Linear:
    """A linear map of unsigned 8-bit activations and signed 8-bit weights, through operators of torch's compiler.

    Args:
        weight, bias: ``[out, in]``, ``[out]``.
        sizes: ``[in]``, the largest absolute value of each input. None: the inputs come as integers, of
            ``step`` and ``zero``.
        step, zero: the integer q stands for (q - zero) · step.
        out: step and zero of the result, which then are integers behind GELU; None: numbers of ``dtype``.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor,
        sizes: Tensor | None = None,
        step: float = 1.0,
        zero: int = _ZERO,
        out: tuple[float, int] | None = None,
        dtype: torch.dtype = torch.float32,
    ):
        weight = weight.detach()
        self.scale: Tensor | None = None
        if sizes is not None:
            sizes = sizes.clamp(min=1e-4)
            smooth = sizes**SMOOTHING / weight.abs().amax(0).clamp(min=1e-4) ** (1 - SMOOTHING)
            step = float((sizes / smooth).max()) / (255 - _ZERO)
            self.scale = 1 / (smooth * step)
            weight = weight * smooth
        self.step, self.zero, self.out, self.dtype = step, zero, out, dtype
        self.steps = weight.abs().amax(1).clamp(min=1e-12) / 127
        self.weight = torch.ops.onednn.qlinear_prepack((weight / self.steps[:, None]).round().to(torch.int8), None)
        self.weight_zeros = torch.zeros(len(weight), dtype=torch.int64)
        self.bias = bias.detach()
        self.half = torch.tensor(_ZERO + 0.5)  # what becomes an integer loses its fraction: 0.5 makes that rounding

    def _integers(self, x: Tensor) -> Tensor:
        return x if self.scale is None else torch.addcmul(self.half, x, self.scale).clamp_(0, 255).to(torch.uint8)

    def __call__(self, x: Tensor) -> Tensor:
        """``[N, in]`` → ``[N, out]``: x Wᵀ + b, or GELU of it as integers."""
        step, zero = self.out or (1.0, 0)
        dtype, activation = (torch.uint8, "gelu") if self.out else (self.dtype, "none")
        weights = (self.weight, self.steps, self.weight_zeros, self.bias)
        return torch.ops.onednn.qlinear_pointwise(  # type: ignore[no-any-return]
            self._integers(x), self.step, self.zero, *weights, step, zero, dtype, activation, [], "none"
        )

    def plus(self, x: Tensor, residual: Tensor) -> Tensor:
        """``[N, in]``, ``[N, out]`` → ``[N, out]``: x Wᵀ + b + residual."""
        weights = (self.weight, self.steps, self.weight_zeros, residual, self.bias)
        return torch.ops.onednn.qlinear_pointwise.binary(  # type: ignore[no-any-return]
            self._integers(x), self.step, self.zero, *weights, 1.0, 0, torch.float32, 1.0, 0, "add", 1.0, "none", [], ""
        )


def int8_products(layer: Any, sizes: dict[nn.Module, Tensor], attention: torch.dtype) -> list[_Int8Linear]:
    """Query, key and value in one; attention's output; up; down: one layer's linear maps.

    Args:
        layer: an :class:`~minilm.encoder.EncoderLayer`.
        sizes: each linear map → the largest absolute values of its inputs, see :func:`input_sizes`.
        attention: the type of queries, keys and values.
    """
    query, output = layer.attention.query, layer.attention.output
    up, down = layer.feed_forward.up, layer.feed_forward.down
    channel, offset, most = _split(sizes[down].clamp(min=_GELU_LEAST) * MARGIN)
    step = (most + _GELU_LEAST) / 255
    out = (step, round(_GELU_LEAST / step))
    return [
        _Int8Linear(*joined_projections(layer.attention), sizes[query], dtype=attention),
        _Int8Linear(output.weight, output.bias, sizes[output] * MARGIN),
        _Int8Linear(up.weight[channel], up.bias[channel] - offset, sizes[up], out=out),
        _Int8Linear(down.weight[:, channel], down.bias, None, *out),
    ]


def _split(sizes: Tensor) -> tuple[Tensor, Tensor, float]:
    """``[F]`` sizes → for each channel after splitting which one it is a part of, what is taken off before GELU,
    and the size that none exceeds: the smallest for which there are channels enough."""
    total = len(sizes) + len(sizes) // CHANNELS_PER_SPLIT
    low, high = 0.0, float(sizes.max())
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if (sizes / middle).ceil().sum() <= total else (middle, high)
    parts = (sizes / high).ceil().long()
    channel = torch.arange(len(sizes)).repeat_interleave(parts)
    offset = torch.cat([torch.arange(int(n)) for n in parts]) * high
    return channel, offset, high


def calibration(tokenizer: Tokenizer, texts: tuple[str, ...]) -> PackedBatch:
    """What activations are measured on: the texts, and the whole vocabulary's pieces in an order without sense, in rows
    of many lengths. No data beyond the model's own are needed."""
    cls, sep = tokenizer([""]).ids[0]
    rows, taken, pieces = list(tokenizer(texts).ids), 0, tokenizer.vocab_size
    for length, count in ((1, 64), (3, 64), (7, 64), (15, 64), (31, 32), (63, 16), (127, 8), (254, 8)):
        length = min(length, tokenizer.max_seq_length - 2)
        for _ in range(count):
            # A prime as stride, so that neighbours in the vocabulary, often alike, are no neighbours here.
            rows.append([cls, *((taken + i) * 7919 % pieces for i in range(length)), sep])
            taken += length
    return PackedBatch.from_ids(rows)


class _Sizes(TorchFunctionMode):
    """Within it, notes the sizes of what goes into ``F.linear``. It belongs to its thread, as hooks would not: others
    who run the same modules meanwhile add nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[Tensor, Tensor] = {}  # weight → the largest absolute value of each input

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is nn.functional.linear:
            self.found[args[1]] = args[0].abs().amax(0)
        return function(*args, **(kwargs or {}))


def input_sizes(encoder: Encoder, batch: PackedBatch) -> dict[nn.Module, Tensor]:
    """Each linear map of the encoder → ``[in]``, the largest absolute value of each of its inputs over a batch."""
    with torch.no_grad(), _Sizes() as sizes:
        encoder(batch)
    return {m: sizes.found[m.weight] for m in encoder.modules() if isinstance(m, nn.Linear)}


def check_can_quantise(encoder: Encoder) -> None:
    """Raises an :class:`InputError` that says why this encoder cannot have int8 weights on this machine."""
    weight = encoder.embeddings.word.weight
    advice = "leave weight_precision at None"
    if weight.dtype != torch.float32 or weight.device.type != "cpu":
        found = f"{str(weight.dtype).removeprefix('torch.')} on {weight.device}"
        raise InputError(f"int8 weights are for float32 models on the CPU, and this one is {found}; {advice}")
    gelus = [function for name, function in ACTIVATIONS.items() if name.startswith("gelu")]
    layers: Any = encoder.layers
    if any(layer.feed_forward.activation not in gelus for layer in layers):
        raise InputError(f"int8 weights need the activation GELU, and this model's is {encoder.config.hidden_act!r}")
    if not _exact_products():
        raise InputError(
            "this processor or this torch has no exact products of 8-bit integers (VNNI and torch.ops.onednn.qlinear_"
            f"pointwise are what it takes); {advice}"
        )


@functools.cache
def _exact_products() -> bool:
    # Without VNNI, two products are added in 16 bits and cut off at 32,767.
    weight, x = torch.ones(16, 64), torch.full((2, 64), 255, dtype=torch.uint8)
    try:
        y: Any = _Int8Linear(weight, torch.zeros(16), zero=0)(x)
    except (AttributeError, RuntimeError, TypeError, NotImplementedError):
        return False
    return torch.allclose(y, torch.tensor(255.0 * 64))
