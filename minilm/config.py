"""The encoder's configuration, read from a checkpoint's ``config.json``.

Every field of the file is accounted for. It is honoured (the dataclass below), or it must have a
value that this encoder implements (``_FIXED``), or transformers writes it and it says nothing about
the numbers (``_DESCRIPTIVE``). Any other field is one that ``BertConfig`` does not define, so it
cannot change a ``BertModel``: :func:`unknown_fields` names it, and loading goes on with a warning.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from minilm.errors import CheckpointError

ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "gelu_python", "relu", "silu", "swish", "tanh")
DTYPES = ("float32", "float16", "bfloat16", "float64")

LARGEST_SIZE = 2**24  # beyond any BERT; a hostile file must not overflow the arithmetic of shapes

# Fields that would change the computation, with the values that are supported. The loader honours
# dtype (:func:`stated_dtype`); all other values here leave the computation as it is.
_FIXED: dict[str, tuple[Any, ...]] = {
    "model_type": ("bert",),
    "dtype": (*DTYPES, None),
    "torch_dtype": (*DTYPES, None),
    "position_embedding_type": ("absolute", None),
    "is_decoder": (False,),
    "add_cross_attention": (False,),
    "is_encoder_decoder": (False,),
    "cross_attention_hidden_size": (None,),
    "chunk_size_feed_forward": (0,),
    "pruned_heads": ({}, None),
    "quantization_config": (None,),
    "attn_implementation": ("sdpa", None),
    "_attn_implementation": ("sdpa", None),
    # Not in BertConfig, but read by what stands around it: a mask that looks back only, layers of
    # their own shapes, other names, files and code.
    "is_causal": (False, None),
    "per_layer_config": (None, {}),
    "attribute_map": (None, {}),
    "auto_map": (None, {}),
    "configuration_files": (None, []),
    "transformers_weights": (None,),
    "fusion_config": (None, {}),
}

# Fields that describe the file, another library's behaviour, or heads that an encoder lacks.
_DESCRIPTIVE = frozenset(
    """
    _name_or_path name_or_path _commit_hash transformers_version transformers.js_config export_model_type
    _attn_implementation_autoset _attn_implementation_internal _flash_attn_2_enabled gradient_checkpointing
    use_cache output_past output_attentions output_hidden_states return_dict torchscript use_bfloat16 tf_legacy_loss
    xla_device classifier_dropout tie_word_embeddings tie_encoder_decoder tie_last_hidden_states
    id2label label2id num_labels problem_type finetuning_task task_specific_params prefix
    tokenizer_class unk_token_id cls_token_id mask_token_id bos_token_id eos_token_id eos_token_ids sep_token_id
    decoder_start_token_id directionality
    pooler_fc_size pooler_num_attention_heads pooler_num_fc_layers pooler_size_per_head pooler_type
    max_length min_length do_sample early_stopping num_beams num_beam_groups num_return_sequences temperature
    top_k top_p typical_p epsilon_cutoff eta_cutoff repetition_penalty encoder_repetition_penalty length_penalty
    diversity_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids suppress_tokens
    begin_suppress_tokens forced_bos_token_id forced_eos_token_id remove_invalid_values
    exponential_decay_length_penalty output_scores return_dict_in_generate num_assistant_tokens
    num_assistant_tokens_schedule assistant_confidence_threshold assistant_lookbehind target_lookbehind
    """.split()
)


@dataclass(frozen=True)
class EncoderConfig:
    """The shape of a BERT encoder. Names are those of transformers' ``BertConfig``; the defaults
    are all-MiniLM-L6-v2's.

    Raises:
        CheckpointError: a value cannot be used, e.g. a hidden size that the heads do not divide.
    """

    vocab_size: int = 30522
    hidden_size: int = 384
    num_hidden_layers: int = 6
    num_attention_heads: int = 12
    intermediate_size: int = 1536
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    pad_token_id: int | None = 0

    @property
    def head_size(self) -> int:
        """The dimensions of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str = "config.json") -> EncoderConfig:
        """Builds the configuration from the content of a ``config.json``.

        The model's type and sizes must be stated; the other fields fall back to ``BertConfig``'s
        defaults, as they do in transformers. Those of :func:`unknown_fields` have no effect.
        ``source`` names the file in errors.
        """
        honoured = [field.name for field in dataclasses.fields(cls)]
        for name, allowed in _FIXED.items():
            if name in values and values[name] not in allowed:
                raise CheckpointError(
                    f"{source}: {name} is {values[name]!r}, supported: {', '.join(map(repr, allowed))}. "
                    "minilm runs BertModel encoders with absolute positions."
                )
        sizes = [
            name for name in honoured if name.endswith(("_size", "_layers", "_heads")) and name != "type_vocab_size"
        ]
        if missing := [name for name in ("model_type", *sizes) if name not in values]:
            raise CheckpointError(f"{source}: missing field(s) {', '.join(missing)}")
        try:
            return cls(**{name: values[name] for name in honoured if name in values})
        except CheckpointError as error:
            raise CheckpointError(f"{source}: {error}") from None

    def to_dict(self) -> dict[str, Any]:
        """The content of a ``config.json`` that transformers and :meth:`from_dict` read back."""
        return {
            "architectures": ["BertModel"],
            "model_type": "bert",
            "position_embedding_type": "absolute",
            **dataclasses.asdict(self),
            "initializer_range": float(self.initializer_range),  # the two that transformers wants as no integer
            "layer_norm_eps": float(self.layer_norm_eps),
        }

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if name == "hidden_act":
                if value not in ACTIVATIONS:
                    raise CheckpointError(f"hidden_act is {value!r}, supported are {', '.join(ACTIVATIONS)}")
            elif name == "pad_token_id":
                if value is not None and not (_is_int(value) and 0 <= value < self.vocab_size):
                    raise CheckpointError(f"pad_token_id is {value!r}, expected null or 0 … vocab_size - 1")
            elif name.endswith("_prob"):
                if not (_is_number(value) and 0 <= value < 1):
                    raise CheckpointError(f"{name} is {value!r}, expected a number in [0, 1)")
            elif name in ("initializer_range", "layer_norm_eps"):
                if not (_is_number(value) and 0 < value < math.inf):
                    raise CheckpointError(f"{name} is {value!r}, expected a positive number")
            elif not (_is_int(value) and 0 < value <= LARGEST_SIZE):
                raise CheckpointError(f"{name} is {value!r}, expected a whole number in 1 … {LARGEST_SIZE:,}")
        if self.hidden_size % self.num_attention_heads:
            raise CheckpointError(
                f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads {self.num_attention_heads}"
            )


def unknown_fields(values: Mapping[str, Any]) -> list[str]:
    """The fields of a ``config.json`` that neither minilm nor ``BertConfig`` knows, and which therefore have no
    effect; also ``architectures`` where it names another model than BERT, since ``model_type`` decides."""
    honoured = {field.name for field in dataclasses.fields(EncoderConfig)}
    unknown = set(values) - honoured - set(_FIXED) - _DESCRIPTIVE
    names = values.get("architectures")
    if names is None or (isinstance(names, list) and all(str(name).startswith("Bert") for name in names)):
        unknown.discard("architectures")
    return sorted(unknown)


def stated_dtype(values: Mapping[str, Any]) -> str | None:
    """The floating-point type that a ``config.json`` asks for, in which transformers loads the
    weights whatever type they are stored in; None when it asks for none."""
    return values.get("dtype") or values.get("torch_dtype")


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
