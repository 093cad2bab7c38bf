"""The receipt of a run: what it vouches for, and that a run can be run again from it."""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_models import PAIRS, WORDS, tiny_model

from minilm import CheckpointError, InputError, SentenceEncoder
from minilm.checkpoint import weights_sha256
from minilm.evaluation import EmbeddingSimilarityEvaluator, SequentialEvaluator
from minilm.training import CachedMultipleNegativesRankingLoss, PairDataset, TrainingRecipe
from minilm.training import reproduce as reproduce_module
from minilm.training.command import retrieval_evaluator
from minilm.training.log import read_log
from minilm.training.receipt import Receipt, file_sha256
from minilm.training.reproduce import reproduce
from minilm.training.run import train_with_records

RECIPE = {"per_device_train_batch_size": 4, "num_train_epochs": 2.0, "learning_rate": 1e-3}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Two threads do nothing for models of this size but wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A folder with an untrained model, dropout on."""
    folder = tmp_path_factory.mktemp("base") / "model"
    tiny_model().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """The pairs as a JSONL file."""
    path = tmp_path_factory.mktemp("data") / "pairs.jsonl"
    rows = zip(PAIRS["question"], PAIRS["answer"], strict=True)
    path.write_text("".join(json.dumps({"question": q, "answer": a}) + "\n" for q, a in rows))
    return path


class Evaluator:
    """Metrics that fall and rise, so that the best is neither the first nor the last."""

    primary_metric, greater_is_better, name = "dev_score", True, "dev"

    def __call__(self, model, output_path=None, epoch=-1, steps=-1):
        return {"dev_score": {4: 0.5, 6: 0.25}.get(steps, 0.0), "dev_other": 1.0}


def a_run(base, pairs, output_dir, evaluator=None, loss=None, files=True, limit=None, **settings):
    model = SentenceEncoder.from_pretrained(base, device="cpu")
    model.max_seq_length = limit or model.max_seq_length
    return train_with_records(
        model,
        PairDataset.from_file(pairs),
        TrainingRecipe.trainer(**(RECIPE | {"save_strategy": "no"} | settings)),
        output_dir=output_dir,
        evaluator=evaluator,
        loss=loss,
        base_model=str(base),
        data_files=[pairs] if files else [],
    )


@pytest.fixture(scope="module")
def finished(base, pairs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "out"
    a_run(base, pairs, folder)
    return folder


@pytest.fixture
def copy(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "out")
    return tmp_path / "out"


def edit(folder, **fields):
    path = folder / "training_receipt.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


# ---- what it says -----------------------------------------------------------------------------


def test_it_names_everything_that_decides_the_bits(base, pairs, finished):
    receipt = Receipt.load(finished)
    before, after = (SentenceEncoder.from_pretrained(f, device="cpu") for f in (base, finished))
    assert receipt.base_weights == weights_sha256(before.encoder) != receipt.weights == weights_sha256(after.encoder)
    (data,) = receipt.data
    assert (data.name, data.rows, data.columns, data.file) == ("pairs", 14, ["question", "answer"], "pairs.jsonl")
    assert data.sha256 == PairDataset.from_file(pairs).sha256 and data.file_sha256 == file_sha256(pairs)
    assert receipt.files["model.safetensors"] == file_sha256(finished / "model.safetensors")
    assert receipt.files["training_log.jsonl"] == file_sha256(finished / "training_log.jsonl")
    assert TrainingRecipe.from_dict(receipt.recipe) == TrainingRecipe.trainer(**RECIPE, save_strategy="no")
    assert receipt.recipe["seed"] == 42 and receipt.loss["class"] == "MultipleNegativesRankingLoss"
    assert receipt.environment["threads"] == torch.get_num_threads()
    assert receipt.environment["versions"]["PyTorch"] == torch.__version__
    assert receipt.environment["cpu_capability"] and receipt.environment["platform"]
    assert receipt.global_step == 8


def test_it_holds_no_text_of_the_data_and_no_path(pairs, base, finished):
    text = (finished / "training_receipt.json").read_text()
    assert str(pairs.parent) not in text and str(base) not in text and Receipt.load(finished).base_model is None
    assert not [word for word in PAIRS["answer"] if word in text]


def test_data_from_python_has_no_file(base, pairs, tmp_path):
    a_run(base, pairs, tmp_path / "out", files=False, max_steps=1)
    assert Receipt.load(tmp_path / "out").data[0].file is None


def test_the_card_beside_it(base, finished):
    card = (finished / "README.md").read_text()
    assert "- dataset_size:14\n" in card.split("\n---\n")[0]
    assert "- `learning_rate`: 0.001" in card.split("#### All")[0]
    losses = [row["loss"] for row in read_log(finished / "training_log.jsonl")]
    assert f"| 0.2500 | 1 | {losses[0]:.4f} |" in card
    assert str(base) not in card


def test_weights_hash_is_of_the_bits_alone(base, tmp_path):
    model = SentenceEncoder.from_pretrained(base, device="cpu")
    model.save_pretrained(tmp_path / "again")
    assert weights_sha256(SentenceEncoder.from_pretrained(tmp_path / "again", device="cpu").encoder) == weights_sha256(
        model.encoder
    )
    before = weights_sha256(model.encoder)
    with torch.no_grad():
        model.encoder.layers[1].attention.key.bias[3] += 1e-7
    assert weights_sha256(model.encoder) != before
    assert weights_sha256(model.encoder.to(torch.bfloat16)) != weights_sha256(model.encoder.to(torch.float32))


# ---- running again ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"warmup_steps": 2, "weight_decay": 0.01, "gradient_accumulation_steps": 2, "seed": 7},
        {"limit": 4},
        {"loss": CachedMultipleNegativesRankingLoss(scale=10.0, mini_batch_size=2)},
        {"layout": "packed", "logging_steps": 3, "batch_sampler": "no_duplicates"},
        {"evaluator": Evaluator(), "eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2}
        | {"load_best_model_at_end": True},
    ],
    ids=["plain", "recipe", "limit", "loss", "packed", "best of several evaluations"],
)
@pytest.mark.filterwarnings("ignore:.*over the limit")
def test_the_same_bits_come_out(base, pairs, tmp_path, settings):
    a_run(base, pairs, tmp_path / "out", **settings)
    found = reproduce(tmp_path / "out", [pairs], base_model=base)
    assert found.same_bits and not found.differences and not found.weights_differ
    assert found.update_error == 0 and not found.environment
    assert "The same bits" in found.report()


def test_the_card_shows_the_evaluation_of_the_weights_that_were_kept(base, pairs, tmp_path):
    settings = {"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2}
    a_run(base, pairs, tmp_path / "out", Evaluator(), load_best_model_at_end=True, **settings)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| **score** | **0.5000** |" in card and "| other | 1.0000 |" in card
    assert "| **1.0000** | **4** | **-** | **0.5000** |" in card
    assert "| 1.5000 | 6 | - | 0.2500 |" in card


def test_the_card_of_a_run_with_several_real_evaluators(base, pairs, tmp_path):
    texts, others = PAIRS["question"], PAIRS["answer"]
    similarity = EmbeddingSimilarityEvaluator(texts, others, [i / 14 for i in range(14)], name="sts")
    evaluator = SequentialEvaluator([similarity, retrieval_evaluator(PairDataset("dev", PAIRS))])
    a_run(base, pairs, tmp_path / "out", evaluator, eval_strategy="epoch")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "#### Semantic Similarity" in card and "#### Information Retrieval" in card
    assert "* Dataset: <code>sts</code>" in card and "| cosine_accuracy@1 |" in card
    assert "| Epoch | Step | Training Loss | sequential_score |" in card
    found = reproduce(tmp_path / "out", [pairs], base_model=base)
    assert found.same_bits


def test_fit_keeps_its_best_evaluation_and_the_receipt_is_of_that(base, pairs, tmp_path):
    model = SentenceEncoder.from_pretrained(base, device="cpu")
    recipe = TrainingRecipe.fit(per_device_train_batch_size=4, num_train_epochs=2.0, warmup_steps=0, learning_rate=1e-3)
    evaluator = Evaluator()  # the first epoch ends with step 4 and the higher score
    train_with_records(model, PairDataset.from_file(pairs), recipe, output_dir=tmp_path / "out", evaluator=evaluator)
    receipt = Receipt.load(tmp_path / "out")
    kept = SentenceEncoder.from_pretrained(tmp_path / "out", device="cpu")
    assert receipt.weights == weights_sha256(kept.encoder) != weights_sha256(model.encoder)
    assert "| **score** | **0.5000** |" in (tmp_path / "out" / "README.md").read_text()
    assert reproduce(tmp_path / "out", [pairs], base_model=base).same_bits


def test_the_data_may_be_in_another_kind_of_file(finished, pairs, base, tmp_path):
    rows = zip(PAIRS["answer"], PAIRS["question"], strict=True)
    (tmp_path / "other.tsv").write_text("answer\tquestion\n" + "".join(f"{a}\t{q}\n" for a, q in rows))
    assert reproduce(finished, [tmp_path / "other.tsv"], base_model=base).same_bits


def test_another_rate_is_told_from_which_step_and_how_far(finished, pairs, base, monkeypatch):
    """A run that goes another way: here because the recipe says so, elsewhere because a library does."""
    real = reproduce_module.train

    def other_from_step_3(model, datasets, recipe, **options):
        lr = type(recipe).learning_rate_at
        changed = lambda self, step, total: lr(self, step, total) * (1 if step < 3 else 1.5)  # noqa: E731
        monkeypatch.setattr(type(recipe), "learning_rate_at", changed)
        return real(model, datasets, recipe, **options)

    monkeypatch.setattr(reproduce_module, "train", other_from_step_3)
    found = reproduce(finished, [pairs], base_model=base)
    assert not found.same_bits
    rate = found.differences["learning_rate"]
    assert (rate.first_step, rate.steps) == (4, 5) and rate.at_first == pytest.approx(1e-3 * 5 / 8 * 0.5)
    assert found.differences["loss"].first_step == 5
    assert found.weights_differ and 0.01 < found.update_error < 2
    report = found.report()
    assert re.search(r"loss: from step 5 on \(by .*\), at 4 of 8 lines", report) and "more than rounding" in report


def test_another_environment_is_said(copy, pairs, base):
    receipt = json.loads((copy / "training_receipt.json").read_text())
    receipt["environment"]["versions"]["PyTorch"] = "1.0"
    edit(copy, environment=receipt["environment"])
    found = reproduce(copy, [pairs], base_model=base)
    assert found.environment == {"PyTorch": ("1.0", torch.__version__)}
    assert "PyTorch: then 1.0" in found.report()


def test_threads_of_the_run_are_used_and_restored(copy, pairs, base):
    receipt = json.loads((copy / "training_receipt.json").read_text())
    receipt["environment"]["threads"] = 2
    edit(copy, environment=receipt["environment"])
    assert "threads" not in reproduce(copy, [pairs], base_model=base).environment
    assert torch.get_num_threads() == 1
    assert reproduce(copy, [pairs], base_model=base, threads=1).environment == {"threads": (2, 1)}


def test_two_processes(base, pairs, tmp_path):
    """A run of two is reproduced by two, through the command; only the first of them prints."""
    script = tmp_path / "two.py"
    script.write_text("""
import argparse, sys
import torch
from minilm import SentenceEncoder
from minilm.training import PairDataset, TrainingRecipe, reproduce
from minilm.training.processes import join_processes
from minilm.training.run import train_with_records

base, pairs, output = sys.argv[1:]
join_processes()
torch.set_num_threads(1)
recipe = TrainingRecipe.trainer(per_device_train_batch_size=4, max_steps=3, save_strategy="no")
model = SentenceEncoder.from_pretrained(base, device="cpu")
train_with_records(model, PairDataset.from_file(pairs), recipe, output_dir=output)
parser = argparse.ArgumentParser()
reproduce.add_arguments(parser)
reproduce.join_processes = lambda device: device  # they have joined above
sys.exit(reproduce.run(parser.parse_args([output, "--data", pairs, "--model", base])))
""")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(script)]
    paths = {"PYTHONPATH": str(Path(__file__).resolve().parent.parent), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(base), str(pairs), str(tmp_path / "out")], capture_output=True, text=True, env=os.environ | paths
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("The same bits: all weights, and all 3 lines of the log.") == 1
    assert Receipt.load(tmp_path / "out").environment["processes"] == 2


def test_the_command(finished, pairs, base, tmp_path, capsys):
    parser = argparse.ArgumentParser()
    reproduce_module.add_arguments(parser)
    options = [str(finished), "--data", str(pairs), "--output", str(tmp_path / "again"), "--model", str(base)]
    assert reproduce_module.run(parser.parse_args(options)) == 0
    printed = capsys.readouterr().out
    assert "files and the recipe match the receipt" in printed and "The same bits" in printed
    assert (tmp_path / "again" / "model.safetensors").is_file()


# ---- what is refused, before any training -----------------------------------------------------


@pytest.fixture
def no_training(monkeypatch):
    def train(*_, **__):
        raise AssertionError("training began")

    monkeypatch.setattr(reproduce_module, "train", train)


@pytest.mark.parametrize("file", ["model.safetensors", "training_log.jsonl", "config.json", "tokenizer.json"])
def test_a_changed_file(copy, pairs, file, no_training):
    with open(copy / file, "ab") as changed:
        changed.write(b" ")
    with pytest.raises(CheckpointError, match=rf"does not match.*\n  {file}\n    found    \w{{64}}"):
        reproduce(copy, [pairs])


def test_a_missing_file_and_a_changed_recipe(copy, pairs, no_training):
    (copy / "training_log.jsonl").unlink()
    recipe = Receipt.load(copy).recipe | {"seed": 43}
    edit(copy, recipe=recipe)
    with pytest.raises(
        CheckpointError, match=r"(?s)training_log.jsonl\n    found    missing.*the recipe in the receipt"
    ):
        reproduce(copy, [pairs])


@pytest.mark.parametrize(
    ("content", "error"),
    [(None, "does not exist"), ("{", "not valid JSON"), ('{"format": 2}', "format"), ('{"format": 1}', "not a whole")],
)
def test_a_broken_receipt(copy, pairs, content, error, no_training):
    (copy / "training_receipt.json").unlink()
    if content:
        (copy / "training_receipt.json").write_text(content)
    with pytest.raises(CheckpointError, match=error):
        reproduce(copy, [pairs])


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"environment": {}}, "environment is {}"),
        ({"files": []}, "files is"),
        ({"data": [{}]}, "not a whole receipt"),
        ({"data": 1}, "not a whole receipt"),
        ({"weights": "0" * 64}, r"the weights in .* are not the receipt's"),
    ],
)
def test_an_edited_receipt(copy, pairs, fields, error, no_training):
    edit(copy, **fields)
    with pytest.raises(CheckpointError, match=error):
        reproduce(copy, [pairs])


def test_a_receipt_that_names_other_files(copy, pairs, no_training):
    edit(copy, files=Receipt.load(copy).files | {"../secret": "0" * 64})
    with pytest.raises(CheckpointError, match=r"names \.\./secret, which no run writes"):
        reproduce(copy, [pairs])


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda rows: rows[:-1], r"new.jsonl is not the run's data pairs.jsonl: it has 13 rows, expected 14"),
        (lambda rows: [rows[1], rows[0], *rows[2:]], r"the texts differ\n  found    \w{64}"),
        (lambda rows: [{**rows[0], "answer": "moon"}, *rows[1:]], r"the texts differ"),
        (lambda rows: [{"question": row["question"], "reply": row["answer"]} for row in rows], r"answer"),
    ],
    ids=["a row less", "another order", "one text", "another column"],
)
def test_data_that_is_not_the_data(finished, pairs, tmp_path, change, error, no_training):
    rows = [json.loads(line) for line in pairs.read_text().splitlines()]
    (tmp_path / "new.jsonl").write_text("".join(json.dumps(row) + "\n" for row in change(rows)))
    with pytest.raises(InputError, match=error):
        reproduce(finished, [tmp_path / "new.jsonl"])


def test_too_many_files_and_files_in_another_order(base, pairs, finished, tmp_path, no_training):
    with pytest.raises(InputError, match=r"1 data set\(s\) \(pairs.jsonl\), but 2 are given"):
        reproduce(finished, [pairs, pairs])
    two = [PairDataset("a", PAIRS), PairDataset("b", {"question": WORDS, "answer": WORDS[::-1]})]
    model = SentenceEncoder.from_pretrained(base, device="cpu")
    recipe = TrainingRecipe.trainer(max_steps=1, save_strategy="no")
    train_with_records(model, two, recipe, output_dir=tmp_path / "two", base_model=str(base))
    with pytest.raises(InputError, match="in another order; give a, b"):
        reproduce(tmp_path / "two", two[::-1])


def test_another_base_model(finished, pairs, base, tmp_path, no_training):
    with pytest.raises(InputError, match=r"all-MiniLM-L6-v2 are not .* \(the receipt names none: it was a folder\)"):
        reproduce(finished, [pairs])
    with pytest.raises(InputError, match=r"are not those that the run began with.*\n  found    \w{64}"):
        reproduce(finished, [pairs], base_model=finished)
    shutil.copytree(base, tmp_path / "dropout")
    config = json.loads((base / "config.json").read_text()) | {"hidden_dropout_prob": 0.5}
    (tmp_path / "dropout" / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"config.json or the pipeline"):
        reproduce(finished, [pairs], base_model=tmp_path / "dropout")


def test_other_processes(copy, pairs, no_training):
    edit(copy, environment=Receipt.load(copy).environment | {"processes": 2})
    with pytest.raises(InputError, match="torchrun --nproc-per-node 2"):
        reproduce(copy, [pairs])
