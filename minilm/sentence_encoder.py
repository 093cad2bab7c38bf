"""The whole road from text to vector: tokens → encoder → mean → length one.

:class:`SentenceEncoder` is sentence-transformers' ``SentenceTransformer`` for this one kind of
model, with its names and arguments, so that code moves over by changing the import.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from minilm import folder as model_folder
from minilm.checkpoint import IGNORED, WEIGHTS_FILE, check_parts, load_encoder
from minilm.devices import best_device, check_device
from minilm.encoder import Attention, Encoder, EncoderOutput
from minilm.errors import (
    CheckpointWarning,
    IgnoredArgumentWarning,
    InputError,
    LossyPrecisionWarning,
    NonFiniteWarning,
    SlowPrecisionWarning,
    TruncationError,
    TruncationWarning,
    caller_level,
    check_choice,
    check_positive,
    describe_cut,
)
from minilm.fused import FusedEncoder, fused, has_fast_bfloat16, why_plain
from minilm.guard import Code, are_busy
from minilm.hub import Origin, find_model, origin
from minilm.layouts import Batch, Layout, PackedBatch, PaddedBatch, TokenIds
from minilm.plan import TOKENS_PER_TEXT, packed_batches, padded_batches
from minilm.pooling import POOLING, PoolingMode, after_pooling, list_after_pooling
from minilm.progress import progress
from minilm.similarity import (
    PRECISIONS,
    SIMILARITY,
    Precision,
    Vectors,
    quantize_embeddings,
    similarity_name,
    truncate_embeddings,
)
from minilm.tokenizer_files import read_tokenizer
from minilm.tokens import Tokenizer, as_python, check_texts, text_items

if TYPE_CHECKING:
    from minilm.internals.intervene import Action
    from minilm.internals.trace import Trace

Truncation: TypeAlias = Literal["warn", "error", "silent"]
NonFinite: TypeAlias = Literal["warn", "error", "silent"]
TokensLost: TypeAlias = Callable[[Mapping[int, int]], object]
OutputValue: TypeAlias = Literal["sentence_embedding", "token_embeddings"]
WeightPrecision: TypeAlias = Literal["int8"]
Engine: TypeAlias = Literal["fast", "plain"]

ENGINES = ("fast", "plain")
Device: TypeAlias = "str | torch.device"


@dataclass(frozen=True)
class SentenceOutput(EncoderOutput):
    """What one forward pass computed.

    Attributes:
        sentence_embedding: ``[B, D]``, pooled and, where the model does so, normalised.
    """

    sentence_embedding: Tensor = field(kw_only=True)

    @property
    def token_embeddings(self) -> Tensor:
        """``[..., D]`` in the batch's layout: the last hidden state."""
        return self.last_hidden_state


class SentenceEncoder(nn.Module):
    """Text in, vectors out.

    ``SentenceEncoder.from_pretrained()`` gives all-MiniLM-L6-v2. The constructor takes the parts,
    for encoders of one's own.

    Args:
        encoder: the BERT encoder.
        tokenizer: splits texts into its token ids.
        normalize: scale vectors to length 1, as all-MiniLM-L6-v2 does.
        prompts: name → text that is put before each text when that name is asked for.
        default_prompt_name: the prompt that is used when none is asked for.
        similarity_fn_name: ``"cosine"``, ``"dot"``, ``"euclidean"`` or ``"manhattan"``, or the member of
            sentence-transformers' ``SimilarityFunction``; None for ``"cosine"``.
        truncate_dim: keep only the first dimensions of each vector.
        pooling_mode: ``"mean"`` of the token vectors, or ``"cls"``, the vector of ``[CLS]``.
        engine: ``"fast"`` or ``"plain"``, see :attr:`engine`.

    Attributes:
        prompts, default_prompt_name, similarity_fn_name, truncate_dim: as given; may be set, and are
            checked then.
        max_seq_length: the most tokens of a text; may be set, up to the encoder's positions.
        unused_tensors: what the checkpoint had beside the encoder; saved again as it came.
        origin: the name and revision on the hub that it was loaded by; None for another model.
    """

    def __init__(
        self,
        encoder: Encoder,
        tokenizer: Tokenizer,
        *,
        normalize: bool = True,
        prompts: Mapping[str, str] | None = None,
        default_prompt_name: str | None = None,
        similarity_fn_name: str | Enum | None = None,
        truncate_dim: int | None = None,
        pooling_mode: PoolingMode = "mean",
        engine: Engine = "fast",
    ):
        super().__init__()
        self.encoder = encoder
        check_choice("pooling_mode", pooling_mode, tuple(POOLING))
        self.pooling = POOLING[pooling_mode]()
        self.normalize = after_pooling([None] if normalize else [])
        self.tokenizer = tokenizer
        # sentence-transformers always knows these two; empty until a checkpoint says otherwise.
        self._default_prompt_name: str | None = None
        self.prompts = prompts or {}
        self.prompts = {"query": "", "document": "", **self.prompts}
        self.default_prompt_name = default_prompt_name
        self.similarity_fn_name = similarity_fn_name
        self.truncate_dim = truncate_dim
        self.engine = engine
        self.unused_tensors: dict[str, Tensor] = {}
        self.origin: Origin | None = None
        self._calibration: PackedBatch | None = None  # for weights in int8

    @classmethod
    def from_pretrained(
        cls,
        model_name_or_path: str | os.PathLike[str] | None = None,
        *,
        device: Device | None = None,
        dtype: torch.dtype | None = None,
        prompts: Mapping[str, str] | None = None,
        default_prompt_name: str | None = None,
        similarity_fn_name: str | Enum | None = None,
        truncate_dim: int | None = None,
        engine: Engine = "fast",
        weight_precision: WeightPrecision | None = None,
        cache_folder: str | os.PathLike[str] | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
        token: bool | str | None = None,
    ) -> SentenceEncoder:
        """Loads a model, in evaluation mode.

        Args:
            model_name_or_path: None for all-MiniLM-L6-v2, verified against its published hashes; or
                a folder in sentence-transformers' format or that of ``BertModel``; or a model id of the hub.
            device: where to put it; None takes CUDA, then MPS, then the CPU.
            dtype: floating-point type; None takes the one that config.json states, or else the weights'.
            prompts, default_prompt_name, similarity_fn_name: override what the folder says.
            truncate_dim: keep only the first dimensions of each vector; None takes what the folder says.
            engine: ``"fast"`` or ``"plain"``, see :attr:`engine`.
            weight_precision: None or ``"int8"``, see :attr:`weight_precision`.
            cache_folder, revision, local_files_only, token: see :func:`minilm.hub.find_model`.

        Raises:
            ModelNotFoundError: the model is nowhere to be had.
            IntegrityError: a file of all-MiniLM-L6-v2 is not the published one.
            CheckpointError: the folder is broken or holds another kind of model.

        Warns:
            CheckpointWarning: names what the folder says that has no effect, and what it leaves open.
        """
        place = check_device(("cpu" if weight_precision else best_device()) if device is None else device)
        path = find_model(model_name_or_path, revision, cache_folder, local_files_only, token)
        pipeline = model_folder.read_folder(path)
        tokenizer = read_tokenizer(
            pipeline.transformer_dir,
            pipeline.tokenizer_config,
            lower_case=pipeline.do_lower_case,
            vocab_size=pipeline.config.vocab_size,
        )
        encoder, ignored = load_encoder(
            pipeline.transformer_dir / WEIGHTS_FILE, pipeline.config, dtype or pipeline.dtype
        )
        model = cls(
            encoder,
            Tokenizer(tokenizer, pipeline.max_seq_length),
            pooling_mode=pipeline.pooling_mode,
            prompts={**pipeline.prompts, **(prompts or {})},
            default_prompt_name=default_prompt_name or pipeline.default_prompt_name,
            similarity_fn_name=similarity_fn_name or pipeline.similarity_fn_name,
            truncate_dim=pipeline.truncate_dim if truncate_dim is None else truncate_dim,
            engine=engine,
        )
        model.normalize = after_pooling(pipeline.after_pooling)
        model.unused_tensors = ignored
        model._tokenizer_config = pipeline.tokenizer_config
        model.origin = origin(model_name_or_path, revision, path)
        model._tokenizer_files = pipeline.tokenizer_files
        model.eval().to(place)
        model.weight_precision = weight_precision
        notes = list(pipeline.notes)
        if heads := sorted({name.partition(".")[0] for name in ignored if name not in IGNORED}):
            notes.append(f"tensors that no vector depends on: {', '.join(heads)}")
        if notes:
            warnings.warn(CheckpointWarning(f"{path}: {'; '.join(notes)}"), stacklevel=caller_level())
        return model

    def save_pretrained(self, path: str | os.PathLike[str]) -> None:
        """Writes a folder that sentence-transformers and :meth:`from_pretrained` load, to the same
        bits. A new folder appears whole or not at all; in one that exists the files are replaced.

        Raises:
            InputError: the model has weights that a folder has no place for, such as LoRA's.
            OSError: the disk is full or may not be written; what was there is unchanged.
        """
        check_parts(self, self.encoder.config, "encoder.")
        folder = Path(path)
        pipeline = model_folder.Pipeline(
            config=self.encoder.config,
            transformer_dir=folder,
            max_seq_length=self.max_seq_length,
            pooling_mode=self.pooling.mode,
            after_pooling=list_after_pooling(self.normalize),
            prompts=self.prompts,
            default_prompt_name=self.default_prompt_name,
            similarity_fn_name=self.similarity_fn_name,
            truncate_dim=self.truncate_dim,
            tokenizer_config=self._tokenizer_config,
            tokenizer_files=self._tokenizer_files,
        )
        model_folder.write_folder(folder, pipeline, self.encoder, self.tokenizer, self.unused_tensors)

    # ---- text → vector, one step after the other ------------------------------------------------

    def tokenize(self, texts: Iterable[str], layout: Layout = "padded") -> Batch:
        """Texts → a batch of token ids on the model's device, cut at :attr:`max_seq_length`. As in the reference,
        no prompt is put before them, the model's default one neither."""
        ids = self.tokenizer(check_texts(texts)).ids
        return self._batch(ids, layout).to(self.device)

    def forward(
        self,
        batch: Batch,
        attention: Attention = "sdpa",
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> SentenceOutput:
        """A batch of token ids → vectors. Gradients flow; arguments as for :class:`Encoder`."""
        return self._pool(self.encoder(batch, attention, output_hidden_states, output_attentions), batch)

    def _pool(self, encoded: EncoderOutput, batch: Batch) -> SentenceOutput:
        pooled = self.pooling(encoded.last_hidden_state, batch)
        return SentenceOutput(
            encoded.last_hidden_state,
            encoded.hidden_states,
            encoded.attentions,
            sentence_embedding=self.normalize(pooled),
        )

    def encode(
        self,
        inputs: str | Iterable[str],
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        output_value: OutputValue | None = "sentence_embedding",
        precision: Precision | None = "float32",
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: Device | Sequence[Device] | None = None,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        pool: Any = None,
        chunk_size: int | None = None,
        *,
        layout: Layout = "packed",
        engine: Engine | None = None,
        truncation: Truncation | TokensLost = "warn",
        non_finite: NonFinite = "warn",
        output: str | os.PathLike[str] | Callable[[int, Any], object] | None = None,
        resume: bool = True,
    ) -> Any:
        """Encodes texts, without tracking gradients. Leaves the model in evaluation mode.

        :attr:`engine` chooses what runs. ``"fast"``, the default, is a second implementation for the packed layout on
        a CPU (fused.py). It gives way to ``"plain"``, which calls ``self(batch)``, wherever that could show something
        else; :meth:`why_plain` says why. With either, a change of the model shows in the very next call.

        Args:
            inputs: one text, or many: a list, a tuple, a generator, a NumPy array, a pandas Series,
                a column of a ``datasets.Dataset``.
            prompt_name, prompt: text to put before each text, by name or as it is.
            batch_size: texts at a time in the padded layout; in the packed one, up to
                ``128 * batch_size`` tokens at a time.
            show_progress_bar: None shows one on a terminal when it takes more than a second.
            output_value: ``"sentence_embedding"``; ``"token_embeddings"`` for the last hidden state
                of every token, padding removed, ``[CLS]`` and ``[SEP]`` kept; None for a dict of
                both, the token ids and the mask for each text.
            precision: of the result; see :func:`~minilm.similarity.quantize_embeddings`. Token embeddings are
                then NumPy arrays, as in the reference, and int8 has one range for the tokens of all texts.
            convert_to_numpy, convert_to_tensor: the kind of result. Both False: a list of tensors.
            device: moves the model there first. A list of devices starts a process for each.
            normalize_embeddings: scale to length 1 once more, after ``truncate_dim``.
            truncate_dim: keep the first dimensions; None takes the model's setting.
            pool, chunk_size: from :meth:`start_multi_process_pool`; texts to a process at a time.
            layout: ``"packed"`` is fast; on the fast engine it gives a text the same bits whatever else is in the
                call, in whatever order and batch size, at a fixed number of threads (invariance.py). On the plain
                engine, as with a hook set, a vector may differ in its last bits with the texts beside it.
                ``"padded"`` forms the reference's batches and gives the bits that
                ``SentenceTransformer.encode`` gives with the same arguments, always with the plain engine.
            engine: ``"fast"`` or ``"plain"`` for this call; None takes the model's.
            truncation: what to do about texts over the limit: ``"warn"`` with a
                :class:`TruncationWarning`, ``"error"`` with a :class:`TruncationError` before
                anything is computed, or ``"silent"``; or a function that takes text index → tokens lost.
            non_finite: what to do about vectors with NaN or infinite numbers, which broken weights or a narrow
                type give: ``"warn"`` with a :class:`NonFiniteWarning`, ``"error"`` or ``"silent"``.
            output: texts of any number in constant memory, ``chunk_size`` at a time or as many as
                suit; the padded layout forms the reference's batches within these. A file's name
                (.npy, .safetensors, .jsonl): the vectors go there, on the disk chunk by chunk. A
                function: is called with each chunk, in order: the number of texts before it, its vectors.
            resume: after a run that was killed, the same call goes on after what is in the file, and
                ends with the same bits (on the same machine and threads). False begins anew.

        Returns:
            float32 ``[n, D]`` for many texts, ``(0, D)`` for none, ``[D]`` for one string. As in the
            reference: bfloat16 becomes float32 in NumPy, and dicts and token embeddings are tensors.
            With a file for ``output``, its vectors as a read-only ``numpy.memmap`` (None for JSONL).

        Raises:
            TextTypeError: an input is not a string; names it.
            InputError: an argument cannot be used; or see ``non_finite``.
            TruncationError: see ``truncation``.
            OSError: ``output`` cannot be written; what is there so far can be gone on with.
        """
        if output is not None:
            options = {name: value for name, value in locals().items() if name not in ("self", "inputs")}
            from minilm.streaming import encode_to

            return encode_to(self, text_items(inputs), **options)
        check_choice("layout", layout, ("packed", "padded"))
        check_choice("engine", engine or self.engine, ENGINES)
        if not callable(truncation):
            check_choice("truncation", truncation, ("warn", "error", "silent"))
        check_choice("non_finite", non_finite, ("warn", "error", "silent"))
        check_choice("output_value", output_value, ("sentence_embedding", "token_embeddings", None))
        check_choice("precision", precision or "float32", PRECISIONS)
        if output_value is None and precision not in (None, "float32"):
            raise InputError(f"precision is {precision!r}, but a dict of everything (output_value=None) is float only")
        check_positive(batch_size=batch_size)
        if truncate_dim is not None:
            check_positive(truncate_dim=truncate_dim)
        texts, single = _as_texts(inputs)
        options = {
            "prompt": self._resolve_prompt(prompt, prompt_name),
            "batch_size": batch_size,
            "output_value": output_value,
            "normalize_embeddings": normalize_embeddings,
            "truncate_dim": self.truncate_dim if truncate_dim is None else truncate_dim,
            "layout": layout,
            "engine": engine,
            "truncation": truncation,
        }
        devices = None if device is None or isinstance(device, (str, torch.device)) else device
        if pool is not None or devices is not None:
            from minilm.multi_process import encode_in_pool

            rows = encode_in_pool(self, texts, pool, devices, chunk_size, show_progress_bar, options)
        else:
            if isinstance(device, (str, torch.device)):
                self.to(check_device(device))
            rows = self.encode_texts(texts, show_progress_bar=show_progress_bar, **options)

        self.report_non_finite(rows, texts, non_finite)
        if output_value == "token_embeddings" and precision not in (None, "float32"):
            rows = _quantize_tokens(rows, precision)
        if output_value != "sentence_embedding":
            return rows[0] if single else rows
        if precision not in (None, "float32"):
            rows = torch.from_numpy(quantize_embeddings(rows, precision))
        if convert_to_tensor:
            return rows[0] if single else rows
        if convert_to_numpy:
            array = (rows.float() if rows.dtype == torch.bfloat16 else rows).cpu().numpy()
            return array[0] if single else array
        return rows[0] if single else list(rows)

    def encode_query(
        self, inputs: str | Iterable[str], prompt_name: str | None = None, prompt: str | None = None, **options: Any
    ) -> Any:
        """:meth:`encode`; when no prompt is given, with the model's prompt named "query", or else the
        default one."""
        if prompt_name is None and prompt is None and "query" in self.prompts:
            prompt_name = "query"
        return self.encode(inputs, prompt_name, prompt, **options)

    def encode_document(
        self, inputs: str | Iterable[str], prompt_name: str | None = None, prompt: str | None = None, **options: Any
    ) -> Any:
        """:meth:`encode`; when no prompt is given, with :meth:`document_prompt`."""
        if prompt_name is None and prompt is None:
            prompt = self.document_prompt()
        return self.encode(inputs, prompt_name, prompt, **options)

    def document_prompt(self) -> str:
        """What :meth:`encode_document` puts before each text: the prompt named "document", "passage" or "corpus", the
        first that the model has, or else the default one."""
        name = next((name for name in ("document", "passage", "corpus") if name in self.prompts), None)
        return self._resolve_prompt(None, name)

    def encode_stream(self, texts: Iterable[str], **options: Any) -> Iterator[tuple[int, Any]]:
        """:meth:`encode` for texts of any number, in constant memory.

        Args:
            texts: any iterable; it is read as its vectors are asked for.
            options: those of :meth:`encode`, but for ``output`` and ``resume``. ``chunk_size`` is the
                number of texts at a time. What needs all vectors at once cannot be streamed: int8
                and uint8. With a pool, several chunks are under way at a time.

        Yields:
            ``(start, vectors)`` for each chunk, in order: the number of texts before it, its vectors.

        Raises:
            InputError: an option cannot be used; at once.
            TextTypeError, TruncationError: see :meth:`encode`; the texts' numbers are those in the stream.
        """
        from minilm.streaming import encode_stream

        return encode_stream(self, text_items(texts), **options)

    @torch.inference_mode()
    def encode_texts(
        self,
        texts: Sequence[str],
        *,
        prompt: str,
        batch_size: int,
        show_progress_bar: bool | None,
        output_value: OutputValue | None,
        normalize_embeddings: bool,
        truncate_dim: int | None,
        layout: Layout,
        engine: Engine | None,
        truncation: Truncation | TokensLost,
    ) -> Any:
        """The part of :meth:`encode` that runs in one process: checked arguments in, rows out, one
        tensor ``[n, D]`` or, for other outputs than sentence embeddings, a list."""
        if layout == "packed" and output_value == "sentence_embedding" and len(set(texts)) < len(texts):
            # Equal texts have equal vectors: each distinct one is encoded once.
            place = {text: i for i, text in enumerate(dict.fromkeys(texts))}
            places = [place[text] for text in texts]

            def report(lost: Mapping[int, int]) -> None:
                everywhere = {i: lost[place] for i, place in enumerate(places) if place in lost}
                self.report_truncation(everywhere, truncation, len(texts))

            vectors = self.encode_texts(
                list(place),
                prompt=prompt,
                batch_size=batch_size,
                show_progress_bar=show_progress_bar,
                output_value=output_value,
                normalize_embeddings=normalize_embeddings,
                truncate_dim=truncate_dim,
                layout=layout,
                engine=engine,
                truncation=report,
            )
            return vectors[places]
        fast = self._prepare(layout, engine)
        tokenized = self.tokenizer([prompt + text for text in texts] if prompt else texts)
        self.report_truncation(tokenized.tokens_lost, truncation, len(texts))
        rows: list[Any] = [None] * len(texts)
        vectors = torch.empty(len(texts), self._dimension(truncate_dim), dtype=self.dtype, device=self.device)
        if layout == "padded":
            batches = padded_batches(texts, batch_size)
        else:
            batches = packed_batches([len(ids) for ids in tokenized.ids], batch_size * TOKENS_PER_TEXT)
        with progress(len(texts), "Encoding", show_progress_bar, unit=" texts") as bar:
            for indices in batches:
                batch = self._batch([tokenized.ids[i] for i in indices], layout).to(self.device)
                if fast is not None and isinstance(batch, PackedBatch):
                    output = self._pool(fast(batch), batch)
                else:
                    output = self(batch)
                embeddings = truncate_embeddings(output.sentence_embedding, truncate_dim)
                if output_value == "sentence_embedding":
                    if normalize_embeddings:
                        embeddings = nn.functional.normalize(embeddings, p=2, dim=1)
                    vectors[indices] = embeddings
                else:
                    for index, row in zip(indices, _rows(batch, output, embeddings, output_value), strict=True):
                        rows[index] = row
                bar.update(len(indices))
        return vectors if output_value == "sentence_embedding" else rows

    def why_plain(self, layout: Layout = "packed", engine: Engine | None = None) -> str | None:
        """Why :meth:`encode` would now run the plain modules and not the fast engine; None where it would run the
        fast one. :meth:`encode` ends training mode, this does not."""
        return self._own_reason(layout, engine) or why_plain(self.encoder, self._calibration)

    def _own_reason(self, layout: Layout, engine: Engine | None) -> str | None:
        """The pipeline's part of :meth:`why_plain`; fused.py knows the encoder's."""
        if layout == "padded":
            return "the padded layout is always the plain modules'"
        if (engine or self.engine) == "plain":
            return "the engine is 'plain'"
        if type(self).forward is not SentenceEncoder.forward or type(self).__call__ is not SentenceEncoder.__call__:
            return f"{type(self).__name__} has a forward of its own"
        if changed := _FORWARD.changed():
            return f"{changed} was replaced"
        if are_busy(self._forward_hooks) or are_busy(self._forward_pre_hooks):
            return "the model has a forward hook"
        if not {"forward", "_pool"}.isdisjoint(self.__dict__):
            return "the model has a forward of its own"
        return None

    def _prepare(self, layout: Layout, engine: Engine | None) -> FusedEncoder | None:
        """Leaves the model in evaluation mode. Returns the fast engine where that does what :meth:`forward` does."""
        if self.dtype == torch.bfloat16 and self.device.type == "cpu" and not has_fast_bfloat16():
            message = "this processor emulates bfloat16, up to a hundred times slower than float32; use float32"
            warnings.warn(SlowPrecisionWarning(message), stacklevel=caller_level())
        reason = self._own_reason(layout, engine)
        fast = fused(self.encoder, self._calibration) if reason is None else None
        if fast is None or self.training:  # else all is in evaluation mode, and to look takes a single query's time
            self.eval()
            fast = fused(self.encoder, self._calibration) if reason is None else None
        if fast is None and layout == "packed" and self._calibration is not None:
            raise InputError(
                "weight_precision is 'int8', which only the fast engine has, and it cannot run: "
                f"{self.why_plain(layout, engine)}; set model.weight_precision to None"
            )
        return fast

    def _batch(self, ids: TokenIds, layout: Layout) -> Batch:
        if layout == "padded":
            return PaddedBatch.from_ids(ids, self.tokenizer.pad_token_id)
        return PackedBatch.from_ids(ids)

    def tokens_lost(
        self, texts: Iterable[str], prompt_name: str | None = None, prompt: str | None = None
    ) -> dict[int, int]:
        """Text index → number of tokens that :meth:`encode` would cut off, with the same prompt, for the texts that
        it would cut."""
        before = self._resolve_prompt(prompt, prompt_name)
        return self.tokenizer([before + text for text in check_texts(texts)]).tokens_lost

    def report_truncation(
        self, tokens_lost: Mapping[int, int], truncation: Truncation | TokensLost, total: int
    ) -> None:
        """Says which texts are over the limit, as ``truncation`` asks (see :meth:`encode`)."""
        if not tokens_lost or truncation == "silent":
            return
        if callable(truncation):
            truncation(tokens_lost)
            return
        message = describe_cut(tokens_lost, total, self.max_seq_length)
        if truncation == "error":
            raise TruncationError(f"{message}; split them, or allow the cut with truncation='warn'.", tokens_lost)
        message += "; the rest of each was cut off and has no effect on its vector."
        warnings.warn(TruncationWarning(message, tokens_lost), stacklevel=caller_level())

    def report_non_finite(self, rows: Any, texts: Sequence[str], non_finite: NonFinite) -> None:
        """Says for which texts the rows of :meth:`encode_texts` have numbers that are not finite, as ``non_finite``
        asks (see :meth:`encode`)."""
        if non_finite == "silent" or (isinstance(rows, Tensor) and math.isfinite(rows.sum())):
            return
        vectors = [row["sentence_embedding"] if isinstance(row, dict) else row for row in rows]
        broken = [text for text, vector in zip(texts, vectors, strict=True) if not vector.isfinite().all()]
        if not broken:  # the sum alone was too large
            return
        message = (
            f"the model gives vectors with NaN or infinite numbers for {len(broken):,} of {len(texts):,} texts, first "
            f"for {broken[0]!r:.80}; its weights are broken, or its floating-point type is too narrow"
        )
        if non_finite == "error":
            raise InputError(message)
        warnings.warn(NonFiniteWarning(message), stacklevel=caller_level())

    # ---- similarity -----------------------------------------------------------------------------

    def similarity(self, embeddings1: Vectors, embeddings2: Vectors) -> Tensor:
        """Similarity of every pair, ``[n, D]``, ``[m, D]`` → ``[n, m]``, by ``similarity_fn_name``."""
        return SIMILARITY[self.similarity_fn_name][0](embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: Vectors, embeddings2: Vectors) -> Tensor:
        """Similarity of the vectors at equal places, ``[n, D]`` twice → ``[n]``."""
        return SIMILARITY[self.similarity_fn_name][1](embeddings1, embeddings2)

    # ---- looking inside -------------------------------------------------------------------------

    def trace(
        self, texts: Iterable[str], names: str | Iterable[str] = "*", layout: Layout = "padded", **options: Any
    ) -> Trace:
        """Every intermediate of a forward pass by name: see :func:`minilm.internals.trace.trace`."""
        from minilm.internals.trace import trace

        return trace(self, texts, names, layout, **options)

    def intervene(self, actions: Mapping[str, Action | Tensor]) -> AbstractContextManager[None]:
        """Changes named activations within a ``with`` block: see
        :func:`minilm.internals.intervene.intervene`."""
        from minilm.internals.intervene import intervene

        return intervene(self, actions)

    # ---- several processes ----------------------------------------------------------------------

    def start_multi_process_pool(self, target_devices: Sequence[Device] | None = None) -> Any:
        """Starts a process for each device, for ``encode(..., pool=pool)``; None: every GPU, or
        else four processes on the CPU. Usable as a context manager."""
        from minilm.multi_process import Pool

        return Pool(self, target_devices)

    @staticmethod
    def stop_multi_process_pool(pool: Any) -> None:
        """Ends the processes of a pool."""
        pool.stop()

    # ---- settings -------------------------------------------------------------------------------

    @property
    def tokenizer(self) -> Tokenizer:
        """Splits texts into token ids; may be replaced by one whose ids the encoder has vectors for."""
        return self._tokenizer

    @tokenizer.setter
    def tokenizer(self, value: Tokenizer) -> None:
        if value.vocab_size > self.encoder.config.vocab_size:
            raise InputError(
                f"the tokenizer's ids go up to {value.vocab_size - 1}, but the encoder has vectors for "
                f"{self.encoder.config.vocab_size} ids"
            )
        value.limit_to(self.encoder.config.max_position_embeddings)
        self._tokenizer = value
        self._tokenizer_config: dict[str, Any] = {}  # what the folder said was about the one before
        self._tokenizer_files: dict[str, bytes] = {}

    @property
    def max_seq_length(self) -> int:
        """The most tokens of a text, ``[CLS]`` and ``[SEP]`` counted; longer texts are cut."""
        return self.tokenizer.max_seq_length

    @max_seq_length.setter
    def max_seq_length(self, value: int) -> None:
        self.tokenizer.max_seq_length = value

    @property
    def engine(self) -> Engine:
        """What :meth:`encode` runs. May be set.

        ``"fast"``: prepacked weights and fused operations (fused.py), for the packed layout on a CPU. It stands for the
        plain modules only while it computes the same: it is compared with them on a small batch when it is made, and
        made again when a weight, an attribute or a module has changed, whatever wrote it (guard.py). Where a hook is
        set, a function or class of encoder.py was replaced, or the comparison fails (an :class:`EngineWarning`), the
        plain modules run. :meth:`why_plain` tells the reason.

        ``"plain"``: ``self(batch)``, what encoder.py says, line by line.
        """
        return self._engine

    @engine.setter
    def engine(self, value: Engine) -> None:
        check_choice("engine", value, ENGINES)
        self._engine: Engine = value

    @property
    def prompts(self) -> dict[str, str]:
        """Name → text that is put before each text when that name is asked for. Where it is set, None stands for an
        empty text.

        Raises:
            InputError: it is not a dict of names and texts, or has no :attr:`default_prompt_name`.
        """
        return self._prompts

    @prompts.setter
    def prompts(self, value: Mapping[str, str | None]) -> None:
        if not isinstance(value, Mapping) or not all(
            isinstance(name, str) and isinstance(prompt, str | None) for name, prompt in value.items()
        ):
            raise InputError(f"prompts is {value!r}, expected a dict of names and texts")
        if self.default_prompt_name not in (None, *value):
            raise InputError(
                f"prompts has no {self.default_prompt_name!r}, which is the default_prompt_name; set that to None first"
            )
        self._prompts = {name: prompt or "" for name, prompt in value.items()}

    @property
    def default_prompt_name(self) -> str | None:
        """The prompt that is used when none is asked for; None for no prompt."""
        return self._default_prompt_name

    @default_prompt_name.setter
    def default_prompt_name(self, value: str | None) -> None:
        self._default_prompt_name = None if value is None else self._check_prompt_name(value)

    @property
    def similarity_fn_name(self) -> str:
        """How :meth:`similarity` compares: ``"cosine"``, ``"dot"``, ``"euclidean"`` or ``"manhattan"``. May be set to
        a member of sentence-transformers' ``SimilarityFunction``, or to None for ``"cosine"``."""
        return self._similarity_fn_name

    @similarity_fn_name.setter
    def similarity_fn_name(self, value: str | Enum | None) -> None:
        self._similarity_fn_name = "cosine" if value is None else similarity_name(value, "similarity_fn_name")

    @property
    def truncate_dim(self) -> int | None:
        """:meth:`encode` keeps this many dimensions of each vector; None for all."""
        return self._truncate_dim

    @truncate_dim.setter
    def truncate_dim(self, value: int | None) -> None:
        if value is not None:
            check_positive(truncate_dim=value)
        self._truncate_dim = None if value is None else int(value)

    @property
    def weight_precision(self) -> WeightPrecision | None:
        """None: weights are multiplied in their own type. May be set to ``"int8"``: :meth:`encode` then rounds weights
        and activations to 8 bits in its packed layout, which is faster on processors with VNNI and without
        bfloat16, and changes the vectors a little (int8.py); a :class:`LossyPrecisionWarning` says how much, as
        measured on a few texts. All else, the padded layout included, computes with the float weights.

        Raises:
            InputError: the model is not float32 on the CPU, or the processor has no instructions for it.
        """
        return "int8" if self._calibration is not None else None

    @weight_precision.setter
    def weight_precision(self, value: WeightPrecision | None) -> None:
        check_choice("weight_precision", value, (None, "int8"))
        self._calibration = None
        if value is None:
            return
        from minilm.int8 import calibration, check_can_quantise
        from minilm.parity import TEXTS

        check_can_quantise(self.encoder)
        exact = self.encode(TEXTS, truncation="silent", normalize_embeddings=True, show_progress_bar=False)
        self._calibration = calibration(self.tokenizer, TEXTS)
        try:
            ours = self.encode(TEXTS, truncation="silent", normalize_embeddings=True, show_progress_bar=False)
        except BaseException:
            self._calibration = None
            raise
        cosines = (exact * ours).sum(1)
        warnings.warn(
            LossyPrecisionWarning(
                f"int8 weights change the vectors: cosine with float32's {cosines.mean():.4f} on average, "
                f"{cosines.min():.4f} at least, on {len(TEXTS)} texts"
                + ("; bfloat16 is closer, and with AMX faster" if has_fast_bfloat16() else "")
            ),
            stacklevel=caller_level(),
        )

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.encoder.embeddings.word.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The floating-point type of the weights."""
        return self.encoder.embeddings.word.weight.dtype

    def get_embedding_dimension(self) -> int:
        """The number of dimensions of the vectors that :meth:`encode` gives."""
        return self._dimension(self.truncate_dim)

    get_sentence_embedding_dimension = get_embedding_dimension

    def _dimension(self, truncate_dim: int | None) -> int:
        return min(truncate_dim or self.encoder.config.hidden_size, self.encoder.config.hidden_size)

    def _resolve_prompt(self, prompt: str | None, prompt_name: str | None) -> str:
        """What :meth:`encode` puts before each text; ``prompt`` goes before ``prompt_name``, as in the reference."""
        if prompt is not None:
            if not isinstance(prompt, str):
                raise InputError(f"prompt is {prompt!r}, expected a string")
            if prompt_name is not None:
                message = f"prompt and prompt_name are both given; prompt_name={prompt_name!r} is ignored"
                warnings.warn(IgnoredArgumentWarning(message), stacklevel=caller_level())
            return prompt
        name = self.default_prompt_name if prompt_name is None else prompt_name
        return "" if name is None else self.prompts[self._check_prompt_name(name)] or ""

    def _check_prompt_name(self, name: str) -> str:
        if name not in list(self.prompts):  # a list, since anything may be given as a name
            raise InputError(f"there is no prompt named {name!r}; there are {sorted(self.prompts)}")
        return name


def _rows(batch: Batch, output: SentenceOutput, embeddings: Tensor, output_value: OutputValue | None) -> list[Any]:
    """One item for each text of a batch: its token vectors, or a dict of everything."""
    tokens = batch.texts(output.token_embeddings)
    if output_value == "token_embeddings":
        return tokens
    return [
        {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "token_embeddings": hidden,
            "sentence_embedding": embedding,
        }
        for ids, hidden, embedding in zip(batch.texts(batch.input_ids), tokens, embeddings, strict=True)
    ]


def _quantize_tokens(rows: list[Tensor], precision: Precision) -> list[Any]:
    """The token vectors of each text in ``precision``, ``[t, D]``; of all texts at once, which have one range."""
    if not rows:
        return []
    ends = np.cumsum([len(row) for row in rows])[:-1]
    return np.split(quantize_embeddings(torch.cat(rows), precision), ends)


def _as_texts(inputs: object) -> tuple[list[str], bool]:
    """Whatever holds texts → a list of them, and whether it was a single one."""
    text = as_python(inputs)
    single = isinstance(text, str)
    return check_texts([text] if single else inputs), single


# What encode with the fast engine does not call, but must agree with.
_FORWARD = Code((SentenceEncoder, "forward"), (SentenceEncoder, "_pool"), (SentenceEncoder, "__call__"))
