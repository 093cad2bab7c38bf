"""The evaluators against sentence-transformers', worked examples, the bootstrap, the command."""

import argparse
import csv
import hashlib
import json
import math
import re
import warnings

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr, rankdata, spearmanr
from sentence_transformers.sentence_transformer import evaluation as reference_evaluation
from sklearn.metrics import average_precision_score
from sklearn.metrics import matthews_corrcoef as reference_matthews

from minilm import SentenceEncoder
from minilm import similarity as sim
from minilm.errors import InputError, TruncationWarning
from minilm.evaluation import (
    BinaryClassificationEvaluator,
    EmbeddingSimilarityEvaluator,
    InformationRetrievalEvaluator,
    Outcome,
    SequentialEvaluator,
    TripletEvaluator,
    UndefinedMetricWarning,
    command,
    load_beir,
    measures,
    paired_bootstrap,
)
from minilm.tolerances import BOOTSTRAP_PERCENTILE, PACKED_FLOAT32, PACKED_METRIC, RESAMPLED

SIMILARITIES = ["cosine", "dot", "euclidean", "manhattan"]
THEIRS = {
    EmbeddingSimilarityEvaluator: reference_evaluation.EmbeddingSimilarityEvaluator,
    InformationRetrievalEvaluator: reference_evaluation.InformationRetrievalEvaluator,
    TripletEvaluator: reference_evaluation.TripletEvaluator,
    BinaryClassificationEvaluator: reference_evaluation.BinaryClassificationEvaluator,
}


class HashModel:
    """A model for both libraries: a text's vector is a hash of it, in few levels where ties are wanted."""

    def __init__(self, salt="", dimension=8, levels=None, similarity_fn_name="cosine"):
        self.salt, self.dimension, self.levels = salt, dimension, levels
        self.similarity_fn_name = similarity_fn_name
        self.model_card_data = argparse.Namespace(set_evaluation_metrics=lambda *args: None)
        self.encoder = torch.nn.Module()

    def encode(self, sentences, prompt=None, prompt_name=None, convert_to_tensor=False, truncate_dim=None,
               precision=None, normalize_embeddings=False, **kwargs):  # fmt: skip
        seeds = [hashlib.sha256(f"{self.salt}{prompt}{prompt_name}{text}".encode()).digest() for text in sentences]
        rows = [np.random.default_rng(list(seed)).normal(size=self.dimension) for seed in seeds]
        vectors = torch.tensor(np.array(rows), dtype=torch.float32)[:, :truncate_dim]
        if self.levels:
            vectors = (vectors * self.levels).round()
        if normalize_embeddings:
            vectors = torch.nn.functional.normalize(vectors)
        if precision not in (None, "float32"):
            vectors = torch.from_numpy(sim.quantize_embeddings(vectors, precision))
        return vectors if convert_to_tensor else vectors.numpy()

    def encode_query(self, sentences, prompt_name=None, prompt=None, **options):
        return self.encode(sentences, prompt=prompt, prompt_name=prompt_name or "query", **options)

    def encode_document(self, sentences, prompt_name=None, prompt=None, **options):
        return self.encode(sentences, prompt=prompt, prompt_name=prompt_name or "document", **options)

    def similarity(self, a, b):
        return sim.SIMILARITY[self.similarity_fn_name][0](a, b)


MODELS = [HashModel(), HashModel("ties", dimension=3, levels=1), HashModel("b", similarity_fn_name="euclidean")]


def texts(kind, n):
    return [f"{kind} {i}" for i in range(n)]


def assert_same(ours, theirs, model, folder, reference_model=None, exact=True, calls=((0, 7), (1, -1))):
    """Metrics, their order, primary metric and CSV files, of two calls."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for epoch, steps in calls:
            expected = theirs(reference_model or model, folder / "theirs", epoch, steps)
            found = ours(model, folder / "ours", epoch, steps)
    assert list(found) == list(expected)
    assert all(type(value) is float for value in found.values())
    assert ours.primary_metric == theirs.primary_metric
    assert ours.primary_metric in found
    assert {p.name for p in (folder / "ours").iterdir()} == {p.name for p in (folder / "theirs").iterdir()}
    if exact:
        np.testing.assert_array_equal(list(found.values()), list(expected.values()))
        for file in (folder / "theirs").iterdir():
            assert (folder / "ours" / file.name).read_bytes() == file.read_bytes()
    else:
        np.testing.assert_allclose(list(found.values()), list(expected.values()), rtol=0, atol=PACKED_FLOAT32)
    return found


def both(kind, *args, **options):
    return kind(*args, **options), THEIRS[kind](*args, **options)


# ---- every metric against the reference ---------------------------------------------------------


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"name": "sts-dev"},
        {"similarity_fn_names": SIMILARITIES, "name": "all"},
        {"main_similarity": "manhattan"},
        {"main_similarity": "dot", "similarity_fn_names": SIMILARITIES, "truncate_dim": 2},
        {"precision": "float32"},
        {"precision": "int8", "similarity_fn_names": SIMILARITIES},
        {"precision": "uint8", "name": "u", "similarity_fn_names": SIMILARITIES},
        {"precision": "binary", "similarity_fn_names": SIMILARITIES},
        {"precision": "ubinary", "similarity_fn_names": SIMILARITIES},
    ],
)
def test_embedding_similarity(model, options, tmp_path):
    gold = [round(abs(math.sin(i)) * 5) for i in range(40)]  # integers, with ties
    args = texts("one", 40), texts("two", 40), gold
    assert_same(*both(EmbeddingSimilarityEvaluator, *args, **options), model, tmp_path)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"name": "dev", "batch_size": 2},
        {"similarity_fn_names": SIMILARITIES},
        {"main_similarity_function": "dot"},
        {"main_similarity_function": "euclidean", "similarity_fn_names": SIMILARITIES, "margin": 0.1},
        {"margin": {"cosine": 0.3, "manhattan": 1}, "similarity_fn_names": SIMILARITIES, "truncate_dim": 3},
    ],
)
def test_triplets(model, options, tmp_path):
    args = texts("anchor", 31), texts("positive", 31), texts("negative", 31)
    assert_same(*both(TripletEvaluator, *args, **options), model, tmp_path)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("labels", [[0, 1, 1, 0, 1] * 9, [0] * 45, [1] * 45, [1] + [0] * 44])
@pytest.mark.parametrize("options", [{}, {"similarity_fn_names": SIMILARITIES, "name": "quora", "truncate_dim": 5}])
def test_binary_classification(model, labels, options, tmp_path):
    args = texts("one", 45), [*texts("two", 40), *texts("one", 5)], labels
    assert_same(*both(BinaryClassificationEvaluator, *args, **options), model, tmp_path)


QUERIES = {f"q{i}": f"query {i}" for i in range(12)}
CORPUS = {f"d{i}": f"document {i % 50}" for i in range(70)}  # the last 20 tie with the first 20
RELEVANT = {f"q{i}": {f"d{(i * 7 + j) % 75}" for j in range(i % 4)} for i in range(14)}  # not all of them exist


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"name": "nano", "corpus_chunk_size": 9, "write_predictions": True},
        {"score_functions": {"dot": sim.dot_score, "cosine": sim.cos_sim}, "truncate_dim": 4},
        {"score_functions": {"dot": sim.dot_score, "cosine": sim.cos_sim}, "main_score_function": "dot"},
        {"mrr_at_k": [1, 20], "ndcg_at_k": [3, 1], "accuracy_at_k": [2], "map_at_k": [5, 4]},
        {"query_prompt": "ask: ", "corpus_prompt_name": "passage", "precision_recall_at_k": [200], "map_at_k": [7]},
    ],
)
def test_information_retrieval(model, options, tmp_path):
    assert_same(*both(InformationRetrievalEvaluator, QUERIES, CORPUS, RELEVANT, **options), model, tmp_path)


def test_settings_for_the_model_card():
    triplets = texts("a", 2), texts("p", 2), texts("n", 2)
    pairs = (*triplets[:2], [0, 1])
    for kind, args, options in (
        (EmbeddingSimilarityEvaluator, pairs, {"truncate_dim": 2, "precision": "int8"}),
        (TripletEvaluator, triplets, {"truncate_dim": 2, "margin": 0.5}),
        (BinaryClassificationEvaluator, pairs, {"truncate_dim": 2}),
        (InformationRetrievalEvaluator, (QUERIES, CORPUS, RELEVANT), {"query_prompt": "q", "truncate_dim": 3}),
    ):
        ours, theirs = both(kind, *args, **options)
        assert ours.get_config_dict() == theirs.get_config_dict()
        assert kind(*args).get_config_dict() == {}
        assert ours.description == theirs.description
        assert ours.greater_is_better is theirs.greater_is_better is True


def test_one_evaluator_for_models_of_different_similarity():
    evaluator = EmbeddingSimilarityEvaluator(texts("a", 9), texts("b", 9), list(range(9)))
    assert list(evaluator(HashModel())) == ["pearson_cosine", "spearman_cosine"]
    assert list(evaluator(HashModel(similarity_fn_name="dot"))) == ["pearson_dot", "spearman_dot"]
    assert evaluator.primary_metric == "spearman_dot"


def test_sequential():
    def parts(library):
        pairs = texts("a", 9), texts("b", 9)
        return [
            library.EmbeddingSimilarityEvaluator(*pairs, list(range(9)), name="sts"),
            library.TripletEvaluator(*pairs, texts("c", 9), name="triplets"),
        ]

    import minilm.evaluation as ours

    for options in ({}, {"main_score_function": max}):
        found = SequentialEvaluator(parts(ours), **options)
        expected = reference_evaluation.SequentialEvaluator(parts(reference_evaluation), **options)
        assert found(MODELS[0]) == expected(MODELS[0])
        assert found.primary_metric == expected.primary_metric


# ---- on the real weights ------------------------------------------------------------------------

SENTENCES = [
    "A man is playing a guitar.", "Someone plays an instrument.", "The stock market fell sharply today.",
    "Shares dropped on Tuesday.", "A cat sleeps on the sofa.", "The dog barks at the mailman, loudly and long.",
    "How do I reset my password?", "Steps to recover a forgotten password", "Rain is expected tomorrow.",
    "The weather will be wet.", "Two children run through a park with a kite.", "Kids are playing outside.",
]  # fmt: skip


@pytest.fixture(scope="module")
def real_evaluators():
    first, second, third = SENTENCES[::2], SENTENCES[1::2], SENTENCES[3::2] + SENTENCES[1:2]
    queries = {f"q{i}": text for i, text in enumerate(first)}
    corpus = {f"d{i}": text for i, text in enumerate(second)}
    relevant = {f"q{i}": {f"d{i}"} for i in range(6)}
    return [
        (EmbeddingSimilarityEvaluator, (first, third, [0.5, 1, 0, 2, 1, 4]), {"similarity_fn_names": SIMILARITIES}),
        (TripletEvaluator, (first, second, third), {"similarity_fn_names": SIMILARITIES}),
        (InformationRetrievalEvaluator, (queries, corpus, relevant), {}),
        (
            BinaryClassificationEvaluator,
            (first * 2, second + third, [1] * 6 + [0] * 6),
            {"similarity_fn_names": SIMILARITIES},
        ),
    ]


def test_the_real_model(model, reference, real_evaluators, tmp_path):
    for kind, args, options in real_evaluators:
        exact = kind is not BinaryClassificationEvaluator
        ours, theirs = both(kind, *args, **options)
        padded = assert_same(ours, theirs, model, tmp_path / kind.__name__, reference, exact, calls=[(-1, -1)])
        packed = kind(*args, **options, layout="packed")(model)
        np.testing.assert_allclose(list(packed.values()), list(padded.values()), rtol=0, atol=PACKED_METRIC)


def test_evaluation_draws_no_random_number(model, real_evaluators):
    state = torch.get_rng_state()
    for kind, args, options in real_evaluators:
        kind(*args, **options)(model)
    assert torch.equal(torch.get_rng_state(), state)


# ---- worked examples ----------------------------------------------------------------------------


def results(relevant, relevant_docs):
    ideal = np.arange(len(relevant[0])) < np.array(relevant_docs)[:, None]
    return measures.RankedResults(np.array(relevant, dtype=float), np.array(relevant_docs), ideal.astype(float))


def test_mrr_of_three_queries():
    # Found first, found third, not found: (1 + 1/3 + 0) / 3 = 4/9; within two ranks: 1/3.
    found = results([[1, 0, 1, 0], [0, 0, 1, 0], [0, 0, 0, 0]], [2, 1, 1])
    assert measures.mrr_at_k(found, 10).tolist() == [1, 1 / 3, 0]
    assert measures.mrr_at_k(found, 4).mean() == pytest.approx(4 / 9)
    assert measures.mrr_at_k(found, 2).mean() == pytest.approx(1 / 3)


def test_the_other_measures_of_a_list_on_paper():
    # Relevant at ranks 1, 3, 4, of 5 relevant documents.
    found = results([[1, 0, 1, 1, 0]], [5])
    assert measures.accuracy_at_k(found, 1) == 1
    assert measures.precision_at_k(found, 4) == 3 / 4
    assert measures.recall_at_k(found, 3) == 2 / 5
    # DCG@4 = 1/log2(2) + 1/log2(4) + 1/log2(5); the best is 1/log2(2) + 1/log2(3) + 1/log2(4) + 1/log2(5).
    assert measures.ndcg_at_k(found, 4)[0] == pytest.approx((1 + 0.5 + 0.430677) / (1 + 0.630930 + 0.5 + 0.430677))
    # Precision at the relevant ranks: 1, 2/3, 3/4; two documents are not found within five.
    assert measures.map_at_k(found, 5)[0] == pytest.approx((1 + 2 / 3 + 3 / 4) / 5)
    assert measures.map_at_k(found, 2)[0] == pytest.approx(1 / 2)


def test_ranks_and_correlation_on_paper():
    assert measures.ranks(np.array([10.0, 30.0, 20.0, 20.0])).tolist() == [1, 4, 2.5, 2.5]
    # Ranks 1 2 3 against 1 3 2: 1 - 6 Σd² / (n (n² - 1)) = 1 - 6·2 / 24.
    assert measures.spearman(np.array([1.0, 5.0, 9.0]), np.array([2.0, 90.0, 3.0])) == pytest.approx(0.5)
    # Deviations -1 0 1 against -2 1 1: 3 / √(2 · 6).
    assert measures.pearson(np.array([1.0, 2.0, 3.0]), np.array([1.0, 4.0, 4.0])) == pytest.approx(3 / math.sqrt(12))


def test_thresholds_on_paper():
    scores, labels = np.array([0.9, 0.8, 0.7, 0.1]), np.array([True, False, True, False])
    assert measures.best_accuracy(scores, labels) == (0.75, pytest.approx(0.85))  # the strictest of two as good
    f1, precision, recall, threshold = measures.best_f1(scores, labels)
    assert (f1, precision, recall, threshold) == pytest.approx((0.8, 2 / 3, 1, 0.4))
    assert measures.average_precision(scores, labels) == pytest.approx(1 / 2 * 1 + 1 / 2 * 2 / 3)
    assert measures.matthews_corrcoef(labels, scores > 0.4) == pytest.approx((2 * 1 - 1 * 0) / math.sqrt(3 * 2 * 2 * 1))


@pytest.mark.parametrize("decimals", [0, 1, 9])
def test_measures_are_scipys_and_scikit_learns(decimals):
    generator = np.random.default_rng(decimals)
    for n in range(2, 60):
        x = generator.normal(size=n).round(decimals)
        y = (x + generator.normal(size=n)).round(decimals).astype(np.float32)
        labels, predicted = generator.integers(2, size=(2, n))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = [measures.pearson(x, y), measures.spearman(x, y)]
            np.testing.assert_array_equal(found, [pearsonr(x, y)[0], spearmanr(x, y)[0]])
            np.testing.assert_array_equal(measures.ranks(y), rankdata(y))
            assert measures.average_precision(y, labels == 1) == average_precision_score(labels, y)
            assert measures.matthews_corrcoef(labels == 1, predicted == 1) == reference_matthews(labels, predicted)


# ---- bad input ----------------------------------------------------------------------------------


def test_one_pair_has_no_correlation():
    with pytest.warns(UndefinedMetricWarning, match="one pair has no correlation"):
        metrics = EmbeddingSimilarityEvaluator(["a"], ["b"], [1])(HashModel())
    assert all(math.isnan(value) for value in metrics.values())


def test_constant_scores_have_no_correlation():
    with pytest.warns(UndefinedMetricWarning, match=r"all the given scores are 2\.5"):
        metrics = EmbeddingSimilarityEvaluator(texts("a", 3), texts("b", 3), [2.5] * 3)(HashModel())
    assert all(math.isnan(value) for value in metrics.values())
    with pytest.warns(UndefinedMetricWarning, match="all the model's cosine similarities are 1"):
        EmbeddingSimilarityEvaluator(["a"] * 3, ["a"] * 3, [1, 2, 3])(HashModel())


def test_no_positive_label():
    with pytest.warns(UndefinedMetricWarning, match="no pair is labelled 1"):
        BinaryClassificationEvaluator(["a", "b"], ["c", "d"], [0, 0])(HashModel())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EmbeddingSimilarityEvaluator([], [], []), "there are no pairs"),
        (lambda: EmbeddingSimilarityEvaluator(["a"], ["b", "c"], [1]), "1 sentences1, 2 sentences2, 1 scores"),
        (lambda: EmbeddingSimilarityEvaluator(["a"], ["b"], [float("nan")]), r"scores\[0\] is nan"),
        (lambda: EmbeddingSimilarityEvaluator(["a"], ["b"], [1], main_similarity="l2"), "main_similarity is 'l2'"),
        (lambda: EmbeddingSimilarityEvaluator(["a"], ["b"], [1], precision="int4"), "precision is 'int4'"),
        (
            lambda: EmbeddingSimilarityEvaluator(
                ["a"], ["b"], [1], main_similarity="dot", similarity_fn_names=["cosine"]
            ),
            "main_similarity is 'dot', expected one of",
        ),
        (lambda: TripletEvaluator([], [], []), "there are no triplets"),
        (lambda: TripletEvaluator(["a"], ["b"], ["c"], margin={"l2": 1}), "margin's key is 'l2'"),
        (lambda: BinaryClassificationEvaluator(["a"], ["b"], [2]), r"labels\[0\] is 2, expected 0 or 1"),
        (lambda: InformationRetrievalEvaluator({"q": "a"}, {}, {"q": {"d"}}), "the corpus has no documents"),
        (lambda: InformationRetrievalEvaluator({"q": "a"}, {"d": "b"}, {"x": {"d"}}), "no query has a relevant"),
        (lambda: InformationRetrievalEvaluator({"q": "a"}, {"d": "b"}, {"q": {"d"}}, mrr_at_k=[0]), "k is 0"),
        (lambda: SequentialEvaluator([]), "there are no evaluators"),
    ],
)
def test_arguments_that_cannot_be_used(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_a_broken_model_is_an_error_and_not_a_number():
    class Broken(HashModel):
        def encode(self, sentences, **options):
            vectors = super().encode(sentences, **options)
            vectors[1] = float("nan")
            return vectors

    for evaluator in (
        EmbeddingSimilarityEvaluator(texts("a", 3), texts("b", 3), [1, 2, 3]),
        TripletEvaluator(texts("a", 3), texts("b", 3), texts("c", 3)),
        BinaryClassificationEvaluator(texts("a", 3), texts("b", 3), [1, 0, 1]),
        InformationRetrievalEvaluator(QUERIES, CORPUS, RELEVANT),
    ):
        with pytest.raises(InputError, match=r"NaN or infinite numbers for 1 of .* texts, first for '(a|query) [12]'"):
            evaluator(Broken())


def test_a_csv_file_with_other_columns_costs_no_metric(tmp_path):
    """It is left alone, and the row is written beside it, however often."""
    evaluator = EmbeddingSimilarityEvaluator(texts("a", 3), texts("b", 3), [1, 2, 3])
    evaluator(HashModel(), tmp_path)
    path = tmp_path / evaluator.csv_file
    before = path.read_bytes()
    beside = path.with_name("similarity_evaluation_results_2.csv")
    for rows in (1, 2):
        with pytest.warns(UserWarning, match="has other columns; the row is in similarity_evaluation_results_2.csv"):
            assert "spearman_dot" in evaluator(HashModel(similarity_fn_name="dot"), tmp_path)
        assert len(list(csv.DictReader(beside.open()))) == rows
    assert path.read_bytes() == before
    path.write_bytes(before.rstrip())  # without an end of line, the new row still has a line of its own
    evaluator(HashModel(), tmp_path)
    assert [row["epoch"] for row in csv.DictReader(path.open())] == ["-1", "-1"]


def test_no_csv_file_unless_wanted(tmp_path):
    args = texts("a", 3), texts("b", 3), [1, 2, 3]
    EmbeddingSimilarityEvaluator(*args, write_csv=False)(HashModel(), tmp_path)
    EmbeddingSimilarityEvaluator(*args)(HashModel())
    assert list(tmp_path.iterdir()) == []


# ---- the bootstrap ------------------------------------------------------------------------------


def outcome(values):
    values = np.asarray(values, dtype=float)
    return Outcome({"mean": values.mean()}, "mean", len(values), lambda items: float(values[items].mean()), [])


def test_the_bootstrap_is_reproducible():
    first, second = (outcome(np.random.default_rng(seed).normal(size=50)) for seed in (1, 2))
    assert paired_bootstrap(first, second) == paired_bootstrap(first, second)
    assert paired_bootstrap(first, second).low != paired_bootstrap(first, second, seed=1).low
    assert paired_bootstrap(first, second).value == second.metrics["mean"] - first.metrics["mean"]


def test_equal_models_do_not_differ_and_a_constant_gain_is_certain():
    values = np.random.default_rng(0).normal(size=30)
    found = paired_bootstrap(outcome(values), outcome(values))
    assert (found.value, found.low, found.high) == (0, 0, 0)
    # Paired: each item gains the same, so the draw makes no difference, however much the items differ.
    found = paired_bootstrap(outcome(values), outcome(values + 0.25))
    assert (found.low, found.high) == pytest.approx((0.25, 0.25))


@pytest.mark.parametrize(("confidence", "z"), [(0.95, 1.96), (0.5, 0.674)])
def test_the_interval_of_a_mean_is_the_normal_one(confidence, z):
    generator = np.random.default_rng(0)
    first, gain = generator.normal(size=1000), generator.normal(0.1, 0.8, size=1000)
    found = paired_bootstrap(outcome(first), outcome(first + gain), 2000, confidence=confidence)
    half = z * gain.std() / math.sqrt(1000)
    expected = gain.mean() - half, gain.mean() + half
    assert (found.low, found.high) == pytest.approx(expected, abs=BOOTSTRAP_PERCENTILE)


def test_the_interval_holds_the_true_difference_about_as_often_as_it_says():
    generator = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        first = generator.normal(size=60)
        found = paired_bootstrap(outcome(first), outcome(first + generator.normal(0.3, 1, size=60)), 200)
        covered += found.low <= 0.3 <= found.high
    assert 180 <= covered <= 198  # of 200, where 190 are expected


@pytest.mark.parametrize(
    "evaluator",
    [
        EmbeddingSimilarityEvaluator(texts("a", 20), texts("b", 20), [i % 6 for i in range(20)]),
        EmbeddingSimilarityEvaluator(texts("a", 20), texts("b", 20), range(20), similarity_fn_names=SIMILARITIES),
        TripletEvaluator(texts("a", 20), texts("b", 20), texts("c", 20), similarity_fn_names=SIMILARITIES),
        BinaryClassificationEvaluator(texts("a", 20), texts("b", 20), [0, 1] * 10),
        BinaryClassificationEvaluator(
            texts("a", 20), texts("b", 20), [0, 1] * 10, similarity_fn_names=["euclidean", "dot"]
        ),
    ],
)
def test_a_resample_is_measured_as_data_of_its_own(evaluator):
    found = evaluator.evaluate(MODELS[0])
    items = np.random.default_rng(0).integers(20, size=20)
    assert found.resample(np.arange(20)) == pytest.approx(found.metrics[found.primary_metric], abs=RESAMPLED)
    columns = {name: value for name, value in vars(evaluator).items() if np.shape(value) == (20,)}
    again = type(evaluator)(
        *([value[i] for i in items] for value in columns.values()), similarity_fn_names=evaluator.similarity_fn_names
    )
    expected = again(MODELS[0])[again.primary_metric]
    assert found.resample(items) == pytest.approx(expected, abs=RESAMPLED)


def test_a_resample_of_queries():
    evaluator = InformationRetrievalEvaluator(QUERIES, CORPUS, RELEVANT)
    found = evaluator.evaluate(MODELS[0])
    single = [
        InformationRetrievalEvaluator({query: QUERIES[query]}, CORPUS, RELEVANT)(MODELS[0])["cosine_ndcg@10"]
        for query in evaluator.query_ids
    ]
    assert found.items == len(single) == 9
    assert found.resample(np.array([4, 4, 0])) == pytest.approx((single[4] * 2 + single[0]) / 3)


def test_resamples_without_a_value_are_counted():
    evaluator = EmbeddingSimilarityEvaluator(texts("a", 3), texts("b", 3), [1, 2, 3])
    first, second = evaluator.evaluate(MODELS[0]), evaluator.evaluate(MODELS[2])
    found = paired_bootstrap(first, second)
    assert 60 < found.undefined < 170  # 3 of 27 draws are one pair thrice
    assert found.low <= found.high
    two = EmbeddingSimilarityEvaluator(["a"], ["b"], [1])
    with pytest.warns(UndefinedMetricWarning):
        found = paired_bootstrap(two.evaluate(MODELS[0]), two.evaluate(MODELS[2]))
    assert found.undefined == 1000
    assert math.isnan(found.value) and math.isnan(found.low) and math.isnan(found.high)


def test_bootstraps_that_make_no_sense():
    with pytest.raises(InputError, match="on 3 and 2 items"):
        paired_bootstrap(outcome([1, 2, 3]), outcome([1, 2]))
    for options in ({"resamples": 0}, {"confidence": 1}, {"seed": -1}):
        with pytest.raises(InputError, match=f"{next(iter(options))} is"):
            paired_bootstrap(outcome([1]), outcome([1]), **options)


# ---- grades and ids -----------------------------------------------------------------------------


def ranking(order, grades, **options):
    """The metrics of one query whose documents come in this order."""
    place = {document: len(order) - i for i, document in enumerate(order)}
    evaluator = InformationRetrievalEvaluator(
        {"q": "query"},
        {document: document for document in order},
        {"q": grades},
        score_functions={"s": lambda queries, documents: torch.tensor([[float(place[d]) for d in order]])},
        accuracy_at_k=[1],
        ndcg_at_k=[2, 10],
        **options,
    )
    return evaluator(HashModel())


def test_ndcg_of_grades_on_paper():
    """Linear gains: trec_eval's ndcg_cut gives 0.6788 and 0.8175 for these."""
    found = ranking(["a", "b", "c", "d"], {"a": 1, "b": 3, "c": 2, "d": 0, "not there": -1})
    best = 3 + 2 / math.log2(3)
    assert found["s_ndcg@2"] == (1 + 3 / math.log2(3)) / best == 0.6787622294601761
    assert found["s_ndcg@10"] == pytest.approx((1 + 3 / math.log2(3) + 2 / 2) / (best + 1 / 2))
    assert (found["s_accuracy@1"], found["s_recall@3"]) == (1.0, 1.0)  # every grade above 0 is relevant


@pytest.mark.parametrize("model", MODELS)
def test_equal_grades_are_the_references_relevance(model, tmp_path):
    grades = {query: dict.fromkeys(documents, 1) for query, documents in RELEVANT.items()}
    ours = InformationRetrievalEvaluator(QUERIES, CORPUS, grades)
    theirs = reference_evaluation.InformationRetrievalEvaluator(QUERIES, CORPUS, RELEVANT)
    assert_same(ours, theirs, model, tmp_path)


@pytest.mark.parametrize("chunk", [1, 2, 50_000])
def test_the_document_with_the_querys_own_id_is_left_out_where_asked(chunk):
    args = {"q": "query"}, {"a": "query", "q": "query", "b": "other"}, {"q": {"a"}}
    options = {"corpus_chunk_size": chunk, "mrr_at_k": [1], "precision_recall_at_k": [1], "ndcg_at_k": [1],
               "accuracy_at_k": [1], "map_at_k": [1], "corpus_prompt_name": "query"}  # fmt: skip
    same = HashModel()
    args[1]["a"] = "another"
    assert InformationRetrievalEvaluator(*args, **options)(same)["cosine_accuracy@1"] == 0
    evaluator = InformationRetrievalEvaluator(*args, **options, ignore_identical_ids=True)
    hits = evaluator.search(same, {"cosine": same.similarity})["cosine"][0]
    assert len(hits) == 1 and hits[0][1] != "q"
    assert evaluator.get_config_dict()["ignore_identical_ids"] is True


def test_ids_may_be_numbers_and_texts():
    corpus = {2: "same", "b": "same", 10: "same", "a": "same", "1": "other"}
    evaluator = InformationRetrievalEvaluator({1: "query"}, corpus, {1: {10, "b"}})
    hits = evaluator.search(HashModel(), {"cosine": HashModel().similarity})["cosine"][0]
    assert [document for _, document in hits if corpus[document] == "same"] == [2, 10, "a", "b"]
    assert evaluator(HashModel())["cosine_recall@5"] == 1
    with pytest.raises(
        InputError, match="has the document 1 for the query 1, but the corpus has '1'; give ids one type"
    ):
        InformationRetrievalEvaluator({1: "query"}, corpus, {1: {1}})


def test_notices_name_documents_by_their_id(tiny_bert):
    model = SentenceEncoder.from_pretrained(tiny_bert, device="cpu")
    model.max_seq_length = 8
    corpus = {"short": "a cat", "long one": "a cat " * 20}
    with pytest.warns(TruncationWarning, match=r"1 of 2 texts are over the limit of tokens, of _id 'long one' by \d+"):
        InformationRetrievalEvaluator({"q": "a cat"}, corpus, {"q": {"short"}})(model)


# ---- files and the command ----------------------------------------------------------------------


@pytest.fixture
def beir(tmp_path):
    def write(corpus=None, queries=None, qrels=None):
        folder = tmp_path / "beir"
        (folder / "qrels").mkdir(parents=True, exist_ok=True)
        corpus = corpus or [
            {"_id": "d1", "title": "Cats", "text": "They purr.", "metadata": {}},
            {"_id": "d2", "title": "", "text": "Dogs bark."},
            {"_id": "d3", "text": "Cows moo."},
        ]
        queries = queries or [{"_id": "q1", "text": "Which animal purrs?"}, {"_id": "q2", "text": "What barks?"}]
        (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in corpus))
        (folder / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in queries))
        qrels = qrels or "query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td3\t0\nq2\td2\t1\n"
        (folder / "qrels" / "test.tsv").write_text(qrels)
        return folder

    return write


def test_beir(beir):
    found = load_beir(beir())
    assert found.corpus == {"d1": "Cats They purr.", "d2": "Dogs bark.", "d3": "Cows moo."}
    assert found.queries == {"q1": "Which animal purrs?", "q2": "What barks?"}
    assert found.relevant_docs == {"q1": {"d1": 2}, "q2": {"d2": 1}}


@pytest.mark.parametrize(
    "qrels",
    [
        "q1 0 d1 2\nq1 0 d3 0\nq2 0 d2 1\n",
        "q1\t0\td1\t2\nq1\t0\td3\t-1\nq2\t0\td2\t1\n",
        "q1   Q0 d1\t 2\nq2   Q0 d2   1\n".replace("\t", ""),
        "corpus-id\tquery-id\tscore\nd1\tq1\t2\nd2\tq2\t1\n",
        "q1 d1 2\r\nq2 d2 1",
    ],
)
def test_qrels_of_trec_and_of_beir(beir, qrels):
    assert load_beir(beir(qrels=qrels)).relevant_docs == {"q1": {"d1": 2}, "q2": {"d2": 1}}


def test_topics_and_collections_of_trec(beir):
    folder = beir(qrels="1 0 7 1\n")
    for name in ("corpus", "queries"):
        (folder / f"{name}.jsonl").unlink()
    (folder / "corpus.tsv").write_text('7\t"Cats" purr, they say.\n8\t"Dogs bark.\n')
    (folder / "queries.tsv").write_text("1\tWhich animal purrs?\n")
    (folder / "qrels" / "test.tsv").rename(folder / "qrels" / "test.txt")
    found = load_beir(folder)
    assert found.corpus == {"7": '"Cats" purr, they say.', "8": '"Dogs bark.'}
    assert (found.queries, found.relevant_docs) == ({"1": "Which animal purrs?"}, {"1": {"7": 1}})


def test_ids_that_are_numbers_are_their_digits(beir):
    folder = beir(
        [{"_id": 5, "text": "a"}, {"_id": "six", "text": "b"}], [{"_id": "1", "text": "q"}], qrels="1\t5\t1\n"
    )
    found = load_beir(folder)
    assert (list(found.corpus), found.relevant_docs) == (["5", "six"], {"1": {"5": 1}})
    with pytest.raises(InputError, match="line 2: there is a second '5'"):
        load_beir(beir([{"_id": 5, "text": "a"}, {"_id": "5", "text": "b"}], [{"_id": "1", "text": "q"}]))


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"qrels": "q1\td1\t1\nq9\td1\t1\n"}, r"test\.tsv, line 2: there is no query 'q9' in the queries"),
        ({"qrels": "q1\td9\t1\n"}, r"test\.tsv, line 1: there is no document 'd9' in the corpus"),
        ({"qrels": "q1\td1\t0\n"}, "has no score above 0"),
        ({"qrels": "q1\td1\n"}, r"test\.tsv, line 1: this may be a header or data: 'q1', 'd1'"),
        ({"corpus": [{"_id": "d1", "text": "a"}, {"_id": "d1", "text": "b"}]}, "line 2: there is a second 'd1'"),
        ({"corpus": [{"_id": "d1", "text": "a", "title": 3}]}, "line 1: title is 3, expected a text"),
        ({"queries": [{"_id": 1.5, "text": "a"}]}, r"queries\.jsonl, line 1: _id is 1.5, expected a text"),
        ({"qrels": "q1 0 d1 2 extra\n"}, r"test\.tsv, line 1: found 5 cells, expected query-id, corpus-id, score"),
        ({"qrels": "query-id corpus-id grade\nq1 d1 2\n"}, "line 1: the header has no 'score'"),
    ],
)
def test_broken_beir_folders(beir, broken, message):
    with pytest.raises(InputError, match=message):
        load_beir(beir(**broken))


def test_missing_beir_files(tmp_path, beir):
    with pytest.raises(InputError, match=r"is no folder, expected one with corpus\.jsonl"):
        load_beir(tmp_path / "none")
    with pytest.raises(InputError, match=r"cannot read .*dev\.tsv"):
        load_beir(beir(), split="dev")


def evaluate(*argv):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args([str(arg) for arg in argv]))


@pytest.fixture
def stub_models(monkeypatch):
    """Names in place of folders: ``a`` and ``b``, two models that differ."""
    models = {"a": HashModel("a"), "b": HashModel("b"), "d": HashModel("d", similarity_fn_name="dot")}
    monkeypatch.setattr(SentenceEncoder, "from_pretrained", lambda name, **options: models[name])


@pytest.fixture
def sts(tmp_path):
    path = tmp_path / "sts.csv"
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows(zip(texts("one", 12), texts("two", 12), [i % 6 for i in range(12)], strict=True))
    return path


def test_the_command_prints_a_table(stub_models, sts, capsys):
    assert evaluate("a", "--sts", sts) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"Semantic Similarity on {sts}: 12 pairs"
    expected = EmbeddingSimilarityEvaluator(texts("one", 12), texts("two", 12), [i % 6 for i in range(12)])(
        HashModel("a")
    )
    assert lines[1].split() == ["a"]
    assert lines[2].split() == ["pearson_cosine", f"{expected['pearson_cosine']:.4f}"]
    assert lines[3].split() == ["spearman_cosine", "*", f"{expected['spearman_cosine']:.4f}"]
    assert lines[4] == "* primary metric"


def test_the_command_compares_two_models(stub_models, sts, tmp_path, capsys):
    assert evaluate("a", "b", "--sts", sts, "--json", tmp_path / "out.json", "--resamples", 300, "--seed", 5) == 0
    found = json.loads((tmp_path / "out.json").read_text())
    assert [model["model"] for model in found["models"]] == ["a", "b"]
    metrics = [model["metrics"]["spearman_cosine"] for model in found["models"]]
    difference = found["difference"]
    assert difference["value"] == metrics[1] - metrics[0]
    assert difference["low"] < difference["value"] < difference["high"]
    assert (difference["resamples"], difference["seed"], difference["confidence"]) == (300, 5, 0.95)
    assert (found["evaluator"], found["items"], found["unit"]) == ("EmbeddingSimilarityEvaluator", 12, "pairs")
    out = capsys.readouterr().out
    assert f"95% interval [{difference['low']:+.4f}, {difference['high']:+.4f}]" in out
    row = [f"{metrics[0]:.4f}", f"{metrics[1]:.4f}", f"{difference['value']:+.4f}"]
    assert re.search(r"spearman_cosine \* +" + " +".join(map(re.escape, row)), out)
    assert "300 resamples of the 12 pairs, seed 5" in out


def test_models_of_different_similarity_side_by_side(stub_models, sts, capsys):
    evaluate("a", "d", "--sts", sts)
    out = capsys.readouterr().out
    assert "difference in spearman_dot of B less spearman_cosine of A" in out
    evaluate("a", "d", "--sts", sts, "--similarity", "dot", "cosine", "--json", "-")
    found = json.loads(capsys.readouterr().out)
    assert {model["primary_metric"] for model in found["models"]} == {"spearman_max"}


def test_the_command_on_every_kind_of_data(stub_models, beir, tmp_path, capsys):
    (tmp_path / "triplets.tsv").write_text("anchor\tpositive\tnegative\na\tb\tc\nd\te\tf\n")
    (tmp_path / "pairs.jsonl").write_text(
        "".join(json.dumps({"sentence1": f"a{i}", "sentence2": f"b{i}", "label": i % 2}) + "\n" for i in range(8))
    )
    for option, data, primary, items in (
        ("--triplets", tmp_path / "triplets.tsv", "cosine_accuracy", 2),
        ("--pairs", tmp_path / "pairs.jsonl", "cosine_ap", 8),
        ("--retrieval", beir(), "cosine_ndcg@10", 2),
    ):
        assert evaluate("a", "b", option, data, "--json", "-") == 0
        found = json.loads(capsys.readouterr().out)
        assert [model["primary_metric"] for model in found["models"]] == [primary] * 2
        assert found["items"] == items
        assert found["difference"]["low"] <= found["difference"]["value"] <= found["difference"]["high"]
        assert evaluate("a", option, data) == 0
        assert f"{primary} *" in capsys.readouterr().out
    assert evaluate("a", "--retrieval", beir(), "--similarity", "dot", "manhattan") == 0
    out = capsys.readouterr().out
    assert "2 queries in 3 documents, relevant to a grade of 1 to 2" in out
    assert "manhattan_map@100" in out and "dot_accuracy@1" in out


def test_the_command_says_which_columns_it_read(stub_models, tmp_path, capsys):
    path = tmp_path / "sts.csv"
    path.write_text("id\tx\t0.5\ta cat\ta dog\n" + "id\ty\t1.0\ta cat\ta kitten\n" * 2)
    assert evaluate("a", "--sts", path, "--columns", "4", "5", "3") == 0
    captured = capsys.readouterr()
    assert "sts.csv: 3 rows without a header; columns sentence1 = 4, sentence2 = 5, score = 3" in captured.err
    assert "3 pairs" in captured.out
    path.write_text("query,pos,neg\na cat,b,c\n")
    with pytest.raises(InputError, match="the header has no 'anchor', 'positive', 'negative'"):
        evaluate("a", "--triplets", path)
    assert evaluate("a", "--triplets", path, "--columns", "query", "pos", "neg") == 0
    assert "1 rows; columns anchor = query, positive = pos, negative = neg" in capsys.readouterr().err


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
@pytest.mark.filterwarnings("ignore:this processor emulates")
def test_the_command_computes_in_any_type(tiny_bert, beir, sts, dtype, capsys):
    for option, data, metric in (("--retrieval", beir(), "cosine_ndcg@10 *"), ("--sts", sts, "spearman_cosine *")):
        assert evaluate(tiny_bert, option, data, "--dtype", dtype, "--device", "cpu") == 0
        assert metric in capsys.readouterr().out


def test_a_metric_without_a_value_is_null_in_json(stub_models, tmp_path, capsys):
    (tmp_path / "one.csv").write_text("a,b,3\n")
    with pytest.warns(UndefinedMetricWarning):
        evaluate("a", "b", "--sts", tmp_path / "one.csv", "--json", "-")
    found = json.loads(capsys.readouterr().out)
    assert found["models"][0]["metrics"] == {"pearson_cosine": None, "spearman_cosine": None}
    assert found["difference"]["low"] is None
    with pytest.warns(UndefinedMetricWarning):
        evaluate("a", "--sts", tmp_path / "one.csv")
    assert re.search(r"spearman_cosine \* +nan", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--sts", "none.csv"], "cannot read none.csv"),
        (["--sts", "none.pdf"], "none.pdf ends in '.pdf'"),
        (["--sts", "none.csv", "--ignore-identical-ids"], "--retrieval, which is not given"),
        (["--retrieval", "none", "--columns", "a"], "--columns is of --sts, --triplets and --pairs"),
        (["--retrieval", "none"], "none is no folder"),
        (["--sts", "none.csv", "--resamples", "0"], "--resamples is 0"),
        (["--sts", "none.csv", "--seed", "1"], "only one is given"),
        (["--sts", "none.csv", "--split", "dev"], "--retrieval, which is not given"),
    ],
)
def test_the_command_refuses_before_it_loads_a_model(argv, message):
    with pytest.raises(InputError, match=re.escape(message)):
        evaluate("no model", *argv)


def test_labels_other_than_0_and_1_are_named_by_line(tmp_path):
    (tmp_path / "pairs.csv").write_text("a,b,1\nc,d,3\n")
    with pytest.raises(InputError, match="line 2: label is 3, expected 0 or 1"):
        evaluate("a", "--pairs", tmp_path / "pairs.csv")


def test_the_command_on_the_real_weights(weights, sts, capsys):
    evaluate(weights, "--sts", sts, "--layout", "padded", "--json", "-")
    found = json.loads(capsys.readouterr().out)["models"][0]["metrics"]
    evaluator = EmbeddingSimilarityEvaluator(
        texts("one", 12), texts("two", 12), [i % 6 for i in range(12)], batch_size=32
    )
    assert found == evaluator(SentenceEncoder.from_pretrained(weights))
