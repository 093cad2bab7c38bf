"""What ``minilm`` offers under its own name."""

from minilm.config import EncoderConfig
from minilm.encoder import Encoder
from minilm.engines import EncodeBatch
from minilm.errors import (
    CheckpointError,
    CheckpointWarning,
    EngineWarning,
    InputError,
    IntegrityError,
    LossyPrecisionWarning,
    MinilmError,
    ModelNotFoundError,
    NonFiniteError,
    PushError,
    SlowPrecisionWarning,
    TextTypeError,
    TruncationError,
    TruncationWarning,
)
from minilm.layouts import PackedBatch, PaddedBatch
from minilm.sentence_encoder import SentenceEncoder
from minilm.similarity import (
    community_detection,
    cos_sim,
    dot_score,
    euclidean_sim,
    manhattan_sim,
    paraphrase_mining,
    paraphrase_mining_embeddings,
    quantize_embeddings,
    semantic_search,
    truncate_embeddings,
)
from minilm.tokens import Tokenizer

__all__ = [
    "CheckpointError",
    "CheckpointWarning",
    "EncodeBatch",
    "Encoder",
    "EncoderConfig",
    "EngineWarning",
    "InputError",
    "IntegrityError",
    "LossyPrecisionWarning",
    "MinilmError",
    "ModelNotFoundError",
    "NonFiniteError",
    "PackedBatch",
    "PaddedBatch",
    "PushError",
    "SentenceEncoder",
    "SlowPrecisionWarning",
    "TextTypeError",
    "Tokenizer",
    "TruncationError",
    "TruncationWarning",
    "community_detection",
    "cos_sim",
    "dot_score",
    "euclidean_sim",
    "manhattan_sim",
    "paraphrase_mining",
    "paraphrase_mining_embeddings",
    "quantize_embeddings",
    "semantic_search",
    "truncate_embeddings",
]
