"""Trace: every intermediate of a forward pass, by name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from minilm.errors import InputError, check_choice
from minilm.internals.activations import ACTIVATIONS, Site, choose, sites
from minilm.internals.hooks import Value, by_text, watching
from minilm.layouts import Batch, Layout, PaddedBatch
from minilm.tokens import check_texts

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from minilm.sentence_encoder import SentenceEncoder, SentenceOutput


@dataclass(frozen=True, repr=False)
class TextTrace(Mapping[str, Tensor]):
    """The trace of one text, without padding.

    ``text_trace["layers.0.attention.query"]`` is ``[T, H, d]``; scores and probabilities are
    ``[H, T, T]``, a row for each query; token vectors ``[T, D]``; pooled and sentence embedding ``[D]``.

    Attributes:
        text: as it was given.
        tokens: its ``T`` word pieces.
        sentence_embedding: ``[D]``, as the model gave it.
    """

    text: str
    tokens: list[str]
    sentence_embedding: Tensor
    _activations: dict[str, Tensor]

    def __getitem__(self, name: str) -> Tensor:
        return self._activations[_kept(name, self._activations)]

    def __iter__(self) -> Iterator[str]:
        return iter(self._activations)

    def __len__(self) -> int:
        return len(self._activations)

    def __repr__(self) -> str:
        return f"TextTrace of {self.text!r:.60}: {len(self.tokens)} tokens, {len(self)} activations"

    def plot_attention(self, layer: int, head: int | None = None) -> Figure:
        """Who looks at whom, as a matplotlib figure: see figures.py."""
        from minilm.internals import figures

        return figures.attention(self, layer, head)


@dataclass(frozen=True, repr=False)
class Trace(Mapping[str, Value]):
    """What :func:`trace` kept.

    ``trace["layers.0.output"]`` is the whole batch's in its layout: ``[B, T, D]`` or ``[N, D]``.
    Scores and probabilities are ``[B, H, T, T]`` padded, and packed a list, ``[H, T, T]`` for each
    text. ``trace.text(i)`` shows one text, without padding, in either layout.

    Attributes:
        texts: as they were given.
        tokens: for each text its word pieces.
        batch: the token ids that went through the model.
        output: what the model gave, to the bit what it gives without a trace.
        activations: name → value, in the order of computation; scores and probabilities in blocks.
    """

    texts: list[str]
    tokens: list[list[str]]
    batch: Batch
    output: SentenceOutput
    activations: dict[str, Value]
    _sites: dict[str, Site]

    @property
    def sentence_embedding(self) -> Tensor:
        """``[B, D]``, as the model gave it."""
        return self.output.sentence_embedding

    def text(self, index: int) -> TextTrace:
        """One text's view.

        Raises:
            InputError: there is no such text.
        """
        if not -len(self.texts) <= index < len(self.texts):
            raise InputError(f"there is no text {index}; the trace has texts 0 to {len(self.texts) - 1}")
        rows = {name: self.by_text(name)[index] for name in self}
        return TextTrace(self.texts[index], self.tokens[index], self.sentence_embedding[index], rows)

    def by_text(self, name: str) -> list[Tensor]:
        """One activation, for each text without padding."""
        return by_text(self._sites[name], self.activations[_kept(name, self.activations)], self.batch)

    def __getitem__(self, name: str) -> Value:
        value = self.activations[_kept(name, self.activations)]
        if isinstance(value, Tensor):
            return value
        return value[0] if isinstance(self.batch, PaddedBatch) else self.by_text(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.activations)

    def __len__(self) -> int:
        return len(self.activations)

    def __repr__(self) -> str:
        """A line for each kind of activation: its name, the shape and what it is."""
        layout = "padded" if isinstance(self.batch, PaddedBatch) else "packed"
        tensors = [t for value in self.activations.values() for t in (value if isinstance(value, list) else [value])]
        size = sum(t.numel() * t.element_size() for t in tensors) / 2**20
        lines = [f"Trace of {len(self.texts)} texts, {sum(self.batch.lengths)} tokens, {layout}: {size:,.1f} MiB"]
        rows = []
        for activation in ACTIVATIONS:
            kept = [site for name in self if (site := self._sites[name]).kind == activation.name]
            if kept:
                value = self[kept[0].name]
                shape = str(list(value.shape)) if isinstance(value, Tensor) else f"{len(value)} × [H, T, T]"
                layers = ",".join(str(site.layer) for site in kept)
                name = activation.name.format(i=layers if len(kept) == 1 else f"{{{layers}}}")
                rows.append((name, shape, activation.meaning))
        widths = [max((len(row[i]) for row in rows), default=0) for i in range(2)]
        lines += [f"  {name:<{widths[0]}}  {shape:<{widths[1]}}  {meaning}" for name, shape, meaning in rows]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        from minilm.internals import show

        return show.trace(self)


def trace(
    model: SentenceEncoder,
    texts: Iterable[str],
    names: str | Iterable[str] = "*",
    layout: Layout = "padded",
    *,
    prompt_name: str | None = None,
    prompt: str | None = None,
    gradients: bool = False,
) -> Trace:
    """One forward pass over ``texts``, as one batch, with its intermediates kept.

    Watching changes nothing: the output has the bits of ``model(model.tokenize(texts, layout))``.
    Memory is used for the chosen activations only. Scores and probabilities are computed by hand
    beside the kernel, which never forms them. Leaves the model in evaluation mode, as ``encode``
    does, and warns of texts that are cut, as it does.

    Args:
        texts: at least one.
        names: which activations, see :func:`~minilm.internals.activations.choose`.
        layout: ``"padded"`` or ``"packed"``.
        prompt_name, prompt: text to put before each text, as in ``encode``.
        gradients: keep the graph, so that gradients can be taken with respect to activations (all
            but scores and probabilities, which stand beside the road; intervene on those).

    Raises:
        InputError: no texts, a name that matches nothing, or an unknown layout.
        TextTypeError: an input is not a string.
    """
    check_choice("layout", layout, ("padded", "packed"))
    known = sites(model.encoder.config)
    recorder = _Recorder(choose(names, known))
    given, batch = tokenize(model, texts, layout, prompt_name=prompt_name, prompt=prompt)
    model.eval()
    with torch.set_grad_enabled(gradients), watching(model, recorder):
        output = model(batch)
    tokens = [model.tokenizer.pieces(ids.tolist()) for ids in batch.texts(batch.input_ids)]
    activations = {name: recorder.kept[name] for name in recorder.names}  # as listed, not as hooks ran
    return Trace(given, tokens, batch, output, activations, known)


class _Recorder:
    """Keeps what it is shown."""

    def __init__(self, names: list[str]):
        self.names = names
        self.kept: dict[str, Value] = {}

    def __call__(self, site: Site, value: Value, batch: Batch) -> Value:
        self.kept[site.name] = value
        return value


def tokenize(
    model: SentenceEncoder,
    texts: Iterable[str],
    layout: Layout,
    *,
    prompt_name: str | None = None,
    prompt: str | None = None,
) -> tuple[list[str], Batch]:
    """The texts as a list, and as the batch that ``encode`` would make of them: with the model's
    prompt, and a warning where texts are cut.

    Raises:
        InputError: there are no texts.
        TextTypeError: an input is not a string.
    """
    given = check_texts(texts)
    if not given:
        raise InputError("there are no texts; give at least one")
    before = model._resolve_prompt(prompt, prompt_name)
    tokenized = model.tokenizer([before + text for text in given])
    model.report_truncation(tokenized.tokens_lost, "warn", len(given))
    return given, model._batch(tokenized.ids, layout).to(model.device)


def _kept(name: str, names: Iterable[str]) -> str:
    """The name, if it is there; an error with those near it, if not."""
    names = list(names)
    if name not in names:
        near = get_close_matches(str(name), names, n=4, cutoff=0.5)
        hint = f"; near it: {', '.join(near)}" if near else ""
        raise InputError(f"this trace has not kept {name!r}{hint}; choose it with names=")
    return name
