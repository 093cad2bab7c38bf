"""Does the fast engine still speak for the model? Asked before every use of it.

The engine (fused.py) is a second implementation over copied weights. What ``model(batch)`` computes is decided by the
functions of encoder.py, by the modules and their attributes, and by every number of the weights. Each of these is
compared with what it was when the engine was made:

* functions: :data:`ENCODER`, while the program runs; :func:`is_edited`, for the files;
* modules, attributes, parameters and hooks: :class:`Guard`;
* numbers: pages.py, where the kernel tells of writes; elsewhere sums over all of them.

A function of torch that is replaced below ``torch.nn``, such as ``Tensor.__add__``, is not seen by any of these. If it
was replaced before the engine was made, the comparison with the plain encoder (fused.py) shows what it changes.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import io
import os
import sys
import tokenize
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from operator import attrgetter, is_, itemgetter
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import _get_current_function_mode_stack
from torch.utils._device import DeviceContext
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from minilm import encoder as plain
from minilm import layouts
from minilm.pages import INTEGERS, Watched

# The code that the engine was written from, see source_sha256(). Whoever changes it changes fused.py as well where
# that is needed, and then this; tests/test_guard.py tells the new value.
SOURCE_SHA256 = "723ce040f7a3213c46975f4b7f049ff620f52c56021a6cad2a5f0aeda81be15e"

MODULES = (plain.Encoder, plain.Embeddings, plain.EncoderLayer, plain.SelfAttention, plain.FeedForward)
PARTS = (nn.ModuleList, nn.Linear, nn.Embedding, nn.LayerNorm, nn.Dropout)


class Code:
    """Functions by owner and name, and what they were when this was made."""

    def __init__(self, *places: tuple[Any, str]):
        self._owners, self._names = tuple(owner for owner, _ in places), tuple(name for _, name in places)
        self._found = tuple(map(getattr, self._owners, self._names))
        inner = (getattr(found, "fget", getattr(found, "func", found)) for found in self._found)
        self._functions = tuple(function for function in inner if isinstance(function, FunctionType))
        self._bodies = list(map(_BODY, self._functions))
        # Replaced before this was made: a class's method from another file than the class.
        methods = zip(places, self._found, strict=True)
        self._foreign = next((f"{c.__qualname__}.{name}" for (c, name), f in methods if _is_foreign(c, f)), None)

    def changed(self) -> str | None:
        """The name of a function that is not what it was; None where all are."""
        if (
            self._foreign is None
            and all(map(is_, map(getattr, self._owners, self._names), self._found))
            and list(map(_BODY, self._functions)) == self._bodies
        ):
            return None
        if self._foreign:
            return self._foreign
        for owner, name, found in zip(self._owners, self._names, self._found, strict=True):
            if getattr(owner, name, None) is not found:
                return f"{getattr(owner, '__qualname__', None) or getattr(owner, '__name__', owner)}.{name}"
        bodies = zip(self._functions, self._bodies, strict=True)
        return next(f.__qualname__ for f, body in bodies if _BODY(f) != body)


def _is_foreign(owner: Any, found: Any) -> bool:
    if not (isinstance(owner, type) and isinstance(found, FunctionType)):
        return False
    home = next(c for c in owner.__mro__ if found in vars(c).values())
    file = getattr(sys.modules.get(home.__module__), "__file__", None)  # None within some packers' archives
    return file is not None and os.path.basename(file) != os.path.basename(found.__code__.co_filename)


# Tools that reload edited files, such as IPython's autoreload, exchange these within a function.
_BODY = attrgetter("__code__", "__defaults__")


def methods(*classes: type) -> list[tuple[type, str]]:
    """The functions and properties that the classes define, but for the constructor and its like."""
    kinds = (FunctionType, property, functools.cached_property)
    return [(c, n) for c in classes for n, found in vars(c).items() if isinstance(found, kinds) and n[:2] != "__"]


ENCODER = Code(
    *methods(*MODULES),
    *((layouts.PackedBatch, name) for name in ("blocks", "_runs", "join", "position_ids")),
    *((part, "forward") for part in PARTS[1:]),
    *((module, "__call__") for module in (*MODULES, *PARTS)),
    *((nn.Module, name) for name in ("_wrapped_call_impl", "_call_impl", "__getattr__")),
    *((plain, name) for name in ("F", "torch", "attend_by_hand")),
    *((F, name) for name in ("embedding", "linear", "layer_norm", "scaled_dot_product_attention")),
)


def is_edited() -> bool:
    """Whether the files of encoder.py and layouts.py have other code than the engine was written from."""
    try:
        return source_sha256() != SOURCE_SHA256
    except (OSError, TypeError):  # there are compiled files only, which nobody edits
        return False


@functools.cache
def source_sha256() -> str:
    """Of the code of encoder.py and layouts.py, without comments, docstrings and white space in lines."""
    digest = hashlib.sha256()
    for module in (plain, layouts):
        before = tokenize.NEWLINE
        for token in tokenize.generate_tokens(io.StringIO(inspect.getsource(module)).readline):
            if token.type in (tokenize.COMMENT, tokenize.NL):
                continue
            starts = before in (tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
            if not (starts and token.type == tokenize.STRING):  # a string as a statement is a docstring
                text = "".join(token.string.split())
                digest.update({tokenize.INDENT: "\t", tokenize.DEDENT: "\b"}.get(token.type, text).encode())
            before = token.type
    return digest.hexdigest()


class Guard:
    """What an encoder is at the moment, in a form that is compared in a small part of a query's time.

    The encoder's parts are hundreds of small objects, and to fetch one from memory takes longer than to compare it.
    So nothing is looked at but what decides the output.

    Args:
        encoder: made of the plain modules.
        copied: its parameters that the engine copies. The others it reads through the encoder's own objects.
    """

    def __init__(self, encoder: plain.Encoder, copied: Sequence[Tensor]):
        modules = list(encoder.modules())
        self._parts = modules[1:]  # without the encoder itself, which would live as long as this
        self._hooks = [*_EVERY_HOOK, *(hooks for m in modules for hooks in (m._forward_hooks, m._forward_pre_hooks))]
        self._dicts = [m.__dict__ for m in modules]  # an attribute more may be a forward of its own
        self._children = [m._modules for m in modules if m._modules]
        self._parameters = [m._parameters for m in modules if m._parameters]
        self._attributes = [
            (itemgetter(*names), [m.__dict__ for m in modules if type(m) is kind]) for kind, names in _DECIDING.items()
        ]
        activations = [m.activation for m in modules if isinstance(m, plain.FeedForward)]
        self._activations = [(f, _BODY(f)) for f in activations if isinstance(f, FunctionType)]
        self._originals = list(copied)
        self._then, self._children_then = self._now(encoder), list(map(dict, self._children))
        # Kept alive, so that no other tensor can come to lie where one of these was.
        self._copied = [parameter.detach() for parameter in copied]
        self._watched = Watched(self._copied)
        self._sums = sums(self._copied)  # read after the watch has begun
        self._rewritten = False

    def holds(self, encoder: plain.Encoder) -> bool:
        """Whether all that decides the encoder's output is what it was, and nothing runs beside it."""
        return (
            not (any(self._hooks) and any(map(are_busy, self._hooks)))
            and ENCODER.changed() is None
            and all(_BODY(f) == body for f, body in self._activations)
            and self._children == self._children_then
            and self._is_as_it_was(encoder)
            and around() is None
            and not self._is_rewritten()
        )

    def _now(self, encoder: plain.Encoder) -> tuple[Any, ...]:
        return (
            [type(encoder), *map(type, self._parts)],
            list(map(len, self._dicts)),
            [list(map(get, dicts)) for get, dicts in self._attributes],
            list(map(id, chain.from_iterable(map(dict.values, self._parameters)))),
            list(map(Tensor.data_ptr, self._originals)),
            list(map(Tensor.size, self._originals)),
            list(map(Tensor.is_contiguous, self._originals)),
            torch.get_float32_matmul_precision(),
            _onednn_precision(),
        )

    def _is_as_it_was(self, encoder: plain.Encoder) -> bool:
        try:
            return self._now(encoder) == self._then
        except Exception:  # an attribute is gone, or is an array, which gives no yes or no
            return False

    def _is_rewritten(self) -> bool:
        if not self._rewritten and self._watched.written():
            self._watched.renew()
            self._rewritten = not all(map(torch.equal, sums(self._copied), self._sums))
        return self._rewritten


# The attributes that decide what a module computes, beside its parameters and children.
_DECIDING: dict[type, tuple[str, ...]] = {
    plain.Encoder: ("config", "training"),
    plain.SelfAttention: ("heads", "training"),
    plain.FeedForward: ("activation",),
    nn.Embedding: ("max_norm",),
    nn.LayerNorm: ("eps", "normalized_shape"),
    nn.Dropout: ("training",),
}
# Since torch 2.9; "none" where float32 is multiplied as float32.
_onednn_precision = functools.partial(
    getattr(torch._C, "_get_fp32_precision_getter", lambda *_: "none"), "mkldnn", "matmul"
)
_EVERY_HOOK = (torch.nn.modules.module._global_forward_hooks, torch.nn.modules.module._global_forward_pre_hooks)


def sums(tensors: Iterable[Tensor]) -> list[Tensor]:
    """What changes with any number of the tensors: of a matrix the sums of its rows and columns, taken as integers."""
    found = []
    for tensor in tensors:
        whole = tensor.element_size() * tensor.shape[-1] % 8 == 0 and tensor.data_ptr() % 8 == 0
        numbers = tensor.detach().view(INTEGERS[8 if whole else tensor.element_size()])
        if tensor.ndim == 2:
            found += [numbers.sum(0, dtype=torch.int64), numbers.sum(1, dtype=torch.int64)]
        else:
            found.append(numbers.clone())
    return found


def obstacle(encoder: plain.Encoder) -> str | None:
    """What ``encoder(batch)`` would show and the engine cannot, in words; None where there is nothing."""
    device = encoder.embeddings.word.weight.device.type
    if device != "cpu":
        return f"it is on the device {device}"
    if any(module.training for module in encoder.modules()):
        return "it is in training mode"
    if changed := ENCODER.changed():
        return f"{changed} was replaced"
    if is_edited():
        return "encoder.py or layouts.py was edited"
    if beside := around() or hooks(encoder):
        return beside
    for name, module in encoder.named_modules():
        if type(module) not in MODULES + PARTS:
            return f"{name or 'the encoder'} is of the class {type(module).__name__}"
        if isinstance(module, nn.Embedding) and module.max_norm is not None:
            return f"{name} has max_norm"
    weights = dict(encoder.named_parameters())
    kinds = {(w.device.type, w.dtype, type(w.data)) for w in weights.values()}
    if kinds not in [{("cpu", dtype, Tensor)} for dtype in _DTYPES]:
        found = ", ".join(sorted(f"{str(dtype).removeprefix('torch.')} on {device}" for device, dtype, _ in kinds))
        return f"its parameters are {found}; the engine takes plain tensors of one type on the CPU"
    return next((f"{n} is not contiguous in memory" for n, w in weights.items() if not w.is_contiguous()), None)


_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def around() -> str | None:
    """What runs around every function of torch at the moment."""
    if torch.is_autocast_enabled("cpu"):
        return "autocast is on"
    if not (torch._C._len_torch_function_stack() or torch._C._len_torch_dispatch_stack()):
        return None
    modes = [*_get_current_function_mode_stack(), *_get_current_dispatch_mode_stack()]
    names = [type(mode).__name__ for mode in modes if not isinstance(mode, DeviceContext)]
    return f"{', '.join(names)} is active" if names else None


def are_busy(hooks: Mapping[int, Any]) -> bool:
    """Whether any of a module's hooks does something in this thread: those of minilm.internals are idle where nobody
    watches."""
    return any(not getattr(hook, "idle", False) for hook in tuple(hooks.values()))


def hooks(module: nn.Module) -> str | None:
    """What runs before, after or in place of a module's own forward, or of one within it."""
    if any(map(are_busy, _EVERY_HOOK)):
        return "there is a forward hook on all modules"
    for name, part in module.named_modules():
        if are_busy(part._forward_hooks) or are_busy(part._forward_pre_hooks):
            return f"{name or type(module).__name__} has a forward hook"
        if "forward" in part.__dict__:
            return f"{name or type(module).__name__} has a forward of its own"
    return None
