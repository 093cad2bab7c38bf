"""The model card of a training run: README.md, from what the run itself measured.

:class:`ModelCard` is plain data and :meth:`ModelCard.to_markdown` writes it, with the sections that
sentence-transformers' own cards have, in their order, so that the hub and its readers find what
they know. Any text is safe in it: the front matter quotes whatever is not a plain word, and in tables
whatever HTML or Markdown would read is written as a character reference.
"""

from __future__ import annotations

import html
import json
import os
import platform
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from minilm.checkpoint import atomic_path
from minilm.pooling import list_after_pooling
from minilm.sentence_encoder import SentenceEncoder

CARD_FILE = "README.md"
STATISTICS_ROWS = 100
SAMPLE_ROWS = 3
SAMPLE_CHARACTERS = 1_000
WIDGETS = 5
LOG_ROWS = 100

# Shown in place of the user's texts where those are to stay out of the card.
STOCK_TEXTS = (
    "How long can a cut of cheese be kept?",
    "Hard cheese lasts for weeks in a cool, dry place.",
    "The night train to the coast leaves at ten.",
)

SIMILARITY_NAMES = {
    "cosine": "Cosine Similarity",
    "dot": "Dot Product",
    "euclidean": "Euclidean Distance",
    "manhattan": "Manhattan Distance",
}

CITATIONS = {
    "Sentence Transformers": """\
@inproceedings{reimers-2019-sentence-bert,
    title = "Sentence-BERT: Sentence Embeddings using Siamese BERT-Networks",
    author = "Reimers, Nils and Gurevych, Iryna",
    booktitle = "Proceedings of the 2019 Conference on Empirical Methods in Natural Language Processing",
    month = "11",
    year = "2019",
    publisher = "Association for Computational Linguistics",
    url = "https://arxiv.org/abs/1908.10084",
}""",
    "MultipleNegativesRankingLoss": """\
@misc{henderson2017efficient,
    title = {Efficient Natural Language Response Suggestion for Smart Reply},
    author = {Matthew Henderson and Rami Al-Rfou and Brian Strope and Yun-hsuan Sung and Laszlo Lukacs and \
Ruiqi Guo and Sanjiv Kumar and Balint Miklos and Ray Kurzweil},
    year = {2017},
    eprint = {1705.00652},
    archivePrefix = {arXiv},
    primaryClass = {cs.CL}
}""",
    "CachedMultipleNegativesRankingLoss": """\
@misc{gao2021scaling,
    title = {Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup},
    author = {Luyu Gao and Yunyi Zhang and Jiawei Han and Jamie Callan},
    year = {2021},
    eprint = {2101.06983},
    archivePrefix = {arXiv},
    primaryClass = {cs.LG}
}""",
}


@dataclass(frozen=True)
class ColumnStatistics:
    """Tokens of the first texts of a column, ``[CLS]`` and ``[SEP]`` counted, cut at the limit."""

    min: int
    mean: float
    max: int


@dataclass(frozen=True)
class DatasetCard:
    """What a card says of one data set.

    Attributes:
        name: None is shown as "Unnamed Dataset".
        size: the number of rows.
        statistics: for each column, in order, over the first :data:`STATISTICS_ROWS` rows.
        samples: the first :data:`SAMPLE_ROWS` rows; empty to show none.
    """

    name: str | None
    size: int
    statistics: Mapping[str, ColumnStatistics]
    samples: Sequence[Sequence[str]] = ()

    @classmethod
    def measure(
        cls, name: str | None, columns: Mapping[str, Sequence[str]], model: SentenceEncoder, samples: bool = True
    ) -> DatasetCard:
        """Counts the tokens of a data set's first rows.

        Args:
            columns: column name → texts, all of one length.
            samples: False leaves the texts out.
        """
        statistics = {}
        for column, texts in columns.items():
            lengths = [len(ids) for ids in model.tokenizer(list(texts[:STATISTICS_ROWS])).ids] or [0]
            statistics[column] = ColumnStatistics(min(lengths), sum(lengths) / len(lengths), max(lengths))
        size = len(next(iter(columns.values()), ()))
        rows = list(zip(*(texts[:SAMPLE_ROWS] for texts in columns.values()), strict=True)) if samples else []
        return cls(name, size, statistics, rows)


@dataclass(frozen=True)
class EvaluationCard:
    """What a card says of one evaluation.

    Attributes:
        evaluator: the evaluator's class name.
        name: the evaluated data's name; metrics' names may begin with it and are shown without.
        description: the heading; None makes it from the class name.
        config: the evaluator's options.
    """

    evaluator: str
    name: str
    metrics: Mapping[str, float]
    primary_metric: str | None = None
    description: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def heading(self) -> str:
        """What is evaluated, in words; from the class name where there is no description."""
        words = re.findall(r"[A-Z]+(?![a-z])|[A-Z][a-z\d]*", self.evaluator.removesuffix("Evaluator"))
        return self.description or " ".join(words)

    def short_metrics(self) -> dict[str, float]:
        """The metrics under their names without :attr:`name`, as plain numbers."""
        return {self._short(key): float(value) for key, value in self.metrics.items()}

    def _short(self, metric: str) -> str:
        return metric.removeprefix(f"{self.name}_") if self.name else metric

    def is_primary(self, metric: str) -> bool:
        """Whether a metric's short name is that of the primary one."""
        return self.primary_metric is not None and metric == self._short(self.primary_metric)


@dataclass(frozen=True)
class Usage:
    """The example of use: texts, and how similar the model finds them, ``[n][n]``."""

    texts: Sequence[str]
    similarities: Sequence[Sequence[float]]

    @classmethod
    def measure(cls, model: SentenceEncoder, texts: Sequence[str]) -> Usage:
        """Encodes the texts as the example does."""
        vectors = model.encode(list(texts), truncation="silent")
        return cls(list(texts), model.similarity(vectors, vectors).tolist())


@dataclass(frozen=True)
class ModelCard:
    """Everything that a card says. Made by :func:`describe_run`, or by hand.

    Attributes:
        architecture: the pipeline, one module a line.
        parameters: the number of the encoder's weights.
        base_model: the hub id of the model that training started from, if it has one.
        loss: the loss's class name, and ``loss_config`` its arguments.
        hyperparameters: every setting of the recipe, and ``defaults`` the values that need no mention.
        training_log: rows of ``epoch``, ``step``, ``loss`` and any metric, as training_log.jsonl has them.
        best_step: the step whose weights were kept, when not the last one's.
        widget: source sentence and the sentences to compare it with.
        model_id: what the usage example loads.
    """

    dimension: int
    max_seq_length: int
    similarity_fn_name: str
    architecture: str
    parameters: int
    usage: Usage
    base_model: str | None = None
    base_model_revision: str | None = None
    train_datasets: Sequence[DatasetCard] = ()
    eval_datasets: Sequence[DatasetCard] = ()
    loss: str = "MultipleNegativesRankingLoss"
    loss_config: Mapping[str, Any] = field(default_factory=dict)
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    evaluations: Sequence[EvaluationCard] = ()
    training_log: Sequence[Mapping[str, Any]] = ()
    best_step: int | None = None
    training_seconds: float | None = None
    widget: Sequence[tuple[str, Sequence[str]]] = ()
    model_id: str = "path/to/this/folder"
    model_name: str | None = None
    language: Sequence[str] = ()
    license: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)

    def to_markdown(self) -> str:
        """The whole README.md."""
        sections = [
            self._front_matter(),
            self._title(),
            self._model_details(),
            self._usage(),
            self._evaluation(),
            _EMPTY_RISKS,
            self._training_details(),
            _RESOURCES,
            self._citation(),
            _EMPTY_END,
        ]
        # A lone surrogate has no UTF-8; nothing else in any text needs changing here.
        return _utf8("\n\n".join(section for section in sections if section) + "\n")

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes ``README.md`` into the folder, whole or not at all."""
        with atomic_path(Path(folder) / CARD_FILE) as file:
            file.write_bytes(self.to_markdown().encode())

    # ---- the sections, top to bottom --------------------------------------------------------------

    def _front_matter(self) -> str:
        size = sum(dataset.size for dataset in self.train_datasets)
        content: dict[str, Any] = {
            "language": list(self.language),
            "license": self.license,
            "tags": [
                *("sentence-transformers", "sentence-similarity", "feature-extraction", "dense", "minilm"),
                "generated_from_trainer",
                *([f"dataset_size:{size}"] if size else []),
                f"loss:{self.loss}",
            ],
            "base_model": self.base_model,
            "widget": [{"source_sentence": source, "sentences": list(others)} for source, others in self.widget],
            "pipeline_tag": "sentence-similarity",
            "library_name": "sentence-transformers",
            "metrics": list(dict.fromkeys(name for e in self.evaluations for name in e.short_metrics())),
            "model-index": self._model_index(),
        }
        kept = {key: value for key, value in content.items() if value}
        return f"---\n{_yaml(kept)}\n---"

    def _model_index(self) -> list[dict[str, Any]]:
        """The evaluations in the hub's form (hub-docs, modelcard.md)."""
        results = [
            {
                "task": {"type": e.heading.lower().replace(" ", "-"), "name": e.heading},
                "dataset": {"name": e.name or "Unknown", "type": e.name or "unknown"},
                "metrics": [
                    {"type": name, "value": value, "name": name.replace("_", " ").title()}
                    for name, value in e.short_metrics().items()
                ],
            }
            for e in self.evaluations
        ]
        return [{"name": self._name(), "results": results}] if results else []

    def _name(self) -> str:
        if self.model_name:
            return _line(self.model_name)
        return f"SentenceTransformer based on {_line(self.base_model)}" if self.base_model else "SentenceTransformer"

    def _title(self) -> str:
        origin = f"finetuned from {_hub_link(self.base_model)}" if self.base_model else "trained"
        names = [_code(dataset.name) for dataset in self.train_datasets if dataset.name]
        data = f" on the {_join(names)} dataset{'s' if len(names) > 1 else ''}" if names else ""
        return (
            f"# {_cell(self._name())}\n\n"
            f"This is a [sentence-transformers](https://www.SBERT.net) model {origin}{data} with minilm. It maps "
            f"sentences & paragraphs to a {self.dimension}-dimensional dense vector space and can be used for semantic "
            "textual similarity, semantic search, paraphrase mining, text classification, clustering, and more."
        )

    def _model_details(self) -> str:
        revision = f" <!-- at revision {_comment(self.base_model_revision)} -->" if self.base_model_revision else ""
        base = f"- **Base model:** {_hub_link(self.base_model)}{revision}" if self.base_model else None
        names = [_code(dataset.name) for dataset in self.train_datasets if dataset.name]
        lines = [
            "- **Model Type:** Sentence Transformer",
            base or "<!-- - **Base model:** Unknown -->",
            f"- **Maximum Sequence Length:** {self.max_seq_length} tokens",
            f"- **Output Dimensionality:** {self.dimension} dimensions",
            f"- **Similarity Function:** {SIMILARITY_NAMES.get(self.similarity_fn_name, self.similarity_fn_name)}",
            f"- **Number of Parameters:** {self.parameters:,}",
            f"- **Training Dataset{'s' if len(names) > 1 else ''}:** {_join(names)}"
            if names
            else "<!-- - **Training Dataset:** Unknown -->",
            f"- **Language:** {_escape(', '.join(self.language))}"
            if self.language
            else "<!-- - **Language:** Unknown -->",
            f"- **License:** {_escape(self.license)}" if self.license else "<!-- - **License:** Unknown -->",
        ]
        return (
            "## Model Details\n\n### Model Description\n"
            + "\n".join(lines)
            + "\n\n### Model Sources\n\n"
            + "- **Documentation:** [Sentence Transformers Documentation](https://sbert.net)\n"
            + "- **Repository:** [Sentence Transformers on GitHub](https://github.com/huggingface/sentence-transformers)\n"
            + "- **Hugging Face:** [Sentence Transformers on Hugging Face]"
            + "(https://huggingface.co/models?library=sentence-transformers)\n\n"
            + f"### Full Model Architecture\n\n```\n{self.architecture}\n```"
        )

    def _usage(self) -> str:
        texts = "".join(f"    {_python(text)},\n" for text in self.usage.texts)
        with torch._tensor_str.printoptions(precision=4, sci_mode=False):
            matrix = "\n".join(f"# {line}" for line in str(torch.tensor(self.usage.similarities)).splitlines())

        def example(library: str, load: str) -> str:
            return (
                f"```python\nfrom {library} import {load.split('.')[0]}\n\n"
                f"model = {load}({_python(self.model_id)})\n"
                f"sentences = [\n{texts}]\n"
                f"embeddings = model.encode(sentences)\nprint(embeddings.shape)\n"
                f"# ({len(self.usage.texts)}, {self.dimension})\n\n"
                "# Get the similarity scores for the embeddings\n"
                f"similarities = model.similarity(embeddings, embeddings)\nprint(similarities)\n{matrix}\n```"
            )

        return (
            "## Usage\n\n### Direct Usage (minilm)\n\n"
            + example("minilm", "SentenceEncoder.from_pretrained")
            + "\n\n### Direct Usage (Sentence Transformers)\n\n```bash\npip install -U sentence-transformers\n```\n\n"
            + example("sentence_transformers", "SentenceTransformer")
            + "\n\n"
            + _EMPTY_USAGE
        )

    def _evaluation(self) -> str:
        if not self.evaluations:
            return ""
        parts = ["## Evaluation\n\n### Metrics"]
        for e in self.evaluations:
            rows = [
                [f"**{_cell(name)}**", f"**{value:.4f}**"] if e.is_primary(name) else [_cell(name), f"{value:.4f}"]
                for name, value in e.short_metrics().items()
            ]
            name = f"* Dataset: {_code(e.name)}\n" if e.name else ""
            link = (
                "https://sbert.net/docs/package_reference/sentence_transformer/evaluation.html"
                f"#sentence_transformers.sentence_transformer.evaluation.{e.evaluator}"
            )
            parts.append(
                f"#### {_escape(e.heading)}\n\n{name}* Evaluated with [<code>{_escape(e.evaluator)}</code>]({link})"
                f"{_parameters(e.config) if e.config else ''}\n\n{_table(['Metric', 'Value'], rows)}"
            )
        return "\n\n".join(parts)

    def _training_details(self) -> str:
        parts = ["## Training Details"]
        for kind, datasets in (("Training", self.train_datasets), ("Evaluation", self.eval_datasets)):
            if datasets:
                parts.append(f"### {kind} Dataset{'s' if len(datasets) > 1 else ''}")
                parts += [self._dataset(dataset, kind.lower()) for dataset in datasets]
        if self.hyperparameters:
            changed = {k: v for k, v in self.hyperparameters.items() if k not in self.defaults or self.defaults[k] != v}
            parts.append("### Training Hyperparameters")
            if changed:
                parts.append(f"#### Non-Default Hyperparameters\n\n{_settings(changed)}")
            parts.append(
                "#### All Hyperparameters\n<details><summary>Click to expand</summary>\n\n"
                f"{_settings(self.hyperparameters)}\n\n</details>"
            )
        if self.training_log:
            parts.append(f"### Training Logs\n{self._log()}")
        if self.training_seconds is not None:
            parts.append(f"### Training Time\n- **Training**: {_duration(self.training_seconds)}")
        versions = self.versions or framework_versions()
        parts.append("### Framework Versions\n" + "\n".join(f"- {name}: {v}" for name, v in versions.items()))
        return "\n\n".join(parts)

    def _dataset(self, dataset: DatasetCard, kind: str) -> str:
        columns = list(dataset.statistics)
        described = [
            f"<ul><li>min: {s.min} tokens</li><li>mean: {round(s.mean, 2)} tokens</li><li>max: {s.max} tokens</li></ul>"
            for s in dataset.statistics.values()
        ]
        statistics = _table(["", *map(_cell, columns)], [["type", *["string"] * len(columns)], ["details", *described]])
        lines = [
            f"#### {_cell(dataset.name or '') or 'Unnamed Dataset'}\n",
            f"* Size: {dataset.size:,} {kind} samples",
            f"* Columns: {_join([_code(column) for column in columns])}",
            f"* Approximate statistics based on the first {min(dataset.size, STATISTICS_ROWS)} samples:",
            _indented(statistics),
        ]
        if dataset.samples:
            rows = [[_code(_shortened(text)) for text in row] for row in dataset.samples]
            lines += ["* Samples:", _indented(_table(list(map(_cell, columns)), rows))]
        link = "https://sbert.net/docs/package_reference/sentence_transformer/losses.html#" + self.loss.lower()
        lines.append(f"* Loss: [<code>{_escape(self.loss)}</code>]({link}){_parameters(self.loss_config)}")
        return "\n".join(lines)

    def _log(self) -> str:
        titles = {"epoch": "Epoch", "step": "Step", "loss": "Training Loss"}
        keys = list(titles) + [
            key
            for key in dict.fromkeys(key for row in self.training_log for key in row)
            if key not in (*titles, "grad_norm", "learning_rate") and not key.endswith(("runtime", "per_second"))
        ]
        measured = [i for i, row in enumerate(self.training_log) if any(key in row for key in keys[3:])]
        every = max(1, -(-len(self.training_log) // LOG_ROWS))
        shown = sorted({*measured, *range(0, len(self.training_log), every), len(self.training_log) - 1})
        rows = []
        for row in (self.training_log[i] for i in shown):
            cells = [_number(row.get(key)) for key in keys]
            rows.append([f"**{cell}**" for cell in cells] if row.get("step") == self.best_step else cells)
        table = _table([titles.get(key, _cell(key)) for key in keys], rows)
        if self.best_step is not None:
            table += "\n\n* The bold row denotes the saved checkpoint."
        if len(shown) < len(self.training_log):
            table += f"\n\n* Every {every}th row of training_log.jsonl, which has them all."
        return f"<details><summary>Click to expand</summary>\n\n{table}\n\n</details>" if len(rows) > 20 else table

    def _citation(self) -> str:
        used = ["Sentence Transformers", *([self.loss] if self.loss in CITATIONS else [])]
        if self.loss.startswith("Cached"):
            used.append(self.loss.removeprefix("Cached"))
        cited = [f"#### {name}\n```bibtex\n{CITATIONS[name]}\n```" for name in used if name in CITATIONS]
        return "\n\n".join(["## Citation\n\n### BibTeX", *cited])


def describe_run(
    model: SentenceEncoder,
    train_datasets: Mapping[str | None, Mapping[str, Sequence[str]]],
    *,
    eval_datasets: Mapping[str | None, Mapping[str, Sequence[str]]] | None = None,
    card_samples: bool = True,
    seed: int = 42,
    **fields: Any,
) -> ModelCard:
    """The card of a run whose model and data are at hand; measures what has to be measured.

    Draws from no global generator. The model is left in evaluation mode.

    Args:
        model: as trained.
        train_datasets: data set name → column name → texts.
        card_samples: False keeps every text of the data out of the card: samples, widget, example.
        seed: of the choice of widget examples.
        fields: the other fields of :class:`ModelCard`.
    """
    widget = widget_examples(list(train_datasets.values()), seed) if card_samples else []
    texts = [widget[-1][0], *widget[-1][1]][:3] if widget else list(STOCK_TEXTS)
    return ModelCard(
        dimension=model.get_embedding_dimension(),
        max_seq_length=model.max_seq_length,
        similarity_fn_name=model.similarity_fn_name,
        architecture=architecture(model),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        usage=Usage.measure(model, texts),
        train_datasets=[DatasetCard.measure(n, c, model, card_samples) for n, c in train_datasets.items()],
        eval_datasets=[DatasetCard.measure(n, c, model, card_samples) for n, c in (eval_datasets or {}).items()],
        widget=widget,
        **fields,
    )


def widget_examples(
    datasets: Sequence[Mapping[str, Sequence[str]]], seed: int = 42, count: int = WIDGETS
) -> list[tuple[str, list[str]]]:
    """Short rows of the data, each anchor beside its own positive and two of other rows.

    As in the reference: of up to 1,000 rows drawn at random the shortest ones, without empty texts.
    """
    draw = random.Random(seed)
    candidates: list[tuple[str, str]] = []
    for columns in datasets:
        anchors, positives = list(columns.values())[:2]
        rows = range(len(anchors))
        for i in draw.sample(rows, min(len(rows), 1_000)):
            if anchors[i].strip() and positives[i].strip():
                candidates.append((anchors[i], positives[i]))
    candidates = sorted(dict.fromkeys(candidates), key=lambda pair: len(pair[0]) + len(pair[1]))
    examples = []
    for anchor, positive in candidates[:count]:
        others = list(dict.fromkeys(p for a, p in candidates if a != anchor and p != positive))
        sentences = [positive, *draw.sample(others[: 10 * count], min(2, len(others), 10 * count))]
        examples.append((anchor, sentences))
    return examples


def architecture(model: SentenceEncoder) -> str:
    """The pipeline as sentence-transformers prints it."""
    flags = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")
    pooling: dict[str, Any] = {"word_embedding_dimension": model.encoder.config.hidden_size}
    used = {"mean": "mean_tokens", "cls": "cls_token"}[model.pooling.mode]
    pooling |= {f"pooling_mode_{flag}": flag == used for flag in flags} | {"include_prompt": True}
    transformer = {"max_seq_length": model.max_seq_length, "do_lower_case": False, "architecture": "BertModel"}
    modules = [
        f"Transformer({transformer})",
        f"Pooling({pooling})",
        *("Normalize()" if p is None else f"Dropout({{'dropout': {p}}})" for p in list_after_pooling(model.normalize)),
    ]
    return "\n".join(["SentenceTransformer(", *(f"  ({i}): {module}" for i, module in enumerate(modules)), ")"])


def framework_versions() -> dict[str, str]:
    """The versions of Python and of the packages that decide a run's numbers."""
    import numpy
    import safetensors
    import tokenizers

    import minilm

    return {
        "Python": platform.python_version(),
        "minilm": minilm.__version__,
        "PyTorch": str(torch.__version__),
        "Tokenizers": str(tokenizers.__version__),
        "Safetensors": str(safetensors.__version__),
        "NumPy": str(numpy.__version__),
    }


# ---- texts made safe ------------------------------------------------------------------------------

# What Markdown (with GitHub's tables and mathematics) would read inside a line, beyond HTML's own.
_MARKDOWN = {ord(character): f"&#{ord(character)};" for character in "|`*_[]\\~$"}


def _utf8(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def _yaml(value: Any, indent: str = "") -> str:
    """YAML in block style. Texts that are not plain words stand in double quotes on one line, with
    escapes for all that cannot be printed: PyYAML's own output does not survive U+0085."""
    if isinstance(value, Mapping):
        items = [(f"{key}:", item) for key, item in value.items()]
    elif isinstance(value, (list, tuple)):
        items = [("-", item) for item in value]
    elif isinstance(value, str):
        return value if re.fullmatch(_YAML_WORD, value) else _yaml_quoted(value)
    else:
        return json.dumps(value)
    lines = []
    for head, item in items:
        if head == "-":
            lines.append(f"{indent}- {_yaml(item, indent + '  ').lstrip()}")
        elif isinstance(item, (Mapping, list, tuple)):
            inner = indent + ("  " if isinstance(item, Mapping) else "")
            lines.append(f"{indent}{head}\n{_yaml(item, inner)}")
        else:
            lines.append(f"{indent}{head} {_yaml(item)}")
    return "\n".join(lines)


# A word that no YAML parser takes for a number, a truth value ("no" is Norwegian), a date or syntax.
_YAML_WORD = r"(?!(?i:y|n|yes|no|on|off|true|false|null)$)[A-Za-z](?:[\w@./+-]|:(?=\w))*"


def _yaml_quoted(text: str) -> str:
    quoted = json.dumps(_utf8(text), ensure_ascii=False)
    return "".join(c if c.isprintable() else f"\\U{ord(c):08X}" for c in quoted)


def _line(text: str) -> str:
    """The text on one line, without control characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _escape(text: str | None) -> str:
    return html.escape(_line(text or ""), quote=False).translate(_MARKDOWN)


def _cell(text: str) -> str:
    """A name in a table or a heading: identifiers stay as they are written."""
    plain = re.fullmatch(r"\w[\w.@/ -]*", text) and not re.search(r"\b_|_\b", text)  # _x_ would be emphasis
    return text if plain else _escape(text)


def _code(text: str | None) -> str:
    """A text in a table cell, line breaks kept."""
    lines = (text or "").splitlines() or [""]
    escaped = ("".join(c if c.isprintable() else " " for c in line) for line in lines)
    return "<code>" + "<br>".join(html.escape(line, quote=False).translate(_MARKDOWN) for line in escaped) + "</code>"


def _comment(text: str) -> str:
    return re.sub(r"[^\w.+]", "", text)


def _shortened(text: str) -> str:
    return text if len(text) <= SAMPLE_CHARACTERS else text[:SAMPLE_CHARACTERS] + "..."


def _python(text: str) -> str:
    """A Python literal; what cannot be printed is escaped."""
    return repr(_utf8(text))


def _hub_link(model_id: str | None) -> str:
    name = _line(model_id or "")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        return _escape(name)
    return f"[{name}](https://huggingface.co/{name})"


def _join(items: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(items[:-1]), *items[-1:]]))


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, [":---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _indented(text: str) -> str:
    return "\n".join("  " + line for line in text.splitlines())


def _parameters(config: Mapping[str, Any]) -> str:
    block = json.dumps(dict(config), indent=4, default=str)
    return " with these parameters:\n" + _indented(f"```json\n{block}\n```")


def _settings(settings: Mapping[str, Any]) -> str:
    return "\n".join(f"- `{name}`: {_cell(str(value))}" for name, value in settings.items())


def _number(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else _cell(str(value))


def _duration(seconds: float) -> str:
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} seconds"


# Sections for the author to fill, hidden until then, where the reference's cards have them.
_EMPTY_USAGE = """\
<!--
### Direct Usage (Transformers)

*How to use the model without either library.*
-->

<!--
### Downstream Usage (Sentence Transformers)

*How to train the model further on one's own data.*
-->

<!--
### Out-of-Scope Use

*What the model should not be used for, and how it could be misused.*
-->"""

_EMPTY_RISKS = """\
<!--
## Bias, Risks and Limitations

*Known failures and weaknesses.*
-->

<!--
### Recommendations

*What to do about them, for instance filtering of texts.*
-->"""

_RESOURCES = """\
## Additional Resources

- [Training Overview](https://sbert.net/docs/sentence_transformer/training_overview.html): \
losses, data and evaluators of sentence-transformers, under the names used here.
- [Semantic Search](https://sbert.net/examples/sentence_transformer/applications/semantic-search/README.html): \
what to do with such a model."""

_EMPTY_END = """\
<!--
## Glossary

*Terms that readers may not know.*
-->

<!--
## Model Card Authors

*Who wrote this card.*
-->

<!--
## Model Card Contact

*Whom to ask.*
-->"""
