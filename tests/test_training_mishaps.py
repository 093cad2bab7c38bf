"""Runs that go wrong: broken numbers, parts that no folder holds, evaluations that fail, edited files. What is said
names the cause, and no weights are lost."""

import functools
import json
import os
import random
import shutil
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import PAIRS, tiny_model
from torch import nn
from torch.nn.utils import parametrizations, prune

from minilm import InputError, SentenceEncoder, cos_sim
from minilm.checkpoint import weights_sha256
from minilm.commands import verify
from minilm.errors import MinilmError, NonFiniteError
from minilm.evaluation import (
    BinaryClassificationEvaluator,
    EmbeddingSimilarityEvaluator,
    SequentialEvaluator,
    TripletEvaluator,
)
from minilm.training import (
    CachedMultipleNegativesRankingLoss,
    MultipleNegativesRankingLoss,
    PairDataset,
    TrainingRecipe,
    train,
    train_with_records,
)
from minilm.training.command import retrieval_evaluator
from minilm.training.log import read_log
from minilm.training.receipt import Receipt, file_sha256
from minilm.training.reproduce import reproduce

pytestmark = pytest.mark.usefixtures("one_thread", "no_picture")

DATA = PairDataset("pairs", PAIRS)
QUESTIONS, ANSWERS = PAIRS["question"], PAIRS["answer"]
QUICK: dict[str, Any] = {"per_device_train_batch_size": 4, "max_steps": 4, "learning_rate": 1e-3}


@pytest.fixture(scope="module")
def no_picture() -> Iterator[None]:
    """To draw the log takes longer than the runs here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "matplotlib.figure", None)
        yield


def a_run(output: Path, model: SentenceEncoder | None = None, with_records: bool = False, **options: Any) -> Any:
    settings = {name: options.pop(name) for name in list(options) if name not in ("evaluator", "loss", "datasets")}
    recipe = TrainingRecipe.trainer(**(QUICK | settings))
    run = train_with_records if with_records else train
    return run(model or tiny_model(), options.pop("datasets", DATA), recipe, output_dir=output, **options)


# ---- numbers that are not finite ----------------------------------------------------------------


def test_broken_weights_are_neither_saved_nor_called_good(tmp_path: Path) -> None:
    """A step of an infinite length: the loss and the gradient before it are finite."""
    with pytest.raises(NonFiniteError, match=r"holds a NaN or an infinity after step 1, .*there is no checkpoint yet"):
        a_run(tmp_path / "first", learning_rate=1e39, save_steps=1)
    assert not list((tmp_path / "first").rglob("model.safetensors"))
    with pytest.raises(NonFiniteError, match=r"after step 1, "):  # the last step, which no loss follows
        a_run(tmp_path / "last", learning_rate=1e39, max_steps=1, save_strategy="no")
    assert not (tmp_path / "last" / "model.safetensors").exists()


class Breaking(MultipleNegativesRankingLoss):
    """A loss that is NaN in its third batch."""

    batches = 0

    def forward(self, embeddings: Any, duplicates: Any = None) -> torch.Tensor:
        self.batches += 1
        return super().forward(embeddings, duplicates) * (torch.nan if self.batches == 3 else 1)


def test_the_last_good_checkpoint_is_one_that_gives_vectors(tmp_path: Path) -> None:
    with pytest.raises(
        NonFiniteError, match=r"the loss of step 3 is nan.*the last good checkpoint is .*checkpoint-2\."
    ):
        a_run(tmp_path / "out", loss=Breaking(), save_steps=1)
    with pytest.raises(NonFiniteError, match=r"step 2 is (nan|inf), .* none of the 1 checkpoints in .* is good"):
        a_run(tmp_path / "huge", learning_rate=1e30, save_steps=1)  # finite weights, whose products are not


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_broken_model_is_refused_before_the_first_step(value: float, tmp_path: Path) -> None:
    model = tiny_model()
    with torch.no_grad():
        model.encoder.embeddings.word.weight[19, 0] = value  # a word that no pair has
    with pytest.raises(InputError, match=r"encoder\.embeddings\.word\.weight holds a NaN or an infinity"):
        a_run(tmp_path / "out", model)
    assert not (tmp_path / "out").exists()


# ---- parts that a folder has no place for -------------------------------------------------------


class LowRank(nn.Module):
    """A layer with an adapter beside it, as peft puts it there."""

    def __init__(self, base_layer: nn.Linear):
        super().__init__()
        self.base_layer = base_layer
        self.lora_A = nn.Linear(base_layer.in_features, 1, bias=False)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.base_layer(hidden) + self.lora_A(hidden)


class Headed(SentenceEncoder):
    """A model with a layer of its own after the pooling."""


def changed(how: str) -> SentenceEncoder:
    model = tiny_model()
    attention = model.encoder.layers[0].attention
    if how == "adapter":
        attention.query = LowRank(attention.query)  # type: ignore[assignment]
    elif how == "weight norm":
        parametrizations.weight_norm(attention.query)
    elif how == "pruned":
        prune.l1_unstructured(attention.query, "weight", 0.5)
    elif how == "head":
        model.head = nn.Linear(8, 8)
    elif how == "buffer":
        model.encoder.register_buffer("centre", torch.zeros(8))
    elif how == "taken away":
        attention.query = nn.Identity()  # type: ignore[assignment]
    elif how == "more words":
        model.encoder.embeddings.word = nn.Embedding(99, 8)
    return model


@pytest.mark.parametrize("how", ["adapter", "weight norm", "pruned", "head", "buffer", "taken away", "more words"])
def test_a_model_that_no_folder_holds_is_refused_before_the_first_step(how: str, tmp_path: Path) -> None:
    for act in (lambda model: a_run(tmp_path / "out", model), lambda model: model.save_pretrained(tmp_path / "saved")):
        with pytest.raises(InputError, match=r"this model has other parts[\s\S]*merge_and_unload"):
            act(changed(how))
    assert not list(tmp_path.iterdir())


def test_lora_is_refused_and_merged_it_saves(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    model = tiny_model()
    wrapped = peft.get_peft_model(model.encoder, peft.LoraConfig(target_modules=["query", "value"], r=2))
    model.encoder = wrapped
    with pytest.raises(InputError, match="merge_and_unload"):
        a_run(tmp_path / "out", model)
    model.encoder = wrapped.merge_and_unload()
    model.save_pretrained(tmp_path / "merged")
    again = SentenceEncoder.from_pretrained(tmp_path / "merged", device="cpu")
    assert weights_sha256(again.encoder) == weights_sha256(model.encoder)


def test_tied_weights_are_saved_whole(tmp_path: Path) -> None:
    model = tiny_model()
    first, second = model.encoder.layers
    second.attention.query.weight = first.attention.query.weight
    a_run(tmp_path / "out", model)
    again = SentenceEncoder.from_pretrained(tmp_path / "out", device="cpu").encoder
    assert torch.equal(again.layers[1].attention.query.weight, first.attention.query.weight)


def test_frozen_weights_stay_and_the_run_can_be_resumed_and_reproduced(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path / "base")

    def frozen() -> SentenceEncoder:
        model = SentenceEncoder.from_pretrained(tmp_path / "base", device="cpu")
        model.encoder.embeddings.requires_grad_(False)
        return model

    a_run(tmp_path / "out", frozen(), with_records=True, save_steps=2)
    found = SentenceEncoder.from_pretrained(tmp_path / "out", device="cpu")
    assert torch.equal(found.encoder.embeddings.word.weight, frozen().encoder.embeddings.word.weight)
    a_run(tmp_path / "out", frozen(), save_steps=2, resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-2"))
    again = SentenceEncoder.from_pretrained(tmp_path / "out", device="cpu")
    assert weights_sha256(again.encoder) == weights_sha256(found.encoder)
    assert reproduce(tmp_path / "out", [DATA], base_model=tmp_path / "base").same_bits
    with pytest.raises(InputError, match="every weight of the model is frozen"):
        a_run(tmp_path / "none", frozen().requires_grad_(False))


# ---- evaluations --------------------------------------------------------------------------------


def evaluators(name: str = "") -> list[Any]:
    scores = [i / 14 for i in range(14)]
    several = ["cosine", "dot", "euclidean", "manhattan"]
    return [
        retrieval_evaluator(DATA),
        TripletEvaluator(QUESTIONS, ANSWERS, ANSWERS[::-1], name=name),
        TripletEvaluator(QUESTIONS, ANSWERS, ANSWERS[::-1], name=name, similarity_fn_names=several),
        BinaryClassificationEvaluator(QUESTIONS, ANSWERS, [i % 2 for i in range(14)], name=name),
        BinaryClassificationEvaluator(QUESTIONS, ANSWERS, [i % 2 for i in range(14)], similarity_fn_names=several),
        EmbeddingSimilarityEvaluator(QUESTIONS, ANSWERS, scores, name=name),
        EmbeddingSimilarityEvaluator(QUESTIONS, ANSWERS, scores, name=name, similarity_fn_names=several),
        EmbeddingSimilarityEvaluator(QUESTIONS, ANSWERS, scores, precision="int8"),
        SequentialEvaluator([TripletEvaluator(QUESTIONS, ANSWERS, ANSWERS[::-1]), retrieval_evaluator(DATA)]),
    ]


def test_names_of_metrics_are_known_before_they_are_computed() -> None:
    for evaluator in [*evaluators(), *evaluators("dev")]:
        assert sorted(evaluator.metric_names(tiny_model())) == sorted(evaluator(tiny_model()))


@pytest.mark.parametrize("evaluator", evaluators(), ids=lambda evaluator: type(evaluator).__name__)
def test_every_evaluator_runs_in_a_half_precision_run(evaluator: Any, tmp_path: Path) -> None:
    """The model's forward is in bfloat16, and all else in float32: as in the reference's trainer."""
    with torch.autocast("cpu", torch.bfloat16):
        in_half = evaluator(tiny_model())
    a_run(tmp_path / "out", evaluator=evaluator, bf16=True, learning_rate=0.0, eval_strategy="steps", max_steps=1)
    found = {name[5:]: value for name, value in read_log(tmp_path / "out" / "training_log.jsonl")[-1].items()}
    assert {name: found[name] for name in in_half} == pytest.approx(in_half, abs=1e-6)


def failing(error: BaseException | Callable[[], None], at: int) -> Callable[..., Any]:
    """An evaluator that fails at a step, once."""
    todo = [error]

    def evaluate(model: Any, output_path: Any, epoch: float, steps: int) -> dict[str, float]:
        model.encode("a text")
        if steps >= at and todo:
            failure = todo.pop()
            raise failure if isinstance(failure, BaseException) else failure()  # type: ignore[misc]
        return {"score": float(-abs(steps - 2))}

    evaluate.primary_metric = "score"  # type: ignore[attr-defined]
    return evaluate


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("strategy", ["steps", "epoch"])
@pytest.mark.parametrize(
    ("error", "kind"),
    [(TypeError("unsupported"), TypeError), (KeyboardInterrupt(), KeyboardInterrupt), (terminate, SystemExit)],
    ids=["error", "interrupt", "SIGTERM"],
)
def test_a_failing_evaluation_costs_no_weights(strategy: str, error: Any, kind: Any, tmp_path: Path) -> None:
    """The run is saved, and resumed it evaluates again and ends with the bits of a run without the failure."""
    settings = {"eval_strategy": strategy, "eval_steps": 2, "max_steps": 8, "save_strategy": "no"}
    a_run(tmp_path / "whole", evaluator=failing(error, 99), **settings)
    with (
        pytest.warns(UserWarning, match=rf"the weights are in {tmp_path / 'out' / 'checkpoint-4'}, from which"),
        pytest.raises(kind),
    ):
        a_run(tmp_path / "out", evaluator=failing(error, 4), **settings)
    assert SentenceEncoder.from_pretrained(tmp_path / "out" / "checkpoint-4", device="cpu").encode("cat").shape == (8,)
    a_run(tmp_path / "out", evaluator=failing(error, 99), resume_from_checkpoint=True, **settings)
    for file in ("model.safetensors", "training_log.jsonl"):
        assert file_sha256(tmp_path / "out" / file) == file_sha256(tmp_path / "whole" / file)


@pytest.mark.parametrize("given", [None, "high", [0.1, 0.2], {"accuracy": None}, {1: 0.5}, torch.ones(2)])
def test_an_evaluator_that_gives_no_numbers_is_named(given: Any, tmp_path: Path) -> None:
    with (
        pytest.warns(UserWarning, match="the weights are in"),
        pytest.raises(InputError, match="expected numbers by name, or a number"),
    ):
        a_run(tmp_path / "out", evaluator=lambda *_, **__: given, eval_strategy="steps", eval_steps=1)
    SentenceEncoder.from_pretrained(tmp_path / "out" / "checkpoint-1")


def test_an_evaluator_s_class_is_no_evaluator(tmp_path: Path) -> None:
    for evaluator in (TripletEvaluator, [TripletEvaluator]):
        with pytest.raises(InputError, match="expected one that can be called with the model"):
            a_run(tmp_path / "out", evaluator=evaluator, eval_strategy="steps")
    assert not (tmp_path / "out").exists()


def test_a_wrong_metric_is_known_before_the_first_step(tmp_path: Path) -> None:
    settings = {"eval_strategy": "epoch", "metric_for_best_model": "cosine_acuracy"}
    for evaluator in (evaluators()[1], [evaluators()[1], evaluators()[0]]):
        with pytest.raises(InputError, match=r"no metric 'cosine_acuracy' .*one of cosine_accuracy"):
            a_run(tmp_path / "out", evaluator=evaluator, **settings)
    assert not (tmp_path / "out").exists()
    settings["metric_for_best_model"] = "eval_cosine_accuracy"
    assert a_run(tmp_path / "out", evaluator=evaluators()[1], **settings).best_metric is not None


def test_an_evaluation_without_a_number_is_said(tmp_path: Path) -> None:
    best = {"eval_strategy": "steps", "eval_steps": 1, "save_steps": 1, "load_best_model_at_end": True}
    with pytest.warns(UserWarning) as caught:
        a_run(tmp_path / "all", evaluator=lambda *_, **__: float("nan"), **best)
    messages = [str(warning.message) for warning in caught]
    assert "eval_evaluator is NaN after step 1; this evaluation is not the best" in messages
    assert (
        "eval_evaluator was NaN in every evaluation, so none was the best: the model is that of the last step"
        in messages
    )
    values = iter([float("nan"), 1.0, float("nan"), 0.5])
    with pytest.warns(UserWarning) as caught:
        result = a_run(tmp_path / "some", evaluator=lambda *_, **__: next(values), **best)
    assert result.best_metric == 1.0 and result.best_model_checkpoint == tmp_path / "some" / "checkpoint-2"
    assert not [warning for warning in caught if "every evaluation" in str(warning.message)]


def test_several_evaluators_take_what_a_run_takes(tmp_path: Path) -> None:
    """Numbers, functions, objects without a primary metric; as in the reference."""
    several = SequentialEvaluator([lambda *_, **__: 0.25, lambda *_, **__: {"a": 0.5, "b": 1.0}])
    assert several(tiny_model()) == {"evaluator_0": 0.25, "a": 0.5, "b": 1.0, "sequential_score": 0.5}
    result = a_run(tmp_path / "out", evaluator=[lambda *_, **__: 0.25, evaluators()[1]], eval_strategy="epoch")
    assert set(result.metrics) == {"eval_evaluator_0", "eval_cosine_accuracy", "eval_sequential_score"}
    with pytest.raises(InputError, match="evaluator is 5, expected one that can be called"):
        a_run(tmp_path / "none", evaluator=5)


# ---- what is warned of --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "repeated"),
    [
        ({"a": ["cat", "cat", "dog"], "b": ["sun", "moon", "star"]}, 1),
        ({"a": ["cat", "bird", "dog"], "b": ["sun", "sun", "sun"]}, 2),
        ({"a": ["cat", "bird", "dog"], "b": ["sun", "moon", "star"], "c": ["sea", "sea", "sea"]}, 0),
    ],
    ids=["anchors", "positives", "only negatives"],
)
def test_repeated_texts_are_counted_once(columns: dict[str, list[str]], repeated: int, tmp_path: Path) -> None:
    for number, settings in enumerate([{}, {"mask_duplicates": True}, {"batch_sampler": "no_duplicates"}]):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            a_run(tmp_path / str(number), datasets=PairDataset("mine", columns), **settings)
        found = [str(warning.message) for warning in caught if "repeat an earlier one" in str(warning.message)]
        assert len(found) == (repeated > 0 and not settings)
        assert all(f"{repeated} of 3 rows" in text and "--mask_duplicates" in text for text in found)


# ---- losses and receipts ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [MultipleNegativesRankingLoss, CachedMultipleNegativesRankingLoss])
def test_a_loss_takes_no_model_and_says_so(kind: Any) -> None:
    model = tiny_model()
    for make in (
        lambda: kind(model),
        lambda: kind(model, 20.0),
        lambda: kind(model, scale=20.0),
        lambda: kind(model=model),
    ):
        with pytest.raises(InputError, match=rf"takes no model[\s\S]*{kind.__name__}\(scale=20.0\)"):
            make()
    for options, message in (({"scale": "20"}, "a number"), ({"similarity_fct": "cosin"}, "expected one of 'cosine'")):
        with pytest.raises(InputError, match=message):
            kind(**options)


def scaled(a: torch.Tensor, b: torch.Tensor, by: float = 1.0) -> torch.Tensor:
    return cos_sim(a, b) * by


class Similarity:
    def __call__(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return cos_sim(a, b)


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (cos_sim, "cos_sim"),
        (functools.partial(cos_sim), "partial(cos_sim)"),
        (functools.partial(scaled, by=2.0), f"partial({__name__}.scaled, by=2.0)"),
        (scaled, f"{__name__}.scaled"),
        (lambda a, b: a @ b.T, f"{__name__}.<lambda>"),
        (Similarity(), f"an object of {__name__}.Similarity"),
    ],
    ids=["ours", "partial", "partial with arguments", "a function", "a lambda", "an object"],
)
def test_a_receipt_says_which_similarity_ran(function: Any, name: str, tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path / "base")
    model = SentenceEncoder.from_pretrained(tmp_path / "base", device="cpu")
    loss = MultipleNegativesRankingLoss(similarity_fct=function)
    a_run(tmp_path / "out", model, with_records=True, loss=loss, max_steps=1, save_strategy="no")
    assert Receipt.load(tmp_path / "out").loss["similarity_fct"] == name
    if function is not cos_sim:
        with pytest.raises(InputError, match="cannot be made from its name"):
            reproduce(tmp_path / "out", [DATA], base_model=tmp_path / "base")
        with pytest.raises(InputError, match="the loss is not the run's"):
            reproduce(tmp_path / "out", [DATA], base_model=tmp_path / "base", loss=MultipleNegativesRankingLoss())
    assert reproduce(tmp_path / "out", [DATA], base_model=tmp_path / "base", loss=loss).same_bits


def test_records_name_the_model_that_was_loaded(tmp_path: Path, weights: Path) -> None:
    """Its name and revision, unless its weights have changed since; a folder has no name elsewhere."""
    named = SentenceEncoder.from_pretrained(device="cpu")
    assert SentenceEncoder.from_pretrained(weights, device="cpu").origin is None
    settings = {"max_steps": 1, "save_strategy": "no", "learning_rate": 1e-5, "with_records": True}
    a_run(tmp_path / "first", named, **settings)
    a_run(tmp_path / "second", named, **settings)  # from the first one's result
    receipts = [Receipt.load(tmp_path / name) for name in ("first", "second")]
    assert receipts[0].base_model == "sentence-transformers/all-MiniLM-L6-v2" and receipts[0].base_model_revision
    assert receipts[1].base_model is None and receipts[1].base_weights == receipts[0].weights
    cards = [(tmp_path / name / "README.md").read_text() for name in ("first", "second")]
    assert "**Base model:** [sentence-transformers/all-MiniLM-L6-v2]" in cards[0]
    assert "**Base model:** Unknown" in cards[1]


@pytest.mark.parametrize("kind", ["plain", "best"])
def test_a_run_that_is_resumed_in_another_folder_is_whole(kind: str, tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path / "base")
    settings: dict[str, Any] = {"save_steps": 1, "with_records": True}
    if kind == "best":
        settings |= {"eval_strategy": "steps", "eval_steps": 1, "load_best_model_at_end": True}
        settings["evaluator"] = failing(ValueError(), 99)  # the best is step 2
    load = functools.partial(SentenceEncoder.from_pretrained, tmp_path / "base", device="cpu")
    a_run(tmp_path / "first", load(), **settings)
    a_run(tmp_path / "second", load(), resume_from_checkpoint=str(tmp_path / "first" / "checkpoint-3"), **settings)
    shutil.rmtree(tmp_path / "first" / "checkpoint-2")
    for file in ("model.safetensors", "training_log.jsonl"):
        assert file_sha256(tmp_path / "second" / file) == file_sha256(tmp_path / "first" / file)
    assert str(tmp_path) not in (tmp_path / "second" / "training_receipt.json").read_text()
    assert str(tmp_path) not in (tmp_path / "second" / "README.md").read_text()
    assert reproduce(tmp_path / "second", [DATA], base_model=tmp_path / "base").same_bits


# ---- edited files -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    tiny_model().save_pretrained(folder / "base")
    model = SentenceEncoder.from_pretrained(folder / "base", device="cpu")
    settings = {"eval_strategy": "steps", "eval_steps": 2, "save_steps": 2, "load_best_model_at_end": True}
    a_run(folder / "out", model, with_records=True, evaluator=failing(ValueError(), 99), **settings)
    return folder


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "training_receipt.json").write_text("[]"),
        lambda folder: edit_json(folder / "training_receipt.json", weights="0" * 64),
        lambda folder: edit_json(folder / "config.json", hidden_dropout_prob=0.2),
        lambda folder: edit_json(folder / "config_sentence_transformers.json", prompts={"query": "q: "}),
        lambda folder: shutil.copy(folder / "checkpoint-4" / "model.safetensors", folder / "model.safetensors"),
    ],
    ids=["a broken receipt", "its weights", "the config", "the prompts", "the weights"],
)
def test_verify_reads_the_receipt(change: Any, finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished / "out", tmp_path / "out")
    checks = {check.check: check.result for check in verify._receipt_checks(tmp_path / "out")}
    assert set(checks.values()) <= {"ok", "-"} and checks["receipt, weights"] == "ok"
    change(tmp_path / "out")
    assert "FAILED" in [check.result for check in verify._receipt_checks(tmp_path / "out")]


def edit_json(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


VALUES = [None, True, -1, 0, 7, 10**30, 1.5, float("nan"), float("inf"), "", "x", "../x", [], [1], {}, {"a": 1}]


def mutants(content: Any, chance: random.Random, count: int) -> Iterator[str]:
    """Texts of a JSON file with one value changed, left out or of another type, or with a broken byte."""
    for _ in range(count):
        copy = json.loads(json.dumps(content))
        place = copy
        while isinstance(place, (dict, list)) and place:
            key = chance.choice(list(place)) if isinstance(place, dict) else chance.randrange(len(place))
            if isinstance(place[key], (dict, list)) and place[key] and chance.random() < 0.7:
                place = place[key]
                continue
            if chance.random() < 0.2:
                del place[key]
            else:
                place[key] = chance.choice(VALUES)
            break
        text = json.dumps(copy)
        if chance.random() < 0.15:
            start = chance.randrange(len(text))
            text = text[:start] + chance.choice(["", "\x00", "}", "1" * 5000]) + text[start + 1 :]
        yield text


def test_an_edited_receipt_gives_one_line_or_works(finished: Path, tmp_path: Path, monkeypatch: Any) -> None:
    shutil.copytree(finished / "out", tmp_path / "out", ignore=shutil.ignore_patterns("checkpoint-*"))
    path = tmp_path / "out" / "training_receipt.json"
    content = json.loads(path.read_text())

    class ReachedError(Exception):
        """Training would begin: all checks are passed."""

    def stop(*_: Any, **__: Any) -> None:
        raise ReachedError

    monkeypatch.setattr("minilm.training.reproduce.train", stop)
    refused = 0
    for text in mutants(content, random.Random(1), 80):
        path.write_text(text)
        list(verify._receipt_checks(tmp_path / "out"))
        try:
            reproduce(tmp_path / "out", [DATA], base_model=finished / "base")
        except MinilmError:
            refused += 1
        except ReachedError:
            pass
    assert refused > 30


@pytest.mark.parametrize("file", ["training_state.json", "training_log.jsonl", "training_state.safetensors"])
@pytest.mark.filterwarnings("ignore:.*lacks what it had")
def test_an_edited_state_gives_one_line_or_works(file: str, finished: Path, tmp_path: Path) -> None:
    chance = random.Random(2)
    whole = finished / "out" / ("checkpoint-2" if "state" in file else "") / file
    if file == "training_state.json":
        texts = [text.encode() for text in mutants(json.loads(whole.read_text()), chance, 40)]
    else:
        texts = []
        for _ in range(20):
            content = bytearray(whole.read_bytes())
            content[chance.randrange(min(len(content), 2000))] = chance.randrange(256)
            texts.append(bytes(content[: chance.choice([len(content), chance.randrange(len(content))])]))
    settings = {"eval_strategy": "steps", "eval_steps": 2, "save_steps": 2, "load_best_model_at_end": True}
    refused = 0
    for number, text in enumerate(texts):
        folder = tmp_path / str(number)
        shutil.copytree(finished / "out", folder, ignore=shutil.ignore_patterns("checkpoint-4", "*.png"))
        (folder / whole.relative_to(finished / "out")).write_bytes(text)
        try:
            a_run(folder, resume_from_checkpoint=True, evaluator=failing(ValueError(), 99), **settings)
        except MinilmError:
            refused += 1
        shutil.rmtree(folder)
    assert refused > len(texts) // 4
