"""The order in which a run sees its pairs: a pure function of the data, the recipe and the epoch.

The reference is sentence-transformers' samplers behind accelerate's data loader. Every permutation
comes from one ``torch.Generator`` that is seeded anew for each epoch and shared by all data sets, so
when each sampler draws from it is part of the result; the generator functions below draw lazily, as
the reference's iterators do.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch.utils.data import BatchSampler, RandomSampler, SubsetRandomSampler

from minilm.training.data import PairDataset
from minilm.training.recipe import TrainingRecipe

RESAMPLE_PASSES = 2  # how often no_duplicates goes through the data again to fill up the epoch


class BatchRows(NamedTuple):
    """Which rows of which data set are in a batch."""

    dataset: int
    rows: list[int]


def batches_per_epoch(datasets: Sequence[PairDataset], recipe: TrainingRecipe, world_size: int = 1) -> int:
    """How many batches an epoch is taken to have, for each process; ``no_duplicates`` may find fewer."""
    each = [_length(dataset, recipe) for dataset in datasets]
    round_robin = recipe.multi_dataset_batch_sampler == "round_robin"
    return (min(each) * len(each) if round_robin else sum(each)) // world_size


def epoch_batches(
    datasets: Sequence[PairDataset], recipe: TrainingRecipe, epoch: int, rank: int = 0, world_size: int = 1
) -> Iterator[BatchRows]:
    """The batches of one epoch, for one of several processes, which take them in turn.

    A single data set is shuffled by its own permutation, seeded ``data_seed + epoch``; several are
    drawn from as ``multi_dataset_batch_sampler`` says, seeded ``seed + epoch``.
    """
    batches: Iterator[BatchRows]
    generator = torch.Generator()
    if len(datasets) == 1 and recipe.name == "trainer":
        seed = recipe.seed if recipe.data_seed is None else recipe.data_seed
        generator.manual_seed(seed + epoch)
        batches = (BatchRows(0, rows) for rows in _sampler(datasets[0], recipe, epoch, generator))
    else:
        generator.manual_seed(recipe.seed + epoch)
        samplers = [_sampler(dataset, recipe, epoch, generator) for dataset in datasets]
        if recipe.multi_dataset_batch_sampler == "round_robin":
            batches = _round_robin(samplers)
        else:
            batches = _proportional(samplers, [_length(dataset, recipe) for dataset in datasets], generator)
    # Groups of as many batches as there are processes; an incomplete group is left out.
    return (group[rank] for group in zip(*[batches] * world_size, strict=False))


def _length(dataset: PairDataset, recipe: TrainingRecipe) -> int:
    full, rest = divmod(len(dataset), recipe.per_device_train_batch_size)
    return full if recipe.dataloader_drop_last or not rest else full + 1


def _sampler(
    dataset: PairDataset, recipe: TrainingRecipe, epoch: int, generator: torch.Generator
) -> Iterator[list[int]]:
    batch_size, drop_last = recipe.per_device_train_batch_size, recipe.dataloader_drop_last
    if recipe.batch_sampler == "no_duplicates":
        return _no_duplicates(dataset, batch_size, drop_last, generator, recipe.seed + epoch)
    order = RandomSampler(range(len(dataset)), generator=generator)
    return iter(BatchSampler(order, batch_size, drop_last))


def _round_robin(samplers: Sequence[Iterator[list[int]]]) -> Iterator[BatchRows]:
    """One batch of each data set in turn, until one has no more."""
    for batches in zip(*samplers, strict=False):
        yield from (BatchRows(i, rows) for i, rows in enumerate(batches))


def _proportional(
    samplers: Sequence[Iterator[list[int]]], lengths: Sequence[int], generator: torch.Generator
) -> Iterator[BatchRows]:
    """A random order in which each data set comes up as often as it has batches."""
    turns = [i for i, length in enumerate(lengths) for _ in range(length)]
    for i in SubsetRandomSampler(turns, generator=generator):
        if (rows := next(samplers[i], None)) is not None:
            yield BatchRows(i, rows)


def _no_duplicates(
    dataset: PairDataset, batch_size: int, drop_last: bool, generator: torch.Generator, seed: int
) -> Iterator[list[int]]:
    """Batches in which no text comes twice, in whatever column. A row that would repeat one waits
    for a later batch. Goes through the data again when that gave fewer batches than expected."""
    generator.manual_seed(seed)
    expected = len(dataset) // batch_size if drop_last else -(-len(dataset) // batch_size)
    found = 0
    for rows in _no_duplicates_pass(dataset, batch_size, drop_last, generator):
        yield rows
        found += 1
    for _ in range(RESAMPLE_PASSES if found else 0):
        if found >= expected:
            return
        for rows in _no_duplicates_pass(dataset, batch_size, drop_last, generator):
            yield rows
            found += 1
            if found >= expected:
                return


def _no_duplicates_pass(
    dataset: PairDataset, batch_size: int, drop_last: bool, generator: torch.Generator
) -> Iterator[list[int]]:
    waiting = deque(torch.randperm(len(dataset), generator=generator, dtype=torch.int32).tolist())
    while waiting:
        rows: list[int] = []
        texts: set[str] = set()
        deferred = []
        while waiting and len(rows) < batch_size:
            row = waiting.popleft()
            its_texts = {column[row] for column in dataset.columns.values()}
            if texts.isdisjoint(its_texts):
                rows.append(row)
                texts |= its_texts
            else:
                deferred.append(row)
        waiting.extendleft(reversed(deferred))
        if len(rows) == batch_size or not drop_last:
            yield rows
