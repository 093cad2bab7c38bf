"""Encoding as a stream: any number of texts in constant memory, into a file that survives a kill.

The texts are taken some thousands at a time, and each of these chunks is one call of
:meth:`SentenceEncoder.encode`. Where a chunk ends depends on its texts alone, so a run that goes on
where an earlier one was killed forms the same chunks and ends with the same bits.
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import json
import os
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from contextvars import copy_context
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from minilm.checkpoint import weights_sha256
from minilm.errors import InputError, TruncationError, TruncationWarning, describe_cut
from minilm.pooling import list_after_pooling
from minilm.progress import progress
from minilm.tokens import as_python, check_texts, text_items
from minilm.vector_files import VectorFile, check_format

if TYPE_CHECKING:
    from minilm.sentence_encoder import SentenceEncoder

# A chunk ends with whichever comes first: enough texts to sort by length, few enough characters for
# their tokens to need little memory, and a few seconds' work to lose in a kill.
MOST_TEXTS = 8192
MOST_CHARACTERS = 1 << 19

TEXTS_NAMED = 1000  # of those that were cut; the others are counted
_SAMPLE = 64  # texts of a chunk from which the progress bar estimates its tokens

# Arguments of encode that have no part in the vectors, or stand in a run's description in another form.
_NOT_IN_RUN = {"self", "inputs", "output", "resume", "prompt_name", "output_value", "show_progress_bar"}
_NOT_IN_RUN |= {"convert_to_numpy", "convert_to_tensor", "device", "pool", "truncation", "non_finite"}


@dataclass
class Cut:
    """What was cut off so far, in the order of the texts."""

    texts: int = 0
    first: dict[int, int] = field(default_factory=dict)

    def add(self, tokens_lost: Mapping[int, int]) -> None:
        """Counts the texts that a chunk lost tokens of."""
        self.texts += len(tokens_lost)
        self.first |= dict(sorted(tokens_lost.items())[: max(0, TEXTS_NAMED - len(self.first))])

    def describe(self, total: int, limit: int, first: int = 0) -> str:
        """As :func:`~minilm.errors.describe_cut`."""
        return describe_cut(self.first, total, limit, first, self.texts)


@dataclass(frozen=True)
class Chunk:
    """Some texts of a stream, and their vectors ``[n, D]``; ``start`` is the first one's place in the stream."""

    start: int
    texts: list[str]
    vectors: Any
    tokens_lost: dict[int, int]


def encode_stream(model: SentenceEncoder, texts: Iterable[object], **options: Any) -> Iterator[tuple[int, Any]]:
    """:meth:`SentenceEncoder.encode_stream`. The options are checked at once, the texts as they come."""
    options = _with_prompt(model, options)
    _check_options(model, options)
    return ((chunk.start, chunk.vectors) for chunk in _stream(model, texts, options))


def encode_to(model: SentenceEncoder, texts: Iterable[object], output: Any, resume: bool, **options: Any) -> Any:
    """:meth:`SentenceEncoder.encode` with ``output``: see there."""
    options = _with_prompt(model, options)
    if callable(output):
        _check_options(model, options)
        show = options.get("show_progress_bar")
        for chunk in _with_progress(model, _stream(model, texts, options), options, _length(texts), show):
            output(chunk.start, chunk.vectors)
        return None
    if not isinstance(output, (str, os.PathLike)):
        raise InputError(f"output is {type(output).__name__}, expected a file's name or a function")
    cut, file = encode_to_file(model, texts, output, resume=resume, total=_length(texts), **options)
    _warn(model, cut, file.rows, options.get("truncation", "warn"))
    return file.open_array()


def encode_to_file(
    model: SentenceEncoder,
    texts: Iterable[object],
    path: str | os.PathLike[str],
    *,
    resume: bool = True,
    total: int | None = None,
    say: Callable[[str], None] | None = None,
    show_progress_bar: bool | None = None,
    **options: Any,
) -> tuple[Cut, VectorFile]:
    """Encodes a stream into a file; goes on where an earlier run of the same texts and options was ended.

    Args:
        path: ends in .npy, .safetensors or .jsonl.
        resume: False begins anew.
        total: the number of texts, for the progress bar, when it is known.
        say: is told that an earlier run is gone on with.
        show_progress_bar, options: as in :meth:`SentenceEncoder.encode`.

    Returns:
        What was cut off, in all the runs together, and the file, which is whole and closed.

    Raises:
        InputError: an option cannot be used; or an earlier run left rows of another model, other
            options or other texts; says what differs.
        OSError: the file cannot be written.
    """
    check_format(path)
    options = _with_prompt(model, options)
    sample = _check_options(model, options)
    if not options.get("convert_to_numpy", True) or options.get("convert_to_tensor"):
        raise InputError("vectors go into a file as arrays: leave convert_to_numpy and convert_to_tensor as they are")
    chunks = split(texts, options.get("chunk_size"))
    digest = hashlib.sha256()
    with VectorFile(path, sample.shape[1], sample.dtype, _describe(model, options), resume) as file:
        cut = Cut()
        if file.rows:
            _pass_over(chunks, file, digest)
            cut = Cut(file.state["cut"]["texts"], {int(i): lost for i, lost in file.state["cut"]["first"].items()})
            if say:
                say(f"going on after the {file.rows:,} texts that an earlier run has encoded")
        encoded = encode_chunks(model, chunks, options)
        for chunk in _with_progress(model, encoded, options, total, show_progress_bar, file.rows):
            _feed(digest, chunk.texts)
            cut.add(chunk.tokens_lost)
            state = {"texts_sha256": digest.hexdigest(), "cut": dataclasses.asdict(cut)}
            file.append(chunk.texts, chunk.vectors, state)
        file.finish()
    return cut, file


def encode_chunks(
    model: SentenceEncoder, chunks: Iterable[tuple[int, list[str]]], options: Mapping[str, Any]
) -> Iterator[Chunk]:
    """Encodes chunks, in order. With a pool or several devices, two for each process are under way at a time.

    Raises:
        TruncationError: with ``truncation="error"``; the texts' numbers are those in the stream.
    """
    options = {**_with_prompt(model, options), "show_progress_bar": False}
    truncation = options.pop("truncation", "warn")

    def encode(start: int, texts: list[str]) -> Chunk:
        lost: dict[int, int] = {}

        def collect(found: Mapping[int, int]) -> None:
            lost.update({start + index: count for index, count in found.items()})
            if truncation == "error":
                message = describe_cut(lost, start + len(texts), model.max_seq_length)
                raise TruncationError(f"{message}; split them, or allow the cut with truncation='warn'.", lost)

        chosen = {**options, "chunk_size": len(texts)} if options.get("pool") else options
        return Chunk(start, texts, model.encode(texts, truncation=collect, **chosen), lost)

    def told(chunk: Chunk) -> Chunk:
        if callable(truncation) and chunk.tokens_lost:
            truncation(chunk.tokens_lost)
        return chunk

    with ExitStack() as stack:
        device = options.get("device")
        if not options.get("pool") and device is not None and not isinstance(device, (str, torch.device)):
            options |= {"pool": stack.enter_context(model.start_multi_process_pool(device)), "device": None}
        if not options.get("pool"):
            for start, texts in chunks:
                yield told(encode(start, texts))
            return
        ahead = 2 * len(options["pool"].processes)
        executor = stack.enter_context(ThreadPoolExecutor(ahead))
        stack.callback(executor.shutdown, cancel_futures=True)
        under_way: deque[Future[Chunk]] = deque()
        for start, texts in chunks:
            # In this thread's context, since interventions, which do not reach other processes, are known by it.
            under_way.append(executor.submit(copy_context().run, encode, start, texts))
            if len(under_way) == ahead:
                yield told(under_way.popleft().result())
        while under_way:
            yield told(under_way.popleft().result())


def split(texts: Iterable[object], size: int | None = None) -> Iterator[tuple[int, list[str]]]:
    """A stream of texts in chunks of ``size``, or of :data:`MOST_TEXTS` or :data:`MOST_CHARACTERS`, each with
    the number of texts before it.

    Raises:
        TextTypeError: an item is not a string; names it by its place in the stream.
    """
    start, characters = 0, 0
    chunk: list[object] = []
    for item in text_items(texts):
        chunk.append(text := as_python(item))
        characters += len(text) if isinstance(text, str) else 0
        if len(chunk) == (size or MOST_TEXTS) or (not size and characters >= MOST_CHARACTERS):
            yield start, check_texts(chunk, start)
            start, characters, chunk = start + len(chunk), 0, []
    if chunk:
        yield start, check_texts(chunk, start)


def _stream(model: SentenceEncoder, texts: Iterable[object], options: Mapping[str, Any]) -> Iterator[Chunk]:
    """The chunks, and at their end the report of what was cut."""
    cut, total = Cut(), 0
    for chunk in encode_chunks(model, split(texts, options.get("chunk_size")), options):
        cut.add(chunk.tokens_lost)
        total += len(chunk.texts)
        yield chunk
    _warn(model, cut, total, options.get("truncation", "warn"))


def _with_progress(
    model: SentenceEncoder,
    chunks: Iterator[Chunk],
    options: Mapping[str, Any],
    total: int | None,
    show: bool | None,
    done: int = 0,
) -> Iterator[Chunk]:
    """The chunks, under a bar of texts and tokens."""
    tokens = 0.0
    with progress(total, "Encoding", show, unit=" texts", initial=done) as bar:
        for chunk in chunks:
            yield chunk
            if hasattr(bar, "format_dict") and (seconds := bar.format_dict["elapsed"]):  # it is seen
                tokens += _tokens(model, chunk.texts, options)
                bar.set_postfix_str(f"≈ {tokens / seconds:,.0f} tokens/s", refresh=False)
            bar.update(len(chunk.texts))


def _warn(model: SentenceEncoder, cut: Cut, total: int, truncation: Any) -> None:
    if cut.texts and truncation == "warn":
        from minilm.errors import caller_level

        message = cut.describe(total, model.max_seq_length)
        message += "; the rest of each was cut off and has no effect on its vector."
        warnings.warn(TruncationWarning(message, cut.first), stacklevel=caller_level())


def _check_options(model: SentenceEncoder, options: Mapping[str, Any]) -> Any:
    """No vectors, of the shape and type that the stream will have; or the error for what cannot stream."""
    if {"output", "resume"} & set(options):
        raise InputError("a generator gives its vectors to the caller; for a file, call encode with output and resume")
    if options.get("output_value", "sentence_embedding") != "sentence_embedding":
        raise InputError(f"output_value is {options['output_value']!r}; only sentence embeddings can be streamed")
    if (precision := options.get("precision")) in ("int8", "uint8"):
        raise InputError(
            f"{precision} needs the range of all vectors before the first is written, which a stream does not have: "
            "stream float32, and give each part to quantize_embeddings with ranges that you choose"
        )
    if (size := options.get("chunk_size")) is not None and size < 1:
        raise InputError(f"chunk_size is {size}, expected at least 1")
    return model.encode([], **{**options, "device": None, "pool": None, "show_progress_bar": False})


def _with_prompt(model: SentenceEncoder, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options with the text of the prompt in place of its name, so that it is looked up once."""
    prompt = model._resolve_prompt(options.get("prompt"), options.get("prompt_name"))
    return {**options, "prompt": prompt, "prompt_name": None}


def _describe(model: SentenceEncoder, options: Mapping[str, Any]) -> dict[str, Any]:
    """All that decides the vectors, but for texts, rounding by machine, and versions."""
    given = inspect.signature(type(model).encode).bind(model, [], **options)
    given.apply_defaults()
    arguments = given.arguments
    truncate_dim = arguments["truncate_dim"] if arguments["truncate_dim"] is not None else model.truncate_dim
    return {
        "weights": weights_sha256(model.encoder),
        "config": _sha256(json.dumps(dataclasses.asdict(model.encoder.config), sort_keys=True)),
        "tokenizer": _sha256(model.tokenizer.to_json()),
        "weight_precision": model.weight_precision,
        "max_seq_length": model.max_seq_length,
        "pooling": type(model.pooling).__name__,
        "normalize": repr(list_after_pooling(model.normalize)),
        **{name: value for name, value in arguments.items() if name not in _NOT_IN_RUN},
        "engine": arguments["engine"] or model.engine,
        "truncate_dim": truncate_dim,
        "chunk_size": arguments["chunk_size"] or [MOST_TEXTS, MOST_CHARACTERS],
    }


def _pass_over(chunks: Iterator[tuple[int, list[str]]], file: VectorFile, digest: Any) -> None:
    """Reads the texts that an earlier run has done, and sees that they are the same."""
    done = 0
    while done < file.rows and (chunk := next(chunks, None)):
        _feed(digest, chunk[1])
        done += len(chunk[1])
    if digest.hexdigest() != file.state["texts_sha256"]:
        found = "their contents differ" if done == file.rows else f"of those here, {done:,} take their place"
        raise InputError(
            f"{file.part} has {file.rows:,} rows of other texts: {found}. To go on with it, give the same texts in "
            f"the same order; to begin anew, pass resume=False (--no-resume) or delete {file.part}"
        )


def _feed(digest: Any, texts: list[str]) -> None:
    for text in texts:
        encoded = text.encode()
        digest.update(len(encoded).to_bytes(8, "little"))
        digest.update(encoded)


def _tokens(model: SentenceEncoder, texts: list[str], options: Mapping[str, Any]) -> float:
    """About how many tokens some texts have, from every so many of them: counting all would take a twentieth
    of the time."""
    sample = [options["prompt"] + text for text in texts[:: max(1, len(texts) // _SAMPLE)]]
    return sum(map(len, model.tokenizer(sample).ids)) / len(sample) * len(texts)


def _length(texts: object) -> int | None:
    return len(texts) if hasattr(texts, "__len__") else None


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
