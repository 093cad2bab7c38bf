"""The encoder's configuration, read from a checkpoint's ``config.json``.

Every field of the file is accounted for: it is honoured (the dataclass below), it must have the
one value that this encoder implements (``_FIXED``), or it says nothing about the numbers
(``_DESCRIPTIVE``). A field in none of the three is refused rather than ignored.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from minilm.errors import CheckpointError

ACTIVATIONS = ("gelu", "gelu_pytorch_tanh", "relu", "silu", "tanh")
DTYPES = ("float32", "float16", "bfloat16", "float64")

LARGEST_SIZE = 2**24  # beyond any BERT; a hostile file must not overflow the arithmetic of shapes

# Fields that would change the computation, with the values that are supported. The loader honours
# dtype (:func:`stated_dtype`); all other values here leave the computation as it is.
_FIXED: dict[str, tuple[Any, ...]] = {
    "model_type": ("bert",),
    "dtype": (*DTYPES, None),
    "torch_dtype": (*DTYPES, None),
    "architectures": (["BertModel"], None),
    "position_embedding_type": ("absolute",),
    "is_decoder": (False,),
    "add_cross_attention": (False,),
    "is_encoder_decoder": (False,),
    "cross_attention_hidden_size": (None,),
    "chunk_size_feed_forward": (0,),
    "pruned_heads": ({}, None),
    "quantization_config": (None,),
    "attn_implementation": ("sdpa", None),
    "_attn_implementation": ("sdpa", None),
}

# Fields that describe the file, another library's behaviour, or heads that an encoder lacks.
_DESCRIPTIVE = frozenset(
    """
    _name_or_path name_or_path transformers_version use_cache
    gradient_checkpointing classifier_dropout tie_word_embeddings bos_token_id eos_token_id
    sep_token_id output_attentions output_hidden_states return_dict id2label label2id
    problem_type finetuning_task task_specific_params directionality
    tokenizer_class unk_token_id cls_token_id mask_token_id
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
        defaults, as they do in transformers. ``source`` names the file in errors.
        """
        honoured = [field.name for field in dataclasses.fields(cls)]
        for name, allowed in _FIXED.items():
            if name in values and values[name] not in allowed:
                raise CheckpointError(
                    f"{source}: {name} is {values[name]!r}, supported: {', '.join(map(repr, allowed))}. "
                    "minilm runs BertModel encoders with absolute positions."
                )
        if unknown := sorted(set(values) - set(honoured) - set(_FIXED) - _DESCRIPTIVE):
            raise CheckpointError(
                f"{source}: unknown field(s) {', '.join(unknown)}. minilm honours or refuses every "
                "field; remove them if they do not change what the model computes."
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


def stated_dtype(values: Mapping[str, Any]) -> str | None:
    """The floating-point type that a ``config.json`` asks for, in which transformers loads the
    weights whatever type they are stored in; None when it asks for none."""
    return values.get("dtype") or values.get("torch_dtype")


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
