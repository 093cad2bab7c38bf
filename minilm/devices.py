"""The device that a model is put on."""

from __future__ import annotations

import torch

from minilm.errors import InputError


def best_device() -> str:
    """CUDA, or MPS, or the CPU: the first that is here."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def check_device(device: str | torch.device) -> torch.device:
    """The device, once a tensor has been made there.

    Raises:
        InputError: torch does not know it, this machine does not have it, or it holds no numbers (meta).
    """
    try:
        found = torch.device(device)
        if found.type == "meta":
            raise ValueError("it holds shapes and no numbers")
        torch.empty(1, device=found)
    except Exception as error:  # each kind of device fails with a class of its own
        reason = str(error).strip().partition("\n")[0]
        raise InputError(
            f"device is {str(device)!r}, expected one that torch can use here, e.g. cpu: {reason}"
        ) from None
    return found
