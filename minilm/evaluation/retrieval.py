"""Does a search with the model find the relevant documents, and find them first?"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from minilm.errors import InputError
from minilm.evaluation.evaluator import BaseEvaluator, Outcome, Row, similarity_names
from minilm.evaluation.measures import (
    Floats,
    RankedResults,
    accuracy_at_k,
    map_at_k,
    mrr_at_k,
    ndcg_at_k,
    precision_at_k,
    recall_at_k,
)
from minilm.layouts import Layout
from minilm.similarity import ScoreFunction, best_first, similarity_function
from minilm.tables import read_table
from minilm.tokens import check_texts

if TYPE_CHECKING:
    from minilm.sentence_encoder import SentenceEncoder

Hits: TypeAlias = "list[tuple[float, str]]"  # score and document id, best first


class InformationRetrievalEvaluator(BaseEvaluator):
    """Accuracy, precision, recall, NDCG, MRR and MAP of the first k documents for each query.

    Metrics, for each score function and k: ``NAME_accuracy@k``, ``NAME_precision@k``,
    ``NAME_recall@k``, ``NAME_ndcg@k``, ``NAME_mrr@k``, ``NAME_map@k``; the mean over the queries of
    what :mod:`minilm.evaluation.measures` defines. Primary: NDCG at the greatest of ``ndcg_at_k``,
    of ``main_score_function`` or else of the score function that is best at it.

    Documents of equal score come in the order of their ids. A document counts as relevant or not;
    queries without a relevant document are left out. Relevant documents that are not in the corpus
    count as never found, as in the reference; :func:`load_beir` refuses them. A document with the id
    of the query is a document like any other, as there; BEIR's own scripts leave it out.

    Args:
        queries: query id → text, encoded with the model's "query" prompt.
        corpus: document id → text, encoded with its "document" prompt.
        relevant_docs: query id → ids of its relevant documents.
        corpus_chunk_size: documents to encode and compare at a time.
        mrr_at_k, ndcg_at_k, accuracy_at_k, precision_recall_at_k, map_at_k: the values of k.
        score_functions: name → function, ``[Q, D]``, ``[N, D]`` → ``[Q, N]``, higher is better; the
            model's own similarity unless given.
        main_score_function: the name of the primary metric's score function.
        query_prompt, query_prompt_name, corpus_prompt, corpus_prompt_name: other prompts.
        write_predictions: write the ranking of each query to a JSONL file in ``output_path``.

    Further arguments as for :class:`BaseEvaluator`.

    Raises:
        InputError: an argument cannot be used, or no query has a relevant document.
    """

    description = "Information Retrieval"
    csv_line_end = "\n"

    def __init__(
        self,
        queries: Mapping[str, str],
        corpus: Mapping[str, str],
        relevant_docs: Mapping[str, Set[str]],
        corpus_chunk_size: int = 50000,
        mrr_at_k: Sequence[int] = (10,),
        ndcg_at_k: Sequence[int] = (10,),
        accuracy_at_k: Sequence[int] = (1, 3, 5, 10),
        precision_recall_at_k: Sequence[int] = (1, 3, 5, 10),
        map_at_k: Sequence[int] = (100,),
        show_progress_bar: bool | None = False,
        batch_size: int = 32,
        name: str = "",
        write_csv: bool = True,
        truncate_dim: int | None = None,
        score_functions: Mapping[str, ScoreFunction | str | Enum] | None = None,
        main_score_function: str | Enum | None = None,
        query_prompt: str | None = None,
        query_prompt_name: str | None = None,
        corpus_prompt: str | None = None,
        corpus_prompt_name: str | None = None,
        write_predictions: bool = False,
        *,
        layout: Layout = "padded",
    ):
        super().__init__(name, batch_size, show_progress_bar, write_csv, truncate_dim, layout)
        self.query_ids = [query_id for query_id in queries if relevant_docs.get(query_id)]
        self.queries = check_texts([queries[query_id] for query_id in self.query_ids])
        self.corpus_ids = list(corpus)
        self.corpus = check_texts(list(corpus.values()))
        self.relevant_docs = relevant_docs
        self.corpus_chunk_size = corpus_chunk_size
        self.mrr_at_k = mrr_at_k
        self.ndcg_at_k = ndcg_at_k
        self.accuracy_at_k = accuracy_at_k
        self.precision_recall_at_k = precision_recall_at_k
        self.map_at_k = map_at_k
        self.score_functions = {name: similarity_function(f) for name, f in (score_functions or {}).items()}
        self.main_score_function = (
            main_score_function.value if isinstance(main_score_function, Enum) else main_score_function
        )
        self.query_prompt = query_prompt
        self.query_prompt_name = query_prompt_name
        self.corpus_prompt = corpus_prompt
        self.corpus_prompt_name = corpus_prompt_name
        self.write_predictions = write_predictions
        self.csv_file = "_".join(part for part in ("Information-Retrieval_evaluation", name, "results.csv") if part)
        self._check()

    def _check(self) -> None:
        ks = [*self.mrr_at_k, *self.ndcg_at_k, *self.accuracy_at_k, *self.precision_recall_at_k, *self.map_at_k]
        for name, number in (("corpus_chunk_size", self.corpus_chunk_size), *(("k", k) for k in ks)):
            if number < 1:
                raise InputError(f"{name} is {number}, expected at least 1")
        if not self.ndcg_at_k:
            raise InputError("ndcg_at_k is empty; the primary metric needs one")
        if not self.corpus:
            raise InputError("the corpus has no documents, expected at least one")
        if not self.queries:
            raise InputError("no query has a relevant document; are the ids in relevant_docs those of the queries?")
        if not self.score_functions:
            similarity_names(self.main_score_function, None, "main_score_function")
        elif self.main_score_function not in (None, *self.score_functions):
            raise InputError(
                f"main_score_function is {self.main_score_function!r}, expected one of {list(self.score_functions)}"
            )
        self.max_k = max(ks)

    def evaluate(self, model: SentenceEncoder) -> Outcome:
        """See :class:`BaseEvaluator`; the items are the queries that have a relevant document."""
        functions = self.score_functions or {model.similarity_fn_name: model.similarity}
        rankings = self.search(model, functions)
        per_query = {name: self.measure(hits) for name, hits in rankings.items()}
        means = {name: {metric: _mean(metric, v) for metric, v in values.items()} for name, values in per_query.items()}

        best = f"ndcg@{max(self.ndcg_at_k)}"
        main = self.main_score_function or max(sorted(means), key=lambda name: means[name][best])
        if main not in means:
            raise InputError(f"main_score_function is {main!r}, but the model's similarity is {', '.join(means)}")
        values = per_query[main][best]
        return Outcome(
            metrics={f"{name}_{metric}": value for name in means for metric, value in means[name].items()},
            primary_metric=f"{main}_{best}",
            items=len(self.queries),
            resample=lambda items: float(values[items].mean()),
            row=self._row(means),
            files={self._predictions_file(name): self._predictions(rankings[name]) for name in rankings}
            if self.write_predictions
            else {},
        )

    # ---- search ---------------------------------------------------------------------------------

    def search(self, model: SentenceEncoder, score_functions: Mapping[str, ScoreFunction]) -> dict[str, list[Hits]]:
        """For each score function and query the best ``max_k`` documents, best first."""
        queries = self.embed(
            model.encode_query,
            self.queries,
            prompt_name=self.query_prompt_name,
            prompt=self.query_prompt,
            convert_to_tensor=True,
        )
        rankings: dict[str, list[Hits]] = {name: [[] for _ in self.queries] for name in score_functions}
        for start in range(0, len(self.corpus), self.corpus_chunk_size):
            chunk = slice(start, start + self.corpus_chunk_size)
            documents = self.embed(
                model.encode_document,
                self.corpus[chunk],
                prompt_name=self.corpus_prompt_name,
                prompt=self.corpus_prompt,
                convert_to_tensor=True,
            )
            for name, score in score_functions.items():
                found = self._best(score(queries, documents), self.corpus_ids[chunk])
                for hits, more in zip(rankings[name], found, strict=True):
                    hits[:] = sorted(hits + more, key=lambda hit: (-hit[0], hit[1]))[: self.max_k]
        return rankings

    def _best(self, scores: Tensor, ids: Sequence[str]) -> list[Hits]:
        """The best ``max_k`` of ``[Q, N]`` scores in each row, equal ones by id."""
        by_id = sorted(range(len(ids)), key=lambda index: ids[index])
        best, places = best_first(scores[:, torch.tensor(by_id, device=scores.device)], self.max_k)
        return [
            [(score, ids[by_id[place]]) for score, place in zip(*row, strict=True)]
            for row in zip(best.tolist(), places.tolist(), strict=True)
        ]

    # ---- measures -------------------------------------------------------------------------------

    def measure(self, rankings: Sequence[Hits]) -> dict[str, Floats]:
        """Each metric of each query, ``[Q]``, from its hits."""
        relevant = np.zeros((len(rankings), self.max_k), dtype=bool)
        for row, query_id, hits in zip(relevant, self.query_ids, rankings, strict=True):
            row[: len(hits)] = [document in self.relevant_docs[query_id] for _, document in hits]
        results = RankedResults(relevant, np.array([len(self.relevant_docs[query_id]) for query_id in self.query_ids]))
        wanted: list[tuple[str, Callable[[RankedResults, int], Floats], Sequence[int]]] = [
            ("accuracy", accuracy_at_k, self.accuracy_at_k),
            ("precision", precision_at_k, self.precision_recall_at_k),
            ("recall", recall_at_k, self.precision_recall_at_k),
            ("ndcg", ndcg_at_k, self.ndcg_at_k),
            ("mrr", mrr_at_k, self.mrr_at_k),
            ("map", map_at_k, self.map_at_k),
        ]
        return {f"{metric}@{k}": at_k(results, k) for metric, at_k, ks in wanted for k in ks}

    # ---- files ----------------------------------------------------------------------------------

    def _row(self, means: Mapping[str, Mapping[str, float]]) -> Row:
        columns = [f"accuracy@{k}" for k in self.accuracy_at_k]
        columns += [f"{metric}@{k}" for k in self.precision_recall_at_k for metric in ("precision", "recall")]
        columns += [f"mrr@{k}" for k in self.mrr_at_k]
        columns += [f"ndcg@{k}" for k in self.ndcg_at_k]
        columns += [f"map@{k}" for k in self.map_at_k]
        titles = {"accuracy": "Accuracy", "precision": "Precision", "recall": "Recall"}
        row: Row = []
        for name in sorted(means):
            for column in columns:
                metric, k = column.split("@")
                row.append((f"{name}-{titles.get(metric, metric.upper())}@{k}", means[name][column]))
        return row

    def _predictions_file(self, score_function: str) -> str:
        return self.csv_file.replace("results.csv", f"predictions_{score_function}.jsonl")

    def _predictions(self, rankings: Sequence[Hits]) -> str:
        lines = []
        for query_id, query, hits in zip(self.query_ids, self.queries, rankings, strict=True):
            results = [{"corpus_id": document, "score": score} for score, document in hits]
            lines.append(json.dumps({"query_id": query_id, "query": query, "results": results}) + "\n")
        return "".join(lines)

    def get_config_dict(self) -> dict[str, Any]:
        """See :class:`BaseEvaluator`."""
        prompts = ("query_prompt", "query_prompt_name", "corpus_prompt", "corpus_prompt_name")
        found = {prompt: getattr(self, prompt) for prompt in prompts if getattr(self, prompt) is not None}
        return super().get_config_dict() | found


def _mean(metric: str, values: Floats) -> float:
    # The reference adds up MRR one query after the other, and the others by NumPy's mean, in pairs.
    return float(values.cumsum()[-1] / len(values)) if metric.startswith("mrr@") else float(values.mean())


@dataclass(frozen=True)
class RetrievalData:
    """What :class:`InformationRetrievalEvaluator` takes: three dicts by id."""

    queries: dict[str, str]
    corpus: dict[str, str]
    relevant_docs: dict[str, set[str]]


def load_beir(folder: str | os.PathLike[str], split: str = "test") -> RetrievalData:
    """Reads a folder in BEIR's layout (Thakur et al., 2021).

    ``corpus.jsonl`` has ``_id``, ``text`` and maybe ``title``, which is put before the text as BEIR
    does; ``queries.jsonl`` has ``_id`` and ``text``; ``qrels/SPLIT.tsv`` has ``query-id``,
    ``corpus-id`` and ``score``. A score above 0 is relevant, and how far above makes no difference.

    Raises:
        InputError: a file is missing or broken, an id comes twice, or the qrels name a query or a
            document that does not exist; names file and line.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder, expected one with corpus.jsonl, queries.jsonl and qrels/{split}.tsv")
    corpus = _texts_by_id(folder / "corpus.jsonl", title="title")
    queries = _texts_by_id(folder / "queries.jsonl")
    qrels = read_table(folder / "qrels" / f"{split}.tsv", ("query-id", "corpus-id", "score"))
    relevant_docs: dict[str, set[str]] = {}
    columns = qrels.texts("query-id"), qrels.texts("corpus-id"), qrels.numbers("score")
    for row, (query_id, document_id, score) in enumerate(zip(*columns, strict=True)):
        if query_id not in queries:
            raise qrels.error(row, f"there is no query {query_id!r} in queries.jsonl")
        if document_id not in corpus:
            raise qrels.error(row, f"there is no document {document_id!r} in corpus.jsonl")
        if score > 0:
            relevant_docs.setdefault(query_id, set()).add(document_id)
    if not relevant_docs:
        raise InputError(f"{qrels.path} has no score above 0, so no document is relevant to any query")
    return RetrievalData(queries, corpus, relevant_docs)


def _texts_by_id(path: Path, title: str | None = None) -> dict[str, str]:
    table = read_table(path, ("_id", "text"), optional=[title] if title else [])
    titles = table.texts(title, default="") if title else [""] * len(table)
    texts: dict[str, str] = {}
    for row, (key, heading, text) in enumerate(zip(table.texts("_id"), titles, table.texts("text"), strict=True)):
        if key in texts:
            raise table.error(row, f"there is a second {key!r}, expected each _id once")
        texts[key] = f"{heading} {text}".strip() if title else text
    return texts
