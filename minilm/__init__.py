"""all-MiniLM-L6-v2, taken apart: a hand-written BERT encoder, mean pooling and normalisation.

>>> from minilm import SentenceEncoder
>>> model = SentenceEncoder.from_pretrained()
>>> model.encode(["a text", "another"]).shape
(2, 384)
"""

from minilm import forks as _forks  # noqa: F401  (a forked process must not wait for its parent's threads)
from minilm.config import EncoderConfig
from minilm.encoder import Encoder
from minilm.engines import EncodeBatch
from minilm.errors import (
    CheckpointError,
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

__version__ = "0.1.0"

__all__ = [
    "CheckpointError",
    "EncodeBatch",
    "Encoder",
    "EncoderConfig",
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
