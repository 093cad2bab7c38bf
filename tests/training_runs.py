"""What the training tests share: a tiny model, deterministic pairs, and one run of each library."""

import inspect
import json
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minilm import Encoder, EncoderConfig, PaddedBatch, SentenceEncoder, Tokenizer
from minilm.checkpoint import read_tensors
from minilm.training import PairDataset, TrainingRecipe, train
from minilm.training.log import read_log

IGNORED = ("pooler.dense.weight", "pooler.dense.bias", "embeddings.position_ids")


def write_tiny_model(folder: Path, weights: Path, dropout: float = 0.1) -> Path:
    """A random BERT of two layers with the real vocabulary and a limit of 48 tokens."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = EncoderConfig(
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=64,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
        )
        SentenceEncoder(Encoder(config), Tokenizer.from_file(weights / "tokenizer.json", 48)).save_pretrained(folder)
    return folder


def docstring_pairs(count: int, skip: int = 0) -> dict[str, list[str]]:
    """Summary lines and what follows them, from the standard library's docstrings."""
    found = [pair for module in (inspect, json, textwrap, torch.optim, torch.utils.data) for pair in _pairs(module)]
    found += [pair for module in (torch.nn.functional, torch.nn) for pair in _pairs(module)]
    pairs = sorted(set(found), key=lambda pair: pair[::-1])[skip : skip + count]
    assert len(pairs) == count
    return {"anchor": [pair[0] for pair in pairs], "positive": [pair[1] for pair in pairs]}


def _pairs(module: Any) -> Iterator[tuple[str, str]]:
    for name in sorted(vars(module)):
        summary, _, rest = (inspect.getdoc(getattr(module, name)) or "").partition("\n\n")
        if 3 < len(summary.split()) < 40 and len(rest.split()) > 8:
            yield " ".join(summary.split()), " ".join(rest.split())


@dataclass
class Run:
    """Everything about a run that has to be equal."""

    log: list[dict[str, Any]]
    inputs: list[Tensor]
    weights: dict[str, Tensor]
    random_state: Tensor


def our_run(
    folder: Path, data: dict[str, dict[str, list[str]]], output_dir: Path, recipe: TrainingRecipe, **options: Any
) -> Run:
    model = SentenceEncoder.from_pretrained(folder, device="cpu")
    inputs: list[Tensor] = []

    def note(_: Any, arguments: tuple[PaddedBatch]) -> None:
        if model.training:
            inputs.append(arguments[0].input_ids)

    model.register_forward_pre_hook(note)
    datasets = [PairDataset(name, columns) for name, columns in data.items()]
    train(model, datasets, recipe, output_dir=output_dir, **options)
    state = torch.get_rng_state()
    return Run(read_log(output_dir / "training_log.jsonl"), inputs, model_weights(output_dir), state)


def model_weights(folder: Path) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in read_tensors(folder / "model.safetensors").items() if name not in IGNORED}


def assert_same_bits(ours: Run, theirs: Run) -> None:
    assert len(ours.inputs) == len(theirs.inputs)
    for mine, other in zip(ours.inputs, theirs.inputs, strict=True):
        assert torch.equal(mine, other)
    assert ours.log == theirs.log
    assert_same_weights(ours.weights, theirs.weights)
    assert torch.equal(ours.random_state, theirs.random_state)


def assert_same_weights(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert set(ours) == set(theirs)
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
