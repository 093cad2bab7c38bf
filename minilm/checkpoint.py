"""Weights on disk ↔ the encoder: the names of all tensors, strict loading, saving.

Only safetensors files are read: a header of JSON, then plain numbers; nothing in them can run.
The names on the left are those that transformers' ``BertModel`` writes.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import math
import os
import secrets
import shlex
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from minilm.config import DTYPES, EncoderConfig
from minilm.encoder import Encoder
from minilm.errors import CheckpointError, InputError
from minilm.pages import on_pages
from minilm.plain_json import parse_json

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

T = TypeVar("T")

WEIGHTS_FILE = "model.safetensors"

# What stands at the beginning of a file that "git clone" leaves in place of a large one.
_POINTER = b"version https://git-lfs.github.com/spec/"

# Makes model.safetensors of the files that a glob pattern finds. torch.load runs no code with weights_only.
_CONVERT = (
    'python -c "import sys, pathlib, torch, safetensors.torch as s; d = pathlib.Path(sys.argv[1]); w = {{}}; '
    "[w.update({load}) for p in sorted(d.glob('{files}'))]; "
    "s.save_file({{k: t.clone().contiguous() for k, t in w.items() if torch.is_tensor(t)}}, "
    "d / 'model.safetensors', metadata={{'format': 'pt'}})\" {folder}"
)
FLOAT_TYPES = tuple(getattr(torch, name) for name in DTYPES)


def their_names(config: EncoderConfig) -> dict[str, str]:
    """Our parameter name → their tensor name, for every parameter of an encoder of this shape."""
    names = {}
    for theirs, ours in KEYS.items():
        for i in range(config.num_hidden_layers if "{i}" in ours else 1):
            for part in ("weight",) if "_embeddings" in theirs else ("weight", "bias"):
                names[f"{ours.format(i=i)}.{part}"] = f"{theirs.format(i=i)}.{part}"
    return names


def is_used(name: str) -> bool:
    """Whether a tensor's name is that of a part of the encoder, and not of a constant or a head on top of it."""
    return name.startswith(("embeddings.", "encoder.")) and name not in IGNORED


def load_encoder(
    path: str | os.PathLike[str], config: EncoderConfig, dtype: torch.dtype | None = None
) -> tuple[Encoder, dict[str, Tensor]]:
    """Reads a safetensors file into a new encoder, in evaluation mode, on the CPU.

    Args:
        path: the file.
        config: the shape that the file must have.
        dtype: the floating-point type of the encoder; None takes that of the file's first tensor
            that has one, in the order of names, as transformers does.

    Returns:
        The encoder, and the other tensors of the file, such as a pooler or a head, to be saved
        again as they came.

    Raises:
        CheckpointError: the file cannot be read, or a tensor of the encoder is missing, misshapen or
            not of a floating-point type, or is one that ``config.json`` has no place for.
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

    dtype = dtype or next(tensor.dtype for tensor in tensors.values() if tensor.dtype in FLOAT_TYPES)
    for ours, parameter in encoder.named_parameters():
        parameter.data = _copy(tensors[names[ours]], dtype)
    return encoder, {name: _copy(tensor) for name, tensor in tensors.items() if name not in expected}


def _copy(tensor: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """A copy in aligned memory, as kernels may round by alignment. It is made in pieces that are too small for torch
    to start threads: processes that are forked from one with threads lack them."""
    copy = on_pages(tensor.shape, dtype or tensor.dtype)
    for target, source in zip(copy.view(-1).split(1 << 14), tensor.view(-1).split(1 << 14), strict=True):
        target.copy_(source)
    return copy


def check_parts(module: nn.Module, config: EncoderConfig, prefix: str = "") -> None:
    """Makes sure that a folder has a place for every tensor of a module: those of an encoder, and no others.

    Args:
        prefix: what the encoder's names begin with in ``module``.

    Raises:
        InputError: parts were added, taken away, wrapped or resized; names them, and says how to merge them.
    """
    with _Uninitialised():
        expected = {prefix + name: tensor.shape for name, tensor in Encoder(config).named_parameters()}
    found = {name: getattr(tensor, "shape", None) for name, tensor in module.state_dict().items()}
    problems = []
    if added := [name for name in found if name not in expected]:
        problems.append(f"unexpected: {_some(added)}")
    if missing := [name for name in expected if name not in found]:
        problems.append(f"missing: {_some(missing)}")
    for name, shape in expected.items():
        if found.get(name, shape) != shape:
            problems.append(f"{name} has shape {list(found[name] or ())}, expected {list(shape)} from its config")
    if problems:
        raise InputError(
            "a model folder holds the weights of a plain encoder, but this model has other parts.\n  "
            + "\n  ".join(problems)
            + "\nMerge them into the plain weights before training or saving: "
            "model.encoder = model.encoder.merge_and_unload() for peft (LoRA), "
            "torch.nn.utils.parametrize.remove_parametrizations, torch.nn.utils.prune.remove"
        )


def save_encoder(path: str | os.PathLike[str], encoder: Encoder, ignored: Mapping[str, Tensor] | None = None) -> None:
    """Writes an encoder, and the tensors that :func:`load_encoder` set aside, under their names.

    Where there are none, the pooler is written as zeros: transformers' ``BertModel`` has that head,
    which no sentence embedding uses, and warns of newly initialised weights when a file lacks it.

    Raises:
        InputError: the encoder has other parts (:func:`check_parts`).
    """
    check_parts(encoder, encoder.config)
    names = their_names(encoder.config)
    D, word = encoder.config.hidden_size, encoder.embeddings.word.weight
    pooler = {"pooler.dense.weight": word.new_zeros(D, D), "pooler.dense.bias": word.new_zeros(D)}
    others = {name: tensor.detach().cpu() for name, tensor in {**pooler, **(ignored or {})}.items()}
    tensors: dict[str, Tensor] = {}
    storages: set[int] = set()
    for ours, parameter in encoder.named_parameters(remove_duplicate=False):
        tensor = parameter.detach().cpu().contiguous()
        if (storage := tensor.untyped_storage().data_ptr()) in storages:
            tensor = tensor.clone()  # tied weights: the file has each one whole
        storages.add(storage)
        tensors[names[ours]] = tensor
    # Sorted by safetensors itself: the same weights always give the same file.
    with atomic_path(path) as temporary:
        safetensors.torch.save_file(tensors | others, temporary, metadata={"format": "pt"})


def weights_sha256(encoder: Encoder) -> str:
    """Of an encoder's weights: equal hashes mean equal bits, whatever file they are in.

    Over the tensors in the order of their names in the checkpoint: name, type and shape as a line
    of JSON, then the raw little-endian bytes.

    Raises:
        InputError: the encoder has other parts (:func:`check_parts`).
    """
    check_parts(encoder, encoder.config)
    names = their_names(encoder.config)
    digest = hashlib.sha256()
    parameters = encoder.named_parameters(remove_duplicate=False)
    for name, parameter in sorted(((names[ours], p) for ours, p in parameters), key=lambda item: item[0]):
        tensor = parameter.detach().cpu().contiguous()
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode() + b"\n")
        digest.update(tensor.view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def not_finite(model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> str | None:
    """The first tensor of a model, and of its gradients and moments where the optimiser is given, that holds a
    NaN or an infinity; None where all are finite."""
    for name, parameter in model.named_parameters():
        tensors: dict[str, Tensor | None] = {name: parameter}
        if optimizer is not None:
            tensors[f"the gradient of {name}"] = parameter.grad
            tensors |= {f"{key} of {name}": value for key, value in optimizer.state.get(parameter, {}).items()}
        for place, tensor in tensors.items():
            # A tenth of isfinite()'s time; both ends of a tensor with a NaN are NaN.
            if tensor is not None and not all(end.isfinite() for end in torch.aminmax(tensor.detach())):
                return place
    return None


def read_tensors(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """All tensors of a safetensors file, in the order of their names there, under the names that ``BertModel``
    writes: without the prefix ``bert.`` that a model with a head adds, and with ``weight`` and ``bias`` for what
    files converted from TensorFlow call ``gamma`` and ``beta``.

    Raises:
        CheckpointError: the file is missing, may not be read, is empty, cut short or not safetensors, or has a
            tensor under two such names.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist.{_how_to_convert(path.parent)}")
    check_not_a_pointer(path)
    tensors: dict[str, Tensor] = {}
    try:
        with open(path, "rb"):  # safetensors calls a file that may not be read missing
            pass
        with safe_open(path, framework="pt") as file:
            for name in file.keys():
                ours = name.removeprefix("bert.")
                ours = ours.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
                if ours in tensors:
                    raise CheckpointError(f"{path} has {ours} twice, once as {name}; remove one of them")
                tensors[ours] = file.get_tensor(name)
            return tensors
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
            used=is_used(name),
        )
        for name, tensor in read_tensors(path).items()
    ]


def check_not_a_pointer(path: Path) -> None:
    """Refuses a file that stands for another one, as ``git clone`` without Git LFS leaves it."""
    try:
        if not path.is_file():
            return
        with open(path, "rb") as file:
            start = file.read(len(_POINTER))
    except OSError:  # whoever reads the file says what is wrong
        return
    if start == _POINTER:
        raise CheckpointError(
            f"{path} is a pointer of Git LFS, in place of the file itself. In its folder, "
            "run 'git lfs install' and 'git lfs pull', or download the file."
        )


def read_json(path: str | os.PathLike[str]) -> dict[str, object] | list[object]:
    """A JSON file's content, or a :class:`CheckpointError` that says where it is broken."""
    if os.path.exists(path) and not os.path.isfile(path):  # to read from a pipe may never end
        raise CheckpointError(f"{path} cannot be read: it is not a plain file")
    try:
        content = parse_json(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(content, (dict, list)):
        raise CheckpointError(f"{path} holds {type(content).__name__}, expected an object or a list")
    return content


def read_json_object(path: Path, optional: bool = False) -> dict[str, Any]:
    """:func:`read_json` for a file that holds an object; where it is ``optional`` and missing, an empty one."""
    if optional and not path.is_file():
        return {}
    content = read_json(path)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a list, expected an object")
    return content


def from_json(kind: type[T], content: object, whole: str, place: str = "") -> T:
    """A dataclass from a JSON object with its fields, each of the type that the field states.

    Args:
        whole: what it would be, for the message: "x.json is not a whole receipt".
        place: of the object in the file.

    Raises:
        CheckpointError: a field is missing, unknown or of another type; names it.
    """
    fields = _typed(content, dict[str, Any], whole, place)
    hints = get_type_hints(kind)
    absent = dataclasses.MISSING
    fields_of = dataclasses.fields(kind)  # type: ignore[arg-type]
    needed = {f.name for f in fields_of if f.default is absent and f.default_factory is absent}
    for problem, names in (("missing", needed - fields.keys()), ("unknown", fields.keys() - hints.keys())):
        if names:
            raise CheckpointError(f"{whole}: {place}{', '.join(sorted(names))} is {problem}; was it edited?")
    return kind(**{name: _typed(value, hints[name], whole, f"{place}{name}") for name, value in fields.items()})


def _typed(value: Any, hint: Any, whole: str, place: str) -> Any:
    """The value, once it is certain that it has the type; those of objects and lists within it, too."""
    kinds = [kind for kind in get_args(hint) if kind is not type(None)]
    if type(None) in get_args(hint):
        return None if value is None else _typed(value, kinds[0], whole, place)
    if dataclasses.is_dataclass(hint):
        return from_json(hint, value, whole, f"{place}.")  # type: ignore[arg-type]
    kind = get_origin(hint) or hint
    if kind is Any:
        return value
    fits = isinstance(value, (int, float) if kind is float else kind) and (kind is bool or not isinstance(value, bool))
    if not fits or (isinstance(value, int) and abs(value) >= 2**63):
        raise CheckpointError(
            f"{whole}: {place.rstrip('.') or 'all'} is {value!r:.80}, expected {kind.__name__}; was it edited?"
        )
    if kind is list:
        return [_typed(item, kinds[0], whole, f"{place}[{i}]") for i, item in enumerate(value)]
    if kind is dict:
        return {name: _typed(item, kinds[1], whole, f"{place}.{name}") for name, item in value.items()}
    return value


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary name beside ``path`` to write to; it becomes ``path`` when all went well.

    The data is on the disk before the name changes, so a reader sees the old file or the whole new
    one, also after a crash. After an error the old file stands and the temporary one is gone.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "there is a folder where a file is to be written", str(path))
    if path.exists() and not path.is_file():  # a device or a pipe, which must not become a file
        raise OSError(errno.EINVAL, "it is no plain file, and is not replaced by one", str(path))
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
        if others := [name for name in tensors if not is_used(name) and name not in IGNORED]:
            problems.append(f"the file has in their place: {_some(others)}")
    if unexpected := [n for n in tensors if n not in expected and is_used(n)]:
        problems.append(f"unexpected: {_some(unexpected)}")
    found = {name: tensors[name] for name in expected if name in tensors}
    for name, tensor in found.items():
        if tensor.shape != expected[name].shape:
            problems.append(
                f"{name} has shape {list(tensor.shape)}, expected {list(expected[name].shape)} from config.json"
            )
    first: dict[torch.dtype, str] = {}
    for name, tensor in found.items():
        if tensor.dtype not in FLOAT_TYPES:
            first.setdefault(tensor.dtype, name)
    if first:
        kinds = ", ".join(f"{str(dtype).removeprefix('torch.')} ({name})" for dtype, name in first.items())
        problems.append(f"types: found {kinds}; expected float32, float16, bfloat16 or float64")
    if problems:
        raise CheckpointError(
            f"{path} does not hold the encoder that config.json describes.\n  " + "\n  ".join(problems)
        )


def _how_to_convert(folder: Path) -> str:
    """The one command that makes model.safetensors of the weights that a folder has in its place."""
    where = shlex.quote(str(folder))
    if (folder / f"{WEIGHTS_FILE}.index.json").exists():
        command = _CONVERT.format(load="s.load_file(p)", files="model-*.safetensors", folder=where)
        return f" There is an index of several files (shards). This joins them:\n  {command}"
    if any(folder.glob("pytorch_model*.bin")):
        load = "torch.load(p, map_location='cpu', weights_only=True)"
        command = _CONVERT.format(load=load, files="pytorch_model*.bin", folder=where)
        return (
            " There is pytorch_model.bin, a pickle, which can run code and is never read. This converts it, and "
            f"runs no code in it:\n  {command}"
        )
    return ""


def _some(names: list[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
