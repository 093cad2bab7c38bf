"""The model card: the reference's sections, true figures, and no text that breaks it."""

import contextlib
import io
import json
import os
import re

import pytest
import torch
import yaml
from huggingface_hub import ModelCard as HubCard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_models import PAIRS, tiny_model

from minilm.training.model_card import (
    STOCK_TEXTS,
    ColumnStatistics,
    DatasetCard,
    EvaluationCard,
    ModelCard,
    Usage,
    describe_run,
    widget_examples,
)


@pytest.fixture(scope="module")
def tiny():
    return tiny_model(num_hidden_layers=1)


LOG = [{"step": i, "epoch": i / 4, "loss": 1 / i, "grad_norm": 1.0, "learning_rate": 1e-5} for i in range(1, 5)]


def a_card(model, **fields):
    options = {
        "train_datasets": {"weather": PAIRS},
        "base_model": "sentence-transformers/all-MiniLM-L6-v2",
        "base_model_revision": "c9745ed1d9f207416be6d2e6f8de32d1f16199bf",
        "loss_config": {"scale": 20.0, "similarity_fct": "cos_sim"},
        "hyperparameters": {"per_device_train_batch_size": 16, "learning_rate": 5e-05},
        "defaults": {"per_device_train_batch_size": 8, "learning_rate": 5e-05},
        "training_log": LOG,
        "training_seconds": 90.0,
    }
    return describe_run(model, **(options | fields))


def by_hand(text, **fields):
    return ModelCard(
        dimension=8,
        max_seq_length=16,
        similarity_fn_name="cosine",
        architecture="SentenceTransformer()",
        parameters=1,
        usage=Usage([text, text], [[1.0, 1.0], [1.0, 1.0]]),
        widget=[(text, [text, text])],
        train_datasets=[DatasetCard(text, 1, {text: ColumnStatistics(3, 3.0, 3)}, [[text]])],
        **fields,
    )


def headings(markdown):
    markdown = re.sub(r"^```.*?^```$", "", markdown, flags=re.DOTALL | re.MULTILINE)
    return [re.sub(r"\s+", " ", h) for h in re.findall(r"^#{1,6} .*$", markdown, flags=re.MULTILINE)]


def front_matter(markdown):
    return yaml.safe_load(markdown.split("\n---\n", 1)[0].removeprefix("---\n"))


# ---- against the reference ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reference_card(tiny, tmp_path_factory):
    """The card that sentence-transformers writes after a run on the same pairs."""
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
    from sentence_transformers.sentence_transformer.training_args import SentenceTransformerTrainingArguments

    folder = tmp_path_factory.mktemp("reference")
    tiny.save_pretrained(folder / "base")
    model = SentenceTransformer(str(folder / "base"), device="cpu", local_files_only=True)
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(folder / "run"), max_steps=2, logging_steps=1, report_to="none", save_strategy="no", use_cpu=True
    )
    model.model_card_data.local_files_only = True
    loss = MultipleNegativesRankingLoss(model)
    SentenceTransformerTrainer(model, arguments, Dataset.from_dict(PAIRS), loss=loss).train()
    model.save_pretrained(str(folder / "out"))
    return (folder / "out" / "README.md").read_text(encoding="utf-8"), loss


def test_every_heading_of_the_references_card_is_in_ours_in_that_order(tiny, reference_card):
    theirs = headings(reference_card[0])
    ours = headings(a_card(tiny, base_model=None, train_datasets={None: PAIRS}).to_markdown())
    theirs[0] = ours[0]  # the title names the base model only where the hub confirms it
    assert "### Training Logs" in theirs and "#### Unnamed Dataset" in theirs
    assert [h for h in ours if h in theirs] == theirs
    assert set(ours) - set(theirs) == {"### Direct Usage (minilm)"}


def test_front_matter_has_the_references_keys_and_tags(tiny, reference_card):
    theirs, ours = front_matter(reference_card[0]), front_matter(a_card(tiny).to_markdown())
    assert set(theirs) <= set(ours)
    assert set(theirs["tags"]) <= set(ours["tags"])
    for key in ("pipeline_tag", "library_name"):
        assert ours[key] == theirs[key]
    assert all(set(example) == {"source_sentence", "sentences"} for example in ours["widget"])


def test_dataset_section_says_what_the_references_says(tiny, reference_card):
    def facts(card):
        details = re.search(r"\| details +\|(.*)\|", card).group(1)
        return {
            "size": re.search(r"\* Size: .*", card).group(),
            "columns": re.search(r"\* Columns: .*", card).group(),
            "statistics": [cell.strip() for cell in details.split("|")],
            "samples": re.findall(r"<code>((?:cat|dog|bird) .*?)</code>", card),
            "title": re.search(r"based on the first \d+ samples", card).group(),
        }

    card, loss = reference_card
    ours = a_card(tiny, loss_config=loss.get_config_dict()).to_markdown()
    assert facts(ours) == facts(card)
    block = r"with these parameters:\n  ```json\n(.*?)```"
    found = [json.loads(re.search(block, text, re.DOTALL).group(1)) for text in (ours, card)]
    assert found[0] == found[1]


# ---- what it says is true -------------------------------------------------------------------------


@pytest.mark.parametrize("library", ["minilm", "Sentence Transformers"])
def test_the_usage_example_prints_what_it_says(tiny, tmp_path, library):
    tiny.save_pretrained(tmp_path / "model")
    markdown = a_card(tiny, model_id=str(tmp_path / "model")).to_markdown()
    section = markdown.split(f"### Direct Usage ({library})")[1]
    code = re.search(r"```python\n(.*?)\n```", section, re.DOTALL).group(1)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code, {})
    said = [
        line.removeprefix("# ") for line in code.splitlines() if line.startswith(("# (", "# tensor", "#         ["))
    ]
    assert printed.getvalue().splitlines() == said
    assert markdown.index("### Direct Usage (minilm)") < markdown.index("### Direct Usage (Sentence Transformers)")


def test_loads_with_the_hubs_own_parser(tiny, tmp_path):
    evaluation = EvaluationCard(
        "InformationRetrievalEvaluator",
        "held-out",
        {"held-out_cosine_mrr@10": 0.51234, "held-out_cosine_accuracy@1": 0.4},
        "held-out_cosine_mrr@10",
        config={"truncate_dim": 64},
    )
    card = a_card(tiny, evaluations=[evaluation], model_name="docs", license="apache-2.0", language=["en"])
    card.save(tmp_path)
    data = HubCard.load(tmp_path / "README.md").data
    assert data.base_model == "sentence-transformers/all-MiniLM-L6-v2"
    assert {"dataset_size:14", "loss:MultipleNegativesRankingLoss"} <= set(data.tags)
    assert data.license == "apache-2.0" and data.language == ["en"]
    assert [(r.metric_type, r.metric_value) for r in data.eval_results] == [
        ("cosine_mrr@10", 0.51234),
        ("cosine_accuracy@1", 0.4),
    ]
    markdown = card.to_markdown()
    assert '  {\n      "truncate_dim": 64\n  }' in markdown.split("## Evaluation")[1].split("| Metric")[0]
    assert "#### Information Retrieval" in markdown and "| **cosine_mrr@10** | **0.5123** |" in markdown
    assert headings(markdown).index("## Evaluation") < headings(markdown).index("## Training Details")
    assert [p.name for p in tmp_path.iterdir()] == ["README.md"]


def test_hyperparameters_log_and_time(tiny):
    log = [*LOG[:2], {"step": 2, "epoch": 0.5, "held-out_mrr@10": 0.25}, *LOG[2:]]
    markdown = a_card(tiny, training_log=log, best_step=3).to_markdown()
    non_default = markdown.split("#### Non-Default Hyperparameters")[1].split("####")[0]
    assert non_default.strip() == "- `per_device_train_batch_size`: 16"
    assert "- `learning_rate`: 5e-05" in markdown
    assert "| Epoch | Step | Training Loss | held-out_mrr@10 |" in markdown
    assert "| 0.5000 | 2 | - | 0.2500 |" in markdown
    assert "| **0.7500** | **3** | **0.3333** | **-** |" in markdown
    assert "- **Training**: 1.5 minutes" in markdown
    assert re.search(r"- PyTorch: \d", markdown)


def test_a_long_log_is_thinned_but_keeps_evaluations_and_the_end(tiny):
    log = [{"step": i, "epoch": i / 1000, "loss": 1.0} for i in range(1, 1001)]
    log[332]["mrr"] = 0.5
    table = a_card(tiny, training_log=log).to_markdown().split("### Training Logs")[1].split("</details>")[0]
    steps = re.findall(r"^\| [\d.]+ \| (\d+) \|", table, re.MULTILINE)
    assert len(steps) < 120 and {"1", "333", "1000"} <= set(steps)


def test_several_data_sets_and_the_cached_loss(tiny):
    card = a_card(
        tiny,
        train_datasets={"one": PAIRS, "two": PAIRS},
        eval_datasets={"dev": PAIRS},
        loss="CachedMultipleNegativesRankingLoss",
    )
    found = headings(card.to_markdown())
    assert [h for h in found if h in ("### Training Datasets", "#### one", "#### two", "### Evaluation Dataset")] == [
        "### Training Datasets",
        "#### one",
        "#### two",
        "### Evaluation Dataset",
    ]
    assert {"#### CachedMultipleNegativesRankingLoss", "#### MultipleNegativesRankingLoss"} <= set(found)
    assert "dataset_size:28" in front_matter(card.to_markdown())["tags"]


# ---- the user's texts -----------------------------------------------------------------------------


def test_no_text_of_the_data_without_card_samples(tiny):
    secret = {"a": [f"cat secret{i} moon" for i in range(9)], "b": [f"dog hidden{i} sun" for i in range(9)]}
    shown = a_card(tiny, train_datasets={"x": secret}, eval_datasets={"y": secret}).to_markdown()
    kept = a_card(tiny, train_datasets={"x": secret}, eval_datasets={"y": secret}, card_samples=False).to_markdown()
    assert "secret" in shown and "hidden" in shown
    assert "secret" not in kept and "hidden" not in kept
    assert "widget" not in front_matter(kept) and repr(STOCK_TEXTS[0]) in kept
    assert "* Samples:" not in kept and "max: 5 tokens" in kept


def test_samples_are_cut_and_the_first_three(tiny):
    long = {"a": ["cat " * 400] + ["sun"] * 5, "b": ["dog"] * 6}
    card = DatasetCard.measure("x", long, tiny)
    assert len(card.samples) == 3
    markdown = by_hand("x", eval_datasets=[card]).to_markdown()
    assert "<code>" + ("cat " * 400)[:1000] + "...</code>" in markdown
    assert card.statistics["a"] == ColumnStatistics(3, (16 + 5 * 3) / 6, 16)


def test_widget_examples_are_a_function_of_data_and_seed():
    assert widget_examples([PAIRS], seed=1) == widget_examples([PAIRS], seed=1)
    examples = widget_examples([PAIRS])
    assert len(examples) == 5
    for source, sentences in examples:
        own = PAIRS["answer"][PAIRS["question"].index(source)]
        assert sentences[0] == own and len(set(sentences)) == 3
    assert widget_examples([{"a": ["q"], "b": ["p"]}]) == [("q", ["p"])]
    assert widget_examples([{"a": ["", " "], "b": ["p", "p"]}]) == []


def test_describing_a_run_leaves_the_global_generators_alone(tiny):
    import random

    before = torch.get_rng_state(), random.getstate()
    a_card(tiny).to_markdown()
    assert torch.equal(before[0], torch.get_rng_state()) and before[1] == random.getstate()


TRICKY = [
    "---",
    "\n---\n# not a heading",
    "a | b",
    "```\n# x",
    "<script>alert(1)</script>",
    "</code>",
    "'\"",
    "- x: {y}",
    "!!python/object",
    "\x00\x07\x1b[31m",
    "\u2028\u0085\ufeff",
    "🤗 né 中文",
    "*b* _i_ [l](u) $x$ ~~s~~ \\",
    " lead and trail ",
    "\t",
    "null",
    "0x1F",
    "\ud800",
    "# h",
    "<!-- c -->",
    "{% raw %}",
    "a: b #c",
    "x\r\ny",
]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.one_of(
        st.sampled_from(TRICKY), st.text(), st.text(alphabet="-|`'\"\\\n\r\t #:<>[]{}*_\x85\u2028 é🤗", max_size=200)
    )
)
def test_any_text_gives_valid_yaml_and_whole_tables(text):
    card = by_hand(text)
    markdown = card.to_markdown()
    clean = text.encode("utf-8", "replace").decode()
    assert front_matter(markdown)["widget"] == [{"source_sentence": clean, "sentences": [clean, clean]}]
    plain = headings(by_hand("x").to_markdown())
    found = headings(markdown)
    assert len(found) == len(plain)
    assert [h for h in found if not h.startswith("#### ")] == [h for h in plain if not h.startswith("#### ")]
    tables = [line for line in markdown.split("## Training Details")[1].splitlines() if line.startswith("  |")]
    assert len(tables) == 7 and {line.count("|") for line in tables} == {3, 2}
    assert "<script" not in "".join(tables)
    codes = re.findall(r"```python\n(.*?)\n```", markdown, re.DOTALL)
    assert len(codes) == 2
    for code in codes:
        sentences = re.search(r"sentences = \[.*?^\]$", code, re.DOTALL | re.MULTILINE).group()
        namespace = {}
        exec(sentences, namespace)
        assert namespace["sentences"] == [clean, clean]


def test_the_hubs_parser_reads_tricky_texts():
    for text in TRICKY:
        clean = text.encode("utf-8", "replace").decode()
        assert HubCard(by_hand(text).to_markdown()).data.to_dict()["widget"][0]["source_sentence"] == clean


def test_a_folder_that_cannot_be_written_is_said(tiny, tmp_path):
    with pytest.raises(OSError, match=re.escape(os.fspath(tmp_path / "none" / "README.md"))):
        a_card(tiny).save(tmp_path / "none")
