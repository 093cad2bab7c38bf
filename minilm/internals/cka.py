"""Centred kernel alignment: how alike two layers arrange the same texts.

Kornblith et al. 2019, "Similarity of Neural Network Representations Revisited"
(https://arxiv.org/abs/1905.00414), with a linear kernel. HSIC is estimated without bias (Song et al.
2012, https://jmlr.org/papers/v13/song12a.html, equation 5; for CKA: Nguyen et al. 2021,
https://arxiv.org/abs/2010.15327), since the usual estimator tends to 1 where there are fewer texts
than dimensions, whatever the layers do.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


class LinearCKA:
    """Unbiased linear CKA of ``[n, D]`` and ``[n, E]``, from batches of rows.

    Exact, and not a mean over batches: all that the estimator asks of the kernels ``K = X Xᵀ`` and
    ``L = Y Yᵀ`` are sums over rows, so that memory is D², D E and E², whatever n.

    Args:
        d, e: D and E.
        device: where the rows are.
    """

    def __init__(self, d: int, e: int, device: torch.device | str = "cpu"):
        self.n = 0
        self._shift: tuple[Tensor, Tensor] | None = None
        self._xy, self._xx, self._yy = (_Sums(*sizes, device) for sizes in ((d, e), (d, d), (e, e)))

    def update(self, x: Tensor, y: Tensor) -> None:
        """Adds rows: ``x[i]`` and ``y[i]`` are what the two layers make of the same text."""
        x, y = x.double(), y.double()
        if self._shift is None:  # any gives the same result; near the mean, the sums lose fewest digits
            self._shift = x.mean(dim=0), y.mean(dim=0)
        x, y = x - self._shift[0], y - self._shift[1]
        self.n += len(x)
        self._xy.update(x, y)
        self._xx.update(x, x)
        self._yy.update(y, y)

    def value(self) -> float | None:
        """1: the same but for rotation and scale. 0: unrelated; estimates scatter around it and may
        be negative. None: undefined, for fewer than 4 rows and where a side does not vary."""
        if self.n < 4:
            return None
        xx, yy = self._xx.hsic(self.n), self._yy.hsic(self.n)
        return self._xy.hsic(self.n) / math.sqrt(xx * yy) if xx > 0 and yy > 0 else None


class _Sums:
    """The sums over rows that HSIC is made of; ``k = ‖x‖²`` and ``l = ‖y‖²`` are the diagonals of K and L."""

    def __init__(self, d: int, e: int, device: torch.device | str):
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=device)

        self.xy, self.x, self.y, self.lx, self.ky = zeros(d, e), zeros(d), zeros(e), zeros(d), zeros(e)
        self.k, self.l, self.kl = zeros(), zeros(), zeros()

    def update(self, x: Tensor, y: Tensor) -> None:
        k, l = x.square().sum(dim=1), y.square().sum(dim=1)  # noqa: E741
        self.xy += x.T @ y
        self.x += x.sum(dim=0)
        self.y += y.sum(dim=0)
        self.lx += l @ x
        self.ky += k @ y
        self.k += k.sum()
        self.l += l.sum()
        self.kl += k @ l

    def hsic(self, n: int) -> float:
        """With K̃ and L̃ for K and L with a zero diagonal:
        ``[tr K̃L̃ + 1ᵀK̃1 1ᵀL̃1 / ((n-1)(n-2)) - 2 · 1ᵀK̃L̃1 / (n-2)] / (n(n-3))``."""
        trace = self.xy.square().sum() - self.kl
        sums = (self.x @ self.x - self.k) * (self.y @ self.y - self.l)
        both = self.x @ self.xy @ self.y - self.x @ self.lx - self.y @ self.ky + self.kl
        return float((trace + sums / ((n - 1) * (n - 2)) - 2 * both / (n - 2)) / (n * (n - 3)))
