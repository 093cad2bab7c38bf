"""Training in several processes, each with its share of the batches (``torchrun``).

Gradients are averaged by torch's DistributedDataParallel over gloo or nccl; there is no engine here.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn

from minilm.errors import InputError

T = TypeVar("T")


class Processes:
    """The processes of ``torch.distributed``, or this one alone where that is not initialised.

    Attributes:
        rank: this process's number, from 0.
        count: how many there are.
    """

    def __init__(self) -> None:
        together = distributed.is_available() and distributed.is_initialized()
        self.rank = distributed.get_rank() if together else 0
        self.count = distributed.get_world_size() if together else 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and shows progress."""
        return self.rank == 0

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model with its gradients averaged over the processes in each backward pass."""
        if self.count == 1:
            return model
        return nn.parallel.DistributedDataParallel(model)

    def no_sync(self, wrapped: nn.Module) -> Callable[[], AbstractContextManager[Any]]:
        """A context in which a backward pass keeps its gradients to itself."""
        return wrapped.no_sync if isinstance(wrapped, nn.parallel.DistributedDataParallel) else nullcontext

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a tensor over the processes."""
        if self.count == 1:
            return value
        value = value.clone()
        distributed.all_reduce(value)
        return value / self.count

    def share(self, value: T) -> T:
        """The first process's value, in all of them."""
        values = [value]
        if self.count > 1:
            distributed.broadcast_object_list(values)
        return values[0]

    def all_states(self, states: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Every process's tensors, each name followed by ``.RANK``."""
        gathered: list[Any] = [states]
        if self.count > 1:
            gathered = [None] * self.count
            distributed.all_gather_object(gathered, states)
        return {f"{name}.{rank}": value for rank, each in enumerate(gathered) for name, value in each.items()}

    def wait(self) -> None:
        """Until every process is here."""
        if self.count > 1:
            distributed.barrier()


def join_processes(device: str | None = None) -> str | torch.device | None:
    """Joins the other processes when ``torchrun`` started this one, until it ends; returns the device
    it is to use, which is ``device`` when there are no others.

    Raises:
        InputError: a device is given, but ``torchrun`` gives each process its own.
    """
    if "LOCAL_RANK" not in os.environ:
        return device
    if device is not None:
        raise InputError(f"--device {device} is given, but torchrun gives each process its own device; leave it out")
    own = torch.device("cpu")
    if torch.cuda.is_available():
        own = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(own)
    distributed.init_process_group("nccl" if own.type == "cuda" else "gloo")
    atexit.register(distributed.destroy_process_group)
    return own
