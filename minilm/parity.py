"""The model beside the reference, stage by stage: what ``minilm verify`` and ``scripts/parity`` show.

The one module that imports sentence-transformers, and only when called: it is an extra,
``pip install minilm[reference]``.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from minilm.checkpoint import KEYS
from minilm.errors import InputError
from minilm.layouts import Layout
from minilm.sentence_encoder import SentenceEncoder

# A few texts of every kind that has broken a tokenizer or a batch somewhere.
TEXTS = (
    "The ferry to the island leaves at seven in the morning.",
    "",
    " ",
    "a",
    "Naïve café — “déjà vu”, coöperate; Ångström, Zürich, Þingvellir",
    "北京是中华人民共和国的首都。 東京は日本の首都です。 서울",
    "مرحبا بالعالم، كيف حالك اليوم؟ שלום עולם",
    "👩‍👩‍👧‍👦 🇺🇳 👍🏽 emoji and flags ☕️",
    "e\u0301 a\u0308 o\u0302\u0323 combining marks, and zero\u200bwidth\u2060 \ufeffmarks",
    "control\x00 characters\x07 \t tab\r\nnew\x85line\u2028separator",
    "[CLS] literal [SEP] special [MASK] tokens [PAD] [UNK]",
    "x" * 150,
    "https://example.org/a?b=c&d=e#f user@example.org C:\\path\\file.txt 3.14159e-10 $1,000.00",
    "The quick brown fox jumps over the lazy dog. " * 12,
    "one text that is longer than the limit " * 60,
)


@dataclass(frozen=True)
class EncodeParity:
    """What :func:`compare_encode` found.

    Attributes:
        largest: the largest absolute difference of any number.
        equal_rows: how many of the ``rows`` vectors are equal to the bit.
    """

    rows: int
    equal_rows: int
    largest: float


def load_reference(folder: Path, dtype: torch.dtype | None = None) -> Any:
    """The folder as a ``sentence_transformers.SentenceTransformer`` on the CPU, without network.

    Raises:
        InputError: sentence-transformers is not installed.
    """
    try:
        with _offline():
            from sentence_transformers import SentenceTransformer
            from transformers.utils import logging

            shown = logging.is_progress_bar_enabled()
            logging.disable_progress_bar()  # type: ignore[no-untyped-call]
            try:
                reference = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
            finally:
                if shown:  # the switch is everybody's
                    logging.enable_progress_bar()  # type: ignore[no-untyped-call]
    except ImportError:
        raise InputError(
            "sentence-transformers is not installed; it is the reference. pip install 'minilm[reference]'"
        ) from None
    return reference.to(dtype).eval() if dtype else reference.eval()


def compare_encode(
    model: SentenceEncoder, reference: Any, texts: Sequence[str], layout: Layout, batch_size: int = 32
) -> EncodeParity:
    """``encode`` of both, the reference with its defaults."""
    theirs = reference.encode(list(texts), batch_size=batch_size, show_progress_bar=False)
    ours = model.encode(list(texts), batch_size=batch_size, layout=layout, truncation="silent", show_progress_bar=False)
    difference = np.abs(ours.astype(np.float64) - theirs)
    return EncodeParity(len(texts), int((ours == theirs).all(axis=1).sum()), float(difference.max(initial=0)))


def compare_stages(model: SentenceEncoder, reference: Any, texts: Sequence[str], layout: Layout) -> dict[str, float]:
    """The largest absolute difference after each stage of one batch, in the order of computation.

    The stages are our module names: the embeddings, then for each layer the projections, attention,
    feed-forward and both normalisations, then the mean and the normalised vector.
    """
    layers = range(model.encoder.config.num_hidden_layers)
    names = {
        ours.format(i=i): theirs.format(i=i)
        for theirs, ours in KEYS.items()
        for i in (layers if "{i}" in ours else (0,))
        if ours != "embeddings.position"  # its rows are the same for every text
    }
    batch = model.tokenize(texts, layout)
    features = reference.preprocess(list(texts))
    transformer, pooling, *rest = reference
    with torch.inference_mode():
        with _recording(model.encoder, names.keys()) as ours_after:
            output = model(batch)
        with _recording(transformer.auto_model, names.values()) as theirs_after:
            transformer(features)
        differences = {}
        for name in ours_after:  # in the order of computation
            left, right = batch.texts(ours_after[name]), theirs_after[names[name]]
            differences[name] = max(
                _largest(a, b[:length]) for a, b, length in zip(left, right, batch.lengths, strict=True)
            )
        mean = model.pooling(output.last_hidden_state, batch)
        differences["pooling"] = _largest(mean, pooling(features)["sentence_embedding"])
        for module in rest:
            module(features)
        differences["normalize"] = _largest(output.sentence_embedding, features["sentence_embedding"])
    return differences


def _largest(a: Tensor, b: Tensor) -> float:
    return (a.double() - b.double()).abs().max().item()


@contextmanager
def _recording(root: nn.Module, names: Iterable[str]) -> Iterator[dict[str, Tensor]]:
    """Collects the outputs of the named submodules of ``root``, in the order in which they ran."""
    outputs: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        return lambda module, inputs, output: outputs.setdefault(name, output)

    handles = [root.get_submodule(name).register_forward_hook(keep(name)) for name in names]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _offline() -> Iterator[None]:
    """The reference asks the hub about local folders too; its answer is not needed."""
    before = os.environ.get("HF_HUB_OFFLINE")
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["HF_HUB_OFFLINE"]
        else:
            os.environ["HF_HUB_OFFLINE"] = before
