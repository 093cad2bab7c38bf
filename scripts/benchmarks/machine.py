"""The machine: what it is, what it can do, and how to make it a lesser one."""

from __future__ import annotations

import os
import platform
import re
from importlib import metadata
from pathlib import Path

# What decides the kernels: vectors of 256 and 512 bits, int8 products, bfloat16 products, tiles.
FLAGS = "avx2 fma avx_vnni avx512f avx512_vnni avx512_bf16 avx512_fp16 amx_bf16 amx_int8 asimd bf16 i8mm sve".split()

# oneDNN, ATen and MKL each choose for themselves; without the last, float32 GEMMs stay on AVX-512.
FORCED = {
    "avx512_vnni": ("AVX512_CORE_VNNI", "avx512", "AVX512"),
    "avx2_vnni": ("AVX2_VNNI", "avx2", "AVX2"),
    "avx2": ("AVX2", "avx2", "AVX2"),
}

PACKAGES = (
    "minilm torch numpy tokenizers transformers sentence-transformers accelerate onnx onnxruntime openvino nncf".split()
)


def describe() -> dict[str, object]:
    """CPU model, the flags that matter, cores, memory, load, system."""
    return {
        "cpu": _cpu_model(),
        "architecture": platform.machine(),
        "flags": cpu_flags(),
        "cores": cores(),
        "memory_gib": _memory_gib(),
        "load_average": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
    }


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_flags() -> list[str]:
    """Those of :data:`FLAGS` that the processor has; none where the system does not say."""
    found = re.search(r"^(?:flags|Features)\s*: (.*)$", _cpuinfo(), flags=re.MULTILINE)
    return [flag for flag in FLAGS if found and flag in found[1].split()]


def has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16; without, it takes a hundred times as long."""
    return not {"amx_bf16", "avx512_bf16", "bf16"}.isdisjoint(cpu_flags())


def forced_environment(isa: str | None) -> dict[str, str]:
    """The variables that make torch use a lesser instruction set, if set before it is imported."""
    names = ("ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY", "MKL_ENABLE_INSTRUCTIONS")
    return dict(zip(names, FORCED[isa], strict=True)) if isa else {}


def versions() -> dict[str, str]:
    """The versions of all packages that take part and are installed."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def peak_memory_mib(device: str) -> float:
    """The most memory that this process has held so far; on a GPU, of what torch holds there. Linux
    keeps it per program; getrusage would also count what the parent held when it started this one."""
    if device != "cpu":
        import torch

        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        found = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    except OSError:
        found = None
    if found:
        return int(found[1]) / 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if platform.system() == "Darwin" else peak / 1024


def _cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""


def _cpu_model() -> str:
    found = re.search(r"^model name\s*: (.*)$", _cpuinfo(), flags=re.MULTILINE)
    numbers = [re.search(rf"^{name}\s*: (\d+)$", _cpuinfo(), flags=re.MULTILINE) for name in ("cpu family", "model")]
    family = f" (family {numbers[0][1]}, model {numbers[1][1]})" if all(numbers) else ""
    return (found[1].strip() if found else platform.processor() or platform.machine()) + family


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)
    except (ValueError, OSError, AttributeError):
        return None
