"""How fast this machine multiplies the model's matrices: the limit that every contender is under."""

from __future__ import annotations

import time

import torch

from benchmarks.worker import Settings
from minilm.folder import read_folder

ROWS = (512, 2048, 4096)  # tokens at a time; which is fastest depends on the caches
SECONDS = 0.15  # for each shape and number of rows


class Gemm:
    """Runs in a worker of its own, like a contender."""

    def __init__(self, settings: Settings):
        torch.set_num_threads(settings.threads)
        self.device = torch.device(settings.device)
        config = read_folder(settings.folder).config
        D, I = config.hidden_size, config.intermediate_size  # noqa: E741
        self.shapes = [(D, 3 * D), (D, D), (D, I), (I, D)]  # query, key and value together; output; up; down

    @torch.inference_mode()
    def rate(self, dtype: str, seconds: float = SECONDS) -> float:
        """GFLOP/s over the four products of a layer, at the fastest number of rows."""
        best = 0.0
        for rows in ROWS:
            taken = sum(self._seconds(rows, k, n, getattr(torch, dtype), seconds) for k, n in self.shapes)
            best = max(best, sum(2 * rows * k * n for k, n in self.shapes) / taken / 1e9)
        return best

    def _seconds(self, rows: int, k: int, n: int, dtype: torch.dtype, seconds: float) -> float:
        """The median time of ``[rows, k] · [k, n]``, weights laid out as in a linear layer."""
        at_a_time = 1 if self.device.type == "cpu" else 50  # a GPU is asked ahead of its work
        x = torch.randn(rows, k, device=self.device).to(dtype)
        weight = torch.randn(n, k, device=self.device).to(dtype).t()
        out = torch.empty(rows, n, dtype=dtype, device=self.device)
        times = []
        start = time.perf_counter()
        while len(times) < 4 or time.perf_counter() - start < seconds:
            before = time.perf_counter()
            for _ in range(at_a_time):
                torch.mm(x, weight, out=out)
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            times.append((time.perf_counter() - before) / at_a_time)
        return sorted(times[1:])[len(times) // 2 - 1]
