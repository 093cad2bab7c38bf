"""How good is a model? The evaluators of sentence-transformers, and an interval for differences.

>>> from minilm.evaluation import EmbeddingSimilarityEvaluator
>>> evaluator = EmbeddingSimilarityEvaluator(sentences1, sentences2, scores)
>>> evaluator(model)[evaluator.primary_metric]
0.8203246731235654
"""

from minilm.evaluation.binary_classification import BinaryClassificationEvaluator
from minilm.evaluation.bootstrap import Difference, paired_bootstrap
from minilm.evaluation.evaluator import BaseEvaluator, Outcome, UndefinedMetricWarning
from minilm.evaluation.retrieval import InformationRetrievalEvaluator, load_beir
from minilm.evaluation.sequential import SequentialEvaluator
from minilm.evaluation.similarity import EmbeddingSimilarityEvaluator
from minilm.evaluation.triplets import TripletEvaluator

__all__ = [
    "BaseEvaluator",
    "BinaryClassificationEvaluator",
    "Difference",
    "EmbeddingSimilarityEvaluator",
    "InformationRetrievalEvaluator",
    "Outcome",
    "SequentialEvaluator",
    "TripletEvaluator",
    "UndefinedMetricWarning",
    "load_beir",
    "paired_bootstrap",
]
