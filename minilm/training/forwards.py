"""Modules that run otherwise for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

from torch import nn
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


def recomputed(module: nn.Module) -> Callable[..., Any]:
    """A forward that keeps only its input for the backward pass and computes the rest again, under the
    same random numbers (Chen et al. 2016, https://arxiv.org/abs/1604.06174)."""
    return partial(checkpoint, module.forward, use_reentrant=False)
