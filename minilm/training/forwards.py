"""Modules that run otherwise for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

M = TypeVar("M", bound=nn.Module)


@contextmanager
def replaced_forward(modules: Iterable[M], replacement: Callable[[M], Callable[..., Any]]) -> Iterator[None]:
    """Inside, each module runs ``replacement(module)`` in place of its class's ``forward``."""
    modules = list(modules)
    for module in modules:
        module.__dict__["forward"] = replacement(module)
    try:
        yield
    finally:
        for module in modules:
            del module.__dict__["forward"]


def in_half(module: nn.Module, dtype: torch.dtype, device_type: str) -> Callable[..., Any]:
    """A forward under torch's autocast to ``dtype``, whose result is float32. The reference's trainer wraps its model
    in the same way: whatever calls the model, a loss or an evaluator, computes in float32."""
    forward = module.forward

    def run(*arguments: Any, **options: Any) -> Any:
        with torch.autocast(device_type, dtype):
            output = forward(*arguments, **options)
        return replace(output, **{field.name: _float(getattr(output, field.name)) for field in fields(output)})

    return run


def _float(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return type(value)(map(_float, value))
    return value.float() if isinstance(value, Tensor) else value


def recomputed(module: nn.Module) -> Callable[..., Any]:
    """A forward that keeps only its input for the backward pass and computes the rest again, under the
    same random numbers (Chen et al. 2016, https://arxiv.org/abs/1604.06174)."""
    return partial(checkpoint, module.forward, use_reentrant=False)
