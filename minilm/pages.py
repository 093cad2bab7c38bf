"""Was this memory written? The kernel knows, whoever wrote it: torch, NumPy, or a library in C.

Linux 6.7 and later write-protects pages without anybody noticing: the first write to such a page lifts the
protection, and one call tells which pages have lost it (userfaultfd in its asynchronous mode, and the ioctl
PAGEMAP_SCAN; https://docs.kernel.org/admin-guide/mm/userfaultfd.html and pagemap.html). That call takes some 20 µs
for the 42 MB of this model's matrices, which would take milliseconds to read.

Elsewhere (macOS, Windows, older kernels, containers that forbid userfaultfd, memory that processes share) nobody
knows, and :meth:`Watched.written` answers that it may have been.
"""

from __future__ import annotations

import ctypes
import math
import os
import platform
import sys
from array import array
from collections.abc import Sequence
from mmap import PAGESIZE

import torch
from torch import Tensor

# From linux/userfaultfd.h and linux/fs.h; the same on every processor.
_UFFD_USER_MODE_ONLY = 1
_UFFDIO_API, _UFFDIO_REGISTER, _UFFDIO_WRITEPROTECT = 0xC018AA3F, 0xC020AA00, 0xC018AA06
_UFFD_API, _FEATURES = 0xAA, 1 << 13 | 1 << 15  # WP_UNPOPULATED, WP_ASYNC
_REGISTER_WP, _PROTECT = 2, 1
_PAGEMAP_SCAN = 0xC0606610
_WPALLOWED, _WRITTEN, _FILE = 1, 2, 4  # categories of pages
_SYSCALL = {"x86_64": 323, "aarch64": 282}

_REGIONS = 64  # how many regions one scan tells of; more count as "all may have been written"


class _Kernel:
    """This process's two files for it. A forked child has other memory and needs its own."""

    def __init__(self) -> None:
        self.process = os.getpid()
        with open("/proc/self/status", "rb") as status:
            if b"\nSeccomp:\t0\n" not in status.read():
                raise PermissionError("a filter may end a process for a system call that it does not know")
        libc = ctypes.CDLL(None, use_errno=True)
        self.faults = libc.syscall(_SYSCALL[platform.machine()], os.O_CLOEXEC | os.O_NONBLOCK | _UFFD_USER_MODE_ONLY)
        if self.faults < 0:
            raise OSError(ctypes.get_errno(), "userfaultfd")
        self._ioctl(self.faults, _UFFDIO_API, _UFFD_API, _FEATURES, 0)
        self.pagemap = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
        self.scan(0, 0)

    def protect(self, start: int, end: int) -> None:
        """Counts whole pages as unwritten from now on."""
        self._ioctl(self.faults, _UFFDIO_REGISTER, start, end - start, _REGISTER_WP, 0)
        self._ioctl(self.faults, _UFFDIO_WRITEPROTECT, start, end - start, _PROTECT)

    def scan(self, start: int, end: int, category: int = _WRITTEN) -> list[tuple[int, int]]:
        """The regions of protected memory between two addresses that were written since, or are ``category``."""
        regions = array("Q", bytes(24 * _REGIONS))
        wanted = _WPALLOWED | category
        # struct pm_scan_arg: size, flags, start, end, where it stopped, the answer and its length, most pages,
        # categories to be inverted, all of, any of, and to be returned.
        argument = (96, 0, start, end, 0, regions.buffer_info()[0], _REGIONS, 0, 0, wanted, 0, wanted)
        count = self._ioctl(self.pagemap, _PAGEMAP_SCAN, *argument)
        found = [(regions[3 * i], regions[3 * i + 1]) for i in range(count)]
        return found if count < _REGIONS else [(start, end)]

    @staticmethod
    def _ioctl(file: int, request: int, *argument: int) -> int:
        import fcntl  # Windows has none

        result: int = fcntl.ioctl(file, request, array("Q", argument), True)
        return result


_kernel: _Kernel | None = None
_unknown = not sys.platform.startswith("linux")

# Counts renewals on pages that had been written. Two who watch the same page share its protection, so the other one
# learns from this that it has to look.
_renewals = 0


def _this_kernel() -> _Kernel | None:
    global _kernel, _unknown
    if _kernel is not None and _kernel.process != os.getpid():
        os.close(_kernel.faults)
        os.close(_kernel.pagemap)
        _kernel = None
    if _kernel is None and not _unknown:
        try:
            _kernel = _Kernel()
        except (OSError, KeyError, AttributeError, ImportError):
            _unknown = True
    return _kernel


class Watched:
    """The memory of some tensors, watched for writes from its making on. Not for several threads at once.

    Whole pages are watched. What lies on a page together with other things is compared byte by byte, so tensors
    that begin and end with a page (:func:`on_pages`) are the quickest to ask for.

    Args:
        tensors: contiguous, on the CPU, and kept alive and in place by the caller.
    """

    def __init__(self, tensors: Sequence[Tensor]):
        self._pages: list[tuple[int, int]] = []
        self._edges: list[memoryview] = []
        for tensor in tensors:
            size = tensor.element_size()
            numbers = tensor.detach().view(-1).view(INTEGERS[size])
            start, end = tensor.data_ptr(), tensor.data_ptr() + size * numbers.numel()
            first, last = -(-start // PAGESIZE) * PAGESIZE, end // PAGESIZE * PAGESIZE
            if first < last:
                self._pages.append((first, last))
                edges = [numbers[: (first - start) // size], numbers[(last - start) // size :]]
            else:
                edges = [numbers]
            self._edges += [edge.numpy().data for edge in edges if edge.numel()]
        self._span = min((p[0] for p in self._pages), default=0), max((p[1] for p in self._pages), default=0)
        self._shared = any(tensor.is_shared() for tensor in tensors)  # another process may write there
        self.renew()

    def written(self) -> bool:
        """Whether the memory may have been written since this was made or renewed."""
        if self._kernel is None or self._kernel.process != os.getpid() or self._renewals != _renewals:
            return True
        return self._pages_written(self._kernel) or b"".join(self._edges) != self._edges_then

    def renew(self) -> None:
        """Watches for writes from now on. Read what you need to know of the memory after this, not before."""
        global _renewals
        kernel = None if self._shared else _this_kernel()
        if kernel is not None:
            try:
                if self._pages_written(kernel):  # others who watch these pages would no longer be told
                    _renewals += 1
                for pages in self._pages:
                    kernel.protect(*pages)
                if any(kernel.scan(*pages, _FILE) for pages in self._pages):
                    kernel = None  # another process may write there too
            except OSError:
                kernel = None
        self._kernel, self._renewals = kernel, _renewals
        self._edges_then = b"".join(self._edges)

    def _pages_written(self, kernel: _Kernel) -> bool:
        written = kernel.scan(*self._span) if self._pages else []
        return any(start < last and first < end for start, end in written for first, last in self._pages)


def on_pages(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """An uninitialised tensor that begins where a page of memory begins, if it fills one."""
    count, size = math.prod(shape), dtype.itemsize
    if count * size < PAGESIZE:
        return torch.empty(tuple(shape), dtype=dtype)
    room = torch.empty(count + PAGESIZE // size, dtype=dtype)
    start = -room.data_ptr() % PAGESIZE // size
    return room[start : start + count].view(tuple(shape))


# Types of the same size that compare bit by bit: a NaN is not equal to itself.
INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
