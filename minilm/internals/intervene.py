"""Interventions: activations replaced, scaled, ablated, patched, while a forward pass runs.

An action takes one text's value without padding, so that it means the same in both layouts, and
gives the value to go on with. :func:`replace`, :func:`scale`, :func:`ablate` and :func:`patch` make
actions; any function ``(value, place) -> value`` is one too, and :func:`at` restricts it.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, SupportsIndex, TypeAlias

import torch
from torch import Tensor

from minilm.errors import InputError, check_choice
from minilm.internals.activations import Site, choose, sites
from minilm.internals.hooks import Value, by_text, from_texts, watching
from minilm.internals.trace import Trace
from minilm.layouts import Batch

if TYPE_CHECKING:
    from minilm.sentence_encoder import SentenceEncoder


@dataclass(frozen=True)
class Place:
    """Where an action is at work.

    Attributes:
        name: of the activation.
        axes: what the value's axes are called: of ``position``, ``head``, ``key``, ``dimension``.
        text: the text's row in the batch; ``texts``: how many rows there are.
        input_ids: int64 ``[T]``, the text's token ids.
    """

    name: str
    axes: tuple[str, ...]
    text: int
    texts: int
    input_ids: Tensor


Action: TypeAlias = Callable[[Tensor, Place], Tensor]
Indices: TypeAlias = "int | slice | Sequence[int] | Tensor | None"


@contextmanager
def intervene(model: SentenceEncoder, actions: Mapping[str, Action | Tensor]) -> Iterator[None]:
    """Within the block, the named activations are changed wherever ``model`` computes: ``model(batch)``,
    ``model.encode``, ``model.trace``. Afterwards, also after an error, no hook is left.

    Blocks may be nested: the outer actions come first. Gradients flow through every action. Where an
    action gives back what it got, no bit changes. That is to be seen in ``model(batch)``, ``trace``
    and ``encode(..., layout="padded")``; a packed ``encode`` may take a faster road when nobody watches,
    which rounds differently (tolerances.PACKED_FLOAT32). The block is this thread's, or this asyncio task's:
    what other threads compute with the model is not changed, and threads started within it are others.

    Scores and probabilities are changed beside the kernel, by adding (p′ - p) v to its context:
    exact to rounding. Changed probabilities are used as they are, whether or not they sum to 1.

    Args:
        actions: name or pattern (see :func:`~minilm.internals.activations.choose`) → an action, or
            a tensor to put in place of the value. Those of one activation work in this order.

    Raises:
        InputError: a name that matches nothing; while the model runs, an action that does not fit
            the value: a head, position, dimension or text that is not there, or another shape.
    """
    known = sites(model.encoder.config)
    changes: dict[str, list[Action]] = {}
    for pattern, action in actions.items():
        if isinstance(action, Tensor):
            action = replace(action)
        if not callable(action):
            raise InputError(f"the action for {pattern!r} is {action!r}, expected a tensor or a function")
        for name in choose(pattern, known):
            changes.setdefault(name, []).append(action)
    with watching(model, _Editor(changes)):
        yield


class _Editor:
    """Puts the actions to work, text by text."""

    def __init__(self, changes: dict[str, list[Action]]):
        self.changes = changes
        self.names = changes.keys()

    def __call__(self, site: Site, value: Value, batch: Batch) -> Value:
        before = by_text(site, value, batch)
        after = list(before)
        for text, ids in enumerate(batch.texts(batch.input_ids)):
            place = Place(site.name, site.axes, text, len(before), ids)
            for action in self.changes[site.name]:
                # A function may change what it is shown; the model's own tensors stay as they are.
                shown = after[text] if isinstance(action, _Edit) else after[text].clone()
                after[text] = _checked(action(shown, place), after[text], place)
        if all(new is old for new, old in zip(after, before, strict=True)):
            return value
        return from_texts(site, after, value, batch)


def _checked(new: object, old: Tensor, place: Place) -> Tensor:
    if not isinstance(new, Tensor) or new.shape != old.shape:
        found = f"a tensor {list(new.shape)}" if isinstance(new, Tensor) else repr(new)
        raise InputError(f"the action on {place.name} gave {found:.80}, expected a tensor {_shape(old, place)}")
    return new.to(old)


def _shape(value: Tensor, place: Place) -> str:
    return f"{list(value.shape)} ({', '.join(place.axes)})"


# ---- actions ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Where:
    """What an action is restricted to; None is everything. Negative numbers count from the end.

    Attributes:
        text: rows of the batch, in ``model(batch)`` and ``trace``. Not in ``encode``, which puts
            texts into batches of its own order.
        position: tokens; of scores and probabilities, the tokens that look.
        key: of scores and probabilities, the tokens looked at.
        head, dimension: attention heads; dimensions of a vector, or of a head's vector.
    """

    text: Indices = None
    position: Indices = None
    key: Indices = None
    head: Indices = None
    dimension: Indices = None

    def index(self, value: Tensor, place: Place) -> tuple[Tensor, ...] | None:
        """What selects the chosen part of ``value``: an index for each axis, shaped so that they
        span a grid. None: this text is not meant.

        Raises:
            InputError: an axis that the activation does not have, or a place that is not there.
        """
        for axis in ("position", "key", "head", "dimension"):
            if getattr(self, axis) is not None and axis not in place.axes:
                raise InputError(f"{place.name} has no {axis}; its axes are {', '.join(place.axes)}")
        if self.text is not None:
            if torch.is_inference_mode_enabled():
                raise InputError(
                    "an action restricted to a text cannot be used within encode, which forms batches in an order "
                    "of its own; use trace or model(batch)"
                )
            if place.text not in _numbers("text", self.text, place.texts, "the batch"):
                return None
        grid = []
        for number, (axis, size) in enumerate(zip(place.axes, value.shape, strict=True)):
            chosen = _numbers(axis, getattr(self, axis), size, place.name)
            shape = [-1 if other == number else 1 for other in range(value.dim())]
            grid.append(torch.tensor(chosen, dtype=torch.int64, device=value.device).view(shape))
        return tuple(grid)


def _numbers(axis: str, chosen: Indices, size: int, of: str) -> list[int]:
    """Indices in any form → numbers 0 … size - 1."""
    if chosen is None:
        return list(range(size))
    if isinstance(chosen, slice):
        return list(range(size))[chosen]
    if isinstance(chosen, Tensor):
        chosen = chosen.tolist()
    numbers: list[object] = list(chosen) if isinstance(chosen, Iterable) else [chosen]
    for number in numbers:
        if isinstance(number, bool) or not isinstance(number, SupportsIndex):
            raise InputError(f"{axis} is {chosen!r:.60}, expected a number, a slice or several numbers")
        if not -size <= operator.index(number) < size:
            raise InputError(f"{axis} {operator.index(number)} is not in {of}, which has {axis}s 0 to {size - 1}")
    return [operator.index(number) % size for number in numbers]  # type: ignore[arg-type]  # checked above


# What is to stand in the chosen part: (whole value, place, index of the part) → broadcast to the part.
_Change: TypeAlias = Callable[[Tensor, Place, "tuple[Tensor, ...]"], Tensor]


@dataclass(frozen=True)
class _Edit:
    """An action that changes the part that ``where`` chooses and leaves every other bit."""

    change: _Change
    where: Where

    def __call__(self, value: Tensor, place: Place) -> Tensor:
        index = self.where.index(value, place)
        if index is None:
            return value
        part = self.change(value, place, index).to(value)
        size = torch.broadcast_shapes(*(i.shape for i in index))
        try:
            part = part.expand(size)
        except RuntimeError:
            raise InputError(
                f"found a tensor {list(part.shape)} for {place.name}, expected {list(size)} "
                f"({', '.join(place.axes)}), or what broadcasts to it"
            ) from None
        return value.index_put(index, part)


def at(
    action: Action,
    *,
    text: Indices = None,
    position: Indices = None,
    key: Indices = None,
    head: Indices = None,
    dimension: Indices = None,
) -> Action:
    """``action`` restricted: it is shown the whole value, and only the chosen part of what it gives
    back is taken. The arguments are :class:`Where`'s."""

    def change(value: Tensor, place: Place, index: tuple[Tensor, ...]) -> Tensor:
        return _checked(action(value.clone(), place), value, place)[index]

    return _Edit(change, Where(text, position, key, head, dimension))


def replace(
    tensor: Tensor,
    *,
    text: Indices = None,
    position: Indices = None,
    key: Indices = None,
    head: Indices = None,
    dimension: Indices = None,
) -> Action:
    """Puts ``tensor`` in place of the chosen part, in the order of the axes (``[position, head,
    dimension]`` …, those restricted to one number too), or broadcast to it."""
    return _Edit(lambda value, place, index: tensor, Where(text, position, key, head, dimension))


def scale(
    factor: float | Tensor,
    *,
    text: Indices = None,
    position: Indices = None,
    key: Indices = None,
    head: Indices = None,
    dimension: Indices = None,
) -> Action:
    """Multiplies the chosen part by ``factor``."""
    return _Edit(lambda value, place, index: value[index] * factor, Where(text, position, key, head, dimension))


def ablate(
    to: Literal["zero", "mean"] | Trace = "zero",
    *,
    text: Indices = None,
    position: Indices = None,
    key: Indices = None,
    head: Indices = None,
    dimension: Indices = None,
) -> Action:
    """Takes the chosen part's information away.

    Args:
        to: ``"zero"``; ``"mean"``, the mean over the positions of the text itself; or a trace that
            has kept this activation: the mean over all tokens of its texts, not of scores and
            probabilities, whose size is the text's.
        text, position, key, head, dimension: see :class:`Where`.
    """

    def change(value: Tensor, place: Place, index: tuple[Tensor, ...]) -> Tensor:
        if isinstance(to, str) and to == "zero":
            return torch.zeros_like(value)[index]
        if "position" not in place.axes:
            raise InputError(f"{place.name} has no positions to take a mean over; ablate it to 'zero', or replace it")
        if isinstance(to, str):
            return value.mean(place.axes.index("position"), keepdim=True).expand_as(value)[index]
        if "key" in place.axes:
            raise InputError(f"{place.name} of different texts have no mean; ablate it to 'zero' or 'mean'")
        return torch.cat(to.by_text(place.name)).mean(0, keepdim=True).to(value).expand_as(value)[index]

    if not isinstance(to, Trace):
        check_choice("to", to, ("zero", "mean"))
    return _Edit(change, Where(text, position, key, head, dimension))


def patch(
    trace: Trace,
    source: int | None = None,
    source_position: Indices = None,
    *,
    text: Indices = None,
    position: Indices = None,
    key: Indices = None,
    head: Indices = None,
    dimension: Indices = None,
) -> Action:
    """Puts in what another text had there.

    A text patched with itself, traced in the same batch, keeps its bits; in another batch, or the
    other layout, it rounds differently.

    Args:
        trace: has kept this activation.
        source: the trace's text to take from. None: its only text, or else the text of the same
            row in the batch.
        source_position: where to take it from; None: the same positions. As many as ``position`` has.
        text, position, key, head, dimension: see :class:`Where`. Without ``position`` the texts
            must have equally many tokens.
    """

    def change(value: Tensor, place: Place, index: tuple[Tensor, ...]) -> Tensor:
        rows = trace.by_text(place.name)
        row = source if source is not None else 0 if len(rows) == 1 else place.text
        (row,) = _numbers("text", row, len(rows), "the trace")
        taken = rows[row].to(value)
        if "position" not in place.axes:
            return taken[index]
        axis = place.axes.index("position")
        here, there = value.shape[axis], taken.shape[axis]
        if here != there and (position is None or "key" in place.axes):
            raise InputError(
                f"the text has {here} tokens, but {trace.texts[row]!r:.60}, which is to be patched in, has {there}"
                + ("" if "key" in place.axes else "; say which position= goes where")
            )
        wanted = source_position if source_position is not None else index[axis].flatten()
        numbers = _numbers("position", wanted, there, "the text that is patched in")
        if len(numbers) != index[axis].numel():
            raise InputError(f"found {len(numbers)} source positions for {index[axis].numel()} positions")
        from_there = list(index)
        from_there[axis] = torch.tensor(numbers, dtype=torch.int64, device=value.device).view(index[axis].shape)
        return taken[tuple(from_there)]

    return _Edit(change, Where(text, position, key, head, dimension))
