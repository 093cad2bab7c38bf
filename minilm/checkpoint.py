"""Weights on disk ↔ the encoder: the names of all tensors, strict loading, saving.

Only safetensors files are read: a header of JSON, then plain numbers; nothing in them can run.
The names on the left are those that transformers' ``BertModel`` writes.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import secrets
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.overrides import TorchFunctionMode

from minilm.config import DTYPES, EncoderConfig
from minilm.encoder import Encoder
from minilm.errors import CheckpointError

# Their name → our name; {i} counts the layers. "weight" and "bias" follow each.
KEYS = {
    "embeddings.word_embeddings": "embeddings.word",
    "embeddings.position_embeddings": "embeddings.position",
    "embeddings.token_type_embeddings": "embeddings.token_type",
    "embeddings.LayerNorm": "embeddings.norm",
    "encoder.layer.{i}.attention.self.query": "layers.{i}.attention.query",
    "encoder.layer.{i}.attention.self.key": "layers.{i}.attention.key",
    "encoder.layer.{i}.attention.self.value": "layers.{i}.attention.value",
    "encoder.layer.{i}.attention.output.dense": "layers.{i}.attention.output",
    "encoder.layer.{i}.attention.output.LayerNorm": "layers.{i}.attention_norm",
    "encoder.layer.{i}.intermediate.dense": "layers.{i}.feed_forward.up",
    "encoder.layer.{i}.output.dense": "layers.{i}.feed_forward.down",
    "encoder.layer.{i}.output.LayerNorm": "layers.{i}.feed_forward_norm",
}

# In the file, but not part of the encoder: a constant, and the head for BERT's next-sentence task.
IGNORED = ("embeddings.position_ids", "pooler.dense.weight", "pooler.dense.bias")

WEIGHTS_FILE = "model.safetensors"
FLOAT_TYPES = tuple(getattr(torch, name) for name in DTYPES)


def their_names(config: EncoderConfig) -> dict[str, str]:
    """Our parameter name → their tensor name, for every parameter of an encoder of this shape."""
    names = {}
    for theirs, ours in KEYS.items():
        for i in range(config.num_hidden_layers if "{i}" in ours else 1):
            for part in ("weight",) if "_embeddings" in theirs else ("weight", "bias"):
                names[f"{ours.format(i=i)}.{part}"] = f"{theirs.format(i=i)}.{part}"
    return names


def load_encoder(
    path: str | os.PathLike[str], config: EncoderConfig, dtype: torch.dtype | None = None
) -> tuple[Encoder, dict[str, Tensor]]:
    """Reads a safetensors file into a new encoder, in evaluation mode, on the CPU.

    Args:
        path: the file.
        config: the shape that the file must have.
        dtype: the floating-point type of the encoder; None keeps the file's.

    Returns:
        The encoder, and the tensors of :data:`IGNORED` that the file has, to be saved again as
        they came.

    Raises:
        CheckpointError: the file cannot be read, or a tensor is missing, unexpected, misshapen or
            of another type than the rest.
    """
    tensors = read_tensors(path)
    if config.num_hidden_layers > len(tensors):  # before a hostile number of layers is built
        raise CheckpointError(
            f"{path} has {len(tensors):,} tensors in all, but config.json's num_hidden_layers is "
            f"{config.num_hidden_layers:,}"
        )
    try:
        with _Uninitialised():
            encoder = Encoder(config).eval()
    except RuntimeError as error:  # torch's, when memory cannot be had
        raise CheckpointError(f"no encoder of the sizes in config.json can be made: {error}") from None
    names = their_names(config)
    expected = {names[ours]: parameter for ours, parameter in encoder.named_parameters()}
    _check_tensors(Path(path), tensors, expected)

    for ours, parameter in encoder.named_parameters():
        parameter.data = _copy(tensors[names[ours]], dtype)
    return encoder, {name: _copy(tensors[name]) for name in IGNORED if name in tensors}


def _copy(tensor: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """A copy, because torch's own allocations are aligned, and kernels may round by alignment. It is made in pieces
    that are too small for torch to start threads: processes that are forked from one with threads lack them."""
    copy = torch.empty_like(tensor, dtype=dtype)
    for target, source in zip(copy.view(-1).split(1 << 14), tensor.view(-1).split(1 << 14), strict=True):
        target.copy_(source)
    return copy


def save_encoder(path: str | os.PathLike[str], encoder: Encoder, ignored: Mapping[str, Tensor] | None = None) -> None:
    """Writes an encoder, and the tensors that :func:`load_encoder` set aside, under their names.

    Where there are none, the pooler is written as zeros: transformers' ``BertModel`` has that head,
    which no sentence embedding uses, and warns of newly initialised weights when a file lacks it.
    """
    names = their_names(encoder.config)
    D, word = encoder.config.hidden_size, encoder.embeddings.word.weight
    pooler = {"pooler.dense.weight": word.new_zeros(D, D), "pooler.dense.bias": word.new_zeros(D)}
    others = {name: tensor.detach().cpu() for name, tensor in {**pooler, **(ignored or {})}.items()}
    tensors = {names[ours]: p.detach().cpu().contiguous() for ours, p in encoder.named_parameters()}
    # Sorted by safetensors itself: the same weights always give the same file.
    with atomic_path(path) as temporary:
        safetensors.torch.save_file(tensors | others, temporary, metadata={"format": "pt"})


def weights_sha256(encoder: Encoder) -> str:
    """Of an encoder's weights: equal hashes mean equal bits, whatever file they are in.

    Over the tensors in the order of their names in the checkpoint: name, type and shape as a line
    of JSON, then the raw little-endian bytes.
    """
    names = their_names(encoder.config)
    digest = hashlib.sha256()
    for name, parameter in sorted((names[ours], p) for ours, p in encoder.named_parameters()):
        tensor = parameter.detach().cpu().contiguous()
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode() + b"\n")
        digest.update(tensor.view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def read_tensors(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """All tensors of a safetensors file.

    Raises:
        CheckpointError: the file is missing, may not be read, is empty, cut short or not safetensors.
    """
    path = Path(path)
    if not path.is_file():
        hint = ""
        if pickles := sorted(p.name for p in path.parent.glob("*.bin")):
            hint = f" There is {pickles[0]}, a pickle, which can run code and is never read; convert it first."
        if (path.parent / f"{path.name}.index.json").exists():
            hint = " There is an index of several files (shards); save the model into one file first."
        raise CheckpointError(f"{path} does not exist.{hint}")
    try:
        with open(path, "rb"):  # safetensors calls a file that may not be read missing
            pass
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, UnicodeError) as error:
        raise CheckpointError(
            f"{path} ({path.stat().st_size:,} bytes) is not a whole safetensors file: {error}. Fetch it again."
        ) from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from None


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of a checkpoint, as ``minilm inspect`` lists it.

    Attributes:
        norm: the L2 norm, computed in float64.
        sha256: of the tensor's raw little-endian bytes, so that equal hashes mean equal bits.
        used: False for the tensors that the encoder leaves aside.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    norm: float
    sha256: str
    used: bool

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


def inspect_tensors(path: str | os.PathLike[str]) -> list[TensorInfo]:
    """Describes every tensor of a safetensors file, in the file's order of names."""
    return [
        TensorInfo(
            name=name,
            shape=tuple(tensor.shape),
            dtype=str(tensor.dtype).removeprefix("torch."),
            norm=tensor.double().norm().item(),
            sha256=hashlib.sha256(tensor.contiguous().view(-1).view(torch.uint8).numpy().data).hexdigest(),
            used=name not in IGNORED,
        )
        for name, tensor in read_tensors(path).items()
    ]


def read_json(path: str | os.PathLike[str]) -> dict[str, object] | list[object]:
    """A JSON file's content, or a :class:`CheckpointError` that says where it is broken."""
    if os.path.exists(path) and not os.path.isfile(path):  # to read from a pipe may never end
        raise CheckpointError(f"{path} cannot be read: it is not a plain file")
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # also for bytes that are no UTF-8, and for endless numbers
        raise CheckpointError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(content, (dict, list)):
        raise CheckpointError(f"{path} holds {type(content).__name__}, expected an object or a list")
    return content


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary name beside ``path`` to write to; it becomes ``path`` when all went well.

    The data is on the disk before the name changes, so a reader sees the old file or the whole new
    one, also after a crash. After an error the old file stands and the temporary one is gone.
    """
    path = Path(path)
    # Random, so that neither another thread nor another user can have the same name in mind.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        # Made here for its mode, that of the old file or of any new one: safetensors makes private files.
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        mode = (path if path.is_file() else temporary).stat().st_mode
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(stat.S_IMODE(mode))
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        if getattr(error, "filename", None) not in (None, str(temporary)):
            raise  # about another file than this one
        raise _clearer(error, path) from error
    finally:
        temporary.unlink(missing_ok=True)


class _Uninitialised(TorchFunctionMode):
    """While active, ``torch.nn.init`` leaves tensors as they are: no time lost on random weights, and no
    random numbers drawn. (The "meta" device would do it too, but makes torch import its compiler.)"""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


def _clearer(error: Exception, path: Path) -> Exception:
    """Names the file, and the disk when it is the disk's fault, which the libraries do not."""
    reason = getattr(error, "strerror", None) or str(error)
    if getattr(error, "errno", None) == errno.ENOSPC or "os error 28" in reason:
        reason = "no space left on the disk"
    return OSError(getattr(error, "errno", None) or errno.EIO, f"cannot write {path}: {reason}; nothing was changed")


def _check_tensors(path: Path, tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    problems = []
    if missing := [name for name in expected if name not in tensors]:
        problems.append(f"missing: {_some(missing)}")
    if unexpected := [name for name in tensors if name not in expected and name not in IGNORED]:
        problems.append(f"unexpected: {_some(unexpected)}")
    found = {name: tensors[name] for name in expected if name in tensors}
    for name, tensor in found.items():
        if tensor.shape != expected[name].shape:
            problems.append(
                f"{name} has shape {list(tensor.shape)}, expected {list(expected[name].shape)} from config.json"
            )
    types = {tensor.dtype for tensor in found.values()}
    if len(types) > 1 or not types <= set(FLOAT_TYPES):
        first: dict[torch.dtype, str] = {}
        for name, tensor in found.items():
            first.setdefault(tensor.dtype, name)
        kinds = ", ".join(f"{str(dtype).removeprefix('torch.')} ({name})" for dtype, name in first.items())
        problems.append(f"types: found {kinds}; expected one of float32, float16, bfloat16, float64 throughout")
    if problems:
        raise CheckpointError(
            f"{path} does not hold the encoder that config.json describes.\n  " + "\n  ".join(problems)
        )


def _some(names: list[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
