"""Dropout (Srivastava et al. 2014, https://jmlr.org/papers/v15/srivastava14a.html) from fewer random numbers.

On the CPU, torch draws a number of its own for each element that may be dropped, on one thread: a quarter of a packed
training step. 16 bits are enough to decide. (Fine-tuning on pairs of the STS benchmark with eight seeds: Spearman on
average 0.8256 with these draws and 0.8247 with torch's, with standard deviations of 0.006 and 0.005.)
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from minilm.training.forwards import replaced_forward


def quick_dropout(input: Tensor, p: float = 0.5, training: bool = True) -> Tensor:
    """``torch.nn.functional.dropout`` with other draws, five times as fast on the CPU; elsewhere torch's own.

    ``p`` is taken to the nearest multiple of 1/65,536, and what is kept is scaled by that, so that the mean is right.
    Four elements share one draw of 64 bits from torch's generator.
    """
    dropped = round(p * 65536)
    if not training or input.device.type != "cpu" or not 0 < dropped < 65536:
        return nn.functional.dropout(input, p, training)
    draws = torch.empty(-(-input.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    bits = draws.view(torch.int16)[: input.numel()].view(input.shape)
    keep = torch.ge(bits, dropped - 32768, out=torch.empty_like(input, requires_grad=False))
    keep *= 65536 / (65536 - dropped)
    return input * keep


def with_quick_dropout(model: nn.Module) -> AbstractContextManager[None]:
    """Inside, the model's ``nn.Dropout`` modules draw as :func:`quick_dropout` does."""

    def quick(module: nn.Dropout) -> Callable[[Tensor], Tensor]:
        return lambda input: quick_dropout(input, module.p, module.training)

    return replaced_forward([module for module in model.modules() if isinstance(module, nn.Dropout)], quick)
