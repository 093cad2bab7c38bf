"""Contrastive fine-tuning: pairs, a loss, a recipe, and a loop that one can read and change.

>>> from minilm import SentenceEncoder
>>> from minilm.training import PairDataset, TrainingRecipe, train
>>> model = SentenceEncoder.from_pretrained()
>>> pairs = PairDataset.from_file("pairs.jsonl")
>>> train(model, pairs, TrainingRecipe.trainer(num_train_epochs=1), output_dir="out")
"""

from minilm.training.batches import epoch_batches
from minilm.training.data import PairDataset
from minilm.training.losses import (
    CachedMultipleNegativesRankingLoss,
    MultipleNegativesRankingLoss,
    duplicate_ids,
)
from minilm.training.recipe import TrainingRecipe
from minilm.training.run import train_with_records
from minilm.training.trainer import TrainingResult, train

__all__ = [
    "CachedMultipleNegativesRankingLoss",
    "MultipleNegativesRankingLoss",
    "PairDataset",
    "TrainingRecipe",
    "TrainingResult",
    "duplicate_ids",
    "epoch_batches",
    "train",
    "train_with_records",
]
