"""Similarities between vectors, and what they are used for: search, paraphrases, communities.

Names, arguments and results are those of ``sentence_transformers.util``, which is the reference.
Vectors may be tensors, NumPy arrays or lists of either, one ``[D]`` or many ``[n, D]``; half
precision is computed in float32, as there. Where scores are exactly equal the reference's order
depends on the kernel; here the lower index comes first (:func:`best_first`). A score that is NaN
comes last.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from minilm.errors import InputError, check_choice, check_positive

if TYPE_CHECKING:
    from minilm.sentence_encoder import SentenceEncoder

Array: TypeAlias = npt.NDArray[Any]
Vectors: TypeAlias = Tensor | Array | Sequence[Tensor] | Sequence[Array] | Sequence[Any]
Precision: TypeAlias = Literal["float32", "int8", "uint8", "binary", "ubinary"]
PRECISIONS: tuple[Precision, ...] = ("float32", "int8", "uint8", "binary", "ubinary")
ScoreFunction: TypeAlias = Callable[[Tensor, Tensor], Tensor]
AnyArray = TypeVar("AnyArray", Array, Tensor)


class Hit(TypedDict):
    """One result of :func:`semantic_search`."""

    corpus_id: int
    score: float


def as_tensor(vectors: Vectors) -> Tensor:
    """One tensor of at least float32 from whatever holds vectors."""
    if isinstance(vectors, Tensor):
        tensor = vectors
    elif isinstance(vectors, np.ndarray):
        tensor = torch.from_numpy(vectors if vectors.flags.writeable else vectors.copy())
    elif len(vectors) and isinstance(vectors[0], (Tensor, np.ndarray)):
        tensor = torch.stack([as_tensor(row) for row in vectors])
    else:
        tensor = torch.tensor(vectors)
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32)) if tensor.is_floating_point() else tensor


def _as_matrix(vectors: Vectors) -> Tensor:
    tensor = as_tensor(vectors)
    return tensor[None] if tensor.dim() == 1 else tensor


def normalize_embeddings(embeddings: Tensor) -> Tensor:
    """Scales each vector of ``[..., D]`` to length 1."""
    return F.normalize(embeddings, p=2, dim=-1)


def cos_sim(a: Vectors, b: Vectors) -> Tensor:
    """Cosine of every pair: ``a_i · b_j / (‖a_i‖ ‖b_j‖)``, ``[n, D]``, ``[m, D]`` → ``[n, m]``."""
    return dot_score(normalize_embeddings(_as_matrix(a)), normalize_embeddings(_as_matrix(b)))


def dot_score(a: Vectors, b: Vectors) -> Tensor:
    """Dot product of every pair, ``[n, D]``, ``[m, D]`` → ``[n, m]``."""
    return torch.mm(_as_matrix(a), _as_matrix(b).T)


def euclidean_sim(a: Vectors, b: Vectors) -> Tensor:
    """Negative Euclidean distance of every pair, ``[n, D]``, ``[m, D]`` → ``[n, m]``."""
    return -torch.cdist(_as_matrix(a), _as_matrix(b), p=2.0)


def manhattan_sim(a: Vectors, b: Vectors) -> Tensor:
    """Negative Manhattan distance of every pair, ``[n, D]``, ``[m, D]`` → ``[n, m]``."""
    return -torch.cdist(_as_matrix(a), _as_matrix(b), p=1.0)


def pairwise_cos_sim(a: Vectors, b: Vectors) -> Tensor:
    """Cosine of ``a_i`` and ``b_i``, ``[n, D]`` twice → ``[n]``."""
    return pairwise_dot_score(normalize_embeddings(as_tensor(a)), normalize_embeddings(as_tensor(b)))


def pairwise_dot_score(a: Vectors, b: Vectors) -> Tensor:
    """Dot product of ``a_i`` and ``b_i``, ``[n, D]`` twice → ``[n]``."""
    return (as_tensor(a) * as_tensor(b)).sum(dim=-1)


def pairwise_euclidean_sim(a: Vectors, b: Vectors) -> Tensor:
    """Negative Euclidean distance of ``a_i`` and ``b_i``, ``[n, D]`` twice → ``[n]``."""
    difference = as_tensor(a) - as_tensor(b)
    if not difference.is_floating_point():  # vector_norm refuses integers
        return -difference.square().sum(dim=-1).sqrt()
    distance: Tensor = torch.linalg.vector_norm(difference, dim=-1)
    return -distance


def pairwise_manhattan_sim(a: Vectors, b: Vectors) -> Tensor:
    """Negative Manhattan distance of ``a_i`` and ``b_i``, ``[n, D]`` twice → ``[n]``."""
    return -(as_tensor(a) - as_tensor(b)).abs().sum(dim=-1)


SIMILARITY: dict[str, tuple[Callable[[Vectors, Vectors], Tensor], Callable[[Vectors, Vectors], Tensor]]] = {
    "cosine": (cos_sim, pairwise_cos_sim),
    "dot": (dot_score, pairwise_dot_score),
    "euclidean": (euclidean_sim, pairwise_euclidean_sim),
    "manhattan": (manhattan_sim, pairwise_manhattan_sim),
}


def similarity_name(value: object, what: str = "similarity") -> str:
    """The name of a similarity, from the name or from an enum's member that has it as its value, such as
    sentence-transformers' ``SimilarityFunction.DOT_PRODUCT``.

    Raises:
        InputError: it is none of :data:`SIMILARITY`; ``what`` says in the message which argument it was.
    """
    name = value.value if isinstance(value, Enum) else value
    check_choice(what, name, tuple(SIMILARITY))
    return str(name)


def similarity_function(value: ScoreFunction | str | Enum, what: str = "score_function") -> ScoreFunction:
    """A function that scores every pair: the one given, or the one of this name, see :func:`similarity_name`."""
    return value if callable(value) else SIMILARITY[similarity_name(value, what)][0]


def semantic_search(
    query_embeddings: Vectors,
    corpus_embeddings: Vectors,
    query_chunk_size: int = 100,
    corpus_chunk_size: int = 500_000,
    top_k: int = 10,
    score_function: ScoreFunction | str | Enum = cos_sim,
) -> list[list[Hit]]:
    """The ``top_k`` nearest corpus vectors of each query, nearest first.

    Args:
        query_embeddings: ``[n, D]`` or ``[D]``.
        corpus_embeddings: ``[m, D]``; queries are moved to its device.
        query_chunk_size, corpus_chunk_size: scores are computed for this many at a time, so memory
            is bounded by their product.
        score_function: ``[n, D]``, ``[m, D]`` → ``[n, m]``, higher is nearer; or its name, such as "dot".

    Returns:
        For each query a list of ``{"corpus_id", "score"}``.
    """
    check_positive(query_chunk_size=query_chunk_size, corpus_chunk_size=corpus_chunk_size, top_k=top_k)
    score = similarity_function(score_function)
    corpus = _as_matrix(corpus_embeddings)
    queries = _as_matrix(query_embeddings).to(corpus.device)
    if corpus.numel() == 0:
        return [[] for _ in range(len(queries))]
    results: list[list[Hit]] = []
    for query_chunk in queries.split(query_chunk_size):
        scores, ids = _search(query_chunk, corpus, corpus_chunk_size, top_k, score)
        for row in zip(scores.tolist(), ids.tolist(), strict=True):
            results.append([{"corpus_id": corpus_id, "score": score} for score, corpus_id in zip(*row, strict=True)])
    return results


def best_first(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The ``k`` greatest of each row of ``[n, m]`` and their places, both ``[n, min(k, m)]``, greatest first; of equal
    ones those at lower places, in order. NaN is less than every number."""
    m = scores.shape[1]
    k = min(k, m)
    order = scores
    values, places = order.topk(min(k + 1, m), dim=1)
    if values[:, :1].isnan().any():  # to topk, NaN is the greatest
        order = scores.nan_to_num(-torch.inf, torch.inf, -torch.inf)
        values, places = order.topk(min(k + 1, m), dim=1)
    places = places[:, :k].sort(dim=1).values
    if m > k:  # where the cut goes through equals, topk takes any of them
        for row in (values[:, k - 1] == values[:, k]).nonzero()[:, 0].tolist():
            at_least = (order[row] >= values[row, k]).nonzero()[:, 0]
            best = order[row, at_least].sort(descending=True, stable=True).indices[:k]
            places[row] = at_least[best].sort().values
    ranks = order.gather(1, places).sort(dim=1, descending=True, stable=True).indices
    places = places.gather(1, ranks)
    return scores.gather(1, places), places


def _search(
    queries: Tensor, corpus: Tensor, corpus_chunk_size: int, top_k: int, score_function: ScoreFunction
) -> tuple[Tensor, Tensor]:
    """Scores and corpus ids of the best ``top_k`` for each query, both ``[n, min(top_k, m)]``."""
    best = queries.new_empty(len(queries), 0)
    ids = torch.empty(len(queries), 0, dtype=torch.int64, device=corpus.device)
    for start in range(0, len(corpus), corpus_chunk_size):
        scores, places = best_first(score_function(queries, corpus[start : start + corpus_chunk_size]), top_k)
        # Those of earlier chunks stand before, so of equal ones the lower id still does.
        ids = torch.cat([ids, places + start], dim=1)
        best, places = best_first(torch.cat([best.to(scores), scores], dim=1), top_k)
        ids = ids.gather(1, places)
    return best, ids


def paraphrase_mining(
    model: SentenceEncoder,
    sentences: Sequence[str],
    show_progress_bar: bool | None = None,
    batch_size: int = 32,
    query_chunk_size: int = 5000,
    corpus_chunk_size: int = 100_000,
    max_pairs: int = 500_000,
    top_k: int = 100,
    score_function: ScoreFunction | str | Enum = cos_sim,
    truncate_dim: int | None = None,
    prompt_name: str | None = None,
    prompt: str | None = None,
) -> list[list[float | int]]:
    """The most similar pairs among texts: encodes them, then :func:`paraphrase_mining_embeddings`."""
    embeddings = model.encode(
        sentences,
        show_progress_bar=show_progress_bar,
        batch_size=batch_size,
        convert_to_tensor=True,
        truncate_dim=truncate_dim,
        prompt_name=prompt_name,
        prompt=prompt,
    )
    return paraphrase_mining_embeddings(
        embeddings, query_chunk_size, corpus_chunk_size, max_pairs, top_k, score_function
    )


def paraphrase_mining_embeddings(
    embeddings: Vectors,
    query_chunk_size: int = 5000,
    corpus_chunk_size: int = 100_000,
    max_pairs: int = 500_000,
    top_k: int = 100,
    score_function: ScoreFunction | str | Enum = cos_sim,
) -> list[list[float | int]]:
    """The most similar pairs among vectors, most similar first.

    Args:
        embeddings: ``[n, D]``.
        query_chunk_size, corpus_chunk_size: as in :func:`semantic_search`.
        max_pairs: the most pairs to return.
        top_k: for each vector, its nearest ``top_k`` others are considered.
        score_function: symmetric; each pair is scored once.

    Returns:
        ``[score, i, j]`` with ``i < j``, each pair once.
    """
    check_positive(
        query_chunk_size=query_chunk_size, corpus_chunk_size=corpus_chunk_size, max_pairs=max_pairs, top_k=top_k
    )
    score = similarity_function(score_function)
    vectors = as_tensor(embeddings)
    n = len(vectors)
    kept_scores, kept_pairs = vectors.new_empty(0), torch.empty(0, dtype=torch.int64)
    for start in range(0, n, query_chunk_size):
        queries = vectors[start : start + query_chunk_size]
        # One more than asked for: each vector's nearest is mostly itself.
        found = _search(queries, vectors, corpus_chunk_size, top_k + 1, score)
        scores, ids = (x.cpu() for x in found)
        own = torch.arange(start, start + len(queries))[:, None].expand_as(ids)
        others = ids != own
        others &= others.cumsum(dim=1) <= top_k
        i, j = torch.minimum(own, ids)[others], torch.maximum(own, ids)[others]

        # A pair may come from both of its ends; the first one found stays.
        all_scores, pairs = torch.cat([kept_scores.cpu(), scores[others]]), torch.cat([kept_pairs, i * n + j])
        _, first = np.unique(pairs.numpy(), return_index=True)  # sorted by (i, j)
        all_scores, pairs = all_scores[torch.from_numpy(first)], pairs[torch.from_numpy(first)]
        best, order = best_first(all_scores[None], max_pairs)
        kept_scores, kept_pairs = best[0], pairs[order[0]]
    return [[score, pair // n, pair % n] for score, pair in zip(kept_scores.tolist(), kept_pairs.tolist(), strict=True)]


def community_detection(
    embeddings: Vectors,
    threshold: float = 0.75,
    min_community_size: int = 10,
    batch_size: int = 1024,
    show_progress_bar: bool = False,
) -> list[list[int]]:
    """Groups of vectors that lie close to a common centre.

    Every vector with at least ``min_community_size`` vectors (itself included) of a cosine of
    ``threshold`` or more is the centre of a candidate. The largest candidate is taken first; those
    after it lose the members that are taken already, and are dropped when too few remain.

    Returns:
        The communities, largest first, as lists of indices, the centre first and then the nearest.
    """
    from minilm.progress import progress

    check_positive(min_community_size=min_community_size, batch_size=batch_size)
    if len(embeddings) == 0:
        return []
    vectors = normalize_embeddings(_as_matrix(embeddings))
    limit = torch.tensor(threshold, dtype=vectors.dtype, device=vectors.device)
    candidates: list[tuple[int, Array]] = []
    with progress(len(vectors), "Finding communities", show_progress_bar, unit=" texts") as bar:
        for start in range(0, len(vectors), batch_size):
            scores = vectors[start : start + batch_size] @ vectors.T
            close = scores >= limit
            for row in (close.sum(dim=1) >= min_community_size).nonzero()[:, 0].tolist():
                near = close[row].nonzero()[:, 0]
                nearest_first = scores[row, near].sort(descending=True, stable=True).indices
                candidates.append((start + row, near[nearest_first].cpu().numpy()))
            bar.update(len(scores))

    candidates.sort(key=lambda candidate: len(candidate[1]), reverse=True)
    taken = np.zeros(len(vectors), dtype=bool)
    communities = []
    for centre, members in candidates:
        free = members[~taken[members]]
        if not taken[centre] and len(free) >= min_community_size:
            community = [centre, *free[free != centre].tolist()]
            taken[community] = True
            communities.append(community)
    return sorted(communities, key=len, reverse=True)


def quantize_embeddings(
    embeddings: Vectors,
    precision: Precision,
    ranges: Array | None = None,
    calibration_embeddings: Array | None = None,
) -> Array:
    """Vectors in fewer bits.

    ``int8`` and ``uint8`` divide each dimension's range into 255 steps; ``binary`` and ``ubinary``
    keep the sign of each dimension, eight to a byte (``numpy.packbits``), minus 128 when signed.

    Args:
        embeddings: ``[n, D]`` of floats.
        precision: one of :data:`PRECISIONS`.
        ranges: minimum and maximum of each dimension, ``[2, D]``, for int8 and uint8.
        calibration_embeddings: vectors to take the ranges from when none are given; without both
            they come from ``embeddings`` themselves, so a vector's bytes then depend on the others.

    Returns:
        ``[n, D]``, or ``[n, D / 8]`` for the binary ones.

    Raises:
        InputError: an unknown precision, integer vectors, or a range from a single vector.
    """
    if precision not in PRECISIONS:
        raise InputError(f"precision is {precision!r}, expected one of {', '.join(PRECISIONS)}")
    vectors = as_tensor(embeddings)
    if vectors.numel() and not vectors.is_floating_point():
        raise InputError(f"the vectors to quantize are {vectors.dtype}, expected floats")
    array: Array = vectors.cpu().numpy()
    if precision == "float32":
        return array.astype(np.float32)
    if precision == "binary":
        signed: Array = (np.packbits(array > 0, axis=-1) - np.uint8(128)).view(np.int8)
        return signed
    if precision == "ubinary":
        return np.packbits(array > 0, axis=-1)
    dtype = np.int8 if precision == "int8" else np.uint8
    if array.size == 0:
        return array.astype(dtype)
    if ranges is None:
        sample = array if calibration_embeddings is None else np.asarray(calibration_embeddings)
        if sample.ndim == 1 or len(sample) == 1:
            raise InputError(
                f"{precision} ranges cannot come from a single vector; give ranges or calibration_embeddings"
            )
        ranges = np.stack([sample.min(axis=0), sample.max(axis=0)])
    low, high = ranges.astype(np.float32)
    steps = (high - low) / 255
    steps = np.where(steps == 0, 1, steps)
    levels = np.clip(np.floor((array - low) / steps), 0, 255)
    quantized: Array = (levels - 128 if precision == "int8" else levels).astype(dtype)
    return quantized


def truncate_embeddings(embeddings: AnyArray, truncate_dim: int | None) -> AnyArray:
    """The first ``truncate_dim`` dimensions of ``[..., D]``; None keeps all. Not renormalised."""
    return embeddings[..., :truncate_dim]
