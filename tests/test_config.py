"""config.json: every field is honoured as transformers honours it, or refused."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TEXTS, TINY, TinyFolder, edit_json, load_reference
from transformers import BertConfig, BertModel

from minilm import CheckpointError, EncoderConfig, SentenceEncoder
from minilm.encoder import Encoder
from minilm.tolerances import INITIAL_MEAN, INITIAL_STD

# Another value than the tiny model's for each field that transformers 5.23 writes, and for those
# that older releases wrote or that every model may have.
OTHER_VALUES: dict[str, list[Any]] = {
    "_name_or_path": ["someone/else"],
    "add_cross_attention": [True],
    "architectures": [None, ["BertForMaskedLM"], ["RobertaModel"]],
    "attention_probs_dropout_prob": [0.0, 0.3],
    "bos_token_id": [5],
    "chunk_size_feed_forward": [7],
    "classifier_dropout": [0.5],
    "dtype": [None, "float16", "bfloat16", "float64", "int8", "auto"],
    "eos_token_id": [5],
    "hidden_act": ["relu", "silu", "gelu_pytorch_tanh", "tanh", "gelu_new", "gelu_fast", None],
    "hidden_dropout_prob": [0.0, 0.3],
    "hidden_size": [12, 48],
    "id2label": [{"0": "a", "1": "b", "2": "c"}],
    "initializer_range": [0.5],
    "intermediate_size": [20, 80],
    "is_decoder": [True],
    "is_encoder_decoder": [True],
    "label2id": [{"a": 0, "b": 1, "c": 2}],
    "layer_norm_eps": [1e-12, 0.1],
    "max_position_embeddings": [20, 80],
    "model_type": ["roberta", "distilbert"],
    "num_attention_heads": [1, 2, 6],
    "num_hidden_layers": [1, 3],
    "output_attentions": [True],
    "output_hidden_states": [True],
    "pad_token_id": [None, 3],
    "problem_type": ["regression"],
    "return_dict": [False],
    "tie_word_embeddings": [False],
    "transformers_version": ["3.0.0"],
    "type_vocab_size": [1, 4],
    "use_cache": [True],
    "vocab_size": [10, 1000],
    # not in to_dict(), but read by transformers or by earlier releases of it
    "torch_dtype": ["float16"],
    "_attn_implementation": ["eager", "sdpa"],
    "attn_implementation": ["eager", "sdpa"],
    "position_embedding_type": ["relative_key", "relative_key_query", "absolute"],
    "pruned_heads": [{"0": [0]}, {}],
    "cross_attention_hidden_size": [8],
    "quantization_config": [{"load_in_8bit": True}],
    "gradient_checkpointing": [True],
    "directionality": ["bidi"],
}


def test_the_table_above_has_every_field_of_transformers() -> None:
    assert set(BertConfig().to_dict()) <= set(OTHER_VALUES)


@pytest.mark.parametrize(
    ("field", "value"), [(field, value) for field, values in OTHER_VALUES.items() for value in values], ids=repr
)
def test_a_changed_field_is_refused_or_gives_the_reference_s_bits(
    tiny_folder: TinyFolder, field: str, value: Any
) -> None:
    folder = tiny_folder()
    changed = {field: value} if field != "torch_dtype" else {"torch_dtype": value, "dtype": None}
    edit_json(folder / "config.json", **changed)
    try:
        ours = SentenceEncoder.from_pretrained(folder, device="cpu")
    except CheckpointError as error:
        assert "config.json" in str(error)
        assert field in str(error) or "has shape" in str(error) or "missing" in str(error) or "unexpected" in str(error)
        return
    reference = load_reference(folder)
    assert ours.dtype == next(reference.parameters()).dtype
    texts = [text[:60] for text in TEXTS]
    np.testing.assert_array_equal(ours.encode(texts, layout="padded"), reference.encode(texts))
    bert = reference[0].auto_model
    assert ours.encoder.embeddings.dropout.p == bert.embeddings.dropout.p
    assert ours.encoder.layers[0].dropout.p == bert.encoder.layer[0].output.dropout.p
    assert ours.encoder.layers[0].attention.dropout.p == bert.config.attention_probs_dropout_prob
    assert ours.encoder.embeddings.word.padding_idx == bert.embeddings.word_embeddings.padding_idx
    assert ours.encoder.config.initializer_range == bert.config.initializer_range


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(EncoderConfig) if f.name.endswith("_size")])
@pytest.mark.parametrize("value", [0, -1, 1.5, "8", True, None, [8], 10**30])
def test_a_size_is_a_positive_number_that_can_be(field: str, value: object) -> None:
    with pytest.raises(CheckpointError, match=f"here: {field} is "):
        EncoderConfig.from_dict(BertConfig().to_dict() | {"num_attention_heads": 1, field: value}, "here")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("layer_norm_eps", math.inf),
        ("layer_norm_eps", math.nan),
        ("layer_norm_eps", 0),
        ("layer_norm_eps", -1e-12),
        ("layer_norm_eps", "1e-12"),
        ("initializer_range", math.inf),
        ("hidden_dropout_prob", 1.0),
        ("hidden_dropout_prob", -0.1),
        ("hidden_dropout_prob", math.nan),
        ("attention_probs_dropout_prob", None),
        ("pad_token_id", 30522),
        ("pad_token_id", -1),
        ("hidden_act", ["gelu"]),
        ("hidden_size", 766),
        ("model_type", ["bert"]),
        ("model_type", None),
    ],
)
def test_values_that_no_encoder_can_have_are_refused(field: str, value: object) -> None:
    with pytest.raises(CheckpointError, match=field):
        EncoderConfig.from_dict(BertConfig().to_dict() | {field: value})


@pytest.mark.parametrize(
    "field",
    ["model_type", "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"],
)
def test_what_says_which_model_it_is_must_be_there(field: str) -> None:
    config = BertConfig().to_dict()
    del config[field]
    with pytest.raises(CheckpointError, match=field):
        EncoderConfig.from_dict(config)


@pytest.mark.parametrize(
    "field", sorted(set(TINY) - {"hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"})
)
def test_other_fields_fall_back_to_the_reference_s_defaults(field: str) -> None:
    config = BertConfig(**TINY).to_dict()
    del config[field]
    assert getattr(EncoderConfig.from_dict(config), field) == getattr(BertConfig(), field)


def test_defaults_are_all_minilm_l6_v2_s(model: SentenceEncoder) -> None:
    assert EncoderConfig() == model.encoder.config


def test_it_survives_a_round_trip_through_transformers(tmp_path: Any) -> None:
    config = EncoderConfig(**TINY, hidden_dropout_prob=0.25, pad_token_id=None, hidden_act="silu")
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    theirs = BertConfig.from_pretrained(tmp_path)
    assert EncoderConfig.from_dict(theirs.to_dict() | {"architectures": ["BertModel"]}) == config


def test_a_new_encoder_starts_as_bert_does() -> None:
    config = EncoderConfig(vocab_size=2000, hidden_size=96, num_hidden_layers=2, initializer_range=0.05)
    theirs = BertModel(BertConfig(**dataclasses.asdict(config)))
    for (name, ours), their in zip(Encoder(config).named_parameters(), theirs.parameters(), strict=False):
        assert torch.isclose(ours.std(), their.std(), rtol=INITIAL_STD), name
        assert torch.isclose(ours.mean(), their.mean(), atol=INITIAL_MEAN), name
