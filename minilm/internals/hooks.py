"""The hooks that read and change activations: there while somebody watches, gone afterwards.

The encoder knows nothing of them. All who watch a model share one set of hooks, so that an
intervention on probabilities sees the queries and keys that other interventions left, whatever
the order in which they were made. Who watches belongs to the thread, or the asyncio task, that entered
the block: in all others the same hooks do nothing.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar, cast

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from minilm.internals.activations import HEADS, PAIRS, SENTENCE, Site, sites
from minilm.layouts import Batch, PackedBatch, PaddedBatch

if TYPE_CHECKING:
    from minilm.sentence_encoder import SentenceEncoder

# In the batch's layout; scores and probabilities as the batch's blocks, each [rows, H, T, T].
Value: TypeAlias = "Tensor | list[Tensor]"
AnyValue = TypeVar("AnyValue", Tensor, list[Tensor])


class Watcher(Protocol):
    """Is shown the activations of these names as they are computed, and gives back what the model
    is to go on with: the same, or something else."""

    @property
    def names(self) -> Collection[str]:
        """The activations to be shown."""

    def __call__(self, site: Site, value: Value, batch: Batch) -> Value:
        """A value → the value to go on with, of the same form."""


@dataclass(eq=False)
class _Watch:
    model: SentenceEncoder
    watcher: Watcher
    over: bool = False  # a copied context, such as that of a task, may outlive the block


_WATCHES: ContextVar[tuple[_Watch, ...]] = ContextVar("watches", default=())


@contextmanager
def watching(model: SentenceEncoder, watcher: Watcher) -> Iterator[None]:
    """Shows ``watcher`` what this thread computes with ``model`` within the block, after all of this thread's who
    were there before."""
    watch = _Watch(model, watcher)
    with _LOCK:
        taps = _TAPS.setdefault(model, _Taps(model))
        taps.blocks += 1
    try:
        with _LOCK:
            taps.add(watcher.names)
        _WATCHES.set((*_WATCHES.get(), watch))
        yield
    finally:
        watch.over = True
        _WATCHES.set(tuple(other for other in _WATCHES.get() if not other.over))
        with _LOCK:
            taps.blocks -= 1
            if not taps.blocks:
                del _TAPS[model]
                taps.remove()


def _watchers(model: torch.nn.Module) -> list[Watcher]:
    """Who watches the model in this thread or task."""
    return [watch.watcher for watch in _WATCHES.get() if watch.model is model and not watch.over]


class Hook:
    """A hook of ours on a module, which all threads call.

    Args:
        model: what is watched; None in a copy of a model that was.
        run: is given the tensors; its result is the hook's.
    """

    def __init__(self, model: SentenceEncoder | None = None, run: Callable[..., Any] | None = None):
        self._model, self._run = model, run

    @property
    def idle(self) -> bool:
        """Whether the hook does nothing in this thread, so that an engine need not step aside for it."""
        return self._model is None or not _watchers(self._model)

    def __call__(self, module: torch.nn.Module, *values: Any) -> Any:
        """What the module is to go on with; None for no change."""
        return None if self.idle or self._run is None else self._run(*values)

    def __reduce__(self) -> Any:
        return Hook, ()


class _Pass(threading.local):
    """What this thread's forward pass has come to."""

    def __init__(self) -> None:
        self.batch: Batch | None = None
        self.projections: dict[str, Tensor] = {}  # query, key and value of a watched attention, until used


class _Taps:
    """All hooks on one model, for all threads."""

    def __init__(self, model: SentenceEncoder):
        self.model = model
        self.heads = (model.encoder.config.num_attention_heads, model.encoder.config.head_size)  # H, d
        self.known = sites(model.encoder.config)
        self.blocks = 0  # in which it is watched now; the last one takes the hooks off
        self.handles: dict[str, RemovableHandle] = {}
        self.now = _Pass()

    def add(self, names: Collection[str]) -> None:
        """Puts on the hooks that these activations need, where there are none yet."""
        wanted = set(names)
        for layer in {self.known[name].layer for name in names if self.known[name].side == "inside"}:
            wanted |= {f"layers.{layer}.attention.{name}" for name in ("query", "key", "value", "head_output")}
        # These are given the batch; everything else only sees tensors.
        attentions = (f"encoder.layers.{i}.attention" for i in range(len(self.model.encoder.layers)))
        for path in ("encoder.embeddings", *attentions, "pooling"):
            if path not in self.handles:
                hook = Hook(self.model, self._keep_batch)
                self.handles[path] = self.model.get_submodule(path).register_forward_pre_hook(hook)
        for name, site in self.known.items():
            if name not in wanted or name in self.handles:
                continue
            module = self.model.get_submodule(site.module)
            if site.side == "output":
                self.handles[name] = module.register_forward_hook(Hook(self.model, self._after(site)))
            elif site.side == "input":
                self.handles[name] = module.register_forward_pre_hook(Hook(self.model, self._before(site)))

    def remove(self) -> None:
        """Takes all hooks off."""
        for handle in self.handles.values():
            handle.remove()

    def _keep_batch(self, inputs: tuple[Any, ...]) -> None:
        (self.now.batch,) = (x for x in inputs if isinstance(x, (PaddedBatch, PackedBatch)))

    def _after(self, site: Site) -> Any:
        return lambda inputs, output: self._show(site, output)

    def _before(self, site: Site) -> Any:
        return lambda inputs: (self._show(site, inputs[0]),)

    def _is_watched(self, *names: str) -> bool:
        return any(name in watcher.names for watcher in _watchers(self.model) for name in names)

    def _is_attending(self, layer: int) -> bool:
        """Whether scores or probabilities of the layer are watched."""
        return self._is_watched(f"layers.{layer}.attention.scores", f"layers.{layer}.attention.probabilities")

    def _show(self, site: Site, tensor: Tensor) -> Tensor:
        """A module's tensor → what the watchers make of it."""
        batch = self.now.batch
        assert batch is not None  # for the type checker: embeddings and attention come first
        if site.name == "embeddings.position" and isinstance(batch, PaddedBatch) and self._is_watched(site.name):
            tensor = tensor.expand(len(batch.lengths), -1, -1)  # [1, T, D]: the same for every row
        if site.shape != HEADS:
            return self._ask(site, tensor, batch)
        value = tensor.unflatten(-1, self.heads)  # [..., D] → [..., H, d]
        kind, attending = site.name.rpartition(".")[2], self._is_attending(site.layer)
        if kind == "head_output" and attending:
            value = self._attend(site.layer, value, batch)
        value = self._ask(site, value, batch)
        if kind != "head_output" and attending:
            self.now.projections[kind] = value
        heads_joined: Tensor = value.flatten(-2)
        return heads_joined

    def _ask(self, site: Site, value: AnyValue, batch: Batch) -> AnyValue:
        for watcher in _watchers(self.model):
            if site.name in watcher.names:
                value = cast(AnyValue, watcher(site, value, batch))
        return value

    def _attend(self, layer: int, context: Tensor, batch: Batch) -> Tensor:
        """Scores and probabilities p, by hand as in encoder.attend_by_hand, beside the kernel. Where
        they were changed to p′, the kernel's context becomes context + (p′ - p) v: exact to rounding,
        and the same bits where p′ is p."""
        query, key, value = (self.now.projections.pop(kind) for kind in ("query", "key", "value"))
        scores, values = [], []
        for (q, k, v), mask in batch.blocks(query, key, value):
            s = q.transpose(1, 2) @ k.permute(0, 2, 3, 1) * self.heads[1] ** -0.5  # [rows, H, T, T]
            scores.append(s if mask is None else s.masked_fill(~mask[:, None, None, :], -torch.inf))
            values.append(v.transpose(1, 2))  # [rows, H, T, d]
        p = [s.softmax(dim=-1) for s in scores]
        new_scores = self._ask(self.known[f"layers.{layer}.attention.scores"], scores, batch)
        new_p = p if new_scores is scores else [s.softmax(dim=-1) for s in new_scores]
        new_p = self._ask(self.known[f"layers.{layer}.attention.probabilities"], new_p, batch)
        if new_p is p:
            return context
        changes = [((b - a) @ v).transpose(1, 2) for a, b, v in zip(p, new_p, values, strict=True)]
        return context + batch.join(changes)


_TAPS: dict[torch.nn.Module, _Taps] = {}
_LOCK = threading.Lock()  # of _TAPS, and of all hooks


def _renew_lock() -> None:
    global _LOCK
    _LOCK = threading.Lock()  # a forked process has a copy, which may be held by a thread that it has not


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


def is_watched(model: torch.nn.Module) -> bool:
    """Whether this thread, or this asyncio task, is within a ``with model.intervene(…)``."""
    return bool(_watchers(model))


def by_text(site: Site, value: Value, batch: Batch) -> list[Tensor]:
    """An activation of a batch → of each text, without padding: ``[T, D]``, ``[T, H, d]``,
    ``[H, T, T]`` or ``[D]``."""
    if site.shape == PAIRS:
        rows = [row for block in value for row in block]
        return [row[:, :length, :length] for row, length in zip(rows, batch.lengths, strict=True)]
    assert isinstance(value, Tensor)
    return list(value) if site.shape == SENTENCE else batch.texts(value)


def from_texts(site: Site, texts: Sequence[Tensor], value: Value, batch: Batch) -> Value:
    """The inverse of :func:`by_text`; padding is taken from ``value``."""
    if site.shape == SENTENCE:
        return torch.stack(list(texts))
    if site.shape == PAIRS:
        blocks, rest = [], iter(texts)
        for block in value:
            rows = []
            for row, text in zip(block, rest, strict=False):
                row = row.clone()
                row[:, : text.shape[1], : text.shape[2]] = text
                rows.append(row)
            blocks.append(torch.stack(rows))
        return blocks
    if isinstance(batch, PaddedBatch):
        return torch.stack([torch.cat([text, row[len(text) :]]) for row, text in zip(value, texts, strict=True)])
    return torch.cat(list(texts))
