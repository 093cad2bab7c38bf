"""Does a search with the model find the relevant documents, and find them first?"""

from __future__ import annotations

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
from minilm.plain_json import to_json
from minilm.similarity import ScoreFunction, best_first, similarity_function
from minilm.tables import Table, read_table
from minilm.tokens import check_texts

if TYPE_CHECKING:
    from minilm.sentence_encoder import SentenceEncoder

Id: TypeAlias = "str | int"
Hits: TypeAlias = "list[tuple[float, Id]]"  # score and document id, best first


class InformationRetrievalEvaluator(BaseEvaluator):
    """Accuracy, precision, recall, NDCG, MRR and MAP of the first k documents for each query.

    Metrics, for each score function and k: ``NAME_accuracy@k``, ``NAME_precision@k``,
    ``NAME_recall@k``, ``NAME_ndcg@k``, ``NAME_mrr@k``, ``NAME_map@k``; the mean over the queries of
    what :mod:`minilm.evaluation.measures` defines. Primary: NDCG at the greatest of ``ndcg_at_k``,
    of ``main_score_function`` or else of the score function that is best at it.

    Documents of equal score come in the order of their ids, numbers before texts. Queries without a relevant
    document are left out. Relevant documents that are not in the corpus count as never found, as in the
    reference; :func:`load_beir` refuses them.

    Args:
        queries: query id → text, encoded with the model's "query" prompt.
        corpus: document id → text, encoded with its "document" prompt.
        relevant_docs: query id → ids of its relevant documents; or a dict of these, id → grade. NDCG then weighs
            a document by its grade, and a document with a grade above 0 is relevant to the other metrics.
        corpus_chunk_size: documents to encode and compare at a time.
        mrr_at_k, ndcg_at_k, accuracy_at_k, precision_recall_at_k, map_at_k: the values of k.
        score_functions: name → function, ``[Q, D]``, ``[N, D]`` → ``[Q, N]``, higher is better; the
            model's own similarity unless given.
        main_score_function: the name of the primary metric's score function.
        query_prompt, query_prompt_name, corpus_prompt, corpus_prompt_name: other prompts.
        write_predictions: write the ranking of each query to a JSONL file in ``output_path``.
        ignore_identical_ids: leave out the document with the query's own id, as BEIR's evaluation does: the
            queries of some of its sets (ArguAna, Quora) are documents too. False, the default, is the reference's.

    Further arguments as for :class:`BaseEvaluator`.

    Raises:
        InputError: an argument cannot be used, or no query has a relevant document.
    """

    description = "Information Retrieval"
    csv_line_end = "\n"

    def __init__(
        self,
        queries: Mapping[Any, str],
        corpus: Mapping[Any, str],
        relevant_docs: Mapping[Any, Set[Any] | Mapping[Any, float]],
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
        ignore_identical_ids: bool = False,
        layout: Layout = "padded",
    ):
        super().__init__(name, batch_size, show_progress_bar, write_csv, truncate_dim, layout)
        grades = {query_id: _grades(relevant) for query_id, relevant in relevant_docs.items()}
        self.query_ids = [query_id for query_id in queries if grades.get(query_id)]
        self.queries = check_texts([queries[query_id] for query_id in self.query_ids])
        self.corpus_ids = list(corpus)
        self.corpus = check_texts(list(corpus.values()))
        self.relevant_docs = relevant_docs
        self.grades = grades
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
        self.ignore_identical_ids = ignore_identical_ids
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
        known = set(self.corpus_ids)
        for query_id in self.query_ids:
            for document in self.grades[query_id]:
                if document not in known and (other := _of_other_type(document)) in known:
                    raise InputError(
                        f"relevant_docs has the document {document!r} for the query {query_id!r}, but the corpus has "
                        f"{other!r}; give ids one type"
                    )
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
            ids=self.query_ids,
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
                ids=self.corpus_ids[chunk],
                prompt_name=self.corpus_prompt_name,
                prompt=self.corpus_prompt,
                convert_to_tensor=True,
            )
            for name, score in score_functions.items():
                with torch.autocast(queries.device.type, enabled=False):  # in bfloat16 most scores would be ties
                    scores = score(queries, documents)
                found = self._best(scores, self.corpus_ids[chunk])
                for hits, more in zip(rankings[name], found, strict=True):
                    hits[:] = sorted(hits + more, key=lambda hit: (-hit[0], _order(hit[1])))[: self.max_k]
        return rankings

    def _best(self, scores: Tensor, ids: Sequence[Id]) -> list[Hits]:
        """The best ``max_k`` of ``[Q, N]`` scores in each row, equal ones by id."""
        by_id = sorted(range(len(ids)), key=lambda index: _order(ids[index]))
        scores = scores[:, torch.tensor(by_id, device=scores.device)]
        best, places = best_first(scores, self.max_k + self.ignore_identical_ids)
        found = []
        for query_id, row in zip(self.query_ids, zip(best.tolist(), places.tolist(), strict=True), strict=True):
            hits = [(score, ids[by_id[place]]) for score, place in zip(*row, strict=True)]
            if self.ignore_identical_ids:
                hits = [hit for hit in hits if hit[1] != query_id]
            found.append(hits[: self.max_k])
        return found

    # ---- measures -------------------------------------------------------------------------------

    def measure(self, rankings: Sequence[Hits]) -> dict[str, Floats]:
        """Each metric of each query, ``[Q]``, from its hits."""
        gains, ideal_gains = np.zeros((2, len(rankings), self.max_k))
        grades = [self.grades[query_id] for query_id in self.query_ids]
        for row, ideal, grade_of, hits in zip(gains, ideal_gains, grades, rankings, strict=True):
            row[: len(hits)] = [grade_of.get(document, 0) for _, document in hits]
            best = sorted(grade_of.values(), reverse=True)[: self.max_k]
            ideal[: len(best)] = best
        results = RankedResults(gains, np.array([len(grade_of) for grade_of in grades]), ideal_gains)
        return {f"{metric}@{k}": at_k(results, k) for metric, at_k, ks in self._wanted() for k in ks}

    def _wanted(self) -> list[tuple[str, Callable[[RankedResults, int], Floats], Sequence[int]]]:
        return [
            ("accuracy", accuracy_at_k, self.accuracy_at_k),
            ("precision", precision_at_k, self.precision_recall_at_k),
            ("recall", recall_at_k, self.precision_recall_at_k),
            ("ndcg", ndcg_at_k, self.ndcg_at_k),
            ("mrr", mrr_at_k, self.mrr_at_k),
            ("map", map_at_k, self.map_at_k),
        ]

    def _names(self, model: SentenceEncoder) -> list[str]:
        functions = self.score_functions or [model.similarity_fn_name]
        return [f"{name}_{metric}@{k}" for name in functions for metric, _, ks in self._wanted() for k in ks]

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
            lines.append(to_json({"query_id": query_id, "query": query, "results": results}, null=True) + "\n")
        return "".join(lines)

    def get_config_dict(self) -> dict[str, Any]:
        """See :class:`BaseEvaluator`."""
        prompts = ("query_prompt", "query_prompt_name", "corpus_prompt", "corpus_prompt_name")
        found = {prompt: getattr(self, prompt) for prompt in prompts if getattr(self, prompt) is not None}
        ignores = {"ignore_identical_ids": True} if self.ignore_identical_ids else {}
        return super().get_config_dict() | found | ignores


def _grades(relevant: Set[Id] | Mapping[Id, float]) -> dict[Id, float]:
    if isinstance(relevant, Mapping):
        return {document: grade for document, grade in relevant.items() if grade > 0}
    return dict.fromkeys(relevant, 1)


def _order(id_: Id) -> tuple[bool, Id]:
    return isinstance(id_, str), id_  # Python does not compare numbers with texts


def _of_other_type(id_: Id) -> Id | None:
    if isinstance(id_, str):
        return int(id_) if id_.isdecimal() else None
    return str(id_)


def _mean(metric: str, values: Floats) -> float:
    # The reference adds up MRR one query after the other, and the others by NumPy's mean, in pairs.
    return float(values.cumsum()[-1] / len(values)) if metric.startswith("mrr@") else float(values.mean())


@dataclass(frozen=True)
class RetrievalData:
    """What :class:`InformationRetrievalEvaluator` takes: three dicts by id; ``relevant_docs`` has grades."""

    queries: dict[str, str]
    corpus: dict[str, str]
    relevant_docs: dict[str, dict[str, float]]


QRELS = ("query-id", "corpus-id", "score")


def load_beir(folder: str | os.PathLike[str], split: str = "test") -> RetrievalData:
    """Reads a folder in BEIR's layout (Thakur et al., 2021), and TREC's files in it.

    ``corpus.jsonl`` has ``_id``, ``text`` and maybe ``title``, which is put before the text as BEIR
    does; ``queries.jsonl`` has ``_id`` and ``text``. In their place ``corpus.tsv`` and ``queries.tsv`` have
    an id and a text in each line, with or without a header. ``qrels/SPLIT.tsv`` (or ``.txt``) has
    ``query-id``, ``corpus-id`` and ``score``, or TREC's four columns: query, 0, document, relevance, between tabs
    or spaces. A score above 0 is relevant, and is the grade for NDCG. Ids that are whole numbers are texts of digits.

    Raises:
        InputError: a file is missing or broken, an id comes twice, or the qrels name a query or a
            document that does not exist; names file and line.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder, expected one with corpus.jsonl, queries.jsonl and qrels/{split}.tsv")
    corpus = _texts_by_id(_either(folder / "corpus.jsonl", ".tsv"), title="title")
    queries = _texts_by_id(_either(folder / "queries.jsonl", ".tsv"))
    qrels = _read_qrels(_either(folder / "qrels" / f"{split}.tsv", ".txt"))
    relevant_docs: dict[str, dict[str, float]] = {}
    columns = qrels.texts("query-id"), qrels.texts("corpus-id"), qrels.numbers("score")
    for row, (query_id, document_id, score) in enumerate(zip(*columns, strict=True)):
        if query_id not in queries:
            raise qrels.error(row, f"there is no query {query_id!r} in the queries")
        if document_id not in corpus:
            raise qrels.error(row, f"there is no document {document_id!r} in the corpus")
        if score > 0:
            relevant_docs.setdefault(query_id, {})[document_id] = score
    if not relevant_docs:
        raise InputError(f"{qrels.path} has no score above 0, so no document is relevant to any query")
    return RetrievalData(queries, corpus, relevant_docs)


def _either(path: Path, other_suffix: str) -> Path:
    other = path.with_name(path.stem + other_suffix)
    return other if other.is_file() and not path.is_file() else path


def _read_qrels(path: Path) -> Table:
    table = read_table(path, spaces=True)
    if table.header:
        return read_table(path, QRELS, spaces=True)
    numbers = {3: ("1", "2", "3"), 4: ("1", "3", "4")}.get(len(table.columns))
    if numbers is None:
        raise table.error(0, f"found {len(table.columns)} cells, expected {', '.join(QRELS)}, or TREC's four columns")
    return read_table(path, QRELS, called=numbers, spaces=True)


def _texts_by_id(path: Path, title: str | None = None) -> dict[str, str]:
    table = read_table(path, ("_id", "text"), optional=[title] if title else [])
    titles = table.texts(title, default="") if title else [""] * len(table)
    texts: dict[str, str] = {}
    for row, (key, heading, text) in enumerate(zip(table.ids("_id"), titles, table.texts("text"), strict=True)):
        if key in texts:
            raise table.error(row, f"there is a second {key!r}, expected each _id once")
        texts[key] = f"{heading} {text}".strip() if title else text
    return texts
