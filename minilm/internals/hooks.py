"""The hooks that read and change activations: there while somebody watches, gone afterwards.

The encoder knows nothing of them. All who watch a model share one set of hooks, so that an
intervention on probabilities sees the queries and keys that other interventions left, whatever
the order in which they were made.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
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


@contextmanager
def watching(model: SentenceEncoder, watcher: Watcher) -> Iterator[None]:
    """Shows ``watcher`` what ``model`` computes within the block, after all who were there before."""
    taps = _TAPS.setdefault(model, _Taps(model))
    try:
        taps.watchers.append(watcher)
        taps.renew()
        yield
    finally:
        taps.watchers = [other for other in taps.watchers if other is not watcher]
        taps.renew()
        if not taps.watchers:
            _TAPS.pop(model, None)


class _Taps:
    """All hooks on one model."""

    def __init__(self, model: SentenceEncoder):
        self.model = model
        self.heads = (model.encoder.config.num_attention_heads, model.encoder.config.head_size)  # H, d
        self.known = sites(model.encoder.config)
        self.watchers: list[Watcher] = []
        self.handles: list[RemovableHandle] = []
        self.batch: Batch | None = None
        self.attending: set[int] = set()  # the layers whose scores or probabilities somebody watches
        self.projections: dict[str, Tensor] = {}  # query, key and value of such a layer, until used

    def renew(self) -> None:
        """Takes all hooks off and puts those on that the watchers need now."""
        for handle in self.handles:
            handle.remove()
        self.handles.clear()
        self.batch = None
        self.projections.clear()
        wanted = {name for watcher in self.watchers for name in watcher.names}
        if not wanted:
            return
        self.attending = {self.known[name].layer for name in wanted if self.known[name].side == "inside"}
        for layer in self.attending:
            wanted |= {f"layers.{layer}.attention.{name}" for name in ("query", "key", "value", "head_output")}
        # These are given the batch; everything else only sees tensors.
        attentions = (f"encoder.layers.{i}.attention" for i in range(len(self.model.encoder.layers)))
        for path in ("encoder.embeddings", *attentions, "pooling"):
            self.handles.append(self.model.get_submodule(path).register_forward_pre_hook(self._keep_batch))
        for name, site in self.known.items():
            if name in wanted and site.side == "output":
                self.handles.append(self._module(site).register_forward_hook(self._after(site)))
            elif name in wanted and site.side == "input":
                self.handles.append(self._module(site).register_forward_pre_hook(self._before(site)))

    def _module(self, site: Site) -> torch.nn.Module:
        return self.model.get_submodule(site.module)

    def _keep_batch(self, module: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
        (self.batch,) = (x for x in inputs if isinstance(x, (PaddedBatch, PackedBatch)))

    def _after(self, site: Site) -> Any:
        return lambda module, inputs, output: self._show(site, output)

    def _before(self, site: Site) -> Any:
        return lambda module, inputs: (self._show(site, inputs[0]),)

    def _show(self, site: Site, tensor: Tensor) -> Tensor:
        """A module's tensor → what the watchers make of it."""
        assert self.batch is not None  # for the type checker: embeddings and attention come first
        if site.name == "embeddings.position" and isinstance(self.batch, PaddedBatch):
            tensor = tensor.expand(len(self.batch.lengths), -1, -1)  # [1, T, D]: the same for every row
        if site.shape != HEADS:
            return self._ask(site, tensor, self.batch)
        value = tensor.unflatten(-1, self.heads)  # [..., D] → [..., H, d]
        kind = site.name.rpartition(".")[2]
        if kind == "head_output" and site.layer in self.attending:
            value = self._attend(site.layer, value, self.batch)
        value = self._ask(site, value, self.batch)
        if kind != "head_output" and site.layer in self.attending:
            self.projections[kind] = value
        heads_joined: Tensor = value.flatten(-2)
        return heads_joined

    def _ask(self, site: Site, value: AnyValue, batch: Batch) -> AnyValue:
        for watcher in self.watchers:
            if site.name in watcher.names:
                value = cast(AnyValue, watcher(site, value, batch))
        return value

    def _attend(self, layer: int, context: Tensor, batch: Batch) -> Tensor:
        """Scores and probabilities p, by hand as in encoder.attend_by_hand, beside the kernel. Where
        they were changed to p′, the kernel's context becomes context + (p′ - p) v: exact to rounding,
        and the same bits where p′ is p."""
        query, key, value = (self.projections.pop(kind) for kind in ("query", "key", "value"))
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


def is_watched(model: SentenceEncoder) -> bool:
    """Whether the model is within a ``with model.intervene(…)``."""
    return model in _TAPS


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
