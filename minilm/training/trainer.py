"""The training loop, to be read from top to bottom and changed.

:func:`train` follows ``SentenceTransformerTrainer`` (sentence-transformers 6.2, transformers 5.23)
operation by operation: in the padded layout every loss, gradient norm, learning rate and weight has
its bits, dropout included. What decides them, and must stay as it is: the number that is drawn at the
start of each epoch and of each evaluation, the order of the batches (batches.py), one forward pass
for the anchors and one for all other columns, each padded to its own longest text, and the order of
clipping, AdamW, the schedule and zeroing.
"""

from __future__ import annotations

import ctypes
import math
import signal
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from minilm.checkpoint import check_parts, not_finite
from minilm.errors import CheckpointError, InputError, NonFiniteError
from minilm.evaluation.sequential import metric_names, one_evaluator
from minilm.layouts import PackedBatch, PaddedBatch, TokenIds
from minilm.progress import progress
from minilm.sentence_encoder import SentenceEncoder
from minilm.training import checkpoints
from minilm.training.batches import BatchRows, batches_per_epoch, epoch_batches
from minilm.training.checkpoints import TrainingState, checkpoint_path
from minilm.training.data import PairDataset
from minilm.training.dropout import with_quick_dropout
from minilm.training.forwards import in_half, recomputed, replaced_forward
from minilm.training.log import LOG_FILE, TrainingLog
from minilm.training.losses import (
    CachedMultipleNegativesRankingLoss,
    MultipleNegativesRankingLoss,
    describe_loss,
    duplicate_ids,
)
from minilm.training.processes import Processes
from minilm.training.recipe import TrainingRecipe

Evaluator: TypeAlias = Callable[..., Any]

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h


@dataclass(frozen=True)
class TrainingResult:
    """What a run gave. The model itself was changed in place, and is also in ``output_dir``.

    Attributes:
        output_dir: the model's folder, with the log and the checkpoints.
        global_step: optimiser steps done.
        training_loss: mean of all steps' losses.
        metrics: the last evaluation.
        best_metric: of the evaluations, by ``metric_for_best_model``.
        best_model_checkpoint: the checkpoint of that evaluation, where one was written.
        tokens_lost: data set → column → the number of its texts that were cut at the limit.
    """

    output_dir: Path
    global_step: int
    training_loss: float
    metrics: dict[str, float]
    best_metric: float | None
    best_model_checkpoint: Path | None
    tokens_lost: dict[str, dict[str, int]] = field(default_factory=dict)


def train(
    model: SentenceEncoder,
    datasets: PairDataset | Sequence[PairDataset],
    recipe: TrainingRecipe | None = None,
    *,
    output_dir: str | Path,
    loss: nn.Module | None = None,
    evaluator: Any = None,
    show_progress_bar: bool | None = None,
) -> TrainingResult:
    """Fine-tunes a model in place and writes its folder, log and checkpoints.

    Under ``torchrun``, with ``torch.distributed`` initialised, every process calls this with the same
    arguments: batches are taken in turn, gradients averaged, and the first process writes.

    Args:
        model: on the device to train on; left there in evaluation mode.
        datasets: one or several; each batch is from one of them.
        recipe: all settings; None is ``TrainingRecipe.trainer()``.
        output_dir: the folder for all results. It may exist, but not hold a model or a run, unless
            ``recipe.resume_from_checkpoint`` says to go on with that.
        loss: of losses.py, or a module of the same interface; None is
            ``MultipleNegativesRankingLoss()``.
        evaluator: ``evaluator(model, output_path=…, epoch=…, steps=…)`` → metrics by name, or one
            number, as in sentence-transformers; run as ``recipe.eval_strategy`` says. Several are one
            :class:`~minilm.evaluation.SequentialEvaluator`. Where one fails, the run is saved before the
            error leaves, and a resumed run begins with that evaluation.
        show_progress_bar: None shows one on a terminal.

    Raises:
        InputError: data, recipe, model and output folder do not fit together; nothing was changed, unless
            only the run could tell: an evaluator of one's own without ``metric_for_best_model``, or
            repeated texts that leave ``no_duplicates`` without a batch.
        NonFiniteError: a loss, a gradient or a weight was infinite or not a number.
        OSError: something could not be written; checkpoints written before are unharmed.
    """
    recipe = recipe or TrainingRecipe.trainer()
    datasets = [datasets] if isinstance(datasets, PairDataset) else list(datasets)
    loss = loss if loss is not None else MultipleNegativesRankingLoss()
    evaluator = one_evaluator(evaluator)
    output_dir = Path(output_dir)
    processes = Processes()
    if processes.count > 1:  # an incomplete batch would leave processes waiting for each other
        recipe = recipe.replace(dataloader_drop_last=True)
    _check(model, datasets, recipe, evaluator, loss, processes)
    start_from = _find_start(output_dir, recipe)
    tokens_lost = {dataset.name: dataset.tokens_lost(model.tokenizer) for dataset in datasets}
    if processes.first:
        _warn(model, datasets, recipe, tokens_lost)

    batches_in_epoch = batches_per_epoch(datasets, recipe, processes.count)
    updates_in_epoch = math.ceil(batches_in_epoch / recipe.gradient_accumulation_steps)
    total_steps = recipe.max_steps if recipe.max_steps > 0 else math.ceil(recipe.num_train_epochs * updates_in_epoch)
    epochs = math.ceil(total_steps / updates_in_epoch)
    schedule_steps = _schedule_steps(datasets, recipe, total_steps)

    torch.manual_seed(recipe.seed)
    optimizer = make_optimizer(model, recipe)
    scaler = torch.amp.GradScaler(model.device.type, enabled=recipe.fp16)
    wrapped = processes.wrap(model)
    no_sync = processes.no_sync(wrapped)
    identity = {
        "recipe": recipe.to_dict(),
        "data": {dataset.name: dataset.sha256 for dataset in datasets},
        "model": {**model.encoder.config.to_dict(), "max_seq_length": model.max_seq_length},
        "loss": describe_loss(loss),
        "processes": processes.count,
    }
    state = TrainingState()
    if start_from is not None:
        state = checkpoints.load_checkpoint(start_from, model, optimizer, identity, processes.rank)
        try:
            scaler.load_state_dict(state.scaler)
        except (KeyError, RuntimeError) as error:
            raise CheckpointError(f"{start_from} is not a whole checkpoint: scaler: {error}") from None
    if place := not_finite(model):
        raise InputError(
            f"the weights of {start_from or 'the model'} are broken: {place} holds a NaN or an infinity, so there is "
            f"nothing to train from{'; ' + checkpoints.last_good(output_dir) if start_from else ''}"
        )
    if start_from is not None and processes.first:
        checkpoints.carry_over(start_from, output_dir, state, best_model=recipe.name == "fit")
    loss_so_far = state.losses[processes.rank] if start_from is not None else 0.0
    loss_sum = torch.tensor(loss_so_far, device=model.device)  # since the last line of the log
    metrics: dict[str, float] = {}
    taken: Sequence[BatchRows] = []  # the batches of the last step

    def due(kind: Literal["logging", "eval", "save"]) -> bool:
        at_end = state.global_step >= total_steps and kind != "logging"
        by_steps = getattr(recipe, f"{kind}_strategy") == "steps"
        return by_steps and (at_end or state.global_step % recipe.every(kind, total_steps) == 0)

    def epoch_now() -> float:
        return state.epoch + state.batch / batches_in_epoch

    def log_line() -> None:
        mean = processes.mean(loss_sum).item()
        loss = mean / (state.global_step - state.loss_step)
        rates = {"grad_norm": state.grad_norm, "learning_rate": state.learning_rate}
        log.write(step=state.global_step, epoch=epoch_now(), loss=loss, **rates)
        bar.set_postfix_str(f"loss {loss:.4f}")
        state.total_loss += mean
        state.loss_step = state.global_step
        loss_sum.zero_()

    def evaluate(draw: bool) -> bool:
        """Runs the evaluator; True if this is the best evaluation so far."""
        check_finite()
        random_states = checkpoints.random_states(model.device)
        if draw:
            draw_base_seed()  # the reference makes a data loader, though an evaluator needs none
        metrics.clear()
        try:
            metrics.update(_evaluate(model, evaluator, processes, output_dir, epoch_now(), state.global_step))
            best = _note_best(metrics, evaluator, recipe, state)
        except BaseException as error:  # the weights are worth more than what the evaluator found wrong
            save(random_states)
            if processes.first:
                what = str(error) or type(error).__name__
                path = checkpoint_path(output_dir, state.global_step)
                warnings.warn(
                    f"the evaluation after step {state.global_step:,} ended with an error ({what:.200}); the weights "
                    f"are in {path}, from which the run can be resumed",
                    stacklevel=3,
                )
            raise
        log.write(step=state.global_step, epoch=epoch_now(), **metrics)
        log.metric = _metric_name(evaluator, recipe)
        if best and recipe.name == "fit" and processes.first:
            model.save_pretrained(output_dir)
        return best

    def check_finite(also: torch.optim.Optimizer | None = None) -> None:
        if place := not_finite(model, also):
            what = f"{place} holds a NaN or an infinity after step {state.global_step}"
            raise _not_finite(what, state.global_step, datasets, taken, output_dir)

    def save(random_states: dict[str, Tensor] | None = None) -> None:
        check_finite(optimizer)
        state.losses = [value.item() for value in processes.all_states({"loss": loss_sum.cpu()}).values()]
        state.log_bytes, state.scaler = log.bytes, scaler.state_dict()
        random_states = random_states or checkpoints.random_states(model.device)
        _save(output_dir, model, optimizer, recipe, state, identity, random_states, processes)

    def after_step() -> None:
        state.unevaluated = due("eval")
        best = state.unevaluated and evaluate(draw=True)
        state.unevaluated = False
        if due("save") or (best and recipe.save_strategy == "best"):
            save()

    with ExitStack() as stack:
        stack.enter_context(_kept_memory())
        earlier = None if start_from is None else start_from.parent / LOG_FILE
        log = stack.enter_context(TrainingLog(output_dir, state.log_bytes, processes.first, earlier))
        if processes.first and recipe.resume_from_checkpoint:  # under the log's lock
            checkpoints.remove_leftovers(output_dir)
        if processes.first and log.bytes < state.log_bytes:
            warnings.warn(
                f"{earlier} lacks what it had at step {state.global_step:,}: the log of this run will not be whole, "
                "and minilm reproduce will refuse it",
                stacklevel=2,
            )
        show = show_progress_bar if processes.first else False
        bar = stack.enter_context(progress(total_steps, "Training", show, unit=" steps"))
        bar.update(state.global_step)
        dropout = partial(with_quick_dropout, model) if recipe.layout == "packed" else nullcontext
        if recipe.bf16 or recipe.fp16:
            half = partial(
                in_half, dtype=torch.bfloat16 if recipe.bf16 else torch.float16, device_type=model.device.type
            )
            stack.enter_context(replaced_forward([model], half))
        if recipe.gradient_checkpointing:
            stack.enter_context(replaced_forward(model.encoder.layers, recomputed))

        if state.unevaluated:
            after_step()
        for epoch in range(state.epoch, epochs):
            if state.batch == 0:  # not resumed within the epoch
                draw_base_seed()
            batches = epoch_batches(datasets, recipe, epoch, processes.rank, processes.count)
            batches = islice(batches, state.batch, batches_in_epoch)
            while state.global_step < total_steps:
                group = list(islice(batches, recipe.gradient_accumulation_steps))
                for i, batch in enumerate(group):
                    model.train()
                    last = i == len(group) - 1  # its backward pass averages the processes' gradients
                    with nullcontext() if last else no_sync(), dropout():
                        value = batch_loss(wrapped, model, datasets, batch, loss, recipe, no_sync) / len(group)
                        if not value.isfinite():
                            what = f"the loss of step {state.global_step + 1} is {value.item()}"
                            raise _not_finite(what, state.global_step + 1, datasets, group, output_dir)
                        scaler.scale(value).backward()
                    loss_sum += value.detach()
                    state.batch += 1
                if not group:
                    break
                if state.batch % recipe.gradient_accumulation_steps and state.batch != batches_in_epoch:
                    break  # no_duplicates found too few batches; the gradients wait for the next epoch's

                scaler.unscale_(optimizer)
                norm = nn.utils.clip_grad_norm_(model.parameters(), recipe.max_grad_norm or math.inf)
                if not (norm.isfinite() or recipe.fp16):  # under fp16 the scaler leaves such a step out
                    what = f"the gradient norm of step {state.global_step + 1} is {norm.item()}"
                    raise _not_finite(what, state.global_step + 1, datasets, group, output_dir)
                learning_rate = recipe.learning_rate_at(state.schedule_step, schedule_steps)
                for parameters in optimizer.param_groups:
                    parameters["lr"] = learning_rate
                scale = scaler.get_scale()
                scaler.step(optimizer)
                scaler.update()
                state.schedule_step += scaler.get_scale() >= scale  # unless the step was left out
                optimizer.zero_grad()

                state.global_step += 1
                state.grad_norm, state.learning_rate = norm.item(), learning_rate
                bar.update()
                if due("logging"):
                    log_line()
                taken = group
                after_step()

            if not state.batch:
                raise InputError(
                    f"no batch of {recipe.per_device_train_batch_size} pairs without a repeated text can be found; "
                    "lower per_device_train_batch_size, or use another batch_sampler"
                )
            if recipe.logging_strategy == "epoch" and state.global_step > state.loss_step:
                log_line()
            best = False
            if recipe.name == "fit" and evaluator is not None:
                best = evaluate(draw=False)
            elif recipe.eval_strategy == "epoch":
                best = evaluate(draw=True)
            state.epoch, state.batch = epoch + 1, 0
            if recipe.save_strategy == "epoch" or (best and recipe.save_strategy == "best"):
                save()
            if state.global_step >= total_steps:
                break

        state.total_loss += processes.mean(loss_sum).item()
        if recipe.load_best_model_at_end and state.best_checkpoint is not None:
            checkpoints.load_weights(checkpoint_path(output_dir, state.best_checkpoint), model)
        if metrics and state.best_step is None and _keeps_best(recipe) and processes.first:
            warnings.warn(
                f"{_metric_name(evaluator, recipe)} was NaN in every evaluation, so none was the best: the model is "
                "that of the last step",
                stacklevel=2,
            )
        check_finite()
        model.eval()
        if processes.first and not (recipe.name == "fit" and state.best_step is not None):
            model.save_pretrained(output_dir)
        processes.wait()

    best_checkpoint = state.best_checkpoint
    return TrainingResult(
        output_dir=output_dir,
        global_step=state.global_step,
        training_loss=state.total_loss / max(state.global_step, 1),
        metrics=metrics,
        best_metric=state.best_metric,
        best_model_checkpoint=None if best_checkpoint is None else checkpoint_path(output_dir, best_checkpoint),
        tokens_lost=tokens_lost,
    )


def batch_loss(
    forward: Callable[..., Any],
    model: SentenceEncoder,
    datasets: Sequence[PairDataset],
    batch: BatchRows,
    loss: nn.Module,
    recipe: TrainingRecipe,
    no_sync: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Tensor:
    """The loss of one batch, a scalar with gradients.

    Anchors are embedded in a pass of their own, all other columns together in a second one, as in
    the reference. ``forward`` is the model, or the DistributedDataParallel around it.
    """
    dataset = datasets[batch.dataset]
    ids = [model.tokenizer(texts).ids for texts in dataset.rows(batch.rows)]
    duplicates = duplicate_ids(ids) if recipe.mask_duplicates else None
    embed = partial(_embed, forward, model, recipe)
    if isinstance(loss, CachedMultipleNegativesRankingLoss):
        return loss(embed, ids, duplicates, no_sync)  # type: ignore[no-any-return]
    anchors, *others = ids
    names = list(dataset.columns)
    if any(other.startswith(f"{name}_") for name in names[1:] for other in names):
        # The reference tells columns apart by their prefix, and here it fails to see that they are alike.
        embedded = [embed(column) for column in ids]
    else:
        embedded = [embed(anchors)]  # first: dropout draws in this order
        embedded += embed([row for column in others for row in column]).split(len(anchors))
    return loss(embedded, duplicates)  # type: ignore[no-any-return]


def _embed(forward: Callable[..., Any], model: SentenceEncoder, recipe: TrainingRecipe, ids: TokenIds) -> Tensor:
    """Token ids of ``b`` texts → ``[b, D]``, in the recipe's layout."""
    vectors: Tensor
    if recipe.layout == "padded":
        batch = PaddedBatch.from_ids(ids, model.tokenizer.pad_token_id).to(model.device)
        vectors = forward(batch).sentence_embedding
        return vectors
    # Equal lengths side by side, then back into the order asked for.
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    packed = PackedBatch.from_ids([ids[i] for i in order]).to(model.device)
    # With dropout, torch's attention has no kernel of its own on the CPU: written out it is faster.
    by_hand = model.device.type == "cpu" and model.encoder.config.attention_probs_dropout_prob > 0
    vectors = forward(packed, attention="eager" if by_hand else "sdpa").sentence_embedding
    return vectors[torch.tensor(order, device=model.device).argsort()]


def make_optimizer(model: nn.Module, recipe: TrainingRecipe) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter 2017, https://arxiv.org/abs/1711.05101) over a model's parameters;
    biases and LayerNorm are not decayed."""
    plain = [p for name, p in model.named_parameters() if name.endswith("bias") or "norm" in name]
    decayed = [p for name, p in model.named_parameters() if not (name.endswith("bias") or "norm" in name)]
    return torch.optim.AdamW(
        [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": plain, "weight_decay": 0.0}],
        lr=recipe.learning_rate,
        betas=(recipe.adam_beta1, recipe.adam_beta2),
        eps=recipe.adam_epsilon,
        fused=recipe.optim == "adamw_torch_fused",
    )


def draw_base_seed() -> None:
    """The number that torch's ``DataLoader`` draws when an iteration over it begins. Nobody uses it,
    but dropout draws from the same generator and would come out differently without it."""
    torch.empty((), dtype=torch.int64).random_()


def _schedule_steps(datasets: Sequence[PairDataset], recipe: TrainingRecipe, total_steps: int) -> int:
    """The length of the schedule. ``fit`` does not count an epoch's last batch when it is not full,
    so that its last steps may have a learning rate of 0."""
    if recipe.name == "trainer" or recipe.max_steps > 0:
        return total_steps
    full = min(len(dataset) // recipe.per_device_train_batch_size for dataset in datasets)
    return int(full * recipe.num_train_epochs) * len(datasets)


def _evaluate(
    model: SentenceEncoder,
    evaluator: Evaluator | None,
    processes: Processes,
    output_dir: Path,
    epoch: float,
    step: int,
) -> dict[str, float]:
    """The evaluator's metrics, their names beginning with ``eval_``; the same in every process."""
    metrics: dict[str, float] = {}
    failure: BaseException | None = None
    if processes.first and evaluator is not None:
        folder = output_dir / "eval"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with _raising_sigterm():
                found = evaluator(model, output_path=str(folder), epoch=epoch, steps=step)
            found = found if isinstance(found, dict) else {"evaluator": found}
            try:
                metrics = {f"eval_{name.removeprefix('eval_')}": float(value) for name, value in found.items()}
            except (TypeError, ValueError, AttributeError, RuntimeError):  # the last one is torch's
                raise InputError(f"the evaluator gave {found!r:.80}, expected numbers by name, or a number") from None
        except BaseException as error:  # raised again below, when the other processes know of it
            failure = error
    metrics, failed = processes.share((metrics, failure is not None))
    if failure is not None:
        raise failure
    if failed:
        raise InputError("the evaluation ended with an error in the first process, which tells it")
    return metrics


@contextmanager
def _raising_sigterm() -> Iterator[None]:
    """Inside, SIGTERM raises ``SystemExit``, so that what is under way can be saved; unless the program has a handler
    of its own, or this is not the main thread, where Python allows none."""
    if (
        signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
        or threading.current_thread() is not threading.main_thread()
    ):
        yield
        return

    def stop(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _metric_name(evaluator: Evaluator | None, recipe: TrainingRecipe) -> str:
    """The metric that tells the best model, as the log names it."""
    name = recipe.metric_for_best_model or getattr(evaluator, "primary_metric", None) or "evaluator"
    return f"eval_{name.removeprefix('eval_')}"


def _keeps_best(recipe: TrainingRecipe) -> bool:
    return recipe.load_best_model_at_end or recipe.save_strategy == "best" or recipe.name == "fit"


def _no_metric(name: str, names: Iterable[str]) -> InputError:
    return InputError(
        f"the evaluation has no metric {name.removeprefix('eval_')!r} to tell the best model by; set "
        f"metric_for_best_model to one of {', '.join(n.removeprefix('eval_') for n in names)}"
    )


def _note_best(
    metrics: dict[str, float], evaluator: Evaluator | None, recipe: TrainingRecipe, state: TrainingState
) -> bool:
    """Whether these are the best metrics so far; remembers them if so."""
    name = _metric_name(evaluator, recipe)
    if name not in metrics:
        if recipe.metric_for_best_model or recipe.load_best_model_at_end or recipe.save_strategy == "best":
            raise _no_metric(name, metrics)
        return False
    value = metrics[name]
    if math.isnan(value) and _keeps_best(recipe):
        warnings.warn(f"{name} is NaN after step {state.global_step:,}; this evaluation is not the best", stacklevel=4)
    greater = recipe.greater_is_better
    if greater is None:
        greater = getattr(evaluator, "greater_is_better", not name.endswith("loss"))
    best = state.best_metric if state.best_metric is not None else (-math.inf if greater else math.inf)
    if not (value > best if greater else value < best):  # nor is NaN a best
        return False
    state.best_metric, state.best_step = value, state.global_step
    return True


def _save(
    output_dir: Path,
    model: SentenceEncoder,
    optimizer: torch.optim.Optimizer,
    recipe: TrainingRecipe,
    state: TrainingState,
    identity: dict[str, Any],
    random_states: dict[str, Tensor],
    processes: Processes,
) -> None:
    path = checkpoint_path(output_dir, state.global_step)
    if state.best_step == state.global_step:
        state.best_checkpoint = state.best_step
    random_states = processes.all_states(random_states)
    if processes.first:
        checkpoints.save_checkpoint(path, model, optimizer, state, identity, random_states)
        checkpoints.rotate_checkpoints(output_dir, recipe.save_total_limit, state.best_checkpoint)
    processes.wait()


@contextmanager
def _kept_memory() -> Iterator[None]:
    """Inside, glibc keeps the memory that a step frees for the next one. Pieces over 32 MB it gives back at once, such
    as the gradient of the word embeddings, and to get their pages anew takes up to an eighth of a packed step."""
    try:
        glibc = ctypes.CDLL("libc.so.6")
        set_option, trim = glibc.mallopt, glibc.malloc_trim
    except (AttributeError, OSError):  # another C library
        yield
        return
    set_option(_M_MMAP_THRESHOLD, 1 << 30)
    set_option(_M_TRIM_THRESHOLD, (1 << 31) - 1)
    try:
        yield
    finally:  # the most that glibc sets them to by itself, when large pieces are freed
        set_option(_M_MMAP_THRESHOLD, 32 << 20)
        set_option(_M_TRIM_THRESHOLD, 64 << 20)
        trim(0)


def _check(
    model: SentenceEncoder,
    datasets: Sequence[PairDataset],
    recipe: TrainingRecipe,
    evaluator: Evaluator | None,
    loss: nn.Module,
    processes: Processes,
) -> None:
    if not datasets:
        raise InputError("there is no data set to train on")
    if not isinstance(loss, nn.Module):
        raise InputError(f"loss is {loss!r:.80}, expected a loss, such as MultipleNegativesRankingLoss()")
    if evaluator is not None and (not callable(evaluator) or isinstance(evaluator, type)):
        raise InputError(f"evaluator is {evaluator!r:.80}, expected one that can be called with the model")
    check_parts(model, model.encoder.config, "encoder.")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise InputError("every weight of the model is frozen (requires_grad is False); there is nothing to train")
    names = [dataset.name for dataset in datasets]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"two data sets are called {', '.join(twice)}; give each a name of its own")
    if recipe.eval_strategy != "no" and evaluator is None:
        raise InputError(f"eval_strategy is {recipe.eval_strategy!r}, but there is no evaluator to run")
    if evaluator is not None and recipe.metric_for_best_model is not None:
        names = metric_names(evaluator, model)
        wanted = recipe.metric_for_best_model.removeprefix("eval_")
        if names and wanted not in [name.removeprefix("eval_") for name in names]:
            raise _no_metric(wanted, names)
    if recipe.fp16 and model.device.type != "cuda":
        raise InputError(f"fp16 needs CUDA, but the model is on {model.device.type}; use bf16")
    if any(True for _ in loss.parameters()):
        raise InputError(f"{type(loss).__name__} has weights of its own, which would not be trained")
    if not batches_per_epoch(datasets, recipe, processes.count):
        sizes = ", ".join(f"{dataset.name} {len(dataset)}" for dataset in datasets)
        raise InputError(
            f"not one batch of {recipe.per_device_train_batch_size} pairs can be filled in each of {processes.count} "
            f"process(es) (pairs: {sizes}); lower per_device_train_batch_size, or keep partial batches"
        )


def _warn(
    model: SentenceEncoder,
    datasets: Sequence[PairDataset],
    recipe: TrainingRecipe,
    tokens_lost: dict[str, dict[str, int]],
) -> None:
    """Says what training would otherwise pass over in silence."""
    for dataset in datasets:
        if cut := sum(tokens_lost[dataset.name].values()):
            warnings.warn(
                f"{dataset.name}: {cut:,} of {len(dataset) * len(dataset.columns):,} texts are over the limit of "
                f"{model.max_seq_length} tokens; the rest of each is cut off and has no part in training",
                stacklevel=3,
            )
        unmasked = recipe.batch_sampler != "no_duplicates" and not recipe.mask_duplicates
        if unmasked and (repeated := _repeated(dataset)):
            warnings.warn(
                f"{dataset.name}: {repeated:,} of {len(dataset):,} rows repeat an earlier one's anchor or positive; in "
                "the same batch they count as wrong answers to each other. Set mask_duplicates (--mask_duplicates), or "
                "batch_sampler to no_duplicates",
                stacklevel=3,
            )
        if min(len(dataset), recipe.per_device_train_batch_size) == 1 and len(dataset.columns) == 2:
            warnings.warn(
                f"{dataset.name}: a batch of one pair has no wrong answers: its loss is 0 and it teaches nothing",
                stacklevel=3,
            )


def _repeated(dataset: PairDataset) -> int:
    """The number of rows whose anchor or positive is that of an earlier row."""
    anchors, positives = list(dataset.columns.values())[:2]
    seen: tuple[set[str], set[str]] = (set(), set())
    count = 0
    for anchor, positive in zip(anchors, positives, strict=True):
        count += anchor in seen[0] or positive in seen[1]
        seen[0].add(anchor)
        seen[1].add(positive)
    return count


def _find_start(output_dir: Path, recipe: TrainingRecipe) -> Path | None:
    """The checkpoint to go on from, or None to start anew."""
    resume = recipe.resume_from_checkpoint
    if isinstance(resume, str):
        path = Path(resume)
        if not (path / checkpoints.STATE_JSON).is_file():
            raise InputError(f"{path} is no checkpoint of a training run: it has no {checkpoints.STATE_JSON}")
        if path.resolve().parent == output_dir.resolve():
            return path
    elif resume:
        return next(reversed(checkpoints.checkpoints(output_dir)), None)  # None: killed before the first one
    held = [name for name in ("modules.json", "training_log.jsonl") if (output_dir / name).exists()]
    if held := held + [p.name for p in checkpoints.checkpoints(output_dir)]:
        raise InputError(
            f"{output_dir} already has a run or a model ({', '.join(held)}). Set resume_from_checkpoint to True to go "
            "on with it, or choose another folder"
        )
    return path if isinstance(resume, str) else None


def _not_finite(
    what: str, step: int, datasets: Sequence[PairDataset], group: Sequence[BatchRows], output_dir: Path
) -> NonFiniteError:
    texts = [list(row) for batch in group for row in zip(*datasets[batch.dataset].rows(batch.rows), strict=True)]
    places = "; ".join(f"{datasets[batch.dataset].name} rows {', '.join(map(str, batch.rows))}" for batch in group)
    shown = "\n  ".join(" | ".join(f"{text!r:.60}" for text in row) for row in texts[:8])
    kept = checkpoints.last_good(output_dir)
    return NonFiniteError(
        f"{what}, so training stopped; {kept}. The texts of the step ({places}) begin:\n  {shown}\n  Common causes: a "
        "learning rate that is too high, fp16, or gradients that are not clipped.",
        step,
        texts,
    )
