"""Recipes, data and the command: what is accepted, what is refused, and in which words."""

import argparse
import dataclasses
import itertools
import json
import math
import os
import sys
import warnings

os.environ["HF_HUB_OFFLINE"] = "1"

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sentence_transformers import SentenceTransformerTrainingArguments
from torch import nn
from training_runs import docstring_pairs, write_tiny_model

from minilm import SentenceEncoder
from minilm.errors import ColumnWarning, InputError, MinilmError, TextTypeError
from minilm.tolerances import TRAINING_REORDERED
from minilm.training import (
    CachedMultipleNegativesRankingLoss,
    MultipleNegativesRankingLoss,
    PairDataset,
    TrainingRecipe,
    train,
)
from minilm.training.batches import batches_per_epoch, epoch_batches
from minilm.training.command import add_arguments, retrieval_evaluator, run
from minilm.training.dropout import with_quick_dropout
from minilm.training.log import draw_log, read_log
from minilm.training.recipe import REFUSED

pytestmark = pytest.mark.usefixtures("one_thread")

PAIRS = docstring_pairs(20)


# ---- recipe -------------------------------------------------------------------------------------


def test_every_training_argument_is_a_setting_or_refused_with_a_reason() -> None:
    theirs = {field.name for field in dataclasses.fields(SentenceTransformerTrainingArguments)}
    ours = {field.name for field in dataclasses.fields(TrainingRecipe)}
    assert not theirs - ours - set(REFUSED)
    assert not ours & set(REFUSED)
    assert ours - theirs == {"name", "layout", "mask_duplicates"}


def test_older_fields_are_refused_by_name_too() -> None:
    """Model cards of transformers 4 list fields that transformers 5 has no more."""
    theirs = {field.name for field in dataclasses.fields(SentenceTransformerTrainingArguments)}
    older = set(REFUSED) - theirs
    assert {"overwrite_output_dir", "group_by_length", "fp16_backend", "no_cuda", "ray_scope", "past_index"} <= older
    with pytest.raises(InputError, match="group_by_length is one of TrainingArguments' fields, but not supported: "):
        TrainingRecipe.trainer(group_by_length=True)


def test_defaults_are_the_trainers_but_for_the_log(tmp_path: Path) -> None:
    theirs = SentenceTransformerTrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    differing = {}
    for name, value in TrainingRecipe.trainer().to_dict().items():
        other = getattr(theirs, name, value)
        if value != getattr(other, "value", other):
            differing[name] = (value, other)
    assert differing == {"logging_steps": (1, 500), "warmup_ratio": (0.0, None)}


@pytest.mark.parametrize("name", ["deepspeed", "per_device_eval_batch_size", "push_to_hub", "prompts"])
def test_a_training_argument_without_meaning_is_refused_by_name(name: str) -> None:
    with pytest.raises(InputError, match=f"{name} is one of TrainingArguments' fields, but not supported: "):
        TrainingRecipe.trainer(**{name: None})


def test_an_unknown_setting_is_refused_with_those_near_it() -> None:
    with pytest.raises(InputError, match="no setting learning_rat; did you mean learning_rate"):
        TrainingRecipe.fit(learning_rat=1)
    with pytest.raises(InputError, match="no setting xyz; the settings are name, layout"):
        TrainingRecipe.trainer(xyz=1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"per_device_train_batch_size": 0}, "per_device_train_batch_size is 0, expected at least 1"),
        ({"per_device_train_batch_size": 8.0}, "expected a whole number"),
        ({"per_device_train_batch_size": True}, "expected a whole number"),
        ({"learning_rate": -1.0}, "at least 0"),
        ({"learning_rate": math.nan}, "at least 0"),
        ({"learning_rate": "5e-5"}, "expected a number"),
        ({"num_train_epochs": 0}, "above 0"),
        ({"num_train_epochs": 1e308}, "below 2⁶³"),
        ({"adam_beta1": 1.0}, r"in \[0, 1\)"),
        ({"lr_scheduler_type": "polynomial"}, "expected one of 'linear', 'cosine'"),
        ({"save_steps": 2.5}, "a whole number, or in"),
        ({"warmup_ratio": 1.5}, "at most 1"),
        ({"bf16": True, "fp16": True}, "choose one"),
        ({"bf16": "yes"}, "True or False"),
        ({"seed": -1}, "in "),
        ({"load_best_model_at_end": True}, "needs evaluations"),
        ({"load_best_model_at_end": True, "eval_strategy": "epoch"}, "save_strategy 'steps'; make them equal"),
        (
            {"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 3, "save_steps": 4},
            "multiple of eval_steps",
        ),
    ],
)
def test_a_setting_that_cannot_be_used(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TrainingRecipe.trainer(**settings)


@pytest.mark.parametrize("recipe", [TrainingRecipe.trainer(seed=3), TrainingRecipe.fit(warmup_ratio=0.5)])
def test_a_recipe_survives_json(recipe: TrainingRecipe) -> None:
    assert TrainingRecipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


def test_learning_rate_by_hand() -> None:
    recipe = TrainingRecipe.trainer(learning_rate=8.0, warmup_steps=2)
    assert [recipe.learning_rate_at(step, 6) for step in range(7)] == [0.0, 4.0, 8.0, 6.0, 4.0, 2.0, 0.0]
    cosine = recipe.replace(lr_scheduler_type="cosine", warmup_steps=0)
    assert [round(cosine.learning_rate_at(step, 4), 3) for step in range(5)] == [8.0, 6.828, 4.0, 1.172, 0.0]


# ---- data ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", "", "is empty"),
        ("a.csv", "anchor,positive\n", "no rows"),
        ("a.jsonl", '{"anchor": "a"}\n', "1 column.* expected at least two"),
        ("a.jsonl", '{"anchor": "a", "positive": "b"}\n{"anchor": "a"}\n', "line 2: there is no 'positive'"),
        ("a.jsonl", '{"anchor": "a", "positive": "b"}\n\n{"anchor": \n', "line 3: this is not JSON"),
        ("a.jsonl", '{"anchor": "a", "positive": null}\n', "line 1: positive is null, expected a text"),
        ("a.jsonl", '{"anchor": "a", "positive": 5}\n', "line 1: positive is 5, expected a text"),
        ("a.jsonl", '{"anchor": "a", "positive": ["b"]}\n', "line 1: positive is a list"),
        ("a.tsv", "anchor\tpositive\nx\ty\nz\n", "line 3: found 1 cells, expected 2"),
        ("a.csv", 'anchor,positive\nx,"y\n', "line 2: .*quote"),
        ("a.jsonl", '{"a": "x", "b": "y", "label": "1"}\n', "'label' holds labels"),
        ("a.pdf", "x\ty\n", "expected one of"),
        ("a.csv", ",anchor,positive\n0,a,b\n", "index 0 is named '', .*: --columns anchor positive"),
        ("a.csv", "anchor,positive,\na,b,\n", "index 2 is named '', .*: --columns anchor positive"),
        ("a.csv", "id,positive,anchor\n1,a,b\n2,c,d\n", "'id' holds numbers alone, .*: --columns anchor positive"),
        (
            "a.jsonl",
            '{"n": 1, "anchor": "a", "positive": "b"}',
            "'n' holds numbers alone, .*: --columns anchor positive",
        ),
        ("a.csv", "sentence1,sentence2,similarity\na,b,0.5\n", "'similarity' holds numbers alone"),
        ("a.csv", "cat,kitten\ndog,puppy\n", "line 1: this may be a header or data: 'cat', 'kitten'"),
    ],
)
def test_a_file_that_cannot_be_used(name: str, content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message):
        PairDataset.from_file(tmp_path / name)


def test_data_from_python_is_checked_too() -> None:
    with pytest.raises(TextTypeError, match="quora, column 'positive': text 1 is NoneType"):
        PairDataset("quora", {"anchor": ["a", "b"], "positive": ["c", None]})  # type: ignore[list-item]
    with pytest.raises(InputError, match="unequal lengths"):
        PairDataset("quora", {"anchor": ["a", "b"], "positive": ["c"]})
    with pytest.raises(InputError, match="no rows"):
        PairDataset("quora", {"anchor": [], "positive": []})


def test_columns_are_taken_as_asked(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,question,answer\n1,q1,a1\n2,q2,a2\n")
    data = PairDataset.from_file(tmp_path / "a.csv", ["answer", "question"])
    assert (data.name, dict(data.columns)) == ("a", {"answer": ["a1", "a2"], "question": ["q1", "q2"]})
    data = PairDataset.from_file(tmp_path / "a.csv", ["id", "answer"])  # whoever asks for it, means it
    assert data.columns == {"id": ["1", "2"], "answer": ["a1", "a2"]}
    (tmp_path / "a.tsv").write_text("A cat sleeps here.\tA kitten.\nA dog.\tPuppy\n")
    one, two = ["A cat sleeps here.", "A dog."], ["A kitten.", "Puppy"]
    for columns, expected in ((None, {"1": one, "2": two}), ([2, 1], {"2": two, "1": one})):
        data = PairDataset.from_file(tmp_path / "a.tsv", columns)
        assert data.columns == expected
        assert PairDataset.from_file(tmp_path / "a.tsv", list(data.columns)).sha256 == data.sha256


@pytest.mark.parametrize(
    ("names", "column", "order"),
    [
        ("positive anchor", "positive", "anchor positive"),
        ("answer question", "answer", "question answer"),
        ("response query", "response", "query response"),
        ("anchor negative positive", "negative", "anchor positive negative"),
        ("anchor negative_1 positive", "negative_1", "anchor positive negative_1"),
        ("Positive Anchor", "Positive", "Anchor Positive"),
        ("entailment hypothesis contradiction", "entailment", "hypothesis entailment contradiction"),
        ("text question", "question", "question text"),
        ("anchor positive", None, None),
        ("anchor positive negative_1 negative_2", None, None),
        ("question answer negative", None, None),
        ("sentence1 sentence2", None, None),
        ("text_a text_b", None, None),
        ("question1 question2", None, None),
        ("premise hypothesis", None, None),
        ("positives anchors", "positives", "anchors positives"),
    ],
)
@pytest.mark.parametrize("kind", ["Python", "a.jsonl", "a.csv"])
def test_columns_in_an_unusual_order_are_named(
    names: str, column: str | None, order: str, kind: str, tmp_path: Path
) -> None:
    columns = {name: ["x", "y"] for name in names.split()}
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    (tmp_path / "a.csv").write_text(",".join(columns) + "\n" + "".join(",".join(r.values()) + "\n" for r in rows))
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data = PairDataset("a", columns) if kind == "Python" else PairDataset.from_file(tmp_path / kind)
    assert list(data.columns) == names.split()
    messages = [str(warning.message) for warning in caught]
    if column is None:
        assert not messages
    else:
        assert len(messages) == 1 and f"column {column!r} is at index" in messages[0]
        assert f"in order: --columns {order}, or columns={order.split()}" in messages[0]


def test_a_column_of_identifiers_is_named() -> None:
    with pytest.warns(ColumnWarning, match="'doc_id' holds identifiers.* --columns query text"):
        PairDataset("a", {"query": ["x"], "doc_id": ["d1"], "text": ["y"]})
    with pytest.raises(InputError, match="index 0 is named '', expected a name"):
        PairDataset("a", {"": ["x"], "anchor": ["d1"], "positive": ["y"]})
    with pytest.raises(InputError, match="index 0 is named 0, expected a name"):
        PairDataset("a", {0: ["x"], 1: ["d1"]})  # type: ignore[dict-item]


texts = st.lists(st.tuples(st.text(max_size=9), st.text(max_size=9)), min_size=1, max_size=9)


@given(texts, texts)
def test_the_hash_tells_contents_apart(first: list[tuple[str, str]], second: list[tuple[str, str]]) -> None:
    one, two = (PairDataset("x", {"a": [r[0] for r in t], "b": [r[1] for r in t]}) for t in (first, second))
    assert (one.sha256 == two.sha256) == (first == second)
    assert one.sha256 == PairDataset("another name", one.columns).sha256
    assert one.sha256 != PairDataset("x", {"b": one.columns["a"], "a": one.columns["b"]}).sha256


@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=40),
    st.integers(1, 7),
    st.booleans(),
    st.sampled_from(["batch_sampler", "no_duplicates"]),
    st.integers(0, 3),
)
def test_an_epoch_has_each_row_once(kinds: list[int], size: int, drop: bool, sampler: str, epoch: int) -> None:
    data = PairDataset("x", {"a": [f"a{k}" for k in kinds], "b": [f"b{i}" for i in range(len(kinds))]})
    recipe = TrainingRecipe.trainer(per_device_train_batch_size=size, dataloader_drop_last=drop, batch_sampler=sampler)
    batches = [batch.rows for batch in epoch_batches([data], recipe, epoch)]
    rows = list(itertools.chain(*batches))
    if sampler == "batch_sampler":
        assert len(batches) == batches_per_epoch([data], recipe)
    else:
        assert all(len({kinds[row] for row in batch}) == len(batch) for batch in batches)
    if sampler == "batch_sampler" or not drop:
        assert len(set(rows)) == len(rows)
    if not drop:
        assert sorted(rows) == list(range(len(kinds)))
    else:
        assert all(len(batch) == size for batch in batches)


# ---- training on what there is ------------------------------------------------------------------


def test_one_pair_trains_on_nothing_and_says_so(tiny_bert: Path, tmp_path: Path) -> None:
    model = SentenceEncoder.from_pretrained(tiny_bert, device="cpu")
    with pytest.warns(UserWarning, match="one pair has no wrong answers"):
        result = train(model, PairDataset("one", {"a": ["x"], "b": ["y"]}), output_dir=tmp_path / "out")
    assert (result.global_step, result.training_loss) == (3, 0.0)


def test_what_would_pass_in_silence_is_reported(tiny_bert: Path, tmp_path: Path) -> None:
    columns = {"a": ["short", "short", "word " * 100], "b": ["text", "text", "x"]}
    model = SentenceEncoder.from_pretrained(tiny_bert, device="cpu")
    with pytest.warns(UserWarning) as caught:
        result = train(model, PairDataset("mine", columns), TrainingRecipe.trainer(max_steps=1), output_dir=tmp_path)
    messages = " ".join(str(warning.message) for warning in caught)
    assert "mine: 1 of 6 texts are over the limit of 48 tokens" in messages
    assert "mine: 1 of 3 rows repeat an earlier one" in messages
    assert result.tokens_lost == {"mine": {"a": 1, "b": 0}}


@pytest.mark.parametrize(
    ("settings", "options", "message"),
    [
        ({"per_device_train_batch_size": 21, "dataloader_drop_last": True}, {}, "not one batch of 21 pairs"),
        ({"eval_strategy": "epoch"}, {}, "there is no evaluator"),
        ({"fp16": True}, {}, "fp16 needs CUDA"),
        ({}, {"loss": torch.nn.Linear(1, 1)}, "Linear has weights of its own"),
    ],
)
def test_what_does_not_fit_together(
    settings: dict[str, Any], options: dict[str, Any], message: str, tiny_bert: Path, tmp_path: Path
) -> None:
    model = SentenceEncoder.from_pretrained(tiny_bert, device="cpu")
    with pytest.raises(InputError, match=message):
        train(
            model,
            PairDataset("pairs", PAIRS),
            TrainingRecipe.trainer(**settings),
            output_dir=tmp_path / "out",
            **options,
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.filterwarnings("ignore:.*repeat an earlier one")
def test_repeated_texts_that_fill_no_batch(tiny_bert: Path, tmp_path: Path) -> None:
    data = PairDataset("same", {"a": ["x"] * 9, "b": ["y"] * 9})
    recipe = TrainingRecipe.trainer(batch_sampler="no_duplicates", dataloader_drop_last=True)
    model = SentenceEncoder.from_pretrained(tiny_bert, device="cpu")
    with pytest.raises(InputError, match="no batch of 8 pairs without a repeated text"):
        train(model, data, recipe, output_dir=tmp_path)


@pytest.mark.filterwarnings("ignore:.*over the limit")
def test_an_output_folder_with_a_run_is_left_alone(tiny_bert: Path, tmp_path: Path) -> None:
    model = SentenceEncoder.from_pretrained(tiny_bert, device="cpu")
    data, recipe = PairDataset("pairs", PAIRS), TrainingRecipe.trainer(max_steps=1)
    (tmp_path / "notes.txt").write_text("mine")
    train(model, data, recipe, output_dir=tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()
    with pytest.raises(InputError, match=r"already has a run or a model \(modules.json, .*checkpoint-1\)"):
        train(model, data, recipe, output_dir=tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == before
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.filterwarnings("ignore:.*over the limit")
def test_masked_duplicates_change_the_loss(tiny_bert: Path, tmp_path: Path) -> None:
    data = PairDataset("pairs", {"a": [PAIRS["anchor"][0]] * 8, "b": PAIRS["positive"][:8]})
    losses = []
    for masked in (False, True):
        model = SentenceEncoder.from_pretrained(tiny_bert, device="cpu")
        recipe = TrainingRecipe.trainer(max_steps=1, mask_duplicates=masked)
        losses.append(train(model, data, recipe, output_dir=tmp_path / str(masked)).training_loss)
    assert losses[0] > 1 and losses[1] == 0.0  # every other positive is right for the one question


@pytest.mark.filterwarnings("ignore:.*over the limit")
@pytest.mark.parametrize(
    "loss", [MultipleNegativesRankingLoss(), CachedMultipleNegativesRankingLoss(mini_batch_size=3)]
)
def test_the_packed_layout_trains_the_same_but_for_rounding(loss: Any, weights: Path, tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "model", weights, dropout=0.0)
    logs = []
    for layout in ("padded", "packed"):
        model = SentenceEncoder.from_pretrained(folder, device="cpu")
        recipe = TrainingRecipe.trainer(max_steps=6, learning_rate=1e-3, layout=layout)
        train(model, PairDataset("pairs", PAIRS), recipe, output_dir=tmp_path / layout, loss=loss)
        logs.append(read_log(tmp_path / layout / "training_log.jsonl"))
    for padded, packed in zip(*logs, strict=True):
        assert packed == pytest.approx(padded, rel=TRAINING_REORDERED)


@pytest.mark.filterwarnings("ignore:.*over the limit")
def test_packed_dropout_is_drawn_again_where_layers_are_computed_again(weights: Path, tmp_path: Path) -> None:
    """The cached loss and gradient checkpointing run the model once more in the backward pass."""
    folder = write_tiny_model(tmp_path / "model", weights, dropout=0.2)
    logs = []
    for number, (loss, again) in enumerate(
        [
            (MultipleNegativesRankingLoss(), False),
            (MultipleNegativesRankingLoss(), True),
            (CachedMultipleNegativesRankingLoss(mini_batch_size=100), False),
        ]
    ):
        recipe = TrainingRecipe.trainer(max_steps=4, learning_rate=1e-3, layout="packed", gradient_checkpointing=again)
        out = tmp_path / str(number)
        model = SentenceEncoder.from_pretrained(folder, device="cpu")
        train(model, PairDataset("pairs", PAIRS), recipe, output_dir=out, loss=loss)
        logs.append(read_log(out / "training_log.jsonl"))
    for plain, checkpointed, cached in zip(*logs, strict=True):
        assert checkpointed == pytest.approx(plain, rel=TRAINING_REORDERED)
        assert cached == pytest.approx(plain, rel=TRAINING_REORDERED)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_quick_dropout_drops_its_share_and_keeps_the_mean(dtype: torch.dtype) -> None:
    x = torch.ones(1001, 333, dtype=dtype, requires_grad=True)
    modules = nn.ModuleList([nn.Dropout(0.1), nn.Dropout(0.0), nn.Dropout(1.0)])
    with with_quick_dropout(modules):
        torch.manual_seed(3)
        first = modules[0](x)
        torch.manual_seed(3)
        again, other = modules[0](x), modules[0](x)
        unchanged = [modules[1](x), modules[2](x), modules.eval()[0](x)]
    dropped = first == 0
    assert torch.equal(first, again) and not torch.equal(first, other)
    share = dropped.double().mean().item()
    deviation = math.sqrt(0.1 * 0.9 / x.numel())
    assert abs(share - 0.1) < 5 * deviation
    assert abs((dropped & (other == 0)).double().mean().item() - 0.01) < 5 * deviation
    neighbours = (dropped.flatten()[1:] & dropped.flatten()[:-1]).double().mean().item()
    assert abs(neighbours - 0.01) < 5 * deviation
    assert first.double().mean().item() == pytest.approx(1, abs=5 * deviation + torch.finfo(dtype).eps)
    first.sum().backward()
    assert torch.equal(x.grad, first)  # type: ignore[arg-type]
    assert [value.detach().double().mean().item() for value in unchanged] == [1, 0, 1]
    torch.manual_seed(3)
    assert not torch.equal(modules.train()[0](x), first)  # outside, torch's own


# ---- the command --------------------------------------------------------------------------------


def command(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return run(parser.parse_args(arguments))


@pytest.fixture
def pairs_file(tmp_path: Path) -> str:
    lines = [json.dumps(dict(zip(PAIRS, row, strict=True))) for row in zip(*PAIRS.values(), strict=True)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines))
    return str(tmp_path / "pairs.jsonl")


@pytest.mark.filterwarnings("ignore:.*over the limit")
def test_command_trains(tiny_bert: Path, tmp_path: Path, pairs_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    options = ["--num_train_epochs", "1", "--learning-rate", "1e-3", "--bf16", "False", "--eval_pairs", pairs_file]
    assert command(pairs_file, "--output", str(out), "--model", str(tiny_bert), "--device", "cpu", *options) == 0
    assert "3 steps, mean loss" in capsys.readouterr().out
    log = read_log(out / "training_log.jsonl")
    assert [line["step"] for line in log] == [1, 2, 3, 3]
    assert log[0]["learning_rate"] == 1e-3
    assert "eval_pairs_cosine_mrr@10" in log[3]
    assert SentenceEncoder.from_pretrained(out).encode("a text").shape == (32,)


def test_the_columns_of_held_out_pairs(tiny_bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The columns that are trained on are evaluated, or the command says how to name them."""
    rows = [{"id": f"d{i}", "body": p, "title": a} for i, (a, p) in enumerate(zip(*PAIRS.values(), strict=True))]
    train_on, held_out, other = (str(tmp_path / name) for name in ("pairs.jsonl", "held-out.jsonl", "other.jsonl"))
    Path(train_on).write_text("\n".join(map(json.dumps, rows)))
    Path(held_out).write_text("\n".join(map(json.dumps, rows)))
    Path(other).write_text("\n".join(json.dumps({"answer": row["body"], "question": row["title"]}) for row in rows))
    model = SentenceEncoder.from_pretrained(tiny_bert, device="cpu")
    expected = retrieval_evaluator(PairDataset("x", {"title": PAIRS["anchor"], "body": PAIRS["positive"]}))(model)
    common = ["--model", str(tiny_bert), "--device", "cpu", "--max_steps", "1", "--learning_rate", "1e-30"]
    common += ["--columns", "title", "body"]
    for i, options in enumerate(
        (["--eval_pairs", held_out], ["--eval_pairs", other, "--eval_columns", "question", "answer"])
    ):
        out = tmp_path / f"out{i}"
        assert command(train_on, "--output", str(out), *common, *options) == 0
        found = next(line for line in read_log(out / "training_log.jsonl") if any(n.startswith("eval_") for n in line))
        name = Path(options[1]).stem
        assert found[f"eval_{name}_cosine_mrr@10"] == pytest.approx(expected["x_cosine_mrr@10"])
        assert f"pairs.jsonl: {len(rows)} rows; columns title, body" in capsys.readouterr().err
    with pytest.raises(InputError, match=r"there is no 'title', 'body'.* give --eval_columns"):
        command(train_on, "--output", str(tmp_path / "none"), *common, "--eval_pairs", other)
    Path(held_out).write_text("\n".join(json.dumps({"title": r["title"], "body": r["body"]}) for r in rows))
    Path(other).write_text("\n".join(json.dumps({"body": r["body"], "title": r["title"]}) for r in rows))
    with pytest.raises(InputError, match="has the columns body, title, training has them in the order title, body"):
        command(held_out, "--output", str(tmp_path / "none"), *common[:-3], "--eval_pairs", other)


def test_the_columns_of_held_out_scores(tiny_bert: Path, tmp_path: Path, pairs_file: str) -> None:
    (tmp_path / "sts.txt").write_text("x\t1.5\tA cat sleeps.\tb\ny\t2\tc\td\ny\t3\te\tf\n")
    options = [
        "--model",
        str(tiny_bert),
        "--device",
        "cpu",
        "--max_steps",
        "1",
        "--eval_sts",
        str(tmp_path / "sts.txt"),
    ]
    out = tmp_path / "out"
    assert command(pairs_file, "--output", str(out), *options, "--eval_sts_columns", "3", "4", "2") == 0
    assert "eval_sts_spearman_cosine" in (out / "training_log.jsonl").read_text()


def test_command_sets_the_loss(tiny_bert: Path, tmp_path: Path, pairs_file: str) -> None:
    """Every option of the loss reaches it: the receipt says which loss was used."""
    expected = {
        "class": "CachedMultipleNegativesRankingLoss",
        "scale": 5.0,
        "similarity_fct": "dot_score",
        "gather_across_devices": True,
        "directions": ["query_to_doc", "doc_to_query"],
        "partition_mode": "per_direction",
        "hardness_mode": "in_batch_negatives",
        "hardness_strength": 2.0,
        "mini_batch_size": 4,
    }
    options = "--scale 5 --similarity dot --gather-across-devices --directions query_to_doc doc_to_query "
    options += "--partition_mode per_direction --hardness-mode in_batch_negatives --hardness_strength 2 "
    options += "--mini_batch_size 4 --max_steps 1 --device cpu"
    out = tmp_path / "out"
    assert command(pairs_file, "--output", str(out), "--model", str(tiny_bert), *options.split()) == 0
    assert json.loads((out / "training_receipt.json").read_text())["loss"] == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--deepspeed", "config.json"], "deepspeed is one of TrainingArguments' fields, but not supported"),
        (["--push-to-hub"], "push_to_hub .*minilm push"),
        (["--seed", "-1"], "seed is -1"),
        (["--columns", "anchor", "nothing"], "nothing"),
    ],
)
def test_command_refuses(options: list[str], message: str, tmp_path: Path, pairs_file: str, tiny_bert: Path) -> None:
    with pytest.raises(MinilmError, match=message):
        command(pairs_file, "--output", str(tmp_path / "out"), "--model", str(tiny_bert), *options)


def test_command_explains_every_setting() -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    text = parser.format_help()
    for field in dataclasses.fields(TrainingRecipe):
        assert field.name == "name" or f"--{field.name}" in text
    assert "deepspeed" not in text


def test_retrieval_of_held_out_pairs(tiny_bert: Path) -> None:
    model = SentenceEncoder.from_pretrained(tiny_bert, device="cpu")
    same = PairDataset("same", {"anchor": PAIRS["anchor"], "positive": PAIRS["anchor"]})
    assert retrieval_evaluator(same)(model)["same_cosine_accuracy@1"] == 1.0


def test_the_picture_of_a_run(tmp_path: Path) -> None:
    """The loss, and the evaluation beside it when there is one."""
    rows = [{"step": i, "epoch": i / 9, "loss": 1 / i, "grad_norm": 1.0, "learning_rate": 1e-5} for i in range(1, 10)]
    sizes = []
    for evaluated in ([], [{"step": 9, "epoch": 1.0, "eval_accuracy": 0.5}]):
        log = tmp_path / "training_log.jsonl"
        log.write_text("".join(json.dumps(row) + "\n" for row in [*rows, *evaluated]))
        draw_log(log)
        picture = (tmp_path / "training_log.png").read_bytes()
        assert picture.startswith(b"\x89PNG")
        sizes.append(int.from_bytes(picture[16:20], "big"))
    assert sizes[1] == 2 * sizes[0]  # twice as wide


@pytest.mark.filterwarnings("error")
def test_the_picture_of_a_run_without_a_finite_evaluation(tmp_path: Path) -> None:
    (tmp_path / "training_log.jsonl").write_text('{"step": 1, "epoch": 1, "eval_accuracy": null}\n')
    draw_log(tmp_path / "training_log.jsonl")
    assert (tmp_path / "training_log.png").exists()


def test_no_picture_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    (tmp_path / "training_log.jsonl").write_text('{"step": 1, "epoch": 1, "loss": 1}\n')
    draw_log(tmp_path / "training_log.jsonl")
    assert not (tmp_path / "training_log.png").exists()
