"""The contrastive losses: every other text of the batch is a wrong answer.

:class:`MultipleNegativesRankingLoss` takes pairs of an anchor and its positive. Each anchor has to
find its own positive among those of the whole batch, a classification with B classes (Henderson et
al. 2017, "Efficient Natural Language Response Suggestion for Smart Reply",
https://arxiv.org/abs/1705.00652, section 4.4; InfoNCE in van den Oord et al. 2018,
https://arxiv.org/abs/1807.03748). With the default options it is these two lines:

>>> import torch
>>> from minilm import cos_sim
>>> from minilm.training.losses import MultipleNegativesRankingLoss
>>> anchors, positives = torch.eye(2), torch.tensor([[1.0, 0.0], [1.0, 1.0]])
>>> scores = 20 * cos_sim(anchors, positives)                     # [B, B]: anchor i against positive j
>>> loss = (scores.logsumexp(dim=1) - scores.diagonal()).mean()   # cross-entropy, class i in row i
>>> torch.equal(loss, MultipleNegativesRankingLoss()([anchors, positives]))
True

:class:`CachedMultipleNegativesRankingLoss` is the same loss for batches that do not fit into memory.

A loss is a function of embeddings, whatever model they come from. The reference is
sentence-transformers 6.2: value and gradients are equal to the bit, whatever the options, which is why
the order of the operations must stay as it is. One exception: where the cached loss gathers, gradients go
to the other processes once and not once for each mini-batch, which adds them up in another order
(differences up to 1e-6 in gradients of order 1; the value is equal).

Dimensions:
    B  pairs in this process's batch     k  hard negatives of each pair
    n  pairs in all processes            m  documents in all processes, n · (1 + k)
    b  rows that are computed at once    D  dimensions of a vector
"""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from enum import Enum
from functools import partial
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from minilm.errors import InputError, check_choice
from minilm.similarity import cos_sim, similarity_function

Direction: TypeAlias = Literal["query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc"]
PartitionMode: TypeAlias = Literal["joint", "per_direction"]
HardnessMode: TypeAlias = Literal["in_batch_negatives", "hard_negatives", "all_negatives"]
DuplicateIds: TypeAlias = Sequence[Tensor]  # int64 [B] for each column; equal numbers are equal texts

DIRECTIONS: tuple[Direction, ...] = ("query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc")
PARTITION_MODES: tuple[PartitionMode, ...] = ("joint", "per_direction")
HARDNESS_MODES: tuple[HardnessMode, ...] = ("in_batch_negatives", "hard_negatives", "all_negatives")


class _RankingLoss(nn.Module):
    """The options, and the loss of each row; the two losses below differ in what they keep in memory."""

    def __new__(cls, *arguments: Any, **options: Any) -> Any:
        """Tells who comes from sentence-transformers, whose losses take the model first, that these take none."""
        if isinstance(options.get("model", next(iter(arguments), None)), nn.Module):
            raise InputError(
                f"{cls.__name__} takes no model, unlike sentence-transformers': it is a function of embeddings. Leave "
                f"the model out, {cls.__name__}(scale=20.0), and give it to train(model, …, loss=loss)"
            )
        return super().__new__(cls)

    def __init__(
        self,
        scale: float = 20.0,
        similarity_fct: Callable[[Tensor, Tensor], Tensor] | str | Enum = cos_sim,
        *,
        gather_across_devices: bool = False,
        directions: Sequence[Direction] = ("query_to_doc",),
        partition_mode: PartitionMode = "joint",
        hardness_mode: HardnessMode | None = None,
        hardness_strength: float = 0.0,
    ):
        super().__init__()
        function = similarity_function(similarity_fct, "similarity_fct")
        _check_options(scale, directions, partition_mode, hardness_mode, hardness_strength)
        self.scale = scale
        self.similarity_fct = function
        self.gather_across_devices = gather_across_devices
        self.directions = tuple(directions)
        self.partition_mode = partition_mode
        self.hardness_mode = hardness_mode
        self.hardness_strength = hardness_strength

    def get_config_dict(self) -> dict[str, Any]:
        """The options by name, as model cards and receipts state them."""
        return {
            "scale": self.scale,
            "similarity_fct": describe(self.similarity_fct),
            "gather_across_devices": self.gather_across_devices,
            "directions": self.directions,
            "partition_mode": self.partition_mode,
            "hardness_mode": self.hardness_mode,
            "hardness_strength": self.hardness_strength,
        }

    def _loss_of_rows(self, queries: Tensor, docs: list[Tensor], texts: Tensor | None, start: int, stop: int) -> Tensor:
        """The loss of the pairs ``start … stop - 1`` of ``n``, each against all documents::

            log Z_i = log Σ_j exp(s · sim(q_i, d_j)),    loss_i = log Z_i − s · sim(q_i, d_i)

        Queries ``[n, D]`` and the columns of documents, each ``[n, D]``, the positives first → ``[b]``.
        """
        documents = torch.cat(docs)  # [m, D]
        query, positive = queries[start:stop], docs[0][start:stop]  # the rows' own pairs, each [b, D]

        similarities = {"query_to_doc": self.similarity_fct(query, documents)}  # [b, m]
        if "query_to_query" in self.directions:
            similarities["query_to_query"] = self.similarity_fct(query, queries)  # [b, n]
        if "doc_to_query" in self.directions:
            similarities["doc_to_query"] = self.similarity_fct(queries, positive).T  # [b, n]
        if "doc_to_doc" in self.directions:
            similarities["doc_to_doc"] = self.similarity_fct(documents, positive).T  # [b, m]

        pairs = torch.arange(len(queries), device=queries.device)
        own = pairs[start:stop, None] == pairs  # [b, n]: True at the row's own pair
        for direction, mask in _no_negatives(own, len(docs), texts, start, stop).items():
            if direction in similarities:
                # In place as in the reference: the layout of doc_to_doc's gradient depends on it, and so
                # do the bits under a similarity other than the cosine.
                similarities[direction].masked_fill_(mask, -math.inf)

        scores = {direction: similarity * self.scale for direction, similarity in similarities.items()}
        if self.hardness_mode is not None and self.hardness_strength > 0:
            scores["query_to_doc"] = scores["query_to_doc"] + self._hardness(similarities["query_to_doc"], own)

        if self.partition_mode == "joint":
            log_z = torch.cat(list(scores.values()), dim=1).logsumexp(dim=1)  # [b]
        else:
            log_z = torch.stack([s.logsumexp(dim=1) for s in scores.values()]).mean(dim=0)
        return log_z - scores["query_to_doc"].diagonal(start)  # row i's own positive is in column start + i

    def _hardness(self, similarity: Tensor, own: Tensor) -> Tensor:
        """``α · sim`` for the negatives that ``hardness_mode`` names, 0 elsewhere: ``[b, m]`` → ``[b, m]``."""
        n = own.shape[1]
        own_documents = own.repeat(1, similarity.shape[1] // n)  # the own positive and own hard negatives
        harder = ~own_documents
        if self.hardness_mode == "hard_negatives":
            harder = own_documents.clone()
            harder[:, :n] = False
        elif self.hardness_mode == "all_negatives":
            harder[:, n:] = True
        return (self.hardness_strength * similarity.detach()).masked_fill(~harder, 0.0)

    def _gather(
        self, columns: list[Tensor], duplicates: DuplicateIds | None
    ) -> tuple[list[Tensor], Tensor | None, int]:
        """All that a row is compared with: every process's rows of each column, each ``[n, D]``; the
        texts of all columns as numbers 0, 1, 2 …, ``[n + m]``; and which row is this process's first."""
        first = 0
        if duplicates is not None:
            duplicates = [ids.to(columns[0].device) for ids in duplicates]
        if self.gather_across_devices and dist.is_available() and dist.is_initialized():
            _check_processes(columns)
            first = dist.get_rank() * len(columns[0])
            columns = [_all_gather(column) for column in columns]
            if duplicates is not None:
                duplicates = [_all_gather(ids) for ids in duplicates]
        if duplicates is None:
            return columns, None, first
        return columns, torch.unique(torch.cat(list(duplicates)), return_inverse=True)[1], first


class MultipleNegativesRankingLoss(_RankingLoss):
    """Cross-entropy of each anchor's own positive against all other documents of the batch.

    Documents are the positives and, where given, the hard negatives of every pair. With the anchors
    ``q``, their positives ``d_1 … d_B``, all documents ``d_1 … d_m`` and the scale ``s``::

        log Z_i = log Σ_j exp(s · sim(q_i, d_j))
        loss    = 1/B Σ_i (log Z_i − s · sim(q_i, d_i))

    Args:
        scale: ``s``, one over the temperature.
        similarity_fct: ``[a, D]``, ``[b, D]`` → ``[a, b]``, higher is nearer: ``cos_sim``, ``dot_score`` …,
            or the name of one, such as "dot".
        gather_across_devices: score against the documents of all processes of ``torch.distributed``.
            Each process gives the mean over its own anchors, and gradients flow to the documents'
            processes, so that DistributedDataParallel's average is the gradient of one process with
            all pairs. Every process needs the same number of pairs. No effect in a single process.
        directions: what else enters ``Z_i`` beside ``"query_to_doc"``, the sum above:
            ``"query_to_query"``, ``q_i`` against all other anchors; ``"doc_to_query"``, ``d_i``
            against all anchors; ``"doc_to_doc"``, ``d_i`` against all documents of other pairs. All
            four are the loss of GTE (Li et al. 2023, https://arxiv.org/abs/2308.03281).
        partition_mode: ``"joint"``, one sum over all directions; or ``"per_direction"``, ``log Z_i`` is
            the mean of each direction's own, which with ``"doc_to_query"`` is the symmetric InfoNCE
            (Günther et al. 2023, https://arxiv.org/abs/2310.19923).
        hardness_mode: which of ``q_i``'s negatives weigh more the nearer they are: ``None``, no others
            than by the softmax; ``"in_batch_negatives"``, the documents of other pairs;
            ``"hard_negatives"``, the pair's own hard negatives; ``"all_negatives"``, both.
        hardness_strength: ``α`` in ``s · sim + α · sim``, where no gradient flows through the second
            term (Lan et al. 2025, https://arxiv.org/abs/2503.04812, equation 5).

    Raises:
        InputError: an option has no meaning; says which and what it may be.
    """

    def forward(self, embeddings: Sequence[Tensor], duplicates: DuplicateIds | None = None) -> Tensor:
        """The loss of a batch, a scalar.

        Args:
            embeddings: the columns ``[anchor, positive, negative_1, …]``, each ``[B, D]``; they need
                not have length 1.
            duplicates: which texts are equal, from :func:`duplicate_ids`; then no anchor is pushed
                away from a text that is known to be right for it. None, as in the reference: it is.
                An anchor that stands ``r`` times in the batch, with ``r`` positives, then has to choose
                one of them each time, and no model brings the mean loss of these rows below ``log r``.

        Raises:
            InputError: fewer than two columns, or columns that do not fit each other.
        """
        _check_columns(embeddings, duplicates)
        (queries, *docs), texts, first = self._gather(list(embeddings), duplicates)
        return self._loss_of_rows(queries, docs, texts, first, first + len(embeddings[0])).mean()


class CachedMultipleNegativesRankingLoss(_RankingLoss):
    """:class:`MultipleNegativesRankingLoss` for large batches: memory for ``mini_batch_size`` texts.

    GradCache (Gao et al. 2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited
    Setup", https://arxiv.org/abs/2101.06983). The loss needs all vectors at once, but not everything
    that the encoder computed on the way to them:

    1. embed all texts in mini-batches without gradients, and keep the vectors;
    2. compute the loss, and its gradient in each vector;
    3. on ``loss.backward()``, embed each mini-batch once more, now with gradients, and hand it the
       gradients of its vectors.

    The second forward draws the first one's random numbers again, so dropout is the same. The price is
    one more forward pass.

    Args:
        mini_batch_size: texts that are embedded, and rows of scores that are computed, at once.
        scale, similarity_fct, options: those of :class:`MultipleNegativesRankingLoss`.

    Raises:
        InputError: an option has no meaning; says which and what it may be.
    """

    def __init__(
        self,
        scale: float = 20.0,
        similarity_fct: Callable[[Tensor, Tensor], Tensor] | str | Enum = cos_sim,
        *,
        mini_batch_size: int = 32,
        **options: Any,
    ):
        super().__init__(scale, similarity_fct, **options)
        if not isinstance(mini_batch_size, int) or mini_batch_size < 1:
            raise InputError(f"mini_batch_size is {mini_batch_size!r:.80}, expected a whole number, at least 1")
        self.mini_batch_size = mini_batch_size

    def forward(
        self,
        embed: Callable[[Any], Tensor],
        columns: Sequence[Sequence[Any]],
        duplicates: DuplicateIds | None = None,
        no_sync: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> Tensor:
        """The loss of a batch, a scalar whose ``backward()`` fills the gradients of what ``embed`` uses.

        Args:
            embed: runs the model on a slice of a column, → ``[b, D]``, with gradients where they are
                enabled. It is called again in the backward pass, under the same random numbers and
                the same autocast; it must do the same both times.
            columns: ``[anchors, positives, negatives_1, …]``, each a list of what ``embed`` takes,
                such as one list of token ids for each text.
            duplicates: as for :class:`MultipleNegativesRankingLoss`.
            no_sync: DistributedDataParallel's ``no_sync``, where ``embed`` runs such a model: gradients
                are exchanged once, after the last mini-batch.

        Raises:
            InputError: fewer than two columns, or columns that do not fit each other.
        """
        _check_lengths(columns)
        size = self.mini_batch_size
        parts = [[column[i : i + size] for i in range(0, len(column), size)] for column in columns]

        vectors: list[Tensor] = []
        randomness: list[list[_Randomness]] = []
        with torch.no_grad():
            for column in parts:
                randomness.append([])
                embedded = []
                for part in column:
                    randomness[-1].append(_Randomness())
                    embedded.append(embed(part))
                vectors.append(torch.cat(embedded))
        _check_columns(vectors, duplicates)

        if not torch.is_grad_enabled():
            return self._loss_in_chunks(vectors, duplicates)
        for vector in vectors:
            vector.requires_grad_()
        loss = self._loss_in_chunks(vectors, duplicates).requires_grad_()
        autocast = _autocast_now(loss.device.type)

        def embed_again(upstream: Tensor) -> None:
            last = len(parts[-1]) - 1
            for column, states, vector in zip(parts, randomness, vectors, strict=True):
                gradients = vector.grad.split(size)  # type: ignore[union-attr]
                for i, (part, state, gradient) in enumerate(zip(column, states, gradients, strict=True)):
                    with nullcontext() if column is parts[-1] and i == last else no_sync():
                        with torch.enable_grad(), state.replayed(), autocast():
                            embedded = embed(part)
                        embedded.backward(gradient * upstream)

        loss.register_hook(embed_again)
        return loss

    def _loss_in_chunks(self, vectors: list[Tensor], duplicates: DuplicateIds | None) -> Tensor:
        """The loss, without a graph; its gradients are in the vectors afterwards, where they want any."""
        B = len(vectors[0])
        columns, texts, first = self._gather(vectors, duplicates)
        queries, *docs = leaves = [column.detach().requires_grad_(column.requires_grad) for column in columns]
        total = torch.zeros((), device=queries.device)
        for start in range(0, B, self.mini_batch_size):
            stop = min(start + self.mini_batch_size, B)
            losses = self._loss_of_rows(queries, docs, texts, first + start, first + stop)  # [b]
            loss = losses.mean() * (stop - start) / B
            if loss.requires_grad:
                loss.backward()
            total = total + loss.detach()
        if queries.requires_grad:
            torch.autograd.backward(columns, [leaf.grad for leaf in leaves])  # to their processes, at once
        return total

    def get_config_dict(self) -> dict[str, Any]:
        """The options by name, as model cards and receipts state them."""
        return {**super().get_config_dict(), "mini_batch_size": self.mini_batch_size}


def describe(value: Any) -> str:
    """What a function, a class or an argument is, in one line that is the same in every process.

    minilm's own go by their name; others with their module; what a ``functools.partial`` fixes is in it. The state of
    other objects is not in the line.
    """
    if isinstance(value, partial):
        parts = [value.func, *value.args]
        named = [f"{name}={describe(argument)}" for name, argument in value.keywords.items()]
        return f"partial({', '.join([*map(describe, parts), *named])})"
    if value is None or isinstance(value, (bool, int, float, str)):
        return repr(value)
    if not hasattr(value, "__qualname__"):
        return f"an object of {describe(type(value))}"
    module = value.__module__ or ""
    return value.__qualname__ if module.split(".")[0] in ("minilm", "builtins") else f"{module}.{value.__qualname__}"


def describe_loss(loss: nn.Module) -> dict[str, Any]:
    """Class and options of a loss, as receipts and checkpoints hold them: ready for JSON, and as it comes back."""
    settings: Callable[[], dict[str, Any]] = getattr(loss, "get_config_dict", dict)
    description: dict[str, Any] = json.loads(
        json.dumps({"class": describe(type(loss)), **settings()}, default=describe)
    )
    return description


def duplicate_ids(columns: Sequence[Sequence[str | Sequence[int]]]) -> list[Tensor]:
    """Numbers that are equal where texts are equal, in whatever column, batch or process they stand.

    Token ids are the better key: what the model cannot tell apart (case, spaces, the part that was
    cut off) is equal in them.

    Args:
        columns: each a list of ``B`` texts, or of one list of token ids for each text.

    Returns:
        int64 ``[B]`` for each column: 64 bits of a hash, so that two of a million different texts
        are taken for equal in one of thirty million cases.
    """
    return [torch.tensor([_hash(text) for text in column], dtype=torch.int64) for column in columns]


def _hash(text: str | Sequence[int]) -> int:
    data = text.encode(errors="surrogatepass") if isinstance(text, str) else np.asarray(text, dtype=np.int64).tobytes()
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little", signed=True)


def _no_negatives(own: Tensor, columns: int, texts: Tensor | None, start: int, stop: int) -> dict[Direction, Tensor]:
    """For each direction, which candidates are left out of ``Z_i``: True in a mask ``[b, n]`` or ``[b, m]``.

    Among its own kind a text is compared with neither itself nor the documents of its own pair.

    Where the texts' numbers are given, ``[n + m]``, whatever is known to be right for a row is left
    out too, but for the row's own pair itself. Two rows are related if their pairs share a text, be it
    the anchor or the positive: one question with two answers, or one answer to two questions. The
    anchors and the positives of all rows that are related to a row are right for it, wherever these
    texts stand, hard negatives included.
    """
    own_documents = own.repeat(1, columns)  # [b, m]
    masks: dict[Direction, Tensor] = {"query_to_query": own, "doc_to_doc": own_documents}
    if texts is None:
        return masks
    n = own.shape[1]
    queries, documents = texts[:n], texts[n:]
    pairs = texts[: 2 * n].view(2, n)  # anchor and positive of each row
    related = (pairs[:, None, start:stop, None] == pairs[None, :, None, :]).flatten(0, 1).any(dim=0)  # [b, n]
    right = own.new_zeros(stop - start, len(texts))  # [b, texts]
    row, other = related.nonzero(as_tuple=True)
    right[row, queries[other]] = True
    right[row, documents[:n][other]] = True

    own_positive = own_documents.clone()
    own_positive[:, n:] = False
    return {
        "query_to_doc": right[:, documents] & ~own_positive,
        "query_to_query": right[:, queries],  # every text is right for itself, so own is in it
        "doc_to_query": right[:, queries] & ~own,
        "doc_to_doc": right[:, documents] | own_documents,
    }


def _all_gather(tensor: Tensor) -> Tensor:
    """The rows of all processes in the order of their ranks, ``[B, …]`` → ``[processes · B, …]``.

    In the backward pass each process gets the sum of all processes' gradients in its own rows.
    """
    gathered: Tensor = _AllGather.apply(tensor)  # type: ignore[no-untyped-call]
    return gathered


class _AllGather(torch.autograd.Function):
    """``torch.distributed.all_gather``, which by itself lets no gradients through."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        """``[B, …]`` → ``[processes · B, …]``."""
        rows = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
        dist.all_gather(rows, tensor.contiguous())
        return torch.cat(rows)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """``[processes · B, …]`` → ``[B, …]``."""
        total = gradient.clone()
        dist.all_reduce(total)
        return total.chunk(dist.get_world_size())[dist.get_rank()]


class _Randomness:
    """The state of every random generator at one moment, and a way back to it."""

    def __init__(self) -> None:
        self.cpu = torch.get_rng_state()
        self.cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
        self.mps = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None

    @contextmanager
    def replayed(self) -> Iterator[None]:
        """Draws the same numbers again inside; outside nothing has happened."""
        now = _Randomness()
        self._restore()
        try:
            yield
        finally:
            now._restore()

    def _restore(self) -> None:
        torch.set_rng_state(self.cpu)
        if self.cuda:
            torch.cuda.set_rng_state_all(self.cuda)
        if self.mps is not None:
            torch.mps.set_rng_state(self.mps)


def _autocast_now(device_type: str) -> Callable[[], AbstractContextManager[Any]]:
    """Brings today's autocast back later: a backward pass usually runs outside of it."""
    enabled, dtype = torch.is_autocast_enabled(device_type), torch.get_autocast_dtype(device_type)
    return lambda: torch.autocast(device_type, dtype=dtype, enabled=enabled)


def _check_options(
    scale: float,
    directions: Sequence[str],
    partition_mode: str,
    hardness_mode: str | None,
    hardness_strength: float,
) -> None:
    for name, value in (("scale", scale), ("hardness_strength", hardness_strength)):
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise InputError(f"{name} is {value!r:.80}, expected a number")
    if not 0 < scale < math.inf:
        raise InputError(f"scale is {scale}, expected a positive number")
    if isinstance(directions, str):
        raise InputError(f"directions is the string {directions!r}, expected a tuple such as ({directions!r},)")
    for direction in directions:
        check_choice("a direction", direction, DIRECTIONS)
    if "query_to_doc" not in directions:
        raise InputError(f'directions is {tuple(directions)}, expected "query_to_doc" among them: it has the positive')
    check_choice("partition_mode", partition_mode, PARTITION_MODES)
    if partition_mode == "per_direction" and {"query_to_query", "doc_to_doc"} & set(directions):
        raise InputError(
            'partition_mode="per_direction" is undefined for "query_to_query" and "doc_to_doc", whose sums do not '
            'contain the positive pair; use partition_mode="joint" or leave these directions out'
        )
    check_choice("hardness_mode", hardness_mode, (None, *HARDNESS_MODES))
    if not 0 <= hardness_strength < math.inf:
        raise InputError(f"hardness_strength is {hardness_strength}, expected 0 or a positive number")
    if hardness_mode is not None and hardness_strength == 0:
        warnings.warn(f"hardness_mode={hardness_mode!r} has no effect while hardness_strength is 0", stacklevel=3)


def _check_processes(columns: Sequence[Tensor]) -> None:
    """A collective call with unequal shapes would hang or mix up rows."""
    shape = torch.tensor([len(columns), *columns[0].shape], device=columns[0].device)
    shapes = _all_gather(shape[None])
    if (shapes != shape).any():
        found = ", ".join(f"{count} of {tuple(rest)}" for count, *rest in shapes.tolist())
        raise InputError(
            f"the processes have unequal batches (columns of shape: {found}); "
            "gather_across_devices needs equal ones: drop or fill up the last batch"
        )


def _check_lengths(columns: Sequence[Sequence[Any] | Tensor]) -> None:
    lengths = [len(column) for column in columns]
    if len(lengths) < 2:
        raise InputError(f"found {len(lengths)} column(s), expected at least an anchor and a positive")
    if lengths[0] == 0 or len(set(lengths)) > 1:
        raise InputError(f"the columns have {lengths} rows, expected equally many in each, at least 1")


def _check_columns(embeddings: Sequence[Tensor], duplicates: DuplicateIds | None) -> None:
    shapes = [tuple(column.shape) for column in embeddings]
    if any(len(shape) != 2 for shape in shapes):
        raise InputError(f"the embeddings have the shapes {shapes}, expected [B, D] for each column")
    _check_lengths(embeddings)
    if len(set(shapes)) > 1:
        raise InputError(f"the embeddings have the shapes {shapes}, expected the same D in each column")
    if duplicates is not None:
        found = [tuple(ids.shape) for ids in duplicates]
        if found != [shape[:1] for shape in shapes]:
            raise InputError(
                f"duplicates has the shapes {found}, expected {[shape[:1] for shape in shapes]}: "
                "one number for each text of each column, as duplicate_ids gives them"
            )
