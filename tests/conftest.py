"""What the tests share: the real model and its reference, and tiny models of any shape.

Nothing here skips. Without the reference library or the weights the tests fail and say so.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules.normalize import Normalize
from sentence_transformers.base.modules.transformer import Transformer
from sentence_transformers.sentence_transformer.modules.pooling import Pooling
from training_runs import write_tiny_model
from transformers import BertConfig, BertModel, BertTokenizerFast

from minilm import SentenceEncoder
from minilm.hub import find_model

TinyFolder = Callable[..., Path]

TINY = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "max_position_embeddings": 40,
    "layer_norm_eps": 1e-6,
}
WORDS = "the a cat dog sat on mat sentence about nothing at all two three".split()

# Texts of many lengths for the tiny models: in the vocabulary and not, cut at the limit and not.
TEXTS = [
    "The cat sat on the mat",
    "",
    "a",
    "Unbekannte Wörter, 漢字 and 🙂",
    "two dogs about nothing at all " * 12,
    "three",
]


@pytest.fixture(scope="session")
def weights() -> Path:
    """The verified folder of all-MiniLM-L6-v2, fetched if need be. Tests do not write to it."""
    return find_model()


@pytest.fixture(scope="session")
def model(weights: Path) -> SentenceEncoder:
    """The real model, shared by all tests: do not change it."""
    return SentenceEncoder.from_pretrained(weights, device="cpu")


@pytest.fixture(scope="session")
def reference(weights: Path) -> SentenceTransformer:
    """sentence-transformers with the real weights, shared by all tests: do not change it."""
    return load_reference(weights)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> TinyFolder:
    """``tiny_folder(normalize=True, legacy=False, **config)``: a folder of one's own with a small
    random BERT, written by sentence-transformers itself; fields of ``config`` as in BertConfig."""
    made: dict[str, Path] = {}

    def make(normalize: bool = True, legacy: bool = False, **config: Any) -> Path:
        key = repr((normalize, legacy, sorted(config.items())))
        if key not in made:
            made[key] = tmp_path_factory.mktemp("made") / "model"
            write_tiny(made[key], normalize, TINY | config)
            if legacy:
                make_legacy(made[key])
        copy = tmp_path_factory.mktemp("tiny") / "model"
        shutil.copytree(made[key], copy)
        return copy

    return make


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory, weights: Path) -> Path:
    """A small random model with the real vocabulary, to train from. Tests do not write to it."""
    return write_tiny_model(tmp_path_factory.mktemp("tiny") / "model", weights)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Tiny matrices gain nothing from a second thread and lose much where the cores are busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def load_reference(folder: Path | str) -> SentenceTransformer:
    """A folder in sentence-transformers, on the CPU, without any network."""
    return SentenceTransformer(str(folder), device="cpu", local_files_only=True)


def tiny_tokenizer() -> tokenizers.Tokenizer:
    """WordPiece over a few words and all letters, put together as BERT's."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,!?-"
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{c}" for c in letters), *WORDS]
    vocab = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocab["[CLS]"]), ("[SEP]", vocab["[SEP]"])],
    )
    return tokenizer


def write_tiny(folder: Path, normalize: bool, config: dict[str, Any]) -> None:
    """Builds the pipeline with sentence-transformers and lets it write its own format."""
    tokenizer = tiny_tokenizer()
    raw = folder.with_name("transformer")
    with torch.random.fork_rng():
        torch.manual_seed(1)
        bert = BertModel(BertConfig(**{"vocab_size": tokenizer.get_vocab_size(), **config}))
        for parameter in bert.parameters():  # also biases and norms, which start as constants
            parameter.data.normal_(0.1, 0.3)
    bert.save_pretrained(raw)
    BertTokenizerFast(tokenizer_object=tokenizer).save_pretrained(raw)
    transformer = Transformer(str(raw))
    transformer.max_seq_length = bert.config.max_position_embeddings - 8
    modules = [transformer, Pooling(bert.config.hidden_size), *([Normalize()] if normalize else [])]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder), create_model_card=False)


def make_legacy(folder: Path) -> None:
    """Rewrites a folder's JSON files to the form of sentence-transformers before 5."""
    limit = edit_json(folder / "tokenizer_config.json").pop("model_max_length")
    edit_json(folder / "tokenizer_config.json", model_max_length=512)
    modules = json.loads((folder / "modules.json").read_text())
    for module in modules:
        module["type"] = "sentence_transformers.models." + module["type"].rpartition(".")[2]
    (folder / "modules.json").write_text(json.dumps(modules))
    size = edit_json(folder / "config.json")["hidden_size"]
    flags = {f"pooling_mode_{mode}": mode == "mean_tokens" for mode in ("cls_token", "mean_tokens", "max_tokens")}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": size, **flags}))
    settings = {"max_seq_length": limit, "do_lower_case": False}
    (folder / "sentence_bert_config.json").write_text(json.dumps(settings))
    versions = {"sentence_transformers": "2.0.0", "transformers": "4.6.1", "pytorch": "1.8.1"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps({"__version__": versions}))


def edit_json(file: Path, **changes: Any) -> dict[str, Any]:
    """The object in a JSON file, after the changes, which are written back."""
    content: dict[str, Any] = json.loads(file.read_text())
    if changes:
        content.update(changes)
        file.write_text(json.dumps(content))
    return content
