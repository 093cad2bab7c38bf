"""What a training run is made of: every setting, under Hugging Face's name, with its meaning.

The names and, in :meth:`TrainingRecipe.trainer`, the defaults are those of
``SentenceTransformerTrainingArguments`` (sentence-transformers 6.2, transformers 5.23). A field of
theirs that has no meaning here is refused by name, with the reason, and never ignored.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_type_hints

from minilm.errors import InputError


def setting(default: Any, meaning: str) -> Any:
    """A field of the recipe; its meaning is also the help of the command line's option."""
    return dataclasses.field(default=default, metadata={"meaning": meaning})


@dataclass(frozen=True)
class TrainingRecipe:
    """Every setting of a run. ``TrainingRecipe.trainer(...)`` and ``.fit(...)`` give the two named
    recipes with some settings changed; they, unlike the constructor, explain a refused name.

    A number of steps below 1 is a share of the whole run, rounded up, as in transformers.

    Raises:
        InputError: a value cannot be used.
    """

    name: Literal["trainer", "fit"] = setting(
        "trainer",
        "whose bookkeeping to follow where settings do not say it: SentenceTransformerTrainer's, or that of "
        "SentenceTransformer.fit (whose schedule counts whole batches only, and which evaluates after each epoch)",
    )
    layout: Literal["padded", "packed"] = setting(
        "padded", "padded: the reference's batches and bits; packed: no padding, faster, other dropout draws"
    )

    mask_duplicates: bool = setting(
        False, "texts known to be right for an anchor, repeated elsewhere in the batch, are not its negatives"
    )

    per_device_train_batch_size: int = setting(8, "pairs in a batch, for each process")
    num_train_epochs: float = setting(3.0, "passes over the data; a part of one is allowed")
    max_steps: int = setting(-1, "when positive, the number of optimiser steps, in place of num_train_epochs")
    gradient_accumulation_steps: int = setting(1, "batches whose gradients are averaged into one optimiser step")
    dataloader_drop_last: bool = setting(False, "leave out an epoch's last batch when it is not full")
    batch_sampler: Literal["batch_sampler", "no_duplicates"] = setting(
        "batch_sampler", "batch_sampler: random batches; no_duplicates: no text twice in a batch, in any column"
    )
    multi_dataset_batch_sampler: Literal["proportional", "round_robin"] = setting(
        "proportional",
        "several data sets: proportional draws from each by its size; round_robin takes one batch of each in "
        "turn until one of them is used up",
    )
    seed: int = setting(42, "of dropout and, unless data_seed is given, of the order of the data")
    data_seed: int | None = setting(
        None, "of the order of a single data set under batch_sampler; other samplers follow seed, as in the reference"
    )

    optim: Literal["adamw_torch_fused", "adamw_torch"] = setting(
        "adamw_torch_fused", "AdamW in one kernel, or step by step; they differ in rounding"
    )
    learning_rate: float = setting(5e-5, "the highest learning rate")
    weight_decay: float = setting(0.0, "AdamW's; biases and LayerNorm have none")
    adam_beta1: float = setting(0.9, "AdamW's decay of the gradient's mean")
    adam_beta2: float = setting(0.999, "AdamW's decay of the gradient's mean square")
    adam_epsilon: float = setting(1e-8, "AdamW's term against division by zero")
    max_grad_norm: float = setting(1.0, "clip the gradient at this L2 norm; 0 does not clip")
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup"] = setting(
        "linear", "how the learning rate falls after the warm-up; constant has no warm-up"
    )
    warmup_steps: float = setting(0, "optimiser steps in which the learning rate rises from 0")
    warmup_ratio: float = setting(0.0, "the same as a share of the run, when warmup_steps is 0")

    bf16: bool = setting(False, "run the encoder in bfloat16 where torch's autocast does so")
    fp16: bool = setting(False, "the same in float16, with a scaled loss; needs CUDA")
    gradient_checkpointing: bool = setting(
        False, "compute each layer again in the backward pass: less memory, more time, the same bits"
    )

    logging_strategy: Literal["steps", "epoch", "no"] = setting("steps", "when to write a line of training_log.jsonl")
    logging_steps: float = setting(1, "steps between such lines; a line has the mean loss since the one before")
    eval_strategy: Literal["no", "steps", "epoch"] = setting("no", "when to run the evaluator")
    eval_steps: float | None = setting(None, "steps between evaluations; logging_steps when not given")
    save_strategy: Literal["steps", "epoch", "best", "no"] = setting("steps", "when to write a checkpoint")
    save_steps: float = setting(500, "steps between checkpoints; one more is written at the end")
    save_total_limit: int | None = setting(None, "checkpoints to keep, the best and the last always among them")
    load_best_model_at_end: bool = setting(False, "end with the weights of the best evaluation, not the last")
    metric_for_best_model: str | None = setting(
        None, "the evaluator's metric that tells the best; unless given, its primary one"
    )
    greater_is_better: bool | None = setting(
        None,
        "whether more of it is better; unless given as the evaluator says, or else yes unless its name ends in loss",
    )
    resume_from_checkpoint: str | bool | None = setting(
        None, "go on from this checkpoint; true: from the last one of the output folder, or from the start"
    )

    @classmethod
    def trainer(cls, **settings: Any) -> TrainingRecipe:
        """``SentenceTransformerTrainer`` with its default arguments, but for the settings given.

        One default differs: the log has a line for every step, not for every 500th.

        Raises:
            InputError: a setting is unknown, has no meaning here or has an unusable value.
        """
        return cls._named({"name": "trainer"}, settings)

    @classmethod
    def fit(cls, **settings: Any) -> TrainingRecipe:
        """``SentenceTransformer.fit`` with its default arguments, but for the settings given: AdamW
        step by step at 2e-5 with weight decay 0.01, one epoch, and a linear schedule with 10,000
        steps of warm-up, so that a short run never comes near the full rate.

        A model card that says ``multi_dataset_batch_sampler: round_robin`` comes from such a run;
        the learning rate, optimiser and warm-up that it lists were not used (``fit`` hands the
        trainer an optimiser and a schedule of its own).

        The batch size is that of the ``DataLoader`` given to ``fit``, the order of the data that in
        which it yields the pairs (``fit`` collects them first and shuffles again by ``seed``).
        With an evaluator the output folder holds the best evaluation's weights, as there.

        ``old_fit``, the loop from before version 3, takes its batches as the ``DataLoader`` gives
        them; given these batches it is ``TrainingRecipe.trainer(optim="adamw_torch",
        learning_rate=2e-5, weight_decay=0.01, warmup_steps=10000)``.

        Raises:
            InputError: as for :meth:`trainer`.
        """
        defaults: dict[str, Any] = {
            "name": "fit",
            "optim": "adamw_torch",
            "learning_rate": 2e-5,
            "weight_decay": 0.01,
            "warmup_steps": 10000,
            "num_train_epochs": 1.0,
            "multi_dataset_batch_sampler": "round_robin",
            "save_strategy": "no",
        }
        return cls._named(defaults, settings)

    @classmethod
    def _named(cls, defaults: dict[str, Any], settings: Mapping[str, Any]) -> TrainingRecipe:
        known = {field.name for field in dataclasses.fields(cls)}
        for name in settings:
            if name not in known:
                raise refusal(name)
        return cls(**(defaults | dict(settings)))

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> TrainingRecipe:
        """The recipe that :meth:`to_dict` gave; fields that are missing take the named recipe's value."""
        settings = dict(settings)
        return (cls.fit if settings.get("name") == "fit" else cls.trainer)(**settings)

    def to_dict(self) -> dict[str, Any]:
        """Every field and its value, ready for JSON."""
        return dataclasses.asdict(self)

    def replace(self, **settings: Any) -> TrainingRecipe:
        """A copy with some settings changed."""
        return self._named(self.to_dict(), settings)

    def warmup(self, total_steps: int) -> int:
        """The number of warm-up steps in a run of ``total_steps``."""
        steps = self.warmup_steps or self.warmup_ratio
        return int(steps) if steps >= 1 else math.ceil(total_steps * steps)

    def learning_rate_at(self, step: int, total_steps: int) -> float:
        """The learning rate of the optimiser step that follows ``step`` others.

        Linear: ``lr · step / warmup``, then ``lr · (total − step) / (total − warmup)``, never below 0.
        Cosine: ``lr · (1 + cos(π · (step − warmup) / (total − warmup))) / 2`` after the warm-up.
        """
        warmup = self.warmup(total_steps)
        if self.lr_scheduler_type == "constant":
            return self.learning_rate
        if step < warmup:
            return self.learning_rate * (step / max(1, warmup))
        if self.lr_scheduler_type == "constant_with_warmup":
            return self.learning_rate
        if self.lr_scheduler_type == "linear":
            return self.learning_rate * max(0.0, (total_steps - step) / max(1, total_steps - warmup))
        progress = (step - warmup) / max(1, total_steps - warmup)
        return self.learning_rate * max(0.0, 0.5 * (1.0 + math.cos(math.pi * progress)))

    def every(self, kind: Literal["logging", "eval", "save"], total_steps: int) -> int:
        """The number of steps between two lines, evaluations or checkpoints."""
        steps = getattr(self, f"{kind}_steps") or self.logging_steps
        return math.ceil(total_steps * steps) if steps < 1 else int(steps)

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for field in dataclasses.fields(self):
            _check_type(field.name, getattr(self, field.name), hints[field.name])
        for name in ("per_device_train_batch_size", "gradient_accumulation_steps"):
            _check(name, getattr(self, name), getattr(self, name) >= 1, "at least 1")
        at_least_0 = "learning_rate weight_decay adam_epsilon warmup_steps warmup_ratio max_grad_norm"
        for name in at_least_0.split():
            _check(name, getattr(self, name), 0 <= getattr(self, name) < math.inf, "at least 0")
        _check("warmup_ratio", self.warmup_ratio, self.warmup_ratio <= 1, "at most 1")
        for name in ("adam_beta1", "adam_beta2"):
            _check(name, getattr(self, name), 0 <= getattr(self, name) < 1, "in [0, 1)")
        if self.max_steps <= 0:
            _check("num_train_epochs", self.num_train_epochs, 0 < self.num_train_epochs < 2**63, "above 0, below 2⁶³")
        for name in ("seed", "data_seed"):
            _check(name, getattr(self, name), 0 <= (getattr(self, name) or 0) < 2**32, "in [0, 2³²)")
        for name in ("logging_steps", "eval_steps", "save_steps"):
            steps = 1 if getattr(self, name) is None else getattr(self, name)
            whole = 1 <= steps < math.inf and steps == int(steps)
            _check(name, steps, 0 < steps < 1 or whole, "a whole number, or in (0, 1)")
        if self.bf16 and self.fp16:
            raise InputError("bf16 and fp16 are both set; choose one")
        if self.load_best_model_at_end:
            self._check_best()

    def _check_best(self) -> None:
        if self.eval_strategy == "no":
            raise InputError("load_best_model_at_end needs evaluations: set eval_strategy to steps or epoch")
        if self.save_strategy == "best":
            return
        if self.save_strategy != self.eval_strategy:
            raise InputError(
                f"load_best_model_at_end needs a checkpoint at each best evaluation, but eval_strategy is "
                f"{self.eval_strategy!r} and save_strategy {self.save_strategy!r}; make them equal, or save 'best'"
            )
        evaluate = self.eval_steps or self.logging_steps
        if self.eval_strategy == "steps" and (self.save_steps / evaluate) % 1 > 1e-9:
            raise InputError(
                f"load_best_model_at_end needs save_steps to be a multiple of eval_steps, but they are "
                f"{self.save_steps} and {evaluate}"
            )


def refusal(name: str) -> InputError:
    """Why there is no setting of this name: an error, to be raised."""
    if name in REFUSED:
        return InputError(f"{name} is one of TrainingArguments' fields, but not supported: {REFUSED[name]}")
    known = [field.name for field in dataclasses.fields(TrainingRecipe)]
    near = difflib.get_close_matches(name, known, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else f"the settings are {', '.join(known)}"
    return InputError(f"there is no setting {name}; {hint}")


def _check(name: str, value: object, fits: bool, expected: str) -> None:
    if not fits:
        raise InputError(f"{name} is {value!r}, expected {expected}")


def _check_type(name: str, value: object, hint: Any) -> None:
    choices = get_args(hint)
    if hint in (int, float, bool, str):
        fits = isinstance(value, (int, float) if hint is float else hint)
        fits = fits and (hint is bool or not isinstance(value, bool))
        fits = fits and not (isinstance(value, int) and abs(value) >= 2**63)
        expected = {int: "a whole number", float: "a number", bool: "True or False", str: "a text"}[hint]
        _check(name, value, fits, expected)
    elif choices and isinstance(choices[0], str):
        _check(name, value, value in choices, "one of " + ", ".join(map(repr, choices)))
    elif {str, bool} <= set(choices):
        _check(name, value, isinstance(value, (str, bool, type(None))), "a text, True, False or None")
    elif value is not None:
        _check_type(name, value, choices[0])


# TrainingArguments' other fields, by the reason for which they have no meaning here.
_REFUSED = {
    "the output folder is an argument of train() and of the command, not part of the recipe": "output_dir",
    "the command decides what runs: minilm train, minilm evaluate": "do_train do_eval do_predict",
    "one optimiser is supported, AdamW, set by optim, learning_rate, weight_decay and adam_*": (
        "optim_args optim_target_modules learning_rate_mapping"
    ),
    "the schedules supported have no settings beyond warm-up": "lr_scheduler_kwargs",
    "losses here have no labels": "label_smoothing_factor label_names",
    "it is called gradient_checkpointing here": "activation_checkpointing activation_checkpointing_kwargs",
    "layers are checkpointed in one way only (not re-entrant)": "gradient_checkpointing_kwargs",
    "evaluators are run by eval_strategy and bring their own batch size and metrics": (
        "per_device_eval_batch_size eval_delay eval_on_start eval_do_concat_batches eval_use_gather_object "
        "eval_accumulation_steps include_for_metrics batch_eval_metrics prediction_loss_only bf16_full_eval "
        "fp16_full_eval"
    ),
    "it concerns causal language models": (
        "average_tokens_across_devices use_cache include_num_input_tokens_seen use_liger_kernel liger_kernel_config"
    ),
    "set it in torch (torch.backends, torch.use_deterministic_algorithms)": "tf32 full_determinism",
    "the model is not compiled, since that would change its bits": (
        "torch_compile torch_compile_backend torch_compile_mode"
    ),
    "no noise is added to embeddings": "neftune_noise_alpha",
    "memory is not managed behind the caller's back; lower the batch size or use the cached loss": (
        "torch_empty_cache_steps auto_find_batch_size skip_memory_metrics"
    ),
    "the log is DIR/training_log.jsonl, written by one process, and nothing is sent anywhere": (
        "logging_first_step log_on_each_node log_level log_level_replica report_to run_name project trackio_space_id "
        "trackio_bucket_id trackio_static_space_id disable_tqdm debug"
    ),
    "a loss that is not finite stops the run": "logging_nan_inf_filter",
    "checkpoints always hold all state, written by one process": (
        "save_only_model save_on_each_node enable_jit_checkpoint restore_callback_states_from_checkpoint "
        "ignore_data_skip"
    ),
    "minilm push uploads a folder when the run is done": (
        "push_to_hub hub_token hub_private_repo hub_model_id hub_strategy hub_always_push hub_revision"
    ),
    "the device is the model's: model.to(device), or --device": "use_cpu",
    "processes are started by torchrun, with DistributedDataParallel and nothing else": (
        "accelerator_config parallelism_config local_rank ddp_find_unused_parameters ddp_bucket_cap_mb "
        "ddp_broadcast_buffers ddp_static_graph ddp_backend ddp_timeout fsdp fsdp_config deepspeed"
    ),
    "texts are tokenised in the training process, in the order of the batches": (
        "dataloader_num_workers dataloader_pin_memory dataloader_persistent_workers dataloader_prefetch_factor "
        "dataloader_multiprocessing_context dataloader_in_order remove_unused_columns"
    ),
    "use batch_sampler and multi_dataset_batch_sampler": "train_sampling_strategy length_column_name",
    "put the prompt into the texts": "prompts",
    "there is one encoder for all columns": "router_mapping",
}

# Fields of transformers 4, which older model cards list, and which transformers 5 has no more.
_REFUSED_BEFORE = {
    "a folder that holds a model or a run is never overwritten; resume_from_checkpoint continues it": (
        "overwrite_output_dir"
    ),
    "it is called per_device_train_batch_size; evaluators bring their own batch size": (
        "per_gpu_train_batch_size per_gpu_eval_batch_size"
    ),
    "checkpoints are always safetensors": "save_safetensors",
    "the device is the model's: model.to(device), or --device": (
        "no_cuda use_mps_device tpu_num_cores tpu_metrics_debug mp_parameters"
    ),
    "half precision is torch's autocast, set by bf16 or fp16": "fp16_opt_level half_precision_backend fp16_backend",
    "processes are started by torchrun, with DistributedDataParallel and nothing else": (
        "fsdp_min_num_params fsdp_transformer_layer_cls_to_wrap ray_scope"
    ),
    "one optimiser is supported, AdamW, set by optim, learning_rate, weight_decay and adam_*": "adafactor",
    "batches are drawn as batch_sampler says, whatever the lengths": "group_by_length",
    "the model is not compiled, since that would change its bits": "torchdynamo jit_mode_eval",
    "evaluators are run by eval_strategy and bring their own batch size and metrics": (
        "use_legacy_prediction_loop include_inputs_for_metrics"
    ),
    "it concerns models with a memory of earlier batches": "past_index",
    "minilm push uploads a folder when the run is done": "push_to_hub_model_id push_to_hub_organization",
    "the progress bar shows steps; speed is measured by scripts": "include_tokens_per_second",
}
REFUSED = {
    name: reason
    for refused in (_REFUSED, _REFUSED_BEFORE)
    for reason, names in refused.items()
    for name in names.split()
}
