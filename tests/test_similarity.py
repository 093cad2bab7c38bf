"""Each function of minilm.similarity against its namesake in sentence-transformers."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers import SentenceTransformer, util
from sentence_transformers.util import quantize_embeddings as reference_quantize

import minilm
from minilm import SentenceEncoder, similarity
from minilm.errors import InputError
from minilm.similarity import best_first
from minilm.tolerances import SCORE_IN_CHUNKS

FUNCTIONS = [
    "cos_sim",
    "dot_score",
    "euclidean_sim",
    "manhattan_sim",
    "pairwise_cos_sim",
    "pairwise_dot_score",
    "pairwise_euclidean_sim",
    "pairwise_manhattan_sim",
]


def vectors(rows: int, seed: int = 0, size: int = 32, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(rows, size, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_scores_are_the_reference_bits(name: str, dtype: torch.dtype) -> None:
    a, b = vectors(20, 1, dtype=dtype), vectors(20, 2, dtype=dtype)
    expected = getattr(util, name)(a, b)
    assert torch.equal(getattr(similarity, name)(a, b), expected)
    if dtype != torch.bfloat16:
        assert torch.equal(getattr(similarity, name)(a.numpy(), list(b.numpy())), expected)
    assert torch.equal(getattr(similarity, name)(list(a), b), expected)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_one_vector_is_a_matrix_of_one_row(name: str) -> None:
    a, b = vectors(1, 1)[0], vectors(1, 2)[0]
    assert torch.equal(getattr(similarity, name)(a, b), getattr(util, name)(a, b))


def test_similarity_of_the_model(tiny_folder, reference: SentenceTransformer) -> None:
    folder = tiny_folder()
    a, b = vectors(4, 1), vectors(4, 2)
    for name in ("cosine", "dot", "euclidean", "manhattan"):
        ours = SentenceEncoder.from_pretrained(folder, device="cpu", similarity_fn_name=name)
        theirs = SentenceTransformer(str(folder), device="cpu", similarity_fn_name=name, local_files_only=True)
        assert torch.equal(ours.similarity(a, b), theirs.similarity(a, b))
        assert torch.equal(ours.similarity_pairwise(a, b), theirs.similarity_pairwise(a, b))
    with pytest.raises(InputError, match="expected one of 'cosine', 'dot', 'euclidean', 'manhattan'"):
        SentenceEncoder.from_pretrained(folder, device="cpu", similarity_fn_name="maxsim")


@pytest.mark.parametrize("chunks", [{}, {"query_chunk_size": 3, "corpus_chunk_size": 11}])
@pytest.mark.parametrize("score", ["cos_sim", "dot_score"])
@pytest.mark.parametrize("top_k", [1, 10, 500])
def test_semantic_search(chunks: dict, score: str, top_k: int) -> None:
    queries, corpus = vectors(7, 1), vectors(100, 2)
    options = {"top_k": top_k, **chunks}
    ours = minilm.semantic_search(queries, corpus, score_function=getattr(minilm, score), **options)
    theirs = util.semantic_search(queries, corpus, score_function=getattr(util, score), **options)
    assert [[hit["corpus_id"] for hit in hits] for hits in ours] == [
        [hit["corpus_id"] for hit in hits] for hits in theirs
    ]
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose([h["score"] for h in mine], [h["score"] for h in other], rtol=SCORE_IN_CHUNKS)


def order_of(scores: list[float]) -> list[int]:
    """Greatest first, equal ones by place, NaN with the least."""
    return sorted(range(len(scores)), key=lambda i: (-scores[i] if scores[i] == scores[i] else math.inf, i))


FEW_LEVELS = st.sampled_from([-math.inf, -2.0, -1.0, -0.0, 0.0, 1.0, 2.0, math.inf, math.nan])
TYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(FEW_LEVELS, min_size=40, max_size=40), max_size=4), st.integers(1, 45), st.sampled_from(TYPES))
def test_best_first_is_a_stable_sort(rows: list[list[float]], k: int, dtype: torch.dtype) -> None:
    scores = torch.tensor(rows, dtype=dtype).reshape(len(rows), 40)
    values, places = best_first(scores, k)
    assert places.tolist() == [order_of(row)[:k] for row in rows]
    assert torch.equal(values.nan_to_num(3), scores.gather(1, places).nan_to_num(3))


def test_best_first_of_whole_numbers_and_of_nothing() -> None:
    scores = torch.tensor([[1, 3, 3, -2, 3, 1]], dtype=torch.int8)
    assert [part.tolist() for part in best_first(scores, 2)] == [[[3, 3]], [[1, 2]]]
    assert [part.tolist() for part in best_first(torch.empty(2, 0), 5)] == [[[], []], [[], []]]


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 70), st.integers(1, 40), st.integers(1, 9), st.integers(1, 70))
def test_search_puts_equal_scores_in_order_across_chunks(seed: int, m: int, chunk: int, queries: int, k: int) -> None:
    dice = torch.Generator().manual_seed(seed)
    query, corpus = (torch.randint(-1, 2, (n, 3), generator=dice).float() for n in (5, m))  # exact products
    found = minilm.semantic_search(query, corpus, queries, chunk, k, score_function="dot")
    assert [[hit["corpus_id"] for hit in hits] for hits in found] == [
        order_of(row)[:k] for row in (query @ corpus.T).tolist()
    ]


def test_mining_puts_equal_scores_in_order() -> None:
    vectors = torch.eye(2)[[0, 1, 0, 1, 0]]
    pairs = [[1.0, 0, 2], [1.0, 0, 4], [1.0, 1, 3], [1.0, 2, 4]]
    assert minilm.paraphrase_mining_embeddings(vectors, max_pairs=4) == pairs
    assert minilm.paraphrase_mining_embeddings(vectors, 2, 2, max_pairs=3) == pairs[:3]


def test_a_broken_vector_is_found_last() -> None:
    corpus = torch.tensor([[math.nan, 0], [0, 1], [1, 0], [0, math.nan]])
    (hits,) = minilm.semantic_search(torch.tensor([1.0, 0.0]), corpus)
    assert [hit["corpus_id"] for hit in hits] == [2, 1, 0, 3]
    assert minilm.community_detection(corpus, min_community_size=1) == [[1], [2]]


def test_semantic_search_of_nothing() -> None:
    assert minilm.semantic_search(vectors(2), torch.empty(0, 32)) == [[], []]
    with pytest.raises(InputError, match="top_k is 0"):
        minilm.semantic_search(vectors(2), vectors(2), top_k=0)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"max_pairs": 17},
        {"top_k": 3},
        {"query_chunk_size": 13, "corpus_chunk_size": 29, "max_pairs": 50},
        {"query_chunk_size": 1, "corpus_chunk_size": 1, "top_k": 2},
    ],
)
def test_paraphrase_mining(options: dict) -> None:
    embeddings = vectors(60, 3)
    ours = minilm.paraphrase_mining_embeddings(embeddings, **options)
    theirs = util.paraphrase_mining_embeddings(embeddings, **options)
    assert [pair[1:] for pair in ours] == [pair[1:] for pair in theirs]
    np.testing.assert_allclose([pair[0] for pair in ours], [pair[0] for pair in theirs], rtol=SCORE_IN_CHUNKS)


def test_paraphrase_mining_from_texts(model: SentenceEncoder, reference: SentenceTransformer) -> None:
    texts = ["A man eats.", "A man is eating food.", "The sky is blue.", "A blue sky.", "Someone eats.", "Rain."]
    ours, theirs = minilm.paraphrase_mining(model, texts), util.paraphrase_mining(reference, texts)
    assert [pair[1:] for pair in ours] == [pair[1:] for pair in theirs]
    assert minilm.paraphrase_mining(model, []) == []
    assert minilm.paraphrase_mining(model, ["alone"]) == []


def clustered(seed: int) -> torch.Tensor:
    centres = vectors(6, seed)
    return torch.cat([centre + 0.3 * vectors(12 + 3 * i, 10 * seed + i) for i, centre in enumerate(centres)])


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("threshold", "size", "batch"), [(0.75, 10, 1024), (0.8, 3, 7), (0.9, 2, 1000), (0.1, 5, 16)])
def test_community_detection(seed: int, threshold: float, size: int, batch: int) -> None:
    embeddings = clustered(seed)
    options = {"threshold": threshold, "min_community_size": size, "batch_size": batch}
    assert minilm.community_detection(embeddings, **options) == util.community_detection(embeddings, **options)


def test_community_detection_of_few() -> None:
    assert minilm.community_detection(torch.empty(0, 8)) == []
    assert minilm.community_detection(vectors(3)) == []
    assert minilm.community_detection(vectors(1).repeat(12, 1).numpy())[0] == list(range(12))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(2, 20), st.sampled_from(["float32", "int8", "uint8", "binary", "ubinary"]), st.booleans(), st.integers()
)
def test_quantize_embeddings(rows: int, precision: str, as_numpy: bool, seed: int) -> None:
    embeddings = vectors(rows, seed % 1000)
    embeddings[:, 3] = 0.5  # a dimension without range
    given_as = embeddings.numpy() if as_numpy else embeddings
    ours, theirs = minilm.quantize_embeddings(given_as, precision), reference_quantize(given_as, precision)
    assert ours.dtype == theirs.dtype
    assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("name", ["cosine", "dot", "euclidean", "manhattan"])
@pytest.mark.parametrize("rows", [3, 24, 60])  # cdist goes by differences for few rows, by a product for many
def test_similarities_of_equal_vectors_are_the_reference_bits(name: str, rows: int) -> None:
    a = vectors(rows, 1)
    a = torch.cat([a, a.flip(0)])
    ours = similarity.SIMILARITY[name]
    assert torch.equal(ours[0](a, a), util.SimilarityFunction.to_similarity_fn(name)(a, a))
    assert torch.equal(ours[1](a, a), util.SimilarityFunction.to_similarity_pairwise_fn(name)(a, a))


def test_quantize_with_given_ranges() -> None:
    embeddings, sample = vectors(1, 1).numpy(), vectors(200, 2).numpy()
    ranges = np.stack([sample.min(0), sample.max(0)])
    for options in ({"ranges": ranges}, {"calibration_embeddings": sample}):
        ours = minilm.quantize_embeddings(embeddings, "int8", **options)
        assert np.array_equal(ours, reference_quantize(embeddings, "int8", **options))


@pytest.mark.parametrize(
    ("embeddings", "precision", "message"),
    [
        (np.zeros((2, 8), np.float32), "int4", "expected one of float32, int8"),
        (np.zeros((2, 8), np.int8), "uint8", "expected floats"),
        (np.zeros((1, 8), np.float32), "int8", "single vector"),
    ],
)
def test_what_cannot_be_quantized(embeddings: np.ndarray, precision: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        minilm.quantize_embeddings(embeddings, precision)


def test_truncate_embeddings() -> None:
    embeddings = vectors(3)
    assert torch.equal(minilm.truncate_embeddings(embeddings, 5), util.truncate_embeddings(embeddings, 5))
    assert np.array_equal(minilm.truncate_embeddings(embeddings.numpy(), None), embeddings.numpy())
