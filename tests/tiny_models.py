"""A model small enough to train in a test, with a vocabulary of a few words, and pairs for it."""

import itertools
from typing import Any

import tokenizers
import torch
from tokenizers import models, normalizers, pre_tokenizers, processors

from minilm import Encoder, EncoderConfig, SentenceEncoder, Tokenizer

WORDS = "cat dog bird fish sun moon star rain snow wind sea hill road tree leaf".split()
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]

PAIRS = {
    "question": [f"{a} {b}" for a, b in itertools.pairwise(WORDS)],
    "answer": [f"{b} {a} {a} rain" for a, b in itertools.pairwise(WORDS)],
}


def tiny_model(**config: Any) -> SentenceEncoder:
    """The same random weights at every call; fields of ``config`` as in ``EncoderConfig``."""
    settings = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    vocabulary = {piece: i for i, piece in enumerate([*SPECIAL, *WORDS])}
    torch.manual_seed(0)
    encoder = Encoder(EncoderConfig(vocab_size=len(vocabulary), max_position_embeddings=16, **(settings | config)))
    tokenizer = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.add_special_tokens(SPECIAL)
    return SentenceEncoder(encoder, Tokenizer(tokenizer, 16))
